"""Write a teacher's probabilities as a language model would give them, for the study of imported soft labels.

    python benchmarks/answers.py TEACHER FOLDER TABLE [TABLE ...]

TEACHER is a run or a classifier; the texts are those of the training and validation rows of the tables (all rows of a table
without a column `split`). The answers to all texts go to these files in FOLDER, as `randout train --teacher` reads them:

exact.csv      prob_CLASS: the teacher's probabilities
labels.csv     prediction: the most probable class alone
sure.csv       prediction, confidence: probabilities sharpened (logits times 3), rounded to 0.05, never below 0.8
missing.csv    as exact.csv without one row in ten
answers.csv    all of these habits: as sure.csv without one row in ten
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import randout

SHARPER, STEP, LEAST = 3.0, 0.05, 0.8
MISSING = 0.1


def texts_of(table: Path) -> list[str]:
    """The texts of the rows of a table that are not test rows."""
    with table.open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream) if row.get("split") != "test" and row["text"].strip()]


def sure(probabilities: np.ndarray) -> np.ndarray:
    """Confidence (n,) in the most probable class as language models state it. probabilities: (n, C)."""
    sharpened = probabilities**SHARPER
    stated = np.round((sharpened / sharpened.sum(1, keepdims=True)).max(1) / STEP) * STEP
    return np.clip(stated, LEAST, 1.0)


def write_answers(texts: list[str], probabilities: np.ndarray, classes: list[str], folder: Path) -> list[Path]:
    """Write the files. probabilities: (n, C), columns by `classes`. Returns their paths."""
    kept = np.random.default_rng(0).random(len(texts)) >= MISSING
    named = [classes[best] for best in probabilities.argmax(1)]
    stated = [f"{value:.2f}" for value in sure(probabilities)]
    shares = [[f"{value:.6f}" for value in row] for row in probabilities]
    columns = {
        "exact": ([f"prob_{name}" for name in classes], shares, None),
        "labels": (["prediction"], [[name] for name in named], None),
        "sure": (["prediction", "confidence"], [list(pair) for pair in zip(named, stated, strict=True)], None),
        "missing": ([f"prob_{name}" for name in classes], shares, kept),
        "answers": (["prediction", "confidence"], [list(pair) for pair in zip(named, stated, strict=True)], kept),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (header, rows, mask) in columns.items():
        path = folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", *header])
            writer.writerows(
                [text, *row] for at, (text, row) in enumerate(zip(texts, rows, strict=True)) if mask is None or mask[at]
            )
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("folder", type=Path)
    parser.add_argument("tables", nargs="+", type=Path)
    arguments = parser.parse_args()
    texts = list(dict.fromkeys(text for table in arguments.tables for text in texts_of(table)))
    model = randout.load(arguments.teacher)
    classes = [model.id2label[at] for at in range(len(model.id2label))]
    for path in write_answers(texts, model.predict_proba(texts), classes, arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
