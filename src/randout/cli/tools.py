"""The commands `runs`, `init`, `doctor` and `demo`, and the options that several commands share."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from randout.core.console import Show, complain
from randout.core.errors import UserError
from randout.core.files import check_new_file, shell_path, write_new
from randout.core.terminal import EXIT_CODES, Told
from randout.experiments.run.options import Stopped

if TYPE_CHECKING:
    from randout.experiments.run.run_request import Request

app = typer.Typer(rich_markup_mode=None)


class _RunsGroup(TyperGroup):
    """The commands of `runs`; an unknown one gets a hint, because listing runs needs no command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. Fails with what `randout runs` and `randout runs show` do."""
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}. {RUNS_HELP}")
        return super().resolve_command(ctx, args)


RUNS_HELP = "`randout runs` lists the runs, `randout runs show RUN` shows one, `randout runs rm RUN` deletes one."
runs_app = typer.Typer(cls=_RunsGroup, help=RUNS_HELP, invoke_without_command=True, rich_markup_mode=None)
app.add_typer(runs_app, name="runs", short_help="List, show and remove runs.")

SHORTENED = (0, 2, 6)  # columns of `randout runs` that may be shortened: name, methods, folder
RunsFolder = Annotated[Path, typer.Option("--runs", help="folder of runs")]
ReportToOption = Annotated[
    str | None,
    typer.Option("--report-to", metavar="TRACKERS", help="tensorboard, mlflow, wandb, ..., comma-separated; all; none"),
]
OwnRuns = Annotated[Path | None, typer.Option("--runs", help="folder of runs")]
ListedRun = Annotated[Path, typer.Argument(help="a run folder, or a name listed by `randout runs`")]
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


@runs_app.callback()
def list_runs(context: typer.Context, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a folder."""
    if context.invoked_subcommand is None:
        from randout.storage.run_folder import summarize_runs

        rows = summarize_runs(runs)
        if as_json:
            print(json.dumps(rows, indent=1))
            return
        shown = [
            (
                r["name"],
                _minute(r["started"]),
                r["methods"],
                r["state"],
                _percent(r["validation"]),
                _percent(r["test"]),
                r["run"],
            )
            for r in rows
        ]
        print_table(("name", "started", "methods", "state", "validation", "test", "folder"), shown, SHORTENED)


@runs_app.command("show")
def show_run(context: typer.Context, run: ListedRun, runs: OwnRuns = None, as_json: AsJson = False) -> None:
    """Show the settings and scores of a run."""
    from randout.reporting.cross_fit import cross_fit_lines
    from randout.reporting.soft_labels import soft_label_lines
    from randout.reporting.teachers import run_lines
    from randout.reporting.text import choice_lines, leak_lines, score_lines
    from randout.stats.diagnostics import messages
    from randout.storage.run_folder import find_run, unscored_test_lines

    folder = find_run(run, runs or _runs_of(context))
    record = folder.record
    metrics = folder.metrics if record.finished else None
    if as_json:
        print(json.dumps({"record": record.as_json(), "metrics": metrics.as_json() if metrics else {}}, indent=1))
        return
    print((folder.path / "run.toml").read_text(encoding="utf-8").strip())
    print(f"\nstarted {record.started}, {f'finished {record.finished}' if record.finished else 'not finished'}")
    if record.choice:
        print("\n" + "\n".join(choice_lines(record.choice)))
    if metrics is None:
        return
    for name, scores in metrics.splits.items():
        labels = dict(enumerate(record.identity.data.labels))
        print(f"\n{name}\n" + "\n".join([*score_lines(scores, labels), *leak_lines(scores)]))
    about_teachers = [*run_lines(record, metrics), *soft_label_lines(record), *cross_fit_lines(record)]
    for line in [*about_teachers, *unscored_test_lines(folder)]:
        print(line)
    Show().conclude(messages(metrics.warnings))


@runs_app.command("rm")
def remove_run(
    context: typer.Context,
    run: ListedRun,
    runs: OwnRuns = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask for confirmation")] = False,
) -> None:
    """Delete a run folder."""
    from randout.storage.run_folder import delete_run, find_run

    folder = find_run(run, runs or _runs_of(context))
    if folder.exists and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"runs rm {run}: add --yes to delete without confirmation")
        typer.confirm(f"Delete {folder.path} and everything in it?", abort=True)
    delete_run(folder)
    print(f"deleted {folder.path}")


