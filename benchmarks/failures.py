"""Workers that share one study and are killed with SIGKILL at random moments: the table must be that of one process.

    python benchmarks/failures.py --workers 5 --kills 20

Tiny models on a toy table, made here. Each worker is a process of its own that joins the study by its folder; a killed one is
replaced at once. Afterwards the study is compared with one that a single process ran, and the log that the workers kept is
checked: a run goes on from its last checkpoint, no step is saved twice, and each run is finished once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from injection import recipe, without_pictures
from randout.core.console import Show
from randout.data.dataset import Datasets
from randout.experiments import shared_study
from randout.experiments.run.options import Options
from randout.experiments.study.comparison import open_comparison, run_study
from randout.experiments.study.spec import make_study
from randout.storage.run_folder import RunFolder
from randout.training import checkpoint

WARM = ["randout.experiments.shared_study", "pyarrow.parquet", "sklearn.svm", "transformers.models.bert.modeling_bert"]
WARM += ["transformers.models.roberta.modeling_roberta", "randout.testing.models", "matplotlib.figure"]
RUNS = ("runs", "runs-alone")  # of the workers, of a single process
TIMES = ("started", "finished", "seconds", "memory", "name")  # what may differ between two studies


def logging_to(file: Path) -> None:
    """Note every restored and saved checkpoint and every finished run of this process in a file."""

    def note(kind: str, folder: Path, step: int) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([time.monotonic(), kind, os.path.abspath(folder), step]) + "\n")

    restore, save, write = checkpoint.restore, checkpoint.save, RunFolder.write

    def noted_restore(training: Any, folder: Path, *rest: Any) -> bool:
        found = restore(training, folder, *rest)
        note("restore", folder.parent, training.position.step if found else 0)
        return found

    def noted_save(training: Any, folder: Path, *rest: Any) -> None:
        save(training, folder, *rest)
        note("save", folder.parent, training.position.step)

    def noted_write(run: RunFolder, name: str, value: Any) -> None:
        write(run, name, value)
        if name == "run.json" and value.get("finished"):
            note("finish", run.path, 0)

    checkpoint.restore, checkpoint.save, RunFolder.write = noted_restore, noted_save, noted_write  # type: ignore


def work(study: str, runs: str, log: str) -> None:
    """What a worker does."""
    without_pictures()
    logging_to(Path(log) / f"{os.getpid()}.jsonl")
    shared_study.join(Path(study), Options(runs=Path(runs), threads=1, show=Show(quiet=True)))


def alone(tables: dict[str, Any], study: str, runs: str) -> None:
    """What a single process does."""
    without_pictures()
    run_study(make_study(tables), Path(study), Options(runs=Path(runs), threads=1, show=Show(quiet=True)))


def start(target: Any, *words: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)  # a fresh interpreter takes seconds to import them
    process = context.Process(target=target, args=words)
    process.start()
    return process


def attack(study: Path, runs: Path, log: Path, workers: int, kills: int, seed: int, pause: float, limit: float) -> int:
    """Run workers on a study until it is finished, and kill them at random moments; return how many were killed."""
    draw, killed, until = random.Random(seed), 0, time.monotonic() + limit
    alive = [start(work, str(study), str(runs), str(log)) for _ in range(workers)]
    following = time.monotonic() + pause
    while alive and time.monotonic() < until:
        time.sleep(0.01)
        if killed < kills and time.monotonic() > following:
            following = time.monotonic() + draw.uniform(0.5, 1.5) * pause
            victim = draw.choice(alive)
            if victim.is_alive():
                victim.kill()
                killed += 1
                alive.append(start(work, str(study), str(runs), str(log)))
        for process in [one for one in alive if not one.is_alive()]:
            alive.remove(process)
            if process.exitcode not in (0, -9):
                raise SystemExit(f"a worker ended with exit code {process.exitcode}")
    for process in alive:
        process.kill()
    if alive:
        raise SystemExit(f"not finished after {limit:.0f} s")
    return killed


def table(study: Path) -> dict[str, Any]:
    """The content of study.json without times and the places of runs."""
    found: dict[str, Any] = json.loads((study / "study.json").read_text())
    for entry in (found, *found["cells"]):
        for key in (*TIMES, "run"):
            entry.pop(key, None)
    return found


def faults(log: Path) -> list[str]:
    """What the log of the workers shows that must not be."""
    notes = [json.loads(line) for file in log.glob("*.jsonl") for line in file.read_text().splitlines()]
    last: dict[str, int] = {}
    finished: dict[str, int] = {}
    found = []
    for _, kind, folder, step in sorted(notes):
        name = Path(folder).name
        if kind == "restore" and step < last.get(folder, 0):
            found.append(f"{name}: began at step {step}, although step {last[folder]} was saved")
        if kind == "save":
            if step < last.get(folder, 0):
                found.append(f"{name}: step {step} was saved after step {last[folder]}")
            last[folder] = step
        if kind == "finish":
            finished[folder] = finished.get(folder, 0) + 1
    return found + [f"{Path(folder).name}: finished {count} times" for folder, count in finished.items() if count > 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=6, help="of the study, which has two runs and a teacher for each")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between two kills")
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--smoke", action="store_true", help="two workers, two killed, three runs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.workers, asked.kills, asked.seeds, asked.epochs, asked.pause = 2, 2, 1, 2, 0.4
    with tempfile.TemporaryDirectory() as place:
        root, log = Path(place), Path(place) / "log"
        log.mkdir()
        tables = recipe(root, asked.seeds, asked.epochs)
        one = start(alone, tables, str(root / "one"), str(root / RUNS[1]))
        one.join()
        made = make_study(tables)
        options = Options(runs=root / RUNS[0], threads=1, shared=True, show=Show(quiet=True))
        open_comparison(made, root / "study", options, Datasets())
        began = time.monotonic()
        killed = attack(
            root / "study", root / RUNS[0], log, asked.workers, asked.kills, asked.seed, asked.pause, asked.limit
        )
        wrong = faults(log)
        same = table(root / "one") == table(root / "study")
        made_runs, made_alone = (sorted(one.parent.name for one in root.glob(f"{name}/*/run.json")) for name in RUNS)
        same = same and made_runs == made_alone
        lines = [line for file in log.glob("*.jsonl") for line in file.read_text().splitlines()]
        resumed = sum('"restore"' in line and not line.endswith(", 0]") for line in lines)
        found = {"killed": killed, "runs": len(made_runs), "same": same, "resumed": resumed, "faults": wrong}
        if asked.json:
            print(json.dumps(found))
        else:
            print(f"{asked.workers} workers, {killed} killed, {len(made_runs)} runs, {time.monotonic() - began:.0f} s")
            print(f"same table as one process: {'yes' if same else 'NO'}; resumed from a checkpoint: {resumed}")
            print("\n".join(["faults: " + ("none" if not wrong else str(len(wrong))), *wrong]))
        return int(bool(wrong) or not same or (killed < asked.kills and not asked.smoke))


if __name__ == "__main__":
    sys.exit(main())
