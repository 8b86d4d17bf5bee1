"""Turns a request into a plan: data split, models found, every "auto" resolved, and a fingerprint of all of it.

Nothing is trained or written here. Each automatic decision becomes a note, which is logged before training starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from randout.baselines import Bag, Classifier, Network, reference
from randout.baselines.settings import COMMON_SETTINGS, chosen, resolve_settings
from randout.core.config import ALTERNATIVE, AUTO_STUDENT, Config, StudentTable, TeacherTable, TrainTable
from randout.core.errors import UserError
from randout.core.files import joined_name
from randout.core.wording import plural, verb
from randout.data.dataset import Dataset, data_identity, load
from randout.data.stratify import Ints
from randout.methods.base import SUPERVISED, Method, Size
from randout.methods.builtin import GOLD, METHODS
from randout.methods.compatibility import learned_rows, methods_of
from randout.methods.contrastive import Contrastive
from randout.methods.registry import Origin
from randout.models import loading
from randout.models.heads import check_layers
from randout.models.mean_pooling import Pooling
from randout.models.sources import CLASSIFIER_NAMES, DEFAULT_STUDENT, Source, find, local_encoders
from randout.models.tokenization import token_copies, tokens_for
from randout.models.tokens import Tokens

from . import defaults, leaks
from .soft_labels import column_order

NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int64))
FOLDS = 3  # of the cross-validation on the training rows that chooses a student
CPU_TEACHER = 600 * 2**20  # bytes of weights of the largest teacher that is chosen automatically without a GPU


@dataclass(frozen=True)
class Plan:
    """A training with every decision made: the data, the models, and all settings resolved.

    teacher: an existing classifier. teacher_plan: how a pretrained encoder is first fine-tuned into a teacher.
    more: further teachers, each of either kind. classifier: a student that is a bag-of-words or neural baseline instead of
    an encoder; `tokens` then holds its word ids, or nothing. identity: what the fingerprint is computed from, by part.
    token_copies: as `tokenization.token_copies` returns it. leak_warnings: held-out rows that the teachers or the
    pretrained student have seen. left_out: methods removed because no teacher was found, although none was declined.
    asked: `config.train` before "auto" was resolved, for the teachers, which resolve it themselves. alternative: a
    bag-of-words baseline that becomes the student if it is not worse than this encoder (`choice`).
    """

    config: Config
    dataset: Dataset
    methods: tuple[Method, ...]
    student: Source
    tokens: Tokens
    teacher: Source | None
    teacher_plan: Plan | None
    identity: dict[str, Any]
    notes: tuple[str, ...]
    classifier: Classifier | None = None
    more: tuple[Source | Plan, ...] = ()
    token_copies: dict[str, Ints] = field(default_factory=dict)
    leak_warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    asked: TrainTable | None = None
    alternative: Plan | None = None

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def origins(self) -> dict[str, Origin]:
        """Where methods that are not built in come from, by name."""
        return METHODS.origins(method.name for method in self.methods)

    @property
    def has_teacher(self) -> bool:
        return self.teacher is not None or self.teacher_plan is not None

    @property
    def name(self) -> str:
        """The default name of the run folder: data, student, methods, seed, fingerprint.

        Long parts are shortened to fit the limits of file systems; the fingerprint keeps names unique.
        """
        cut = f"-{len(self.config.student.layers)}layers" if self.config.student.layers else ""
        parts = [self.dataset.name, self.student.label + cut, "+".join(m.name for m in self.methods)]
        if self.alternative is not None:
            parts[1] += f"-or-{self.alternative.student.label}"
        return joined_name([*filter(None, parts)], ["", f"s{self.config.train.seed}", self.fingerprint[:8]])


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
    classifier = chosen(config)
    if classifier is not None:
        return _baseline_plan(config, classifier, dataset)
    dataset = dataset or load(config.data)
    notes: list[str] = []
    train = config.train.model_copy(update=dict(zip(("device", "precision"), machine(config), strict=True)))
    student = _find_student(config.student, notes)
    methods = methods_of(config)
    teacher, name = _find_teacher(config, methods, student, train.device, notes)
    distilling = [method.name for method in methods if method.teacher]
    missing = distilling if teacher is None and config.teacher.model == "auto" else []
    if teacher is None:
        methods = _without_teacher(methods, dataset, config.teacher.model, required, notes)
    if not any(SUPERVISED in method.losses or method.teacher for method in methods):
        raise UserError(
            f"methods: no method with a training target is left. Keep methods.{GOLD}, or a method that learns from a teacher, "
            "together with a teacher"
        )
    methods = _suitable_methods(methods, dataset, notes)
    settings, tokens = _student_settings(config.student, methods, student, dataset, train.device, notes)
    as_asked, train = train, _train_settings(train, methods, student, dataset, notes)
    config = config.model_copy(
        update={
            "student": settings,
            "teacher": config.teacher.model_copy(update={"model": name}),
            "train": train,
            "methods": {method.name: method.model_dump(mode="json") for method in methods},
        }
    )
    plan = Plan(config, dataset, methods, student, tokens, None, None, {}, tuple(notes), left_out=tuple(missing))
    plan = replace(plan, asked=as_asked)
    if teacher is not None and teacher.is_classifier:
        plan = replace(plan, teacher=teacher)
    elif teacher is not None:
        gold = None if "unlabeled" in dataset.split else dataset  # read again: it must not depend on unlabelled texts
        plan = replace(plan, teacher_plan=make(teacher_config(_requested_config(plan), name), gold))
    plan = _check_leaks(replace(plan, more=_find_more_teachers(plan)))
    if config.student.alternative:
        plan = _with_alternative(plan)
    return replace(plan, identity=_identity(plan))


def _with_alternative(plan: Plan) -> Plan:
    """Add the bag-of-words baseline that `student.alternative` names as an alternative to the encoder."""
    config, dataset = plan.config, plan.dataset
    least: dict[str, Any] = {"min_df": reference.min_df(len(dataset.split["train"]))}
    own = Config(
        data=config.data.model_copy(update={"unlabeled": ""}),
        student=StudentTable(model=config.student.alternative),
        classifier=least | config.classifier,
        teacher=TeacherTable(model="none"),
        train=TrainTable(**{key: getattr(config.train, key) for key in COMMON_SETTINGS}),
        output=config.output,
    )
    gold = None if "unlabeled" in dataset.split else dataset  # the baseline never sees unlabelled texts
    plan = replace(plan, alternative=make(own, gold))
    rows = len(dataset.split["validation"])
    held = plural(rows, "validation row")
    how = f"chosen by their scores on {held}"
    if by_folds(plan):
        few = f"{held} {verb(rows, 'is', 'are')} too few"
        how = f"chosen by {FOLDS}-fold cross-validation on the training rows, because {few}"
    note = f"student: {plan.student.label} or {own.student.model}, {how}"
    return replace(plan, notes=(*plan.notes, note))


def by_folds(plan: Plan) -> bool:
    """Return whether a plan with an alternative chooses its student by cross-validation on the training rows.

    This is so if there are too few validation rows, and no teacher has learned from the training rows of every fold.
    """
    held = len(plan.dataset.split["validation"])
    return held < defaults.FEW_HELD and not plan.has_teacher and "unlabeled" not in plan.dataset.split


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


def _suitable_methods(methods: tuple[Method, ...], dataset: Dataset, notes: list[str]) -> tuple[Method, ...]:
    """Return the methods that suit the number of labelled rows."""
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
    if isinstance(depth := student.config.get("num_hidden_layers") or student.config.get("n_layers"), int):
        check_layers(table.layers, depth, student.name)
        for method in methods:
            method.check_size(Size.of(student.config, len(table.layers) or depth))
    tokens, max_length = tokens_for(student, table, dataset, notes)
    pooling: Pooling = "mean" if table.pooling == "mean" else "first"
    rows = learned_rows(dataset, methods)[0]
    few = max((method.rows for method in methods if isinstance(method, Contrastive)), default=0)
    if table.pooling == "auto" and table.head == "model":
        if len(rows) + len(dataset.split.get("unlabeled", ())) <= few:
            pooling = defaults.pooling_of(student, dataset, tokens, rows, device, notes)
        elif loading.states_mean(student):
            pooling = "mean"
    found = {"model": student.name, "revision": student.revision, "max_length": max_length, "pooling": pooling}
    return table.model_copy(update=found), tokens


def _train_settings(
    train: TrainTable, methods: Sequence[Method], student: Source, dataset: Dataset, notes: list[str]
) -> TrainTable:
    """Return the table `[train]` with every "auto" resolved."""
    texts, by_contrast = _training_texts(methods, dataset)
    width = student.config.get("hidden_size") or student.config.get("dim") or defaults.RATE_WIDTH
    return defaults.resolved(train, texts, len(dataset.split["validation"]), int(width), by_contrast, notes)


def _training_texts(methods: Sequence[Method], dataset: Dataset) -> tuple[int, bool]:
    """Return how many texts the student learns from, and whether a contrastive loss is among the methods."""
    texts = len(learned_rows(dataset, methods)[0]) + len(dataset.split.get("unlabeled", ()))
    return texts, any(isinstance(method, Contrastive) for method in methods)


def usual_epochs(plan: Plan) -> int:
    """Return the epochs that "auto" gives an encoder on these rows, whatever was requested; 0 for a baseline."""
    if plan.classifier is not None:
        return 0
    texts, by_contrast = _training_texts(methods_of(plan.config), plan.dataset)
    train = plan.config.train.model_copy(update={"epochs": 0})
    return defaults.resolved(train, texts, 0, defaults.RATE_WIDTH, by_contrast, []).epochs


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


def _find_more_teachers(plan: Plan) -> tuple[Source | Plan, ...]:
    """Return the further teachers (`teacher.more`). Raises UserError if no method learns from several."""
    names = plan.config.teacher.more
    if names and (not plan.has_teacher or not any(method.several for method in plan.methods)):
        why = "there is no first teacher" if not plan.has_teacher else "no method of this recipe learns from several"
        raise UserError(f"teacher.more: {', '.join(names)}: {why}. Leave it out")
    found: list[Source | Plan] = []
    for name in names:
        source = find(name)
        own = source.config.get("id2label")
        if source.is_classifier and isinstance(own, dict):  # reported before any of them is trained
            column_order({int(at): label for at, label in own.items()}, plan.dataset.id2label, None, name)
        gold = None if "unlabeled" in plan.dataset.split else plan.dataset
        found.append(
            source if source.is_classifier else make(teacher_config(_requested_config(plan), name, revision=""), gold)
        )
    known = [_teacher_identity(one) for one in (plan.teacher or plan.teacher_plan, *found) if one]
    for at, name in enumerate(names, 1):
        if known[at] in known[:at]:
            raise UserError(f"teacher.more: {name} is named twice. Name each teacher once; a method sets their weights")
    return tuple(found)


def _teacher_identity(teacher: Source | Plan) -> str | dict[str, str]:
    """Return a teacher's entry in a run's identity: the fingerprint of the run that trains it, or a table with its model's."""
    return teacher.fingerprint if isinstance(teacher, Plan) else {"model": teacher.fingerprint()}


