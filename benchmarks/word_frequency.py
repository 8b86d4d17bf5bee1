"""Accuracy of the baselines by the number of training texts in which a word must occur, on small training sets.

    python benchmarks/word_frequency.py film csabstruct.toml rhmd:RHMD_3_Class.csv --seeds 1,2,3,4,5

Datasets are given as for `randout train`. For every seed, `--rows` training rows are sampled, and 2,000 rows of the test
split are scored. Prints a Markdown table: mean accuracy in percent over the seeds, one column for each minimum.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from randout.baselines import CLASSIFIERS, Bag, Labelled
from randout.core.config import DataTable, TrainTable
from randout.core.errors import UserError
from randout.data import dataset as data

SCORED = 2000


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def fitted_on(kind: type[Bag], minimum: int, train: Labelled, held: Labelled, id2label: dict[int, str]) -> float:
    """Return the accuracy on `held`; chance level of the largest class if no word is frequent enough."""
    try:
        fitted = kind(min_df=minimum).fit(train, held, id2label, TrainTable(seed=0), lambda _done: None)
    except UserError:
        return float((held.labels == np.bincount(train.labels).argmax()).mean())
    return float((fitted.logits(held.texts).argmax(1) == held.labels).mean())


def sampled(dataset: data.Dataset, rows: int, seed: int) -> tuple[Labelled, Labelled]:
    """Return `rows` training texts with every class among them, and the scored texts."""
    rng = np.random.default_rng(seed)
    train = rng.permutation(dataset.split["train"])
    first = [train[np.flatnonzero(dataset.labels[train] == at)[:1]] for at in range(len(dataset.id2label))]
    kept = list(dict.fromkeys(int(row) for row in np.concatenate([*first, train])))[:rows]
    held = rng.permutation(dataset.split["test"])[:SCORED]
    return tuple(  # type: ignore[return-value]
        Labelled([dataset.texts[row] for row in part], dataset.labels[part]) for part in (np.array(kept), held)
    )


def table(arguments: Any) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| classifier | data | rows | {' | '.join(map(str, arguments.minimum))} |"
    yield "|---|---|---:|" + "---:|" * len(arguments.minimum)
    for source in arguments.datasets:
        dataset = data.load(DataTable(source=source))
        for rows in arguments.rows:
            pairs = [sampled(dataset, rows, seed) for seed in arguments.seeds]
            for name in arguments.classifiers.split(","):
                kind: Any = CLASSIFIERS[name]
                found = [
                    np.mean([fitted_on(kind, least, *pair, dataset.id2label) for pair in pairs])
                    for least in arguments.minimum
                ]
                yield f"| {name} | {dataset.name} | {rows} | {' | '.join(f'{100 * one:.1f}' for one in found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--rows", type=numbers, default="60,200,500")
    parser.add_argument("--seeds", type=numbers, default="1,2,3,4,5")
    parser.add_argument("--minimum", type=numbers, default="1,2,3,5")
    parser.add_argument("--classifiers", default="svm,rf,mnb-count,mnb-tfidf")
    for line in table(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
