"""Whether a model is not worse than another by a margin, from the same rows, and how many rows would decide it.

The hypothesis "worse by the margin or more" is tested one-sided at 5 %: the ends of the 90 % interval of the paired
difference are the bounds. A bound above minus the margin rejects it; an upper bound below minus the margin confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from .crossed import crossed_difference
from .intervals import decided, discordance
from .metrics import group_codes
from .multiplicity import NORMAL, ONE_SIDED, Bounds, Judged, least_rows, too_few_for, too_few_groups
from .paired import paired_difference
from .targets import main_metric, target_of

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
POWER = 0.8  # of `rows_to_decide`


@dataclass(frozen=True)
class Margin:
    """The result of a test of non-inferiority; differences are fractions of rows, "model minus reference".

    low, high: one-sided 95 % bounds. disagreement: share of rows on which exactly one of the two is right, or of label sets
    whose F1 differs. groups: of the rows; equal_groups: effective number of groups of equal size; independent_rows: of rows.
    verdict: whether "not worse" is confirmed, refuted or undecided. reason: why there can be no verdict; else empty.
    """

    margin: float
    estimate: float
    low: float
    high: float
    standard_error: float
    disagreement: float
    rows: int
    groups: int
    equal_groups: float
    verdict: str
    reason: str = ""
    independent_rows: float = NORMAL

    def rows_needed(self, difference: float | None = None) -> int | None:
        """Return how many rows like these would decide it; see `rows_to_decide`. difference: by default the observed one."""
        true = self.estimate if difference is None else difference
        needed = rows_to_decide(self.rows, self.standard_error, true, self.margin)
        worth = math.ceil(self.rows / self.independent_rows * least_rows(self.margin) - 1e-9)
        return None if needed is None else max(needed, worth)


def not_worse(
    labels: Any,
    reference: Any,
    predictions: Any,
    groups: Sequence[Any] | np.ndarray,
    num_labels: int,
    margin: float,
) -> Margin:
    """Test whether a model is not worse than a reference by the margin or more: in accuracy, or in mean F1 over label sets.

    labels, reference: `(n,)` classes below num_labels, or `(n, C)` bool of label sets. predictions: like these, or with an
    axis in front for S seeds of the model, whose mean is compared: paired bootstrap over groups for one, two-way random
    effects of seeds and groups for several. groups: `(n,)`. Raises UserError for fewer than two groups.
    """
    labels, first, made = np.asarray(labels), np.asarray(reference), np.asarray(predictions)
    made = made[None] if made.ndim == labels.ndim else made  # (S, n) or (S, n, C)
    target, metric = target_of(labels, num_labels), main_metric(labels, "accuracy")
    gain = target.credit(labels, made, metric) - target.credit(labels, first, metric)  # (S, n)
    found: Any
    judged: Judged
    if len(made) == 1:
        found = judged = paired_difference(labels, first, made[0], groups, num_labels, metric)
    else:
        codes = group_codes(groups, len(labels))
        found = crossed_difference(gain, codes)
        differing = discordance(gain.mean(0), gain.any(0), codes)
        bounds = decided(found.at(1 - 2 * ONE_SIDED), found.estimate, found.p_value, 1 - 2 * ONE_SIDED, differing)
        judged = Bounds(found.estimate, *bounds, found.groups, found.equal_groups, differing.units)
    verdict, reason = decide(judged, margin)
    return Margin(
        margin=margin,
        estimate=float(found.estimate),
        low=float(judged.low90),
        high=float(judged.high90),
        standard_error=float(found.standard_error),
        disagreement=float((gain != 0).mean()),
        rows=len(labels),
        groups=int(found.groups),
        equal_groups=float(found.equal_groups),
        verdict=verdict,
        reason=reason,
        independent_rows=float(judged.independent_rows),
    )


def decide(found: Judged, margin: float) -> tuple[str, str]:
    """Return the verdict on "not worse by the margin", and why there can be none.

    No verdict for fewer than `GROUPS_NEEDED` groups. "Not worse" also needs 3 / margin independent rows, unless the model is
    better (`too_few_for`).
    """
    if few := too_few_groups(found.groups, found.equal_groups):
        return UNDECIDED, few.removeprefix("no verdict: ")
    if found.high90 < -margin:
        return REFUTED, ""
    if found.low90 <= 0 and too_few_for(found.independent_rows, margin):
        worth = f"rows worth {math.floor(found.independent_rows):,} independent ones"
        return UNDECIDED, f"{worth}, at least {least_rows(margin):,} are needed for this margin"
    return (CONFIRMED if found.low90 > -margin else UNDECIDED), ""


def rows_to_decide(
    rows: int, standard_error: float, difference: float, margin: float, power: float = POWER, level: float = ONE_SIDED
) -> int | None:
    """Return the number of rows with which a test at one-sided `level` decides "not worse" with this power.

    rows, standard_error: of the observed difference; its variance falls as 1 / rows. difference: the assumed true one. The
    test confirms it if the difference is above minus the margin, and refutes it if below:

        rows * standard_error^2 * (z_{1 - level} + z_power)^2 / (difference + margin)^2

    With ungrouped rows, rows * standard_error^2 is the disagreement minus the squared difference. At least 3 / margin.
    None if the difference is so close to minus the margin that no number of rows up to a billion decides it.
    """
    needed = _rows_at(rows, standard_error, abs(difference + margin), power, level)
    return None if needed is None else max(needed, least_rows(margin))


def rows_to_differ(
    rows: int, standard_error: float, difference: float, power: float = POWER, level: float = ONE_SIDED
) -> int | None:
    """Return the number of rows with which a two-sided test at `level` shows that there is a difference, with this power.

    rows, standard_error, difference: as for `rows_to_decide`; rows * standard_error^2 * (z_{1 - level / 2} + z_power)^2 /
    difference^2. None if no number of rows up to a billion does.
    """
    return _rows_at(rows, standard_error, abs(difference), power, level / 2)


def _rows_at(rows: int, standard_error: float, distance: float, power: float, level: float) -> int | None:
    """Return the rows with which a one-sided test at `level` sees a true distance from its hypothesis; None above a billion."""
    errors = float(ndtri(1 - level) + ndtri(power))
    needed = math.inf if distance == 0 else rows * (standard_error * errors / distance) ** 2
    return None if needed > 1e9 else math.ceil(needed - 1e-9)
