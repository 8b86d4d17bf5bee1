"""A run as its trackers follow it: what the training loop and the end of a run tell them.

No method waits for a tracker, except `wait` and `end`. What a tracker raises becomes a warning: everything is in the run
folder, and the same command reports a finished run to trackers that do not have it (`finished_runs`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from randout.core.console import Show
from randout.storage.run_folder import RunFolder
from randout.storage.tracking_record import TrackerRun, note_tracking, read_tracking

from .callbacks import CallbackTracker, Ending
from .channel import PATIENCE, START_PATIENCE, STOP_PATIENCE, Channel, left_alone
from .described import Described, about_run, final_values
from .mlflow import MLflowTracker
from .report_to import ReportTo
from .tensorboard import TensorBoardTracker
from .wandb import WandbTracker

CURVES = "tensorboard"  # folder of event files, in that of a run or study
TRACKERS: dict[str, Callable[[], CallbackTracker]] = {
    "mlflow": partial(MLflowTracker, "mlflow"),
    "tensorboard": partial(TensorBoardTracker, "tensorboard"),
    "wandb": partial(WandbTracker, "wandb"),
}
PARENTS = ("mlflow",)  # trackers with a run for a study


class TrackedRun:
    """The trackers of one run or study. Without trackers, every method does nothing."""

    def __init__(self, described: Described | None = None, report_to: ReportTo | None = None, show: Show | None = None):
        self._described, self._report_to, self._show = described, report_to or ReportTo(), show or Show()
        self._channels: dict[str, tuple[Channel, CallbackTracker]] = {}
        self._begun, self._told = False, set[str]()

    def __bool__(self) -> bool:
        return bool(self._report_to.names)

    def begin(self, step: int = 0, steps: int = 0) -> None:
        """Start the run in its trackers, or resume it. Called again, it does nothing.

        step: optimizer steps done before. steps: of the whole training.
        """
        if self._begun or self._described is None:
            return
        self._begun = True
        run = replace(self._described, step=step, steps=steps)
        for name in self._report_to.names:
            if left_alone(name):
                continue
            channel = Channel(name)
            try:
                tracker = TRACKERS.get(name, partial(CallbackTracker, name))()  # imports its library: in this thread
            except Exception as error:
                channel.close()
                self._warn(name, f"{type(error).__name__}: {error}")
                continue
            self._channels[name] = channel, tracker
            channel.put(partial(self._start, tracker, run))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report values at an optimizer step."""
        for channel, tracker in self._channels.values():
            channel.put(partial(tracker.log, dict(values), step))
        self._notice()

    def end(
        self, how: Ending, values: Mapping[str, float] | None = None, step: int = 0, model: Path | None = None
    ) -> None:
        """End the run in its trackers, and wait for them. values: final scores, at `step`. model: folder to upload."""
        for channel, tracker in self._channels.values():
            if values:
                channel.put(partial(tracker.log, dict(values), step))
            if model is not None:
                channel.put_slow(partial(tracker.upload, model))
            channel.put(partial(self._end, tracker, how))
        for channel, _ in self._channels.values():
            channel.close(STOP_PATIENCE if how == "stopped" else PATIENCE)
        self._notice()
        self._channels = {}

    def wait(self) -> list[str]:
        """Wait until the trackers have answered; returns those that did not, or failed."""
        for channel, _ in self._channels.values():
            channel.wait(START_PATIENCE)
        self._notice()
        return [name for name in self._report_to.names if name not in self._channels or self._channels[name][0].error]

    def _start(self, tracker: CallbackTracker, run: Described) -> None:
        study = _study_of(run.folder, self._report_to)
        before = read_tracking(run.folder).find(tracker.name, study)
        parent = ""
        if self._report_to.study is not None and (above := read_tracking(self._report_to.study).find(tracker.name, "")):
            parent = above.id
        found = tracker.begin(replace(run, id=before.id if before else "", parent=parent))
        note_tracking(run.folder, TrackerRun(tracker=tracker.name, study=study, id=found or "begun", complete=False))
        place = tracker.place()
        self._show.say(f"reporting to {tracker.name}" + (f": {place}" if place else ""))

    def _end(self, tracker: CallbackTracker, how: Ending) -> None:
        assert self._described is not None
        tracker.end(how)
        folder, study = self._described.folder, _study_of(self._described.folder, self._report_to)
        found = read_tracking(folder).find(tracker.name, study)
        if how == "finished" and found is not None:
            found.complete = True
            note_tracking(folder, found)

    def _notice(self) -> None:
        for channel, _ in self._channels.values():
            if channel.error:
                self._warn(channel.name, channel.error)

    def _warn(self, name: str, why: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._show.warn(
                f"tracker {name}: {why}. The training does not need it, and nothing is lost: once the tracker works, the same "
                "command reports what is missing"
            )


def track_run(run: RunFolder, report_to: ReportTo, settings: dict[str, Any], show: Show) -> TrackedRun:
    """Return the trackers of a run, which its record describes; they start with `TrackedRun.begin`. settings: flat."""
    if not report_to.names:
        return TrackedRun()
    name = report_to.label or run.record.name or run.path.name
    described = Described(
        name=name,
        folder=run.path,
        curves=curves_folder(run.path, name, report_to),
        study=report_to.study_name,
        settings=settings,
        about=about_run(run),
    )
    return TrackedRun(described, report_to, show)


def end_finished(tracked: TrackedRun, run: RunFolder) -> None:
    """End a finished run in its trackers, with its scores."""
    epochs = run.history.epochs
    model = run.model if run.model.is_dir() else None  # a search deletes those of most trials
    tracked.end("finished", final_values(run.metrics), epochs[-1].step if epochs else 0, model)


def curves_folder(folder: Path, name: str, report_to: ReportTo) -> Path:
    """Return the folder of the event files of a run: its own, or a subfolder for its study.

    With TENSORBOARD_LOGGING_DIR, it is a subfolder of that folder.
    """
    parts = [re.sub(r"[^\w.+=-]+", "-", part) for part in name.split(", ")]
    above = os.environ.get("TENSORBOARD_LOGGING_DIR")
    if report_to.study is not None:
        return (Path(above, report_to.study_name) if above else report_to.study / CURVES).joinpath(*parts)
    return Path(above).expanduser() / folder.name if above else folder / CURVES


def is_complete(folder: Path, name: str, report_to: ReportTo) -> bool:
    """Return whether a tracker has all of a run or study."""
    found = read_tracking(folder).find(name, _study_of(folder, report_to))
    return found is not None and found.complete


def _study_of(folder: Path, report_to: ReportTo) -> str:
    """Return the study of a run as `tracking.json` stores it."""
    return "" if report_to.study is None else os.path.relpath(report_to.study, folder)


def without_complete(folder: Path, report_to: ReportTo) -> ReportTo:
    """Return the trackers that do not have all of a finished run."""
    names: Sequence[str] = [name for name in report_to.names if not is_complete(folder, name, report_to)]
    return report_to.only(names)