def _baseline_plan(config: Config, classifier: Classifier, dataset: Dataset | None) -> Plan:
    """Return the plan of a student that is a bag-of-words or neural baseline."""
    notes: list[str] = []
    device, _ = machine(config)
    train = config.train.model_copy(update={"device": device})
    config = resolve_settings(config.model_copy(update={"train": train}), classifier, notes)
    dataset = dataset or load(config.data)
    tokens = NO_TOKENS
    if isinstance(classifier, Network):
        vocabulary = classifier.vocabulary(dataset.texts[row] for row in dataset.split["train"])
        tokens = classifier.tokens(vocabulary, dataset.texts)
        cut = (tokens.whole > classifier.length).mean()
        notes.append(
            f"vocabulary: {len(vocabulary):,} words; {cut:.1%} of texts are truncated to {classifier.length} words"
        )
    methods = tuple(METHODS[name].model_validate(settings) for name, settings in config.methods.items())
    source = Source(classifier.name, Path(classifier.name))
    plan = Plan(config, dataset, methods, source, tokens, None, None, {}, tuple(notes), classifier)
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
        data=config.data.model_copy(update={"unlabeled": ""}),
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
    config: Config, methods: Sequence[Method], student: Source, device: str, notes: list[str]
) -> tuple[Source | None, str]:
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
        return find(name, config.teacher.revision), name
    if not wanted:
        return None, "none"
    weights = "model.safetensors"
    size = (student.encoder_folder / weights).stat().st_size if (student.encoder_folder / weights).exists() else 0
    limit = float("inf") if device == "cuda" else CPU_TEACHER
    larger = [f for f in local_encoders() if size * 1.2 < (f / weights).stat().st_size <= limit]
    if not larger:
        out = ", ".join(method.name for method in methods if method.teacher)
        notes.append(f"No teacher: no larger encoder found locally. {out} is left out. Use --teacher NAME to distil")
        return None, "none"
    source = find(str(larger[-1]))
    notes.append(f"teacher: {source.label}, the largest encoder found locally that fits here (another: --teacher)")
    return source, str(larger[-1])


