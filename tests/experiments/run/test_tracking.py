"""A training reports its curves and scores to a tracker, goes on in the same run there, and needs it for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import randout
from conftest import Run
from randout.experiments.run.options import Stopped
from randout.storage.run_folder import RunFolder
from randout.trackers import channel
from support.trackers import FakeTracker, installed

SETTINGS = {"epochs": 2, "validate_every": 1, "batch_size": 16, "learning_rate": 2e-3, "precision": "float32"}
SETTINGS |= {"device": "cpu", "refit": False, "keep": "best"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTracker]]:
    yield from installed("fake", monkeypatch)
    channel.forget_failures()


@pytest.fixture
def train(run: Run, tiny_model: Any, toy_csv: Any) -> Any:
    """Train on 90 toy rows, in an empty folder."""

    def call(**options: Any) -> RunFolder:
        settings = SETTINGS | options.pop("settings", {})
        asked = {"preset": "plain", "teacher": "none", "student": tiny_model("bert")} | options
        return randout.train(toy_csv(90), settings=settings, **asked).run

    return call


def test_curves_and_scores_of_a_training(fake: type[FakeTracker], train: Any, tiny_model: Any) -> None:
    """Teacher and student are two runs, one after the other; the numbers are those of the run folder."""
    run = train(preset="kd", teacher=tiny_model("roberta"), settings={"teacher.epochs": 1}, report_to="fake")
    teacher, student = fake.made
    assert [event for event, *_ in teacher.told][-1] == "end"
    assert student.name == run.path.name
    assert (student.settings["train.seed"], student.settings["methods.kd.weight"]) == (1, 0.8)
    epochs = run.history.epochs
    assert [step for step, _ in student.curve("loss_kd")] == list(range(1, epochs[-1].step + 1))
    half = epochs[0].step
    first = [value for step, value in student.curve("loss_ce") if step <= half]
    assert sum(first) / half == pytest.approx(epochs[0].measured["loss_ce"])
    for (step, total), (_, ce), (_, kd) in zip(
        *(student.curve(name) for name in ("loss", "loss_ce", "loss_kd")), strict=True
    ):
        assert total == pytest.approx(ce + kd), step
    assert student.curve("learning_rate")[half - 1][1] == epochs[0].measured["learning_rate"]
    assert student.curve("eval_accuracy") == [(row.step, row.measured["validation_accuracy"]) for row in epochs]
    assert student.curve("eval_final_accuracy") == [(epochs[-1].step, run.metrics.validation.accuracy)]
    assert student.curve("test_minus_teacher")


def test_a_run_is_the_same_with_and_without_a_tracker(fake: type[FakeTracker], train: Any, run: Run) -> None:
    """Trained without one, it is found by the same command with one, and is then reported; also by the command line."""
    plain = train()
    weights = (plain.model / "model.safetensors").read_bytes()
    again = train(report_to=["fake"])
    assert again.path == plain.path
    (made,) = fake.made
    assert [value for _, value in made.curve("eval_accuracy")] == [
        row.measured["validation_accuracy"] for row in plain.history.epochs
    ]
    tracked = train(report_to="fake", out="tracked")
    assert tracked.record.fingerprint == plain.record.fingerprint
    assert (tracked.model / "model.safetensors").read_bytes() == weights
    assert len(fake.made) == 2


def test_a_stopped_run_goes_on_in_the_same_run_of_the_tracker(
    fake: type[FakeTracker], train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int]] = []

    def begin(self: FakeTracker, args: Any, state: Any, control: Any, **more: Any) -> None:
        begun.append((str(args.resume_from_checkpoint), state.global_step))
        self.tell("begin", args, state, args.to_dict())

    monkeypatch.setattr(fake, "on_train_begin", begin)
    with pytest.raises(Stopped) as stopped:
        train(report_to="fake", time_limit=1e-6)
    done = json.loads((stopped.value.run.checkpoint / "position.json").read_text())["position"]["step"]
    run = train(report_to="fake")
    first, second = fake.made
    assert begun == [("None", 0), (str(run.path), done)]
    assert (first.told[-1][0], second.told[-1][0]) == ("end", "end")
    assert second.settings == {}  # they are there
    assert [step for step, _ in second.curve("loss_ce")] == list(range(done + 1, run.history.epochs[-1].step + 1))


@pytest.mark.parametrize("event", ["begin", "log"])
def test_a_tracker_that_fails_costs_a_warning_only(
    fake: type[FakeTracker], train: Any, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fails = event
    run = train(report_to="fake")
    assert run.finished
    assert capsys.readouterr().err.count("tracker fake: ConnectionError") == 1


def test_a_bag_of_words_has_scores_and_no_losses(fake: type[FakeTracker], run: Run, toy_csv: Any) -> None:
    done = randout.train(toy_csv(90), student="mnb-count", teacher="none", preset="plain", report_to="fake")
    (made,) = fake.made
    assert done.scores.test is not None
    assert made.curve("test_accuracy") == [(1, done.scores.test.accuracy)]
    assert not made.curve("loss")
