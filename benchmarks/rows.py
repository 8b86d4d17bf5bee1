"""How cost grows with rows: seconds and peak memory of each part of a training on 1,000 to 1,000,000 rows.

    python benchmarks/rows.py --model FOLDER --data rhmd:RHMD_3_Class.csv [--plot FILE.png]
    python benchmarks/rows.py --smoke    # tiny random model, synthetic texts: takes seconds, numbers are meaningless

Texts are generated from the words of --data with the same lengths; one row in twenty is a copy of another. Each number of
rows is measured in its own process, part by part: reading, checking and splitting the file; tokenization; the rest of the
plan; the student and its first training steps, with a teacher's logits for every row; the order of an epoch; scores of
every row with intervals; writing and reading soft labels. Peak memory is that of the whole process until the end of a
part, so it never decreases.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

SIZES = "1000,10000,100000,1000000"
COPIES = 20  # one row in this many is a copy of an earlier one
MEMORY = 24 * 2**30  # bytes within which a million rows must train


def main() -> None:
    arguments = read_arguments()
    if arguments.part:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            from common import tiny_data, tiny_model

            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.rows, arguments.steps = "400,800", 2
        found = {"setting": {"model": Path(arguments.model).name}, "sizes": grown(arguments, Path(folder))}
    if arguments.plot:
        draw(found["sizes"], arguments.plot)
    print(json.dumps(found) if arguments.json else as_text(found["sizes"]))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder: the student, and the teacher's tokenizer")
    parser.add_argument("--data", help="data that provides words and text lengths, as for `randout train`")
    parser.add_argument("--rows", default=SIZES, help="numbers of rows, comma-separated")
    parser.add_argument("--steps", type=int, default=4, help="training steps")
    parser.add_argument("--plot", type=Path, help="write a PNG of time and memory by number of rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)  # file that this process measures
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    return arguments


def grown(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure the cost of each number of rows, in increasing order."""
    words, lengths = words_of(arguments.data)
    found = []
    for rows in sorted(int(number) for number in arguments.rows.split(",")):
        file = folder / f"rows-{rows}.csv"
        write_rows(file, rows, words, lengths)
        command = [sys.executable, __file__, "--part", str(file), "--model", arguments.model, "--data", arguments.data]
        done = subprocess.run(
            [*command, "--steps", str(arguments.steps)], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append({"rows": rows, "bytes": file.stat().st_size, **json.loads(done.stdout)})
        file.unlink()
        print(f"{rows:,} rows: {found[-1]['parts'][-1]['peak'] / 2**30:.2f} GiB at most", file=sys.stderr)
    return found


def words_of(source: str) -> tuple[np.ndarray, np.ndarray]:
    """All words of a data set's texts with repetitions, and the number of words of each text."""
    from randout.core.config import DataTable
    from randout.data.dataset import load

    texts = [text.split() for text in load(DataTable(source=str(source))).texts]
    return np.array([word for text in texts for word in text], dtype=object), np.array([len(text) for text in texts])


def write_rows(file: Path, rows: int, words: np.ndarray, lengths: np.ndarray) -> None:
    """Write a CSV of synthetic texts with three labels; smaller files are prefixes of larger ones."""
    generator, earlier = np.random.default_rng(0), ""
    with file.open("w", encoding="utf-8", newline="") as stream:
        write = csv.writer(stream, lineterminator="\n").writerow
        write(["text", "label"])
        for row in range(rows):
            if row % COPIES == COPIES - 1:
                text = earlier
            else:
                text = " ".join(words[generator.integers(len(words), size=generator.choice(lengths))])
            earlier = text if row % COPIES == 0 else earlier
            write([text, "abc"[row % 3]])


def peak() -> int:
    """Peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` may report the size of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds and peak memory of every part for one file, in this process."""
    from randout.core import config
    from randout.data.dataset import load
    from randout.experiments.run import planning, soft_labels, student
    from randout.methods.builtin import METHODS
    from randout.models import tokenization
    from randout.models.sources import find
    from randout.models.tokens import batches
    from randout.stats import metrics
    from randout.training import loop

    import torch  # isort: skip

    parts: list[dict[str, Any]] = []

    @contextmanager
    def part(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        parts.append({"part": name, "seconds": time.perf_counter() - began, "peak": peak()})

    with part("nothing"):
        source = find(arguments.model)
        own = {"data": {"source": str(arguments.part)}, "student": {"model": arguments.model}}
        own["teacher"] = {"model": arguments.model}
        settings = config.build([config.read_preset("randout-kd"), own], METHODS)
    with part("read and split"):
        dataset = load(settings.data)
    with part("tokenise"):
        tokenization.tokens_for(source, settings.student, dataset, [])
    with part("plan"):
        plan = planning.make(settings, dataset)
    rows, classes = len(dataset.texts), len(dataset.id2label)
    logits = np.random.default_rng(0).normal(size=(rows, classes)).astype(np.float32)
    with part("student"):
        training = student.begin_training(plan)
        data = student.make_training_data(plan, student.TeacherOutputs("", torch.from_numpy(logits)))
    with part("training steps"):
        seconds = steps(loop.fit(training, data, validate=dict), arguments.steps)
    with part("order of an epoch"):
        table = plan.config.train
        batches(plan.tokens.lengths, data.labelled, data.unlabelled, table.batch_size, table.seed, 0, False)
    with part("score"):
        metrics.score(dataset.labels, logits, dataset.id2label, dataset.groups)
    with part("soft labels"):
        named = soft_labels.fingerprint("none", plan.config.student.max_length, "head", "float32", dataset.texts)
        with tempfile.TemporaryDirectory() as folder:
            path, _ = soft_labels.read_stored_logits(Path(folder), named)
            soft_labels.store(path, logits, named)
            soft_labels.read_stored_logits(Path(folder), named)
    return {"parts": parts, "tokens": int(plan.tokens.lengths.sum()), "seconds_of_steps": seconds}


def steps(events: Iterator[Any], number: int) -> list[float]:
    """Seconds of each of the first steps; the first includes work done once per epoch."""
    found, began = [], time.perf_counter()
    for _ in islice(events, number):
        found.append(time.perf_counter() - began)
        began = time.perf_counter()
    return found


def as_text(sizes: list[dict[str, Any]]) -> str:
    """Table with one row per part and one column per number of rows: seconds and microseconds per row, then peak memory."""
    head = [f"{size['rows']:,} rows" for size in sizes]
    lines = [f"| part | {' | '.join(head)} |", "|---" * (len(sizes) + 1) + "|"]
    names = [part["part"] for part in sizes[0]["parts"]][1:]
    for at, name in enumerate(names, 1):
        spent = [(size["parts"][at]["seconds"], size["rows"]) for size in sizes]
        cells = [f"{seconds:.2f} s, {1e6 * seconds / rows:.1f} us per row" for seconds, rows in spent]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for at, name in enumerate(["start", *names]):
        cells = [f"{size['parts'][at]['peak'] / 2**20:,.0f} MiB" for size in sizes]
        lines.append(f"| peak memory until: {name} | {' | '.join(cells)} |")
    last = [f"{1e3 * float(np.median(size['seconds_of_steps'][1:])):.0f} ms" for size in sizes]
    lines.append(f"| a training step | {' | '.join(last)} |")
    more = [(s["parts"][-1]["peak"] - s["parts"][0]["peak"]) / s["rows"] for s in sizes]
    lines.append(f"| peak memory above the start, bytes per row | {' | '.join(f'{value:,.0f}' for value in more)} |")
    return "\n".join(lines)


def draw(sizes: list[dict[str, Any]], file: Path) -> None:
    """Plot time and peak memory by number of rows, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [size["rows"] for size in sizes]
    for at, part in enumerate(sizes[0]["parts"]):
        if at:
            left.plot(rows, [size["parts"][at]["seconds"] for size in sizes], "o-", label=part["part"])
            right.plot(rows, [size["parts"][at]["peak"] / 2**30 for size in sizes], "o-")  # the same colours
    right.axhline(MEMORY / 2**30, color="grey", linestyle="--", label="24 GiB")
    for axes, unit in ((left, "seconds"), (right, "peak memory until the part's end, GiB")):
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel=unit)
        axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
