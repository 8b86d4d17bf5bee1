"""What a student learns from: a teacher found or fine-tuned first, its soft labels, and whether it is any better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import models, runs, soft_labels
from .encoder import Encoder
from .errors import Failure, UserError
from .methods import GOLD
from .metrics import score
from .model_sources import Source
from .prepare import Plan
from .progress import Show
from .runs import RunFolder
from .student import Options, Taught, live_teacher


def teach(plan: Plan, options: Options, fine_tune: Callable[[Plan, Options], Path]) -> Taught | None:
    """The teachers' soft labels for the rows to learn from and to validate on, or None where there is no teacher.

    fine_tune: carries out the plan of a teacher that is a bare encoder, and returns its run folder.
    """
    for warning in plan.leak_warnings:
        options.show.warn(warning)
    first = plan.teacher or plan.teacher_plan
    if first is None:
        return None
    found = _taught(plan, first, plan.config.teacher.labels, options, fine_tune)
    others = [_taught(plan, teacher, None, options, fine_tune) for teacher in plan.more]
    return replace(found, others=tuple(others))


def _taught(
    plan: Plan,
    teacher: Source | Plan,
    labels: Sequence[str] | None,
    options: Options,
    fine_tune: Callable[[Plan, Options], Path],
) -> Taught:
    """One teacher, fine-tuned first where it is a plan. labels: its own, in the order of its outputs; None: of a further
    teacher, which must have the data's by name. Raises Failure where its logits are not finite.
    """
    source = teacher
    if isinstance(teacher, Plan):
        options.show.say(f"teacher: {teacher.student.label} is fine-tuned first")
        source = models.find(str(fine_tune(teacher, replace(options, out=None, fresh=False, pause_at=None))))
    assert isinstance(source, Source)
    dataset, table = plan.dataset, plan.config.teacher
    rows = np.concatenate(
        [dataset.split[name] for name in ("train", "validation", "unlabeled") if name in dataset.split]
    )
    texts = [dataset.texts[row] for row in rows]
    encoder = models.load(source, pack=plan.config.train.packing)
    order = soft_labels.column_order(encoder.model.config.id2label, dataset.id2label, labels, source.name)
    max_length = _teacher_length(encoder, plan, teacher, source.label)
    precision = plan.config.train.precision
    parts = soft_labels.fingerprint(source.fingerprint(), max_length, table.truncation, precision, texts)
    encoder.model.to(plan.config.train.device)
    logits = soft_labels.compute(encoder, texts, options.runs / "soft-labels", parts, options.show, source.label)
    if bad := int((~np.isfinite(logits)).any(1).sum()):
        raise Failure(
            f"teacher {source.label}: its logits are not finite on {bad} of {len(texts)} texts, so it cannot teach. "
            "train.precision = float32 helps where numbers overflow; else its weights are broken"
        )
    spread = soft_labels.teacher_rows(logits[:, order], rows, len(dataset.texts))
    own = spread[dataset.split["validation"]].numpy()
    validation = score(dataset.labels[dataset.split["validation"]], own, dataset.id2label)
    options.show.say(f"teacher {source.label}: validation accuracy {validation['accuracy']:.2%}")
    live = None
    if any(method.teacher == "model" for method in plan.methods) and teacher is (plan.teacher or plan.teacher_plan):
        live = live_teacher(plan, encoder, tuple(order), max_length)
    return Taught(source.label, spread, validation, live=live)


def _teacher_length(encoder: Encoder, plan: Plan, teacher: Source | Plan, name: str) -> int:
    """The length a teacher reads: asked for, what it was trained with, or as much as it takes up to 512."""
    asked = plan.config.teacher.max_length
    if asked != "auto":
        if int(asked) > encoder.longest:
            raise UserError(f"teacher.max_length: {asked} asked for, but {name} takes {encoder.longest} at most")
        return int(asked)
    if isinstance(teacher, Plan):
        return int(teacher.config.student.max_length)
    return min(encoder.longest, 512)


def compare_with_teacher(plan: Plan, own: dict[str, Any], teacher: Taught, run: RunFolder, show: Show) -> None:
    """Warn where the teacher is not above the plain student (a finished plain run beside, else this student)."""
    plain = own["accuracy"]
    what = "this student"
    for other in runs.list_runs(run.path.parent):
        if _is_plain_twin(other, plan):
            plain, what = other.read("metrics.json")["validation"]["accuracy"], "the plain student"
    if teacher.validation["accuracy"] <= plain:
        show.warn(
            f"the teacher ({teacher.validation['accuracy']:.2%}) is not above {what} ({plain:.2%}) on validation, "
            "so there may be little to learn from it"
        )


def _is_plain_twin(other: RunFolder, plan: Plan) -> bool:
    """Whether a run is the same student on the same rows with cross-entropy alone, finished."""
    try:
        identity = other.record["identity"] if other.finished else {"methods": {}}
    except UserError:  # of another format: not ours to judge here
        return False
    same = ("data", "split", "student")
    return identity["methods"].keys() == {GOLD} and all(identity[part] == plan.identity[part] for part in same)
