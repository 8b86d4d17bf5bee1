"""The bag-of-words baseline of label sets: a machine for each label, with thresholds of out-of-fold scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from randout.baselines.reference import FOLDS, baseline_of
from randout.core.config import DataTable
from randout.data.dataset import Dataset, load
from randout.stats.label_set_scores import tuned_thresholds
from support.label_sets import write_label_sets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_label_sets(tmp_path_factory.mktemp("sets") / "data.csv", 200, seed=3)
    return load(DataTable(source=str(path), label_separator=";"))


def plain_scores(texts: list[str], truth: np.ndarray, others: list[str]) -> np.ndarray:
    words = TfidfVectorizer()
    features = words.fit_transform(texts)
    return np.stack(
        [
            LinearSVC(dual="auto", random_state=0).fit(features, has).decision_function(words.transform(others))
            for has in truth.T
        ],
        axis=1,
    )


def test_thresholds_are_those_of_the_scores_of_rows_that_were_left_out(dataset: Dataset) -> None:
    rows = dataset.split["train"]
    texts, truth = [dataset.texts[row] for row in rows], dataset.truth(rows)
    groups = np.unique(dataset.groups[rows], return_inverse=True)[1]
    fold = (np.random.default_rng(0).permutation(groups.max() + 1) % FOLDS)[groups]
    scores = np.zeros(truth.shape)
    for number in range(FOLDS):
        held = fold == number
        inside = [text for text, out in zip(texts, held, strict=True) if not out]
        scores[held] = plain_scores(inside, truth[~held], [text for text, out in zip(texts, held, strict=True) if out])
    found = baseline_of(dataset)
    assert found is not None
    np.testing.assert_allclose(found.fitted.thresholds, tuned_thresholds(truth, scores), atol=1e-4)