def steps_of(plan: Plan) -> int:
    """Return the optimizer steps of a whole training without early stopping; 1 for a baseline fitted in one call."""
    if isinstance(plan.classifier, Bag):
        return 1
    rows = len(learned_rows(plan.dataset, plan.methods)[0]) + len(plan.dataset.split.get("unlabeled", ()))
    return -(-rows // plan.config.train.batch_size) * plan.config.train.epochs


def refit_plan(plan: Plan) -> Plan:
    """Return the plan of the refit (`train.refit`): trains on training and validation rows and keeps the last weights."""
    train = plan.config.train.model_copy(update={"keep": "last", "validate_every": plan.config.train.epochs})
    config = plan.config.model_copy(update={"train": train})
    return replace(plan, config=config, dataset=plan.dataset.with_validation_in_training())


def _identity(plan: Plan) -> dict[str, Any]:
    """Return everything that decides the result, and nothing else: names and paths are replaced by digests of the content."""
    config = plan.config
    student: dict[str, Any] = {"classifier": config.student.model, **config.classifier}
    if plan.classifier is None:
        own = config.student.model_dump(mode="json", exclude={"model", "revision"})
        before = {"pooling": "first", "alternative": ""}  # behaviour before these settings existed: keeps fingerprints
        own = {key: value for key, value in own.items() if before.get(key) != value}
        if plan.alternative is not None:
            own["alternative"] = plan.alternative.identity["student"]
        student = {"weights": plan.student.fingerprint(), **own}
    train = config.train.model_dump(mode="json", exclude={"save_minutes"})
    earlier = {"keep": "best", "validate_every": 1, "refit": False}  # likewise
    train = {key: value for key, value in train.items() if earlier.get(key) != value}
    read = config.teacher.model_dump(mode="json", include={"max_length", "truncation"})  # if not trained for this run
    found = [_teacher_identity(one) for one in (plan.teacher or plan.teacher_plan, *plan.more) if one]
    teachers = [{**one, **read} if isinstance(one, dict) else one for one in found]
    teacher, more = teachers[0] if teachers else None, teachers[1:]
    plugins = {name: origin.identity for name, origin in plan.origins.items()}
    if isinstance(teacher, dict):
        teacher["labels"] = list(config.teacher.labels)
    return {
        **data_identity(plan.dataset),
        "student": student,
        "teacher": teacher,
        **({"more": more} if more else {}),
        "methods": config.methods,
        **({"plugins": plugins} if plugins else {}),
        "train": train,
    }


def class_weights(dataset: Dataset) -> torch.Tensor:
    """Return the class weights n / (C * n_c) over the training split, (C,)."""
    labels = dataset.labels[dataset.split["train"]]
    counts = np.bincount(labels[labels >= 0], minlength=len(dataset.id2label))
    return torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
