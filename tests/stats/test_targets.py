"""Comparisons of predicted label sets: the same statistics as for one label per row, on the F1 of each row."""

from __future__ import annotations

import numpy as np
import pytest

from randout.core.errors import UserError
from randout.stats.label_set_scores import row_f1
from randout.stats.paired import compare_models, paired_difference
from randout.stats.targets import (
    OneLabel,
    main_metric,
    most_frequent,
    predicted,
    probabilities,
    rates_of,
    score,
    target_of,
    widened_sets,
)
from randout.stats.verdicts import compare_methods


def sets(n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (n, 4), a prediction that is right in most labels, and one that is right in fewer."""
    draws = np.random.default_rng(seed)
    truth = draws.random((n, 4)) < 0.4
    return truth, truth ^ (draws.random((n, 4)) < 0.05), truth ^ (draws.random((n, 4)) < 0.25)


def test_a_label_set_of_one_class_has_the_metrics_of_one_label() -> None:
    draws = np.random.default_rng(0)
    labels, made = draws.integers(0, 3, 80), draws.integers(0, 3, 80)
    one, of_sets = rates_of(labels, made, 3), rates_of(np.eye(3, dtype=bool)[labels], np.eye(3, dtype=bool)[made], 3)
    assert all(of_sets[name] == pytest.approx(one[name]) for name in ("accuracy", "macro_f1", "macro_recall"))
    assert of_sets["sample_f1"] == pytest.approx(one["accuracy"])  # one label each: right or wrong
    assert of_sets["micro_f1"] == pytest.approx(one["accuracy"])


def test_a_paired_difference_of_label_sets_of_one_class_is_that_of_one_label() -> None:
    draws = np.random.default_rng(1)
    labels, first, second = (draws.integers(0, 3, 80) for _ in range(3))
    groups = draws.integers(0, 40, 80)
    rows = np.eye(3, dtype=bool)
    one = paired_difference(labels, first, second, groups, 3, resamples=500)
    other = paired_difference(rows[labels], rows[first], rows[second], groups, 3, "sample_f1", resamples=500)
    assert (other.estimate, other.low, other.high, other.p_value) == pytest.approx(
        (one.estimate, one.low, one.high, one.p_value)
    )


def test_the_better_prediction_is_called_better_in_the_f1_of_rows() -> None:
    truth, good, poor = sets()
    base, row = compare_models(truth, {"poor": poor, "good": good}, "poor", np.arange(len(truth)), 4, resamples=500)
    assert row.metric == "sample_f1"
    assert row.words is not None
    assert row.words.startswith("better")
    assert row.difference is not None
    assert row.difference.estimate == pytest.approx(row_f1(truth, good).mean() - row_f1(truth, poor).mean())
    assert base.value == pytest.approx(row_f1(truth, poor).mean())


def test_seeds_are_compared_by_the_crossed_design() -> None:
    truth, *_ = sets()
    draws = np.random.default_rng(5)

    def seeds(rate: float) -> np.ndarray:
        return np.stack([truth ^ (draws.random(truth.shape) < rate) for _ in range(5)])

    arms = {"a": seeds(0.2), "b": seeds(0.05)}
    for metric in ("accuracy", "micro_f1"):
        rows = compare_methods(arms, truth, np.arange(len(truth)), "a", 4, metric, resamples=200)
        assert rows[1].words is not None
        assert rows[1].words.startswith("better")
        assert rows[1].metric == main_metric(truth, metric)
    with pytest.raises(UserError, match=r"weighted_f1.*sample_f1"):
        paired_difference(truth, arms["a"][0], arms["b"][0], np.arange(len(truth)), 4, "weighted_f1")


def test_kinds_are_found_by_the_labels() -> None:
    truth, *_ = sets(10)
    assert isinstance(target_of(np.zeros(3, int), 2), OneLabel)
    assert target_of(truth, 4).row_means == {"accuracy", "sample_f1"}
    assert main_metric(np.zeros(3, int), "accuracy") == "accuracy"
    logits = np.array([[2.0, -1.0], [0.0, 3.0]])
    assert predicted(logits, None).tolist() == [0, 1]
    assert predicted(logits, (0.5, 0.5), 3).tolist() == [[True, False, False], [False, True, False]]
    assert probabilities(logits, None).sum(1).tolist() == pytest.approx([1, 1])
    assert probabilities(logits, (0.5, 0.5))[1, 0] == 0.5
    assert "confusion_matrix" in score(np.array([0, 1]), logits, {0: "a", 1: "b"})


def test_the_most_frequent_class_or_set() -> None:
    assert most_frequent(np.array([1, 1, 0]), 3) == 1
    rows = np.array([[1, 0], [1, 0], [0, 1]]).astype(bool)
    assert np.asarray(most_frequent(rows, 3)).tolist() == [True, False, False]
    assert widened_sets(np.array([0, 1]), 5).tolist() == [0, 1]
