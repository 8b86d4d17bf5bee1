"""Reports finished runs to trackers that do not have them, from the files in their folders."""

from __future__ import annotations

from collections.abc import Iterable

from randout.core.console import Show
from randout.storage.run_folder import RunFolder, is_writable

from .described import epoch_values, stored_settings
from .report_to import ReportTo
from .tracked_run import end_finished, track_run, without_complete


def report_finished(run: RunFolder, report_to: ReportTo, show: Show) -> None:
    """Report a finished run to those trackers that do not have all of it: a point for each validation, and the scores.

    This is so if it was trained without them, or if they did not answer.
    """
    wanted = without_complete(run.path, report_to)
    if not wanted.names or not is_writable(run.path):
        return
    tracked = track_run(run, wanted, stored_settings(run), show)
    epochs = run.history.epochs
    tracked.begin(steps=epochs[-1].step if epochs else 0)
    for row in epochs:
        tracked.log(epoch_values(row), row.step)
    end_finished(tracked, run)


def report_all(runs: Iterable[tuple[str, RunFolder]], report_to: ReportTo, show: Show) -> None:
    """Report those finished runs of a study that trackers lack. runs: each with its label."""
    for label, run in runs:
        if report_to.names and run.finished:
            report_finished(run, report_to.labelled(label), show)
