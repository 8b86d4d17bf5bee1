"""Processes that share a study: real ones, killed and stopped, and the table of one process in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from randout.core import config
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.terminal import EXIT_CODES
from randout.data.dataset import Datasets
from randout.experiments import shared_study
from randout.experiments.run import pipeline, planning
from randout.experiments.run.options import Options, Stopped
from randout.experiments.search import search
from randout.experiments.search.space import SearchTable
from randout.experiments.sharing import cells as sharing
from randout.experiments.sharing import workers
from randout.experiments.study.comparison import open_comparison, run_study
from randout.experiments.study.spec import Study, make_study
from randout.methods.builtin import METHODS
from randout.storage import locks
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import StudyFolder
from randout.training.checkpoint import MadeElsewhere
from support import forked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stops and kills as POSIX does")
FAST = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "device": "cpu", "refit": False}
TIMEOUT = 120.0  # seconds for one process


@pytest.fixture
def study(tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path]) -> Study:
    """Two seeds of two arms, one of which has a teacher for each seed."""
    base = {
        "data": {"source": str(toy_csv(90, 0))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": str(tiny_model("roberta"))},
        "train": FAST | {"save_minutes": 1e-9},
    }
    arms = {"plain": {"preset": "plain"}, "kd": {"preset": "kd"}}
    return make_study({"name": "shared", "seeds": [1, 2], "base": base, "arms": arms})


def options(folder: Path, **more: Any) -> Options:
    return Options(runs=folder / "runs", threads=1, show=Show(quiet=True), **more)


def table(folder: StudyFolder[Any]) -> dict[str, Any]:
    """The content of study.json that must not depend on who did what."""
    found: dict[str, Any] = json.loads(folder.file.read_text())
    for entry in (found, *found.get("cells", []), *found.get("trials", [])):
        for key in ("started", "finished", "seconds", "memory", "name"):
            entry.pop(key, None)
    return found


def work(folder: str) -> None:
    """What a further process does: it joins the study by its folder."""
    shared_study.join(Path(folder) / "study", options(Path(folder)))


def one_run(recipe: dict[str, Any], folder: str) -> None:
    plan = planning.make(config.build([config.read_preset("plain"), recipe], METHODS))
    pipeline.execute(plan, options(Path(folder), shared=True))


@pytest.mark.slow
def test_workers_end_in_the_table_of_one_process(study: Study, tmp_path: Path) -> None:
    """Three processes, of which one is killed, and a fourth that comes when nothing is left to do."""
    expected = table(run_study(study, tmp_path / "one" / "study", options(tmp_path / "one")))
    place = tmp_path / "shared"
    _, folder = open_comparison(study, place / "study", options(place, shared=True), Datasets())
    some = [forked.started(work, str(place)) for _ in range(3)]
    until = time.monotonic() + TIMEOUT
    while not list(place.glob("runs/*/checkpoint/position.json")):
        assert time.monotonic() < until
        time.sleep(0.01)
    some[0].kill()
    for process in some:
        process.join(TIMEOUT)
    assert [process.exitcode for process in some] == [-9, 0, 0]
    found = table(folder)
    assert found == expected
    before = {path: path.read_bytes() for path in place.glob("runs/*/run.json")}
    work(str(place))
    assert {path: path.read_bytes() for path in place.glob("runs/*/run.json")} == before
    assert table(folder) == expected


def test_two_workers_race_for_one_run(study: Study, tmp_path: Path) -> None:
    recipe = {**study.base, "teacher": {"model": "none"}}
    both = [forked.started(one_run, recipe, str(tmp_path)) for _ in range(2)]
    for process in both:
        process.join(TIMEOUT)
    codes = sorted(process.exitcode for process in both)
    assert codes in ([0, 0], [0, 1])  # the second one found the run held, or finished
    (run,) = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(run.read_text())["finished"]


def test_a_worker_leaves_a_run_whose_lock_it_lost(study: Study, tmp_path: Path, monkeypatch: Any) -> None:
    """The lock is taken over after the first checkpoint; the worker says so, and its cell stays as that checkpoint left it."""
    monkeypatch.setenv("RANDOUT_LOCK_EXPIRY", "0.5")
    _, folder = open_comparison(study, tmp_path / "study", options(tmp_path, shared=True), Datasets())
    said: list[str] = []

    class Telling(Show):
        def warn(self, text: str) -> None:
            said.append(text)

        def within(self) -> Show:
            return self

    stolen: list[Path] = []

    def steal() -> None:
        until = time.monotonic() + TIMEOUT
        while not stolen and time.monotonic() < until:
            for path in (tmp_path / "runs").glob("*/checkpoint/position.json"):
                lease = path.parent.parent / ".lease"
                text = lease.read_text()
                token = json.loads(text)["token"]
                other = lease.with_name("other")
                other.write_text(text.replace(token, "0" * 32))
                other.replace(lease)
                stolen.append(path.parent.parent)
            time.sleep(0.001)

    thief = threading.Thread(target=steal)
    thief.start()
    cells = shared_study.cells_of(tmp_path / "study", Options(tmp_path / "runs", threads=1, show=Telling(quiet=True)))
    with pytest.raises(locks.LockLost, match="lock was taken over"):
        cells.run("seed 1, plain")
    thief.join()
    folder.refresh()
    assert folder.record.cells[0].state == "waiting"
    assert not (stolen[0] / "model").exists()


def test_one_cell_by_its_name(study: Study, tmp_path: Path) -> None:
    """What a scheduler of a cluster calls: finished, busy while another process has the run, and an unknown name."""
    _, folder = open_comparison(study, tmp_path / "study", options(tmp_path, shared=True), Datasets())
    names = shared_study.cells_of(folder.path, options(tmp_path)).open(())
    assert names == ["seed 1, plain", "seed 1, kd", "seed 2, plain", "seed 2, kd"]
    assert shared_study.run_cell(folder.path, names[0], options(tmp_path)) == "finished"
    assert shared_study.run_cell(folder.path, names[0], options(tmp_path)) == "busy"  # no longer open
    folder.refresh()
    run = folder.record.cells[2]
    plan_folder = tmp_path / "runs" / "held"
    run.run = folder.place(plan_folder)
    folder.save()
    with locks.locked(plan_folder, "run"):
        assert shared_study.run_cell(folder.path, names[2], options(tmp_path)) == "busy"


class Fake:
    """Cells that need no training: `outcomes` of each attempt by name."""

    noun = "run"

    def __init__(self, path: Path, **outcomes: list[sharing.Outcome]) -> None:
        self.path, self.outcomes, self.order = path, outcomes, []  # type: ignore[var-annotated]
        self.done: set[str] = set()

    def open(self, tried: Any) -> list[str]:
        return [name for name in self.outcomes if name not in self.done and name not in tried]

    def run(self, name: str) -> sharing.Outcome:
        self.order.append(name)
        found = self.outcomes[name].pop(0)
        self.done |= {name} if found.state == "finished" else set()
        return found

    def label(self, name: str) -> str:
        return name

    def progress(self) -> tuple[int, int]:
        return len(self.done), len(self.outcomes)

    def memory(self) -> int:
        return 0


def test_busy_cells_are_tried_again_and_failed_ones_are_not(tmp_path: Path) -> None:
    finished, failed, busy = (sharing.Outcome(state) for state in ("finished", "failed", "busy"))
    cells = Fake(tmp_path, a=[busy, finished], b=[failed], c=[finished])
    sharing.work_through(cells, options(tmp_path))
    assert cells.order == ["a", "b", "a", "c"]
    shifted = Fake(tmp_path, a=[finished], b=[finished], c=[finished])
    sharing.work_through(shifted, options(tmp_path, worker=1))
    assert shifted.order[0] == "b"


def test_waiting_ends_at_the_time_limit(tmp_path: Path) -> None:
    with locks.locked(tmp_path / "run", "run"):
        holder = locks.holder(tmp_path / "run")
        assert holder is not None
        held = sharing.Outcome("busy", locks.Busy(tmp_path / "run", "", holder, "run"))
        cells = Fake(tmp_path, a=[held])
        with pytest.raises(Stopped, match="the time limit"):
            sharing.work_through(cells, options(tmp_path, deadline=time.monotonic() + 0.2))
    assert cells.order == ["a"]


def test_a_run_that_does_not_fit_waits_for_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sharing, "available_memory", lambda: 10**6)
    monkeypatch.setattr(Fake, "memory", lambda self: 10**15)
    finished = sharing.Outcome("finished")
    alone = Fake(tmp_path, a=[finished])
    sharing.work_through(alone, options(tmp_path, worker=0))  # nobody else works, so it does not wait
    with locks.locked(tmp_path / "run", "run"):
        holder = locks.holder(tmp_path / "run")
        assert holder is not None
        held = sharing.Outcome("busy", locks.Busy(tmp_path / "run", "", holder, "run"))
        cells = Fake(tmp_path, a=[held], b=[finished])
        with pytest.raises(Stopped):
            sharing.work_through(cells, options(tmp_path, worker=0, deadline=time.monotonic() + 0.3))
    assert cells.order == ["a"]


def test_other_threads_are_refused_until_they_are_accepted(study: Study, tmp_path: Path) -> None:
    def begun(**more: Any) -> None:
        open_comparison(study, tmp_path / "study", sharing.prepared(options(tmp_path, jobs=2, **more)), Datasets())

    begun()
    with pytest.raises(MadeElsewhere, match=r"threads was 1, is 3.*--job-threads 1, or add --accept-changes"):
        open_comparison(study, tmp_path / "study", Options(tmp_path, threads=3), Datasets())
    open_comparison(study, tmp_path / "study", Options(tmp_path, threads=3, accept_changes=True), Datasets())


@pytest.fixture
def rates(tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path]) -> search.Search:
    own = {
        "data": {"source": str(toy_csv(90, 0))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": "none"},
        "train": FAST,
    }
    recipe = config.build([config.read_preset("plain"), own], METHODS)
    return search.make_search(recipe, SearchTable(space={"learning_rate": [1e-4, 1e-3, 2e-3, 4e-3]}, halving=2))[0]


@pytest.mark.slow
def test_jobs_end_in_the_table_of_one_process(rates: search.Search, tmp_path: Path) -> None:
    """Real workers, with halving: the rungs are barriers."""
    one = search.run_search(rates, tmp_path / "one", options(tmp_path))
    two = search.run_search(rates, tmp_path / "two", options(tmp_path, jobs=2))
    assert table(one) == table(two)
    assert {trial.state for trial in two.record.trials} == {"pruned", "finished"}


def test_proposals_are_not_made_in_parallel(rates: search.Search, tmp_path: Path) -> None:
    table = rates.table.model_copy(update={"sampler": "tpe", "trials": 2})
    one = search.Search(rates.config, table, rates.space)
    with pytest.raises(UserError, match="one at a time"):
        search.run_search(one, tmp_path / "s", options(tmp_path, jobs=2))


def test_workers_that_all_die_are_a_failure_and_a_request_to_stop_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers made of a few lines: what the parent does with their ends."""
    for module, lines in {
        "dying": "import os, signal, sys; print('out of it', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
        "stopping": (
            "import json, signal, sys, time\n"
            "def stop(number, frame):\n"
            "    print(json.dumps({'end': 'stopped', 'why': 'Ctrl-C'}), flush=True); sys.exit(130)\n"
            "signal.signal(signal.SIGINT, stop)\n"
            "print(json.dumps({'warn': 'ready'}), flush=True)\n"
            "time.sleep(60)"
        ),
        "wrong": "import json, sys; print(json.dumps({'end': 'error', 'message': 'no such file', 'code': 2})); sys.exit(2)",
    }.items():
        (tmp_path / f"{module}_worker.py").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    cells = Fake(tmp_path)
    monkeypatch.setattr(workers, "MODULE", "dying_worker")
    with pytest.raises(Failure, match=r"(?s)all workers died.*worker 2 was killed by SIGKILL\n  out of it"):
        workers.run(cells, options(tmp_path, jobs=2))
    monkeypatch.setattr(workers, "MODULE", "wrong_worker")
    with pytest.raises(UserError, match="no such file"):
        workers.run(cells, options(tmp_path, jobs=2))

    class Interrupting(Show):
        ready = 0

        def warn(self, text: str) -> None:
            self.ready += 1
            if self.ready == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers, "MODULE", "stopping_worker")
    with pytest.raises(Stopped, match="Ctrl-C"):
        workers.run(cells, Options(threads=1, jobs=2, show=Interrupting(quiet=True)))


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Its standard input is closed when its parent is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", workers.MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.communicate(b"", timeout=TIMEOUT)
    assert process.returncode == EXIT_CODES["SIGTERM"]


def test_partial_files_of_a_killed_process_are_deleted_at_the_end_and_those_of_locks_are_not(tmp_path: Path) -> None:
    left = ("predictions/test.parquet.0de33505.partial", "run.json.0de33505.partial", ".lease.0de33505.partial")
    for name in (*left, "predictions/test.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pipeline.clean(RunFolder(tmp_path))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"test.parquet", ".lease.0de33505.partial"}
