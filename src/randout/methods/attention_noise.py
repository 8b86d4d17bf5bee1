"""Adversarial and virtual adversarial perturbation of attention scores (Kitada and Iyatomi 2021, 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Context, Forward, Method, Pass, Size, State, Step
from .functional import at_least_float32, unit

if TYPE_CHECKING:
    from torch import Tensor


class AttentionPerturbation(Method):
    """L = CE + weight * L_adv, where L_adv is the loss with r added to the attention scores before their softmax.

    r (b, n) has one number for each key of a text, added to the scores of all queries with that key, in all heads of the
    chosen blocks. r = epsilon * g / ||g||_2 for each text. form "adversarial" (2009.12064): g is the gradient of CE with
    respect to r at r = 0, and L_adv = CE(r); texts without a label contribute nothing. form "virtual" (2104.08763): g is
    the gradient of KL(clean || perturbed) at r = xi * d, where d is a random unit vector or, after the first of
    `power_iterations`, the direction of the previous g; L_adv = KL(clean || perturbed), with gradients through the
    perturbed distribution only, averaged over all texts of the step. It needs no labels. All forward passes have the same
    dropout masks. The papers perturb the one attention layer of a recurrent network; here, the default is the last block.

    Not supported if nothing can be added to a student's attention scores (MPNet, DeBERTa). A softmax ignores constants, so
    a text of one token cannot be perturbed. With a small `xi`, rounding errors are larger relative to the gradient of KL.
    """

    name = "attention-noise"
    summary = "adversarial perturbation of attention scores, with labels or without"
    source = "Kitada and Iyatomi 2021 (2009.12064, section 3), 2022 (2104.08763, section 3)"
    kind = "noise"
    cost = "2.4x"
    losses = ("attention-noise",)
    label_sets = True
    variants = {"attention-noise-virtual": {"form": "virtual"}}  # noqa: RUF012
    space = {"epsilon": (0.5, 1.0, 5.0), "weight": (0.5, 1.0)}  # noqa: RUF012

    form: Annotated[
        Literal["adversarial", "virtual"], Field(description='"adversarial": from CE; "virtual": from KL, no labels')
    ] = "adversarial"
    epsilon: Annotated[float, Field(ge=0, description="L2 norm of the perturbation of each text")] = 1.0
    weight: Annotated[float, Field(ge=0, description="factor of the perturbed loss")] = 1.0
    blocks: Annotated[tuple[int, ...], Field(min_length=1, description="1 the first block, -1 the last")] = (-1,)
    power_iterations: Annotated[int, Field(ge=0, description='form "virtual": 0 is a random direction')] = 1
    xi: Annotated[float, Field(gt=0, description='form "virtual": L2 norm at which the direction is sought')] = 1.0

    @field_validator("blocks", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    def check_size(self, size: Size) -> None:
        depth = size.depth
        if bad := [block for block in self.blocks if not 1 <= abs(block) <= depth]:
            raise UserError(
                f"methods.attention-noise.blocks: found {bad[0]}; expected 1 to {depth}, or -1 to -{depth} from the last, "
                f"because the student has {depth} blocks"
            )

    def check(self, context: Context) -> None:
        super().check(context)
        if not context.hook_points.reaches_attention(context.model):
            family = getattr(context.hook_points.config, "model_type", "its family")
            raise UserError(
                f"methods.attention-noise: not supported because nothing can be added to the attention scores of this "
                f"student ({family}); use another student, or remove this method"
            )

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if self.form == "adversarial":
            r = self.epsilon * self._adversarial(step, output, batch, forward)
            value = step.gold_loss(forward(around=partial(self._added, r)), batch)
        else:
            clean = output.logits.detach()
            r = self.epsilon * self._virtual(step, clean, batch, forward)
            texts = batch.step_labels.numel()
            value = step.context.target.divergence(clean, forward(around=partial(self._added, r)).logits, 1.0) / texts
        return {"attention-noise": self.weight * value}

    @contextmanager
    def _added(self, r: Tensor, step: Pass) -> Iterator[None]:
        """While open, add r (b, longest) to the scores of each text's keys."""
        hook_points = step.context.hook_points
        depth = len(hook_points.blocks)
        with ExitStack() as stack:
            for block in dict.fromkeys(block if block > 0 else depth + 1 + block for block in self.blocks):
                stack.callback(hook_points.change_attention(block, partial(step.layout.into_rows, r)))
            yield

    def _adversarial(self, step: Step, output: Output, batch: Batch, forward: Forward) -> Tensor:
        """Direction g / ||g||_2 of the gradient of CE at r = 0, (b, longest)."""
        r = _zeros(step, len(batch.ids), batch.longest).requires_grad_()
        (gradient,) = torch.autograd.grad(step.gold_loss(forward(around=partial(self._added, r)), batch), r)
        return unit(gradient)

    def _virtual(self, step: Step, clean: Tensor, batch: Batch, forward: Forward) -> Tensor:
        """Direction in which KL(clean || perturbed) grows fastest, by power iteration, (b, longest).

        The gradient of KL with respect to the perturbed logits is their probabilities minus the clean ones.
        """
        direction, certain = self._random(step, batch), step.context.target.probabilities
        for _ in range(self.power_iterations):
            r = (self.xi * direction).requires_grad_()
            logits = forward(around=partial(self._added, r)).logits
            pull = certain(at_least_float32(logits.detach())) - certain(at_least_float32(clean))
            (gradient,) = torch.autograd.grad(logits, r, pull.to(logits.dtype))
            direction = unit(gradient)
        return direction

    def _random(self, step: Step, batch: Batch) -> Tensor:
        """Random direction for each text, zero at positions without a token; drawn for the whole step, then sliced."""
        zeros = _zeros(step, batch.step_labels.numel(), batch.longest)
        drawn = torch.randn(zeros.shape, generator=step.generator("attention-noise", zeros.device), device=zeros.device)
        lengths = torch.tensor([len(text) for text in batch.ids], device=zeros.device)
        real = torch.arange(batch.longest, device=zeros.device)[None] < lengths[:, None]
        return unit((zeros + drawn)[batch.first : batch.first + len(lengths)] * real)


def _zeros(step: Step, texts: int, longest: int) -> Tensor:
    """Zeros (texts, longest) on the student's device and in its dtype."""
    like = next(step.context.model.parameters())
    return torch.zeros(texts, longest, dtype=like.dtype, device=like.device)
