"""NEFTune: uniform noise on the word embeddings, scaled by the text's length (Jain et al. 2023, 2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch

from .base import Context, Method, Pass, State

if TYPE_CHECKING:
    from torch import Tensor


class NEFTune(Method):
    """e += alpha / sqrt(L * d) * U(-1, 1) at every unit of every real token, in every training forward.

    e: (L, d) the word embeddings of one text, before positions are added, L its own number of tokens, special tokens
    included, d their width. Padding is unchanged. The L2 norm of a text's noise is about alpha / sqrt(3), whatever its
    length. Drawn in float32, keyed by (seed, step, call).
    Source: section 2, algorithm 1; alpha 5, 10 or 15. Developed for generative models: an encoder's layer norm after the
    embeddings rescales them together with the noise, so the noise is relatively large if embeddings are small. A forward
    pass given `inputs_embeds` instead of ids gets no noise.
    """

    name = "neftune"
    summary = "uniform noise on the word embeddings, scaled by the text's length"
    source = "Jain et al. 2023, 2310.05914, section 2"
    kind = "noise"
    cost = "1x"
    space = {"alpha": (5.0, 10.0, 15.0)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, description="size of the noise (paper: 5, 10, 15)")] = 5.0

    def check(self, context: Context) -> None:
        if context.hook_points.words is None:
            raise UserError(
                f"methods.neftune: no token embedding was found in the student {type(context.model).__name__}; "
                "remove this method"
            )

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        undo = step.context.hook_points.change_words(partial(self._add, step))
        try:
            yield
        finally:
            undo()

    def _add(self, step: Pass, ids: Tensor, embedded: Tensor) -> Tensor:
        """Add noise to embedded (.., .., d)."""
        layout, width = step.layout, embedded.shape[-1]
        generator = step.generator("neftune", embedded.device)
        size = self.alpha / (layout.lengths * width).sqrt()[:, None, None]  # (b, 1, 1)
        uniform = torch.rand(layout.of, layout.longest, width, generator=generator, device=embedded.device)
        noise = size * layout.own(2 * uniform - 1)  # (b, longest, d)
        step.log("noise_l2", noise.square().sum((1, 2)).sqrt().mean(), weight=len(noise))
        return layout.add(embedded, noise)
