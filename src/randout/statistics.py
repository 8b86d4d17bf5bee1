"""Is one model better than another, and which words may say so.

Here: *these saved models* on one test set (paired bootstrap over groups, exact McNemar as a check), the correction
for several comparisons, and the words. A verdict on *the method* (several seeds, folds) is another estimand:
`crossed` and `verdicts`. Differences are fractions, always "the model minus the baseline".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import bdtr, ndtri

from randout.errors import UserError, nearest
from randout.metrics import COUNTED, checked_labels, checked_logits, group_codes, group_weights, patterns, rates


@dataclass(frozen=True)
class Paired:
    """metric(b) - metric(a) on the same rows, with what a bootstrap over groups says of it."""

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
    differing: int  # groups in which the two differ at all
    level: float
    resamples: int


@dataclass(frozen=True)
class McNemar:
    """Discordant groups: b where only the first model is right, c where only the second is; exact two-sided p."""

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


def _interval(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _differing(metric: str, labels: np.ndarray, first: np.ndarray, second: np.ndarray, codes: np.ndarray) -> int:
    """Groups that can tell the two apart: more right in one (accuracy), any prediction different (the others)."""
    if metric == "accuracy":
        net = np.bincount(codes, (second == labels).astype(float) - (first == labels))
        return int(np.count_nonzero(net))
    return int(np.count_nonzero(np.bincount(codes, first != second)))


def bootstrap_p(draws: np.ndarray, differing: int) -> float:
    """Two-sided p of "no difference": 2 * min(P(d* <= 0), P(d* >= 0)), each with one added to count and total.

    Never below 2 * 0.5^differing, the smallest p of an exact test that flips signs of the groups that differ: a
    bootstrap over a handful of groups would otherwise call three lucky groups certain. At most 1.
    """
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p = 2 * (tail + 1) / (len(draws) + 1)
    return float(min(1.0, max(p, 2 * 0.5**differing)))


def paired_difference(
    labels: Any,
    predictions_a: Any,
    predictions_b: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "accuracy",
    resamples: int = 10000,
    seed: int = 0,
    level: float = 0.95,
) -> Paired:
    """Paired bootstrap of metric(b) - metric(a): groups drawn with replacement, the same ones for both models.

    labels, predictions: `(n,)` integers below num_labels; groups: `(n,)`; metric: one of `metrics.COUNTED`.
    Percentile intervals. Speaks of these two saved models on texts like these, not of new training runs.
    Raises UserError for an unknown metric, for no rows and for fewer than two groups.
    """
    if metric not in COUNTED:
        raise UserError(f"Cannot compare by {metric!r}; known are {', '.join(COUNTED)}.{nearest(metric, COUNTED)}")
    labels = checked_labels(labels, num_labels)
    first = checked_labels(predictions_a, num_labels, "predictions a")
    second = checked_labels(predictions_b, num_labels, "predictions b")
    if not len(labels) == len(first) == len(second):
        raise ValueError(f"one prediction per row expected: {len(labels)} rows, {len(first)} and {len(second)}")
    codes = group_codes(groups, len(labels))
    found = patterns((labels * num_labels + first) * num_labels + second, codes)
    if found.groups < 2:
        raise UserError("All rows are in one group; a comparison needs at least two groups to draw from.")
    cells = [found.counts(labels * num_labels + made, num_labels**2) for made in (first, second)]  # (P, C * C) each

    def values(weights: np.ndarray) -> np.ndarray:  # (block, P) -> (2, block)
        return np.stack([rates((weights @ one).reshape(-1, num_labels, num_labels))[metric] for one in cells])

    value_a, value_b = values(found.multiplicity[None, :])[:, 0].tolist()
    drawn_a, drawn_b = np.concatenate([values(block) for block in group_weights(found, resamples, seed)], axis=1)
    draws = drawn_b - drawn_a
    differing = _differing(metric, labels, first, second, codes)
    low, high = _interval(draws, level)
    low90, high90 = _interval(draws, 0.90)
    return Paired(
        metric=metric,
        estimate=value_b - value_a,
        low=low,
        high=high,
        low90=low90,
        high90=high90,
        p_value=bootstrap_p(draws, differing),
        standard_error=float(draws.std()),
        value_a=value_a,
        value_b=value_b,
        interval_a=_interval(drawn_a, level),
        interval_b=_interval(drawn_b, level),
        groups=found.groups,
        differing=differing,
        level=level,
        resamples=resamples,
    )


def mcnemar_exact(correct_a: Any, correct_b: Any, groups: Sequence[Any] | np.ndarray) -> McNemar:
    """Exact McNemar test on the first row of each group: b against c is a fair coin under no difference.

    correct_a, correct_b: `(n,)` booleans. p = min(1, 2 * P(Binomial(b + c, 1/2) <= min(b, c))); 1 when none differ.
    """
    first, second = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"two vectors of equal length expected, found {first.shape} and {second.shape}")
    rows = np.unique(group_codes(groups, len(first)), return_index=True)[1]
    b, c = (int(np.count_nonzero(side[rows])) for side in (first & ~second, ~first & second))
    return McNemar(b, c, float(min(1.0, 2 * bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p `(m,)` in the order given: running maximum of (m - rank) * p, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values between 0 and 1 in one dimension expected, found {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


class Judged(Protocol):
    """What `words` looks at: a difference, its 90 % interval and the number of groups behind it."""

    @property
    def estimate(self) -> float: ...
    @property
    def low90(self) -> float: ...
    @property
    def high90(self) -> float: ...
    @property
    def groups(self) -> int: ...


def words(found: Judged, adjusted_p: float, margin: float = 0.02, alpha: float = 0.05) -> str:
    """The verdict, and nothing but these words, separated by ", ".

    "better" or "worse": adjusted_p <= alpha, else "not distinguishable". "equivalent": the 90 % interval lies within
    (-margin, margin), i.e. both one-sided 5 % tests; else "not worse": its lower end is above -margin (not said
    beside "better", which says more). Neither is said when a difference of the margin may have gone unseen: with
    fewer than 3 / margin groups, none differing is compatible with that much (the rule of three).
    """
    verdict = "not distinguishable" if adjusted_p > alpha else "better" if found.estimate > 0 else "worse"
    if found.groups * margin < 3:
        return verdict
    if -margin < found.low90 and found.high90 < margin:
        return f"{verdict}, equivalent"
    if verdict == "not distinguishable" and found.low90 > -margin:
        return f"{verdict}, not worse"
    return verdict


def _reach(power: float, level: float) -> float:
    """Standard errors a difference must measure to be shown at two-sided `level` with this power: 2.80 at .8, .05."""
    return float(ndtri(1 - level / 2) + ndtri(power))


def detectable_difference(n_groups: int, discordance: float, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference in accuracy that one pair of models would show with this power, a fraction.

    discordance: share of rows on which exactly one of the two is right. (z_{1-level/2} + z_power) *
    sqrt(discordance / n). No difference can exceed its discordance, so where that says more, the discordance is
    taken to be the difference itself: (z + z)^2 / n. At most 1.
    """
    if n_groups < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"groups >= 1 and a discordance in [0, 1] expected, found {n_groups}, {discordance}")
    reach = _reach(power, level)
    return min(1.0, max(reach * math.sqrt(discordance / n_groups), reach**2 / n_groups))


