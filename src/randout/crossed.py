"""The crossed design: several seeds of a method, all judged on the same rows, rows in groups.

Both are samples: seeds of the training runs there could be, groups of the texts there could be. Every seed meets
every group, so the two cross, and an interval has to widen for both (Obuchowski and Rockette 1995; degrees of
freedom: Hillis 2007). Resampling seeds and, inside each, rows (the nested form) is wrong here and not offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from randout.errors import UserError, nearest
from randout.metrics import COUNTED, checked_labels, group_codes, group_weights, patterns, rates

NORMAL = 1e6  # degrees of freedom written for "as good as infinite", so that a row stays valid JSON


@dataclass(frozen=True)
class Difference:
    """An estimate with its t interval; of two arms (the model minus the baseline) or of one arm's own value."""

    estimate: float
    low: float  # at `level`
    high: float
    low90: float  # the 90 % interval: its ends are the one-sided 5 % bounds of the margin tests
    high90: float
    standard_error: float
    df: float  # of the t distribution; NORMAL at most
    p_value: float  # two-sided, of "the estimate's true value is 0"
    units: int  # seeds, or folds
    groups: int
    level: float

    def at(self, level: float) -> tuple[float, float]:
        """The t interval at another level."""
        return t_interval(self.estimate, self.standard_error, self.df, level)


def t_interval(estimate: float, standard_error: float, df: float, level: float) -> tuple[float, float]:
    """estimate -+ t * standard_error."""
    half = float(stdtrit(df, (1 + level) / 2)) * standard_error
    return estimate - half, estimate + half


def t_difference(
    estimate: float, variance: float, df: float, units: int, groups: int, level: float, floor: float = 0.0
) -> Difference:
    """A `Difference` from its variance and degrees of freedom; `floor`: the smallest p that can be had.

    A variance of zero gives an interval of no width, and p = 1 for an estimate of 0 and `floor` for any other.
    """
    error, df = math.sqrt(variance), min(df, NORMAL)
    low, high = t_interval(estimate, error, df, level)
    low90, high90 = t_interval(estimate, error, df, 0.90)
    p = float(estimate == 0) if error == 0 else 2 * float(stdtr(df, -abs(estimate) / error))
    p = min(1.0, max(p, floor))
    return Difference(estimate, low, high, low90, high90, error, df, p, units, groups, level)


