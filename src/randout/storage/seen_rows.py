"""Fingerprints of the rows that a model has learned from, inherited from its teachers and starting model.

Every run writes `seen-rows.npz` into its folder and into `model/`: a 64-bit hash of each text with the roles in which it
was used (9 bytes per row), and the hashes of the run's own test rows. A later run that learns or starts from this model
inherits the rows, but not the test rows, which the model has not seen. Held-out rows that any ancestor has seen are
therefore detected, whatever file they come from.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError
from randout.core.files import atomic
from randout.data.row_hashes import Hashes

from .metrics_record import Leaks
from .run_folder import RunFolder

FILE = "seen-rows.npz"
FORMAT = 1
TRAINED, SELECTED = 1, 2
ROLES = {  # bits of `SeenRows.roles`: what the rows were used for
    "trained": TRAINED,  # training the model itself, with or without labels
    "selected": SELECTED,  # choosing its epoch and settings (its validation rows)
    "teacher-trained": 4,
    "teacher-selected": 8,
    "teacher-earlier": 16,  # training any ancestor of a teacher
    "start-trained": 32,  # training the model that this one started from
    "start-selected": 64,
    "start-earlier": 128,
}
ROLE_PHRASES = {  # start of a message; "N of the M test rows" follows
    "trained": "this model was trained on",
    "selected": "this model was selected on",
    "teacher-trained": "the teacher was trained on",
    "teacher-selected": "the teacher was selected on",
    "teacher-earlier": "a model that the teacher learned from or started from was trained on",
    "start-trained": "the model that the student starts from was trained on",
    "start-selected": "the model that the student starts from was selected on",
    "start-earlier": "a model that the student's starting model learned from or started from was trained on",
}
_BITS = {name: np.uint8(bit) for name, bit in ROLES.items()}
ANY_TRAINED = np.uint8(sum(bit for name, bit in ROLES.items() if not name.endswith("selected")))
ANY_SELECTED = np.uint8(sum(bit for name, bit in ROLES.items() if name.endswith("selected")))


@dataclass(frozen=True)
class SeenRows:
    """Rows that a model and its ancestors have seen.

    hashes: (n,) sorted, unique. roles: (n,) uint8, bits of `ROLES`. complete: whether every ancestor that is a classifier
    had such a record; if not, there may be more rows. test: (k,) hashes of the model's own test rows, which it has not seen
    and which descendants do not inherit; None if they were not recorded.
    """

    hashes: Hashes
    roles: NDArray[np.uint8]
    complete: bool = True
    test: Hashes | None = None

    def test_rows(self, hashes: Hashes) -> NDArray[np.bool_]:
        """(m,) bool: which of the given rows are test rows of the model, except rows it was also trained or selected on."""
        held = np.isin(hashes, np.zeros(0, np.uint64) if self.test is None else self.test)
        return held & (self.roles_of(hashes) & np.uint8(TRAINED | SELECTED) == 0)

    def roles_of(self, hashes: Hashes) -> NDArray[np.uint8]:
        """(m,) uint8: roles of the given rows; 0 for a row that was never used."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.uint8)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.roles[at], np.uint8(0))

    def inherited(self, by: str) -> SeenRows:
        """Return these rows with their roles for a descendant. by: relation to the descendant, "teacher" or "start"."""
        roles = np.zeros_like(self.roles)
        roles[self.roles & TRAINED > 0] |= _BITS[f"{by}-trained"]
        roles[self.roles & ANY_SELECTED > 0] |= _BITS[f"{by}-selected"]
        roles[self.roles & (ANY_TRAINED ^ np.uint8(TRAINED)) > 0] |= _BITS[f"{by}-earlier"]
        return SeenRows(self.hashes, roles, self.complete)


def seen_rows(hashes: Hashes, role: str) -> SeenRows:
    """Create a record of rows used in one role (a key of `ROLES`)."""
    found = np.unique(hashes)
    return SeenRows(found, np.full(len(found), ROLES[role], np.uint8))


