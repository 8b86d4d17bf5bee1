"""Event files hold what was reported, and one curve after a training was stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from randout.core.console import Show
from randout.storage.run_folder import RunFolder
from randout.trackers.report_to import ReportTo
from randout.trackers.tracked_run import TrackedRun, end_finished, track_run
from support.folders import make_run

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)


def begun(run: RunFolder, step: int, steps: list[int]) -> TrackedRun:
    """A training from `step` on, which reports a loss of 10 / step at these steps."""
    tracked = track_run(run, ReportTo(("tensorboard",)), {"train.seed": 3}, Show(quiet=True))
    tracked.begin(step, 6)
    for one in steps:
        tracked.log({"loss": 10 / one, "eval_accuracy": one / 10, "epoch": one / 3}, one)
    return tracked


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return found


def curve(events: Any, name: str) -> dict[int, float]:
    return {one.step: pytest.approx(one.value) for one in events.Scalars(name)}


@pytest.mark.filterwarnings("ignore")
def test_curves_scores_and_settings_are_read_back(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "one"))
    end_finished(begun(run, 0, [1, 2, 3]), run)
    events = read(run.path / "tensorboard")
    assert curve(events, "train/loss") == {1: 10, 2: 5, 3: 10 / 3}
    assert curve(events, "eval/accuracy") == {1: 0.1, 2: 0.2, 3: 0.3}
    assert run.metrics.test is not None
    assert list(curve(events, "test/accuracy").values()) == [run.metrics.test.accuracy]
    (settings,) = events.Tensors("args/text_summary")
    assert b'"train.seed": 3' in settings.tensor_proto.string_val[0]
    assert run.record.fingerprint.encode() in settings.tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")
def test_steps_that_are_trained_again_are_shown_once(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "one"))
    begun(run, 0, [1, 2, 3, 4]).end("stopped")
    begun(run, 2, [3, 4, 5]).end("stopped")
    shown = [one.step for one in read(run.path / "tensorboard").Scalars("train/loss")]
    assert shown == [1, 2, 3, 4, 5]
