"""Turns a request into a plan: data split, models found, every "auto" resolved, and a fingerprint of all of it.

Nothing is trained or written here. Each automatic decision becomes a note, which is logged before training starts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from randout.baselines.base import COMMON_SETTINGS
from randout.baselines.settings import resolve_settings
from randout.core.config import ALTERNATIVE, AUTO_STUDENT, Config, StudentTable, TeacherTable, TrainTable
from randout.core.errors import UserError
from randout.core.launch import process_count
from randout.core.wording import plural, verb
from randout.data.composed_text import SEPARATOR
from randout.data.dataset import Dataset, data_identity, load, without_training_fold
from randout.data.stratify import Ints
from randout.data.text_fields import read_fields
from randout.data.views import make_views
from randout.methods.base import GOLD_LOSS, Method, Size, overrides, takes_label_sets
from randout.methods.builtin import GOLD, METHODS
from randout.methods.compatibility import check_parts, check_targets, check_weights, learned_rows, methods_of
from randout.methods.contrastive import Contrastive
from randout.models import loading
from randout.models.heads import check_layers
from randout.models.mean_pooling import Pooling
from randout.models.sources import CLASSIFIER_NAMES, DEFAULT_STUDENT, Source, find, local_encoders
from randout.models.tokenization import token_copies, tokens_for
from randout.models.tokens import Tokens
from randout.storage.run_folder import RunFolder

from . import cross_fit, defaults, leaks
from .imported_teacher import ImportedTeacher, find_teacher, import_teacher, is_soft_label_file
from .plan import FOLDS, Plan
from .sharded_labels import with_sharded_rows
from .soft_labels import check_kind, column_order
from .student_kinds import Baseline, EncoderStudent, baseline_of
from .thresholds import metric_of_targets

CPU_TEACHER = 600 * 2**20  # bytes of weights of the largest teacher that is chosen automatically without a GPU


def make(
    config: Config, dataset: Dataset | None = None, required: Collection[str] = (), alternatives: bool = False
) -> Plan:
    """Resolve everything that `config` leaves open into a plan. Raises UserError for a request that cannot be met.

    dataset: the data, if it has been read already. required: methods that were requested by name. Without a teacher, a
    method that needs one is an error if it is required, and is left out if it only comes with the default preset.
    alternatives: whether the student may be chosen between two (`student.alternative`).
    """
    if config.student.model == AUTO_STUDENT:
        own = config.student.model_copy(update={"model": "", "alternative": ALTERNATIVE})
        config = config.model_copy(update={"student": own})
    if config.student.alternative and not alternatives:
        raise UserError(
            f'student.model = "{AUTO_STUDENT}" (student.alternative): only `randout train` chooses between an encoder and a '
            "bag-of-words classifier, one training at a time. Name the student: --student ENCODER or --student "
            f"{ALTERNATIVE}"
        )
    baseline = baseline_of(config)
    if baseline is not None:
        return _baseline_plan(config, baseline, dataset)
    return _encoder_plan(config, dataset or load(config.data), required)


def _encoder_plan(config: Config, dataset: Dataset, required: Collection[str]) -> Plan:
    """Return the plan of a student that is an encoder."""
    notes: list[str] = []
    found = dict(zip(("device", "precision"), machine(config), strict=True))
    train = config.train.model_copy(update={**found, "batch_parts": config.train.batch_parts or process_count()})
    student = _find_student(config.student, notes)
    methods = methods_of(config)
    teacher, name = _find_teacher(config, methods, student, dataset, train.device, notes)
    dataset = with_sharded_rows(config, dataset, teacher)
    distilling = [method.name for method in methods if method.teacher]
    missing = distilling if teacher is None and config.teacher.model == "auto" else []
    if teacher is None:
        methods = _without_teacher(methods, dataset, config.teacher.model, required, notes)
    if not any(GOLD_LOSS in method.losses or method.teacher for method in methods):
        raise UserError(
            f"methods: no method with a training target is left. Keep methods.{GOLD}, or a method that learns from a teacher, "
            "together with a teacher"
        )
    methods = _suitable_methods(methods, dataset, required, notes)
    check_targets(methods, dataset)
    check_parts(methods, train.batch_parts, train.batch_size)
    if config.data.weight_column:
        check_weights(methods)
    cross_fit.check(config, teacher, methods)
    folds = cross_fit.folds_of(dataset, config.teacher)
    plain, dataset = dataset, _with_views(config, dataset, methods, teacher, folds, notes)
    if not required:
        used = " + ".join(method.name for method in methods)
        how = "by default and without a teacher" if missing else "by default"
        notes.append(f"methods: {used}, {how} (others: --preset NAME or --set methods.NAME=true)")
    settings, tokens = _student_settings(config.student, methods, student, dataset, train.device, notes)
    as_asked, train = train, _train_settings(_with_metric(train, dataset, notes), methods, student, dataset, notes)
    config = config.model_copy(
        update={
            "student": settings,
            "teacher": config.teacher.model_copy(update={"model": name, "revision": _revision_of(teacher, config)}),
            "train": train,
            "methods": {method.name: method.model_dump(mode="json") for method in methods},
        }
    )
    own = EncoderStudent(student)
    plan = Plan(config, dataset, methods, own, tokens, notes=tuple(notes), left_out=tuple(missing), asked=as_asked)
    if isinstance(teacher, ImportedTeacher) or (teacher is not None and teacher.is_classifier):
        plan = replace(plan, teacher=teacher)
    elif teacher is not None:
        own_config = teacher_config(_requested_config(plan), name)
        gold = _labelled_only(plain, own_config)
        plan = replace(plan, teacher_plan=make(own_config, gold))
        plan = replace(plan, fold_teachers=_fold_teachers(plan, own_config, gold))
    further: list[str] = []
    more = _find_more_teachers(plan, further)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"more": _pinned(more, config)})})
    plan = replace(plan, config=config)
    plan = _check_leaks(replace(plan, more=more, notes=(*plan.notes, *further)))
    if config.student.alternative:
        plan = _with_alternative(plan)
    return replace(plan, identity=_identity(plan))


def _labelled_only(dataset: Dataset, config: Config) -> Dataset:
    """Return the data of `config`, read again if `dataset` has unlabelled texts, on which a teacher must not depend."""
    return load(config.data) if "unlabeled" in dataset.split else dataset


def _fold_teachers(plan: Plan, config: Config, gold: Dataset) -> tuple[Plan, ...]:
    """Return the plan of the teacher of each fold (`teacher.cross_fit`). config: of the teacher of all rows."""
    folds, found = plan.config.teacher.cross_fit, []
    for fold in range(1, folds + 1):
        data = config.data.model_copy(update={"train_folds": folds, "train_fold": fold})
        own = config.model_copy(update={"data": data})
        found.append(make(own, without_training_fold(gold, folds, fold)))
    return tuple(found)


def _with_views(
    config: Config,
    dataset: Dataset,
    methods: Sequence[Method],
    teacher: Source | ImportedTeacher | None,
    folds: Ints | None,
    notes: list[str],
) -> Dataset:
    """Return the dataset with the views that `data.views` asks for. Raises UserError if no model can label them.

    folds: as for `make_views`.
    """
    table = config.data
    if not table.views:
        return dataset
    names = " + ".join(method.name for method in methods)
    files = [name for name in (config.teacher.model, *config.teacher.more) if is_soft_label_file(name)]
    if teacher is None:
        raise UserError(
            f"data.views: views are texts without a gold label, and nothing labels them: methods {names}, no teacher. Name a "
            "teacher with --teacher and use a method that learns from one (--preset kd), or set data.views = 0"
        )
    if files:
        raise UserError(
            f"data.views: {files[0]} is a file of soft labels, which has none for new texts. Name a model with --teacher, or "
            "set data.views = 0"
        )
    views = make_views(dataset.texts, dataset.split, table, config.train.seed, learned_rows(dataset, methods)[0], folds)
    notes.append(views.line)
    return dataset.with_views(views)


def _with_alternative(plan: Plan) -> Plan:
    """Add the bag-of-words baseline that `student.alternative` names as an alternative to the encoder."""
    config, dataset = plan.config, plan.dataset
    own = Config(
        data=config.data.model_copy(update={"unlabeled": "", "views": 0}),
        student=StudentTable(model=config.student.alternative),
        classifier=config.classifier,
        teacher=TeacherTable(model="none"),
        train=TrainTable(**{key: getattr(config.train, key) for key in COMMON_SETTINGS}),
        output=config.output,
    )
    gold = None if len(dataset.unlabelled) else dataset  # the baseline never sees unlabelled texts or views
    plan = replace(plan, alternative=make(own, gold))
    rows = len(dataset.split["validation"])
    held = plural(rows, "validation row")
    how = f"chosen by their scores on {held}"
    if plan.chooses_by_folds:
        few = f"{held} {verb(rows, 'is', 'are')} too few"
        how = f"chosen by {FOLDS}-fold cross-validation on the training rows, because {few}"
    note = f"student: {plan.student.label} or {own.student.model}, {how}"
    return replace(plan, notes=(*plan.notes, note))


def without_alternative(plan: Plan) -> Plan:
    """Return the plan of the encoder only, as if it had been requested by name."""
    own = plan.config.student.model_copy(update={"alternative": ""})
    config = plan.config.model_copy(update={"student": own, "classifier": {}})
    plan = replace(plan, config=config, alternative=None)
    return replace(plan, identity=_identity(plan))


def _without_teacher(
    methods: tuple[Method, ...], dataset: Dataset, declined: str, required: Collection[str], notes: list[str]
) -> tuple[Method, ...]:
    """Return the methods that need no teacher. Raises UserError if one that does is required.

    declined: `teacher.model`, to tell "none" from a teacher that was not found.
    """
    distilling = [method.name for method in methods if method.teacher]
    if asked := [name for name in distilling if name in required]:
        raise UserError(missing_teacher_message(asked, declined))
    if declined == "none" and distilling:
        notes.append(f"methods: {', '.join(distilling)} left out: --teacher none")
    if "unlabeled" in dataset.split:
        raise UserError("data.unlabeled: unlabelled rows need a teacher. Name one with --teacher")
    return tuple(method for method in methods if not method.teacher)


def _suitable_methods(
    methods: tuple[Method, ...], dataset: Dataset, required: Collection[str], notes: list[str]
) -> tuple[Method, ...]:
    """Return the methods that suit the number of labelled rows and, unless they are required, the kind of target."""
    if dataset.sets is not None and not required:
        for method in (one for one in methods if not takes_label_sets(one)):
            why = f": {method.no_label_sets}" if method.no_label_sets else ""
            notes.append(f"methods: {method.name} left out: not supported for multi-label data{why}")
        methods = tuple(method for method in methods if takes_label_sets(method))
    labelled = len(dataset.split["train"])
    if out := [method.name for method in methods if not method.suits(labelled)]:
        notes.append(f"methods: {', '.join(out)} left out: useful only with fewer labelled rows than {labelled:,}")
    return tuple(method for method in methods if method.suits(labelled))


def _student_settings(
    table: StudentTable, methods: Sequence[Method], student: Source, dataset: Dataset, device: str, notes: list[str]
) -> tuple[StudentTable, Tokens]:
    """Return the student's settings with maximum length and pooling resolved, and the texts as its tokens.

    Pooling "auto" is that of the encoder's class in `transformers`, in most cases the first token. If the student learns
    from so few texts that the contrastive loss applies, it is the pooling that suits the encoder best.
    """
    if depth := student.depth:
        check_layers(table.layers, depth, student.name)
        for method in methods:
            method.check_size(Size.of(student.config, len(table.layers) or depth))
    for method in (one for one in methods if overrides(one, "check_texts")):
        method.check_texts([dataset.texts[row] for row in dataset.split["train"].tolist()])
    tokens, max_length = tokens_for(student, table, dataset, notes)
    pooling: Pooling = "mean" if table.pooling == "mean" else "first"
    rows = learned_rows(dataset, methods)[0]
    few = max((method.rows for method in methods if isinstance(method, Contrastive)), default=0)
    if table.pooling == "auto" and table.head == "model":
        if len(rows) + len(dataset.unlabelled) + dataset.sharded_rows <= few:
            pooling = defaults.pooling_of(student, dataset, tokens, rows, device, notes)
        elif loading.states_mean(student):
            pooling = "mean"
    found = {"model": student.name, "revision": student.revision, "max_length": max_length, "pooling": pooling}
    return table.model_copy(update=found), tokens


def _train_settings(
    train: TrainTable, methods: Sequence[Method], student: Source, dataset: Dataset, notes: list[str]
) -> TrainTable:
    """Return the table `[train]` with every "auto" resolved."""
    texts, by_contrast = defaults.training_texts(methods, dataset)
    width = student.config.get("hidden_size") or student.config.get("dim") or defaults.RATE_WIDTH
    return defaults.resolved(train, texts, len(dataset.split["validation"]), int(width), by_contrast, notes)


def _with_metric(train: TrainTable, dataset: Dataset, notes: list[str]) -> TrainTable:
    """Return `train` with the metric that suits the targets. Raises UserError for one of label sets on other data."""
    metric = metric_of_targets(dataset, train.metric, "train.metric")
    if dataset.sets is None:
        return train
    notes.append(
        "targets: several labels per text (multi-label), each with its own threshold, tuned on validation rows"
    )
    if train.metric == metric:
        return train
    notes.append(
        "metric: sample_f1, the mean F1 over rows, in place of accuracy, which counts a row only if its whole set is right "
        "(others: --set metric=micro_f1, macro_f1, balanced_accuracy or log_loss)"
    )
    return train.model_copy(update={"metric": metric})


def _requested_config(plan: Plan) -> Config:
    """Return the plan's configuration with the training settings as requested, "auto" included."""
    return plan.config.model_copy(update={"train": plan.asked or plan.config.train})


