"""`randout soft-labels MODEL INPUT... -o FOLDER` and `randout predict MODEL INPUT... -o FOLDER`: any number of texts.

Each input shard becomes one output shard with the same name, rows and order. A repeated command skips shards that are
complete, and several commands on the same folders share the work.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import randout
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_folder, check_folder_name, replacing, resolved_place
from randout.core.hardware import limit_kernel_cache
from randout.core.lazy import torch
from randout.core.wording import plural, verb
from randout.data.shards import columns_of_shards, find_shards, is_url
from randout.experiments.run import saved_model
from randout.experiments.run.abstention import abstainer
from randout.experiments.run.batch_prediction import column_names
from randout.experiments.run.options import Options
from randout.experiments.run.saved_model import LoadedClassifier
from randout.experiments.sharing import scheduling
from randout.experiments.sharing.cells import prepared
from randout.storage.shard_folder import ShardFolder
from randout.storage.shard_record import LabellingSettings, LabellingTask, Manifest

from .copies import held_out_hashes
from .labelling import COUNTS, read_entry, write_record
from .shard_cells import ShardCells
from .task import COPIES, PARTS, Task, held_out_file

WORK = ".work"  # subfolder of a local output folder


@dataclass(frozen=True)
class ShardRequest:
    """What to label and how.

    inputs: folders, globs, Parquet files or URLs. work: folder of unfinished shards and locks; None: within `out` if that is
    local, else within `randout-work` here. held_out: a run or a table whose rows are left out; "" for none. abstain: of
    predictions, as for `abstention.abstainer`; "": every text gets a label. text_pair: column of the second texts; None: as
    in the model's training.
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
    work: Path | None = None
    abstain: str = ""
    text_pair: str | None = None


def label_shards(request: ShardRequest, options: Options) -> Manifest:
    """Label all texts of a sharded table, and return the manifest.

    options: `jobs`, `threads`, `cluster` and `gpus` say what labels; `show` reports. Raises UserError, Failure, and Stopped
    if a stop was requested while several processes were at work.
    """
    limit_kernel_cache()
    if options.jobs > 1 or options.cluster or options.threads:
        options = prepared(options)
    if options.cluster and options.gpus is None:
        options = replace(options, gpus=_gpus(request))
    task, model = prepare(request, options)
    finished = _recorded(task)
    if finished:
        are = verb(len(finished), "is", "are")
        options.show.say(f"{len(finished):,} of {plural(len(task.shards), 'shard')} {are} complete")
    if len(finished) < len(task.shards):
        _work(task, options, model)
    manifest = _manifest(task, request.model)
    task.folder.write_manifest(manifest)
    for name in (COPIES, PARTS):
        shutil.rmtree(task.work / name, ignore_errors=True)
    _note_skipped(manifest, options.show)
    return manifest


def _gpus(request: ShardRequest) -> float:
    """Return the GPUs of each task of a cluster: one if the model runs on a GPU, which "auto" does as on this machine."""
    if request.device == "auto" and not saved_model.runs_on_cpu_only(request.model):
        return float(torch.cuda.is_available())
    return float(request.device == "cuda")


def _recorded(task: Task) -> set[str]:
    """Return the names of the shards that are in place, after making their records agree with the files.

    The processes that share the task only look at the records.
    """
    found, recorded = set(), task.recorded()
    for shard in task.shards:
        if task.finished(shard):
            found.add(shard.name)
            if shard.name not in recorded:
                write_record(task, shard)
        elif shard.name in recorded:
            task.record_file(shard).unlink(missing_ok=True)
    return found


def _work(task: Task, options: Options, model: LoadedClassifier | None) -> None:
    """Label the shards that are not finished, in this process with one progress bar, or in others."""
    cells = ShardCells(task, options, model)
    if model is None:
        scheduling.work(cells, options)
        return
    cells.open(())
    done, total = cells.rows()
    with options.show.bar(task.settings.kind.replace("-", " "), total, done, "rows") as cells.bar:
        scheduling.work(cells, options)


