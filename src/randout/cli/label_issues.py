"""The command `label-issues`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from randout.core import terminal
from randout.core.console import Show
from randout.core.files import shell_path
from randout.core.wording import plural
from randout.experiments.run.options import Options, Stopped

from .option_groups import Splits, grouped
from .options import (
    AsJson,
    Quiet,
    Recipe,
    RunsFolder,
    Sets,
    flag,
    named,
    requested,
)
from .output import stopped

app = typer.Typer(rich_markup_mode=None)


@app.command("label-issues", short_help="Find rows whose labels are doubtful.")
@grouped
def label_issues(
    data: Annotated[
        str, typer.Argument(help="a table of texts and labels, a named dataset, or a dataset TOML file", metavar="DATA")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the table and the report")] = Path(
        "label-issues"
    ),
    student: Annotated[
        str | None, typer.Option(help="encoder, svm, ...: a run for each fold (default: a bag of words, without runs)")
    ] = None,
    teacher: Annotated[str, typer.Option(help="of a named student; none: no distillation")] = "none",
    folds: Annotated[int, typer.Option(help="number of folds, of which each is examined by a model of the others")] = 5,
    recipe: Recipe = None,
    sets: Sets = None,
    *,
    table: Splits,
    corrections: Annotated[str | None, typer.Option(help="table of labels that are corrected already")] = None,
    formats: Annotated[str, typer.Option(help="formats of the report, comma-separated")] = "html,md,csv",
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find rows whose labels are doubtful, by models trained without them, and copies with different labels.

    Writes a table to correct and use with `randout train DATA --corrections TABLE`, and a report. DATA is not changed.
    """
    from randout.reporting.label_issues import issue_lines, weak_words

    given = table.settings()
    data_table = given | {"source": data, "corrections": corrections}
    settings = named({"data": data_table, "student": {"model": student}, "teacher": {"model": teacher}})
    config = requested(settings, None, recipe, sets).config()
    from randout.experiments.label_issues import FILE, check_output, find_label_issues, write_label_issues

    check_output(out, formats)
    show = Show(quiet or as_json)
    try:
        found = find_label_issues(config, folds, Options(runs=runs, show=show))
    except Stopped as stop:
        stopped(stop, runs)
        return
    written = write_label_issues(found, out, formats)
    weak = [words] if (words := weak_words(found)) else []
    if found.corrected:
        weak.append(
            f"{out / FILE} leaves out what {corrections} corrects ({plural(found.corrected, 'label')}). Copy its rows into the "
            "new table to keep them"
        )
    if as_json:
        print(terminal.to_json(found.as_json() | {"written": [str(path) for path in written]}))
        show.conclude(weak)
        return
    print("\n".join(issue_lines(found)))
    print(f"\ntable   {out / FILE}")
    reports = [path for path in written if path.name in ("report.html", "report.md")]
    for path in reports[:1]:
        print(f"report  {path}")
    if found.issues:
        print(f"next    fill in corrected_label, then: {_train_command(data, given, sets or [], out / FILE)}")
    show.conclude(weak)


def _of_label_sets(assignment: str) -> bool:
    """Return whether a setting says how label sets are written."""
    key = assignment.partition("=")[0].strip().removeprefix("data.")
    return key in ("multi_label", "label_separator", "label_columns")


def _train_command(data: str, given: Mapping[str, Any], sets: Iterable[str], corrections: Path) -> str:
    """Return the command that trains on the data with a table of corrections. given: settings of the data. sets: of `--set`."""
    options = [
        (flag(name), one) for name, value in given.items() for one in ([value] if isinstance(value, str) else value)
    ]
    options += [("--set", one) for one in sets if _of_label_sets(one)]
    words = "".join(f" {option} {shell_path(value)}" for option, value in options)
    return f"randout train {shell_path(data)}{words} --corrections {shell_path(corrections)}"
