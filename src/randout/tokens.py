"""Texts as ragged token ids, made once; batches as a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .keys import random_key

WINDOW = 16  # batches sorted by length together, where padding is computed


@dataclass(frozen=True)
class Tokens:
    """ids: int32, all texts end to end; text i is ids[offsets[i]:offsets[i + 1]]. whole: tokens before truncation."""

    ids: np.ndarray
    offsets: np.ndarray
    whole: np.ndarray

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, text: int) -> np.ndarray:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def loss_of_truncation(self) -> tuple[float, float]:
        """Share of texts that were cut, share of all tokens that were lost."""
        lost = self.whole - self.lengths
        return float((lost > 0).mean()), float(lost.sum() / max(self.whole.sum(), 1))


def encode(tokenizer: Any, texts: Sequence[str], chunk: int = 1000) -> list[np.ndarray]:
    """The token ids of every text with its special tokens, untruncated."""
    found: list[np.ndarray] = []
    for at in range(0, len(texts), chunk):
        block = tokenizer(list(texts[at : at + chunk]), truncation=False, padding=False, verbose=False)["input_ids"]
        found += [np.asarray(row, dtype=np.int32) for row in block]
    return found


def percentile_length(encoded: Sequence[np.ndarray], limit: int) -> int:
    """The 99th percentile of the lengths, at most what the encoder takes."""
    return int(min(np.ceil(np.percentile([len(row) for row in encoded], 99)), limit))


def truncate(encoded: Sequence[np.ndarray], max_length: int, truncation: str, suffix: int, prefix: int = 1) -> Tokens:
    """Cut each text to `max_length` tokens, special tokens kept at both ends.

    "head" keeps the first tokens; "head+tail" a quarter of the room from the head and the rest from the tail (the
    proportion of Sun et al. 2019, 1905.05583). Raises ValueError where the special tokens leave no room.
    """
    if max_length <= prefix + suffix:
        raise ValueError(f"max_length {max_length} leaves no room beside {prefix + suffix} special tokens")
    whole = np.array([len(row) for row in encoded], dtype=np.int64)
    kept = []
    for row in encoded:
        if len(row) > max_length:
            end = row[len(row) - suffix :]
            room = max_length - prefix - suffix
            head = room // 4 if truncation == "head+tail" else room
            body = row[prefix : len(row) - suffix]
            row = np.concatenate([row[:prefix], body[:head], body[len(body) - (room - head) :], end])
        kept.append(row)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in kept])]).astype(np.int64)
    return Tokens(np.concatenate(kept) if kept else np.zeros(0, np.int32), offsets, whole)


def batches(
    lengths: np.ndarray, labelled: np.ndarray, unlabelled: np.ndarray, size: int, seed: int, epoch: int, windows: bool
) -> list[np.ndarray]:
    """The rows of every step of an epoch, each batch sorted by length.

    Each row comes once an epoch. Where there are rows without labels, both kinds are shuffled apart and spread evenly:
    of the first k rows, the labelled ones are their share of k, rounded. `windows` (for encoders that compute padding)
    sorts stretches of 16 batches by length before cutting them, and shuffles the batches.
    """
    draw = np.random.default_rng(random_key(seed, "order", epoch))
    order = _spread(draw.permutation(labelled), draw.permutation(unlabelled))
    if windows:
        stretch = size * WINDOW
        parts = [order[at : at + stretch] for at in range(0, len(order), stretch)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    cut = [order[at : at + size] for at in range(0, len(order), size)]
    if windows:
        cut = [cut[at] for at in draw.permutation(len(cut))]
    return [rows[np.argsort(lengths[rows], kind="stable")] for rows in cut]


def _spread(labelled: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    total = len(labelled) + len(unlabelled)
    quota = np.round(np.arange(total + 1) * (len(labelled) / max(total, 1))).astype(np.int64)
    mixed = np.empty(total, dtype=np.int64)
    takes = np.diff(quota) > 0
    mixed[takes], mixed[~takes] = labelled, unlabelled
    return mixed


def by_length(lengths: np.ndarray, rows: np.ndarray, tokens: int = 8192) -> list[np.ndarray]:
    """Rows for evaluation, longest first, cut so that no batch of several texts exceeds `tokens`, padding included."""
    order = rows[np.argsort(lengths[rows], kind="stable")][::-1]
    found, at = [], 0
    while at < len(order):
        take = max(int(tokens // max(lengths[order[at]], 1)), 1)
        found.append(order[at : at + take])
        at += take
    return found
