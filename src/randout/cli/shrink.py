"""The command `shrink`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import shell_path
from randout.core.wording import plural

from .options import (
    AcceptChanges,
    AsJson,
    Cluster,
    Dry,
    Encoding,
    Group,
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
    SplitColumn,
    Test,
    TextColumn,
    TextPair,
    Unlabeled,
    Validation,
    data_settings,
    options_of,
    requested,
    tables_of,
)
from .output import example_input, stopped

app = typer.Typer(rich_markup_mode=None)


@app.command()
def shrink(
    data: Annotated[str, typer.Argument(help="a table of texts and labels, or a named dataset", metavar="DATA")] = "",
    teacher: Annotated[
        str | None, typer.Option(help="a run, a classifier or an encoder (default: a larger encoder found locally)")
    ] = None,
    out: Out = None,
    student: Annotated[
        list[str] | None, typer.Option(help="encoder: hub name, folder or alias; repeat it for several")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="numbers of layers to keep, such as 1,3,6 (default: all, half, a quarter, ... and one)"),
    ] = None,
    trim_embedding: Annotated[
        bool, typer.Option("--trim-embedding", help="also forms with the vocabulary of the training texts only")
    ] = False,
    form: Annotated[
        list[str] | None, typer.Option("--form", help="torch, float32 or int8 (ONNX); repeat it (default: all)")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="trainings of each size (default: 1); the first is exported")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="accuracy that may be lost (default: 0.01, which is 1 point)")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="cost that makes a form the cheapest: latency (default), size or throughput")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for the measurement (default: 1)")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="measured processes of each form (default: 3); 0: no timing, with --cost size")
    ] = None,
    open_test: Annotated[
        str | None,
        typer.Option("--open", help="score the test split for: chosen (default), nearest (if none is chosen), or none"),
    ] = None,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="measure all forms again, such as on a quiet machine")
    ] = False,
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
    """Find the smallest model that is not worse than a teacher. Trains several sizes, measures each form on this machine.

    The cheapest form that is not worse on validation is scored once on the test split. The same command resumes.
    """
    from randout.experiments import study_requests

    names = student or []
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
    request = requested(tables_of(data, names[0] if names else None, teacher, more), preset, recipe, sets)
    options = options_of(
        runs, time_limit, Show(quiet or as_json), accept_changes, jobs, job_threads, cluster, job_gpus, report_to
    )
    given: dict[str, Any] = {
        "students": tuple(names) or None,
        "layers": None if layers is None else numbers(layers),
        "trim": trim_embedding,
        "forms": tuple(form or ()) or None,
        "seeds": seeds,
        "margin": margin,
        "cost": cost,
        "threads": threads,
        "rounds": rounds,
        "open": open_test,
    }
    if dry_run:
        print("\n".join(study_requests.planned_shrink(request, given, options)))
        return
    try:
        folder = study_requests.shrink(request, given, out, options, measure_again)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    from randout.experiments.study import study_warnings
    from randout.reporting.shrink import lines

    record = folder.record
    if as_json:
        print(json.dumps(record.as_json(), indent=1))
    else:
        print("\n".join(lines(record)))
        print(f"\npicture  {folder.path / 'shrink.png'}")
        if (folder.path / "chosen").exists():
            print(f"chosen   {folder.path / 'chosen'}")
            chosen = folder.path / "chosen"
            print(f"next     randout predict {shell_path(chosen)} {example_input(chosen)}")
    options.show.conclude(study_warnings.lines(record.warnings))
    if failed := record.cells_in("failed"):
        raise Failure(f"{folder.path}: {plural(len(failed), 'run')} failed; run the same command again to retry")


def numbers(text: str) -> tuple[int, ...]:
    """Parse the value of `--layers`. Raises UserError."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text}: expected numbers of layers, such as 1,3,6") from None
