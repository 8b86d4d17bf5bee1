"""The report on doubtful labels of multi-label data, as lines for a terminal and as a chapter."""

from __future__ import annotations

from functools import partial

from randout.core.text_tables import table_lines
from randout.core.wording import plural
from randout.storage.label_issues import LabelFindings, SetIssue, SetIssues

from .doubtful_rows import LISTED, SHOWN, counts, cut_note, listed, overview, with_interval
from .sections import Chapter
from .text import shortened
from .values import Column, Section, Table

TEXT_WIDTH = 60  # columns of a text in a terminal

LIMITS = (
    "The estimate takes every confident prediction for the true answer, so rows that the model cannot classify count as wrong "
    "too, and its interval reflects only which rows were sampled: of a weak model, it is far too high."
)


def estimate_words(found: SetIssues) -> str:
    """Return the estimated number of wrong decisions with its interval."""
    wrong = found.wrong
    if not wrong.decisions:
        return "no label was examined"
    decisions = plural(wrong.decisions, "decision")
    words = f"{wrong.estimate:,.0f} of {decisions} on a row and a label ({wrong.estimate / wrong.decisions:.1%})"
    return with_interval(words, wrong)


def weak_words(found: SetIssues) -> str:
    """Return the warning for labels that were not examined; empty if all were."""
    reasons: dict[str, list[str]] = {}
    for one in found.labels:
        if one.not_examined:
            reasons.setdefault(one.not_examined, []).append(repr(one.label))
    if not reasons:
        return ""
    each = [f"{', '.join(names[:8])}{', ...' * (len(names) > 8)} ({why})" for why, names in reasons.items()]
    weak = any(one.not_examined and one.explained is not None for one in found.labels)  # not only rare labels
    todo = "Name a student that can learn them (--student), or add rows" if weak else "Add rows, or use fewer --folds"
    return f"{plural(sum(map(len, reasons.values())), 'label')} not examined: {'; '.join(each)}. {todo}"


def issue_lines(found: SetIssues) -> list[str]:
    """Format what was found for a terminal: numbers, a table of labels, and the first issues."""
    decisions = plural(found.wrong.decisions, "decision")
    lines = [
        f"data        {found.data}: {plural(found.rows, 'labelled row')}, {len(found.labels)} labels (multi-label)",
        f"model       {found.model}, {found.folds} folds: predicts {found.accuracy:.1%} of {decisions} on a row and a label out "
        f"of fold; the more common answer to each label, {found.majority:.1%}",
        f"copies      {plural(found.conflicting_groups, 'group')} of the same text with different label sets "
        f"({plural(found.conflicting_rows, 'row')})",
        f"wrong       {plural(found.likely_wrong, 'row')} with a label that is likely missing or superfluous; by confident "
        f"learning: {estimate_words(found)}",
    ]
    lines += counts(found, "label set")
    head = ["label", "rows", "expected missing", "superfluous", "listed missing", "superfluous"]
    by_label = [
        [
            shortened(one.label, TEXT_WIDTH),
            f"{one.rows:,}",
            *("" if cell is None else f"{cell:,.0f}" for cell in (one.expected_missing, one.expected_superfluous)),
            *("" if one.not_examined else f"{cell:,}" for cell in (one.likely_missing, one.likely_superfluous)),
        ]
        for one in found.labels
    ]
    lines += ["", *table_lines(head, by_label)]
    if found.issues:
        rows = [
            [
                one.row,
                one.split,
                found.cell(one.labels),
                found.cell(one.suggested_labels),
                shortened(" ".join(one.text.split()), TEXT_WIDTH),
            ]
            for one in found.issues[:SHOWN]
        ]
        head = ["row", "split", "labels", "suggested", f"text (first {len(rows)} of {len(found.issues):,})"]
        lines += ["", *table_lines(head, rows, left=range(len(head)))]
    return lines


def chapter(found: SetIssues) -> Chapter:
    """Build the report."""
    lead = f"Label sets of {plural(found.rows, 'row')}, examined by {found.model} in {found.folds} folds."
    return Chapter("", f"Label issues of {found.data}", lead, (_overview(found), _labels(found), _listed(found)))


def _overview(found: SetIssues) -> Section:
    decisions = found.wrong.decisions
    examined = [
        ("decisions on a row and a label examined out of fold", decisions),
        ("decisions that the model predicts", round(found.accuracy * decisions)),
        ("decisions that the more common answer to each label predicts", round(found.majority * decisions)),
        ("rows with a label likely missing or superfluous", found.likely_wrong),
    ]
    weak = [weak_words(found)] if weak_words(found) else []
    estimate = f"Wrong decisions, estimated by confident learning for each label: {estimate_words(found)}. {LIMITS}"
    return overview(found, "label set", "number", examined, [*weak, estimate])


def _labels(found: SetIssues) -> Section:
    columns: tuple[Column, ...] = (Column("label"), Column("rows with it", "count"))
    columns += (Column("explained by the model %", "percent"),)
    columns += (Column("expected missing", "rounded"), Column("expected superfluous", "rounded"))
    columns += (Column("listed as missing", "count"), Column("listed as superfluous", "count"), Column("not examined"))
    note = "Expected missing: rows without the label that are expected to have it; expected superfluous: the reverse. Many of "
    note += "them point to a label that is not applied alike, or that this model cannot tell. Explained: share of the "
    note += "uncertainty about the label that the model removes."
    rows = tuple(map(_label_cells, found.labels))
    return Section("by-label", "By label", (Table("by-label", "Labels", columns, rows, note),))


def _label_cells(one: LabelFindings) -> tuple[object, ...]:
    about = (one.label, one.rows, one.explained, one.expected_missing, one.expected_superfluous)
    listed = (None, None) if one.not_examined else (one.likely_missing, one.likely_superfluous)
    return (*about, *listed, one.not_examined)


def _listed(found: SetIssues) -> Section:
    return listed(found.issues, "label set", "Rows with a label that is likely wrong", partial(_table, found))


def _table(found: SetIssues, name: str, title: str, issues: list[SetIssue]) -> Table:
    titles = ("labels", "likely missing", "likely superfluous", "suggested labels", "text")
    columns = (Column("row"), Column("split"), Column("copies", "count"), *map(Column, titles))
    rows = []
    for one in issues[:LISTED]:
        doubts = (_with_shares(names, one) for names in (one.missing, one.superfluous))
        rows.append(
            (
                one.row,
                one.split,
                one.copies,
                found.cell(one.labels),
                *doubts,
                found.cell(one.suggested_labels),
                one.text,
            )
        )
    note = f"In brackets: the probability that the row has the label. {cut_note(issues)}".strip()
    return Table(name, title, columns, tuple(rows), note, texts=True)


def _with_shares(names: list[str], issue: SetIssue) -> str:
    return ", ".join(f"{name} ({issue.probabilities[name]:.0%})" for name in names)
