"""The crossed design: against statsmodels' analysis of variance, plain loops, and cases with known answers."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from randout.core.errors import UserError
from randout.stats.crossed import bootstrap_difference, crossed_bootstrap, crossed_difference, mean_squares
from randout.stats.metrics import group_codes


def outcomes(seeds: int, groups: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Differences in {-1, 0, 1} with a share of every kind of variance, and groups of `rows` rows each."""
    generator = np.random.default_rng(seed)
    chance = 0.3 + 0.15 * generator.normal(size=(seeds, 1)) + 0.2 * generator.normal(size=(1, groups))
    drawn = generator.random((2, seeds, groups, rows)) < np.stack([chance, 0.3 + 0 * chance])[..., None]
    values = drawn[0].astype(int) - drawn[1].astype(int)
    return values.reshape(seeds, -1), np.repeat(np.arange(groups), rows)


@pytest.mark.parametrize(("seeds", "groups", "rows"), [(2, 2, 1), (3, 40, 1), (5, 30, 4), (10, 200, 3)])
def test_mean_squares_equal_statsmodels_anova(seeds, groups, rows):
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    values, codes = outcomes(seeds, groups, rows)
    cells = values.reshape(seeds, groups, rows).mean(-1)
    where = np.indices(cells.shape).reshape(2, -1)
    table = anova_lm(
        ols("y ~ C(seed) + C(group)", pandas.DataFrame({"y": cells.ravel(), "seed": where[0], "group": where[1]})).fit()
    )
    expected = [table.loc[name, "mean_sq"] for name in ("C(seed)", "C(group)", "Residual")]
    assert mean_squares(values, codes) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_crossed_difference_equals_the_formula_written_out():
    for seeds, groups, rows in ((3, 40, 1), (5, 30, 4), (10, 50, 2)):
        values, codes = outcomes(seeds, groups, rows, seed=seeds)
        cells = values.reshape(seeds, groups, rows).mean(-1)
        mean = cells.mean()
        seed = groups * sum((cells[s].mean() - mean) ** 2 for s in range(seeds)) / (seeds - 1)
        group = seeds * sum((cells[:, g].mean() - mean) ** 2 for g in range(groups)) / (groups - 1)
        error = 0.0
        for s in range(seeds):
            for g in range(groups):
                error += (cells[s, g] - cells[s].mean() - cells[:, g].mean() + mean) ** 2
        error /= (seeds - 1) * (groups - 1)
        above = seed + max(group - error, 0)
        inverse = seed**2 / (seeds - 1)  # Satterthwaite's
        if group > error:
            inverse += group**2 / (groups - 1) + error**2 / ((seeds - 1) * (groups - 1))
        deviation, df = math.sqrt(above / (seeds * groups)), above**2 / inverse
        found = crossed_difference(values, [f"paper {code}" for code in codes], level=0.9)
        assert (found.estimate, found.standard_error, found.df) == pytest.approx((mean, deviation, df))
        assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, df, mean, deviation))
        assert found.at(0.99) == pytest.approx(stats.t.interval(0.99, df, mean, deviation))
        assert (found.low90, found.high90) == pytest.approx((found.low, found.high))
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / deviation, df))
        assert (found.units, found.groups, found.level) == (seeds, groups, 0.9)


def test_groups_are_weighted_by_their_size():
    """Mean squares of unequal groups, from what leaving its rows' deviations in does to each seed's mean."""
    generator = np.random.default_rng(1)
    values, codes = generator.integers(-1, 2, (4, 90)), group_codes(generator.integers(0, 25, 90), 90)
    count = codes.max() + 1
    each = [values[s].sum() / 90 for s in range(4)]
    table = np.zeros((4, count))
    for s in range(4):
        for row in range(90):
            table[s, codes[row]] += (values[s, row] - each[s]) * count / 90
    seed = count * np.var(each, ddof=1)
    group = 4 * table.mean(0).var(ddof=1)
    error = ((table - table.mean(0)) ** 2).sum() / (3 * (count - 1))
    assert mean_squares(values, codes) == pytest.approx((seed, group, error))
    assert crossed_difference(values, codes).estimate == pytest.approx(values.mean())