def _check_leaks(plan: Plan) -> Plan:
    """Add notes and warnings about held-out rows that a model has seen. Raises LeakError."""
    notes, warnings = leaks.check(plan)
    copies = token_copies(plan.tokens, plan.dataset)
    notes += [
        f"leaks: {plural(len(rows), f'{name} row')} {verb(len(rows), 'has', 'have')} the same tokens as a training row, but "
        "another text; scores are given "
        "with and without them"
        for name, rows in copies.items()
    ]
    return replace(plan, notes=(*plan.notes, *notes), leak_warnings=tuple(warnings), token_copies=copies)


def missing_teacher_message(methods: Sequence[str], teacher: str, instead: str = "") -> str:
    """Return the error message for methods that need a teacher when there is none.

    instead: what to do without a teacher; empty: the options of `randout train`.
    """
    why = "--teacher none declines one" if teacher == "none" else "no larger encoder was found locally"
    off = " ".join(f"--set methods.{name}=false" for name in methods)
    return (
        f"methods.{methods[0]} learns from a teacher, and there is none ({why}). Name one with --teacher NAME, or "
        f"{instead or f'train without distillation: {off}, or --preset plain'}"
    )


def _find_more_teachers(plan: Plan, notes: list[str]) -> tuple[Source | ImportedTeacher | Plan, ...]:
    """Return the further teachers (`teacher.more`). Raises UserError if no method learns from several."""
    names = plan.config.teacher.more
    if names and (not plan.has_teacher or not any(method.several for method in plan.methods)):
        why = "there is no first teacher" if not plan.has_teacher else "no method of this recipe learns from several"
        raise UserError(f"teacher.more: {', '.join(names)}: {why}. Leave it out")
    found: list[Source | ImportedTeacher | Plan] = []
    for name in names:
        source = _teacher_of(name, "", plan.config, plan.dataset, notes)
        if isinstance(source, ImportedTeacher):
            found.append(source)
            continue
        _check_labels(source, plan.dataset, None, name)
        _check_fields(source, plan.dataset, name, notes)
        gold = None if len(plan.dataset.unlabelled) else plan.dataset
        found.append(
            source if source.is_classifier else make(teacher_config(_requested_config(plan), name, revision=""), gold)
        )
    known = [_teacher_identity(one) for one in (*plan.teachers, *found)]
    for at, name in enumerate(names, 1):
        if known[at] in known[:at]:
            raise UserError(f"teacher.more: {name} is named twice. Name each teacher once; a method sets their weights")
    return tuple(found)


