"""Write the tables of the studies with few labels (`docs/results/*-500.toml`): 500 labelled rows and a large test set.

    python benchmarks/few_labels.py TABLES film csabstruct.toml rhmd:RHMD_3_Class.csv

Datasets are given as for `randout train`. From the training rows of each, whole groups (copies of a text, sentences of one
abstract) are drawn with a fixed seed until 500 rows are reached; 15 % of them are for validation, again by whole groups. At
most 2,000 further training rows are written without labels. The test split is kept, up to 1,500 rows. Each dataset gives
`NAME.csv` (text, label, group, split) and `NAME-unlabelled.csv` (text).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from randout.core.config import DataTable
from randout.data import dataset as data

LABELLED = 500
VALIDATION = 75
UNLABELLED = 2000
TEST = 1500


def draw_groups(groups: np.ndarray, order: np.ndarray, at_least: int) -> np.ndarray:
    """The first rows of `order` (positions in `groups`) with all other rows of their groups, until there are `at_least`."""
    chosen: list[int] = []
    taken: set[int] = set()
    for row in order:
        if len(chosen) >= at_least:
            break
        if int(groups[row]) not in taken:
            taken.add(int(groups[row]))
            chosen.extend(int(i) for i in order if groups[i] == groups[row])
    return np.array(chosen, dtype=np.int64)


def write_tables(source: str, folder: Path) -> list[Path]:
    """Write the two tables of one dataset. Returns their paths."""
    dataset = data.load(DataTable(source=source))
    rng = np.random.default_rng(0)
    training = dataset.split["train"]
    order = rng.permutation(training)
    labelled = draw_groups(dataset.groups, order, LABELLED)
    split_of = dict.fromkeys(labelled.tolist(), "train")
    split_of |= dict.fromkeys(draw_groups(dataset.groups, labelled, VALIDATION).tolist(), "validation")
    split_of |= dict.fromkeys(np.sort(rng.permutation(dataset.split["test"])[:TEST]).tolist(), "test")
    known = set(dataset.copies[labelled].tolist()) | {int(dataset.copies[i]) for i in dataset.split["test"]}
    others = [int(i) for i in order if int(dataset.copies[i]) not in known][:UNLABELLED]
    name = Path(source.partition(":")[0]).stem
    table, unlabelled = folder / f"{name}.csv", folder / f"{name}-unlabelled.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "group", "split"))
        for row, split in split_of.items():
            label = dataset.id2label[int(dataset.labels[row])]
            writer.writerow((dataset.texts[row], label, int(dataset.groups[row]), split))
    with unlabelled.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text",))
        writer.writerows((dataset.texts[row],) for row in others)
    return [table, unlabelled]


def described(path: Path) -> str:
    """Return the rows of a table, and of each split with its groups."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    splits = dict.fromkeys(row["split"] for row in rows if "split" in row)
    groups = {split: [row["group"] for row in rows if row["split"] == split] for split in splits}
    parts = [f"{split} {len(own):,} rows in {len(set(own)):,} groups" for split, own in groups.items()]
    return ", ".join(parts) or f"{len(rows):,} rows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("datasets", nargs="+")
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    for source in arguments.datasets:
        for path in write_tables(source, arguments.tables):
            print(path, described(path))


if __name__ == "__main__":
    main()
