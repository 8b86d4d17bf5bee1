"""Self-distillation: the student matches an average of its own last weights, or of their predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Context, Forward, Method, State, Step
from .functional import at_least_float32, squared_error

if TYPE_CHECKING:
    from torch import Tensor


class SelfDistillation(Method):
    """L = CE + w * MSE(z(theta_t), teacher's logits), the mean over classes and over all texts of the step.

    theta_t: the student's weights at step t; z: (b, C) logits. The teacher consists of K = `window` earlier thetas, without
    the current one (except at step 0, which has no earlier one; before step K there are fewer than K):
      form "sda": z(1/K sum_{k=1..K} theta_{t-k}), one pass with the averaged weights;
      form "sdv": 1/K sum_{k=1..K} z(theta_{t-k}), the average of K passes.
    average = "ema" (with "sda"): z(e_t), with e_0 = theta_0 and e_n = d * e_{n-1} + (1 - d) * theta_n,
    d = min(decay, (1 + n) / (10 + n)). The teacher runs without dropout and noise, on the same input; no gradient flows
    through it.

    Source: section 3.3 of the paper (w = 1, K from 1 to 5; "sda" is best there); the moving average is that of a public
    implementation. Cost: a third of a step more for each teacher pass, one ("sda") or K ("sdv"); memory: K + 1 copies of the
    weights (one for "ema"). Not useful if the learning rate is so small that the student hardly changes in K steps: the
    loss then depends on dropout only.
    """

    name = "self-distillation"
    summary = "match the logits of the average of the student's own last weights"
    source = "Xu, Qiu, Zhou, Huang 2020, arXiv 2002.10345, section 3.3"
    kind = "distillation"
    cost = "1.33x"
    losses = ("self-distillation",)
    label_sets = True
    variants = {"self-distillation-ema": {"average": "ema"}, "self-distillation-voted": {"form": "sdv"}}  # noqa: RUF012
    space = {"window": (1, 3, 5)}  # noqa: RUF012
    spaces = {"self-distillation-ema": {"decay": (0.99, 0.995, 0.999)}}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="w: factor of this loss")] = 1.0
    form: Annotated[Literal["sda", "sdv"], Field(description='"sda" averages weights, "sdv" logits')] = "sda"
    window: Annotated[int, Field(ge=1, le=20, description="K: how many of the last weights teach")] = 3
    average: Annotated[
        Literal["uniform", "ema"], Field(description='of weights: over the last K, or moving ("ema")')
    ] = "uniform"
    decay: Annotated[float, Field(ge=0, lt=1, description="largest decay of the moving average")] = 0.995

    @model_validator(mode="after")
    def _votes_are_of_a_window(self) -> Self:
        if self.form == "sdv" and self.average == "ema":
            raise ValueError(
                'found average = "ema", which averages weights, and form = "sdv", which averages logits; leave one out'
            )
        return self

    def start(self, context: Context) -> State:
        tensors = {}
        for name, theta in context.model.named_parameters():
            tensors[name] = theta.detach().clone()
            if self.average == "uniform":  # theta_n is in slot n % (K + 1)
                tensors[name] = theta.new_zeros(self.window + 1, *theta.shape).detach()
                tensors[name][0].copy_(theta.detach())
        return State(tensors=tensors)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        with torch.no_grad():
            each = [forward(weights=w, dropout=False, perturb=False).logits for w in self._thetas(step, state)]
            teacher = at_least_float32(torch.stack(each)).mean(0)
        error = squared_error(output.logits, teacher)
        return {"self-distillation": self.weight * error / batch.step_labels.numel()}

    def _thetas(self, step: Step, state: State) -> list[dict[str, Tensor]]:
        """Teacher weights for this step: one set, or up to K for "sdv"."""
        if self.average == "ema":
            return [state.tensors]
        past = range(max(step.number - self.window, 0), max(step.number, 1))
        slots = [n % (self.window + 1) for n in past]
        if self.form == "sdv":
            return [{name: ring[slot] for name, ring in state.tensors.items()} for slot in slots]
        return [{name: ring[slots].mean(0) for name, ring in state.tensors.items()}]

    def stepped(self, step: Step, state: State) -> None:
        n = step.number + 1  # updates so far
        decay = min(self.decay, (1 + n) / (10 + n))
        for name, theta in step.context.model.named_parameters():
            if self.average == "ema":
                state.tensors[name].lerp_(theta.detach(), 1 - decay)
            else:
                state.tensors[name][n % (self.window + 1)].copy_(theta.detach())
