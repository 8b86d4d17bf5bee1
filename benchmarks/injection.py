"""Shared by the benchmarks that kill processes: a small study, what it must end in, and a watch over its checkpoints."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from randout.core.console import Show
from randout.experiments.run.options import Options
from randout.experiments.study.comparison import run_study
from randout.experiments.study.results import result_lines
from randout.experiments.study.spec import make_study
from randout.reporting import run_pictures
from randout.testing.models import build, toy_texts

CHANGING = {"started", "finished", "command", "sizes", "environment"}  # fields of run.json


def recipe(folder: Path, seeds: int, epochs: int) -> dict[str, Any]:
    """Make tiny models and a toy table in `folder`; return a study: for each seed a teacher and two students."""
    folder.mkdir(parents=True, exist_ok=True)
    for family, name in (("bert", "student"), ("roberta", "teacher")):
        build(family, folder / name)
    texts, labels = toy_texts(120, 0)
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (folder / "toy.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    train = {"epochs": epochs, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "device": "cpu"}
    train |= {"refit": False, "save_minutes": 1e-9}  # a checkpoint at every chance
    return {
        "name": "failures",
        "seeds": list(range(1, seeds + 1)),
        "base": {
            "data": {"source": str(folder / "toy.csv")},
            "student": {"model": str(folder / "student")},
            "teacher": {"model": str(folder / "teacher")},
            "train": train,
        },
        "arms": {"plain": {"preset": "plain"}, "kd": {"preset": "kd"}},
    }


def without_pictures() -> None:
    """Draw no confusion matrices, which takes longer than these trainings."""

    def instead(matrix: Any, id2label: Any, path: Path, title: str) -> Path:
        Path(path).write_bytes(b"")
        return Path(path)

    run_pictures.confusion_picture = instead


def carry_out(tables: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    """Run the study with these tables in `folder`, with one CPU thread for each run; return its `outcome`.

    options: of `Options`.
    """
    made = Options(runs=folder / "runs", threads=1, show=options.pop("show", Show(quiet=True)), **options)
    return outcome(folder, run_study(make_study(tables), folder / "study", made).record)


def outcome(folder: Path, record: Any) -> dict[str, Any]:
    """Return what must not depend on who trained what, when, or how often it was interrupted, by name."""
    found: dict[str, Any] = {"table": result_lines(record), "states": sorted(cell.state for cell in record.cells)}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name in ("run.toml", "README.md") or path.name.startswith("."):
            continue  # paths in these are relative to the folder, and locks are of whoever was there
        if "soft-labels" in path.parts:  # the order of its metadata varies
            found[name] = {key: array.tobytes() for key, array in load_file(path).items()}
        elif path.name == "test-openings.jsonl":
            openings = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = sorted(json.dumps({**one, "at": ""}) for one in openings)
        elif path.name == "history.json":
            history = json.loads(path.read_text())
            found[name] = [{key: row[key] for key in row if key != "seconds"} for row in history["epochs"]]
        elif path.name == "run.json":
            read = json.loads(path.read_text())
            found[name] = {key: value for key, value in read.items() if key not in CHANGING}
        else:
            found[name] = path.read_bytes()
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of what differs or is missing on one side."""
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


class CheckpointWatch:
    """Reads the checkpoints of all runs again and again, in a thread, to see whether one goes back to an earlier step."""

    def __init__(self, runs: Path, seconds: float = 0.02) -> None:
        self.runs, self.seconds = runs, seconds
        self.steps: dict[str, int] = {}  # the last step seen, by run
        self.went_back: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CheckpointWatch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.seconds):
            for path in self.runs.glob("*/checkpoint/position.json"):
                try:
                    step = json.loads(path.read_text())["position"]["step"]
                except (OSError, ValueError, KeyError):  # the run has just ended
                    continue
                run, before = path.parts[-3], self.steps.get(path.parts[-3], 0)
                if step < before:
                    self.went_back.append(f"{run}: step {step} after {before}")
                self.steps[run] = step


def kill_tree(pid: int) -> list[int]:
    """Kill a process and all its descendants with SIGKILL, as a power failure would; return their ids (Linux)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, at = [pid], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    for one in found:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return found


def moments(count: int, seconds: float, seed: int) -> list[float]:
    """Return random moments within a duration, in seconds from its start, sorted."""
    return sorted(np.random.default_rng(seed).uniform(0, seconds, count).tolist())