def prepare(request: ShardRequest, options: Options) -> tuple[Task, LoadedClassifier | None]:
    """Return the task, and the model if this process is to use it. Raises UserError for everything that can be checked.

    The model is loaded after all else is checked; its classes are columns of the labelled shards.
    """
    shared, show = options.jobs > 1 or bool(options.cluster), options.show
    _check_apart(request)
    if not is_url(request.out):
        check_folder_name(Path(request.out).expanduser())
    shards = tuple(find_shards(request.inputs))
    if shared and any(place.startswith("memory://") for place in (request.out, *request.inputs)):
        raise UserError("memory:// belongs to one process; leave --jobs and --cluster out, or name a folder")
    trained = saved_model.trained_columns(request.model)
    fields = saved_model.fields_of(request.model, request.text_pair)
    text, identifier = columns_of_shards(shards, request.text_column, trained.get("text"), request.id_column, fields)
    if warning := saved_model.column_warning(trained, text, request.text_column, request.inputs[0]):
        show.warn(warning)
    out = request.out if is_url(request.out) else str(Path(request.out).expanduser().absolute())
    local = ShardFolder(out).local
    work = (request.work or (local / WORK if local else Path("randout-work") / _short_digest(out))).absolute()
    check_folder(work)
    held = _write_held_out(request, work, show)
    abstention = _abstention(request, show)
    fingerprint = saved_model.fingerprint(request.model, request.form)
    device = "cpu" if shared else request.device
    model = saved_model.load_on_device(request.model, device, request.kind, request.form)
    classes = [str(name) for name in model.id2label.values()]
    _check_names(request, identifier, classes)
    settings = LabellingSettings(
        kind=request.kind,
        model=fingerprint,
        classes=classes,
        text_column=text,
        input_fields=fields or None,
        id_column=identifier or "",
        probabilities=request.probabilities,
        deduplicate=request.deduplicate,
        held_out=held,
        abstention=abstention,
        thresholds=None if model.thresholds is None else list(model.thresholds),
    )
    place = resolved_place(request.model, Path.cwd())
    record = LabellingTask(
        model=place, device=request.device, form=request.form, out=out, settings=settings, shards=shards
    )
    task = Task(record, work)
    _check_folder_of(task)
    if shared:
        task.write()
    return task, None if shared else model


def _abstention(request: ShardRequest, show: Show) -> tuple[float, float] | None:
    """Return the temperature and the least confidence of a label; None if every text gets one. Raises UserError."""
    if not request.abstain:
        return None
    if request.kind == "soft-labels":
        raise UserError(f"abstain {request.abstain}: soft labels have no label to leave out. Label predictions instead")
    found = abstainer(request.model, request.abstain, show)
    return found.temperature, found.threshold.confidence


def _write_held_out(request: ShardRequest, work: Path, show: Show) -> str:
    """Store the hashes of held-out rows in the work folder; returns their digest, "" if there are none."""
    if not request.held_out:
        return ""
    fields = saved_model.fields_of(request.model, request.text_pair)
    hashes = held_out_hashes(request.held_out, request.text_column, show, fields)
    found = hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()
    with replacing(held_out_file(work, found)) as partial, partial.open("wb") as stream:
        np.save(stream, hashes, allow_pickle=False)
    return found


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_names(request: ShardRequest, identifier: str | None, classes: Sequence[str]) -> None:
    """Raise UserError if the id column has the name of one of the columns that are written."""
    soft = [f"logit_{name}" for name in classes]
    own = soft if request.kind == "soft-labels" else column_names(classes, bool(request.abstain))
    if identifier in (*own, "skipped"):
        raise UserError(
            f"--id-column {identifier}: this is the name of a column that is written. Rename it in the input"
        )


def _check_apart(request: ShardRequest) -> None:
    """Raise UserError if the output folder is in a folder of the texts: its shards would be texts the next time."""
    for place in request.inputs:
        if is_url(place) or is_url(request.out):
            inside = f"{request.out.rstrip('/')}/".startswith(f"{place.rstrip('/')}/")
        else:
            inside = Path(request.out).expanduser().resolve().is_relative_to(Path(place).expanduser().resolve())
        if inside:
            raise UserError(f"-o {request.out}: this is in the folder of the texts, {place}. Choose another one")


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


def _manifest(task: Task, model: str) -> Manifest:
    entries = [read_entry(task, shard) for shard in task.shards]
    totals = {name: sum(getattr(entry, name) for entry in entries) for name in ("rows", *COUNTS)}
    return Manifest(
        format=1,
        version=randout.__version__,
        model_name=Path(model).name,
        settings=task.settings,
        shards=entries,
        **totals,
    )


def _note_skipped(manifest: Manifest, show: Show) -> None:
    label = "label" if manifest.settings.thresholds is None else "label set"
    for count, what in (
        (manifest.empty, "are empty"),
        (manifest.copies, "are copies of an earlier row"),
        (manifest.held_out, "are copies of a held-out row"),
        (manifest.abstained, f"are below the confidence of a {label}"),
    ):
        if count:
            show.say(f"note: {count:,} of {plural(manifest.rows, 'row')} {what} and have no {label}")
