"""Copies of texts among any number of shards, and held-out rows, found by 64-bit hashes in bounded memory.

Texts are copies if their `data.row_hashes.row_key` is equal, as everywhere where rows of different files are compared.

    part 1 of shard a  ->  hashes, sorted and unique, with their first row     [3 5 9]   on disk
    part 2 of shard a  ->                                                      [1 5]
    all parts, hashes 0 to 4: [3] [1]; 5 to 9: [5 9] [5]  ->  the first part that has a hash owns it

A part's hashes are sorted, so that each range of hashes is one slice of every part: memory is bounded by the range. Two
different texts of n have the same hash with a probability of at most n^2 / 2^65: 0.03 % for 10^8 texts that any of them is
left out by mistake, 2.7 % for 10^9.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_publish, replace_text, replacing
from randout.data.dataset import open_texts
from randout.data.row_hashes import Hashes, row_hashes
from randout.data.shards import Part, Shard, blocks_of_part, parts_of
from randout.data.text_fields import NONE, TextFields
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import SELECTED, read_seen

from .task import Task

COMPLETE = "complete"  # file that marks that all hashes are compared
RANGE = 1 << 22  # hashes that are compared at once, about 100 MB


def held_out_hashes(name: str, text_column: str | None, show: Show, fields: TextFields = NONE) -> Hashes:
    """Return the sorted hashes of held-out rows.

    name: a finished run, whose validation and test rows are held out, or a table, all of whose rows are. fields: the columns
    of an input besides its text. Raises UserError.
    """
    path = Path(name).expanduser()
    if RunFolder(path).exists:
        seen = read_seen(path)
        if seen is None or seen.test is None:
            raise UserError(f"--held-out {name}: this run has no record of its test rows; name its test file instead")
        found = np.union1d(seen.test, seen.hashes[seen.roles & np.uint8(SELECTED) > 0])
    else:
        with open_texts(name, text_column) as (_, look_through):
            texts = look_through(lambda block: None, fields=fields)
            parts = [row_hashes([text for text in some if text.strip()]) for _, some in texts]
        found = np.unique(np.concatenate(parts))
    show.say(f"held-out rows: {len(found):,} different texts of {name}; their copies get no label")
    return found


def is_held_out(hashes: Hashes, held: Hashes) -> NDArray[np.bool_]:
    """Return (n,) which hashes are among the m held-out ones, which are sorted."""
    if not len(held):
        return np.zeros(len(hashes), bool)
    at = np.minimum(np.searchsorted(held, hashes), len(held) - 1)
    return held[at] == hashes


@dataclass(frozen=True)
class _Files:
    """The files of a part: hashes (k,) uint64, sorted and unique; rows (k,) of their first row in the part; owned (k,)."""

    folder: Path

    def path(self, what: str) -> Path:
        return self.folder / f"{what}.npy"

    def read(self, what: str) -> NDArray[Any]:
        return np.load(self.path(what), mmap_mode="r", allow_pickle=False)

    def write(self, what: str, values: NDArray[Any]) -> None:
        with replacing(self.path(what)) as partial, partial.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)


def _files_of(task: Task, shard: Shard, part: Part) -> _Files:
    return _Files(task.hashes_folder(shard) / f"{part.number:06}")


def hash_shard(task: Task, shard: Shard, advance: Callable[[int], None]) -> None:
    """Store the hashes of a shard's texts, part by part; parts that are stored are skipped."""
    for part in parts_of(shard):
        files = _files_of(task, shard, part)
        if not files.path("rows").exists():
            settings, found, rows = task.settings, [], 0
            for block in blocks_of_part(shard, part, settings.columns):
                texts = settings.fields.read(shard.url, block.columns, settings.text_column, part.first + rows)
                found.append(row_hashes(texts))
                rows += len(texts)
            hashes, first = np.unique(np.concatenate(found), return_index=True)
            files.write("hashes", hashes)
            files.write("rows", first)
        advance(part.rows)


def is_hashed(task: Task, shard: Shard) -> bool:
    """Return whether all hashes of a shard are stored: those of its last part are stored last."""
    parts = parts_of(shard)
    return not parts or _files_of(task, shard, parts[-1]).path("rows").exists()


def are_compared(task: Task) -> bool:
    """Return whether the copies among all shards are known."""
    return (task.copies_folder / COMPLETE).exists()


def compare_hashes(task: Task, size: int = RANGE) -> None:
    """Find the first part that has each hash, range by range. size: hashes that are compared at once, on average.

    The caller holds the lock "compare" of `task.copies_folder`. What is found is put in place at the end, and that it is
    complete is marked last, so that a process that has lost the lock disturbs nobody.
    """
    parts = [_files_of(task, shard, part) for shard in task.shards for part in parts_of(shard)]
    hashes = [part.read("hashes") for part in parts]
    ending = f"{secrets.token_hex(4)}.partial"
    files = [part.path("owned").with_suffix(f".npy.{ending}") for part in parts]
    owned = [
        np.lib.format.open_memmap(file, mode="w+", dtype=np.bool_, shape=some.shape)
        for file, some in zip(files, hashes, strict=True)
    ]
    starts = [0] * len(parts)
    for end in _ends(sum(map(len, hashes)), size):
        stops = [len(some) if end is None else int(np.searchsorted(some, end)) for some in hashes]
        within = [some[start:stop] for some, start, stop in zip(hashes, starts, stops, strict=True)]
        together = np.concatenate(within)
        first = np.zeros(len(together), bool)
        first[np.unique(together, return_index=True)[1]] = True
        at = 0
        for mark, start, stop in zip(owned, starts, stops, strict=True):
            mark[start:stop] = first[at : at + stop - start]
            at += stop - start
        starts = stops
    for mark, file, part in zip(owned, files, parts, strict=True):
        mark.flush()
        check_publish(file)
        file.replace(part.path("owned"))
    replace_text(task.copies_folder / COMPLETE, "")


def _ends(count: int, size: int) -> list[np.uint64 | None]:
    """Return the ends of equal ranges of hashes, so that one has about `size` of `count`; None: no end."""
    number = max(-(-count // size), 1)
    return [*(np.uint64((1 << 64) * at // number) for at in range(1, number)), None]


def copies_of_part(task: Task, shard: Shard, part: Part) -> NDArray[np.bool_]:
    """Return (part.rows,) which rows are copies of an earlier row, of this part or of one before it."""
    files = _files_of(task, shard, part)
    copies = np.ones(part.rows, bool)
    copies[files.read("rows")[np.asarray(files.read("owned"))]] = False
    return copies