def test_a_shift_of_every_row_of_a_seed_is_seed_variance_alone():
    codes = np.repeat([0, 1, 2, 3], [1, 5, 2, 8])
    values = np.repeat([[1], [0], [0], [1], [1]], 16, axis=1)
    seed, group, error = mean_squares(values, codes)
    assert seed == pytest.approx(4 * np.var([1, 0, 0, 1, 1], ddof=1))
    assert (group, error) == pytest.approx((0, 0))
    found = crossed_difference(values, codes, floor=False)
    assert found.df == pytest.approx(4)
    assert found.standard_error == pytest.approx(np.std([1, 0, 0, 1, 1], ddof=1) / math.sqrt(5))


def test_a_row_order_and_seed_order_say_nothing():
    values, codes = outcomes(5, 30, 3)
    order = np.random.default_rng(0).permutation(90)
    there, back = crossed_difference(values, codes), crossed_difference(-values[::-1][:, order], codes[order])
    assert (back.estimate, back.low, back.high) == pytest.approx((-there.estimate, -there.high, -there.low))
    assert (back.df, back.p_value) == pytest.approx((there.df, there.p_value))


def test_degenerate_differences_are_exact():
    none = crossed_difference(np.zeros((5, 40), int), np.arange(40))
    assert (none.estimate, none.low, none.high, none.standard_error, none.p_value) == (0, 0, 0, 0, 1)
    every = crossed_difference(np.ones((5, 40), int), np.arange(40))
    assert (every.estimate, every.p_value) == (1, 2 * 0.5**40)
    assert 0.99 < every.low < 1
    alike = crossed_difference(np.tile([1, 0, 0, 1, -1, 0, 1, 1], (5, 5)), np.arange(40))  # all seeds the same
    assert alike.df == pytest.approx(39)
    assert alike.standard_error == pytest.approx(np.std([1, 0, 0, 1, -1, 0, 1, 1] * 5, ddof=1) / math.sqrt(40))
    assert alike.high - alike.estimate == pytest.approx(stats.t.ppf(0.975, 39) * alike.standard_error)
    for found in (none, every, alike):
        json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_few_differing_groups_cannot_be_certain():
    values = np.zeros((5, 1000), int)
    values[:, :4] = 1
    found = crossed_difference(values, np.arange(1000))
    assert found.p_value == pytest.approx(0.125) == stats.binomtest(4, 4).pvalue
    for level in (0.8, 0.87, 0.88, 0.95):  # the interval says what p says
        assert (found.at(level)[0] > 0) == (found.p_value <= 1 - level)


def test_with_many_groups_df_are_hillis_own():
    values, codes = outcomes(5, 3000, 1)
    seed, group, error = mean_squares(values, codes)
    above = seed + max(group - error, 0)
    assert crossed_difference(values, codes).df == pytest.approx(above**2 / (seed**2 / 4), rel=0.02)


def test_unequal_groups_count_as_fewer():
    values, _ = outcomes(5, 90, 1)
    codes = np.where(np.arange(90) < 45, 0, np.arange(90))
    found = crossed_difference(values, codes)
    assert found.groups == 46
    assert found.equal_groups == pytest.approx(90**2 / (45**2 + 45))


