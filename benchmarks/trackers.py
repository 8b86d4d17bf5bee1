"""What reporting to experiment trackers costs a training step.

    python benchmarks/trackers.py --model FOLDER --data film --report-to tensorboard,mlflow
    python benchmarks/trackers.py --smoke

One training, in blocks of `--steps` steps that report and that do not, in turn. A block that reports also waits until its
trackers have written everything, which a training does only at its end. The ratios are medians over
pairs of blocks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from common import make_plan, tiny_data, tiny_model
from randout.core.console import Show
from randout.experiments.run import student
from randout.experiments.run.loss_curves import LossCurves
from randout.trackers.described import Described
from randout.trackers.report_to import trackers_of
from randout.trackers.tracked_run import TrackedRun
from randout.training import loop

import torch  # isort: skip  (randout sets torch's environment first)

POINTS = 50  # reported without any training, for the cost of one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder")
    parser.add_argument("--data", help="data as for `randout train`")
    parser.add_argument("--report-to", default="tensorboard")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.warm_up, arguments.steps, arguments.pairs = 1, 2, 2
            if importlib.util.find_spec("tensorboard") is None:
                arguments.report_to = "none"
        found = measured(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else as_text(found))


def clocks() -> np.ndarray:
    """Seconds by the clock, and of CPU time of all threads, which other processes do not change."""
    return np.array([time.perf_counter(), time.process_time()])


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Milliseconds per step with and without reports, their ratio, and the points of a curve that were reported per step."""
    plan = make_plan(str(arguments.data), str(arguments.model), str(arguments.model), 16, 64, epochs=2)
    training = student.begin_training(plan, student.stand_in(plan))
    data = student.make_training_data(plan, student.stand_in(plan))
    described = Described("benchmark", folder, folder / "tensorboard", settings={"train.epochs": 2})
    tracked = TrackedRun(described, trackers_of(arguments.report_to), Show(quiet=True))
    curves = LossCurves(training, data, tracked)
    tracked.wait()
    events = loop.fit(training, data, validate=lambda: {"accuracy": 0.5})
    for event in islice(events, arguments.warm_up):
        curves.take(event)
    tracked.wait()
    plain, reported = [], []
    for _ in range(arguments.pairs):
        began = clocks()
        for _event in islice(events, arguments.steps):
            pass
        plain.append(clocks() - began)
        began = clocks()
        for event in islice(events, arguments.steps):
            curves.take(event)
        failed = tracked.wait()
        reported.append(clocks() - began)
        if failed:
            raise SystemExit(f"not reported to {', '.join(failed)}")
    events.close()
    values, began = {f"loss_{name}": 0.5 for name in "abcdef"}, clocks()
    for number in range(POINTS):
        tracked.log(values, training.position.step + number + 1)
    tracked.wait()
    point = 1000 * (clocks() - began) / POINTS
    tracked.end("finished")
    step, step_reported = (1000 * np.median(spent, axis=0) / arguments.steps for spent in (plain, reported))
    ratio, cpu_ratio = np.median(np.array(reported) / np.array(plain), axis=0)
    return {
        "report_to": arguments.report_to,
        "step_ms": step[0],
        "step_ms_reported": step_reported[0],
        "ratio": ratio,
        "cpu_ms": step[1],
        "cpu_ms_reported": step_reported[1],
        "cpu_ratio": cpu_ratio,
        "cpu_ms_per_point": point[1],
        "steps_per_point": max(1, -(-data.steps(training.settings) // 200)),
        "threads": torch.get_num_threads(),
    }


def as_text(found: dict[str, Any]) -> str:
    return (
        f"{found['step_ms']:.2f} ms per step, {found['step_ms_reported']:.2f} with reports to {found['report_to']} "
        f"(a point every {found['steps_per_point']} steps): ratio {found['ratio']:.3f}; CPU time {found['cpu_ms']:.2f} and "
        f"{found['cpu_ms_reported']:.2f} ms: ratio {found['cpu_ratio']:.3f}, {found['cpu_ms_per_point']:.2f} ms per point; "
        f"{found['threads']} threads"
    )


if __name__ == "__main__":
    main()
