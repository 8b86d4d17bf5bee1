"""The main job: a plan carried out into a run folder. Teacher, soft labels, student, honest scores, model folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint, models, prepare, runs, soft_labels
from .config import to_toml
from .encoder import Encoder
from .errors import UserError
from .loop import Material, Session, begin, fit, flush, predict, step
from .method import Run
from .metrics import score
from .prepare import Plan, portable
from .progress import Show, duration
from .runs import RunFolder
from .scoring import model_card, open_test, score_split, score_test

BEGUN = {".lock", "run.toml", "split.json", "run.json"}  # what stands in a run's folder before `run.json` does


@dataclass(frozen=True)
class Options:
    """How a job is carried out; nothing here changes its result. deadline: of `time.monotonic()`."""

    runs: Path = Path("runs")
    out: Path | None = None
    fresh: bool = False
    accept_changes: bool = False
    deadline: float | None = None
    show: Show = field(default_factory=Show)


class Stopped(Exception):
    """The training was stopped on request, and saved. `why` says by what, `run` where it stands."""

    def __init__(self, why: str, run: RunFolder) -> None:
        super().__init__(why)
        self.why, self.run = why, run


@dataclass(frozen=True)
class Result:
    """A finished run. metrics: as `metrics.json`. new: trained now, not found finished."""

    run: RunFolder
    metrics: dict[str, Any]
    new: bool

    @property
    def folder(self) -> Path:
        return self.run.path

    @property
    def model_path(self) -> Path:
        """An ordinary Hugging Face folder."""
        return self.run.model

    @property
    def predictions(self) -> dict[str, Any]:
        """A pyarrow table for each scored split: row, label, prediction, score, logits."""
        import pyarrow.parquet as parquet

        return {file.stem: parquet.read_table(file) for file in sorted((self.folder / "predictions").glob("*.parquet"))}


def estimate(plan: Plan, options: Options, steps: int = 3) -> list[str]:
    """What a dry run says: rows, tokens, memory, and minutes from `steps` real steps on copies that are thrown away."""
    session = make_session(plan)
    spread = torch.zeros(len(plan.dataset.texts), len(plan.dataset.id2label)) if plan.has_teacher else None
    material = make_material(plan, spread)
    rows = np.concatenate([material.labelled, material.unlabelled])
    lengths, size, epochs = plan.tokens.lengths, plan.config.train.batch_size, plan.config.train.epochs
    session.run.steps = -(-len(rows) // size) * epochs
    median = rows[np.argsort(lengths[rows], kind="stable")][np.linspace(0, len(rows) - 1, size).round().astype(int)]
    for number in range(steps + 1):
        if number == 1:  # the first step also allocates
            began = time.perf_counter()
        step(session, material, median)
    seconds = (time.perf_counter() - began) / steps * session.run.steps
    weights = sum(p.numel() for p in session.encoder.model.parameters())
    activations = (
        34 * int(lengths[median].sum()) * session.encoder.model.config.hidden_size * len(session.encoder.sites.blocks)
    )
    lines = [f"rows: {', '.join(f'{len(index):,} {name}' for name, index in plan.dataset.split.items())}"]
    lines += [
        f"tokens: {int(lengths[rows].sum()):,} an epoch, {int(lengths[rows].sum()) * epochs:,} in {epochs} epochs"
    ]
    lines += [f"memory: about {(16 * weights + 4 * activations) / 2**30:.1f} GiB for {weights / 1e6:.1f}M parameters"]
    lines += [f"time: about {duration(seconds)} for the student, all {epochs} epochs, without its teacher"]
    if plan.teacher_plan is not None:
        lines += ["teacher, fine-tuned first:"] + [f"  {line}" for line in estimate(plan.teacher_plan, options, steps)]
    return lines


def carry_out(plan: Plan, options: Options) -> Result:
    """Train what `plan` says, or find it done. Raises Stopped, UserError, Failure."""
    run = _folder(plan, options)
    with run.lock():
        if run.finished:
            clean(run)  # killed after its last write, it could not do so itself
            options.show.say(f"already trained: {run.path}")
            metrics = run.read("metrics.json")
            if plan.config.output.test and "test" in plan.dataset.split and "test" not in metrics:
                return Result(run, open_test(run, plan, options.show), False)
            return Result(run, metrics, False)
        for note in plan.notes:
            options.show.say(note)
        _begin_record(run, plan, options)
        try:
            teacher = teach(plan, options)
        except Stopped as stop:  # in the teacher's training: this run is the one to go on with
            raise Stopped(stop.why, run) from None
        session = _train(plan, run, teacher, options)
        metrics = _finish(plan, run, session, teacher, options)
    return Result(run, metrics, True)


def _folder(plan: Plan, options: Options) -> RunFolder:
    """Where this plan's run lives. Raises UserError where another run stands in the folder that was named."""
    path = options.out or options.runs / plan.name
    if options.fresh:
        path = runs.free_path(path)
    run = RunFolder(path)
    if run.exists:
        was = run.record
        if was["fingerprint"] != plan.fingerprint:
            parts = [name for name, value in plan.identity.items() if was["identity"].get(name) != value]
            what = "the data changed since" if "data" in parts else f"another run ({', '.join(parts)} differ)"
            raise UserError(
                f"{path}: this folder holds {what}; name another with -o, or use --fresh to train beside it"
            )
    elif path.exists() and (not path.is_dir() or {p.name.removesuffix(".partial") for p in path.iterdir()} - BEGUN):
        raise UserError(f"{path}: there is something else at this place, and it is left alone; name another with -o")
    return run


