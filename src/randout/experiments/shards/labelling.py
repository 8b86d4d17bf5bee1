"""Labels one shard: part by part into a work folder, then all parts as one file that is put in place.

A process that is killed loses at most the part that it was working on. A part, and the complete file, depend only on the
input shard, the model and the settings, so that repeated work gives the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.files import replacing
from randout.data.row_hashes import Hashes, row_hashes
from randout.data.shards import Part, Shard, arrow_of, blocks_of_part, parts_of, without_rows
from randout.experiments.run.batch_prediction import GUESS, decided
from randout.experiments.run.saved_model import LoadedClassifier
from randout.stats.coverage import confidences
from randout.storage.record import parsed
from randout.storage.shard_record import METADATA, LabellingSettings, ManifestEntry, ShardRecord

from .copies import copies_of_part, is_held_out
from .task import Task

# values of the column `skipped`; null for a row with a label
EMPTY, COPY, HELD_OUT, ABSTAINED = "empty", "copy", "held-out", "abstained"
COUNTS = ("labelled", "empty", "copies", "held_out", "abstained")  # numbers of rows in a record
ROW_ID, SKIPPED = "row_id", "skipped"
WRITTEN_ROWS = 65_536  # rows of a row group of a labelled shard
Advance = Callable[[int], None]  # progress callback: number of rows done


def label_shard(task: Task, shard: Shard, model: LoadedClassifier, advance: Advance) -> None:
    """Label a shard and put the complete file in place. Parts that an earlier process has finished are kept.

    The caller holds the lock of `task.parts_folder(shard)`; raises LockLost before anything is put in place without it.
    advance: called with the number of rows after each block, and with those of a part that is kept.
    """
    folder = task.parts_folder(shard)
    held = np.load(task.held_out, allow_pickle=False) if task.held_out else np.zeros(0, np.uint64)
    files = []
    for part in parts_of(shard):
        file = folder / f"{part.number:06}.parquet"
        files.append(file)
        if file.exists():
            advance(part.rows)
            continue
        with replacing(file) as partial:
            _write(partial, _labelled_blocks(task, shard, part, model, held, advance))
    with task.folder.replacing(shard.name, folder) as whole:
        record = _join(files, whole, task.records[shard.name], task.settings, shard)
        sha256 = _sha256(whole)
    _write_entry(task, shard, _entry(shard, record, sha256))
    for path in folder.iterdir():
        if not path.name.startswith("."):  # those are of the lock
            path.unlink(missing_ok=True)


def write_record(task: Task, shard: Shard) -> None:
    """Record a shard that is in place, from the file itself."""
    record = task.folder.record(shard.name)
    assert record is not None
    _write_entry(task, shard, _entry(shard, record, task.folder.sha256(shard.name)))


def _write_entry(task: Task, shard: Shard, entry: ManifestEntry) -> None:
    with replacing(task.record_file(shard)) as partial:
        partial.write_text(json.dumps(entry.as_json()), encoding="utf-8")


def read_entry(task: Task, shard: Shard) -> ManifestEntry:
    """Return the manifest's entry of a labelled shard."""
    file = task.record_file(shard)
    return parsed(ManifestEntry, json.loads(file.read_text(encoding="utf-8")), file)


def _entry(shard: Shard, record: ShardRecord, sha256: str) -> ManifestEntry:
    counts = {name: getattr(record, name) for name in COUNTS}
    return ManifestEntry(
        name=shard.name, identity=record.identity, sha256=sha256, rows=shard.rows, input=record.input, **counts
    )


def _labelled_blocks(
    task: Task, shard: Shard, part: Part, model: LoadedClassifier, held: Hashes, advance: Advance
) -> Iterator[Any]:
    """Yield an Arrow table for each block of a part, in order."""
    settings, row = task.settings, 0
    columns = list(dict.fromkeys(filter(None, (*settings.columns, settings.id_column))))
    copies = copies_of_part(task, shard, part) if settings.deduplicate else np.zeros(part.rows, bool)
    for block in blocks_of_part(shard, part, columns):
        texts = settings.fields.read(shard.url, block.columns, settings.text_column, part.first + row)
        first, count = part.first + row, len(texts)
        skipped = _skipped(texts, copies[row : row + count], held)
        kept = np.flatnonzero(skipped == "")
        logits = np.full((count, len(settings.classes)), np.nan, np.float32)
        if len(kept):
            logits[kept] = model.logits([texts[at] for at in kept], lambda done: None)
        yield labelled_table(settings, shard, arrow_of(block), first, logits, skipped)
        row += count
        advance(count)


