"""Shared arithmetic of losses against plain transcriptions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randout.losses import info_nce


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
