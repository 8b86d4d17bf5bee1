"""Adversarial training on the word embedding matrix, with a contrastive loss of clean and perturbed (Khan et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import F, torch
from randout.models.outputs import Output, Want

from .base import Batch, Context, Forward, Method, Pass, State, Step
from .functional import barlow_twins, info_nce, unit

if TYPE_CHECKING:
    from torch import Tensor


class EmbeddingAdversarial(Method):
    """L = (1 - w) / 2 * (CE_clean + CE_adv) + w * L_ctr, with r = epsilon * g / ||g||_2 added to the embedding matrix.

    g (V, d) is the gradient of CE_clean with respect to the embedding matrix of V words, ||.||_2 the norm of the whole
    matrix, so r is the same for all texts of a step and zero for words that do not occur. L_ctr compares the [CLS] vectors
    (n, hidden) of the last block, clean and perturbed: InfoNCE with `temperature`, or Barlow Twins. `weight` is w. The
    perturbed forward pass adds r's row of each token to the output of the embedding; the matrix itself does not change.
    Both passes have the same dropout masks. Texts without a label contribute to L_ctr only.

    Not useful with small batches: InfoNCE has few negatives, and the correlations of Barlow Twins over n texts have noise
    of about n^-1/2 in each of hidden^2 entries, which soon outweighs CE. A step cannot be split into micro-batches.
    """

    name = "embedding-adversarial"
    summary = "adversarial word embeddings, and a contrastive loss of clean and perturbed [CLS]"
    source = "Khan et al. 2022 (2203.01895, section 3), after Pan et al. 2021 (2107.10137, section 3)"
    kind = "noise"
    cost = "2.3x"
    losses = ("ce", "embedding-adversarial")
    label_sets = True
    replaces_gold_loss = True
    needs_full_batch = True
    variants = {"embedding-adversarial-barlow": {"contrast": "barlow-twins"}}  # noqa: RUF012
    space = {"epsilon": (0.5, 1.0, 2.0), "weight": (0.1, 0.3, 0.5)}  # noqa: RUF012

    epsilon: Annotated[float, Field(ge=0, description="L2 norm of the perturbation of the whole matrix")] = 1.0
    weight: Annotated[float, Field(ge=0, le=1, description="w: share of the contrast in the loss")] = 0.3
    contrast: Annotated[
        Literal["info-nce", "barlow-twins"], Field(description="what pulls the two [CLS] vectors of a text together")
    ] = "info-nce"
    temperature: Annotated[float, Field(gt=0, description="of InfoNCE")] = 0.05
    off_diagonal: Annotated[float, Field(ge=0, description="lambda of Barlow Twins")] = 0.005

    def check(self, context: Context) -> None:
        if context.hook_points.words is None:
            raise UserError("methods.embedding-adversarial: this student has no word embeddings; use another student")

    def want(self, context: Context) -> Want:
        return Want(pooled=True)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        clean = step.gold_loss(output, batch)
        other = self._perturbed(step, clean, forward)
        adversarial = step.gold_loss(other, batch)
        assert output.pooled is not None
        assert other.pooled is not None
        if self.contrast == "info-nce":
            contrast = info_nce(output.pooled, other.pooled, self.temperature)
        else:
            contrast = barlow_twins(output.pooled, other.pooled, self.off_diagonal)
        gold = (1 - self.weight) / 2 * (clean + adversarial)
        return {"ce": gold, "embedding-adversarial": self.weight * contrast}

    def _perturbed(self, step: Step, clean: Tensor, forward: Forward) -> Output:
        """Run the student with r added to its word embeddings; `clean` is CE_clean, with a graph."""
        matrix: Any = step.context.hook_points.words.weight  # type: ignore[union-attr]
        (gradient,) = torch.autograd.grad(clean, matrix, retain_graph=True)
        r = self.epsilon * unit(gradient[None])[0]  # (V, d)
        return forward(want=Want(pooled=True), around=partial(_added, r))


@contextmanager
def _added(r: Tensor, step: Pass) -> Iterator[None]:
    """While open, add r (V, d) to the word embeddings."""
    undo = step.context.hook_points.change_words(lambda ids, embedded: embedded + F.embedding(ids, r))
    try:
        yield
    finally:
        undo()
