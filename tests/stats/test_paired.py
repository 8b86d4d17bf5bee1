"""Comparisons of saved models: against plain loops, scipy, and simulations with known answers."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from randout.core.errors import UserError
from randout.stats.metrics import group_codes, group_weights, patterns
from randout.stats.multiplicity import GROUPS_NEEDED, holm_stop, too_few_groups
from randout.stats.paired import (
    Paired,
    bootstrap_p,
    compare_models,
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_difference,
    resampled,
    words,
)


def models(rows: int, seed: int = 0, skills: tuple[float, float] = (0.7, 0.8)) -> tuple[np.ndarray, ...]:
    """Labels and the predictions of two models, right with the chances given, independently."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    wrong = (labels + generator.integers(1, 3, (2, rows))) % 3
    right = generator.random((2, rows)) < np.array(skills)[:, None]
    return labels, *np.where(right, labels, wrong)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_paired_difference_equals_a_slow_loop_over_the_same_draws(metric):
    labels, first, second = models(100)
    groups = np.random.default_rng(2).integers(0, 45, 100)
    found = paired_difference(labels, first, second, groups, 4, metric, resamples=80, seed=3)
    sizes = np.unique(groups, return_counts=True)[1]
    df, count = 100**2 / (sizes**2).sum() - 1, len(sizes)  # equal groups less one (Kish)

    def tails(level):  # Hesterberg's expanded percentiles
        share = stats.norm.cdf(-stats.t.ppf((1 + level) / 2, df) * math.sqrt(count / (count - 1)))
        return [share, 1 - share]

    kinds = patterns((labels * 4 + first) * 4 + second, group_codes(groups, 100))

    def value(made, rows):
        if metric == "accuracy":
            return accuracy_score(labels[rows], made[rows])
        return f1_score(labels[rows], made[rows], labels=range(4), average="macro", zero_division=0)

    a, b = [], []
    for weights in np.concatenate(list(group_weights(kinds, 80, 3))):
        rows = np.concatenate([np.tile(kinds.rows[kinds.pattern == at], times) for at, times in enumerate(weights)])
        a.append(value(first, rows))
        b.append(value(second, rows))
    draws = np.array(b) - np.array(a)
    every = np.arange(100)
    assert found.estimate == pytest.approx(value(second, every) - value(first, every))
    low, high = np.quantile(draws, tails(0.95))
    low90, high90 = np.quantile(draws, tails(0.90))
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    z = stats.norm.ppf((tail + 1) / 81) * math.sqrt((count - 1) / count)
    assert found.p_value == pytest.approx(min(1, 2 * stats.t.cdf(z, df)))
    if found.p_value > 0.05:
        low, high = min(low, 0), max(high, 0)
    if found.p_value > 0.10:
        low90, high90 = min(low90, 0), max(high90, 0)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.low90, found.high90) == pytest.approx((low90, high90))
    assert found.interval_a == pytest.approx(np.quantile(a, tails(0.95)))
    assert found.interval_b == pytest.approx(np.quantile(b, tails(0.95)))
    assert found.standard_error == pytest.approx(draws.std() * math.sqrt(count / (count - 1)))
    assert found.groups == count
    assert found.equal_groups == pytest.approx(df + 1)


def test_with_many_groups_the_percentiles_are_the_plain_ones():
    labels, first, second = models(4000)
    found = resampled(labels, first, second, np.arange(4000), 3, resamples=2000)
    plain = np.quantile(found.differences, [0.025, 0.975])
    assert found.at(0.95) == pytest.approx(plain, abs=0.0005)


def test_paired_difference_turns_round_with_its_arguments():
    labels, first, second = models(400)
    there = paired_difference(labels, first, second, np.arange(400), 3, resamples=4000)
    back = paired_difference(labels, second, first, np.arange(400), 3, resamples=4000)
    assert there.estimate == pytest.approx(-back.estimate)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.008)


