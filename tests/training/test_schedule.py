"""The learning-rate schedules against their formulas and transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from randout.training.schedule import learning_rate
from support.training import settings


@pytest.mark.parametrize(("steps", "ratio"), [(50, 0.06), (50, 0.0), (7, 0.5), (10, 1.0), (1, 0.06), (100, 0.33)])
def test_linear_schedule(steps: int, ratio: float) -> None:
    """transformers' schedule, except that the first step already learns: its warm-up, one step on."""
    from transformers import get_linear_schedule_with_warmup

    table = settings(warmup_ratio=ratio, learning_rate=0.5)
    warmup = math.ceil(ratio * steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    theirs = []
    for _ in range(steps + 1):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    for step in range(steps):
        ours = learning_rate(table, step, steps)
        plain = 0.5 * (step + 1) / warmup if step < warmup else 0.5 * (steps - step) / (steps - warmup)
        assert ours == pytest.approx(plain)
        assert 0 < ours <= 0.5
        at = step + 1 if step < warmup else step
        assert at == steps or ours == pytest.approx(theirs[at])
    assert max(learning_rate(table, step, steps) for step in range(steps)) == pytest.approx(0.5)


def test_constant_schedule() -> None:
    table = settings(schedule="constant", warmup_ratio=0.2, learning_rate=1.0)
    assert [learning_rate(table, step, 10) for step in range(10)] == [0.5] + [1.0] * 9
    table = settings(schedule="constant", warmup_ratio=0.0, learning_rate=1.0)
    assert {learning_rate(table, step, 10) for step in range(10)} == {1.0}
