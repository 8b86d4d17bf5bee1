"""Training as it runs by default, packed, against the plain path that computes padding: Randout-KD on the same batches.

Dropout is off: the two lay tokens out differently, so the same masks are not to be had. A rate of 1e-12 drops nothing
and takes the way that attention goes where there is dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from randout.methods.base import Method
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.kd import KnowledgeDistillation
from randout.methods.randout import Randout
from randout.models.tokens import batches
from randout.training import loop
from randout.training.state import TrainingData, TrainingState
from support.markers import marked_slow
from support.training import new_training, tiny_encoder, toy_training_data, weights_of

Tiny = Callable[[str], Path]
RECIPE: tuple[Method, ...] = (CrossEntropy(), KnowledgeDistillation(temperature=2.0), Randout(units=8))
FAMILIES = ("bert", "roberta")
STEPS = 50
PERTURBED = 5  # plain runs that start one unit in the last place away
BATCHES = 6  # batches over which gradients in bfloat16 are compared


def made(
    folder: Path, fast: bool, rate: float = 0.0, double: bool = False, **changes: Any
) -> tuple[TrainingState, TrainingData]:
    """A training at position zero; `fast`: as it runs by default, else the plain slow path (`train.packing = false`)."""
    encoder = tiny_encoder(folder, dropout=0.0, attention_dropout=rate, pack=fast)
    assert encoder.packed is fast
    if double:
        encoder.model.double()
    training = new_training(encoder, RECIPE, epochs=10, **changes)
    return training, toy_training_data(encoder, 40)


def rows_of(data: TrainingData, training: TrainingState) -> list[np.ndarray]:
    """The batches of 50 steps, of texts of mixed lengths."""
    none, settings = np.zeros(0, np.int64), training.settings
    epochs = range(settings.epochs)
    parts = (batches(data.tokens.lengths, data.labelled, none, 8, settings.seed, e, False) for e in epochs)
    return [rows for part in parts for rows in part][:STEPS]


def train(training: TrainingState, data: TrainingData, steps: int = STEPS) -> list[dict[str, float]]:
    """The losses of each of so many steps; the weights are then in the training."""
    found = []
    for rows in rows_of(data, training)[:steps]:
        training.position.sums.clear()
        loop.step(training, data, rows)
        training.position.step += 1
        found.append({name: total for name, (total, _) in training.position.sums.items() if name.startswith("loss_")})
    assert len(found) == steps
    return found


def gradients(training: TrainingState) -> dict[str, Tensor]:
    """What the last step left in `.grad`, in float64."""
    named = training.encoder.model.named_parameters()
    return {name: p.grad.double().clone() for name, p in named if p.grad is not None}


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    assert one.keys() == other.keys()
    return {name: one[name].double() - other[name].double() for name in one}


@pytest.mark.parametrize("rate", [0.0, 1e-12])
@pytest.mark.parametrize("family", marked_slow(FAMILIES, "roberta"))
def test_float64_agrees_over_fifty_steps(tiny_model: Tiny, family: str, rate: float) -> None:
    """Parameters and losses to 1e-9, of the largest weight and of each loss."""
    found = []
    for fast in (True, False):
        training, data = made(tiny_model(family), fast, rate, double=True)
        before = weights_of(training)
        losses = train(training, data)
        found.append((losses, weights_of(training)))
        assert norm(apart(found[-1][1], before)) > 0.05 * norm(before), "the training must have moved the weights"
    (losses, ours), (plain, theirs) = found
    for one, other in zip(losses, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    largest = max(float(tensor.abs().max()) for tensor in theirs.values())
    assert max(float(d.abs().max()) for d in apart(ours, theirs).values()) < 1e-9 * largest


@pytest.mark.parametrize("rate", [0.0, 1e-12])
@pytest.mark.parametrize("family", FAMILIES)
def test_first_step_in_float32(tiny_model: Tiny, family: str, rate: float) -> None:
    """Losses to 1e-6; each gradient to 1e-5 of its L2 norm. That of a bias on keys is zero by mathematics (a softmax
    does not see what all its inputs share): it is held to 1e-5 of the bias on queries' beside it.
    """
    found = []
    for fast in (True, False):
        training, data = made(tiny_model(family), fast, rate, max_grad_norm=0.0)
        found.append((train(training, data, 1)[0], gradients(training)))
    (losses, ours), (plain, theirs) = found
    assert losses.keys() == {"loss_ce", "loss_kd"}
    assert losses == pytest.approx(plain, rel=1e-6)
    for name, difference in apart(ours, theirs).items():
        scale = theirs[name.replace("key.bias", "query.bias")].norm()
        assert float(difference.norm()) <= 1e-5 * float(scale), name


def nudged(training: TrainingState, seed: int) -> None:
    """Every weight of the student is moved to the next number of its format, up or down at random."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in training.encoder.model.parameters():
            towards = torch.where(torch.rand(parameter.shape, generator=draw) < 0.5, -torch.inf, torch.inf)
            parameter.copy_(torch.nextafter(parameter, towards))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_steps_in_float32(tiny_model: Tiny, family: str) -> None:
    """The weights end no further (L2, all together) from the plain run's than the largest_difference of plain runs whose weights
    began one unit in the last place away, and so do the losses on the way (the largest difference): no factor.

    Biases on keys are held apart, to 4 times: no logit depends on them, their gradient is nothing but rounding, and
    AdamW divides it by its own size, so that they stroll by amounts that say nothing and would drown the rest.
    """

    def ended(fast: bool, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
        training, data = made(tiny_model(family), fast, 1e-12)
        if seed:
            nudged(training, seed)
        losses = torch.tensor([list(step.values()) for step in train(training, data)])
        return weights_of(training), losses

    plain, losses = ended(fast=False)
    runs = [ended(fast=True), *(ended(fast=False, seed=seed) for seed in range(1, PERTURBED + 1))]
    ours, *others = ([norm(part) for part in parted(apart(weights, plain))] for weights, _ in runs)
    assert 0.0 < ours[0] <= max(other[0] for other in others)
    assert ours[1] <= 4 * max(other[1] for other in others)
    off, *offs = (float((found - losses).abs().max()) for _, found in runs)
    assert off <= max(offs)


def parted(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All but the biases on keys, and these."""
    keys = {name for name in weights if name.endswith("key.bias")}
    assert keys
    return tuple({name: w for name, w in weights.items() if (name in keys) is on} for on in (False, True))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_bfloat16(tiny_model: Tiny, family: str) -> None:
    """Under autocast each gradient of a first step lies no further from float32's than twice the plain path's in
    bfloat16, and all together no further than 1.2 times (L2, root mean square over batches). Biases on keys, whose
    gradient is nothing but rounding, may lie four times as far.
    """

    def first_steps(fast: bool, precision: str) -> list[dict[str, Tensor]]:
        training, data = made(tiny_model(family), fast, 1e-12, max_grad_norm=0.0, learning_rate=1e-30)
        training.precision = precision
        found = []
        for rows in rows_of(data, training)[:BATCHES]:  # each from the same weights
            loop.step(training, data, rows)
            found.append(gradients(training))
        return found

    def errors(fast: bool) -> dict[str, float]:
        found = zip(first_steps(fast, "bfloat16"), exact, strict=True)
        squares = [{name: float(d.square().sum()) for name, d in apart(a, b).items()} for a, b in found]
        return {name: sum(each[name] for each in squares) ** 0.5 for name in squares[0]}

    exact = first_steps(False, "float32")
    ours, plain = errors(fast=True), errors(fast=False)
    assert all(ours[name] <= (4.0 if name.endswith("key.bias") else 2.0) * plain[name] for name in plain)
    assert 0.0 < np.linalg.norm(list(ours.values())) <= 1.2 * np.linalg.norm(list(plain.values()))