def test_a_model_does_not_differ_from_itself_on_these_texts():
    """And how much it may on others is what as many groups without a difference leave open."""
    labels, first, _ = models(200)
    z2 = 1.959964**2
    for metric in ("accuracy", "macro_f1", "balanced_accuracy"):
        found = paired_difference(labels, first, first, np.arange(200), 3, metric, resamples=200)
        assert (found.estimate, found.p_value, found.differing) == (0, 1, 0)
        assert found.high == -found.low >= z2 / (200 + z2) - 1e-7
        assert found.high < 0.03
    assert paired_difference(labels, first, first, np.arange(200), 3).high == pytest.approx(z2 / (200 + z2), rel=1e-5)
    pairs = paired_difference(labels, first, first, np.arange(200) // 2, 3)
    assert pairs.high == pytest.approx(z2 / (100 + z2), rel=1e-5)


def test_a_shared_group_moves_both_models_together():
    labels, first, _ = models(300)
    second = first.copy()
    second[:6] = (labels[:6] + (first[:6] == labels[:6])) % 3  # six rows change sides
    single = paired_difference(labels, first, second, np.arange(300), 3, resamples=2000)
    assert single.high - single.low < (single.interval_a[1] - single.interval_a[0]) / 2


def test_p_and_interval_hold_their_level_without_a_difference():
    rejected = covered = 0
    for run in range(200):
        labels, first, second = models(5 * 60, seed=run, skills=(0.75, 0.75))
        groups = np.repeat(np.arange(60), 5)
        found = paired_difference(labels, first, second, groups, 3, resamples=500, seed=run)
        rejected += found.p_value <= 0.05
        covered += found.low <= 0 <= found.high
    assert rejected / 200 <= 0.10
    assert 0.90 <= covered / 200 <= 0.99


def test_few_differing_groups_cannot_be_certain():
    labels = np.zeros(3, int)
    found = paired_difference(labels, labels + 1, labels, np.arange(3), 2)
    assert found.estimate == 1
    assert found.p_value == 0.25 == binomtest(0, 3).pvalue
    assert found.low <= 0  # as p says
    assert words(found, found.p_value) == f"no verdict: 3 groups, at least {GROUPS_NEEDED} are needed"
    assert bootstrap_p(np.ones(99), 50) == 0.02
    assert bootstrap_p(np.zeros(99), 50) == 1


def test_interval_and_p_never_contradict_each_other():
    generator = np.random.default_rng(0)
    labels = np.zeros(60, int)
    decided = set()
    for run in range(60):
        base = (generator.random(60) < 0.3).astype(int)
        other = base.copy()
        moved = generator.permutation(60)[: generator.integers(0, 20)]
        other[moved] = (generator.random(len(moved)) < generator.random()).astype(int)
        found = resampled(labels, base, other, np.arange(60) // 2, 2, resamples=300, seed=run)
        for level in (0.5, 0.8, 0.9, 0.95, 0.98, 0.995):
            low, high = found.at(level)
            assert low <= found.estimate <= high
            assert low < high
            assert (found.p_value <= 1 - level) == (low > 0 or high < 0)
            decided.add((found.p_value <= 1 - level, found.discordance.groups < 10))
    assert len(decided) == 4


def test_five_rows_of_a_thousand_all_in_favour_are_not_enough():
    labels = np.zeros(1000, int)
    base = (np.arange(1000) < 200).astype(int)
    better = np.where(np.arange(1000) < 5, 0, base)
    found = paired_difference(labels, base, better, np.arange(1000), 2)
    assert found.p_value == 0.0625 == binomtest(0, 5).pvalue
    assert found.low <= 0 < found.high
    assert words(found, found.p_value).startswith("not distinguishable")


def test_mcnemar_equals_binomtest_on_the_first_row_of_each_group():
    generator = np.random.default_rng(0)
    for rows, groups in ((1, [0]), (40, np.arange(40)), (200, generator.integers(0, 70, 200)), (3000, range(3000))):
        first, second = generator.random((2, rows)) < np.array([[0.7], [0.85]])
        found = mcnemar_exact(first, second, groups)
        seen, b, c = set(), 0, 0
        for at, group in enumerate(groups):
            if group not in seen:
                seen.add(group)
                b += int(first[at] and not second[at])
                c += int(second[at] and not first[at])
        assert (found.b, found.c) == (b, c)
        assert found.p_value == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-9)
    even = np.array([True, False] * 5)
    assert mcnemar_exact(even, ~even, range(10)).p_value == 1


def test_holm_equals_its_definition():
    generator = np.random.default_rng(0)
    for size in (0, 1, 2, 5, 9):
        p = (generator.random(size) ** 3).round(2)  # with ties
        expected = np.zeros(size)
        largest = 0.0
        for rank, at in enumerate(sorted(range(size), key=lambda place, p=p: p[place])):
            largest = max(largest, (size - rank) * p[at])
            expected[at] = min(1.0, largest)
        assert holm(p) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, float("nan")])