def mean_squares(values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """MS_seed, MS_group, MS_error of values `(S, N)`, groups `(N,)` coded from 0; groups weighted by their size.

    Of the two-way table u[s, g] = (m_s - m) + w_g (y[s, g] - m_s): y the mean of a seed's values in a group, m_s a
    seed's mean over its rows, w_g = rows of the group / mean rows of a group. The mean of u over groups is m_s - m,
    and u - (m_s - m) is how much each group moves that mean; with groups of one size u is y - m.
    """
    seeds, rows = values.shape
    sizes = np.bincount(groups)
    count = len(sizes)
    each = values.mean(1, dtype=np.float64)  # (S,)
    centred = values - each[:, None]
    sums = np.stack([np.bincount(groups, one, count) for one in centred])  # (S, G)
    pull = sums * (count / rows)  # w_g (y - m_s)
    common = pull.mean(0)
    spread = each - each.mean()
    return (
        count * float(spread @ spread) / (seeds - 1),
        seeds * float(common @ common) / (count - 1),
        float(((pull - common) ** 2).sum()) / ((seeds - 1) * (count - 1)),
    )


def _checked(values: Any, groups: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"values of shape (seeds, rows) expected, found {values.shape}")
    if len(values) < 2:
        raise UserError("One seed says nothing about other seeds; the crossed design needs at least two.")
    codes = group_codes(groups, values.shape[1])
    if not len(codes) or codes.max() < 1:
        raise UserError("All rows are in one group; a comparison needs at least two groups.")
    return values, codes


def crossed_difference(differences: Any, groups: Sequence[Any] | np.ndarray, level: float = 0.95) -> Difference:
    """The mean of differences `(S, N)` over new seeds and new groups: two-way random effects.

    differences: right(model) - right(baseline), in {-1, 0, 1}, seed by row; groups: `(N,)`, anything hashable.
    Var(mean) = (MS_seed + max(MS_group - MS_error, 0)) / (S * G), df = numerator^2 / (MS_seed^2 / (S - 1)).
    p is never below 2 * 0.5^(groups that differ in some seed): no smaller one could come of flipping their signs.
    Where neither seeds nor groups show any variance of their own, MS_error stands for it: seeds that happen to agree in
    their means are no certainty.
    Right or wrong `(S, N)` of one arm in place of differences gives that arm's own interval.
    Raises UserError under two seeds or two groups.
    """
    values, codes = _checked(differences, groups)
    seeds, count = len(values), int(codes.max()) + 1
    seed, group, error = mean_squares(values, codes)
    above = seed + max(group - error, 0.0) or error
    df = above**2 * (seeds - 1) / seed**2 if seed > above / NORMAL else NORMAL if above else seeds - 1.0
    differing = np.count_nonzero(np.bincount(codes, (values != 0).any(0)))
    estimate = float(values.mean(dtype=np.float64))
    return t_difference(estimate, above / (seeds * count), df, seeds, count, level, 2 * 0.5**differing)


def crossed_bootstrap(
    labels: Any,
    predictions: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "macro_f1",
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The metric of every arm and seed `(A, S)`, and `(A, resamples)` of its mean over seeds, both drawn anew.

    labels `(N,)`, predictions `(A, S, N)`: the same seeds and groups are drawn for all arms. metric: one of
    `metrics.COUNTED`; macro averages run over all classes, zero_division 0.
    """
    if metric not in COUNTED:
        raise UserError(f"Cannot compare by {metric!r}; known are {', '.join(COUNTED)}.{nearest(metric, COUNTED)}")
    labels = checked_labels(labels, num_labels)
    made = np.asarray(predictions)
    arms, seeds, rows = made.shape
    flat = made.reshape(-1, rows)  # (A * S, N)
    kinds = np.unique(np.concatenate([labels[None, :], flat]), axis=1, return_inverse=True)[1].reshape(-1)
    found = patterns(kinds, group_codes(groups, rows))
    cells = [found.counts(labels * num_labels + one, num_labels**2) for one in flat]  # (P, C * C) each

    def values(weights: np.ndarray) -> np.ndarray:  # (block, P) -> (A * S, block)
        return np.stack([rates((weights @ one).reshape(-1, num_labels, num_labels))[metric] for one in cells])

    drawn = np.concatenate([values(block) for block in group_weights(found, resamples, seed)], axis=1)
    picks = np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    draws = np.einsum("asr,rs->ar", drawn.reshape(arms, seeds, resamples), picks / seeds)
    return values(found.multiplicity[None, :])[:, 0].reshape(arms, seeds), draws


def bootstrap_difference(
    values: np.ndarray, draws: np.ndarray, groups: int, level: float = 0.95, floor: float = 0.0
) -> Difference:
    """The interval of the mean of values `(S,)`, given `draws (resamples,)` of it from `crossed_bootstrap`.

    For a difference of arms hand in the differences of both. Variance: that of the draws, plus V / S for what drawing
    S of S seeds misses, V = the variance of the mean over seeds (values' own / S); df as in `crossed_difference`,
    with V for MS_seed. Conservative: crossing both draws counts the seed-by-group part of the variance thrice.
    """
    seeds = len(values)
    over_seeds = float(values.var(ddof=1)) / seeds
    variance = float(draws.var()) + over_seeds / seeds
    df = (variance / over_seeds) ** 2 * (seeds - 1) if over_seeds > variance / NORMAL else NORMAL
    if not variance:
        df = seeds - 1.0
    return t_difference(float(values.mean()), variance, df, seeds, groups, level, floor)
