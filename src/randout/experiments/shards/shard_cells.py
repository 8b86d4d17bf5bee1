"""The shards of a labelling task, as processes share them.

A cell is named by what is to be done and the shard. With --deduplicate there are three stages:

    hash SHARD ...   ->   compare   ->   label SHARD ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from randout.core.console import Advance
from randout.core.files import check_publish
from randout.data.shards import Shard
from randout.experiments.run import saved_model
from randout.experiments.run.options import Options
from randout.experiments.run.saved_model import LoadedClassifier
from randout.experiments.sharing.cells import Outcome
from randout.storage.locks import Busy, locked

from .copies import are_compared, compare_hashes, hash_shard, is_hashed
from .labelling import label_shard, write_record
from .task import Task, check_model

HASH, COMPARE, LABEL = "hash", "compare", "label"


class ShardCells:
    """The shards of a task as processes share them (`sharing.cells.Cells`).

    model: None: loaded for the first shard that needs it. bar: shows the rows that are done of all shards; None: one bar for
    each shard is shown.
    """

    noun = "shard"

    def __init__(self, task: Task, options: Options, model: LoadedClassifier | None = None) -> None:
        self.task, self.options, self._model = task, options, model
        self.bar: Advance | None = None
        self._has_hashing = task.settings.deduplicate and not are_compared(task)
        self._shards = {shard.name: shard for shard in task.shards}
        self._hashed: set[str] = set()
        self._labelled: set[str] = set()
        self._left: dict[str, int] = {}  # rows that are not shown as done, by cell

    @property
    def path(self) -> Path:
        return self.task.path

    def open(self, tried: Collection[str]) -> list[str]:
        self._labelled |= self.task.recorded()
        if len(self._labelled) == len(self._shards):
            return []
        if self.task.settings.deduplicate and not are_compared(self.task):
            waiting = [shard for name, shard in self._shards.items() if name not in self._hashed]
            self._hashed |= {shard.name for shard in waiting if is_hashed(self.task, shard)}
            step, done = HASH, self._hashed
        else:
            step, done = LABEL, self._labelled
            for name, shard in self._shards.items() if self._has_hashing else ():
                self._count(f"{HASH} {name}", shard.rows)
        for name in done:
            self._count(f"{step} {name}", self._shards[name].rows)
        names = [f"{step} {name}" for name in self._shards if name not in done] or [COMPARE]
        return [name for name in names if name not in tried]

    def run(self, name: str) -> Outcome:
        step, _, shard_name = name.partition(" ")
        if step == COMPARE:
            return self._claimed(self.task.copies_folder, COMPARE, self._compare)
        shard = self._shards[shard_name]
        if step == HASH:
            outcome = self._claimed(self.task.hashes_folder(shard), "", lambda: self._hash(name, shard))
        else:
            outcome = self._claimed(self.task.parts_folder(shard), "", lambda: self._label(name, shard))
        if outcome.state == "finished":
            (self._hashed if step == HASH else self._labelled).add(shard_name)
            self._count(name, shard.rows)
        return outcome

    def label(self, name: str) -> str:
        step, _, shard_name = name.partition(" ")
        return {HASH: f"copies in {shard_name}", COMPARE: "comparison of copies"}.get(step, shard_name)

    def progress(self) -> tuple[int, int]:
        self._labelled |= self.task.recorded()
        done = self._labelled or not self.task.settings.deduplicate or are_compared(self.task)
        return len(self._labelled if done else self._hashed), len(self._shards)

    def rows(self) -> tuple[int, int]:
        """Return how many rows were done when `open` was called last, and how many there are, counted once for each stage."""
        every = sum(shard.rows for shard in self.task.shards) * (2 if self._has_hashing else 1)
        done = sum(self._shards[name.partition(" ")[2]].rows - left for name, left in self._left.items())
        return done, every

    def memory(self) -> int:
        return 0

    def _claimed(self, folder: Path, lock: str, work: Callable[[], object]) -> Outcome:
        try:
            with locked(folder, "shard", lock, wait="no"):
                try:
                    work()
                except Exception:
                    check_publish(folder)  # after a lost lock, its new holder may have removed files
                    raise
        except Busy as busy:
            return Outcome("busy", busy)
        return Outcome("finished")

    def _compare(self) -> None:
        if not are_compared(self.task):  # by another process, since the last look
            compare_hashes(self.task)

    def _hash(self, name: str, shard: Shard) -> None:
        with self._shown(name, shard) as advance:
            hash_shard(self.task, shard, lambda rows: advance(rows, ""))

    def _label(self, name: str, shard: Shard) -> None:
        if self.task.finished(shard):  # by another process, since the last look
            write_record(self.task, shard)
            return
        if self._model is None:
            record = self.task.record
            check_model(self.task, saved_model.fingerprint(record.model, record.form))
            self._model = saved_model.load_on_device(record.model, record.device, record.settings.kind, record.form)
        with self._shown(name, shard) as advance:
            label_shard(self.task, shard, self._model, lambda rows: advance(rows, ""))

    def _shown(self, name: str, shard: Shard) -> AbstractContextManager[Advance]:
        if self.bar is None:
            what = "looking for copies" if name.startswith(HASH) else self.task.settings.kind.replace("-", " ")
            return self.options.show.bar(what, shard.rows, unit="rows")
        return nullcontext(lambda rows, note="": self._count(name, rows))

    def _count(self, name: str, rows: int) -> None:
        """Show rows as done; each once, also if several processes report them."""
        left = self._left.setdefault(name, self._shards[name.partition(" ")[2]].rows)
        more = min(rows, left)
        self._left[name] -= more
        if more and self.bar is not None:
            self.bar(more, "")
