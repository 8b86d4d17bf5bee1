"""One table per family of comparisons with a baseline: which method is better, over seeds or folds.

Every row names its estimand. One test decides (`adjusted_p`: the crossed design, or Nadeau and Bengio's variance over
folds); results under `secondary` are descriptive and never decide a verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from randout.core.errors import UserError, nearest
from randout.core.wording import plural

from .crossed import Difference, bootstrap_difference, crossed_bootstrap, crossed_difference, t_difference
from .intervals import Discordance, decided, discordance, edge_units, equal_groups, score_interval, widened
from .metrics import compared_groups
from .multiplicity import Tested, judge
from .paired import RESAMPLES, resampled
from .secondary_tests import mcnemar_over_seeds, over_seeds
from .selection_bias import Optimism as Optimism
from .selection_bias import best_of as best_of
from .targets import Target, main_metric, target_of

METHOD = "the method (new seeds, new texts)"
SAVED = "these saved models (new texts)"
FOLDS = "the method, trained on as much data (new splits)"
SEEDS_NEEDED = 5  # for a verdict on the method
FOLDS_NEEDED = 5
CROSSED_RESAMPLES = 2000  # over seeds and groups; each one scores every seed of every arm


@dataclass(frozen=True)
class MethodRow:
    """One method's row; the baseline's own has None from `difference` on. Fractions; JSON by `dataclasses.asdict`."""

    name: str
    metric: str
    value: float  # mean over units
    values: tuple[float, ...]  # per seed, or per fold
    low: float  # of the value
    high: float
    estimand: str
    difference: Difference | None = None
    simultaneous: tuple[float, float] | None = None  # at the level of Holm's test: excludes 0 if and only if it rejects
    adjusted_p: float | None = None
    words: str | None = None
    detectable: float | None = None  # smallest difference this design shows with 80 % power, uncorrected
    secondary: dict[str, str] = field(default_factory=dict)
    against: str | None = None  # the baseline's name


@dataclass(frozen=True)
class _Table:
    """The results of a design: each arm's value per unit with its interval, and the differences."""

    values: Mapping[str, tuple[Sequence[float], tuple[float, float]]]  # baseline first
    differences: list[Difference]  # of the others, in order
    tested: list[Tested]  # the same differences, as the family's tests


def _rows(table: _Table, metric: str, estimand: str, margin: float, level: float) -> list[MethodRow]:
    rows = []
    for name, (each, (low, high)) in table.values.items():
        values = tuple(float(one) for one in each)
        mean = float(np.mean(values))
        rows.append(MethodRow(name, metric, mean, values, max(0.0, float(low)), min(1.0, float(high)), estimand))
    judged = judge(table.tested, margin, 1 - level)
    others = [
        dataclasses.replace(row, difference=one, against=rows[0].name, **vars(said))
        for row, one, said in zip(rows[1:], table.differences, judged, strict=True)
    ]
    return [rows[0], *others]


def _tested(found: Difference, discordance: Discordance | None) -> tuple[Difference, Tested]:
    """Return a difference, and its test for the family, with intervals widened if few groups differ; None: of folds."""

    def interval(level: float) -> tuple[float, float]:
        return decided(found.at(level), found.estimate, found.p_value, level, discordance)

    (low, high), (low90, high90) = interval(found.level), interval(0.90)
    shown = dataclasses.replace(found, low=low, high=high, low90=low90, high90=high90)
    tested = Tested(
        found.estimate,
        found.p_value,
        found.standard_error,
        found.df,
        found.groups,
        found.equal_groups,
        math.inf if discordance is None else discordance.clusters,
        found.groups if discordance is None else discordance.units,
        interval,
    )
    return shown, tested


def _order(given: Mapping[str, Any], baseline: str) -> list[str]:
    if baseline not in given:
        names = ", ".join(map(repr, given)) or "none"
        raise UserError(f"The baseline {baseline!r} is not among the methods: {names}.{nearest(baseline, given)}")
    return [baseline, *(name for name in given if name != baseline)]


def _aligned(
    predictions: Mapping[str, Any], baseline: str, labels: np.ndarray, target: Target
) -> dict[str, np.ndarray]:
    """Return checked predictions `(S, N)`, or `(S, N, C)` of label sets, by arm, the baseline first."""
    rows = len(labels)
    made = {name: np.asarray(predictions[name]) for name in _order(predictions, baseline)}
    seeds = len(made[baseline])
    for name, one in made.items():
        if one.ndim != labels.ndim + 1 or one.shape[1] != rows:
            raise ValueError(f"{name}: predictions of shape (seeds, {rows}) expected, found {one.shape}")
        if len(one) != seeds or not seeds:
            raise UserError(
                f"{name!r} has {plural(len(one), 'seed')} and the baseline {baseline!r} has {seeds}; a paired comparison "
                "needs the same seeds in every arm. Finish the missing runs, or leave those seeds out."
            )
        target.checked(one.reshape(-1, *labels.shape[1:]), f"predictions of {name!r}")
    return made


