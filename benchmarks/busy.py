"""Seconds of an epoch next to busy processes, by how PyTorch's threads wait for one another (`randout.core.hardware`).

    python benchmarks/busy.py TABLE STUDENT --busy 0 1 --epochs 4
    python benchmarks/busy.py TABLE STUDENT --smoke         # one epoch next to one process

`spinning` is what libgomp does by default, `short` what randout sets next to other processes, `one thread` uses
`OMP_NUM_THREADS=1`. Each training is a process of its own, without a refit; the busy processes count in a loop, at equal
priority. The first epoch of each training is left out of the median if there are more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from randout.core.hardware import SPINS

SPINNING = "300000"  # libgomp's own count if there is a core for each thread
WAYS = {
    "spinning": {"GOMP_SPINCOUNT": SPINNING},
    "short": {"GOMP_SPINCOUNT": SPINS},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Context manager in which `count` processes use a core each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


def seconds(table: Path, student: str, epochs: int, environment: dict[str, str]) -> list[float]:
    """Train once; return the seconds of each epoch."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            "train",
            str(table),
            "--student",
            student,
            "--teacher",
            "none",
            "-o",
            f"{scratch}/run",
            "-q",
            "--no-test",
        ]
        for setting in (f"epochs={epochs}", "refit=false", "patience=0"):
            words += ["--set", setting]
        command = [sys.executable, "-m", "randout", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
        history = json.loads(Path(scratch, "run", "history.json").read_text(encoding="utf-8"))
    return [epoch["seconds"] for epoch in history["epochs"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("student")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    counts, epochs = ([1], 1) if arguments.smoke else (arguments.busy, arguments.epochs)
    print(f"| busy processes | {' | '.join(f'{way}, s' for way in WAYS)} |")
    print("|---" * (1 + len(WAYS)) + "|")
    for count in counts:
        cells = []
        for environment in WAYS.values():
            with busy(count):
                found = seconds(arguments.table, arguments.student, epochs, environment)
            kept = found[1:] or found
            cells.append(f"{statistics.median(kept):.2f} ({min(kept):.2f} to {max(kept):.2f})")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
