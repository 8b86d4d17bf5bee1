"""The study behind the defaults: runs every arm of a TOML file on subsets of real tables and scores a fixed test split.

    python benchmarks/defaults_study.py TABLES STUDENT --study benchmarks/defaults_study.toml --out study.jsonl [--jobs 2]
    python benchmarks/defaults_study.py --out docs/results/defaults-study.jsonl        (prints the tables of the results so far)

TABLES: a folder with one CSV per table (text, label, split). Each finished run is one line in --out; the same command resumes.
Subsets are stratified by class and the same for every arm; the test rows of a table never change.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

TEST_ROWS = 600
MOST_EPOCHS = 60


def read(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Rows (text, label) of a table by split."""
    found: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["split"] in found:
                found[row["split"]].append((row["text"], row["label"]))
    return found


def subset(rows: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """Sample `count` rows (0: all), stratified by class with at least two of each."""
    if not count or count >= len(rows):
        return rows
    draw = np.random.default_rng(seed)
    labels = np.array([label for _, label in rows])
    kept: list[int] = []
    for label in np.unique(labels):
        of = draw.permutation(np.flatnonzero(labels == label))
        kept += of[: max(2, round(count * len(of) / len(rows)))].tolist()
    return [rows[at] for at in draw.permutation(kept)]


def write_tables(table: dict[str, list[tuple[str, str]]], rows: int, seed: int, folder: Path) -> tuple[Path, Path]:
    """Write the training subset and the test rows to two CSV files."""
    test = [table["test"][at] for at in np.random.default_rng(0).permutation(len(table["test"]))[:TEST_ROWS]]
    paths = folder / "train.csv", folder / "test.csv"
    for path, part in zip(paths, (subset(table["train"], rows, seed), test), strict=True):
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *part])
    return paths


def tasks(study: dict[str, Any], tables: list[str]) -> list[dict[str, Any]]:
    """List every run of the study, seed by seed."""
    found = []
    for part in study["part"]:
        for seed in part.get("seeds", study["seeds"]):
            for rows in part["rows"]:
                for layers in part.get("layers", [[]]):
                    for table in tables:
                        for arm, settings in part["arms"].items():
                            key = {"table": table, "rows": rows, "layers": layers, "seed": seed, "arm": arm}
                            found.append(key | {"settings": settings})
    return sorted(found, key=lambda task: task["seed"])


def run(task: dict[str, Any], tables: Path, student: str) -> dict[str, Any]:
    """Train and score one run; its folder is deleted."""
    import torch

    import randout

    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        train, test = write_tables(read(tables / f"{task['table']}.csv"), task["rows"], task["seed"], scratch)
        settings: dict[str, Any] = {"data.test": str(test), "seed": task["seed"]} | dict(task["settings"])
        with train.open(encoding="utf-8", newline="") as stream:
            count = sum(1 for _ in csv.reader(stream)) - 1
        if "steps" in settings:
            steps = settings.pop("steps")
            settings["epochs"] = min(MOST_EPOCHS, math.ceil(steps / math.ceil(0.85 * count / 16)))
        if task["layers"]:
            settings["student.layers"] = task["layers"]
        began = time.perf_counter()
        result = randout.train(train, student=student, teacher="none", settings=settings, runs=scratch / "runs")
        seconds = time.perf_counter() - began
        scores = result.metrics["test"]
        kept = {"accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"], "seconds": round(seconds, 2)}
        steps = json.loads((result.folder / "history.json").read_text())["epochs"][-1]["step"]
        return kept | {"steps": steps, "baseline": scores.get("baseline", {}).get("accuracy")}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _work(queue: Any, done: Any, tables: Path, student: str, until: float) -> None:
    while time.monotonic() < until:
        task = queue.get()
        if task is None:
            break
        try:
            done.put(task | run(task, tables, student))
        except Exception as error:
            done.put(task | {"error": f"{type(error).__name__}: {error}"[:500]})
    done.put(None)


