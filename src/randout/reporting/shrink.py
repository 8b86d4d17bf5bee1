"""A ladder of sizes: its forms as a table, accuracy against cost as a figure, and the choice and its verdict in words."""

from __future__ import annotations

import math
from typing import Any

from randout.core.text_tables import table_lines
from randout.core.wording import plural
from randout.stats.diagnostics import metric_name
from randout.storage.study_record import FORM_NAMES, LadderForm, MarginTest, ShrinkRecord

from .subjects import Subject
from .values import Column, Figure, Part, Points, Section, Table, format_cell, format_rounded

MEGABYTE = 1e6
AXES = {"latency": "ms per text", "size": "MB on disk", "throughput": "texts per second"}
WORDS = {"confirmed": "not worse", "refuted": "worse", "undecided": "undecided"}
FIRST: tuple[Column, ...] = (Column("form"), Column("against the teacher", "verdict"))
MORE: tuple[Column, ...] = (
    Column("difference, points", "points"),
    Column("90 % interval", "points interval"),
    Column("ms per text", "rounded"),
    Column("texts per second", "rounded"),
    Column("size, MB", "rounded"),
    Column("memory, MB", "rounded"),
    Column("parameters, M", "rounded"),
)


def section(subject: Subject) -> Section | None:
    """The section of a report on a ladder of sizes."""
    record = subject.ladder
    if record is None:
        return None
    shown = figure(record)
    parts: list[Part] = [*result(record), *([shown] if shown else []), table(record)]
    if record.notes or subject.notes:
        parts.append(Points(tuple(_sentence(note) for note in (*record.notes, *subject.notes))))
    return Section("shrink", "Sizes", tuple(parts))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def table(record: ShrinkRecord) -> Table:
    """All forms, cheapest first."""
    rows = []
    for form in sorted(record.forms, key=lambda form: form.price(record.by)):
        found, costs = form.validation, form.cost
        rows.append(
            (
                form.name,
                "the teacher" if found is None else _word(form, record),
                accuracy_of(form, record),
                None if found is None else found.estimate,
                None if found is None else (found.low, found.high),
                None if costs is None else 1000 * costs.latency,
                None if costs is None else costs.throughput,
                form.size / MEGABYTE,
                None if costs is None or costs.memory is None else costs.memory / MEGABYTE,
                None if form.parameters is None else form.parameters / 1e6,
            )
        )
    note = f"On {record.rows:,} validation rows. Ends of the interval are one-sided 95 % bounds; the margin is "
    note += f"{points(record.margin)}."
    if record.machine is not None:
        note += (
            f" Measured on {record.machine.processor} ({record.machine.cores} cores) with "
            f"{plural(record.machine.threads, 'thread')}, one process for each form and round. Memory: of the model, above "
            "that of the libraries."
        )
    columns = (*FIRST, Column(_value_name(record), "percent"), *MORE)
    return Table("forms", "Forms, cheapest first", columns, tuple(rows), note)


def _value_name(record: ShrinkRecord) -> str:
    return f"validation {metric_name(record.metric)} %"


def accuracy_of(form: LadderForm, record: ShrinkRecord) -> float | None:
    """Validation accuracy of a form (sample F1 of label sets); of the teacher itself, as the others were compared with it."""
    if form.validation is not None:
        return form.validation.accuracy
    return next((one.validation.reference for one in record.forms if one.validation is not None), None)


def _word(form: LadderForm, record: ShrinkRecord) -> str:
    assert form.validation is not None
    ends = {record.chosen: ", chosen", record.nearest: ", nearest"}
    return WORDS[form.validation.verdict] + ends.get(form.name, "")


