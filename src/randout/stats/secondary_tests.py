"""Tests reported alongside a verdict over seeds, which never decide it: Wilcoxon, paired t, McNemar per seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr

from .paired import mcnemar_exact


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.0005 else "p < 0.001"


def signed_rank_p(differences: Any) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test: zeros dropped, mid-ranks for ties; 1 without differences."""
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    sizes = np.abs(values)
    ranks = 2 * (sizes[:, None] > sizes).sum(1) + (sizes[:, None] == sizes).sum(1) + 1  # doubled, to be integers
    chances = np.ones(1)  # probability of each doubled sum of positive ranks, with all signs equally likely
    for rank in ranks.tolist():
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    above = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(chances[: above + 1].sum(), chances[above:].sum())))


def seeds_for_wilcoxon(comparisons: int, alpha: float = 0.05) -> int:
    """Return the smallest number of seeds n at which the signed-rank test can reach alpha after Holm's correction.

    comparisons * 2^(1 - n) <= alpha.
    """
    seeds = 1
    while comparisons * 0.5 ** (seeds - 1) > alpha:
        seeds += 1
    return seeds


def over_seeds(differences: Any, comparisons: int, alpha: float = 0.05) -> dict[str, str]:
    """Return uncorrected tests on one difference per seed `(S,)`; they generalize to new seeds on this test set only.

    comparisons: size of the family, which decides whether Wilcoxon's test can reach alpha at all.
    """
    values = np.asarray(differences, dtype=np.float64)
    seeds, needed = len(values), seeds_for_wilcoxon(comparisons, alpha)
    wilcoxon = _p(signed_rank_p(values))
    if seeds < needed:
        wilcoxon = f"cannot reach {f'{alpha:.2g}'.lstrip('0')} with {seeds} seeds ({needed} needed)"
    error = float(values.std(ddof=1)) / math.sqrt(seeds)
    paired = "the same difference at every seed"
    if error > 1e-12:
        paired = _p(2 * float(stdtr(seeds - 1, -abs(float(values.mean())) / error)))
    return {"Wilcoxon over seeds": wilcoxon, "paired t over seeds (this test set only)": paired}


def mcnemar_over_seeds(
    right: np.ndarray, baseline: np.ndarray, groups: Sequence[Any] | np.ndarray, alpha: float
) -> str:
    """Return the uncorrected exact McNemar test at each seed. right, baseline: `(S, N)` booleans.

    With one seed, its p. Else "k of n seeds": k tests are significant in the direction of the overall difference;
    significant tests in the other direction are counted after it.
    """
    tests = [mcnemar_exact(one, other, groups) for one, other in zip(baseline, right, strict=True)]
    if len(tests) == 1:
        return _p(tests[0].p_value)
    gains = [test.c - test.b for test in tests if test.p_value <= alpha]
    sign = 1 if right.sum() >= baseline.sum() else -1
    along = sum(sign * gain > 0 for gain in gains)
    against = len(gains) - along
    return f"{along} of {len(tests)} seeds" + (f", {against} the other way" if against else "")