def _pinned(more: Sequence[Source | ImportedTeacher | Plan], config: Config) -> tuple[str, ...]:
    """Return the names of the further teachers, with the commit of those from the hub."""
    sources = [one.student.source if isinstance(one, Plan) else one for one in more]
    return tuple(
        source.pinned if isinstance(source, Source) and source.revision else name
        for source, name in zip(sources, config.teacher.more, strict=True)
    )


def _check_labels(teacher: Source, dataset: Dataset, named: Sequence[str] | None, name: str) -> None:
    """Raise UserError for a classifier with other labels than the data, before anything is trained. named: its labels."""
    own = teacher.config.get("id2label")
    check_kind(teacher, dataset, name)
    if teacher.is_classifier and isinstance(own, dict):
        column_order({int(at): label for at, label in own.items()}, dataset.id2label, named, name)


def _check_fields(teacher: Source, dataset: Dataset, name: str, notes: list[str]) -> None:
    """Raise UserError for a classifier that was trained on other columns than those of the data; a note if it is not known."""
    if not teacher.is_classifier:
        return
    theirs, ours = read_fields(teacher.folder), dataset.fields
    if (theirs.pair, theirs.prefix) == (ours.pair, ours.prefix):
        return
    if theirs or RunFolder(teacher.folder.parent).exists:
        raise UserError(
            f"--teacher {name}: it was trained on {theirs.words}, but the data are {ours.words}. Use a teacher trained on "
            "the same columns, or name the pretrained encoder, which is then fine-tuned on them"
        )
    notes.append(f"teacher {teacher.label}: reads {ours.words}; it does not record which columns it was trained on")


