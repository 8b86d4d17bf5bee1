"""FreeLB: adversarial word embeddings by several ascent steps, whose gradients all train the student (Zhu et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch

from .base import Backward, Batch, Context, Method, Pass, State, Step
from .functional import unit

if TYPE_CHECKING:
    from torch import Tensor

    from randout.models.hooks import Layout


class FreeLB(Method):
    """gradient = 1 / K * sum_{t=0}^{K-1} grad_theta L(X + delta_t, y), L the sum of all losses of the recipe.

    X (n, d) are the word embeddings of a text of n tokens. delta_0 = U(-1, 1) * init / sqrt(n * d) in each unit;
    delta_{t+1} = delta_t + ascent * g / ||g||_F, g the gradient of L with respect to delta_t, then scaled back to the
    norm `limit` if it is larger (0: no limit). Norms are per text. `steps` is K. All K passes have the same dropout masks
    (section 3.3). With steps = 1 and init = 0, this is plain training. The perturbation is added by a hook after the token
    embedding, before positions and layer norm; padding is never perturbed.

    Texts without a label are perturbed if another loss (distillation) reads them; otherwise their g is zero and delta stays
    at its initial value. Harmful if `ascent` and `limit` are large relative to the norm of the embeddings (about 1.4 per
    token in BERT). Only one method of a recipe may compute gradients in its own way.
    """

    name = "freelb"
    summary = "adversarial word embeddings, K steps of ascent whose gradients all count"
    source = "Zhu et al. 2020 (1909.11764, algorithm 1)"
    kind = "noise"
    label_sets = True
    cost = "3x"
    space = {"steps": (2, 3), "ascent": (0.03, 0.1), "limit": (0.0, 0.3)}  # noqa: RUF012

    steps: Annotated[int, Field(ge=1, description="K: passes of each optimizer step")] = 3
    ascent: Annotated[float, Field(ge=0, description="L2 norm of each ascent step, per text")] = 0.1
    init: Annotated[float, Field(ge=0, description="size of the random start: uniform up to init / sqrt(n d)")] = 0.2
    limit: Annotated[float, Field(ge=0, description="largest L2 norm of a text's perturbation; 0: none")] = 0.3

    def check(self, context: Context) -> None:
        if context.hook_points.words is None:
            raise UserError("methods.freelb: this student has no word embeddings; use another student")

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        delta = self._drawn(step, batch)
        for left in reversed(range(self.steps)):
            delta.requires_grad_()
            backward(batch, 1 / self.steps, partial(_perturbed, delta))
            if left:
                delta = self._ascended(delta)

    def _drawn(self, step: Step, batch: Batch) -> Tensor:
        """delta_0 (b, longest, d), zero at positions without a token; drawn for the whole step, then sliced."""
        matrix: Any = step.context.hook_points.words.weight  # type: ignore[union-attr]
        shape = (batch.step_labels.numel(), batch.longest, matrix.shape[1])
        drawn = torch.rand(shape, generator=step.generator("freelb", matrix.device), device=matrix.device) * 2 - 1
        lengths = torch.tensor([len(text) for text in batch.ids], device=matrix.device)[:, None]
        real = torch.arange(batch.longest, device=matrix.device) < lengths  # (b, longest)
        size = self.init * real / (lengths * shape[2]).sqrt()
        noise: Tensor = (drawn[batch.first : batch.first + len(lengths)] * size[..., None]).to(matrix.dtype)
        return noise

    def _ascended(self, delta: Tensor) -> Tensor:
        """Take one ascent step along the gradient of each text, and project back to norm `limit`."""
        assert delta.grad is not None
        longer: Tensor = delta.detach() + self.ascent * unit(delta.grad)
        if not self.limit:
            return longer
        norm = longer.flatten(1).norm(dim=1)[:, None, None]
        within: Tensor = longer * (self.limit / norm).clamp(max=1.0)  # a norm of 0 gives 1
        return within


@contextmanager
def _perturbed(delta: Tensor, step: Pass) -> Iterator[None]:
    """While open, add delta (b, longest, d) to the word embeddings of each text's tokens."""
    undo = step.context.hook_points.change_words(partial(_add, step.layout, delta))
    try:
        yield
    finally:
        undo()


def _add(layout: Layout, delta: Tensor, ids: Tensor, embedded: Tensor) -> Tensor:
    """Add delta to embedded (.., n, d) at each text's tokens."""
    rows = embedded.shape[:-1].numel()
    return embedded + layout.into_rows(delta, rows).view_as(embedded).to(embedded.dtype)
