"""What a user would pick instead of randout, on the subsets of `defaults_study.py`: accuracy on the same test rows, seconds.

    python benchmarks/defaults_peers.py TABLES STUDENT --peer setfit --rows 60 200 --seeds 1 2 3 --out peers.jsonl

To be run in an environment of its own with setfit, datasets and scikit-learn; it imports nothing of randout. Peers:
`tfidf` (TF-IDF of words and pairs, logistic regression, scikit-learn's defaults), `setfit` (SetFit with the 20 iterations of
its documentation), `setfit-default` (its own defaults: every pair, oversampled), `trainer` (transformers' Trainer as the
text-classification example sets it: 3 epochs at 2e-5, 32 texts a step). Each trains on the whole subset and needs no validation
rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from defaults_study import TEST_ROWS, read, subset

Rows = list[tuple[str, str]]


def tfidf(train: Rows, test: list[str], student: str, seed: int) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    found: list[str] = list(model.fit([text for text, _ in train], [label for _, label in train]).predict(test))
    return found


def setfit(train: Rows, test: list[str], student: str, seed: int, iterations: int | None = 20) -> list[str]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted({label for _, label in train})
    data = Dataset.from_dict({"text": [t for t, _ in train], "label": [names.index(label) for _, label in train]})
    model = SetFitModel.from_pretrained(student)
    settings: dict[str, Any] = {} if iterations is None else {"num_iterations": iterations}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(output_dir=scratch, seed=seed, report_to="none", save_strategy="no", **settings)
        Trainer(model=model, args=arguments, train_dataset=data).train()
    return [names[int(at)] for at in model.predict(test)]


def trainer(train: Rows, test: list[str], student: str, seed: int) -> list[str]:
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
        arguments = TrainingArguments(  # the example's README: 32 texts a device, 2e-5, 3 epochs
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
        scores = peer.predict(encoded(test)).predictions
    return [names[int(at)] for at in np.asarray(scores).argmax(1)]


PEERS = {
    "tfidf": tfidf,
    "setfit": setfit,
    "setfit-default": lambda *given: setfit(*given, iterations=None),
    "trainer": trainer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("student")
    parser.add_argument("--peer", choices=list(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--table", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[60, 200, 700])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("defaults-peers.jsonl"))
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    names = ("peer", "table", "rows", "seed")
    done = {json.dumps([json.loads(line)[name] for name in names]) for line in lines}
    for seed in arguments.seeds:
        for rows in arguments.rows:
            for path in sorted(arguments.tables.glob("*.csv")):
                for peer in arguments.peer:
                    key: dict[str, Any] = {"peer": peer, "table": path.stem, "rows": rows, "seed": seed}
                    if json.dumps(list(key.values())) in done or (arguments.table and path.stem not in arguments.table):
                        continue
                    table = read(path)
                    order = np.random.default_rng(0).permutation(len(table["test"]))[:TEST_ROWS]
                    test = [table["test"][at] for at in order]
                    began = time.perf_counter()
                    made = PEERS[peer](
                        subset(table["train"], rows, seed), [text for text, _ in test], arguments.student, seed
                    )
                    seconds = round(time.perf_counter() - began, 2)
                    right = float(np.mean([one == label for one, (_, label) in zip(made, test, strict=True)]))
                    with arguments.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(key | {"accuracy": right, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
