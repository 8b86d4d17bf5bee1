"""Run folders: their contents, their lock, and the log of test openings next to them.

run.toml        the complete configuration with all defaults; paths are relative to the folder
run.json        format, command, environment, fingerprint and its inputs, SHA-256 of the data, times
history.json    one row per validation, with its epoch
split.json      row ids of every split
metrics.json    validation metrics, and test metrics once the test split was scored
predictions/    one Parquet file per split (see `storage.predictions`)
seen-rows.npz   hashes of the rows that the model and its ancestors have seen (see `storage.seen_rows`); also in model/
model/          a standard Hugging Face model folder, with abstention.json (see `storage.abstention_record`)
coverage-risk.png  what labelling only the most confident rows gives, on validation
checkpoint/     only while the run is unfinished
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randout.core.errors import UserError, closest, did_you_mean
from randout.core.files import replace_text, shell_path
from randout.core.wording import no_teacher_words, plural

from .locks import Wait, locked
from .run_names import run_names

if TYPE_CHECKING:  # pydantic is loaded when the first record is read
    from .metrics_record import History, Metrics, RunWarning
    from .run_record import Opening, RunRecord

ABSTENTION = "abstention.json"  # in a model folder
OPENINGS = "test-openings.jsonl"
SHOWN_RUNS = 5  # of a folder, in an error
NO_TEACHER = "no-teacher"  # kind of a warning


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, finished or not."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return (self.path / "run.json").exists()

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint folder."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """Path of the saved model."""
        return self.path / "model"

    def predictions(self, split: str) -> Path:
        """Path of a split's prediction file, which exists once the split was scored."""
        return self.path / "predictions" / f"{split}.parquet"

    def read(self, name: str) -> Any:
        """Read a JSON file of the run. Raises UserError if it is missing or invalid."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.path}: no {name} in this folder. Has the run finished?") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file of the run atomically."""
        replace_text(self.path / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`. Raises UserError for an unsupported format, or if a key is missing."""
        from .record import parsed
        from .run_record import FORMAT, RunRecord

        record = self.read("run.json")
        found = record.get("format") if isinstance(record, dict) else None
        if found != FORMAT:
            raise UserError(f"{self.path}: the run folder has format {found}; this version reads format {FORMAT}")
        return parsed(RunRecord, record, self.path / "run.json")

    @property
    def metrics(self) -> Metrics:
        """The content of `metrics.json`. Raises UserError as `read` does, or if a key is missing."""
        from .metrics_record import Metrics
        from .record import parsed

        return parsed(Metrics, self.read("metrics.json"), self.path / "metrics.json")

    @property
    def warnings_for_study(self) -> list[RunWarning]:
        """The stored warnings, and one if no teacher was found: a run alone says so among its results."""
        from .metrics_record import RunWarning

        stored, out = self.metrics.warnings, self.record.left_out
        if not out or any(one.kind == NO_TEACHER for one in stored):
            return stored
        return [*stored, RunWarning(kind=NO_TEACHER, message=f"No teacher: {no_teacher_words(out)}.")]

    @property
    def history(self) -> History:
        """The content of `history.json`; empty if the run has none."""
        from .metrics_record import History
        from .record import parsed

        file = self.path / "history.json"
        return parsed(History, self.read(file.name), file) if file.exists() else History()

    @property
    def split(self) -> dict[str, list[str]]:
        """The row ids of each split; empty if the run has no `split.json`."""
        rows: dict[str, list[str]] = self.read("split.json") if (self.path / "split.json").exists() else {}
        return rows

    @property
    def labels(self) -> list[str]:
        """The classes in the order of the logits."""
        return self.record.identity.data.labels

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return self.exists and self.record.finished is not None

    def check_finished(self) -> None:
        """Raise UserError, with the command that resumes the run, if it has not finished."""
        if not self.finished:
            resume = f"randout train --resume {shell_path(self.path)}"
            raise UserError(f"{self.path}: this run is not finished. Resume it with: {resume}")

    def lock(self, wait: Wait = "observe") -> AbstractContextManager[None]:
        """Lock the run folder for the duration of a context. wait: as for `locked`. Raises as `locked` does."""
        return locked(self.path, "run; wait for it, or use --fresh", wait=wait)


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def now() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def free_path(path: Path) -> Path:
    """Return `path`, or the first of `path-2`, `path-3`, ... that does not exist."""
    number, candidate = 2, path
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def list_runs(folder: Path) -> list[RunFolder]:
    """Return the runs in `folder`, sorted by name. Raises UserError if it is not a folder."""
    if not folder.is_dir():
        what = "this is a file; expected a folder of runs" if folder.exists() else "no such folder of runs"
        raise UserError(f"{folder}: {what}. `randout train` creates the folder runs; name another with --runs")
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]


def summarize_runs(folder: Path) -> list[dict[str, Any]]:
    """Summarize every run in a folder, one dictionary per run.

    Keys: name, run (folder name), started, methods, state, and validation and test accuracy (None if not available). A run
    whose record cannot be read is named by its folder.
    """
    rows: dict[str, dict[str, Any]] = {}
    records: dict[str, RunRecord] = {}
    for run in list_runs(folder):
        started, methods, splits = "", "", {}
        try:
            record = records[run.path.name] = run.record
            started, methods = record.started, "+".join(record.identity.methods)
            splits = run.metrics.splits if record.finished else {}
            state = "finished" if record.finished else "unfinished"
        except UserError as error:
            state = str(error).rsplit(": ", 1)[-1]
        scores = {name: splits[name].accuracy if name in splits else None for name in ("validation", "test")}
        rows[run.path.name] = {"run": run.path.name, "started": started, "methods": methods, "state": state, **scores}
    names = dict(zip(records, run_names(list(records.values())), strict=True))
    return [{"name": names.get(folder_name, folder_name), **row} for folder_name, row in rows.items()]


def find_run(name: Path, folder: Path) -> RunFolder:
    """Find a run by its path, or by its folder name or run name within `folder`, as listed by `summarize_runs`.

    Raises UserError if there is no such run.
    """
    inside, names = folder / name, {}
    if not name.exists() and not inside.exists() and folder.is_dir():
        names = {row["name"]: folder / row["run"] for row in summarize_runs(folder)}
        inside = names.get(str(name), inside)
    return check_run(inside if not name.exists() and inside.exists() else name, folder, names)


def check_run(path: Path, folder: Path = Path("runs"), names: Iterable[str] = ()) -> RunFolder:
    """Return the run at `path`.

    Raises UserError if there is none, with the closest names alongside `path`, in `folder` (a folder of runs), and among
    `names`.
    """
    if (path / "run.json").exists():
        return RunFolder(path)
    near = did_you_mean(list(dict.fromkeys([*closest_runs(path, folder), *closest(str(path), names)]))[:2])
    if not path.exists():
        raise UserError(f"{path}: no such run.{near} `randout runs` lists available runs")
    raise UserError(f"{path}: not a run folder (it has no run.json).{near}")


def closest_runs(path: Path, folder: Path = Path("runs")) -> list[str]:
    """Return at most two run folders with names similar to that of `path`: alongside it first, then in `folder`."""
    found: list[str] = []
    for place in dict.fromkeys((path.parent, folder)):
        with suppress(OSError):
            names = [one.parent.name for one in place.glob("*/run.json")]
            found += [str(place / name) for name in closest(path.name, names)]
    return list(dict.fromkeys(found))[:2]


def runs_there(folder: Path) -> str:
    """Return a sentence that names the first runs in a folder, to be added to an error; empty if there are none."""
    found = [run.path.name for run in list_runs(folder)] if folder.is_dir() else []
    more = ", ..." if len(found) > SHOWN_RUNS else ""
    return f" Runs in this folder: {', '.join(found[:SHOWN_RUNS])}{more}" if found else ""


def delete_run(run: RunFolder) -> None:
    """Delete a run folder. Raises UserError if it is not a run folder or is in use."""
    if not run.exists:
        raise UserError(f"{run.path}: not a run folder (it has no run.json); nothing was deleted")
    with run.lock():
        shutil.rmtree(run.path)


def openings(folder: Path, rows: str = "") -> list[Opening]:
    """Return the test openings logged in a folder of runs, oldest first.

    A test opening is one evaluation on a test split. rows: SHA-256 of the test rows; empty: openings of all test rows.
    """
    from .run_record import opening_of

    path = folder / OPENINGS
    if not path.exists():
        return []
    found = map(opening_of, path.read_text(encoding="utf-8").splitlines())
    return [entry for entry in found if entry is not None and (not rows or entry.rows == rows)]


def openings_folder(run: RunFolder, record: RunRecord) -> Path:
    """Return the folder with the log of a run's test openings: the original folder of runs, else the current parent."""
    folder = Path(os.path.normpath(run.path / record.runs))
    return folder if folder.is_dir() else run.path.parent


def test_openings_of(run: RunFolder) -> list[Opening]:
    """Return the logged openings of the test split that scored this run, oldest first."""
    record = run.record
    found = openings(openings_folder(run, record), record.rows.get("test", ""))
    return [entry for entry in found if entry.fingerprint == record.fingerprint]


def unscored_test_lines(run: RunFolder) -> list[str]:
    """Return a hint that a finished run's test split was not scored yet, and how to; empty if it was, or has no rows."""
    rows = len(run.split.get("test", ())) if run.finished else 0
    if not rows or run.metrics.test or test_openings_of(run):
        return []
    return [
        f"test    not scored yet ({plural(rows, 'row')}). Once all choices are final: "
        f"randout evaluate {shell_path(run.path)} --split test"
    ]


def record_opening(run: RunFolder, rows: str, split: str, by: str, scored: int | None = None, teacher: str = "") -> int:
    """Log one opening of a test split; return the number of openings of these rows, including this one.

    rows: SHA-256 of the test rows. by: the command that scored them. scored: number of scored rows, if a file contained
    only some of them. teacher: the teacher of the run, if it is scored on the same rows. The end of a training counts once,
    even if the training was interrupted and resumed.
    """
    record = run.record
    folder = openings_folder(run, record)
    return record_opening_in(folder, run.path.name, record.fingerprint, rows, split, by, scored, teacher)


def record_opening_in(
    folder: Path,
    name: str,
    fingerprint: str,
    rows: str,
    split: str,
    by: str,
    scored: int | None = None,
    teacher: str = "",
    since: str = "",
) -> int:
    """Log one opening in a folder of runs, as `record_opening` does. name, fingerprint: of the model that is scored.

    since: start of a study that opens the split once: an entry of the same model and command from then on is this opening,
    logged before an interruption. Empty: every call counts, except for the end of a training.
    """
    from .run_record import Opening

    with locked(folder, "log of test openings", "openings", wait="yes"):  # several processes may end a training at once
        before = openings(folder, rows)
        same = [entry for entry in before if entry.fingerprint == fingerprint and entry.by == by]
        same = [entry for entry in same if by == "train" or (since and entry.at >= since)]
        if same and same[-1].run == name:
            return len(before)
        entry = Opening(at=now(), run=name, fingerprint=fingerprint, rows=rows, split=split, by=by)
        if scored is not None:
            entry.scored = scored
        if teacher:
            entry.teacher = teacher
        with (folder / OPENINGS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry.as_json()) + "\n")
        return len(before) + 1
