"""Shows what several processes that share cells do: a live table on a terminal, else a line for each finished cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from randout.core.console import STDERR, Show, duration
from randout.core.wording import plural

Event = dict[str, Any]
STARTING = "starting"  # what a worker does before its first cell


@dataclass
class Activity:
    """What a process does. worker: its name. cell, what: a cell and the part of it that is being worked on."""

    worker: str
    cell: str = STARTING
    what: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    at_start: int = 0

    @property
    def left(self) -> str:
        """How long the present part takes, by its speed so far; empty if unknown."""
        moved = self.done - self.at_start
        if not moved or not self.total:
            return ""
        return duration((self.total - self.done) * (time.monotonic() - self.since) / moved)

    def begin(self, cell: str) -> None:
        """Note another cell, or a state in its place."""
        self.cell, self.what, self.total = cell, "", 0

    def take(self, event: Event, show: Show) -> None:
        """Note what the process reports; its warnings are shown."""
        if "warn" in event:
            show.warn(event["warn"])
        elif "say" in event:
            if event["say"].startswith("waiting for"):
                self.begin(event["say"])
        elif "bar" in event:
            if self.what != event["bar"]:
                self.what, self.since, self.at_start = event["bar"], time.monotonic(), event["done"]
            self.done, self.total = event["done"], event["total"]
        elif event.get("state") == "started":
            self.begin(event["cell"])


@contextmanager
def shown(
    activities: Callable[[], Sequence[Activity]], first: str, show: Show
) -> Iterator[Callable[[Event | None], None]]:
    """Yield a function that shows an event (None: none, but the activities may have changed).

    activities: returns those to show now; their number estimates the time left. first: the title until a cell is finished.
    """
    spent: list[float] = []

    def finished(event: Event | None) -> str:
        if event is None or event.get("state") not in ("finished", "failed"):
            return ""
        spent.append(event["seconds"])
        at_once = max(1, len(activities()))
        left = (event["total"] - event["done"]) * sum(spent) / len(spent) / at_once
        ended = f"{event['cell']} {event['state']} in {duration(event['seconds'])}"
        return f"{ended}; {event['done']} of {plural(event['total'], event['noun'])}, about {duration(left)} left"

    if show.quiet or show.terse or not show.terminal:
        yield lambda event: show.say(text) if (text := finished(event)) else None
        return
    from rich.console import Console
    from rich.live import Live

    last = first
    with Live(_table(activities(), last), console=Console(file=STDERR), transient=True, refresh_per_second=4) as live:

        def show_progress(event: Event | None) -> None:
            nonlocal last
            last = finished(event) or last
            live.update(_table(activities(), last))

        yield show_progress


def _table(activities: Sequence[Activity], title: str) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in ("worker", "cell", "now", "", "left"):
        table.add_column(column, no_wrap=True)
    for one in activities:
        bar = ProgressBar(total=one.total or 1, completed=one.done if one.total else 0, width=20)
        table.add_row(*map(Text, (one.worker, one.cell, one.what)), bar, Text(one.left))
    return table
