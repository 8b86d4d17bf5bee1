"""Soft labels of a million texts in shards: exactly once however often the process is killed, in constant memory.

    python benchmarks/shards.py [--rows 1000000] [--kills 5]
    python benchmarks/shards.py --model runs/student           # with an encoder
    python benchmarks/shards.py --rows 300000 --deduplicate    # with the pass that looks for copies
    python benchmarks/shards.py --smoke                        # a small pass, its times are meaningless

Texts are recombined halves of the film sentences (`--write FOLDER` keeps them). The model is a bag-of-words classifier of
these sentences, so that reading, writing and bookkeeping are a large part of the time; with an encoder they are a small one.
One command labels all shards undisturbed. The same command is then killed with -9 at random moments and repeated until it
ends. Both must give the same bytes, and each row id once and in order.

CPU time is that of all processes, those that were killed included. What a kill costs is a start of the process, which a
repetition of the finished command measures, and what was done of a row group. Neither depends on the number of texts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from randout.baselines import SVM, Labelled
from randout.core.config import DataTable, TrainTable
from randout.data.dataset import Dataset, load

SHARDS, GROUP = 20, 10_000
SAMPLED = 0.25  # seconds between looks at the memory of a process
TEXTS = 100_000_000  # of the plan


def main() -> None:
    arguments = read_arguments()
    dataset = load(DataTable(source="film"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = arguments.write or folder / "texts"
        write_texts(dataset, texts, arguments.rows, arguments.shards)
        if not arguments.model:
            fit_model(dataset, folder / "model", 500 if arguments.smoke else len(dataset.texts))
        found = measure(folder, texts, arguments)
    print(json.dumps(found) if arguments.json else as_text(found))
    if not found["same_bytes"] or not found["exactly_once"]:
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a run or a classifier to label with (default: a bag of words)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the process is killed")
    parser.add_argument("--deduplicate", action="store_true")
    parser.add_argument("--write", type=Path, help="folder that keeps the texts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.shards, arguments.kills = 4000, 4, 1
    return arguments


def write_texts(dataset: Dataset, folder: Path, rows: int, shards: int) -> None:
    """Write Parquet shards with `id` and `text`: the first half of one film sentence and the second half of another."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [text.split() for text in dataset.texts]
    starts = [" ".join(one[: -(-len(one) // 2)]) for one in words]
    ends = [" ".join(one[len(one) // 2 :]) for one in words]
    draw = np.random.default_rng(0)
    for number, ids in enumerate(np.array_split(np.arange(rows), shards)):
        pairs = draw.integers(0, len(words), (len(ids), 2)).tolist()
        table = pa.table({"id": ids, "text": [f"{starts[first]} {ends[second]}" for first, second in pairs]})
        pq.write_table(table, folder / f"part-{number:05}.parquet", row_group_size=GROUP)


def fit_model(dataset: Dataset, folder: Path, most: int) -> None:
    """Fit a support vector machine on the words of at most so many training sentences."""
    rows = dataset.split["train"]
    rows = rows[:: -(-len(rows) // most)]
    train = Labelled([dataset.texts[row] for row in rows], dataset.labels[rows])
    SVM().fit(train, train, dataset.id2label, TrainTable(), lambda done: None).save(folder, "")


def measure(folder: Path, texts: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Label the shards undisturbed and with kills; returns what was measured."""
    whole = pass_over(folder, texts, "whole", arguments)
    start = pass_over(folder, texts, "whole", arguments)  # nothing is left to do
    draw = random.Random(arguments.seed)
    passes = []
    for _ in range(arguments.kills):
        limit = start["seconds"] + draw.random() * max(whole["seconds"] - start["seconds"], 0) / (arguments.kills + 1)
        passes.append(pass_over(folder, texts, "killed", arguments, limit))
    passes.append(pass_over(folder, texts, "killed", arguments))
    cpu = sum(one["cpu"] for one in passes)
    work = whole["cpu"] - start["cpu"]
    return {
        "rows": arguments.rows,
        "kills": sum(one["killed"] for one in passes),
        "same_bytes": files_of(folder / "whole") == files_of(folder / "killed"),
        "exactly_once": ids_of(folder / "killed") == list(range(arguments.rows)),
        "seconds": {
            "whole": whole["seconds"],
            "killed": sum(one["seconds"] for one in passes),
            "start": start["seconds"],
        },
        "cpu": {"whole": whole["cpu"], "killed": cpu, "start": start["cpu"]},
        "cpu_per_kill": (cpu - whole["cpu"]) / max(sum(one["killed"] for one in passes), 1),
        "rows_per_cpu_second": arguments.rows / max(work, 1e-9),
        "memory": quarters(whole["memory"]),
    }


def pass_over(
    folder: Path, texts: Path, out: str, arguments: argparse.Namespace, limit: float = float("inf")
) -> dict[str, Any]:
    """Run the command; kill it after `limit` seconds. Returns wall and CPU seconds, and samples of memory in MiB."""
    words = [
        "soft-labels",
        str(arguments.model or folder / "model"),
        str(texts),
        "-o",
        str(folder / out),
        "--id-column",
        "id",
    ]
    words += ["--device", "cpu", "--quiet", "--jobs", str(arguments.jobs)] + ["--deduplicate"] * arguments.deduplicate
    before, began, memory, killed = used(), time.monotonic(), [], False
    process = multiprocessing.get_context("spawn").Process(target=run_command, args=(words,))
    process.start()
    while process.is_alive():
        memory.append(resident(process.pid or 0))
        if time.monotonic() - began > limit:
            process.kill()
            killed = True
        process.join(min(SAMPLED, max(began + limit - time.monotonic(), 0.01)))
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the command failed with exit code {process.exitcode}")
    return {"seconds": time.monotonic() - began, "cpu": used() - before, "memory": memory, "killed": killed}


def run_command(words: list[str]) -> None:
    """Run `randout WORDS` in this process, without what it prints."""
    from randout.cli.app import main as command

    sys.argv = ["randout", *words]
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        command()


def used() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resident(pid: int) -> float:
    """Memory of a process in MiB; 0 if it has ended or the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def quarters(memory: list[float]) -> list[float]:
    """Greatest memory in each quarter of a pass."""
    return [round(max(part), 1) for part in np.array_split(np.array(memory), 4) if len(part)]


def files_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in [*sorted(folder.glob("*.parquet")), folder / "manifest.json"]]


def ids_of(folder: Path) -> list[int]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path)["id"].to_pylist()]


def as_text(found: dict[str, Any]) -> str:
    rate = found["rows_per_cpu_second"]
    plan = {jobs: TEXTS / rate / 3600 / jobs for jobs in (1, 10, 100)}
    lines = [f"{found['rows']:,} rows, killed {found['kills']} times"]
    lines += [f"same bytes: {found['same_bytes']}; each row once and in order: {found['exactly_once']}"]
    for unit in ("seconds", "cpu"):
        values = ", ".join(f"{name} {value:.1f}" for name, value in found[unit].items())
        lines.append(f"{'wall' if unit == 'seconds' else 'CPU'} seconds: {values}")
    lines += [f"a kill costs {found['cpu_per_kill']:.1f} CPU seconds: a start, and what was done of a row group"]
    lines += [f"memory in MiB, greatest of each quarter: {', '.join(map(str, found['memory']))}"]
    lines += [f"{rate:,.0f} rows per CPU second; {TEXTS:,} rows: "]
    lines[-1] += ", ".join(f"{hours:.1f} h with {jobs} workers" for jobs, hours in plan.items())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
