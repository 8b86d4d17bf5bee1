"""Metrics of label sets against scikit-learn, thresholds against all of them, and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from randout.core.errors import Failure
from randout.stats.label_set_scores import (
    LabelSetTarget,
    decided,
    held_out_thresholds,
    row_f1,
    score_sets,
    set_probability,
    sigmoid,
    tuned_thresholds,
)

NAMES = {0: "a", 1: "b", 2: "c"}
LIMITS = (0.4, 0.5, 0.7)


def example(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth (n, 3) bool and logits that are right in most rows."""
    draws = np.random.default_rng(seed)
    truth = draws.random((n, 3)) < np.array([0.5, 0.3, 0.1])
    return truth, np.where(truth, 1.0, -1.0) + draws.normal(0, 1, (n, 3))


def test_averages_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    truth, logits = example()
    made, found = decided(logits, LIMITS), score_sets(truth, logits, NAMES, thresholds=LIMITS)
    for average in ("micro", "macro", "weighted"):
        assert found[f"{average}_f1"] == pytest.approx(metrics.f1_score(truth, made, average=average, zero_division=0))
    assert found["micro_precision"] == pytest.approx(metrics.precision_score(truth, made, average="micro"))
    assert found["macro_recall"] == pytest.approx(metrics.recall_score(truth, made, average="macro"))
    assert found["sample_f1"] == pytest.approx(metrics.f1_score(truth, made, average="samples", zero_division=1))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, made))
    assert found["label_accuracy"] == pytest.approx(1 - metrics.hamming_loss(truth, made))
    each = [metrics.balanced_accuracy_score(has, guess) for has, guess in zip(truth.T, made.T, strict=True)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each))
    losses = [metrics.log_loss(has, p) for has, p in zip(truth.T, sigmoid(logits).T, strict=True)]
    assert found["log_loss"] == pytest.approx(np.mean(losses))
    assert found["per_class"]["b"]["support"] == truth[:, 1].sum()
    assert found["thresholds"] == dict(zip("abc", LIMITS, strict=True))


def test_two_empty_sets_agree() -> None:
    truth = np.array([[0, 0], [1, 0], [1, 1]]).astype(bool)
    made = np.array([[0, 0], [0, 0], [1, 0]]).astype(bool)
    assert row_f1(truth, made).tolist() == pytest.approx([1.0, 0.0, 2 / 3])


def f1_above(limit: float, has: np.ndarray, p: np.ndarray) -> float:
    made = p > limit
    return float(2 * (made & has).sum() / max(made.sum() + has.sum(), 1))


def test_the_threshold_of_one_label_reaches_the_best_f1_of_all() -> None:
    truth, logits = example(60, seed=3)
    for has, z in zip(truth.T, logits.T, strict=True):
        (limit,) = tuned_thresholds(has[:, None], z[:, None])
        p = sigmoid(z)
        assert f1_above(limit, has, p) == pytest.approx(max(f1_above(at, has, p) for at in [0.0, *p.tolist()]))


def test_a_label_with_few_rows_has_about_the_common_threshold() -> None:
    """(n_c t_c + 5 t) / (n_c + 5): t_c of the label alone, t of all decisions together, where F1 is micro F1."""
    truth, logits = example(60, seed=3)
    truth[3:, 0] = False
    (common,) = tuned_thresholds(truth.reshape(-1, 1), logits.reshape(-1, 1))
    p = sigmoid(logits)
    best = max(f1_above(at, truth.ravel(), p.ravel()) for at in [0.0, *p.ravel().tolist()])
    assert f1_above(common, truth.ravel(), p.ravel()) == pytest.approx(best)
    for at, limit in enumerate(tuned_thresholds(truth, logits)):
        (own,) = tuned_thresholds(truth[:, [at]], logits[:, [at]])
        rows = truth[:, at].sum()
        assert limit == pytest.approx((rows * own + 5 * common) / (rows + 5))
    truth[:, 0] = False
    (common,) = tuned_thresholds(truth.reshape(-1, 1), logits.reshape(-1, 1))
    assert tuned_thresholds(truth, logits)[0] == common


