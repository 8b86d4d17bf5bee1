"""The command `search`, and the options that commands over many runs share."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_tools import (
    AsJson,
    Preset,
    Quiet,
    Recipe,
    RunsFolder,
    Sets,
    configured,
    named,
    required_methods,
    seconds_of,
    stopped,
)
from .errors import Failure, UserError
from .files import joined_name
from .progress import Show

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


def tables_of(data: str, student: str | None, teacher: str | None) -> dict[str, Any]:
    """Data, student and teacher as tables of a recipe, those that are named."""
    return named({"data": {"source": data}, "student": {"model": student}, "teacher": {"model": teacher}})


def options_of(runs: Path, time_limit: str | None, show: Show, accept_changes: bool = False) -> Any:
    """`job.Options`."""
    from .execution import Options

    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    return Options(runs, accept_changes=accept_changes, deadline=deadline, show=show)


def search_table(
    space: list[str] | None,
    trials: int | None,
    sampler: str | None,
    halving: int | None,
    keep: str | None,
    seed: int | None,
    budget: float | None = None,
) -> dict[str, Any]:
    """The table `[search]` of what the command line names; empty for nothing. Raises UserError."""
    from .grid import SPACES, parse_space

    named = [text for text in space or [] if text in SPACES]
    if len(named) > 1:
        raise UserError(f"--space {named[1]}: {named[0]} is named already; name one, and further settings over it")
    table: dict[str, Any] = {"preset": named[0]} if named else {}
    table |= {"space": parse_space([text for text in space or [] if text not in SPACES])} if space else {}
    asked = {"trials": trials, "sampler": sampler, "halving": halving, "keep": keep, "seed": seed, "budget": budget}
    return table | {key: value for key, value in asked.items() if value is not None}


@app.command()
def search(
    data: Data = "",
    out: Out = None,
    student: Student = None,
    teacher: Teacher = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
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
    from . import config as configuration
    from . import search as searching
    from .diagnostics import messages
    from .grid import SearchTable
    from .prepare import read_data
    from .student import Stopped
    from .trials import summary

    config = configured(tables_of(data, student, teacher), preset, recipe, sets, but=("search",))
    below = configuration.read_recipe(recipe).get("search", {}) if recipe is not None else {}
    if not isinstance(below, dict):
        raise UserError(f"{recipe}: search: found {below!r}; expected a table")
    asked = search_table(space, trials, sampler, halving, keep, search_seed, budget)
    listed = f"a search has {', '.join(SearchTable.model_fields)}"
    table = configuration.checked(SearchTable, configuration.overlay(below, asked), "search.", listed)
    show = Show(quiet or as_json)
    made, absent = searching.make_search(config, table, required_methods(preset, recipe, sets))
    if absent:
        show.say(f"left out, for this recipe has no such method: {', '.join(absent)}")
    searching.check_space(made)
    dataset = read_data(made.config)
    label = Path(config.student.model).name
    where = out or Path("studies") / joined_name(["search", dataset.name, label, "+".join(config.methods)])
    if dry_run:
        print("\n".join(searching.planned(made, dataset)))
        return
    try:
        folder = searching.run_search(made, where, options_of(runs, time_limit, show, accept_changes), dataset)
    except Stopped as stop:
        stopped(stop, where)
        return
    print(json.dumps(folder.record, indent=1) if as_json else "\n".join(summary(folder)))
    best = folder.record["best"]
    show.conclude(messages(folder.record.get("warnings", []), f"best trial ({best})"))
    if best is None:
        raise Failure(f"{where}: every trial failed; started again, the same command tries them again")
