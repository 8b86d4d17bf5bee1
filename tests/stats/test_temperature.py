"""One temperature by maximum likelihood: against a grid, and only where enough rows are right and wrong."""

from __future__ import annotations

import numpy as np
import pytest

from randout.stats.temperature import BOUNDS, calibrate, fit_temperature, log_loss


def sample(n: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 3) that are `factor` times too sharp, and labels drawn from the true probabilities."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, 3))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return factor * z, labels


def plain_log_loss(logits: np.ndarray, labels: np.ndarray, t: float) -> float:
    total = 0.0
    for z, label in zip(logits, labels, strict=True):
        total -= np.log(np.exp(z[label] / t) / np.exp(z / t).sum())
    return total / len(labels)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_fit_is_the_minimum_of_a_grid(factor: float) -> None:
    logits, labels = sample(200, factor)
    grid = np.exp(np.linspace(*np.log(BOUNDS), 4001))
    losses = [plain_log_loss(logits, labels, t) for t in grid[::40]]
    best = grid[::40][int(np.argmin(losses))]
    near = grid[(grid > best * 0.9) & (grid < best * 1.12)]
    fine = near[int(np.argmin([plain_log_loss(logits, labels, t) for t in near]))]
    assert fit_temperature(logits, labels) == pytest.approx(fine, rel=2e-3)
    assert log_loss(logits, labels, 1.7) == pytest.approx(plain_log_loss(logits, labels, 1.7))


def test_predictions_that_are_three_times_too_sharp_get_that_temperature() -> None:
    found = calibrate(*sample(4000, 3.0))
    assert found.fitted
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.log_loss[1] < found.log_loss[0]
    assert found.calibration_error[1] < found.calibration_error[0] / 4


@pytest.mark.parametrize(("wrong", "right", "fits"), [(5, 5, True), (4, 90, False), (90, 4, False)])
def test_it_is_fitted_only_with_enough_right_and_wrong_rows(wrong: int, right: int, fits: bool) -> None:
    logits = np.tile([2.0, 0.0], (wrong + right, 1))
    labels = np.array([1] * wrong + [0] * right)
    found = calibrate(logits, labels)
    assert (found.fitted, found.wrong, found.rows) == (fits, wrong, wrong + right)
    assert fits or found.temperature == 1.0


def test_a_given_temperature_is_used_and_measured() -> None:
    logits, labels = sample(30, 1.0)
    found = calibrate(logits, labels, 2.0)
    assert (found.temperature, found.fitted) == (2.0, False)
    assert found.log_loss == pytest.approx((plain_log_loss(logits, labels, 1), plain_log_loss(logits, labels, 2)))


def test_the_fit_stays_within_its_bounds() -> None:
    assert fit_temperature(np.tile([2.0, 0.0], (9, 1)), np.zeros(9, np.int64)) == pytest.approx(0.1, rel=1e-3)
    assert fit_temperature(np.tile([2.0, 0.0], (9, 1)), np.ones(9, np.int64)) == pytest.approx(10.0, rel=1e-3)


def set_sample(n: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds (n, 4) that are `factor` times too sharp, and label sets drawn from the true probabilities."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, 4))
    return factor * z, rng.random((n, 4)) < 1 / (1 + np.exp(-z))


def plain_set_loss(logits: np.ndarray, labels: np.ndarray, t: float) -> float:
    total = 0.0
    for row, has in zip(logits, labels, strict=True):
        for z, yes in zip(row, has, strict=True):
            p = 1 / (1 + np.exp(-z / t))
            total -= np.log(p if yes else 1 - p)
    return total / labels.size


def test_label_sets_are_fitted_by_the_bernoulli_likelihood() -> None:
    logits, labels = set_sample(150, 2.5)
    assert log_loss(logits, labels, 1.7) == pytest.approx(plain_set_loss(logits, labels, 1.7))
    t = fit_temperature(logits, labels)
    own = plain_set_loss(logits, labels, t)
    assert all(own <= plain_set_loss(logits, labels, t * factor) for factor in (0.5, 0.97, 1.03, 2.0))
    found = calibrate(*set_sample(4000, 2.5))
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    assert found.log_loss[1] < found.log_loss[0]
    assert found.calibration_error[1] < found.calibration_error[0] / 4


@pytest.mark.parametrize(("wrong", "fits"), [(5, True), (4, False)])
def test_label_sets_need_as_many_wrong_decisions_as_other_data_need_wrong_rows(wrong: int, fits: bool) -> None:
    labels = np.zeros((10, 3), bool)
    labels.flat[:wrong] = True
    found = calibrate(np.full((10, 3), -2.0), labels)
    assert (found.fitted, found.wrong, found.decisions, found.rows) == (fits, wrong, 30, 10)