def _teacher_identity(teacher: Source | ImportedTeacher | Plan) -> str | dict[str, Any]:
    """Return a teacher's entry in a run's identity: the fingerprint of the run that trains it, or a table with its model's."""
    if isinstance(teacher, ImportedTeacher):
        return teacher.identity
    return teacher.fingerprint if isinstance(teacher, Plan) else {"model": teacher.fingerprint()}


def _baseline_plan(config: Config, baseline: Baseline, dataset: Dataset | None) -> Plan:
    """Return the plan of a student that is a bag-of-words or neural baseline."""
    notes: list[str] = []
    device, _ = machine(config)
    train = config.train.model_copy(update={"device": device})
    config = resolve_settings(config.model_copy(update={"train": train}), baseline.settings, notes)
    if config.data.weight_column and baseline.settings.own_loss:
        raise UserError(
            f"data.weight_column: {baseline.settings.name} does not support weights of rows. Use an encoder as the student, or "
            "leave the weights out"
        )
    dataset = dataset or load(config.data)
    if dataset.fields.pair:
        notes.append(f"pairs: {baseline.label} reads both texts as one, joined by {SEPARATOR.strip()}")
    if dataset.sets is not None and not baseline.settings.label_sets:
        raise UserError(
            f"student.model: {baseline.label} is not supported for multi-label data, because it gives every text one class. Use "
            "svm (one machine for each label), cnn, lstm, or an encoder"
        )
    train = _with_metric(config.train, dataset, notes)
    config = config.model_copy(update={"train": train})
    baseline = baseline.resolved(len(dataset.split["train"]), notes)
    config = config.model_copy(update={"classifier": baseline.settings.model_dump(mode="json")})
    student, tokens = baseline.reading(dataset, notes)
    methods = tuple(METHODS[name].model_validate(settings) for name, settings in config.methods.items())
    plan = Plan(config, dataset, methods, student, tokens, notes=tuple(notes))
    return replace(plan, identity=_identity(plan))


