"""Sharded Parquet tables of toy texts, and a bag-of-words classifier of them that is fitted in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from randout.baselines import SVM, Labelled
from randout.core.config import TrainTable
from randout.testing.models import toy_texts


def write_shards(folder: Path, rows: Sequence[int] = (25, 40, 10), group: int = 10, seed: int = 0) -> list[str | None]:
    """Write a shard for each number of rows; returns all texts in order. Row 3 of each is empty, row 5 has no text."""
    folder.mkdir(parents=True, exist_ok=True)
    every: list[str | None] = []
    for number, count in enumerate(rows):
        texts: list[str | None] = [*toy_texts(count, 100 * seed + number)[0]]
        texts[3], texts[5] = " ", None
        table = pa.table({"key": [f"{number}-{row}" for row in range(count)], "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"part-{number:03}.parquet", row_group_size=group)
        every += texts
    return every


def fitted_svm(folder: Path) -> Path:
    """A support vector machine on toy texts, saved in a folder."""
    texts, labels = toy_texts(60, 7)
    names = sorted(set(labels))
    rows = Labelled(texts, np.array([names.index(label) for label in labels]))
    made = SVM().fit(rows, rows, dict(enumerate(names)), TrainTable(), lambda done: None)
    made.save(folder, "# a card")
    return folder


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All rows of the Parquet files of a folder, in order."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
