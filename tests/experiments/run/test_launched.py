"""`randout train` in several processes: one prints and writes, all stop together, and any number of them resumes."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import Run
from randout.core.config import Config
from randout.core.errors import UserError
from randout.core.launch import launched
from randout.experiments.run import planning
from randout.experiments.run.together import check_divisible
from support import several

SETTINGS = ("methods.contrastive=false", "epochs=3", "validate_every=1", "batch_size=16", "learning_rate=2e-3")
SETTINGS += ("teacher.epochs=1", "precision=float32", "refit=false", "device=cpu", "keep=best")


def words_of(data: Path, student: Path, teacher: Path | str, *more: str) -> list[str]:
    words = ["train", str(data), "--student", str(student), "--teacher", str(teacher), *more]
    return words + [word for setting in SETTINGS for word in ("--set", setting)]


def wait_for(text: str, file: Path, processes: list[Any]) -> None:
    end = time.monotonic() + several.SECONDS
    while not (file.exists() and text in file.read_text()):
        assert all(process.is_alive() for process in processes), file.read_text()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_stopped_in_two_processes_and_resumed_in_one(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    """A signal to one process stops both at the same step, while the student trains after its teacher. The resumed run has
    the bits of one process that computes both parts.
    """
    data, student, teacher = toy_csv(90, 1), tiny_model("bert"), tiny_model("roberta")
    words = words_of(data, student, teacher, "-o", "runs/two")
    processes = several.command(words, tmp_path)
    wait_for("bert (ce+kd+randout): epoch 1/3", tmp_path / "errors-0.txt", processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    said = tmp_path / "errors-0.txt"
    assert several.codes(processes) == [143, 143], said.read_text()
    assert (
        said.read_text().count("Stopped by SIGTERM; checkpoint saved. Resume with: randout train --resume runs/two")
        == 1
    )
    for silent in ("output-0.txt", "output-1.txt", "errors-1.txt"):
        assert (tmp_path / silent).read_text() == ""
    position = json.loads((tmp_path / "runs/two/checkpoint/position.json").read_text())["position"]
    assert position["processes"] == 2
    assert 1 <= position["epoch"] < 3
    code, _, errors = run("train", "--resume", "runs/two")
    assert code == 0, errors
    assert "trained by 2 processes so far, now by 1: each step has 2 parts" in errors
    code, _, errors = run(*words_of(data, student, teacher, "-o", "runs/one"), "--set", "batch_parts=2")
    assert code == 0, errors
    one, two = (load_file(tmp_path / "runs" / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all(one[name].equal(two[name]) for name in one)
    record = json.loads((tmp_path / "runs/two/run.json").read_text())
    assert record["identity"]["train"]["batch_parts"] == 2


def test_a_mistake_is_told_once_and_ends_all(toy_csv: Any, tmp_path: Path) -> None:
    words = words_of(toy_csv(90, 1), tmp_path / "nowhere", "none")
    processes = several.command(words, tmp_path)
    assert several.codes(processes) == [2, 2]
    assert "no such folder" in (tmp_path / "errors-0.txt").read_text()
    assert (tmp_path / "errors-1.txt").read_text() == ""


def plan_of(data: Path, encoder: str, **tables: Any) -> Any:
    own = {"data": {"source": str(data)}, "student": {"model": encoder}, "teacher": {"model": "none"}}
    return planning.make(Config(**(own | tables)), alternatives=True)


def test_what_cannot_be_divided_is_refused(tiny_model: Any, toy_csv: Any) -> None:
    data, student = toy_csv(90, 1), str(tiny_model("bert"))
    ce: dict[str, Any] = {"ce": {}}
    with pytest.raises(UserError, match=r"--student svm: a baseline is small .* 2 processes were started"):
        check_divisible(plan_of(data, "svm"), 2)
    with pytest.raises(UserError, match=r"may choose a bag-of-words classifier"):
        check_divisible(plan_of(data, student, methods=ce, student={"model": student, "alternative": "svm"}), 2)
    two = {"batch_parts": 2, "batch_size": 8}
    with pytest.raises(UserError, match=r"methods.contrastive needs all texts of a step at once. Train in one process"):
        plan_of(data, student, methods=ce | {"contrastive": {}}, train=two)
    with pytest.raises(UserError, match=r"divided into 9 parts, .* but a step has 8 texts"):
        plan_of(data, student, methods=ce, train=two | {"batch_parts": 9})
    live = {"teacher": {"model": str(tiny_model("roberta"))}, "methods": ce | {"dropout-distillation": {}}}
    with pytest.raises(UserError, match=r"methods.dropout-distillation: it runs a teacher alongside the student"):
        check_divisible(plan_of(data, student, train=two, **live), 2)
    plan = plan_of(data, student, methods=ce, train=two)
    with pytest.raises(UserError, match=r"sharded texts are read by one process, but 2 processes were started"):
        check_divisible(replace(plan, dataset=replace(plan.dataset, sharded_rows=9)), 2)
    check_divisible(plan, 2)


def test_parts_are_one_per_process_and_part_of_the_identity(
    tiny_model: Any, toy_csv: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> Any:
        return plan_of(toy_csv(90, 1), str(tiny_model("bert")), methods={"ce": {}})

    one = plan()
    assert launched() is None
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    two = plan()
    assert (one.config.train.batch_parts, two.config.train.batch_parts) == (1, 2)
    assert "batch_parts" not in one.identity["train"]
    assert one.fingerprint != two.fingerprint


def test_other_commands_are_refused_in_several_processes(
    run: Run, tiny_model: Any, toy_csv: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    words = words_of(toy_csv(90, 1), tiny_model("bert"), "none")[1:]
    for command in (["train", "--dry-run"], ["compare", "--arms", "plain", "--seeds", "1"]):
        code, _, errors = run(command[0], *words, *command[1:])
        assert code == 2
        assert "only `randout train` divides its work" in errors
