"""Distillation from the averaged predictions of several teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Context, Forward, Method, State, Step
from .target_losses import ONE_LABEL, Target

if TYPE_CHECKING:
    from torch import Tensor


class MultiTeacher(Method):
    """L = CE + weight * -sum_c p[c] log softmax(z_s)[c], with p = sum_k w_k softmax(z_k).

    z_k, z_s: (b, C) logits of teacher k and of the student; w_k: `weights`, scaled to sum to 1, equal by default, the first
    for `teacher.model` and the others for `teacher.more` in their order. average = "logits": p = softmax(sum_k w_k z_k). CE
    is the recipe's: the source adds the two terms unweighted, at temperature 1. The second term is averaged over all texts
    of the step, labelled or not. A text's average is over the teachers that have a soft label for it; without any, it has
    no second term.

    Source: section 3 of the paper, whose teachers are an ensemble. Each teacher must have all classes of the data, by name.
    With one teacher, this is distillation at temperature 1. Harmful if a weak teacher has the same weight as the others.
    """

    name = "multi-teacher"
    summary = "match the average of several teachers' predictions"
    source = "Liu, He, Chen, Gao 2019, arXiv 1904.09482, section 3"
    kind = "distillation"
    losses = ("multi-teacher",)
    weighted = True
    label_sets = True
    teacher = "logits"
    several = True
    space = {"average": ("probabilities", "logits")}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="factor of this loss (source: 1)")] = 1.0
    weights: Annotated[tuple[float, ...], Field(description="of the teachers, in their order; empty: equal")] = ()
    average: Annotated[Literal["probabilities", "logits"], Field(description="what is averaged")] = "probabilities"

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (min(value) < 0 or sum(value) <= 0):
            raise ValueError("expected weights of at least 0, with at least one above 0")
        return value

    def check(self, context: Context) -> None:
        if self.weights and len(self.weights) != context.teachers:
            raise UserError(
                f"methods.multi-teacher.weights: {len(self.weights)} for {context.teachers} teacher"
                f"{'s' * (context.teachers != 1)} (teacher.model, then teacher.more); give one for each, or none"
            )

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if batch.teacher is None:
            raise RuntimeError("distillation without stored teacher logits")
        logits = torch.stack([batch.teacher, *batch.others])  # (teachers, b, C)
        ours, has, weights = output.logits, None, batch.weights
        if batch.partial:
            has = ~logits.isnan().any(-1)  # (teachers, b)
            known = has[[weight > 0 for weight in self.weights or (1.0,) * len(logits)]].any(0)
            logits, ours, has = logits[:, known], ours[known], has[:, known]
            weights = None if weights is None else weights[known]
        p = self.targets(logits, has, step.context.target)
        soft = step.context.target.soft_cross_entropy(p, ours, weights)
        return {"multi-teacher": self.weight * soft / batch.step_labels.numel()}

    def targets(self, logits: Tensor, has: Tensor | None = None, target: Target = ONE_LABEL) -> Tensor:
        """Average logits (teachers, b, C) to the distribution to match (b, C), in float32.

        has: (teachers, b) bool, which teachers have a soft label for a text, at least one of them with a weight; None: all.
        target: whether a text has one class or a label set.
        """
        weights = torch.tensor(self.weights or (1.0,) * len(logits), device=logits.device)
        weights = (weights / weights.sum())[:, None, None]
        if has is not None:
            weights = weights * has[..., None]
            weights = weights / weights.sum(0)
            logits = logits.masked_fill(~has[..., None], 0.0)
        if self.average == "logits":
            return target.probabilities((weights * logits.float()).sum(0))
        return (weights * target.probabilities(logits.float())).sum(0)
