"""What lets folders of runs and studies be killed and be moved: files written in one move, paths relative to them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = {  # settings of a recipe that may be paths; `more` is a list of them
    "data": ("source", "validation", "test", "unlabeled"),
    "student": ("model",),
    "teacher": ("model", "more"),
}


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one move, so that a reader sees the old or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def parts_of(source: str | Path) -> tuple[Path, Path | None] | None:
    """(FILE.toml, FOLDER or None) of a source that a TOML file describes; None for any other."""
    match = re.fullmatch(r"(.+?\.toml)(?::(.+))?", str(source), flags=re.DOTALL)
    return (Path(match[1]), Path(match[2]) if match[2] else None) if match else None


def with_paths(source: str, change: Callable[[str], str]) -> str:
    """`source` with `change` made to its paths: PATH, NAME:PATH (rhmd), FILE.toml, FILE.toml:FOLDER."""
    if found := parts_of(source):
        return ":".join(change(str(path)) for path in found if path)
    name, colon, inner = source.rpartition(":")
    return f"{name}{colon}{change(inner)}"


def change_places(tables: dict[str, Any], change: Callable[[str], str]) -> None:
    """Make `change` to every setting of a recipe's tables that may be a path, in place."""
    for table, keys in PLACES.items():
        values = tables.get(table)
        if not isinstance(values, dict):  # what is wrong with it is said where the tables are checked
            continue
        for key in keys:
            value = values.get(key)
            if isinstance(value, list):
                values[key] = [change(one) if isinstance(one, str) and one else one for one in value]
            elif isinstance(value, str) and value:
                values[key] = change(value)


def portable(path: str, folder: Path) -> str:
    """A path as `run.toml` keeps it: relative to the run folder; names of datasets and of the hub stay as they are."""

    def relative(place: str) -> str:
        found = Path(place).expanduser()
        return os.path.relpath(found.resolve(), folder.resolve()) if place and found.exists() else place

    return with_paths(path, relative)
