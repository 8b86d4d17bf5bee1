"""How a run is executed (`Options`), and the exceptions that end it early. Does not import PyTorch."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randout.core.console import Show
from randout.core.errors import UserError
from randout.storage.run_folder import RunFolder
from randout.trackers.report_to import ReportTo

if TYPE_CHECKING:
    from randout.storage.metrics_record import Metrics
    from randout.trackers.tracked_run import TrackedRun
    from randout.training.processes import Processes


NO_RAY = "Ray is not installed, and a cluster needs it. Install it with: pip install 'randout[cluster]'"
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Options:
    """How a run is executed; nothing here changes its result.

    deadline: as of `time.monotonic()`, in seconds. pause_at: optimizer steps after which the student is validated and saved,
    and training ends (`Paused`). name: of the run, in tables and reports. request: digest of the command
    (`already_trained`), stored with the run.

    shared: other processes work on the same study, so a run that one of them holds raises Busy at once. jobs: processes that
    share a study; 1: this one. threads: CPU threads of a run; None: as they are. worker: number of this process among
    `jobs`; None: a command of its own. cluster: the Ray cluster that works on a study (HOST:PORT, auto, local); empty: none.
    gpus: GPUs, or the share of one, that a run gets there; None: one if it uses a GPU.

    processes: those that share one training (`torchrun`), led by this one.

    report_to: trackers of all runs. tracked: the trackers of the run that is being trained; None: it is not reported.
    """

    runs: Path = Path("runs")
    out: Path | None = None
    fresh: bool = False
    accept_changes: bool = False
    deadline: float | None = None
    pause_at: int | None = None
    name: str = ""
    request: str = ""
    shared: bool = False
    jobs: int = 1
    threads: int | None = None
    worker: int | None = None
    cluster: str = ""
    gpus: float | None = None
    show: Show = field(default_factory=Show)
    processes: Processes | None = None
    report_to: ReportTo = field(default_factory=ReportTo)
    tracked: TrackedRun | None = None


def check_processes(
    jobs: int, threads: int | None, cluster: str | None, gpus: float | None, spelt: Callable[[str], str] = str
) -> None:
    """Raise UserError for numbers of processes, threads and GPUs that cannot be, for options that exclude one another, and if
    Ray is needed and not installed.

    spelt: returns how the caller spells an option.
    """
    for option, value in (("jobs", jobs), ("job_threads", threads)):
        if value is not None and value < 1:
            raise UserError(f"{spelt(option)} {value}: expected 1 or more")
    if cluster and "://" in cluster:
        raise UserError(
            f"{spelt('cluster')} {cluster}: expected HOST:PORT, auto or local. The study is planned on storage that the nodes "
            "share, so the command has to run on a machine of the cluster: use `ray job submit`, or log in to one"
        )
    if cluster and importlib.util.find_spec("ray") is None:
        raise UserError(NO_RAY)
    if cluster and cluster not in ("auto", "local"):
        check_address(cluster, spelt("cluster"))
    if cluster and jobs > 1:
        raise UserError(
            f"{spelt('cluster')}: the cluster decides how many runs there are at once; leave {spelt('jobs')} out"
        )
    if gpus is not None and not cluster:
        raise UserError(f"{spelt('job_gpus')}: only {spelt('cluster')} assigns GPUs to runs; leave it out")
    if gpus is not None and not (0 <= gpus <= 1 or gpus == int(gpus)):
        raise UserError(
            f"{spelt('job_gpus')} {gpus:g}: expected a share of a GPU, such as 0.5, or a whole number of them"
        )


def check_address(cluster: str, option: str = "--cluster") -> None:
    """Raise UserError if nothing answers at the address of a cluster, for which Ray would wait for minutes."""
    host, _, port = cluster.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{option} {cluster}: expected HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(not_connected(cluster, str(error), option)) from None


def not_connected(cluster: str, reason: str, option: str = "--cluster") -> str:
    """Return the message for a cluster that cannot be reached."""
    return (
        f"{option} {cluster}: no connection to a Ray cluster ({reason}). Start one with `ray start --head`, name its HOST:PORT, "
        f"or use {option} local"
    )


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run. scores: the content of `metrics.json`. new: whether it was trained now, not found finished."""

    run: RunFolder
    scores: Metrics
    new: bool

    def __repr__(self) -> str:
        found = [f", {name} accuracy {scores.accuracy:.2%}" for name, scores in self.scores.splits.items()]
        return f"Result({str(self.folder)!r}{''.join(found)})"

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics by split, and the list `warnings`, as in `metrics.json`."""
        return self.scores.as_json()

    @property
    def folder(self) -> Path:
        return self.run.path

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.run.labels))

    @property
    def model_path(self) -> Path:
        """The model folder: in Hugging Face layout for an encoder, JSON and safetensors for a baseline."""
        return self.run.model

    @property
    def predictions(self) -> dict[str, Any]:
        """A pyarrow table per scored split: row, label, prediction, score, logits."""
        import pyarrow.parquet as parquet

        return {file.stem: parquet.read_table(file) for file in sorted((self.folder / "predictions").glob("*.parquet"))}


def finished(path: Path) -> Result | None:
    """Return the finished run at `path`, or None if there is none."""
    run = RunFolder(path)
    return Result(run, run.metrics, False) if run.finished else None


class Stopped(Exception):
    """The training was stopped on request, and its state is saved. why: what stopped it. run: the run to resume."""

    def __init__(self, why: str, run: RunFolder) -> None:
        super().__init__(why)
        self.why, self.run = why, run


class Paused(Stopped):
    """The training reached `Options.pause_at`, and its state is saved. metrics: of the student so far, on validation."""

    def __init__(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        super().__init__("a pause", run)
        self.metrics = metrics
