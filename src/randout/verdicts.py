"""One table per family of comparisons with a baseline: which method is better, over seeds or over folds.

The estimand stands in every row. One test decides (`adjusted_p`: the crossed design, or Nadeau and Bengio's variance
over folds); what stands under `secondary` describes and is never promoted to a verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from randout.crossed import (
    NORMAL,
    Difference,
    bootstrap_difference,
    crossed_bootstrap,
    crossed_difference,
    t_difference,
)
from randout.errors import UserError, nearest
from randout.metrics import checked_labels, group_codes
from randout.optimism import Optimism as Optimism
from randout.optimism import best_of as best_of
from randout.secondary import mcnemar_over_seeds, over_seeds
from randout.statistics import holm, paired_difference, words

METHOD = "the method (new seeds, new texts)"
SAVED = "these saved models (new texts)"
FOLDS = "the method, trained on as much data (new splits)"
SEEDS_NEEDED = 5  # for a verdict on the method
FOLDS_NEEDED = 5
ONE_SIDED = 0.05  # level of each margin test


@dataclass(frozen=True)
class MethodRow:
    """One method's row; the baseline's own has None from `difference` on. Fractions; JSON by `dataclasses.asdict`."""

    name: str
    metric: str
    value: float  # mean over units
    values: tuple[float, ...]  # by seed, or by fold
    low: float  # of the value
    high: float
    estimand: str
    difference: Difference | None = None
    simultaneous: tuple[float, float] | None = None  # at the level Holm tested it: leaves out 0 where it rejects
    adjusted_p: float | None = None
    words: str | None = None
    detectable: float | None = None  # smallest difference this design shows with 80 % power, uncorrected
    secondary: dict[str, str] = field(default_factory=dict)
    against: str | None = None  # the baseline's name


@dataclass(frozen=True)
class _Table:
    """What a design makes of the data: each arm's value by unit and its interval, and the differences."""

    values: Mapping[str, tuple[Sequence[float], tuple[float, float]]]  # baseline first
    differences: list[Difference]  # of the others, in order
    interval: Callable[[int, float], tuple[float, float]]  # of one of those at another level


def holm_steps(p_values: Sequence[float], alpha: float) -> list[int]:
    """By how much Holm divides alpha for each test: p <= alpha / step exactly where Holm rejects.

    m for the smallest p, then m - 1 and so on; from the first p that is kept on, as much as for that one.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(order), 0, -1)
    kept = np.flatnonzero(np.asarray(p_values)[order] * steps > alpha)
    if len(kept):
        steps[kept[0] :] = steps[kept[0]]
    return steps[np.argsort(order, kind="stable")].tolist()


def _at_most(found: Difference, bound: float) -> float:
    """One-sided p of "the difference is at most `bound`"."""
    if found.standard_error == 0:
        return float(found.estimate <= bound)
    return float(stdtr(found.df, (bound - found.estimate) / found.standard_error))


def _judged(table: _Table, margin: float, alpha: float) -> list[dict[str, Any]]:
    """Adjusted p, simultaneous interval, words and detectable difference of every comparison of a family.

    The tests of a difference are one family; the margin tests a second, lower and upper bounds each under Holm.
    """
    found = table.differences
    p_values = [one.p_value for one in found]
    steps = holm_steps(p_values, alpha)
    lower = holm_steps([_at_most(one, -margin) for one in found], ONE_SIDED)
    upper = holm_steps([1 - _at_most(one, margin) for one in found], ONE_SIDED)
    result = []
    for at, (one, adjusted) in enumerate(zip(found, holm(p_values).tolist(), strict=True)):
        low90 = table.interval(at, 1 - 2 * ONE_SIDED / lower[at])[0]
        high90 = table.interval(at, 1 - 2 * ONE_SIDED / upper[at])[1]
        reach, least = (float(stdtrit(df, 1 - alpha / 2) + stdtrit(df, 0.8)) for df in (one.df, NORMAL))
        judged = {
            "simultaneous": table.interval(at, 1 - alpha / steps[at]),
            "adjusted_p": adjusted,
            "words": words(dataclasses.replace(one, low90=low90, high90=high90), adjusted, margin, alpha),
            "detectable": min(1.0, max(reach * one.standard_error, least**2 / one.groups)),
        }
        result.append(judged)
    return result


def _rows(table: _Table, metric: str, estimand: str, margin: float, level: float) -> list[MethodRow]:
    rows = []
    for name, (each, (low, high)) in table.values.items():
        values = tuple(float(one) for one in each)
        mean = float(np.mean(values))
        rows.append(MethodRow(name, metric, mean, values, max(0.0, float(low)), min(1.0, float(high)), estimand))
    judged = _judged(table, margin, 1 - level)
    others = [
        dataclasses.replace(row, difference=one, against=rows[0].name, **more)
        for row, one, more in zip(rows[1:], table.differences, judged, strict=True)
    ]
    return [rows[0], *others]


def _order(given: Mapping[str, Any], baseline: str) -> list[str]:
    if baseline not in given:
        names = ", ".join(map(repr, given)) or "none"
        raise UserError(f"The baseline {baseline!r} is not among the methods: {names}.{nearest(baseline, given)}")
    return [baseline, *(name for name in given if name != baseline)]


def _aligned(predictions: Mapping[str, Any], baseline: str, rows: int, num_labels: int) -> dict[str, np.ndarray]:
    """Predictions `(S, N)` by arm, the baseline's first, checked."""
    made = {name: np.asarray(predictions[name]) for name in _order(predictions, baseline)}
    seeds = len(made[baseline])
    for name, one in made.items():
        if one.ndim != 2 or one.shape[1] != rows:
            raise ValueError(f"{name}: predictions of shape (seeds, {rows}) expected, found {one.shape}")
        if len(one) != seeds or not seeds:
            raise UserError(
                f"{name!r} has {len(one)} seeds and the baseline {baseline!r} has {seeds}; a comparison is paired and "
                "needs the same seeds in every arm. Finish the missing runs, or leave those seeds out."
            )
        checked_labels(one.reshape(-1), num_labels, f"predictions of {name!r}")
    return made


