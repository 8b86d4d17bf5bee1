"""The command `search`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from randout.core.errors import Failure

from .option_groups import RecipeOptions, StudyOptions, Tables, grouped
from .options import (
    Halving,
    Out,
    SpaceOption,
    Student,
    Teacher,
    Trials,
    space_table,
    tables_of,
)
from .output import stopped

app = typer.Typer(rich_markup_mode=None)

Data = Annotated[str, typer.Argument(help="a table of texts and labels, or a named dataset", metavar="[DATA]")]
Sampler = Annotated[str | None, typer.Option(help="grid or tpe (needs optuna)")]
HalvingBudget = Annotated[
    float | None,
    typer.Option("--budget", help="halving: steps as a share of training all cells in full, such as 0.15"),
]
Keep = Annotated[str | None, typer.Option(help="weights to keep: best, all or none")]


@app.command()
@grouped
def search(
    data: Data = "",
    out: Out = None,
    student: Student = None,
    teacher: Teacher = None,
    *,
    table: Tables,
    recipe: RecipeOptions,
    space: SpaceOption = None,
    trials: Trials = None,
    sampler: Sampler = None,
    halving: Halving = None,
    budget: HalvingBudget = None,
    keep: Keep = None,
    search_seed: Annotated[int | None, typer.Option(help="random seed for sampling cells")] = None,
    work: StudyOptions,
) -> None:
    """Search settings on the validation split. One teacher serves all trials; the same command resumes a search."""
    from randout.experiments import study_requests
    from randout.experiments.search.trials import summary
    from randout.stats.diagnostics import messages

    request = recipe.request(tables_of(data, student, teacher, table.settings()))
    options = work.options()
    limits: dict[str, Any] = {"trials": trials, "sampler": sampler, "halving": halving, "budget": budget}
    asked = study_requests.search_table(space_table(space), **limits, keep=keep, seed=search_seed)
    if work.dry_run:
        print("\n".join(study_requests.planned_search(request, asked, options)))
        return
    try:
        folder = study_requests.search(request, asked, out, options)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    print(json.dumps(folder.record.as_json(), indent=1) if work.as_json else "\n".join(summary(folder)))
    options.show.conclude(messages(folder.record.warnings, f"best trial ({folder.record.best})"))
    if folder.record.best is None:
        raise Failure(f"{folder.path}: every trial failed; run the same command again to retry them")
