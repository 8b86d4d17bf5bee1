"""Chooses the confidence that a prediction needs to be a label: by a target accuracy, a target coverage, or as given.

A target accuracy is met by the largest coverage at which the lower end of the 95 % interval reaches it. The accuracy itself
would be too optimistic, because it is the largest coverage that looks good enough: in a simulation (docs/log.md, 2026-11-26)
thresholds chosen by it missed the target on new texts in 38 to 62 % of cases, those chosen by the lower end in at most 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from randout.core.errors import UserError

LEAST = 10  # accepted rows without which an accuracy says nothing
LEVEL = 0.95
KINDS = ("accuracy", "coverage", "confidence")
EXAMPLES = "accuracy=0.95, coverage=0.9 or confidence=0.8"


@dataclass(frozen=True)
class CoveragePoint:
    """What follows from a threshold on held-out rows.

    confidence: the threshold. rows: number of rows with at least this confidence, `coverage` their share. accuracy: of these
    rows, with its 95 % interval from `low` to `high`.
    """

    confidence: float
    rows: int
    coverage: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Target:
    """What a user asks for. kind: one of `KINDS`. value: a fraction in (0, 1]."""

    kind: Literal["accuracy", "coverage", "confidence"]
    value: float

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


@dataclass(frozen=True)
class Threshold:
    """A chosen threshold. point: what follows from it on held-out rows; None if no curve is known.

    assured: whether a target accuracy is met by the lower end of the interval; True for other targets. rows_needed: held-out
    rows that would do for that, if the curve stays as it is; None if it is assured.
    """

    target: Target
    confidence: float
    point: CoveragePoint | None
    assured: bool = True
    rows_needed: int | None = None


def parse_target(text: str | float, where: str) -> Target:
    """Parse a target such as "accuracy=0.95"; a number is a confidence. where: for messages. Raises UserError."""
    kind, equals, number = str(text).rpartition("=")
    kind = kind.strip() if equals else "confidence"
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if kind not in KINDS or not 0 < value <= 1:
        percent = f" Write {value:g} % as {value / 100:g}." if 1 < value <= 100 else ""
        raise UserError(f"{where} {text}: expected {EXAMPLES}, with a number above 0 and at most 1.{percent}")
    return Target(kind, value)  # type: ignore[arg-type]


def choose(target: Target, points: Sequence[CoveragePoint]) -> Threshold:
    """Choose the threshold for a target from the points of a curve, from small to full coverage.

    Raises UserError if no threshold reaches a target accuracy, with the highest accuracy that was reached.
    """
    if target.kind == "confidence":
        accepted = [point for point in points if point.confidence >= target.value]
        return Threshold(target, target.value, accepted[-1] if accepted else None)
    if target.kind == "coverage":
        point = next((point for point in points if point.coverage >= target.value), None)
        if point is None:
            raise UserError(f"{target}: there are no validation rows to choose a threshold by. Use confidence=0.8")
        return Threshold(target, point.confidence, point)
    enough = [point for point in points if point.rows >= LEAST]
    if not enough:
        rows = points[-1].rows if points else 0
        raise UserError(
            f"{target}: {rows} validation rows are too few to choose a threshold by; at least {LEAST} are needed. Use "
            "confidence=0.8"
        )
    assured = [point for point in enough if point.low >= target.value]
    if assured:
        return Threshold(target, assured[-1].confidence, assured[-1])
    reached = [point for point in enough if point.accuracy >= target.value]
    if not reached:
        best = max(enough, key=lambda point: (point.accuracy, point.coverage))
        raise UserError(
            f"{target}: no threshold reaches this accuracy on the validation rows. The highest is {best.accuracy:.1%}, for the "
            f"{best.coverage:.0%} of rows with a confidence of at least {best.confidence:.3f}. Choose a lower accuracy, or a "
            "coverage or confidence"
        )
    return Threshold(target, reached[-1].confidence, reached[-1], False, _rows_needed(target.value, enough))


def _rows_needed(accuracy: float, points: Sequence[CoveragePoint]) -> int | None:
    """Return the fewest rows with which the lower end of an interval of the curve would be at least `accuracy`.

    Wilson's lower end of a share p among m independent rows is at least a if m >= z^2 a (1 - a) / (p - a)^2. How many rows
    count as one independent row follows from the lower end that the curve has.
    """
    needed = [
        point.rows * _units(point.accuracy, accuracy) / _units(point.accuracy, point.low) / point.coverage
        for point in points
        if point.accuracy > accuracy > point.low > 0
    ]
    return math.ceil(min(needed)) if needed else None


def _units(share: float, low: float) -> float:
    """Return the number of independent rows whose share has this lower end of its interval."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return z**2 * low * (1 - low) / (share - low) ** 2
