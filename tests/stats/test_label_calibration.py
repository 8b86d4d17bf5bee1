"""Probabilities of labels from scores, against a plain logistic regression and the likelihood written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from randout.stats.label_calibration import explained, platt


def scored(n: int = 400, share: float = 0.2, skill: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(scores, whether each row has the label), of a model whose scores have another zero and another scale."""
    draw = np.random.default_rng(seed)
    has = draw.random(n) < share
    return 0.3 * (draw.normal(size=n) + np.where(has, skill, 0)) - 2, has


def test_probabilities_are_those_of_a_logistic_regression_on_smoothed_targets() -> None:
    scores, has = scored()
    n1, n0 = int(has.sum()), int((~has).sum())
    target = np.where(has, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    twice, answers = np.concatenate([scores, scores])[:, None], np.repeat([1, 0], len(scores))
    plain = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    plain.fit(twice, answers, sample_weight=np.concatenate([target, 1 - target]))
    assert platt(scores, has) == pytest.approx(plain.predict_proba(scores[:, None])[:, 1], abs=1e-3)


def test_separated_scores_and_equal_ones_have_probabilities() -> None:
    scores, has = np.array([-2.0, -1.5, -1.0, 1.0, 1.5, 2.0]), np.array([False] * 3 + [True] * 3)
    found = platt(scores, has)
    assert (np.diff(found) > 0).all()
    assert 0.001 < found.min() < found.max() < 0.999
    assert platt(np.full(6, 7.0), has) == pytest.approx([0.5] * 6, abs=1e-3)


def test_what_is_explained_is_the_gain_in_likelihood() -> None:
    scores, has = scored()
    p = platt(scores, has)
    own = -sum(math.log(share if it else 1 - share) for share, it in zip(p.tolist(), has.tolist(), strict=True))
    rate = has.mean()
    alone = -sum(math.log(rate if it else 1 - rate) for it in has.tolist())
    assert explained(p, has) == pytest.approx(1 - (own + 1) / alone)
    assert explained(np.full(len(has), rate), has) == pytest.approx(-1 / alone)
    assert explained(p, np.ones(len(has), bool)) == 0


def test_a_model_without_skill_explains_nothing() -> None:
    found = [explained(platt(scores, has), has) for scores, has in (scored(150, 0.1, 0.0, seed) for seed in range(40))]
    assert np.mean(np.array(found) >= 0.05) <= 0.05
    assert all(explained(platt(*own), own[1]) > 0.2 for own in (scored(150, 0.1, 2.0, seed) for seed in range(10)))
