"""Numbers and words that agree, for messages."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 epoch`, `2 epochs`, `1,200 rows`. nouns: the plural where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def verb(count: int, one: str, more: str) -> str:
    """The form of a verb for so many: `verb(1, "has", "have")` is `has`."""
    return one if count == 1 else more
