"""The training loop: a generator that calls the hooks of methods and never names a method.

It writes no files and prints nothing: the caller saves, reports and stops. Everything that changes is in a
`TrainingState`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randout.core.config import TrainTable
from randout.core.errors import Failure
from randout.core.rng import random_key
from randout.core.wording import plural
from randout.methods.base import Batch, Context, Logged, Loop, Method, Perturbation, Step
from randout.methods.stack import MethodStack
from randout.models.encoder import LOGITS_ONLY, Encoder, Output, Want, computing
from randout.models.kernels import block
from randout.models.kernels.buffers import frozen_garbage_collector
from randout.models.kernels.embedding import SparseRowEmbedding
from randout.models.tokens import batches
from randout.stats.metrics import better

from . import gradient_guard
from .schedule import learning_rate
from .state import Event, TrainingData, TrainingState, Unread
from .step_parts import Span, divide, logged_by_all, merged, sum_gradients

FLUSH = 20  # steps between reads of the losses on a GPU, because each read synchronises with it


def begin(
    encoder: Encoder, context: Context, methods: Sequence[Method], settings: TrainTable, precision: str
) -> TrainingState:
    """Start the methods, then build the optimizer over the student's parameters and theirs.

    precision: "float32" or "bfloat16". Raises UserError if a method does not support this student, and Failure if every
    parameter is frozen.
    """
    stack = MethodStack.start(methods, context)
    watched = {name: p for name, p in encoder.model.named_parameters() if p.requires_grad}
    if not watched:
        raise Failure("nothing to train: every parameter of the student is frozen (requires_grad is False)")
    own = list(watched.values())
    groups: list[dict[str, Any]] = []
    for parameters in (own, stack.parameters):
        groups.append({"params": [p for p in parameters if p.dim() >= 2]})
        groups.append({"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=encoder.device.type in ("cpu", "cuda"),
    )
    training = TrainingState(encoder, stack, optimizer, settings, precision, watched=watched)
    asked = settings.micro_batch
    training.position.micro_batch = settings.batch_size if asked == "auto" else min(asked, settings.batch_size)
    return training


def fit(training: TrainingState, data: TrainingData, validate: Callable[[], dict[str, Any]]) -> Iterator[Event]:
    """Train from `training.position` to the end; yields an event after every step and after every validation.

    validate: computes metrics of the current student. Raises Failure if a loss is not finite.
    """
    with frozen_garbage_collector():
        yield from _epochs(training, data, validate)


def _epochs(training: TrainingState, data: TrainingData, validate: Callable[[], dict[str, Any]]) -> Iterator[Event]:
    settings, position = training.settings, training.position
    lengths, windows = data.tokens.lengths, not training.encoder.packed
    rows = (data.labelled, data.unlabelled)
    while position.epoch < settings.epochs and not position.ended:
        order = batches(lengths, *rows, settings.batch_size, settings.seed, position.epoch, windows)
        while position.batch < len(order):
            began = time.perf_counter()
            step(training, data, order[position.batch])
            position.batch += 1
            position.step += 1
            position.seconds += time.perf_counter() - began
            yield Event(texts=len(order[position.batch - 1]))
        flush(training)
        if (position.epoch + 1) % max(settings.validate_every, 1) and position.epoch + 1 < settings.epochs:
            position.epoch, position.batch, position.sums = (
                position.epoch + 1,
                0,
                {},
            )  # a validation reports its own epoch
            continue
        metrics = validate()
        improved = settings.keep == "last" or better(settings.metric, metrics[settings.metric], position.best)
        _close_epoch(training, data, metrics, improved)
        training.stack.evaluated(step_at(training, data, max(position.step - 1, 0)), metrics, improved)
        yield Event(metrics=metrics, improved=improved)
    position.ended = position.ended or "all epochs done"


def _close_epoch(training: TrainingState, data: TrainingData, metrics: dict[str, Any], improved: bool) -> None:
    position, settings = training.position, training.settings
    means = {name: total / count for name, (total, count) in position.sums.items()}
    scores = {name: value for name, value in metrics.items() if isinstance(value, float)}
    position.epoch += 1
    rate = learning_rate(settings, max(position.step - 1, 0), data.steps(settings))  # of the epoch's last step
    row = {"epoch": position.epoch, "step": position.step, "learning_rate": rate, **means}
    row |= {f"validation_{name}": value for name, value in scores.items()} | {"seconds": round(position.seconds, 3)}
    position.history.append(row)
    position.batch, position.sums, position.seconds = 0, {}, 0.0
    if improved:
        position.best, position.best_epoch, position.without_gain = metrics.get(settings.metric), position.epoch, 0
    else:
        position.without_gain += 1
        if settings.patience and position.without_gain >= settings.patience:
            position.ended = f"no gain in {plural(position.without_gain, 'validation')}"


def step(training: TrainingState, data: TrainingData, rows: np.ndarray) -> None:
    """Take one optimizer step on the texts `rows`. If a GPU runs out of memory, the micro-batch is halved.

    Raises Failure if the first step leaves a parameter of the student without a gradient (`gradient_guard`).
    """
    optimizer, position = training.optimizer, training.position
    rate = learning_rate(training.settings, position.step, data.steps(training.settings))
    for group in optimizer.param_groups:
        group["lr"] = rate
    step = step_at(training, data, position.step)
    logged = _add_up(training, step, data, rows)
    if training.watched:
        _check_gradients(training, data, rows)
    step.log("gradient_norm", _clip(optimizer, training.settings.max_grad_norm))
    if training.processes is None or training.processes.leads:
        logged[0] = logged.get(0, {}) | step.logged
    training.pending.append(Unread(position.epoch, position.batch, logged))
    if training.encoder.device.type == "cpu" or len(training.pending) >= FLUSH:
        flush(training)  # before optimizer.step, so that on a CPU non-finite gradients never reach the weights
    optimizer.step()
    training.stack.stepped(step)


def _add_up(training: TrainingState, step: Step, data: TrainingData, rows: np.ndarray) -> dict[int, Logged]:
    """Set `.grad` to the gradient of the step, the sum over its parts; returns the numbers logged, by part."""
    if training.parts == 1 and training.processes is None:
        return {0: _compute_part(training, step, data, rows, (0, len(rows)))}
    spans, logged = divide(data.tokens.lengths[rows], training.parts), {}

    def compute(part: int) -> None:
        first, end = spans[part]
        if first < end:
            logged[part] = _compute_part(training, step, data, rows, spans[part])

    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    words = training.encoder.hook_points.words
    if not isinstance(words, SparseRowEmbedding) or all(parameter is not words.weight for parameter in parameters):
        words = None
    sum_gradients(parameters, words, training.parts, compute, training.processes)
    return logged


def _compute_part(training: TrainingState, step: Step, data: TrainingData, rows: np.ndarray, span: Span) -> Logged:
    """Set `.grad` to the gradient of the texts in `span` of the `rows` of a step; returns the numbers logged."""
    position = training.position
    while True:
        training.optimizer.zero_grad(set_to_none=True)
        own = replace(step, logged={})
        try:
            accumulate_gradients(training, own, data, rows, span)
            return own.logged
        except torch.OutOfMemoryError:
            whole = [method.name for method in training.stack.methods if method.needs_full_batch]
            if training.settings.micro_batch != "auto" or position.micro_batch == 1 or whole:
                lower = f"batch_size (methods.{whole[0]} needs whole batches)" if whole else "micro_batch"
                raise Failure(
                    f"the GPU's memory is too small for a forward pass of {plural(position.micro_batch, 'text')}; "
                    f"lower train.{lower} or student.max_length"
                ) from None
            position.micro_batch = -(-position.micro_batch // 2)
            torch.cuda.empty_cache()


def _check_gradients(training: TrainingState, data: TrainingData, rows: np.ndarray) -> None:
    """Raise Failure if the first step of this process left a parameter without the gradient that it should have."""
    encoder = training.encoder

    def plain() -> Tensor:
        encoder.model.eval()  # the next training forward pass sets the mode again
        ids = [torch.from_numpy(data.tokens[row].astype(np.int64)) for row in rows[:2]]
        with block.plain():
            return replace(encoder, packed=False).forward(ids).logits

    gradient_guard.check(encoder.model, training.watched, plain)
    training.watched = {}


def _clip(optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
    """Clip the gradients to the total L2 norm `limit` (0: do not clip); returns the norm before clipping."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def step_at(training: TrainingState, data: TrainingData, number: int) -> Step:
    """What the methods see of optimizer step `number` (0 is the first)."""
    loop = Loop(partial(student_forward, training), training.stack.gold_loss, partial(held_out, training, data))
    return Step(training.stack.context, loop, number, data.steps(training.settings))


