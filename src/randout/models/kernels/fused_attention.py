"""Attention over packed texts with a hand-written backward pass: the core of the fused block (`block`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from . import dropout, packing
from .buffers import Arena, Gradients

aten = torch.ops.aten


@dataclass(frozen=True)
class BlockArguments:
    """Arguments of a fused block's forward pass other than its input and weights.

    lengths: tokens of each text. width: of an attention head. dtype: of the matrix products. rates: dropout of attention
    weights, attention output and feed-forward output. eps: of the two layer norms. first: compute each text's first token
    only. scaling: factor of the attention scores in the model (by default 1 / sqrt(width)).
    """

    lengths: tuple[int, ...]
    heads: int
    width: int
    dtype: torch.dtype
    rates: tuple[float, float, float]
    eps: tuple[float, float]
    first: bool
    arena: Arena
    gradients: Gradients
    scaling: float


@dataclass(frozen=True)
class _SlotLayout:
    """Memory layout of attention for a batch: which row (token, part, head) each slot holds; parts are q, k and v.

    into: row of each slot, part by part. back: slot of each row. empty: slots that are padding. groups: shape of each
    group's weights (texts * heads, queries, keys). queries, keys, weights: size of each group in query slots, key slots
    and weights. mask: added to all scores, -inf at padded keys.
    """

    into: Tensor
    back: Tensor
    empty: Tensor
    groups: tuple[tuple[int, int, int], ...]
    queries: list[int]
    keys: list[int]
    weights: list[int]
    mask: Tensor


@lru_cache(maxsize=4)
def _slot_layout(lengths: tuple[int, ...], heads: int, first: bool, dtype: torch.dtype) -> _SlotLayout:
    plan, parts = packing.grouping(lengths, heads), 2 if first else 3
    part = torch.arange(parts)[:, None]
    token, head = plan.into // heads, plan.into % heads
    into = (token * parts + part) * heads + head  # (parts, slots)
    back = plan.back.view(-1, 1, heads) + part * len(plan.into)  # (tokens, parts, heads)
    groups = tuple((texts * heads, 1 if first else length, length) for texts, length in plan.shapes)
    whole = torch.zeros(sum(prod(shape) for shape in groups), dtype=dtype)
    for place, shape, mask in zip(whole.split([prod(shape) for shape in groups]), groups, plan.masks, strict=True):
        if mask is not None:
            place.view(shape).copy_(mask.expand(shape))
    sizes = [(texts * queries, texts * keys, texts * queries * keys) for texts, queries, keys in groups]
    queries, keys, weights = (list(column) for column in zip(*sizes, strict=True))
    return _SlotLayout(into.flatten(), back.flatten(), plan.empty, groups, queries, keys, weights, whole)


class Attention:
    """softmax(q k') v for the texts of a batch with dropout on the weights, and its gradient.

    states: (tokens, 3 * hidden) of q, k and v; or (tokens, 2 * hidden) of k and v, with `first` (texts, hidden), the q of
    each text's first token. q is already scaled, and v already divided by the keep rate of dropout.
    """

    def __init__(self, arguments: BlockArguments, states: Tensor, first: Tensor | None) -> None:
        self.arguments, self.first, dtype = arguments, first is not None, states.dtype
        self.places = _slot_layout(arguments.lengths, arguments.heads, self.first, dtype)
        self.tokens, parts = sum(arguments.lengths), 2 if self.first else 3
        self.width = states.shape[1] // (parts * arguments.heads)
        rows = arguments.arena.empty(len(self.places.into), self.width, dtype=dtype)
        torch.index_select(states.view(-1, self.width), 0, self.places.into, out=rows)
        *query, self.key, self.value = rows.chunk(parts)
        self.query = query[0] if first is None else first.reshape(-1, self.width)

    def forward(self) -> Tensor:
        """Attention output (queries, hidden), of every token or of each text's first."""
        arena, rate, places, dtype = self.arguments.arena, self.arguments.rates[0], self.places, self.key.dtype
        scores, self.weights = (arena.empty(len(places.mask), dtype=dtype) for _ in range(2))
        mixed = arena.empty(*self.query.shape, dtype=dtype)
        groups = self._of_groups((self.query, places.queries), (self.key, places.keys))
        raw = self._of_groups((scores, places.weights))
        for (q, k), (s,) in zip(groups, raw, strict=True):
            torch.bmm(q, k.transpose(1, 2), out=s)
        scores += places.mask
        for (s,), (w,) in zip(raw, self._of_groups((self.weights, places.weights)), strict=True):
            aten._softmax.out(s, -1, False, out=w)
        self.keep, self.dropped = None, self.weights
        if rate:
            self.keep = self._mask(arena.empty(len(places.mask), dtype=dtype), rate)
            self.dropped = torch.mul(self.weights, self.keep, out=scores)
        for w, v, out in self._of_groups(
            (self.dropped, places.weights), (self.value, places.keys), (mixed, places.queries)
        ):
            torch.bmm(w, v, out=out)
        if self.first:
            return padded(mixed.view(len(self.arguments.lengths), -1), dtype, arena)
        whole = arena.rows(self.tokens, self.arguments.heads * self.width, dtype)
        torch.index_select(
            mixed, 0, packing.grouping(self.arguments.lengths, self.arguments.heads).back, out=_rows(whole, self)
        )
        return whole

    def _mask(self, mask: Tensor, rate: float) -> Tensor:
        """Fill the keep mask of the weights; first tokens get the same masks as when all tokens are computed."""
        if not self.first:
            return dropout.fill_keep_mask(mask, rate)
        squares = [texts * keys * keys for texts, _, keys in self.places.groups]
        whole = dropout.fill_keep_mask(self.arguments.arena.empty(sum(squares), dtype=mask.dtype), rate)
        parts = zip(mask.split(self.places.weights), whole.split(squares), self.places.groups, strict=True)
        for part, square, (texts, _, keys) in parts:
            part.view(texts, keys).copy_(square.view(texts, keys, keys)[:, 0])
        return mask

    def _of_groups(self, *states: tuple[Tensor, list[int]]) -> list[tuple[Tensor, ...]]:
        """Split states by group, to (texts * heads, queries or keys, d), and weights to (texts * heads, queries, keys)."""
        split = [state.split(sizes) for state, sizes in states]
        return [
            tuple(x.view(shape if x.dim() == 1 else (shape[0], -1, self.width)) for x in parts)
            for shape, parts in zip(self.places.groups, zip(*split, strict=True), strict=True)
        ]

    def backward(self, gradient: Tensor, scratch: Arena) -> tuple[Tensor, Tensor | None]:
        """Gradients with respect to `states` and `first`, from the gradient of the output."""
        places, dtype, width = self.places, self.key.dtype, self.width
        towards = gradient.view(-1, width)[: len(self.query)]
        if not self.first:
            spread = scratch.empty(len(self.query), width, dtype=dtype)
            towards = gradient.view(-1, width)
            torch.index_select(
                towards, 0, packing.grouping(self.arguments.lengths, self.arguments.heads).into, out=spread
            )
            towards = spread.index_fill_(0, places.empty, 0.0)
        rows = scratch.empty(len(places.into), width, dtype=dtype)
        *to_query, to_key, to_value = rows.chunk(2 if self.first else 3)
        to_first = scratch.empty(*self.query.shape, dtype=dtype) if self.first else to_query[0]
        slope, into = (scratch.empty(len(places.mask), dtype=dtype) for _ in range(2))
        for d, v, g, dv, s in self._of_groups(
            (self.dropped, places.weights),
            (self.value, places.keys),
            (towards, places.queries),
            (to_value, places.keys),
            (slope, places.weights),
        ):
            torch.bmm(d.transpose(1, 2), g, out=dv)
            torch.bmm(g, v.transpose(1, 2), out=s)
        if self.keep is not None:
            slope *= self.keep
        for s, w, i, q, k, dq, dk in self._of_groups(
            (slope, places.weights),
            (self.weights, places.weights),
            (into, places.weights),
            (self.query, places.queries),
            (self.key, places.keys),
            (to_first, places.queries),
            (to_key, places.keys),
        ):
            aten._softmax_backward_data.out(s, w, -1, dtype, grad_input=i)
            torch.bmm(i, k, out=dq)
            torch.bmm(i.transpose(1, 2), q, out=dk)
        states = scratch.rows(self.tokens, len(places.back) // self.tokens * width, dtype)
        torch.index_select(rows, 0, places.back, out=_rows(states, self))
        return states, to_first.view(len(self.arguments.lengths), -1) if self.first else None


def _rows(whole: Tensor, attention: Attention) -> Tensor:
    """View of a padded state's token rows as (token, part, head)."""
    return whole[: attention.tokens].view(-1, attention.width)


def padded(x: Tensor, dtype: torch.dtype, arena: Arena) -> Tensor:
    """Copy x (n, width) and append rows of zeros: see `buffers.Arena.rows`."""
    whole = arena.rows(len(x), x.shape[1], dtype)
    whole[: len(x)] = x
    return whole
