"""The label thresholds of a multi-label student, tuned on validation rows."""

from __future__ import annotations

import numpy as np

from randout.data.dataset import Dataset
from randout.data.stratify import Ints
from randout.stats.label_set_scores import tuned_thresholds

Thresholds = tuple[float, ...] | None  # None: one label per text


def tuned(dataset: Dataset, rows: Ints, logits: np.ndarray) -> Thresholds:
    """Return the thresholds with the highest F1 of each label on `rows`; None for data with one label per text.

    logits: (len(rows), C), of these rows.
    """
    if dataset.sets is None:
        return None
    return tuned_thresholds(dataset.truth(rows)[:, : len(dataset.id2label)], logits)
