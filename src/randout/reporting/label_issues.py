"""The report on doubtful labels, as lines for a terminal and as a chapter."""

from __future__ import annotations

from randout.core.text_tables import table_lines
from randout.core.wording import plural
from randout.storage.label_issues import LabelIssue, LabelIssues, SetIssues

from . import label_set_issues
from .doubtful_rows import LISTED, SHOWN, counts, cut_note, listed, overview, with_interval
from .sections import Chapter
from .text import shortened
from .values import Column, Section, Table

TEXT_WIDTH = 70  # columns of a text in a terminal

LIMITS = (
    "The estimate takes every confident prediction for the true label, so rows that the model cannot classify count as wrong "
    "too, and its interval reflects only which rows were sampled: of a weak model, it is far too high. The bound holds for any "
    "model, if a wrong label is as likely to be any of the other classes; labels that are wrong between similar classes may be "
    "more."
)


def estimate_words(found: LabelIssues) -> str:
    """Return the estimated number of wrong labels with its interval."""
    wrong = found.wrong
    words = f"{wrong.estimate:,.0f} of {plural(wrong.rows, 'label')} ({wrong.estimate / wrong.rows:.1%})"
    return with_interval(words, wrong)


def bound_words(found: LabelIssues) -> str:
    """Return the largest number of wrong labels that the model's predictions allow."""
    most = found.wrong.most
    return f"at most {most:,.0f} ({most / found.wrong.rows:.1%}), if labels are wrong at random"


def weak_words(found: LabelIssues | SetIssues) -> str:
    """Return the warning for a model that learned nothing, whose doubts say nothing about the labels; empty for any other."""
    if isinstance(found, SetIssues):
        return label_set_issues.weak_words(found)
    if found.accuracy > found.majority:
        return ""
    return (
        f"The model predicts {found.accuracy:.1%} of the labels, and always the most common one would be right for "
        f"{found.majority:.1%}: it learned nothing, so its doubts say nothing about the labels. Name a student that can learn "
        "them (--student)"
    )


def issue_lines(found: LabelIssues | SetIssues) -> list[str]:
    """Format what was found for a terminal: numbers, ambiguous pairs or labels, and the first issues."""
    if isinstance(found, SetIssues):
        return label_set_issues.issue_lines(found)
    baseline = f"{found.accuracy:.1%} of {plural(found.examined, 'label')}"
    lines = [
        f"data        {found.data}: {plural(found.rows, 'labelled row')}, {len(found.classes)} classes",
        f"model       {found.model}, {found.folds} folds: predicts {baseline} out of fold",
        f"copies      {plural(found.conflicting_groups, 'group')} of the same text with different labels "
        f"({plural(found.conflicting_rows, 'row')})",
        f"wrong       {plural(found.likely_wrong, 'label')} likely wrong; by confident learning: {estimate_words(found)}",
        f"bound       {bound_words(found)}",
    ]
    lines += counts(found, "label")
    if found.pairs:
        pairs = [[f"{one.first} / {one.second}", f"{one.rows:,.0f}", f"{one.first_rows:,.0f}"] for one in found.pairs]
        lines += ["", *table_lines(["ambiguous pair", "expected rows", "labelled as the first"], pairs)]
    if found.issues:
        rows = [
            [one.row, one.split, one.label, one.suggested_label, shortened(" ".join(one.text.split()), TEXT_WIDTH)]
            for one in found.issues[:SHOWN]
        ]
        head = ["row", "split", "label", "suggested", f"text (first {len(rows)} of {len(found.issues):,})"]
        lines += ["", *table_lines(head, rows, left=range(len(head)))]
    return lines


def chapter(found: LabelIssues | SetIssues) -> Chapter:
    """Build the report."""
    if isinstance(found, SetIssues):
        return label_set_issues.chapter(found)
    lead = f"Labels of {plural(found.rows, 'row')}, examined by {found.model} in {found.folds} folds."
    return Chapter("", f"Label issues of {found.data}", lead, (_overview(found), _pairs(found), _listed(found)))


def _overview(found: LabelIssues) -> Section:
    examined = [
        ("rows examined out of fold", found.examined),
        ("labels that the model predicts", round(found.accuracy * found.examined)),
        ("labels likely wrong", found.likely_wrong),
    ]
    weak = [weak_words(found)] if weak_words(found) else []
    estimate = f"Wrong labels, estimated by confident learning: {estimate_words(found)}; {bound_words(found)}. {LIMITS}"
    return overview(found, "label", "rows", examined, [*weak, estimate])


def _pairs(found: LabelIssues) -> Section:
    columns = (Column("classes"), Column("expected rows", "rounded"), Column("labelled as the first", "rounded"))
    rows = tuple((f"{one.first} / {one.second}", one.rows, one.first_rows) for one in found.pairs)
    note = "Rows with the label of one class that are expected to belong to the other. Many of them point to an unclear border "
    note += "between the classes, or to classes that this model cannot tell apart."
    return Section("pairs", "Ambiguous pairs of classes", (Table("pairs", "Pairs", columns, rows, note),))


def _listed(found: LabelIssues) -> Section:
    return listed(found.issues, "label", "Labels that are likely wrong", _table)


def _table(name: str, title: str, issues: list[LabelIssue]) -> Table:
    columns: tuple[Column, ...] = (Column("row"), Column("split"), Column("copies", "count"))
    columns += (Column("label"), Column("label's probability %", "percent"), Column("suggested label"))
    columns += (Column("suggestion's probability %", "percent"), Column("text"))
    rows = []
    for one in issues[:LISTED]:
        shares = one.probabilities or {}
        about = (one.label, shares.get(one.label), one.suggested_label, shares.get(one.suggested_label))
        rows.append((one.row, one.split, one.copies, *about, one.text))
    return Table(name, title, columns, tuple(rows), cut_note(issues), texts=True)