def accumulate_gradients(
    training: TrainingState, step: Step, data: TrainingData, rows: np.ndarray, span: Span | None = None
) -> None:
    """Accumulate `.grad` over the micro-batches of a step; a method may compute it in its own way.

    span: the part of the `rows` to compute; None: all.
    """
    first, end = span or (0, len(rows))
    for start in range(first, end, training.position.micro_batch):
        batch = micro_batch_of(training, data, rows, start, end)
        training.stack.gradient(step, batch, partial(backward, training, step))


def micro_batch_of(
    training: TrainingState, data: TrainingData, rows: np.ndarray, first: int, end: int | None = None
) -> Batch:
    """Make the micro-batch that starts at index `first` of the `rows` of a step, and ends at `end` at the latest."""
    last = min(first + training.position.micro_batch, len(rows) if end is None else end)
    return batch_of(training, data, rows, rows[first:last], first)


def held_out(training: TrainingState, data: TrainingData, step: int) -> Batch:
    """Batch of held-out rows for a step; the rows are cycled through, in a new random order for each pass."""
    size = min(training.settings.batch_size, len(data.heldout))
    turn, place = divmod(step * size, len(data.heldout))
    orders = [
        np.random.default_rng(random_key(training.stack.context.seed, "heldout", turn + n)).permutation(data.heldout)
        for n in range(2)
    ]
    rows = np.concatenate(orders)[place : place + size]
    rows = rows[np.argsort(data.tokens.lengths[rows], kind="stable")]
    return batch_of(training, data, rows, rows, 0)