def _skipped(texts: Sequence[str], copies: NDArray[np.bool_], held: Hashes) -> NDArray[np.str_]:
    """Return (n,) why each row gets no label; "" for a row that gets one."""
    skipped = np.full(len(texts), "", dtype="<U8")
    skipped[copies] = COPY
    if len(held):
        skipped[is_held_out(row_hashes(texts), held)] = HELD_OUT
    skipped[[not text.strip() for text in texts]] = EMPTY
    return skipped


def labelled_table(
    settings: LabellingSettings,
    shard: Shard,
    block: Any,
    first: int,
    logits: NDArray[np.float32],
    skipped: NDArray[np.str_],
) -> Any:
    """Return the rows of a labelled shard as an Arrow table.

    block: the Arrow table with the column of ids. first: row of the shard, from 0. logits: (n, C); rows that are skipped
    get nulls; of a model that abstains, rows below its confidence too, but for best guess and confidence. A label set is a list
    of strings. The row ids are those of the id column, or the shard's name and the row's number, counted from 1.
    """
    import pyarrow as pa

    if settings.id_column:
        columns = {settings.id_column: block.column(settings.id_column)}
    else:
        ids = [f"{shard.name}#{row}" for row in range(first + 1, first + len(logits) + 1)]
        columns = {ROW_ID: pa.array(ids, pa.string())}
    none = skipped != ""
    if settings.kind == "soft-labels":
        for at, name in enumerate(settings.classes):
            columns[f"logit_{name}"] = pa.array(logits[:, at], pa.float32(), mask=none)
    else:
        rows = np.flatnonzero(~none)
        made, likely, shares = decided(logits[rows], settings.classes, settings.thresholds)
        kind, names = pa.string() if settings.thresholds is None else pa.list_(pa.string()), np.full(len(none), None)
        score, probabilities = np.zeros(len(none), np.float32), np.zeros(logits.shape, np.float32)
        score[rows], probabilities[rows] = likely, shares
        for row, label in zip(rows.tolist(), made, strict=True):
            names[row] = label
        without, guesses = none, {}
        if settings.abstention is not None:
            temperature, least = settings.abstention
            sure = confidences(logits, temperature, settings.thresholds)
            without = none | (np.nan_to_num(sure) < least)
            skipped = np.where(without & ~none, ABSTAINED, skipped.astype(object))
            known = (pa.array(names, kind, mask=none), pa.array(sure.astype(np.float32), pa.float32(), mask=none))
            guesses = dict(zip(GUESS, known, strict=True))
        columns["label"] = pa.array(names, kind, mask=without)
        columns["score"] = pa.array(score, pa.float32(), mask=without)
        columns |= guesses
        for at, name in enumerate(settings.classes if settings.probabilities else ()):
            columns[f"probability_{name}"] = pa.array(probabilities[:, at], pa.float32(), mask=none)
    columns[SKIPPED] = pa.array(skipped.astype(object), pa.string(), mask=skipped == "")
    return pa.table(columns)


def empty_table(settings: LabellingSettings, shard: Shard) -> Any:
    """Return a table without rows that has the columns of a labelled shard."""
    logits = np.zeros((0, len(settings.classes)), np.float32)
    block = without_rows(shard, [settings.id_column]) if settings.id_column else None
    return labelled_table(settings, shard, block, 0, logits, np.zeros(0, dtype="<U8"))


def _write(path: Path, tables: Iterator[Any]) -> None:
    """Write Arrow tables of the same schema to a Parquet file, one row group each."""
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _join(
    files: Sequence[Path], whole: Path, record: ShardRecord, settings: LabellingSettings, shard: Shard
) -> ShardRecord:
    """Write the parts as one file with the record as its metadata; returns the record with its numbers of rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts = {"": 0, EMPTY: 0, COPY: 0, HELD_OUT: 0, ABSTAINED: 0}
    for file in files:
        for group in pc.value_counts(pq.read_table(file, columns=[SKIPPED])[SKIPPED]).to_pylist():
            counts[group["values"] or ""] += group["counts"]
    record = record.model_copy(update=dict(zip(COUNTS, counts.values(), strict=True)))
    schema = pq.read_schema(files[0]) if files else empty_table(settings, shard).schema
    schema = schema.with_metadata({METADATA: json.dumps(record.model_dump(mode="json")).encode()})
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for file in files:
            with pq.ParquetFile(file) as part:
                for batch in part.iter_batches(WRITTEN_ROWS, use_threads=False):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    return record


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