def figure(record: ShrinkRecord) -> Figure | None:
    """Accuracy against cost, with the teacher's accuracy as a line and the margin as a band; None before costs are known."""
    rows = []
    several = len({rung.student for rung in record.rungs if rung.kind == "encoder"}) > 1
    reference = None
    for form in record.forms:
        x, value, rung = _x(form, record.by), accuracy_of(form, record), record.rung(form.rung)
        if x is None or value is None:
            continue
        if form.validation is None:
            reference = value
        kind = FORM_NAMES[form.form] + (", trimmed" if form.trimmed else "")
        if rung.kind != "encoder":
            kind = rung.name
        elif several:
            kind = f"{rung.student}, {kind}"
        label = {"teacher": FORM_NAMES[form.form], "words": ""}.get(rung.kind, str(rung.layers))
        chosen = "chosen" if form.name == record.chosen else ""
        rows.append((kind, form.name, label, x, value, chosen))
    if reference is None:
        return None
    rows.sort(key=lambda row: row[0] == "teacher")  # last, so that the other series have the colours
    columns: tuple[Column, ...] = (Column("series"), Column("form"), Column("label"), Column(AXES[record.by], "number"))
    value_name, metric = _value_name(record), metric_name(record.metric)
    title = metric[0].upper() + metric[1:]
    columns += (Column(value_name, "percent"), Column("choice"))
    data = Table("shrink", f"{title} against cost", columns, tuple(rows))
    roles = {"series": "series", "label": "label", "x": AXES[record.by], "y": value_name, "ring": "choice"}
    note = (
        f"The line is the teacher's {metric}, the band the margin of {points(record.margin)} below it. Numbers are layers."
        + (" The ring marks the chosen form." if record.chosen else "")
    )
    options = {"level": reference, "band": record.margin, "marks": ("teacher",)}
    options |= {"level name": f"teacher's {metric}", "band name": f"margin of {points(record.margin)}"}
    return Figure("shrink", f"{title} against {AXES[record.by]}", "scatter", data, roles, note, options)


def _x(form: LadderForm, by: str) -> float | None:
    if by == "size":
        return form.size / MEGABYTE
    if form.cost is None:
        return None
    return 1000 * form.cost.latency if by == "latency" else form.cost.throughput


def result(record: ShrinkRecord) -> list[str]:
    """The choice and its verdict, as sentences."""
    reference = next((form for form in record.forms if form.validation is None), None)
    if reference is None:
        waiting = sum(cell.state != "finished" for cell in record.cells)
        return [f"No result yet: {plural(waiting, 'training')} left."]
    chosen, near = record.form(record.chosen), record.form(record.nearest)
    found = []
    if chosen is not None and chosen.validation is not None:
        found.append(
            f"{chosen.name} was chosen as the cheapest of {plural(len(record.forms), 'form')} that is not worse than the teacher "
            f"by {points(record.margin)} on {record.rows:,} validation rows: {_difference(chosen.validation)}."
        )
        found += _saving(chosen, reference, record)
    elif near is not None and near.validation is not None:
        found.append(
            f"No form is shown to be not worse than the teacher by {points(record.margin)} on {record.rows:,} validation rows. "
            f"{near.name} comes closest: {_difference(near.validation)}{_because(near.validation)}."
        )
        found += [needed_sentence(near.validation, "validation rows")]
        found += _own_forms(record, reference, near.validation)
    if record.test is not None:
        found += verdict(record.test, record.tested or "")
    elif chosen is not None:
        found.append("The test split was not scored, so the choice is not confirmed.")
    return found + _cautions(record)


def _own_forms(record: ShrinkRecord, reference: LadderForm, nearest: MarginTest) -> list[str]:
    """The teacher's own form with the highest lower bound, if that is above the one of the nearest other form."""
    tests = [(form, form.validation) for form in record.forms if form.rung == reference.rung and form.validation]
    form, best = max(tests, key=lambda one: one[1].low, default=(None, nearest))
    if form is None or best.low <= nearest.low:
        return []
    return [f"Of the teacher's own forms, {form.name} is closest: {_difference(best)}{_because(best)}."]


def _cautions(record: ShrinkRecord) -> list[str]:
    """Sentences that limit the result because of warnings about the teacher, and about the model that is chosen or nearest."""
    found = []
    if any(one.kind == "weak-teacher" for one in record.warnings):
        found.append("This says little, because the teacher is weak: see the warnings.")
    form = record.form(record.tested or record.chosen or record.nearest)
    if form is not None and any(one.arm == form.rung and one.kind != "weak-teacher" for one in record.warnings):
        found.append(f"{form.name} learned little or nothing: see the warnings.")
    return found


def _saving(chosen: LadderForm, reference: LadderForm, record: ShrinkRecord) -> list[str]:
    """How much cheaper the chosen form is than the teacher."""
    parts = []
    if chosen.cost is not None and reference.cost is not None:
        own, its = 1000 * chosen.cost.latency, 1000 * reference.cost.latency
        parts.append(
            f"{format_rounded(own)} ms per text instead of {format_rounded(its)} ({_times(its / own)} as fast)"
        )
    own, its = chosen.size / MEGABYTE, reference.size / MEGABYTE
    parts.append(f"{format_rounded(own)} MB on disk instead of {format_rounded(its)}")
    return [f"It takes {', and '.join(parts)}."]


