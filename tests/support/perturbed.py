"""What a noise method does to a hidden state, by `Method.perturb` on a model that only holds that state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from randout.methods.base import Context, Pass, State, Step
from randout.models.hooks import HookPoints

BLOCKS = 3


class Held(nn.Module):
    """A token embedding that returns given vectors for any ids."""

    vectors: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        return self.vectors


def bare_step(seed: int = 1, number: int = 0, class_weights: Tensor | None = None, **changes: Any) -> Step:
    """A step of a model of three blocks that return what they are given."""
    blocks = tuple(nn.Identity() for _ in range(BLOCKS))
    hook_points = HookPoints(nn.Identity(), blocks, words=Held())
    return Step(Context(nn.Identity(), hook_points, seed, class_weights=class_weights), number=number, **changes)


def perturbed(method: Any, step: Pass, hidden: Tensor, layer: int = 1) -> Tensor:
    """The hidden state `hidden` (.., .., width) at hook point `layer` (0: the embedding output), or the token embeddings, of
    a forward pass within `method.perturb`: whichever the method changes.
    """
    points: Any = step.context.hook_points
    points.words.vectors = hidden
    with method.perturb(step, State()):
        words = points.words(torch.zeros(hidden.shape[:2], dtype=torch.int64))
        return (points.embedding if layer == 0 else points.blocks[layer - 1])(words)
