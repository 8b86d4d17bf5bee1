"""Corrections for several comparisons with one baseline: adjusted p-values, simultaneous intervals, wording.

The tests of a difference are one family under Holm's correction; the margin tests (not worse, equivalent) are a
second family, for lower and upper bounds each. p, interval and wording of a comparison never contradict one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtri, stdtrit

ONE_SIDED = 0.05  # level of each margin test
GROUPS_NEEDED = 10  # for a verdict, in groups of equal size; simulated in docs/explanation/statistics.md
RULE_OF_THREE = 3.0  # independent rows times margin; with fewer, a difference of the margin may be unobserved by chance
NORMAL = 1e6  # degrees of freedom that stand for infinity, so that a row stays valid JSON


@dataclass(frozen=True)
class Tested:
    """One comparison as tested by its design; the difference is a fraction."""

    estimate: float
    p_value: float  # two-sided, of no difference
    standard_error: float
    df: float
    groups: int
    equal_groups: float  # `intervals.equal_groups`
    clusters: float  # effective number of independent rows, of `intervals.Discordance`
    independent_rows: float  # the same, if one more group differs in all its rows
    interval: Callable[[float], tuple[float, float]]  # at a level: excludes 0 if and only if p <= 1 - level


@dataclass(frozen=True)
class Judgement:
    """The result of one comparison within its family."""

    adjusted_p: float
    simultaneous: tuple[float, float]  # at the level of Holm's test: excludes 0 if and only if Holm rejects
    words: str
    detectable: float


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjusted p `(m,)` in the order given: running maximum of (m - rank) * p, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values between 0 and 1 in one dimension expected, found {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def holm_steps(p_values: Sequence[float], alpha: float) -> list[int]:
    """Return the divisor of alpha for each test: p <= alpha / step if and only if Holm rejects.

    It is m for the smallest p, then m - 1 and so on; from the first test that is not rejected, it stays the same.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(order), 0, -1)
    kept = np.flatnonzero(np.asarray(p_values)[order] * steps > alpha)
    if len(kept):
        steps[kept[0] :] = steps[kept[0]]
    return [int(step) for step in steps[np.argsort(order, kind="stable")]]


def holm_stop(count: int, passes: Callable[[int, float], bool], alpha: float) -> int:
    """Return the divisor of alpha at which Holm's procedure stops, for tests that only report whether they pass at a level.

    passes(at, level) must be monotone in the level. Holm rejects exactly the tests that pass at alpha / divisor.
    """
    for step in range(count, 1, -1):
        if sum(passes(at, alpha / step) for at in range(count)) <= count - step:
            return step
    return 1


class Judged(Protocol):
    """The input of `words`: a difference, its 90 % interval, the number of groups and what the rows are worth."""

    @property
    def estimate(self) -> float: ...
    @property
    def low90(self) -> float: ...
    @property
    def high90(self) -> float: ...
    @property
    def groups(self) -> int: ...
    @property
    def equal_groups(self) -> float: ...
    @property
    def independent_rows(self) -> float: ...


def too_few_groups(groups: int, equal_groups: float) -> str | None:
    """Return why there is no verdict if the groups are worth fewer than `GROUPS_NEEDED` equal ones, rounded; else None."""
    if min(groups, equal_groups) >= GROUPS_NEEDED - 0.5:
        return None
    if groups < GROUPS_NEEDED:
        return f"no verdict: {groups} groups, at least {GROUPS_NEEDED} are needed"
    worth = f"{groups} groups of unequal size, worth {round(equal_groups)} equal ones"
    return f"no verdict: {worth}, at least {GROUPS_NEEDED} are needed"


def words(found: Judged, adjusted_p: float, margin: float = 0.02, alpha: float = 0.05) -> str:
    """Return the verdict in these terms, separated by ", ".

    "no verdict: ...": fewer than `GROUPS_NEEDED` groups, for which neither p nor the margin tests hold their level.
    "better" or "worse": adjusted_p <= alpha, else "not distinguishable". "equivalent": the 90 % interval lies within
    (-margin, margin), i.e. both one-sided 5 % tests; else "not worse": its lower end is above -margin (omitted with
    "better", which is stronger). Neither is given where a difference of the margin may be unobserved (`too_few_for`).
    """
    if few := too_few_groups(found.groups, found.equal_groups):
        return few
    verdict = "not distinguishable" if adjusted_p > alpha else "better" if found.estimate > 0 else "worse"
    if too_few_for(found.independent_rows, margin):
        return verdict
    if -margin < found.low90 and found.high90 < margin:
        return f"{verdict}, equivalent"
    if verdict == "not distinguishable" and found.low90 > -margin:
        return f"{verdict}, not worse"
    return verdict


def least_rows(margin: float) -> int:
    """Return how many independent rows "not worse by the margin" takes at least: 3 / margin."""
    return math.ceil(RULE_OF_THREE / margin - 1e-9)


def too_few_for(independent_rows: float, margin: float) -> bool:
    """Return whether so many independent rows cannot show "not worse by the margin" of a model that is not better.

    With fewer than 3 / margin, no difference at all is compatible with one of the margin (the rule of three).
    """
    return independent_rows < least_rows(margin)


@dataclass(frozen=True)
class Bounds:
    """A comparison with the bounds of its margin tests."""

    estimate: float
    low90: float
    high90: float
    groups: int
    equal_groups: float
    independent_rows: float


def reach(power: float, level: float, df: float = NORMAL) -> float:
    """Return the size, in standard errors, of a difference detected at two-sided `level` with this power: 2.80 at .8, .05."""
    if df >= NORMAL:
        return float(ndtri(1 - level / 2) + ndtri(power))
    return float(stdtrit(df, 1 - level / 2) + stdtrit(df, power))


def detectable(standard_error: float, df: float, clusters: float, alpha: float = 0.05) -> float:
    """Return the smallest true difference that a design shows with 80 % power at two-sided alpha, uncorrected; at most 1.

    (t_{1-alpha/2} + t_{.8}) * standard error, with the design's standard error and degrees of freedom. That error assumes
    that as many rows differ as were observed. If a difference of that size needs more differing rows, all of them are
    assumed to favour one side: d = (z + z) * sqrt(d / clusters), so d = (z + z)^2 / clusters.
    """
    return min(1.0, max(reach(0.8, alpha, df) * standard_error, reach(0.8, alpha) ** 2 / clusters))


def judge(found: Sequence[Tested], margin: float, alpha: float) -> list[Judgement]:
    """Return adjusted p, simultaneous interval, verdict and detectable difference of every comparison of a family."""
    p_values = [one.p_value for one in found]
    adjusted, steps = holm(p_values).tolist(), holm_steps(p_values, alpha)

    def bounds(at: int, level: float) -> tuple[float, float]:  # both one-sided at `level`
        return found[at].interval(1 - 2 * level)

    lower = holm_stop(len(found), lambda at, level: bounds(at, level)[0] > -margin, ONE_SIDED)
    upper = holm_stop(len(found), lambda at, level: bounds(at, level)[1] < margin, ONE_SIDED)
    judged = []
    for at, one in enumerate(found):
        low90, high90 = bounds(at, ONE_SIDED / lower)[0], bounds(at, ONE_SIDED / upper)[1]
        bounded = Bounds(one.estimate, low90, high90, one.groups, one.equal_groups, one.independent_rows)
        wide = one.interval(1 - alpha / steps[at])
        said = words(bounded, adjusted[at], margin, alpha)
        judged.append(Judgement(adjusted[at], wide, said, detectable(one.standard_error, one.df, one.clusters, alpha)))
    return judged
