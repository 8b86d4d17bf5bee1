"""Compare randout without options with common alternatives, on the subsets of `defaults_study.py`.

    python benchmarks/defaults.py TABLES STUDENT --peer randout --out defaults.jsonl
    python benchmarks/defaults.py TABLES STUDENT --peer tfidf setfit trainer --out defaults.jsonl
    python benchmarks/defaults.py TABLES STUDENT --peer autogluon --out defaults.jsonl
    python benchmarks/defaults.py TABLES STUDENT --jobs 14 --seconds 540 --out defaults-gpu.jsonl     (on a large machine)
    python benchmarks/defaults.py --out defaults.jsonl                           (prints the table of the results so far)

Measures accuracy on the same test rows, seconds, and seconds of CPU time (which depend little on other work on the machine;
with OMP_NUM_THREADS=1 the two are equal on an idle machine). The peers run in their own environment with setfit, datasets and
scikit-learn, without importing randout: `tfidf` (TF-IDF of words and pairs, logistic regression), `setfit` (SetFit with the 20
iterations of its documentation), `setfit-default` (its own defaults: every pair), `trainer` (transformers' Trainer with the
settings of the text-classification example: 3 epochs at 2e-5, 32 texts per step), `autogluon` (AutoGluon's predictor with the
same encoder and its own defaults; in an environment with autogluon.multimodal). They train on every row of the subset
(AutoGluon holds out a part itself); randout holds out 15 % for validation, and also trains on these after they are scored.
The same command resumes. With several jobs, runs share the machine, so that only their accuracy is reported.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from defaults_study import TEST_ROWS, read, subset

Rows = list[tuple[str, str]]


def randout(train: Rows, test: Rows, student: str, seed: int) -> list[str]:
    import randout as tool

    with tempfile.TemporaryDirectory() as scratch:
        held = (
            Path(scratch) / "test.csv"
        )  # as `randout train TRAIN --test TEST`, so that no part of `train` is held out for testing
        with held.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *test])
        columns = {"text": [text for text, _ in train], "label": [label for _, label in train]}
        settings = {"seed": seed, "data.test": str(held)}
        result = tool.train(columns, student=student, teacher="none", settings=settings, runs=scratch)
        found: list[str] = tool.load(result.folder).predict([text for text, _ in test])
    return found


def tfidf(train: Rows, test: Rows, student: str, seed: int) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit([text for text, _ in train], [label for _, label in train])
    found: list[str] = list(model.predict([text for text, _ in test]))
    return found


def setfit(train: Rows, test: Rows, student: str, seed: int, iterations: int | None = 20) -> list[str]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted({label for _, label in train})
    data = Dataset.from_dict({"text": [t for t, _ in train], "label": [names.index(label) for _, label in train]})
    model = SetFitModel.from_pretrained(student)
    settings: dict[str, Any] = {} if iterations is None else {"num_iterations": iterations}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(output_dir=scratch, seed=seed, report_to="none", save_strategy="no", **settings)
        Trainer(model=model, args=arguments, train_dataset=data).train()
    return [names[int(at)] for at in model.predict([text for text, _ in test])]


def trainer(train: Rows, test: Rows, student: str, seed: int) -> list[str]:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    names = sorted({label for _, label in train})
    tokenizer = AutoTokenizer.from_pretrained(student)

    def encoded(texts: list[str], labels: list[int] | None = None) -> list[dict[str, Any]]:
        made = tokenizer(texts, truncation=True, max_length=128)
        rows = [{key: value[at] for key, value in made.items()} for at in range(len(texts))]
        return [row | {"labels": label} for row, label in zip(rows, labels, strict=True)] if labels else rows

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(student, num_labels=len(names))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(  # settings of the example's README: 32 texts per device, 2e-5, 3 epochs
            scratch,
            per_device_train_batch_size=32,
            learning_rate=2e-5,
            num_train_epochs=3,
            seed=seed,
            report_to="none",
            save_strategy="no",
        )
        rows = encoded([text for text, _ in train], [names.index(label) for _, label in train])
        peer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
        peer.train()
        scores = peer.predict(encoded([text for text, _ in test])).predictions
    return [names[int(at)] for at in np.asarray(scores).argmax(1)]


def autogluon(train: Rows, test: Rows, student: str, seed: int) -> list[str]:
    import pandas
    from autogluon.multimodal import MultiModalPredictor

    with tempfile.TemporaryDirectory() as scratch:
        predictor = MultiModalPredictor(label="label", path=str(Path(scratch) / "model"), verbosity=0)
        chosen = {"model.hf_text.checkpoint_name": student}
        predictor.fit(pandas.DataFrame(train, columns=["text", "label"]), hyperparameters=chosen, seed=seed)
        found: list[str] = predictor.predict(pandas.DataFrame(test, columns=["text", "label"])[["text"]]).tolist()
    return found


PEERS = {
    "randout": randout,
    "tfidf": tfidf,
    "setfit": setfit,
    "setfit-default": lambda *given: setfit(*given, iterations=None),
    "trainer": trainer,
    "autogluon": autogluon,
}


def cells_of(lines: list[dict[str, Any]]) -> dict[tuple[int, str], dict[str, dict[int, float]]]:
    """Accuracy by (rows, table), peer and seed; the mean where a run was made on several machines."""
    found: dict[tuple[int, str], dict[str, dict[int, list[float]]]] = {}
    for line in lines:
        peers = found.setdefault((line["rows"], line["table"]), {})
        peers.setdefault(line["peer"], {}).setdefault(line["seed"], []).append(line["accuracy"])
    return {
        cell: {peer: {seed: float(np.mean(each)) for seed, each in seeds.items()} for peer, seeds in peers.items()}
        for cell, peers in found.items()
    }


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Markdown table: by table and size, each peer's median accuracy, number of seeds, and median CPU seconds if timed."""
    cells, timed = cells_of(lines), [line for line in lines if "cpu_seconds" in line]
    peers = [name for name in PEERS if any(name in found for found in cells.values())]
    made = [f"| table | rows | {' | '.join(peers)} |", "|---" * (2 + len(peers)) + "|"]
    for rows, name in sorted(cells):
        shown = []
        for peer in peers:
            seeds = cells[rows, name].get(peer, {})
            one = {"peer": peer, "table": name, "rows": rows}
            spent = [line["cpu_seconds"] for line in timed if one.items() <= line.items()]
            about = [str(len(seeds)), *([f"{np.median(spent):.0f} s"] if spent else [])]
            shown.append(f"{100 * np.median([*seeds.values()]):.1f} % ({', '.join(about)})" if seeds else "")
        made.append(f"| {name} | {rows} | {' | '.join(shown)} |")
    return made


