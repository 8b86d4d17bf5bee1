"""Packed forward pass: the texts of a batch are concatenated to one row of tokens, without padding.

    padded    a a a a .      packed    a a a a b b c c c c c
              b b . . .
              c c c c c

All parts of an encoder except attention treat tokens separately, so only attention must know where a text ends. One
attention function is registered with transformers; it receives the boundaries as an extra keyword argument of the
model's forward pass and uses the library's SDPA if there are none. A hook turns the encoder's last hidden state
(1, tokens, hidden) into (texts, 1, hidden), the first token of each text, so that the family's own pooler and head run
unchanged. `encoder.probe_packing` tests for each model that packed and padded batches agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .buffers import Arena
from .dropout import keep_mask, scale

SLACK = 4096  # (tokens squared) up to this much padding costs less than the products of another group
STEP = 8  # group lengths are multiples of it: oneDNN compiles a kernel, in about 1 ms, for every new shape
ATTENTION = "randout_packed"  # name of the attention function in transformers


@dataclass(frozen=True)
class Boundaries:
    """Boundaries of the texts in a packed row.

    lengths: tokens of each text, in order. arena: memory for fused blocks; None to run the blocks of transformers. first:
    whether only each text's first token is needed from the last block.
    """

    lengths: tuple[int, ...]
    arena: Arena | None = None
    first: bool = False

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Consecutive texts of equal length as (texts, length): each run is one batched product without a mask."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths)]

    def padded_index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return two (texts, longest) tensors: the row of every token (0 at padding), and the mask of real tokens."""
        lengths = torch.tensor(self.lengths, device=device)
        column = torch.arange(max(self.lengths), device=device)[None]
        real = column < lengths[:, None]
        return (column + (lengths.cumsum(0) - lengths)[:, None]) * real, real


@dataclass(eq=False)
class AttentionHook:
    """A bias to add to one block's attention scores, or a reader of its weights: see `hooks.HookPoints.change_attention`."""

    bias: Callable[[int], Tensor] | None = None  # rows of the batch -> (rows,)
    seen: Callable[[Any], None] | None = None


attention_hooks: list[AttentionHook] = []  # of the block that is being computed


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, boundaries=None, **kwargs):
    """Attention within each text, as a transformers attention function: (1, heads, tokens, d) -> (1, tokens, heads, d).

    Without `boundaries`, this is the library's SDPA on (b, heads, tokens, d). On a CPU, texts of equal or (with dropout)
    similar length are batched. On other devices, attention alone is padded, because many small kernel launches would cost
    more than the padding.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    width = value.shape[-1]
    for hook in attention_hooks:
        if hook.seen is not None:
            hook.seen(weights_of(query, key, attention_mask, scaling, boundaries))
        if hook.bias is not None:
            query, key, value = _with_bias(query, key, value, hook.bias, scaling)
    if boundaries is None:
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    else:
        by_device = attend_runs if query.device.type == "cpu" else attend_padded
        mixed = by_device(query[0], key[0], value[0], boundaries, dropout, scaling)
    return (mixed if mixed.shape[-1] == width else mixed[..., :width]), None


def _with_bias(query, key, value, bias: Callable[[int], Tensor], scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add the bias r to the scores in any kernel by one more column: scaling * [q, 1/scaling] [k, r]' = scaling * q k' + r."""
    texts, heads, tokens, _ = key.shape
    r = bias(texts * tokens).to(key.dtype).view(texts, 1, tokens, 1).expand(-1, heads, -1, -1)
    one = query.new_full((*query.shape[:-1], 1), 1 / scaling)
    return torch.cat([query, one], -1), torch.cat([key, r], -1), torch.cat([value, torch.zeros_like(r)], -1)


def weights_of(query, key, attention_mask, scaling: float, boundaries: Boundaries | None) -> list[Tensor]:
    """Attention weights of each text before dropout, (heads, n, n): n is its number of tokens if packed, or the width of
    the batch if padded, with zero weights at padded keys.
    """
    if boundaries is None:
        scores = (query @ key.transpose(-1, -2)).float() * scaling
        if attention_mask is not None:
            off = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask < -1
            scores = scores.masked_fill(off, -torch.inf)
        return list(torch.softmax(scores, dim=-1))
    parts = zip(query[0].split(boundaries.lengths, 1), key[0].split(boundaries.lengths, 1), strict=True)
    return [torch.softmax((q @ k.transpose(-1, -2)).float() * scaling, dim=-1) for q, k in parts]


def attend_runs(query, key, value, boundaries: Boundaries, dropout: float, scaling: float) -> Tensor:
    """Attention on a CPU, (heads, tokens, d) -> (1, tokens, heads, d): one product without a mask for each run of texts of
    equal length; with dropout, `attend_groups`.
    """
    if dropout > 0.0:
        return attend_groups(query, key, value, boundaries, dropout, scaling)
    sizes = [texts * length for texts, length in boundaries.runs]
    pieces = []
    parts = zip(query.split(sizes, 1), key.split(sizes, 1), value.split(sizes, 1), strict=True)
    for run, (q, k, v) in zip(boundaries.runs, parts, strict=True):
        q, k, v = (x.unflatten(1, run) for x in (q, k, v))  # (heads, texts * length, d) -> (heads, texts, length, d)
        pieces.append(F.scaled_dot_product_attention(q, k, v, scale=scaling).flatten(1, 2))
    return torch.cat(pieces, 1).transpose(0, 1)[None]  # (1, tokens, heads, d)


