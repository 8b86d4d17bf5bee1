"""Compares an exported form with the model that it was made from, on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.stats.diagnostics import metric_name
from randout.stats.paired import paired_difference
from randout.stats.targets import main_metric, predicted, probabilities, target_of


@dataclass(frozen=True)
class Tolerance:
    """What a form may differ by.

    agreement: lowest share of rows with the same label or, for label sets, of labels that are the same (`Check`). probability:
    largest difference of a probability. accuracy: largest loss of accuracy (for label sets, of sample F1), as a fraction.
    """

    agreement: float
    probability: float
    accuracy: float


EXACT = Tolerance(
    agreement=0.995, probability=1e-3, accuracy=0.01
)  # rounding only; labels may differ between equal scores
TOLERANCES = {"float32": EXACT, "arrays": EXACT, "int8": Tolerance(agreement=0.98, probability=1.0, accuracy=0.01)}

FAR = 0.1  # a difference of probability that a reader would notice


@dataclass(frozen=True)
class Check:
    """A form compared with its model.

    rows: texts on which labels and probabilities are compared. agreement: share of them with the same label, or label set;
    differing: the number of others. label_agreement: for label sets, the share of single labels that are the same, 2 |A & B| /
    (|A| + |B|) for all labels A of the form and B of the model on these rows; with one label in each row it would be the
    agreement; else None. largest_difference: of a probability; far: share of rows with one over `FAR`. trained_on: whether the
    model was trained on these rows.

    metric: accuracy or, for label sets, sample F1. score, reference_score: of the form and of its model, on `scored` validation
    rows; scored_trained_on: whether the model was trained on those. difference: of the two, with its paired 90 % interval, whose
    ends are the one-sided 5 % bounds of a test of equivalence; None with fewer than two groups of rows. problems: what is
    outside the tolerance; empty if nothing is.
    """

    form: str
    rows: int
    trained_on: bool
    agreement: float
    differing: int
    label_agreement: float | None
    largest_difference: float
    far: float
    scored: int
    scored_trained_on: bool
    metric: str
    score: float
    reference_score: float
    difference: dict[str, float] | None
    equivalent: bool | None
    problems: tuple[str, ...]

    def words(self) -> str:
        """Return what is outside the tolerance."""
        return "; ".join(self.problems)

    def record(self) -> dict[str, Any]:
        """Return it for `export.json`."""
        return asdict(self) | {"problems": list(self.problems)}

    def cells(self) -> dict[str, str]:
        """Return its row of the table of checks, by title of the column."""
        sets, interval = self.label_agreement is not None, "not available"
        if self.difference is not None:
            interval = "{estimate:+.2%} ({low:+.2%} to {high:+.2%})".format(**self.difference)
        return {
            "form": self.form,
            "same label set"
            if sets
            else "same label": f"{self.agreement:.2%} of {self.rows:,}{_mark(self.trained_on)}",
            **({"same labels": f"{self.label_agreement:.2%}"} if sets else {}),
            "largest difference": f"{self.largest_difference:.1e}",
            f"over {FAR}": f"{self.far:.1%}",
            f"{metric_name(self.metric)} on validation rows": f"{self.score:.2%} of {self.scored:,}"
            f"{_mark(self.scored_trained_on)}",
            "against the model (90 % interval)": interval,
            "check": "outside tolerance" if self.problems else "passed",
        }


def table(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """Return the table of checks of one export: its head, then a row for each form."""
    rows = [check.cells() for check in checks]
    return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]


def _mark(trained_on: bool) -> str:
    return " (trained on them)" if trained_on else ""


def compare(
    form: str,
    reference: np.ndarray,
    found: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    names: int,
    refitted: bool = False,
    thresholds: Sequence[float] | None = None,
) -> Check:
    """Compare the logits (n, C) of a form with those of its model: on m validation rows, then on n - m test rows.

    labels, groups: (m,) of the validation rows, for the accuracy and its interval; of label sets, labels (m, names) bool.
    names: number of labels; at least C. refitted: whether the model was trained on the validation rows. Labels and
    probabilities, which need no true labels, are then compared on the test rows alone, if there are any; else on all rows.
    thresholds: (C,) of a model of label sets; None: one label per text.
    """
    tolerance, scored, target = TOLERANCES[form], len(labels), target_of(labels, names)
    unseen = slice(scored if refitted and len(found) > scored else 0, None)
    before, now = predicted(reference, thresholds, names), predicted(found, thresholds, names)
    rows, differing = len(found[unseen]), int(target.differs(before, now)[unseen].sum())
    agreement = 1 - differing / rows
    labels_agree = None if thresholds is None else _label_agreement(before[unseen], now[unseen])
    apart = np.abs(probabilities(reference, thresholds) - probabilities(found, thresholds))[unseen].max(1)  # (rows,)
    largest, metric = float(apart.max()), main_metric(labels, "accuracy")
    score, own = (float(target.credit(labels, made[:scored], metric).mean()) for made in (now, before))
    problems = []
    if not np.isfinite(found).all():
        problems.append("its scores are not finite")
    if (agreement if labels_agree is None else labels_agree) < tolerance.agreement:
        other = f"{plural(differing, 'row')} of {rows:,} {verb(differing, 'gets', 'get')} another label"
        if labels_agree is not None:
            other = f"{labels_agree:.2%} of the labels are the same, and {other} set"
        problems.append(f"{other} (at least {tolerance.agreement:.1%} must agree)")
    if not largest <= tolerance.probability:
        problems.append(f"a probability differs by {largest:.1e} (at most {tolerance.probability:.0e})")
    if own - score > tolerance.accuracy:
        problems.append(f"{metric_name(metric)} is {own - score:.2%} lower (at most {tolerance.accuracy:.0%})")
    difference = _difference(labels, before[:scored], now[:scored], groups, names, metric)
    equivalent = difference and -tolerance.accuracy < difference["low"] and difference["high"] < tolerance.accuracy
    return Check(
        form=form,
        rows=rows,
        trained_on=refitted and rows == len(found),
        agreement=agreement,
        differing=differing,
        label_agreement=labels_agree,
        largest_difference=largest,
        far=float((apart > FAR).mean()),
        scored=scored,
        scored_trained_on=refitted,
        metric=metric,
        score=score,
        reference_score=own,
        difference=difference,
        equivalent=None if difference is None else bool(equivalent),
        problems=tuple(problems),
    )


def _label_agreement(before: np.ndarray, now: np.ndarray) -> float:
    """Return the share of single labels that two predictions of label sets (n, C) have in common."""
    every = int(before.sum() + now.sum())
    return 2 * int((before & now).sum()) / every if every else 1.0


def _difference(
    labels: np.ndarray,
    before: np.ndarray,
    now: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    names: int,
    metric: str,
) -> dict[str, float] | None:
    try:
        found = paired_difference(labels, before, now, groups, names, metric)
    except UserError:  # one group
        return None
    return {"estimate": found.estimate, "low": found.low90, "high": found.high90}
