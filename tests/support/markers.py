"""Marks of parametrized tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def marked_slow(values: Iterable[Any], *slow: Any) -> list[Any]:
    """Return parameters of a test, those in `slow` marked to run in `make test-all` only."""
    return [pytest.param(value, marks=pytest.mark.slow) if value in slow else value for value in values]
