"""Cost of a search with the teacher in the loop, with stored logits and with halving, and the quality loss of halving.

    python benchmarks/search.py --model FOLDER --teacher FOLDER --data rhmd:RHMD_3_Class.csv --folder OUT
    python benchmarks/search.py --smoke    # tiny random model, synthetic texts: numbers are meaningless

Quality: a grid of 16 cells of Randout-KD is trained twice, every cell to its end, and by the library's own successive
halving within a budget of 15 % of those steps. Each side's winner on validation is trained again with five new seeds, and
the difference on the test split, halving's winner minus the exhaustive one, is reported with the interval of a study.
Everything is kept in --folder: after any interruption (Ctrl-C, --time-limit, kill) the same command resumes.

Cost: hours of the paper's grid (1,344 configurations of 15 epochs) from seconds measured here: the student's step, the
teacher's forward pass on the same batch, in turn, and the teacher's single pass over the rows that it labels. Both run as randout
runs them, without padding, so the teacher in the loop is cheaper here than with a `Trainer`. Validation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from common import tiny_data, tiny_model
from methods import WARM_UP, seconds, sorted_rows
from randout.cli.options import seconds_of
from randout.core import config
from randout.core.console import Show
from randout.data.dataset import load
from randout.experiments.run import pipeline, planning, student
from randout.experiments.run.run_request import TEACHERS_OWN
from randout.experiments.run.student import Options, Stopped
from randout.experiments.search import search, space
from randout.experiments.search.space import SearchTable
from randout.experiments.search.trials import own_runs, signed
from randout.experiments.study import comparison
from randout.experiments.study.results import rows_of
from randout.methods.builtin import METHODS
from randout.models import loading
from randout.models.inference import predict
from randout.paper.published import paper

import torch  # isort: skip  (randout sets torch's environment first)

PRESET, HALVING, BUDGET, TARGET = "randout-kd", 4, 0.15, -0.005
SPACE = {  # the paper's values, and a learning rate, because cells barely differ without it
    "kd.weight": [0.2, 0.4, 0.6, 0.8],
    "train.learning_rate": [5e-5, 2e-4],
    "randout.tokens": [4, 64],
}
ALL, HALVED = "exhaustive", "halving"
FRESH = (11, 12, 13, 14, 15)  # seeds of the refits; the searches use seed 1


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            wide = tiny_model(Path(folder), shape={"hidden_size": 128})  # the paper's cells have up to 128 units
            arguments.model, arguments.data = wide, tiny_data(Path(folder))
            arguments.teacher, arguments.folder = arguments.model, Path(folder) / "out"
            arguments.rows, arguments.rounds, arguments.steps, arguments.label_texts = 200, 1, 2, 32
            arguments.max_length, arguments.layers, arguments.fresh = 64, "", 2
        deadline = time.monotonic() + seconds_of(arguments.time_limit) if arguments.time_limit else None
        options = Options(arguments.folder / "runs", deadline=deadline, show=Show(quiet=arguments.smoke))
        found: dict[str, Any] = {"setting": {key: str(value) for key, value in vars(arguments).items()}}
        try:
            if arguments.part != "cost":
                found["quality"] = quality(arguments, options)
            if arguments.part != "quality":
                found["cost"] = cost(arguments)
        except Stopped as stop:
            print(
                f"stopped by {stop.why}; run the same command again to resume from {arguments.folder}", file=sys.stderr
            )
            return
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder: the student")
    parser.add_argument("--layers", help="blocks of the student to keep, comma-separated", default="")
    parser.add_argument("--teacher", help="folder of an encoder, which is fine-tuned once, or of a finished run")
    parser.add_argument(
        "--teacher-epochs", type=int, default=2, help="epochs of the teacher, if it is fine-tuned first"
    )
    parser.add_argument("--data", help="data as for `randout train`")
    parser.add_argument("--rows", type=int, default=2000, help="labelled rows to read; 0: all")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of every training of the 16 cells")
    parser.add_argument("--fresh", type=int, default=5, help=f"number of refits, with the first seeds of {FRESH}")
    parser.add_argument("--folder", type=Path, help="folder for everything, from which a run resumes")
    parser.add_argument("--part", choices=("both", "quality", "cost"), default="both")
    parser.add_argument("--time-limit", help="save and stop after this time, such as 2h or 90m")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the cost measurement")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per side and round")
    parser.add_argument("--label-texts", type=int, default=1000, help="texts on which the teacher's pass is timed")
    parser.add_argument("--max-length", type=int, default=215)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not all((arguments.model, arguments.teacher, arguments.data, arguments.folder)):
        parser.error("--model, --teacher, --data and --folder are needed (or --smoke)")
    return arguments


def base_of(arguments: argparse.Namespace, teacher: str, rows: int, **train: Any) -> dict[str, Any]:
    """Recipe tables shared by all trainings."""
    own: dict[str, Any] = {"model": str(arguments.model), "max_length": arguments.max_length}
    if arguments.layers:
        own["layers"] = [int(layer) for layer in arguments.layers.split(",")]
    return {
        "data": {"source": str(arguments.data), "sample": rows},
        "student": own,
        "teacher": {"model": teacher, "epochs": arguments.teacher_epochs},
        "train": train,
    }


def make_search(base: dict[str, Any], **table: Any) -> search.Search:
    recipe = config.build([config.read_preset(PRESET), base], METHODS)
    return search.make_search(recipe, SearchTable(**table))[0]


def teacher_of(arguments: argparse.Namespace, options: Options) -> str:
    """Return a finished teacher, so that all searches and seeds share it; fine-tunes an encoder first."""
    base = base_of(arguments, str(arguments.teacher), arguments.rows, epochs=arguments.epochs)
    plan = planning.make(config.build([config.read_preset(PRESET), base], METHODS))
    return str(arguments.teacher if plan.teacher_plan is None else pipeline.execute(plan.teacher_plan, options).folder)


def quality(arguments: argparse.Namespace, options: Options) -> dict[str, Any]:
    """Run both searches and the refits of their winners."""
    base = base_of(arguments, teacher_of(arguments, options), arguments.rows, epochs=arguments.epochs)
    tables: dict[str, dict[str, Any]] = {ALL: {}, HALVED: {"halving": HALVING, "budget": BUDGET}}
    sides = {}
    for side, table in tables.items():
        made = make_search(base, space=SPACE, **table)
        sides[side] = search.run_search(made, arguments.folder / side, options).record
    winners = {side: record.trials[record.best] for side, record in sides.items()}
    ranked = own_runs(sides[ALL])
    ranked.sort(key=lambda trial: -signed(sides[ALL].metric, trial.value))
    if arguments.smoke:  # two different winners, so that the refits run
        winners = {ALL: ranked[0], HALVED: ranked[-1]}
    place = next(at for at, one in enumerate(ranked, 1) if one.settings == winners[HALVED].settings)
    found = {
        "cells": len(sides[ALL].trials),
        "rungs": space.rungs(len(sides[HALVED].trials), HALVING, BUDGET),
        "steps": {side: record.skipped.steps for side, record in sides.items()},
        "seconds": {side: sum(trial.seconds for trial in record.trials) for side, record in sides.items()},
        "winners": {side: {"settings": one.settings, "value": one.value} for side, one in winners.items()},
        "validation": [trial.value for trial in ranked],
        "place": place,
        "same": winners[ALL].settings == winners[HALVED].settings,
    }
    if not found["same"]:
        found["refit"] = refit(arguments, base, {side: one.settings for side, one in winners.items()}, options)
    stores = (options.runs / "soft-labels").glob("*.safetensors")
    return found | {"teacher_passes": len(list(stores))}


def refit(
    arguments: argparse.Namespace, base: dict[str, Any], winners: dict[str, space.Settings], options: Options
) -> dict[str, Any]:
    """Train both winners with new seeds: difference in test accuracy with the interval of the study."""
    study = comparison.make_study(
        {
            "name": "refit",
            "base": base | {"preset": PRESET},
            "arms": {side: space.tables_of(settings, METHODS) for side, settings in winners.items()},
            "baseline": ALL,
            "seeds": list(FRESH[: arguments.fresh]),
            "margin": -TARGET,
        }
    )
    record = comparison.run_study(study, arguments.folder / "refit", options).record
    first, second = rows_of(record.result)
    assert second.difference is not None
    one = second.difference
    return {
        "head": record.result.head,
        "accuracy": {row.name: row.values for row in (first, second)},
        "difference": one.estimate,
        "interval": [one.low, one.high],
        "words": second.words,
    }


def cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hours of the paper's grid, three ways, from seconds measured here."""
    base = base_of(arguments, str(arguments.teacher), 0, epochs=paper().training["epochs"])
    one = make_search(base, preset="paper")
    dataset = load(one.config.data)
    configs = [one.trial_config(settings) for settings in space.grid_points(one.space, 0, 0)[0]]
    rows = len(dataset.split["train"])
    steps: Counter[int] = Counter()
    for each in configs:
        steps[each.train.batch_size] += -(-rows // each.train.batch_size) * each.train.epochs
    own, teacher, a_pass = step_costs(arguments, one.trial_config({}), dataset, sorted(steps))
    students = sum(steps[size] * own[size] for size in steps)
    shares = space.rungs(len(configs), HALVING, BUDGET)
    halved = space.spent(len(configs), HALVING, shares)
    passes = {"in the loop": sum(each.train.epochs for each in configs), "stored": stores(configs, dataset)}
    ways = {
        "exhaustive, teacher in the loop": (1.0, students + sum(steps[size] * teacher[size] for size in steps)),
        "exhaustive, logits stored": (1.0, students + passes["stored"] * a_pass),
        f"halving = {HALVING}, budget = {BUDGET:g}": (halved, halved * students + passes["stored"] * a_pass),
    }
    return {
        "configurations": len(configs),
        "rows": rows,
        "steps": {str(size): count for size, count in steps.items()},
        "seconds": {"student": own, "teacher": teacher, "pass": a_pass},
        "passes": passes,
        "rungs": shares,
        "ways": {name: {"steps": share, "hours": total / 3600} for name, (share, total) in ways.items()},
    }


def stores(configs: list[config.Config], dataset: Any) -> int:
    """Number of different sets of soft labels that these trainings need; each is one pass of a teacher."""
    pinned = {"methods": True, "train": set(TEACHERS_OWN)}  # a search fixes these for its teacher
    kinds = {each.model_dump_json(exclude=pinned): each for each in configs}
    plans = [planning.make(each, dataset) for each in kinds.values()]
    parts = [[plan.identity["teacher"], plan.identity["data"], plan.config.train.precision] for plan in plans]
    return len({json.dumps(part, sort_keys=True) for part in parts})


def step_costs(
    arguments: argparse.Namespace, recipe: config.Config, dataset: Any, sizes: list[int]
) -> tuple[dict[int, float], dict[int, float], float]:
    """Seconds by batch size of the student's step and of the teacher's forward on the same texts, medians over rounds;
    and of the teacher's one pass over the rows that it labels.
    """
    train = recipe.train.model_copy(update={"batch_size": max(sizes)})
    plan = planning.make(recipe.model_copy(update={"train": train}), dataset)
    taught = student.stand_in(plan)
    training, data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
    source = plan.teacher or plan.teacher_plan.student.source  # type: ignore[union-attr]
    teacher = student.live_teacher(plan, loading.load(source, id2label=dataset.id2label), (), 0)
    order, at = dataset.split["train"], 0

    def label(rows: Any) -> None:
        predict(teacher.encoder, teacher.tokens, rows, teacher.precision)

    own: dict[int, list[float]] = {size: [] for size in sizes}
    theirs: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(arguments.rounds):
        for size in sizes:
            places = range(at, at := at + size * (WARM_UP + arguments.steps), size)
            batches = [sorted_rows(plan, order.take(range(one, one + size), mode="wrap")) for one in places]
            own[size].append(seconds(training, data, batches) / arguments.steps)
            for number, rows in enumerate(batches):
                if number == WARM_UP:
                    began = time.perf_counter()
                label(rows)
            theirs[size].append((time.perf_counter() - began) / arguments.steps)
    labelled, some = len(order) + len(dataset.split["validation"]), order[: arguments.label_texts]
    began = time.perf_counter()
    label(some)
    a_pass = (time.perf_counter() - began) / len(some) * labelled
    middle = [{size: statistics.median(values) for size, values in side.items()} for side in (own, theirs)]
    return *middle, a_pass


def as_text(found: dict[str, Any]) -> str:
    lines = [f"{torch.get_num_threads()} threads, torch {torch.__version__}"]
    lines += quality_lines(found["quality"]) if "quality" in found else []
    lines += cost_lines(found["cost"]) if "cost" in found else []
    return "\n".join(lines)


def quality_lines(found: dict[str, Any]) -> list[str]:
    share = found["steps"][HALVED] / found["steps"][ALL]
    best, middle, worst = found["validation"][0], statistics.median(found["validation"]), found["validation"][-1]
    lines = ["", f"{found['cells']} cells; halving = {HALVING}, budget = {BUDGET:g}: compared after "]
    lines[-1] += ", ".join(f"{rung:.1%}" for rung in found["rungs"]) + " of a training"
    lines += ["", "| search | steps | minutes | winner | its validation accuracy |", "|---|---|---|---|---|"]
    for side in (ALL, HALVED):
        winner = found["winners"][side]
        cells = [side, f"{found['steps'][side]:,}", f"{found['seconds'][side] / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {space.settings_text(winner['settings'])} | {winner['value']:.2%} |")
    lines += [
        "",
        f"halving took {share:.1%} of the steps (target: at most {BUDGET:.0%}) and chose the cell that is number",
    ]
    lines[-1] += (
        f" {found['place']} of all; validation of the cells {best:.2%} (best), {middle:.2%}, {worst:.2%} (worst)"
    )
    lines.append(f"passes of the teacher over the data, for all of this: {found['teacher_passes']}")
    if found["same"]:
        return [*lines, "both chose the same cell, so the difference is 0 by construction, and nothing is refitted"]
    made = found["refit"]
    for side in (ALL, HALVED):
        lines.append(f"{side}: test accuracy {', '.join(f'{value:.2%}' for value in made['accuracy'][side])}")
    low, high = (100 * end for end in made["interval"])
    lines.append(f"{made['head']}, halving's winner minus the exhaustive one's: {100 * made['difference']:+.2f} points")
    lines[-1] += f" (95 % interval {low:+.2f} to {high:+.2f}), {made['words']}"
    met = "met" if made["difference"] >= TARGET else "missed"
    sure = "the interval lies above it" if made["interval"][0] >= TARGET else "the interval reaches below it"
    return [*lines, f"target: at least {100 * TARGET:+.1f} points: {met} by the estimate; {sure}"]


def cost_lines(found: dict[str, Any]) -> list[str]:
    spent, passes = found["seconds"], found["passes"]
    first = next(iter(found["ways"].values()))["hours"]
    total = sum(found["steps"].values())
    lines = ["", f"{found['configurations']:,} configurations, {found['rows']:,} training rows, {total:,} steps"]
    for size in spent["student"]:
        lines.append(
            f"batch {size}: student {spent['student'][size]:.4f} s a step, teacher {spent['teacher'][size]:.4f} s"
        )
    lines += [f"the teacher's pass over the data: {spent['pass']:.1f} s", ""]
    lines += ["| the paper's grid | steps | passes of the teacher | hours | of the first |", "|---|---|---|---|---|"]
    for name, way in found["ways"].items():
        count = passes["in the loop" if "loop" in name else "stored"]
        row = [name, f"{way['steps']:.1%}", f"{count:,}", f"{way['hours']:,.1f}", f"{way['hours'] / first:.1%}"]
        lines.append(f"| {' | '.join(row)} |")
    return lines


if __name__ == "__main__":
    main()
