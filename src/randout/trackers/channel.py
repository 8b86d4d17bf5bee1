"""Calls a tracker in a thread of its own, in order, so that no training waits for a disk or a server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds that the end of a run waits for a call that does not return
START_PATIENCE = 60.0  # the same for the start of a study, whose runs need its id
STOP_PATIENCE = 10.0  # the same after a stop was requested
UPLOAD_PATIENCE = 900.0  # the same for the upload of a model
RETRY = 300.0  # seconds in which a tracker that failed is left alone by further runs

_failed: dict[str, float] = {}  # tracker: when it failed


def left_alone(name: str) -> bool:
    """Return whether a tracker failed in this process a short time ago."""
    return name in _failed and time.monotonic() - _failed[name] < RETRY


def forget_failures() -> None:
    """Let the next run try all trackers again."""
    _failed.clear()


class Channel:
    """The calls of one tracker for one run. After an error no further call is made. error: why; empty while all is well."""

    def __init__(self, name: str) -> None:
        self.name, self.error = name, ""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._moved, self._patient = time.monotonic(), False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None]) -> None:
        """Make a call soon; returns at once."""
        if not self.error:
            self._calls.put(call)

    def put_slow(self, call: Callable[[], None]) -> None:
        """The same for a call that may take minutes."""

        def slow() -> None:
            self._patient = True
            try:
                call()
            finally:
                self._patient = False

        self.put(slow)

    def wait(self, patience: float = PATIENCE) -> None:
        """Wait until all calls so far are made; give up if one takes longer than `patience` seconds."""
        made, began = threading.Event(), time.monotonic()
        self._calls.put(made.set)
        while not made.wait(0.1) and not self.error:
            limit = UPLOAD_PATIENCE if self._patient else patience
            if time.monotonic() - max(began, self._moved) > limit:
                self._fail(f"no answer for {limit:.0f} seconds")

    def close(self, patience: float = PATIENCE) -> None:
        """Wait as `wait` does; no call can be made afterwards."""
        self.wait(patience)
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.error:
                continue
            try:
                call()
            except Exception as error:  # whatever a tracker raises, the training goes on
                lines = str(error).strip().splitlines()
                self._fail(f"{type(error).__name__}: {lines[0] if lines else ''}".removesuffix(": ")[:160])
            self._moved = time.monotonic()

    def _fail(self, why: str) -> None:
        self.error = self.error or why
        _failed[self.name] = time.monotonic()
