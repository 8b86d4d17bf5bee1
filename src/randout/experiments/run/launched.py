"""`train` in the processes that `torchrun` started: the first one leads, the others follow; all end together."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from randout.core.console import LOG
from randout.core.errors import EndedElsewhere, Failure, UserError
from randout.core.launch import Launch
from randout.core.terminal import EXIT_CODES, Terminated
from randout.storage.run_folder import RunFolder
from randout.training.processes import Processes

from .follower import follow
from .options import Result, Stopped, finished
from .plan import Plan


def train_together(launch: Launch, lead: Callable[[Processes], Result], make_plan: Callable[[], Plan]) -> Result:
    """Train in all processes of `launch`, each of which calls this function; returns the run, in all of them.

    lead: carries out the command, in the first process. make_plan: makes its plan, in the others. Raises what `lead` raises;
    in the others Stopped after a clean stop, and EndedElsewhere after a failure of another process.
    """
    _choose_device(launch)
    processes = Processes(launch)
    try:
        found = _lead(processes, lead) if launch.leads else _follow(processes, make_plan)
    except Stopped:
        raise
    except BaseException as error:
        told = _reported(error, processes)
        processes.part()
        raise told from None
    return found


def _lead(processes: Processes, lead: Callable[[Processes], Result]) -> Result:
    try:
        result = lead(processes)
    except Stopped as stop:
        processes.tell({"do": "end", "folder": str(stop.run.path), "why": stop.why})
        processes.leave()
        raise
    processes.tell({"do": "end", "folder": str(result.folder), "why": ""})
    processes.leave()
    return result


def _follow(processes: Processes, make_plan: Callable[[], Plan]) -> Result:
    with _silent():
        message = follow(processes, make_plan)
    processes.leave()
    folder = Path(message["folder"])
    if message["why"]:
        raise Stopped(message["why"], RunFolder(folder))
    result = finished(folder)
    if result is None:
        raise Failure(f"{folder}: the finished run is not in this folder here; use a folder that all machines share")
    return result


def _choose_device(launch: Launch) -> None:
    """Give each process of a machine a GPU of its own. Raises UserError if there are too few."""
    if not torch.cuda.is_available():
        return
    if launch.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {launch.rank} is number {launch.local_rank} of its machine, which has "
            f"{torch.cuda.device_count()} GPUs. Start one process per GPU: --nproc-per-node {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(launch.local_rank)


@contextmanager
def _silent() -> Iterator[None]:
    """While open, messages and warnings of this process are not printed: the first process prints the same."""
    before = LOG.level
    LOG.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        LOG.setLevel(before)


def _reported(error: BaseException, processes: Processes) -> BaseException:
    """Report a failure to the other processes; return the error to raise, which is printed by one process only."""
    if isinstance(error, EndedElsewhere):
        return error
    interrupted = isinstance(error, KeyboardInterrupt | Terminated)
    if isinstance(error, Terminated):
        code, message = EXIT_CODES[error.why], f"stopped by {error.why}"
    elif isinstance(error, KeyboardInterrupt):
        code, message = EXIT_CODES["Ctrl-C"], "interrupted"
    else:
        code, message = getattr(error, "exit_code", 1), str(error)
    tells = processes.leads or not interrupted
    first = processes.report(message, code, tells)
    if not first and (found := processes.failure()) is not None and (found.told or not processes.leads):
        return found
    if not tells:
        return EndedElsewhere(message, code)
    if not processes.leads and isinstance(error, UserError | Failure):
        where = f"process {processes.rank} of {processes.size}: {message}"
        return UserError(where) if isinstance(error, UserError) else Failure(where)
    return error
