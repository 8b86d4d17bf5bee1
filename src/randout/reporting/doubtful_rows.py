"""What the reports on doubtful labels and on doubtful label sets have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from randout.core.wording import plural
from randout.stats.confident_learning import WrongInSets, WrongLabels
from randout.storage.label_issues import COPIES, FILE, LIKELY_WRONG, LabelIssues, SetIssues

from .values import Column, Section, Table

SHOWN, LISTED = 10, 200  # rows in a terminal, and in a report


def with_interval(words: str, wrong: WrongLabels | WrongInSets) -> str:
    """Add the interval of an estimated number of wrong labels to its words, if it has one."""
    if wrong.low is None or wrong.high is None:
        return words
    return f"{words}, 95 % interval {wrong.low:,.0f} to {wrong.high:,.0f}"


def counts(found: LabelIssues | SetIssues, what: str) -> list[str]:
    """Return the lines of a terminal on issues in the test split and on earlier corrections. what: "label" or "label set"."""
    lines = []
    if in_test := _in_test(found):
        lines.append(
            f"test        {plural(in_test, 'row')} of these issues in the test split; correct them for every model alike"
        )
    if found.corrected:
        lines.append(f"corrected   {plural(found.corrected, what)} before this")
    return lines


def overview(
    found: LabelIssues | SetIssues, what: str, number: str, examined: Sequence[tuple[str, int]], notes: Sequence[str]
) -> Section:
    """Build the section with all numbers.

    what: "label" or "label set". number: title of their column. examined: rows on what the model was asked. notes: what stands
    below the table.
    """
    rows = [
        ("labelled rows", found.rows),
        *examined,
        (f"groups of copies with different {what}s", found.conflicting_groups),
        ("rows in these groups", found.conflicting_rows),
        ("issues in test rows", _in_test(found)),
        (f"{what}s corrected before", found.corrected),
    ]
    table = Table("overview", "What was found", (Column("what"), Column(number, "count")), tuple(rows))
    todo = f"To correct {what}s, fill in the column corrected_label of {FILE} and train with --corrections {FILE}."
    return Section("labels", f"{what.capitalize()}s", (table, *notes, todo))


def listed(issues: Sequence[Any], what: str, likely: str, table: Callable[[str, str, list[Any]], Table]) -> Section:
    """Build the section with the issues: copies, then what is likely wrong under the title `likely`.

    table: builds a table from its name, its title and its issues.
    """
    copies = [one for one in issues if one.reason.startswith(COPIES)]
    wrong = [one for one in issues if one.reason == LIKELY_WRONG]
    tables = (
        table("copies", f"Copies with different {what}s", copies),
        table("likely-wrong", f"{likely}, the most certain first", wrong),
    )
    return Section("issues", f"Doubtful {what}s", tables)


def cut_note(issues: Sequence[Any]) -> str:
    """Return the note that a table does not list all issues; empty if it does."""
    return f"The first {LISTED} of {len(issues):,}; {FILE} has all." if len(issues) > LISTED else ""


def _in_test(found: LabelIssues | SetIssues) -> int:
    return sum(one.split == "test" for one in found.issues)
