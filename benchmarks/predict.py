"""Texts per second of `randout predict` and `randout evaluate` compared with a `transformers` pipeline on the same classifier.

    python benchmarks/predict.py --model FOLDER --data rhmd:RHMD_3_Class.csv
    python benchmarks/predict.py --smoke    # tiny random model, synthetic texts: takes seconds, numbers are meaningless

The classifier is --model with a random head, saved by randout as a folder that both sides read; the texts are those of
--data, repeated as needed. Each round times the sides in turn on all texts, including tokenization:

- the pipeline as commonly used: `pipeline("text-classification", FOLDER, batch_size=32)(texts, truncation=True)`,
  float32, truncated at the model's maximum length; loaded beforehand;
- randout's predict, then its evaluate, which also reads a labelled file and scores with intervals; both load the folder
  each time, which is counted.

Then the commands, each as its own process on a CSV file, with start-up (the same command on one text) separately, next to
a script that reads the file, runs the pipeline and writes labels. Finally the parts of randout's pass, and different
numbers of tokens per forward pass (--budgets).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from common import tiny_data, tiny_model
from randout import api
from randout.core.config import DataTable
from randout.core.console import Show
from randout.data import dataset as data
from randout.data import tables
from randout.experiments.run import scoring
from randout.models import inference, loading, tokens

import torch  # isort: skip  (randout sets torch's environment first)

QUIET = Show(quiet=True)
COMMANDS = {  # run as processes; {}: classifier folder, table of texts, output file
    "randout predict": [sys.executable, "-m", "randout.cli", "predict", "{model}", "-f", "{file}", "-o", "{out}", "-q"],
    "randout evaluate": [sys.executable, "-m", "randout.cli", "evaluate", "{model}", "{file}", "-q", "--json"],
    "pipeline": [sys.executable, "-c", "{script}", "{model}", "{file}", "{out}"],
}
SCRIPT = """
import csv, sys
from transformers import pipeline
model, file, out = sys.argv[1:]
with open(file, newline="", encoding="utf-8") as stream:
    texts = [row["text"] for row in csv.DictReader(stream)]
found = pipeline("text-classification", model=model, batch_size=32, device="cpu")(texts, truncation=True)
with open(out, "w", newline="", encoding="utf-8") as stream:
    csv.writer(stream).writerows([text, one["label"], one["score"]] for text, one in zip(texts, found))
"""


def main() -> None:
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the commands
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.texts, arguments.rounds, arguments.budgets = 60, 1, "64,256"
        found = compare(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="encoder folder")
    parser.add_argument("--data", help="data whose texts are classified, as for `randout train`")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--budgets", default="", help="tokens per forward pass to compare on a CPU, comma-separated; default: none"
    )
    parser.add_argument("--no-commands", action="store_true", help="do not time the commands")
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads; 0: torch's default")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    return arguments


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything; returns plain values."""
    dataset = data.load(DataTable(source=str(arguments.data)))
    texts = list(islice(cycle(dataset.texts), arguments.texts))
    names = [dataset.id2label[max(int(label), 0)] for label in islice(cycle(dataset.labels), arguments.texts)]
    encoder = loading.load(loading.find(arguments.model), id2label=dataset.id2label)
    loading.save(encoder, folder / "classifier", encoder.longest, "")
    write_table(folder / "texts.csv", texts, names)
    write_table(folder / "one.csv", texts[:1], names[:1])
    found = {"rounds": rounds(arguments, folder, texts), "parts": parts(encoder, folder, texts)}
    found["same"] = agreement(folder / "classifier", texts)
    if not arguments.no_commands:
        found["commands"] = commands(folder, len(texts), () if arguments.smoke else ("one.csv",))
    if arguments.budgets:
        found["budgets"] = budgets(
            encoder, texts, [int(size) for size in arguments.budgets.split(",")], arguments.rounds
        )
    lengths = tokens.encode(encoder.tokenizer, texts).lengths
    setting = {"model": Path(arguments.model).name, "data": dataset.name, "texts": len(texts)}
    setting |= {"tokens a text": round(float(lengths.mean()), 1), "threads": torch.get_num_threads()}
    return {"setting": setting, **found}


def write_table(file: Path, texts: list[str], names: list[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(texts, names, strict=True)])


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rounds(arguments: argparse.Namespace, folder: Path, texts: list[str]) -> list[dict[str, float]]:
    """Texts per second of each side, in turn. Includes loading of the folder by randout's functions."""
    theirs, model = pipe(folder / "classifier"), str(folder / "classifier")
    theirs(texts[:8], truncation=True)
    file, found = str(folder / "texts.csv"), []
    for number in range(arguments.rounds):
        took = {"pipeline": seconds(lambda: theirs(texts, truncation=True))}
        took["predict"] = seconds(lambda: api.predict(model, texts, device="cpu"))
        took["evaluate"] = seconds(lambda: scoring.score_file(scoring.FileRequest(model, file), QUIET))
        found.append({side: len(texts) / spent for side, spent in took.items()})
        rates = ", ".join(f"{side} {rate:.1f}" for side, rate in found[-1].items())
        print(f"round {number + 1}: {rates} texts/s", file=sys.stderr)
    return found


def pipe(classifier: Path) -> Any:
    from transformers import pipeline

    return pipeline("text-classification", model=str(classifier), batch_size=32, device="cpu")


