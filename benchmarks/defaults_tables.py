"""Write the tables of `defaults_study.py` and `defaults.py`: one CSV (text, label, split) per dataset.

    python benchmarks/defaults_tables.py TABLES film csabstruct.toml rhmd:RHMD_3_Class.csv

Datasets are given as for `randout train` (examples/csabstruct.toml next to its files). At most 2,600 training and 600 test rows
are sampled with a fixed seed from the dataset's own splits, or from randout's default split if it has none.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from randout.core.config import DataTable
from randout.data import dataset as data

ROWS = {"train": 2600, "test": 600}


def write_table(source: str, folder: Path) -> Path:
    """Write the sampled rows of one dataset. Returns the path of the CSV file."""
    dataset = data.load(DataTable(source=str(source)))
    rng = np.random.default_rng(0)
    path = folder / f"{Path(source.partition(':')[0]).stem}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "split"))
        for split, most in ROWS.items():
            for row in rng.permutation(dataset.split[split])[:most]:
                writer.writerow((dataset.texts[row], dataset.id2label[int(dataset.labels[row])], split))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("datasets", nargs="+")
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    for source in arguments.datasets:
        print(write_table(source, arguments.tables))


if __name__ == "__main__":
    main()
