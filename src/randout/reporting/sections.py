"""Builds a report from subjects: chapters of sections, as plain values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from randout.core.wording import plural, verb

from .abstention import abstention
from .checks import checks
from .comparison import summary, units
from .runs_table import configuration, cost, data, environment, progress, test_openings
from .scores import calibration, confusion, disagreement, learning, per_class
from .search import noise, trials
from .shrink import section as sizes
from .student_selection import choice
from .subjects import Subject, data_of
from .teachers import teachers
from .values import Column, Figure, Section, Table


@dataclass(frozen=True)
class Chapter:
    """A part of a report. name: for links and files, empty if it is the only one. lead: an introductory sentence."""

    name: str
    title: str
    lead: str
    sections: tuple[Section, ...]


KINDS = {
    "runs": "runs",
    "compare": "comparison",
    "cv": "cross-validation",
    "search": "search",
    "shrink": "ladder of sizes",
}
TERMS = (
    ("unit", "A repetition within a study: a seed or a fold, for which every model is trained."),
    ("accuracy", "Share of texts that are classified correctly."),
    (
        "precision, recall, F1",
        "Precision: share of the texts predicted as a class that belong to it. Recall: share of the texts of a class that "
        "are predicted as it. F1: their harmonic mean.",
    ),
    ("macro", "Unweighted mean over classes, so that rare classes count as much as common ones."),
    (
        "95 % interval",
        "Computed by a procedure that covers the true value 95 times in 100. Copies of a text count once.",
    ),
    ("better, worse", "The difference from the baseline is larger than chance explains (Holm p at most 0.05)."),
    ("not distinguishable", "Chance can explain the difference. This does not show that there is none."),
    (
        "equivalent",
        "The difference in either direction is smaller than the margin. Can be combined with better or worse.",
    ),
    ("not worse", "The model may be better or equal, but it is not worse by the margin or more."),
    ("no verdict", "There are too few seeds or too few groups of texts for a reliable verdict."),
    ("Holm p", "p value of the difference, corrected for the number of comparisons."),
    (
        "detectable",
        "Smallest true difference that this design detects with 80 % power. Smaller differences are detected less often.",
    ),
    ("calibration error", "Mean distance between a model's confidence and its accuracy."),
    (
        "coverage, risk",
        "Of a model that labels only texts of which it is sure: the share of texts with a label, and the share of errors "
        "among these.",
    ),
    (
        "teacher, student, soft labels",
        "Soft labels are the class probabilities that the teacher, a large model, predicts for each text. The student, a "
        "small model, learns from them in addition to the labels.",
    ),
    (
        "λ, tokens, units",
        "λ: weight of the distillation loss. Tokens, units: number of tokens, and of hidden units of each, that receive "
        "noise during training.",
    ),
)


def build(subjects: list[Subject], texts: bool = True) -> list[Chapter]:
    """Build one chapter per subject. texts: show texts of the data."""
    chapters = []
    taken: set[str] = set()
    for subject in subjects:
        name = "" if len(subjects) == 1 else _slug(subject.name)
        while name in taken:
            name += "-2"
        taken.add(name)
        found = [section for section in _sections(subject, texts) if section is not None]
        chapters.append(
            Chapter(name, subject.name, _lead(subject), tuple(_with_unique_names(section, name) for section in found))
        )
    last = chapters[-1]
    return [*chapters[:-1], replace(last, sections=(*last.sections, _glossary()))]


def _sections(subject: Subject, texts: bool) -> list[Section | None]:
    first: tuple[Callable[[Subject], Section | None], ...] = (
        sizes,
        summary,
        trials,
        checks,
        progress,
        units,
        choice,
        teachers,
        noise,
    )
    then: tuple[Callable[[Subject], Section | None], ...] = (
        per_class,
        confusion,
        learning,
        calibration,
        abstention,
    )
    last: tuple[Callable[[Subject], Section | None], ...] = (data, test_openings, cost, environment, configuration)
    found = [make(subject) for make in (*first, *then)]
    return [*found, disagreement(subject, texts), *(make(subject) for make in last)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def _with_unique_names(section: Section, chapter: str) -> Section:
    """Give the parts of a section unique names that are valid in links and file names."""
    taken: set[str] = set()

    def unique(name: str) -> str:
        found = _slug(f"{chapter}-{name}" if chapter else name)
        while found in taken:
            found += "-2"
        taken.add(found)
        return found

    parts = []
    for part in section.parts:
        if isinstance(part, Figure):
            name = unique(part.name)
            part = replace(part, name=name, table=replace(part.table, name=f"{name}-figure"))
        elif isinstance(part, Table):
            part = replace(part, name=unique(part.name))
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
    arms, seeds = (len(subject.comparison.arms), len(subject.comparison.units)) if subject.comparison else (0, 0)
    each = "one seed each" if seeds == 1 else f"{seeds} seeds each"
    recipes = f"{plural(arms, 'recipe')} for a text classifier {verb(arms, 'was', 'were')}"
    what = {
        "runs": f"{len(subject.arms)} text classifiers were trained"
        if len(subject.arms) > 1
        else "A text classifier was trained",
        "compare": f"{recipes} trained with {each}{' and compared' if arms > 1 else ''}",
        "cv": f"{recipes} cross-validated",
        "search": "Settings for a text classifier were searched",
        "shrink": f"Text classifiers of {len(subject.ladder.rungs) - 1 if subject.ladder else 0} sizes were compared with a "
        "teacher",
    }[subject.kind]
    text = f"{what} on {name}{classes}."
    if subject.kind == "search":
        return f"{text} Trials are judged on the validation split, never on the test split."
    if subject.kind == "shrink":
        return f"{text} Sizes are chosen on the validation split; the test split is scored once, for the chosen one."
    if len(subject.arms) > 1:
        text += f" The baseline is {subject.baseline}; every other model is compared with it on the same "
        text += f"{subject.split} rows, which no model was trained on."
    return text


def _glossary() -> Section:
    columns: tuple[Column, ...] = (Column("term"), Column("meaning"))
    return Section("words", "How to read this report", (Table("words", "Terms", columns, TERMS),))
