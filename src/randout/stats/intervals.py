"""Confidence intervals that hold with few groups and near 0 and 1, where a plain bootstrap is too narrow.

- `percentile`: bootstrap percentiles at levels expanded for the number of groups (Hesterberg 2015, section 3.2).
- `wilson`: the score interval of a share (Wilson 1927), for a metric with so few mistakes (or so few hits) that
  resampling cannot show how rare they are: a perfect score resampled is perfect every time.
- `paired_reach`: the same for the difference of two shares (Newcombe 1998, the square-and-add rule).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

FEW = 10  # groups with the rarer outcome: from this many on a bootstrap is trusted to show how rare it is


def equal_groups(sizes: np.ndarray) -> float:
    """How many groups of equal size are worth these `sizes (G,)`: N^2 / sum of squares (Kish 1965); 1 to G."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def group_df(sizes: np.ndarray) -> float:
    """Degrees of freedom of a variance between groups, at least 1."""
    return max(1.0, equal_groups(sizes) - 1)


def independent_units(by_group: np.ndarray, sizes: np.ndarray) -> float:
    """How many independent rows a data set is worth for an outcome of which each group holds `by_group (G,)` rows.

    Rows N over the size of a cluster of that outcome, sum(e^2) / sum(e). How outcomes that were not seen would cluster
    is unknown, so one group that has the outcome in all its rows is added: without any outcome, the groups count
    (`equal_groups`); with many, scattered over groups, nearly every row.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    typical = float((sizes**2).sum() / sizes.sum())  # rows of the group that a random row is in
    found = np.abs(by_group)
    return float(sizes.sum() * (found.sum() + typical) / ((found**2).sum() + typical**2))


def tail_share(level: float, df: float, groups: int) -> float:
    """The share of bootstrap draws outside each end of a `level` interval.

    ndtr(-t * sqrt(G / (G - 1))), t the quantile of `df` degrees of freedom: draws with replacement of G groups are too
    narrow by sqrt((G - 1) / G), and a normal law ignores that their spread is an estimate. (1 - level) / 2 for large G.
    """
    return float(ndtr(-stdtrit(df, (1 + level) / 2) * np.sqrt(groups / (groups - 1))))


def tail_p(share: float, df: float, groups: int) -> float:
    """Two-sided p of a value beyond which lies this `share` of the draws: the inverse of `tail_share`."""
    return float(min(1.0, 2 * stdtr(df, ndtri(min(share, 0.5)) * np.sqrt((groups - 1) / groups))))


def percentile(draws: np.ndarray, level: float, df: float, groups: int) -> tuple[float, float]:
    """Percentile interval of bootstrap draws over `groups` groups, at the levels of `tail_share`."""
    share = tail_share(level, df, groups)
    low, high = np.quantile(draws, [share, 1 - share])
    return float(low), float(high)


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share seen among `count` independent units, which need not be whole."""
    z = float(ndtri((1 + level) / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return (0.0 if share <= 0 else max(0.0, middle - half)), (1.0 if share >= 1 else min(1.0, middle + half))


def score_interval(value: float, standard_error: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share whose standard error a design has estimated: Wilson's, of the rows that it is worth.

    v (1 - v) / error^2 rows, with the quantile of t in place of the normal one. Near 0 and 1, and with few groups, the
    estimate is skewed and a symmetric t interval misses more often than it says. Needs 0 < value < 1, error > 0.
    """
    wider = float(stdtrit(df, (1 + level) / 2)) / float(ndtri((1 + level) / 2))
    return wilson(value, value * (1 - value) / (standard_error * wider) ** 2, level)


def edge_units(wrong: np.ndarray, codes: np.ndarray, labels: np.ndarray | None = None) -> float | None:
    """The units for `wilson` where mistakes, or right rows, are in fewer than `FEW` groups; else None.

    wrong: `(N,)`, whether each row is wrong, or in which share of seeds; codes: `(N,)` its group.
    labels `(N,)`: for a mean over classes, where the rarest class is all that its recall is known from; the units are
    then at most the number of classes times the groups that hold the rarest.
    Units are also given where every resample has the score of the data, so that a bootstrap would have no width: for
    accuracy, where all groups have the same share of mistakes; for a mean over classes, where all rows of a class are
    equally wrong, as those of a model that predicts one class only.
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
    """The interval of a metric in [0, 1], where `units` is given at least Wilson's.

    At the end that the value is near, Wilson's replaces it: resamples without any mistake would reach 1, which a model
    that made a mistake cannot have.
    """
    if units is None:
        return interval
    low, high = wilson(value, units, level)
    return (min(interval[0], low), high) if value >= 0.5 else (low, max(interval[1], high))


@dataclass(frozen=True)
class Discordance:
    """How the rows of two arms differ: shares of rows that favour one and the other, net by group, and their units.

    `units` allows for differences that were not seen (`independent_units`), `clusters` is N over the observed size of
    a cluster of rows that differ, sum(net^2) / sum(net); where none differ, the number of groups.
    """

    gained: float
    lost: float
    units: float
    clusters: float
    groups: int  # that can tell the two apart

    def reach(self, level: float) -> tuple[float, float]:
        """How far below and above the estimated difference its interval reaches, by Newcombe's square-and-add rule."""
        low_gained, high_gained = wilson(self.gained, self.units, level)
        low_lost, high_lost = wilson(self.lost, self.units, level)
        below = np.hypot(self.gained - low_gained, high_lost - self.lost)
        above = np.hypot(high_gained - self.gained, self.lost - low_lost)
        return float(below), float(above)


def discordance(
    net: np.ndarray, differs: np.ndarray, codes: np.ndarray, labels: np.ndarray | None = None
) -> Discordance:
    """From net `(N,)`: right(model) - right(baseline), mean over seeds; differs `(N,)`: whether predictions differ.

    A group can tell two arms apart when more of its rows are right in one, for accuracy; for a mean over classes
    (`labels` as in `edge_units`) when any prediction differs.
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
    interval: tuple[float, float], estimate: float, p_value: float, level: float, few: Discordance | None = None
) -> tuple[float, float]:
    """The interval of a difference that leaves out 0 exactly where p <= 1 - level.

    Where fewer than `FEW` groups differ (`few`), or all resamples have the same difference, it also reaches as far as
    `Discordance.reach`; the test alone decides about 0.
    """
    low, high = interval
    wide_low, wide_high = low, high
    if few is not None and (few.groups < FEW or low == high):
        below, above = few.reach(level)
        wide_low, wide_high = max(-1.0, min(low, estimate - below)), min(1.0, max(high, estimate + above))
    if p_value > 1 - level:
        return min(wide_low, 0.0), max(wide_high, 0.0)
    return (low, wide_high) if estimate > 0 else (wide_low, high)
