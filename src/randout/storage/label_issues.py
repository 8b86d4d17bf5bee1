"""Doubtful labels of a dataset, and the table of them that a user corrects."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from randout.core.label_sets import joined
from randout.data.corrections import CORRECTED, LABEL, ROW, TEXT, set_cell
from randout.stats.confident_learning import WrongInSets, WrongLabels

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
class SetIssue:
    """A row of multi-label data with doubtful labels. copies: number of its group of copies, from 1; None for a single text.

    missing, superfluous: labels that the row likely lacks wrongly, and likely has wrongly. probabilities: out of fold, of the
    examined labels; empty if the row was not examined.
    """

    row: str
    split: str
    reason: str
    copies: int | None
    text: str
    labels: list[str]
    missing: list[str]
    superfluous: list[str]
    suggested_labels: list[str]
    probabilities: dict[str, float]


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], issues: Sequence[LabelIssue | SetIssue], classes: Sequence[str]
) -> str:
    """Return issues as CSV. head, rows: what follows the text of each issue, up to the empty column for corrections.

    classes: those whose probabilities are columns.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    names = [f"probability_{name}" for name in classes]
    writer.writerow([ROW, "split", "reason", "copies", TEXT, *head, CORRECTED, *names])
    for one, cells in zip(issues, rows, strict=True):
        known = one.probabilities or {}
        shares = [f"{known[name]:.4f}" if name in known else "" for name in classes]
        writer.writerow([one.row, one.split, one.reason, one.copies or "", one.text, *cells, "", *shares])
    return out.getvalue()


@dataclass(frozen=True)
class LabelFindings:
    """What was found for one label of multi-label data.

    rows: that have it. not_examined: why it was not; empty for an examined one. explained: how much of the uncertainty about it
    the model explains, 1 all (`label_calibration.explained`); None for a rare label. expected_missing, expected_superfluous: rows
    that lack it, or have it, wrongly, by confident learning; likely_missing, likely_superfluous: those that are listed.
    """

    label: str
    rows: int
    not_examined: str
    explained: float | None
    expected_missing: float | None
    expected_superfluous: float | None
    likely_missing: int
    likely_superfluous: int


@dataclass(frozen=True)
class SetIssues:
    """Doubtful labels of multi-label data. A decision is whether one row has one examined label.

    accuracy: share of the decisions that the model predicts out of fold; majority: share that the more common answer for each
    label gets right. wrong: how many decisions are wrong, by confident learning. likely_wrong: rows with a label that is likely
    missing or superfluous. separator: between labels in the table. Others as of `LabelIssues`.
    """

    data: str
    model: str
    folds: int
    rows: int
    accuracy: float
    majority: float
    wrong: WrongInSets
    likely_wrong: int
    conflicting_groups: int
    conflicting_rows: int
    corrected: int
    separator: str
    labels: list[LabelFindings]
    issues: list[SetIssue]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)

    def cell(self, labels: Sequence[str]) -> str:
        """Return a set of labels as a cell of the table."""
        return set_cell(labels, self.separator)

    def table(self) -> str:
        """Return the issues as CSV, with an empty column for corrections: a file for `--corrections`."""
        examined = [one.label for one in self.labels if not one.not_examined]
        rows = []
        for one in self.issues:
            doubts = [joined(labels, self.separator) for labels in (one.missing, one.superfluous)]
            rows.append([self.cell(one.labels), *doubts, self.cell(one.suggested_labels)])
        return _table([LABEL, "missing", "superfluous", "suggested_label"], rows, self.issues, examined)


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
        rows = [[one.label, one.suggested_label] for one in self.issues]
        return _table([LABEL, "suggested_label"], rows, self.issues, self.classes)
