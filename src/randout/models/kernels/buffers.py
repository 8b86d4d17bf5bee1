"""Buffers reused from step to step, because new memory costs a page fault for every 4 KiB.

Also freezes Python's garbage collector for existing objects during training.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
import torch.autograd.forward_ad
from torch import Tensor

CHUNK = 8 << 20  # bytes that a pool allocates at a time
STEP = 64  # rows of a product are padded to a multiple: oneDNN compiles a kernel, in about 1 ms, for every new shape
LINE = 64  # alignment of tensors, in bytes


class Pool:
    """Free chunks of memory for reuse."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []  # of uint8

    def take(self, size: int) -> Tensor:
        """Return the smallest free chunk of at least `size` bytes, or a new one."""
        fitting = [place for place, chunk in enumerate(self.free) if chunk.numel() >= size]
        if not fitting:
            return torch.empty(max(size, CHUNK), dtype=torch.uint8)
        return self.free.pop(min(fitting, key=lambda place: self.free[place].numel()))


class Arena:
    """Allocator of tensors that live as long as the arena; then their memory returns to the pool.

    These tensors must not be passed to code that could keep them for longer.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.chunks: list[Tensor] = []
        self.used = self.room = 0  # bytes of the last chunk
        self.typed: dict[torch.dtype, Tensor] = {}  # views of the last chunk by dtype

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Allocate a tensor of this shape with undefined values."""
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
        """Allocate (count rounded up to `STEP`, width): the first `count` rows are undefined, the others zero."""
        whole = self.empty(-(-count // STEP) * STEP, width, dtype=dtype)
        whole[count:] = 0
        return whole

    def __del__(self) -> None:
        self.pool.free += self.chunks


class Gradients:
    """Destination of parameter gradients of fused code.

    While `adding` is open, gradients are added to `.grad` in memory that is reused from step to step. Otherwise they are
    returned to autograd, as `torch.autograd.grad` needs them.
    """

    def __init__(self) -> None:
        self.kept: dict[Tensor, Tensor] = {}  # parameter -> its memory
        self.rows: dict[Tensor, list[Tensor]] = {}  # embedding -> rows of its memory that may be non-zero
        self.held: list[tuple[Tensor, Tensor, Tensor]] = []  # arguments of `add_rows` in this backward pass
        self.direct = False

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While open, around a backward pass, `add` adds to `.grad` at once, and `add_rows` when it closes."""
        self.direct = True
        versions = {weight: self.kept[weight]._version for weight in self.rows}
        try:
            yield
            for weight, version in versions.items():
                if self.kept[weight]._version != version:  # autograd added to it, so any row may be non-zero
                    self.rows[weight] = [torch.arange(len(weight))]
            for held in self.held:
                self._add_rows(*held)
        finally:
            self.direct = False
            self.held.clear()

    def takes(self, weight: Tensor) -> bool:
        """Whether the gradient of `weight` is added to `.grad` here: only for leaf tensors, and not for parameters with
        gradient hooks, which only autograd calls.
        """
        return (
            self.direct and weight.is_leaf and not weight._backward_hooks and not weight._post_accumulate_grad_hooks  # type: ignore[attr-defined]
        )

    def forget(self) -> None:
        """Release the memory of all gradients, as after a probe."""
        self.kept.clear()
        self.rows.clear()

    def add(self, weight: Tensor, gradient: Tensor) -> Tensor | None:
        """Add `gradient` to `weight.grad` and return None; if `takes` is false, return a copy of it for autograd.

        weight: the parameter itself, not a copy such as `ctx.saved_tensors` returns under saved-tensor hooks: the gradient
        of a copy would be lost.
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
        """As `add`, for a gradient (n, width) of unique `rows` (n,) that is zero elsewhere. Only while `adding` is open."""
        self.held.append((weight, rows, gradient))

    def occupied_rows(self, weight: Tensor) -> Tensor | None:
        """Return the rows of the embedding's `.grad` that may be non-zero; None if any may be, or if it has none."""
        if weight.grad is None or weight.grad is not self.kept.get(weight) or weight not in self.rows:
            return None
        return torch.cat(self.rows[weight]).unique()

    def set_rows(self, weight: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Set the embedding's `.grad` to `gradient` (n, width) in unique `rows` (n,), and to zero elsewhere."""
        weight.grad = None
        self._add_rows(weight, rows, gradient)

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
    """Whether something needs torch's individual operations: hooks on saved tensors (gradient checkpointing,
    `save_on_cpu`), `torch.func` transforms, forward-mode differentiation, tracing.
    """
    return (
        torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
    )


def plain_tensor(x: object) -> bool:
    """Whether `x` is a plain tensor or parameter, not a subclass (quantised, sharded)."""
    return type(x) is torch.nn.Parameter or type(x) is Tensor


@contextmanager
def frozen_garbage_collector() -> Iterator[None]:
    """While open, exclude existing objects from garbage collection, which would scan a million library objects every few
    steps. Existing garbage (an earlier training) is collected first. If objects are frozen already, by nested use or by
    another library, it only collects and leaves them frozen.
    """
    gc.collect()
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
