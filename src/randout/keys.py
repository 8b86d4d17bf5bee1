"""Random numbers are functions of what they are for: the key of a draw (docs/decisions/0002)."""

from __future__ import annotations

import hashlib
from typing import Any


def random_key(*parts: Any) -> int:
    """A 63-bit seed that is a function of `parts` alone (integers and strings)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1
