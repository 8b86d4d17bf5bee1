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


def test_pairs(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    states, labels = drawn
    together, apart = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j:
                found = cosine(states[i], states[j])
                same = labels[i] == labels[j]
                (together if same else apart).append((1 - found) ** 2 if same else found**2)
    expected = (sum(together) / len(together) + sum(apart) / len(apart)) / 2
    assert float(pair_loss(states, labels)) == pytest.approx(expected, rel=1e-12)


def test_supervised(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    states, labels = drawn
    terms = []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i]
        partners = [p for p in others if labels[p] == labels[i]]
        total = sum(math.exp(cosine(states[i], states[a]) / 0.1) for a in others)
        if partners:
            logs = [math.log(math.exp(cosine(states[i], states[p]) / 0.1) / total) for p in partners]
            terms.append(-sum(logs) / len(partners))
    assert float(supervised_contrastive(states, labels, 0.1)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2], [1, 1]])
def test_a_step_without_pairs_of_a_kind_has_a_loss_and_a_gradient(labels: list[int]) -> None:
    states = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    for loss in (pair_loss(states, torch.tensor(labels)), supervised_contrastive(states, torch.tensor(labels), 0.1)):
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, states)
        assert torch.isfinite(gradient).all()


def test_it_is_left_out_where_labels_are_many() -> None:
    assert Contrastive(rows=1000).suits(1000)
    assert not Contrastive(rows=1000).suits(1001)
    assert Contrastive().suits(10**6)
