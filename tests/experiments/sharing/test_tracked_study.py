"""A study in a tracker: its runs by their cells, once each, also those that were trained before or in other processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import randout
from conftest import Run
from randout.storage.tracking_record import read_tracking
from randout.trackers import channel, tracked_run
from support.trackers import FakeTracker, installed

FAST = {"epochs": 1, "batch_size": 16, "precision": "float32", "device": "cpu", "refit": False}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTracker]]:
    monkeypatch.setattr(tracked_run, "PARENTS", ("fake",))
    monkeypatch.setattr("randout.trackers.studies.PARENTS", ("fake",))
    yield from installed("fake", monkeypatch)
    channel.forget_failures()


def test_the_runs_of_a_comparison_are_children_of_its_run(
    fake: type[FakeTracker], run: Run, tiny_model: Any, toy_csv: Any
) -> None:
    asked: dict[str, Any] = {"arms": ["plain"], "seeds": 2, "student": tiny_model("bert"), "teacher": "none"}
    asked |= {"settings": FAST, "out": "studies/two"}
    first = randout.train(toy_csv(90), preset="plain", student=tiny_model("bert"), teacher="none", settings=FAST)
    randout.compare(toy_csv(90), **asked, report_to="fake")
    assert [made.name for made in fake.made] == ["two", "seed 1, plain", "seed 2, plain"]
    study = fake.made[0]
    assert study.told[-1][0] == "end"
    assert study.curve("plain accuracy")
    assert fake.made[1].curve("test_accuracy")  # trained before, so reported from its files
    (noted,) = read_tracking(first.folder).runs
    assert noted.study == "../../studies/two"
    randout.compare(toy_csv(90), **asked, report_to="fake")  # nothing is missing but a look at the result
    assert len(fake.made) == 4


def test_the_trials_of_a_search_are_resumed_at_each_rung(
    fake: type[FakeTracker], run: Run, tiny_model: Any, toy_csv: Any
) -> None:
    space = {"learning_rate": [1e-4, 2e-3]}
    asked: dict[str, Any] = {"space": space, "student": tiny_model("bert"), "teacher": "none", "preset": "plain"}
    found = randout.search(toy_csv(90), **asked, halving=2, settings=FAST | {"epochs": 2}, report_to="fake")
    names = [made.name for made in fake.made]
    best = f"trial {found['best']}"
    assert sorted(names[1:]) == sorted(["trial 0", "trial 1", best])
    assert [made for made in fake.made if made.name == best][-1].settings == {}
    assert fake.made[0].curve("best trial")[0][1] == found["best"]


def test_workers_are_told_of_trackers(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    """In processes of their own; TensorBoard's files of both runs are in the study."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    words = ["compare", str(toy_csv(90)), "--arms", "plain", "--seeds", "2", "--student", str(tiny_model("bert"))]
    words += ["--teacher", "none", "--jobs", "2", "-o", "two", "--report-to", "tensorboard"]
    settings = [
        word for name, value in FAST.items() for word in ("--set", f"{name}={json.dumps(value).strip(chr(34))}")
    ]
    code, _, error = run(*words, *settings)
    assert code == 0, error
    assert len(list(tmp_path.glob("two/tensorboard/seed-?/plain/events*"))) == 2
