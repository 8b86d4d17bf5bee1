"""R-Drop: makes two passes with different dropout masks agree (Liang et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class RDrop(Method):
    """L = (CE(z_1) + CE(z_2)) / 2 + alpha * (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2.

    z_1, z_2: (b, C) logits of two passes with different dropout masks (and noise, if the recipe has any), p their softmax;
    KL is averaged over all texts of the step, labelled or not, and its gradient flows into both passes. The paper's eq. 4
    sums the two CE terms: twice this loss at twice this alpha. The mean, as in the authors' own example, keeps CE as large
    as in plain training. That example, and their BERT and RoBERTa, sum KL over the B texts of a batch instead of averaging
    it: the example's alpha corresponds to B times that alpha here. With alpha = 0 and without dropout, this is plain
    training.

    No effect if the student has neither dropout nor noise. A large alpha pulls all predictions towards uniform.
    """

    name = "r-drop"
    summary = "makes two passes with different dropout masks agree"
    source = "Liang et al. 2021 (2106.14448, section 2.1)"
    kind = "noise"
    cost = "2x"
    losses = ("ce", "r-drop")
    weighted = True
    label_sets = True
    replaces_gold_loss = True
    space = {"alpha": (0.5, 1.0, 5.0)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, description="factor of the divergence between the passes")] = 1.0

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        other = forward(call=1)
        one, two = output.logits, other.logits
        between, weights = step.context.target.divergence, batch.weights
        divergence = (between(one, two, 1.0, weights) + between(two, one, 1.0, weights)) / 2
        gold = (step.gold_loss(output, batch) + step.gold_loss(other, batch)) / 2
        return {"ce": gold, "r-drop": self.alpha * divergence / batch.step_labels.numel()}
