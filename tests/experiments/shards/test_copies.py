"""Copies among parts on disk, against a dictionary of all texts; ranges of hashes do not change what is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from randout.core.console import Show
from randout.core.errors import UserError
from randout.data import shards
from randout.data.row_hashes import row_hashes, row_key
from randout.experiments.shards.copies import (
    are_compared,
    compare_hashes,
    copies_of_part,
    hash_shard,
    held_out_hashes,
    is_hashed,
    is_held_out,
)
from randout.experiments.shards.task import Task
from randout.storage.shard_record import LabellingSettings
from support.folders import make_run


@pytest.mark.parametrize("size", [1 << 22, 7])
def test_copies_are_those_of_a_dictionary(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 8)
    draw = np.random.default_rng(0)
    texts = [f"{'Text' if draw.random() < 0.5 else 'text'} {number}" for number in draw.integers(0, 60, 100)]
    (tmp_path / "in").mkdir()
    for number in range(4):
        table = pa.table({"text": texts[25 * number : 25 * number + 25]})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=8)
    found = tuple(shards.find_shards([str(tmp_path / "in")]))
    settings = LabellingSettings(
        kind="soft-labels", model="m", classes=["a"], text_column="text", id_column="", deduplicate=True
    )
    task = Task("m", "cpu", "", str(tmp_path / "out"), tmp_path / "work", settings, found)
    for shard in found:
        assert not is_hashed(task, shard)
        hash_shard(task, shard, lambda rows: None)
        assert is_hashed(task, shard)
    assert not are_compared(task)
    compare_hashes(task, size)
    assert are_compared(task)
    marks = [copies_of_part(task, shard, part) for shard in found for part in shards.parts_of(shard)]
    seen: set[str] = set()
    expected = [row_key(text) in seen or bool(seen.add(row_key(text))) for text in texts]
    assert np.concatenate(marks).tolist() == expected


def test_held_out_rows_are_those_of_a_table_or_the_held_out_rows_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\nOne text,a\nanother text,b\n,a\n", encoding="utf-8")
    hashes = held_out_hashes(str(tmp_path / "test.csv"), None, Show(quiet=True))
    assert hashes.tolist() == sorted(row_hashes(["one text", "another text"]).tolist())
    assert is_held_out(row_hashes(["ONE text", "new"]), hashes).tolist() == [True, False]
    assert is_held_out(row_hashes(["new"]), hashes[:0]).tolist() == [False]
    with pytest.raises(UserError, match="no record of its test rows"):
        held_out_hashes(str(make_run(tmp_path / "run")), None, Show(quiet=True))
