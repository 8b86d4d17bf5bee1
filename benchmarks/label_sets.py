"""Compare randout without options with SetFit and a linear model on texts that have several labels.

    python benchmarks/label_sets.py TABLES/rhmd.csv STUDENT --peer randout tfidf setfit --out label-sets.jsonl
    python benchmarks/label_sets.py --out label-sets.jsonl                       (prints the table of the results so far)

The labels of a text are its class and the words of `--words` that it contains, so a model has to find out which words are
labels. Peers: `setfit` as its multi-label example does (one-vs-rest heads, 20 iterations), `tfidf` (TF-IDF of words and pairs,
one balanced logistic regression a label). Both run without importing randout. Measures sample F1 and micro F1 over the same
test rows, and CPU seconds. The table is one of `defaults_tables.py`; the same command resumes.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from defaults import processor_seconds
from defaults_study import TEST_ROWS, read, subset

WORDS = ("addict", "depress", "cancer", "headache", "diabet", "stroke", "cough")
Sets = list[tuple[str, list[str]]]


def randout(train: Sets, test: Sets, names: list[str], student: str, seed: int) -> np.ndarray:
    import randout as tool

    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / name for name in ("train.csv", "test.csv")]
        for path, rows in zip(paths, (train, test), strict=True):
            with path.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([("text", "label"), *((text, ";".join(own)) for text, own in rows)])
        settings = {"seed": seed, "data.test": str(paths[1]), "data.label_separator": ";"}
        result = tool.train(paths[0], student=student, teacher="none", settings=settings, runs=scratch)
        found = tool.load(result.folder).predict([text for text, _ in test])
    return flags(found, names)


def tfidf(train: Sets, test: Sets, names: list[str], student: str, seed: int) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    rest = OneVsRestClassifier(LogisticRegression(max_iter=1000, class_weight="balanced"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), rest)
    model.fit([text for text, _ in train], flags([own for _, own in train], names))
    return np.asarray(model.predict([text for text, _ in test]), bool)


def setfit(train: Sets, test: Sets, names: list[str], student: str, seed: int) -> np.ndarray:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    given = flags([own for _, own in train], names).astype(int).tolist()
    data = Dataset.from_dict({"text": [text for text, _ in train], "label": given})
    model = SetFitModel.from_pretrained(student, multi_target_strategy="one-vs-rest")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(scratch, seed=seed, num_iterations=20, report_to="none", save_strategy="no")
        Trainer(model=model, args=arguments, train_dataset=data).train()
    return np.asarray(model.predict([text for text, _ in test], as_numpy=True), bool)


PEERS = {"randout": randout, "tfidf": tfidf, "setfit": setfit}


def flags(sets: list[list[str]], names: list[str]) -> np.ndarray:
    """(n, labels) whether each label is in each set."""
    return np.array([[name in own for name in names] for own in sets], bool)


def labelled(rows: list[tuple[str, str]], words: list[str]) -> Sets:
    return [(text, [label, *(word for word in words if word in text.lower())]) for text, label in rows]


def f1(truth: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """Mean of 2|A and B| / (|A| + |B|) over rows (every true set here has a label), and the same over all rows at once."""
    both, sizes = (truth & made).sum(1), truth.sum(1) + made.sum(1)
    return float(np.mean(2 * both / sizes)), float(2 * both.sum() / sizes.sum())


def table(lines: list[dict[str, Any]]) -> list[str]:
    made = ["| rows | seed | peer | sample F1 | micro F1 | CPU seconds |", "|---|---|---|---|---|---|"]
    for line in sorted(lines, key=lambda one: (one["rows"], one["seed"], list(PEERS).index(one["peer"]))):
        scores = f"{100 * line['sample_f1']:.1f} % | {100 * line['micro_f1']:.1f} %"
        made.append(f"| {line['rows']} | {line['seed']} | {line['peer']} | {scores} | {line['cpu_seconds']:.0f} |")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("student", nargs="?")
    parser.add_argument("--words", nargs="+", default=list(WORDS))
    parser.add_argument("--peer", choices=list(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--rows", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=Path("label-sets.jsonl"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.table is None:
        print("\n".join(table(lines)))
        return
    done = {(line["rows"], line["seed"], line["peer"]) for line in lines}
    parts = read(arguments.table)
    order = np.random.default_rng(0).permutation(len(parts["test"]))[:TEST_ROWS]
    test = labelled([parts["test"][at] for at in order], arguments.words)
    for rows, seed, peer in ((r, s, p) for r in arguments.rows for s in arguments.seeds for p in arguments.peer):
        if (rows, seed, peer) in done:
            continue
        train = labelled(subset(parts["train"], rows, seed), arguments.words)
        names = sorted({name for _, own in train for name in own})
        began = processor_seconds()
        made = PEERS[peer](train, test, names, arguments.student, seed)
        spent = processor_seconds() - began
        sample, micro = f1(flags([own for _, own in test], names), made)
        scores = {"sample_f1": sample, "micro_f1": micro, "cpu_seconds": round(spent, 1)}
        result = {"table": arguments.table.stem, "rows": rows, "seed": seed, "peer": peer} | scores
        print(result, flush=True)
        with arguments.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
