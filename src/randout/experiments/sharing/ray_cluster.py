"""Runs the cells of a study as tasks of a Ray cluster (`--cluster`), on storage that all nodes share.

Ray decides where and when a task runs; everything else stays with the study: its folder says what is done, the locks of runs say
who works on what, and a run resumes from its checkpoint on any node. The driver only submits cells (`cell_schedule`), shows what
they do, and stops them. Tasks get and return strings of JSON (`ray_task`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from randout.core.errors import Failure, UserError
from randout.core.hardware import cores
from randout.core.lazy import torch
from randout.core.terminal import stop_on_signal
from randout.core.wording import plural
from randout.experiments.run.options import NO_RAY, Options, Stopped, check_address, not_connected
from randout.storage import locks
from randout.storage.locks import Busy, locked
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import read_request

from . import ray_task
from .cell_schedule import CellSchedule, Lock
from .cells import Cells, order_for
from .worker_table import Activity, Event, shown

Progress = Callable[[Event | None], None]
LOCAL, AUTO = "local", "auto"  # a cluster of this machine, and the one that this machine belongs to
TICK = 0.1  # seconds between two looks at the tasks
REFRESH = 2.0  # seconds between two looks at what other invocations have done
CHECK_SECONDS = 300.0  # for the check of a node
STOP_SECONDS = 600.0  # for all tasks to save their checkpoints
STORE = 80 * 2**20  # bytes of Ray's object store on a cluster of this machine; tasks exchange short strings


def _ray() -> Any:
    """Import Ray with its usage statistics off. Raises UserError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning; `ray_task` hides GPUs itself
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(NO_RAY) from None
    return ray


def run(cells: Cells, options: Options, required: Collection[str] = ()) -> None:
    """Work on the cells of a study on the cluster `options.cluster` until all are finished or have failed.

    required: methods that must not be left out, of the request. Raises Stopped if a stop was requested or at the time limit,
    UserError for what stops the study or if Ray is missing, Failure if processes of a cell died again and again.
    """
    ray = _ray()
    about = order_for(cells, options, required) | {
        "job": str(cells.path.absolute()),
        "runs": str(options.runs.absolute()),
        "folder": os.getcwd(),
        "seconds": None,  # the driver stops all tasks at the time limit
        "worker": 0,
        "gpus": _gpus(cells.path, options),
    }
    expected = _answer(ray_task.check_node(json.dumps(about)), "this machine")
    about["versions"] = {name: found for name, found in expected.items() if name not in ("study", "data")}
    with _connected(ray, options.cluster):
        _check_nodes(ray, about, expected)
        driver = _Driver(ray, cells, options, about)
        with stop_on_signal() as stop:
            driver.work(lambda: stop.why or _time_is_up(options))


def _time_is_up(options: Options) -> str:
    return "the time limit" if options.deadline and time.monotonic() > options.deadline else ""


def _gpus(study: Path, options: Options) -> float:
    """Return the GPUs of a task: as requested, else one if a run of the study uses one, which "auto" does on this machine."""
    if options.gpus is not None:
        return options.gpus
    devices = set(_devices(read_request(study)))
    return float("cuda" in devices or (("auto" in devices or not devices) and torch.cuda.is_available()))


def _devices(request: Any) -> Iterator[str]:
    if isinstance(request, dict):
        for name, value in request.items():
            yield from [value] if name == "device" and isinstance(value, str) else _devices(value)
    elif isinstance(request, list | tuple):
        for value in request:
            yield from _devices(value)


