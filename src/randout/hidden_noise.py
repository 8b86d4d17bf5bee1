"""What methods that add noise to a hidden state share: where it may be added, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from .errors import UserError
from .lazy import torch
from .method import Run

if TYPE_CHECKING:
    from torch import Tensor


def check_layer(run: Run, name: str, layer: int) -> None:
    """Raise UserError where the student of method `name` has no place `layer` (0 the embeddings, i block i)."""
    if layer > (blocks := len(run.sites.blocks)):
        raise UserError(f"methods.{name}.layer: {layer} is no place in this student; 0 to {blocks} are")


@contextmanager
def noise_at(run: Run, layer: int, add: Callable[[Run, Tensor], Tensor]) -> Iterator[None]:
    """While open the hidden state at `layer` (.., .., width) goes through `add(run, hidden)`."""
    undo = run.sites.change(layer, partial(add, run))
    try:
        yield
    finally:
        undo()


def add_gaussian(run: Run, hidden: Tensor, name: str, size: float | Tensor) -> Tensor:
    """hidden + size * N(0, 1) at every token's units, drawn under the purpose `name`; a clean pass (no layout) goes
    through untouched. size: a number or (b, 1, 1).
    """
    if (layout := run.layout) is None:
        return hidden
    shape = (layout.of, layout.longest, hidden.shape[-1])
    noise = torch.randn(shape, generator=run.generator(name, hidden.device), device=hidden.device)
    noise = size * layout.own(noise)  # (b, longest, width)
    run.log("noise_l2", noise.square().sum((1, 2)).sqrt().mean(), weight=len(noise))
    return layout.add(hidden, noise)
