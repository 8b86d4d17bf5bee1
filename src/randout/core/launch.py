"""Several processes that train one model, as a launcher such as `torchrun` describes them. Does not import PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher started. rank: its number from 0 to size - 1. local_rank: on its machine."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and prints; the others only compute."""
        return self.rank == 0


def launched() -> Launch | None:
    """Return this process's place among several; None if it is the only one."""
    found = [os.environ.get(name, "") for name in VARIABLES]
    if not all(found) or found[1] == "1":
        return None
    rank, size, address, port = found
    return Launch(int(rank), int(size), int(os.environ.get("LOCAL_RANK", rank)), address, int(port))


def process_count() -> int:
    """Return the number of processes that a launcher started to train one model; 1 for an ordinary process."""
    found = launched()
    return found.size if found else 1


def check_single(command: str) -> None:
    """Raise UserError if several processes were launched for a command that only one can carry out."""
    if launched():
        raise UserError(
            f"{command}: started as {process_count()} processes (WORLD_SIZE is set), but only `randout train` divides its "
            "work over processes. Start it without torchrun"
        )