def _saved_models(
    labels: np.ndarray, made: dict[str, np.ndarray], codes: np.ndarray, num_labels: int, metric: str, level: float,
    resamples: int, seed: int,
) -> _Table:  # fmt: skip
    """One seed: the paired bootstrap over groups (`paired`)."""
    base, *others = made

    def drawn(name: str) -> Any:
        return resampled(labels, made[base][0], made[name][0], codes, num_labels, metric, resamples, seed)

    pairs = [drawn(name) for name in others]
    first = pairs[0] if pairs else drawn(base)
    values = {base: ([first.value_a], first.alone(level)[0])}
    values |= {name: ([one.value_b], one.alone(level)[1]) for name, one in zip(others, pairs, strict=True)}
    same = ["estimate", "low", "high", "low90", "high90", "standard_error", "p_value", "groups", "level"]
    same += ["df", "equal_groups"]
    shown = [one.paired(level) for one in pairs]
    found = [Difference(**{name: getattr(one, name) for name in same}, units=1) for one in shown]
    return _Table(values, found, [one.tested() for one in pairs])


def _crossed(
    labels: np.ndarray, made: dict[str, np.ndarray], codes: np.ndarray, num_labels: int, metric: str, level: float,
    resamples: int, seed: int,
) -> _Table:  # fmt: skip
    """Several seeds: two-way random effects for means over rows (accuracy), the crossed bootstrap for the other metrics."""
    target = target_of(labels, num_labels)
    arms = np.stack(list(made.values()))  # (A, S, N)
    right = target.credit(labels, arms, metric)  # (A, S, N)
    by_class = target.by_class(labels, metric)
    changed = [np.any(target.differs(arm, arms[0]), axis=0) for arm in arms[1:]]
    differing = [discordance((one - right[0]).mean(0), differs, codes, by_class)
           for one, differs in zip(right[1:], changed, strict=True)]  # fmt: skip
    if metric in target.row_means:
        each = right.mean(-1)  # (A, S)
        alone = [crossed_difference(one, codes, level, floor=False) for one in right]
        found = [crossed_difference(one - right[0], codes, level) for one in right[1:]]
    else:
        sizes = np.bincount(codes)
        count = len(sizes)
        each, draws = crossed_bootstrap(labels, arms, codes, num_labels, metric, resamples, seed)
        both = zip(each, draws, strict=True)
        alone = [bootstrap_difference(one, drawn, count, level, sizes=sizes) for one, drawn in both]
        found = []
        for one, drawn, differ in zip(each[1:], draws[1:], differing, strict=True):
            floor = 2 * 0.5**differ.groups
            found.append(bootstrap_difference(one - each[0], drawn - draws[0], count, level, floor, sizes))
    values = {}
    for name, one, own_right, own in zip(made, each, right, alone, strict=True):
        edge = edge_units(1 - own_right.mean(0), codes, by_class)
        value, interval = float(one.mean()), (own.low, own.high)
        if metric in target.row_means and 0 < value < 1 and own.standard_error > 0:
            interval = score_interval(value, own.standard_error, own.df, level)
        values[name] = (one.tolist(), widened(interval, value, edge, level))
    pairs = [_tested(one, differ) for one, differ in zip(found, differing, strict=True)]
    return _Table(values, [shown for shown, _ in pairs], [tested for _, tested in pairs])


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
    resamples: int | None = None,
    seed: int = 0,
    secondary: bool = True,
) -> list[MethodRow]:
    """Compare every method with the baseline over the same seeds and rows: the baseline's row first, then as given.

    predictions: {name: `(S, N)` integers}, with the same seed s in every arm; labels, groups: `(N,)`. Of label sets,
    labels are `(N, C)` and predictions `(S, N, C)` bool, and accuracy stands for the mean F1 over rows.
    With one seed the estimand is the saved models, with more the method; a verdict takes `SEEDS_NEEDED` seeds. Holm's
    correction covers these comparisons as one family. With only the baseline, returns only its row.
    resamples: of the bootstrap; by default `RESAMPLES` for one seed, as in `compare_models`, else `CROSSED_RESAMPLES`.
    secondary: whether to add the tests that are reported but do not decide.
    Raises UserError for an unknown baseline or metric, unequal numbers of seeds, and fewer than two groups.
    """
    target, metric = target_of(labels, num_labels), main_metric(labels, metric)
    labels = target.checked(labels)
    made = _aligned(predictions, baseline, labels, target)
    codes = compared_groups(groups, len(labels))
    seeds = len(made[baseline])
    design, usual = (_saved_models, RESAMPLES) if seeds == 1 else (_crossed, CROSSED_RESAMPLES)
    table = design(labels, made, codes, num_labels, metric, level, usual if resamples is None else resamples, seed)
    rows = _rows(table, metric, SAVED if seeds == 1 else METHOD, margin, level)
    for at, row in enumerate(rows[1:], 1):
        if 1 < seeds < SEEDS_NEEDED:
            row = dataclasses.replace(row, words=f"no verdict: {seeds} seeds, at least {SEEDS_NEEDED} are needed")
        if secondary:
            right, base = target.right(labels, made[row.name]), target.right(labels, made[baseline])
            name = "McNemar" if labels.ndim == 1 else "McNemar (whole sets)"
            tests = {name: mcnemar_over_seeds(right, base, codes, 1 - level)}
            if seeds > 1:
                tests |= over_seeds(np.subtract(row.values, rows[0].values), len(rows) - 1, 1 - level)
            row = dataclasses.replace(row, secondary=tests)
        rows[at] = row
    return rows


