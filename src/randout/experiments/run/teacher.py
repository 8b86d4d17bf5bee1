"""The teacher of a plan: located or fine-tuned, and its soft labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from randout.core.errors import Failure, UserError
from randout.core.wording import plural
from randout.data.stratify import Ints
from randout.models import loading
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.label_thresholds import thresholds_of
from randout.models.sources import Source
from randout.models.tokens import encode, truncate
from randout.reporting.cross_fit import cross_fit_words
from randout.stats import diagnostics
from randout.stats.diagnostics import metric_name
from randout.stats.label_set_scores import SAMPLE_F1
from randout.stats.targets import score
from randout.storage.locks import locked
from randout.storage.seen_rows import TRAINED, read_seen

from . import cross_fit, soft_labels
from .imported_teacher import ImportedTeacher
from .options import Options
from .plan import Plan, TeacherOutputs
from .sharded_tokens import store_tokens
from .student import live_teacher
from .teacher_comparison import TIMED_ROWS

FEW_ROWS = 2000  # training rows; a hint to spend five more trainings of the teacher is for small data
MEMORIZED = 0.1  # score on training rows above that on validation rows
TIMED_PARAMETERS = 500_000_000  # a larger teacher is not loaded again to measure its speed


def prepare_teacher(plan: Plan, options: Options, fine_tune: Callable[[Plan, Options], Path]) -> TeacherOutputs | None:
    """Return the teachers' soft labels for the training, validation and unlabelled rows and views; None without a teacher.

    fine_tune: executes the plan of a teacher that is still a pretrained encoder, and returns its run folder.
    """
    for warning in plan.leak_warnings:
        options.show.warn(warning)
    if not plan.has_teacher:
        return None
    first, *more = plan.teachers
    found = _outputs_of(plan, first, plan.config.teacher.labels, options, fine_tune)
    if plan.fold_teachers:
        found = _cross_fitted(plan, found, options, fine_tune)
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
        if teacher.shards is not None:
            return _of_shards(plan, teacher, options)
        logits = torch.from_numpy(teacher.logits)
        return TeacherOutputs(
            teacher.label, logits, teacher.validation, imported=teacher, thresholds=teacher.thresholds
        )
    dataset, crossed = plan.dataset, bool(plan.fold_teachers) and teacher is plan.teacher_plan
    kinds = ("train", "validation", "unlabeled") if crossed else ("train", "validation", "unlabeled", "views")
    rows = np.concatenate([dataset.split[name] for name in kinds if name in dataset.split])
    source, encoder, order, parts, spread = _labelled(plan, teacher, labels, rows, options, fine_tune)
    held = dataset.split["validation"]
    own = spread[held].numpy()
    limits = thresholds_of(source.config, encoder.model.config.id2label, source.name)
    limits = None if limits is None else tuple(limits[at] for at in order)
    if not isinstance(teacher, Plan) and limits is None:  # a teacher that is fine-tuned here has the data's labels
        names = list(dataset.id2label.values())
        known = held[dataset.labels[held] < len(names)]
        made = spread[known].numpy().argmax(1)
        diagnostics.check_teacher(dataset.labels[known], made, dataset.groups[known], names, order, source.label)
    validation = score(dataset.truth(held), own, dataset.id2label, unseen=dataset.unseen, thresholds=limits)
    record = read_seen(source.folder)
    taught = int(np.count_nonzero(record.roles_of(dataset.hashes[held]) & TRAINED)) if record else 0
    seen = f" (the teacher was trained on {taught:,} of these {plural(len(held), 'row')})" if taught else ""
    metric = "accuracy" if limits is None else SAMPLE_F1
    options.show.say(f"teacher {source.label}: validation {metric_name(metric)} {validation[metric]:.2%}{seen}")
    learned = dataset.split["train"][dataset.labels[dataset.split["train"]] >= 0]
    in_sample = isinstance(teacher, Plan) and not crossed and not {"unlabeled", "views"} & dataset.split.keys()
    if in_sample and len(learned) <= FEW_ROWS:
        made = score(dataset.truth(learned), spread[learned].numpy(), dataset.id2label, thresholds=limits)
        if hint := memorized(made[metric], validation[metric]):
            options.show.say(hint)
    live = None
    if any(method.teacher == "model" for method in plan.methods) and teacher is plan.teachers[0]:
        live = live_teacher(plan, encoder, tuple(order), int(parts["max_length"]))
    parameters = sum(p.numel() for p in encoder.model.parameters())
    again = partial(_timed, source, plan, parts) if parameters <= TIMED_PARAMETERS else None
    about: dict[str, float] = {"parameters": parameters}
    return TeacherOutputs(source.label, spread, validation, live=live, about=about, again=again, thresholds=limits)


def memorized(learned: float, held: float) -> str:
    """Return a hint for a teacher that knows its training rows by heart; empty for others.

    learned, held: its score on these rows and on validation rows.
    """
    if learned - held < MEMORIZED:
        return ""
    return (
        f"hint: on the training rows the teacher has {learned:.1%}, so its soft labels there say little more than the labels do. "
        "Try --set teacher.cross_fit=5 (teachers that did not see the row) or --unlabeled FILE"
    )


def _of_shards(plan: Plan, teacher: ImportedTeacher, options: Options) -> TeacherOutputs:
    """Return sharded soft labels, which are stored with the student's tokens first."""
    store = store_tokens(plan, teacher, options)
    return TeacherOutputs(
        teacher.label, torch.from_numpy(store.logits), teacher.validation, imported=teacher, stored=store
    )


