"""A whole report as values: subjects in, chapters of sections out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .checks import checks
from .comparison import summary, units
from .runs_table import configuration, cost, data, environment, progress, test_openings
from .scores import calibration, confusion, disagreement, learning, per_class
from .search import noise, trials
from .subjects import Subject, data_of
from .teachers import teachers
from .values import Column, Figure, Section, Table


@dataclass(frozen=True)
class Chapter:
    """name: for links and files; empty for the only subject of a report. lead: what it is, to a newcomer."""

    name: str
    title: str
    lead: str
    sections: tuple[Section, ...]


KINDS = {"runs": "runs", "compare": "comparison", "cv": "cross-validation", "search": "search"}
WORDS = (
    ("accuracy", "The share of texts whose class is named rightly."),
    (
        "precision, recall, F1",
        "Of a class: how many of those named so are so; how many of those that are so were found; their harmonic mean.",
    ),
    ("macro", "The plain mean over classes, each counting the same however rare it is."),
    (
        "95 % interval",
        "Made in such a way that it covers the true value 95 times in 100. Copies of a text count once.",
    ),
    ("better, worse", "The difference to the baseline is larger than chance explains (Holm p at most 0.05)."),
    ("not distinguishable", "Chance explains the difference. It does not say that there is none."),
    (
        "equivalent",
        "The difference, whichever way it goes, is smaller than the margin; it may stand beside better or worse.",
    ),
    ("not worse", "It may be better or the same, but it is not worse by the margin or more."),
    ("no verdict", "There are too few seeds or too few groups of texts for any of these words to be reliable."),
    ("Holm p", "The p value of the difference, corrected for how many models were compared at once."),
    (
        "detectable",
        "The smallest true difference that this design would have found four times in five. A smaller one can be called "
        "better too, with more luck.",
    ),
    ("calibration error", "How far a model's stated confidence is from how often it is right, on average."),
    (
        "teacher, student, soft labels",
        "A large model's probabilities for each text (soft labels) are what the small model learns from besides the labels.",
    ),
    (
        "λ, tokens, units",
        "How much the teacher counts; on how many tokens and hidden units of each the noise falls while training.",
    ),
)


def build(subjects: list[Subject], texts: bool = True) -> list[Chapter]:
    """Chapters, one a subject. texts: whether rows of the data may be shown."""
    chapters = []
    taken: set[str] = set()
    for subject in subjects:
        name = "" if len(subjects) == 1 else _slug(subject.name)
        while name in taken:
            name += "-2"
        taken.add(name)
        found = [section for section in _sections(subject, texts) if section is not None]
        chapters.append(Chapter(name, subject.name, _lead(subject), tuple(_named(section, name) for section in found)))
    last = chapters[-1]
    return [*chapters[:-1], replace(last, sections=(*last.sections, _glossary()))]


def _sections(subject: Subject, texts: bool) -> list[Section | None]:
    first: tuple[Callable[[Subject], Section | None], ...] = (summary, trials, checks, progress, units, teachers, noise)
    then: tuple[Callable[[Subject], Section | None], ...] = (per_class, confusion, learning, calibration)
    last: tuple[Callable[[Subject], Section | None], ...] = (data, test_openings, cost, environment, configuration)
    found = [make(subject) for make in (*first, *then)]
    return [*found, disagreement(subject, texts), *(make(subject) for make in last)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def _named(section: Section, chapter: str) -> Section:
    """The section with names fit for links and files, each once."""
    taken: set[str] = set()

    def fit(name: str) -> str:
        found = _slug(f"{chapter}-{name}" if chapter else name)
        while found in taken:
            found += "-2"
        taken.add(found)
        return found

    parts = []
    for part in section.parts:
        if isinstance(part, Figure):
            name = fit(part.name)
            part = replace(part, name=name, table=replace(part.table, name=f"{name}-figure"))
        elif isinstance(part, Table):
            part = replace(part, name=fit(part.name))
        parts.append(part)
    return replace(section, name=_slug(f"{chapter}-{section.name}" if chapter else section.name), parts=tuple(parts))


def _lead(subject: Subject) -> str:
    name, _ = data_of(subject)
    labels = subject.models[0].labels if subject.models else []
    classes = (
        f", texts of {len(labels)} classes ({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''})"
        if labels
        else ""
    )
    arms = len(subject.study.get("arms", []))
    seeds = len(subject.study.get("units", []))
    each = "one seed each" if seeds == 1 else f"{seeds} seeds each"
    what = {
        "runs": f"{len(subject.arms)} text classifiers were trained"
        if len(subject.arms) > 1
        else "A text classifier was trained",
        "compare": f"{arms} recipes for a text classifier were trained with {each} and compared",
        "cv": f"{arms} recipes for a text classifier were cross-validated",
        "search": "Settings for a text classifier were searched",
    }[subject.kind]
    text = f"{what} on {name}{classes}."
    if subject.kind == "search":
        return f"{text} Trials are judged on the validation split, never on the test split."
    if len(subject.arms) > 1:
        text += f" The baseline is {subject.baseline}; every other model is set beside it on the same {subject.split} "
        text += "rows, which none was trained on."
    return text


def _glossary() -> Section:
    columns: tuple[Column, ...] = (Column("word"), Column("meaning"))
    return Section("words", "How to read this", (Table("words", "Words", columns, WORDS),))
