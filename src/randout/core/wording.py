"""Wording that several packages share: agreement of numbers and nouns, and rows with unseen labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WARNING = "warning: "  # start of a note on data that is shown as a warning
MAX_LABELS = 20  # labels listed in a message


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return count and noun in agreement: `1 epoch`, `2 epochs`, `1,200 rows`. nouns: an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def verb(count: int, one: str, more: str) -> str:
    """Return the verb form that agrees with `count`: `verb(1, "has", "have")` is `has`."""
    return one if count == 1 else more


def no_teacher_words(methods: Sequence[str]) -> str:
    """Return why methods of the default preset were left out if no teacher was found, and what to do, to follow a colon."""
    return (
        f"no larger encoder was found locally, so the student was trained without {' and '.join(methods)}. To "
        "distil from a model: --teacher NAME"
    )


def type_words(value: object) -> str:
    """Return the type of a value with its article: `an int`, `a float`, `a NoneType`."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def unseen_words(counts: Mapping[str, int], where: str) -> str:
    """Describe rows whose label no training row has. counts: rows by label. where: such as "test"."""
    rows, names = sum(counts.values()), list(counts)
    shown = ", ".join(f"{name!r:.60} ({counts[name]:,})" for name in names[:MAX_LABELS])
    more = f" and {len(names) - MAX_LABELS:,} more labels" if len(names) > MAX_LABELS else ""
    have, count = ("row has", "it counts as an error") if rows == 1 else ("rows have", "they count as errors")
    have = have.replace(" ", f" of {where} ")
    return (
        f"{rows:,} {have} a label that no training row has: {shown}{more}. No prediction can be correct for "
        f"{'it' if rows == 1 else 'them'}, so {count}"
    )
