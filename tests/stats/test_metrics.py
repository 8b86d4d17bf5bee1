"""Metrics against sklearn, the grouped bootstrap against a plain loop over rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from randout.core.errors import Failure, UserError
from randout.stats.intervals import edge_units
from randout.stats.metrics import (
    COUNTED,
    SELECTABLE,
    better,
    calibration_error,
    confusion,
    group_codes,
    group_weights,
    label_names,
    patterns,
    rates,
    score,
)

NAMES = {0: "figurative", 1: "health", 2: "other", 3: "never"}


def example(rows: int, classes: int, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels among the first three classes and logits (rows, classes) that know something of them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, min(classes, 3), rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += skill
    return labels, logits


def sklearn_values(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    every = {"labels": range(classes), "zero_division": 0}
    macro = reference.precision_recall_fscore_support(labels, predictions, average="macro", **every)
    recalls = reference.recall_score(labels, predictions, labels=np.unique(labels), average=None, zero_division=0)
    return {
        "accuracy": reference.accuracy_score(labels, predictions),
        "balanced_accuracy": recalls.mean(),
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "macro_f1": macro[2],
        "weighted_f1": reference.f1_score(labels, predictions, average="weighted", **every),
    }


@pytest.mark.parametrize(("rows", "classes"), [(200, 3), (200, 4), (7, 4), (1, 2), (1, 4), (50, 2)])
def test_equals_sklearn(rows, classes):
    labels, logits = example(rows, classes)
    labels %= classes
    if classes == 4:
        logits[:, 3] -= 10 if rows == 7 else 0  # a class neither true nor predicted; else predicted and never true
    found = score(labels, logits, {at: NAMES[at] for at in range(classes)})
    made = logits.argmax(1)
    for name, value in sklearn_values(labels, made, classes).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, chances, labels=range(classes)), abs=1e-9)
    each = reference.precision_recall_fscore_support(labels, made, labels=range(classes), zero_division=0)
    for at in range(classes):
        expected = dict(zip(("precision", "recall", "f1", "support"), (column[at] for column in each), strict=True))
        assert found["per_class"][NAMES[at]] == pytest.approx(expected)
    matrix = reference.confusion_matrix(labels, made, labels=range(classes))
    assert found["confusion_matrix"] == matrix.tolist()
    assert found["majority_baseline"] == np.bincount(labels).max() / rows
    assert found["majority_label"] == NAMES[int(np.bincount(labels).argmax())]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_balanced_accuracy_is_sklearns_own():
    labels, logits = example(300, 3)
    expected = reference.balanced_accuracy_score(labels, logits.argmax(1))
    assert score(labels, logits, dict(list(NAMES.items())[:3]))["balanced_accuracy"] == pytest.approx(expected)


def test_calibration_error_is_the_plain_sum_over_bins():
    labels, logits = example(400, 3)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = chances.max(1), chances.argmax(1) == labels
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(labels, logits) == pytest.approx(total, abs=1e-12)
    certain = np.where(np.eye(3)[labels] > 0, 1000.0, 0.0)
    assert calibration_error(labels, certain) == 0


def test_large_logits_do_not_overflow():
    found = score([0, 1], [[1e4, 0.0], [1e4, 0.0]], {0: "a", 1: "b"})
    assert found["log_loss"] == pytest.approx(5e3)
    assert found["accuracy"] == 0.5


def grouped(rows: int, groups: int, seed: int = 0) -> np.ndarray:
    return np.array([f"paper {at}" for at in np.random.default_rng(seed).integers(0, groups, rows)])


def test_intervals_equal_a_slow_loop_over_the_same_draws():
    labels, logits = example(120, 4)
    groups = grouped(120, 40)
    found = score(labels, logits, NAMES, groups, resamples=60, seed=5)
    made = logits.argmax(1)
    kinds = patterns(labels * 4 + made, group_codes(groups, 120))
    drawn = {name: [] for name in COUNTED}
    sizes = np.unique(groups, return_counts=True)[1]
    t = stats.t.ppf(0.975, 120**2 / (sizes**2).sum() - 1) * np.sqrt(len(sizes) / (len(sizes) - 1))
    for weights in np.concatenate(list(group_weights(kinds, 60, 5))):
        assert weights.sum() == len(set(groups))
        rows = np.concatenate([np.tile(kinds.rows[kinds.pattern == at], times) for at, times in enumerate(weights)])
        values = sklearn_values(labels[rows], made[rows], 4)
        for name in COUNTED:
            drawn[name].append(values[name])
    assert found["groups"] == len(set(groups))
    for name in COUNTED:
        expected = np.quantile(drawn[name], [stats.norm.cdf(-t), stats.norm.cdf(t)])
        assert found["intervals"][name] == pytest.approx(expected, abs=1e-12)


def test_intervals_agree_with_drawing_the_groups_themselves():
    labels, logits = example(300, 3)
    groups = np.sort(grouped(300, 60))
    found = score(labels, logits, dict(list(NAMES.items())[:3]), groups, resamples=4000)
    codes = group_codes(groups, 300)
    made, generator = logits.argmax(1), np.random.default_rng(1)
    members = [np.flatnonzero(codes == at) for at in range(codes.max() + 1)]
    drawn = {name: [] for name in COUNTED}
    for _ in range(2000):
        rows = np.concatenate([members[at] for at in generator.integers(0, len(members), len(members))])
        for name, value in rates(confusion(labels[rows], made[rows], 3)).items():
            if name in COUNTED:
                drawn[name].append(value)
    for name in COUNTED:
        assert found["intervals"][name] == pytest.approx(np.quantile(drawn[name], [0.025, 0.975]), abs=0.006)


def test_group_codes_count_in_order_of_appearance():
    groups = np.random.default_rng(0).integers(-5, 20, 100)
    assert group_codes(groups, 100).tolist() == group_codes(groups.tolist(), 100).tolist()
    assert group_codes(["b", "a", "b"], 3).tolist() == [0, 1, 0]
    assert group_codes(np.array([7, 3, 7]), 3).tolist() == [0, 1, 0]
    assert group_codes(np.zeros(0, int), 0).tolist() == []


def test_patterns_stand_for_all_groups():
    labels, logits = example(500, 3)
    cells = labels * 3 + logits.argmax(1)
    codes = group_codes(grouped(500, 300), 500)
    kinds = patterns(cells, codes)
    assert kinds.groups == codes.max() + 1 > len(kinds.multiplicity)
    assert (kinds.multiplicity @ kinds.counts(cells, 9) == np.bincount(cells, minlength=9)).all()
    assert len(patterns(cells, np.arange(500)).multiplicity) == len(np.unique(cells))


def test_blocks_do_not_change_the_draws():
    labels, logits = example(90, 3)
    kinds = patterns(labels * 3 + logits.argmax(1), group_codes(grouped(90, 30), 90))
    whole = np.concatenate(list(group_weights(kinds, 50, 3)))
    blocks = list(group_weights(kinds, 50, 3, most=70))
    assert len(blocks) > 1
    assert (np.concatenate(blocks) == whole).all()


def test_intervals_cover_the_truth_when_groups_are_correlated():
    generator = np.random.default_rng(0)
    covered = {"grouped": 0, "rows": 0}
    for run in range(150):
        easy = np.repeat(generator.random(80) < 0.7, 5)  # 80 papers of 5 rows; accuracy .9 or .4, so .75
        right = generator.random(400) < np.where(easy, 0.9, 0.4)
        logits = np.where(right[:, None], [1.0, 0.0], [0.0, 1.0])
        for name, groups in (("grouped", np.repeat(np.arange(80), 5)), ("rows", np.arange(400))):
            found = score(np.zeros(400, int), logits, {0: "a", 1: "b"}, groups, resamples=400, seed=run)
            low, high = found["intervals"]["accuracy"]
            covered[name] += low <= 0.75 <= high
    assert 0.90 <= covered["grouped"] / 150 <= 0.99
    assert covered["rows"] < covered["grouped"]


def test_balanced_accuracy_and_macro_recall_are_one_number_with_one_interval():
    """A class of three rows is missing from one draw in twenty."""
    generator = np.random.default_rng(0)
    labels = np.where(np.arange(150) < 3, 3, generator.integers(0, 3, 150))
    logits = 1.2 * np.eye(4)[labels] + generator.normal(size=(150, 4))
    found = score(labels, logits, NAMES, np.arange(150))
    assert found["balanced_accuracy"] == pytest.approx(found["macro_recall"])
    assert found["intervals"]["balanced_accuracy"] == pytest.approx(found["intervals"]["macro_recall"])
    absent = score(labels[3:], logits[3:], NAMES, np.arange(147))  # a class that never occurs
    assert absent["balanced_accuracy"] == pytest.approx(absent["macro_recall"] * 4 / 3)
    assert np.array(absent["intervals"]["macro_recall"]) * 4 / 3 == pytest.approx(
        absent["intervals"]["balanced_accuracy"]
    )


@pytest.mark.parametrize("wrong", [0, 1, 4])
@pytest.mark.parametrize("per_group", [1, 4])
def test_scores_near_one_and_near_zero_have_wilsons_interval(wrong, per_group):
    labels = np.arange(240) % 2
    logits = np.eye(2)[labels]
    logits[: wrong * per_group] = logits[: wrong * per_group, ::-1]  # whole groups
    groups = np.arange(240) // per_group
    size = 240 // per_group
    expected = stats.binomtest(size - wrong, size).proportion_ci(method="wilson")
    names = {0: "a", 1: "b"}
    found = score(labels, logits, names, groups)["intervals"]
    assert found["accuracy"][0] <= expected.low + 1e-9
    assert found["accuracy"][0] == pytest.approx(expected.low, abs=0.012)
    assert found["accuracy"][1] == pytest.approx(expected.high)
    none = score(labels, -logits, names, groups)["intervals"]
    assert none["accuracy"] == pytest.approx([1 - found["accuracy"][1], 1 - found["accuracy"][0]])
    for low, high in found.values():
        assert 0 < low < high <= 1
        assert (high == 1) == (wrong == 0)


def test_scattered_mistakes_count_rows_and_unseen_ones_whole_groups():
    codes = np.arange(400) // 20
    wrong = np.zeros(400)
    assert edge_units(wrong, codes) == 20
    wrong[:100:20] = 1  # a row in each of five groups
    assert edge_units(wrong, codes) == pytest.approx(400 * (5 + 20) / (5 + 400))
    wrong[:380:20] = 1
    assert edge_units(wrong, codes) is None  # enough to be resampled
    wrong[::20] = 1
    assert edge_units(wrong, codes) == 20  # the same in each group: every resample would have the same accuracy
    labels = np.where(np.arange(400) < 20, 1, 0)  # a class of one group
    assert edge_units(np.zeros(400), codes, labels) == 2


def test_one_group_has_no_intervals():
    labels, logits = example(10, 4)
    found = score(labels, logits, NAMES, ["one"] * 10)
    assert found["groups"] == 1
    assert found["intervals"] == {}
    assert "intervals" not in score(labels, logits, NAMES)


def test_same_seed_same_intervals_and_json_keys_are_welcome():
    labels, logits = example(60, 4)
    first = score(labels, logits, NAMES, np.arange(60), resamples=100)
    assert first == score(labels, logits, {str(at): name for at, name in NAMES.items()}, np.arange(60), resamples=100)
    assert first["intervals"] != score(labels, logits, NAMES, np.arange(60), resamples=100, seed=1)["intervals"]


def test_better():
    assert better("accuracy", 0.8, 0.7)
    assert not better("accuracy", 0.7, 0.7)
    assert better("log_loss", 0.3, 0.4)
    assert not better("log_loss", 0.4, 0.3)
    assert better("macro_f1", 0.0, None)
    assert better("macro_f1", 0.0, float("nan"))
    assert not better("log_loss", float("nan"), None)
    with pytest.raises(UserError, match="macro_f2"):
        better("macro_f2", 1, 0)
    labels, logits = example(5, 4)
    assert set(SELECTABLE) <= set(score(labels, logits, NAMES))


def test_mistakes_are_named():
    logits = np.zeros((2, 4))
    with pytest.raises(UserError, match="no rows"):
        score([], np.zeros((0, 4)), NAMES)
    with pytest.raises(UserError, match="row 1 is class 4"):
        score([0, 4], logits, NAMES)
    with pytest.raises(Failure, match="row 1 are not finite"):
        score([0, 1], [[0, 0, 0, 0], [0, np.nan, 0, 0]], NAMES)
    for shape in ((2, 3), (3, 4), (4,)):
        with pytest.raises(ValueError, match="shape"):
            score([0, 1], np.zeros(shape), NAMES)
    with pytest.raises(ValueError, match="integers"):
        score([0.0, 1.0], logits, NAMES)
    with pytest.raises(ValueError, match="2 groups expected"):
        score([0, 1], logits, NAMES, groups=["a"])
    for wrong in ({}, {0: "a", 2: "b"}, {0: "a", 1: "a"}):
        with pytest.raises(UserError, match="id2label"):
            label_names(wrong)


@pytest.mark.parametrize("per_group", [1, 3])
def test_a_model_that_predicts_one_class_has_no_interval_without_width(per_group):
    labels = np.repeat([0, 1, 2], [150, 90, 60])
    logits = np.tile([2.0, 0.0, 0.0, 0.0], (300, 1))
    groups = np.arange(300) // per_group
    found = score(labels, logits, NAMES, groups)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)  # of whatever rows: recall 1, 0 and 0
    assert set(found["intervals"]) == {"accuracy"}
    assert found["intervals"]["accuracy"][0] < 0.5 < found["intervals"]["accuracy"][1]
    assert set(found["no_interval"]) == set(COUNTED) - {"accuracy"}
    assert all(NAMES[0] in reason for reason in found["no_interval"].values())
    logits[:12] = [0.0, 2.0, 0.0, 0.0]
    other = score(labels, logits, NAMES, groups)
    assert set(other["intervals"]) == set(COUNTED)
    assert "no_interval" not in other


def test_where_every_resample_is_the_same_the_units_are_the_groups():
    labels = np.repeat([0, 1], [60, 40])
    rows = np.arange(100)
    constant = (labels == 1).astype(float)
    assert edge_units(constant, rows) is None  # the accuracy of a constant model varies with the shares of the classes
    assert edge_units(constant, rows, labels) == 2 * 40
    seeds = np.where(labels == 1, 2 / 3, 1 / 3)  # three seeds, each with one class for all rows
    assert edge_units(seeds, rows, labels) == 2 * 40
    halves = rows % 2  # pairs of one right row and one wrong
    assert edge_units(halves, rows // 2) == 50
