"""What several commands print: tables, how a command ended, example commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from randout.core.console import complain
from randout.core.terminal import EXIT_CODES, Told
from randout.experiments.run.options import Stopped


def reason_of(stop: Stopped) -> str:
    """Why a training stopped, as the start of a message."""
    return "Interrupted" if stop.why == "Ctrl-C" else f"Stopped by {stop.why}"


def stopped(stop: Stopped, where: Path) -> None:
    """End the process after a clean stop."""
    complain(f"{reason_of(stop)}; progress saved in {where}. Run the same command again to resume")
    raise Told(EXIT_CODES.get(stop.why, 0))


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], shortened: Sequence[int] = ()) -> None:
    """Print aligned columns to standard output.

    shortened: columns whose cells may be cut in the middle so that lines fit a terminal; in a pipe or a file they are
    printed in full.
    """
    from randout.core.text_tables import fit_to_width, table_lines

    if sys.stdout.isatty():
        rows = fit_to_width(head, rows, shutil.get_terminal_size().columns, shortened, _ellipsis())
    print("\n".join(table_lines(head, rows, left=range(len(head)))))


def _ellipsis() -> str:
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "..."
    return "…"


def example_input(model: object) -> str:
    """Return what to predict on in an example command: a text, or a table for a model that reads several columns."""
    from randout.experiments.run.saved_model import fields_of

    return "--file TABLE.csv" if fields_of(str(model)) else '"a text to classify"'
