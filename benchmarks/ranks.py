"""Training steps of one student in several processes (`torchrun`), compared with one process on the same cores or on one GPU.

    python benchmarks/ranks.py --model FOLDER --data rhmd:RHMD_3_Class.csv [--processes 2] [--json]
    python benchmarks/ranks.py --smoke    # tiny random model, synthetic texts: takes seconds, numbers are meaningless

Three sides take turns, in rounds, on the same first batches; each runs in processes of its own:

- `one`: one process with all threads;
- `accumulated`: the same, which adds up the gradients of as many parts of each step as there are processes;
- `several`: that many processes, which share the threads (on a GPU: have one GPU each) and exchange gradients.

Reported are texts per second (the mean of the timed steps, of the slowest process), the time that a step spends exchanging
(of the process that waits least for others), the size of the tensors exchanged, and peak memory. With one thread in each
process, `accumulated` and `several` must give the same weights to the last bit, which is checked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import make_plan, now, tiny_data, tiny_model
from randout.core.launch import launched
from randout.experiments.run.student import begin_training, make_training_data
from randout.experiments.run.together import checksum, share_start
from randout.models.tokens import batches
from randout.training.loop import step
from randout.training.processes import Processes
from randout.training.state import TrainingData, TrainingState

import torch  # isort: skip  (randout sets torch's environment first)

SIDES = ("one", "accumulated", "several")


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.rounds, arguments.steps, arguments.warm_up, arguments.threads = 1, 2, 1, 2
            arguments.max_length = 40
        found = compare(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder")
    parser.add_argument("--data", help="data to train on, as for `randout train`")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of all processes together")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=215)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="timed steps in each round")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    return arguments


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all sides; returns plain values, medians over the rounds."""
    each = max(1, arguments.threads // arguments.processes)
    rounds = []
    for _ in range(arguments.rounds):
        found = {
            side: measured(arguments, side, each if side == "several" else arguments.threads, folder) for side in SIDES
        }
        rounds.append(found)
    several = rounds[0]["several"] if each == 1 else measured(arguments, "several", 1, folder)
    same = several["weights"] == measured(arguments, "accumulated", 1, folder)["weights"]
    medians = {}
    for side in SIDES:
        numbers = [one[side] for one in rounds]
        medians[side] = {key: statistics.median(one[key] for one in numbers) for key in numbers[0] if key != "weights"}
    setting = {"model": Path(arguments.model).name, "processes": arguments.processes, "threads": arguments.threads}
    setting |= {"batch_size": arguments.batch_size, "device": arguments.device, "steps": arguments.steps}
    return {
        "setting": setting,
        "sides": medians,
        "several_to_one": [one["several"]["texts_per_second"] / one["one"]["texts_per_second"] for one in rounds],
        "several_to_accumulated": medians["several"]["texts_per_second"] / medians["accumulated"]["texts_per_second"],
        "same_bits": same,
    }


def measured(arguments: argparse.Namespace, side: str, threads: int, folder: Path) -> dict[str, Any]:
    """Measure one side in processes of its own. threads: of each of them."""
    size = arguments.processes if side == "several" else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    words = (arguments, side, threads, size, port, folder / "found.json")
    workers = [context.Process(target=work, args=(rank, *words)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"{side}: a process ended with exit code {worker.exitcode}")
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def work(rank: int, arguments: argparse.Namespace, side: str, threads: int, size: int, port: int, out: Path) -> None:
    """What a process does: train a few steps. The first one writes what was measured."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(threads)
    if arguments.device == "cuda":
        torch.cuda.set_device(rank)
    parts = 1 if side == "one" else arguments.processes
    train = {"batch_parts": parts, "epochs": 1, "device": arguments.device, "precision": arguments.precision}
    plan = make_plan(arguments.data, arguments.model, "none", arguments.batch_size, arguments.max_length, **train)
    training, data = begin_training(plan), make_training_data(plan, None)
    launch, spent = launched(), Spent()
    processes = Processes(launch) if launch else None
    if processes:
        data = share_start(training, data, processes)
        spent.watch(processes)
    seconds, texts = timed_steps(training, data, arguments, spent)
    found = {
        "texts_per_second": texts / seconds,
        "step_ms": 1000 * seconds,
        "exchange_ms": 1000 * spent.seconds / arguments.steps,
        "exchanged_mib": spent.bytes / arguments.steps / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weights": checksum(training),
    }
    if processes:
        every = processes.gathered(found)
        found = min(every, key=lambda one: one["texts_per_second"])
        found["exchange_ms"] = min(one["exchange_ms"] for one in every)  # the process that waits for no other
        processes.leave()
    if rank == 0:
        out.write_text(json.dumps(found))


class Spent:
    """Seconds and bytes of a process's exchanges with others."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0

    def watch(self, processes: Processes) -> None:
        """Count the exchanges of tensors from now on."""
        for name in ("exchanged", "largest"):
            setattr(processes, name, self._timed(getattr(processes, name)))

    def _timed(self, exchange: Any) -> Any:
        def timed(vector: torch.Tensor) -> torch.Tensor:
            began = now(vector.device.type)
            found: torch.Tensor = exchange(vector)
            self.seconds += now(vector.device.type) - began
            self.bytes += vector.nbytes
            return found

        return timed


def timed_steps(
    training: TrainingState, data: TrainingData, arguments: argparse.Namespace, spent: Spent
) -> tuple[float, float]:
    """Take the steps; returns the mean seconds of one, and its mean number of texts."""
    order = batches(data.tokens.lengths, data.labelled, data.unlabelled, arguments.batch_size, 1, 0, False)
    seconds, texts = [], 0
    for number, rows in enumerate(order[: arguments.warm_up + arguments.steps]):
        if number == arguments.warm_up:
            spent.seconds, spent.bytes = 0.0, 0
        began = now(arguments.device)
        step(training, data, rows)
        training.position.step += 1
        if number >= arguments.warm_up:
            seconds.append(now(arguments.device) - began)
            texts += len(rows)
    return statistics.mean(seconds), texts / len(seconds)


def as_text(found: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in found["setting"].items())]
    lines += [f"{'side':12} {'texts/s':>8} {'step ms':>8} {'exchange ms':>12} {'size MiB':>9} {'peak MiB':>9}"]
    for side, one in found["sides"].items():
        numbers = f"{one['texts_per_second']:8.1f} {one['step_ms']:8.1f} {one['exchange_ms']:12.1f}"
        lines.append(f"{side:12} {numbers} {one['exchanged_mib']:9.1f} {one['peak_mib']:9.0f}")
    ratios = sorted(found["several_to_one"])
    lines.append(
        f"several / one: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); several / accumulated: "
        f"{found['several_to_accumulated']:.2f}; same bits with one thread each: {found['same_bits']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
