"""Texts as ragged token ids, computed once; batches as a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.data.composed_text import is_pair, parts_of

from .token_types import with_types

WINDOW = 16  # batches that are sorted by length together for encoders that compute padding


@dataclass(frozen=True)
class Tokens:
    """Ragged token ids of many texts.

    ids: int32, all texts concatenated; text i is ids[offsets[i]:offsets[i + 1]]. untruncated_lengths: (n,)
    number of tokens of each text before truncation. empty: indices of texts for which the tokenizer gave no tokens; each has
    one placeholder token. spans: (n, 4) start and end of both texts of each pair, in tokens from the start; None for single
    texts, and after truncation. The ids of pairs carry their token types (`token_types`).

        ids        [CLS] a b [SEP] [CLS] c [SEP]
        index      0     1 2 3     4     5 6
        offsets    0               4             7
    """

    ids: np.ndarray
    offsets: np.ndarray
    untruncated_lengths: np.ndarray
    empty: tuple[int, ...] = ()
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.untruncated_lengths)

    def __getitem__(self, text: int) -> np.ndarray:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) number of tokens of each text. Cached: every training step reads it, and there may be a million texts."""
        return np.diff(self.offsets)

    @property
    def special(self) -> int:
        """Number of special tokens of a pair; 0 for single texts, whose ends are known."""
        if self.spans is None or not len(self):
            return 0
        own = self.spans[:, 1] - self.spans[:, 0] + self.spans[:, 3] - self.spans[:, 2]
        return int((self.lengths - own).max())

    def loss_of_truncation(self) -> tuple[float, float]:
        """Share of texts that were truncated, and share of all tokens that were lost."""
        lost = self.untruncated_lengths - self.lengths
        return float((lost > 0).mean()), float(lost.sum() / max(self.untruncated_lengths.sum(), 1))


def encode(tokenizer: Any, texts: Sequence[str], chunk: int = 1000) -> Tokens:
    """Tokenize every text, with special tokens and without truncation.

    A text without tokens (the tokenizer drops all its characters and adds no special tokens) gets the token for unknown
    words, so that its prediction does not depend on other texts; its index is in `empty`. Pairs are joined as the tokenizer
    joins them, with its separators and token types. Raises ValueError for pairs among single texts.
    """
    special = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
    stand_in = next((index for index in special if index is not None), 0)
    empty: list[int] = []
    unasked = {"return_attention_mask": False, "return_token_type_ids": False}  # each is a Python list per text
    parts, spans = [], []
    rows: Any  # a list or an array of ids for each text
    pairs = len(texts) > 0 and is_pair(texts[0])
    for at in range(0, len(texts), chunk):
        block = [parts_of(text) for text in texts[at : at + chunk]]
        if any(len(text) != 1 + pairs for text in block):
            raise ValueError("pairs and single texts cannot be tokenized together")
        if pairs:
            rows, found = _encoded_pairs(tokenizer, block)
            spans.append(found)
        else:
            some = [text for (text,) in block]
            rows = tokenizer(some, truncation=False, padding=False, verbose=False, **unasked)["input_ids"]
        empty += [at + row for row, ids in enumerate(rows) if not len(ids)]
        parts.append(_concatenated([ids if len(ids) else [stand_in] for ids in rows]))
    if not parts:
        return _concatenated([])
    whole = np.concatenate([part.untruncated_lengths for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, _offsets(whole), whole, tuple(empty), np.concatenate(spans) if pairs else None)


def _encoded_pairs(tokenizer: Any, pairs: Sequence[tuple[str, ...]]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the ids of pairs, which carry their token types, and the spans (n, 4) of their texts.

    Types are those that the tokenizer gives to its model. Raises UserError for a tokenizer that does not tell the texts apart.
    """
    firsts, seconds = ([pair[at] for pair in pairs] for at in (0, 1))
    with_types_of = "token_type_ids" in tokenizer.model_input_names
    asked = {"return_attention_mask": False, "return_token_type_ids": with_types_of}
    made = tokenizer(firsts, seconds, truncation=False, padding=False, verbose=False, **asked)
    if not made.encodings:
        kind = type(tokenizer).__name__
        raise UserError(
            f"pairs of texts need a tokenizer of the library tokenizers; this one ({kind}) is in Python only"
        )
    rows, spans = [], np.zeros((len(pairs), 4), np.int64)
    for row, encoding in enumerate(made.encodings):
        ids = np.array(made["input_ids"][row], np.int32)
        rows.append(with_types(ids, np.array(made["token_type_ids"][row], np.int32)) if with_types_of else ids)
        owner = np.array([-1 if text is None else text for text in encoding.sequence_ids], np.int64)
        for text in (0, 1):
            places = np.flatnonzero(owner == text)
            if len(places):
                spans[row, 2 * text : 2 * text + 2] = places[0], places[-1] + 1
    return rows, spans


def _concatenated(rows: Sequence[Any]) -> Tokens:
    """Concatenate lists of token ids to `Tokens`, without truncation."""
    whole = np.fromiter(map(len, rows), np.int64, len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), np.int32, int(whole.sum())), _offsets(whole), whole)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def percentile_length(lengths: np.ndarray) -> int:
    """99th percentile of the lengths, rounded up."""
    return int(np.ceil(np.percentile(lengths, 99)))


def truncate(encoded: Tokens, max_length: int, truncation: str, suffix: int, prefix: int = 1) -> Tokens:
    """Truncate each text to `max_length` tokens, keeping the special tokens at both ends.

    "head" keeps the first tokens; "head+tail" a quarter of the room from the head and the rest from the tail (the
    proportion of Sun et al. 2019, 1905.05583). If no text is truncated, the ids are not copied. Raises ValueError if the
    special tokens leave no room.

    Of a pair, the longer text is cut until both are equally long, then both are ("longest_first" of transformers); each that
    is cut keeps its head, or head and tail.
    """
    if encoded.spans is not None:
        return _truncate_pairs(encoded, max_length, truncation)
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


def _truncate_pairs(encoded: Tokens, max_length: int, truncation: str) -> Tokens:
    """Truncate pairs as `truncate` says."""
    if max_length <= encoded.special:
        raise ValueError(f"max_length {max_length} leaves no room for text after {encoded.special} special tokens")
    assert encoded.spans is not None
    spans = encoded.spans
    sizes = np.stack([spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]], 1)  # (n, 2)
    room = np.minimum(max_length - (encoded.lengths - sizes.sum(1)), sizes.sum(1))
    shorter = np.minimum(sizes.min(1), room // 2)
    first_longer = sizes[:, 0] > sizes[:, 1]
    kept = np.stack(
        [np.where(first_longer, room - shorter, shorter), np.where(first_longer, shorter, room - shorter)], 1
    )
    change = np.zeros(len(encoded.ids) + 1, np.int64)  # 1 where a gap starts, -1 after its end
    for text in (0, 1):
        head = kept[:, text] // 4 if truncation == "head+tail" else kept[:, text]
        head = np.where(kept[:, text] < sizes[:, text], head, kept[:, text])
        starts = encoded.offsets[:-1] + spans[:, 2 * text]
        np.add.at(change, starts + head, 1)
        np.add.at(change, starts + head + sizes[:, text] - kept[:, text], -1)
    remains = np.cumsum(change[:-1]) == 0
    lengths = encoded.lengths - (sizes.sum(1) - room)
    return Tokens(encoded.ids[remains], _offsets(lengths), encoded.untruncated_lengths, encoded.empty)


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
