"""Readable names of runs: what distinguishes the runs shown ("ce + kd, 3 layers", "ce, seed 2").

A run that was given a name (`randout train --name`) keeps it. All else comes from the records (`run.json`); no folder
is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from randout.core.errors import UserError

LONGEST = 60  # characters of a name that a user gives
LAYERS, SEED = "student.layers", "train.seed"
RUN_ENDING = re.compile(r"-s-?\d+-[0-9a-f]{8}$")  # seed and fingerprint, in the folder name of a run


def checked_name(name: str) -> str:
    """A name given by the user, without white space around it. Raises UserError for one that no table can show."""
    found = name.strip()
    if not found or not found.isprintable():
        raise UserError(f"--name {name!r}: expected some text in one line, such as --name baseline")
    if len(found) > LONGEST:
        raise UserError(f"--name {found!r}: {len(found)} characters; expected at most {LONGEST}")
    return found


def run_names(records: Sequence[Mapping[str, Any]], ignored: Collection[str] = ()) -> list[str]:
    """A name for each run, all different, from the records (`run.json`) of the runs that are shown together.

    The name that the user gave; else the methods (of a classifier of words: its kind), followed by the settings in which
    the runs differ. A run shown alone is named by its methods, its student and its layers. What is left alike is
    numbered: "ce", "ce (2)".
    ignored: settings that are not shown, such as `SEED`.
    """
    settings = [
        {key: value for key, value in _settings(record).items() if key not in ignored and value is not None}
        for record in records
    ]
    given = [str(record.get("name") or "") for record in records]
    parts: list[list[str]] = [[]] * len(records)
    kinds = [_classifier(record) for record in records]
    for kind in set(kinds):  # settings of an encoder's training say nothing of a classifier of words
        alike = [at for at, other in enumerate(kinds) if other == kind]
        made = _differences([settings[at] for at in alike], [_methods(records[at]) for at in alike])
        for at, own in zip(alike, made, strict=True):
            parts[at] = own
    if len(records) == 1:
        parts = [[_part(key, settings[0][key], True) for key in ("student", LAYERS) if settings[0].get(key)]]
    found = [
        name if name and given.count(name) == 1 else ", ".join([name or _methods(record), *own])
        for name, record, own in zip(given, records, parts, strict=True)
    ]
    return _numbered(found, given)


def _differences(settings: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[list[str]]:
    """For each run the settings in which not all are alike. Settings of the student, such as its longest text, that follow
    from what is shown already are left out: students of other layers often differ in these too.
    """
    keys = list(dict.fromkeys(key for one in settings for key in one))
    by_count = _as_many(len(one[LAYERS]) for one in settings if isinstance(one.get(LAYERS), list)) == _as_many(
        json.dumps(one[LAYERS]) for one in settings if isinstance(one.get(LAYERS), list)
    )
    parts: list[list[str]] = [[] for _ in settings]
    for key in keys:
        having = [at for at, one in enumerate(settings) if key in one]
        values = [json.dumps(settings[at][key], sort_keys=True) for at in having]
        if _as_many(values) < 2:
            continue
        before = [(methods[at], *parts[at]) for at in having]
        if key.startswith("student.") and _as_many(before) == _as_many(zip(before, values, strict=True)):
            continue
        for at in having:
            parts[at].append(_part(key, settings[at][key], by_count))
    return parts


def _as_many(values: Iterable[Any]) -> int:
    return len(set(values))


def without_ending(folder: str) -> str:
    """The name of a run's folder without its seed and fingerprint."""
    return RUN_ENDING.sub("", folder)


def plain(value: Any) -> str:
    """A setting or a word as text."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return str(value)


def _classifier(record: Mapping[str, Any]) -> str:
    """The kind of a classifier of words; empty for an encoder."""
    student = (record.get("identity") or {}).get("student")
    return str(student.get("classifier") or "") if isinstance(student, dict) else ""


def _methods(record: Mapping[str, Any]) -> str:
    return _classifier(record) or " + ".join((record.get("identity") or {}).get("methods") or {}) or "run"


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that may tell a run from another, in the order in which names show them."""
    identity, shown = record.get("identity") or {}, record.get("shown_as") or {}
    student, teacher = dict(identity.get("student") or {}), record.get("teacher") or {}
    taught = [without_ending(str(one.get("name"))) for one in (teacher, *teacher.get("more", ())) if one.get("name")]
    digest = (identity.get("split") or {}).get("test")
    found: dict[str, Any] = {
        "data": shown.get("data"),
        "fold": shown.get("fold"),
        "split": None if shown.get("fold") or not digest else str(digest)[:8],
        "student": None if _classifier(record) else shown.get("student"),
        LAYERS: student.get("layers"),
    }
    found |= {f"student.{key}": value for key, value in student.items() if key not in ("weights", "classifier")}
    found["teacher"] = " + ".join(taught) or None
    for method, own in (identity.get("methods") or {}).items():
        found |= {f"{method}.{key}": value for key, value in own.items()}
    train = identity.get("train") or {}
    found |= {f"train.{key}": value for key, value in train.items() if key != "seed"}
    return found | {SEED: train.get("seed")}


def _part(key: str, value: Any, by_count: bool) -> str:
    """One difference as text. by_count: whether the number of layers tells them apart."""
    if key == LAYERS and isinstance(value, list):
        if not value:
            return "all layers"
        return f"{len(value)} layer{'s' * (len(value) > 1)}" if by_count else f"layers {'+'.join(map(str, value))}"
    if key in ("data", "fold", "student"):
        return str(value)
    return f"{key.removeprefix('student.').removeprefix('train.')} {plain(value)}"


def _numbered(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """The names with a number at those that come again; a name that the user gave keeps its own."""
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
