"""Confidence intervals that hold with few groups and near 0 and 1, where a plain bootstrap is too narrow.

- `percentile`: bootstrap percentiles at levels expanded for the number of groups (Hesterberg 2015, section 3.2).
- `wilson`: the score interval of a share (Wilson 1927), for a metric with too few mistakes (or too few correct rows) for
  resampling to show how rare they are: every resample of a perfect score is perfect.
- `paired_reach`: the same for the difference of two shares (Newcombe 1998, the square-and-add rule).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

FEW = 10  # groups with the rarer outcome: with this many, a bootstrap shows how rare it is


def equal_groups(sizes: np.ndarray) -> float:
    """Return the effective number of groups of equal size for `sizes (G,)`: N^2 / sum of squares (Kish 1965); 1 to G."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def group_df(sizes: np.ndarray) -> float:
    """Return the degrees of freedom of a variance between groups, at least 1."""
    return max(1.0, equal_groups(sizes) - 1)


def independent_units(by_group: np.ndarray, sizes: np.ndarray) -> float:
    """Return the effective number of independent rows for an outcome that occurs in `by_group (G,)` rows of each group.

    It is the number of rows N over the cluster size of the outcome, sum(e^2) / sum(e). How unobserved outcomes would
    cluster is unknown, so one group with the outcome in all its rows is added: without any outcome, the result is the
    number of groups (`equal_groups`); with many, scattered over groups, nearly the number of rows.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    typical = float((sizes**2).sum() / sizes.sum())  # mean group size over rows
    found = np.abs(by_group)
    return float(sizes.sum() * (found.sum() + typical) / ((found**2).sum() + typical**2))


def tail_share(level: float, df: float, groups: int) -> float:
    """Return the share of bootstrap draws outside each end of a `level` interval.

    ndtr(-t * sqrt(G / (G - 1))), with t the quantile of `df` degrees of freedom: draws of G groups with replacement are
    too narrow by sqrt((G - 1) / G), and a normal distribution ignores that their spread is estimated. (1 - level) / 2 for
    large G.
    """
    return float(ndtr(-stdtrit(df, (1 + level) / 2) * np.sqrt(groups / (groups - 1))))


def tail_p(share: float, df: float, groups: int) -> float:
    """Return the two-sided p of a value with this `share` of the draws beyond it: the inverse of `tail_share`."""
    return float(min(1.0, 2 * stdtr(df, ndtri(min(share, 0.5)) * np.sqrt((groups - 1) / groups))))


def percentile(draws: np.ndarray, level: float, df: float, groups: int) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws over `groups` groups, at the levels of `tail_share`."""
    share = tail_share(level, df, groups)
    low, high = np.quantile(draws, [share, 1 - share])
    return float(low), float(high)


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share among `count` independent units, which need not be an integer.

    Without any unit nothing is known, and the interval is [0, 1].
    """
    z = float(ndtri((1 + level) / 2))
    middle = (share * count + z**2 / 2) / (count + z**2)
    half = z / (count + z**2) * float(np.sqrt(share * (1 - share) * count + z**2 / 4))
    return (0.0 if share <= 0 else max(0.0, middle - half)), (1.0 if share >= 1 else min(1.0, middle + half))


def score_interval(value: float, standard_error: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share with an estimated standard error: Wilson's, with the effective number of rows.

    That number is v (1 - v) / error^2, with the quantile of t in place of the normal one. Near 0 and 1, and with few
    groups, the estimate is skewed and a symmetric t interval covers less than its level. Needs 0 < value < 1, error > 0.
    """
    wider = float(stdtrit(df, (1 + level) / 2)) / float(ndtri((1 + level) / 2))
    return wilson(value, value * (1 - value) / (standard_error * wider) ** 2, level)


