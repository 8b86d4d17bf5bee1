"""Groups of options that several commands take: dataclasses whose fields are options of the command line."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from randout.core.console import Show

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
    requested,
    seconds_of,
)

if TYPE_CHECKING:
    from randout.experiments.run.options import Options
    from randout.experiments.run.run_request import Request


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of its parameters that are groups as options of their own, in their places.

    A group is a dataclass; its fields are annotated as options are.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            option = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            parameters.append(option.replace(annotation=hints[field.name]))

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, and how it is read."""

    text_column: TextColumn = None
    text_pair: TextPair = None
    prefix_column: PrefixColumn = None
    label_column: LabelColumn = None
    group: Group = None
    encoding: Encoding = None

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of the data that are given, with further ones by the names of their options."""
        return data_settings(**vars(self), **more)


@dataclass(frozen=True)
class Splits(Columns):
    """Also where the rows of each split are."""

    split_column: SplitColumn = None
    validation: Validation = None
    test: Test = None


@dataclass(frozen=True)
class Tables(Splits):
    """Also unlabelled texts."""

    unlabeled: Unlabeled = None


@dataclass(frozen=True)
class RecipeOptions:
    """How a training is configured, from the general to the particular."""

    preset: Preset = None
    recipe: Recipe = None
    sets: Sets = None
    plugin: Plugins = None

    def request(self, settings: Mapping[str, Any]) -> Request:
        """Return the training of these settings with this configuration. Raises UserError."""
        return requested(dict(settings), self.preset, self.recipe, self.sets)


@dataclass(frozen=True)
class StudyOptions:
    """How several runs are carried out, and what is printed."""

    time_limit: Limit = None
    accept_changes: AcceptChanges = False
    jobs: Jobs = 1
    job_threads: JobThreads = None
    cluster: Cluster = None
    job_gpus: JobGpus = None
    dry_run: Dry = False
    runs: RunsFolder = Path("runs")
    report_to: ReportToOption = None
    as_json: AsJson = False
    quiet: Quiet = False

    def options(self) -> Options:
        """Return the options of the library. Raises UserError."""
        return study_options(
            self.runs,
            Show(self.quiet or self.as_json),
            self.time_limit,
            self.accept_changes,
            (self.jobs, self.job_threads, self.cluster, self.job_gpus),
            self.report_to,
        )


def study_options(
    runs: Path,
    show: Show,
    time_limit: str | None = None,
    accept_changes: bool = False,
    processes: tuple[int, int | None, str | None, float | None] = (1, None, None, None),
    report_to: str | None = None,
) -> Options:
    """Return the options of the library. processes: jobs, job_threads, cluster, job_gpus. Raises UserError."""
    from randout.experiments.run.options import Options, check_processes
    from randout.trackers.report_to import trackers_of

    check_processes(*processes, flag)
    jobs, threads, cluster, gpus = processes
    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    return Options(
        runs,
        accept_changes=accept_changes,
        deadline=deadline,
        jobs=jobs,
        threads=threads,
        cluster=cluster or "",
        gpus=gpus,
        show=show,
        report_to=trackers_of(report_to),
    )
