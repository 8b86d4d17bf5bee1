"""Messages through the logger `randout`, and progress bars: with time left on a terminal, plain lines elsewhere.

Everything here goes to standard error, so that standard output holds results only. An application that has log handlers of
its own gets the messages there instead.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

Advance = Callable[[int, str], None]
LINE_INTERVAL = 30.0  # seconds between plain lines


class _SafeStderr:
    """Standard error that drops what it cannot write (closed terminal, full disk).

    A training run must not fail because of a message.
    """

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError, AttributeError):  # ValueError: closed; AttributeError: sys.stderr is None
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


STDERR: Any = _SafeStderr()


def complain(text: str) -> None:
    """Print a line to standard error; drop it if standard error cannot be written."""
    print(text, file=STDERR, flush=True)


class _ConsoleHandler(logging.Handler):
    """Prints log records to standard error, unless the application has handlers of its own."""

    always = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.always or [*logging.getLogger().handlers, *LOG.handlers] == [self]:
            start = "warning: " if record.levelno >= logging.WARNING else ""
            complain(getattr(record, "start", start) + record.getMessage())


LOG = logging.getLogger("randout")
if LOG.level == logging.NOTSET:
    LOG.setLevel(logging.INFO)
CONSOLE = _ConsoleHandler()
LOG.addHandler(CONSOLE)


def print_always() -> None:
    """Print messages to standard error whatever handlers other libraries install, as the commands do."""
    CONSOLE.always = True


@contextmanager
def no_second_copy() -> Iterator[None]:
    """Within this context, messages do not reach the handlers of the root logger, which libraries may install."""
    before, LOG.propagate = LOG.propagate, False
    try:
        yield
    finally:
        LOG.propagate = before


class Show:
    """Progress and messages for the user. quiet: warnings only. terse: warnings and progress bars only."""

    def __init__(self, quiet: bool = False, terse: bool = False) -> None:
        self.quiet, self.terse = quiet, terse
        self.warned: set[str] = set()  # warnings given so far, with digits removed; shared with `within`
        self.terminal = sys.stderr is not None and sys.stderr.isatty()

    def say(self, text: str = "") -> None:
        """Log a line at level INFO, unless quiet or terse."""
        if not self.quiet and not self.terse:
            LOG.info(text, stacklevel=2)

    def warn(self, text: str) -> None:
        """Log a warning, even if quiet; if terse, only once for texts that differ only in numbers."""
        kind = re.sub(r"\d+", "", text)
        if self.terse and kind in self.warned:
            return
        self.warned.add(kind)
        LOG.warning(text, stacklevel=2)

    def conclude(self, warnings: Sequence[str]) -> None:
        """Log a command's warnings after its results, each once, even if quiet; they are printed under one heading."""
        if warnings:
            sys.stdout.flush()
        for at, text in enumerate(dict.fromkeys(warnings)):
            LOG.warning(text, stacklevel=2, extra={"start": "  - " if at else "\nWarnings\n  - "})

    def event(self, about: dict[str, Any]) -> None:
        """Report a step of a study, as plain values, to a process that shows those of several; nothing by default."""

    def within(self) -> Show:
        """Return the output for one of many sub-tasks: its bars, and each kind of warning once, without its lines."""
        made = Show(self.quiet, terse=True)
        made.warned = self.warned
        return made

    def ask(self, question: str) -> bool:
        """Ask a yes/no question at the terminal; return False if there is no terminal."""
        if not (self.terminal and sys.stdin is not None and sys.stdin.isatty()) or self.quiet:
            return False
        print(f"{question} [y/N] ", end="", file=STDERR, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0, unit: str = "texts") -> Iterator[Advance]:
        """Show a progress bar with speed and time left; yields `advance(n, note)`, which moves it by n.

        There is none if quiet, or if the logger's level is above INFO.

        done: units finished before (a resumed run), which do not count towards the speed.
        """
        if self.quiet or not LOG.isEnabledFor(logging.INFO):
            yield _silent
        elif self.terminal:
            with _rich_bar(what, total, done, unit) as advance:
                yield advance
        else:
            yield _plain_bar(Show(self.quiet).say, what, total, done, unit)


def _silent(_count: int, _note: str) -> None:
    pass


@contextmanager
def _rich_bar(what: str, total: int, done: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    def plain(text: str) -> TextColumn:
        return TextColumn(text, markup=False)  # names of models may contain brackets

    columns = (plain("{task.description}"), BarColumn(), plain("{task.completed}/{task.total}"))
    tail = (plain("{task.fields[speed]}"), TimeRemainingColumn(), plain("{task.fields[note]}"))
    with Progress(*columns, *tail, console=Console(file=STDERR), transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done, note="", speed="")
        began, count = time.monotonic(), 0

        def advance(number: int, note: str = "") -> None:
            nonlocal count
            count += number
            speed = _speed(count / max(time.monotonic() - began, 1e-9), unit)
            progress.update(task, advance=number, speed=speed, note=note)

        yield advance


def _plain_bar(say: Callable[[str], None], what: str, total: int, done: int, unit: str) -> Advance:
    began = last_line = time.monotonic()
    count = 0

    def advance(number: int, note: str = "") -> None:
        nonlocal count, last_line
        count += number
        now = time.monotonic()
        if now - last_line >= LINE_INTERVAL:
            last_line = now
            speed = count / max(now - began, 1e-9)
            rate = f", {_speed(speed, unit)}, {duration((total - done - count) / speed)} left" if count else ""
            say(f"{what}: {done + count}/{total}{rate}{note and ', ' + note}")

    return advance


def _speed(value: float, unit: str) -> str:
    """Format a speed in units a second; a slow one with two digits."""
    return f"{value:{'.0f' if value >= 10 else '.2g'}} {unit}/s"


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
