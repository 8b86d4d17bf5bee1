"""Processes of their own that have the libraries imported already: a fresh interpreter takes seconds to import them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock


def started(target: Callable[..., None], *words: Any) -> Any:
    """A process that has begun to call `target(*words)`, forked from a server that has imported `support.warm`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.warm"])
    process = context.Process(target=target, args=words)
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}):
        process.start()
    return process


def command(words: Sequence[object], folder: Path, limit: int = 0) -> Any:
    """`randout WORDS` as a process that has begun in `folder`, with a cache there; it writes output.txt and errors.txt.

    limit: bytes that a file may have at most; 0: no limit.
    """
    return started(carry_out, [str(word) for word in words], str(folder), limit)


def carry_out(
    words: list[str], folder: str, limit: int, output: str = "output.txt", errors: str = "errors.txt"
) -> None:
    """What the process of `command` does."""
    os.chdir(folder)
    os.environ["RANDOUT_CACHE"] = str(Path(folder) / "cache")
    for stream, name in ((1, output), (2, errors)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from randout.cli.app import main

    sys.argv = ["randout", *words]
    main()
