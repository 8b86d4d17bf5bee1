"""Dropout distillation: a student without dropout learns the mean prediction of many teacher passes with dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Forward, Method, Pass, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class DropoutDistillation(Method):
    """L = weight * KL(1/M sum_m softmax(z_t^m) || softmax(z_s)), averaged over all texts of the step; labels unused.

    z_t^m: (b, C) logits of the teacher in pass m of M = `passes`, with its own dropout on and new masks in each pass;
    z_s: logits of the student, whose dropout is off in training too. The teacher runs alongside the student and is never
    trained. A recipe does not need `ce`; if it has it, the two losses are added.

    Source: the paper distils the mean over dropout masks into one network of the same size without dropout; here, the
    teacher may be any classifier. Cost: a third of a teacher's step more for each of the M passes. Not useful if the
    teacher has no dropout (this is then distillation at temperature 1), or if M is so small that the mean is noisy.
    """

    name = "dropout-distillation"
    summary = "a student without dropout matches the mean of a teacher's passes with dropout"
    source = "Bulo, Porzi, Kontschieder 2016 (ICML), Dropout Distillation"
    kind = "distillation"
    cost = "2.33x"
    losses = ("dropout-distillation",)
    label_sets = True
    teacher = "model"
    trained_with = ()
    space = {"passes": (1, 4, 8)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="factor of this loss")] = 1.0
    passes: Annotated[int, Field(ge=1, le=64, description="M: passes of the teacher that are averaged")] = 4

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        """Run the student in evaluation mode, which switches off all its dropout."""
        training = step.context.model.training
        step.context.model.eval()
        try:
            yield
        finally:
            step.context.model.train(training)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        teacher = step.context.live_teacher
        with torch.no_grad():
            each = [teacher.forward(step, batch, dropout=True, call=m).logits.float() for m in range(self.passes)]
            log_mean = step.context.target.mean_prediction(torch.stack(each))  # (b, C)
        divergence = step.context.target.divergence(log_mean, output.logits, temperature=1.0)
        return {"dropout-distillation": self.weight * divergence / batch.step_labels.numel()}
