"""Losses on label sets against plain computations, and which methods support them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from randout.core.errors import UserError
from randout.methods.base import Batch, State, Step, takes_label_sets
from randout.methods.builtin import METHODS
from randout.methods.compatibility import check_targets
from randout.methods.target_losses import ONE_LABEL, LabelSetTarget, bernoulli_divergence
from randout.models.outputs import Output

MEMBERS = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 1, 0]]).bool()
TARGET = LabelSetTarget(MEMBERS)
LOGITS = torch.tensor([[0.3, -1.2, 2.0], [-0.5, 0.1, 0.7], [1.5, 0.2, -0.4]], dtype=torch.float64)
TEACHER = torch.tensor([[1.3, -0.2, 1.0], [-2.5, 1.1, 0.2], [0.5, 2.2, -1.4]], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_cross_entropy(targets: list[int], weights: list[float], smoothing: float) -> float:
    total = 0.0
    for row, target in enumerate(targets):
        for label in range(3):
            if target < 0:
                continue
            q = (1 - smoothing) * float(MEMBERS[target, label]) + smoothing / 2
            p = sigmoid(float(LOGITS[row, label]))
            total -= weights[label] * q * math.log(p) + (1 - q) * math.log(1 - p)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.5]])
def test_cross_entropy_is_the_binary_one_summed_over_labels(smoothing: float, weights: list[float] | None) -> None:
    targets = [1, -1, 2]
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    found = TARGET.cross_entropy(LOGITS, torch.tensor(targets), given, smoothing)
    assert float(found) == pytest.approx(plain_cross_entropy(targets, weights or [1.0] * 3, smoothing))
    assert float(TARGET.total_weight(torch.tensor(targets), given)) == 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_is_the_sum_of_bernoulli_divergences(temperature: float) -> None:
    plain = 0.0
    for one, other in zip(TEACHER.flatten().tolist(), LOGITS.flatten().tolist(), strict=True):
        p, q = sigmoid(one / temperature), sigmoid(other / temperature)
        plain += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(bernoulli_divergence(TEACHER, LOGITS, temperature)) == pytest.approx(plain)
    assert float(bernoulli_divergence(LOGITS, LOGITS, temperature)) == pytest.approx(0, abs=1e-12)


def test_divergence_of_extreme_logits_is_finite() -> None:
    far = torch.full((1, 2), 200.0)
    assert torch.isfinite(bernoulli_divergence(far, -far, 1.0))


def test_the_mean_prediction_has_the_mean_probability() -> None:
    stacked = torch.stack([LOGITS, TEACHER])
    assert torch.allclose(TARGET.mean_prediction(stacked).sigmoid(), stacked.sigmoid().mean(0))
    assert torch.allclose(ONE_LABEL.mean_prediction(stacked).softmax(-1), stacked.softmax(-1).mean(0))


def test_decisions_and_soft_targets_of_a_teacher() -> None:
    decided = torch.nn.functional.binary_cross_entropy(LOGITS.float().sigmoid(), (TEACHER > 0).float(), reduction="sum")
    assert float(TARGET.decided_cross_entropy(TEACHER, LOGITS)) == pytest.approx(float(decided), rel=1e-5)
    soft = torch.nn.functional.binary_cross_entropy(LOGITS.sigmoid(), TEACHER.sigmoid(), reduction="sum")
    assert float(TARGET.soft_cross_entropy(TEACHER.sigmoid(), LOGITS)) == pytest.approx(float(soft), rel=1e-5)


def test_kd_and_ce_use_the_target_of_the_training() -> None:
    labels = torch.tensor([1, 0, 2])
    batch = Batch(torch.arange(3), [], labels, TEACHER, labels, 0, 1)
    step = cast(Step, SimpleNamespace(context=SimpleNamespace(target=TARGET, class_weights=None)))
    output = Output(LOGITS, {})

    def unused(**_: Any) -> Output:
        raise AssertionError

    def loss(name: str, **settings: Any) -> float:
        method = METHODS[name].model_validate(settings)
        return float(method.loss(step, State(), output, batch, unused)[name])

    assert loss("ce") == pytest.approx(plain_cross_entropy([1, 0, 2], [1.0] * 3, 0.0) / 3)
    divergence = float(bernoulli_divergence(TEACHER, LOGITS, 2.0))
    assert loss("kd", weight=0.5, temperature=2.0) == pytest.approx(0.5 * divergence / 3)


REFUSED = {"contrastive", "term-pooling", "weidc"}


def test_the_methods_that_do_not_support_label_sets_say_why() -> None:
    assert {name for name in METHODS.built_in if not takes_label_sets(METHODS[name]())} == REFUSED
    several, one = cast(Any, SimpleNamespace(sets=object())), cast(Any, SimpleNamespace(sets=None))
    for name in REFUSED:
        method = METHODS[name]()
        with pytest.raises(
            UserError, match=f"methods.{name}: not supported for multi-label data: .*--set methods.{name}=false"
        ):
            check_targets([method], several)
        check_targets([method], one)
        assert method.no_label_sets


def test_a_text_without_a_target_contributes_nothing() -> None:
    labels = torch.tensor([1, -1, 2])
    assert float(TARGET.cross_entropy(LOGITS[1:2], labels[1:2], None, 0.0)) == 0
