"""Fonts for pictures: chooses fonts that can draw all names, and numbers as a fallback."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

DEFAULT = "DejaVu Sans"  # comes with matplotlib
UNUSABLE = ("Last Resort", "Adobe Blank", "cm", "STIX", "DejaVu Sans Display", "DejaVu Serif Display")
# prefixes of font names: placeholder fonts, and fonts of formula parts
NOTE = "Names that no installed font can draw are shown as numbers, in the order of the tables."
SHAPED = (  # scripts that need a shaping engine (contextual letters, right to left)
    *("ARABIC", "HEBREW", "SYRIAC", "THAANA", "NKO", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL"),
    *("TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "MONGOLIAN"),
)


def families(texts: Iterable[str]) -> list[str]:
    """Choose font families that together cover the characters of `texts`, matplotlib's own first.

    Characters that no family has stay missing; see `drawable`.
    """
    left = {mark for text in texts for mark in text if not _is_ignored(mark)} - characters_of(DEFAULT)
    chosen = [DEFAULT]
    for family in other_families() if left else ():
        if left & characters_of(family):
            chosen.append(family)
            left -= characters_of(family)
        if not left:
            break
    return chosen


def drawable(text: str) -> bool:
    """Whether pictures can show every character of a text in the right order and shape."""
    marks = {mark for mark in text if not _is_ignored(mark)}
    if not shapes() and any(unicodedata.name(mark, "").startswith(SHAPED) for mark in marks):
        return False
    left = marks - characters_of(DEFAULT)
    for family in other_families() if left else ():
        left -= characters_of(family)
    return not left


def numbered(names: Sequence[str]) -> tuple[list[str], bool]:
    """Number all names if some cannot be drawn, as tables in the terminal do; returns the names and whether they are numbered."""
    can = [drawable(name) for name in names]
    if all(can):
        return [shown(name) for name in names], False
    return [
        f"{at} {shown(name)}" if ok else str(at) for at, (name, ok) in enumerate(zip(names, can, strict=True))
    ], True


def shown(text: str) -> str:
    """Replace characters that cannot be drawn by question marks and remove invisible ones."""
    if drawable(text):
        return "".join(mark for mark in text if not _is_ignored(mark))
    return "".join(mark if drawable(mark) else "?" for mark in text if not _is_ignored(mark))


def use(texts: Iterable[str]) -> Any:
    """Context manager with the matplotlib settings to draw `texts`."""
    import matplotlib

    return matplotlib.rc_context({"font.family": families(texts)})


def _is_ignored(mark: str) -> bool:
    """Whether a character is a line break or only modifies others: joiners, variation selectors, direction marks."""
    return mark in "\n\r\t" or unicodedata.category(mark) in ("Cf", "Cc") or "\ufe00" <= mark <= "\ufe0f"


@cache
def shapes() -> bool:
    """Whether this matplotlib has a shaping engine (3.11 and newer)."""
    from matplotlib import ft2font

    return hasattr(ft2font, "__libraqm_version__")


@cache
def other_families() -> tuple[str, ...]:
    """Installed families in a fixed order, those with many characters first."""
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
    """File of each family's regular font."""
    from matplotlib.font_manager import fontManager

    found: dict[str, tuple[bool, int, str]] = {}
    for entry in fontManager.ttflist:
        weight = entry.weight if isinstance(entry.weight, int) else 400
        rank = (entry.style != "normal", abs(weight - 400), entry.fname)
        found[entry.name] = min(rank, found.get(entry.name, rank))
    return {name: file for name, (_, _, file) in found.items()}


@cache
def characters_of(family: str) -> frozenset[str]:
    """Characters of a family's regular font; empty if it cannot be read or has only colour bitmaps."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(_files()[family])
        if not font.scalable:  # colour bitmaps cannot be scaled
            return frozenset()
        return frozenset(chr(code) for code in font.get_charmap())
    except (KeyError, OSError, RuntimeError, ValueError):
        return frozenset()
