"""How a job is carried out (`Options`), and the exceptions that end one early. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .progress import Show
from .runs import RunFolder


@dataclass(frozen=True)
class Options:
    """How a job is carried out; nothing here changes its result. deadline: of `time.monotonic()`. pause_at: optimizer
    steps after which the student is validated, saved and left (`Paused`). name: of the run, in tables and reports.
    """

    runs: Path = Path("runs")
    out: Path | None = None
    fresh: bool = False
    accept_changes: bool = False
    deadline: float | None = None
    pause_at: int | None = None
    name: str = ""
    show: Show = field(default_factory=Show)


class Stopped(Exception):
    """The training was stopped on request, and saved. `why` says by what, `run` where it stands."""

    def __init__(self, why: str, run: RunFolder) -> None:
        super().__init__(why)
        self.why, self.run = why, run


class Paused(Stopped):
    """The training reached `Options.pause_at`, and saved. metrics: of the student as it stands, on validation."""

    def __init__(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        super().__init__("a pause", run)
        self.metrics = metrics
