"""What runs on the nodes of a Ray cluster: one cell of a study, or a check of a node.

Both happen in processes of their own, so that a run never shares a process with Ray. The process for cells stays alive with the
Ray worker that started it and is reused for further cells of the study, so that libraries and data are loaded once. It stops at a
checkpoint when its standard input is closed, which also happens when the Ray worker or its node dies. Tasks exchange only strings
of JSON with the driver (`ray_cluster`). Imports neither Ray nor PyTorch.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from randout.storage.locks import host

from . import worker_process

CELLS, CHECK = "randout.experiments.cell_worker", "randout.experiments.node_check"
LOOK = 0.5  # seconds between two looks at a request to stop, which Ray raises as KeyboardInterrupt
BETWEEN = 2.0  # seconds between two reports of progress, which the driver gets from hundreds of tasks
PATIENCE = 300.0  # seconds for a process to save its checkpoint and end


class _Process:
    """A process that works on cells. about: the order that it was started with."""

    def __init__(self, about: dict[str, Any], environment: dict[str, str]) -> None:
        self.about = about
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
        folder = Path(about["folder"])
        self.process = worker_process.start(CELLS, about, about["threads"], self.errors, folder, environment)
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.collector = threading.Thread(target=self._collect, daemon=True)
        self.collector.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):
                self.events.put(json.loads(line))
        self.events.put(None)

    def work(self, cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a cell; the last one has the key "ended" or "end"."""
        worker_process.send(self.process, cell)
        said = 0.0
        while True:
            try:
                event = self.events.get(timeout=LOOK)
            except queue.Empty:
                continue
            if event is None:
                yield {"ended": "died", "message": worker_process.ending(self.process, self.errors)}
                return
            if "bar" in event:
                if time.monotonic() - said < BETWEEN:
                    continue
                said = time.monotonic()
            yield event
            if "ended" in event or "end" in event:
                return

    def stop(self) -> None:
        """Let the process save its checkpoint, and wait until it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.collector.join()
        self.process.stdout.close()
        self.errors.close()


_kept: list[_Process] = []  # the process of this Ray worker


def run_cell(order: str) -> Iterator[str]:
    """Work on a cell; yields its events. order: `{"about": ..., "cell": ..., "tried": [...]}`; about: the study."""
    asked = json.loads(order)
    yield json.dumps({"node": host()})
    about = asked.pop("about")
    if missing := _missing(about):
        yield json.dumps({"end": "error", "code": 2, "message": missing})
        return
    process, ended = _process_for(about), False
    try:
        for event in process.work(asked):
            ended = event.get("ended", "died") != "died"
            yield json.dumps(event)
    finally:  # also when Ray cancels the task, at whatever line
        if not ended:
            _kept.clear()
            process.stop()


def _process_for(about: dict[str, Any]) -> _Process:
    """Return the process that works on the study, started if there is none."""
    if _kept and (_kept[0].about != about or _kept[0].process.poll() is not None):
        _kept.pop().stop()
    if not _kept:
        hidden = {} if about["gpus"] else {"CUDA_VISIBLE_DEVICES": ""}  # so that "auto" means the CPU on all nodes
        _kept.append(_Process(about, hidden))
    return _kept[0]


def stop_process() -> None:
    """Stop the process that is kept for further cells, if there is one."""
    while _kept:
        _kept.pop().stop()


atexit.register(stop_process)


def _missing(about: dict[str, Any]) -> str:
    """Return what is wrong if the working folder or the folder of runs is not there."""
    for name in ("folder", "job"):
        if not os.path.isdir(about[name]):
            return (
                f"node {host()}: {about[name]} is not visible there. Use a folder that all nodes share, under one path"
            )
    return ""


def check_node(order: str) -> str:
    """Return the answer of `experiments.node_check` on this node, as JSON, with the name of the node."""
    asked = json.loads(order)
    if missing := _missing(asked):
        return json.dumps({"node": host(), "error": missing.partition(": ")[2]})
    with tempfile.TemporaryFile() as errors:
        process = worker_process.start(CHECK, asked, None, errors, Path(asked["folder"]))
        answer, _ = process.communicate()
        try:
            found = json.loads(answer)
        except ValueError:
            found = {"error": f"the check of the node {worker_process.ending(process, errors)}"}
    return json.dumps(found | {"node": host()})
