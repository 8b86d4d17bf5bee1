"""Compares an exported form with the model that it was made from, on the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.wording import plural
from randout.stats.metrics import log_probabilities
from randout.stats.paired import paired_difference


@dataclass(frozen=True)
class Tolerance:
    """What a form may differ by.

    agreement: lowest share of rows with the same label. probability: largest difference of a class probability. accuracy:
    largest loss of accuracy, as a fraction.
    """

    agreement: float
    probability: float
    accuracy: float


EXACT = Tolerance(
    agreement=0.995, probability=1e-3, accuracy=0.01
)  # rounding only; labels may differ between equal scores
TOLERANCES = {"float32": EXACT, "arrays": EXACT, "int8": Tolerance(agreement=0.98, probability=1.0, accuracy=0.01)}

HEAD = ("form", "same label", "largest difference", "accuracy", "against the model (90 % interval)", "check")


@dataclass(frozen=True)
class Check:
    """A form compared with its model on `rows` held-out rows.

    agreement: share of rows with the same label; differing: the number of others. largest_difference: of a class
    probability. accuracy, reference_accuracy: of the form and of its model. difference: of the two, with its paired 90 %
    interval, whose ends are the one-sided 5 % bounds of a test of equivalence; None with fewer than two groups of rows.
    problems: what is outside the tolerance; empty if nothing is.
    """

    form: str
    rows: int
    agreement: float
    differing: int
    largest_difference: float
    accuracy: float
    reference_accuracy: float
    difference: dict[str, float] | None
    equivalent: bool | None
    problems: tuple[str, ...]

    def words(self) -> str:
        """Return what is outside the tolerance."""
        return "; ".join(self.problems)

    def record(self) -> dict[str, Any]:
        """Return it for `export.json`."""
        return asdict(self) | {"problems": list(self.problems)}

    def cells(self) -> tuple[str, ...]:
        """Return its row of the table of checks; `HEAD` has the columns."""
        interval = "not available"
        if self.difference is not None:
            interval = "{estimate:+.2%} ({low:+.2%} to {high:+.2%})".format(**self.difference)
        agreement = f"{self.agreement:.2%} of {self.rows:,}"
        verdict = "outside tolerance" if self.problems else "passed"
        return (self.form, agreement, f"{self.largest_difference:.1e}", f"{self.accuracy:.2%}", interval, verdict)


def compare(
    form: str,
    reference: np.ndarray,
    found: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    names: int,
) -> Check:
    """Compare the logits (n, C) of a form with those of its model on rows with labels (n,).

    groups: (n,) of the rows, for the interval. names: number of labels; at least C.
    """
    tolerance = TOLERANCES[form]
    before, now = reference.argmax(1), found.argmax(1)
    differing = int((before != now).sum())
    agreement = 1 - differing / len(labels)
    largest = float(np.abs(np.exp(log_probabilities(reference)) - np.exp(log_probabilities(found))).max())
    accuracy, own = float((now == labels).mean()), float((before == labels).mean())
    problems = []
    if not np.isfinite(found).all():
        problems.append("its scores are not finite")
    if agreement < tolerance.agreement:
        other = f"{plural(differing, 'row')} of {len(labels):,} get another label"
        problems.append(f"{other} (at least {tolerance.agreement:.1%} must agree)")
    if not largest <= tolerance.probability:
        problems.append(f"a probability differs by {largest:.1e} (at most {tolerance.probability:.0e})")
    if own - accuracy > tolerance.accuracy:
        problems.append(f"accuracy is {own - accuracy:.2%} lower (at most {tolerance.accuracy:.0%})")
    difference = _difference(labels, before, now, groups, names)
    equivalent = difference and -tolerance.accuracy < difference["low"] and difference["high"] < tolerance.accuracy
    return Check(
        form=form,
        rows=len(labels),
        agreement=agreement,
        differing=differing,
        largest_difference=largest,
        accuracy=accuracy,
        reference_accuracy=own,
        difference=difference,
        equivalent=None if difference is None else bool(equivalent),
        problems=tuple(problems),
    )


def _difference(
    labels: np.ndarray, before: np.ndarray, now: np.ndarray, groups: Sequence[Any] | np.ndarray, names: int
) -> dict[str, float] | None:
    try:
        found = paired_difference(labels, before, now, groups, names)
    except UserError:  # one group
        return None
    return {"estimate": found.estimate, "low": found.low90, "high": found.high90}
