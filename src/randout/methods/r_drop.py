"""R-Drop: two passes with other dropout masks are to agree (Liang et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, Run, State
from .functional import kl_divergence

if TYPE_CHECKING:
    from torch import Tensor


class RDrop(Method):
    """L = (CE(z_1) + CE(z_2)) / 2 + alpha * (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2.

    z_1, z_2: (b, C) logits of two passes with dropout masks (and noise, where the recipe has any) of their own, p their
    softmax; KL is averaged over all texts of the step, labelled or not, and its gradient flows into both passes. The
    paper's eq. 4 adds up the two CE: twice this loss at twice this alpha. The mean, as in the authors' own example,
    keeps CE as large as in plain training. That example, and their BERT and RoBERTa, add KL up over the B texts of a
    batch and do not average it: the example's alpha stands for B times as much here. With alpha = 0 and without dropout
    it is plain training.

    Does nothing where the student has neither dropout nor noise. A large alpha pulls all predictions towards uniform.
    """

    name = "r-drop"
    summary = "two stochastic passes are to agree"
    source = "Liang et al. 2021 (2106.14448, section 2.1)"
    kind = "noise"
    cost = "2x"
    losses = ("ce", "r-drop")
    supervises = True
    space = {"alpha": (0.5, 1.0, 5.0)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, description="factor of the divergence between the passes")] = 1.0

    def loss(self, run: Run, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        assert run.supervised is not None
        other = forward(call=1)
        one, two = output.logits, other.logits
        divergence = (kl_divergence(one, two, 1.0) + kl_divergence(two, one, 1.0)) / 2
        supervised = (run.supervised(output, batch) + run.supervised(other, batch)) / 2
        return {"ce": supervised, "r-drop": self.alpha * divergence / batch.step_labels.numel()}
