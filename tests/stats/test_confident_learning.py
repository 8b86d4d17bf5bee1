"""Confident learning against the equations of the paper written out row by row (Northcutt et al. 2021)."""

from __future__ import annotations

import numpy as np
import pytest

from randout.stats.confident_learning import (
    count_wrong,
    count_wrong_in_sets,
    joint,
    likely_wrong,
    likely_wrong_in_sets,
    margins,
    most_wrong,
)


def noisy(n: int = 600, wrong: float = 0.1, seed: int = 0, sharp: float = 3.0) -> tuple[np.ndarray, ...]:
    """(probabilities (n, 3), given labels, true labels) of a model of some skill."""
    draw = np.random.default_rng(seed)
    true = draw.choice(3, n, p=[0.5, 0.3, 0.2])
    logits = draw.normal(size=(n, 3))
    logits[np.arange(n), true] += sharp
    labels = true.copy()
    flipped = draw.permutation(n)[: round(wrong * n)]
    labels[flipped] = (labels[flipped] + draw.integers(1, 3, len(flipped))) % 3
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), labels, true


def plain_joint(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Equations 1 to 3 with a loop over rows."""
    n, classes = p.shape
    least = [p[labels == j, j].mean() for j in range(classes)]
    counts = np.zeros((classes, classes))
    for x in range(n):
        reached = [j for j in range(classes) if p[x, j] >= least[j]]
        if reached:
            counts[labels[x], max(reached, key=lambda j: p[x, j])] += 1
    found = np.zeros((classes, classes))
    for i in range(classes):
        found[i] = counts[i] / counts[i].sum() * (labels == i).sum()
    return found / found.sum()


def test_the_joint_is_that_of_the_equations() -> None:
    p, labels, _ = noisy()
    assert joint(p, labels) == pytest.approx(plain_joint(p, labels))
    assert joint(p, labels).sum() == pytest.approx(1)


def test_weights_are_repeated_rows() -> None:
    p, labels, _ = noisy(200)
    times = np.random.default_rng(1).integers(0, 3, 200)
    repeated = joint(np.repeat(p, times, axis=0), np.repeat(labels, times))
    assert joint(p, labels, times.astype(float)) == pytest.approx(repeated)


def test_likely_wrong_rows_are_those_of_the_noise_rate() -> None:
    p, labels, true = noisy()
    expected = len(labels) * plain_joint(p, labels)
    chosen: set[int] = set()
    for i in range(3):
        for j in {0, 1, 2} - {i}:
            rows = sorted(np.flatnonzero(labels == i), key=lambda x: p[x, labels[x]] - p[x, j])
            chosen |= set(rows[: round(expected[i, j])])
    chosen = {x for x in chosen if p[x].argmax() != labels[x]}
    found = likely_wrong(p, labels)
    assert set(found.tolist()) == chosen
    margin = p[found].max(1) - p[found, labels[found]]
    assert (np.diff(margin) <= 0).all()
    assert (labels[found] != true[found]).mean() > 0.7
    assert (labels[found] != true[found]).sum() > 0.6 * (labels != true).sum()


def test_right_labels_of_a_sure_model_are_not_doubtful() -> None:
    p, labels, _ = noisy(wrong=0.0, sharp=12.0)
    assert len(likely_wrong(p, labels)) == 0
    assert count_wrong(p, labels, np.arange(len(labels))).estimate == pytest.approx(0, abs=1e-9)


def test_a_label_without_a_confident_row_counts_as_right() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.3, 0.7, 0.0]])
    found = joint(p, np.array([0, 0, 1, 1]))  # class 2 has no row
    assert found[2].sum() == 0
    assert found.sum() == pytest.approx(1)


def test_the_estimate_has_an_interval_over_groups() -> None:
    p, labels, true = noisy(sharp=5.0)
    single = count_wrong(p, labels, np.arange(len(labels)))
    assert single.low is not None
    assert single.high is not None
    assert single.low < single.estimate < single.high
    assert single.low < (labels != true).sum() < single.high
    twice = count_wrong(np.repeat(p, 2, axis=0), np.repeat(labels, 2), np.repeat(np.arange(len(labels)), 2))
    assert twice.high is not None
    assert twice.low is not None
    assert twice.high - twice.low == pytest.approx(2 * (single.high - single.low), rel=0.15)
    assert count_wrong(p, labels, np.zeros(len(labels), int)).low is None


def test_margins() -> None:
    p = noisy(20)[0]
    found = margins(p)
    for row, share in enumerate(p):
        for j in range(3):
            assert found[row, j] == pytest.approx(max(share[k] for k in range(3) if k != j) - share[j])


@pytest.mark.parametrize("sharp", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("wrong", [0.0, 0.05, 0.2])
def test_the_bound_holds_for_weak_models_too(sharp: float, wrong: float) -> None:
    bounds = [most_wrong(*noisy(400, wrong, seed, sharp)[:2], np.arange(400)) for seed in range(5)]
    assert min(bounds) >= wrong
    if sharp == 3.0:
        assert max(bounds) < wrong + 0.12


def noisy_sets(n: int = 500, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(probabilities (n, 3), given sets, true sets): labels of 50, 20 and 10 % of the rows, with 4 % of each answer flipped."""
    draw = np.random.default_rng(seed)
    true = draw.random((n, 3)) < [0.5, 0.2, 0.1]
    logits = draw.normal(size=(n, 3)) + np.where(true, 3.0, -3.0)
    return 1 / (1 + np.exp(-logits)), true ^ (draw.random((n, 3)) < 0.04), true


def test_each_label_of_a_set_is_a_question_with_two_answers() -> None:
    p, given, true = noisy_sets()
    found, counted = likely_wrong_in_sets(p, given), count_wrong_in_sets(p, given, np.arange(500))
    for label in range(3):
        has, without = given[:, label].astype(int), 1 - p[:, label]
        expected = 500 * plain_joint(np.column_stack([without, p[:, label]]), has)
        assert counted.missing[label] == pytest.approx(expected[0, 1])
        assert counted.superfluous[label] == pytest.approx(expected[1, 0])
        lacking = [x for x in np.argsort(-p[:, label], kind="stable") if not has[x]][: round(expected[0, 1])]
        having = [x for x in np.argsort(p[:, label], kind="stable") if has[x]][: round(expected[1, 0])]
        doubtful = {x for x in lacking if p[x, label] > 0.5} | {x for x in having if p[x, label] < 0.5}
        assert set(np.flatnonzero(found[:, label]).tolist()) == doubtful
    assert counted.decisions == 1500
    assert counted.estimate == pytest.approx(sum(counted.missing) + sum(counted.superfluous))
    assert (given != true)[found].mean() > 0.8
    assert found[given != true].mean() > 0.7


def test_the_estimate_of_sets_has_an_interval_over_groups() -> None:
    p, given, true = noisy_sets()
    counted = count_wrong_in_sets(p, given, np.arange(500))
    assert counted.low is not None
    assert counted.high is not None
    assert counted.low < counted.estimate < counted.high
    assert counted.low < (given != true).sum() < counted.high
    twice = count_wrong_in_sets(np.repeat(p, 2, 0), np.repeat(given, 2, 0), np.repeat(np.arange(500), 2))
    assert twice.high is not None
    assert twice.low is not None
    assert twice.high - twice.low == pytest.approx(2 * (counted.high - counted.low), rel=0.15)
    assert count_wrong_in_sets(p, given, np.zeros(500, int)).low is None
    assert count_wrong_in_sets(p[:, :0], given[:, :0], np.arange(500)).estimate == 0
