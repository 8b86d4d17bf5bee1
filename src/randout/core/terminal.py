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
    """SIGTERM or SIGHUP outside of a training, which stops by itself. `why` says which."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Told(SystemExit):
    """The end of the process, of which the user has been told."""


def prepare() -> None:
    """Make the standard streams safe to use: open, and with an escape for each character that an encoding lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the caller: no other file may take its number
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
    """Raise UserError for an argument that is not text in the encoding of the system."""
    for number, word in enumerate(words, 1):
        if not is_text(word):
            raise UserError(
                f"argument {number} is not UTF-8 text: {word.encode('utf-8', 'backslashreplace').decode()}. "
                "Give texts in UTF-8, and rename a file whose name is not."
            )


def is_text(word: str) -> bool:
    """Whether a string holds characters only, and no undecodable bytes or halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON for standard output, in ASCII where its encoding may lack characters."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").replace("_", "")
    return json.dumps(value, indent=indent, ensure_ascii=not encoding.startswith("utf"))


def input_stream() -> BinaryIO:
    """The bytes of standard input. Raises UserError where it is closed."""
    if sys.stdin is None:
        raise UserError(
            "standard input is closed, and no text is given. Give texts as arguments, or a table with --file."
        )
    binary = getattr(sys.stdin, "buffer", None)
    return binary if binary is not None else io.BytesIO(sys.stdin.read().encode("utf-8", "surrogatepass"))


@contextmanager
def stop_signals() -> Iterator[None]:
    """While open, SIGTERM and SIGHUP raise Terminated, so that what is half done is put away. SIGHUP that the caller
    has ignored (nohup) stays ignored.
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


def catchable(*names: str) -> list[signal.Signals]:
    """The signals of these names that this system has and that the caller has not ignored (nohup ignores SIGHUP)."""
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) is not signal.SIG_IGN]


def finish() -> str:
    """Write out what is still held back; what kept standard output from taking it, or an empty string."""
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
    """Send what is still to be written nowhere: the interpreter would fail on it again as it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no file of the system (in tests)
        pass
