"""The teacher of a plan: located or fine-tuned, its soft labels, and whether it is better than its student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from randout.core.errors import Failure, UserError
from randout.core.wording import plural
from randout.methods.builtin import GOLD
from randout.models import loading
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.sources import Source
from randout.models.tokens import encode, truncate
from randout.stats import diagnostics
from randout.stats.diagnostics import Finding
from randout.stats.metrics import score
from randout.storage import run_folder
from randout.storage.metrics_record import RunWarning, Scores
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import TRAINED, read_seen

from . import soft_labels
from .imported_teacher import ImportedTeacher
from .options import Options
from .plan import Plan, TeacherOutputs
from .run_warnings import as_records
from .student import live_teacher
from .teacher_comparison import TIMED_ROWS, texts_per_second


def prepare_teacher(plan: Plan, options: Options, fine_tune: Callable[[Plan, Options], Path]) -> TeacherOutputs | None:
    """Return the teachers' soft labels for the training, unlabelled and validation rows; None without a teacher.

    fine_tune: executes the plan of a teacher that is still a pretrained encoder, and returns its run folder.
    """
    for warning in plan.leak_warnings:
        options.show.warn(warning)
    if not plan.has_teacher:
        return None
    first, *more = plan.teachers
    found = _outputs_of(plan, first, plan.config.teacher.labels, options, fine_tune)
    others = [_outputs_of(plan, teacher, None, options, fine_tune) for teacher in more]
    return replace(found, others=tuple(others))


def _outputs_of(
    plan: Plan,
    teacher: Source | ImportedTeacher | Plan,
    labels: Sequence[str] | None,
    options: Options,
    fine_tune: Callable[[Plan, Options], Path],
) -> TeacherOutputs:
    """Return the outputs of one teacher, which is fine-tuned first if it is a plan. Raises Failure for non-finite logits.

    labels: names of its outputs, in their order; None: for a further teacher, whose own names must be those of the data.
    """
    if isinstance(teacher, ImportedTeacher):
        return TeacherOutputs(teacher.label, torch.from_numpy(teacher.logits), teacher.validation, imported=teacher)
    source = teacher
    if isinstance(teacher, Plan):
        options.show.say(f"teacher: fine-tuning {teacher.student.label} first")
        source = loading.find(str(fine_tune(teacher, replace(options, out=None, fresh=False, pause_at=None))))
    assert isinstance(source, Source)
    dataset, table = plan.dataset, plan.config.teacher
    rows = np.concatenate(
        [dataset.split[name] for name in ("train", "validation", "unlabeled") if name in dataset.split]
    )
    texts = [dataset.texts[row] for row in rows]
    encoder = loading.load(source, pack=plan.config.train.packing, precision=plan.config.train.precision)
    for note in encoder.notes:
        options.show.say(f"teacher {note}")
    order = soft_labels.column_order(encoder.model.config.id2label, dataset.id2label, labels, source.name)
    max_length = _teacher_length(encoder, plan, teacher, source.label)
    precision = plan.config.train.precision
    parts = soft_labels.fingerprint(source.fingerprint(), max_length, table.truncation, precision, texts)
    encoder.model.to(plan.config.train.device)
    logits = soft_labels.compute(encoder, texts, options.runs / "soft-labels", parts, options.show, source.label)
    if bad := int((~np.isfinite(logits)).any(1).sum()):
        raise Failure(
            f"teacher {source.label}: its logits are not finite for {bad} of {len(texts)} texts, so it cannot be used. "
            "Set train.precision = float32 if values overflow; otherwise its weights are damaged"
        )
    spread = soft_labels.teacher_rows(logits[:, order], rows, len(dataset.texts))
    held = dataset.split["validation"]
    own = spread[held].numpy()
    if not isinstance(teacher, Plan):  # a teacher that is fine-tuned here has the data's labels
        names = list(dataset.id2label.values())
        known = held[dataset.labels[held] < len(names)]
        made = spread[known].numpy().argmax(1)
        diagnostics.check_teacher(dataset.labels[known], made, dataset.groups[known], names, order, source.label)
    validation = score(dataset.labels[held], own, dataset.id2label, unseen=dataset.unseen)
    record = read_seen(source.folder)
    taught = int(np.count_nonzero(record.roles_of(dataset.hashes[held]) & TRAINED)) if record else 0
    seen = f" (the teacher was trained on {taught:,} of these {plural(len(held), 'row')})" if taught else ""
    options.show.say(f"teacher {source.label}: validation accuracy {validation['accuracy']:.2%}{seen}")
    live = None
    if any(method.teacher == "model" for method in plan.methods) and teacher is plan.teachers[0]:
        live = live_teacher(plan, encoder, tuple(order), max_length)
    about = {
        "parameters": sum(p.numel() for p in encoder.model.parameters()),
        "texts_per_second": _speed(encoder, plan, parts),
    }
    return TeacherOutputs(source.label, spread, validation, live=live, about=about)


def _speed(encoder: Encoder, plan: Plan, parts: dict[str, str]) -> float:
    """Return a teacher's speed in texts per second, on some validation rows in float32, as a saved student is scored."""
    held = plan.dataset.split["validation"][:TIMED_ROWS]
    encoded = encode(encoder.tokenizer, [plan.dataset.texts[row] for row in held])
    tokens = truncate(encoded, int(parts["max_length"]), parts["truncation"], encoder.suffix, encoder.prefix)
    return texts_per_second(lambda few: predict(encoder, tokens, few, "float32"), np.arange(len(held)))