def paired(estimate: float, low90: float, high90: float, groups: int = 1000) -> Paired:
    alone = (0.7, 0.8)
    return Paired(
        "accuracy", estimate, low90, high90, low90, high90, 0.5, 0.01, 0.75, 0.75, alone, alone, groups, 90, 0.95, 1000
    )


@pytest.mark.parametrize(
    ("estimate", "low90", "high90", "p", "expected"),
    [
        (0.05, 0.03, 0.07, 0.001, "better"),
        (0.01, 0.005, 0.015, 0.001, "better, equivalent"),
        (-0.05, -0.07, -0.03, 0.001, "worse"),
        (-0.01, -0.015, -0.005, 0.001, "worse, equivalent"),
        (0.00, -0.01, 0.01, 0.9, "not distinguishable, equivalent"),
        (0.01, -0.01, 0.03, 0.3, "not distinguishable, not worse"),
        (0.00, -0.03, 0.03, 0.9, "not distinguishable"),
        (-0.02, -0.04, 0.00, 0.2, "not distinguishable"),
        (0.05, 0.03, 0.07, 0.051, "not distinguishable, not worse"),  # after correction
        (0.05, 0.03, 0.07, 0.05, "better"),
        (0.00, -0.02, 0.019, 0.9, "not distinguishable"),  # the margin itself is not inside
    ],
)
def test_words(estimate, low90, high90, p, expected):
    assert words(paired(estimate, low90, high90), p) == expected


def test_margin_words_need_rows_that_could_have_shown_the_margin():
    def worth(rows: float) -> Paired:
        return dataclasses.replace(paired(0, 0, 0), independent_rows=rows)

    assert words(worth(149.9), 1.0) == "not distinguishable"
    assert words(worth(150.0), 1.0) == "not distinguishable, equivalent"
    assert words(worth(60.0), 1.0, margin=0.05) == "not distinguishable, equivalent"


@pytest.mark.parametrize(
    ("groups", "equal", "expected"),
    [
        (
            GROUPS_NEEDED - 1,
            GROUPS_NEEDED - 1.0,
            f"no verdict: {GROUPS_NEEDED - 1} groups, at least {GROUPS_NEEDED} are",
        ),
        (GROUPS_NEEDED, float(GROUPS_NEEDED), "better"),
        (900, 4.2, "no verdict: 900 groups of unequal size, worth 4 equal ones, at least"),
    ],
)
def test_too_few_groups_give_no_verdict(groups, equal, expected):
    found = dataclasses.replace(paired(0.05, 0.03, 0.07, groups), equal_groups=equal)
    assert words(found, 0.001).startswith(expected)


def test_compare_models_gives_no_verdict_with_few_groups():
    labels, weak, strong = models(700, skills=(0.4, 0.9))
    logits = {"plain": np.eye(3)[weak], "kd": np.eye(3)[strong]}
    for groups, verdict in ((np.arange(700) % GROUPS_NEEDED, "better"), (np.arange(700) % 6, "no verdict: 6 groups")):
        row = compare_models(labels, logits, "plain", groups, 3, resamples=500)[1]
        assert row.words.startswith(verdict)
        assert row.difference.low > 0
    half = np.where(np.arange(700) < 350, 0, np.arange(700))  # one group holds half of the rows
    assert "of unequal size, worth 4 equal" in compare_models(labels, logits, "plain", half, 3, resamples=500)[1].words


