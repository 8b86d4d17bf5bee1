"""The contrastive loss is its equations, written out pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from randout.methods.contrastive import Contrastive, pair_loss, supervised_contrastive


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    states = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return states, torch.tensor([0, 1, 0, 2, 1, 0, 3])


WEIGHTS = [None, [1.0] * 7, [2.0, 0.5, 1.0, 3.0, 0.0, 1.5, 0.25]]


def mean(values: list[float], weights: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_pairs(drawn: tuple[torch.Tensor, torch.Tensor], weights: list[float] | None) -> None:
    states, labels = drawn
    w = weights or [1.0] * len(labels)
    found: dict[bool, tuple[list[float], list[float]]] = {True: ([], []), False: ([], [])}
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j:
                same, near = bool(labels[i] == labels[j]), cosine(states[i], states[j])
                found[same][0].append((1 - near) ** 2 if same else near**2)
                found[same][1].append(w[i] * w[j])
    expected = (mean(*found[True]) + mean(*found[False])) / 2
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    assert float(pair_loss(states, labels, given)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_supervised(drawn: tuple[torch.Tensor, torch.Tensor], weights: list[float] | None) -> None:
    states, labels = drawn
    w = weights or [1.0] * len(labels)
    terms, of_texts = [], []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i]
        partners = [p for p in others if labels[p] == labels[i] and w[p]]
        total = sum(w[a] * math.exp(cosine(states[i], states[a]) / 0.1) for a in others)
        if partners:
            logs = [math.log(math.exp(cosine(states[i], states[p]) / 0.1) / total) for p in partners]
            terms.append(-mean(logs, [w[p] for p in partners]))
            of_texts.append(w[i])
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    found = supervised_contrastive(states, labels, 0.1, given)
    assert float(found) == pytest.approx(mean(terms, of_texts), rel=1e-12)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2], [1, 1]])
def test_a_step_without_pairs_of_a_kind_has_a_loss_and_a_gradient(labels: list[int]) -> None:
    states = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    for weights in (None, torch.zeros(len(labels)), torch.full((len(labels),), 2.0)):
        given = states, torch.tensor(labels)
        check_finite(states, pair_loss(*given, weights), supervised_contrastive(*given, 0.1, weights))


def check_finite(states: torch.Tensor, *losses: torch.Tensor) -> None:
    for loss in losses:
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, states)
        assert torch.isfinite(gradient).all()


def test_it_is_left_out_where_labels_are_many() -> None:
    assert Contrastive(rows=1000).suits(1000)
    assert not Contrastive(rows=1000).suits(1001)
    assert Contrastive().suits(10**6)
