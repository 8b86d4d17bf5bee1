"""A request: what a command or call asks for, layered over presets and recipes. Needs no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randout.core.config import DEFAULT_PRESET, Config, build, overlay, read_preset, read_recipe
from randout.core.errors import UserError
from randout.core.files import resolve_places
from randout.methods.builtin import METHODS
from randout.methods.registry import Origin
from randout.storage.run_folder import RunFolder

RESTORE = "bring back what it was begun with to resume, or use --fresh to train alongside"

TEACHERS_OWN = ("epochs", "learning_rate", "batch_size")  # of a teacher's training: the rest is as its student's


@dataclass(frozen=True)
class Request:
    """A training as it is asked for: `tables` over a preset or a recipe (a TOML file), single settings over all.

    settings: each as `config.assignment_of` gives it. Raises UserError where both a preset and a recipe are named.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    recipe: Path | None = None
    settings: Sequence[dict[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.preset and self.recipe:
            raise UserError("--preset and --recipe: name one; a recipe can say what a preset says")

    def config(self, but: Collection[str] = ()) -> Config:
        """The configuration; but: tables of the recipe that are no part of it. Raises UserError."""
        layers = [{k: v for k, v in one.items() if k not in but} for one in base_layers(self.preset, self.recipe)]
        return build([*layers, self.tables, *self.settings], METHODS)

    @property
    def required(self) -> frozenset[str]:
        """The methods that it names itself, rather than by the default preset."""
        return asked_methods(self.preset, self.recipe, self.settings)


def recipe_tables(path: Path) -> dict[str, Any]:
    """The tables of a recipe. A relative path in it that leads somewhere from the recipe's folder is made absolute; the
    `run.toml` of a run also finds the teacher that was trained for it, by name. Raises UserError.
    """
    tables = read_recipe(path)
    if path.parent.resolve() != Path.cwd():
        resolve_places(tables, path.parent)
    run, teacher = RunFolder(path.parent), tables.get("teacher")
    if path.name == "run.toml" and run.exists and isinstance(teacher, dict):
        place = path.parent / run.record.get("runs", ".") / str(teacher.get("model", ""))
        if teacher.get("model") and (place / "run.toml").exists():
            teacher["model"] = os.path.normpath(place.absolute())
    return tables


def stored_config(run: RunFolder, to_train: bool = False) -> Config:
    """The configuration in a run's `run.toml`, its paths made good from where the folder lies now.

    to_train: the run is to be resumed, so methods of other packages must be here as the run was begun with them (else
    UserError); to read its model, they need not be.
    """
    tables = read_recipe(run.path / "run.toml")
    resolve_places(tables, run.path)
    if to_train:
        check_origins(run)
        return build([tables], METHODS)
    methods = tables.get("methods", {})
    if not isinstance(methods, dict):
        return build([tables], METHODS)
    foreign = {name: own for name, own in methods.items() if name not in METHODS.built_in and isinstance(own, dict)}
    config = build([tables | {"methods": {k: v for k, v in methods.items() if k not in foreign}}], METHODS)
    return config.model_copy(update={"methods": config.methods | foreign})


def check_origins(run: RunFolder) -> None:
    """Raise UserError where a method of another package or file is not here as the run was begun with it."""
    for name, recorded in run.record.get("plugins", {}).items():
        was = Origin(**recorded)
        where = f"{run.path}: methods.{name} comes from the {was}"
        if name not in METHODS:
            todo = "install it" if was.package else f"name it with --plugin {was.file}"
            raise UserError(f"{where}, which is not {'installed' if was.package else 'loaded'} here; {todo} to resume")
        now = METHODS.origins([name]).get(name, Origin())
        if now.identity != was.identity:
            raise UserError(f"{where}, and {now.differs_from(was)}; {RESTORE}")


def base_layers(preset: str | None, recipe: Path | None) -> list[dict[str, Any]]:
    """What options are laid over. A recipe that lists methods stands alone; else it lies over the default preset."""
    if recipe is None:
        return [read_preset(preset or DEFAULT_PRESET)]
    tables = recipe_tables(recipe)
    return [tables] if "methods" in tables else [read_preset(preset or DEFAULT_PRESET), tables]


def asked_methods(preset: str | None, recipe: Path | None, assignments: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Methods that a request names itself, by its preset, recipe or settings, rather than by the default preset."""
    tables: dict[str, Any] = read_preset(preset) if preset else {}
    for layer in [read_recipe(recipe) if recipe else {}, *assignments]:
        tables = overlay(tables, dict(layer))
    methods = tables.get("methods", {})
    return (
        frozenset(name for name, own in methods.items() if own is not False)
        if isinstance(methods, dict)
        else frozenset()
    )


def with_fixed_teacher(config: Config, shared: Config, methods: Mapping[str, Any]) -> Config:
    """`config` with its teacher trained as `shared` says where it says "same as the student"; no teacher, where no
    method learns from one; no further teachers, where none learns from several.
    """
    used = [methods[name] for name in config.methods]
    if not any(method.teacher for method in used):
        return config.model_copy(update={"teacher": config.teacher.model_copy(update={"model": "none", "more": ()})})
    fixed: dict[str, Any] = {} if any(method.several for method in used) else {"more": ()}
    fixed |= {
        key: getattr(shared.train, key) or "auto" for key in TEACHERS_OWN if getattr(config.teacher, key) == "same"
    }
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=fixed)})
