"""Several processes that train one model, as `torchrun` starts them, but forked with the libraries imported already."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import forked

SECONDS = 120  # after which a test fails rather than waits


def start(target: Callable[..., None], *words: Any, size: int = 2) -> list[Any]:
    """Processes that have begun to call `target(*words)`, each with a launcher's variables of its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [forked.started(_as_rank, rank, size, port, target, words) for rank in range(size)]


def codes(processes: list[Any]) -> list[int]:
    """Wait for the processes; returns their exit codes."""
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def run(target: Callable[..., None], *words: Any, size: int = 2) -> None:
    """Call `target(*words)` in several processes, which must all succeed."""
    assert codes(start(target, *words, size=size)) == [0] * size


def _as_rank(rank: int, size: int, port: int, target: Callable[..., None], words: tuple[Any, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    target(*words)


def command(words: list[str], folder: Path, size: int = 2) -> list[Any]:
    """`randout WORDS` in several processes that have begun in `folder`; each writes output-RANK.txt and errors-RANK.txt."""
    return start(_command, words, folder, size=size)


def _command(words: list[str], folder: Path) -> None:
    rank = os.environ["RANK"]
    forked.carry_out(words, str(folder), 0, f"output-{rank}.txt", f"errors-{rank}.txt")
