"""A tracker in memory: a callback as transformers has them, which keeps what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from randout.trackers import report_to


class FakeTracker(TrainerCallback):
    """One run. told: (event, run name, step, values). made: all runs so far. fails: the event that raises, or "" for none."""

    made: ClassVar[list[FakeTracker]] = []
    fails: ClassVar[str] = ""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int, dict[str, Any]]] = []
        FakeTracker.made.append(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.tell("begin", args, state, args.to_dict())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self.tell("log", args, state, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.tell("end", args, state, {})

    def tell(self, event: str, args: Any, state: Any, values: dict[str, Any]) -> None:
        if event == self.fails:
            raise ConnectionError("the server is away\nmore lines")
        self.told.append((event, args.run_name, state.global_step, dict(values)))

    @property
    def name(self) -> str:
        return self.told[0][1]

    @property
    def settings(self) -> dict[str, Any]:
        return self.told[0][3]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """The points (step, value) of a value."""
        return [(step, values[name]) for event, _, step, values in self.told if event == "log" and name in values]


def installed(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTracker]]:
    """Make the fake known under a name, for the duration of a fixture; every test has one of its own."""
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, FakeTracker)
    monkeypatch.setitem(report_to.PACKAGES, name, ("", ""))
    monkeypatch.setattr(FakeTracker, "made", [])
    monkeypatch.setattr(FakeTracker, "fails", "")
    yield FakeTracker
