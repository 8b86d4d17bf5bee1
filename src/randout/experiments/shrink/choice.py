"""Which form of a ladder is chosen: each compared with the teacher on the same rows, and the cheapest that is not worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from randout.stats.noninferiority import not_worse
from randout.storage.predictions import read_predictions
from randout.storage.study_record import LadderForm, MarginTest

from .forms import Rows, predictions_file

EQUAL = 0.05  # relative difference of measured costs that does not count


def judged(study: Path, form: LadderForm, reference: str, held: Rows, margin: float, seeds: int = 1) -> MarginTest:
    """Compare the stored predictions of a form with those of the reference form. seeds: whose mean is compared."""
    names = list(held.dataset.id2label.values())
    first = read_predictions(predictions_file(study, reference, held.split), names)
    made = np.stack(
        [
            read_predictions(predictions_file(study, form.name, held.split, seed), names).predicted
            for seed in range(seeds)
        ]
    )  # (S, n)
    every = len(held.dataset.names)
    found = not_worse(held.labels, first.predicted, made, held.groups, every, margin)
    return MarginTest.model_validate(
        asdict(found)
        | {
            "accuracy": float((made == held.labels).mean()),
            "reference": float((first.predicted == held.labels).mean()),
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
