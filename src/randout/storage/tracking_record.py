"""The content of `tracking.json`: as which run an experiment tracker knows a run or a study.

The file is in the folder of the run or study, so that a resumed one goes on in the same run of the tracker.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from pydantic import Field

from randout.core.files import replace_text

from .record import Record

FILE = "tracking.json"
_mutex = threading.Lock()  # each tracker is called, and notes what it has, in a thread of its own


class TrackerRun(Record):
    """A run of a tracker. study: path of the study that it was reported for, from the folder; empty for none.

    id: at the tracker; empty if it has none. complete: whether the scores were reported, after which nothing follows.
    """

    tracker: str
    study: str = ""
    id: str = ""
    complete: bool = False


class TrackingRecord(Record):
    """The content of `tracking.json`."""

    runs: list[TrackerRun] = Field(default_factory=list)

    def find(self, tracker: str, study: str) -> TrackerRun | None:
        """Return the run of a tracker for a study; None if there is none."""
        return next((one for one in self.runs if (one.tracker, one.study) == (tracker, study)), None)


def read_tracking(folder: Path) -> TrackingRecord:
    """Return what `tracking.json` of a folder holds; empty if there is none, or if it is damaged."""
    try:
        return TrackingRecord.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a training must not fail because of it; at worst, a tracker gets a second run
        return TrackingRecord()


def note_tracking(folder: Path, found: TrackerRun) -> None:
    """Store a run of a tracker, in place of the one for the same study."""
    with _mutex:
        record = read_tracking(folder)
        kept = [one for one in record.runs if (one.tracker, one.study) != (found.tracker, found.study)]
        text = json.dumps(TrackingRecord(runs=[*kept, found]).as_json(), indent=1) + "\n"
        try:
            replace_text(folder / FILE, text)
        except FileNotFoundError:  # a finished run deletes partial files in its folder
            replace_text(folder / FILE, text)