def paired(lines: list[dict[str, Any]]) -> list[str]:
    """Markdown table: accuracy of randout minus that of each peer, over the (table, rows, seed) that both were run on."""
    made = ["| peer | pairs | mean difference | lowest | highest |", "|---|---|---|---|---|"]
    for peer in [name for name in PEERS if name != "randout"]:
        found = [
            100 * (accuracy - cell[peer][seed])
            for cell in cells_of(lines).values()
            for seed, accuracy in cell.get("randout", {}).items()
            if seed in cell.get(peer, {})
        ]
        if found:
            made.append(f"| {peer} | {len(found)} | {np.mean(found):+.1f} | {min(found):+.1f} | {max(found):+.1f} |")
    return made


def processor_seconds() -> float:
    """CPU time of this process and of its ended children so far."""
    return sum(os.times()[:4])


def run(key: dict[str, Any], tables: Path, student: str) -> dict[str, Any]:
    """Train one peer on one subset and score it on the test rows of the table."""
    parts = read(tables / f"{key['table']}.csv")
    test = [parts["test"][at] for at in np.random.default_rng(0).permutation(len(parts["test"]))[:TEST_ROWS]]
    began, cpu_began = time.perf_counter(), processor_seconds()
    made = PEERS[key["peer"]](subset(parts["train"], key["rows"], key["seed"]), test, student, key["seed"])
    spent, cpu_spent = time.perf_counter() - began, processor_seconds() - cpu_began
    right = float(np.mean([one == label for one, (_, label) in zip(made, test, strict=True)]))
    return key | {"accuracy": right, "seconds": round(spent, 2), "cpu_seconds": round(cpu_spent, 2)}


def untimed(key: dict[str, Any], tables: Path, student: str) -> dict[str, Any]:
    """As `run`, without times and with the device, for runs that share a machine. A failed run returns its error."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    torch.use_deterministic_algorithms(False)  # a run of randout in the same process turned them on
    try:
        found = run(key, tables, student)
    except Exception as error:
        return key | {"error": f"{type(error).__name__}: {error}"[:500]}
    return {name: value for name, value in found.items() if "seconds" not in name} | {"device": device}


def carry_out(todo: list[dict[str, Any]], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run the tasks, one after the other or in several processes; yields each result as it comes."""
    if arguments.jobs == 1:
        yield from (run(key, arguments.tables, arguments.student) for key in todo)
        return
    until = time.monotonic() + arguments.seconds
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        waiting = [pool.apply_async(untimed, (key, arguments.tables, arguments.student)) for key in todo]
        while waiting and time.monotonic() < until:
            for one in [one for one in waiting if one.ready()]:
                waiting.remove(one)
                yield one.get()
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="?")
    parser.add_argument("student", nargs="?")
    parser.add_argument("--peer", choices=list(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--table", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[60, 200, 700])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time; more than one: not timed")
    parser.add_argument("--seconds", type=float, default=1e9, help="with several jobs: stop after this many seconds")
    parser.add_argument("--out", type=Path, default=Path("defaults.jsonl"))
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    if arguments.tables is None:
        found = [json.loads(line) for line in lines]
        print("\n".join([*table(found), "", *paired(found)]))
        return
    names = ("peer", "table", "rows", "seed")
    done = {json.dumps([json.loads(line)[name] for name in names]) for line in lines}
    names_of_tables = arguments.table or sorted(path.stem for path in arguments.tables.glob("*.csv"))
    order = itertools.product(arguments.seeds, arguments.rows, names_of_tables, arguments.peer)
    keys = [{"peer": peer, "table": name, "rows": rows, "seed": seed} for seed, rows, name, peer in order]
    todo = [key for key in keys if json.dumps([key[name] for name in names]) not in done]
    with arguments.out.open("a", encoding="utf-8") as stream:
        for result in carry_out(todo, arguments):
            print(result, file=sys.stderr if "error" in result else sys.stdout, flush=True)
            if "error" not in result:
                stream.write(json.dumps(result) + "\n")
                stream.flush()


if __name__ == "__main__":
    main()
