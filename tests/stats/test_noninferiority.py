"""Non-inferiority: the verdict and the number of rows that decide it, against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from randout.stats.multiplicity import least_rows, too_few_for
from randout.stats.noninferiority import not_worse, rows_to_decide, rows_to_differ
from randout.stats.paired import paired_difference


def pair(rows: int, lost: int, gained: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and predictions of two models: the second alone is wrong on `lost` rows, the first alone on `gained`."""
    labels = np.arange(rows) % 2
    first, second = labels.copy(), labels.copy()
    second[:lost] = 1 - second[:lost]
    first[lost : lost + gained] = 1 - first[lost : lost + gained]
    return labels, first, second


@pytest.mark.parametrize(
    ("lost", "gained", "margin", "verdict"),
    [
        (20, 20, 0.05, "confirmed"),
        (20, 20, 0.01, "undecided"),
        (200, 20, 0.05, "refuted"),
        (0, 0, 0.01, "confirmed"),
        (30, 10, 0.03, "undecided"),
    ],
)
def test_the_verdict_is_that_of_the_one_sided_interval(lost: int, gained: int, margin: float, verdict: str) -> None:
    labels, first, second = pair(1000, lost, gained)
    found = not_worse(labels, first, second, np.arange(1000), 2, margin)
    assert found.verdict == verdict
    disagreement, difference = (lost + gained) / 1000, (gained - lost) / 1000
    assert found.disagreement == pytest.approx(disagreement)
    assert found.estimate == pytest.approx(difference)
    error = math.sqrt((disagreement - difference**2) / 1000)
    if error:
        assert found.low == pytest.approx(difference - norm.ppf(0.95) * error, abs=0.002)
        assert found.high == pytest.approx(difference + norm.ppf(0.95) * error, abs=0.002)


def test_several_seeds_are_compared_by_their_mean() -> None:
    labels, first, second = pair(400, 20, 0)
    third = labels.copy()
    found = not_worse(labels, first, np.stack([second, third]), np.arange(400), 2, 0.1)
    assert found.estimate == pytest.approx(-0.025)
    assert found.disagreement == pytest.approx(0.025)


def test_few_rows_give_no_verdict_and_say_so() -> None:
    labels, first, second = pair(100, 0, 0)
    found = not_worse(labels, first, second, np.arange(100), 2, 0.02)
    assert (found.verdict, found.reason) == (
        "undecided",
        "rows worth 100 independent ones, at least 150 are needed for this margin",
    )
    better = not_worse(*pair(100, 0, 20), np.arange(100), 2, 0.01)
    assert better.low > 0
    assert better.verdict == "confirmed"
    few = not_worse(labels, first, second, np.arange(100) // 20, 2, 0.9)
    assert (few.verdict, few.reason) == ("undecided", "5 groups, at least 10 are needed")
    assert least_rows(0.01) == 300
    assert too_few_for(299, 0.01)
    assert not too_few_for(300, 0.01)


def test_fewer_groups_than_3_over_the_margin_can_decide_where_differences_are_scattered_over_many() -> None:
    """How differences cluster is seen in the rows that differ and one more group of 10 rows: N * sum(e) / sum(e^2)."""
    groups, labels = np.repeat(np.arange(200), 10), np.zeros(2000, int)
    baseline, scattered, few = labels.copy(), labels.copy(), labels.copy()
    scattered[: 50 * 10 : 10] = 1  # one row of each of 50 groups lost
    baseline[50 * 10 : 100 * 10 : 10] = 1  # one row of each of 50 others gained
    worth = paired_difference(labels, baseline, scattered, groups, 2).independent_rows
    assert worth == pytest.approx(2000 * (100 * 1 + 10) / (100 * 1**2 + 10**2))
    found = not_worse(labels, baseline, scattered, groups, 2, 0.01)
    assert (found.groups, found.verdict) == (200, "confirmed")
    seeds = not_worse(labels, baseline, np.stack([scattered] * 3), groups, 2, 0.01)
    assert (seeds.groups, seeds.verdict) == (200, "confirmed")

    few[:2] = 1
    found = not_worse(labels, labels, few, groups, 2, 0.01)
    worth = 2000 * (2 + 10) / (2**2 + 10**2)
    assert found.reason == f"rows worth {int(worth)} independent ones, at least 300 are needed for this margin"
    assert found.verdict == "undecided"
    assert found.rows_needed() == math.ceil(2000 / worth * 300)


@pytest.mark.parametrize(("difference", "margin"), [(0.0, 0.01), (-0.005, 0.02), (-0.04, 0.02), (0.01, 0.01)])
def test_the_rows_needed_are_those_of_the_formula(difference: float, margin: float) -> None:
    disagreement, rows = 0.1, 500
    variance = disagreement - difference**2
    error = math.sqrt(variance / rows)
    expected = (norm.ppf(0.95) + norm.ppf(0.8)) ** 2 * variance / (difference + margin) ** 2
    assert rows_to_decide(rows, error, difference, margin) == max(math.ceil(expected), math.ceil(3 / margin))


def test_no_number_of_rows_decides_a_difference_at_the_margin() -> None:
    assert rows_to_decide(500, 0.01, -0.02, 0.02) is None
    assert rows_to_decide(500, 0.0, 0.0, 0.01) == 300


def test_with_the_rows_needed_four_tests_in_five_decide() -> None:
    """Simulated: rows drawn from the assumed disagreement and difference."""
    lost, gained, margin = 0.06, 0.05, 0.03
    rows = rows_to_decide(1, math.sqrt(lost + gained - (gained - lost) ** 2), gained - lost, margin)
    assert rows is not None
    draw = np.random.default_rng(0)
    counts = draw.multinomial(rows, [lost, gained, 1 - lost - gained], 4000)
    difference = (counts[:, 1] - counts[:, 0]) / rows
    error = np.sqrt(((counts[:, 0] + counts[:, 1]) / rows - difference**2) / rows)
    assert (difference - norm.ppf(0.95) * error > -margin).mean() == pytest.approx(0.8, abs=0.03)


def test_the_rows_that_show_a_difference_are_those_of_a_two_sided_test() -> None:
    needed = rows_to_differ(100, 0.04, -0.05)
    assert needed == math.ceil(100 * 0.04**2 * (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 / 0.05**2)
    assert rows_to_differ(100, 0.04, 0.0) is None


def test_label_sets_are_compared_by_the_mean_f1_of_rows() -> None:
    """F1 of a row: 2 |T & P| / (|T| + |P|), 1 for two empty sets."""
    rng = np.random.default_rng(0)
    labels, first = rng.random((400, 4)) < 0.4, rng.random((400, 4)) < 0.4
    second = np.where(rng.random((400, 4)) < 0.7, labels, first)

    def mean_f1(made: np.ndarray) -> float:
        each = [
            2 * (t & p).sum() / (t.sum() + p.sum()) if t.any() or p.any() else 1.0
            for t, p in zip(labels, made, strict=True)
        ]
        return float(np.mean(each))

    found = not_worse(labels, first, second, np.arange(400), 4, 0.05)
    assert found.estimate == pytest.approx(mean_f1(second) - mean_f1(first))
    assert found.verdict == "confirmed"
    seeds = not_worse(labels, first, np.stack([second, first]), np.arange(400), 4, 0.05)
    assert seeds.estimate == pytest.approx(found.estimate / 2)
    assert 0 < found.disagreement < 1
    assert not_worse(labels, second, second, np.arange(400), 4, 0.05).disagreement == 0
