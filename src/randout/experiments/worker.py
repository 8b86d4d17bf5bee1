"""A worker of a job that processes share: `python -m randout.experiments.worker`, started by `experiments.sharing.workers`.

Reads its order as one line of JSON from standard input and writes events as lines of JSON to what was its standard output.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from randout.core.console import Advance, Show
from randout.core.errors import Failure, UserError
from randout.core.terminal import EXIT_CODES, Terminated, stop_signals
from randout.experiments.run.options import Options, Stopped
from randout.trackers.report_to import ReportTo

Order = dict[str, Any]
BETWEEN = 0.2  # seconds between two reports of progress


class EventShow(Show):
    """Reports everything to the parent process instead of printing it."""

    def __init__(self, write: Callable[[dict[str, Any]], None], terse: bool = False) -> None:
        super().__init__(terse=terse)
        self._write = write

    def event(self, about: dict[str, Any]) -> None:
        self._write(about)

    def say(self, text: str = "") -> None:
        if not self.terse:
            self.event({"say": text})

    def warn(self, text: str) -> None:
        self.event({"warn": text})

    def conclude(self, warnings: Sequence[str]) -> None:
        for text in dict.fromkeys(warnings):
            self.warn(text)

    def within(self) -> Show:
        return EventShow(self._write, terse=True)

    def ask(self, question: str) -> bool:
        return False

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0, unit: str = "texts") -> Iterator[Advance]:
        count, last = done, time.monotonic()
        self.event({"bar": what, "done": count, "total": total})

        def advance(number: int, note: str = "") -> None:
            nonlocal count, last
            count += number
            if time.monotonic() - last > BETWEEN:
                last = time.monotonic()
                self.event({"bar": what, "done": count, "total": total})

        yield advance


def carry_out(order: Order, show: EventShow, further: queue.Queue[Order]) -> None:
    """Work on the job of an order. further: unused. Raises Stopped, UserError, Failure."""
    options = prepare(order, show)
    from randout.experiments.shared_job import join

    join(Path(order["job"]), options, order["required"])


def prepare(order: Order, show: Show) -> Options:
    """Make this process like the one that sent the order, and return the options of its runs."""
    sys.argv = order["command"]  # recorded by runs
    from randout.methods.plugins import load_plugin

    for word in order["plugins"]:
        load_plugin(word)
    return Options(
        runs=Path(order["runs"]),
        accept_changes=order["accept_changes"],
        deadline=None if order["seconds"] is None else time.monotonic() + order["seconds"],
        threads=order["threads"],
        worker=order["worker"],
        report_to=ReportTo.from_json(order["report_to"]),
        show=show,
    )


def _read(orders: queue.Queue[Order]) -> None:
    """Pass on the orders that arrive; stop cleanly when the parent process ends, which closes standard input."""
    with suppress(ValueError):
        for line in sys.stdin.buffer:
            orders.put(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)


def main(work: Callable[[Order, EventShow, queue.Queue[Order]], None] = carry_out) -> None:
    """Carry out the order on standard input, which `work` does. The exit code is that of the commands."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no event
    mutex = threading.Lock()

    def write(event: dict[str, Any]) -> None:
        with mutex, suppress(OSError):  # the parent is gone: `_read` ends this process
            print(json.dumps(event), file=events, flush=True)

    end: dict[str, Any] = {"end": "done"}
    code = 0
    try:
        with stop_signals():
            orders: queue.Queue[Order] = queue.Queue()
            threading.Thread(target=_read, args=(orders,), daemon=True).start()
            work(orders.get(), EventShow(write), orders)
    except (Stopped, Terminated) as stop:
        end, code = {"end": "stopped", "why": stop.why}, EXIT_CODES.get(stop.why, 0)
    except KeyboardInterrupt:
        end, code = {"end": "stopped", "why": "Ctrl-C"}, EXIT_CODES["Ctrl-C"]
    except (UserError, Failure) as error:
        end, code = {"end": "error", "message": str(error), "code": error.exit_code}, error.exit_code
    write(end)
    os._exit(code)  # threads of libraries must not keep a finished worker


if __name__ == "__main__":
    main()
