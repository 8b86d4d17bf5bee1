"""Chooses the student between an encoder and a bag-of-words baseline (`--student auto`), without the test rows.

The bag-of-words baseline is cheaper to train and run, so it becomes the student unless it is worse: if its score is at
least the encoder's, or lower by less than `MARGIN` (the lower end of the 90 % interval of the paired difference, a
one-sided test at 5 %). Both are scored on the validation rows, or, if these are too few, on the training rows by
cross-validation (`Plan.chooses_by_folds`). Label sets are decided by thresholds of each student's own, tuned on the
validation rows, or in cross-validation on the rows of the other folds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.files import replace_text
from randout.data.dataset import Dataset, training_folds
from randout.reporting.text import BAG_OF_WORDS, ENCODER, choice_lines
from randout.stats import diagnostics
from randout.stats.targets import classes_of, predicted, rates_of, widened_sets
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import Candidate, RunRecord, StudentChoice

from .options import Options
from .plan import FOLDS, Plan, TeacherOutputs, TrainedStudent
from .planning import without_alternative
from .teacher_comparison import MARGIN
from .thresholds import tuned

FOLDER = "choice"  # subfolder of a run folder, until the run is finished


def train_chosen(
    plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options
) -> tuple[Plan, TrainedStudent]:
    """Choose between the two students of a plan with an alternative, and train the chosen one.

    The choice is recorded in `run.json` first. Returns the plan of the chosen student, and the trained student. Raises
    Stopped, UserError, Failure.
    """
    assert plan.alternative is not None
    trained: dict[str, TrainedStudent] = {}
    plans = {ENCODER: without_alternative(plan), BAG_OF_WORDS: plan.alternative}

    def train_kind(kind: str) -> TrainedStudent:
        if kind not in trained:
            one = plans[kind]
            trained[kind] = one.student.train(one, run, teacher if one.has_teacher else None, options)
        return trained[kind]

    choice = run.record.choice
    if choice is None:
        choice = _choose_by_folds(plan, run, options) if plan.chooses_by_folds else None
        choice = choice or _choose_by_validation(plan, train_kind)
        record = run.record
        record.choice = choice
        run.write("run.json", record.as_json())
    for line in choice_lines(choice):
        options.show.say(line)
    return plans[choice.chosen], train_kind(choice.chosen)


def chosen_plan(plan: Plan, record: RunRecord) -> Plan:
    """Return the plan of the student that a run's record says was chosen; the plan itself if there was no choice."""
    if plan.alternative is None or record.choice is None:
        return plan
    return plan.alternative if record.choice.chosen == BAG_OF_WORDS else without_alternative(plan)


def _choose_by_validation(plan: Plan, train_kind: Any) -> StudentChoice:
    """Choose on the validation rows. train_kind: trains the student of a kind, "encoder" or "words"."""
    rows = plan.dataset.split["validation"]
    logits = {ENCODER: train_kind(ENCODER).logits(rows, lambda done: None)}
    try:
        logits[BAG_OF_WORDS] = train_kind(BAG_OF_WORDS).logits(rows, lambda done: None)
    except UserError as error:  # no text has a word
        return _only_encoder(plan, str(error))
    made = {kind: predicted(one, tuned(plan.dataset, rows, one)) for kind, one in logits.items()}
    return judged(plan, rows, made, "validation")


