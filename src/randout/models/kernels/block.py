"""Fused CPU transformer block for BERT-family encoders, with a hand-written backward pass, for packed texts.

BERT, RoBERTa, XLM-R, CamemBERT, Data2VecText and ELECTRA share one block:

    x ─ attention(q, k, v) ─ dropout ─ add x ─ layer norm ─ z ─ feed-forward with GELU ─ dropout ─ add z ─ layer norm ─ y

Under autograd, most of its time is not spent in the matrix products. Here it is one autograd function: one product for q,
k and v, one conversion of dtypes, memory reused from step to step (`buffers`), gradients written directly to `.grad`. The
last block computes only each text's first token if a classifier reads nothing else. Dtypes are those that autocast would
choose, and dropout masks are the same. Results equal those of transformers' own block (tests/models/kernels/test_block.py),
which runs whenever a part of the block was changed or has a hook (`untouched`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

from . import dropout, packing
from .buffers import Arena, Gradients, observed, plain_tensor
from .fused_attention import Attention, BlockArguments, padded

aten = torch.ops.aten


class _FusedFunction(torch.autograd.Function):
    """Forward and backward pass of a block: y = LN2(z + drop(gelu(z W1' + b1) W2' + b2)), z = LN1(x + drop(attention(x)
    Wo' + bo)); x: (tokens, hidden).
    """

    @staticmethod
    def forward(ctx, x, arguments: BlockArguments, wq, bq, wk, bk, wv, bv, wo, bo, g1, c1, w1, b1, w2, b2, g2, c2):
        arena, dtype = arguments.arena, arguments.dtype
        with torch.autocast("cpu", enabled=False):
            state = padded(x, dtype, arena)
            parts = [(wq, bq, arguments.scaling), (wk, bk, 1.0), (wv, bv, dropout.scale(arguments.rates[0]))]
            joint, bias = _joined(parts[arguments.first :], dtype, arena)
            product = torch.addmm(bias, state, joint.t(), out=arena.empty(len(state), len(joint), dtype=dtype))[
                : len(x)
            ]
            start = query = first = None
            if arguments.first:
                start = starts_of(arguments.lengths)
                first, (query, of_query) = state[start], _joined(parts[:1], dtype, arena)
                x = x[start]
                attention = Attention(arguments, product, torch.addmm(of_query, first, query.t()))
            else:
                attention = Attention(arguments, product, None)
            mixed = attention.forward()
            out, up, down = (_cast(w, dtype, arena) for w in (wo, w1, w2))
            z, one = _ResidualNorm.of(arguments, 0, mixed, out, bo, x, g1, c1)
            middle = padded(z, dtype, arena)
            before = arena.empty(len(middle), len(up), dtype=dtype)
            torch.addmm(_cast(b1, dtype, arena), middle, up.t(), out=before)
            after = aten.gelu.out(before, out=arena.empty(*before.shape, dtype=dtype))
            y, two = _ResidualNorm.of(arguments, 1, after, down, b2, z, g2, c2)
        ctx.arguments, ctx.attention, ctx.one, ctx.two, ctx.start = arguments, attention, one, two, start
        ctx.weights = (wq, bq, wk, bk, wv, bv, wo, bo, g1, c1, w1, b1, w2, b2, g2, c2)
        ctx.inner = (state, joint, first, query, mixed, out, middle, up, before, after, down)
        ctx.save_for_backward(*ctx.weights)
        return y

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise RuntimeError("fused blocks have no second derivatives; run the forward pass within `block.plain()`")
        arguments, start = ctx.arguments, ctx.start
        state, joint, first, query, mixed, out, middle, up, before, after, down = ctx.inner
        ctx.saved_tensors  # noqa: B018 (raises if a weight was changed in place or the graph was freed)
        # Hooks on saved tensors return copies of the weights, but gradients must go to the parameters themselves.
        wq, bq, wk, bk, wv, bv, wo, bo, g1, c1, w1, b1, w2, b2, g2, c2 = ctx.weights
        scratch, dtype, hidden = Arena(arguments.arena.pool), arguments.dtype, gradient.shape[1]

        def product(a: Tensor, b: Tensor) -> Tensor:
            return torch.mm(a, b, out=scratch.empty(len(a), b.shape[1], dtype=dtype))

        found: dict[int, Tensor | None] = {}

        def add_gradient(place: int, weight: Tensor, value: Any) -> None:
            if ctx.needs_input_grad[place]:
                found[place] = arguments.gradients.add(weight, value())

        with torch.autocast("cpu", enabled=False):
            to_sum, to_down = ctx.two.backward(gradient, g2, c2, scratch, add_gradient, 16)
            add_gradient(14, w2, lambda: product(to_down.t(), after))
            add_gradient(15, b2, lambda: to_down.sum(0))
            slope = product(to_down, down)
            aten.gelu_backward.grad_input(slope, before, grad_input=slope)
            add_gradient(12, w1, lambda: product(slope.t(), middle))
            add_gradient(13, b1, lambda: slope.sum(0))
            to_sum += product(slope, up)[: len(to_sum)]
            to_sum, to_out = ctx.one.backward(to_sum, g1, c1, scratch, add_gradient, 10)
            add_gradient(8, wo, lambda: product(to_out.t(), mixed))
            add_gradient(9, bo, lambda: to_out.sum(0))
            to_state, to_first = ctx.attention.backward(product(to_out, out), scratch)
            parts = [(2, wq, bq, arguments.scaling), (4, wk, bk, 1.0), (6, wv, bv, dropout.scale(arguments.rates[0]))]
            slopes = product(to_state.t(), state).split(hidden)
            sums = to_state.sum(0).split(hidden)
            for (place, weight, bias, factor), w, b in zip(parts[arguments.first :], slopes, sums, strict=True):
                add_gradient(place, weight, lambda w=w, factor=factor: w.mul_(factor))
                add_gradient(place + 1, bias, lambda b=b, factor=factor: b * factor)
            if to_first is None:
                to_sum += product(to_state, joint)[: len(to_sum)]
            else:
                add_gradient(2, wq, lambda: product(to_first.t(), first).mul_(arguments.scaling))
                add_gradient(3, bq, lambda: to_first.sum(0) * arguments.scaling)
                to_sum += product(to_first, query)
                to_sum = (
                    product(to_state, joint)[: sum(arguments.lengths)]
                    .to(to_sum.dtype, copy=True)
                    .index_add_(0, start, to_sum)
                )
        return (to_sum, None, *(found.get(place) for place in range(2, 18)))


@dataclass(frozen=True)
class _ResidualNorm:
    """LN(x + drop(state W' + b)): the values that its backward pass needs. before: the input of the layer norm."""

    arguments: BlockArguments
    rate: float
    before: Tensor
    mean: Tensor
    deviation: Tensor
    keep: Tensor | None

    @staticmethod
    def of(
        arguments: BlockArguments,
        which: int,
        state: Tensor,
        weight: Tensor,
        bias: Tensor,
        x: Tensor,
        g: Tensor,
        c: Tensor,
    ) -> tuple[Tensor, _ResidualNorm]:
        arena, dtype, rate = arguments.arena, arguments.dtype, arguments.rates[1 + which]
        added = arena.empty(len(state), len(weight), dtype=dtype)
        added = torch.addmm(_cast(bias, dtype, arena), state, weight.t(), out=added)[: len(x)]
        keep = None
        if rate:
            keep = dropout.fill_keep_mask(arena.empty(sum(arguments.lengths), x.shape[1], dtype=dtype), rate)
            keep = (
                keep[starts_of(arguments.lengths)] if arguments.first else keep
            )  # same masks as when all tokens are computed
            added *= keep
        before = torch.add(x, added, alpha=dropout.scale(rate), out=arena.empty(*x.shape, dtype=x.dtype))
        output, mean, deviation = torch.native_layer_norm(before, x.shape[1:], g, c, arguments.eps[which])
        return output, _ResidualNorm(arguments, rate, before, mean, deviation, keep)

    def backward(
        self, gradient: Tensor, g: Tensor, c: Tensor, scratch: Arena, add_gradient: Any, place: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients with respect to x, in newly allocated memory, and to (state W' + b)."""
        to_sum, to_g, to_c = aten.native_layer_norm_backward(
            gradient, self.before, self.before.shape[1:], self.mean, self.deviation, g, c, [True, True, True]
        )
        add_gradient(place, g, lambda: to_g)
        add_gradient(place + 1, c, lambda: to_c)
        whole = padded(to_sum, self.arguments.dtype, scratch)
        added = whole[: len(to_sum)]
        if self.keep is not None:
            added *= self.keep
            added *= dropout.scale(self.rate)
        return to_sum, whole


def starts_of(lengths: Sequence[int]) -> Tensor:
    """Row of each text's first token, (b,)."""
    counts = torch.tensor(lengths)
    return counts.cumsum(0) - counts


def _cast(x: Tensor, dtype: torch.dtype, arena: Arena) -> Tensor:
    return x.detach() if x.dtype == dtype else arena.empty(*x.shape, dtype=dtype).copy_(x)


def _joined(parts: Sequence[tuple[Tensor, Tensor, float]], dtype: torch.dtype, arena: Arena) -> tuple[Tensor, Tensor]:
    """Concatenate the weights (out, in) and biases (out) of linear maps of one input, each multiplied by its factor."""
    rows, columns = parts[0][0].shape
    weight = arena.empty(len(parts) * rows, columns, dtype=dtype)
    bias = arena.empty(len(parts) * rows, dtype=dtype)
    for (w, b, factor), w_out, b_out in zip(parts, weight.split(rows), bias.split(rows), strict=True):
        w_out.copy_(w)
        b_out.copy_(b)
        if factor != 1.0:
            w_out *= factor
            b_out *= factor
    return weight, bias


class FusedBlock:
    """Mixin for the class of a block: runs `_FusedFunction` where possible, otherwise the class's own forward pass.

    In inference, the class's own forward pass also computes only first tokens after the last attention, if no others are
    needed.
    """

    def forward(self, hidden_states, attention_mask=None, *arguments, boundaries=None, **keywords):
        if boundaries is not None and boundaries.arena is not None and not packing.attention_hooks:
            given = (attention_mask, *arguments, keywords.get("past_key_values"))  # set in decoders or padded batches
            if all(value is None for value in given) and not observed() and untouched(self):
                return run(self, hidden_states[0], boundaries)[None]
        if boundaries is not None:
            keywords["boundaries"] = boundaries
            clean = not (torch.is_grad_enabled() or self.training)  # type: ignore[attr-defined]
            if boundaries.first and self.last and clean:  # type: ignore[attr-defined]
                with _first_only(self.attention.output, boundaries.lengths):  # type: ignore[attr-defined]
                    return super().forward(hidden_states, attention_mask, *arguments, **keywords)  # type: ignore[misc]
        return super().forward(hidden_states, attention_mask, *arguments, **keywords)  # type: ignore[misc]


@dataclass(frozen=True)
class _InstalledBlock:
    """The structure of a block when `install` changed it, to detect later changes.

    parts: each inner module, its class, that class's `forward`, and its children by name. maps: linear maps and norms, in
    the order of `_FusedFunction`'s arguments. shapes: of their weights and biases. heads: the self-attention module.
    forward: the block's forward method in transformers.
    """

    parts: tuple[tuple[nn.Module, type, Any, dict[str, nn.Module | None]], ...]
    maps: tuple[nn.Module, ...]
    shapes: tuple[torch.Size, ...]
    heads: nn.Module
    activation: nn.Module
    children: dict[str, nn.Module | None]
    forward: Any

    @staticmethod
    def of(block: Any) -> _InstalledBlock:
        parts = [part for name, part in block.named_modules() if name]
        found = [(part, type(part), type(part).forward, dict(part._modules)) for part in parts]
        heads, out, down, inner = block.attention.self, block.attention.output, block.output, block.intermediate
        maps = (heads.query, heads.key, heads.value, out.dense, out.LayerNorm, inner.dense, down.dense, down.LayerNorm)
        shapes = [w.shape for one in maps for w in (one.weight, one.bias)]
        own = super(FusedBlock, block).forward.__func__  # type: ignore[misc]
        children = dict(block._modules)
        return _InstalledBlock(tuple(found), maps, tuple(shapes), heads, inner.intermediate_act_fn, children, own)

    def weights(self) -> list[Tensor | None]:
        """Weight and bias of each of `maps`; None for one that is no longer a parameter. Read from the modules' dictionaries,
        because attribute look-ups of modules are slow and this runs in every forward pass.
        """
        kept = [one._parameters for one in self.maps]
        return [weight for own in kept for weight in (own.get("weight"), own.get("bias"))]


def untouched(block: Any) -> bool:
    """Whether `_FusedFunction` gives the same result as `block` and bypasses no hook; checked in every forward pass.

    True if every part is as installed, in the same mode as the block, without hooks or a replaced forward method, and all
    weights are plain tensors of one dtype. Otherwise the block runs as implemented in transformers.
    """
    built, training = block.built, block.training
    if training and getattr(block, "gradient_checkpointing", False):  # saves the memory that fused code would keep
        return False
    every = nn.modules.module  # hooks on all modules; those on the block itself run around its forward
    if (
        every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    ):
        return False
    for part, kind, forward, children in built.parts:
        own = part.__dict__
        if (
            type(part) is not kind
            or kind.forward is not forward  # type: ignore[attr-defined]
            or own["training"] is not training
            or own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
            or own["_modules"] != children
            or "forward" in own
            or "_compiled_call_impl" in own
        ):
            return False
    return block.__dict__["_modules"] == built.children and _computes_as_built(block, built)


def _computes_as_built(block: Any, built: _InstalledBlock) -> bool:
    """Whether the settings of `block` and the types of its weights are supported by `_FusedFunction`."""
    own, heads, weights = block.__dict__, built.heads.__dict__, built.weights()
    dtype = None if weights[0] is None else weights[0].dtype
    return (
        all(plain_tensor(w) and w.dtype is dtype and w.shape == s for w, s in zip(weights, built.shapes, strict=True))  # type: ignore[union-attr]
        and type(heads.get("scaling")) is float
        and heads["num_attention_heads"] * heads["attention_head_size"] == built.shapes[0][0]
        and built.activation.__dict__.get("act") is F.gelu
        and not (heads.get("is_causal") or own.get("is_decoder") or own.get("chunk_size_feed_forward"))
        and "feed_forward_chunk" not in own
        and super(FusedBlock, block).forward.__func__ is built.forward  # type: ignore[misc]
    )


@contextmanager
def _first_only(output: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """While open, pass only each text's first token to the modules after attention, of which `output` is the first."""

    def hook(_module: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        starts = starts_of(lengths).to(states[0].device)
        return tuple(state[:, starts] for state in states)

    handle = output.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


_plain: list[bool] = []


@contextmanager
def plain() -> Iterator[None]:
    """While open, blocks run as implemented in transformers: for second derivatives, which `_FusedFunction` lacks."""
    _plain.append(True)
    try:
        yield
    finally:
        _plain.pop()


def fusion_disabled() -> bool:
    """Whether `plain` is open."""
    return bool(_plain)


def run(block: Any, state: Tensor, boundaries: packing.Boundaries) -> Tensor:
    """Run the fused block on state (tokens, hidden); returns (tokens, hidden), or (texts, hidden) if only first tokens are
    needed.
    """
    heads, out, down = block.attention.self, block.attention.output, block.output
    assert boundaries.arena is not None
    rates = (heads.dropout.p, out.dropout.p, down.dropout.p) if block.training else (0.0, 0.0, 0.0)
    arguments = BlockArguments(
        boundaries.lengths,
        heads.num_attention_heads,
        heads.attention_head_size,
        _product_dtype(state),
        rates,
        (out.LayerNorm.eps, down.LayerNorm.eps),
        boundaries.first and block.last,
        boundaries.arena,
        block.gradients,
        heads.scaling,
    )
    return _FusedFunction.apply(state, arguments, *block.built.weights())


def _product_dtype(state: Tensor) -> torch.dtype:
    """Dtype of matrix products of `state`; autocast does not convert float64."""
    cast = torch.is_autocast_enabled("cpu") and state.dtype is not torch.float64
    return torch.get_autocast_dtype("cpu") if cast else state.dtype


def fits(block: nn.Module) -> bool:
    """Whether `block` has the structure of BERT's block: the same modules under the same names."""
    linear = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    linear += ["intermediate.dense", "output.dense"]
    parts = dict(block.named_modules())
    norms = ["attention.output.LayerNorm", "output.LayerNorm"]
    drops = ["attention.self.dropout", "attention.output.dropout", "output.dropout"]
    expected = {
        *linear,
        *norms,
        *drops,
        "attention",
        "attention.self",
        "attention.output",
        "intermediate",
        "output",
        "",
    }
    return (
        set(parts) == expected | {"intermediate.intermediate_act_fn"}
        and all(type(parts[name]) is nn.Linear and parts[name].bias is not None for name in linear)
        and all(type(parts[name]) is nn.LayerNorm for name in norms)
        and type(parts["intermediate.intermediate_act_fn"]) is GELUActivation
        and hasattr(parts["attention.self"], "scaling")
    )


def install(blocks: Sequence[nn.Module], gradients: Gradients) -> bool:
    """Turn all `blocks` into fused blocks, in place, without changing parameters. Returns False if they do not fit."""
    if not blocks or not all(fits(block) for block in blocks):
        return False
    for block in blocks:
        if not isinstance(block, FusedBlock):
            block.__class__ = type(type(block).__name__, (FusedBlock, type(block)), {})
        block.last, block.gradients = block is blocks[-1], gradients  # type: ignore[assignment]
        block.built = _InstalledBlock.of(block)  # type: ignore[assignment]
    return True