def _saved_models(
    labels: np.ndarray, made: dict[str, np.ndarray], codes: np.ndarray, num_labels: int, metric: str, level: float,
    resamples: int, seed: int,
) -> _Table:  # fmt: skip
    """One seed: the paired bootstrap over groups of `statistics`."""
    base, *others = made

    def interval(at: int, at_level: float) -> tuple[float, float]:
        found = pair(others[at], at_level)
        return found.low, found.high

    def pair(name: str, at_level: float) -> Any:
        first, second = made[base][0], made[name][0]
        return paired_difference(labels, first, second, codes, num_labels, metric, resamples, seed, at_level)

    pairs = [pair(name, level) for name in others]
    first = pairs[0] if pairs else pair(base, level)
    values = {base: ([first.value_a], first.interval_a)}
    values |= {name: ([one.value_b], one.interval_b) for name, one in zip(others, pairs, strict=True)}
    same = ("estimate", "low", "high", "low90", "high90", "standard_error", "p_value", "groups", "level")
    found = [Difference(**{name: getattr(one, name) for name in same}, df=NORMAL, units=1) for one in pairs]
    return _Table(values, found, interval)


def _crossed(
    labels: np.ndarray, made: dict[str, np.ndarray], codes: np.ndarray, num_labels: int, metric: str, level: float,
    resamples: int, seed: int,
) -> _Table:  # fmt: skip
    """Several seeds: two-way random effects for accuracy, the crossed bootstrap for the other metrics."""
    arms = np.stack(list(made.values()))  # (A, S, N)
    if metric == "accuracy":
        right = (arms == labels).astype(np.int8)
        each = right.mean(-1)  # (A, S)
        alone = [crossed_difference(one, codes, level) for one in right]
        found = [crossed_difference(one - right[0], codes, level) for one in right[1:]]
    else:
        groups = int(codes.max()) + 1
        each, draws = crossed_bootstrap(labels, arms, codes, num_labels, metric, resamples, seed)
        alone = [bootstrap_difference(one, drawn, groups, level) for one, drawn in zip(each, draws, strict=True)]
        found = []
        for one, drawn, arm in zip(each[1:], draws[1:], arms[1:], strict=True):
            differing = np.count_nonzero(np.bincount(codes, (arm != arms[0]).any(0)))
            found.append(bootstrap_difference(one - each[0], drawn - draws[0], groups, level, 2 * 0.5**differing))
    intervals = [(one.low, one.high) for one in alone]
    values = {name: (one.tolist(), two) for name, one, two in zip(made, each, intervals, strict=True)}
    return _Table(values, found, lambda at, at_level: found[at].at(at_level))