def _labelled(
    plan: Plan,
    teacher: Source | Plan,
    labels: Sequence[str] | None,
    rows: Ints,
    options: Options,
    fine_tune: Callable[[Plan, Options], Path],
) -> tuple[Source, Encoder, list[int], dict[str, str], torch.Tensor]:
    """Fine-tune a teacher if it is a plan, and label `rows`. Raises Failure for logits that are not finite.

    labels: as for `_outputs_of`. Returns where it is, the model, the index of its output for each class, what its logits
    depend on, and the logits (n, C) of all rows of the dataset, NaN for other rows.
    """
    source = teacher
    if isinstance(teacher, Plan):
        fold = teacher.config.data.train_fold
        left_out = f" without fold {fold} of {teacher.config.data.train_folds} of the training rows" if fold else ""
        options.show.say(f"teacher: fine-tuning {teacher.student.label} first{left_out}")
        source = loading.find(str(fine_tune(teacher, replace(options, out=None, fresh=False, pause_at=None))))
    assert isinstance(source, Source)
    dataset, table = plan.dataset, plan.config.teacher
    texts = [dataset.texts[row] for row in rows]
    encoder = loading.load(source, pack=plan.config.train.packing, precision=plan.config.train.precision)
    for note in encoder.notes:
        options.show.say(f"teacher {note}")
    order = soft_labels.column_order(encoder.model.config.id2label, dataset.id2label, labels, source.name)
    max_length = _teacher_length(encoder, plan, teacher, source.label)
    precision = plan.config.train.precision
    parts = soft_labels.fingerprint(source.fingerprint(), max_length, table.truncation, precision, texts)
    encoder.model.to(plan.config.train.device)
    folder = options.runs / "soft-labels"
    with _one_at_a_time(options, folder, parts):
        logits = soft_labels.compute(encoder, texts, folder, parts, options.show, source.label)
    if bad := int((~np.isfinite(logits)).any(1).sum()):
        raise Failure(
            f"teacher {source.label}: its logits are not finite for {bad} of {len(texts)} texts, so it cannot be used. "
            "Set train.precision = float32 if values overflow; otherwise its weights are damaged"
        )
    return source, encoder, order, parts, soft_labels.teacher_rows(logits[:, order], rows, len(dataset.texts))


def _one_at_a_time(options: Options, folder: Path, parts: dict[str, str]) -> AbstractContextManager[None]:
    """Lock the soft labels with these `parts` in a study that processes share, unless they are stored. Raises Busy."""
    path, stored = soft_labels.read_stored_logits(folder, parts) if options.shared else (folder, folder)
    if stored is not None:
        return nullcontext()
    return locked(options.runs / ".locks", "study: it computes soft labels", path.stem, wait="no")


def _cross_fitted(
    plan: Plan, whole: TeacherOutputs, options: Options, fine_tune: Callable[[Plan, Options], Path]
) -> TeacherOutputs:
    """Replace the soft labels of the training rows by those of the fold teachers, which also label the views.

    whole: the outputs of the teacher of all training rows. A row that every fold's teacher was trained on has none.
    """
    dataset, names = plan.dataset, []
    logits = whole.logits.clone()
    logits[torch.from_numpy(dataset.split["train"])] = torch.nan
    for teacher in plan.fold_teachers:
        rows = cross_fit.rows_to_label(dataset, teacher.dataset.split["train"])
        source, _, _, _, own = _labelled(plan, teacher, plan.config.teacher.labels, rows, options, fine_tune)
        index = torch.from_numpy(rows)
        logits[index] = own[index]
        names.append(source.label)
    record = cross_fit.compared(dataset, logits.numpy(), whole.logits.numpy(), len(plan.fold_teachers), names)
    options.show.say(f"cross-fitted soft labels: {cross_fit_words(record)}")
    return replace(whole, logits=logits, cross_fit=record)


def _timed(source: Source, plan: Plan, parts: dict[str, str]) -> Callable[[np.ndarray], np.ndarray]:
    """Load a teacher again, and return what computes its logits of rows of the dataset, to measure its speed.

    Without autocast, as a saved student is scored: encoders compute in float32, decoders in the dtype of their weights.
    """
    encoder = loading.load(source, pack=plan.config.train.packing, precision=plan.config.train.precision)
    encoder.model.to(plan.config.train.device)
    held = plan.dataset.split["validation"][:TIMED_ROWS]
    encoded = encode(encoder.tokenizer, [plan.dataset.texts[row] for row in held])
    tokens = truncate(encoded, int(parts["max_length"]), parts["truncation"], encoder.suffix, encoder.prefix)
    place = {int(row): at for at, row in enumerate(held)}

    def logits(rows: np.ndarray) -> np.ndarray:
        return predict(encoder, tokens, np.array([place[int(row)] for row in rows]), "float32")

    return logits


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
