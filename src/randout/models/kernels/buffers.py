"""Buffers reused from step to step: fresh memory costs a page fault for every 4 KiB that is first touched.

And what Python's collector leaves alone while a training runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
import torch.autograd.forward_ad
from torch import Tensor

CHUNK = 8 << 20  # bytes that a pool asks for at a time
STEP = (
    64  # rows that go into a product are a multiple of it: oneDNN compiles a kernel, at about 1 ms, for every new shape
)
LINE = 64  # bytes that every tensor starts on a multiple of


class Pool:
    """Chunks of memory that are free to be used again."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []  # of uint8

    def take(self, size: int) -> Tensor:
        """The smallest free chunk of at least `size` bytes, or a new one."""
        fitting = [place for place, chunk in enumerate(self.free) if chunk.numel() >= size]
        if not fitting:
            return torch.empty(max(size, CHUNK), dtype=torch.uint8)
        return self.free.pop(min(fitting, key=lambda place: self.free[place].numel()))


class Tape:
    """Tensors that live until the tape is dropped; then their memory is the pool's again. Nothing of it may be handed to
    code that could keep it for longer.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.chunks: list[Tensor] = []
        self.used = self.room = 0  # bytes of the last chunk
        self.typed: dict[torch.dtype, Tensor] = {}  # the last chunk in other formats

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor of this shape, its values undefined."""
        item = dtype.itemsize
        size = prod(shape) * item
        if self.used + size > self.room:
            self.chunks.append(self.pool.take(size))
            self.used, self.room, self.typed = 0, self.chunks[-1].numel(), {}
        if dtype not in self.typed:
            self.typed[dtype] = self.chunks[-1].view(dtype)
        start, self.used = self.used, -(-(self.used + size) // LINE) * LINE
        strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
        return torch.as_strided(self.typed[dtype], shape, strides, start // item)

    def rows(self, count: int, width: int, dtype: torch.dtype) -> Tensor:
        """(count rounded up to `STEP`, width): the first `count` rows undefined, the others zero."""
        whole = self.empty(-(-count // STEP) * STEP, width, dtype=dtype)
        whole[count:] = 0
        return whole

    def __del__(self) -> None:
        self.pool.free += self.chunks


class Gradients:
    """Where gradients of parameters go: into memory of this object's own, kept from step to step, while `adding` is
    open; else they are handed on to autograd, as `torch.autograd.grad` needs them.
    """

    def __init__(self) -> None:
        self.kept: dict[Tensor, Tensor] = {}  # parameter -> its memory
        self.rows: dict[Tensor, list[Tensor]] = {}  # embedding -> rows of its memory that may not be zero
        self.held: list[tuple[Tensor, Tensor, Tensor]] = []  # what `add_rows` was given in this backward pass
        self.direct = False

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While open, around a backward pass, `add` adds to `.grad` itself; when it closes, so does `add_rows`."""
        self.direct = True
        versions = {weight: self.kept[weight]._version for weight in self.rows}
        try:
            yield
            for weight, version in versions.items():
                if self.kept[weight]._version != version:  # autograd added to it: any row may not be zero now
                    self.rows[weight] = [torch.arange(len(weight))]
            for held in self.held:
                self._add_rows(*held)
        finally:
            self.direct = False
            self.held.clear()

    def takes(self, weight: Tensor) -> bool:
        """Whether the gradient of `weight` is to be added to `.grad` here: not for tensors that were computed, nor where
        hooks of the parameter must see the gradient, which only autograd calls.
        """
        return (
            self.direct and weight.is_leaf and not weight._backward_hooks and not weight._post_accumulate_grad_hooks  # type: ignore[attr-defined]
        )

    def forget(self) -> None:
        """Give the memory of gradients back, as after a trial step."""
        self.kept.clear()
        self.rows.clear()

    def add(self, weight: Tensor, gradient: Tensor) -> Tensor | None:
        """Add `gradient` to `weight.grad` and return None; where `takes` says no, the gradient for autograd, in memory of
        its own.

        weight: the parameter itself. A copy, such as `ctx.saved_tensors` hands out under saved-tensor hooks, would take
        the gradient and be forgotten.
        """
        if not self.takes(weight):
            return gradient.to(weight.dtype, copy=True)
        if weight.grad is None:
            if weight not in self.kept:
                self.kept[weight] = torch.empty_like(weight, requires_grad=False)
            weight.grad = self.kept[weight].copy_(gradient)
        else:
            weight.grad.add_(gradient)
        return None

    def add_rows(self, weight: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """`add` for a gradient that is zero but in `rows`, each named once: (n,) and (n, width). Only while `adding`."""
        self.held.append((weight, rows, gradient))

    def _add_rows(self, weight: Tensor, rows: Tensor, gradient: Tensor) -> None:
        if weight.grad is None:
            if weight not in self.kept:
                self.kept[weight] = torch.zeros_like(weight, requires_grad=False)
            for others in self.rows.pop(weight, []):
                self.kept[weight][others] = 0.0
            weight.grad = self.kept[weight]
        if weight.grad is self.kept.get(weight):
            self.rows.setdefault(weight, []).append(rows)
        weight.grad[rows] += gradient


def observed() -> bool:
    """Whether something needs torch's own operations one by one: hooks on saved tensors (gradient checkpointing,
    `save_on_cpu`), transforms of `torch.func`, forward-mode differentiation, tracing.
    """
    return (
        torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
    )


def plain_tensor(x: object) -> bool:
    """Whether `x` is a tensor or a parameter of torch's own, and no subclass (quantised, sharded) of it."""
    return type(x) is torch.nn.Parameter or type(x) is Tensor


_left_alone: list[bool] = []


@contextmanager
def frozen_garbage_collector() -> Iterator[None]:
    """While open, Python's collector leaves alone what was there before: libraries' million objects, looked through every
    few steps. What is garbage by then (the training before this one) goes first. Opened again inside, it only does that.
    """
    gc.collect()
    if not _left_alone:
        gc.freeze()
    _left_alone.append(True)
    try:
        yield
    finally:
        _left_alone.pop()
        if not _left_alone:
            gc.unfreeze()