def carry_out(todo: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Run the tasks in several processes; writes one line per result."""
    context = multiprocessing.get_context("spawn")
    queue, done = context.Queue(), context.Queue()
    for task in [*todo, *[None] * arguments.jobs]:
        queue.put(task)
    until = time.monotonic() + arguments.seconds
    same = (queue, done, arguments.tables, arguments.student, until)
    workers = [context.Process(target=_work, args=same, daemon=True) for _ in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    left = len(workers)
    with arguments.out.open("a", encoding="utf-8") as stream:
        while left and time.monotonic() < until + 5:
            try:
                found = done.get(timeout=1)
            except Exception:
                continue
            if found is None:
                left -= 1
                continue
            stream.write(json.dumps(found) + "\n")
            stream.flush()
    for worker in workers:
        worker.kill()
    queue.cancel_join_thread()
    os._exit(0)


def key_of(found: dict[str, Any]) -> str:
    return json.dumps([found[name] for name in ("table", "rows", "layers", "seed", "arm")])


def results(path: Path) -> list[dict[str, Any]]:
    """Finished runs of a results file, the latest of each task."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({key_of(line): line for line in lines if "error" not in line}.values())


def summary(study: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """Markdown tables by part and size: mean test accuracy of the first arm, and differences of the others from it."""
    lines: list[str] = []
    for part in study["part"]:
        first, *_ = part["arms"]
        for rows in part["rows"]:
            mine = [r for r in found if r["rows"] == rows and r["arm"] in part["arms"]]
            if not mine:
                continue
            chosen, confirmed = (", ".join(study[name]) for name in ("chosen", "confirmed"))
            lines += [
                "",
                f"| {rows} rows | cells | chosen on: {chosen} | confirmed on: {confirmed} | steps |",
                "|---|---|---|---|---|",
            ]
            lines += [_line(study, mine, arm, first) for arm in part["arms"]]
    return lines


def _line(study: dict[str, Any], found: list[dict[str, Any]], arm: str, first: str) -> str:
    base = {key_of(r | {"arm": ""}): r for r in found if r["arm"] == first}
    pairs = [(r, base[key_of(r | {"arm": ""})]) for r in found if r["arm"] == arm and key_of(r | {"arm": ""}) in base]
    shown = []
    for tables in (study["chosen"], study["confirmed"]):
        mine = [(r["accuracy"], b["accuracy"]) for r, b in pairs if r["table"] in tables]
        level, gain = (100 * np.mean([a for a, _ in mine]), 100 * np.mean([a - b for a, b in mine])) if mine else (0, 0)
        shown.append("" if not mine else f"{level:.1f}" if arm == first else f"{gain:+.1f}")
    steps = f"{np.median([r['steps'] for r, _ in pairs]):.0f}" if pairs else ""
    return f"| {arm} | {len(pairs)} | {shown[0]} | {shown[1]} | {steps} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="?")
    parser.add_argument("student", nargs="?")
    parser.add_argument("--study", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--out", type=Path, default=Path("defaults-study.jsonl"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this many seconds")
    parser.add_argument("--limit", type=int, default=0, help="most runs; 0: all")
    arguments = parser.parse_args()
    study = tomllib.loads(arguments.study.read_text(encoding="utf-8"))
    if arguments.tables is None:
        print("\n".join(summary(study, results(arguments.out))))
        return
    done = {key_of(line) for line in results(arguments.out)}
    names = [name for name in (*study["chosen"], *study["confirmed"]) if (arguments.tables / f"{name}.csv").exists()]
    todo = [task for task in tasks(study, names) if key_of(task) not in done]
    if arguments.limit:
        todo = todo[: arguments.limit]
    print(f"{len(todo)} runs to do, {len(done)} done", flush=True)
    carry_out(todo, arguments)


if __name__ == "__main__":
    main()
