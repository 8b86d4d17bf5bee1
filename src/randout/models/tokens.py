"""Texts as ragged token ids, computed once; batches as a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from randout.core.rng import random_key

WINDOW = 16  # batches sorted by length together, where padding is computed


@dataclass(frozen=True)
class Tokens:
    """ids: int32, all texts end to end; text i is ids[offsets[i]:offsets[i + 1]]. whole: tokens before truncation.
    empty: texts of which the tokenizer made no tokens, and which have one stand-in token.
    """

    ids: np.ndarray
    offsets: np.ndarray
    whole: np.ndarray
    empty: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, text: int) -> np.ndarray:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each text. Made once: every training step asks, and there may be a million texts."""
        return np.diff(self.offsets)

    def loss_of_truncation(self) -> tuple[float, float]:
        """Share of texts that were cut, share of all tokens that were lost."""
        lost = self.whole - self.lengths
        return float((lost > 0).mean()), float(lost.sum() / max(self.whole.sum(), 1))


def encode(tokenizer: Any, texts: Sequence[str], chunk: int = 1000) -> Tokens:
    """The token ids of every text with its special tokens, uncut.

    A text of which the tokenizer makes no tokens (characters that it drops, and no special tokens) becomes its token
    for unknown words, so that a model says something of it that no other text changes; `empty` names it.
    """
    special = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
    stand_in = next((index for index in special if index is not None), 0)
    empty: list[int] = []
    unasked = {"return_attention_mask": False, "return_token_type_ids": False}  # a Python list a text each
    parts = []
    for at in range(0, len(texts), chunk):
        block = list(texts[at : at + chunk])
        rows = tokenizer(block, truncation=False, padding=False, verbose=False, **unasked)["input_ids"]
        empty += [at + row for row, ids in enumerate(rows) if not ids]
        parts.append(_laid_out([ids or [stand_in] for ids in rows]))
    if not parts:
        return _laid_out([])
    whole = np.concatenate([part.whole for part in parts])
    return Tokens(np.concatenate([part.ids for part in parts]), _offsets(whole), whole, tuple(empty))


def _laid_out(rows: Sequence[Sequence[int]]) -> Tokens:
    """Lists of token ids as `Tokens`, uncut."""
    whole = np.fromiter(map(len, rows), np.int64, len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), np.int32, int(whole.sum())), _offsets(whole), whole)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def percentile_length(lengths: np.ndarray, limit: int) -> int:
    """The 99th percentile of the lengths, at most what the encoder takes."""
    return int(min(np.ceil(np.percentile(lengths, 99)), limit))


def truncate(encoded: Tokens, max_length: int, truncation: str, suffix: int, prefix: int = 1) -> Tokens:
    """Cut each text to `max_length` tokens, special tokens kept at both ends.

    "head" keeps the first tokens; "head+tail" a quarter of the room from the head and the rest from the tail (the
    proportion of Sun et al. 2019, 1905.05583). Where no text is cut, the ids are those of `encoded`, not a copy. Raises
    ValueError where the special tokens leave no room.
    """
    if max_length <= prefix + suffix:
        raise ValueError(f"max_length {max_length} leaves no room beside {prefix + suffix} special tokens")
    long = encoded.lengths > max_length
    if not long.any():
        return Tokens(encoded.ids, encoded.offsets, encoded.whole, encoded.empty)
    room = max_length - prefix - suffix
    head = room // 4 if truncation == "head+tail" else room
    change = np.zeros(len(encoded.ids) + 1, np.int8)  # 1 where a gap begins, -1 where it has ended, 0 where both
    change[encoded.offsets[:-1][long] + prefix + head] += 1
    change[encoded.offsets[1:][long] - suffix - (room - head)] -= 1
    kept = np.cumsum(change[:-1], dtype=np.int8) == 0
    return Tokens(encoded.ids[kept], _offsets(np.minimum(encoded.lengths, max_length)), encoded.whole, encoded.empty)


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
