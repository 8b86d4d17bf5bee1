"""Peak memory of a training, measured in its own process; `throughput.py` starts one per side.

    python benchmarks/memory.py SIDE SETTINGS    # settings: JSON, as passed by `peak`

Runs a few steps on the same batches for every side: the first batches of an epoch, and one of the longest texts of the
training split, which is the largest possible batch. On a CPU: the process's peak resident memory minus its memory after
all imports. On a GPU: the peak memory reserved by torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import peers
from common import make_plan
from randout.experiments.run import student
from randout.experiments.run.plan import Plan
from randout.models.tokens import batches
from randout.training import loop

import torch  # isort: skip  (randout sets torch's environment first)

RANDOM = 3  # batches in addition to the largest


def peak(side: str, settings: dict[str, Any]) -> float:
    """MiB of one side: "trainer", "best" or "randout". settings: of `make_plan`, and "threads"."""
    command = [sys.executable, __file__, side, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the process that measures the memory of {side} failed:\n{done.stderr}")
    return json.loads(done.stdout)["mib"]


def main() -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer  # noqa: F401

    side, settings = sys.argv[1], json.loads(sys.argv[2])
    if threads := settings.pop("threads"):
        torch.set_num_threads(threads)
    before = resident()
    plan = make_plan(**settings)
    with tempfile.TemporaryDirectory() as folder:
        train(side, settings, plan, Path(folder))
    on_gpu = plan.config.train.device == "cuda"
    print(json.dumps({"mib": torch.cuda.max_memory_reserved() / 2**20 if on_gpu else resident() - before}))


def train(side: str, settings: dict[str, Any], plan: Plan, folder: Path) -> None:
    """Run a few steps of one side."""
    soft = torch.zeros(len(plan.dataset.texts), len(plan.dataset.id2label))
    order = same_batches(plan)
    if side == "randout":
        taught = student.TeacherOutputs("", soft)
        training, data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
        for rows in order:
            loop.step(training, data, rows)
            training.position.step += 1
    elif side == "trainer":
        peers.seconds(peers.plain(settings["student"], settings["teacher"], plan), plan, order[:1], order[1:], folder)
    else:
        peers.seconds(peers.best(settings["student"], soft, plan, {}), plan, order[:1], order[1:], folder)


def same_batches(plan: Plan) -> list[np.ndarray]:
    settings, train = plan.config.train, plan.dataset.split["train"]
    lengths, none = plan.tokens.lengths, np.zeros(0, np.int64)
    first = batches(lengths, train, none, settings.batch_size, settings.seed, 0, False)[:RANDOM]
    return [*first, train[np.argsort(lengths[train], kind="stable")][-settings.batch_size :]]


def resident() -> float:
    """MiB: this process' peak of resident memory. Not `ru_maxrss`, which begins with that of the process that started
    this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
