"""Row hashes, by which a row is recognised in other files and later runs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .composed_text import content_of
from .stratify import normalize

Hashes = NDArray[np.uint64]
ACCENTS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)  # combining diacritical marks


def row_key(text: str) -> str:
    """Normalize a text for comparison across runs: `stratify.normalize`, and without accents.

    Runs may have different tokenizers, and many of them (all uncased BERTs) ignore accents. Fields before a text do not
    count, so that runs with and without them recognise each other's rows.
    """
    text = normalize(content_of(text))
    return text if text.isascii() else ACCENTS.sub("", unicodedata.normalize("NFKD", text))


def row_hashes(texts: Iterable[str]) -> Hashes:
    """Return (n,) the 64-bit hash of each text's `row_key`."""
    digests = b"".join(
        hashlib.blake2b(row_key(text).encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)
