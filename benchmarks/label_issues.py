"""What `randout label-issues` finds of wrong labels that were planted: precision, recall, and the estimates of their number.

    python benchmarks/label_issues.py film examples/csabstruct.toml:FOLDER --wrong 0.05
    python benchmarks/label_issues.py film examples/csabstruct.toml:FOLDER --wrong 0.05 --sets

In each dataset, a share of the labels, drawn at random from all splits, is replaced by another class, through a file of
corrections. Labels that were wrong before count as right, so precision is a lower bound. `--student` names a student that is
trained for each fold, in `--runs`. Prints a Markdown table: `found` are the rows that are likely wrong, `the first` as many of
them as were planted.

With `--sets`, a text has a label set: its class, and `number`, `long` and `we` if it has a digit, more than 30 words, or `we` or
`our`. In a share of the rows, one answer, drawn at random, is then wrong, and a row counts as found if this label is listed for
it. The estimate is one of answers, one for each row and label, and has no bound.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from randout.core import config
from randout.core.console import Show
from randout.data.corrections import set_cell
from randout.data.dataset import Dataset, load
from randout.experiments.label_issues import find_label_issues
from randout.experiments.run.options import Options
from randout.methods.builtin import METHODS
from randout.storage.label_issues import LIKELY_WRONG, SetIssue, SetIssues

COLUMNS = ("data", "rows", "predicted out of fold %", "planted", "found", "precision %", "recall %")
MORE = ("precision of the first %", "recall of the first %", "estimate", "95 % interval", "at most", "seconds")


OTHER_LABELS = {  # of label sets, besides the class
    "number": lambda text: re.search(r"\d", text),
    "long": lambda text: len(text.split()) > 30,
    "we": lambda text: re.search(r"\b(we|our)\b", text.lower()),
}


def with_sets(source: str, folder: Path) -> dict[str, Any]:
    """Write the rows of a dataset with label sets and their groups into a folder; return the settings to read them."""
    dataset = load(config.DataTable(source=source))
    path = folder / f"{dataset.name}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for text, label, group in zip(dataset.texts, dataset.labels.tolist(), dataset.groups.tolist(), strict=True):
            sets = [dataset.names[label], *(name for name, holds in OTHER_LABELS.items() if holds(text))]
            stream.write(json.dumps({"text": text, "label": sets, "group": group}) + "\n")
    return {"source": str(path), "multi_label": True, "group_column": "group"}


def plant(data: dict[str, Any], share: float, seed: int, path: Path) -> dict[str, str]:
    """Write a file of corrections that makes a share of the labels wrong; return the wrong label by row id.

    In a label set, one label is missing or superfluous.
    """
    dataset = load(config.DataTable(**data))
    draw = np.random.default_rng(seed)
    rows = np.flatnonzero(dataset.labels >= 0)
    chosen = np.sort(draw.permutation(rows)[: round(share * len(rows))])
    if dataset.sets is None:
        wrong = (dataset.labels[chosen] + draw.integers(1, len(dataset.names), len(chosen))) % len(dataset.names)
        cells = [dataset.names[label] for label in wrong]
    else:
        wrong = draw.integers(0, len(dataset.names), len(chosen))
        cells = [_flipped(dataset, row, label) for row, label in zip(chosen, wrong, strict=True)]
    ids = [dataset.row_ids[row] for row in chosen]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "corrected_label"])
        writer.writerows(zip(ids, cells, strict=True))
    return dict(zip(ids, (dataset.names[label] for label in wrong), strict=True))


def _flipped(dataset: Dataset, row: int, label: int) -> str:
    """The label set of a row with one label more or less, as a cell of a table of corrections."""
    has = dataset.strata[row].copy()
    has[label] = not has[label]
    return set_cell([name for name, own in zip(dataset.names, has, strict=True) if own], dataset.separator)


def certainty(one: Any) -> float:
    """How much less probable the most doubtful label, or answer in a label set, is than its opposite; the least first."""
    shares = one.probabilities
    if isinstance(one, SetIssue):
        return min([1 - shares[name] for name in one.missing] + [shares[name] for name in one.superfluous])
    return float(shares[one.label] - max(shares.values()))


def is_planted(one: Any, planted: dict[str, str]) -> bool:
    """Whether a listed row has a planted wrong label, which is named if it is in a label set."""
    named = [*one.missing, *one.superfluous] if isinstance(one, SetIssue) else [planted.get(one.row)]
    return one.row in planted and planted[one.row] in named


def measure(source: str, asked: Any) -> dict[str, Any]:
    """Plant wrong labels and find them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.csv"
        data = with_sets(source, Path(folder)) if asked.sets else {"source": source}
        planted = plant(data, asked.wrong, asked.seed, path)
        tables = {
            "data": data | {"corrections": str(path)},
            "student": {"model": asked.student},
            "teacher": {"model": "none"},
        }
        settings = config.build([config.read_preset(config.DEFAULT_PRESET), tables], METHODS)
        began = time.perf_counter()
        found = find_label_issues(settings, asked.folds, Options(runs=asked.runs, show=Show(quiet=True)))
        seconds = time.perf_counter() - began
    likely = [one for one in found.issues if LIKELY_WRONG in one.reason]
    likely.sort(key=certainty)
    hits = [is_planted(one, planted) for one in likely]
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
        "at most": "" if isinstance(found, SetIssues) else round(found.wrong.most),
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of the labels")
    parser.add_argument("--sets", action="store_true", help="several labels for each text")
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
