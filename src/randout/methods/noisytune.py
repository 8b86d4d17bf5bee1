"""NoisyTune: uniform noise on the pretrained weights, once, before training (Wu et al. 2022, 2202.12024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch

from .base import Method, Run, State

if TYPE_CHECKING:
    from torch import nn


class NoisyTune(Method):
    """W <- W + U(-1/2, 1/2) * lambda * std(W), once, for each parameter of the encoder (eq. 1).

    W: any shape, with more than one element; std over all of them, by n - 1. Biases and norms are parameters too; the
    head is new and left alone, and so is a pooler that the pretrained weights lack. Which tensors are new is known where
    randout loaded the model (`Run.fresh`); `attached` and `applied` take everything inside the encoder as pretrained,
    a newly initialised pooler included. `strength` is lambda (paper: .15). The noise is keyed by (seed, name of the
    parameter), drawn on the CPU.
    Source: section 2. A constant tensor (a norm's weights, freshly made) has std 0 and gets none. Nothing undoes it:
    used by `applied`, it changes the model for good.
    """

    name = "noisytune"
    summary = "uniform noise on the pretrained weights, once, before training"
    source = "Wu et al. 2022, 2202.12024, section 2"
    kind = "noise"
    cost = "1x"
    space = {"strength": (0.1, 0.15, 0.2)}  # noqa: RUF012

    strength: Annotated[float, Field(ge=0, description="lambda: noise per standard deviation of a tensor")] = 0.15

    def check(self, run: Run) -> None:
        if not hasattr(run.model, "base_model"):
            raise UserError(
                f"methods.noisytune: the student {type(run.model).__name__} has no pretrained encoder; use it with an "
                "encoder, or leave it out"
            )

    def start(self, run: Run) -> State:
        base: nn.Module = run.model.base_model  # type: ignore[assignment]
        fresh = run.fresh_weights()
        with torch.no_grad():
            for name, weight in base.named_parameters():
                if weight.numel() > 1 and not any(weight is other for other in fresh):
                    generator = run.generator("noisytune", torch.device("cpu"), name)
                    noise = (torch.rand(weight.shape, generator=generator) - 0.5).to(weight.device, weight.dtype)
                    weight.add_(noise * (self.strength * weight.std()))
        return State()