def environment(plan: Plan) -> dict[str, Any]:
    """What the same bits depend on besides the configuration."""
    import transformers

    device = plan.config.train.device
    name = torch.cuda.get_device_name() if device == "cuda" else device
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**versions, "device": name, "threads": torch.get_num_threads()}


def _begin_record(run: RunFolder, plan: Plan, options: Options) -> None:
    if run.exists:
        return
    config, folder = plan.config, run.path
    data = {key: portable(getattr(config.data, key), folder) for key in ("source", "validation", "test", "unlabeled")}
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "student": config.student.model_copy(update={"model": portable(config.student.model, folder)}),
            "teacher": config.teacher.model_copy(update={"model": portable(config.teacher.model, folder)}),
        }
    )
    checkpoint.replace_text(folder / "run.toml", to_toml(config))
    rows = plan.dataset.row_ids
    run.write("split.json", {name: [rows[i] for i in index] for name, index in plan.dataset.split.items()})
    command = [Path(word).name if os.path.isabs(word) else word for word in sys.argv]
    record = {"format": runs.FORMAT, "fingerprint": plan.fingerprint, "identity": plan.identity, "command": command}
    record |= {"environment": environment(plan), "data": plan.dataset.sha256, "started": runs.now(), "finished": None}
    record["runs"] = os.path.relpath(options.runs, folder)  # where a teacher and soft labels are
    run.write("run.json", record)


@dataclass(frozen=True)
class Taught:
    """What a teacher gives: its logits for every row of the dataset (n, C), NaN where it was not asked, and its score."""

    name: str
    logits: torch.Tensor
    validation: dict[str, Any]


def teach(plan: Plan, options: Options) -> Taught | None:
    """The teacher's soft labels for the rows to learn from and to validate on; it is fine-tuned first where it must be."""
    source = plan.teacher
    if plan.teacher_plan is not None:
        options.show.say(f"teacher: {plan.config.teacher.model} is fine-tuned first")
        where = Options(options.runs, None, False, options.accept_changes, options.deadline, options.show)
        found = carry_out(plan.teacher_plan, where)
        source = models.find(str(found.folder))
    if source is None:
        return None
    dataset, table = plan.dataset, plan.config.teacher
    rows = np.concatenate(
        [dataset.split[name] for name in ("train", "validation", "unlabeled") if name in dataset.split]
    )
    texts = [dataset.texts[row] for row in rows]
    _warn_of_leak(source, plan, options.show)
    encoder = models.load(source, pack=plan.config.train.packing)
    order = soft_labels.column_order(encoder.model.config.id2label, dataset.id2label, table.labels, source.name)
    max_length = _teacher_length(table.max_length, encoder, plan)
    precision = plan.config.train.precision
    parts = soft_labels.fingerprint(source.fingerprint(), max_length, table.truncation, precision, texts)
    encoder.model.to(plan.config.train.device)
    logits = soft_labels.compute(encoder, texts, options.runs / "soft-labels", parts, options.show, source.label)[
        :, order
    ]
    spread = soft_labels.teacher_rows(logits, rows, len(dataset.texts))
    own = spread[dataset.split["validation"]].numpy()
    validation = score(dataset.labels[dataset.split["validation"]], own, dataset.id2label)
    options.show.say(f"teacher {source.label}: validation accuracy {validation['accuracy']:.2%}")
    return Taught(source.label, spread, validation)


