"""Soft labels of sharded texts (`randout soft-labels MODEL TEXTS -o LABELS`), as a student learns from them.

Texts and labels are joined by shard and position, as the manifest of the labels records them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from randout.core.config import Config
from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.data.shards import BLOCK, Shard, blocks_of_part, find_shards, is_sharded, open_file, parts_of
from randout.data.tables import parquet_errors
from randout.models.sources import FileState
from randout.storage.shard_folder import ShardFolder
from randout.storage.shard_record import MANIFEST, Manifest, ManifestEntry, digest


class LabelledTexts(NamedTuple):
    """Texts with soft labels (k, C), NaN for texts without one."""

    texts: list[str]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class SoftLabelShards:
    """A folder of sharded soft labels that is named as a teacher. name: as given."""

    name: str

    def state(self) -> tuple[FileState, ...]:
        """It differs after any change of the manifest. Raises UserError if it is missing."""
        folder = ShardFolder(self.name)
        if folder.local is None:
            return ((f"{self.name} {folder.sha256(MANIFEST)}", 0, 0, 0),)
        path = Path(folder.path(MANIFEST))
        try:
            stat = path.stat()
        except OSError:
            raise UserError(f"{self.name}: no {MANIFEST} in this folder") from None
        return ((str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns),)


@dataclass(frozen=True)
class ShardedLabels:
    """Texts and their soft labels, shard by shard. order: the model's output for each class of the data."""

    folder: ShardFolder
    manifest: Manifest
    shards: tuple[Shard, ...]
    order: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of texts with a soft label."""
        return self.manifest.labelled

    @property
    def sha256(self) -> str:
        """Digest of what was labelled, by what, and of the files of labels."""
        return digest([[entry.identity, entry.sha256] for entry in self.manifest.shards])

    def blocks(self, shard: Shard) -> Iterator[LabelledTexts]:
        """Yield the rows of a shard in order. Raises UserError for labels that were changed after they were written."""
        entry = next(one for one in self.manifest.shards if one.name == shard.name)
        if self.folder.sha256(entry.name) != entry.sha256:
            raise UserError(
                f"{self.folder.path(entry.name)}: differs from the file that {MANIFEST} records. Copy it again, or delete it "
                "and repeat `randout soft-labels`"
            )
        settings, labels, row = self.manifest.settings, self._logits(entry), 0
        waiting = np.zeros((0, len(self.order)), np.float32)
        for part in parts_of(shard):
            for block in blocks_of_part(shard, part, settings.columns):
                texts = settings.fields.read(shard.url, block.columns, settings.text_column, row)
                while len(waiting) < len(texts):
                    waiting = np.concatenate([waiting, next(labels)])
                yield LabelledTexts(texts, waiting[: len(texts)])
                waiting, row = waiting[len(texts) :], row + len(texts)

    def _logits(self, entry: ManifestEntry) -> Iterator[NDArray[np.float32]]:
        """Yield the logits (k, C) of a labelled shard, in the order of the data's classes; NaN for a row without."""
        import pyarrow.parquet as pq

        path = self.folder.path(entry.name)
        names = [f"logit_{self.manifest.settings.classes[at]}" for at in self.order]
        with open_file(path) as stream, parquet_errors(path):
            for batch in pq.ParquetFile(stream, pre_buffer=False).iter_batches(BLOCK, columns=names, use_threads=False):
                columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
                yield np.stack(columns, 1).astype(np.float32)


def open_labels(name: str, texts: str, classes: dict[int, str], sets: bool) -> ShardedLabels:
    """Match sharded soft labels with the texts that they are of, and with the classes of the data.

    texts: folder, glob or URL of the shards that were labelled. sets: whether the data have label sets. Raises UserError.
    """
    folder = ShardFolder(name)
    manifest = folder.manifest()
    if manifest.settings.kind != "soft-labels":
        raise UserError(f"--teacher {name}: holds predictions, not soft labels. Write these with `randout soft-labels`")
    if sets != (manifest.settings.thresholds is not None):
        one, other = "exactly one label", "a set of labels (multi-label)"
        theirs, ours = (one, other) if sets else (other, one)
        raise UserError(
            f"--teacher {name}: these are soft labels of {manifest.model_name}, which gives each text {theirs}, but in these "
            f"data each text has {ours}. Label the shards with a model that was trained on such data"
        )
    if not is_sharded(texts):
        raise UserError(
            f"--teacher {name}: sharded soft labels are of sharded texts. Name these with --unlabeled FOLDER (data.unlabeled)"
        )
    shards = {shard.name: shard for shard in find_shards([texts])}
    entries = {entry.name: entry for entry in manifest.shards}
    if missing := [one for one in (*entries, *shards) if one not in shards or one not in entries]:
        where = "labels" if missing[0] in shards else "texts"
        raise UserError(
            f"--unlabeled {texts}: these are not the shards that {name} labels: {missing[0]} is missing from the {where}. Name "
            "the folder that was labelled, or label the new shards with `randout soft-labels`"
        )
    for shard in shards.values():
        there = entries[shard.name].input
        if (there.size, there.footer, there.rows) != (shard.size, shard.footer, shard.rows):
            raise UserError(f"{shard.url}: has changed since it was labelled. Repeat `randout soft-labels`")
    from .soft_labels import column_order  # imports PyTorch

    order = column_order(dict(enumerate(manifest.settings.classes)), classes, None, name)
    return ShardedLabels(folder, manifest, tuple(shards[entry.name] for entry in manifest.shards), tuple(order))


def with_sharded_rows(config: Config, dataset: Dataset, teacher: object) -> Dataset:
    """Return the dataset with the number of sharded texts that a student learns from.

    teacher: the first one. Raises UserError if the unlabelled texts are shards and the teacher is not sharded soft labels.
    """
    labels = getattr(teacher, "shards", None)
    if isinstance(labels, ShardedLabels):
        theirs, ours = labels.manifest.settings.fields, dataset.fields
        if (theirs.pair, theirs.prefix) != (ours.pair, ours.prefix):
            raise UserError(
                f"--teacher {config.teacher.model}: these are soft labels of {theirs.words}, but the data have {ours.words}. "
                "Label the shards with a teacher that was trained on the same columns"
            )
        return replace(dataset, sharded_rows=labels.rows)
    if is_sharded(config.data.unlabeled):
        raise UserError(
            f"data.unlabeled: {config.data.unlabeled} is a folder of shards, which needs sharded soft labels. First "
            f"`randout soft-labels TEACHER {config.data.unlabeled} -o LABELS`, then --teacher LABELS"
        )
    return dataset
