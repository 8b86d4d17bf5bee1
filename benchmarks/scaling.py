"""How studies and labelling scale to many workers on one shared folder: simulated from costs measured on this machine.

    python benchmarks/scaling.py [--workers 1,10,100,1000] [--runs 24000] [--minutes 10] [--arms 8] [--latency 1]
        [--page docs/explanation/scaling.md] [--json] [--smoke]

Measured, on this machine's disk: reading and saving a `study.json` of this many cells, and creating, reading, renewing and
removing a lease, in seconds and in storage operations. `--latency` adds milliseconds to each operation, as a network does.

Simulated, event by event: workers that read the study, look for a cell that nobody works on, claim it by its lease, train the
teacher of its seed if it is the first of it, train the run, and save the study under its lock, which one worker has at a time.
Runs vary (log-normal), one machine in fifty is three times slower, and machines fail at random: their run goes on elsewhere
from its last checkpoint once their lease has expired. `efficiency` is the work divided by the workers' time. The tables are
written between the markers of the page.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.text_tables import table_lines
from randout.storage import locks
from randout.storage.study_folder import StudyFolder, read_record
from randout.storage.study_record import FORMAT, Cell, ComparisonRecord, StudyData

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "scaling.md"
START, END = "<!-- simulated: from here to the end mark, written by benchmarks/scaling.py -->", "<!-- end mark -->"
SPREAD = 0.25  # standard deviation of the logarithm of a run's time
SLOW_SHARE, SLOW = 0.02, 3.0  # machines that are slower, and by which factor
FAILURE_HOURS = 500.0  # mean time between failures of a machine
CHECKPOINT = 300.0  # seconds of work that a failure costs at most
BEAT = locks.EXPIRY / locks.BEATS_PER_EXPIRY
TEACHER = 2.0  # a teacher's training, in runs
REPAIR = 600.0  # seconds until a failed machine works again
LONGEST_PAUSE = 2.0  # seconds between two looks at cells that others work on
IDLE_LOOKS = 15  # of a worker without a free cell, taken together as one event
SAVE = 6  # storage operations of saving a study: its lock, reading and writing it
SHARD = 12  # storage operations of a shard
PARTS = 10  # studies that the runs are also divided into
PAGE_COLUMNS = (0, 1, 2, 3, 5, 6, 7)  # of the table of studies, on the page


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine's disk, without network. operations: storage operations of a claim without its scan."""

    read: float  # of study.json, per cell
    save: float  # of study.json under its lock, per cell
    claim: float  # create and remove a lease
    look: float  # read one lease
    operations: int


@dataclass(frozen=True)
class Case:
    """One simulated study. runs in studies of their own: `parts` studies share the workers evenly."""

    workers: int
    runs: int
    arms: int
    seconds: float  # of a run, mean
    latency: float  # seconds added to each storage operation
    parts: int = 1


@dataclass(frozen=True)
class Found:
    """What a simulation found. hours: until the last run ended; lock: share of the time that the study's lock was held."""

    workers: int
    parts: int
    hours: float
    efficiency: float
    operations: float  # per run
    rate: float  # storage operations per second of all workers
    lock: float
    waited: float  # seconds per run for the study's lock
    lost: float  # share of the work that failures cost
    tail: float  # hours from the first idle worker to the end


def measured(cells: int) -> Costs:
    """Measure the costs on this machine."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        units = [f"seed {at}" for at in range(math.ceil(cells / 8))]
        some = [
            Cell(unit=unit, arm=f"arm-{at}", run=f"../../runs/data-encoder-3layers-{at}-{unit}", state="waiting")
            for unit in units
            for at in range(8)
        ]
        record = ComparisonRecord(
            format=FORMAT, started="", finished=None, kind="compare", name="scaling", data=StudyData(name="", sha256=""),
            cells=some[:cells],
        )  # fmt: skip
        folder = StudyFolder(path, record)
        folder.write()
        read = fastest(lambda: read_record(path)) / cells
        save = fastest(folder.save) / cells
        claim = fastest(lambda: _claim(path), 20)
        with locks.locked(path / "held", "run"):
            look = fastest(lambda: locks.holder(path / "held"), 20)
        operations = count_operations(lambda: _claim(path))
    return Costs(read, save, claim, look, operations)


def _claim(path: Path) -> None:
    with locks.locked(path / "run", "run"):
        pass


def fastest(call: Callable[[], Any], times: int = 5) -> float:
    """Return the seconds of the fastest of several calls."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


