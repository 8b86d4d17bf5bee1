"""A training that is killed again and again ends as one that was left alone, to the last bit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from randout.core import config
from randout.core.console import Show
from randout.experiments.run import pipeline, planning
from randout.methods.builtin import METHODS
from support import forked, training

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
TIMEOUT = 60.0  # seconds for one process


def carry_out(recipe: dict[str, Any], runs: str) -> None:
    """What one process does: the whole job, from where it stands."""
    training.torch.set_num_threads(1)
    plan = planning.make(config.build([config.read_preset("randout-kd"), recipe], METHODS))
    pipeline.execute(plan, pipeline.Options(runs=Path(runs), show=Show(quiet=True)))


def steps_of(runs: Path) -> set[tuple[str, int, int]]:
    """Where the checkpoints below `runs` stand."""
    found = set()
    for path in runs.glob("*/checkpoint/position.json"):
        try:
            position = json.loads(path.read_text())["position"]
        except FileNotFoundError:  # the run has just finished
            continue
        found.add((path.parts[-3], position["step"], position["epoch"]))
    return found


def killed(recipe: dict[str, Any], runs: Path, moment: int | str, wait: float) -> bool:
    """Start the job and kill it `wait` seconds after so many new checkpoints, or after a file of that name appears.

    False where it finished before.
    """
    process, seen, began = forked.started(carry_out, recipe, str(runs)), set(steps_of(runs)), time.monotonic()
    start, there = len(seen), set(runs.glob(f"*/{moment}")) if isinstance(moment, str) else set()
    while process.is_alive():
        assert time.monotonic() - began < TIMEOUT, "the process hangs"
        time.sleep(0.002)
        seen |= steps_of(runs)
        reached = len(seen) - start >= moment if isinstance(moment, int) else set(runs.glob(f"*/{moment}")) - there
        if reached:
            time.sleep(wait)
            process.kill()
            break
    process.join(TIMEOUT)
    assert process.exitcode in (0, -9), "the job failed after it was killed"
    return process.exitcode != 0


def finish(recipe: dict[str, Any], runs: Path) -> None:
    process = forked.started(carry_out, recipe, str(runs))
    process.join(TIMEOUT)
    assert process.exitcode == 0


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that must not depend on interruptions."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        name = str(path.relative_to(folder))
        if name == "history.json":
            history = json.loads(path.read_text())
            for row in history["epochs"]:
                del row["seconds"]
            found[name] = history | {"refit_seconds": "refit_seconds" in history}
        elif name == "run.json":
            record = json.loads(path.read_text())
            found[name] = {
                key: value for key, value in record.items() if key not in ("started", "finished", "command", "sizes")
            }
        elif folder.name == "soft-labels":  # the order of its metadata varies
            found[name] = load_file(path)["logits"].tobytes()
        elif name != "run.toml":  # its paths are relative to the folder
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    ("teacher", "more"),
    [
        (False, {}),
        pytest.param(True, {}, marks=pytest.mark.slow),
        pytest.param(True, {"metadistil": {"teacher_learning_rate": 1e-3}}, marks=pytest.mark.slow),
    ],
    ids=["alone", "taught", "teacher-learns"],
)
def test_killed_and_started_again(
    tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path], tmp_path: Path, teacher: bool, more: dict[str, Any]
) -> None:
    train = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "device": "cpu"}
    recipe = {
        "data": {"source": str(toy_csv(90, 0))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": str(tiny_model("roberta")) if teacher else "none"},
        "methods": {"randout": {"tokens": 8, "units": 4}} | more,
        "train": train | {"save_minutes": 1e-9},
    }
    finish(recipe | {"train": train}, tmp_path / "whole")
    moments: list[int | str] = ["run.toml", 1, 3, 2, "history.json", "metrics.json"]
    if teacher:
        moments = [1, 4, "history.json", "model", 2, 3, "predictions", "metrics.json"]
    if more:  # the teacher's own training is like any other: what is new comes after its "model"
        moments = ["model", 3, 5, 4]
    draw = np.random.default_rng(int(teacher))
    waits = [0.0 if isinstance(moment, str) else float(draw.uniform(0, 0.03)) for moment in moments]
    killings = sum(killed(recipe, tmp_path / "killed", at, wait) for at, wait in zip(moments, waits, strict=True))
    assert killings >= max(len(moments) - 3, 2), "too few processes were killed for this to say anything"
    finish(recipe, tmp_path / "killed")
    runs = {path.name for path in (tmp_path / "whole").glob("*/")}
    assert runs == {path.name for path in (tmp_path / "killed").glob("*/")}
    assert len(runs) == (3 if teacher else 1)
    for name in sorted(runs):
        ours, theirs = outcome(tmp_path / "killed" / name), outcome(tmp_path / "whole" / name)
        assert ours.keys() == theirs.keys()
        assert [file for file in ours if ours[file] != theirs[file]] == []