def share_interval(wrong: np.ndarray, codes: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the share of correct rows: `score_interval`, or Wilson's with `edge_units` near 0 and 1.

    wrong: `(N,)` whether each row is wrong; codes: `(N,)` its group, from 0. The standard error is that between groups, and
    at least that of independent rows.
    """
    rows, wrong = len(wrong), np.asarray(wrong, dtype=np.float64)
    share = float(wrong.mean())
    units = edge_units(wrong, codes)
    if units is not None:
        return wilson(1 - share, units, level)
    sizes = np.bincount(codes)
    apart = np.bincount(codes, wrong, len(sizes)) - share * sizes
    between = float(np.square(apart).sum()) / rows**2 * len(sizes) / (len(sizes) - 1)
    error = max(between, share * (1 - share) / rows) ** 0.5
    return score_interval(1 - share, error, group_df(sizes), level)


def edge_units(wrong: np.ndarray, codes: np.ndarray, labels: np.ndarray | None = None) -> float | None:
    """Return the units for `wilson` if mistakes, or correct rows, are in fewer than `FEW` groups; else None.

    wrong: `(N,)`, whether each row is wrong, or in which share of seeds; codes: `(N,)` its group.
    labels `(N,)`: for a mean over classes, whose precision is limited by the rarest class; the units are then at most the
    number of classes times the groups that hold the rarest.
    Units are also returned if every resample has the score of the data, so that a bootstrap would have no width: for
    accuracy, if all groups have the same share of mistakes; for a mean over classes, if all rows of a class are equally
    wrong, as for a model that predicts only one class.
    """
    sizes = np.bincount(codes)
    wrong = np.asarray(wrong, dtype=np.float64)
    for outcome in (wrong, 1.0 - wrong):
        by_group = np.bincount(codes, outcome, len(sizes))
        if np.count_nonzero(by_group) < FEW:
            return min(independent_units(by_group, sizes), _class_units(codes, labels))
    if labels is None:
        fixed = np.ptp(np.bincount(codes, wrong, len(sizes)) / sizes) == 0
    else:
        fixed = len(np.unique(np.stack([labels, wrong], 1), axis=0)) == len(np.unique(labels))
    return min(equal_groups(sizes), _class_units(codes, labels)) if fixed else None


def _class_units(codes: np.ndarray, labels: np.ndarray | None) -> float:
    if labels is None:
        return float("inf")
    occurring, where = np.unique(labels, return_inverse=True)
    return float(len(occurring) * min(len(np.unique(codes[where == at])) for at in range(len(occurring))))


def widened(interval: tuple[float, float], value: float, units: float | None, level: float) -> tuple[float, float]:
    """Return the interval of a metric in [0, 1]; if `units` is given, it is at least Wilson's.

    At the end that is closer to the value, Wilson's bound replaces it: resamples without any mistake would reach 1, which
    is impossible for a model that made a mistake.
    """
    if units is None:
        return interval
    low, high = wilson(value, units, level)
    return (min(interval[0], low), high) if value >= 0.5 else (low, max(interval[1], high))


@dataclass(frozen=True)
class Discordance:
    """How the rows of two arms differ: the shares of rows that favour each, net per group, and their units.

    `units` allows for unobserved differences (`independent_units`); `clusters` is N over the observed cluster size of
    rows that differ, sum(net^2) / sum(net), or the number of groups if none differ.
    """

    gained: float
    lost: float
    units: float
    clusters: float
    groups: int  # that distinguish the two arms

    def reach(self, level: float) -> tuple[float, float]:
        """Return how far the interval reaches below and above the estimate, by Newcombe's square-and-add rule."""
        low_gained, high_gained = wilson(self.gained, self.units, level)
        low_lost, high_lost = wilson(self.lost, self.units, level)
        below = np.hypot(self.gained - low_gained, high_lost - self.lost)
        above = np.hypot(high_gained - self.gained, self.lost - low_lost)
        return float(below), float(above)


def discordance(
    net: np.ndarray, differs: np.ndarray, codes: np.ndarray, labels: np.ndarray | None = None
) -> Discordance:
    """Compute the `Discordance` of two arms.

    net `(N,)`: right(model) - right(baseline), mean over seeds; differs `(N,)`: whether predictions differ. For accuracy,
    a group distinguishes two arms if more of its rows are right in one; for a mean over classes (`labels` as in
    `edge_units`), if any prediction differs.
    """
    sizes = np.bincount(codes)
    by_group = np.bincount(codes, net, len(sizes))
    moved = np.abs(by_group) if labels is None else np.bincount(codes, differs, len(sizes)).astype(np.float64)
    rows, most = float(sizes.sum()), _class_units(codes, labels)
    units = min(independent_units(moved, sizes), most)
    clusters = rows * float(moved.sum()) / float((moved**2).sum()) if moved.any() else equal_groups(sizes)
    gained, lost = np.maximum(by_group, 0).sum() / rows, np.maximum(-by_group, 0).sum() / rows
    return Discordance(float(gained), float(lost), units, min(clusters, most), int(np.count_nonzero(moved)))


def decided(
    interval: tuple[float, float], estimate: float, p_value: float, level: float, discordance: Discordance | None = None
) -> tuple[float, float]:
    """Return the interval of a difference, adjusted to exclude 0 if and only if p <= 1 - level.

    If fewer than `FEW` groups differ (`discordance`), or all resamples have the same difference, it also reaches as far as
    `Discordance.reach`; only the test decides whether it excludes 0.
    """
    low, high = interval
    wide_low, wide_high = low, high
    if discordance is not None and (discordance.groups < FEW or low == high):
        below, above = discordance.reach(level)
        wide_low, wide_high = max(-1.0, min(low, estimate - below)), min(1.0, max(high, estimate + above))
    if p_value > 1 - level:
        return min(wide_low, 0.0), max(wide_high, 0.0)
    return (low, wide_high) if estimate > 0 else (wide_low, high)
