"""Shared arithmetic of losses against plain transcriptions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randout.core.errors import UserError
from randout.methods.functional import at_least_float32, barlow_twins, info_nce, kl_divergence, unit


def vectors(rows: int, seed: int, width: int = 6) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_info_nce(a: Tensor, b: Tensor, t: float) -> float:
    """Mean over the 2n anchors of -log(exp(cos(i, i') / t) / sum_j exp(cos(i, j') / t)), number by number."""

    def cosine(x: Tensor, y: Tensor) -> float:
        above = sum(float(p) * float(q) for p, q in zip(x, y, strict=True))
        return above / math.sqrt(sum(float(p) ** 2 for p in x) * sum(float(q) ** 2 for q in y))

    total = 0.0
    for anchors, others in ((a, b), (b, a)):
        for i, anchor in enumerate(anchors):
            powers = [math.exp(cosine(anchor, other) / t) for other in others]
            total -= math.log(powers[i] / sum(powers))
    return total / (2 * len(a))


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_info_nce_is_its_equation(rows: int, t: float) -> None:
    a, b = vectors(rows, 0), vectors(rows, 1)
    ours = info_nce(a, b, t)
    assert ours.dtype == torch.float32
    assert ours.dim() == 0
    assert ours.item() == pytest.approx(plain_info_nce(a, b, t), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(info_nce(b, a, t), ours)
    torch.testing.assert_close(info_nce(3 * a, b / 7, t), ours)  # only directions count


def test_info_nce_by_hand() -> None:
    """Orthogonal pairs: cos = 1 with itself and 0 with the other, so the loss is log(1 + exp(-1 / t))."""
    found = info_nce(torch.eye(2), torch.eye(2), 0.5)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)
    crossed = info_nce(torch.eye(2), torch.eye(2).flip(0), 0.5)
    assert crossed.item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)


def plain_barlow_twins(a: Tensor, b: Tensor, off_diagonal: float) -> float:
    """The sums over i and j of the correlations of feature i of a with feature j of b."""
    (n, d), total = a.shape, 0.0
    for i in range(d):
        for j in range(d):
            x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            c = float((x * y).sum() / n / ((x.square().mean() + 1e-5) * (y.square().mean() + 1e-5)).sqrt())
            total += (1 - c) ** 2 if i == j else off_diagonal * c**2
    return total


@pytest.mark.parametrize("off_diagonal", [0.005, 1.0, 0.0])
@pytest.mark.parametrize("rows", [2, 7])
def test_barlow_twins_is_its_equation(rows: int, off_diagonal: float) -> None:
    a, b = vectors(rows, 0), vectors(rows, 1)
    ours = barlow_twins(a, b, off_diagonal)
    assert ours.item() == pytest.approx(plain_barlow_twins(a, b, off_diagonal), rel=1e-5)
    torch.testing.assert_close(barlow_twins(100 * a + 3, 50 * b - 7, off_diagonal), ours, rtol=1e-3, atol=1e-3)


def test_barlow_twins_without_variance_is_a_constant() -> None:
    """A batch of one, or of equal texts: nothing to correlate, and gradients of zero."""
    for a in (vectors(1, 0), vectors(1, 0).expand(5, -1)):
        a = a.float().clone().requires_grad_()
        found = barlow_twins(a, a)
        found.backward()
        assert found.item() == pytest.approx(6.0, abs=1e-5)
        assert a.grad.abs().max() < 1e-4
    same = vectors(40, 0)
    assert barlow_twins(same, same, 0.0).item() == pytest.approx(0.0, abs=1e-6)


def test_unit_is_of_each_text_and_leaves_zero() -> None:
    gradient = torch.stack([vectors(3, 0), torch.zeros(3, 6), 1e-12 * vectors(3, 1)])
    found = unit(gradient)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found[0] * gradient[0].norm(), gradient[0])


def test_divergence_of_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"shapes \(5, 6\) and \(1, 6\)"):
        kl_divergence(vectors(5, 0), vectors(5, 1)[:1], 1.0)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="temperature: found"):
            kl_divergence(vectors(5, 0), vectors(5, 1), temperature)


def test_losses_keep_a_longer_format() -> None:
    """What is in half the bits is taken in float32; float64 stays, so that two programs can be compared in it."""
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        assert at_least_float32(vectors(2, 0).to(dtype)).dtype == wanted
    p, q = (vectors(5, seed).div(3.0).softmax(-1) for seed in (0, 1))
    found = kl_divergence(vectors(5, 0), vectors(5, 1), 3.0)
    torch.testing.assert_close(found, (p * (p / q).log()).sum(), rtol=1e-13, atol=0)
