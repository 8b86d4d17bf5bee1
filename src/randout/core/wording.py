"""Grammatical agreement of numbers, nouns and verbs in messages."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return count and noun in agreement: `1 epoch`, `2 epochs`, `1,200 rows`. nouns: an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def verb(count: int, one: str, more: str) -> str:
    """Return the verb form that agrees with `count`: `verb(1, "has", "have")` is `has`."""
    return one if count == 1 else more
