"""Reports a study to trackers: a run of its own where a tracker nests runs; elsewhere its runs are a group or folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.console import Show

from .callbacks import Ending
from .described import Described, about_study, flat_settings
from .report_to import ReportTo
from .tracked_run import PARENTS, TrackedRun, curves_folder


class TrackedStudy:
    """A study in its trackers. report_to: for its runs."""

    def __init__(self, report_to: ReportTo, own: TrackedRun) -> None:
        self.report_to, self._own = report_to, own

    def end(self, how: Ending, values: Mapping[str, float] | None = None) -> None:
        """End the study in its trackers. values: its result."""
        self._own.end(how, values)


def track_study(folder: Path, name: str, report_to: ReportTo, settings: Mapping[str, Any], show: Show) -> TrackedStudy:
    """Start a study in its trackers, or resume it. A search within a study has no run of its own.

    settings: its request, as nested tables. If a tracker that nests runs does not answer, the runs
    of this study are not reported to it now.
    """
    if report_to.study is not None or not report_to.names:
        return TrackedStudy(report_to, TrackedRun())
    runs = replace(report_to, study=folder, study_name=name)
    if "tensorboard" in runs.names:
        show.say(f"reporting to tensorboard: tensorboard --logdir {curves_folder(folder, '', runs)}")
    described = Described(name, folder, folder, settings=flat_settings(settings), about=about_study())
    own = TrackedRun(described, report_to.only([one for one in report_to.names if one in PARENTS]), show)
    own.begin()
    failed = own.wait()
    return TrackedStudy(runs.only([one for one in runs.names if one not in failed]), own)
