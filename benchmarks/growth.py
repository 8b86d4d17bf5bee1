"""How the cost of a training step grows with text length, batch size and model size, and a search with its trials.

    python benchmarks/growth.py [--plots FOLDER] [--only tokens,batch,model,trials]
    python benchmarks/growth.py --smoke    # one tiny point each, numbers are meaningless

At each point two processes hold the same random BERT and the same batches, and take steps of Randout-KD in turn:
randout's own (packed, in the dtype that "auto" selects here) and the plain one (`train.packing = false`, float32,
padded to the longest of the batch). Reports median seconds and each process's peak memory (`ru_maxrss`; about 0.3 GiB of
it are libraries). The floor is `flop` at the rate that the matrix products of a layer reach in isolation, next to each step.

Texts are synthetic; their lengths are log-normal, roughly as in RHMD (median half the mean). Trials use a tiny model, so
that the overhead of a trial is visible.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROCESSES = multiprocessing.get_context("forkserver")  # a child's peak memory is its own, not the parent's
PRELOADED = [
    "randout",
    "randout.experiments.search.search",
    "randout.training.loop",
    "transformers.models.bert.modeling_bert",
]
WARM_UP, LONGEST, WORDS = 1, 512, 30_000
SIDES = ("randout", "plain")
START = {
    "tokens": 54,
    "batch": 16,
    "layers": 6,
    "hidden": 384,
}  # fixed values while one of them grows: MiniLM-L6 on RHMD
GROWTH: dict[str, list[dict[str, int]]] = {
    "tokens": [{"tokens": n} for n in (8, 16, 32, 64, 128)],
    "batch": [{"batch": n} for n in (4, 8, 16, 32, 64)],
    "model": [{"layers": n, "hidden": h} for n, h in ((2, 128), (4, 256), (6, 384), (12, 384), (6, 768), (12, 768))],
    "trials": [{"trials": n} for n in (1, 4, 16, 64)],
}
TINY = {"tokens": 12, "batch": 4, "layers": 1, "hidden": 64}


def main() -> None:
    arguments = read_arguments()
    PROCESSES.set_forkserver_preload(PRELOADED)
    start = TINY if arguments.smoke else START
    found: dict[str, list[dict[str, Any]]] = {}
    for what in arguments.only.split(","):
        found[what] = []
        for change in GROWTH[what][:1] if arguments.smoke else GROWTH[what]:
            point = {**change, **start} if arguments.smoke else {**start, **change}
            with tempfile.TemporaryDirectory() as folder:
                given = (Path(folder), point, arguments)
                measured = alone(trials, *given) if what == "trials" else compare(*given)
            found[what].append({key: point[key] for key in change} | measured)
            print(f"{what} {found[what][-1]}", file=sys.stderr)
    if arguments.plots:
        draw(found, arguments.plots)
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(GROWTH), help="what to vary, comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps per side and point, in turn")
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads; 0: torch's default")
    parser.add_argument("--plots", type=Path, help="folder for a PNG of each growth")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(GROWTH):
        parser.error(f"--only {', '.join(unknown)}: expected some of {', '.join(GROWTH)}")
    arguments.rounds = 2 if arguments.smoke else arguments.rounds
    return arguments


def flop(lengths: Sequence[int], layers: int, hidden: int, ffn: int) -> int:
    """FLOP of a training step's matrix products on texts of these lengths, without padding; a multiply-add counts as two.

    Forward a layer, N = sum(n) tokens: 2 N (4 h^2 + 2 h f) for the four projections and the feed-forward, 4 h sum(n^2)
    for scores and mixture of attention. Backward twice that. Pooler and head (a row a text) are left out.
    """
    products = 2 * sum(lengths) * (4 * hidden**2 + 2 * hidden * ffn)
    attention = 4 * hidden * sum(n**2 for n in lengths)
    return 3 * layers * (products + attention)


def alone(function: Any, *words: Any) -> Any:
    """Call a function in its own process and return its result."""
    with ProcessPoolExecutor(1, PROCESSES) as pool:
        return pool.submit(function, *words).result()


def compare(folder: Path, point: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides at one point, a step of each in turn."""
    alone(make, folder, point, arguments.rounds)
    pipes, children = {}, []
    for side in SIDES:
        pipes[side], theirs = PROCESSES.Pipe()
        child = PROCESSES.Process(target=take_steps, args=(theirs, folder, point, side, arguments), daemon=True)
        child.start()
        theirs.close()
        children.append(child)
        pipes[side].recv()  # wait until ready, so that loading does not disturb the other side
    steps: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(WARM_UP + arguments.rounds):
        for side in SIDES:
            pipes[side].send("step")
            steps[side].append(pipes[side].recv())
    for side, child in zip(SIDES, children, strict=True):
        pipes[side].send(None)
        child.join()
    timed = {side: made[WARM_UP:] for side, made in steps.items()}
    own, plain = (statistics.median(one["seconds"] for one in timed[side]) for side in SIDES)
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*timed.values(), strict=True)]
    work = [flop(one["lengths"], point["layers"], point["hidden"], 4 * point["hidden"]) for one in timed["randout"]]
    floor = statistics.median(w / one["rate"] for w, one in zip(work, timed["randout"], strict=True))
    return {
        "tokens a text": statistics.fmean(n for one in timed["randout"] for n in one["lengths"]),
        "GFLOP": statistics.median(work) / 1e9,
        "floor, s": floor,
        "randout, s": own,
        "plain, s": plain,
        "plain / randout": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "floor / randout": floor / own,
        **{f"{side}, MiB": made[-1]["peak"] for side, made in steps.items()},
    }


