"""The folder of a study or search: what was asked, its progress, and its result.

study.toml   what was asked, every default filled in; started again, the same must be asked
study.json   a record: kind "compare", "cv" or "search", each cell or trial with its run and state, and the result
trials/      of a search: its run folders, by number
tuning/      of a study: the search of each arm, a folder of this kind
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from randout.core.config import read_toml
from randout.core.errors import UserError
from randout.core.files import check_folder, portable, replace_text

from .run_folder import RunFolder, locked, now

FORMAT = 1
PATHS = ("source", "validation", "test", "unlabeled", "model", "more")  # settings that may name a place on this machine


@dataclass
class StudyFolder:
    """A study on disk. `record` is `study.json`: changed in place, then `save`d whole."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.path / "study.json"

    def save(self) -> None:
        replace_text(self.file, json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")

    def run(self, entry: Mapping[str, Any]) -> RunFolder:
        """The run of a cell or a trial."""
        return RunFolder(Path(os.path.normpath(self.path / entry["run"])))

    def place(self, run: Path) -> str:
        """A run's folder as the record names it: relative to the study."""
        return os.path.relpath(run, self.path)


def read_record(path: Path) -> StudyFolder:
    """A study's folder, read. Raises UserError where it is none, or of another format."""
    try:
        record = json.loads((path / "study.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no study.json there, so this is no study") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'study.json'}: cannot be read ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise UserError(
            f"{path}: a study folder of format {found}; this version reads format {FORMAT}. "
            "Use the version that wrote it, or run the study again."
        )
    return StudyFolder(path, record)


@contextmanager
def opened(
    path: Path,
    asked: dict[str, Any],
    fresh: dict[str, Any],
    may_change: tuple[str, ...],
    filled: Callable[[dict[str, Any]], dict[str, Any]],
) -> Iterator[StudyFolder]:
    """The folder of what is asked, locked: as it was left, or begun with the record `fresh`.

    may_change: keys of `asked` that may differ from when it was begun. filled: what was asked then, with the defaults
    of settings that have come since. Raises UserError where something else is there, or the same of changed data.
    """
    refuse_others(path)
    with locked(path, "study; wait for it, or name another with -o"):
        text = tomli_w.dumps(_written(asked, path))
        if (path / "study.json").exists():
            folder = read_record(path)
            _refuse_changes(folder, asked, filled, may_change)
            if folder.record["data"]["sha256"] != fresh["data"]["sha256"]:
                raise UserError(f"{path}: the data changed since this was begun; name another with -o")
            _refuse_other_plugins(path, folder.record.get("plugins", {}), fresh.get("plugins", {}))
        else:
            folder = StudyFolder(path, {"format": FORMAT, "started": now(), "finished": None} | fresh)
        replace_text(path / "study.toml", text)
        folder.save()
        yield folder


def refuse_others(path: Path) -> None:
    """Raise UserError where `path` is a file, a folder of something else, or cannot be written."""
    begun = {".lock", "study.toml", "study.toml.partial", "study.json.partial"}  # killed before `study.json` was there
    if not path.exists() or (path.is_dir() and ((path / "study.json").exists() or not _names(path) - begun)):
        check_folder(path)
        return
    raise UserError(f"{path}: there is something else at this place, and it is left alone; name another with -o")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _refuse_changes(
    folder: StudyFolder,
    asked: dict[str, Any],
    filled: Callable[[dict[str, Any]], dict[str, Any]],
    may_change: tuple[str, ...],
) -> None:
    """Raise UserError where a study that was begun is not what is asked for now."""
    file = folder.path / "study.toml"
    try:
        was = filled(read_toml(file, "study"))
    except (UserError, ValueError, KeyError) as error:
        raise UserError(f"{file}: cannot be gone on with ({error}); name another with -o") from None
    wanted, again = _as_written(asked, folder.path), _as_written(was, folder.path)  # at first, paths were kept whole
    stored = _as_written(was, None)
    changed = [key for key in {**was, **asked} if wanted.get(key) not in (stored.get(key), again.get(key))]
    if changed := [key for key in changed if key not in may_change]:
        raise UserError(f"{folder.path}: another study is there ({', '.join(changed)} differ); name another with -o")


def _refuse_other_plugins(path: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where a method of another package or file is not the one that a study was begun with."""
    for name in sorted({*was, *now}):
        then, here = dict(was.get(name, {})), dict(now.get(name, {}))
        said = [" ".join(filter(None, map(one.get, ("package", "version")))) or one.get("file") for one in (then, here)]
        then.pop("file", None), here.pop("file", None)
        if then != here:
            change = f"{said[0]} then, {said[1]} now" if said[0] != said[1] else f"the source of {said[0]} has changed"
            raise UserError(f"{path}: methods.{name} is not as when this was begun ({change}); name another with -o")


def _as_written(asked: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """As it comes back from `study.toml`."""
    return tomllib.loads(tomli_w.dumps(_written(asked, folder)))


def _written(value: Any, folder: Path | None, key: str = "") -> Any:
    """As `study.toml` keeps it: paths relative to the folder (None: as they are), and no keys without a value, which
    TOML does not have.
    """
    if isinstance(value, dict):
        return {name: _written(inner, folder, name) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_written(inner, folder, key) for inner in value]
    return portable(value, folder) if folder is not None and key in PATHS and isinstance(value, str) else value
