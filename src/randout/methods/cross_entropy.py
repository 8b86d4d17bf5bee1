"""Cross-entropy on the gold labels (paper, eq. 2), with label smoothing and class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Method):
    """L_CE = sum_i v_i * w[y_i] * H(q_i, softmax(z_i)) / sum_i w[y_i], over the labelled texts of the step (eq. 2).

    q_i is one-hot, or with `label_smoothing` e: (1 - e) * one-hot + e / C. w is 1, or with `class_weights = "balanced"`
    n / (C * n_c) from the training split. v_i is the weight of the row (`data.weight_column`) over the mean weight, or 1.
    `weight` scales the loss. z: (b, C) logits. Texts without a label contribute
    nothing.

    Multi-label data: the binary cross-entropy of sigmoid(z), summed over labels and averaged over labelled texts (for each
    label, e spreads over yes and no; "balanced" weighs its positive rows by their number of negative ones).
    """

    name = "ce"
    summary = "cross-entropy on the gold labels"
    source = "paper, eq. 2; label smoothing: Szegedy et al. 2016 (1512.00567, section 7)"
    kind = "gold"
    losses = ("ce",)
    weighted = True
    label_sets = True
    variants = {"label-smoothing": {"label_smoothing": 0.1}}  # noqa: RUF012
    spaces = {"label-smoothing": {"label_smoothing": (0.05, 0.1, 0.2)}}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="factor of this loss")] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share of the target spread over all classes")] = (
        0.0
    )
    class_weights: Annotated[
        Literal["none", "balanced"], Field(description='"balanced" weighs each class by the inverse of its share')
    ] = "none"

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        weights = step.context.class_weights if self.class_weights == "balanced" else None
        target = step.context.target
        total = target.cross_entropy(output.logits, batch.labels, weights, self.label_smoothing, batch.weights)
        each = target.total_weight(batch.step_labels, weights)
        return {"ce": self.weight * total / each.clamp(min=1e-12)}  # no labelled text in the step: 0 / 1e-12
