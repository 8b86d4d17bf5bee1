"""A toy table of texts with label sets: a text has words of each of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from randout.testing.models import CLASSES, COMMON


def toy_label_sets(n: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Make n texts and their label sets, of none to three of three labels."""
    draws = np.random.default_rng(seed)
    texts, sets = [], []
    for _ in range(n):
        labels = sorted(
            str(name) for name in draws.choice(sorted(CLASSES), draws.choice([0, 1, 1, 1, 2, 2, 3]), replace=False)
        )
        words = [*draws.choice(COMMON, 8), *(word for label in labels for word in draws.choice(CLASSES[label], 4))]
        texts.append(" ".join(str(word) for word in draws.permutation(words)))
        sets.append(labels)
    return texts, sets


def write_label_sets(path: Path, n: int = 120, seed: int = 0) -> Path:
    """Write a CSV file with the columns text and label, labels joined by a semicolon."""
    rows = [f"{text},{';'.join(labels)}" for text, labels in zip(*toy_label_sets(n, seed), strict=True)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path
