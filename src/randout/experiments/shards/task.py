"""A labelling task: everything that its processes need to know, and where its files are.

WORK/tasks/ID/task.json   the task; several commands on one output folder with the same request have the same one
WORK/parts/SHARD/         finished parts of a shard, and the lock of the process that labels it
WORK/copies/TEXTS/        hashes of all texts, and what is known of copies among them, with their locks
WORK/records/SHARD.json   the manifest's entry of a shard that is in place
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from randout.core.errors import UserError
from randout.core.files import replace_text
from randout.data.shards import Shard, find_shards
from randout.storage.record import parsed
from randout.storage.shard_folder import ShardFolder
from randout.storage.shard_record import InputShard, LabellingSettings, LabellingTask, ShardRecord, digest

TASKS, PARTS, COPIES, RECORDS = "tasks", "parts", "copies", "records"  # subfolders of the work folder
FILE = "task.json"


@dataclass(frozen=True)
class Task:
    """Labels of all texts of some shards by one model. work: local folder of unfinished shards, shared by all processes."""

    record: LabellingTask
    work: Path

    @property
    def settings(self) -> LabellingSettings:
        """What the labels depend on, apart from the texts."""
        return self.record.settings

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards to label, in their order."""
        return self.record.shards

    @cached_property
    def path(self) -> Path:
        """The folder of the task, by which processes join it."""
        return self.work / TASKS / digest(self.record.model_dump(mode="json"))[:16]

    @property
    def folder(self) -> ShardFolder:
        """The folder of the labelled shards."""
        return ShardFolder(self.record.out)

    @property
    def held_out(self) -> Path | None:
        """File of the sorted hashes of held-out rows; None for none."""
        return held_out_file(self.work, self.settings.held_out) if self.settings.held_out else None

    @cached_property
    def records(self) -> dict[str, ShardRecord]:
        """The records that complete shards will have, by name, still without numbers of labelled rows."""
        found, before = {}, ""
        for shard in self.shards:
            source = InputShard(**shard.identity)
            found[shard.name] = ShardRecord(settings=self.settings, input=source, before=before)
            before = digest([before, shard.identity]) if self.settings.deduplicate else ""
        return found

    @cached_property
    def identities(self) -> dict[str, str]:
        """SHA-256 of everything that decides the content of each labelled shard, by name."""
        return {name: record.identity for name, record in self.records.items()}

    def parts_folder(self, shard: Shard) -> Path:
        """Folder of the finished parts of a shard; its lock is that of the shard."""
        return self.work / PARTS / self.identities[shard.name][:32]

    def record_file(self, shard: Shard) -> Path:
        """File of the manifest's entry of a shard that is in place."""
        return self.work / RECORDS / f"{self.identities[shard.name][:32]}.json"

    @cached_property
    def copies_folder(self) -> Path:
        """Folder of the hashes of all texts, and of what is known of copies among these shards."""
        columns = [
            self.settings.text_column,
            *filter(None, [self.settings.fields.pair]),
        ]  # fields do not count in copies
        return self.work / COPIES / digest([*columns, *(shard.identity for shard in self.shards)])[:32]

    def hashes_folder(self, shard: Shard) -> Path:
        """Folder of the hashes of a shard's texts; its lock is that of hashing them."""
        return self.copies_folder / digest(shard.identity)[:16]

    def finished(self, shard: Shard) -> bool:
        """Return whether the labelled shard is in place. Raises UserError for a file that is not one of labelled shards."""
        there = self.folder.record(shard.name)
        return there is not None and there.identity == self.identities[shard.name]

    def recorded(self) -> set[str]:
        """Return the names of the shards whose record says that they are in place; reads one local folder."""
        folder = self.work / RECORDS
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return {shard.name for shard in self.shards if self.record_file(shard).name in there}

    def write(self) -> None:
        """Write `task.json`, which has the same content whoever writes it."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.path / FILE, self.record.model_dump_json(indent=1) + "\n")


def held_out_file(work: Path, held_out: str) -> Path:
    """File of the sorted hashes of held-out rows. held_out: their digest."""
    return work / f"held-out-{held_out[:16]}.npy"


def is_task(path: Path) -> bool:
    """Return whether a folder is that of a labelling task."""
    return (path / FILE).is_file()


def read_task(path: Path) -> Task:
    """Read the task in a folder."""
    return Task(
        parsed(LabellingTask, json.loads((path / FILE).read_text(encoding="utf-8")), path / FILE), path.parents[1]
    )


def describe(path: Path) -> dict[str, str]:
    """Return what this machine sees of a task and of its first shard. Raises UserError if the shard is not found."""
    task = read_task(path)
    return {"labelling": task.path.name, "texts": digest(_stamps(find_shards([task.shards[0].url])))}


def _stamps(shards: Sequence[Shard]) -> list[list[object]]:
    return [[shard.size, shard.stamp, shard.footer] for shard in shards]


def check_model(task: Task, fingerprint: str) -> None:
    """Raise UserError if a model is not the one of the task."""
    if fingerprint != task.settings.model:
        raise UserError(
            f"{task.record.model}: this is not the model that the labelling was started with. Use the same one on all machines, "
            "and repeat the command with another -o if it was trained again"
        )
