"""The crossed design: several seeds of a method evaluated on the same rows, rows in groups.

Both are samples: seeds from possible training runs, groups from possible texts. Every seed is evaluated on every group,
so the two factors are crossed, and an interval must account for both (Obuchowski and Rockette 1995; degrees of freedom:
Satterthwaite's, which Hillis 2007 gives for many groups). Resampling seeds and, within each, rows (the nested design) is
invalid here and not offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from randout.core.errors import UserError, nearest

from .intervals import equal_groups, group_df
from .metrics import compared_groups, group_codes, group_weights, patterns
from .multiplicity import NORMAL
from .targets import target_of


@dataclass(frozen=True)
class Difference:
    """An estimate with its t interval: of two arms (model minus baseline), or of one arm's own value."""

    estimate: float
    low: float  # at `level`
    high: float
    low90: float  # the 90 % interval: its ends are the one-sided 5 % bounds of the margin tests
    high90: float
    standard_error: float
    df: float  # of the t distribution; NORMAL at most
    p_value: float  # two-sided, of "the true value is 0"
    units: int  # seeds, or folds
    groups: int
    level: float
    equal_groups: float = NORMAL  # effective number of groups of equal size; at most `groups`

    def at(self, level: float) -> tuple[float, float]:
        """Return the t interval at another level."""
        return t_interval(self.estimate, self.standard_error, self.df, level)


def t_interval(estimate: float, standard_error: float, df: float, level: float) -> tuple[float, float]:
    """Return the interval estimate -+ t * standard_error."""
    half = float(stdtrit(df, (1 + level) / 2)) * standard_error
    return estimate - half, estimate + half


def t_difference(
    estimate: float,
    variance: float,
    df: float,
    units: int,
    groups: int,
    level: float,
    floor: float = 0.0,
    equal_groups: float = NORMAL,
) -> Difference:
    """Return a `Difference` from its variance and degrees of freedom. floor: the smallest possible p.

    If the variance gives a smaller p than the floor, the standard error is raised to match the floor, so that p, every
    interval and every bound agree.
    """
    error = math.sqrt(variance)
    quantile = float(stdtrit(df, 1 - min(floor, 0.5) / 2)) if floor > 0 else math.inf
    error = max(error, abs(estimate) / quantile)
    low, high = t_interval(estimate, error, df, level)
    low90, high90 = t_interval(estimate, error, df, 0.90)
    p = float(estimate == 0) if error == 0 else 2 * float(stdtr(df, -abs(estimate) / error))
    p = min(1.0, max(p, floor))
    return Difference(estimate, low, high, low90, high90, error, df, p, units, groups, level, equal_groups)


