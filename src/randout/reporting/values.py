"""Tables, figures and sections as plain values, before anything is drawn.

A figure is a table that can draw itself: it holds its numbers in long form (one row a mark) and says which column
plays which role, so that the picture, the CSV file and the page can never disagree.

Fractions stay fractions here; `shown` turns a cell into what a person reads and `exact` into what a CSV file holds,
both in the unit that the column's title names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from randout.storage.run_names import plain

PER_HUNDRED = ("percent", "points", "interval", "points interval")  # held as fractions, shown times 100
NUMERIC = (*PER_HUNDRED, "count", "number", "p", "seconds", "value")  # aligned to the right


@dataclass(frozen=True)
class Column:
    """kind: text, verdict, value (of a setting), count, number, p, seconds; "percent" and "points" (signed), and their
    "interval" and "points interval", pairs (low, high).
    """

    title: str
    kind: str = "text"

    @property
    def numeric(self) -> bool:
        return self.kind in NUMERIC

    @property
    def titles(self) -> tuple[str, ...]:
        """The columns of a CSV file: an interval takes two."""
        return (f"{self.title}, low", f"{self.title}, high") if "interval" in self.kind else (self.title,)


@dataclass(frozen=True)
class Table:
    """name: of its files. texts: whether it shows texts of the data. folded: closed until asked for."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    texts: bool = False
    folded: bool = False

    def column(self, title: str) -> list[Any]:
        """The cells below a title."""
        at = [column.title for column in self.columns].index(title)
        return [row[at] for row in self.rows]

    def kind(self, title: str) -> str:
        return next(column.kind for column in self.columns if column.title == title)


@dataclass(frozen=True)
class Figure:
    """kind: "intervals" (roles y, x, interval, wide, words), "lines" (panel, series, x, y) or "matrix" (panel, row,
    column, value, count). options: "zero" (a line at 0), "band" (a grey margin, a fraction), "log2", "diagonal",
    "marks" (series without a line), "steps" (series drawn as stairs).
    """

    name: str
    title: str
    kind: str
    table: Table
    roles: Mapping[str, str]  # role -> title of the column that plays it
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def role(self, role: str) -> list[Any]:
        """The cells that play a role; None in each row where no column does. Hundredths as percent or points."""
        if role not in self.roles:
            return [None] * len(self.table.rows)
        cells = self.table.column(self.roles[role])
        return [scaled(cell, self.table.kind(self.roles[role])) for cell in cells]

    def axis(self, role: str) -> str:
        return self.roles.get(role, "")


@dataclass(frozen=True)
class Check:
    """Something a coded check found. severity: problem, warning or note."""

    code: str
    severity: str
    title: str
    explanation: str


@dataclass(frozen=True)
class Points:
    """Sentences, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A file shown as it is, folded."""

    title: str
    text: str


Part = str | Points | Table | Figure | Check | Code


@dataclass(frozen=True)
class Section:
    """parts: paragraphs, tables, figures, checks and files, in reading order."""

    name: str
    title: str
    parts: tuple[Part, ...]

    def tables(self) -> list[Table]:
        """Every table, those of figures too."""
        return [
            part.table if isinstance(part, Figure) else part for part in self.parts if isinstance(part, Table | Figure)
        ]


def scaled(cell: Any, kind: str) -> Any:
    """A cell in the unit of its column: fractions become percent or points."""
    if kind not in PER_HUNDRED or cell is None:
        return cell
    return tuple(100 * end for end in cell) if isinstance(cell, list | tuple) else 100 * cell


def _absent(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def shown(cell: Any, kind: str) -> str:
    """What a person reads; nothing where there is no value."""
    if _absent(cell):
        return ""
    value = scaled(cell, kind)
    if "interval" in kind:
        sign = "+" if kind.startswith("points") else ""
        return f"{value[0]:{sign}.2f} to {value[1]:{sign}.2f}"
    if kind == "p":
        return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
    forms = {"percent": ".2f", "points": "+.2f", "count": ",", "number": ".4f", "seconds": ",.1f"}
    return format(value, forms[kind]) if kind in forms else plain(value)


def exact(cell: Any, kind: str) -> tuple[str, ...]:
    """What a CSV file holds: the same number in the same unit, not rounded (12 digits)."""
    if "interval" in kind:
        ends = (None, None) if cell is None else scaled(cell, kind)
        return tuple("" if _absent(end) else f"{end:.12g}" for end in ends)
    if _absent(cell):
        return ("",)
    value = scaled(cell, kind)
    return (f"{value:.12g}",) if isinstance(value, float) else (plain(value),)


def metric_kind(metric: str, signed: bool = False) -> str:
    """The kind of a column that holds a metric, or (signed) a difference of two."""
    if metric == "log_loss":
        return "number"
    return "points" if signed else "percent"


def metric_name(metric: str) -> str:
    """A metric's name in words."""
    named = {"macro_f1": "macro F1", "weighted_f1": "weighted F1", "expected_calibration_error": "calibration error"}
    return named.get(metric, metric.replace("_", " "))


def metric_title(metric: str) -> str:
    """A metric's name with its unit, for the head of a column."""
    return metric_name(metric) + (", nats" if metric == "log_loss" else " %")
