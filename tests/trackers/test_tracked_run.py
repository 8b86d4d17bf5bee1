"""A tracker is told of a run in order, in a thread of its own; its errors and its silence never reach the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from randout.core.console import Show
from randout.storage.run_folder import RunFolder
from randout.storage.tracking_record import read_tracking
from randout.trackers import channel, tracked_run
from randout.trackers.finished_runs import report_finished
from randout.trackers.report_to import ReportTo
from randout.trackers.studies import track_study
from randout.trackers.tracked_run import curves_folder, end_finished, track_run
from support.folders import make_run
from support.trackers import FakeTracker, installed


class Kept(Show):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTracker]]:
    yield from installed("fake", monkeypatch)
    channel.forget_failures()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(make_run(tmp_path / "runs" / "one"))


FAKE = ReportTo(("fake",))


def test_a_run_is_told_in_order_and_noted_as_complete(fake: type[FakeTracker], run: RunFolder) -> None:
    tracked = track_run(run, FAKE, {"train.seed": 3}, Show(quiet=True))
    tracked.begin(steps=20)
    tracked.begin(steps=20)  # as a resumed training does
    tracked.log({"loss": 2.0, "epoch": 0.5}, 5)
    tracked.log({"loss": 1.0, "epoch": 1.0}, 10)
    end_finished(tracked, run)
    (made,) = fake.made
    assert [event for event, *_ in made.told] == ["begin", "log", "log", "log", "end"]
    assert made.name == "one"
    assert made.settings["train.seed"] == 3
    assert made.settings["fingerprint"] == run.record.fingerprint
    assert made.curve("loss") == [(5, 2.0), (10, 1.0)]
    ((_, accuracy),) = made.curve("test_accuracy")
    assert run.metrics.test is not None
    assert accuracy == run.metrics.test.accuracy
    low, high = run.metrics.test.interval("accuracy") or (0, 0)
    assert made.curve("test_accuracy_low")[0][1] == low < high == made.curve("test_accuracy_high")[0][1]
    (noted,) = read_tracking(run.path).runs
    assert (noted.tracker, noted.complete) == ("fake", True)


@pytest.mark.parametrize("event", ["begin", "log", "end"])
def test_an_error_is_one_warning_and_the_run_is_reported_later(
    fake: type[FakeTracker], run: RunFolder, event: str
) -> None:
    fake.fails, show = event, Kept()
    tracked = track_run(run, FAKE, {}, show)
    tracked.begin()
    for step in range(5):
        tracked.log({"loss": 1.0}, step)
    end_finished(tracked, run)
    (warning,) = show.warnings
    assert "tracker fake: ConnectionError: the server is away." in warning
    assert not any(one.complete for one in read_tracking(run.path).runs)
    fake.fails = ""
    report_finished(run, FAKE, show)  # at once: a tracker that just failed is left alone
    assert len(fake.made) == 1
    channel.forget_failures()
    report_finished(run, FAKE, show)
    assert [value for _, value in fake.made[-1].curve("eval_accuracy")] == pytest.approx([0.55, 0.6, 0.65])
    assert fake.made[-1].curve("test_accuracy")
    report_finished(run, FAKE, show)  # complete by now
    assert len(fake.made) == 2


def test_a_tracker_that_does_not_answer_is_given_up(
    fake: type[FakeTracker], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, show = threading.Event(), Kept()
    monkeypatch.setattr(tracked_run, "PATIENCE", 0.2)
    monkeypatch.setattr(fake, "on_train_begin", lambda *words, **more: let_go.wait(60))
    tracked = track_run(run, FAKE, {}, show)
    began = time.monotonic()
    tracked.begin()
    for step in range(1000):
        tracked.log({"loss": 1.0}, step)
    assert time.monotonic() - began < 30  # the calls above return, although the tracker hangs
    end_finished(tracked, run)
    let_go.set()
    assert "no answer for" in show.warnings[0]


def test_a_run_is_reported_once_for_itself_and_once_for_each_study(fake: type[FakeTracker], run: RunFolder) -> None:
    study = track_study(run.path.parents[1] / "study", "films", FAKE, {"seeds": [1, 2]}, Show(quiet=True))
    assert study.report_to.study_name == "films"
    child = study.report_to.labelled("seed 1, plain")
    for report_to in (FAKE, child, FAKE, child):
        report_finished(run, report_to, Show(quiet=True))
    study.end("finished", {"plain accuracy": 0.5})
    assert [made.name for made in fake.made] == ["one", "seed 1, plain"]
    assert [one.study for one in read_tracking(run.path).runs] == ["", "../../study"]


def test_event_files_are_in_the_run_or_in_a_folder_of_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    run, child = tmp_path / "runs" / "one", ReportTo(("tensorboard",), tmp_path / "study", "films")
    assert curves_folder(run, "My run", ReportTo()) == run / "tensorboard"
    assert curves_folder(run, "seed 1, a+b", child) == tmp_path / "study" / "tensorboard" / "seed-1" / "a+b"
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    assert curves_folder(run, "My run", ReportTo()) == tmp_path / "logs" / "one"
    assert curves_folder(run, "seed 1, a", child) == tmp_path / "logs" / "films" / "seed-1" / "a"


def test_without_trackers_nothing_happens(run: RunFolder) -> None:
    tracked = track_run(run, ReportTo(), {}, Show(quiet=True))
    assert not tracked
    tracked.begin()
    tracked.log({"loss": 1.0}, 1)
    end_finished(tracked, run)
    assert not (run.path / "tracking.json").exists()


def test_a_damaged_note_costs_no_training(fake: type[FakeTracker], run: RunFolder) -> None:
    (run.path / "tracking.json").write_text("{", encoding="utf-8")
    report_finished(run, FAKE, Show(quiet=True))
    assert [one.tracker for one in read_tracking(run.path).runs] == ["fake"]
