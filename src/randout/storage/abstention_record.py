"""The content of `abstention.json` in a model folder: how sure a model is allowed to be, by its validation rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from randout.core.errors import UserError
from randout.core.files import replace_text
from randout.stats.abstention import CoveragePoint
from randout.stats.coverage import confidences, coverage_curve, risk_area
from randout.stats.label_set_scores import held_out_thresholds
from randout.stats.metrics import binned_error
from randout.stats.targets import predicted, target_of
from randout.stats.temperature import Calibration, calibrate

from .predictions import Predictions
from .record import Record, parsed
from .run_folder import ABSTENTION

FORMAT = 1


class Abstention(Record):
    """A temperature that calibrates confidences, and the coverage and accuracy of each threshold on validation rows.

    rows, wrong: of the validation split. fitted: whether the temperature was fitted, rather than 1 because too few rows are
    wrong, or right. log_loss, calibration_error: before and after the temperature. area: under the risk-coverage curve.

    label_sets: whether predictions are label sets (multi-label). Then one is wrong, for all numbers here, unless all of its
    labels are right; log_loss is the mean over rows and labels, and the temperature is fitted if enough of these are wrong.
    The sets are those of `held_out_thresholds`, because the model's own thresholds were tuned on these rows: by them, too
    many sets would be right (docs/log.md, 2026-11-27).
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
    label_sets: bool = False


def abstention_of(found: Predictions) -> Abstention:
    """Compute the record from the predictions of a validation split. Rows with a label without output count as errors."""
    fit = _calibration(found)
    limits = None if found.thresholds is None else held_out_thresholds(_truth(found), found.logits, found.groups)
    sure = confidences(found.logits, fit.temperature, limits)
    made = predicted(found.logits, limits, len(found.names))
    right = target_of(found.labels, len(found.names)).right(found.labels, made)
    record = Abstention(
        temperature=fit.temperature,
        fitted=fit.fitted,
        rows=len(right),
        wrong=int(np.count_nonzero(~right)),
        log_loss=fit.log_loss,
        calibration_error=fit.calibration_error,
        area=risk_area(sure, right),
        points=coverage_curve(sure, right, found.groups),
    )
    if limits is not None:
        before = confidences(found.logits, 1.0, limits)
        record.calibration_error = binned_error(before, right), binned_error(sure, right)
        record.label_sets = True
    return record


def _calibration(found: Predictions) -> Calibration:
    """Fit the temperature, by the decisions on labels that the model has an output for."""
    if found.thresholds is not None:
        return calibrate(found.logits, _truth(found))
    known = found.labels < found.logits.shape[1]
    if not known.any():
        return Calibration(1.0, 0, 0, 0, (0.0, 0.0), (0.0, 0.0), False)
    return calibrate(found.logits[known], found.labels[known])


def _truth(found: Predictions) -> np.ndarray:
    """Return (n, C) whether each row has each label that the model has an output for."""
    return found.labels[:, : found.logits.shape[1]]


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
