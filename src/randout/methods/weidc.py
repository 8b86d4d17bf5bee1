"""Weighted self-distillation: the student matches its best state so far, weighted by which of the two is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step
from .functional import at_least_float32, squared_error

COUNTS = {"1": (1, 1, 1), "2": (2, 1, 1), "3": (1, 2, 1), "4": (2, -1, 2)}  # factors of e_t and e_s, and the constant

if TYPE_CHECKING:
    from torch import Tensor


class WeiDC(Method):
    """L = (1 - a) * CE + a * MSE(w * z_s, w * z_t), the mean over classes and over all texts of the step.

    z_s, z_t: (b, C) logits of the student and of its teacher, which is the student at the best validation so far
    (`checkpoint = "last"`: at the last one), run without dropout and noise; no gradient flows through it. a is `alpha`.
    w: (b,) weight of a text, from e_t, e_s, which are 1 if teacher, student are right on the text, else 0:
      weighting "1": e_t + e_s + 1; "2": 2 e_t + e_s + 1; "3": e_t + 2 e_s + 1; "4": 2 e_t - e_s + 2; "none": 1.
    A text without a gold label has weight 1. Before the first validation there is no teacher, and the loss is CE.

    Source: the paper's section 3 and its authors' code (a = 0.3, "4", patience 3), for tokens of a sequence.
    Deviations: classes of texts instead of tags of tokens, so the mean is over texts. In that code, a new best (which
    resets the patience) needs a gain of .0001 in the F score; here, any gain of the validation metric counts.
    No effect in a training of one epoch, whose only validation is at its end. Cost: a third of a step more from the second
    epoch on; memory: a copy of the weights.
    """

    name = "weidc"
    summary = "match the student's own best checkpoint, weighted by which of them is right"
    source = "He, Cai, Ming, Zhang 2022 (Findings of ACL), Weighted self Distillation, section 3"
    kind = "distillation"
    cost = "1.33x"
    losses = ("ce", "weidc")
    no_label_sets = "its weights say whether teacher and student are right on a text, which a label set can be in part"
    replaces_gold_loss = True
    space = {"weighting": ("1", "2", "3", "4"), "alpha": (0.1, 0.3, 0.5)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, le=1, description="a: share of the student's own past")] = 0.3
    weighting: Annotated[Literal["1", "2", "3", "4", "none"], Field(description="which weights")] = "4"
    checkpoint: Annotated[Literal["best", "last"], Field(description="the teacher's validation")] = "best"

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        gold = step.gold_loss(output, batch)
        if not state.tensors:
            return {"ce": gold, "weidc": 0.0 * output.logits.float().sum()}
        with torch.no_grad():
            teacher = at_least_float32(forward(weights=state.tensors, dropout=False, perturb=False).logits)
            weights = self.weights_of(teacher, output.logits, batch.labels)[:, None]
        error = squared_error(weights * at_least_float32(output.logits), weights * teacher)
        return {"ce": (1 - self.alpha) * gold, "weidc": self.alpha * error / batch.step_labels.numel()}

    def weights_of(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
        """Weights w (b,), from the logits of both (b, C) and the labels (b,), -1 for none."""
        if self.weighting == "none":
            return torch.ones(len(labels), device=labels.device)
        of_teacher, of_student, added = COUNTS[self.weighting]
        e_t, e_s = (logits.argmax(1) == labels for logits in (teacher, student))
        return torch.where(labels >= 0, of_teacher * e_t.float() + of_student * e_s.float() + added, 1.0)

    def evaluated(self, step: Step, state: State, metrics: dict[str, Any], improved: bool) -> None:
        if improved or self.checkpoint == "last":
            for name, theta in step.context.model.named_parameters():
                state.tensors.setdefault(name, torch.empty_like(theta, requires_grad=False)).copy_(theta.detach())
