"""Trains a student's network in the training loop: set up, resume, show progress, save, stop when asked."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from randout.core.console import duration
from randout.core.terminal import stop_on_signal
from randout.core.wording import plural
from randout.data.dataset import Dataset
from randout.data.row_weights import normalised
from randout.methods.base import Context, LiveTeacher, Method
from randout.methods.compatibility import learned_rows
from randout.methods.target_losses import ONE_LABEL, LabelSetTarget, Target
from randout.models import loading
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.sources import Source
from randout.models.tokens import Tokens, encode, truncate
from randout.stats.targets import score
from randout.storage.run_folder import RunFolder
from randout.training import checkpoint
from randout.training.loop import begin, fit, flush, step
from randout.training.state import TrainingData, TrainingState

from . import thresholds
from .loss_curves import LossCurves
from .options import Options as Options
from .options import Paused as Paused
from .options import Stopped as Stopped
from .plan import FOLDS, Plan
from .plan import TeacherOutputs as TeacherOutputs
from .sharded_tokens import sharded_training_data
from .together import agreed, begin_together, check_same_weights


def environment(plan: Plan) -> dict[str, Any]:
    """Return what bit-identical results depend on in addition to the configuration: versions, device, threads."""
    import transformers

    device = plan.config.train.device
    name = torch.cuda.get_device_name() if device == "cuda" else device
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    return {**versions, "device": name, "threads": torch.get_num_threads()}


def begin_training(plan: Plan, teacher: TeacherOutputs | None = None) -> TrainingState:
    """Return the training state at step zero: the student loaded and its methods set up."""
    encoder, context = student_of(plan, teacher.live if teacher else None)
    return begin(encoder, context, plan.methods, plan.config.train, plan.config.train.precision)


def check_methods(methods: Sequence[Method], context: Context) -> None:
    """Raise UserError if a method does not support this student."""
    for method in methods:
        method.check(context)


def student_of(plan: Plan, teacher: LiveTeacher | None = None) -> tuple[Encoder, Context]:
    """Load the student on its device; return it and the context of its methods. teacher: for methods that run one."""
    config = plan.config
    if config.train.device == "cuda":  # bit-identical results, at some cost in speed
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    encoder = plan.student.load(plan)
    encoder.model.to(config.train.device)
    weights, labels = class_weights(plan.dataset).to(config.train.device), len(plan.dataset.id2label)
    target = target_of(plan.dataset, config.train.device)
    return encoder, Context.of(encoder, config.train.seed, labels, weights, len(plan.teachers), teacher, target)


def target_of(dataset: Dataset, device: str) -> Target:
    """Return what the labels of a dataset mean to the losses of methods."""
    if dataset.sets is None:
        return ONE_LABEL
    return LabelSetTarget(torch.from_numpy(dataset.sets.members[:, : len(dataset.id2label)]).to(device))


def class_weights(dataset: Dataset) -> torch.Tensor:
    """Return the class weights n / (C * n_c) over the training split, (C,); with weights of rows, n and n_c are their sums.

    Of multi-label data: (n - n_c) / n_c, the weight of the rows that have a label, which equals those that lack it.
    """
    rows = dataset.split["train"]
    rows = rows[dataset.labels[rows] >= 0]
    weights = dataset.weights[rows] if len(dataset.weights) else None
    if dataset.sets is not None:
        has = dataset.truth(rows)[:, : len(dataset.id2label)]
        of = has if weights is None else has * weights[:, None]
        count = of.sum(0)
        total = len(rows) if weights is None else weights.sum()
        return torch.tensor((total - count) / np.where(count > 0, count, 1), dtype=torch.float32)
    counts = np.bincount(dataset.labels[rows], weights, minlength=len(dataset.id2label))
    return torch.tensor(counts.sum() / (len(counts) * np.where(counts > 0, counts, 1)), dtype=torch.float32)


def make_training_data(plan: Plan, teacher: TeacherOutputs | None) -> TrainingData:
    """Return what the student of `plan` learns from: tokens, labels, rows and teacher logits."""
    labelled, heldout = learned_rows(plan.dataset, plan.methods)
    logits, others = (teacher.logits, tuple(other.logits for other in teacher.others)) if teacher else (None, ())
    if teacher and teacher.stored:
        return _with_weights(sharded_training_data(plan.dataset, teacher.stored, labelled, heldout), plan.dataset)
    labels, unlabelled = torch.from_numpy(plan.dataset.labels), plan.dataset.unlabelled
    data = TrainingData(plan.tokens, labels, labelled, unlabelled, logits, heldout, others)
    return _with_weights(data, plan.dataset)


def _with_weights(data: TrainingData, dataset: Dataset) -> TrainingData:
    """Return the data with the factor of each row's loss; unchanged if the rows that are learned have equal weights."""
    factors = normalised(dataset.weights, data.labelled, dataset.split.get("unlabeled", data.unlabelled[:0]))
    if factors is None:
        return data
    weights = torch.ones(len(data.labels))  # sharded texts have no weight of their own
    weights[: len(factors)] = torch.from_numpy(factors).float()
    return replace(data, weights=weights)