def compare_methods(
    predictions: Mapping[str, Any],
    labels: Any,
    groups: Sequence[Any] | np.ndarray,
    baseline: str,
    num_labels: int,
    metric: str = "accuracy",
    *,
    margin: float = 0.02,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[MethodRow]:
    """Every method against the baseline over the same seeds and rows: the baseline's row first, then as given.

    predictions: {name: `(S, N)` integers}, seed s set up alike in every arm; labels, groups: `(N,)`.
    The estimand is the method from two seeds on, with a verdict from `SEEDS_NEEDED` on; with one seed, the saved
    models. Holm over these comparisons, which are the whole family. With the baseline alone, its row alone.
    Raises UserError for an unknown baseline or metric, for unequal numbers of seeds and under two groups.
    """
    labels = checked_labels(labels, num_labels)
    made = _aligned(predictions, baseline, len(labels), num_labels)
    codes = group_codes(groups, len(labels))
    seeds = len(made[baseline])
    design = _saved_models if seeds == 1 else _crossed
    table = design(labels, made, codes, num_labels, metric, level, resamples, seed)
    rows = _rows(table, metric, SAVED if seeds == 1 else METHOD, margin, level)
    for at, row in enumerate(rows[1:], 1):
        right, base = made[row.name] == labels, made[baseline] == labels
        secondary = {"McNemar": mcnemar_over_seeds(right, base, codes, 1 - level)}
        if seeds > 1:
            secondary |= over_seeds(np.subtract(row.values, rows[0].values), len(rows) - 1, 1 - level)
        verdict = row.words
        if 1 < seeds < SEEDS_NEEDED:
            verdict = f"no verdict: {seeds} seeds, at least {SEEDS_NEEDED} are needed"
        rows[at] = dataclasses.replace(row, secondary=secondary, words=verdict)
    return rows


def _fold_difference(
    values: Any, train_rows: Any, test_rows: Any, level: float, repeats: int, what: str = "values"
) -> Difference:
    """Nadeau and Bengio (2003): Var(mean) = s^2 (1 / n + mean(n_test / n_train)), n folds in all, df n - 1."""
    each, train, test = (np.asarray(one, dtype=np.float64) for one in (values, train_rows, test_rows))
    if not each.shape == train.shape == test.shape or each.ndim != 1 or len(each) % repeats:
        raise ValueError(f"{what}: one value, train and test size per fold of {repeats} repeats, found {each.shape}")
    folds = len(each) // repeats
    if folds < FOLDS_NEEDED:
        raise UserError(
            f"{folds} folds are too few for an interval over folds; it needs at least {FOLDS_NEEDED}. Use more folds."
        )
    if not np.isfinite(each).all() or train.min() < 1 or test.min() < 1:
        raise ValueError(f"{what}: finite values and folds with rows on both sides expected")
    variance = float(each.var(ddof=1)) * (1 / len(each) + float((test / train).mean()))
    groups = round(float(test.sum()) / repeats)
    return t_difference(float(each.mean()), variance, len(each) - 1.0, len(each), groups, level)


def fold_interval(
    values: Any, train_rows: Any, test_rows: Any, level: float = 0.95, repeats: int = 1
) -> tuple[float, float, float]:
    """Mean, low and high of a value over the folds `(r * k,)`; train_rows: the rows really trained on, by fold.

    Raises UserError under `FOLDS_NEEDED` folds a repeat.
    """
    found = _fold_difference(values, train_rows, test_rows, level, repeats)
    return found.estimate, max(0.0, found.low), min(1.0, found.high)


def compare_folds(
    values: Mapping[str, Any],
    train_rows: Any,
    test_rows: Any,
    baseline: str,
    metric: str = "accuracy",
    *,
    margin: float = 0.02,
    level: float = 0.95,
    repeats: int = 1,
) -> list[MethodRow]:
    """Every method against the baseline over the same folds, values `(r * k,)` each; rows as `compare_methods`.

    train_rows, test_rows `(r * k,)`: the rows really trained on (without an inner validation slice) and tested on.
    """
    made = {name: np.asarray(values[name], dtype=np.float64) for name in _order(values, baseline)}
    sizes = (train_rows, test_rows, level, repeats)
    alone = {name: _fold_difference(one, *sizes, name) for name, one in made.items()}
    found = [_fold_difference(one - made[baseline], *sizes, name) for name, one in made.items() if name != baseline]
    shown = {name: (one.tolist(), (alone[name].low, alone[name].high)) for name, one in made.items()}
    return _rows(_Table(shown, found, lambda at, at_level: found[at].at(at_level)), metric, FOLDS, margin, level)
