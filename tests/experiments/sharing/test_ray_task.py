"""What a node of a cluster does with the orders of a driver; it needs no Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from randout.core.console import Show
from randout.data.dataset import Datasets
from randout.experiments import node_check
from randout.experiments.run.options import Options
from randout.experiments.sharing import ray_task
from randout.experiments.study.comparison import open_comparison, run_study
from randout.experiments.study.spec import Study, make_study
from randout.trackers.report_to import ReportTo

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stops processes as POSIX does")


def options(folder: Path) -> Options:
    return Options(runs=folder / "runs", threads=1, show=Show(quiet=True))


@pytest.fixture
def study(tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path]) -> Study:
    train = {
        "epochs": 4,
        "batch_size": 8,
        "precision": "float32",
        "device": "cpu",
        "refit": False,
        "save_minutes": 1e-9,
    }
    base = {"data": {"source": str(toy_csv(90, 0))}, "student": {"model": str(tiny_model("bert"))}, "train": train}
    arms = {"plain": {"preset": "plain"}}
    return make_study({"name": "shared", "seeds": [1], "base": base | {"teacher": {"model": "none"}}, "arms": arms})


@pytest.fixture
def about(study: Study, tmp_path: Path) -> dict[str, Any]:
    """The order about an opened study."""
    open_comparison(study, tmp_path / "study", options(tmp_path), Datasets())
    order = {"job": str(tmp_path / "study"), "runs": str(tmp_path / "runs"), "folder": str(tmp_path)}
    order |= {
        "accept_changes": False,
        "seconds": None,
        "threads": 1,
        "required": [],
        "plugins": [],
        "command": ["randout"],
        "report_to": ReportTo().as_json(),
    }
    return order | {"worker": 0, "gpus": 0}


def events(about: dict[str, Any], cell: str) -> list[dict[str, Any]]:
    """All events of a cell."""
    order = json.dumps({"about": about, "cell": cell, "tried": []})
    return [json.loads(text) for text in ray_task.run_cell(order)]


@pytest.mark.slow
def test_a_cell_is_trained_once(about: dict[str, Any], tmp_path: Path) -> None:
    about["versions"] = node_check.versions()
    try:
        seen = events(about, "seed 1, plain")
        assert set(seen[0]) == {"node"}
        assert seen[-1] == {"ended": "finished", "lock": None}
        assert events(about, "seed 1, plain")[1:] == [{"ended": "busy", "lock": None}], "it is not open any more"
        about["job"] = str(tmp_path / "other")
        assert "is not visible there" in events(about, "seed 1, plain")[-1]["message"]
    finally:
        ray_task.stop_process()
    assert len(list(tmp_path.glob("runs/*/metrics.json"))) == 1


@pytest.mark.slow
def test_a_stopped_cell_is_resumed_as_on_one_process(
    about: dict[str, Any], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_task, "BETWEEN", 0.0)  # every step is reported, so that the training is stopped on its way
    about["versions"] = node_check.versions()
    checkpoint = "runs/*/checkpoint/position.json"
    stopped = ray_task.run_cell(json.dumps({"about": about, "cell": "seed 1, plain", "tried": []}))
    while not list(tmp_path.glob(checkpoint)):
        next(stopped)
    stopped.close()  # as Ray does with the generator of a task that it cancels
    kept = [json.loads(path.read_text())["position"]["step"] for path in tmp_path.glob(checkpoint)]
    assert [step > 0 for step in kept] == [True]
    assert not list(tmp_path.glob("runs/*/.lease")), "the process has ended"
    try:
        assert events(about, "seed 1, plain")[-1]["ended"] == "finished"
    finally:
        ray_task.stop_process()
    run_study(study, tmp_path / "alone", Options(runs=tmp_path / "runs-alone", threads=1, show=Show(quiet=True)))
    ours, theirs = (next(tmp_path.glob(f"{runs}/*/predictions/test.parquet")) for runs in ("runs", "runs-alone"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_node_describes_what_it_sees_of_a_study(about: dict[str, Any], tmp_path: Path) -> None:
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    found = json.loads(ray_task.check_node(json.dumps(about)))["found"]
    assert found == node_check.versions() | {
        "study": f"started {record['started']}",
        "data": record["data"]["sha256"],
    }


def test_other_versions_and_missing_folders_are_named(about: dict[str, Any]) -> None:
    try:
        (_, last) = events(
            about | {"versions": {"Python": "2.7.18", "randout": "", "torch": "", "transformers": ""}}, "seed 1, plain"
        )
        assert last["end"] == "error"
        assert "Python is 3." in last["message"]
        assert "and 2.7.18 where the command was started" in last["message"]
    finally:
        ray_task.stop_process()
    missing = json.loads(ray_task.check_node(json.dumps(about | {"folder": "/no/such/folder"})))
    assert "/no/such/folder is not visible there. Use a folder that all nodes share" in missing["error"]
