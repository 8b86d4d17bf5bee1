"""Run folders: their contents, their lock, and the log of test openings next to them.

run.toml        the whole configuration, every default filled in; paths are relative to the folder
run.json        format, command, environment, fingerprint and what it is made of, sha256 of the data, times
history.json    a row an epoch          split.json   row ids of every split
metrics.json    validation, and test once the test split was opened
predictions/    a Parquet file a split (`predictions`)
seen-rows.npz   hashes of the rows that the model and its ancestors have seen (`seen`); also in model/
model/          an ordinary Hugging Face folder
checkpoint/     only while the run is unfinished
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from randout.core.console import Show
from randout.core.errors import Failure, UserError, closest, did_you_mean
from randout.core.files import replace_text, shell_path
from randout.core.wording import plural, verb

from .run_names import run_names

FORMAT = 1
OPENINGS = "test-openings.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").exists()

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def predictions(self, split: str) -> Path:
        """Where the predictions of a split are, once it was scored."""
        return self.path / "predictions" / f"{split}.parquet"

    def read(self, name: str) -> Any:
        """A JSON file of the run. Raises UserError where it is missing or broken."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.path}: no {name} in this folder; is it a run that has finished?") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def write(self, name: str, value: Any) -> None:
        replace_text(self.path / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`. Raises UserError for another format."""
        record = self.read("run.json")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else None
            raise UserError(f"{self.path}: a run folder of format {found}; this version reads format {FORMAT}")
        return record

    @property
    def labels(self) -> list[str]:
        """The classes in the order of the logits."""
        return list(self.record["identity"]["data"]["labels"])

    @property
    def finished(self) -> bool:
        return self.exists and bool(self.record.get("finished"))

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.path, "run; wait for it, or use --fresh")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Nobody else may write to `folder` while open. Raises UserError naming the process that holds it, and Failure where
    the folder cannot be written.

    A file system without locks (NFS without its lock service, some FUSE mounts) is no reason to stop: it is warned of.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+")
    except OSError as error:
        raise Failure(
            f"{folder}: this folder cannot be written ({error.strerror}). Name another with -o, or --runs."
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                raise UserError(f"{folder}: another process (pid {holder}) is working on this {what}") from None
            _warn_of_no_locks(folder, error.strerror or str(error))
        try:
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), str(os.getpid()).encode())
        except OSError:  # a full disk: the number is for people to read, the lock holds without it
            pass
        yield


WITHOUT_LOCKS: set[int] = set()  # devices that a warning was given for


def _warn_of_no_locks(folder: Path, reason: str) -> None:
    """Warn once for each file system."""
    device = folder.stat().st_dev
    if device not in WITHOUT_LOCKS:
        WITHOUT_LOCKS.add(device)
        Show().warn(
            f"{folder}: this file system has no locks ({reason}), so a second process on the same run or study goes "
            "unnoticed; start only one at a time"
        )


def is_writable(folder: Path) -> bool:
    """Whether files can be written into a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def free_path(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that is not there."""
    number, candidate = 2, path
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def list_runs(folder: Path) -> list[RunFolder]:
    """The runs below `folder`, by name."""
    if not folder.is_dir():
        what = "this is a file; expected a folder of runs" if folder.exists() else "no such folder of runs"
        raise UserError(f"{folder}: {what}. `randout train` makes the folder runs; name another with --runs")
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]


def run_rows(folder: Path) -> list[dict[str, Any]]:
    """A row a run: its folder (run) and name, when it was started, methods, state, validation and test accuracy (None:
    there is none). A run whose record cannot be read has its folder's name.
    """
    rows, records = [], {}
    for run in list_runs(folder):
        try:
            records[run.path.name] = run.record
            done = run.finished
            metrics = run.read("metrics.json") if done else {}
            state = "finished" if done else "unfinished"
        except UserError as error:
            metrics, state = {}, str(error).rsplit(": ", 1)[-1]
        scores = {name: metrics.get(name, {}).get("accuracy") for name in ("validation", "test")}
        rows.append({"run": run.path.name, **_about(run), "state": state, **scores})
    names = dict(zip(records, run_names(list(records.values())), strict=True))
    return [{"name": names.get(row["run"], row["run"]), **row} for row in rows]


def _about(run: RunFolder) -> dict[str, str]:
    """When a run was started, and its methods; empty where its record cannot be read."""
    try:
        record = run.record
    except UserError:
        return {"started": "", "methods": ""}
    methods = record.get("identity", {}).get("methods", {})
    return {"started": str(record.get("started", "")), "methods": "+".join(methods)}


def named_run(name: Path, folder: Path) -> RunFolder:
    """A run by its folder, or by its folder's name or its own in a folder of runs, as `run_rows` lists them.

    Raises UserError where there is no such run.
    """
    inside, names = folder / name, {}
    if not name.exists() and not inside.exists() and folder.is_dir():
        names = {row["name"]: folder / row["run"] for row in run_rows(folder)}
        inside = names.get(str(name), inside)
    return check_run(inside if not name.exists() and inside.exists() else name, folder, names)


def check_run(path: Path, folder: Path = Path("runs"), names: Iterable[str] = ()) -> RunFolder:
    """The run in the folder `path`. Raises UserError where there is none, with the closest names in its place, in
    `folder`, the folder of runs, and among further `names`.
    """
    if (path / "run.json").exists():
        return RunFolder(path)
    near = did_you_mean(list(dict.fromkeys([*closest_runs(path, folder), *closest(str(path), names)]))[:2])
    if not path.exists():
        raise UserError(f"{path}: no such run.{near} `randout runs` lists the runs in a folder")
    raise UserError(f"{path}: not a run folder (no run.json in it); expected the folder of a run.{near}")


def closest_runs(path: Path, folder: Path = Path("runs")) -> list[str]:
    """Folders of runs whose names are close to that of `path`: first those beside it, then those in `folder`."""
    found: list[str] = []
    for place in dict.fromkeys((path.parent, folder)):
        with suppress(OSError):
            names = [one.parent.name for one in place.glob("*/run.json")]
            found += [str(place / name) for name in closest(path.name, names)]
    return list(dict.fromkeys(found))[:2]


def remove(run: RunFolder) -> None:
    """Delete a run folder. Raises UserError for a folder that is none, or that is in use."""
    if not run.exists:
        raise UserError(f"{run.path}: not a run folder (no run.json), so it is left alone")
    with run.lock():
        shutil.rmtree(run.path)


def openings(folder: Path, rows: str = "") -> list[dict[str, Any]]:
    """The test openings recorded in a folder of runs, oldest first; with `rows`, those of rows with that sha256."""
    path = folder / OPENINGS
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line cut off by a full disk
            found.append(json.loads(line))
    return [entry for entry in found if not rows or entry["rows"] == rows]


def openings_folder(run: RunFolder, record: dict[str, Any]) -> Path:
    """The folder of runs in which a run's test openings are recorded; where the run was moved, the one it lies in now."""
    folder = Path(os.path.normpath(run.path / str(record.get("runs", ".."))))
    return folder if folder.is_dir() else run.path.parent


def opened_by(run: RunFolder) -> list[dict[str, Any]]:
    """The recorded openings of a run's test split that scored this run, oldest first."""
    record = run.record
    found = openings(openings_folder(run, record), str((record.get("rows") or {}).get("test") or ""))
    return [entry for entry in found if entry["fingerprint"] == record["fingerprint"]]


def closed_test_lines(run: RunFolder) -> list[str]:
    """For a person: that the test split of a finished run was not scored yet, and how to; nothing where it was, or where
    there is none.
    """
    rows = len(run.read("split.json").get("test", ())) if run.finished else 0
    if not rows or "test" in run.read("metrics.json") or opened_by(run):
        return []
    return [
        f"test    closed: its {plural(rows, 'row')} {verb(rows, 'was', 'were')} not scored. When all choices are made: "
        f"randout evaluate {shell_path(run.path)} --split test"
    ]


def record_opening(run: RunFolder, rows: str, split: str, by: str, scored: int | None = None) -> int:
    """Append one opening of a test split to the record in the folder of runs; how many of these rows, with it.

    The end of one and the same training counts once, however often it was interrupted. scored: how many rows of the split
    were scored, where it was a file that holds some of them.
    """
    record = run.record
    fingerprint, folder = record["fingerprint"], openings_folder(run, record)
    before = openings(folder, rows)
    same = [row for row in before if row["fingerprint"] == fingerprint and row["by"] == by == "train"]
    if same and same[-1]["run"] == run.path.name:
        return len(before)
    row = {"at": now(), "run": run.path.name, "fingerprint": fingerprint, "rows": rows, "split": split, "by": by}
    row |= {} if scored is None else {"scored": scored}
    with (folder / OPENINGS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    return len(before) + 1
