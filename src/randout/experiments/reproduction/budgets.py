"""The studies and searches behind each table, figure and section of the paper, by budget.

The published numbers are in `randout.paper`; `reproduce` runs what is missing and compares them with the measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from randout.core.config import overlay, read_preset
from randout.core.errors import UserError, nearest
from randout.experiments.search.space import SPACES, SearchTable
from randout.experiments.study.spec import ABLATION, Study, make_study
from randout.methods.builtin import KD_ALONE, PAPERS_OWN
from randout.methods.term_pooling import TermPooling
from randout.methods.term_spans import TermSpans
from randout.models.sources import ALIASES
from randout.paper.published import paper

PLAIN, NOISE, KD, BOTH = ABLATION  # presets
HMCNET = "hmcnet"  # preset of the approximation of Naseem et al. 2022b

ITEMS = {
    "rhmd": ("table 1", "table 2", "table 3", "table 5", "table 6", "figure 1", "figure 2", "figure 4", "section 5"),
    "coda19": ("table 1", "table 2", "table 3", "table 4", "table 6", "figure 1", "figure 2", "figure 3"),
}
TEACHERS = {"rhmd": "roberta-large", "coda19": "pubmedbert"}
STUDENT = "data2vec"
CLASSIFIERS = ("svm", "rf", "mnb-count", "mnb-tfidf", "cnn", "lstm")
ENCODERS = {"bert": "bert-base", "scibert": "scibert"}  # of Table 4, fine-tuned like any encoder


@dataclass(frozen=True)
class Budget:
    """How much training a reproduction may use. train: overlaid on the recipe. limits: what it reduces, for the reader."""

    about: str
    seeds: int
    folds: int
    train: Mapping[str, Any]
    search: Mapping[str, Any]
    sample: int = 0  # labelled rows in all; 0: every row
    preset: str = ""
    classifiers: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""


SMOKE_SPACE = {paper().settings[k]: v for k, v in {"lambda": [0.4, 0.8], "tokens": [4, 64], "units": [2, 64]}.items()}
BUDGETS = {
    "smoke": Budget(
        "minutes on two cores: a sample of the rows, one epoch, one seed",
        seeds=1,
        folds=5,
        sample=600,
        train={"epochs": 1, "learning_rate": 1e-4},
        search={"space": SMOKE_SPACE},
        classifiers={"cnn": {"epochs": 2}, "lstm": {"epochs": 1, "layers": 2}},
        limits="600 labelled rows, one epoch",
    ),
    "small": Budget(
        "hours on two cores: every row, two epochs, three seeds, a third of the grid's corners",
        seeds=3,
        folds=5,
        train={"epochs": 2, "learning_rate": 5e-5},
        search={"preset": "figures", "trials": 24, "halving": 4},
        classifiers={"lstm": {"epochs": 5}},
        limits="two epochs at 5e-5",
    ),
    "full": Budget(
        "as published: 15 epochs at 1e-5, five seeds, the whole grid of 1,344 configurations",
        seeds=5,
        folds=10,
        preset="paper",
        train={},
        search={"preset": "paper"},
    ),
}


@dataclass(frozen=True)
class Request:
    """A requested reproduction. base: tables (data, student, teacher, settings) under every recipe."""

    dataset: str
    budget: str
    base: Mapping[str, Any]
    changed: tuple[str, ...] = ()  # settings that differ from the budget's

    @property
    def spend(self) -> Budget:
        return BUDGETS[self.budget]

    @property
    def student(self) -> str:
        return str(self.base["student"]["model"])

    @property
    def teacher(self) -> str:
        return str(self.base["teacher"]["model"])


def make_request(dataset: str, budget: str, asked: Mapping[str, Any]) -> Request:
    """Build a request. asked: tables of the command line. Raises UserError for an unknown dataset or budget."""
    if dataset not in ITEMS:
        raise UserError(f"reproduce {dataset}: the paper's datasets are {', '.join(ITEMS)}.{nearest(dataset, ITEMS)}")
    if budget not in BUDGETS:
        raise UserError(f"--budget {budget}: expected {', '.join(BUDGETS)}.{nearest(budget, BUDGETS)}")
    spend = BUDGETS[budget]
    below: dict[str, Any] = (
        {key: value for key, value in read_preset(spend.preset).items() if key != "methods"} if (spend.preset) else {}
    )
    data: dict[str, Any] = {"source": dataset, "sample": spend.sample}
    if dataset == "rhmd":
        data["split"] = "paper"
    below = overlay(below, {"train": dict(spend.train), "data": data})
    below = overlay(below, {"student": {"model": STUDENT}, "teacher": {"model": TEACHERS[dataset]}})
    changed = [
        f"{table}.{key} = {value}"
        for table, values in asked.items()
        for key, value in (values.items() if isinstance(values, dict) else ())
        if (table, key) not in (("data", "source"), ("student", "model"), ("teacher", "model"))
    ]
    return Request(dataset, budget, overlay(below, dict(asked)), tuple(changed))


def items_of(dataset: str, tables: list[int], figures: list[int], sections: list[int]) -> list[str]:
    """Return the requested items, or all if none is named. Raises UserError for one that the dataset does not have."""
    wanted = [f"table {n}" for n in tables] + [f"figure {n}" for n in figures] + [f"section {n}" for n in sections]
    for item in wanted:
        if item not in ITEMS[dataset]:
            raise UserError(f"{item}: not in the paper for {dataset}. Available: {', '.join(ITEMS[dataset])}")
    return wanted or list(ITEMS[dataset])


def best_settings(dataset: str) -> dict[str, Any]:
    """Return the best noise and lambda of section 5.1, as methods. The paper does not state the temperature; it is 1."""
    best = next(one for one in paper().best if one.dataset == dataset and one.overall)
    return {KD_ALONE: {"weight": best.lam}, PAPERS_OWN: {"tokens": best.tokens, "units": best.units}}


def arm(request: Request, name: str) -> dict[str, Any]:
    """Return the recipe of a published row as an arm of a study."""
    if name == HMCNET:
        terms = list(paper().datasets[request.dataset]["terms"])
        return {"preset": name, "methods": {method.name: {"terms": terms} for method in (TermSpans, TermPooling)}}
    if name in CLASSIFIERS:
        own = dict(request.spend.classifiers.get(name, {}))
        return {"preset": PLAIN, "student": {"model": name}, **({"classifier": own} if own else {})}
    if name == "teacher" or name in ENCODERS:
        model = request.teacher if name == "teacher" else ENCODERS[name]
        head = request.base.get("teacher", {}).get("head")
        return {"preset": PLAIN, "student": {"model": model, **({"head": head} if head else {})}}
    best = best_settings(request.dataset)
    kept = {PLAIN: (), NOISE: (PAPERS_OWN,), KD: (KD_ALONE,), BOTH: (KD_ALONE, PAPERS_OWN)}[name]
    return {"preset": name, "methods": {method: best[method] for method in kept}}


def study_of(request: Request, item: str) -> Study:
    """Return the study behind an item."""
    arms = {
        "table 2": ["teacher"],
        "table 3": [PLAIN, BOTH],
        "table 4": [*CLASSIFIERS, PLAIN, BOTH],
        "table 5": [PLAIN, BOTH],
        "table 6": [*ABLATION],
        "figure 2": [BOTH],
        "section 5": [BOTH],
        "section 5 hmcnet": [HMCNET],
    }[item]
    if item == "table 4":
        arms = [*arms[:-2], *[name for name in ENCODERS if request.budget == "full"], *arms[-2:]]
    tables: dict[str, Any] = {"name": item.replace(" ", "-"), "base": dict(request.base)}
    tables["arms"] = {name: arm(request, name) for name in arms}
    tables["baseline"] = PLAIN if PLAIN in arms else arms[0]
    if item.startswith("section 5"):
        return make_study(tables | {"folds": request.spend.folds})
    return make_study(tables | {"seeds": list(range(1, request.spend.seeds + 1))})


def search_of(request: Request) -> SearchTable:
    """Return the search behind Figures 3 and 4: validation accuracy by lambda, tokens and units."""
    table = SearchTable.model_validate(dict(request.spend.search))
    assert table.preset in ("", *SPACES)
    return table


def reasons(request: Request, model: str) -> list[str]:
    """Return the reasons why a published and a measured number are not comparable; empty if they are."""
    found = []
    if model not in CLASSIFIERS and model not in ENCODERS:
        student = "bert-large" if model == HMCNET else STUDENT
        published = {"student": (request.student, student), "teacher": (request.teacher, TEACHERS[request.dataset])}
        used = {"teacher": ["teacher"], **{name: ["student", "teacher"] for name in (KD, BOTH)}}
        for role in used.get(model, ["student"]):
            own, theirs = published[role]
            if own not in (theirs, ALIASES[theirs]):
                found.append(f"{role} {_short(own)} instead of {theirs}")
    found += ["approximation without user behaviour, and of layers not checked"] if model == HMCNET else []
    found += [request.spend.limits] if request.spend.limits else []
    found += [f"changed settings: {', '.join(request.changed)}"] if request.changed else []
    if request.base["data"].get("split", "auto") != "paper" and request.dataset == "rhmd":
        found.append("different split")
    return found


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
