"""The section on abstention: what labelling only the most confident rows of the validation split gives."""

from __future__ import annotations

from randout.storage.abstention_record import Abstention, abstention_of

from .subjects import Arm, Subject
from .text import LABEL, points_at
from .values import Column, Figure, Section, Table


def abstention(subject: Subject) -> Section | None:
    """Risk-coverage curves of the arms, a table of some coverages, and the area under each curve."""
    found = [(arm.name, record) for arm in subject.arms if (record := _record(arm)) is not None]
    if not found:
        return None
    sets = any(record.label_sets for _, record in found)
    columns = (
        Column("model"),
        Column("coverage %", "percent"),
        Column("confidence", "number"),
        Column("error %", "percent"),
        Column("accuracy %", "percent"),
        Column("95 % interval", "interval"),
    )
    rows = {
        name: [(name, p.coverage, p.confidence, 1 - p.accuracy, p.accuracy, (p.low, p.high)) for p in record.points]
        for name, record in found
    }
    several = any(len(arm.models) > 1 for arm in subject.arms)
    note = (
        f"Error of the rows that get a {LABEL[sets]}, if only the most confident ones do: validation rows, with confidences "
        "calibrated on them by one temperature."
    )
    whole = " A label set is right as a whole, with thresholds of its labels that were tuned on other validation rows."
    note += whole if sets else ""
    note += f"{' The first unit of each model.' if several else ''}"
    curve = Table("coverage-curve", "Risk and coverage", columns, tuple(row for own in rows.values() for row in own))
    roles = {"series": "model", "x": "coverage %", "y": "error %"}
    figure = Figure("coverage-curve", "Risk and coverage", "lines", curve, roles, note)
    kept = tuple(
        row
        for name, record in found
        for row, point in zip(rows[name], record.points, strict=True)
        if point in points_at(record.points)
    )
    short = Table("coverage", f"Accuracy of the rows that get a {LABEL[sets]}", columns, kept)
    heads = (
        Column("model"),
        Column("area under the curve", "number"),
        Column("temperature", "number"),
        Column("validation rows", "count"),
        Column("wrong", "count"),
    )
    areas = tuple((name, one.area, one.temperature, one.rows, one.wrong) for name, one in found)
    about = (
        "Area: mean error over all coverages; lower is better. Temperature: divides the logits; 1 if too few "
        f"{'decisions on labels' if sets else 'rows'} are "
    )
    about += "wrong, or right, to fit it. Use: randout predict RUN --abstain accuracy=0.95."
    return Section("abstention", "Abstention", (figure, short, Table("areas", "Calibration", heads, areas, about)))


def _record(arm: Arm) -> Abstention | None:
    """What the validation rows of an arm's first model say; None without predictions of them."""
    predictions = arm.models[0].predictions("validation") if arm.models else None
    return abstention_of(predictions) if predictions is not None and predictions.rows else None
