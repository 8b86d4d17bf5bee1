"""Tokenizes a dataset for an encoder, truncated to a given or automatic length."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from randout.core.config import StudentTable
from randout.core.errors import UserError
from randout.core.wording import verb
from randout.data.columns import row_list
from randout.data.dataset import Dataset
from randout.data.stratify import Ints

from .encoder import longest_text, special_tokens
from .folder_checks import check_vocabulary
from .sources import FileState, Source, load_tokenizer
from .tokens import Tokens, encode, percentile_length, truncate


class _Read(NamedTuple):
    """Texts as a model's tokens, not truncated. limit: tokens that it takes. prefix, suffix: special tokens of a text."""

    tokens: Tokens
    limit: int
    prefix: int
    suffix: int


# (model's files, texts, tokens), the most recent last
_LAST_READ: list[tuple[tuple[FileState, ...], list[str], _Read]] = []


def tokens_for(source: Source, table: StudentTable, dataset: Dataset, notes: list[str]) -> tuple[Tokens, int]:
    """Tokenize every text of the dataset for the student; returns the tokens and the length they are truncated to.

    notes: receives one line on an automatic length and one on truncation. Raises UserError for a length that the student
    cannot take and for texts without tokens.
    """
    encoded, limit, prefix, suffix = _read(source, dataset.texts)
    if table.max_length == "auto":
        if dataset.max_length:
            max_length = min(dataset.max_length, limit)
            notes.append(f"max length: {max_length} tokens, as stated for {dataset.name}")
        else:
            wanted = percentile_length(encoded.lengths[dataset.split["train"]])
            max_length, percentile = min(wanted, limit), "the 99th percentile of the training texts"
            why = percentile if wanted <= limit else f"the most that {source.label} takes; {percentile} is {wanted:,}"
            notes.append(f"max length: {max_length} tokens, {why}")
    elif table.max_length > limit:
        raise UserError(f"student.max_length: got {table.max_length}, but {source.name} takes at most {limit}")
    else:
        max_length = table.max_length
    if encoded.empty:
        lines = dataset.lines[list(encoded.empty)].tolist() if len(dataset.lines) else []
        rows = row_list([dataset.row_ids[text] for text in encoded.empty], lines=lines if all(lines) else [])
        raise UserError(
            f"{dataset.name}: {len(encoded.empty):,} of {len(dataset.texts):,} texts "
            f"{verb(len(encoded.empty), 'has', 'have')} no tokens: {rows}. The tokenizer of "
            f"{source.name} drops all of their characters and adds no special tokens. Remove these rows"
        )
    special = encoded.special or prefix + suffix
    if max_length <= special:
        raise UserError(f"student.max_length: {max_length} leaves no room for text after {special} special tokens")
    tokens = truncate(encoded, max_length, table.truncation, suffix, prefix)
    texts, lost = tokens.loss_of_truncation()
    if texts:
        kept = (
            f"{table.truncation} kept"
            if encoded.spans is None
            else f"longest text of a pair first, {table.truncation} kept"
        )
        notes.append(
            f"truncation: {texts:.1%} of texts are too long and were cut ({kept}); {lost:.1%} of all tokens are lost"
        )
    return tokens, max_length


def token_copies(tokens: Tokens, dataset: Dataset) -> dict[str, Ints]:
    """Find held-out rows that have the same tokens as a training row, unlabelled text or view although their texts differ.

    Texts can differ only in accents or case that the tokenizer drops, in unknown words, or beyond the truncation. Returns
    the rows by split, without splits that have none. Splitting cannot prevent this, as it must not depend on the student.
    """

    def read(row: int) -> bytes:
        return tokens[row].tobytes()

    learned = np.concatenate([dataset.split["train"], dataset.unlabelled])
    trained = {read(row) for row in learned.tolist()}
    found: dict[str, Ints] = {}
    for name in ("validation", "test"):
        rows = np.setdiff1d(dataset.split.get(name, learned[:0]), dataset.report.leaked.get(name, learned[:0]))
        same = np.array([row for row in rows.tolist() if read(row) in trained], dtype=np.int64)
        found |= {name: same} if len(same) else {}
    return found


def _read(source: Source, texts: list[str]) -> _Read:
    """Tokenize `texts`; cached for the last few pairs of model and texts, because a study plans many runs on the same pair."""
    state = source.state()
    held = next((made for of, some, made in _LAST_READ if some is texts and of == state), None)
    if held is None:
        tokenizer, limit = tokenizer_and_limit(source)
        held = _Read(encode(tokenizer, texts), limit, *special_tokens(tokenizer))
        _LAST_READ.append((state, texts, held))
        del _LAST_READ[:-3]
    return held


def tokenizer_and_limit(source: Source) -> tuple[Any, int]:
    """Load a model's tokenizer; returns it and the maximum number of tokens in a text, special tokens included."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = load_tokenizer(source)
    try:
        config = AutoConfig.from_pretrained(source.encoder_folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: transformers cannot load this as a sequence classifier: {text}") from None
    if isinstance(words := getattr(config, "vocab_size", None), int):
        check_vocabulary(source.name, tokenizer, words)
    return tokenizer, longest_text(model, tokenizer)
