"""The commands `compare` and `cv`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.wording import plural

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
    assignments,
    data_settings,
    flag,
    options_of,
    space_table,
)
from .output import stopped

if TYPE_CHECKING:
    from randout.storage.study_record import ComparisonRecord

app = typer.Typer(rich_markup_mode=None)

AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="score test rows even if a teacher or starting model was trained on them")
]
Methods = Annotated[
    str | None, typer.Option(help="methods to compare, comma-separated (see `randout methods`), or all")
]
Seeds = Annotated[str | None, typer.Option(help="number of seeds (3: seeds 1, 2, 3), or a comma-separated list")]
Arms = Annotated[
    str | None, typer.Option(help="presets or recipe files (TOML), comma-separated; table6: the paper's four")
]
Metric = Annotated[str | None, typer.Option(help="primary metric: accuracy or macro_f1")]
Margin = Annotated[float | None, typer.Option(help="smaller differences count as none (0.02: 2 points)")]
Baseline = Annotated[str | None, typer.Option(help="arm (or run) that the others are compared with")]


@app.command()
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="a study file (TOML), data, or finished runs", metavar="STUDY|DATA|RUN..."),
    ] = None,
    out: Out = None,
    arms: Arms = None,
    methods: Methods = None,
    seeds: Seeds = None,
    drop_one: Annotated[
        bool, typer.Option("--drop-one", help="ablation: also train the recipe without each of its methods")
    ] = False,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
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
    halving: Halving = None,
    time_limit: Limit = None,
    accept_changes: AcceptChanges = False,
    jobs: Jobs = 1,
    job_threads: JobThreads = None,
    cluster: Cluster = None,
    job_gpus: JobGpus = None,
    allow_leaks: AllowLeaks = False,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    report_to: ReportToOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare recipes across seeds, or finished runs. Equal budgets, paired statistics."""
    from randout.experiments import study_requests

    inputs = what or []
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
    shared: dict[str, Any] = {"student": student, "teacher": teacher, "preset": preset, "recipe": recipe}
    comparison: dict[str, Any] = {"baseline": baseline, "metric": metric, "margin": margin, "allow_leaks": allow_leaks}
    request = study_requests.Asked(
        **shared,
        data=more,
        **comparison,
        settings=assignments(sets) or None,
        arms=_comma_separated(arms),
        methods=_comma_separated(methods),
        drop_one=drop_one,
        seeds=None if seeds is None else _seeds(seeds),
        space=space_table(space),
        trials=trials,
        halving=halving,
        spelt=flag,
    )
    if study_requests.are_runs(inputs):
        _print(study_requests.finished(inputs, request, dry_run=dry_run, out=out), as_json, Show())
        return
    study = study_requests.comparison(inputs[0] if inputs else "", request, out)
    _carry_out(
        study,
        out,
        dry_run,
        as_json,
        options_of(
            runs, time_limit, Show(quiet or as_json), accept_changes, jobs, job_threads, cluster, job_gpus, report_to
        ),
    )


@app.command()
def cv(
    data: Annotated[
        str, typer.Argument(help="a table of texts and labels, a named dataset, or a study file (TOML)", metavar="DATA")
    ],
    out: Out = None,
    folds: Annotated[int | None, typer.Option(help="number of folds, at least 5 (default: 10)")] = None,
    repeats: Annotated[int | None, typer.Option(help="number of repetitions, each with new folds (default: 1)")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="nested (default): search settings inside each fold; paper: once, on the ordinary split"),
    ] = None,
    arms: Arms = None,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
    student: Student = None,
    teacher: Teacher = None,
    text_column: TextColumn = None,
    text_pair: TextPair = None,
    prefix_column: PrefixColumn = None,
    label_column: LabelColumn = None,
    group: Group = None,
    unlabeled: Unlabeled = None,
    encoding: Encoding = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    plugin: Plugins = None,
    space: SpaceOption = None,
    trials: Trials = None,
    halving: Halving = None,
    time_limit: Limit = None,
    accept_changes: AcceptChanges = False,
    jobs: Jobs = 1,
    job_threads: JobThreads = None,
    cluster: Cluster = None,
    job_gpus: JobGpus = None,
    allow_leaks: AllowLeaks = False,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    report_to: ReportToOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cross-validate recipes, with a teacher for each fold. Grouped folds, Nadeau and Bengio's interval."""
    from randout.experiments import study_requests

    more = data_settings(
        text_column=text_column,
        text_pair=text_pair,
        prefix_column=prefix_column,
        label_column=label_column,
        group=group,
        unlabeled=unlabeled,
        encoding=encoding,
    )
    shared: dict[str, Any] = {"student": student, "teacher": teacher, "preset": preset, "recipe": recipe}
    comparison: dict[str, Any] = {"baseline": baseline, "metric": metric, "margin": margin, "allow_leaks": allow_leaks}
    request = study_requests.Asked(
        **shared,
        data=more,
        **comparison,
        settings=assignments(sets) or None,
        arms=_comma_separated(arms),
        folds=folds,
        repeats=repeats,
        protocol=protocol,
        space=space_table(space),
        trials=trials,
        halving=halving,
        spelt=flag,
    )
    study = study_requests.cross_validation(data, request, out)
    _carry_out(
        study,
        out,
        dry_run,
        as_json,
        options_of(
            runs, time_limit, Show(quiet or as_json), accept_changes, jobs, job_threads, cluster, job_gpus, report_to
        ),
    )


def _comma_separated(text: str | None) -> list[str] | None:
    """Split a comma-separated option; None if it is not given."""
    return None if text is None else [word.strip() for word in text.split(",")]


def _seeds(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: expected a number of seeds, or a list such as 1,2,3") from None
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise UserError(f"--seeds {text}: expected 1 or more")
        return list(range(1, numbers[0] + 1))
    return numbers


def _carry_out(study: Any, out: Path | None, dry_run: bool, as_json: bool, options: Any) -> None:
    from randout.experiments import study_requests

    if dry_run:
        print("\n".join(study_requests.planned(study, out, options.show)))
        return
    try:
        folder = study_requests.execute(study, out, options)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    _print(folder.record, as_json, options.show)
    failed = folder.record.cells_in("failed")
    if failed:
        raise Failure(f"{folder.path}: {plural(len(failed), 'run')} failed; run the same command again to retry")


def _print(record: ComparisonRecord, as_json: bool, show: Show) -> None:
    """Print the result of a study and its warnings."""
    from randout.experiments.study.results import result_lines
    from randout.experiments.study.study_warnings import lines

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # in a pipe or a file, names are whole
    print(json.dumps(record.as_json(), indent=1) if as_json else "\n".join(result_lines(record, width)))
    show.conclude(lines(record.warnings))