_counts: list[int] = []


def _count(event: str, arguments: Any) -> None:
    if _counts and event in ("open", "os.rename", "os.remove", "os.link", "os.mkdir"):
        _counts[0] += 1


def count_operations(call: Callable[[], Any]) -> int:
    """Return how many files a call opens, creates, links, renames or removes."""
    sys.addaudithook(_count)
    _counts.append(0)
    call()
    return _counts.pop()


class Cells:
    """The cells of a study: which one a worker takes next, as `sharing.work_through` chooses it."""

    def __init__(self, runs: int, arms: int) -> None:
        self.arms, self.runs = arms, runs
        self.fresh = list(range(math.ceil(runs / arms) - 1, -1, -1))  # seeds that nobody has begun, the next one last
        self.ready: list[int] = []  # cells whose teacher is trained
        self.teaching: list[tuple[float, int]] = []  # when a teacher ends, and its seed
        self.left: list[tuple[float, int, float]] = []  # of failed machines: free again when, which, share done

    def take(self, now: float) -> tuple[int, float, bool] | None:
        """Return a cell, the share of it that is done, and whether its teacher comes first; None if all are busy."""
        while self.teaching and self.teaching[0][0] <= now:
            unit = heapq.heappop(self.teaching)[1]
            for cell in range(unit * self.arms + 1, min((unit + 1) * self.arms, self.runs)):
                heapq.heappush(self.ready, cell)
        if self.left and self.left[0][0] <= now:
            _, cell, share = heapq.heappop(self.left)
            return cell, share, False
        if self.ready:
            return heapq.heappop(self.ready), 0.0, False
        return (self.fresh.pop() * self.arms, 0.0, True) if self.fresh else None

    def next_change(self) -> float:
        """Return when a cell becomes free; infinite if none will."""
        return min([one[0] for one in (*self.teaching[:1], *self.left[:1])], default=math.inf)