def _fold_difference(
    values: Any,
    train_rows: Any,
    test_rows: Any,
    level: float,
    repeats: int,
    what: str = "values",
    group_sizes: Sequence[int] | np.ndarray | None = None,
    difference: bool = True,
) -> tuple[Difference, bool]:
    """Return the interval over folds of Nadeau and Bengio (2003), and whether all folds agree to within one row.

    Var(mean) = s^2 (1 / n + mean(n_test / n_train)), n folds in all, n - 1 degrees of freedom. One row is the resolution
    of a fold's accuracy. If all folds agree to within it, their spread is unknown: s is set to one row, and a difference
    only counts signs, so that p is at least that of the sign test, 2 * 0.5^k for k differing folds (of one repeat).
    """
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
    row = 1 / float(test.min())
    agree = bool(np.ptp(each) <= row * (1 + 1e-9))
    spread = row**2 if agree else float(each.var(ddof=1))
    variance = spread * (1 / len(each) + float((test / train).mean()))
    differing = min(int(np.count_nonzero(np.abs(each) > 1e-12)), folds)
    floor = 2 * 0.5**differing if agree and difference else 0.0
    groups = round(float(test.sum()) / repeats) if group_sizes is None else len(group_sizes)
    worth = float(groups) if group_sizes is None else equal_groups(np.asarray(group_sizes))
    mean = float(each.mean())
    return t_difference(mean, variance, len(each) - 1.0, len(each), groups, level, floor, worth), agree


def fold_interval(
    values: Any,
    train_rows: Any,
    test_rows: Any,
    level: float = 0.95,
    repeats: int = 1,
    group_sizes: Sequence[int] | np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Return mean, low and high of a value in [0, 1] over the folds `(r * k,)` of r repeats.

    train_rows: number of rows trained on, per fold; group_sizes `(G,)`: rows of each group of the data, single rows if
    not given. If all folds agree to within one row, the interval is at least Wilson's over the groups.
    Raises UserError for fewer than `FOLDS_NEEDED` folds per repeat.
    """
    found, agree = _fold_difference(
        values, train_rows, test_rows, level, repeats, group_sizes=group_sizes, difference=False
    )
    low, high = max(0.0, found.low), min(1.0, found.high)
    if agree:
        low, high = widened((low, high), found.estimate, found.equal_groups, level)
    return found.estimate, low, high


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
    group_sizes: Sequence[int] | np.ndarray | None = None,
) -> list[MethodRow]:
    """Compare every method with the baseline over the same folds, values `(r * k,)` each; rows as in `compare_methods`.

    train_rows, test_rows `(r * k,)`: number of rows trained on (without an inner validation split) and tested on.
    group_sizes `(G,)`: rows of each group of the data, which no fold divides; single rows if not given.
    """
    made = {name: np.asarray(values[name], dtype=np.float64) for name in _order(values, baseline)}
    sizes = (train_rows, test_rows, level, repeats)
    shown = {}
    for name, one in made.items():
        _fold_difference(one, *sizes, name)  # errors name the arm
        _, low, high = fold_interval(one, *sizes, group_sizes)
        shown[name] = (one.tolist(), (low, high))
    pairs = []
    for name, one in made.items():
        if name != baseline:
            found, _ = _fold_difference(one - made[baseline], *sizes, name, group_sizes)
            pairs.append(_tested(found, None))
    table = _Table(shown, [found for found, _ in pairs], [tested for _, tested in pairs])
    return _rows(table, metric, FOLDS, margin, level)
