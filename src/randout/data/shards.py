"""Sharded Parquet tables: the files of a folder, a glob or a URL, and their rows in blocks of bounded size.

Paths may be local or URLs that the library `fsspec` opens (`s3://`, `gs://`, `memory://`, ...). Only the footer of a file
is read to find it; its row groups are then read one after another, so that memory does not depend on the file's size.
"""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randout.core.errors import UserError

from .columns import LABEL_NAMES, choose_text, named_column
from .parquet import ArrowColumns
from .tables import Table, parquet_errors
from .text_fields import NONE, TextFields

SUFFIXES = (".parquet", ".pq")
BLOCK = 8192  # rows that are in memory at once: enough to sort texts by length before batching
BYTES = 1 << 24  # of the texts of a block: fewer rows if texts are long
BUFFER = 1 << 20  # bytes of a column that are read at once
CONNECTIONS = 16  # footers that are read at once from a remote file system
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a sharded table.

    name: its path below the common folder of all shards. url: as `open_file` takes it. stamp: modification time, or ETag of
    an object. footer: SHA-256 of the Parquet footer, which has the places and sizes of all row groups. columns: their
    names. groups: number of rows of each row group.
    """

    name: str
    url: str
    size: int
    stamp: str
    footer: str
    columns: tuple[str, ...]
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.groups)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this file from another one, or from a later version of it."""
        return {"name": self.name, "size": self.size, "stamp": self.stamp, "footer": self.footer, "rows": self.rows}


@dataclass(frozen=True)
class Part:
    """Consecutive row groups of a shard: the unit in which work on a shard is saved. first: row of the shard, from 0."""

    number: int
    groups: tuple[int, ...]
    first: int
    rows: int


def is_url(place: str) -> bool:
    """Return whether a place is a URL with a protocol rather than a local path."""
    return "://" in place


def is_sharded(place: str) -> bool:
    """Return whether unlabelled texts are shards (a folder, a glob or a URL) rather than one file."""
    return bool(place) and (
        is_url(place) or any(mark in place for mark in "*?[") or os.path.isdir(os.path.expanduser(place))
    )


