"""Paired comparison of two models on the same rows: tests, intervals, and the verdict they allow.

The estimand here is *these saved models* on one test set: a paired bootstrap over groups, with an exact McNemar test as a
check. Corrections for several comparisons and the wording of verdicts are in `multiplicity`. A verdict on *the method*
(several seeds or folds) is another estimand: see `crossed` and `verdicts`. Differences are fractions, "model minus
baseline".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from randout.core.errors import UserError, nearest

from .intervals import (
    Discordance,
    decided,
    discordance,
    edge_units,
    equal_groups,
    group_df,
    percentile,
    tail_p,
    widened,
)
from .metrics import checked_logits, compared_groups, group_codes, group_weights, patterns
from .multiplicity import Tested, judge, reach
from .multiplicity import holm as holm
from .multiplicity import words as words
from .targets import main_metric, target_of

RESAMPLES = 10000  # of every comparison of two saved models, so that all commands report the same numbers


@dataclass(frozen=True)
class Paired:
    """metric(b) - metric(a) on the same rows, with the results of a bootstrap over groups."""

    metric: str
    estimate: float
    low: float  # percentile interval at `level`
    high: float
    low90: float  # the 90 % interval: its ends are the one-sided 5 % bounds of the margin tests
    high90: float
    p_value: float  # two-sided
    standard_error: float
    value_a: float
    value_b: float
    interval_a: tuple[float, float]  # at `level`, each model alone
    interval_b: tuple[float, float]
    groups: int
    differing: int  # groups in which the two predictions differ
    level: float
    resamples: int
    df: float = 1e6  # of the group bootstrap
    equal_groups: float = 1e6  # effective number of groups of equal size; at most `groups`
    independent_rows: float = 1e6  # effective number of rows, of `intervals.Discordance.units`


@dataclass(frozen=True)
class McNemar:
    """Discordant groups: b: only the first model is right; c: only the second is; exact two-sided p."""

    b: int
    c: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One model's row in a table of comparisons; the baseline's own row has None from `difference` on."""

    name: str
    metric: str
    value: float
    low: float
    high: float
    difference: Paired | None = None
    adjusted_p: float | None = None
    words: str | None = None
    mcnemar: McNemar | None = None
    detectable: float | None = None  # the smallest difference this pair would show with 80 % power, uncorrected


def bootstrap_p(draws: np.ndarray, differing: int, df: float | None = None, groups: int = 0) -> float:
    """Return the two-sided p of "no difference": 2 * min(P(d* <= 0), P(d* >= 0)), with one added to count and total.

    df, groups: for the same correction for the number of groups as the interval has (`intervals.tail_p`).
    p is at least 2 * 0.5^differing, the smallest p of an exact sign-flip test over the groups that differ: otherwise a
    bootstrap over a few groups would report certainty after three lucky ones. At most 1.
    """
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    share = (tail + 1) / (len(draws) + 1)
    p = 2 * share if df is None else tail_p(share, df, groups)
    return float(min(1.0, max(p, 2 * 0.5**differing)))


