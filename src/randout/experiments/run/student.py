"""Trains the student of a plan: load, resume, show progress, save, stop when asked."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from randout.baselines import Bag, Network
from randout.core.console import duration
from randout.core.terminal import catchable
from randout.core.wording import plural
from randout.methods.base import Context, LiveTeacher, Method
from randout.methods.compatibility import learned_rows
from randout.models import loading
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.tokens import Tokens, encode, truncate
from randout.stats.metrics import score
from randout.storage.run_folder import RunFolder
from randout.training import checkpoint
from randout.training.loop import begin, fit, flush, step
from randout.training.state import Material, TrainingState

from .options import Options as Options
from .options import Paused as Paused
from .options import Stopped as Stopped
from .planning import FOLDS, Plan, by_folds, class_weights


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's logits for every row of the dataset (n, C), NaN for rows it did not score, and its validation metrics.

    others: further teachers. live: the teacher itself, if a method runs it. about: its number of parameters, and its speed
    in texts per second.
    """

    name: str
    logits: torch.Tensor
    validation: dict[str, Any] = field(default_factory=dict)
    others: tuple[TeacherOutputs, ...] = ()
    live: LiveTeacher | None = None
    about: dict[str, float] = field(default_factory=dict)


def environment(plan: Plan) -> dict[str, Any]:
    """Return what bit-identical results depend on in addition to the configuration: versions, device, threads."""
    import transformers

    device = plan.config.train.device
    name = torch.cuda.get_device_name() if device == "cuda" else device
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    return {**versions, "device": name, "threads": torch.get_num_threads()}


def make_session(plan: Plan, teacher: TeacherOutputs | None = None) -> TrainingState:
    """Return the training state at step zero: the student loaded and its methods set up."""
    encoder, context = student_of(plan, teacher.live if teacher else None)
    session = begin(encoder, context, plan.methods, plan.config.train, plan.config.train.precision)
    if isinstance(plan.classifier, Network):
        session.optimizer = plan.classifier.optimizer(encoder.model)
    return session


def check_methods(methods: Sequence[Method], context: Context) -> None:
    """Raise UserError if a method does not support this student."""
    for method in methods:
        method.check(context)


def student_of(plan: Plan, teacher: LiveTeacher | None = None) -> tuple[Encoder, Context]:
    """Load the student on its device; return it and the context of its methods. teacher: for methods that run one."""
    config = plan.config
    rates = {"dropout": config.student.dropout, "attention_dropout": config.student.attention_dropout}
    if config.train.device == "cuda":  # bit-identical results, at some cost in speed
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    encoder = _network(plan) or loading.load(
        plan.student,
        id2label=plan.dataset.id2label,
        head=config.student.head,
        pooling="mean" if config.student.pooling == "mean" else "first",
        layers=config.student.layers,
        seed=config.train.seed,
        pack=config.train.packing,
        **{name: None if rate == "model" else float(rate) for name, rate in rates.items()},
    )
    encoder.model.to(config.train.device)
    weights = class_weights(plan.dataset).to(config.train.device)
    teachers = plan.has_teacher + len(plan.more)
    context = Context.of(encoder, config.train.seed, len(plan.dataset.id2label), weights, teachers, teacher)
    return encoder, context


def _network(plan: Plan) -> Encoder | None:
    """Return a new neural baseline, or None if the student is an encoder."""
    if not isinstance(plan.classifier, Network):
        return None
    vocabulary = plan.classifier.vocabulary(plan.dataset.texts[row] for row in plan.dataset.split["train"])
    return plan.classifier.encoder(vocabulary, plan.dataset.id2label, plan.config.train.seed)


def make_material(plan: Plan, teacher: TeacherOutputs | None) -> Material:
    """Return what the student of `plan` learns from: tokens, labels, rows and teacher logits."""
    unlabelled = plan.dataset.split.get("unlabeled", np.zeros(0, np.int64))
    labelled, heldout = learned_rows(plan.dataset, plan.methods)
    logits, others = (teacher.logits, tuple(other.logits for other in teacher.others)) if teacher else (None, ())
    return Material(plan.tokens, torch.from_numpy(plan.dataset.labels), labelled, unlabelled, logits, heldout, others)


