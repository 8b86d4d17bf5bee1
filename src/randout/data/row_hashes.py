"""Hashes by which a row is recognised in other files and later runs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .stratify import normalize

Hashes = NDArray[np.uint64]
ACCENTS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)  # combining diacritical marks


def row_key(text: str) -> str:
    """The form in which texts are compared across runs: `splits.normalize`, and without accents.

    Runs that meet may have different tokenizers, and many (all uncased BERTs) do not see accents.
    """
    text = normalize(text)
    return text if text.isascii() else ACCENTS.sub("", unicodedata.normalize("NFKD", text))


def row_hashes(texts: Iterable[str]) -> Hashes:
    """(n,) a 64-bit hash of each text's `row_key`."""
    digests = b"".join(
        hashlib.blake2b(row_key(text).encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)
