"""Which settings a baseline supports, and why the others are refused."""

from __future__ import annotations

from typing import Any

from randout.baselines import CLASSIFIERS
from randout.core.config import (
    DEFAULT_PRESET,
    PAPER_PRESET,
    Config,
    StudentTable,
    TeacherTable,
    TrainTable,
    build,
    checked,
    read_preset,
)
from randout.core.errors import UserError
from randout.methods.builtin import GOLD, METHODS

from .base import Classifier
from .neural import Network

FREE = ("seed", "metric", "device", "save_minutes")  # settings of [train] that any classifier takes


def chosen(config: Config) -> Classifier | None:
    """The classifier that `student.model` names, with its settings; None for an encoder. Raises UserError."""
    kind = CLASSIFIERS.get(config.student.model)
    if kind is not None:
        settings: Classifier = checked(kind, config.classifier, "classifier.")
        settings.check()
        return settings
    if config.classifier and not config.student.alternative:
        raise UserError(
            f"classifier.{next(iter(config.classifier))}: these are settings of a classifier of words, and the student "
            f"is the encoder {config.student.model!r}; name one of {', '.join(CLASSIFIERS)} with --student"
        )
    return None


def settle(config: Config, settings: Classifier, notes: list[str]) -> Config:
    """The configuration with the classifier's settings written out and what is an encoder's left out.

    Raises UserError for what was asked for and cannot be had.
    """
    name = settings.name
    for key, value in _changed(config.student, StudentTable()).items():
        if key != "model":
            raise UserError(
                f"student.{key} = {value!r}: a setting of encoders, and the student is {name}; leave it out"
            )
    for teacher in ("" if config.teacher.model in ("auto", "none") else config.teacher.model, *config.teacher.more):
        if teacher:
            raise UserError(f"--teacher {teacher}: {name} learns from labels alone; leave the teacher out")
    if config.data.unlabeled:
        raise UserError(f"data.unlabeled: {name} learns from labels alone, and these rows have none; leave them out")
    update = {
        "teacher": TeacherTable(model="none"),
        "methods": _methods(config, settings, notes),
        "train": _train(config.train, settings),
        "classifier": settings.model_dump(mode="json"),
    }
    return config.model_copy(update=update)


def _changed(table: Any, plain: Any) -> dict[str, Any]:
    found = table.model_dump(mode="json")
    return {key: found[key] for key, value in plain.model_dump(mode="json").items() if found[key] != value}


def _methods(config: Config, settings: Classifier, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Cross-entropy for the networks, nothing for the others; the default preset's methods go with a note."""
    asked, network = config.methods, isinstance(settings, Network)
    plain = build([{"methods": {GOLD: {}}}], METHODS).methods
    extra = [method for method in asked if method != GOLD]
    unasked = [build([read_preset(preset)], METHODS).methods for preset in (DEFAULT_PRESET, PAPER_PRESET)]
    if extra and asked in unasked:
        notes.append(f"methods: {', '.join(extra)}: for encoders only; {settings.name} learns from labels alone")
        asked = plain
    elif extra:
        raise UserError(f"methods.{extra[0]}: for encoders, and the student is {settings.name}; leave it out")
    if network:
        return asked or plain
    if asked not in ({}, plain):
        raise UserError(f"methods.{GOLD}: {settings.name} has a loss of its own; leave the method's settings out")
    return {}


def _train(asked: TrainTable, settings: Classifier) -> TrainTable:
    """The table `[train]` as it will be. Raises UserError for a setting that would do nothing."""
    network = isinstance(settings, Network)
    precision = "bfloat16" if network and asked.precision == "bfloat16" else "float32"  # "auto": as published
    kept = asked.model_copy(update={"precision": precision})
    if isinstance(settings, Network):
        will_be = settings.training(kept)
    else:
        will_be = TrainTable(**{key: getattr(kept, key) for key in (*FREE, "precision")} | {"device": "cpu"})
    will_be = will_be.model_copy(update={"refit": False})
    free = (*FREE, *(("precision", "micro_batch") if network else ()))
    for key, value in _changed(asked, TrainTable()).items():
        if key in free or value == getattr(will_be, key):
            continue
        own = f"its own is classifier.{key}" if key in type(settings).model_fields else "leave it out"
        raise UserError(f"train.{key} = {value!r}: of an encoder's training, and the student is {settings.name}; {own}")
    return will_be
