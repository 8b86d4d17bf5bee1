"""A request: the settings of a command or call, layered over presets and recipes. Does not import PyTorch."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from randout.core.config import DEFAULT_PRESET, Config, build, overlay, read_preset, read_recipe
from randout.core.errors import UserError
from randout.core.files import resolve_places
from randout.methods.builtin import METHODS
from randout.methods.registry import Origin
from randout.storage.run_folder import RunFolder

RESTORE = "restore the version that it started with to resume, or use --fresh to train alongside it"

TEACHERS_OWN = ("epochs", "learning_rate", "batch_size")  # settings of a teacher's own; the rest is as for its student


@dataclass(frozen=True)
class Request:
    """A requested training: a preset or a recipe (a TOML file), overlaid by `tables`, overlaid by single settings.

    settings: each as `config.assignment_of` returns it. Raises UserError if both a preset and a recipe are named.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    recipe: Path | None = None
    settings: Sequence[dict[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.preset and self.recipe:
            raise UserError("--preset and --recipe: use one of them; a recipe can hold the settings of a preset")

    def config(self, but: Collection[str] = ()) -> Config:
        """Return the configuration. but: tables of the recipe to ignore. Raises UserError."""
        below = base_layers(self.preset, self.recipe, self._student)
        layers = [{k: v for k, v in one.items() if k not in but} for one in below]
        return build([*layers, self.tables, *self.settings], METHODS)

    @property
    def _student(self) -> str:
        """The student that the request names outside a recipe; empty for none."""
        tables = reduce(overlay, self.settings, self.tables).get("student", {})
        return str(tables.get("model", "")) if isinstance(tables, dict) else ""

    @property
    def required(self) -> frozenset[str]:
        """The methods that the request names itself, rather than through the default preset."""
        return asked_methods(self.preset, self.recipe, self.settings)


def recipe_tables(path: Path) -> dict[str, Any]:
    """Read the tables of a recipe. Raises UserError.

    A relative path that exists from the recipe's folder is made absolute. The `run.toml` of a run also finds the teacher
    that was trained for it, by name.
    """
    tables = read_recipe(path)
    if path.parent.resolve() != Path.cwd():
        resolve_places(tables, path.parent)
    run, teacher = RunFolder(path.parent), tables.get("teacher")
    if path.name == "run.toml" and run.exists and isinstance(teacher, dict):
        place = path.parent / run.record.runs / str(teacher.get("model", ""))
        if teacher.get("model") and (place / "run.toml").exists():
            teacher["model"] = os.path.normpath(place.absolute())
    return tables


def stored_config(run: RunFolder, to_train: bool = False) -> Config:
    """Return the configuration in a run's `run.toml`, with paths resolved from the folder's current location.

    to_train: whether the run is to be resumed. Then the plugins that it started with must be installed in the same
    version (else UserError); to use its model, they are not needed.
    """
    tables = read_recipe(run.path / "run.toml")
    resolve_places(tables, run.path)
    if to_train:
        check_origins(run)
        return build([tables], METHODS)
    methods = tables.get("methods", {})
    if not isinstance(methods, dict):
        return build([tables], METHODS)
    plugins = {name: own for name, own in methods.items() if name not in METHODS.built_in and isinstance(own, dict)}
    config = build([tables | {"methods": {k: v for k, v in methods.items() if k not in plugins}}], METHODS)
    return config.model_copy(update={"methods": config.methods | plugins})


def check_origins(run: RunFolder) -> None:
    """Raise UserError if a plugin method is missing or is not the version that the run started with."""
    for name, recorded in run.record.plugins.items():
        was = Origin(**recorded)
        where = f"{run.path}: methods.{name} comes from the {was}"
        if name not in METHODS:
            todo = "install it" if was.package else f"name it with --plugin {was.file}"
            raise UserError(f"{where}, which is not {'installed' if was.package else 'loaded'}; {todo} to resume")
        now = METHODS.origins([name]).get(name, Origin())
        if now.identity != was.identity:
            raise UserError(f"{where}, and {now.differs_from(was)}; {RESTORE}")


def base_layers(preset: str | None, recipe: Path | None, student: str = "") -> list[dict[str, Any]]:
    """Return the layers below the options. A recipe that lists methods replaces the default preset; others extend it.

    student: as for `read_preset`.
    """
    if recipe is None:
        return [read_preset(preset or DEFAULT_PRESET, student)]
    tables = recipe_tables(recipe)
    return [tables] if "methods" in tables else [read_preset(preset or DEFAULT_PRESET), tables]


def asked_methods(preset: str | None, recipe: Path | None, assignments: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the methods that a request names in its preset, recipe or settings, not those of the default preset."""
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
    """Return `config` with its teacher trained by the settings of `shared` instead of "same as the student".

    The teacher is removed if no method learns from one, and further teachers if none learns from several.
    """
    used = [methods[name] for name in config.methods]
    if not any(method.teacher for method in used):
        none = {"model": "none", "more": (), "cross_fit": 0}
        return config.model_copy(update={"teacher": config.teacher.model_copy(update=none)})
    fixed: dict[str, Any] = {} if any(method.several for method in used) else {"more": ()}
    fixed |= {
        key: getattr(shared.train, key) or "auto" for key in TEACHERS_OWN if getattr(config.teacher, key) == "same"
    }
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=fixed)})