def _teacher_length(encoder: Encoder, plan: Plan, teacher: Source | Plan, name: str) -> int:
    """Return a teacher's maximum length in tokens: the requested one, that of its training, or its own limit up to 512."""
    asked = plan.config.teacher.max_length
    if asked != "auto":
        if int(asked) > encoder.longest:
            raise UserError(f"teacher.max_length: found {asked}, but {name} takes at most {encoder.longest} tokens")
        return int(asked)
    if isinstance(teacher, Plan):
        return int(teacher.config.student.max_length)
    return min(encoder.longest, 512)


def teacher_warnings(plan: Plan, own: Scores, teacher: TeacherOutputs | None, run: RunFolder) -> list[RunWarning]:
    """Return the warnings about the teachers of a finished student.

    They are: no teacher although a method needs one, a teacher that is not above the majority class, and a first teacher
    that is not above the plain student (a finished plain run in the same folder, else this student). own: the student's
    validation metrics.
    """
    if teacher is None:
        left_out = run.record.left_out
        return as_records([no_teacher(left_out)] if left_out else [])
    dataset = plan.dataset
    held, names = dataset.split["validation"], dataset.names
    majority = int(np.bincount(dataset.labels[dataset.split["train"]]).argmax())
    found = []
    for one in (teacher, *teacher.others):
        scored = held[~np.isnan(one.logits[held].numpy()).any(1)]  # imported soft labels may lack some rows
        if not len(scored):
            continue
        made = one.logits[scored].numpy().argmax(1)
        weak = diagnostics.weak_teacher(
            dataset.labels[scored], made, dataset.groups[scored], names, majority, one.name, _metric(plan)
        )
        if weak is None and one is teacher and len(scored) == len(held):
            weak = _not_above_student(plan, own, teacher, run)
        found += [weak] if weak else []
    return as_records(found)


def no_teacher(left_out: Sequence[str]) -> Finding:
    """Return the warning that methods of the default preset were left out because no teacher was found."""
    text = f"No teacher was found, so the student was trained without {' and '.join(left_out)}. "
    return Finding(
        "no-teacher",
        f"{text}Use --teacher NAME to distil from a model, or --teacher none to train without a teacher on purpose.",
    )


def _not_above_student(plan: Plan, own: Scores, teacher: TeacherOutputs, run: RunFolder) -> Finding | None:
    metric = _metric(plan)
    plain, its = own.value(metric), teacher.validation[metric]
    what = "this student"
    for other in run_folder.list_runs(run.path.parent):
        if _is_plain_twin(other, plan):
            plain, what = other.metrics.validation.value(metric), "the plain student"
    if its > plain:
        return None
    text = f"The teacher ({diagnostics.in_metric(metric)}{its:.2%}) is not above {what} ({plain:.2%}) on validation, "
    return Finding("weak-teacher", f"{text}so there may be little to learn from it.")


def _metric(plan: Plan) -> str:
    """Return the metric in which a run's models are compared."""
    return diagnostics.metric_for(plan.config.train.metric)


def _is_plain_twin(other: RunFolder, plan: Plan) -> bool:
    """Return whether a finished run is the same student on the same rows, trained with cross-entropy only."""
    try:
        record = other.record
    except UserError:  # written in another format: not an error here
        return False
    identity, same = record.identity.as_json(), ("data", "split", "student")
    alone = record.finished is not None and record.identity.methods.keys() == {GOLD}
    return alone and all(identity[part] == plan.identity[part] for part in same)