class StudySimulation:
    """One study and its workers. An event is a time, a worker, and what happens: it looks, claims, finishes or fails."""

    def __init__(self, case: Case, costs: Costs, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.case, self.costs, self.rng = case, costs, rng
        self.workers, self.runs = max(1, case.workers // case.parts), case.runs // case.parts
        self.slower = np.where(rng.random(self.workers) < SLOW_SHARE, SLOW, 1.0)
        self.needed = case.seconds * rng.lognormal(-(SPREAD**2) / 2, SPREAD, self.runs)
        self.cells = Cells(self.runs, case.arms)
        self.events: list[tuple[float, int, str, Any]] = [(0.0, at, "look", None) for at in range(self.workers)]
        self.read, self.save = costs.read * self.runs + case.latency, costs.save * self.runs + SAVE * case.latency
        self.lock_free = self.lock_held = self.lock_waited = 0.0
        self.operations = self.lost = self.span = 0.0
        self.busy = self.done = 0
        self.idle = math.inf

    def run(self) -> Found:
        while self.done < self.runs:
            now, worker, what, payload = heapq.heappop(self.events)
            {"look": self.look, "claim": self.claim, "finish": self.finish, "fail": self.fail}[what](
                now, worker, payload
            )
        units = math.ceil(self.runs / self.case.arms)
        total = float(self.needed.sum()) + units * TEACHER * self.case.seconds
        return Found(
            workers=self.case.workers,
            parts=self.case.parts,
            hours=self.span / 3600,
            efficiency=total / (self.span * self.workers),
            operations=self.operations / self.runs,
            rate=self.case.parts * self.operations / self.span,
            lock=self.lock_held / self.span,
            waited=self.lock_waited / self.runs,
            lost=self.lost / total,
            tail=(self.span - min(self.idle, self.span)) / 3600,
        )

    def add(self, at: float, worker: int, what: str, payload: Any = None) -> None:
        heapq.heappush(self.events, (at, worker, what, payload))

    def saved(self, now: float) -> float:
        """Return when the study is saved: one worker at a time does it."""
        begins = max(now, self.lock_free)
        self.lock_waited += begins - now
        self.lock_held += self.save
        self.lock_free = begins + self.save
        self.operations += SAVE
        return self.lock_free

    def look(self, now: float, worker: int, payload: Any) -> None:
        """Read the study, and the lease of each cell in progress, until a free cell is found."""
        self.operations += 1 + self.busy
        scan = self.read + self.busy * (self.costs.look + self.case.latency)
        taken = self.cells.take(now)
        if taken is None:
            if self.cells.next_change() == math.inf:  # only the end of the study is left to wait for
                self.idle = min(self.idle, now)
            self.add(now + scan + LONGEST_PAUSE * IDLE_LOOKS, worker, "look")
            self.operations += (IDLE_LOOKS - 1) * (1 + self.busy)
            return
        self.busy += 1
        self.operations += self.costs.operations
        self.add(now + scan + self.costs.claim + self.costs.operations * self.case.latency, worker, "claim", taken)

    def claim(self, now: float, worker: int, payload: tuple[int, float, bool]) -> None:
        """Train, with the teacher of its seed first if it is the first run of it, until the end or a failure."""
        cell, share, first = payload
        begin, slower = self.saved(now), self.slower[worker]
        teaching = TEACHER * self.case.seconds * slower if first else 0.0
        if first:
            heapq.heappush(self.cells.teaching, (begin + teaching, cell // self.case.arms))
        work, fails = self.needed[cell] * slower * (1 - share), self.rng.exponential(FAILURE_HOURS * 3600)
        if fails >= work:
            self.operations += (teaching + work) / BEAT
            self.add(begin + teaching + work, worker, "finish")
            return
        kept = max(0.0, fails - CHECKPOINT * self.rng.random())
        self.lost += fails - kept
        self.operations += (teaching + fails) / BEAT
        self.add(begin + teaching + fails, worker, "fail", (cell, share + kept / (self.needed[cell] * slower)))

    def finish(self, now: float, worker: int, payload: Any) -> None:
        self.busy, self.done, self.span = self.busy - 1, self.done + 1, max(self.span, self.saved(now))
        self.add(self.lock_free, worker, "look")

    def fail(self, now: float, worker: int, payload: tuple[int, float]) -> None:
        """The machine is gone for a while; another worker goes on once the lease has expired."""
        self.busy -= 1
        heapq.heappush(self.cells.left, (now + locks.EXPIRY, *payload))
        self.add(now + REPAIR, worker, "look")


def label(workers: int, shards: int, seconds: float, latency: float, seed: int = 0) -> tuple[float, float]:
    """Simulate labelling: hours, and efficiency. seconds: of a shard, mean; machines are slow or fail as in a study."""
    rng = np.random.default_rng(seed)
    slower = np.where(rng.random(workers) < SLOW_SHARE, SLOW, 1.0)
    free = [(0.0, at) for at in range(workers)]
    needed = seconds * rng.lognormal(-(SPREAD**2) / 2, SPREAD, shards)
    last = 0.0
    for one in needed:
        now, worker = heapq.heappop(free)
        work = one * slower[worker] + SHARD * latency
        fails = rng.exponential(FAILURE_HOURS * 3600)
        if fails < work:  # goes on from its last part elsewhere
            work += locks.EXPIRY + min(fails, CHECKPOINT) * rng.random()
        heapq.heappush(free, (now + work, worker))
        last = max(last, now + work)
    return last / 3600, float(needed.sum()) / (last * workers)


def study_table(found: list[Found]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of studies."""
    header = ["workers", "studies", "hours", "efficiency", "operations a run", "operations a second"]
    header += ["study lock held", "wait for it, s a run", "work lost", "tail, hours"]
    rows = [
        [
            f"{one.workers:,}",
            str(one.parts),
            f"{one.hours:,.1f}",
            f"{one.efficiency:.0%}",
            f"{one.operations:,.0f}",
            f"{one.rate:,.0f}",
            f"{one.lock:.0%}",
            f"{one.waited:.2f}",
            f"{one.lost:.2%}",
            f"{one.tail:.1f}",
        ]
        for one in found
    ]
    return header, rows


def shard_table(arguments: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of labelling."""
    header, rows = ["workers", "texts", "texts a shard", "hours", "efficiency"], []
    for workers in arguments.workers:
        for each in (1_000_000, 100_000):
            shards = max(1, arguments.texts // each)
            hours, efficiency = label(workers, shards, each / arguments.texts_a_second, arguments.latency / 1000)
            rows.append([f"{workers:,}", f"{arguments.texts:,}", f"{each:,}", f"{hours:,.1f}", f"{efficiency:.0%}"])
    return header, rows


def _columns(header: list[str], rows: list[list[str]], chosen: tuple[int, ...]) -> tuple[list[str], list[list[str]]]:
    return [header[at] for at in chosen], [[row[at] for at in chosen] for row in rows]


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " ---: |" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def page_lines(arguments: argparse.Namespace, costs: Costs, found: list[Found]) -> list[str]:
    """Return the lines between the markers of the page."""
    machine = (
        f"Measured: reading a study costs {1e6 * costs.read:.0f} µs a cell, saving it {1e6 * costs.save:.0f} µs a cell, a lease "
        f"{1e3 * costs.claim:.1f} ms and {costs.operations} storage operations, a look at another's lease "
        f"{1e3 * costs.look:.2f} ms. Each storage operation takes {arguments.latency:g} ms more, as over a network."
    )
    study = (
        f"A study of {arguments.runs:,} runs of {arguments.minutes:g} minutes, {arguments.arms} arms with one teacher a seed "
        f"(twice a run):"
    )
    texts = f"Labelling at {arguments.texts_a_second:,} texts a second and worker:"
    return [
        "",
        machine,
        "",
        study,
        "",
        *markdown(*_columns(*study_table(found), PAGE_COLUMNS)),
        "",
        texts,
        "",
        *markdown(*shard_table(arguments)),
        "",
    ]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workers", type=lambda text: [int(one) for one in text.split(",")], default=[1, 10, 100, 1000]
    )
    parser.add_argument("--runs", type=int, default=24_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="of a run, mean")
    parser.add_argument("--arms", type=int, default=8)
    parser.add_argument("--latency", type=float, default=1.0, help="milliseconds of each storage operation")
    parser.add_argument("--texts", type=int, default=1_000_000_000)
    parser.add_argument(
        "--texts-a-second",
        type=int,
        default=960,
        help="of one worker (default: an encoder of one layer, benchmarks/shards.py)",
    )
    parser.add_argument("--page", type=Path, help=f"write the tables into this page, such as {PAGE.name}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="few cells and workers")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.smoke:
        arguments.workers, arguments.runs, arguments.texts = [1, 20], 160, 10_000_000
    costs, latency = measured(arguments.runs), arguments.latency / 1000
    cases = [
        Case(workers, arguments.runs, arguments.arms, 60 * arguments.minutes, latency, parts)
        for workers in arguments.workers
        for parts in (1, PARTS)
        if parts == 1 or workers >= 10 * PARTS
    ]
    found = [StudySimulation(case, costs, seed=0).run() for case in cases]
    if arguments.page:
        text = arguments.page.read_text(encoding="utf-8")
        before, rest = text.split(START)
        after = rest.split(END)[1]
        made = "\n".join([START, *page_lines(arguments, costs, found), END])
        arguments.page.write_text(before + made + after, encoding="utf-8")
    if arguments.json:
        print(json.dumps({"costs": asdict(costs), "studies": [asdict(one) for one in found]}))
        return
    for header, rows in (study_table(found), shard_table(arguments)):
        print("\n".join(table_lines(header, rows)) + "\n")


if __name__ == "__main__":
    main()
