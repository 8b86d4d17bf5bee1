"""What is particular to a multi-label student: the thresholds of its labels, tuned on validation rows, and its metric."""

from __future__ import annotations

import numpy as np

from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.data.stratify import Ints
from randout.stats.label_set_scores import SAMPLE_F1, tuned_thresholds
from randout.stats.metrics import OF_SETS

Thresholds = tuple[float, ...] | None  # None: one label per text


def tuned(dataset: Dataset, rows: Ints, logits: np.ndarray) -> Thresholds:
    """Return the thresholds with the highest F1 of each label on `rows`; None for data with one label per text.

    logits: (len(rows), C), of these rows.
    """
    if dataset.sets is None:
        return None
    return tuned_thresholds(dataset.truth(rows)[:, : len(dataset.id2label)], logits)


def metric_of_targets(dataset: Dataset, metric: str, setting: str) -> str:
    """Return the metric that suits the targets: accuracy stands for the mean F1 over rows of multi-label data.

    Raises UserError for a metric of label sets on other data. setting: names it, for the message.
    """
    if dataset.sets is None and metric in OF_SETS:
        raise UserError(f"{setting}: {metric} is for multi-label data (data.multi_label); use macro_f1")
    return SAMPLE_F1 if dataset.sets is not None and metric == "accuracy" else metric
