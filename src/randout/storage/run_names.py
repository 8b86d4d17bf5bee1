"""Readable names of runs, made of the settings in which the listed runs differ ("ce + kd, 3 layers", "ce, seed 2").

A run with a name of its own (`randout train --name`) keeps it. Everything else comes from the records (`run.json`); no
folder is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from randout.core.errors import UserError
from randout.core.wording import plural

if TYPE_CHECKING:
    from .run_record import RunRecord

LONGEST = 60  # maximum characters of a user-given name
STUDENT, LAYERS, SEED, CORRECTED = "student", "student.layers", "train.seed", "corrected"
RUN_ENDING = re.compile(r"-s-?\d+-[0-9a-f]{8}$")  # seed and fingerprint, in the folder name of a run


def checked_name(name: str) -> str:
    """Return a user-given name without surrounding white space. Raises UserError if it is empty, long or not printable."""
    found = name.strip()
    if not found or not found.isprintable():
        raise UserError(f"--name {name!r}: expected printable text on one line, such as --name baseline")
    if len(found) > LONGEST:
        raise UserError(f"--name {found!r}: {len(found)} characters; expected at most {LONGEST}")
    return found


def run_names(records: Sequence[RunRecord], ignored: Collection[str] = ()) -> list[str]:
    """Return a unique name for each of several runs that are shown together.

    The name is the one that the user gave, else the methods (for a baseline: its kind) followed by the settings in which
    the runs differ. A single run is named by its methods, student and layers. Equal names are numbered: "ce", "ce (2)".

    records: the `run.json` of each run. ignored: settings to leave out, such as `SEED`.
    """
    settings = [
        {key: value for key, value in _settings(record, student).items() if key not in ignored and value is not None}
        for record, student in zip(records, _students(records), strict=True)
    ]
    given = [record.name for record in records]
    parts: list[list[str]] = [[]] * len(records)
    kinds = [record.identity.student.classifier for record in records]
    always = {STUDENT} if len(set(kinds)) > 1 else set()  # an encoder differs from a baseline
    for kind in set(kinds):  # an encoder's training settings do not apply to a baseline
        alike = [at for at, other in enumerate(kinds) if other == kind]
        made = _differences([settings[at] for at in alike], [_methods(records[at]) for at in alike], always)
        for at, own in zip(alike, made, strict=True):
            parts[at] = own
    if len(records) == 1:
        parts = [[_setting_text(key, settings[0][key], True) for key in (STUDENT, LAYERS) if settings[0].get(key)]]
    found = [
        name if name and given.count(name) == 1 else ", ".join([name or _methods(record), *own])
        for name, record, own in zip(given, records, parts, strict=True)
    ]
    return _numbered(found, given)


def _students(records: Sequence[RunRecord]) -> list[str]:
    """Return the encoder of each run, "" for a baseline: its label, with a digest if encoders share one."""
    weights: dict[str, set[str]] = {}
    for record in records:
        weights.setdefault(record.shown_as.student, set()).add(record.identity.student.weights)
    found = []
    for record in records:
        label, own = record.shown_as.student, record.identity.student
        shared = len(weights[label]) > 1 and own.weights
        encoder = f"{label} {own.weights[:6]}".strip() if shared else label
        found.append("" if own.classifier else encoder)
    return found


def _differences(
    settings: Sequence[Mapping[str, Any]], methods: Sequence[str], always: Collection[str] = ()
) -> list[list[str]]:
    """Return for each run the settings in which the runs differ, and those in `always`.

    Student settings that follow from those already shown are left out: students with different layers often also differ
    in, for example, their maximum length. The layers do not follow from the methods.
    """
    keys = list(dict.fromkeys(key for one in settings for key in one))
    by_count = _count_distinct(
        len(one[LAYERS]) for one in settings if isinstance(one.get(LAYERS), list)
    ) == _count_distinct(json.dumps(one[LAYERS]) for one in settings if isinstance(one.get(LAYERS), list))
    parts: list[list[str]] = [[] for _ in settings]
    for key in keys:
        having = [at for at, one in enumerate(settings) if key in one]
        values = [json.dumps(settings[at][key], sort_keys=True) for at in having]
        if _count_distinct(values) < 2 and key not in always:
            continue
        before = [(*([] if key == LAYERS else [methods[at]]), *parts[at]) for at in having]
        if key.startswith("student.") and _count_distinct(before) == _count_distinct(zip(before, values, strict=True)):
            continue
        for at in having:
            parts[at].append(_setting_text(key, settings[at][key], by_count))
    return parts


def _count_distinct(values: Iterable[Any]) -> int:
    return len(set(values))


def without_ending(folder: str) -> str:
    """Return a run's folder name without seed and fingerprint."""
    return RUN_ENDING.sub("", folder)


def plain(value: Any) -> str:
    """Format the value of a setting."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return str(value)


def _methods(record: RunRecord) -> str:
    """Return the kind of baseline, or the methods of an encoder."""
    return record.identity.student.classifier or " + ".join(record.identity.methods) or "run"


def _settings(record: RunRecord, student: str) -> dict[str, Any]:
    """Return every setting that may distinguish runs, in the order in which names show them. student: of `_students`."""
    identity, shown, own = record.identity, record.shown_as, record.identity.student.as_json()
    digest = identity.split.get("test", "")
    found: dict[str, Any] = {
        "data": shown.data or None,
        "fold": shown.fold or None,
        CORRECTED: record.data_report.corrected if record.data_report else None,
        "split": digest[:8] if digest and not shown.fold else None,
        STUDENT: student or None,
        LAYERS: identity.student.layers,
    }
    found |= {f"student.{key}": value for key, value in own.items() if key not in ("weights", "classifier")}
    found["teacher"] = " + ".join(without_ending(teacher.name) for teacher in record.teachers) or None
    for method, settings in identity.methods.items():
        found |= {f"{method}.{key}": value for key, value in settings.items()}
    found |= {f"train.{key}": value for key, value in identity.train.as_json().items() if key != "seed"}
    return found | {SEED: identity.train.seed}


def _setting_text(key: str, value: Any, by_count: bool) -> str:
    """Format one setting. by_count: whether the number of layers is enough to distinguish the runs."""
    if key == LAYERS and isinstance(value, list):
        if not value:
            return "all layers"
        return f"{len(value)} layer{'s' * (len(value) > 1)}" if by_count else f"layers {'+'.join(map(str, value))}"
    if key == CORRECTED:
        return plural(value, "corrected label") if value else "labels as given"
    if key in ("data", "fold", STUDENT):
        return str(value)
    return f"{key.removeprefix('student.').removeprefix('train.')} {plain(value)}"


def _numbered(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Number repeated names; a name that the user gave is never changed."""
    found, taken = list(names), {name for name, own in zip(names, given, strict=True) if name == own}
    first = set(taken)
    for at, name in enumerate(names):
        if name in first and name == given[at]:
            first.discard(name)
            continue
        number, new = 2, name
        while new in taken:
            new, number = f"{name} ({number})", number + 1
        found[at] = new
        taken.add(new)
    return found
