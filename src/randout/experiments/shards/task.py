"""A labelling task: everything that its processes need to know, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from randout.data.shards import Shard
from randout.storage.shard_folder import ShardFolder
from randout.storage.shard_record import InputShard, LabellingSettings, ShardRecord, digest

LOCKS, PARTS, COPIES, RECORDS = "locks", "parts", "copies", "records"  # subfolders of the work folder


@dataclass(frozen=True)
class Task:
    """Labels of all texts of some shards by one model.

    model: a run or a classifier folder. out: folder or URL of the labelled shards. work: local folder of locks and
    unfinished shards, shared by all processes. held_out: file of the sorted hashes of held-out rows; None for none.
    threads: of each process.
    """

    model: str
    device: str
    form: str
    out: str
    work: Path
    settings: LabellingSettings
    shards: tuple[Shard, ...]
    held_out: Path | None = None
    threads: int = 0

    @property
    def folder(self) -> ShardFolder:
        """The folder of the labelled shards."""
        return ShardFolder(self.out)

    @cached_property
    def records(self) -> dict[str, ShardRecord]:
        """The records that complete shards will have, by name, still without numbers of labelled rows."""
        found, before = {}, ""
        for shard in self.shards:
            source = InputShard(**shard.identity)
            found[shard.name] = ShardRecord(settings=self.settings, input=source, before=before)
            before = digest([before, shard.identity]) if self.settings.deduplicate else ""
        return found

    def identity(self, shard: Shard) -> str:
        """SHA-256 of everything that decides the content of a labelled shard."""
        return self.records[shard.name].identity

    @cached_property
    def copies_folder(self) -> Path:
        """Folder of the hashes of all texts, and of what is known of copies among these shards."""
        return self.work / COPIES / digest([self.settings.text_column, *(shard.identity for shard in self.shards)])[:32]

    def finished(self, shard: Shard) -> bool:
        """Return whether the labelled shard is in place. Raises UserError for a file that is not one of labelled shards."""
        there = self.folder.record(shard.name)
        return there is not None and there.identity == self.identity(shard)
