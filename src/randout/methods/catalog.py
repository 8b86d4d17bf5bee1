"""Catalog of methods: what each is, its settings in a comparison, and what a search may tune.

The one place that turns `methods.METHODS` into arms of a study and into lines for people.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from randout.core.config import overlay
from randout.core.errors import UserError, nearest

from .base import SUPERVISED, Method
from .builtin import GOLD, KD_ALONE, METHODS, PAPERS_OWN

ALL = "all"
HOOKS = ("start", "inputs", "perturb", "loss", "gradient", "stepped", "evaluated")


@dataclass(frozen=True)
class Entry:
    """One use of a method. settings: what it changes of the method's defaults. methods: names it is trained with.
    about: what it is, where that is not the method's own summary.
    """

    name: str
    method: type[Method]
    settings: dict[str, Any]
    methods: tuple[str, ...]
    about: str = ""

    @property
    def recipe(self) -> dict[str, Any]:
        """The tables of an arm: these methods and none of the other built-in ones."""
        own: dict[str, Any] = dict.fromkeys(METHODS.built_in, False) | {name: {} for name in self.methods}
        return {"methods": own | {self.method.name: dict(self.settings)}}

    @property
    def space(self) -> dict[str, list[Any]]:
        """What may be tuned of it, as a search names it."""
        return {f"{self.method.name}.{key}": list(values) for key, values in space_of(self).items()}


def space_of(entry: Entry) -> dict[str, Sequence[Any]]:
    """Of a method its own space; of a variant what it says of itself, less what it fixes."""
    own = entry.method.spaces.get(entry.name, entry.method.space)
    return {
        key: values for key, values in own.items() if key not in entry.settings or entry.name in entry.method.spaces
    }


def entries() -> dict[str, Entry]:
    """Every use of every method, by name, in the order of the registry; then the paper's own combination. A method of
    another package that cannot be loaded is warned of and left out.
    """
    found: dict[str, Entry] = {}
    for name, method in METHODS.available().items():
        together = tuple(dict.fromkeys((*method.beside, name)))
        for use, settings in {name: {}, **method.variants}.items():
            found[use] = Entry(use, method, dict(settings), together)
    noise = METHODS[PAPERS_OWN]
    both = f"{noise.name}-{KD_ALONE}"
    found[both] = Entry(
        both, noise, {}, (GOLD, KD_ALONE, noise.name), "the paper's own: noise and distillation at once"
    )
    return found


def chosen(words: Sequence[str]) -> dict[str, Entry]:
    """The uses that are named, or all; without the cross-entropy alone, which everything is compared with.

    Raises UserError for a name that is not on the shelf.
    """
    shelf = entries()
    names: list[str] = []
    for word in words:
        if word in METHODS:
            METHODS[word]  # one that cannot be loaded says why
        if word != ALL and word not in shelf:
            raise UserError(f"methods: no method {word!r}; `randout methods` lists them.{nearest(word, [*shelf, ALL])}")
        names += shelf if word == ALL else [word]
    return {name: shelf[name] for name in dict.fromkeys(names) if name != GOLD}


def distils(entry: Entry) -> bool:
    """Whether it is a method of distillation, and so to be compared with plain distillation too."""
    return entry.name != KD_ALONE and (entry.method.kind == "distillation" or KD_ALONE in entry.methods)


def as_study(words: Sequence[str], baseline: str, below: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """What a study of these methods adds to a study's tables: arms, what each may tune, who else is compared with whom.

    The arm `baseline` is cross-entropy alone; plain distillation joins where a method of distillation is among them.
    below: methods that the study's base has for every arm, and that an arm has only where it names them itself.
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
    """What a person or a program is told of each use: name, kind, summary, source, seams, cost, options."""
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
        "seams": [seam for seam in HOOKS if getattr(method, seam) is not getattr(Method, seam)],
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
    """What it asks for, a sentence each."""
    found = {
        "a teacher's stored logits": method.teacher == "logits",
        "a teacher, which is run beside the student": method.teacher == "model",
        "may have several teachers (teacher.more)": method.several,
        f"keeps {method.heldout:.0%} of the training rows from the student": method.heldout > 0,
        "whole batches: a step is not split into micro-batches": method.whole,
        f"decides the loss on gold labels itself ({SUPERVISED})": method.supervises,
    }
    return [text for text, true in found.items() if true]
