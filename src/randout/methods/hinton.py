"""Distillation by Hinton et al.: a mixture of gold labels and the teacher's softened distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class Hinton(Method):
    """L = (1 - a) * CE + a * t^2 * KL(softmax(z_t / t) || softmax(z_s / t)).

    z_t, z_s: (b, C) logits of teacher and student. a is `alpha`, t `temperature`; t^2 keeps the ratio of the two gradients
    when t changes. CE is the recipe's own loss on gold labels, over the labelled texts of the step; the KL is averaged over
    all texts of the step, so a text without a gold label has only the second term, and one without a soft label
    only the first.

    Source: section 2 of the paper, which gives no single value for a and t. Not useful if the teacher is no better than the
    student: with a large a, its mistakes outweigh the labels.
    """

    name = "hinton"
    summary = "gold labels and the teacher's softened distribution, mixed (1-a) : a"
    source = "Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2"
    kind = "distillation"
    losses = ("ce", "hinton")
    weighted = True
    label_sets = True
    teacher = "logits"
    replaces_gold_loss = True
    space = {"alpha": (0.3, 0.5, 0.7, 0.9), "temperature": (1.0, 2.0, 4.0)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, le=1, description="a: share of the teacher; the rest is the gold labels")] = 0.5
    temperature: Annotated[float, Field(gt=0, description="t: larger is softer")] = 2.0

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        target, weights = step.context.target, batch.taught_weights
        total = target.divergence(*batch.taught(output.logits), self.temperature, weights)
        divergence = total / batch.step_labels.numel()
        gold = (1 - self.alpha) * step.gold_loss(output, batch)
        return {"ce": gold, "hinton": self.alpha * self.temperature**2 * divergence}
