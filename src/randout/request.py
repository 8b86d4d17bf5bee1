"""What a command or a call asks for, laid over presets and recipes; nothing here needs a model or a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import DEFAULT_PRESET, overlay, read_preset, read_recipe


def base_layers(preset: str | None, recipe: Path | None) -> list[dict[str, Any]]:
    """What options are laid over. A recipe that lists methods stands alone; else it lies over the default preset."""
    if recipe is None:
        return [read_preset(preset or DEFAULT_PRESET)]
    tables = read_recipe(recipe)
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
