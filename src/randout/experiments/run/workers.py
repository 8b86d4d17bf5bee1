"""Runs the cells of a study in several processes of this machine (`--jobs`), and shows what each of them does.

Each worker is one more invocation that shares the study (`sharing`). It gets its order as JSON on its standard input and reports
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
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from randout.core.console import STDERR, Show, duration
from randout.core.errors import Failure, UserError
from randout.core.wording import plural
from randout.methods.plugins import loaded_plugins
from randout.storage.run_folder import RunFolder

from .options import Options, Stopped
from .sharing import Cells
from .student import stop_on_signal

MODULE = "randout.experiments.worker"  # what a worker runs
PATIENCE = 0.1  # seconds between two looks at requests to stop
LAST_LINES = 5  # of the standard error of a worker that died


@dataclass
class _Worker:
    """One process. cell, part, left: what it works on, how far that is, and the seconds left. ended: how it ended."""

    number: int
    process: subprocess.Popen[bytes]
    errors: BinaryIO
    cell: str = "starting"
    what: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    at_start: int = 0
    ended: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> str:
        """How long the present part takes, by its speed so far; empty if unknown."""
        moved = self.done - self.at_start
        if not moved or not self.total:
            return ""
        return duration((self.total - self.done) * (time.monotonic() - self.since) / moved)

    @property
    def status(self) -> str:
        code = self.process.returncode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def last_lines(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def run(cells: Cells, options: Options, required: Collection[str] = ()) -> None:
    """Work on the cells of a study in `options.jobs` processes until all are finished or have failed.

    required: methods that must not be left out, of the request. Raises Stopped if a stop was requested or at the time limit,
    UserError for what stops the study, Failure if all workers died.
    """
    events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    workers = [_start(number, cells, options, required, events) for number in range(options.jobs)]
    try:
        with stop_on_signal() as stop, _shown(workers, options.show) as show_progress:
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
            worker.errors.close()


def _start(number: int, cells: Cells, options: Options, required: Collection[str], events: queue.Queue[Any]) -> _Worker:
    """Start a worker, and a thread that collects its events; the event None says that there are no more."""
    left = None if options.deadline is None else options.deadline - time.monotonic()
    order = {
        "study": str(cells.path),
        "runs": str(options.runs),
        "accept_changes": options.accept_changes,
        "seconds": left,
        "threads": options.threads,
        "worker": number,
        "required": sorted(required),
        "plugins": [str(word) for word in loaded_plugins()],
        "command": sys.argv,
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `run`
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    worker = _Worker(number, process, errors)

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                events.put((worker, json.loads(line)))
        process.wait()
        events.put((worker, None))

    threading.Thread(target=collect, daemon=True).start()
    return worker


def _take(worker: _Worker, event: dict[str, Any] | None, show: Show) -> None:
    """Note what a worker reports."""
    if event is None:
        if not worker.ended:
            show.warn(
                f"worker {worker.number + 1} (pid {worker.process.pid}) {worker.status} while it worked on {worker.cell}; "
                f"another worker takes that over{worker.last_lines()}"
            )
        worker.cell, worker.what, worker.total = "ended", "", 0
    elif "end" in event:
        worker.ended = event
    elif "warn" in event:
        show.warn(event["warn"])
    elif "say" in event:
        if event["say"].startswith("waiting for"):
            worker.cell, worker.what, worker.total = event["say"], "", 0
    elif "bar" in event:
        if worker.what != event["bar"]:
            worker.what, worker.since, worker.at_start = event["bar"], time.monotonic(), event["done"]
        worker.done, worker.total = event["done"], event["total"]
    elif event.get("state") == "started":
        worker.cell, worker.what, worker.total = event["cell"], "", 0


@contextmanager
def _shown(workers: list[_Worker], show: Show) -> Iterator[Any]:
    """Yield a function that shows an event: in a table on a terminal, else as a line for each finished cell."""
    spent: list[float] = []

    def finished(event: dict[str, Any] | None) -> str:
        if event is None or event.get("state") not in ("finished", "failed"):
            return ""
        spent.append(event["seconds"])
        left = (event["total"] - event["done"]) * sum(spent) / len(spent) / len(workers)
        ended = f"{event['cell']} {event['state']} in {duration(event['seconds'])}"
        return f"{ended}; {event['done']} of {plural(event['total'], 'run')}, about {duration(left)} left"

    if show.quiet or show.terse or not show.terminal:
        yield lambda event: show.say(text) if (text := finished(event)) else None
        return
    from rich.console import Console
    from rich.live import Live

    last = f"{len(workers)} workers are starting"
    with Live(_table(workers, last), console=Console(file=STDERR), transient=True, refresh_per_second=4) as live:

        def shown(event: dict[str, Any] | None) -> None:
            nonlocal last
            last = finished(event) or last
            live.update(_table(workers, last))

        yield shown


def _table(workers: list[_Worker], title: str) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in ("worker", "cell", "now", "", "left"):
        table.add_column(column, no_wrap=True)
    for worker in workers:
        bar = ProgressBar(total=worker.total or 1, completed=worker.done if worker.total else 0, width=20)
        words = (str(worker.number + 1), worker.cell, worker.what)
        table.add_row(*map(Text, words), bar, Text(worker.left))
    return table


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
    died = "; ".join(f"worker {worker.number + 1} {worker.status}{worker.last_lines()}" for worker in workers)
    raise Failure(f"{cells.path}: all workers died, and the study is not finished. Run the same command again. {died}")
