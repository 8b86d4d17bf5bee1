"""Fonts for pictures: one that has the characters of a name, or a number in its place."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

DEFAULT = "DejaVu Sans"  # comes with matplotlib
UNUSABLE = ("Last Resort", "Adobe Blank", "cm", "STIX", "DejaVu Sans Display", "DejaVu Serif Display")
# by the start of their names: fonts that have a box or nothing for every character, or the parts of formulas
NOTE = "Numbers stand for names that no font here can draw, in the order of the tables."
SHAPED = (  # scripts whose letters change with their neighbours or run from the right: they need a shaping engine
    *("ARABIC", "HEBREW", "SYRIAC", "THAANA", "NKO", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL"),
    *("TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "MONGOLIAN"),
)


def families(texts: Iterable[str]) -> list[str]:
    """Font families that have the characters of `texts` between them, matplotlib's own first.

    What none has stays missing; `drawable` says of which texts that is so.
    """
    left = {mark for text in texts for mark in text if not _is_ignored(mark)} - _characters(DEFAULT)
    chosen = [DEFAULT]
    for family in _other_families() if left else ():
        if left & _characters(family):
            chosen.append(family)
            left -= _characters(family)
        if not left:
            break
    return chosen


def drawable(text: str) -> bool:
    """Whether a picture shows every character of a text, in the right order and shape."""
    marks = {mark for mark in text if not _is_ignored(mark)}
    if not _shapes() and any(unicodedata.name(mark, "").startswith(SHAPED) for mark in marks):
        return False
    left = marks - _characters(DEFAULT)
    for family in _other_families() if left else ():
        left -= _characters(family)
    return not left


def numbered(names: Sequence[str]) -> tuple[list[str], bool]:
    """The names, or where some cannot be drawn all of them by number, as the tables on the terminal are; and whether it
    was so.
    """
    can = [drawable(name) for name in names]
    if all(can):
        return [shown(name) for name in names], False
    return [
        f"{at} {shown(name)}" if ok else str(at) for at, (name, ok) in enumerate(zip(names, can, strict=True))
    ], True


def shown(text: str) -> str:
    """A text with a question mark for what cannot be drawn, and without what is never visible."""
    if drawable(text):
        return "".join(mark for mark in text if not _is_ignored(mark))
    return "".join(mark if drawable(mark) else "?" for mark in text if not _is_ignored(mark))


def use(texts: Iterable[str]) -> Any:
    """matplotlib's settings, as a context, under which `texts` are drawn."""
    import matplotlib

    return matplotlib.rc_context({"font.family": families(texts)})


def _is_ignored(mark: str) -> bool:
    """Line breaks, and characters that only change others: joiners, variation selectors, direction marks."""
    return mark in "\n\r\t" or unicodedata.category(mark) in ("Cf", "Cc") or "\ufe00" <= mark <= "\ufe0f"


@cache
def _shapes() -> bool:
    """Whether this matplotlib has a shaping engine (3.11 and newer)."""
    from matplotlib import ft2font

    return hasattr(ft2font, "__libraqm_version__")


@cache
def _other_families() -> tuple[str, ...]:
    """The families that are installed, those that have many characters first, in the same order each time."""
    wide = (
        "Noto Sans",
        "Source Han Sans",
        "WenQuanYi",
        "Droid Sans Fallback",
        "PingFang",
        "Hiragino",
        "Microsoft YaHei",
    )
    usable = [name for name in _files() if name != DEFAULT and not name.startswith(UNUSABLE)]
    return tuple(sorted(usable, key=lambda name: (not name.startswith(wide), name)))


@cache
def _files() -> dict[str, str]:
    """The file of each family's regular font."""
    from matplotlib.font_manager import fontManager

    found: dict[str, tuple[bool, int, str]] = {}
    for entry in fontManager.ttflist:
        weight = entry.weight if isinstance(entry.weight, int) else 400
        rank = (entry.style != "normal", abs(weight - 400), entry.fname)
        found[entry.name] = min(rank, found.get(entry.name, rank))
    return {name: file for name, (_, _, file) in found.items()}


@cache
def _characters(family: str) -> frozenset[str]:
    """The characters of a family's regular font; none where it cannot be read or is of pictures in colour."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(_files()[family])
        if not font.scalable:  # fonts of colour bitmaps cannot be drawn in any size
            return frozenset()
        return frozenset(chr(code) for code in font.get_charmap())
    except (KeyError, OSError, RuntimeError, ValueError):
        return frozenset()