def make(folder: Path, point: dict[str, int], rounds: int) -> None:
    """Write the model and the texts of a point to files."""
    import numpy as np

    from common import tiny_model

    hidden = point["hidden"]
    shape = {"hidden_size": hidden, "num_hidden_layers": point["layers"], "num_attention_heads": max(1, hidden // 64)}
    tiny_model(folder, WORDS, shape | {"intermediate_size": 4 * hidden, "max_position_embeddings": LONGEST})
    draw, mean = np.random.default_rng(0), point["tokens"]
    rows = max(100, 2 * (WARM_UP + rounds) * point["batch"])  # 70 % of them are for training
    lengths = np.exp(draw.normal(np.log(mean / 2), np.sqrt(2 * np.log(2)), rows)).clip(3, min(4 * mean, LONGEST))
    lines = [" ".join(f"w{i}" for i in draw.integers(0, WORDS, int(n) - 2)) for n in lengths]
    text = "".join(f"{line},{'ab'[row % 2]}\n" for row, line in enumerate(lines))
    (folder / "texts.csv").write_text(f"text,label\n{text}")


def take_steps(pipe: Any, folder: Path, point: dict[str, int], side: str, arguments: argparse.Namespace) -> None:
    """Main function of a process: runs a training step per message and sends its time; ends at None."""
    from randout.core import config
    from randout.experiments.run import planning, student
    from randout.methods.builtin import METHODS
    from randout.training import loop

    import torch  # isort: skip  (randout's own settings for torch come first)

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plain = {"packing": False, "precision": "float32"} if side == "plain" else {}
    own = {
        "data": {"source": str(folder / "texts.csv")},
        "student": {"model": str(folder / "tiny"), "max_length": LONGEST},
        "teacher": {"model": str(folder / "tiny")},  # synthetic logits: stored ones do not add to a step
        "train": {"batch_size": point["batch"]} | plain,
    }
    plan = planning.make(config.build([config.read_preset("randout-kd"), own], METHODS))
    taught = student.stand_in(plan)
    training, data = student.begin_training(plan, taught), student.make_training_data(plan, taught)
    train, size = plan.dataset.split["train"], point["batch"]
    pipe.send("ready")
    while pipe.recv():
        rows = train[training.position.step * size :][:size]
        rows = rows[plan.tokens.lengths[rows].argsort(kind="stable")]
        began = time.perf_counter()
        loop.step(training, data, rows)
        spent = time.perf_counter() - began
        training.position.step += 1
        lengths = plan.tokens.lengths[rows].tolist()
        products = rate(sum(lengths), point, training.precision)
        pipe.send({"seconds": spent, "lengths": lengths, "peak": peak(), "rate": products})


def rate(tokens: int, point: dict[str, int], precision: str) -> float:
    """FLOP per second of the matrix products of a layer's forward pass, in isolation: the best of three."""
    import torch

    hidden, kind = point["hidden"], torch.bfloat16 if precision == "bfloat16" else torch.float32
    shapes = [(hidden, hidden)] * 4 + [(hidden, 4 * hidden), (4 * hidden, hidden)]
    pairs = [(torch.ones(tokens, a, dtype=kind), torch.ones(a, b, dtype=kind)) for a, b in shapes]
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for x, weight in pairs:
            torch.mm(x, weight)
        best = min(best, time.perf_counter() - began)
    return 2 * tokens * sum(a * b for a, b in shapes) / best


def trials(place: Path, point: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a search with this number of trials of a tiny model: seconds, disk space and peak memory."""
    from common import tiny_data, tiny_model
    from randout.core import config
    from randout.core.console import Show
    from randout.experiments.run.student import Options
    from randout.experiments.search import search
    from randout.experiments.search.space import SearchTable
    from randout.methods.builtin import METHODS

    count = point["trials"]
    own = {"data": {"source": tiny_data(place)}, "student": {"model": tiny_model(place)}, "train": {"epochs": 1}}
    recipe = config.build([config.read_preset("plain"), own], METHODS)
    table = SearchTable(space={"learning_rate": [1e-4 * (1 + n / count) for n in range(count)]})
    options = Options(place / "runs", show=Show(quiet=True))
    began = time.perf_counter()
    search.run_search(search.make_search(recipe, table)[0], place / "out", options)
    spent = time.perf_counter() - began
    size = sum(file.stat().st_size for file in (place / "out").rglob("*") if file.is_file())
    return {"search, s": spent, "seconds a trial": spent / count, "disk, MiB": size / 2**20, "memory, MiB": peak()}


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def as_text(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = []
    for points in found.values():
        rows = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in point.values()] for point in points]
        lines += ["| " + " | ".join(row) + " |" for row in (points[0], ["---"] * len(points[0]), *rows)] + [""]
    return "\n".join(lines).strip()


def draw(found: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Write one PNG per variable: seconds on the left, memory (for trials: disk) on the right, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    across = {"tokens": "tokens a text", "batch": "batch", "model": "GFLOP", "trials": "trials"}
    for what, points in found.items():
        figure, both = plt.subplots(1, 2, figsize=(10, 4))
        for axes, unit in zip(both, ("s", "MiB"), strict=True):
            for name in (key for key in points[0] if key.endswith(f", {unit}")):
                style = "k--" if name.startswith("floor") else "o-"
                axes.plot([p[across[what]] for p in points], [p[name] for p in points], style, label=name)
            axes.set(xscale="log", yscale="log", xlabel=across[what], ylabel=unit)
            axes.legend()
        figure.tight_layout()
        figure.savefig(folder / f"growth-{what}.png", dpi=120)
        plt.close(figure)


if __name__ == "__main__":
    main()
