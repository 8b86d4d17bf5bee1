"""The logits of a run's first teacher on the test rows of the run, for the comparison with its student.

They are read from the teacher's own run if that was scored on the same rows, else computed as `randout evaluate` does (a
decoder's: in the precision of the training), and stored in the folder `soft-labels/test`. Nothing here is read before the
test split of the student is scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from randout.core.console import Show
from randout.core.errors import UserError
from randout.models.label_thresholds import thresholds_of
from randout.models.sources import Source, find
from randout.storage.metrics_record import Scores
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder, openings_folder
from randout.storage.run_record import GivenTeacher

from . import soft_labels
from .imported_teacher import ImportedTeacher
from .plan import Plan
from .saved_model import load_classifier
from .teacher_comparison import judged_teacher_gap
from .thresholds import Thresholds

FOLDER = Path("soft-labels") / "test"  # in a folder of runs


@dataclass(frozen=True)
class TestedTeacher:
    """A teacher that can be scored on test rows. runs: the folder of runs, where its logits are stored."""

    name: str
    source: Source
    runs: Path

    @property
    def run(self) -> RunFolder | None:
        """The run that trained it; None for any other classifier."""
        found = RunFolder(self.source.folder.parent)
        return found if self.source.folder.name == "model" and found.finished else None


def teacher_of_plan(plan: Plan, runs: Path) -> TestedTeacher | None:
    """Return the first teacher of a plan, whose own training has ended; None if there is none, or only its soft labels.

    runs: the folder of runs. None also for a run of a teacher that is not there any more.
    """
    first = next(iter(plan.teachers), None)
    if first is None or isinstance(first, ImportedTeacher):
        return None
    source = _found_in(runs, first.name) if isinstance(first, Plan) else first
    return TestedTeacher(source.label, source, runs) if source is not None else None


def teacher_of_run(run: RunFolder) -> TestedTeacher | None:
    """Return the first teacher of a finished run, if it is still in the same folder of runs; else None."""
    record = run.record
    if record.teacher is None or record.teacher.soft_labels is not None:
        return None
    runs, identity = openings_folder(run, record), record.identity.teacher
    source = _found_in(runs, record.teacher.name)
    if source is None:
        return None
    found = TestedTeacher(record.teacher.name, source, runs)
    try:
        if isinstance(identity, GivenTeacher):
            same = source.fingerprint() == identity.model
        else:
            same = found.run is not None and found.run.record.fingerprint == identity
    except UserError:
        return None
    return found if same else None


def _found_in(runs: Path, name: str) -> Source | None:
    """Return the classifier in a folder of `runs`; None if there is none. It is never looked for on the hub."""
    if not (runs / name).is_dir():
        return None
    try:
        return find(str(runs / name), decoders=True)
    except UserError:  # unfinished, damaged, or a baseline
        return None


def compare_on_test(
    scores: Scores, plan: Plan, run: RunFolder, teacher: TestedTeacher, device: str, show: Show
) -> None:
    """Add the comparison with the teacher to the student's `scores` on the test rows, whose predictions are stored.

    A teacher that cannot be scored (not enough memory, a damaged folder) must not cost a trained student: it is a warning.
    """
    try:
        its = teacher_test_logits(plan, run, teacher, device, show)
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())[:300]
        show.warn(
            f"teacher {teacher.name}: it could not be scored on the test rows ({kind}{reason}), so it is not compared with "
            "the student there. The student and its scores are complete"
        )
        return
    own = read_predictions(run.predictions("test"), run.labels)
    if gap := judged_teacher_gap(plan, own.logits, its, "test", (own.thresholds, _thresholds(plan, teacher))):
        scores.teacher = gap


def _thresholds(plan: Plan, teacher: TestedTeacher) -> Thresholds:
    """Return the thresholds of a teacher in the order of the data's labels; None for one label per text."""
    own, named = teacher.source.config, plan.config.teacher.labels
    id2label = {int(at): label for at, label in own.get("id2label", {}).items()}
    found = thresholds_of(own, id2label, teacher.name)
    if found is None:
        return None
    return tuple(found[at] for at in soft_labels.column_order(id2label, plan.dataset.id2label, named, teacher.name))


def teacher_test_logits(plan: Plan, run: RunFolder, teacher: TestedTeacher, device: str, show: Show) -> np.ndarray:
    """Return a teacher's logits (n, C) for the test rows of `run`, with columns in the order of the data's classes."""
    dataset, rows = plan.dataset, plan.dataset.split["test"]

    def in_order(names: Sequence[str], logits: np.ndarray) -> np.ndarray:
        own = dict(enumerate(names))
        return logits[:, soft_labels.column_order(own, dataset.id2label, plan.config.teacher.labels, teacher.name)]

    of = teacher.run
    own = _own_logits(plan, run, of)
    if of is not None and own is not None:
        return in_order(of.labels, own)
    texts = [dataset.texts[row] for row in rows]
    precision = plan.config.train.precision if teacher.source.is_decoder else "float32"
    parts = soft_labels.fingerprint(teacher.source.fingerprint(), 0, "as trained", precision, texts)
    parts |= {"labels": json.dumps([*dataset.id2label.values(), *plan.config.teacher.labels])}
    path, stored = soft_labels.read_stored_logits(teacher.runs / FOLDER, parts)
    if stored is not None:
        return stored
    loaded = load_classifier(str(teacher.source.folder), device, precision=precision)
    with show.bar(f"scoring test with the teacher {teacher.name}", len(texts)) as advance:
        logits = loaded.logits(texts, lambda count: advance(count, ""))
    made = np.ascontiguousarray(in_order([loaded.id2label[at] for at in sorted(loaded.id2label)], logits))
    soft_labels.store(path, made, parts)
    return made


def _own_logits(plan: Plan, run: RunFolder, of: RunFolder | None) -> np.ndarray | None:
    """Return the logits of a teacher's run `of` for its test rows, if these are those of `run`, in the same order."""
    if of is None or not of.predictions("test").exists():
        return None
    mine, its = run.record, of.record
    if not mine.rows.get("test") or (mine.rows["test"], mine.labelled_data) != (
        its.rows.get("test"),
        its.labelled_data,
    ):
        return None
    found = read_predictions(of.predictions("test"), of.labels)
    same = found.rows == [plan.dataset.row_ids[row] for row in plan.dataset.split["test"]]
    return found.logits if same else None
