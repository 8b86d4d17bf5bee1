"""Readable names of runs: what tells the runs that are shown apart ("ce + kd, 3 layers", "ce, seed 2").

A run that was given a name (`randout train --name`) keeps it. All else comes from the records (`run.json`); no folder
is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .errors import UserError

LONGEST = 60  # characters of a name that a user gives
SEED = "train.seed"
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

    The name that the user gave; else the methods, followed by every setting in which the runs differ. A run shown alone
    is named by its methods, its student and its layers. What is left alike is numbered: "ce", "ce (2)".
    ignored: settings that are not shown, such as `SEED`.
    """
    settings = [
        {key: value for key, value in _settings(record).items() if key not in ignored and value is not None}
        for record in records
    ]
    values: dict[str, set[str]] = {}
    for one in settings:
        for key, value in one.items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    differ = [key for key, found in values.items() if len(found) > 1]
    if len(records) == 1:
        differ = [key for key in ("student", "student.layers") if settings[0].get(key)]
    counts = [len(one["student.layers"]) for one in settings if "student.layers" in one]
    by_count = len(set(counts)) == len(values.get("student.layers", ()))
    given = [str(record.get("name") or "") for record in records]
    found = []
    for name, record, own in zip(given, records, settings, strict=True):
        parts = [_part(key, own[key], by_count) for key in differ if key in own]
        alone = bool(name) and given.count(name) == 1
        found.append(name if alone else ", ".join([name or _methods(record), *parts]))
    return _numbered(found, given)


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


def _methods(record: Mapping[str, Any]) -> str:
    identity = record.get("identity") or {}
    student = identity.get("student")
    classifier = student.get("classifier") if isinstance(student, dict) else None
    return str(classifier or " + ".join(identity.get("methods") or {}) or "run")


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that may tell a run from another, in the order in which names show them."""
    identity, shown = record.get("identity") or {}, record.get("shown_as") or {}
    data, student = identity.get("data") or {}, dict(identity.get("student") or {})
    teacher = record.get("teacher") or {}
    taught = [without_ending(str(one.get("name"))) for one in (teacher, *teacher.get("more", ())) if one.get("name")]
    weights = student.pop("weights", None)
    student.pop("classifier", None)
    found: dict[str, Any] = {
        "data": shown.get("data") or _short(data.get("sha256")),
        "split": shown.get("fold") or _short((identity.get("split") or {}).get("test")),
        "student": shown.get("student") or _short(weights),
    }
    found |= {f"student.{key}": value for key, value in sorted(student.items(), key=lambda item: item[0] != "layers")}
    found["teacher"] = " + ".join(taught) or None
    for method, own in (identity.get("methods") or {}).items():
        found |= {f"{method}.{key}": value for key, value in own.items()}
    train = identity.get("train") or {}
    found |= {f"train.{key}": value for key, value in train.items() if key != "seed"}
    return found | {SEED: train.get("seed")}


def _short(digest: Any) -> str | None:
    return str(digest)[:8] if digest else None


def _part(key: str, value: Any, by_count: bool) -> str:
    """One difference as text. by_count: whether the number of layers tells them apart."""
    if key == "student.layers":
        if not value:
            return "all layers"
        return f"{len(value)} layer{'s' * (len(value) > 1)}" if by_count else f"layers {'+'.join(map(str, value))}"
    if key in ("data", "student") or (key == "split" and "fold" in str(value)):
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
