"""Loads tables as a run does, from settings given as arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from randout.core.config import DataTable, checked
from randout.data import dataset


def load(source: str | Path, **settings: Any) -> dataset.Dataset:
    """Load the dataset that a table `[data]` with these settings describes. Raises UserError, also for the settings."""
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return dataset.load(checked(DataTable, {"source": str(source), **texts}, "data."))
