"""The folder of a study, a search or a ladder of sizes: the request, its progress, and its result.

study.toml   the request with all defaults; a study can only be resumed with the same request
study.json   the record: kind "compare", "cv", "search" or "shrink", each cell or trial with its run and state, and the result
trials/      of a search: its run folders, by number
tuning/      of a study: the search of each arm, a folder of this kind
forms/       of a ladder of sizes: exported and trimmed models
predictions/ of a ladder of sizes: of each form on the validation rows, and of the tested one and the teacher on the test rows
chosen/      of a ladder of sizes: the form that was chosen
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tomli_w

from randout.core.config import read_toml
from randout.core.errors import UserError
from randout.core.files import check_folder, final_name, portable, replace_text, resolved_place

from .locks import locked
from .record import parsed
from .run_folder import RunFolder
from .study_record import FORMAT, Cell, ComparisonRecord, SearchRecord, ShrinkRecord, StudyRecord, Trial

S = TypeVar("S", bound=StudyRecord)
AnyRecord = ComparisonRecord | SearchRecord | ShrinkRecord
KINDS: dict[str, type[AnyRecord]] = {
    "compare": ComparisonRecord,
    "cv": ComparisonRecord,
    "search": SearchRecord,
    "shrink": ShrinkRecord,
}
BUSY = "study; wait for it, or name another folder with -o"
PATHS = (
    "source",
    "validation",
    "test",
    "unlabeled",
    "corrections",
    "model",
    "more",
    "students",
)  # settings that may be paths


@dataclass
class StudyFolder(Generic[S]):
    """The folder of a study. `record` is what this process knows of it: change it in place, then call `save`.

    Several processes may work on a study. Each merges what it knows with `study.json` under a short lock: of every cell or
    trial the more advanced state is kept.
    """

    path: Path
    record: S

    @property
    def file(self) -> Path:
        """Path of `study.json`."""
        return self.path / "study.json"

    def save(self) -> None:
        """Merge `study.json` into `record`, and write the result to `study.json` atomically."""
        with locked(self.path, BUSY, wait="yes"):
            self.refresh()
            self.write()

    def write(self) -> None:
        """Write `record` to `study.json` atomically, whatever is there."""
        replace_text(self.file, json.dumps(self.record.as_json(), indent=1, ensure_ascii=False) + "\n")

    def refresh(self) -> None:
        """Take over from `study.json` what other processes have done."""
        if self.file.exists():
            self.record.merge(read_record(self.path).record)

    def alone(self) -> AbstractContextManager[None]:
        """Wait until no other process does what only one may do at a time, and keep others from it. Not for `save`."""
        return locked(self.path, BUSY, "alone", wait="yes")

    def run(self, entry: Cell | Trial) -> RunFolder:
        """Return the run of a cell that was started, or of a trial."""
        assert entry.run is not None
        return RunFolder(Path(os.path.normpath(self.path / entry.run)))

    def place(self, run: Path) -> str:
        """Return the path of a run folder as the record stores it: relative to the study."""
        return os.path.relpath(run, self.path)


def read_record(path: Path) -> StudyFolder[AnyRecord]:
    """Read the record of a study. Raises UserError if there is none, it has an unsupported format, or a key is missing."""
    try:
        record = json.loads((path / "study.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not a study folder (it has no study.json)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'study.json'}: cannot be read ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise UserError(
            f"{path}: the study folder has format {found}; this version reads format {FORMAT}. "
            "Use the version that wrote it, or run the study again."
        )
    kind = record.get("kind")
    if kind not in KINDS:
        raise UserError(f"{path}/study.json: kind {kind!r}; expected one of {', '.join(KINDS)}")
    return StudyFolder(path, parsed(KINDS[kind], record, path / "study.json"))


def open_study(
    path: Path,
    asked: dict[str, Any],
    fresh: S,
    may_change: tuple[str, ...],
    filled: Callable[[dict[str, Any]], dict[str, Any]],
    begin: Callable[[StudyFolder[S]], None] = lambda folder: None,
) -> StudyFolder[S]:
    """Open a study folder to resume it or to join other processes that work on it, or create it with the record `fresh`.

    asked: the request. may_change: keys of `asked` that may differ when a study is resumed. filled: adds the defaults of
    newer settings to a stored request. begin: brings the record in line with the request. Raises UserError if the folder
    contains something else, or if the request, the data or a plugin has changed.
    """
    refuse_others(path)
    with locked(path, BUSY, wait="yes"):
        text = tomli_w.dumps(_written(asked, path))
        if (path / "study.json").exists():
            record = read_record(path).record
            _refuse_changes(path, asked, filled, may_change)
            if record.data.sha256 != fresh.data.sha256:
                raise UserError(f"{path}: the data changed since this study was started. Name another folder with -o")
            if record.data.further and record.data.further != fresh.data.further:  # earlier versions did not record it
                raise UserError(
                    f"{path}: the unlabelled texts or the soft labels changed since this study was started. Name another "
                    "folder with -o"
                )
            _refuse_other_plugins(path, record.plugins, fresh.plugins)
            folder = StudyFolder(path, _of_kind(record, fresh, path))
        else:
            folder = StudyFolder(path, fresh)
        begin(folder)
        replace_text(path / "study.toml", text)
        folder.write()
    return folder


def read_request(path: Path) -> dict[str, Any]:
    """Return the request of a study as `study.toml` stores it, with paths resolved from the folder. Raises UserError."""
    found: dict[str, Any] = _resolved(read_toml(path / "study.toml", "study"), path)
    return found


def _resolved(value: Any, folder: Path, key: str = "") -> Any:
    """Return a stored request with the paths that exist from the folder made absolute."""
    if isinstance(value, dict):
        return {name: _resolved(inner, folder, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(inner, folder, key) for inner in value]
    return resolved_place(value, folder) if key in PATHS and isinstance(value, str) else value


def _of_kind(record: StudyRecord, fresh: S, path: Path) -> S:
    """Return a record as one of the kind of `fresh`. Raises UserError if it is not."""
    if not isinstance(record, type(fresh)):
        raise UserError(f"{path}: contains a study of another kind ({record.kind}). Name another folder with -o")
    return record


def refuse_others(path: Path) -> None:
    """Raise UserError if `path` is a file, a folder with other content, or not writable."""
    begun = {"study.toml", "study.json"}  # left by a process killed before it wrote study.json
    if not path.exists() or (path.is_dir() and ((path / "study.json").exists() or not _file_names(path) - begun)):
        check_folder(path)
        return
    raise UserError(f"{path}: exists and is not a study folder; nothing was changed. Name another folder with -o")


def _file_names(folder: Path) -> set[str]:
    names = {final_name(path.name) for path in folder.iterdir()}
    return {name for name in names if not re.match(r"\.(\w+\.)?(lock|lease)\b", name)}


def _refuse_changes(
    path: Path,
    asked: dict[str, Any],
    filled: Callable[[dict[str, Any]], dict[str, Any]],
    may_change: tuple[str, ...],
) -> None:
    """Raise UserError if the stored request of a study differs from the current one."""
    file = path / "study.toml"
    try:
        was = filled(read_toml(file, "study"))
    except (UserError, ValueError, KeyError) as error:
        raise UserError(f"{file}: this study cannot be resumed ({error}). Name another folder with -o") from None
    wanted, again = _as_written(asked, path), _as_written(was, path)  # older versions stored paths unchanged
    stored = _as_written(was, None)
    changed = [key for key in {**was, **asked} if wanted.get(key) not in (stored.get(key), again.get(key))]
    if changed := [key for key in changed if key not in may_change]:
        raise UserError(
            f"{path}: contains a study with other settings ({', '.join(changed)} differ). Name another folder with -o"
        )


def _refuse_other_plugins(path: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError if a plugin method is not the one that the study was started with."""
    for name in sorted({*was, *now}):
        then, here = dict(was.get(name, {})), dict(now.get(name, {}))
        sources = [
            " ".join(filter(None, map(one.get, ("package", "version")))) or one.get("file") for one in (then, here)
        ]
        then.pop("file", None), here.pop("file", None)
        if then != here:
            change = (
                f"{sources[0]} then, {sources[1]} now"
                if sources[0] != sources[1]
                else f"the source of {sources[0]} has changed"
            )
            raise UserError(
                f"{path}: methods.{name} changed since this study was started ({change}). Name another folder with -o"
            )


def _as_written(asked: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return a request as it reads back from `study.toml`."""
    return tomllib.loads(tomli_w.dumps(_written(asked, folder)))


def _written(value: Any, folder: Path | None, key: str = "") -> Any:
    """Return a request as `study.toml` stores it.

    Paths become relative to the folder (None: unchanged). Keys without a value are left out, as TOML has no null.
    """
    if isinstance(value, dict):
        return {name: _written(inner, folder, name) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_written(inner, folder, key) for inner in value]
    return portable(value, folder) if folder is not None and key in PATHS and isinstance(value, str) else value
