"""`randout search`, and the options that commands over many runs share."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure, UserError

from .tools import (
    AsJson,
    LabelColumn,
    Plugins,
    Preset,
    Quiet,
    Recipe,
    RunsFolder,
    Sets,
    TextColumn,
    named,
    requested,
    seconds_of,
    stopped,
)

app = typer.Typer(rich_markup_mode=None)

Data = Annotated[str, typer.Argument(help="a table of texts and labels, or a named dataset", metavar="[DATA]")]
Student = Annotated[str | None, typer.Option(help="encoder: hub name, folder, or alias")]
Teacher = Annotated[str | None, typer.Option(help="run, classifier or encoder; none: no distillation")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="folder of the study (default: studies/NAME)")]
Limit = Annotated[str | None, typer.Option(help="stop cleanly after this long, as 2h, 90m")]
Dry = Annotated[bool, typer.Option("--dry-run", help="list what would run, and stop")]
SpaceOption = Annotated[
    list[str] | None, typer.Option("--space", metavar="KEY=[VALUES]", help='settings to vary, or "paper", "figures"')
]
Trials = Annotated[int | None, typer.Option(help="how many cells are tried; default: all of the grid")]
Sampler = Annotated[str | None, typer.Option(help="grid, or tpe (needs optuna)")]
Halving = Annotated[int | None, typer.Option(help="keep one in so many trials at each rung")]
HalvingBudget = Annotated[float | None, typer.Option("--budget", help="share of all cells' steps for halving, as 0.15")]
AcceptChanges = Annotated[bool, typer.Option("--accept-changes", help="go on on another machine or version")]
Keep = Annotated[str | None, typer.Option(help="whose weights stay on disk: best, all, none")]


def tables_of(
    data: str, student: str | None, teacher: str | None, text_column: str | None, label_column: str | None
) -> dict[str, Any]:
    """Data, student and teacher as tables of a recipe, those that are named."""
    table = {"source": data, "text_column": text_column, "label_column": label_column}
    return named({"data": table, "student": {"model": student}, "teacher": {"model": teacher}})


def options_of(runs: Path, time_limit: str | None, show: Show, accept_changes: bool = False) -> Any:
    """`job.Options`."""
    from randout.experiments.run.options import Options

    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    return Options(runs, accept_changes=accept_changes, deadline=deadline, show=show)


def space_table(space: list[str] | None) -> dict[str, Any] | None:
    """What `--space` names, as of `studies.search_table`; None for nothing. Raises UserError."""
    from randout.experiments.search.space import SPACES, parse_space

    named = [text for text in space or [] if text in SPACES]
    if len(named) > 1:
        raise UserError(f"--space {named[1]}: {named[0]} is named already; name one, and further settings over it")
    preset = {"preset": named[0]} if named else {}
    return preset | parse_space([text for text in space or [] if text not in SPACES]) if space else None


@app.command()
def search(
    data: Data = "",
    out: Out = None,
    student: Student = None,
    teacher: Teacher = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    plugin: Plugins = None,
    space: SpaceOption = None,
    trials: Trials = None,
    sampler: Sampler = None,
    halving: Halving = None,
    budget: HalvingBudget = None,
    keep: Keep = None,
    search_seed: Annotated[int | None, typer.Option(help="of the draw of cells")] = None,
    time_limit: Limit = None,
    accept_changes: AcceptChanges = False,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Try settings on validation, one teacher for all. Interrupted, the same command goes on."""
    from randout.experiments import requests
    from randout.experiments.search.trials import summary
    from randout.stats.diagnostics import messages

    request = requested(tables_of(data, student, teacher, text_column, label_column), preset, recipe, sets)
    options = options_of(runs, time_limit, Show(quiet or as_json), accept_changes)
    asked: dict[str, Any] = {"trials": trials, "sampler": sampler, "halving": halving, "budget": budget}
    table = requests.search_table(space_table(space), **asked, keep=keep, seed=search_seed)
    if dry_run:
        print("\n".join(requests.planned_search(request, table, options)))
        return
    try:
        folder = requests.search(request, table, out, options)
    except requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    print(json.dumps(folder.record, indent=1) if as_json else "\n".join(summary(folder)))
    best = folder.record["best"]
    options.show.conclude(messages(folder.record.get("warnings", []), f"best trial ({best})"))
    if best is None:
        raise Failure(f"{folder.path}: every trial failed; started again, the same command tries them again")