def _times(ratio: float) -> str:
    """A ratio with two significant digits: `0.85 times`, `about 2,000 times`."""
    if ratio < 10:
        return f"{ratio:.2g} times"
    scale = 10 ** (math.floor(math.log10(ratio)) - 1)
    return f"about {round(ratio / scale) * scale:,} times"


def verdict(found: MarginTest, name: str) -> list[str]:
    """The result on the test rows in words, and how many rows would decide it."""
    start = f"On {plural(found.rows, 'test row')}, scored once, the match is {found.verdict}"
    why = {
        "confirmed": f"{name} is not worse than the teacher by {points(found.margin)}",
        "refuted": f"{name} is worse than the teacher by more than {points(found.margin)}",
        "undecided": f"{name} may or may not be worse than the teacher by {points(found.margin)}",
    }[found.verdict]
    lines = [f"{start}: {why}: {_difference(found)}{_because(found)}."]
    return lines + ([needed_sentence(found, "test rows")] if found.verdict == "undecided" else [])


def needed_sentence(found: MarginTest, rows: str) -> str:
    """How many rows would decide it, with 80 % power."""
    what = "being right" if found.metric == "accuracy" else metric_name(found.metric)
    share = f"(the two differ in {what} on {100 * found.disagreement:.1f} % of the rows)"
    equal = f"about {found.needed_if_equal:,} if both are equally good" if found.needed_if_equal else ""
    if found.needed is None:
        return f"The difference is at the margin itself, so no number of {rows} would decide it; {equal} {share}."
    way = "confirm" if found.estimate > -found.margin else "refute"
    return (
        f"About {found.needed:,} {rows} would decide it with 80 % power: they would {way} it if the difference stays as it is; "
        f"{equal} {share}."
    )


def _difference(found: MarginTest) -> str:
    values = f"{metric_name(found.metric)} {_percent(found.accuracy)} against {_percent(found.reference)}"
    bounds = f"{100 * found.low:+.2f} and {100 * found.high:+.2f}"
    return f"{values}, difference {100 * found.estimate:+.2f} points, one-sided 95 % bounds {bounds}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _because(found: MarginTest) -> str:
    return f" ({found.reason})" if found.reason else ""


def points(margin: float) -> str:
    """A margin with its unit: `1 point`, `2.5 points`."""
    return f"{100 * margin:g} point{'' if abs(margin - 0.01) < 1e-9 else 's'}"


def lines(record: ShrinkRecord) -> list[str]:
    """The table, the result and the notes for a terminal."""
    rows = []
    for form in sorted(record.forms, key=lambda form: form.price(record.by)):
        rows.append(_cells(form, record))
    head = [
        "form",
        "layers",
        "parameters",
        "MB",
        "memory MB",
        "ms a text",
        "texts/s",
        metric_name(record.metric),
        "difference",
    ]
    head += ["90 % interval", "against the teacher"]
    shown = table_lines(head, rows, left=(0, len(head) - 1)) if rows else []
    machine = record.machine
    if machine is not None:
        shown.append(
            f"measured on {machine.processor}, {plural(machine.cores, 'core')}, {plural(machine.threads, 'thread')}; "
            f"{metric_name(record.metric)} on {record.rows:,} validation rows"
        )
    return [*shown, "", *result(record), *(f"note: {note}" for note in record.notes)]


def _cells(form: LadderForm, record: ShrinkRecord) -> list[str]:
    """A form's row for a terminal."""
    rung, costs, found = record.rung(form.rung), form.cost, form.validation
    value = accuracy_of(form, record)

    def number(value: float | None) -> str:
        return format_cell(value, "rounded")

    memory = None if costs is None or costs.memory is None else costs.memory / MEGABYTE
    cells: list[Any] = [
        form.name,
        str(rung.layers or ""),
        format_cell(form.parameters, "count"),
        number(form.size / MEGABYTE),
    ]
    cells += [number(memory), number(None if costs is None else 1000 * costs.latency)]
    cells.append("" if costs is None else f"{costs.throughput:,.0f}")
    cells.append("" if value is None else _percent(value))
    if found is None:
        return [*cells, "", "", "the teacher"]
    interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return [*cells, f"{100 * found.estimate:+.2f}", interval, _word(form, record)]