def merged(parts: Sequence[SeenRows]) -> SeenRows:
    """Merge several records; a row gets its roles in all of them."""
    if not parts:
        return SeenRows(np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    hashes, place = np.unique(np.concatenate([part.hashes for part in parts]), return_inverse=True)
    roles = np.zeros(len(hashes), np.uint8)
    np.bitwise_or.at(roles, place, np.concatenate([part.roles for part in parts]))
    return SeenRows(hashes, roles, all(part.complete for part in parts))


def write_seen(folder: Path, rows: SeenRows) -> None:
    """Write `seen-rows.npz` into a folder atomically."""
    arrays: dict[str, Any] = {"hashes": rows.hashes, "roles": rows.roles, "complete": np.array(rows.complete)}
    arrays |= {} if rows.test is None else {"test": rows.test}
    with atomic(folder / FILE) as partial, partial.open("wb") as stream:
        np.savez(stream, format=np.array(FORMAT), **arrays)


def read_seen(folder: Path) -> SeenRows | None:
    """Read the record of a run folder or a model folder; return None if there is none.

    Raises UserError if the record is damaged or has an unsupported format.
    """
    alternatives = [folder.parent] if folder.name == "model" else [folder / "model"]
    path = next((place / FILE for place in (folder, *alternatives) if (place / FILE).is_file()), None)
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            version = int(stored["format"])
            if version != FORMAT:
                raise UserError(f"{path}: has format {version}; this version of randout reads format {FORMAT}")
            test = stored["test"].astype(np.uint64) if "test" in stored else None  # earlier versions had none
            rows = SeenRows(stored["hashes"].astype(np.uint64), stored["roles"], bool(stored["complete"]), test)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: cannot read the record of the rows that this model has seen ({error}). Copy it again from the run; "
            "without it, leaks of test rows cannot be detected"
        ) from None
    if rows.hashes.ndim != 1 or rows.roles.shape != rows.hashes.shape or rows.roles.dtype != np.uint8:
        raise UserError(f"{path}: not a record of the rows that a model has seen. Copy it again from the run")
    return rows


def leaked(rows: SeenRows, hashes: Hashes) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Find held-out rows that ancestors of a model have seen.

    rows: the model's record, including its own rows. hashes: (m,) of the held-out rows. Rows with a copy among the model's
    own training rows are not counted here, as the data report counts them.

    Returns the number of rows by role, and (m,) bool: which rows an ancestor was trained on.
    """
    roles = rows.roles_of(hashes)
    roles = np.where(roles & TRAINED > 0, np.uint8(0), roles)
    selected = np.where(roles & SELECTED > 0, np.uint8(0), roles)
    counts: dict[str, int] = {}
    for name, bit in ROLES.items():
        if name not in ("trained", "selected"):
            found = int(np.count_nonzero((selected if name.endswith("selected") else roles) & bit))
            counts |= {name: found} if found else {}
    return counts, (roles & ANY_TRAINED) > 0


def seen_in(rows: SeenRows, hashes: Hashes) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Find rows that a model or its ancestors have seen: the number by role, and (m,) bool which rows.

    Rows that the model was both selected and trained on (by a refit) count as trained only.
    """
    roles = rows.roles_of(hashes)
    roles = np.where(roles & TRAINED > 0, roles & ~np.uint8(SELECTED), roles)
    counts = {name: int(np.count_nonzero(roles & bit)) for name, bit in ROLES.items()}
    return {name: count for name, count in counts.items() if count}, roles > 0


def in_words(counts: dict[str, int], of: int, what: str) -> str:
    """Describe counts by role: `the teacher was trained on 66 of the 90 test rows; ...`. what: such as "test rows"."""
    own = {"selected": " (its validation rows)"}
    return "; ".join(
        f"{ROLE_PHRASES[role]} {count:,} of the {of:,} {what}{own.get(role, '')}" for role, count in counts.items()
    )


def of_run(run: RunFolder, split: str) -> Leaks | None:
    """Return the leaks of a finished run on a split, as in `metrics.json`; None if there are none.

    For a run without recorded hashes, leaks are found by row numbers, if its teachers are runs on the same file.
    """
    scores = run.metrics.splits.get(split)
    if scores and scores.leaks:
        return scores.leaks
    if (run.path / FILE).exists() or not run.record.identity.teacher:
        return None
    teacher_rows, _ = rows_of_old_teachers(run)
    held = run.split.get(split, [])
    count = len(teacher_rows.intersection(held))
    return Leaks(rows=count, of=len(held), roles={"teacher-trained": count}) if count else None


def rows_of_old_teachers(run: RunFolder) -> tuple[set[str], bool]:
    """Return the row ids that a run's teachers were trained on, and whether they are known for all teachers.

    They are known for a teacher that is a run in the same folder of runs, trained on the same file.
    """
    record = run.record
    rows: set[str] = set()
    known = bool(record.teachers)
    for used in record.teachers:
        teacher = RunFolder(run.path / record.runs / used.name)
        try:
            same = teacher.record.data == record.data
            rows.update(teacher.split.get("train", []) if same else [])
        except UserError:
            same = False
        known = known and same
    return rows, known
