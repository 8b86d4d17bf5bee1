"""The two ways a command can end badly, and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's mistake: what was found, what was expected, what to do. Exit code 2, no traceback."""

    exit_code = 2


class Failure(Exception):
    """Something outside the user's request went wrong (disk full, loss not finite). Exit code 1, no traceback."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known word closest to `word`, or an empty string."""
    names = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
