"""Gaussian noise on a hidden state, with a clean branch and a contrastive loss between both (Khan et al. 2022, 2204.06337)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.models.outputs import Output, Want

from .base import Batch, Context, Forward, Method, Pass, Size, State, Step
from .functional import info_nce
from .hidden_noise import add_gaussian, check_layers, noise_at

if TYPE_CHECKING:
    from torch import Tensor


class GaussianContrastive(Method):
    """L = (CE(z) + CE(z~)) / 2 + weight * InfoNCE(c, c~), with h~_l = h_l + N(0, sigma^2) in the second branch.

    z, z~: (b, C) logits of the clean and the noisy branch; c, c~: (b, hidden) their last states at each text's first
    token ([CLS]); h_l: (tokens, hidden), the output of block l = `layer`, with noise on every unit of every real token. CE
    is the recipe's loss on gold labels. InfoNCE: `functional.info_nce`; negatives are the other texts of the step, labelled
    or not, so a step cannot be split into micro-batches. The noisy branch is the main forward pass, whose logits other
    losses read; the clean branch has the same dropout masks and no noise of the recipe, so the branches differ by noise
    only.
    Source: their method section (two branches, CE on both, a contrastive loss between their [CLS] vectors; sigma .01, .05,
    .1 or .3). Our choices, where the paper could not be checked: InfoNCE in both directions without a projection,
    temperature .05 and weight .3 (the authors' in 2203.01895), the sum of the two terms, the same dropout masks in both
    branches. Not useful in small batches, which have few negatives.
    """

    name = "gaussian-contrastive"
    summary = "a clean and a noisy branch, with a contrastive loss between them"
    source = "Khan et al. 2022, 2204.06337"
    kind = "noise"
    cost = "2x"
    losses = ("ce", "gaussian-contrastive")
    label_sets = True
    replaces_gold_loss = True
    needs_full_batch = True
    space = {"sigma": (0.01, 0.05, 0.1, 0.3), "weight": (0.1, 0.3, 0.5)}  # noqa: RUF012

    sigma: Annotated[float, Field(ge=0, description="standard deviation (paper: 0.01, 0.05, 0.1, 0.3)")] = 0.1
    layer: Annotated[int, Field(ge=0, description="0 the embedding output, i the output of block i")] = 1
    weight: Annotated[float, Field(ge=0, description="factor of the contrastive loss")] = 0.3
    temperature: Annotated[float, Field(gt=0, description="of the contrastive loss")] = 0.05

    def check(self, context: Context) -> None:
        blocks = len(context.hook_points.blocks)
        if not blocks:
            raise UserError(
                "methods.gaussian-contrastive: not supported because this student is a neural baseline without blocks and "
                "[CLS]; use it with an encoder, or remove it"
            )
        super().check(context)

    def check_size(self, size: Size) -> None:
        check_layers(self, "layer", [self.layer], size)

    def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
        return noise_at(step, self.layer, self._add)

    def _add(self, step: Pass, hidden: Tensor) -> Tensor:
        """Add noise to hidden (.., .., width)."""
        return add_gaussian(step, hidden, self.name, self.sigma)

    def want(self, context: Context) -> Want:
        return Want(pooled=True)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        assert output.pooled is not None
        clean = forward(perturb=False, call=0, want=Want(pooled=True))
        assert clean.pooled is not None
        gold = (step.gold_loss(clean, batch) + step.gold_loss(output, batch)) / 2
        contrast = info_nce(clean.pooled, output.pooled, self.temperature)
        return {"ce": gold, "gaussian-contrastive": self.weight * contrast}