def train_student(
    plan: Plan, training: TrainingState, data: TrainingData, run: RunFolder, options: Options
) -> TrainingState:
    """Train to the end, from the last checkpoint if there is one; return the training state with its best weights.

    training: as begun. Checkpoints are saved during training. Raises Stopped after a stop was requested and the state is
    saved.
    """
    show, train = options.show, plan.config.train
    where = environment(plan)
    _restore(plan, training, run, where, options)
    if options.processes is not None:
        begin_together(plan, training, data, options.processes)
    validate = partial(validation_metrics, plan, training)
    texts = len(data.labelled) + len(data.unlabelled)
    position, curves = training.position, LossCurves(training, data, options.tracked)
    done = position.epoch * texts + position.batch * train.batch_size
    what = f"{plan.student.label} ({'+'.join(method.name for method in plan.methods)})"
    saved = time.monotonic()
    pause = options.pause_at if options.pause_at is not None else math.inf
    if position.step >= pause:  # killed after the pause, before its caller recorded it
        raise Paused(run, validate())
    with stop_on_signal() as stop, show.bar(what, texts * train.epochs, min(done, texts * train.epochs)) as bar:
        for event in fit(training, data, validate):
            bar(event.texts, "")
            curves.take(event)
            why = stop.why or ("the time limit" if options.deadline and time.monotonic() > options.deadline else "")
            due = time.monotonic() - saved > 60 * train.save_minutes
            why, due = agreed(training.processes, why, due)
            ended = bool(position.ended)
            paused = event.metrics is None and position.step >= pause
            if event.metrics is not None or why or paused or due:
                flush(training)
                checkpoint.save(training, run.checkpoint, where, event.improved)
                saved = time.monotonic()
            if event.metrics is not None:
                show.say(_epoch_line(what, training, event.improved))
            if why and not ended:
                raise Stopped(why, run)
            if paused:
                metrics = validate()
                raise Stopped(stop.why, run) if stop.why else Paused(run, metrics)
        if stop.why:  # requested at the very end: a caller that trains several students must stop too
            raise Stopped(stop.why, run)
    checkpoint.restore_best(training, run.checkpoint)
    return training


def _restore(plan: Plan, training: TrainingState, run: RunFolder, where: dict[str, Any], options: Options) -> None:
    """Restore the last checkpoint, if there is one; ask first if it is of another environment than `where`."""
    show = options.show
    changed = checkpoint.changes(run.checkpoint, where)
    accepted = options.accept_changes or bool(changed and show.ask(f"{changed}. Resume anyway?"))
    if checkpoint.restore(training, run.checkpoint, where, accepted):
        show.say(f"resuming from step {training.position.step} of {run.path}")
        _say_processes(training, options)
    if not training.encoder.packed:
        show.say(f"{plan.student.label} runs with padding, in windows sorted by length: {training.encoder.reason}")


def _say_processes(training: TrainingState, options: Options) -> None:
    """Tell the user if the training is resumed by another number of processes, and if some of them have no work."""
    before, now = training.position.processes, options.processes.size if options.processes else 1
    parts = f"each step has {plural(training.parts, 'part')}, so the data order and the sum of gradients stay the same"
    if before != now:
        options.show.say(f"trained by {plural(before, 'process', 'processes')} so far, now by {now}: {parts}")
    if now > training.parts:
        idle = plural(now - training.parts, "process", "processes")
        options.show.warn(
            f"{idle} of {now} will only wait, because this run divides each step into {training.parts} (train.batch_parts)"
        )


def validation_metrics(plan: Plan, training: TrainingState) -> dict[str, Any]:
    """Return the metrics of the student so far on the validation rows; empty if there are none."""
    dataset, processes = plan.dataset, training.processes
    held = dataset.split["validation"]
    if processes is not None:
        check_same_weights(training, processes)
    if not len(held):  # the refit trains on all rows
        return {}
    share = (processes.rank, processes.size) if processes else (0, 1)
    logits = predict(training.encoder, plan.tokens, held, plan.config.train.precision, share=share)
    if processes is not None:
        logits = processes.added(logits)
    limits = thresholds.tuned(dataset, held, logits)
    metrics = score(dataset.truth(held), logits, dataset.id2label, unseen=dataset.unseen, thresholds=limits)
    return (
        metrics
        if processes is None
        else metrics | processes.shared({name: value for name, value in metrics.items() if isinstance(value, float)})
    )


