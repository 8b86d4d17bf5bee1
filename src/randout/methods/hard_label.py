"""Distillation from the teacher's decisions: its most probable class is used as a label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class HardLabel(Method):
    """L = (1 - a) * CE(y, z_s) + a * CE(argmax_c z_t[c], z_s).

    Sequence-level distillation for translation replaces the teacher's distribution over whole outputs by its mode and
    mixes it with the reference; here, the output is one label. z_t, z_s: (b, C) logits; a is `alpha`. The first term is the
    recipe's own loss on gold labels, over the labelled texts of the step; the second is averaged over all texts, labelled
    or not; a text without a soft label has only the first.

    Source: sections 3.2 and 3.3 of the paper (the mode, the mixture), which mixes with a = 0.5. Not useful if the teacher is
    right on nearly all training texts, such as a teacher that was trained on them: both terms are then the same.
    """

    name = "hard-label"
    summary = "the teacher's decisions as labels, mixed with the gold ones"
    source = "Kim, Rush 2016, arXiv 1606.07947, sections 3.2-3.3"
    kind = "distillation"
    losses = ("ce", "hard-label")
    weighted = True
    label_sets = True
    teacher = "logits"
    replaces_gold_loss = True
    space = {"alpha": (0.3, 0.5, 0.7)}  # noqa: RUF012

    alpha: Annotated[float, Field(ge=0, le=1, description="a: share of the teacher's labels")] = 0.5

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        theirs, ours = batch.taught(output.logits)
        decided = step.context.target.decided_cross_entropy(theirs, ours, batch.taught_weights)
        gold = (1 - self.alpha) * step.gold_loss(output, batch)
        return {"ce": gold, "hard-label": self.alpha * decided / batch.step_labels.numel()}