def test_a_value_has_its_own_interval():
    right = np.random.default_rng(0).random((5, 300)) < 0.8
    found = crossed_difference(right, np.arange(300))
    assert found.estimate == pytest.approx(right.mean())
    assert found.low < right.mean() < found.high


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_crossed_bootstrap_draws_whole_seeds_and_whole_groups(metric):
    """Every draw is a mean over drawn seeds of the metric on drawn groups, the same for all arms."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 30)
    made = generator.integers(0, 3, (2, 2, 30))
    groups = np.repeat([0, 1, 2], [12, 10, 8])

    def value(predictions, rows):
        if metric == "accuracy":
            return accuracy_score(labels[rows], predictions[rows])
        return f1_score(labels[rows], predictions[rows], labels=range(4), average="macro", zero_division=0)

    values, draws = crossed_bootstrap(labels, made, groups, 4, metric, resamples=200)
    assert values == pytest.approx(np.array([[value(one, np.arange(30)) for one in arm] for arm in made]))
    possible = []
    for first in range(3):
        for second in range(first, 3):
            for third in range(second, 3):
                rows = np.concatenate([np.flatnonzero(groups == group) for group in (first, second, third)])
                each = np.array([[value(one, rows) for one in arm] for arm in made])
                possible += [each[:, 0], each.mean(1), each[:, 1]]
    near = np.abs(np.array(possible)[None] - draws.T[:, None]).max(-1).min(1)
    assert near.max() < 1e-12
    assert len(np.unique(draws.round(9), axis=1)[0]) > 15


def test_the_bootstrap_of_accuracy_agrees_with_random_effects_and_is_wider():
    generator = np.random.default_rng(3)
    labels = np.zeros(400, int)
    shift, hard = generator.normal(size=(8, 1)) * 0.03, generator.normal(size=400) * 0.3
    base = (generator.random((8, 400)) > 0.7 + hard).astype(int)
    made = np.stack([base, np.where(generator.random((8, 400)) < 0.1 + shift, 0, base)])
    groups = np.arange(400) // 2
    values, draws = crossed_bootstrap(labels, made, groups, 2, "accuracy", 4000)
    found = bootstrap_difference(values[1] - values[0], draws[1] - draws[0], 200)
    exact = crossed_difference((made[1] == 0).astype(int) - (made[0] == 0), groups)
    assert found.estimate == pytest.approx(exact.estimate)
    assert exact.standard_error < found.standard_error < 1.7 * exact.standard_error


def test_bootstrap_difference_is_exact_where_nothing_differs():
    found = bootstrap_difference(np.zeros(5), np.zeros(100), 40)
    assert (found.low, found.high, found.p_value, found.df) == (0, 0, 1, 4)
    seeds = np.array([0.1, 0.2, 0.4])
    alone = bootstrap_difference(seeds, np.zeros(10), 40)  # V / S is what stays when the draws show no variance
    assert alone.standard_error == pytest.approx(math.sqrt(seeds.var(ddof=1) / 9))


def test_the_bootstrap_knows_how_few_groups_it_has():
    seeds, draws = np.full(5, 0.1), np.array([0.0, 0.2] * 50)
    found = bootstrap_difference(seeds, draws, 10)
    assert found.standard_error == pytest.approx(0.1 * math.sqrt(10 / 9))
    assert found.df == pytest.approx(9)
    uneven = bootstrap_difference(seeds, draws, 10, sizes=np.array([91, *[1] * 9]))
    assert uneven.df == 1


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least two"):
        crossed_difference(np.zeros((1, 4)), np.arange(4))
    with pytest.raises(UserError, match="one group"):
        crossed_difference(np.zeros((3, 4)), np.zeros(4))
    with pytest.raises(ValueError, match="seeds, rows"):
        crossed_difference(np.zeros(4), np.arange(4))
    with pytest.raises(ValueError, match="4 groups expected"):
        crossed_difference(np.zeros((3, 4)), np.arange(5))
    with pytest.raises(UserError, match="Did you mean 'macro_f1'"):
        crossed_bootstrap([0, 1], np.zeros((2, 2, 2), int), [0, 1], 2, "macro_f2")


def test_seeds_that_agree_in_their_means_alone_are_no_certainty():
    """Two seeds with the same mean difference on other rows: both mean squares say 0, and the interval has a width."""
    differences = np.array([[1, 0, 0, 0, -1, 1], [0, 1, 0, -1, 0, 1]])
    seed, group, error = mean_squares(differences, np.arange(6))
    assert seed == 0
    assert error > 0
    found = crossed_difference(differences, np.arange(6))
    expected = max(group - error, 0) or error
    assert found.standard_error == pytest.approx(np.sqrt(expected / 12))
    assert found.low < found.estimate < found.high
    apart = np.array([[1, -1, 0, 0], [-1, 1, 0, 0]])  # every group's mean over seeds is 0
    assert mean_squares(apart, np.arange(4))[:2] == (0, 0)
    assert crossed_difference(apart, np.arange(4)).standard_error > 0
