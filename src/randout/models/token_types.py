"""Token types of pairs, carried in the high bits of token ids.

    tokens     [CLS] a b [SEP] c [SEP]
    types      0     0 0 0     1 1
    carried    id    ..        id + TYPE ...

A pair's ids thus remain one number per token wherever they are stored, cut, shuffled and batched; the types are taken off
again where ids enter a model. Ids of single texts have the type 0 and are unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BITS = 24  # a token id is below 2 ** BITS; int32 leaves room for types up to 127
TYPE = 1 << BITS


def with_types(ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return ids that carry token types; both (n,) int32."""
    return ids + types * np.int32(TYPE)


def plain_ids(ids: Any) -> Any:
    """Return token ids without the types that they carry. ids: an array or a tensor."""
    return ids & (TYPE - 1)


def types_of(ids: Any) -> Any:
    """Return the token types that ids carry, of the same shape."""
    return ids >> BITS


def carry_types(ids: Sequence[Tensor]) -> bool:
    """Return whether a text of a batch has a token of another type than 0."""
    return any(bool((text >= TYPE).any()) for text in ids)


def takes_types(model: Any) -> bool:
    """Return whether a model distinguishes token types."""
    several = (getattr(model.config, "type_vocab_size", None) or 0) > 1
    return several and "token_type_ids" in inspect.signature(model.base_model.forward).parameters
