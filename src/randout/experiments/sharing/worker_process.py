"""Starts processes that work on runs: orders on their standard input and events on standard output, as lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

LAST_LINES = 5  # of the standard error of a process that died


def start(
    module: str,
    order: Mapping[str, Any],
    threads: int | None,
    errors: BinaryIO,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE` with a number of CPU threads, which libraries read when they are imported.

    errors: receives its standard error. folder: its working folder. environment: changes to the environment variables.
    """
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=folder,
        env={**os.environ, **limits, **(environment or {})},
        start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on once
    )
    send(process, order)
    return process


def send(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    """Write an order to a process; one that has ended by now is noticed by what it does not answer."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()


def ending(process: subprocess.Popen[bytes], errors: BinaryIO) -> str:
    """Return how a process ended, with the last lines of its standard error."""
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return how + "".join(f"\n  {line}" for line in lines)
