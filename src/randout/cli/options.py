"""The options that several commands share, and their conversion to what the library takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core.errors import UserError
from randout.core.files import shell_path

if TYPE_CHECKING:
    from randout.experiments.run.run_request import Request

RunsFolder = Annotated[Path, typer.Option("--runs", help="folder of runs")]
ReportToOption = Annotated[
    str | None,
    typer.Option("--report-to", metavar="TRACKERS", help="tensorboard, mlflow, wandb, ..., comma-separated; all; none"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only warnings and results")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a setting; `randout init` lists them")
]
Preset = Annotated[
    str | None, typer.Option(help="auto (default), randout-kd, plain, kd, randout, randout-literal, paper, hmcnet")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Form = Annotated[str, typer.Option(help="form of an export: float32 or int8 (default: float32 if it is there)")]
Abstain = Annotated[
    str,
    typer.Option(
        "--abstain",
        metavar="TARGET",
        help="no label below a confidence: accuracy=0.95, coverage=0.9 (chosen on validation rows) or confidence=0.8; of label "
        "sets (multi-label), the accuracy is that of whole sets",
    ),
]
Encoding = Annotated[str | None, typer.Option(help="text encoding of tables, such as latin1 (default: UTF-8)")]
TextColumn = Annotated[str | None, typer.Option("--text-column", help="name of the text column")]
TextPair = Annotated[
    str | None, typer.Option("--text-pair", help="name of the column with the second text of each pair")
]
PrefixColumn = Annotated[
    list[str] | None,
    typer.Option("--prefix-column", help="column whose value is put before the text; may be repeated"),
]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="name of the label column")]
Group = Annotated[str | None, typer.Option("--group", help="group column; rows of a group stay in one split or fold")]
SplitColumn = Annotated[
    str | None, typer.Option("--split-column", help="column with train, validation or test for each row")
]
Validation = Annotated[str | None, typer.Option("--validation", help="file of validation rows")]
Test = Annotated[str | None, typer.Option("--test", help="file of test rows")]
Unlabeled = Annotated[str | None, typer.Option("--unlabeled", help="file of unlabelled texts")]
Student = Annotated[str | None, typer.Option(help="encoder: hub name, folder or alias")]
Teacher = Annotated[str | None, typer.Option(help="a run, a classifier or an encoder; none: no distillation")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="folder of the study (default: studies/NAME)")]
Limit = Annotated[str | None, typer.Option(help="save and stop after this time, such as 2h or 90m")]
Dry = Annotated[bool, typer.Option("--dry-run", help="list the planned runs and exit")]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option("--space", metavar="KEY=[VALUES]", help="setting and values, or a preset: paper, figures"),
]
Trials = Annotated[int | None, typer.Option(help="number of grid cells to try (default: all)")]
Halving = Annotated[int | None, typer.Option(help="successive halving: keep one in this many trials at each rung")]
Jobs = Annotated[int, typer.Option(help="runs at once, each in a process of its own")]
JobThreads = Annotated[
    int | None,
    typer.Option(help="CPU threads of each run (default: the cores divided by --jobs; results depend on it)"),
]
Cluster = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="run on a Ray cluster: HOST:PORT, auto (the one of this machine) or local"),
]
JobGpus = Annotated[
    float | None, typer.Option(help="with --cluster: GPUs of each run, such as 0.5 (default: as it needs)")
]
AcceptChanges = Annotated[bool, typer.Option("--accept-changes", help="resume on another machine or version")]


def _load_plugins(context: typer.Context, words: list[str] | None) -> list[str] | None:
    """Load the modules named by `--plugin` before any other option is read. Raises UserError."""
    if words and not context.resilient_parsing:
        from randout.methods.plugins import load_plugin

        for word in words:
            load_plugin(word)
    return words


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        callback=_load_plugins,
        is_eager=True,
        help="a Python file or module that registers your own methods",
    ),
]
Recipe = Annotated[Path | None, typer.Option(help="a TOML file of settings, as printed by `randout init`")]


def named(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Recipe tables without unset options (None or empty) and without empty tables."""
    kept = {name: {k: v for k, v in table.items() if v not in (None, "")} for name, table in tables.items()}
    return {name: table for name, table in kept.items() if table}


DATA_SETTINGS = {"text_pair": "text_pair_column", "prefix_column": "prefix_columns", "group": "group_column"}


def data_settings(**options: Any) -> dict[str, Any]:
    """Return the settings of the data that are given by options with these names; None or empty: not given."""
    return {DATA_SETTINGS.get(name, name): value for name, value in options.items() if value not in (None, "", [])}


def flag(name: str) -> str:
    """Return the command-line spelling of an option of a study, or of a setting of the data."""
    spelt = {setting: option for option, setting in DATA_SETTINGS.items()}
    return {"settings": "--set", "out": "-o"}.get(name, f"--{spelt.get(name, name).replace('_', '-')}")


def assignments(sets: list[str] | None) -> list[dict[str, Any]]:
    """Parse the values of `--set`, each into recipe tables. Raises UserError."""
    from randout.core import config
    from randout.methods.builtin import METHODS

    return [config.assignment(text, METHODS) for text in sets or []]


def plugin_words() -> str:
    """Repeat the `--plugin` options of this command, for the command that resumes it."""
    from randout.methods.plugins import loaded_plugins

    return "".join(f" --plugin {shell_path(Path(word))}" for word in loaded_plugins())


def requested(settings: dict[str, Any], preset: str | None, recipe: Path | None, sets: list[str] | None) -> Request:
    """Build the training request of a command line. Raises UserError."""
    from randout.experiments.run.run_request import Request

    return Request(settings, preset, recipe, assignments(sets))


def seconds_of(text: str) -> float:
    """Convert a duration such as `2h`, `90m`, `45s` or `1h30m` to seconds. Raises UserError."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not found or not any(found.groups()):
        raise UserError(f"--time-limit {text}: expected a time such as 2h, 90m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def tables_of(data: str, student: str | None, teacher: str | None, more: dict[str, Any]) -> dict[str, Any]:
    """Recipe tables for the data, student and teacher options that are given. more: further settings of the data."""
    return named({"data": {"source": data} | more, "student": {"model": student}, "teacher": {"model": teacher}})


def space_table(space: list[str] | None) -> dict[str, Any] | None:
    """Parse the values of `--space` for `study_requests.search_table`; None if there are none. Raises UserError."""
    from randout.experiments.search.space import SPACES, parse_space

    named = [text for text in space or [] if text in SPACES]
    if len(named) > 1:
        raise UserError(
            f"--space {named[1]}: preset {named[0]} is given already; give one preset, and settings as KEY=[VALUES]"
        )
    preset = {"preset": named[0]} if named else {}
    return preset | parse_space([text for text in space or [] if text not in SPACES]) if space else None
