"""Several processes share a job: each takes a cell that nobody works on, until everything is done.

There is no leader. A cell (one run of a study, one trial of a search up to its next comparison, or one shard of texts) is claimed
by a lock. One that another process works on, or whose teacher or soft labels are being made by another process, is busy: the
worker continues with the next cell and comes back. Does not import PyTorch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from randout.core.hardware import available_memory, cores, process_memory
from randout.core.lazy import torch
from randout.core.terminal import stop_on_signal
from randout.experiments.run.options import Options, Stopped
from randout.methods.plugins import loaded_plugins
from randout.storage import locks
from randout.storage.locks import Busy, LockLost
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import Cell, Trial

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks at busy cells


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a cell ended. busy: the lock that another process holds; None after LockLost."""

    state: Literal["finished", "failed", "busy"]
    busy: Busy | None = None


class Cells(Protocol):
    """The cells of a job that processes share: of a study, or of the labelling of shards."""

    @property
    def path(self) -> Path:
        """The folder by which other processes join the job (`experiments.shared_job`)."""

    @property
    def noun(self) -> str:
        """What `progress` counts, in the singular."""

    def open(self, tried: Collection[str]) -> list[str]:
        """Read what other processes have done; return the cells that can be worked on now, in their order.

        tried: cells that this process has tried and that failed, which it does not try again.
        """

    def run(self, name: str) -> Outcome:
        """Work on a cell until it is finished or fails. Raises Stopped, and UserError for what stops the job."""

    def label(self, name: str) -> str:
        """Return what a cell is called in messages."""

    def progress(self) -> tuple[int, int]:
        """Return how many are done, and how many there are."""

    def memory(self) -> int:
        """Return the most memory that the process of a finished cell had, in bytes; 0 if unknown."""


def prepared(options: Options) -> Options:
    """Return the options of a study's runs, with their number of threads; sets it for the runs of this process."""
    if options.cluster:  # nodes may have any number of cores
        return replace(options, shared=True, threads=options.threads or 1)
    threads = options.threads or (torch.get_num_threads() if options.jobs == 1 else default_threads(options.jobs))
    if options.jobs == 1 and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return replace(options, shared=True, threads=threads)


def default_threads(jobs: int) -> int:
    """Return the CPU threads of each of `jobs` processes: an equal share of the cores, at most OMP_NUM_THREADS."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // jobs)
    return min(share, int(limit)) if limit.isdigit() and int(limit) else share


def order_for(cells: Cells, options: Options, required: Collection[str]) -> dict[str, Any]:
    """Return what another process needs in order to work on a job, as plain values."""
    return {
        "job": str(cells.path),
        "runs": str(options.runs),
        "accept_changes": options.accept_changes,
        "seconds": None if options.deadline is None else options.deadline - time.monotonic(),
        "threads": options.threads,
        "required": sorted(required),
        "plugins": [str(word) for word in loaded_plugins()],
        "command": sys.argv,
        "report_to": options.report_to.as_json(),
    }


def check_threads(folder: StudyFolder[Any], options: Options, unfinished: bool) -> None:
    """Record the number of threads of a study's runs.

    Raises MadeElsewhere if it was started with another one, runs are left, and the change is not accepted.
    """
    from randout.training.checkpoint import MadeElsewhere  # imports PyTorch

    was, record = folder.record.threads, folder.record
    if was is not None and was != options.threads and unfinished and not options.accept_changes:
        raise MadeElsewhere(
            f"{folder.path}: this study was started with other CPU threads for each run (threads was {was}, is "
            f"{options.threads}), so going on would not give bit-identical results. Use --job-threads {was}, or add "
            "--accept-changes"
        )
    if was is None or unfinished:
        record.threads = options.threads


def work_through(cells: Cells, options: Options) -> None:
    """Work on cells until all are finished or have failed here, whoever did them. Raises Stopped."""
    tried: set[str] = set()
    blocked: dict[str, Busy] = {}
    pause, said, first = FIRST_PAUSE, "", options.worker or 0
    while names := cells.open(tried):
        shift, first = first % len(names), 0  # workers that start together begin at different cells
        advanced, waits_for = False, ""
        for name in names[shift:] + names[:shift]:
            holder = _holder(blocked.get(name))
            if holder is None and options.worker is not None and not _fits(cells.memory()) and _others(blocked):
                waits_for = "memory"
                break
            if holder is not None:
                waits_for = waits_for or str(holder)
                continue
            blocked.pop(name, None)
            outcome = attempt(cells, name, options)
            if outcome.state == "busy":
                if outcome.busy is not None:
                    blocked[name] = outcome.busy
                    waits_for = waits_for or str(outcome.busy.holder)
                continue
            tried |= {name} if outcome.state == "failed" else set()
            advanced = True
            break
        if advanced:
            pause = FIRST_PAUSE
            continue
        if waits_for != said:
            said = waits_for
            options.show.say(f"waiting for {said}" if said == "memory" else f"waiting for another process ({said})")
        _wait(cells, options, pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def attempt(cells: Cells, name: str, options: Options) -> Outcome:
    """Work on a cell, and report its start and end as events. Raises Stopped, and UserError for what stops the job."""
    report, label = options.show.event, cells.label(name)
    report({"cell": label, "state": "started"})
    began = time.monotonic()
    try:
        outcome = cells.run(name)
    except LockLost as lost:
        options.show.warn(str(lost))
        outcome = Outcome("busy")
    done, total = cells.progress()
    seconds = round(time.monotonic() - began, 3)
    counts = {"done": done, "total": total, "noun": cells.noun}
    report({"cell": label, "state": outcome.state, "seconds": seconds} | counts)
    return outcome


def _holder(busy: Busy | None) -> locks.Holder | None:
    return None if busy is None else locks.holder(busy.folder, busy.name)


def _others(blocked: dict[str, Busy]) -> bool:
    """Return whether another process is known to work on the job."""
    return any(_holder(busy) is not None for busy in blocked.values())


def _fits(needed: int) -> bool:
    """Return whether this process can grow to `needed` bytes of memory."""
    own, free = process_memory(), available_memory()
    return own is None or free is None or needed - own[0] <= free


def _wait(cells: Cells, options: Options, seconds: float) -> None:
    """Sleep. Raises Stopped at the time limit and when a stop is requested."""
    with stop_on_signal() as stop:
        time.sleep(seconds)
    if stop.why or (options.deadline and time.monotonic() > options.deadline):
        raise Stopped(stop.why or "the time limit", RunFolder(cells.path))


def claimed(folder: StudyFolder[Any], entry: Cell | Trial) -> Busy | None:
    """Return who works on the run of a cell or trial, as far as its record and lock say; None if nobody does."""
    if entry.run is None:
        return None
    run = folder.run(entry).path
    holder = locks.holder(run)
    return None if holder is None else Busy(run, "", holder, "run")


def peak_memory(options: Options) -> int | None:
    """Return the most memory that this process had, if it is a worker of a study."""
    found = process_memory() if options.worker is not None else None
    return None if found is None else found[1]
