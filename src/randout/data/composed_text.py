"""A model input made of several columns: one text or a pair of texts, with fields of the row put before the first.

    fields     position: 3/8 |
    texts      It is fast.                          We measure it.
    tokens     [CLS] position: 3/8 | It is fast. [SEP] We measure it. [SEP]
    string     position: 3/8 | It is fast. ||| We measure it.

The string is what everything without pairs reads: bag-of-words and neural baselines, saved texts, messages. Only tokenizers
read the parts. Copies are compared by the texts without the fields: the same text at another position is a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SEPARATOR = " ||| "  # between the texts of a pair, in the string


class ComposedText(str):
    """One text or a pair of texts, with a prefix. As a string, all of it in one line of text.

    texts: as in the table, without the prefix. prefix: rendered fields, with the white space that ends them.
    """

    __slots__ = ("prefix", "texts")
    texts: tuple[str, ...]
    prefix: str

    def __new__(cls, texts: Sequence[str], prefix: str = "") -> ComposedText:
        made = super().__new__(cls, prefix + SEPARATOR.join(texts))
        made.texts, made.prefix = tuple(texts), prefix
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # the default would lose the parts
        return ComposedText, (self.texts, self.prefix)


def texts_in(text: str) -> tuple[str, ...]:
    """Return the texts that an input is made of, without its fields: one, or the two of a pair."""
    return text.texts if isinstance(text, ComposedText) else (text,)


def parts_of(text: str) -> tuple[str, ...]:
    """Return what a tokenizer reads: one text, or the two of a pair; the first begins with the fields."""
    if not isinstance(text, ComposedText):
        return (text,)
    return (text.prefix + text.texts[0], *text.texts[1:])


def content_of(text: str) -> str:
    """Return the input without its fields, by which copies are compared."""
    return SEPARATOR.join(text.texts) if isinstance(text, ComposedText) else text


def swapped(text: str) -> str | None:
    """Return the content of a pair in the other order; None for anything but a pair."""
    return SEPARATOR.join(reversed(text.texts)) if is_pair(text) else None  # type: ignore[attr-defined]


def is_pair(text: str) -> bool:
    """Return whether an input is a pair of texts."""
    return isinstance(text, ComposedText) and len(text.texts) == 2


def with_texts(text: str, texts: Sequence[str]) -> str:
    """Return an input with other texts and the same fields. texts: as many as `texts_in(text)`."""
    return ComposedText(texts, text.prefix) if isinstance(text, ComposedText) else texts[0]
