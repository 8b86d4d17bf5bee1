"""Texts as ragged token ids, computed once; batches as a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from randout.core.rng import random_key

WINDOW = 16  # batches that are sorted by length together for encoders that compute padding


@dataclass(frozen=True)
class Tokens:
    """Ragged token ids of many texts.

    ids: int32, all texts concatenated; text i is ids[offsets[i]:offsets[i + 1]]. untruncated_lengths: (n,)
    number of tokens of each text before truncation. empty: indices of texts for which the tokenizer gave no tokens; each has
    one placeholder token.

        ids        [CLS] a b [SEP] [CLS] c [SEP]
        index      0     1 2 3     4     5 6
        offsets    0               4             7
    """

    ids: np.ndarray
    offsets: np.ndarray
    untruncated_lengths: np.ndarray
    empty: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.untruncated_lengths)

    def __getitem__(self, text: int) -> np.ndarray:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) number of tokens of each text. Cached: every training step reads it, and there may be a million texts."""
        return np.diff(self.offsets)

    def loss_of_truncation(self) -> tuple[float, float]:
        """Share of texts that were truncated, and share of all tokens that were lost."""
        lost = self.untruncated_lengths - self.lengths
        return float((lost > 0).mean()), float(lost.sum() / max(self.untruncated_lengths.sum(), 1))


def encode(tokenizer: Any, texts: Sequence[str], chunk: int = 1000) -> Tokens:
    """Tokenize every text, with special tokens and without truncation.

    A text without tokens (the tokenizer drops all its characters and adds no special tokens) gets the token for unknown
    words, so that its prediction does not depend on other texts; its index is in `empty`.
    """
    special = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
    stand_in = next((index for index in special if index is not None), 0)
    empty: list[int] = []
    unasked = {"return_attention_mask": False, "return_token_type_ids": False}  # each is a Python list per text
    parts = []
    for at in range(0, len(texts), chunk):
        block = list(texts[at : at + chunk])
        rows = tokenizer(block, truncation=False, padding=False, verbose=False, **unasked)["input_ids"]
        empty += [at + row for row, ids in enumerate(rows) if not ids]
        parts.append(_concatenated([ids or [stand_in] for ids in rows]))
    if not parts:
        return _concatenated([])
    whole = np.concatenate([part.untruncated_lengths for part in parts])
    return Tokens(np.concatenate([part.ids for part in parts]), _offsets(whole), whole, tuple(empty))


def _concatenated(rows: Sequence[Sequence[int]]) -> Tokens:
    """Concatenate lists of token ids to `Tokens`, without truncation."""
    whole = np.fromiter(map(len, rows), np.int64, len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), np.int32, int(whole.sum())), _offsets(whole), whole)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def percentile_length(lengths: np.ndarray, limit: int) -> int:
    """99th percentile of the lengths, at most the encoder's `limit`."""
    return int(min(np.ceil(np.percentile(lengths, 99)), limit))


def truncate(encoded: Tokens, max_length: int, truncation: str, suffix: int, prefix: int = 1) -> Tokens:
    """Truncate each text to `max_length` tokens, keeping the special tokens at both ends.

    "head" keeps the first tokens; "head+tail" a quarter of the room from the head and the rest from the tail (the
    proportion of Sun et al. 2019, 1905.05583). If no text is truncated, the ids are not copied. Raises ValueError if the
    special tokens leave no room.
    """
    if max_length <= prefix + suffix:
        raise ValueError(f"max_length {max_length} leaves no room for text after {prefix + suffix} special tokens")
    long = encoded.lengths > max_length
    if not long.any():
        return Tokens(encoded.ids, encoded.offsets, encoded.untruncated_lengths, encoded.empty)
    room = max_length - prefix - suffix
    head = room // 4 if truncation == "head+tail" else room
    change = np.zeros(len(encoded.ids) + 1, np.int8)  # 1 where a gap starts, -1 after its end, 0 if both coincide
    change[encoded.offsets[:-1][long] + prefix + head] += 1
    change[encoded.offsets[1:][long] - suffix - (room - head)] -= 1
    kept = np.cumsum(change[:-1], dtype=np.int8) == 0
    return Tokens(
        encoded.ids[kept], _offsets(np.minimum(encoded.lengths, max_length)), encoded.untruncated_lengths, encoded.empty
    )


def batches(
    lengths: np.ndarray, labelled: np.ndarray, unlabelled: np.ndarray, size: int, seed: int, epoch: int, windows: bool
) -> list[np.ndarray]:
    """Rows of every step of an epoch, each batch sorted by length.

    Each row occurs once per epoch. Labelled and unlabelled rows are shuffled separately and interleaved evenly: among the
    first k rows, the number of labelled ones is their overall share of k, rounded. windows: for encoders that compute
    padding; sort windows of 16 batches by length before splitting them, then shuffle the batches.
    """
    draw = np.random.default_rng(random_key(seed, "order", epoch))
    order = _interleave(draw.permutation(labelled), draw.permutation(unlabelled))
    if windows:
        stretch = size * WINDOW
        parts = [order[at : at + stretch] for at in range(0, len(order), stretch)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    cut = [order[at : at + size] for at in range(0, len(order), size)]
    if windows:
        cut = [cut[at] for at in draw.permutation(len(cut))]
    return [rows[np.argsort(lengths[rows], kind="stable")] for rows in cut]


def _interleave(labelled: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    total = len(labelled) + len(unlabelled)
    quota = np.round(np.arange(total + 1) * (len(labelled) / max(total, 1))).astype(np.int64)
    mixed = np.empty(total, dtype=np.int64)
    takes = np.diff(quota) > 0
    mixed[takes], mixed[~takes] = labelled, unlabelled
    return mixed


def by_length(lengths: np.ndarray, rows: np.ndarray, tokens: int = 8192) -> list[np.ndarray]:
    """Batches of rows for evaluation, longest texts first; a batch of several texts has at most `tokens` tokens, padding
    included.
    """
    order = rows[np.argsort(lengths[rows], kind="stable")][::-1]
    found, at = [], 0
    while at < len(order):
        take = max(int(tokens // max(lengths[order[at]], 1)), 1)
        found.append(order[at : at + take])
        at += take
    return found