def _teacher_length(asked: int | str, encoder: Encoder, plan: Plan) -> int:
    """The length the teacher reads: asked for, what it was trained with, or the student's."""
    if asked != "auto":
        if int(asked) > encoder.longest:
            raise UserError(f"teacher.max_length: {asked} asked for, but it takes {encoder.longest} at most")
        return int(asked)
    if plan.teacher_plan is not None:
        return int(plan.teacher_plan.config.student.max_length)
    return min(encoder.longest, 512)


def _warn_of_leak(source: models.Source, plan: Plan, show: Show) -> None:
    """Say so where a teacher that is a run was trained on rows that are held out here."""
    run = RunFolder(source.folder.parent)
    if not run.exists or run.record["data"] != plan.dataset.sha256:
        return
    taught = set(run.read("split.json").get("train", []))
    for name in ("validation", "test"):
        held = [plan.dataset.row_ids[row] for row in plan.dataset.split.get(name, [])]
        if seen := sum(row in taught for row in held):
            show.warn(
                f"the teacher was trained on {seen} of the {len(held)} {name} rows, so {name} scores will flatter"
            )


def make_session(plan: Plan) -> Session:
    """The student loaded and its methods started, at position zero."""
    config = plan.config
    rates = {"dropout": config.student.dropout, "attention_dropout": config.student.attention_dropout}
    if config.train.device == "cuda":  # the same bits, at some cost
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    encoder = models.load(
        plan.student,
        id2label=plan.dataset.id2label,
        head=config.student.head,
        layers=config.student.layers,
        seed=config.train.seed,
        pack=config.train.packing,
        **{name: None if rate == "model" else float(rate) for name, rate in rates.items()},
    )
    encoder.model.to(config.train.device)
    weights = prepare.class_weights(plan.dataset).to(config.train.device)
    run = Run(encoder.model, encoder.sites, config.train.seed, len(plan.dataset.id2label), weights)
    for method in plan.methods:
        method.check(run)
    return begin(encoder, run, plan.methods, config.train, config.train.precision)


def make_material(plan: Plan, teacher: torch.Tensor | None) -> Material:
    """What the student of `plan` learns from; teacher: (n, C) logits."""
    split = plan.dataset.split
    unlabelled = split.get("unlabeled", np.zeros(0, np.int64))
    return Material(plan.tokens, torch.from_numpy(plan.dataset.labels), split["train"], unlabelled, teacher)


