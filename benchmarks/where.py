"""Time of a Randout-KD training step of randout by function.

    python benchmarks/where.py --model FOLDER --data rhmd:RHMD_3_Class.csv
    python benchmarks/where.py --smoke

The first `--warm-up` steps are not counted (oneDNN compiles its kernels in them). The rest run under Python's profiler,
which records every call into torch on this thread and adds 2 or 3 % to a step. Products are `mm`, `addmm` and `bmm`.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from common import make_plan, tiny_data, tiny_model
from randout.experiments.run import student
from randout.training import loop

import torch  # isort: skip  (randout sets torch's environment first)

SHOWN = 24  # functions shown; the rest is one row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder: the student, and the teacher's shape")
    parser.add_argument("--data", help="data as for `randout train`")
    parser.add_argument("--warm-up", type=int, default=40)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.warm_up, arguments.steps = 2, 3
        found = profiled(arguments)
    print(json.dumps(found) if arguments.json else as_text(found))


def profiled(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds and calls per step by function, time of a step without the profiler, and its tokens."""
    plan = make_plan(
        str(arguments.data), str(arguments.model), str(arguments.model), 16, 64 if arguments.smoke else 215, epochs=1
    )
    soft = torch.randn(len(plan.dataset.texts), len(plan.dataset.id2label), generator=torch.Generator().manual_seed(0))
    taught = student.TeacherOutputs("", soft)
    training, data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
    events = loop.fit(training, data, validate=dict)
    for _ in islice(events, arguments.warm_up):
        pass
    began = time.perf_counter()
    for _ in islice(events, arguments.steps):
        pass
    plain = (time.perf_counter() - began) / arguments.steps
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in islice(events, arguments.steps):
        pass
    profiler.disable()
    events.close()
    rows = [
        {"function": _name(where), "ms": 1000 * own / arguments.steps, "calls": calls / arguments.steps}
        for where, (_, calls, own, _, _) in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    ]
    return {
        "step_ms": 1000 * plain,
        "rows": sorted(rows, key=lambda row: -row["ms"]),
        "threads": torch.get_num_threads(),
    }


def _name(where: tuple[str, int, str]) -> str:
    file, _, function = where
    return function if file == "~" else f"{Path(file).name}: {function}"


def as_text(found: dict[str, Any]) -> str:
    rows = found["rows"]
    lines = [f"a step takes {found['step_ms']:.1f} ms ({found['threads']} threads), without the profiler", ""]
    lines += ["| function | ms per step | calls per step |", "|---|---|---|"]
    lines += [f"| `{row['function'].strip('<>')}` | {row['ms']:.2f} | {row['calls']:.1f} |" for row in rows[:SHOWN]]
    rest = rows[SHOWN:]
    lines += [
        f"| {len(rest)} others | {sum(row['ms'] for row in rest):.2f} | {sum(row['calls'] for row in rest):.0f} |"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
