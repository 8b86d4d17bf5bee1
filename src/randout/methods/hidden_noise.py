"""Adding noise to hidden states, and checking its settings: shared by the noise methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from randout.core.errors import UserError
from randout.core.lazy import torch

from .base import Method, Pass, Size

if TYPE_CHECKING:
    from torch import Tensor


def check_layers(method: Method, setting: str, layers: Sequence[int], size: Size) -> None:
    """Raise UserError if the student does not have all `layers` (0: the embeddings, i: block i)."""
    if bad := [layer for layer in layers if not 0 <= layer <= size.depth]:
        raise UserError(
            f"methods.{method.name}.{setting}: found {bad[0]}; expected 0 (the embeddings) to {size.depth}, "
            f"because the student has {size.depth} blocks"
        )


def check_noise(method: Method, size: Size) -> None:
    """Raise UserError if `tokens` or `units` of a method exceed what any text or hidden state of the student can have.

    Texts with fewer tokens are allowed: all their tokens are chosen. The default values are always allowed.
    """
    limits = {
        "units": (size.width, "number of hidden units of the student"),
        "tokens": (size.positions, "maximum number of tokens in a text"),
    }
    for setting, (most, what) in limits.items():
        asked, default = getattr(method, setting), type(method).model_fields[setting].default
        if most is not None and asked > most and asked != default:
            raise UserError(f"methods.{method.name}.{setting}: found {asked}; expected at most {most}, the {what}")


@contextmanager
def noise_at(step: Pass, layer: int, add: Callable[[Pass, Tensor], Tensor]) -> Iterator[None]:
    """While open, pass the hidden state at `layer` (.., .., width) through `add(step, hidden)`."""
    undo = step.context.hook_points.change(layer, partial(add, step))
    try:
        yield
    finally:
        undo()


def add_gaussian(step: Pass, hidden: Tensor, name: str, size: float | Tensor) -> Tensor:
    """Add size * N(0, 1) to all units of every token of hidden (.., .., width).

    name: purpose that keys the random draw. size: a number or (b, 1, 1).
    """
    layout = step.layout
    shape = (layout.of, layout.longest, hidden.shape[-1])
    noise = torch.randn(shape, generator=step.generator(name, hidden.device), device=hidden.device)
    noise = size * layout.own(noise)  # (b, longest, width)
    step.log("noise_l2", noise.square().sum((1, 2)).sqrt().mean(), weight=len(noise))
    return layout.add(hidden, noise)