def _choose_by_folds(plan: Plan, run: RunFolder, options: Options) -> StudentChoice | None:
    """Choose by cross-validation on the training rows; each finished fold is stored.

    Returns None if the rows cannot be split into folds.
    """
    dataset, encoder = plan.dataset, without_alternative(plan)
    assert plan.alternative is not None
    train_rows = dataset.split["train"]
    try:
        fold = training_folds(dataset, FOLDS)[train_rows]
    except UserError as error:
        options.show.say(f"choice: the training rows cannot be split into folds ({error}); the validation rows decide")
        return None
    table = encoder.config.train.model_copy(
        update={"keep": "last", "patience": 0, "validate_every": encoder.config.train.epochs}
    )
    logits = {kind: np.zeros((len(train_rows), len(dataset.id2label))) for kind in (ENCODER, BAG_OF_WORDS)}
    for number in range(FOLDS):
        held, rest = train_rows[fold == number], train_rows[fold != number]
        part = replace(dataset, split={"train": rest, "validation": held})
        own = RunFolder(run.path / FOLDER / f"fold-{number + 1}")
        stored = own.path / "logits.json"
        if not stored.exists():
            options.show.say(
                f"choice: fold {number + 1} of {FOLDS}, {len(rest):,} rows train and {len(held):,} are scored"
            )
            config = encoder.config.model_copy(update={"train": table})
            found = {ENCODER: _logits(replace(encoder, dataset=part, config=config), own, held, options)}
            try:
                found[BAG_OF_WORDS] = _logits(replace(plan.alternative, dataset=part), own, held, options)
            except UserError as error:  # no text has a word
                return _only_encoder(plan, str(error))
            replace_text(stored, json.dumps({kind: one.tolist() for kind, one in found.items()}))
        for kind, one in json.loads(stored.read_text(encoding="utf-8")).items():
            logits[kind][fold == number] = one
    known = fold >= 0
    rows = train_rows[known]
    made = {kind: predicted_by_fold(dataset, rows, one[known], fold[known]) for kind, one in logits.items()}
    return judged(plan, rows, made, "cross-validation")


def predicted_by_fold(dataset: Dataset, rows: np.ndarray, logits: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the predictions (n,) or (n, C) from out-of-fold logits (n, C); fold: (n,) of each row.

    The label sets of a fold are decided by the thresholds that are tuned on the rows of all other folds, so that no row helps
    to decide its own.
    """
    if dataset.sets is None:
        return predicted(logits, None)
    made = np.zeros(logits.shape, bool)
    for number in np.unique(fold):
        held = fold == number
        made[held] = predicted(logits[held], tuned(dataset, rows[~held], logits[~held]))
    return made


def _logits(plan: Plan, run: RunFolder, rows: np.ndarray, options: Options) -> np.ndarray:
    run.path.mkdir(parents=True, exist_ok=True)
    return plan.student.train(plan, run, None, replace(options, tracked=None)).logits(rows, lambda done: None)


def judged(plan: Plan, rows: np.ndarray, made: Mapping[str, np.ndarray], by: str) -> StudentChoice:
    """Return the choice as it is recorded.

    made: (n,) predicted classes of each kind, or (n, C) label sets, for `rows` of the dataset.
    """
    labels, groups = plan.dataset.truth(rows), plan.dataset.groups[rows]
    classes = classes_of(labels, len(plan.dataset.id2label))  # labels without a training row come last
    metric = diagnostics.metric_for(plan.config.train.metric)
    made = {kind: widened_sets(one, classes) for kind, one in made.items()}
    scores = {kind: rates_of(labels, one, classes)[metric] for kind, one in made.items()}
    pair = diagnostics.compared(labels, made[ENCODER], made[BAG_OF_WORDS], groups, classes, metric)
    difference = scores[BAG_OF_WORDS] - scores[ENCODER]
    words = difference >= 0 or (pair is not None and pair.low90 > -MARGIN)
    found = StudentChoice(
        chosen=BAG_OF_WORDS if words else ENCODER,
        by=by,
        rows=len(rows),
        metric=metric,
        margin=MARGIN,
        encoder=Candidate(name=plan.student.label, score=scores[ENCODER]),
        words=Candidate(name=plan.config.student.alternative, score=scores[BAG_OF_WORDS]),
        difference=difference,
    )
    if pair is not None:
        found.low90, found.high90 = pair.low90, pair.high90
    return found


def _only_encoder(plan: Plan, why: str) -> StudentChoice:
    encoder, words = plan.student.label, plan.config.student.alternative
    return StudentChoice(chosen=ENCODER, why=why, encoder=Candidate(name=encoder), words=Candidate(name=words))
