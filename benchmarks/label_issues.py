"""What `randout label-issues` finds of wrong labels that were planted: precision, recall, and the estimates of their number.

    python benchmarks/label_issues.py film examples/csabstruct.toml:FOLDER --wrong 0.05

In each dataset, a share of the labels, drawn at random from all splits, is replaced by another class, through a file of
corrections. Labels that were wrong before count as right, so precision is a lower bound. `--student` names a student that is
trained for each fold, in `--runs`. Prints a Markdown table: `found` are the rows that are likely wrong, `the first` as many of
them as were planted.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from randout.core import config
from randout.core.console import Show
from randout.data.dataset import load
from randout.experiments.label_issues import find_label_issues
from randout.experiments.run.options import Options
from randout.methods.builtin import METHODS
from randout.storage.label_issues import LIKELY_WRONG

COLUMNS = ("data", "rows", "predicted out of fold %", "planted", "found", "precision %", "recall %")
MORE = ("precision of the first %", "recall of the first %", "estimate", "95 % interval", "at most", "seconds")


def plant(source: str, share: float, seed: int, path: Path) -> set[str]:
    """Write a file of corrections that makes a share of the labels wrong; return the row ids."""
    dataset = load(config.DataTable(source=source))
    draw = np.random.default_rng(seed)
    rows = np.flatnonzero(dataset.labels >= 0)
    chosen = np.sort(draw.permutation(rows)[: round(share * len(rows))])
    wrong = (dataset.labels[chosen] + draw.integers(1, len(dataset.names), len(chosen))) % len(dataset.names)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "corrected_label"])
        writer.writerows((dataset.row_ids[row], dataset.names[label]) for row, label in zip(chosen, wrong, strict=True))
    return {dataset.row_ids[row] for row in chosen}


def measure(source: str, asked: Any) -> dict[str, Any]:
    """Plant wrong labels and find them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.csv"
        planted = plant(source, asked.wrong, asked.seed, path)
        tables = {
            "data": {"source": source, "corrections": str(path)},
            "student": {"model": asked.student},
            "teacher": {"model": "none"},
        }
        settings = config.build([config.read_preset(config.DEFAULT_PRESET), tables], METHODS)
        began = time.perf_counter()
        found = find_label_issues(settings, asked.folds, Options(runs=asked.runs, show=Show(quiet=True)))
        seconds = time.perf_counter() - began
    likely = [one for one in found.issues if LIKELY_WRONG in one.reason]
    likely.sort(key=lambda one: (one.probabilities or {})[one.label] - max((one.probabilities or {}).values()))
    hits = [one.row in planted for one in likely]
    first = hits[: len(planted)]
    wrong = found.wrong
    return {
        "data": found.data,
        "rows": found.rows,
        "predicted out of fold %": round(100 * found.accuracy, 1),
        "planted": len(planted),
        "found": len(hits),
        "precision %": round(100 * float(np.mean(hits)), 1),
        "recall %": round(100 * sum(hits) / len(planted), 1),
        "precision of the first %": round(100 * float(np.mean(first)), 1),
        "recall of the first %": round(100 * sum(first) / len(planted), 1),
        "estimate": round(wrong.estimate),
        "95 % interval": "" if wrong.low is None or wrong.high is None else f"{wrong.low:.0f} to {wrong.high:.0f}",
        "at most": round(wrong.most),
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of the labels")
    parser.add_argument("--student", default="", help="default: a bag of words")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [measure(source, asked) for source in asked.datasets]
    if asked.json:
        print(json.dumps(rows))
        return
    names = (*COLUMNS, *MORE)
    print("\n".join([f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]))
    print("\n".join(f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows))


if __name__ == "__main__":
    main()
