"""Standard input and output of the commands: encodings, closed pipes, full disks, signals."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from .errors import UserError

EXIT_CODES = {"Ctrl-C": 130, "SIGTERM": 143, "SIGHUP": 129}  # 128 + the signal's number


class Terminated(BaseException):
    """SIGTERM or SIGHUP outside a training loop, which handles signals itself. why: the signal's name."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Told(SystemExit):
    """Exit of the process after the user has seen the error message."""


def prepare() -> None:
    """Make the standard streams safe to use: reopen closed ones, and escape characters that the encoding lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the caller: keep other files from getting its descriptor
            if _is_closed(number):
                os.open(os.devnull, os.O_RDWR)
            if name != "stdin":
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def check_arguments(words: list[str]) -> None:
    """Raise UserError for a command-line argument that is not valid text in the system's encoding."""
    for number, word in enumerate(words, 1):
        if not is_text(word):
            raise UserError(
                f"argument {number} is not UTF-8 text: {word.encode('utf-8', 'backslashreplace').decode()}. "
                "Give texts in UTF-8, and rename files whose names are not."
            )


def is_text(word: str) -> bool:
    """Return whether a string has no undecodable bytes and no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def to_json(value: Any, indent: int | None = None) -> str:
    """Serialize to JSON for standard output, in ASCII unless its encoding is a form of Unicode."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").replace("_", "")
    return json.dumps(value, indent=indent, ensure_ascii=not encoding.startswith("utf"))


def input_stream() -> BinaryIO:
    """Return standard input as a binary stream. Raises UserError if it is closed."""
    if sys.stdin is None:
        raise UserError(
            "standard input is closed and no text was given. Give texts as arguments, or a table with --file."
        )
    binary = getattr(sys.stdin, "buffer", None)
    return binary if binary is not None else io.BytesIO(sys.stdin.read().encode("utf-8", "surrogatepass"))


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP inside the context, so that cleanup code runs.

    SIGHUP stays ignored if the caller ignores it (nohup).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        raise Terminated(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in catchable("SIGTERM", "SIGHUP")}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """A request to stop. why: the signal's name, or Ctrl-C; empty: none so far."""

    why = ""


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within this context, the first Ctrl-C, SIGTERM or SIGHUP requests a clean stop; a second one interrupts at once.

    SIGHUP stays ignored if the caller ignores it (nohup).
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: Any) -> None:
        if stop.why:
            raise KeyboardInterrupt
        stop.why = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    wanted = [signal.SIGINT, signal.SIGTERM, *catchable("SIGHUP")]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def catchable(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that this system has and the caller does not ignore (nohup ignores SIGHUP)."""
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) is not signal.SIG_IGN]


def finish() -> str:
    """Flush standard output; return the reason if that failed, else an empty string."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        return "closed"
    except OSError as error:
        _give_up_output()
        return error.strerror or str(error)
    return ""


def _give_up_output() -> None:
    """Redirect standard output to the null device, so that the interpreter's final flush does not fail again."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # standard output is not a real file (in tests)
        pass