@contextmanager
def _connected(ray: Any, cluster: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; use a connection that this process has already. Raises UserError."""
    if ray.is_initialized():
        yield
        return
    where: dict[str, Any] = {"address": cluster}
    if cluster == LOCAL:
        where |= {"num_cpus": cores(), "object_store_memory": STORE, "include_dashboard": False}
    elif cluster != AUTO:
        check_address(cluster)
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(**where, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(not_connected(cluster, _first_line(error))) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)  # Ray replaces it
    _hide_messages()
    try:
        yield
    finally:
        ray.shutdown()


def _hide_messages() -> None:
    """Keep Ray from printing the last log lines of lost nodes to standard output, for which it has no setting."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_words, **_options: None


def _check_nodes(ray: Any, about: dict[str, Any], expected: dict[str, str]) -> None:
    """Raise UserError if a node has other versions than this machine, or does not see the study or the same data."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task, tasks = ray.remote(max_retries=0, num_cpus=0)(ray_task.check_node), {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:  # a head often takes no tasks
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            tasks[task.options(scheduling_strategy=there).remote(json.dumps(about))] = node["NodeManagerHostname"]
    done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=CHECK_SECONDS) if tasks else ([], [])
    if late:
        raise UserError(f"node {tasks[late[0]]}: its check did not end within {CHECK_SECONDS:.0f} seconds")
    for one in done:
        try:
            answer = ray.get(one)
        except ray.exceptions.RayTaskError as error:
            raise UserError(
                f"node {tasks[one]}: randout cannot be imported there ({_first_line(error.cause)}). Install the same version on "
                "all nodes"
            ) from None
        except ray.exceptions.RayError:  # the node is gone
            continue
        found = _answer(answer, tasks[one])
        for name, here in expected.items():
            if found[name] != here:
                what = "file or folder" if name in ("study", "data") else "version"
                raise UserError(
                    f"node {tasks[one]}: {name} is {found[name]} there and {here} here. Use the same {what}"
                )


def _answer(text: str, node: str) -> dict[str, str]:
    answer = json.loads(text)
    if "error" in answer:
        raise UserError(f"node {node}: {answer['error']}")
    found: dict[str, str] = answer["found"]
    return found


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Driver:
    """Submits the cells of a study and follows their tasks."""

    def __init__(self, ray: Any, cells: Cells, options: Options, about: dict[str, Any]) -> None:
        self.ray, self.cells, self.options, self.about, self.show = ray, cells, options, about, options.show
        wanted = {"num_cpus": options.threads, "num_gpus": about["gpus"]}
        self.task = ray.remote(max_retries=0, num_returns="streaming", scheduling_strategy="SPREAD", **wanted)(
            ray_task.run_cell
        )
        self.schedule = CellSchedule()
        self.tasks: dict[Any, str] = {}  # the cell of each task
        self.active: dict[str, Activity] = {}  # what the tasks that have started do, by cell
        self.error: UserError | Failure | None = None
        self._said = time.monotonic()

    def work(self, stop: Callable[[], str]) -> None:
        """Work until nothing is left. stop: returns why a stop is requested, or an empty string."""
        first = f"{plural(len(self.cells.open(())), 'cell')} to do"
        with shown(lambda: list(self.active.values()), first, self.show) as progress:
            why = self._until(stop, progress)
            self._stop_all(progress)
        if self.error is not None:
            raise self.error
        if why:
            raise Stopped(why, RunFolder(self.cells.path))
        if self.schedule.given_up:
            how = "; ".join(f"{self.cells.label(name)} {how}" for name, how in self.schedule.given_up.items())
            raise Failure(
                f"{self.cells.path}: the process of a cell died again and again. Run the same command again. {how}"
            )

    def _until(self, stop: Callable[[], str], progress: Progress) -> str:
        """Follow the tasks until nothing is left, an error stops the study, or a stop is requested; return why."""
        names, looked = self.cells.open(self.schedule.tried), time.monotonic()
        while (names or self.tasks) and self.error is None:
            if why := stop():
                return why
            for name in self.schedule.due(names, time.monotonic(), _is_held):
                self._submit(name)
            ended = self._follow(progress)
            if ended or time.monotonic() - looked > REFRESH:
                names, looked = self.cells.open(self.schedule.tried), time.monotonic()
            self._say_if_nothing_starts()
        return ""

    def _submit(self, name: str) -> None:
        order = {"about": self.about, "cell": name, "tried": self.schedule.tried}
        self.tasks[self.task.remote(json.dumps(order))] = name

    def _follow(self, progress: Progress) -> bool:
        """Take what the tasks report within a moment; return whether one of them ended."""
        if not self.tasks:
            time.sleep(TICK)
            return False
        ready, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=TICK, fetch_local=False)
        before = len(self.tasks)
        for task in ready:
            self._take(task, progress)
        return len(self.tasks) < before

    def _take(self, task: Any, progress: Progress) -> None:
        """Take the next event of a task, or its end."""
        name, now, errors = self.tasks[task], time.monotonic(), self.ray.exceptions
        try:
            event = json.loads(self.ray.get(next(task)))
        except StopIteration:
            self._forget(task)
            if name in self.schedule.submitted:  # it ended without a word
                self.schedule.lost(name, now)
        except errors.TaskCancelledError:
            self._forget(task)
            self.schedule.lost(name, now)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self._forget(task)
            self._died(name, f"died with its Ray worker: {_first_line(error)}")
        except errors.RayTaskError as error:
            self._forget(task)
            self.error = Failure(f"{self.cells.label(name)}: the task failed on its node: {_first_line(error.cause)}")
        except errors.RayError as error:  # the node is gone, and what it reported last
            self._forget(task)
            self.show.warn(
                f"{self.cells.label(name)}: its node was lost ({type(error).__name__}); another one takes it over"
            )
            self.schedule.lost(name, now)
        else:
            self._note(name, event, now)
            progress(event)

    def _forget(self, task: Any) -> None:
        self.active.pop(self.tasks.pop(task), None)

    def _note(self, name: str, event: dict[str, Any], now: float) -> None:
        """Note an event of a cell."""
        if "node" in event:
            self.active[name] = Activity(event["node"])
            self._said = now
        elif event.get("end") == "error":
            where = self.active[name].worker if name in self.active else "?"
            kind = UserError if event["code"] == UserError.exit_code else Failure
            self.error = self.error or kind(f"{event['message']} (node {where})")
        elif "end" in event:  # the process was stopped on its node
            self.schedule.lost(name, now)
        elif "ended" in event:
            self._conclude(name, event, now)
        elif name in self.active:
            self.active[name].take(event, self.show)

    def _conclude(self, name: str, event: dict[str, Any], now: float) -> None:
        if event["ended"] == "finished":
            self.schedule.finished(name)
        elif event["ended"] == "failed":
            self.schedule.failed_run(name)
        elif event["ended"] == "busy":
            lock = event["lock"]
            self.schedule.busy(name, (lock[0], lock[1]) if lock else None, now)
        else:
            self._died(name, event["message"])

    def _died(self, name: str, how: str) -> None:
        self.show.warn(f"{self.cells.label(name)}: its process {how}")
        self.schedule.died(name, how, time.monotonic())

    def _say_if_nothing_starts(self) -> None:
        """Say what the cells wait for if no task has started for a while."""
        if not self.active and self.tasks and time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            gpus = f" and {self.about['gpus']:g} GPUs" if self.about["gpus"] else ""
            self.show.say(f"waiting for a node with {plural(int(self.options.threads or 1), 'free CPU')}{gpus}")

    def _stop_all(self, progress: Progress) -> None:
        """Stop all tasks at a checkpoint, and wait for them."""
        if self.tasks:
            self.show.say("stopping; each run saves a checkpoint first")
        for task in list(self.tasks):
            self.ray.cancel(task, force=False)
        until = time.monotonic() + STOP_SECONDS
        while self.tasks and time.monotonic() < until:
            self._follow(progress)


def _is_held(lock: Lock) -> bool:
    """Return whether a process holds a lock; that of a process on a dead machine is removed here.

    Only this process has watched the lease for long enough to know that it has expired.
    """
    folder, name = Path(lock[0]), lock[1]
    if locks.holder(folder, name) is not None:
        return True
    try:
        with locked(folder, "study", name, wait="no"):
            return False
    except Busy:
        return True
