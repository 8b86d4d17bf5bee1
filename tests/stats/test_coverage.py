"""Thresholds of a classifier that abstains, against the definitions written out row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from randout.core.errors import UserError
from randout.stats.abstention import LEAST, CoveragePoint, choose, parse_target
from randout.stats.coverage import confidences, coverage_curve, risk_area
from randout.stats.intervals import wilson


def drawn(n: int, seed: int = 0, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """(confidence (n,), whether each row is right (n,)) of a calibrated classifier; few digits: with equal confidences."""
    draw = np.random.default_rng(seed)
    confidence = np.round(draw.beta(2, 1, n) / 2 + 0.5, digits)
    return confidence, draw.random(n) < confidence


@pytest.mark.parametrize("digits", [9, 2])
def test_each_point_counts_the_rows_above_its_confidence(digits: int) -> None:
    confidence, right = drawn(250, digits=digits)
    points = coverage_curve(confidence, right, np.arange(250))
    assert points[-1].coverage == 1
    assert len(points) <= 100
    assert [p.coverage for p in points] == sorted({p.coverage for p in points})
    for point in points:
        kept = confidence >= point.confidence
        assert point.rows == kept.sum()
        assert point.coverage == pytest.approx(kept.mean())
        assert point.accuracy == pytest.approx(right[kept].mean())
        assert (point.low, point.high) == pytest.approx(wilson(right[kept].mean(), kept.sum()), abs=0.02)


def test_rows_of_a_group_count_as_one_if_they_are_wrong_together() -> None:
    confidence, right = drawn(60)
    twice = coverage_curve(np.repeat(confidence, 2), np.repeat(right, 2), np.repeat(np.arange(60), 2))
    once = coverage_curve(confidence, right, np.arange(60))
    assert (twice[-1].low, twice[-1].high) == pytest.approx((once[-1].low, once[-1].high), abs=0.01)
    apart = coverage_curve(np.repeat(confidence, 2), np.repeat(right, 2), np.arange(120))
    assert apart[-1].low > twice[-1].low + 0.02


@pytest.mark.parametrize("digits", [9, 2])
def test_the_area_is_the_mean_error_over_all_coverages(digits: int) -> None:
    confidence, right = drawn(120, digits=digits)
    errors = []
    for each in range(20):  # rows of equal confidence in random orders
        order = np.lexsort([np.random.default_rng(each).random(120), -confidence])
        wrong = 1 - right[order]
        errors.append(np.mean([wrong[:k].mean() for k in range(1, 121)]))
    assert risk_area(confidence, right) == pytest.approx(np.mean(errors), abs=0 if digits == 9 else 2e-3, rel=1e-9)


def test_a_target_accuracy_is_met_by_the_lower_end_of_the_interval() -> None:
    confidence, right = drawn(3000)
    points = coverage_curve(confidence, right, np.arange(3000))
    found = choose(parse_target("accuracy=0.9", "--abstain"), points)
    assert found.assured
    assert found.point is not None
    assert found.point.low >= 0.9
    assert all(p.low < 0.9 for p in points if p.coverage > found.point.coverage)


def test_few_rows_do_not_assure_a_target_and_how_many_would() -> None:
    confidence, right = drawn(60, seed=3)
    points = coverage_curve(confidence, right, np.arange(60))
    found = choose(parse_target("accuracy=0.97", "--abstain"), points)
    assert not found.assured
    assert found.point is not None
    assert found.point.accuracy >= 0.97
    assert found.rows_needed is not None
    many = [wilson(p.accuracy, p.coverage * found.rows_needed)[0] for p in points if p.rows >= LEAST]
    half = [wilson(p.accuracy, p.coverage * found.rows_needed / 2)[0] for p in points if p.rows >= LEAST]
    assert max(many) == pytest.approx(0.97, abs=0.002)
    assert max(half) < 0.965


def test_coverage_and_confidence() -> None:
    points = coverage_curve(*drawn(200), np.arange(200))
    found = choose(parse_target("coverage=0.85", ""), points)
    assert found.point is not None
    assert found.point.coverage == pytest.approx(0.85)
    assert choose(parse_target(0.75, ""), points).confidence == 0.75
    assert choose(parse_target("confidence=0.75", ""), ()).point is None


def test_what_cannot_be_reached() -> None:
    points = coverage_curve(np.linspace(0.5, 0.9, 100), np.arange(100) % 2 == 0, np.arange(100))
    with pytest.raises(UserError, match=r"no threshold reaches this accuracy.*The highest is"):
        choose(parse_target("accuracy=0.95", ""), points)
    few = (CoveragePoint(0.9, 3, 1.0, 1.0, 0.4, 1.0),)
    with pytest.raises(UserError, match="3 validation rows are too few"):
        choose(parse_target("accuracy=0.95", ""), few)


@pytest.mark.parametrize(
    "text", ["accuracy", "precision=0.9", "accuracy=0", "accuracy=1.5", "coverage=many", "", "=0.5"]
)
def test_targets_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--abstain .*: expected accuracy=0\.95, coverage=0\.9 or confidence=0\.8"):
        parse_target(text, "--abstain")


def test_a_percentage_gets_a_hint() -> None:
    with pytest.raises(UserError, match=r"Write 95 % as 0\.95"):
        parse_target("accuracy=95", "--abstain")


def test_the_confidence_of_a_label_set_is_the_product_over_its_labels() -> None:
    """p if a label is predicted, else 1 - p, with p = 1 / (1 + exp(-z / t)); what is predicted does not depend on t."""
    logits = np.random.default_rng(1).normal(size=(40, 3)) * 3
    thresholds, t = (0.2, 0.5, 0.85), 1.7
    found = confidences(logits, t, thresholds)
    for row, sure in zip(logits.tolist(), found.tolist(), strict=True):
        product = 1.0
        for z, threshold in zip(row, thresholds, strict=True):
            p = 1 / (1 + math.exp(-z / t))
            product *= p if 1 / (1 + math.exp(-z)) > threshold else 1 - p
        assert sure == pytest.approx(product, rel=1e-9)
    own = (1 / (1 + np.exp(-logits)) > thresholds) != (logits > 0)
    assert own.any(), "some decisions are those of a threshold, on the other side of 1/2"
    assert np.isnan(confidences(np.full((1, 3), np.nan), t, thresholds)).all(), "an empty text"


def test_a_temperature_changes_confidences_and_no_prediction() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3)) * 4
    cooler = confidences(logits, 2.0, None)
    assert (cooler < confidences(logits, 1.0, None)).all()
    scaled = np.exp(logits / 2)
    assert cooler == pytest.approx((scaled / scaled.sum(1, keepdims=True)).max(1))