def agreement(classifier: Path, texts: list[str], most: int = 2000) -> dict[str, Any]:
    """Labels that differ between the sides on the first texts, and the largest difference in score."""
    texts = texts[:most]
    labels, probabilities = api.predict(classifier, texts, device="cpu")
    theirs = pipe(classifier)(texts, truncation=True)
    differ = sum(label != one["label"] for label, one in zip(labels, theirs, strict=True))
    scores = np.array([one["score"] for one in theirs])
    return {"texts": len(texts), "differ": differ, "score": float(np.abs(probabilities.max(1) - scores).max())}


def parts(encoder: loading.Encoder, folder: Path, texts: list[str]) -> dict[str, float]:
    """Seconds of each part of a pass over the table: reading, tokenizing, cutting, forward pass, batching, writing."""
    inside: list[float] = []
    hooks = [
        encoder.model.register_forward_pre_hook(lambda *_: inside.append(-time.perf_counter())),
        encoder.model.register_forward_hook(lambda *_: inside.append(time.perf_counter())),
    ]
    times, began = {}, time.perf_counter()

    def part(name: str) -> None:
        nonlocal began
        times[name], began = time.perf_counter() - began, time.perf_counter()

    table = tables.read_table(folder / "texts.csv")
    read = table.columns["text"]
    part("reading the file")
    encoded = tokens.encode(encoder.tokenizer, read)
    part("tokenising")
    cut = tokens.truncate(encoded, encoder.longest, "head", encoder.suffix, encoder.prefix)
    part("cutting")
    logits = inference.predict(encoder, cut, np.arange(len(texts)), "float32")
    part("batching")
    best = logits.argmax(1)
    labels = [encoder.model.config.id2label[int(at)] for at in best]
    made = data.appended(table, {"predicted_label": labels, "score": logits.max(1).tolist()})
    data.write_table(made, folder / "parts.csv")
    part("writing the file")
    times["forward"] = sum(inside)
    times["batching"] -= times["forward"]
    for hook in hooks:
        hook.remove()
    return times


def commands(folder: Path, texts: int, start: Sequence[str]) -> dict[str, dict[str, float]]:
    """Wall seconds of each command on all texts and on the file `start`; texts per second without the start-up."""
    found = {}
    places = {"model": str(folder / "classifier"), "script": SCRIPT}
    for name, command in COMMANDS.items():
        took = [] if start else [0.0]
        for file in (*start, "texts.csv"):
            out = folder / f"out-{file}"
            out.unlink(missing_ok=True)
            words = places | {"file": str(folder / file), "out": str(out)}
            line = [words[word[1:-1]] if word.startswith("{") else word for word in command]
            took.append(seconds(lambda line=line: subprocess.run(line, check=True, stdout=subprocess.DEVNULL)))
        found[name] = {"start": took[0], "whole": took[1], "rate": texts / max(took[1] - took[0], 1e-9)}
        print(f"{name}: {took[1]:.1f} s, of which {took[0]:.1f} s to start", file=sys.stderr)
    return found


def budgets(encoder: loading.Encoder, texts: list[str], sizes: list[int], number: int) -> dict[int, float]:
    """Median texts per second by tokens per forward pass, sizes in turn; without tokenization."""
    cut = tokens.truncate(tokens.encode(encoder.tokenizer, texts), encoder.longest, "head", encoder.suffix)
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    usual = inference.AT_ONCE["cpu"]
    for _ in range(number):
        for size in sizes:
            inference.AT_ONCE["cpu"] = size
            spent = seconds(lambda: inference.predict(encoder, cut, np.arange(len(texts)), "float32"))
            rates[size].append(len(texts) / spent)
    inference.AT_ONCE["cpu"] = usual
    return {size: statistics.median(found) for size, found in rates.items()}


def as_text(found: dict[str, Any]) -> str:
    """Format the results as tables."""
    lines = [
        ", ".join(f"{value} {name}" if name != "model" else str(value) for name, value in found["setting"].items())
    ]
    sides = ("pipeline", "predict", "evaluate")
    lines += [
        "",
        "| round | pipeline, texts/s | predict, texts/s | evaluate, texts/s | ratio |",
        "|---|---|---|---|---|",
    ]
    for number, one in enumerate(found["rounds"], 1):
        cells = " | ".join(f"{one[side]:.1f}" for side in sides)
        lines.append(f"| {number} | {cells} | {one['predict'] / one['pipeline']:.2f} |")
    middle = {side: statistics.median(one[side] for one in found["rounds"]) for side in sides}
    cells = " | ".join(f"{middle[side]:.1f}" for side in sides)
    lines.append(
        f"| median | {cells} | {statistics.median(o['predict'] / o['pipeline'] for o in found['rounds']):.2f} |"
    )
    same = found["same"]
    lines += ["", f"labels that differ: {same['differ']} of {same['texts']}; scores by {same['score']:.1e} at most"]
    whole = sum(found["parts"].values())
    lines += ["", "| part of a pass | s | share |", "|---|---|---|"]
    lines += [f"| {name} | {took:.2f} | {took / whole:.1%} |" for name, took in found["parts"].items()]
    if "commands" in found:
        lines += ["", "| command | whole, s | start-up, s | texts/s without it |", "|---|---|---|---|"]
        row = "| {} | {whole:.1f} | {start:.1f} | {rate:.1f} |"
        lines += [row.format(name, **took) for name, took in found["commands"].items()]
    if "budgets" in found:
        lines += ["", "| tokens of a forward | texts/s |", "|---|---|"]
        lines += [f"| {size} | {rate:.1f} |" for size, rate in found["budgets"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
