"""Tables, figures and sections as plain values, before anything is drawn.

A figure holds its numbers as a table in long form (one row per mark) and the role of each column, so that the
picture, the CSV file and the page always agree.

Cells hold fractions; `format_cell` formats a cell for readers and `format_exact` for CSV files, both in the unit that
the column's title names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from randout.storage.run_names import plain

PER_HUNDRED = ("percent", "points", "interval", "points interval")  # stored as fractions, shown times 100
NUMERIC = (*PER_HUNDRED, "count", "number", "rounded", "p", "seconds", "value")  # aligned to the right


@dataclass(frozen=True)
class Column:
    """A column of a table.

    kind: text, verdict, value (of a setting), count, number, rounded (`format_rounded`), p, seconds, percent or points (signed);
    "interval" and "points interval" are pairs (low, high) in percent and points.
    """

    title: str
    kind: str = "text"

    @property
    def numeric(self) -> bool:
        return self.kind in NUMERIC

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of its CSV columns; an interval takes two."""
        return (f"{self.title}, low", f"{self.title}, high") if "interval" in self.kind else (self.title,)


@dataclass(frozen=True)
class Table:
    """A table. name: of its files. texts: contains texts of the data. folded: collapsed on the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    texts: bool = False
    folded: bool = False

    def column(self, title: str) -> list[Any]:
        """Cells of the column with this title."""
        at = [column.title for column in self.columns].index(title)
        return [row[at] for row in self.rows]

    def kind(self, title: str) -> str:
        return next(column.kind for column in self.columns if column.title == title)


@dataclass(frozen=True)
class Figure:
    """A figure and its table.

    kind: "intervals" (roles y, x, interval, wide, words), "lines" (panel, series, x, y), "scatter" (series, x on a
    logarithmic axis, y, label, ring: not empty for a marked point) or "matrix" (panel, row, column, value, count). options:
    "zero" (a line at 0), "band" (a grey margin, a fraction; of a scatter: below "level"), "level" (a line at this y, a
    fraction), "level name" and "band name" (for the legend), "log2", "diagonal", "marks" (series without a line), "steps"
    (series drawn as stairs).
    """

    name: str
    title: str
    kind: str
    table: Table
    roles: Mapping[str, str]  # role -> column title
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def role(self, role: str) -> list[Any]:
        """Cells of the column with a role, fractions times 100; None in each row if no column has the role."""
        if role not in self.roles:
            return [None] * len(self.table.rows)
        cells = self.table.column(self.roles[role])
        return [scaled(cell, self.table.kind(self.roles[role])) for cell in cells]

    def axis(self, role: str) -> str:
        return self.roles.get(role, "")


@dataclass(frozen=True)
class Check:
    """Finding of a check. severity: problem, warning or note."""

    code: str
    severity: str
    title: str
    explanation: str


@dataclass(frozen=True)
class Points:
    """A bulleted list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A file shown verbatim, collapsed."""

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
        """All tables, including those of figures."""
        return [
            part.table if isinstance(part, Figure) else part for part in self.parts if isinstance(part, Table | Figure)
        ]


def scaled(cell: Any, kind: str) -> Any:
    """Convert a cell to the unit of its column: fractions become percent or points."""
    if kind not in PER_HUNDRED or cell is None:
        return cell
    return tuple(100 * end for end in cell) if isinstance(cell, list | tuple) else 100 * cell


def _absent(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def format_cell(cell: Any, kind: str) -> str:
    """Format a cell for readers; empty if there is no value."""
    if _absent(cell):
        return ""
    value = scaled(cell, kind)
    if "interval" in kind:
        sign = "+" if kind.startswith("points") else ""
        return f"{value[0]:{sign}.2f} to {value[1]:{sign}.2f}"
    if kind == "rounded":
        return format_rounded(value)
    if kind == "p":
        return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
    forms = {"percent": ".2f", "points": "+.2f", "count": ",", "number": ".4f", "seconds": ",.1f"}
    return format(value, forms[kind]) if kind in forms else plain(value)


def format_rounded(value: float) -> str:
    """Format a measured quantity with one decimal, or with two significant digits if it is below 1: `1,234.5`, `0.032`."""
    if not 0 < abs(value) < 1:
        return f"{value:,.1f}"
    places = 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{places}f}".rstrip("0").rstrip(".")


def format_exact(cell: Any, kind: str) -> tuple[str, ...]:
    """Format a cell for CSV: the same number in the same unit, with 12 digits."""
    if "interval" in kind:
        ends = (None, None) if cell is None else scaled(cell, kind)
        return tuple("" if _absent(end) else f"{end:.12g}" for end in ends)
    if _absent(cell):
        return ("",)
    value = scaled(cell, kind)
    return (f"{value:.12g}",) if isinstance(value, float) else (plain(value),)


def metric_kind(metric: str, signed: bool = False) -> str:
    """Kind of a column that holds a metric, or (signed) a difference of two."""
    if metric == "log_loss":
        return "number"
    return "points" if signed else "percent"


def metric_name(metric: str) -> str:
    """Readable name of a metric."""
    named = {"macro_f1": "macro F1", "weighted_f1": "weighted F1", "sample_f1": "sample F1", "micro_f1": "micro F1"}
    named |= {"expected_calibration_error": "calibration error"}
    return named.get(metric, metric.replace("_", " "))


def metric_title(metric: str) -> str:
    """Name of a metric with its unit, as a column title."""
    return metric_name(metric) + (", nats" if metric == "log_loss" else " %")
