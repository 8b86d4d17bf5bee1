"""How a run is executed (`Options`), and the exceptions that end it early. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randout.core.console import Show
from randout.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Options:
    """How a job is carried out; nothing here changes its result. deadline: of `time.monotonic()`. pause_at: optimizer
    steps after which the student is validated, saved and left (`Paused`). name: of the run, in tables and reports.
    request: digest of the command (`already_trained`), stored with the run.
    """

    runs: Path = Path("runs")
    out: Path | None = None
    fresh: bool = False
    accept_changes: bool = False
    deadline: float | None = None
    pause_at: int | None = None
    name: str = ""
    request: str = ""
    show: Show = field(default_factory=Show)


@dataclass(frozen=True)
class Result:
    """A finished run. metrics: as `metrics.json`. new: trained now, not found finished."""

    run: RunFolder
    metrics: dict[str, Any]
    new: bool

    @property
    def folder(self) -> Path:
        return self.run.path

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.run.labels))

    @property
    def model_path(self) -> Path:
        """A standard Hugging Face folder; of a bag-of-words or neural baseline, its JSON and safetensors."""
        return self.run.model

    @property
    def predictions(self) -> dict[str, Any]:
        """A pyarrow table for each scored split: row, label, prediction, score, logits."""
        import pyarrow.parquet as parquet

        return {file.stem: parquet.read_table(file) for file in sorted((self.folder / "predictions").glob("*.parquet"))}


def finished(path: Path) -> Result | None:
    """The finished run at `path`, or None where it is not finished."""
    run = RunFolder(path)
    return Result(run, run.read("metrics.json"), False) if run.finished else None


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