def train_student(plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainingState:
    """Train to the end, from the last checkpoint if there is one; return the training state with its best weights.

    Checkpoints are saved during training. Raises Stopped after a stop was requested and the state is saved.
    """
    show, config, dataset = options.show, plan.config, plan.dataset
    session = make_session(plan, teacher)
    where = environment(plan)
    changed = checkpoint.changes(run.checkpoint, where)
    accepted = options.accept_changes or bool(changed and show.ask(f"{changed}. Resume anyway?"))
    if checkpoint.restore(session, run.checkpoint, where, accepted):
        show.say(f"resuming from step {session.position.step} of {run.path}")
    if not session.encoder.packed:
        show.say(f"{plan.student.label} runs with padding, in windows sorted by length: {session.encoder.reason}")
    material = make_material(plan, teacher)
    held = dataset.split["validation"]

    def validate() -> dict[str, Any]:
        if not len(held):  # the refit trains on all rows
            return {}
        logits = predict(session.encoder, plan.tokens, held, config.train.precision)
        return score(dataset.labels[held], logits, dataset.id2label, unseen=dataset.unseen)

    texts = len(material.labelled) + len(material.unlabelled)
    position = session.position
    done = position.epoch * texts + position.batch * config.train.batch_size
    what = f"{plan.student.label} ({'+'.join(method.name for method in plan.methods)})"
    saved = time.monotonic()
    pause = options.pause_at if options.pause_at is not None else math.inf
    if position.step >= pause:  # killed after the pause, before its caller recorded it
        raise Paused(run, validate())
    with (
        _stop_signal() as stop,
        show.bar(what, texts * config.train.epochs, min(done, texts * config.train.epochs)) as bar,
    ):
        for event in fit(session, material, validate):
            bar(event.texts, "")
            why = stop.why or ("the time limit" if options.deadline and time.monotonic() > options.deadline else "")
            ended = bool(position.ended)
            paused = event.metrics is None and position.step >= pause
            if event.metrics is not None or why or paused or time.monotonic() - saved > 60 * config.train.save_minutes:
                flush(session)
                checkpoint.save(session, run.checkpoint, where, event.improved)
                saved = time.monotonic()
            if event.metrics is not None:
                show.say(_epoch_line(what, session, event.improved))
            if why and not ended:
                raise Stopped(why, run)
            if paused:
                metrics = validate()
                raise Stopped(stop.why, run) if stop.why else Paused(run, metrics)
        if stop.why:  # requested at the very end: a caller that trains several students must stop too
            raise Stopped(stop.why, run)
    checkpoint.restore_best(session, run.checkpoint)
    return session


def _epoch_line(what: str, session: TrainingState, improved: bool) -> str:
    row, settings = session.position.history[-1], session.settings
    losses = ", ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_"))
    value = row.get(f"validation_{settings.metric}")
    shown = f"{value:.4f}" if settings.metric == "log_loss" else f"{value:.2%}" if value is not None else ""
    score = f", validation {settings.metric} {shown}" if shown else ""
    best = " (best so far)" if improved and settings.keep != "last" else ""
    ended = session.position.ended
    stop = f"; stopping: {ended}" if ended and not ended.startswith("all") else ""
    spent = duration(row["seconds"])
    return f"{what}: epoch {row['epoch']}/{settings.epochs}, {losses}{score}{best}, {spent}{stop}"


class _Stop:
    why = ""


