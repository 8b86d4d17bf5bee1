"""How much the best of many trials overstates its true score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from randout.core.errors import UserError

from .metrics import BLOCK, group_codes


@dataclass(frozen=True)
class Optimism:
    """By how much choosing the best of several trials overstates its score on the same validation rows."""

    trials: int
    chosen: int  # the first with the highest score
    apparent: float  # its score on all validation rows
    corrected: float  # mean out-of-bag score of whichever trial a resample chooses
    optimism: float  # apparent - corrected
    reselected: float  # share of resamples that choose the same trial
    resamples: int


def best_of(
    right: Any, groups: Sequence[Any] | np.ndarray | None = None, resamples: int = 2000, seed: int = 0
) -> Optimism:
    """Return the optimism of choosing the best trial.

    right: `(trials, N)` booleans, or numbers whose mean over rows is the score; groups `(N,)`; None: every row is its own
    group. Each resample draws groups with replacement, chooses the trial with the highest mean on them, and scores it on
    the groups not drawn, which did not influence the choice. Raises UserError for no trials or fewer than two groups.
    """
    scores = np.asarray(right, dtype=np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"finite scores of shape (trials, rows) expected, found {scores.shape}")
    trials, rows = scores.shape
    codes = np.arange(rows) if groups is None else group_codes(groups, rows)
    if not trials or not rows or codes.max() < 1:
        raise UserError("Best of N: needs at least one trial, and validation rows in at least two groups.")
    sizes = np.bincount(codes).astype(np.float64)
    count = len(sizes)
    sums = np.stack([np.bincount(codes, one, count) for one in scores])  # (trials, G)
    apparent = sums.sum(1) / rows
    chosen = int(apparent.argmax())
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // max(count, trials))
    out, same, seen = 0.0, 0, 0
    for start in range(0, resamples, block):
        weights = generator.multinomial(count, np.full(count, 1 / count), size=min(block, resamples - start))
        picks = ((weights @ sums.T) / (weights @ sizes)[:, None]).argmax(1)  # (block,)
        left = weights == 0
        kept = left.any(1)  # False if every group was drawn: nothing is out of bag
        out += float((((left * sums[picks]).sum(1)[kept]) / (left @ sizes)[kept]).sum())
        same += int((picks == chosen).sum())
        seen += int(kept.sum())
    corrected = out / seen if seen else float(apparent[chosen])
    top = float(apparent[chosen])
    return Optimism(trials, chosen, top, corrected, top - corrected, same / resamples, resamples)
