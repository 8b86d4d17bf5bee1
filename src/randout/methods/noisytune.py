"""NoisyTune: uniform noise on the pretrained weights, once, before training (Wu et al. 2022, 2202.12024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch

from .base import Context, Method, State

if TYPE_CHECKING:
    from torch import nn


class NoisyTune(Method):
    """W <- W + U(-1/2, 1/2) * lambda * std(W), once, for each parameter of the encoder (eq. 1).

    W: any shape, with more than one element; std over all elements, with n - 1. Includes biases and norms. The head is new
    and gets no noise, nor does a pooler that the pretrained weights lack. Which tensors are new is known if randout loaded
    the model (`Context.fresh`); `attached` and `applied` treat everything inside the encoder as pretrained, including a newly
    initialised pooler. `strength` is lambda (paper: .15). The noise is keyed by (seed, name of the parameter) and drawn on
    the CPU.
    Source: section 2. A constant tensor (weights of a newly initialised norm) has std 0 and gets no noise. The change is
    permanent, also with `applied`.
    """

    name = "noisytune"
    summary = "uniform noise on the pretrained weights, once, before training"
    source = "Wu et al. 2022, 2202.12024, section 2"
    kind = "noise"
    cost = "1x"
    space = {"strength": (0.1, 0.15, 0.2)}  # noqa: RUF012

    strength: Annotated[float, Field(ge=0, description="lambda: noise per standard deviation of a tensor")] = 0.15

    def check(self, context: Context) -> None:
        if not hasattr(context.model, "base_model"):
            raise UserError(
                f"methods.noisytune: the student {type(context.model).__name__} has no pretrained encoder; use it with an "
                "encoder, or remove it"
            )

    def start(self, context: Context) -> State:
        base: nn.Module = context.model.base_model  # type: ignore[assignment]
        fresh = context.fresh_weights()
        with torch.no_grad():
            for name, weight in base.named_parameters():
                if weight.numel() > 1 and not any(weight is other for other in fresh):
                    generator = context.generator("noisytune", torch.device("cpu"), name)
                    noise = (torch.rand(weight.shape, generator=generator) - 0.5).to(weight.device, weight.dtype)
                    weight.add_(noise * (self.strength * weight.std()))
        return State()