def mean_squares(values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Return MS_seed, MS_group, MS_error of values `(S, N)`, groups `(N,)` coded from 0; groups weighted by their size.

    They are those of the two-way table u[s, g] = (m_s - m) + w_g (y[s, g] - m_s): y the mean of a seed's values in a group, m_s a
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
        raise UserError("The crossed design needs at least two seeds: one seed shows no variation between seeds.")
    return values, compared_groups(groups, values.shape[1])


def crossed_difference(
    differences: Any, groups: Sequence[Any] | np.ndarray, level: float = 0.95, *, floor: bool = True
) -> Difference:
    """Estimate the mean of differences `(S, N)` over new seeds and new groups, with two-way random effects.

    differences: right(model) - right(baseline), in {-1, 0, 1}, or of the values of rows, seed by row; groups: `(N,)`, hashable.
    Var(mean) = V / (S * G), V = MS_seed + max(MS_group - MS_error, 0). Satterthwaite's degrees of freedom:
    df = V^2 / (MS_seed^2 / (S - 1) + MS_group^2 / g + MS_error^2 / ((S - 1) g)), g = `intervals.group_df`, G - 1 for
    groups of one size; the last two only where MS_group > MS_error. For large G that is Hillis' df. At least 1: a small
    difference of two large mean squares would make it nearly 0, and the interval infinite.
    p is at least 2 * 0.5^(groups that differ in some seed), the smallest p of a sign-flip test; the standard error is
    raised to match.
    If neither seeds nor groups show variance of their own, MS_error is used instead: seeds with equal means by chance do
    not imply certainty.
    For the interval of one arm, pass right or wrong `(S, N)` in place of differences, and `floor` False.
    Raises UserError for fewer than two seeds or two groups.
    """
    values, codes = _checked(differences, groups)
    sizes = np.bincount(codes)
    seeds, count, own = len(values), len(sizes), group_df(sizes)
    seed, group, error = mean_squares(values, codes)
    above = seed
    inverse = seed**2 / (seeds - 1)  # of df, times above^2
    if group > error:
        above += group - error
        inverse += group**2 / own + error**2 / ((seeds - 1) * own)
    elif not above:
        above, inverse = error, error**2 / ((seeds - 1) * own)
    df = max(1.0, above**2 / inverse) if inverse > 0 else seeds - 1.0
    differing = np.count_nonzero(np.bincount(codes, (values != 0).any(0)))
    estimate = float(values.mean(dtype=np.float64))
    least = 2 * 0.5**differing if floor else 0.0
    return t_difference(estimate, above / (seeds * count), df, seeds, count, level, least, equal_groups(sizes))


def crossed_bootstrap(
    labels: Any,
    predictions: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "macro_f1",
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the metric of every arm and seed `(A, S)`, and draws `(A, resamples)` of its mean over resampled seeds and groups.

    labels `(N,)`, predictions `(A, S, N)`, or of label sets `(N, C)` and `(A, S, N, C)` bool: the same seeds and groups are
    drawn for all arms. metric: one of those of `targets`; macro averages run over all classes, zero_division 0.
    """
    target = target_of(labels, num_labels)
    if metric not in target.metrics:
        known = ", ".join(target.metrics)
        raise UserError(f"Cannot compare by {metric!r}; known are {known}.{nearest(metric, target.metrics)}")
    labels = target.checked(labels)
    made = np.asarray(predictions)
    arms, seeds = made.shape[:2]
    flat = made.reshape(-1, *labels.shape)  # (A * S, N) or (A * S, N, C)
    found = patterns(target.contents(labels, *flat), group_codes(groups, len(labels)))
    cells = [target.totals(found, labels, one) for one in flat]  # (P, D) each
    occurring = target.occurring(labels)

    def values(weights: np.ndarray) -> np.ndarray:  # (block, P) -> (A * S, block)
        return np.stack([target.rates(weights @ one, occurring)[metric] for one in cells])

    drawn = np.concatenate([values(block) for block in group_weights(found, resamples, seed)], axis=1)
    picks = np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    draws = np.einsum("asr,rs->ar", drawn.reshape(arms, seeds, resamples), picks / seeds)
    return values(found.multiplicity[None, :])[:, 0].reshape(arms, seeds), draws


def bootstrap_difference(
    values: np.ndarray,
    draws: np.ndarray,
    groups: int,
    level: float = 0.95,
    floor: float = 0.0,
    sizes: np.ndarray | None = None,
) -> Difference:
    """Return the interval of the mean of values `(S,)`, given `draws (resamples,)` of it from `crossed_bootstrap`.

    For a difference of arms, pass the differences of both; sizes `(G,)`: rows of each group, equal if not given.
    The variance is that of the draws, plus V / S for the bias of drawing S of S seeds, where V is the variance of the
    mean over seeds (that of the values / S). The part above V is due to groups, and is scaled by G / (G - 1) for the bias
    of drawing G of G groups. Satterthwaite's degrees of freedom, from S - 1 for V and `intervals.group_df` for the rest; at
    least 1.
    Conservative: crossing both draws counts the seed-by-group variance three times.
    """
    sizes = np.ones(groups) if sizes is None else sizes
    seeds = len(values)
    over_seeds = float(values.var(ddof=1)) / seeds
    variance = float(draws.var()) + over_seeds / seeds
    over_groups = max(variance - over_seeds, 0.0) * groups / (groups - 1)
    variance = over_seeds + over_groups if over_groups else variance
    inverse = over_seeds**2 / (seeds - 1) + over_groups**2 / group_df(sizes)
    df = max(1.0, variance**2 / inverse) if inverse > 0 else seeds - 1.0
    worth = equal_groups(sizes)
    return t_difference(float(values.mean()), variance, df, seeds, groups, level, floor, worth)
