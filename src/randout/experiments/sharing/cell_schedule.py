"""Decides which cells of a study are submitted to a cluster, and when. Does not know what a cluster is.

A cell is submitted again when its node or process was lost, and when another process held its run (or its teacher) and has let
go of it. A cell that fails is not, as in a single process. A cell whose process dies again and again is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

AT_ONCE = 256  # cells submitted and not ended: an autoscaler sees what is needed, and the driver can follow all
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before a busy or lost cell is looked at again
DEATHS = 5  # of a cell's process, after which it is given up

Lock = tuple[str, str]  # folder and name


@dataclass
class _Wait:
    """A cell that is not submitted yet. until: the time of the next look. lock: what has to be free by then."""

    until: float
    pause: float
    lock: Lock | None = None


@dataclass
class CellSchedule:
    """The cells that a driver has submitted, and those that wait.

    submitted: not ended yet. failed: by the run itself. given_up: how the process of a cell died the last time.
    """

    at_once: int = AT_ONCE
    submitted: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    given_up: dict[str, str] = field(default_factory=dict)
    _waiting: dict[str, _Wait] = field(default_factory=dict)
    _deaths: dict[str, int] = field(default_factory=dict)

    @property
    def tried(self) -> list[str]:
        """The cells that are not submitted again."""
        return sorted({*self.failed, *self.given_up})

    def due(self, open_now: Sequence[str], now: float, is_held: Callable[[Lock], bool]) -> list[str]:
        """Return the cells to submit now, and count them as submitted.

        open_now: the cells that can be worked on, in the order of the study. is_held: whether a process holds a lock; called
        at most once for each lock.
        """
        held: dict[Lock, bool] = {}
        found = []
        for name in open_now:
            if len(self.submitted) >= self.at_once:
                break
            if name in self.submitted or name in self.failed or name in self.given_up:
                continue
            wait = self._waiting.get(name)
            if wait is not None and not self._is_over(wait, now, held, is_held):
                continue
            self.submitted.add(name)
            found.append(name)
        return found

    def _is_over(self, wait: _Wait, now: float, held: dict[Lock, bool], is_held: Callable[[Lock], bool]) -> bool:
        if now < wait.until:
            return False
        if wait.lock is not None:
            if wait.lock not in held:
                held[wait.lock] = is_held(wait.lock)
            if held[wait.lock]:
                wait.pause = min(2 * wait.pause, LONGEST_PAUSE)
                wait.until = now + wait.pause
                return False
        return True

    def finished(self, name: str) -> None:
        """Note that a cell is finished, or has reached the rung that it was trained to."""
        self.submitted.discard(name)
        self._waiting.pop(name, None)
        self._deaths.pop(name, None)

    def failed_run(self, name: str) -> None:
        """Note that the run of a cell failed, which its study records."""
        self.finished(name)
        self.failed.add(name)

    def busy(self, name: str, lock: Lock | None, now: float) -> None:
        """Note that another process holds what a cell needs. lock: which lock, if known."""
        self._pause(name, lock, now)

    def lost(self, name: str, now: float) -> None:
        """Note that the node of a cell was lost, or that its process was stopped there."""
        self._pause(name, None, now)

    def died(self, name: str, how: str, now: float) -> None:
        """Note that the process of a cell died on a node that is alive."""
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < DEATHS:
            self._pause(name, None, now)
        else:
            self.finished(name)
            self.given_up[name] = how

    def _pause(self, name: str, lock: Lock | None, now: float) -> None:
        before = self._waiting.get(name)
        pause = FIRST_PAUSE if before is None else min(2 * before.pause, LONGEST_PAUSE)
        self.submitted.discard(name)
        self._waiting[name] = _Wait(now + pause, pause, lock)
