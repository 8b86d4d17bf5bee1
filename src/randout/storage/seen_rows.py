"""Fingerprints of the rows that a model has learned from, inherited from its teachers and starting model.

Every run writes `seen-rows.npz` into its folder and into `model/`: a 64-bit hash of each text and the roles in which the
text was used, 9 bytes a row, and the hashes of its own test rows. A later run that learns from this model, or starts from
it, takes the rows over (the test rows not, which the model has not seen), so that held-out rows which any ancestor has seen
are found whatever file they stand in.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError
from randout.data.row_hashes import Hashes

from .run_folder import RunFolder

FILE = "seen-rows.npz"
FORMAT = 1
TRAINED, SELECTED = 1, 2
ROLES = {  # bits of `SeenRows.roles`; the rows were used to ...
    "trained": TRAINED,  # train the model itself, labelled or not
    "selected": SELECTED,  # choose its best epoch and its settings: its validation rows
    "teacher-trained": 4,
    "teacher-selected": 8,
    "teacher-earlier": 16,  # train a model that a teacher learned from or started from, at any distance
    "start-trained": 32,  # train the model that this one started from
    "start-selected": 64,
    "start-earlier": 128,
}
WORDS = {  # how a message begins; "N of the M test rows" follows
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
    """hashes: (n,) sorted, each once. roles: (n,) uint8, the bits of `ROLES`. complete: whether all ancestors that are
    classifiers had such a record; else there may be more rows than these. test: (k,) hashes of the model's own test rows,
    which it has not seen and which its descendants do not take over; None where they are not on record.
    """

    hashes: Hashes
    roles: NDArray[np.uint8]
    complete: bool = True
    test: Hashes | None = None

    def test_rows(self, hashes: Hashes) -> NDArray[np.bool_]:
        """(m,) which of other rows are test rows of the model; those that it was also trained or selected on are none."""
        held = np.isin(hashes, np.zeros(0, np.uint64) if self.test is None else self.test)
        return held & (self.roles_of(hashes) & np.uint8(TRAINED | SELECTED) == 0)

    def roles_of(self, hashes: Hashes) -> NDArray[np.uint8]:
        """(m,) the roles of other rows; 0 for a row that was never used."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.uint8)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.roles[at], np.uint8(0))

    def inherited(self, by: str) -> SeenRows:
        """These rows in the roles that they have for a descendant. by: "teacher" or "start"."""
        roles = np.zeros_like(self.roles)
        roles[self.roles & TRAINED > 0] |= _BITS[f"{by}-trained"]
        roles[self.roles & ANY_SELECTED > 0] |= _BITS[f"{by}-selected"]
        roles[self.roles & (ANY_TRAINED ^ np.uint8(TRAINED)) > 0] |= _BITS[f"{by}-earlier"]
        return SeenRows(self.hashes, roles, self.complete)


def seen_rows(hashes: Hashes, role: str) -> SeenRows:
    """Rows that were used in one role."""
    found = np.unique(hashes)
    return SeenRows(found, np.full(len(found), ROLES[role], np.uint8))


def merged(parts: Sequence[SeenRows]) -> SeenRows:
    """All rows of several records; a row has the roles of all of them."""
    if not parts:
        return SeenRows(np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    hashes, place = np.unique(np.concatenate([part.hashes for part in parts]), return_inverse=True)
    roles = np.zeros(len(hashes), np.uint8)
    np.bitwise_or.at(roles, place, np.concatenate([part.roles for part in parts]))
    return SeenRows(hashes, roles, all(part.complete for part in parts))


def write_seen(folder: Path, rows: SeenRows) -> None:
    """Write `seen-rows.npz` into a folder, whole or not at all."""
    path = folder / FILE
    partial = path.with_name(f"{FILE}.partial")
    arrays: dict[str, Any] = {"hashes": rows.hashes, "roles": rows.roles, "complete": np.array(rows.complete)}
    arrays |= {} if rows.test is None else {"test": rows.test}
    with partial.open("wb") as stream:
        np.savez(stream, format=np.array(FORMAT), **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_seen(folder: Path) -> SeenRows | None:
    """The record of a run folder or of its model folder, wherever they were copied to; None where there is none.

    Raises UserError where it is damaged or of another format.
    """
    beside = [folder.parent] if folder.name == "model" else [folder / "model"]
    path = next((place / FILE for place in (folder, *beside) if (place / FILE).is_file()), None)
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            version = int(stored["format"])
            if version != FORMAT:
                raise UserError(f"{path}: format {version}; this version of randout reads format {FORMAT}")
            test = stored["test"].astype(np.uint64) if "test" in stored else None  # earlier versions had none
            rows = SeenRows(stored["hashes"].astype(np.uint64), stored["roles"], bool(stored["complete"]), test)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: the record of the rows that this model has learned from cannot be read ({error}). Copy it again "
            "from the run; without it, it cannot be known which rows the model has seen"
        ) from None
    if rows.hashes.ndim != 1 or rows.roles.shape != rows.hashes.shape or rows.roles.dtype != np.uint8:
        raise UserError(f"{path}: not a record of the rows that a model has learned from; copy it again from the run")
    return rows


def leaked(rows: SeenRows, hashes: Hashes) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Held-out rows that ancestors of a model have seen: how many by role, and which were trained on, (m,).

    rows: of the model, its own included. A row with a copy among the model's own training rows is none of them: the
    data report counts it.
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
    """Rows of any file that a model or its ancestors have seen: how many by role, and which, (m,)."""
    roles = rows.roles_of(hashes)
    counts = {name: int(np.count_nonzero(roles & bit)) for name, bit in ROLES.items()}
    return {name: count for name, count in counts.items() if count}, roles > 0


def in_words(counts: dict[str, int], of: int, what: str) -> str:
    """`the teacher was trained on 66 of the 90 test rows; ...`. what: "test rows"."""
    own = {"selected": " (its validation rows)"}
    return "; ".join(
        f"{WORDS[role]} {count:,} of the {of:,} {what}{own.get(role, '')}" for role, count in counts.items()
    )


def of_run(run: RunFolder, split: str) -> dict[str, Any]:
    """The leaks of a finished run's scores on a split, as `metrics.json` has them: {rows, of, roles}; empty for none.

    Of a run that recorded no hashes, they are found by row numbers, as far as its teachers' runs are of the same file.
    """
    scores = run.read("metrics.json").get(split) or {}
    if "leaks" in scores or (run.path / FILE).exists() or not run.record["identity"].get("teacher"):
        return dict(scores.get("leaks") or {})
    taught, _ = rows_of_old_teachers(run)
    held = run.read("split.json").get(split, []) if (run.path / "split.json").exists() else []
    count = len(taught.intersection(held))
    return {"rows": count, "of": len(held), "roles": {"teacher-trained": count}} if count else {}


def rows_of_old_teachers(run: RunFolder) -> tuple[set[str], bool]:
    """The row numbers that a run's teachers were trained on, and whether this is known of all of them: a teacher must
    be a run in the same folder of runs, of the same file.
    """
    record = run.record
    first = record.get("teacher") or {}
    names = [str(one.get("name") or "") for one in (first, *first.get("more", ()))]
    rows: set[str] = set()
    known = True
    for name in names:
        teacher = RunFolder(run.path / str(record.get("runs", "..")) / name)
        try:
            same = bool(name) and teacher.record.get("data") == record.get("data")
            rows.update(teacher.read("split.json").get("train", []) if same else [])
        except UserError:
            same = False
        known = known and same
    return rows, known
