"""Catalog of methods: what each is, its settings in a comparison, and what a search may tune.

Turns `builtin.METHODS` into arms of a study and into the lines of `randout methods`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from randout.core.config import overlay
from randout.core.errors import UserError, nearest

from .base import GOLD_LOSS, Method
from .builtin import GOLD, KD_ALONE, METHODS, PAPERS_OWN

ALL = "all"
HOOKS = ("start", "inputs", "perturb", "loss", "gradient", "stepped", "evaluated")


@dataclass(frozen=True)
class Entry:
    """One use of a method: the method itself, a variant, or a combination.

    settings: differences from the method's defaults. methods: names of all methods it is trained with, its own included.
    about: description, if not the method's own summary.
    """

    name: str
    method: type[Method]
    settings: dict[str, Any]
    methods: tuple[str, ...]
    about: str = ""

    @property
    def recipe(self) -> dict[str, Any]:
        """Tables of a study arm: these methods, and no other built-in ones."""
        own: dict[str, Any] = dict.fromkeys(METHODS.built_in, False) | {name: {} for name in self.methods}
        return {"methods": own | {self.method.name: dict(self.settings)}}

    @property
    def space(self) -> dict[str, list[Any]]:
        """Settings that may be tuned, as METHOD.SETTING, with their values."""
        return {f"{self.method.name}.{key}": list(values) for key, values in space_of(self).items()}


def space_of(entry: Entry) -> dict[str, Sequence[Any]]:
    """Search space of an entry: the method's, or the variant's own if it has one, without settings that the variant fixes."""
    own = entry.method.spaces.get(entry.name, entry.method.space)
    return {
        key: values for key, values in own.items() if key not in entry.settings or entry.name in entry.method.spaces
    }


def entries() -> dict[str, Entry]:
    """Every use of every method, by name, in the order of the registry, then the paper's own combination.

    A method of another package that cannot be loaded is left out with a warning.
    """
    found: dict[str, Entry] = {}
    for name, method in METHODS.available().items():
        together = tuple(dict.fromkeys((*method.trained_with, name)))
        for use, settings in {name: {}, **method.variants}.items():
            found[use] = Entry(use, method, dict(settings), together)
    noise = METHODS[PAPERS_OWN]
    both = f"{noise.name}-{KD_ALONE}"
    found[both] = Entry(
        both, noise, {}, (GOLD, KD_ALONE, noise.name), "the paper's method: noise and distillation together"
    )
    return found


def chosen(words: Sequence[str]) -> dict[str, Entry]:
    """Select entries by name, or all with "all". Cross-entropy alone is excluded: everything is compared with it.

    Raises UserError for an unknown name.
    """
    known = entries()
    names: list[str] = []
    for word in words:
        if word in METHODS:
            METHODS[word]  # raises UserError if it cannot be loaded
        if word != ALL and word not in known:
            raise UserError(f"methods: no method {word!r}; `randout methods` lists them.{nearest(word, [*known, ALL])}")
        names += known if word == ALL else [word]
    return {name: known[name] for name in dict.fromkeys(names) if name != GOLD}


def distils(entry: Entry) -> bool:
    """Whether an entry uses distillation, so that it is also compared with plain distillation."""
    return entry.name != KD_ALONE and (entry.method.kind == "distillation" or KD_ALONE in entry.methods)


def as_study(words: Sequence[str], baseline: str, below: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Tables of a study of these methods: arms, their search spaces, and further comparisons.

    The arm `baseline` is cross-entropy alone. Plain distillation is added if any method uses distillation. below: methods
    in the study's base configuration, which are switched off in arms that do not name them.
    """
    uses = chosen(words)
    against = tuple(name for name, entry in uses.items() if distils(entry))
    if against:
        uses = {KD_ALONE: entries()[KD_ALONE]} | uses
    plain = Entry(baseline, METHODS[GOLD], {}, (GOLD,))
    off = {"methods": dict.fromkeys((name for name in below if name not in METHODS.built_in), False)}
    arms = {entry.name: overlay(off, entry.recipe) for entry in (plain, *uses.values())}
    return {
        "arms": arms,
        "spaces": {name: entry.space for name, entry in uses.items() if entry.space},
        "against": {KD_ALONE: against} if against else {},
    }


def rows(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Describe each entry, or those in `names`, for display and JSON: name, kind, summary, source, hooks, cost, options."""
    return [described(entry) for name, entry in entries().items() if not names or name in names]


def described(entry: Entry) -> dict[str, Any]:
    method = entry.method
    options = {}
    for name, field in method.model_fields.items():
        default = entry.settings.get(name, field.default)
        options[name] = {"default": default, "about": field.description or ""}
    return {
        "name": entry.name,
        "method": method.name,
        "kind": "distillation" if distils(entry) else method.kind,
        "summary": entry.about or method.summary,
        "source": method.source,
        "package": str(METHODS.origin(method.name) or ""),
        "hooks": [hook for hook in HOOKS if getattr(method, hook) is not getattr(Method, hook)],
        "cost": method.cost,
        "teacher": next((t for t in (METHODS[name].teacher for name in entry.methods) if t), ""),
        "with": [name for name in entry.methods if name != method.name],
        "settings": entry.settings,
        "options": options,
        "tuned": entry.space,
        "equation": inspect.cleandoc(method.__doc__ or ""),
        "needs": needs(method),
    }


def needs(method: type[Method]) -> list[str]:
    """Requirements of a method, one phrase each."""
    found = {
        "a teacher's stored logits": method.teacher == "logits",
        "a teacher that runs alongside the student": method.teacher == "model",
        "optionally several teachers (teacher.more)": method.several,
        f"{method.heldout:.0%} of the training rows, withheld from the student": method.heldout > 0,
        "whole batches: a step is not split into micro-batches": method.needs_full_batch,
        f"control of the loss on gold labels ({GOLD_LOSS})": method.replaces_gold_loss,
    }
    return [text for text, true in found.items() if true]
