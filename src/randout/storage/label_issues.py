"""Doubtful labels of a dataset, and the table of them that a user corrects."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import Any

from randout.data.corrections import CORRECTED, LABEL, ROW, TEXT
from randout.stats.confident_learning import WrongLabels

FILE = "label-issues.csv"
LIKELY_WRONG, COPIES = "likely wrong", "copies with different labels"  # reasons


@dataclass(frozen=True)
class LabelIssue:
    """A row with a doubtful label. copies: number of its group of copies, from 1; None for a single text.

    probabilities: out of fold, by class; None if the row was not examined by a model, because its class is too rare.
    """

    row: str
    split: str
    reason: str
    copies: int | None
    text: str
    label: str
    suggested_label: str
    probabilities: dict[str, float] | None


@dataclass(frozen=True)
class AmbiguousPair:
    """Two classes whose labels are confused. rows: expected number of rows with one label that belong to the other.

    first_rows: of these, the rows labelled `first`.
    """

    first: str
    second: str
    rows: float
    first_rows: float


@dataclass(frozen=True)
class LabelIssues:
    """Doubtful labels of a dataset.

    accuracy: share of the examined rows whose label the model predicts out of fold; majority: share of their most common label,
    which accuracy exceeds if the model learned anything. rows: labelled ones; examined: those with
    out-of-fold probabilities. conflicting_groups, conflicting_rows: copies with different labels. wrong: how many labels are
    wrong, by confident learning. corrected: labels that `data.corrections` changed first.
    """

    data: str
    model: str
    folds: int
    rows: int
    examined: int
    classes: list[str]
    accuracy: float
    majority: float
    temperature: float
    wrong: WrongLabels
    likely_wrong: int
    conflicting_groups: int
    conflicting_rows: int
    corrected: int
    pairs: list[AmbiguousPair]
    issues: list[LabelIssue]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)

    def table(self) -> str:
        """Return the issues as CSV, with an empty column for corrections: a file for `--corrections`."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        names = [f"probability_{name}" for name in self.classes]
        writer.writerow([ROW, "split", "reason", "copies", TEXT, LABEL, "suggested_label", CORRECTED, *names])
        for one in self.issues:
            shares = ["" if one.probabilities is None else f"{one.probabilities[name]:.4f}" for name in self.classes]
            cells = [one.row, one.split, one.reason, one.copies or "", one.text, one.label, one.suggested_label, ""]
            writer.writerow([*cells, *shares])
        return out.getvalue()