def _train(plan: Plan, run: RunFolder, teacher: Taught | None, options: Options) -> Session:
    """Train to the end from the last checkpoint, saving on the way; the session comes back with its best weights."""
    show, config, dataset = options.show, plan.config, plan.dataset
    session = make_session(plan)
    where = environment(plan)
    if checkpoint.restore(session, run.checkpoint, where, options.accept_changes):
        show.say(f"going on from step {session.position.step} of {run.path}")
    if not session.encoder.packed:
        show.say(f"{plan.student.label} runs padded, in windows sorted by length: {session.encoder.reason}")
    material = make_material(plan, None if teacher is None else teacher.logits)
    held = dataset.split["validation"]

    def validate() -> dict[str, Any]:
        logits = predict(session.encoder, plan.tokens, held, config.train.precision)
        return score(dataset.labels[held], logits, dataset.id2label)

    texts = len(material.labelled) + len(material.unlabelled)
    position = session.position
    done = position.epoch * texts + position.batch * config.train.batch_size
    what = f"{plan.student.label} ({'+'.join(method.name for method in plan.methods)})"
    saved = time.monotonic()
    with (
        _stop_signal() as stop,
        show.bar(what, texts * config.train.epochs, min(done, texts * config.train.epochs)) as bar,
    ):
        for event in fit(session, material, validate):
            bar(event.texts, "")
            why = stop.why or ("the time limit" if options.deadline and time.monotonic() > options.deadline else "")
            ended = bool(position.ended)
            if event.metrics is not None or why or time.monotonic() - saved > 60 * config.train.save_minutes:
                flush(session)
                checkpoint.save(session, run.checkpoint, where, event.improved)
                saved = time.monotonic()
            if event.metrics is not None:
                show.say(_epoch_line(what, session, event.improved))
            if why and not ended:
                raise Stopped(why, run)
    checkpoint.restore_best(session, run.checkpoint)
    return session


def _epoch_line(what: str, session: Session, improved: bool) -> str:
    row, settings = session.position.history[-1], session.settings
    losses = ", ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_"))
    value = row[f"validation_{settings.metric}"]
    shown = f"{value:.4f}" if settings.metric == "log_loss" else f"{value:.2%}"
    best = " (best so far)" if improved else ""
    ended = session.position.ended
    stop = f"; stopping: {ended}" if ended and not ended.startswith("all") else ""
    spent = duration(row["seconds"])
    return f"{what}: epoch {row['epoch']}/{settings.epochs}, {losses}, validation {settings.metric} {shown}{best}, {spent}{stop}"


class _Stop:
    why = ""


@contextlib.contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """While open, the first Ctrl-C (or SIGTERM) asks for a clean stop; a second one interrupts at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: Any) -> None:
        if stop.why:
            raise KeyboardInterrupt
        stop.why = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(plan: Plan, run: RunFolder, session: Session, teacher: Taught | None, options: Options) -> dict[str, Any]:
    """Score the best weights in float32, as the saved folder will run, then write everything; the last write counts."""
    position = session.position
    metrics = {"validation": score_split(session.encoder, plan, "validation", run, options.show)}
    show = options.show
    if plan.config.output.test and "test" in plan.dataset.split:
        metrics["test"] = score_test(session.encoder, plan, run, show, "train")
    history = position.history
    run.write("history.json", {"epochs": history, "best_epoch": position.best_epoch, "ended": position.ended})
    max_length = int(plan.config.student.max_length)
    models.save(session.encoder, run.model, max_length, model_card(plan, metrics, teacher.name if teacher else ""))
    run.write("metrics.json", metrics)
    if teacher is not None:
        _compare_with_teacher(plan, metrics["validation"], teacher, run, show)
    extra = {"encoder": {"packed": session.encoder.packed, "reason": session.encoder.reason}}
    if teacher is not None:
        extra["teacher"] = {"name": teacher.name, "validation_accuracy": teacher.validation["accuracy"]}
    run.write("run.json", run.record | extra | {"finished": runs.now()})
    clean(run)
    return metrics


def clean(run: RunFolder) -> None:
    """Drop what only an unfinished run needs."""
    shutil.rmtree(run.checkpoint, ignore_errors=True)


def _compare_with_teacher(plan: Plan, own: dict[str, Any], teacher: Taught, run: RunFolder, show: Show) -> None:
    """Warn where the teacher is not above the plain student (a finished plain run beside, else this student)."""
    plain = own["accuracy"]
    what = "this student"
    for other in runs.list_runs(run.path.parent):
        if other.finished and other.record["identity"]["methods"].keys() == {"ce"}:
            same = all(other.record["identity"][part] == plan.identity[part] for part in ("data", "split", "student"))
            if same:
                plain, what = other.read("metrics.json")["validation"]["accuracy"], "the plain student"
    if teacher.validation["accuracy"] <= plain:
        show.warn(
            f"the teacher ({teacher.validation['accuracy']:.2%}) is not above {what} ({plain:.2%}) on validation, "
            "so there may be little to learn from it"
        )