def test_holm_stops_where_its_p_values_do():
    generator = np.random.default_rng(0)
    for size in (1, 2, 5, 9):
        for _ in range(40):
            p = generator.random(size) ** 4
            step = holm_stop(size, lambda at, level, p=p: p[at] <= level, 0.05)
            assert ((p <= 0.05 / step) == (holm(p) <= 0.05)).all()
    assert holm_stop(0, lambda at, level: True, 0.05) == 1


def test_margin_tests_of_saved_models_are_a_family():
    """Each of ten arms is "not worse" alone by a hair; together, after Holm, none is."""
    generator = np.random.default_rng(0)
    labels, base = np.zeros(600, int), (generator.random(600) < 0.3).astype(int)
    logits = {"plain": np.eye(2)[base]}
    for at in range(10):
        other = base.copy()
        for was in (0, 1):
            other[generator.permutation(np.flatnonzero(base == was))[:30]] = 1 - was
        logits[f"arm {at}"] = np.eye(2)[other]
    pairs = {
        name: paired_difference(labels, base, one.argmax(1), np.arange(600), 2, resamples=2000)
        for name, one in logits.items()
        if name != "plain"
    }
    margin = max(-pair.low90 for pair in pairs.values()) + 1e-4
    alone = [
        compare_models(
            labels, {k: logits[k] for k in ("plain", name)}, "plain", np.arange(600), 2, margin=margin, resamples=2000
        )[1].words
        for name in pairs
    ]
    assert all("not worse" in said or "equivalent" in said for said in alone)
    together = compare_models(labels, logits, "plain", np.arange(600), 2, margin=margin, resamples=2000)[1:]
    worst = min(pairs, key=lambda name: pairs[name].low90)
    said = {row.name: row.words for row in together}
    assert "not worse" not in said[worst]
    assert "equivalent" not in said[worst]


def test_detectable_is_the_designs_own():
    """150 groups of eight rows: 2.8 standard errors of this design, not of one where whole groups change sides."""
    generator = np.random.default_rng(0)
    labels = np.zeros(1200, int)
    base = (generator.random(1200) < 0.27).astype(int)
    other = base.copy()
    for was, count in ((1, 50), (0, 20)):
        other[generator.permutation(np.flatnonzero(base == was))[:count]] = 1 - was
    groups = np.arange(1200) // 8
    row = compare_models(labels, {"a": np.eye(2)[base], "b": np.eye(2)[other]}, "a", groups, 2)[1]
    reach = stats.t.ppf(0.975, 149) + stats.t.ppf(0.8, 149)
    assert row.words.startswith("better")
    assert row.detectable == pytest.approx(reach * row.difference.standard_error)
    assert row.detectable < 1.5 * row.difference.estimate


@pytest.mark.parametrize("size", [1, 8])
def test_a_difference_called_better_is_never_far_below_the_detectable_one(size):
    labels, generator = np.zeros(150 * size, int), np.random.default_rng(1)
    seen = 0
    for count in (6, 8, 12, 30):
        base = np.ones(len(labels), int)
        other = base.copy()
        other[generator.permutation(len(labels))[:count]] = 0
        row = compare_models(
            labels, {"a": np.eye(2)[base], "b": np.eye(2)[other]}, "a", np.arange(len(labels)) // size, 2, resamples=500
        )[1]
        seen += row.words.startswith("better")
        assert row.detectable <= 2.05 * row.difference.estimate or not row.words.startswith("better")
    assert seen >= 3