def test_held_out_thresholds_are_tuned_without_the_row_and_its_group() -> None:
    truth, logits = example(60, seed=4)
    groups = np.arange(60) // 2
    found = held_out_thresholds(truth, logits, groups)
    for row in range(60):
        others = groups % 5 != groups[row] % 5
        assert tuple(found[row]) == tuned_thresholds(truth[others], logits[others])
    assert (decided(logits, found) == (sigmoid(logits) > found)).all()
    alone = held_out_thresholds(truth, logits, np.zeros(60, int))
    assert tuple(alone[7]) == tuned_thresholds(truth, logits), "rows of one group have no others"


def test_thresholds_stay_at_one_half_without_a_reason() -> None:
    logits = np.array([[3.0, -1.0], [2.0, -1.0], [-3.0, -2.0]])
    truth = np.array([[1, 0], [1, 0], [0, 0]]).astype(bool)
    assert tuned_thresholds(truth, logits) == (0.5, 0.5)


def test_thresholds_with_equal_probabilities_take_all_or_none_of_them() -> None:
    logits = np.zeros((4, 1))
    truth = np.array([[1], [1], [0], [1]]).astype(bool)
    (limit,) = tuned_thresholds(truth, logits)
    assert decided(logits, (limit,)).all()


def test_labels_without_an_output_are_never_predicted() -> None:
    truth, logits = example()
    more = np.column_stack([truth, np.arange(len(truth)) % 2 == 0])
    found = score_sets(more, logits, NAMES, unseen=("new",), thresholds=LIMITS)
    assert found["unseen"] == {"new": 100}
    assert found["per_class"]["new"]["f1"] == 0
    assert found["macro_f1"] < score_sets(truth, logits, NAMES, thresholds=LIMITS)["macro_f1"]


def test_intervals_hold_the_values_and_narrow_with_rows() -> None:
    wide, narrow = (score_sets(*example(n), NAMES, np.arange(n), 200, thresholds=LIMITS) for n in (60, 600))
    for name, (low, high) in narrow["intervals"].items():
        assert low <= narrow[name] <= high
        assert high - low < wide["intervals"][name][1] - wide["intervals"][name][0]


def test_a_perfect_score_has_an_interval() -> None:
    truth, _ = example(50)
    found = score_sets(truth, np.where(truth, 5.0, -5.0), NAMES, np.arange(50), 100, thresholds=(0.5,) * 3)
    assert found["sample_f1"] == 1
    assert all(low < 1 for low, _ in found["intervals"].values())


def test_the_most_common_set_is_the_baseline() -> None:
    truth = np.array([[0, 0, 0]] * 3 + [[1, 0, 1]] * 2).astype(bool)
    found = score_sets(truth, np.zeros((5, 3)), NAMES, thresholds=LIMITS)
    assert (found["majority_label"], found["majority_baseline"]) == ("(no label)", 0.6)


def test_the_probability_of_a_set_is_the_product() -> None:
    p = np.array([[0.9, 0.2]])
    assert set_probability(p, np.array([[True, False]])) == pytest.approx([0.9 * 0.8])


def test_logits_that_are_not_finite_are_named() -> None:
    truth, logits = example(5)
    logits[2, 1] = np.nan
    with pytest.raises(Failure, match="row 2"):
        score_sets(truth, logits, NAMES, thresholds=LIMITS)


def test_the_contents_of_rows_are_equal_for_equal_rows_only() -> None:
    truth, logits = example(50)
    made = decided(logits, LIMITS)
    codes = LabelSetTarget(3).contents(truth, made)
    whole = [tuple(row) for row in np.concatenate([truth, made], axis=1).tolist()]
    assert all((codes[i] == codes[j]) == (whole[i] == whole[j]) for i in range(50) for j in range(50))
