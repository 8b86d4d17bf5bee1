"""The paper's published numbers (`published.toml`) as typed records, selected by table, dataset and model.

Values are percentages as printed (Table 1: layers, millions of parameters). Contradictions within the paper are noted in
footnotes of the numbers concerned.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from randout.core.errors import UserError, nearest


@dataclass(frozen=True)
class Number:
    """A number printed in the paper."""

    place: str  # "Table 3", "Section 5, ten folds", ...
    dataset: str  # "rhmd", "coda19"; "" if the number does not concern a dataset (Table 1)
    model: str  # a key of Paper.names
    metric: str  # one of metrics.COUNTED; precision, recall, f1 of one class; layers, million_parameters
    label: str  # class name, as in the dataset; "" for the whole test set
    printed: str
    notes: tuple[str, ...]  # keys of Paper.notes

    @property
    def value(self) -> float:
        """The printed number as a float."""
        return float(self.printed)

    @property
    def step(self) -> float:
        """The value of one unit in the last printed digit: 0.01 for "73.27"."""
        return 10.0 ** -len(self.printed.partition(".")[2])


@dataclass(frozen=True)
class BestSetting:
    """Section 5.1: the tokens and units with the highest validation accuracy at one lambda."""

    dataset: str
    lam: float
    tokens: int
    units: int
    overall: bool  # whether it is the best over all lambdas
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Elsewhere:
    """A number on a dataset of the paper that another paper prints."""

    dataset: str
    classes: int  # number of classes that it was measured with
    model: str  # a key of Paper.names: who reports it
    system: str
    metric: str  # as that paper calls it
    printed: str
    source: str
    about: str


@dataclass(frozen=True)
class Paper:
    """All published numbers and settings; `numbers` are in the order of the paper's tables, rows and columns."""

    numbers: tuple[Number, ...]
    best: tuple[BestSetting, ...]
    elsewhere: tuple[Elsewhere, ...]
    captions: Mapping[str, str]  # by place
    names: Mapping[str, str]  # model key -> display name
    datasets: Mapping[str, Mapping[str, Any]]  # sizes, split, test rows by class, max length
    training: Mapping[str, Any]  # section 4.2; a list has the values that were searched
    notes: Mapping[str, str]  # footnotes
    settings: Mapping[str, str]  # the paper's symbols -> settings of a recipe

    def find(
        self,
        place: str | None = None,
        dataset: str | None = None,
        model: str | None = None,
        metric: str | None = None,
        label: str | None = None,
    ) -> list[Number]:
        """Return the numbers that match all given fields, in order; `label=""` selects the whole test set.

        Raises UserError for a value that no number has.
        """
        found = list(self.numbers)
        asked = {"place": place, "dataset": dataset, "model": model, "metric": metric, "label": label}
        for field, word in asked.items():
            if word is None:
                continue
            known = dict.fromkeys(getattr(number, field) for number in self.numbers)
            if word not in known:
                words = ", ".join(filter(None, known))
                raise UserError(
                    f"The paper has no number with {field} {word!r}; known are {words}.{nearest(word, known)}"
                )
            found = [number for number in found if getattr(number, field) == word]
        return found

    def number(self, place: str, dataset: str, model: str, metric: str, label: str = "") -> Number:
        """Return the number that matches. Raises UserError if the paper has none."""
        found = self.find(place, dataset, model, metric, label)
        if not found:
            raise UserError(
                f"{place} has no {metric} of {model} on {dataset or 'no data set'}{label and f', {label}'}."
            )
        return found[0]

    def footnotes(self, numbers: list[Number]) -> list[str]:
        """Return the footnotes of these numbers, each once, in order of first appearance."""
        return [self.notes[key] for key in dict.fromkeys(key for number in numbers for key in number.notes)]


def _numbers(table: Mapping[str, Any]) -> list[Number]:
    places = [(label, column) for label in table.get("classes", [""]) for column in table["columns"]]
    numbers = []
    for row in table["rows"]:
        cells = row["cells"].split()
        for (label, column), cell in zip(places, cells, strict=True):
            notes = (*table.get("notes", ()), *row.get("notes", {}).get(column, ()))
            numbers.append(Number(table["place"], row.get("dataset", ""), row["model"], column, label, cell, notes))
    return numbers


@functools.cache
def paper() -> Paper:
    """Load `published.toml`; cached."""
    data = tomllib.loads(resources.files("randout").joinpath("paper", "published.toml").read_text(encoding="utf-8"))
    best = [
        BestSetting(
            one["dataset"],
            one["lambda"],
            one["tokens"],
            one["units"],
            one.get("overall", False),
            tuple(one.get("notes", ())),
        )
        for one in data["best"]
    ]
    return Paper(
        tuple(number for table in data["tables"] for number in _numbers(table)),
        tuple(best),
        tuple(Elsewhere(**one) for one in data["elsewhere"]),
        MappingProxyType({table["place"]: table["caption"] for table in data["tables"]}),
        *(MappingProxyType(data[name]) for name in ("names", "datasets", "training", "notes", "settings")),
    )