def compare_models(
    labels: Any,
    logits: Mapping[str, Any],
    baseline: str,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    metric: str = "accuracy",
    *,
    margin: float = 0.02,
    resamples: int = 10000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Comparison]:
    """Every model against the baseline, on one test set: the baseline's row first, the others in the order given.

    logits: {name: `(n, C)`}. p is Holm-adjusted over these comparisons, which are the whole family; intervals are
    not. Rows become JSON with `dataclasses.asdict`.
    """
    if baseline not in logits or len(logits) < 2:
        raise UserError(
            f"A comparison needs the baseline {baseline!r} and another model; given are "
            f"{', '.join(map(repr, logits)) or 'none'}.{nearest(baseline, logits)}"
        )
    labels = checked_labels(labels, num_labels)
    made = {name: checked_logits(one, len(labels), num_labels).argmax(-1) for name, one in logits.items()}
    others = [name for name in made if name != baseline]
    right = {name: one == labels for name, one in made.items()}
    pairs = [
        paired_difference(labels, made[baseline], made[name], groups, num_labels, metric, resamples, seed, level)
        for name in others
    ]
    adjusted = holm([pair.p_value for pair in pairs]).tolist()
    reach = _reach(0.8, 1 - level)
    rows = [Comparison(baseline, metric, pairs[0].value_a, *pairs[0].interval_a)]
    for name, pair, p in zip(others, pairs, adjusted, strict=True):
        row = Comparison(
            name,
            metric,
            pair.value_b,
            *pair.interval_b,
            difference=pair,
            adjusted_p=p,
            words=words(pair, p, margin, 1 - level),
            mcnemar=mcnemar_exact(right[baseline], right[name], groups),
            detectable=min(1.0, max(reach * pair.standard_error, reach**2 / pair.groups)),
        )
        rows.append(row)
    return rows
