"""Comparisons of saved models: against plain loops, scipy, and simulations with known answers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from randout.errors import UserError
from randout.metrics import group_codes, group_weights, patterns
from randout.statistics import (
    Paired,
    bootstrap_p,
    compare_models,
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_difference,
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
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    assert (found.low90, found.high90) == pytest.approx(np.quantile(draws, [0.05, 0.95]))
    assert found.interval_a == pytest.approx(np.quantile(a, [0.025, 0.975]))
    assert found.interval_b == pytest.approx(np.quantile(b, [0.025, 0.975]))
    assert found.standard_error == pytest.approx(draws.std())
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    assert found.p_value == pytest.approx(min(1, 2 * (tail + 1) / 81))
    assert found.groups == len(set(groups.tolist()))


def test_paired_difference_turns_round_with_its_arguments():
    labels, first, second = models(400)
    there = paired_difference(labels, first, second, np.arange(400), 3, resamples=4000)
    back = paired_difference(labels, second, first, np.arange(400), 3, resamples=4000)
    assert there.estimate == pytest.approx(-back.estimate)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.008)


def test_a_model_does_not_differ_from_itself():
    labels, first, _ = models(200)
    for metric in ("accuracy", "macro_f1", "balanced_accuracy"):
        found = paired_difference(labels, first, first, np.arange(200), 3, metric, resamples=200)
        assert (found.estimate, found.low, found.high, found.p_value, found.differing) == (0, 0, 0, 1, 0)


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
    assert words(found, found.p_value) == "not distinguishable"
    assert bootstrap_p(np.ones(99), 50) == 0.02
    assert bootstrap_p(np.zeros(99), 50) == 1


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
    assert words(paired(0, 0, 0, groups=149), 1.0) == "not distinguishable"
    assert words(paired(0, 0, 0, groups=150), 1.0) == "not distinguishable, equivalent"
    assert words(paired(0, 0, 0, groups=60), 1.0, margin=0.05) == "not distinguishable, equivalent"


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
    assert rows[2].detectable == pytest.approx(2.8016 * alone.standard_error, rel=1e-4)
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
