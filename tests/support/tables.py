"""Writes tables, and loads them as a run does, from settings given as arguments."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from randout.core.config import DataTable, checked
from randout.data import dataset


def load(source: str | Path, **settings: Any) -> dataset.Dataset:
    """Load the dataset that a table `[data]` with these settings describes. Raises UserError, also for the settings."""
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return dataset.load(checked(DataTable, {"source": str(source), **texts}, "data."))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    """Write rows to a CSV file, with the columns of the first row. Returns its path."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path