def _runs_of(context: typer.Context) -> Path:
    """Folder of runs given to `randout runs --runs FOLDER`."""
    return Path(context.parent.params["runs"]) if context.parent else Path("runs")


@app.command()
def init(
    preset: Preset = None,
    student: Annotated[
        str | None, typer.Option(help="student that the recipe is for; svm, cnn, ... have their own settings")
    ] = None,
    sets: Sets = None,
    plugin: Plugins = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="write to this file")] = None,
) -> None:
    """Print the default recipe with every setting explained."""
    from randout.core import config
    from randout.methods.builtin import METHODS
    from randout.models.sources import CLASSIFIER_NAMES, check_known

    made = requested({"student": {"model": student}} if student else {}, preset, None, sets).config()
    if made.student.model in CLASSIFIER_NAMES:
        from randout.baselines.settings import chosen, resolve_settings

        classifier = chosen(made)
        assert classifier is not None
        text = config.commented(resolve_settings(made, classifier, []), METHODS, type(classifier))
    else:
        if doubt := check_known(made.student.model, CLASSIFIER_NAMES):
            Show().warn(doubt)
        text = config.commented(made, METHODS)
    if out is None:
        print(text, end="")
    else:
        check_new_file(out)
        write_new(out, text.encode("utf-8"))
        print(f"written to {out}; use it with randout train DATA --recipe {shell_path(out)}")


@app.command(short_help="Show what this machine supports and what is missing.")
def doctor(plugin: Plugins = None, as_json: AsJson = False) -> None:
    """Show what this machine supports, what is missing, and the methods that are not built in."""
    from .doctor import examine

    rows = examine()
    if as_json:
        print(json.dumps([dict(zip(("what", "found", "todo"), row, strict=True)) for row in rows], indent=1))
    else:
        print_table(("what", "found", "what to do"), rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for data, runs and pictures")] = Path("demo"),
    data_only: Annotated[
        bool, typer.Option("--data-only", help="only write the tables and download the encoder")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train and compare a teacher and three students. Uses film texts and pretrained weights."""
    from .demo import demonstrate, prepare_data

    try:
        if data_only:
            print("\n".join(prepare_data(out)))
        else:
            demonstrate(out, Show(quiet))
    except Stopped as stop:
        stopped(stop, out)
    except KeyboardInterrupt:
        complain(f"Interrupted; finished runs are kept in {out}. Run the same command again to resume")
        raise Told(EXIT_CODES["Ctrl-C"]) from None


def reason_of(stop: Stopped) -> str:
    """Why a training stopped, as the start of a message."""
    return "Interrupted" if stop.why == "Ctrl-C" else f"Stopped by {stop.why}"


def stopped(stop: Stopped, where: Path) -> None:
    """End the process after a clean stop."""
    complain(f"{reason_of(stop)}; progress saved in {where}. Run the same command again to resume")
    raise Told(EXIT_CODES.get(stop.why, 0))


def _minute(time: str) -> str:
    """Shorten 2026-01-02T03:04:05+00:00 to 2026-01-02 03:04."""
    return time[:16].replace("T", " ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], shortened: Sequence[int] = ()) -> None:
    """Print aligned columns to standard output.

    shortened: columns whose cells may be cut in the middle so that lines fit a terminal; in a pipe or a file they are
    printed in full.
    """
    from randout.core.text_tables import fit_to_width, table_lines

    if sys.stdout.isatty():
        rows = fit_to_width(head, rows, shutil.get_terminal_size().columns, shortened, _ellipsis())
    print("\n".join(table_lines(head, rows, left=range(len(head)))))


def _ellipsis() -> str:
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "..."
    return "…"


def example_input(model: object) -> str:
    """Return what to predict on in an example command: a text, or a table for a model that reads several columns."""
    from randout.experiments.run.saved_model import fields_of

    return "--file TABLE.csv" if fields_of(str(model)) else '"a text to classify"'
