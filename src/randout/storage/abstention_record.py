"""The content of `abstention.json` in a model folder: how sure a model is allowed to be, by its validation rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from randout.core.errors import UserError
from randout.core.files import replace_text
from randout.stats.abstention import CoveragePoint
from randout.stats.coverage import confidences, coverage_curve, risk_area
from randout.stats.temperature import Calibration, calibrate

from .predictions import Predictions
from .record import Record, parsed
from .run_folder import ABSTENTION

FORMAT = 1


class Abstention(Record):
    """A temperature that calibrates confidences, and the coverage and accuracy of each threshold on validation rows.

    rows, wrong: of the validation split. fitted: whether the temperature was fitted, rather than 1 because too few rows are
    wrong, or right. log_loss, calibration_error: before and after the temperature. area: under the risk-coverage curve.
    """

    format: int = FORMAT
    temperature: float
    fitted: bool
    rows: int
    wrong: int
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]
    area: float
    points: tuple[CoveragePoint, ...]


def abstention_of(found: Predictions) -> Abstention:
    """Compute the record from the predictions of a validation split. Rows with a label without output count as errors."""
    known = found.labels < found.logits.shape[1]
    fit = (
        calibrate(found.logits[known], found.labels[known])
        if known.any()
        else Calibration(1.0, 0, 0, 0, (0.0, 0.0), (0.0, 0.0), False)
    )
    sure, right = confidences(found.logits, fit.temperature), found.predicted == found.labels
    return Abstention(
        temperature=fit.temperature,
        fitted=fit.fitted,
        rows=len(right),
        wrong=int(np.count_nonzero(~right)),
        log_loss=fit.log_loss,
        calibration_error=fit.calibration_error,
        area=risk_area(sure, right),
        points=coverage_curve(sure, right, found.groups),
    )


def write_abstention(folder: Path, record: Abstention) -> None:
    """Write the record into a model folder atomically."""
    replace_text(folder / ABSTENTION, json.dumps(record.as_json() | {"format": FORMAT}, indent=1) + "\n")


def read_abstention(folder: Path) -> Abstention | None:
    """Return the record in a model folder or an export; None if there is none. Raises UserError if it cannot be read."""
    path = folder / ABSTENTION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy the folder again") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: found format {found}; this version reads format {FORMAT}")
    return parsed(Abstention, content, path)
