"""Runs the cells of a study in several processes of this machine (`--jobs`), and shows what each of them does.

Each worker is one more invocation that shares the study (`cells`). It gets its order as JSON on its standard input and reports
events as JSON lines; it stops when its standard input is closed, so that no worker outlives its parent.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.terminal import stop_on_signal
from randout.experiments.run.options import Options, Stopped
from randout.storage.run_folder import RunFolder

from . import worker_process
from .cells import Cells, order_for
from .worker_table import STARTING, Activity, shown

MODULE = "randout.experiments.worker"  # what a worker runs
PATIENCE = 0.1  # seconds between two looks at requests to stop


@dataclass
class _Worker:
    """One process. collector: the thread that reads its events. ended: how it ended, as it reported."""

    number: int
    process: subprocess.Popen[bytes]
    errors: BinaryIO
    collector: threading.Thread
    activity: Activity
    ended: dict[str, Any] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        return worker_process.ending(self.process, self.errors)


def run(cells: Cells, options: Options, required: Collection[str] = ()) -> None:
    """Work on the cells of a study in `options.jobs` processes until all are finished or have failed.

    required: methods that must not be left out, of the request. Raises Stopped if a stop was requested or at the time limit,
    UserError for what stops the study, Failure if all workers died.
    """
    events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    workers = [_start(number, cells, options, required, events) for number in range(options.jobs)]
    first = f"{len(workers)} workers are starting"

    def activities() -> list[Activity]:
        return [worker.activity for worker in workers]

    try:
        with stop_on_signal() as stop, shown(activities, first, options.show) as show_progress:
            forwarded = ""
            while any(worker.process.poll() is None for worker in workers) or not events.empty():
                with suppress(queue.Empty):
                    worker, event = events.get(timeout=PATIENCE)
                    _take(worker, event, options.show)
                    show_progress(event)
                wrong = any(worker.ended.get("end") == "error" for worker in workers)
                if (stop.why or wrong) and not forwarded:
                    forwarded = stop.why or "SIGTERM"
                    _signal_all(workers, forwarded)
        _conclude(workers, cells, stop.why)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            worker.collector.join()
            for stream in (worker.process.stdin, worker.process.stdout, worker.errors):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()


def _start(number: int, cells: Cells, options: Options, required: Collection[str], events: queue.Queue[Any]) -> _Worker:
    """Start a worker, and a thread that collects its events; the event None says that there are no more."""
    order = order_for(cells, options, required) | {"worker": number}
    errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `run`
    here = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = worker_process.start(MODULE, order, options.threads, errors, environment=here)

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                events.put((worker, json.loads(line)))
        process.wait()
        events.put((worker, None))

    worker = _Worker(number, process, errors, threading.Thread(target=collect, daemon=True), Activity(str(number + 1)))
    worker.collector.start()
    return worker


def _take(worker: _Worker, event: dict[str, Any] | None, show: Show) -> None:
    """Note what a worker reports."""
    if event is None:
        if not worker.ended:
            started = worker.activity.cell != STARTING
            left = f", whose work on {worker.activity.cell} is left to the others," if started else " was starting and"
            show.warn(f"worker {worker.number + 1} (pid {worker.process.pid}){left} {worker.ending}")
        worker.activity.begin("ended")
    elif "end" in event:
        worker.ended = event
    else:
        worker.activity.take(event, show)


def _signal_all(workers: list[_Worker], why: str) -> None:
    number = signal.SIGINT if why == "Ctrl-C" else signal.SIGTERM
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)


def _conclude(workers: list[_Worker], cells: Cells, why: str) -> None:
    """Raise what the workers' ends mean for the study; return if one of them found nothing left to do."""
    ends = [worker.ended for worker in workers]
    for end in ends:
        if end.get("end") == "error":
            raise (UserError if end["code"] == UserError.exit_code else Failure)(end["message"])
    if any(end.get("end") == "done" for end in ends):
        return
    stops = [end["why"] for end in ends if end.get("end") == "stopped"]
    if why or stops:
        raise Stopped(why or stops[0], RunFolder(cells.path))
    died = "; ".join(f"worker {worker.number + 1} {worker.ending}" for worker in workers)
    raise Failure(f"{cells.path}: all workers died, and the study is not finished. Run the same command again. {died}")
