"""Shares the shards of a task among processes: each claims a free shard, and goes on with the next if it is busy."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

from randout.core.errors import Failure, UserError
from randout.data.shards import Shard
from randout.experiments.run.saved_model import LoadedClassifier, load_on_device
from randout.storage.shard_folder import claimed

from .copies import hash_shard, is_hashed
from .labelling import label_shard
from .task import LOCKS, Task

WAIT = 0.5  # seconds between looks at shards that other processes work on
Report = Callable[[str, int], None]  # (name of a shard, rows of it done since the last report; -1: all of it)
Step = Literal["hash", "label"]


class StopRequested(Exception):
    """The process was asked to stop after the current block of rows."""


class _Stop(Protocol):
    def is_set(self) -> bool: ...


class _StopOrOrphan:
    """Whether to stop: when asked to, or when the process that started this one is gone (killed)."""

    def __init__(self, asked: _Stop) -> None:
        self.asked, self.parent = asked, os.getppid()

    def is_set(self) -> bool:
        return self.asked.is_set() or os.getppid() != self.parent


class _Never:
    def is_set(self) -> bool:
        return False


def work(
    task: Task,
    step: Step,
    report: Report,
    model: LoadedClassifier | None = None,
    start: int = 0,
    stop: _Stop | None = None,
) -> None:
    """Do a step of a task for every shard that is not done, waiting at the end for those of other processes.

    model: None: loaded for the first shard that needs it. start: the shard to begin with, so that processes do not ask for
    the same one. Raises StopRequested.
    """
    waiting = [*task.shards[start:], *task.shards[:start]]
    asked_to_stop = stop or _Never()
    loaded = [model] if model is not None else []

    def check() -> None:
        if asked_to_stop.is_set():
            raise StopRequested

    while waiting:
        busy = []
        for shard in waiting:
            check()
            if not _done(task, step, shard):
                with claimed(task.work / LOCKS / f"{step}-{task.identity(shard)[:32]}") as mine:
                    if not mine:
                        busy.append(shard)
                        continue
                    if not _done(task, step, shard):  # else another process has finished it since
                        _carry_out(task, step, shard, loaded, report, check)
            report(shard.name, -1)
        if len(busy) == len(waiting):
            time.sleep(WAIT)
        waiting = busy


def _carry_out(
    task: Task, step: Step, shard: Shard, loaded: list[LoadedClassifier], report: Report, check: Callable[[], None]
) -> None:
    def advance(rows: int) -> None:
        report(shard.name, rows)
        check()

    if step == "hash":
        hash_shard(task, shard, advance)
        return
    if not loaded:
        loaded.append(load_on_device(task.model, task.device, task.settings.kind, task.form))
    label_shard(task, shard, loaded[0], advance)


def _done(task: Task, step: Step, shard: Shard) -> bool:
    return is_hashed(task, shard) if step == "hash" else task.finished(shard)


def work_together(task: Task, step: Step, jobs: int, report: Report, model: LoadedClassifier | None = None) -> None:
    """Do a step of a task in `jobs` processes of their own; in this process if it is one.

    Raises UserError and Failure as one of them does, and Failure if one was killed: what is finished is kept.
    """
    if jobs == 1:
        work(task, step, report, model)
        return
    server = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
    reports, stop = context.Queue(), context.Event()
    starts = [len(task.shards) * at // jobs for at in range(jobs)]
    processes = [
        context.Process(target=_process, args=(task, step, start, reports, stop), daemon=True) for start in starts
    ]
    for process in processes:
        process.start()
    try:
        errors = _follow(processes, reports, stop, report)
    finally:
        stop.set()
        _wait(processes, reports)
    if errors:
        raise (UserError if errors[0][0] == "UserError" else Failure)(errors[0][1])
    if killed := [process.exitcode for process in processes if process.exitcode]:
        raise Failure(
            f"a worker process ended with exit code {killed[0]} (-9: killed, often for lack of memory). Finished parts are "
            "kept; run the same command again, with fewer --jobs if memory was short"
        )


def _follow(processes: Sequence[Any], reports: Any, stop: Any, report: Report) -> list[tuple[str, str]]:
    """Pass on reports until all processes have ended; after an error the others are asked to stop. Returns errors."""
    errors: list[tuple[str, str]] = []
    while True:
        running = any(process.is_alive() for process in processes)
        with suppress(queue.Empty):
            while True:
                name, found = reports.get(timeout=0.2 if running else 0.05)
                if isinstance(found, int):
                    report(name, found)
                else:
                    errors.append((name, found))
                    stop.set()
        if not running:
            return errors


def _wait(processes: Sequence[Any], reports: Any) -> None:
    """Wait for all processes; their reports are read meanwhile, since a full queue would block them."""
    while any(process.is_alive() for process in processes):
        with suppress(queue.Empty):
            while True:
                reports.get(timeout=0.1)
    for process in processes:
        process.join()


def _process(task: Task, step: Step, start: int, reports: Any, stop: Any) -> None:
    """The main function of a worker process."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which asks for a clean stop
    os.environ["OMP_NUM_THREADS"] = str(task.threads)  # before PyTorch is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if task.threads == 1 else "true")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(task.threads)
    try:
        work(task, step, lambda name, rows: reports.put((name, rows)), None, start, _StopOrOrphan(stop))
    except StopRequested:
        pass
    except Exception as error:
        kind = "UserError" if isinstance(error, UserError) else "Failure"
        text = str(error) if isinstance(error, UserError | Failure) else f"{type(error).__name__}: {error}"
        reports.put((kind, text))
