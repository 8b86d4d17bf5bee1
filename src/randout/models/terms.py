"""Finds listed terms in texts and in token ids.

A term is one or more words, matched as whole words regardless of case; `*` at its end stands for any further letters, so
that "headache*" is also found in "headaches". Among token ids, a term is searched in the text that the tokens spell, so
that truncated texts, and texts that a method has changed, need no character offsets:

    ids       [CLS]   i   had   a   head  ##ache  .   [SEP]
    spelled   \\0      i   had   a   headache      .   \\0
    mask      0       0   0     0   1     1       0   0
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.errors import UserError

EDGE = b"\0"  # stands for a special or unknown token: no letter and no space, so that no term goes across it


def read_terms(terms: Any) -> Any:
    """Return a list of terms without duplicates, or the lines of a text file (UTF-8) if `terms` is its path.

    Lines without text are left out. A value of another type is returned as it is. Raises ValueError for a file that cannot
    be read and for a term without a letter or digit.
    """
    if isinstance(terms, str):
        try:
            terms = Path(terms).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "it cannot be read as UTF-8 text"
            raise ValueError(f"{reason}; expected a list of terms, or a text file with one term a line") from None
        terms = [line for line in terms if line.strip()]
    if not isinstance(terms, list | tuple) or not all(isinstance(term, str) for term in terms):
        return terms
    cleaned = [" ".join(term.split()) for term in terms]
    for term in cleaned:
        if not re.search(r"\w", term) or "*" in term[:-1]:
            raise ValueError(f"the term {term!r} is not words with an optional * at its end")
    first: dict[str, str] = {}
    for term in cleaned:
        first.setdefault(term.casefold(), term)
    return tuple(first.values())


def found_in(terms: Sequence[str], texts: Iterable[str]) -> bool:
    """Test whether any of the terms occurs in any of the texts."""
    expression = _expression(terms)
    return any(expression.search(text) for text in texts)


def _expression(terms: Sequence[str]) -> re.Pattern[str]:
    """Expression that finds the terms as whole words; longer terms are tried first."""
    by_start: dict[str, list[str]] = {r"(?<!\w)": [], "": []}  # the test for a word's start comes once: it is fast
    for term in sorted(terms, key=len, reverse=True):
        start = r"(?<!\w)" if re.match(r"\w", term) else ""
        by_start[start].append(_of_one(term.removesuffix("*"), term.endswith("*")))
    groups = [f"{start}(?:{'|'.join(each)})" for start, each in by_start.items() if each]
    return re.compile("|".join(groups), re.IGNORECASE)


def _of_one(term: str, open_end: bool) -> str:
    """Expression of one term from its first character; spaces are required between two words, and allowed around punctuation."""
    parts = re.findall(r"\w+|[^\w\s]", term)
    found = re.escape(parts[0])
    for before, part in pairwise(parts):
        words = re.match(r"\w", before) and re.match(r"\w", part)
        found += (r"\s+" if words else r"\s*") + re.escape(part)
    end = r"(?!\w)" if re.match(r"\w", parts[-1]) else ""
    return found + (r"\w*" if open_end else end)


class TermFinder:
    """Finds terms among the token ids of one tokenizer.

    tokenizer: of `transformers`, with WordPiece, byte-level BPE or SentencePiece tokens. terms: as `read_terms` returns them.
    Raises UserError for a term that the tokenizer cannot spell, and for a tokenizer whose tokens cannot be read as text.
    """

    def __init__(self, tokenizer: Any, terms: Sequence[str]) -> None:
        self._spelled = _spellings(tokenizer)
        self._expression = _expression([self._as_spelled(tokenizer, term) for term in terms])

    def mask(self, ids: Iterable[int]) -> np.ndarray:
        """Return (n,) bool: whether each of the n tokens of a text belongs to a term.

        Overlapping terms: the first from the left, and the longest that begins there.
        """
        parts = [self._spelled.get(index, EDGE) for index in ids]
        ends = np.fromiter(accumulate(map(len, parts)), np.int64, len(parts))
        starts = ends - np.fromiter(map(len, parts), np.int64, len(parts))
        text = b"".join(parts).decode("utf-8", "surrogateescape")
        found = np.zeros(len(parts), dtype=bool)
        for match in self._expression.finditer(text):
            first, last = (len(text[:at].encode("utf-8", "surrogateescape")) for at in match.span())
            found |= (starts < last) & (ends > first)
        return found

    def _as_spelled(self, tokenizer: Any, term: str) -> str:
        """Return a term as the tokenizer's tokens spell it (an uncased tokenizer drops case and accents)."""
        star = term[len(term.removesuffix("*")) :]
        term = term.removesuffix("*")
        parts = [self._spelled.get(index, EDGE) for index in tokenizer(term, add_special_tokens=False)["input_ids"]]
        spelled = b"".join(parts).decode("utf-8", "replace").strip()
        if EDGE.decode() in spelled:
            raise UserError(
                f"terms: the student's tokenizer has no tokens for {term!r}; write it otherwise or remove it"
            )
        if _letters(spelled) != _letters(term):
            kind = type(tokenizer).__name__
            raise UserError(
                f"terms: the tokens of {term!r} read {spelled!r}: the tokens of this student ({kind}) cannot be read as text"
            )
        return spelled + star


@lru_cache(maxsize=4)
def term_finder(tokenizer: Any, terms: tuple[str, ...]) -> TermFinder:
    """Make a `TermFinder`; the most recent are cached, because making one reads the whole vocabulary."""
    return TermFinder(tokenizer, terms)


def _letters(text: str) -> str:
    """Letters and digits of a text, without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if c.isalnum())


def _spellings(tokenizer: Any) -> dict[int, bytes]:
    """Return what each token of a vocabulary adds to a text, in UTF-8, by token id; special tokens are left out.

    Most tokens of a kind carry its mark: "##" continues a word (WordPiece), "▁" begins one (SentencePiece), and "Ġ" is the
    space of byte-level BPE, which writes each byte as one character.
    """
    special = set(tokenizer.all_special_ids)
    vocabulary = {token: index for token, index in tokenizer.get_vocab().items() if index not in special}
    marks = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in ("##", "▁", "Ġ")}
    spell = {"##": _wordpiece, "▁": _sentencepiece, "Ġ": _byte_level}[max(marks, key=lambda mark: marks[mark])]
    return {index: spell(token) for token, index in vocabulary.items()}


def _wordpiece(token: str) -> bytes:
    return (token[2:] if token.startswith("##") else f" {token}").encode()


def _sentencepiece(token: str) -> bytes:
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()  # an added token, which is written as it is


def _byte_alphabet() -> dict[str, int]:
    """Characters of byte-level BPE and their bytes: printable bytes stand for themselves, others for U+0100 onwards."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()
