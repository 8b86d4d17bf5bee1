"""Cost of a training step of each registered method, in steps of plain fine-tuning.

    python benchmarks/methods.py --model FOLDER --teacher FOLDER --data rhmd:RHMD_3_Class.csv
    python benchmarks/methods.py --smoke    # tiny random model, synthetic texts: takes seconds, numbers are meaningless

Each round times plain cross-entropy and one method in turn, over the same batches of the same student, in the dtype that
"auto" selects here. A method's cost is the median over rounds of (its seconds / plain's seconds). Stored teacher logits are
synthetic, because they do not add to a step. --teacher is the teacher that runs alongside the student.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from common import tiny_data, tiny_model
from randout.core import config
from randout.experiments.run import planning, student
from randout.experiments.run.plan import Plan
from randout.methods import catalog
from randout.methods.builtin import METHODS
from randout.methods.terms import TermMethod
from randout.training import loop

import torch  # isort: skip  (randout sets torch's environment first)

WARM_UP = 1  # uncounted steps at the start of each round


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.rounds, arguments.steps, arguments.max_length, arguments.sample = 1, 2, 64, 0
            arguments.teacher, arguments.terms = arguments.model, "w1,w2"
        found = costs(arguments)
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder: the student")
    parser.add_argument(
        "--teacher", help="encoder folder: the teacher that runs alongside the student, for methods that need one"
    )
    parser.add_argument("--layers", help="blocks of the student to keep, comma-separated", default="")
    parser.add_argument("--data", help="data as for `randout train`")
    parser.add_argument("--sample", type=int, default=2000, help="labelled rows to read; 0: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="timed steps per side and round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=215)
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads; 0: torch's default")
    parser.add_argument("--only", help="names of methods, comma-separated; default: all")
    parser.add_argument("--terms", default="a*,the,of", help="of methods on listed terms, comma-separated")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.teacher and arguments.data):
        parser.error("--model, --teacher and --data are needed (or --smoke)")
    return arguments


def costs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cost of every variant of every method relative to plain: median, minimum and maximum over rounds."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plain = ready(arguments, catalog.entries()[catalog.GOLD])
    found = []
    names = arguments.only.split(",") if arguments.only else [catalog.ALL]
    for name, entry in catalog.chosen(names).items():
        own = ready(arguments, entry)
        ratios = []
        for number in range(arguments.rounds):
            rows = plain[2][number * (WARM_UP + arguments.steps) :][: WARM_UP + arguments.steps]
            base = seconds(*plain[:2], rows)
            ratios.append(seconds(*own[:2], rows) / base)
        row = {"name": name, "stated": entry.method.cost, "median": statistics.median(ratios)}
        found.append(row | {"least": min(ratios), "most": max(ratios)})
        print(f"{name}: {row['median']:.2f} steps", file=sys.stderr)
    return {"methods": found, "rounds": arguments.rounds, "steps": arguments.steps, "threads": torch.get_num_threads()}


def ready(
    arguments: argparse.Namespace, entry: catalog.Entry
) -> tuple[loop.TrainingState, loop.TrainingData, list[Any]]:
    """Training state of the student with this method, its data, and the batches that all methods share."""
    own: dict[str, Any] = {
        "data": {"source": str(arguments.data), "sample": arguments.sample},
        "student": {"model": str(arguments.model), "max_length": arguments.max_length},
        "teacher": {"model": str(arguments.teacher)} if needs_teacher(entry) else {"model": "none"},
        "train": {"batch_size": arguments.batch_size},
    }
    if arguments.layers:
        own["student"]["layers"] = [int(layer) for layer in arguments.layers.split(",")]
    if issubclass(entry.method, TermMethod):
        own["methods"] = {entry.method.name: {"terms": arguments.terms.split(",")}}
    plan = planning.make(config.build([config.read_preset(config.DEFAULT_PRESET), entry.recipe, own], METHODS))
    taught = student.stand_in(plan) if plan.has_teacher else None
    training, data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
    train, size = plan.dataset.split["train"], arguments.batch_size
    needed = arguments.rounds * (WARM_UP + arguments.steps)
    if len(train) < needed * size:
        raise SystemExit(f"the training split has {len(train)} rows; {needed * size} are needed")
    return training, data, [sorted_rows(plan, train[at * size :][:size]) for at in range(needed)]


def needs_teacher(entry: catalog.Entry) -> bool:
    return any(METHODS[name].teacher for name in entry.methods)


def sorted_rows(plan: Plan, rows: Any) -> Any:
    """Sort a batch as in training: the shortest text first."""
    return rows[plan.tokens.lengths[rows].argsort(kind="stable")]


def seconds(training: loop.TrainingState, data: loop.TrainingData, batches: list[Any]) -> float:
    for number, rows in enumerate(batches):
        if number == WARM_UP:
            began = time.perf_counter()
        loop.step(training, data, rows)
        training.position.step += 1
    return time.perf_counter() - began


def as_text(found: dict[str, Any]) -> str:
    head = f"steps of plain fine-tuning; {found['rounds']} rounds of {found['steps']} steps, {found['threads']} threads"
    lines = [head, f"{'method':<30} {'stated':>7} {'median':>7}  range"]
    for row in found["methods"]:
        spread = f"{row['least']:.2f} to {row['most']:.2f}"
        lines.append(f"{row['name']:<30} {row['stated']:>7} {row['median']:>6.2f}x  {spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
