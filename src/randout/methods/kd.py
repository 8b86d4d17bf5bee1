"""Knowledge distillation from stored teacher logits (paper, eq. 4-6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class KnowledgeDistillation(Method):
    """lambda * KL(softmax(z_t / t) || softmax(z_s / t)), the teacher's distribution first (eq. 4-6).

    z_t, z_s: (b, C) logits. `weight` is lambda, `temperature` t. reduction: "batchmean" divides by the texts of the
    step (like eq. 2), "sum" takes eq. 5 literally, "mean" divides by texts and classes. `t_squared` multiplies by t^2
    (Hinton et al. 2015; not in eq. 4-6). Texts without a label count like all others;
    texts without a soft label add nothing to the sum. With weights of rows (`data.weight_column`), each text's divergence is
    multiplied by its weight over the mean weight.

    Multi-label data: the sum over labels of the Bernoulli KL(sigmoid(z_t / t) || sigmoid(z_s / t)) in place of the KL over
    classes, so that it stays the divergence of the distributions over whole label sets.
    """

    name = "kd"
    summary = "match the teacher's softened distribution"
    source = "paper, eq. 4-6, section 4.2; Hinton et al. 2015 (1503.02531, section 2)"
    teacher = "logits"
    kind = "distillation"
    cost = "1x"
    losses = ("kd",)
    weighted = True
    label_sets = True
    space = {"weight": (0.2, 0.4, 0.6, 0.8), "temperature": (1.0, 2.0, 3.0)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="lambda of eq. 6 (paper: 0.2 to 0.8)")] = 0.8
    temperature: Annotated[float, Field(gt=0, description="t of eq. 4 (paper: 1 to 3)")] = 1.0
    reduction: Annotated[
        Literal["batchmean", "sum", "mean"], Field(description="how eq. 5 is averaged over texts and classes")
    ] = "batchmean"
    t_squared: Annotated[bool, Field(description="multiply by t^2 (Hinton)")] = False

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        taught, weights = batch.taught(output.logits), batch.taught_weights
        divergence = step.context.target.divergence(*taught, self.temperature, weights)
        texts, classes = batch.step_labels.numel(), output.logits.shape[1]
        divisor = {"batchmean": texts, "sum": 1, "mean": texts * classes}[self.reduction]
        scale = self.weight * (self.temperature**2 if self.t_squared else 1.0)
        return {"kd": scale * divergence / divisor}
