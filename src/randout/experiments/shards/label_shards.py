"""`randout soft-labels MODEL INPUT... -o FOLDER` and `randout predict MODEL INPUT... -o FOLDER`: any number of texts.

Each input shard becomes one output shard with the same name, rows and order. A repeated command skips shards that are
complete, and several commands on the same folders share the work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import randout
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_folder, replacing
from randout.core.wording import plural, verb
from randout.data.shards import Shard, columns_of_shards, find_shards, is_url
from randout.experiments.run import saved_model
from randout.experiments.run.saved_model import LoadedClassifier
from randout.storage.shard_folder import ShardFolder, claimed
from randout.storage.shard_record import LabellingSettings, Manifest

from .copies import are_compared, compare_hashes, held_out_hashes
from .labelling import read_entry
from .task import COPIES, LOCKS, Task
from .workers import WAIT, Report, Step, work_together

WORK = ".work"  # subfolder of a local output folder


@dataclass(frozen=True)
class ShardRequest:
    """What to label and how.

    inputs: folders, globs, Parquet files or URLs. work: folder of unfinished shards and locks; None: within `out` if that is
    local, else within `randout-work` here. held_out: a run or a table whose rows are left out; "" for none.
    """

    kind: Literal["soft-labels", "predictions"]
    model: str
    inputs: Sequence[str]
    out: str
    device: str = "auto"
    form: str = ""
    text_column: str | None = None
    id_column: str | None = None
    probabilities: bool = False
    deduplicate: bool = False
    held_out: str = ""
    jobs: int = 1
    work: Path | None = None


def label_shards(request: ShardRequest, show: Show, bars: Show) -> Manifest:
    """Label all texts of a sharded table, and return the manifest. Raises UserError, Failure.

    bars: shows progress.
    """
    task, model = prepare(request, show)
    if request.deduplicate:
        _find_copies(task, request.jobs, bars)
    finished = {shard.name for shard in task.shards if task.finished(shard)}
    if finished:
        show.say(
            f"{len(finished):,} of {plural(len(task.shards), 'shard')} {verb(len(finished), 'is', 'are')} complete"
        )
    what = "soft labels" if request.kind == "soft-labels" else "predicting"
    _together(task, "label", request.jobs, bars, what, model)
    manifest = _manifest(task, request.model)
    task.folder.write_manifest(manifest)
    shutil.rmtree(task.work / COPIES, ignore_errors=True)
    _note_skipped(manifest, show)
    return manifest


def prepare(request: ShardRequest, show: Show) -> tuple[Task, LoadedClassifier | None]:
    """Return the task, and the model if this process is to use it. Raises UserError for everything that can be checked.

    The model is loaded after all else is checked; its classes are columns of the labelled shards.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if request.jobs < 1:
        raise UserError(f"--jobs {request.jobs}: expected at least 1")
    shards = tuple(find_shards(request.inputs))
    if request.jobs > 1 and any(place.startswith("memory://") for place in (request.out, *request.inputs)):
        raise UserError("--jobs: memory:// belongs to one process; use --jobs 1, or a folder")
    trained = saved_model.trained_columns(request.model)
    text, identifier = columns_of_shards(shards, request.text_column, trained.get("text"), request.id_column)
    if warning := saved_model.column_warning(trained, text, request.text_column, request.inputs[0]):
        show.warn(warning)
    out = ShardFolder(request.out)
    work = request.work or (out.local / WORK if out.local else Path("randout-work") / _short_digest(request.out))
    check_folder(work)
    held, held_digest = None, ""
    if request.held_out:
        hashes = held_out_hashes(request.held_out, request.text_column, show)
        held_digest = hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()
        held = work / f"held-out-{held_digest[:16]}.npy"
        with replacing(held) as partial, partial.open("wb") as stream:
            np.save(stream, hashes, allow_pickle=False)
    fingerprint = saved_model.fingerprint(request.model, request.form)
    model = saved_model.load_on_device(
        request.model, request.device if request.jobs == 1 else "cpu", request.kind, request.form
    )
    classes = [str(name) for name in model.id2label.values()]
    _check_names(request, identifier, classes)
    settings = LabellingSettings(
        kind=request.kind,
        model=fingerprint,
        classes=classes,
        text_column=text,
        id_column=identifier or "",
        probabilities=request.probabilities,
        deduplicate=request.deduplicate,
        held_out=held_digest,
    )
    threads = max(cores // request.jobs, 1)
    task = Task(request.model, request.device, request.form, request.out, work, settings, shards, held, threads)
    _check_folder_of(task)
    return task, model if request.jobs == 1 else None


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_names(request: ShardRequest, identifier: str | None, classes: Sequence[str]) -> None:
    """Raise UserError if the id column has the name of one of the columns that are written."""
    soft = [f"logit_{name}" for name in classes]
    own = soft if request.kind == "soft-labels" else ["label", "score", *(f"probability_{name}" for name in classes)]
    if identifier in (*own, "skipped"):
        raise UserError(
            f"--id-column {identifier}: this is the name of a column that is written. Rename it in the input"
        )
    if not is_url(request.out) and any(
        Path(place).absolute() == Path(request.out).absolute() for place in request.inputs
    ):
        raise UserError(f"-o {request.out}: this is the folder of the texts. Choose another one")


def _check_folder_of(task: Task) -> None:
    """Raise UserError if the output folder has shards of another model or of other settings."""
    for shard in task.shards:
        there = task.folder.record(shard.name)
        if there is not None and (wrong := there.settings.differences(task.settings)):
            named = ", ".join(
                f"{name} (there {_shown(getattr(there.settings, name))}, now {_shown(getattr(task.settings, name))})"
                for name in wrong
            )
            raise UserError(
                f"{task.folder.path(shard.name)}: this shard was labelled with other settings: {named}. Choose another folder "
                "with -o, or delete this one to label again"
            )


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if len(text) > 40 else text or "none"


def _together(task: Task, step: Step, jobs: int, bars: Show, what: str, model: LoadedClassifier | None = None) -> None:
    """Do a step of a task in so many processes, with a progress bar over all rows."""
    total = sum(shard.rows for shard in task.shards)
    with bars.bar(what, total, unit="rows") as advance:
        work_together(task, step, jobs, _counted(task.shards, lambda rows: advance(rows, "")), model)


def _counted(shards: Sequence[Shard], advance: Callable[[int], None]) -> Report:
    """Return a report that counts each row once, also if a shard is reported by several processes."""
    left = {shard.name: shard.rows for shard in shards}

    def report(name: str, rows: int) -> None:
        more = left[name] if rows < 0 else min(rows, left[name])
        left[name] -= more
        if more:
            advance(more)

    return report


def _find_copies(task: Task, jobs: int, bars: Show) -> None:
    """Hash all texts, and find the first row of each text. Other processes on this folder wait for the one that compares."""
    if all(task.finished(shard) for shard in task.shards):
        return
    if are_compared(task):
        return
    _together(task, "hash", jobs, bars, "looking for copies")
    while not are_compared(task):
        with claimed(task.work / LOCKS / f"compare-{task.copies_folder.name}") as mine:
            if mine and not are_compared(task):
                compare_hashes(task)
        if not mine:
            time.sleep(WAIT)


def _manifest(task: Task, model: str) -> Manifest:
    entries = [read_entry(task, shard) for shard in task.shards]
    totals = {
        name: sum(getattr(entry, name) for entry in entries)
        for name in ("rows", "labelled", "empty", "copies", "held_out")
    }
    return Manifest(
        format=1,
        version=randout.__version__,
        model_name=Path(model).name,
        settings=task.settings,
        shards=entries,
        **totals,
    )


def _note_skipped(manifest: Manifest, show: Show) -> None:
    for count, what in (
        (manifest.empty, "are empty"),
        (manifest.copies, "are copies of an earlier row"),
        (manifest.held_out, "are copies of a held-out row"),
    ):
        if count:
            show.say(f"note: {count:,} of {plural(manifest.rows, 'row')} {what} and have no label")
