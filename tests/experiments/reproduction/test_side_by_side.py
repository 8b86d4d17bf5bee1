"""Our values next to published ones: rates of one class, and intervals where a class is always or never found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from randout.experiments.reproduction.side_by_side import measured_of
from randout.experiments.study.results import StudyPredictions
from randout.paper.published import Number

NAMES = ["a", "b", "c"]


def scored(labels: np.ndarray, made: np.ndarray, groups: np.ndarray) -> StudyPredictions:
    seeds = len(made)
    return StudyPredictions(
        [f"seed {at}" for at in range(seeds)], {"arm": list(made)}, {}, [labels], [groups], [0] * seeds, 3
    )


def number(metric: str, label: str = "") -> Number:
    fields = dict.fromkeys(Number.__dataclass_fields__, "")
    return Number(**{**fields, "metric": metric, "label": label})


@pytest.mark.parametrize("metric", ["precision", "recall", "f1"])
def test_a_class_rate_is_sklearns_with_an_interval_around_it(metric):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    made = np.where(generator.random((2, 300)) < 0.7, labels, generator.integers(0, 3, (2, 300)))
    at = ["precision", "recall", "f1"].index(metric)
    expected = np.mean([precision_recall_fscore_support(labels, one)[at][1] for one in made])
    found = measured_of(scored(labels, made, np.arange(300)), "arm", number(metric, "b"), NAMES)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    assert found.high - found.low < 0.25


@pytest.mark.parametrize("metric", ["precision", "recall", "f1"])
def test_a_class_that_is_always_found_has_wilsons_interval(metric):
    labels = np.repeat([0, 1, 2], [60, 20, 40])
    groups = np.arange(120) // 2  # ten groups hold class b
    perfect = measured_of(scored(labels, np.stack([labels] * 2), groups), "arm", number(metric, "b"), NAMES)
    low = stats.binomtest(10, 10).proportion_ci(method="wilson").low
    assert (perfect.low, perfect.high) == (pytest.approx(low), 1)
    never = measured_of(scored(labels, np.stack([(labels + 1) % 3] * 2), groups), "arm", number(metric, "b"), NAMES)
    assert never.low == 0
    assert 0 < never.high < 0.35


def test_a_class_without_rows_may_have_any_rate():
    labels = np.zeros(40, int)
    found = measured_of(scored(labels, labels[None], np.arange(40)), "arm", number("recall", "c"), NAMES)
    assert (found.low, found.high) == pytest.approx((0, 1))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_perfect_mean_has_an_interval(metric):
    labels = np.arange(60) % 3
    found = measured_of(scored(labels, labels[None], np.arange(60)), "arm", number(metric), NAMES)
    assert (found.low, found.high) == (pytest.approx(60 / 63.8415, rel=1e-4), 1)