def teacher_config(config: Config, name: str, revision: str | None = None) -> Config:
    """Return the configuration that fine-tunes a pretrained encoder into a teacher: cross-entropy, test split not scored.

    revision: on the hub; None: the one that `config.teacher` sets for the first teacher.
    """
    table, same = config.teacher, config.train
    student = StudentTable(
        model=name,
        revision=table.revision if revision is None else revision,
        head=table.head,
        pooling=table.pooling,
        layers=table.layers,
        max_length=table.max_length,
        truncation=table.truncation,
    )
    asked = {key: getattr(table, key) for key in ("epochs", "learning_rate", "batch_size")}
    changed: dict[str, Any] = {key: 0 if value == "auto" else value for key, value in asked.items() if value != "same"}
    changed["refit"] = False  # the student's validation rows must stay unseen
    gold = {GOLD: config.methods.get(GOLD) or METHODS[GOLD]().model_dump(mode="json")}
    gold |= {name: settings for name, settings in config.methods.items() if name == Contrastive.name}
    return Config(
        data=config.data.model_copy(update={"unlabeled": "", "views": 0}),
        student=student,
        teacher=TeacherTable(model="none"),
        methods=gold,
        train=same.model_copy(update=changed),
        output=config.output.model_copy(update={"test": False}),
    )


def machine(config: Config) -> tuple[str, str]:
    """Return the device and precision, "auto" resolved for this machine. Raises UserError for an unavailable device."""
    device, precision = config.train.device, config.train.precision
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        raise UserError(f"train.device: {device} is not available to torch {torch.__version__}. See `randout doctor`")
    if precision == "auto":
        precision = "bfloat16" if native_bfloat16(device) else "float32"
    return device, precision