@dataclass(frozen=True)
class Resampled:
    """A paired bootstrap of two models, with its intervals at any level."""

    metric: str
    value_a: float
    value_b: float
    drawn_a: np.ndarray  # (resamples,)
    drawn_b: np.ndarray
    differences: np.ndarray  # (resamples,) sorted
    p_value: float
    groups: int
    equal_groups: float
    df: float
    edges: tuple[float | None, float | None]  # per model, from `intervals.edge_units`
    discordance: Discordance

    @property
    def estimate(self) -> float:
        return self.value_b - self.value_a

    @property
    def standard_error(self) -> float:
        return float(self.differences.std()) * math.sqrt(self.groups / (self.groups - 1))

    def at(self, level: float) -> tuple[float, float]:
        """Return the interval of the difference; it excludes 0 if and only if p <= 1 - level."""
        found = percentile(self.differences, level, self.df, self.groups)
        return decided(found, self.estimate, self.p_value, level, self.discordance)

    def alone(self, level: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the interval of each model's own value."""
        both = zip((self.value_a, self.value_b), (self.drawn_a, self.drawn_b), self.edges, strict=True)
        first, second = (
            widened(percentile(draws, level, self.df, self.groups), value, units, level) for value, draws, units in both
        )
        return first, second

    def tested(self) -> Tested:
        return Tested(
            self.estimate,
            self.p_value,
            self.standard_error,
            self.df,
            self.groups,
            self.equal_groups,
            self.discordance.clusters,
            self.discordance.units,
            self.at,
        )

    def paired(self, level: float) -> Paired:
        low, high = self.at(level)
        low90, high90 = self.at(0.90)
        interval_a, interval_b = self.alone(level)
        return Paired(
            metric=self.metric,
            estimate=self.estimate,
            low=low,
            high=high,
            low90=low90,
            high90=high90,
            p_value=self.p_value,
            standard_error=self.standard_error,
            value_a=self.value_a,
            value_b=self.value_b,
            interval_a=interval_a,
            interval_b=interval_b,
            groups=self.groups,
            differing=self.discordance.groups,
            level=level,
            resamples=len(self.differences),
            df=self.df,
            equal_groups=self.equal_groups,
            independent_rows=self.discordance.units,
        )


def paired_difference(
    labels: Any,
    predictions_a: Any,
    predictions_b: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "accuracy",
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Paired:
    """Paired bootstrap of metric(b) - metric(a): groups drawn with replacement, the same ones for both models.

    labels, predictions: `(n,)` integers below num_labels, or `(n, C)` bool of label sets; groups: `(n,)`; metric: one of
    `metrics.COUNTED` or, of label sets, of `label_set_scores.COUNTED_SETS`.
    Percentile intervals have levels expanded for the number of groups (`intervals.percentile`), and a minimum width for few
    mistakes or few groups that differ (`intervals`); an interval excludes 0 if and only if p <= 1 - level.
    The result holds for these two saved models on similar texts, not for new training runs.
    Raises UserError for an unknown metric, no rows, and fewer than two groups.
    """
    return resampled(labels, predictions_a, predictions_b, groups, num_labels, metric, resamples, seed).paired(level)


def resampled(
    labels: Any,
    predictions_a: Any,
    predictions_b: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "accuracy",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """Return the bootstrap draws of `paired_difference`; same arguments and errors."""
    target = target_of(labels, num_labels)
    if metric not in target.metrics:
        known = ", ".join(target.metrics)
        raise UserError(f"Cannot compare by {metric!r}; known are {known}.{nearest(metric, target.metrics)}")
    labels = target.checked(labels)
    first = target.checked(predictions_a, "predictions a")
    second = target.checked(predictions_b, "predictions b")
    if not len(labels) == len(first) == len(second):
        raise ValueError(f"one prediction per row expected: {len(labels)} rows, {len(first)} and {len(second)}")
    codes = compared_groups(groups, len(labels))
    found = patterns(target.contents(labels, first, second), codes)
    cells = [target.totals(found, labels, made) for made in (first, second)]  # (P, D) each
    occurring = target.occurring(labels)

    def values(weights: np.ndarray) -> np.ndarray:  # (block, P) -> (2, block)
        return np.stack([target.rates(weights @ one, occurring)[metric] for one in cells])

    value_a, value_b = values(found.multiplicity[None, :])[:, 0].tolist()
    drawn_a, drawn_b = np.concatenate([values(block) for block in group_weights(found, resamples, seed)], axis=1)
    draws = np.sort(drawn_b - drawn_a)
    wrong_a, wrong_b = (target.wrong(labels, made, metric) for made in (first, second))
    by_class = target.by_class(labels, metric)
    differing = discordance(wrong_a.astype(float) - wrong_b, target.differs(first, second), codes, by_class)
    df = group_df(np.bincount(codes))
    return Resampled(
        metric=metric,
        value_a=value_a,
        value_b=value_b,
        drawn_a=drawn_a,
        drawn_b=drawn_b,
        differences=draws,
        p_value=bootstrap_p(draws, differing.groups, df, found.groups),
        groups=found.groups,
        equal_groups=equal_groups(np.bincount(codes)),
        df=df,
        edges=(edge_units(wrong_a, codes, by_class), edge_units(wrong_b, codes, by_class)),
        discordance=differing,
    )


def mcnemar_exact(correct_a: Any, correct_b: Any, groups: Sequence[Any] | np.ndarray) -> McNemar:
    """Run the exact McNemar test on the first row of each group: without a difference, b and c are equally likely.

    correct_a, correct_b: `(n,)` booleans. p = min(1, 2 * P(Binomial(b + c, 1/2) <= min(b, c))); 1 when none differ.
    """
    first, second = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"two vectors of equal length expected, found {first.shape} and {second.shape}")
    rows = np.unique(group_codes(groups, len(first)), return_index=True)[1]
    b, c = (int(np.count_nonzero(side[rows])) for side in (first & ~second, ~first & second))
    return McNemar(b, c, float(min(1.0, 2 * bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0)


def detectable_difference(n_groups: int, discordance: float, power: float = 0.8, level: float = 0.05) -> float:
    """Return the smallest difference in accuracy that one pair of models shows with this power, as a fraction.

    discordance: share of rows on which exactly one of the two is right. The result is (z_{1-level/2} + z_power) *
    sqrt(discordance / n). A difference cannot exceed the discordance; if this value does, the discordance is set to the
    difference itself: (z + z)^2 / n. At most 1.
    """
    if n_groups < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"groups >= 1 and a discordance in [0, 1] expected, found {n_groups}, {discordance}")
    errors = reach(power, level)
    return min(1.0, max(errors * math.sqrt(discordance / n_groups), errors**2 / n_groups))


def compare_models(
    labels: Any,
    logits: Mapping[str, Any],
    baseline: str,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "accuracy",
    *,
    margin: float = 0.02,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    outputs: int | None = None,
) -> list[Comparison]:
    """Compare every model with the baseline on one test set: the baseline's row first, the others in the order given.

    logits: {name: `(n, C)`}; C: `outputs`, or num_labels if every label has an output. For label sets `(n, C)` bool, the
    decisions in place of logits, and the metric is the mean F1 over rows unless another than accuracy is named. p is
    Holm-adjusted over these comparisons as one family, and the margin tests are a second family; intervals are not adjusted.
    Rows become JSON with `dataclasses.asdict`.
    """
    if baseline not in logits or len(logits) < 2:
        raise UserError(
            f"A comparison needs the baseline {baseline!r} and at least one other model; found "
            f"{', '.join(map(repr, logits)) or 'none'}.{nearest(baseline, logits)}"
        )
    target, metric = target_of(labels, num_labels), main_metric(labels, metric)
    labels = target.checked(labels)
    made = {
        name: one if labels.ndim == 2 else checked_logits(one, len(labels), outputs or num_labels).argmax(-1)
        for name, one in logits.items()
    }
    others = [name for name in made if name != baseline]
    right = {name: target.right(labels, one) for name, one in made.items()}
    pairs = [
        resampled(labels, made[baseline], made[name], groups, num_labels, metric, resamples, seed) for name in others
    ]
    judged = judge([pair.tested() for pair in pairs], margin, 1 - level)
    rows = [Comparison(baseline, metric, pairs[0].value_a, *pairs[0].alone(level)[0])]
    for name, pair, said in zip(others, pairs, judged, strict=True):
        row = Comparison(
            name,
            metric,
            pair.value_b,
            *pair.alone(level)[1],
            difference=pair.paired(level),
            adjusted_p=said.adjusted_p,
            words=said.words,
            mcnemar=mcnemar_exact(right[baseline], right[name], groups),
            detectable=said.detectable,
        )
        rows.append(row)
    return rows
