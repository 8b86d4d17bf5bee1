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


def chosen(config: Config) -> Classifier | None:
    """Return the baseline that `student.model` names, with its settings; None for an encoder.

    Raises UserError for wrong settings, or for settings of a baseline if the student is an encoder.
    """
    kind = CLASSIFIERS.get(config.student.model)
    if kind is not None:
        settings: Classifier = checked(kind, config.classifier, "classifier.")
        settings.check()
        return settings
    if config.classifier and not config.student.alternative:
        raise UserError(
            f"classifier.{next(iter(config.classifier))}: a setting of a bag-of-words or neural baseline, but the student "
            f"is the encoder {config.student.model!r}. Name one of {', '.join(CLASSIFIERS)} with --student"
        )
    return None


def resolve_settings(config: Config, settings: Classifier, notes: list[str]) -> Config:
    """Resolve a configuration for a baseline: write out its settings and drop those of encoders.

    notes: gets a line for dropped default methods. Raises UserError for a requested setting that the baseline does not
    support.
    """
    name = settings.name
    for key, value in _non_defaults(config.student, StudentTable()).items():
        if key != "model":
            raise UserError(f"student.{key} = {value!r}: a setting of encoders, but the student is {name}. Remove it")
    for teacher in ("" if config.teacher.model in ("auto", "none") else config.teacher.model, *config.teacher.more):
        if teacher:
            raise UserError(
                f"--teacher {teacher}: not supported, as {name} learns from labels only. Remove the teacher"
            )
    if config.data.unlabeled:
        raise UserError(f"data.unlabeled: not supported, as {name} learns from labels only. Remove it")
    for key, value in (("data.views", config.data.views), ("teacher.cross_fit", config.teacher.cross_fit)):
        if value:
            raise UserError(f"{key}: not supported, as {name} learns from labels only. Set it to 0")
    update = {
        "teacher": TeacherTable(model="none"),
        "methods": _methods(config, settings, notes),
        "train": _train(config.train, settings),
        "classifier": settings.model_dump(mode="json"),
    }
    return config.model_copy(update=update)


def _non_defaults(table: Any, plain: Any) -> dict[str, Any]:
    found = table.model_dump(mode="json")
    return {key: found[key] for key, value in plain.model_dump(mode="json").items() if found[key] != value}


def _methods(config: Config, settings: Classifier, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the methods of a baseline: cross-entropy, or none if it has its own loss.

    The methods of the default presets are dropped with a note; others raise UserError.
    """
    asked = config.methods
    plain = build([{"methods": {GOLD: {}}}], METHODS).methods
    extra = [method for method in asked if method != GOLD]
    preset_methods = [build([read_preset(preset)], METHODS).methods for preset in (DEFAULT_PRESET, PAPER_PRESET)]
    if extra and asked in preset_methods:
        notes.append(
            f"methods: {settings.name} learns from labels only; those of the preset ({', '.join(extra)}) need an encoder"
        )
        asked = plain
    elif extra:
        raise UserError(f"methods.{extra[0]}: needs an encoder, but the student is {settings.name}. Remove it")
    if not settings.own_loss:
        return asked or plain
    if asked not in ({}, plain):
        raise UserError(f"methods.{GOLD}: {settings.name} has its own loss. Remove the settings of the method")
    return {}


def _train(asked: TrainTable, settings: Classifier) -> TrainTable:
    """Return the resolved table `[train]`. Raises UserError for a setting that would have no effect."""
    resolved = settings.training(asked).model_copy(update={"refit": False})
    for key, value in _non_defaults(asked, TrainTable()).items():
        if key in settings.train_settings or value == getattr(resolved, key):
            continue
        own = f"Use classifier.{key}" if key in type(settings).model_fields else "Remove it"
        raise UserError(f"train.{key} = {value!r}: a setting of encoders, but the student is {settings.name}. {own}")
    return resolved
