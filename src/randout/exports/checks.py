"""Compares an exported form with the model that it was made from, on the same texts."""

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

FAR = 0.1  # a difference of probability that a reader would notice

HEAD = (
    "form",
    "same label",
    "largest difference",
    f"over {FAR}",
    "accuracy on validation rows",
    "against the model (90 % interval)",
    "check",
)


@dataclass(frozen=True)
class Check:
    """A form compared with its model.

    rows: texts on which labels and probabilities are compared. agreement: share of them with the same label; differing: the
    number of others. largest_difference: of a class probability; far: share of rows with one over `FAR`. trained_on: whether
    the model was trained on these rows.

    accuracy, reference_accuracy: of the form and of its model on `scored` validation rows; scored_trained_on: whether the
    model was trained on those. difference: of the two, with its paired 90 % interval, whose ends are the one-sided 5 % bounds
    of a test of equivalence; None with fewer than two groups of rows. problems: what is outside the tolerance; empty if
    nothing is.
    """

    form: str
    rows: int
    trained_on: bool
    agreement: float
    differing: int
    largest_difference: float
    far: float
    scored: int
    scored_trained_on: bool
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
        agreement = f"{self.agreement:.2%} of {self.rows:,}{_mark(self.trained_on)}"
        accuracy = f"{self.accuracy:.2%} of {self.scored:,}{_mark(self.scored_trained_on)}"
        verdict = "outside tolerance" if self.problems else "passed"
        return (self.form, agreement, f"{self.largest_difference:.1e}", f"{self.far:.1%}", accuracy, interval, verdict)


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
) -> Check:
    """Compare the logits (n, C) of a form with those of its model: on m validation rows, then on n - m test rows.

    labels, groups: (m,) of the validation rows, for the accuracy and its interval. names: number of labels; at least C.
    refitted: whether the model was trained on the validation rows. Labels and probabilities, which need no true labels, are
    then compared on the test rows alone, if there are any; else on all rows.
    """
    tolerance, scored = TOLERANCES[form], len(labels)
    unseen = slice(scored if refitted and len(found) > scored else 0, None)
    before, now = reference.argmax(1), found.argmax(1)
    rows, differing = len(found[unseen]), int((before != now)[unseen].sum())
    agreement = 1 - differing / rows
    apart = np.abs(np.exp(log_probabilities(reference)) - np.exp(log_probabilities(found)))[unseen].max(1)  # (rows,)
    largest = float(apart.max())
    accuracy, own = float((now[:scored] == labels).mean()), float((before[:scored] == labels).mean())
    problems = []
    if not np.isfinite(found).all():
        problems.append("its scores are not finite")
    if agreement < tolerance.agreement:
        other = f"{plural(differing, 'row')} of {rows:,} get another label"
        problems.append(f"{other} (at least {tolerance.agreement:.1%} must agree)")
    if not largest <= tolerance.probability:
        problems.append(f"a probability differs by {largest:.1e} (at most {tolerance.probability:.0e})")
    if own - accuracy > tolerance.accuracy:
        problems.append(f"accuracy is {own - accuracy:.2%} lower (at most {tolerance.accuracy:.0%})")
    difference = _difference(labels, before[:scored], now[:scored], groups, names)
    equivalent = difference and -tolerance.accuracy < difference["low"] and difference["high"] < tolerance.accuracy
    return Check(
        form=form,
        rows=rows,
        trained_on=refitted and rows == len(found),
        agreement=agreement,
        differing=differing,
        largest_difference=largest,
        far=float((apart > FAR).mean()),
        scored=scored,
        scored_trained_on=refitted,
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
