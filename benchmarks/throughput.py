"""Randout-KD with randout compared with a Hugging Face `Trainer`, plain and optimized, and with the floor of a step.

    python benchmarks/throughput.py --model FOLDER --data rhmd:RHMD_3_Class.csv
    python benchmarks/throughput.py --student-shape data2vec-base --teacher-shape roberta-large --device cuda
    python benchmarks/throughput.py --smoke    # tiny random model, synthetic texts: takes seconds, numbers are meaningless

Each round takes the texts of one mega-batch of the Trainer's own sampler, about 800 random texts, and times in turn:

- `trainer`: a typical Trainer with the teacher in its loop (`peers.py`), over the first batches of randout's order;
- `best`: the optimized Trainer, over all texts in its own order, sorted by length;
- `randout` through `begin_training`, `make_training_data` and `fit`: packed, in the dtype that "auto" selects here,
  cross-entropy + weight * KL + noise, over all texts in random batches; its ratio to `trainer` is over the first
  batches;
- `slow`, if asked for: randout with `packing = false` in float32, over the same texts.

Loading, the first steps of each timing and evaluation are not counted. The one-time cost of the teacher's logits is
measured on a sample and reported separately. Further results: the floor of the first batches (`floor.py`), the share of a
step spent on batching and tokenization, and peak memory (`memory.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import floor
import memory
import peers
from batching import shares
from common import SHAPES, make_plan, now, rhmd_like_data, shaped_model, tiny_data, tiny_model
from randout.core.console import Show
from randout.experiments.run import soft_labels, student
from randout.experiments.run.plan import Plan
from randout.models import loading
from randout.models.tokens import batches
from randout.training import loop
from summary import as_text, summary

import torch  # isort: skip  (randout sets torch's environment first)

WARM_UP = 3  # uncounted steps at the start of each timing
MEASURED = ["trainer", "best", "randout", "floor", "labels", "batching", "memory"]


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        make_up(arguments, Path(folder))
        found = compare(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder: the student")
    parser.add_argument("--teacher", help="encoder folder with the same tokenizer; default: the student")
    parser.add_argument("--student-shape", choices=SHAPES, help="random weights instead of --model")
    parser.add_argument("--teacher-shape", choices=SHAPES, help="random weights instead of --teacher")
    parser.add_argument("--data", help="data as for `randout train`; default: synthetic texts with the lengths of RHMD")
    parser.add_argument(
        "--measure", default=",".join(MEASURED), help=f"comma-separated, from {', '.join(MEASURED)}, slow"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="batches of the plain Trainer and of the floor per round")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="uncounted steps before each timing")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=215)
    parser.add_argument("--label-texts", type=int, default=1000, help="texts on which the teacher's pass is timed")
    parser.add_argument("--best", type=json.loads, default={}, help="JSON: further TrainingArguments of `best`")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads; 0: torch's default")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.measure = arguments.measure.split(",")
    if not (arguments.smoke or arguments.model or arguments.student_shape):
        parser.error("--model or --student-shape is needed (or --smoke)")
    return arguments


def make_up(arguments: argparse.Namespace, folder: Path) -> None:
    """Create the models and texts that were not given."""
    if arguments.smoke:
        arguments.model, arguments.data = tiny_model(folder), tiny_data(folder)
        arguments.rounds, arguments.steps, arguments.label_texts, arguments.max_length = 2, 2, 32, 64
        arguments.measure = [*MEASURED, "slow"]
    if arguments.student_shape:
        arguments.model = shaped_model(folder, arguments.student_shape)
    if arguments.teacher_shape:
        arguments.teacher = shaped_model(folder, arguments.teacher_shape)
    arguments.teacher = arguments.teacher or arguments.model
    arguments.data = arguments.data or rhmd_like_data(folder, texts=8000)


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time every side in turn; returns all measurements as plain values."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = {
        "data": str(arguments.data),
        "student": str(arguments.model),
        "teacher": str(arguments.teacher),
        "batch_size": arguments.batch_size,
        "max_length": arguments.max_length,
        "device": arguments.device,
    }
    plan = make_plan(**settings, epochs=arguments.rounds + 1)
    sides = Sides(arguments, settings, plan)
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(sides.time_round(number, folder))
        print(f"round {number + 1}: {json.dumps(rounds[-1]['seconds'])}", file=sys.stderr)
    found = {"rounds": rounds, "setting": setting(arguments, plan, sides.training)}
    if "labels" in arguments.measure:
        found["labels"] = {"seconds_a_text": seconds_per_label(plan, arguments, folder), "texts": sizes(plan)}
    if "batching" in arguments.measure:
        found["batching"] = shares(sides.training, sides.data, plan, arguments.steps)
    if "memory" in arguments.measure:
        own = settings | {"threads": arguments.threads}
        found["memory_mib"] = {side: memory.peak(side, own) for side in ("trainer", "best", "randout")}
    return found | summary(found)


class Sides:
    """Measures one round: the peers, randout's training and, if requested, its slow path."""

    def __init__(self, arguments: argparse.Namespace, settings: dict[str, Any], plan: Plan) -> None:
        generator = torch.Generator().manual_seed(0)
        soft = torch.randn(len(plan.dataset.texts), len(plan.dataset.id2label), generator=generator)
        taught = student.TeacherOutputs("", soft)
        self.plan, self.arguments = plan, arguments
        self.training, self.data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
        if not self.training.encoder.packed:
            raise SystemExit(
                f"this encoder is not packed ({self.training.encoder.reason}), so the batches would differ"
            )
        self.machine = floor.Machine(arguments.device, self.training.precision)
        if "trainer" in arguments.measure:
            self.plain = peers.plain(arguments.model, arguments.teacher, plan)
        if "best" in arguments.measure:
            self.best = peers.best(arguments.model, soft, plan, arguments.best)
        if "slow" in arguments.measure:
            slow = make_plan(**settings, epochs=arguments.rounds + 1, packing=False, precision="float32")
            self.slow = student.begin_training(slow, taught)

    def time_round(self, number: int, folder: Path) -> dict[str, Any]:
        """Time every side on the texts of one mega-batch, or on its first batches."""
        plan, asked = self.plan, self.arguments.measure
        lengths, settings, warm_up = plan.tokens.lengths, plan.config.train, self.arguments.warm_up
        grouped = peers.grouped_by_length(plan, number)
        texts, none = np.concatenate(grouped), np.zeros(0, np.int64)
        order = batches(lengths, texts, none, settings.batch_size, settings.seed, number, False)
        first = order[: self.arguments.steps]
        seconds: dict[str, float] = {}
        if "trainer" in asked:
            seconds["trainer"] = peers.seconds(self.plain, plan, order[:warm_up], first, folder)
        if "best" in asked:
            spread = grouped[:: max(len(grouped) // warm_up, 1)][:warm_up]
            seconds["best"] = peers.seconds(self.best, plan, spread, grouped, folder)
        ours = time_randout(self.training, self.data, texts, number, len(first), len(order), warm_up)
        seconds["randout_first"], seconds["randout"] = ours
        if "slow" in asked:
            _, seconds["slow"] = time_randout(self.slow, self.data, texts, number, 1, len(order), warm_up)
        found: dict[str, Any] = {"seconds": seconds, "steps": len(order), "first_steps": len(first)}
        for name, rows in (("", texts), ("first_", np.concatenate(first))):
            found |= {f"{name}texts": len(rows), f"{name}tokens": int(lengths[rows].sum())}
        if "floor" in asked:
            found["floor"] = self.floor_of([lengths[rows].tolist() for rows in first])
        return found

    def floor_of(self, batches_lengths: list[list[int]]) -> dict[str, Any]:
        """Of a step, the mean over these batches: FLOP, bytes and seconds by part, with the whole of the last block and
        with what is needed of it.
        """
        model, groups = self.training.encoder.model.config, self.training.optimizer.param_groups
        inside = getattr(model, "intermediate_size", None) or model.hidden_dim  # DistilBERT's name for it
        shape = (len(self.training.encoder.hook_points.blocks), model.hidden_size, inside)
        parameters = sum(p.numel() for group in groups for p in group["params"])
        moved, rate = floor.traffic(parameters, *shape, self.training.precision), self.machine.bytes_a_second()
        found: dict[str, Any] = {"bytes": moved, "bytes_a_second": rate}
        for name, last_first_only in (("needed", True), ("whole", False)):
            each = [
                floor.products(lengths, *shape, model.num_attention_heads, last_first_only)
                for lengths in batches_lengths
            ]
            flop = sum(product.flop * times for one in each for product, times in one.items()) / len(each)
            timed = [self.machine.seconds(one) for one in each]
            parts = {part: sum(one[part] for one in timed) / len(timed) for part in timed[0]}
            parts |= {part: size / rate for part, size in moved.items()}
            found[name] = {"flop": flop, "parts": parts, "seconds": sum(parts.values())}
        return found


def time_randout(
    training: loop.TrainingState,
    data: loop.TrainingData,
    texts: np.ndarray,
    epoch: int,
    first: int,
    steps: int,
    warm_up: int,
) -> tuple[float, float]:
    """Seconds of `loop.fit` over the first batches of an epoch of these texts, and over the whole epoch."""
    data = replace(data, labelled=texts, unlabelled=np.zeros(0, np.int64))
    device = training.encoder.device.type

    def steps_of(number: int) -> Iterator[loop.Event]:
        training.position.epoch, training.position.batch = epoch, 0
        return islice(loop.fit(training, data, validate=dict), number)

    for _ in steps_of(min(warm_up, steps)):
        pass
    events = steps_of(steps)
    began = now(device)
    for _ in islice(events, first):
        pass
    between = now(device)
    for _ in events:
        pass
    return between - began, now(device) - began


def seconds_per_label(plan: Plan, arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds per text of the teacher's one-time pass, including tokenization and storing."""
    teacher = loading.load(loading.find(arguments.teacher), id2label=plan.dataset.id2label, seed=7)
    teacher.model.to(arguments.device)
    rows = np.random.default_rng(0).permutation(plan.dataset.split["train"])[: arguments.label_texts]
    texts = [plan.dataset.texts[row] for row in rows]
    parts = soft_labels.fingerprint("none", arguments.max_length, "head", plan.config.train.precision, texts)
    began = time.perf_counter()
    soft_labels.compute(teacher, texts, folder / "soft-labels", parts, Show(quiet=True), "teacher")
    return (time.perf_counter() - began) / len(texts)


def sizes(plan: Plan) -> dict[str, int]:
    return {part: len(rows) for part, rows in plan.dataset.split.items()}


def setting(arguments: argparse.Namespace, plan: Plan, training: loop.TrainingState) -> dict[str, Any]:
    return {
        "model": arguments.student_shape or plan.student.label,
        "teacher": arguments.teacher_shape or Path(arguments.teacher).name,
        "data": plan.dataset.name,
        "batch_size": arguments.batch_size,
        "max_length": arguments.max_length,
        "precision": training.precision,
        "best": arguments.best,
        **student.environment(plan),
    }


if __name__ == "__main__":
    main()
