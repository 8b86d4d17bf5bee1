"""Which form of a ladder is chosen: each compared with the teacher on the same rows, and the cheapest that is not worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from randout.stats.noninferiority import not_worse
from randout.stats.targets import main_metric, target_of
from randout.storage.study_record import LadderForm, MarginTest

from .forms import Rows, made_by

EQUAL = 0.05  # relative difference of measured costs that does not count


def judged(study: Path, form: LadderForm, reference: str, held: Rows, margin: float, seeds: int = 1) -> MarginTest:
    """Compare the stored predictions of a form with those of the reference form. seeds: whose mean is compared."""
    first = made_by(study, reference, held)
    made = np.stack([made_by(study, form.name, held, seed) for seed in range(seeds)])  # (S, n), or (S, n, C)
    labels, every = held.labels, len(held.dataset.names)
    target, metric = target_of(labels, every), main_metric(labels, "accuracy")
    found = not_worse(labels, first, made, held.groups, every, margin)
    return MarginTest.model_validate(
        asdict(found)
        | {
            "metric": metric,
            "accuracy": float(target.credit(labels, made, metric).mean()),
            "reference": float(target.credit(labels, first, metric).mean()),
            "needed": found.rows_needed(),
            "needed_if_equal": found.rows_needed(0.0),
        }
    )


def cheapest(forms: Sequence[LadderForm], by: str) -> LadderForm | None:
    """Return the cheapest form that is not worse than the teacher on validation; None if there is none.

    Measured times vary: among the forms within `EQUAL` of the cheapest, the one that is smallest on disk is returned.
    """
    fit = [form for form in forms if form.validation and form.validation.verdict == "confirmed"]
    if not fit:
        return None
    least = min(form.price(by) for form in fit)
    equal = [form for form in fit if form.price(by) <= least + EQUAL * abs(least)]
    return min(equal, key=lambda form: (form.size, form.price(by)))


def closest(forms: Sequence[LadderForm], by: str, teacher: str) -> LadderForm | None:
    """Return the form that comes closest to being not worse: with the highest lower bound; the cheapest among equals.

    teacher: the rung whose own forms are left out.
    """
    others = [form for form in forms if form.validation and form.rung != teacher]
    return max(
        others, key=lambda form: (form.validation.low if form.validation else 0.0, -form.price(by)), default=None
    )