def batch_of(training: TrainingState, data: TrainingData, rows: np.ndarray, mine: np.ndarray, first: int) -> Batch:
    """Make the micro-batch of the texts `mine`, which are those from index `first` on in the `rows` of a step."""
    device = training.encoder.device
    ids = [torch.from_numpy(data.tokens[row].astype(np.int64)) for row in mine]
    index = torch.from_numpy(mine)
    stored = [logits[index] for logits in (data.teacher, *data.others) if logits is not None]
    partial = any(bool(logits.isnan().any()) for logits in stored)  # here they are still on the CPU
    teacher = None if data.teacher is None else data.teacher[index].to(device)
    step_labels = data.labels[torch.from_numpy(rows)].to(device)
    longest = int(data.tokens.lengths[rows].max())
    others = tuple(logits[index].to(device) for logits in data.others)
    own = step_labels[first : first + len(mine)]
    weights = None if data.weights is None else data.weights[index].to(device)
    return Batch(index, ids, own, teacher, step_labels, first, longest, others, partial, weights)


def backward(
    training: TrainingState, step: Step, batch: Batch, scale: float = 1.0, around: Perturbation | None = None
) -> None:
    """Add the gradient of a micro-batch's losses to `.grad`, and log the losses.

    scale: factor of the losses. around: a further perturbation of the forward pass.
    """
    losses, logits = losses_of(training, step.within(around), batch)
    losses = losses if scale == 1.0 else {name: scale * loss for name, loss in losses.items()}
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    for name, loss in losses.items():
        step.log(f"loss_{name}", loss)
    if len(losses) > 1:  # gradient norm of each loss at the logits: a cheap comparison of their strengths
        for name, loss in losses.items():
            (pull,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
            if pull is not None:  # None for a loss that does not use the logits but, for example, hidden states
                step.log(f"square_{name}", pull.float().square().sum())
    with training.encoder.gradients.adding():
        torch.autograd.backward(total)


def losses_of(training: TrainingState, step: Step, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the named losses of a micro-batch; returns them and the student's logits (b, C), with a graph."""
    batch = training.stack.inputs(step, batch)
    output = step.forward(batch, want=training.stack.want)
    return training.stack.losses(step, output, batch), output.logits


def student_forward(
    training: TrainingState,
    step: Step,
    batch: Batch,
    *,
    weights: dict[str, Tensor] | None = None,
    dropout: bool = True,
    perturb: bool = True,
    call: int = 0,
    want: Want = LOGITS_ONLY,
) -> Output:
    """Run a training forward pass; options as for `Forward`. Dropout masks and noise depend on (step, call, micro-batch)."""
    encoder, seed = training.encoder, training.stack.context.seed
    torch.manual_seed(random_key(seed, "dropout", step.number, step.rank, call, batch.first))
    encoder.model.train(dropout)
    with ExitStack() as opened:
        if perturb:
            layout = encoder.layout(batch.ids, batch.first, batch.step_labels.numel(), batch.longest)
            opened.enter_context(training.stack.perturbed(step.at(layout, call)))
        opened.enter_context(computing(encoder.device, training.precision))
        return encoder.forward(batch.ids, want, weights)


def _summary(logged: Logged) -> dict[str, Tensor]:
    """Combine the logged numbers of a step: sum losses over micro-batches, average the rest, and turn gradient norms into
    ratios.
    """
    means = {}
    for name, entries in logged.items():
        if name.startswith(("loss_", "square_")):
            means[name] = torch.stack([value for value, _ in entries]).sum()
        else:
            means[name] = torch.stack([value * weight for value, weight in entries]).sum() / sum(w for _, w in entries)
    squares = {name[7:]: means.pop(name) for name in list(means) if name.startswith("square_")}
    base = next(iter(squares), None)
    ratios = {f"gradient_{n}_to_{base}": (s / squares[base]).sqrt() for n, s in squares.items() if base and n != base}
    return means | ratios


def flush(training: TrainingState) -> None:
    """Read the logged numbers of the steps since the last read, of all processes. Raises Failure naming the first loss that
    is not finite, or the gradient norm, which may overflow even if no loss does.
    """
    if training.processes is not None and training.pending:
        training.pending = logged_by_all(training.processes, training.pending)
    for epoch, batch, logged in training.pending:
        for name, tensor in _summary(merged(logged)).items():
            value = float(tensor)
            if name.startswith(("loss_", "gradient_norm")) and not math.isfinite(value):
                training.pending.clear()
                raise Failure(
                    f"{name.replace('_', ' ')} is {value} at epoch {epoch + 1}, batch {batch + 1}. The last checkpoint "
                    "is intact. A lower learning_rate or precision = float32 usually helps"
                )
            if math.isfinite(value):
                entry = training.position.sums.setdefault(name, [0.0, 0])
                training.position.sums[name] = [entry[0] + value, entry[1] + 1]
    training.pending.clear()