@dataclass(frozen=True)
class Grouping:
    """Groups of texts of similar length, each text padded to its group's length.

    shapes: (texts, length) of each group. masks: (texts * heads, 1, length), -inf at padding, or None without padding.
    into: packed row of every slot, slots in order (group, text, head, position). back: slot of every packed row, rows in
    order (token, head). empty: slots that are padding.
    """

    shapes: tuple[tuple[int, int], ...]
    masks: tuple[Tensor | None, ...]
    into: Tensor
    back: Tensor
    empty: Tensor


def groups(lengths: tuple[int, ...]) -> list[list[int]]:
    """Group consecutive texts as long as padding them to the longest costs less than another group."""
    found: list[list[int]] = []
    for length in lengths:
        together = [*found[-1], length] if found else [length]
        longest = max(together)
        if found and sum(longest**2 - n**2 for n in together) <= SLACK:
            found[-1] = together
        else:
            found.append([length])
    return found


@lru_cache(maxsize=2)  # all blocks of a step use the same
def grouping(lengths: tuple[int, ...], heads: int) -> Grouping:
    """Compute the grouping of a batch with these text lengths."""
    shapes, masks, into, filled, row = [], [], [], [], 0
    for members in groups(lengths):
        length = -(-max(members) // STEP) * STEP
        sizes, place = torch.tensor(members), torch.arange(length)
        real = place < sizes[:, None]  # (texts, length)
        token = (row + sizes.cumsum(0) - sizes)[:, None] + torch.minimum(place, sizes[:, None] - 1)
        rows = token[:, None] * heads + torch.arange(heads)[:, None]  # (texts, heads, length)
        mask = torch.zeros(real.shape).masked_fill_(~real, -torch.inf)
        masks.append(None if bool(real.all()) else mask.repeat_interleave(heads, 0)[:, None])
        shapes.append((len(members), length))
        into.append(rows.flatten())
        filled.append(real[:, None].expand_as(rows).flatten())
        row += sum(members)
    rows, real = torch.cat(into), torch.cat(filled)
    back = torch.empty(row * heads, dtype=torch.int64)
    back[rows[real]] = real.nonzero()[:, 0]
    return Grouping(tuple(shapes), tuple(masks), rows, back, (~real).nonzero()[:, 0])


class _Spread(torch.autograd.Function):
    """Copy packed rows (tokens * heads, d) to their slots, zero at padding. Its adjoint is `_Gather`, so that the backward
    pass is a gather too; autograd's would be a slower scatter-add.
    """

    @staticmethod
    def forward(x: Tensor, plan: Grouping) -> Tensor:
        return x.index_select(0, plan.into).index_fill_(0, plan.empty, 0.0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.plan = inputs[1]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _Gather.apply(gradient, ctx.plan), None


class _Gather(torch.autograd.Function):
    """Copy slots back to packed rows; the adjoint of `_Spread`."""

    @staticmethod
    def forward(x: Tensor, plan: Grouping) -> Tensor:
        return x.index_select(0, plan.back)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.plan = inputs[1]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _Spread.apply(gradient, ctx.plan), None


def attend_groups(query, key, value, boundaries: Boundaries, dropout: float, scaling: float) -> Tensor:
    """Attention with dropout on its weights, (heads, tokens, d) -> (1, tokens, heads, d), in the dtype of the inputs (softmax
    accumulates in float32): one product for each group of texts of similar length.
    """
    heads, tokens, width = query.shape
    plan = grouping(boundaries.lengths, heads)
    rows = (x.transpose(0, 1).reshape(tokens * heads, width) for x in (query * scaling, key, value * scale(dropout)))
    sizes = [texts * heads * length for texts, length in plan.shapes]
    parts = [_Spread.apply(x, plan).split(sizes) for x in rows]
    pieces = []
    sizes = [texts * heads * length**2 for texts, length in plan.shapes]
    kept = keep_mask(query.new_empty(sum(sizes)), dropout).split(sizes)  # one draw for all groups
    with torch.autocast("cpu", enabled=False):
        for q, k, v, mask, keep, (texts, length) in zip(*parts, plan.masks, kept, plan.shapes, strict=True):
            q, k, v = (x.view(texts * heads, length, width) for x in (q, k, v))
            scores = torch.bmm(q, k.transpose(1, 2))  # (texts * heads, length, length)
            weights = torch.softmax(scores if mask is None else scores + mask.to(scores.dtype), dim=-1)
            pieces.append(torch.bmm(weights * keep.view_as(weights), v).view(-1, width))
        mixed = _Gather.apply(torch.cat(pieces), plan)
    return mixed.view(1, tokens, heads, width)


def attend_padded(query, key, value, boundaries: Boundaries, dropout: float, scaling: float) -> Tensor:
    """Attention on other devices, (heads, tokens, d) -> (1, tokens, heads, d): one product, all texts padded to the longest."""
    index, real = boundaries.padded_index(query.device)
    q, k, v = (x[:, index].transpose(0, 1) for x in (query, key, value))  # (texts, heads, longest, d)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None], dropout_p=dropout, scale=scaling)
    return mixed.transpose(1, 2)[real][None]  # (1, tokens, heads, d)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # without it a padded call would silently lose its mask