def native_bfloat16(device: str) -> bool:
    """Return whether the device multiplies in bfloat16 natively (AVX512_BF16, AMX, an Ampere GPU) rather than emulating it."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "mps":
        return False
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def _find_student(table: StudentTable, notes: list[str]) -> Source:
    if table.model:
        return find(table.model, table.revision, CLASSIFIER_NAMES)
    local = local_encoders()
    if local:
        found = find(str(local[0]))
        notes.append(f"student: {found.label}, the smallest encoder found locally (another: --student)")
        return found
    found = find(DEFAULT_STUDENT)
    notes.append(f"student: {DEFAULT_STUDENT}, from the hub (another: --student)")
    return found


def _find_teacher(
    config: Config, methods: Sequence[Method], student: Source, dataset: Dataset, device: str, notes: list[str]
) -> tuple[Source | ImportedTeacher | None, str]:
    """Return the teacher's source and the name to record; (None, "none") for no teacher."""
    name, wanted = config.teacher.model, any(method.teacher for method in methods)
    if name == "none":
        return None, "none"
    if name != "auto":
        if not wanted:
            raise UserError(
                f"--teacher {name}: no method of this recipe learns from a teacher. Leave it out, or add "
                "--set methods.kd.weight=0.8"
            )
        found = _teacher_of(name, config.teacher.revision, config, dataset, notes)
        if isinstance(found, Source):
            _check_labels(found, dataset, config.teacher.labels, name)
            _check_fields(found, dataset, name, notes)
            name = found.name if found.revision else name
        return found, name
    if not wanted:
        return None, "none"
    weights = "model.safetensors"
    size = (student.encoder_folder / weights).stat().st_size if (student.encoder_folder / weights).exists() else 0
    limit = float("inf") if device == "cuda" else CPU_TEACHER
    larger = [f for f in local_encoders() if size * 1.2 < (f / weights).stat().st_size <= limit]
    if not larger:
        return None, "none"
    source = find(str(larger[-1]))
    notes.append(f"teacher: {source.label}, the largest encoder found locally that fits here (another: --teacher)")
    return source, str(larger[-1])


def _revision_of(teacher: Source | ImportedTeacher | None, config: Config) -> str:
    """Return the commit of a teacher from the hub, to be pinned; for any other, the setting."""
    return (teacher.revision if isinstance(teacher, Source) else "") or config.teacher.revision


def _teacher_of(
    name: str, revision: str, config: Config, dataset: Dataset, notes: list[str]
) -> Source | ImportedTeacher:
    """Find a teacher that is named: a model, or a file of soft labels, which is read. notes: gets what was read."""
    found = find_teacher(name, revision, config.methods if name == config.teacher.model else ())
    if isinstance(found, Source):
        return found
    imported = import_teacher(found, config, dataset)
    notes.extend(imported.notes)
    return imported


def refit_plan(plan: Plan) -> Plan:
    """Return the plan of the refit (`train.refit`): trains on training and validation rows and keeps the last weights."""
    train = plan.config.train.model_copy(update={"keep": "last", "validate_every": plan.config.train.epochs})
    config = plan.config.model_copy(update={"train": train})
    return replace(plan, config=config, dataset=plan.dataset.with_validation_in_training())


def _identity(plan: Plan) -> dict[str, Any]:
    """Return everything that decides the result, and nothing else: names and paths are replaced by digests of the content."""
    config = plan.config
    train = config.train.model_dump(mode="json", exclude={"save_minutes"})
    earlier = {"keep": "best", "validate_every": 1, "refit": False}  # before these settings existed: keeps fingerprints
    train = {key: value for key, value in train.items() if earlier.get(key) != value}
    if config.train.batch_parts < 2:
        train.pop("batch_parts", None)
    read = config.teacher.model_dump(mode="json", include={"max_length", "truncation"})  # if not trained for this run
    found = [_teacher_identity(one) for one in plan.teachers]
    teachers = [
        {**one, **read} if isinstance(one, dict) and isinstance(of, Source) else one
        for of, one in zip(plan.teachers, found, strict=True)
    ]
    teacher, more = teachers[0] if teachers else None, teachers[1:]
    plugins = {name: origin.identity for name, origin in plan.origins.items()}
    if isinstance(teacher, dict) and isinstance(plan.teachers[0], Source):
        teacher["labels"] = list(config.teacher.labels)
    return {
        **data_identity(plan.dataset),
        "student": plan.student.identity(plan),
        "teacher": teacher,
        **({"more": more} if more else {}),
        **({"cross_fit": [one.fingerprint for one in plan.fold_teachers]} if plan.fold_teachers else {}),
        **({"views": plan.dataset.views.identity} if plan.dataset.views else {}),
        "methods": config.methods,
        **({"plugins": plugins} if plugins else {}),
        "train": train,
    }
