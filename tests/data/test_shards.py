"""Sharded Parquet: which files are shards, in which order, and blocks of rows that lose nothing."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from randout.core.errors import UserError
from randout.data import shards
from support.shards import write_shards


def test_a_folder_a_glob_and_a_list_name_the_same_shards_in_order(tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    (tmp_path / "texts" / ".work").mkdir()
    (tmp_path / "texts" / ".work" / "part.parquet").write_bytes(b"unfinished")
    (tmp_path / "texts" / "_SUCCESS").write_bytes(b"")
    found = shards.find_shards([str(tmp_path / "texts")])
    assert [shard.name for shard in found] == ["part-000.parquet", "part-001.parquet", "part-002.parquet"]
    assert [shard.groups for shard in found] == [(10, 10, 5), (10, 10, 10, 10), (10,)]
    assert shards.find_shards([str(tmp_path / "texts" / "*.parquet")]) == found
    assert shards.find_shards([shard.url for shard in reversed(found)]) == found[::-1]


def test_shards_of_several_folders_keep_distinct_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name, (8,))
    found = shards.find_shards([str(tmp_path / "b"), str(tmp_path / "a")])
    assert [shard.name for shard in found] == ["b/part-000.parquet", "a/part-000.parquet"]


def test_places_that_are_no_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UserError, match="no Parquet files here"):
        shards.find_shards([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="not a valid Parquet file"):
        shards.find_shards([str(tmp_path)])
    with pytest.raises(UserError, match="not a path or a supported URL"):
        shards.find_shards(["nothing://texts"])


def test_a_url_is_read_through_fsspec() -> None:
    system = fsspec.filesystem("memory")
    with system.open("/texts-a/one.parquet", "wb") as stream:
        pq.write_table(pa.table({"text": ["a", "b"]}), stream)
    (found,) = shards.find_shards(["memory://texts-a"])
    assert (found.name, found.rows, found.columns) == ("one.parquet", 2, ("text",))
    (part,) = shards.parts_of(found)
    assert [block.columns["text"] for block in shards.blocks_of_part(found, part, ["text"])] == [["a", "b"]]


def test_the_identity_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    (before,) = shards.find_shards([str(path)])
    pq.write_table(pa.table({"text": ["a", "c"]}), path)
    (after,) = shards.find_shards([str(path)])
    assert before.footer != after.footer, "the footer has the least and the greatest value"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((9000, 9000, 20), [(0,), (1,), (2,)]),
        ((4000,) * 5, [(0, 1, 2), (3, 4)]),
        ((100_000,), [(0,)]),
        ((), []),
        ((0,), []),
        ((3, 0, 2, 0), [(0, 1, 2, 3)]),
    ],
)
def test_parts_are_row_groups_and_small_ones_are_joined(
    groups: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    parts = shards.parts_of(shards.Shard("s", "s", 0, "", "", (), groups))
    assert [part.groups for part in parts] == expected
    assert [part.first for part in parts] == [sum(groups[: one[0]]) for one in expected]
    assert sum(part.rows for part in parts) == sum(groups)


def test_blocks_are_bounded_in_rows_and_bytes_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x" * (row % 7) for row in range(100)]
    pq.write_table(pa.table({"text": texts, "other": list(range(100))}), tmp_path / "one.parquet", row_group_size=30)
    (shard,) = shards.find_shards([str(tmp_path)])
    monkeypatch.setattr(shards, "BLOCK", 40)
    blocks = [block for part in shards.parts_of(shard) for block in shards.blocks_of_part(shard, part, ["text"])]
    assert [text for block in blocks for text in block.columns["text"]] == texts
    assert max(map(len, blocks)) == 40
    monkeypatch.setattr(shards, "BYTES", 50)
    small = [block for part in shards.parts_of(shard) for block in shards.blocks_of_part(shard, part, ["text"])]
    assert [text for block in small for text in block.columns["text"]] == texts
    assert max(map(len, small)) < 12


def test_every_shard_needs_the_columns(tmp_path: Path) -> None:
    write_shards(tmp_path)
    found = shards.find_shards([str(tmp_path)])
    assert shards.columns_of_shards(found, None, None, None) == ("text", None)
    assert shards.columns_of_shards(found, None, "key", "key") == ("key", "key"), "the column of the training data"
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "part-003.parquet")
    with pytest.raises(UserError, match=r"part-003.parquet: no column 'text'; found 'content'"):
        shards.columns_of_shards(shards.find_shards([str(tmp_path)]), None, None, None)


@pytest.mark.parametrize(
    ("words", "expected"), [(["s3://a/b"], True), (["a.parquet"], True), (["a text"], False), ([], False)]
)
def test_words_that_name_shards(words: list[str], expected: bool) -> None:
    assert shards.names_shards(words) is expected