def _epoch_line(what: str, training: TrainingState, improved: bool) -> str:
    row, settings = training.position.history[-1], training.settings
    losses = ", ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_"))
    value = row.get(f"validation_{settings.metric}")
    shown = f"{value:.4f}" if settings.metric == "log_loss" else f"{value:.2%}" if value is not None else ""
    score = f", validation {settings.metric} {shown}" if shown else ""
    best = " (best so far)" if improved and settings.keep != "last" else ""
    ended = training.position.ended
    stop = f"; stopping: {ended}" if ended and not ended.startswith("all") else ""
    spent = duration(row["seconds"])
    return f"{what}: epoch {row['epoch']}/{settings.epochs}, {losses}{score}{best}, {spent}{stop}"


def stand_in(plan: Plan) -> TeacherOutputs:
    """Return a placeholder teacher that costs as much as the real one: zero logits, and its encoder if a method runs it."""
    logits = torch.zeros(len(plan.dataset.texts), len(plan.dataset.id2label))
    live = None
    if any(method.teacher == "model" for method in plan.methods):
        first = plan.teachers[0]
        source = first.student.source if isinstance(first, Plan) else first
        assert isinstance(source, Source)  # methods that run the teacher have an encoder
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
    full = np.flatnonzero((one.untruncated_lengths == one.lengths) & (other.untruncated_lengths == other.lengths))
    return len(full) > 0 and all(np.array_equal(one[int(text)], other[int(text)]) for text in full)


def row_counts(plan: Plan) -> str:
    """Return the first line of a dry run."""
    return f"rows: {', '.join(f'{len(index):,} {name}' for name, index in plan.dataset.split.items())}"


def estimate(plan: Plan, training: TrainingState, data: TrainingData, steps: int) -> list[str]:
    """Return the lines of a dry run: rows, tokens, memory, and time measured by `steps` real steps of `training`."""
    rows = np.concatenate([data.labelled, data.unlabelled])
    lengths, size, epochs = plan.tokens.lengths, plan.config.train.batch_size, plan.config.train.epochs
    median = rows[np.argsort(lengths[rows], kind="stable")][np.linspace(0, len(rows) - 1, size).round().astype(int)]
    refit = plan.config.train.refit is True
    seconds = _seconds_per_step(training, data, median, steps) * plan.steps * (1 + refit)
    weights = sum(p.numel() for p in training.encoder.model.parameters())
    activations = (
        34
        * int(lengths[median].sum())
        * training.encoder.model.config.hidden_size
        * len(training.encoder.hook_points.blocks)
    )
    total = int(lengths[rows].sum())
    lines = [row_counts(plan)]
    lines += [f"tokens: {total:,} per epoch, {total * epochs:,} in {plural(epochs, 'epoch')}"]
    lines += [f"memory: about {(16 * weights + 4 * activations) / 2**30:.1f} GiB for {weights / 1e6:.1f}M parameters"]
    student = f"the student, {plural(epochs, 'epoch')}{', trained twice (refit)' if refit else ''}"
    lines += [f"time: about {duration(seconds)} for {student}{', without its teacher' if plan.has_teacher else ''}"]
    if plan.alternative is not None and plan.chooses_by_folds:
        more = duration((FOLDS - 1) * seconds)
        lines += [f"choice: about {more} more: cross-validation trains the encoder {FOLDS} times on fewer rows"]
    if plan.teacher_plan is not None:
        own = plan.teacher_plan.student.estimate(plan.teacher_plan, steps)
        lines += ["teacher (fine-tuned first):"] + [f"  {line}" for line in own]
    if plan.fold_teachers:
        lines += [
            f"{plural(len(plan.fold_teachers), 'more teacher')} (fine-tuned first), each without one fold of the rows"
        ]
    return lines


def _seconds_per_step(training: TrainingState, data: TrainingData, rows: np.ndarray, steps: int) -> float:
    """Measure a training step on the texts of `rows`, as the mean of `steps`."""
    step(training, data, rows)  # the first step also allocates
    began = time.perf_counter()
    for _ in range(steps):
        step(training, data, rows)
    return (time.perf_counter() - began) / steps
