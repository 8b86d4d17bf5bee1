"""Kills nodes of a Ray cluster while a study runs on it, and checks that the study ends as on one process.

    python benchmarks/cluster.py [--seeds 8] [--repeats 20] [--minutes 15] [--seed 0]

The study has a teacher and two students for each seed, so 24 runs. Three nodes on this machine, each with one CPU, a name of its
own and therefore locks of its own, as on three machines; the head takes no runs. In each repeat two of the nodes are killed with
all their processes (SIGKILL) at random moments of the study; new ones take their place before the next repeat. Checked: every run
is finished, the table and all files of all runs are those of one process, and no run goes back to a step before its last
checkpoint. Stops after --minutes. The first pass, without kills, reports how long a run waits for the scheduler.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RANDOUT_LOCK_EXPIRY", "4")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would measure what else the machine does

import injection
from injection import CheckpointWatch
from randout.core.console import Show
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import read_record

STORE = 80 * 2**20  # bytes of each node's object store


class Nodes:
    """A Ray cluster of this machine whose nodes can be killed."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
        )
        self.started, self.alive = 0, []
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Start a node with one CPU and a name of its own."""
        self.started += 1
        name = {"RANDOUT_HOST": f"node-{self.started}"}
        self.alive.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars=name))

    def kill(self) -> str:
        """Kill the oldest node with everything that runs on it."""
        node = self.alive.pop(0)
        for process in node.all_processes["raylet"]:
            injection.kill_tree(process.process.pid)
        with suppress(Exception):  # Ray's own bookkeeping: what it would stop is dead
            self.cluster.remove_node(node, allow_graceful=False)
        return node.node_id[:8]

    def close(self) -> None:
        """Stop all nodes."""
        self.cluster.shutdown()


def on_cluster(study: dict[str, Any], folder: Path, nodes: Nodes, kill_at: list[float], show: Show) -> dict[str, Any]:
    """Run the study on the nodes and kill one at each moment after the first run has started; return what was seen."""
    killed: list[float] = []
    ended = threading.Event()

    def injure() -> None:
        while not list((folder / "runs").glob("*/run.json")):
            if ended.wait(0.05):
                return
        began = time.monotonic()
        for moment in kill_at:
            if ended.wait(max(0.0, began + moment - time.monotonic())):
                return
            nodes.kill()
            killed.append(round(time.monotonic() - began, 1))

    thread, began = threading.Thread(target=injure, daemon=True), time.monotonic()
    thread.start()
    try:
        with CheckpointWatch(folder / "runs") as watch:
            found = injection.carry_out(study, folder, cluster=nodes.cluster.address, show=show)
    finally:
        ended.set()
        thread.join()
    seconds = round(time.monotonic() - began, 1)
    return {
        "found": found,
        "killed": killed,
        "went_back": watch.went_back,
        "watched": len(watch.steps),
        "seconds": seconds,
    }


def overhead(folder: Path, nodes: int) -> float:
    """Return the seconds of a node for each cell of a study, besides those of its runs, waiting at the end included."""
    cells = read_record(folder / "study").record.cells
    times = []
    for cell in cells:
        record = RunFolder(folder / "study" / cell.run).record
        times += [datetime.fromisoformat(text).timestamp() for text in (record.started, record.finished)]
    return ((max(times) - min(times)) * nodes - sum(cell.seconds for cell in cells)) / len(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="of the study, which has three runs for each")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15.0, help="after which no repeat begins")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--verbose", action="store_true", help="show what the commands show")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smoke", action="store_true", help="two nodes, one killed, three runs")
    asked = parser.parse_args()
    if asked.smoke:
        asked.seeds, asked.nodes, asked.kills, asked.repeats = 1, 2, 1, 1
    with tempfile.TemporaryDirectory() as place:
        found = _measure(asked, Path(place))
    if asked.json:
        print(json.dumps(found))
    else:
        print(f"{found['passed']} of {found['done']} studies with killed nodes ended as on one process")
    return 0 if found["calm"] and found["passed"] == found["done"] else 1


def _measure(asked: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Carry out all passes in a folder."""
    until, show = time.monotonic() + 60 * asked.minutes, Show(quiet=not asked.verbose)
    study = injection.recipe(root / "input", asked.seeds, asked.epochs)
    expected = injection.carry_out(study, root / "alone")
    nodes, found = Nodes(asked.nodes), {"passed": 0, "done": 0, "killed": 0}
    try:
        calm = on_cluster(study, root / "calm", nodes, [], show)
        found["calm"] = _report("without kills", calm, expected)
        found["overhead"] = round(overhead(root / "calm", asked.nodes), 2)
        _say(f"  {found['overhead']} s of a node for each cell besides its runs")
        for number in range(asked.repeats):
            if time.monotonic() > until:
                break
            while len(nodes.alive) < asked.nodes:
                nodes.add()
            kill_at = injection.moments(
                asked.kills, (0.3 if asked.smoke else 0.6) * calm["seconds"], asked.seed + number
            )
            seen = on_cluster(study, root / f"killed-{number}", nodes, kill_at, show)
            found["passed"] += _report(f"repeat {number + 1}", seen, expected)
            found["done"] += 1
            found["killed"] += len(seen["killed"])
    finally:
        nodes.close()
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _report(name: str, seen: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Show what a pass ended in; return whether it is what one process ends in."""
    wrong = injection.differences(seen["found"], expected) + seen["went_back"]
    killed = ", ".join(f"{moment:g} s" for moment in seen["killed"]) or "none"
    _say(
        f"{name}: {'as on one process' if not wrong else 'WRONG'}; nodes killed at {killed}; {seen['seconds']:g} s; "
        f"{seen['watched']} runs seen at checkpoints"
    )
    for line in wrong[:10]:
        _say(f"  {line}")
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
