"""The command `search`, and the options shared by commands that train several runs."""

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
    Encoding,
    Group,
    LabelColumn,
    Plugins,
    PrefixColumn,
    Preset,
    Quiet,
    Recipe,
    ReportToOption,
    RunsFolder,
    Sets,
    SplitColumn,
    Test,
    TextColumn,
    TextPair,
    Unlabeled,
    Validation,
    data_settings,
    flag,
    named,
    requested,
    seconds_of,
    stopped,
)

app = typer.Typer(rich_markup_mode=None)

Data = Annotated[str, typer.Argument(help="a table of texts and labels, or a named dataset", metavar="[DATA]")]
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
Sampler = Annotated[str | None, typer.Option(help="grid or tpe (needs optuna)")]
Halving = Annotated[int | None, typer.Option(help="successive halving: keep one in this many trials at each rung")]
HalvingBudget = Annotated[
    float | None,
    typer.Option("--budget", help="halving: steps as a share of training all cells in full, such as 0.15"),
]
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
Keep = Annotated[str | None, typer.Option(help="weights to keep: best, all or none")]


def tables_of(data: str, student: str | None, teacher: str | None, more: dict[str, Any]) -> dict[str, Any]:
    """Recipe tables for the data, student and teacher options that are given. more: further settings of the data."""
    return named({"data": {"source": data} | more, "student": {"model": student}, "teacher": {"model": teacher}})


def options_of(
    runs: Path,
    time_limit: str | None,
    show: Show,
    accept_changes: bool = False,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    report_to: str | None = None,
) -> Any:
    """Build the `Options` of a study from the command line; time_limit: such as `2h`. Raises UserError."""
    from randout.experiments.run.options import Options, check_processes
    from randout.trackers.report_to import trackers_of

    check_processes(jobs, job_threads, cluster, job_gpus, flag)
    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    return Options(
        runs,
        accept_changes=accept_changes,
        deadline=deadline,
        jobs=jobs,
        threads=job_threads,
        cluster=cluster or "",
        gpus=job_gpus,
        show=show,
        report_to=trackers_of(report_to),
    )


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