def file_system(place: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it. Raises UserError if its package is not installed."""
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{place}: needs the package fsspec. Install it: pip install 'randout[remote]'") from None
    protocol = place.partition("://")[0] if is_url(place) else ""
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(place)
    except ImportError:
        package = PACKAGES.get(protocol, f"for {protocol}://")
        raise UserError(
            f"{place}: {protocol}:// needs the package {package}. Install it: pip install 'randout[remote]'"
        ) from None
    except ValueError as error:
        raise UserError(f"{place}: not a path or a supported URL ({error})") from None
    return found


@contextmanager
def open_file(url: str) -> Iterator[Any]:
    """Open a file at a path or URL to read bytes. Raises UserError if it cannot be read."""
    system, path = file_system(url)
    try:
        with system.open(path, "rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{url}: cannot be read ({error.strerror or error})") from None


def names_shards(places: Sequence[str]) -> bool:
    """Return whether all words name shards: an existing folder, a glob, a Parquet file or a URL."""

    def one(place: str) -> bool:
        return is_url(place) or place.lower().endswith(SUFFIXES) or Path(place).expanduser().is_dir()

    return bool(places) and all(map(one, places))


def find_shards(places: Sequence[str]) -> list[Shard]:
    """Find the Parquet files that folders, globs, paths or URLs name, in the order given, sorted by name within each.

    Files and folders whose names begin with a dot or an underscore are left out. Raises UserError if a place has no
    Parquet file, or if a file cannot be read.
    """
    found: list[tuple[str, str]] = []  # (URL, path in its file system)
    for place in places:
        found += _files_at(place)
    found = list(dict.fromkeys(found))
    roots = {posixpath.dirname(path) for _, path in found}
    root = posixpath.commonpath(roots) if len(roots) > 1 else next(iter(roots))
    names = [posixpath.relpath(path, root or ".") if root else path for _, path in found]
    if len(found) > 1 and is_url(found[0][0]):
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(_shard, [url for url, _ in found], names))
    return [_shard(url, name) for (url, _), name in zip(found, names, strict=True)]


def _files_at(place: str) -> list[tuple[str, str]]:
    system, path = file_system(place if is_url(place) else _expanded(place))
    try:
        if any(mark in path for mark in "*?["):
            paths = [one for one in system.glob(path) if one.lower().endswith(SUFFIXES)]
        elif system.isdir(path):
            start = len(path.rstrip("/")) + 1
            inside = [one for one in system.find(path) if one.lower().endswith(SUFFIXES)]
            paths = [one for one in inside if not any(part[:1] in "._" for part in one[start:].split("/"))]
        else:
            paths = [path] if system.exists(path) else []
    except Exception as error:  # whatever a remote file system raises for missing rights and names
        raise UserError(
            f"{place}: cannot be read ({' '.join(str(error).split())[:200] or type(error).__name__})"
        ) from None
    if not paths:
        raise UserError(
            f"{place}: no Parquet files here; expected a folder, a glob such as 'texts/*.parquet', or files"
        )
    url = system.unstrip_protocol if is_url(place) else str
    return [(url(one), one) for one in sorted(paths)]


def _expanded(place: str) -> str:
    return str(Path(place).expanduser())


def _shard(url: str, name: str) -> Shard:
    import pyarrow.parquet as pq

    system, path = file_system(url)
    about = system.info(path)
    stamp = next(
        (about[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if key in about), ""
    )
    with open_file(url) as stream, parquet_errors(url):
        metadata = pq.ParquetFile(stream, pre_buffer=False).metadata
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        footer = hashlib.sha256(stream.read(length)).hexdigest()
    groups = tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))
    columns = tuple(metadata.schema.to_arrow_schema().names)
    return Shard(name, url, int(about["size"]), str(stamp), footer, columns, groups)


def without_rows(shard: Shard, columns: Sequence[str]) -> Any:
    """Return an Arrow table without rows that has some columns of a shard, with their types."""
    import pyarrow.parquet as pq

    with open_file(shard.url) as stream, parquet_errors(shard.url):
        return pq.read_schema(stream).empty_table().select(list(columns))


def parts_of(shard: Shard) -> list[Part]:
    """Divide a shard into parts of one row group each; smaller row groups are joined until they have `BLOCK` rows.

    No part is without rows, although the row groups of an empty table may be.
    """
    parts: list[Part] = []
    groups: list[int] = []
    first = rows = 0
    for group, size in enumerate(shard.groups):
        groups.append(group)
        rows += size
        if rows >= BLOCK or (rows and group + 1 == len(shard.groups)):
            parts.append(Part(len(parts), tuple(groups), first, rows))
            groups, first, rows = [], first + rows, 0
    return parts


def columns_of_shards(
    shards: Sequence[Shard],
    text: str | None,
    trained: str | None,
    identifier: str | None,
    fields: TextFields = NONE,
) -> tuple[str, str | None]:
    """Return the names of the columns of texts and of row ids, which every shard must have.

    text: as asked for; None: `trained` (the text column of the model's training data) if it is there, else the obvious one.
    identifier: the column of ids, or None. fields: the further columns of an input. Raises UserError if a column is unclear, or
    missing from a shard.
    """
    first = next((shard for shard in shards if shard.rows), None)
    if first is None:
        raise UserError(f"{shards[0].url}: the Parquet files have no rows")
    head = next(_tables(first, parts_of(first)[0], None, 100))
    labels = [name for name in head.columns if name.lower() in LABEL_NAMES]
    text = choose_text(head, text or (trained if trained in head.columns else None), labels[0] if labels else None)
    if identifier:
        named_column(head, identifier, "--id-column")
    for shard in shards:
        fields.check(list(shard.columns), shard.url, text)
        for column in filter(None, (text, identifier)):
            if column not in shard.columns:
                raise UserError(
                    f"{shard.url}: no column {column!r}; found {', '.join(map(repr, shard.columns))}. All shards need the "
                    "same columns"
                )
    return text, identifier


def blocks_of_part(shard: Shard, part: Part, columns: Sequence[str]) -> Iterator[Table]:
    """Yield the rows of a part in order, in blocks of at most `BLOCK` rows, and of fewer if their values are long.

    The division into blocks depends on the file alone, so that repeated work has the same batches.
    """
    for table in _tables(shard, part, list(columns), BLOCK):
        arrow = arrow_of(table)
        pieces = min(max(math.ceil(arrow.nbytes / BYTES), 1), arrow.num_rows)
        size = math.ceil(arrow.num_rows / pieces)
        for at in range(0, arrow.num_rows, size):
            yield Table(ArrowColumns(arrow.slice(at, size), shard.url), shard.url, "", "parquet")


def arrow_of(block: Table) -> Any:
    """Return the Arrow table of a block of rows."""
    assert isinstance(block.columns, ArrowColumns)
    return block.columns.table


def _tables(shard: Shard, part: Part, columns: list[str] | None, rows: int) -> Iterator[Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(shard.url) as stream:
        with parquet_errors(shard.url):
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER)
            batches = file.iter_batches(rows, row_groups=list(part.groups), columns=columns, use_threads=False)
        while True:
            with parquet_errors(shard.url):
                batch = next(batches, None)
            if batch is None:
                return
            if batch.num_rows:
                table = pa.Table.from_batches([batch])
                yield Table(ArrowColumns(table, shard.url), shard.url, "", "parquet")