@contextlib.contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """Within this context, the first Ctrl-C, SIGTERM or SIGHUP requests a clean stop; a second one interrupts at once.

    SIGHUP stays ignored if the caller ignores it (nohup).
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: Any) -> None:
        if stop.why:
            raise KeyboardInterrupt
        stop.why = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    wanted = [signal.SIGINT, signal.SIGTERM, *catchable("SIGHUP")]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stand_in(plan: Plan) -> TeacherOutputs:
    """Return a placeholder teacher that costs as much as the real one: zero logits, and its encoder if a method runs it."""
    logits = torch.zeros(len(plan.dataset.texts), len(plan.dataset.id2label))
    live = None
    if any(method.teacher == "model" for method in plan.methods):
        source = plan.teacher or plan.teacher_plan.student  # type: ignore[union-attr]
        encoder = loading.load(source, id2label=plan.dataset.id2label, pack=plan.config.train.packing)
        live = live_teacher(plan, encoder, tuple(plan.dataset.id2label), 0)
    return TeacherOutputs("", logits, {}, tuple(TeacherOutputs("", logits) for _ in plan.more), live)


def live_teacher(plan: Plan, encoder: Encoder, columns: tuple[int, ...], max_length: int) -> LiveTeacher:
    """Freeze `encoder` as a teacher for any row of the dataset. max_length: in tokens; 0: the student's."""
    encoder.model.to(plan.config.train.device).requires_grad_(False)
    length = max_length or min(int(plan.config.student.max_length), encoder.longest)
    encoded = encode(encoder.tokenizer, plan.dataset.texts)
    tokens = truncate(encoded, length, plan.config.teacher.truncation, encoder.suffix, encoder.prefix)
    return LiveTeacher(encoder, tokens, columns, plan.config.train.precision, same_tokens(tokens, plan.tokens))


def same_tokens(one: Tokens, other: Tokens) -> bool:
    """Return whether all texts that neither truncates have the same ids in both; False if there is no such text."""
    full = np.flatnonzero((one.whole == one.lengths) & (other.whole == other.lengths))
    return len(full) > 0 and all(np.array_equal(one[int(text)], other[int(text)]) for text in full)


def estimate(plan: Plan, steps: int = 3) -> list[str]:
    """Return the lines of a dry run: rows, tokens, memory, and time measured by `steps` real steps on discarded copies."""
    sizes = f"rows: {', '.join(f'{len(index):,} {name}' for name, index in plan.dataset.split.items())}"
    if isinstance(plan.classifier, Bag):
        return [sizes, f"time: not estimated, because {plan.classifier.name} is fitted in a single step"]
    teacher = stand_in(plan) if plan.has_teacher else None
    session = make_session(plan, teacher)
    material = make_material(plan, teacher)
    rows = np.concatenate([material.labelled, material.unlabelled])
    lengths, size, epochs = plan.tokens.lengths, plan.config.train.batch_size, plan.config.train.epochs
    median = rows[np.argsort(lengths[rows], kind="stable")][np.linspace(0, len(rows) - 1, size).round().astype(int)]
    for number in range(steps + 1):
        if number == 1:  # the first step also allocates
            began = time.perf_counter()
        step(session, material, median)
    seconds = (time.perf_counter() - began) / steps * material.steps(plan.config.train)
    weights = sum(p.numel() for p in session.encoder.model.parameters())
    activations = (
        34 * int(lengths[median].sum()) * session.encoder.model.config.hidden_size * len(session.encoder.sites.blocks)
    )
    lines = [sizes]
    lines += [
        f"tokens: {int(lengths[rows].sum()):,} per epoch, {int(lengths[rows].sum()) * epochs:,} in {plural(epochs, 'epoch')}"
    ]
    lines += [f"memory: about {(16 * weights + 4 * activations) / 2**30:.1f} GiB for {weights / 1e6:.1f}M parameters"]
    refit = plan.config.train.refit is True
    seconds *= 1 + refit
    student = f"the student, {plural(epochs, 'epoch')}{', trained twice (refit)' if refit else ''}"
    lines += [f"time: about {duration(seconds)} for {student}{', without its teacher' if plan.has_teacher else ''}"]
    if plan.alternative is not None and by_folds(plan):
        more = duration((FOLDS - 1) * seconds)
        lines += [f"choice: about {more} more: cross-validation trains the encoder {FOLDS} times on fewer rows"]
    if plan.teacher_plan is not None:
        lines += ["teacher (fine-tuned first):"] + [f"  {line}" for line in estimate(plan.teacher_plan, steps)]
    return lines
