"""Learning-rate schedules with a linear warm-up."""

from __future__ import annotations

import math

from randout.core.config import TrainTable


def learning_rate(settings: TrainTable, step: int, steps: int) -> float:
    """Learning rate of step `step` (0 is the first): linear warm-up over `warmup_ratio` of all steps, then constant or
    linear decay to zero.
    """
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * max(steps - step, 0) / max(steps - warmup, 1)
