"""Soft labels of training rows from teachers that were not trained on them (`teacher.cross_fit`).

A teacher that has memorized its training rows gives them labels close to the gold ones, with too much confidence, so its
student learns little more than the gold label from them. With K folds of the training rows, teacher k is trained without
fold k and labels fold k (Dao et al. 2021, 2104.09732, section 4.2). Rows that no teacher is trained on (validation rows,
unlabelled texts) are labelled by the teacher of all training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from randout.core.config import Config, TeacherTable, TrainTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset, training_folds
from randout.data.stratify import Ints
from randout.methods.base import Method
from randout.models.sources import Source
from randout.stats.label_set_scores import DEFAULT_THRESHOLD
from randout.stats.targets import score
from randout.storage.run_record import CrossFit, SoftLabelScores

from .imported_teacher import ImportedTeacher
from .plan import Plan
from .run_request import TEACHERS_OWN

SCORES = ("accuracy", "log_loss", "expected_calibration_error")


def check(config: Config, teacher: Source | ImportedTeacher | None, methods: Sequence[Method]) -> None:
    """Raise UserError if soft labels cannot be cross-fitted. teacher: the first one, as found."""
    table = config.teacher
    start = f"teacher.cross_fit = {table.cross_fit}"
    if table.cross_fit == 1:
        raise UserError(f"{start}: expected 2 or more folds, or 0 for one teacher of all training rows")
    if not table.cross_fit:
        return
    if config.data.train_folds:
        raise UserError(
            f"{start}: data.train_folds = {config.data.train_folds} already leaves out a fold of the training rows, and the "
            "teachers would be trained on folds of the rest. Set data.train_folds = 0 and data.train_fold = 0, or "
            "teacher.cross_fit = 0"
        )
    if teacher is None:
        raise UserError(
            f"{start}: there is no teacher to fine-tune for each fold. Name an encoder with --teacher and use a method that "
            "learns from it (--preset kd), or set teacher.cross_fit = 0"
        )
    if isinstance(teacher, ImportedTeacher) or teacher.is_classifier:
        what = "a file of soft labels" if isinstance(teacher, ImportedTeacher) else "a finished classifier"
        raise UserError(
            f"{start}: {teacher.label} is {what}, and what it was trained on cannot be changed. Name a pretrained encoder "
            "with --teacher, which is fine-tuned for each fold, or set teacher.cross_fit = 0"
        )
    if table.more:
        raise UserError(f"{start}: not supported with further teachers. Remove teacher.more or teacher.cross_fit")
    if running := [method.name for method in methods if method.teacher == "model"]:
        raise UserError(
            f"{start}: methods.{running[0]} runs one teacher on every text instead of reading stored soft labels. Remove the "
            "method, or set teacher.cross_fit = 0"
        )


def settings_to_repeat(plan: Plan) -> tuple[dict[str, Any], TrainTable]:
    """Return the settings of `[teacher]`, and the table `[train]`, by which a cross-fitted training can be repeated.

    The teachers, which are fine-tuned again, have their settings as requested: with "auto", the teacher of all rows has
    other epochs than those of the folds. `[train]` is that of the student, resolved, except for `validate_every`, which the
    teachers take from it and resolve by their own epochs.
    """
    asked = plan.asked or plan.config.train
    own = [key for key in TEACHERS_OWN if getattr(plan.config.teacher, key) == "same"]
    train = plan.config.train.model_copy(update={"validate_every": asked.validate_every})
    return {key: getattr(asked, key) or "auto" for key in own}, train


def folds_of(dataset: Dataset, table: TeacherTable) -> Ints | None:
    """Return (n,) the fold of each training row as `training_folds` does; None without cross-fitting. Raises UserError."""
    if not table.cross_fit:
        return None
    try:
        return training_folds(dataset, table.cross_fit)
    except UserError as error:
        raise UserError(f"teacher.cross_fit = {table.cross_fit}: the training rows cannot be split: {error}") from None


def rows_to_label(dataset: Dataset, taught: Ints) -> Ints:
    """Return the rows that a fold's teacher labels: training rows that it was not trained on, and views of these alone.

    taught: the rows that it was trained on.
    """
    unseen = np.setdiff1d(dataset.split["train"], taught)
    if dataset.views is None:
        return unseen
    of = np.array([(view.source, view.partner) for view in dataset.views.made], dtype=np.int64).reshape(-1, 2)
    apart = np.isin(of[:, 0], unseen) & ((of[:, 1] < 0) | np.isin(of[:, 1], unseen))
    return np.concatenate([unseen, dataset.split["views"][apart]])


def compared(
    dataset: Dataset, out_of_fold: np.ndarray, in_sample: np.ndarray, folds: int, teachers: Sequence[str]
) -> CrossFit:
    """Score both soft labels (n, C) of all rows on the training rows that have one by a fold's teacher, against gold."""
    train = dataset.split["train"]
    rows = train[~np.isnan(out_of_fold[train]).any(1)]
    scored = []
    for logits in (out_of_fold, in_sample):
        limits = None if dataset.sets is None else (DEFAULT_THRESHOLD,) * len(dataset.id2label)
        truth = dataset.truth(rows)
        found = score(truth, logits[rows], dataset.id2label, unseen=dataset.unseen, thresholds=limits)
        scored.append(SoftLabelScores(**{name: found[name] for name in SCORES}))
    return CrossFit(
        folds=folds,
        rows=len(rows),
        without=len(train) - len(rows),
        out_of_fold=scored[0],
        in_sample=scored[1],
        teachers=list(teachers),
    )
