"""Packed forward: the texts of a batch laid end to end in one row of tokens, so that no padding is computed.

Every part of an encoder but attention treats tokens one by one, so only attention must know where a text ends. One
attention function is registered with transformers; it receives the boundaries as an extra keyword of the model's
forward and falls through to the library's SDPA where there are none. A hook turns the encoder's last hidden state
(1, tokens, hidden) into (texts, 1, hidden), the first token of each text, so that the family's own pooler and head
run unchanged. Whether a model admits this is never assumed: `encoder.admit` probes it against padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .dropout import keep_mask

ATTENTION = "randout_packed"  # the name under which transformers knows the attention function


@dataclass(frozen=True)
class Boundaries:
    """Where each text of a packed row ends. `lengths`: tokens of each text, in order."""

    lengths: tuple[int, ...]

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Neighbours of equal length as (first row, texts, length): each run is one batched product, no mask."""
        found, row = [], 0
        for length, same in groupby(self.lengths):
            texts = len(list(same))
            found.append((row, texts, length))
            row += texts * length
        return found

    def padded_index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(texts, longest) row of every token, 0 where there is none, and the mask that tells which."""
        lengths = torch.tensor(self.lengths, device=device)
        column = torch.arange(max(self.lengths), device=device)[None]
        real = column < lengths[:, None]
        return (column + (lengths.cumsum(0) - lengths)[:, None]) * real, real


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, boundaries=None, **kwargs):
    """transformers' attention interface: (1, heads, tokens, d) -> (1, tokens, heads, d), text by text.

    Without `boundaries` this is the library's own SDPA. On a CPU, equal lengths are batched; elsewhere the products
    are padded (attention only: a small part of the work), because many small launches cost more than padding does.
    """
    if boundaries is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_device = _attend_runs if query.device.type == "cpu" else _attend_padded
    return by_device(query[0], key[0], value[0], boundaries, dropout, scaling), None


def _attend_runs(query, key, value, boundaries: Boundaries, dropout: float, scaling: float) -> Tensor:
    heads, tokens, width = query.shape
    pieces = []
    sizes = [texts * length for _, texts, length in boundaries.runs]
    parts = zip(query.split(sizes, 1), key.split(sizes, 1), value.split(sizes, 1), strict=True)
    for (_, texts, length), (q, k, v) in zip(boundaries.runs, parts, strict=True):
        # (heads, texts * length, d) -> (heads, texts, length, d)
        q, k, v = (x.unflatten(1, (texts, length)) for x in (q, k, v))
        if dropout == 0.0:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=scaling)
        else:
            weights = torch.softmax((q * scaling) @ k.transpose(-1, -2), dim=-1)  # (heads, texts, length, length)
            mixed = (weights * keep_mask(weights, dropout)) @ v
        pieces.append(mixed.flatten(1, 2))
    return torch.cat(pieces, 1).transpose(0, 1)[None]  # (1, tokens, heads, d)


def _attend_padded(query, key, value, boundaries: Boundaries, dropout: float, scaling: float) -> Tensor:
    index, real = boundaries.padded_index(query.device)
    q, k, v = (x[:, index].transpose(0, 1) for x in (query, key, value))  # (texts, heads, longest, d)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None], dropout_p=dropout, scale=scaling)
    return mixed.transpose(1, 2)[real][None]  # (1, tokens, heads, d)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # without it a padded call would silently lose its mask
