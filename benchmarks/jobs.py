"""Trials an hour with `--jobs`, against one at a time with all cores; and what sharing a study costs for each run.

    python benchmarks/jobs.py --trials 16 --jobs 2
    python benchmarks/jobs.py --overhead

Needs an idle machine. The encoder has random weights; the data are made here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import shaped_model
from randout.core.hardware import cores
from randout.experiments.run.options import Options
from randout.experiments.sharing import cells as sharing
from randout.storage import locks
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import FORMAT, Cell, ComparisonRecord, StudyData
from randout.testing.models import build, toy_texts


def table(study: Path) -> list[dict[str, Any]]:
    """The trials of a search without times."""
    trials: list[dict[str, Any]] = json.loads((study / "study.json").read_text())["trials"]
    return [{key: value for key, value in one.items() if key not in ("seconds", "memory")} for one in trials]


def searched(folder: Path, model: str, data: Path, trials: int, jobs: int, threads: int, epochs: int) -> float:
    """Run a search as a command in a process of its own; return its seconds, start included."""
    rates = [round(1e-4 * (1 + at), 6) for at in range(trials)]
    words = ["search", str(data), "--student", model, "--teacher", "none", "--preset", "plain"]
    words += ["--space", f"learning_rate={rates}", "--set", f"epochs={epochs}", "--set", "precision=float32", "--quiet"]
    words += [
        "--jobs",
        str(jobs),
        "--job-threads",
        str(threads),
        "-o",
        str(folder / "study"),
        "--runs",
        str(folder / "runs"),
    ]
    began = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-m", "randout", *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


class Empty:
    """Cells whose work is nothing: claim, lock, record and release, as a study does it for each run."""

    noun = "run"

    def __init__(self, path: Path, count: int) -> None:
        cells = [Cell(unit=f"seed {at}", arm="plain", run=f"runs/{at}", state="waiting") for at in range(count)]
        record = ComparisonRecord(format=FORMAT, kind="compare", name="empty", data=StudyData(sha256=""), cells=cells)
        self.path, self.folder = path, StudyFolder(path, record)
        self.folder.save()

    def open(self, tried: Any) -> list[str]:
        self.folder.refresh()
        return [cell.unit for cell in self.folder.record.cells if cell.state != "finished"]

    def run(self, name: str) -> sharing.Outcome:
        cell = next(one for one in self.folder.record.cells if one.unit == name)
        if busy := sharing.claimed(self.folder, cell):
            return sharing.Outcome("busy", busy)
        self.folder.save()
        with locks.locked(self.folder.run(cell).path, "run", wait="no"):
            cell.state = "finished"
        self.folder.save()
        return sharing.Outcome("finished")

    def label(self, name: str) -> str:
        return name

    def progress(self) -> tuple[int, int]:
        cells = self.folder.record.cells
        return sum(cell.state == "finished" for cell in cells), len(cells)

    def memory(self) -> int:
        return 0


def overhead(count: int) -> float:
    """Seconds for each of `count` runs that do nothing."""
    with tempfile.TemporaryDirectory() as place:
        cells = Empty(Path(place), count)
        began = time.perf_counter()
        sharing.work_through(cells, Options(runs=Path(place) / "runs"))
        return (time.perf_counter() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--shape", default="tiny", help="tiny, minilm-l6, ...: see common.py; toy: the smallest")
    parser.add_argument("--overhead", action="store_true", help="only what sharing costs")
    parser.add_argument("--runs", type=int, default=100, help="of --overhead")
    parser.add_argument("--smoke", action="store_true", help="only what sharing costs, of three runs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        found = {"seconds_a_run": overhead(3)}
        print(json.dumps(found) if asked.json else found)
        return
    if asked.overhead:
        print(f"sharing a study: {1000 * overhead(asked.runs):.1f} ms for each of {asked.runs} runs")
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        model = str(build("bert", root / "m")) if asked.shape == "toy" else shaped_model(root / "m", asked.shape)
        texts, labels = toy_texts(asked.rows, 0)
        rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        data = root / "toy.csv"
        data.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
        share = max(1, cores() // asked.jobs)
        ways = {
            f"one at a time, {cores()} threads": (1, cores()),
            f"--jobs {asked.jobs}, {share} threads each": (asked.jobs, share),
        }
        spent = {}
        for name, (jobs, threads) in ways.items():
            spent[name] = searched(root / f"j{jobs}", model, data, asked.trials, jobs, threads, asked.epochs)
            print(f"{name}: {spent[name]:.1f} s, {3600 * asked.trials / spent[name]:.0f} trials an hour", flush=True)
        first, second = spent.values()
        print(f"{first / second:.2f} times the trials an hour")
        searched(root / "same", model, data, asked.trials, 1, share, asked.epochs)
        same = table(root / "same" / "study") == table(root / f"j{asked.jobs}" / "study")
        print(f"same table as one at a time with {share} threads: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