def test_detectable_where_nothing_differs_is_what_groups_could_hide():
    labels, first, _ = models(1200)
    row = compare_models(labels, {"a": np.eye(3)[first], "b": np.eye(3)[first]}, "a", np.arange(1200) // 8, 3)[1]
    assert row.detectable == pytest.approx(2.8016**2 / 150, rel=1e-4)


def test_detectable_differences_of_the_two_test_sets():
    points = [100 * detectable_difference(groups, 0.10) for groups in (15475, 1503, 10015)]
    assert [round(points[0], 2), round(points[1], 1), round(points[2], 2)] == [0.71, 2.3, 0.89]
    assert detectable_difference(10, 0.0) == pytest.approx(2.8016**2 / 10, rel=1e-4)  # all that differs is in favour
    assert detectable_difference(1, 0.5) == 1
    assert detectable_difference(500, 0.1, power=0.9) > detectable_difference(500, 0.1)


def test_the_detectable_difference_is_detected_four_times_in_five():
    groups, discordance = 1503, 0.10
    difference = detectable_difference(groups, discordance)
    chances = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    draws = np.random.default_rng(0).multinomial(groups, chances, size=20000)
    z = (draws[:, 1] - draws[:, 0]) / np.sqrt(draws[:, 0] + draws[:, 1])
    assert (z > 1.96).mean() == pytest.approx(0.80, abs=0.02)


def test_compare_models():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 900)
    plain = generator.normal(size=(900, 3)) + 1.5 * np.eye(3)[labels]
    strong = plain + 0.8 * np.eye(3)[labels]
    logits = {"kd": plain + 1e-6, "plain": plain, "randout": strong, "noise": generator.normal(size=(900, 3))}
    rows = compare_models(labels, logits, "plain", np.arange(900) // 2, 3, "macro_f1", resamples=1000)
    assert [row.name for row in rows] == ["plain", "kd", "randout", "noise"]
    assert rows[0].difference is rows[0].words is rows[0].mcnemar is rows[0].adjusted_p is None
    assert [row.words for row in rows[1:]] == ["not distinguishable, equivalent", "better", "worse"]
    alone = paired_difference(
        labels, plain.argmax(1), strong.argmax(1), np.arange(900) // 2, 3, "macro_f1", resamples=1000
    )
    assert rows[2].difference == alone
    assert rows[2].adjusted_p == pytest.approx(3 * alone.p_value)
    assert rows[2].value == alone.value_b
    assert rows[0].value == alone.value_a
    assert rows[2].mcnemar.b == 0 < rows[2].mcnemar.c
    reach = stats.t.ppf(0.975, 449) + stats.t.ppf(0.8, 449)
    assert rows[2].detectable == pytest.approx(reach * alone.standard_error)
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows], allow_nan=False))[3]["words"] == "worse"


def test_mistakes_are_named():
    labels, first, second = models(20)
    with pytest.raises(UserError, match="macro_f1"):
        paired_difference(labels, first, second, np.arange(20), 3, "f1_macro")
    with pytest.raises(UserError, match="at least two groups"):
        paired_difference(labels, first, second, np.zeros(20), 3)
    with pytest.raises(UserError, match="predictions b: row 0 is class 7"):
        paired_difference(labels, first, second * 0 + 7, np.arange(20), 3)
    with pytest.raises(ValueError, match="one prediction per row"):
        paired_difference(labels, first, second[:-1], np.arange(20), 3)
    with pytest.raises(UserError, match="Did you mean 'plain'"):
        compare_models(labels, {"plain": np.eye(3)[first], "kd": np.eye(3)[second]}, "plane", np.arange(20), 3)
    with pytest.raises(ValueError, match="equal length"):
        mcnemar_exact([True], [True, False], [0])
    with pytest.raises(ValueError, match="discordance"):
        detectable_difference(10, 1.5)


def test_bounds_of_the_words_are_not_within():
    assert words(paired(0.0, -0.01, 0.02), 0.5) == "not distinguishable, not worse"
    assert words(paired(0.0, -0.02, 0.01), 0.5) == "not distinguishable"
    assert too_few_groups(GROUPS_NEEDED, GROUPS_NEEDED - 0.5) is None
    assert too_few_groups(GROUPS_NEEDED, 5.0).startswith(f"no verdict: {GROUPS_NEEDED} groups of unequal size")
