"""The command `search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure

from .options import (
    AcceptChanges,
    AsJson,
    Cluster,
    Dry,
    Encoding,
    Group,
    Halving,
    JobGpus,
    Jobs,
    JobThreads,
    LabelColumn,
    Limit,
    Out,
    Plugins,
    PrefixColumn,
    Preset,
    Quiet,
    Recipe,
    ReportToOption,
    RunsFolder,
    Sets,
    SpaceOption,
    SplitColumn,
    Student,
    Teacher,
    Test,
    TextColumn,
    TextPair,
    Trials,
    Unlabeled,
    Validation,
    data_settings,
    options_of,
    requested,
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
def search(
    data: Data = "",
    out: Out = None,
    student: Student = None,
    teacher: Teacher = None,
    text_column: TextColumn = None,
    text_pair: TextPair = None,
    prefix_column: PrefixColumn = None,
    label_column: LabelColumn = None,
    group: Group = None,
    split_column: SplitColumn = None,
    validation: Validation = None,
    test: Test = None,
    unlabeled: Unlabeled = None,
    encoding: Encoding = None,
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
    search_seed: Annotated[int | None, typer.Option(help="random seed for sampling cells")] = None,
    time_limit: Limit = None,
    accept_changes: AcceptChanges = False,
    jobs: Jobs = 1,
    job_threads: JobThreads = None,
    cluster: Cluster = None,
    job_gpus: JobGpus = None,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    report_to: ReportToOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search settings on the validation split. One teacher serves all trials; the same command resumes a search."""
    from randout.experiments import study_requests
    from randout.experiments.search.trials import summary
    from randout.stats.diagnostics import messages

    more = data_settings(
        text_column=text_column,
        text_pair=text_pair,
        prefix_column=prefix_column,
        label_column=label_column,
        group=group,
        split_column=split_column,
        validation=validation,
        test=test,
        unlabeled=unlabeled,
        encoding=encoding,
    )
    request = requested(tables_of(data, student, teacher, more), preset, recipe, sets)
    options = options_of(
        runs, time_limit, Show(quiet or as_json), accept_changes, jobs, job_threads, cluster, job_gpus, report_to
    )
    limits: dict[str, Any] = {"trials": trials, "sampler": sampler, "halving": halving, "budget": budget}
    table = study_requests.search_table(space_table(space), **limits, keep=keep, seed=search_seed)
    if dry_run:
        print("\n".join(study_requests.planned_search(request, table, options)))
        return
    try:
        folder = study_requests.search(request, table, out, options)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    print(json.dumps(folder.record.as_json(), indent=1) if as_json else "\n".join(summary(folder)))
    options.show.conclude(messages(folder.record.warnings, f"best trial ({folder.record.best})"))
    if folder.record.best is None:
        raise Failure(f"{folder.path}: every trial failed; run the same command again to retry them")
