"""Dropout: sets the rates of the encoder's own dropout, on hidden states and attention weights (1207.0580, 1810.04805)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from randout.core.errors import UserError

from .base import Context, Method, Pass, State

Rate = Annotated[float, Field(ge=0, lt=1)] | Literal["model"]

if TYPE_CHECKING:
    from torch import nn


class DropoutRates(Method):
    """x -> x * m / (1 - p), m ~ Bernoulli(1 - p) for each unit, in every training forward.

    x: a hidden state (tokens, hidden) wherever the encoder drops units, p = `hidden`; or attention weights (heads, n,
    n), p = `attention`. "model" keeps the encoder's rate. The head keeps its own dropout, and a forward pass without noise
    (the clean branch of another method) keeps all rates of the encoder.
    Source: Hinton et al. 2012 (1207.0580); the positions and the default .1 are BERT's (Devlin et al. 2019, 1810.04805,
    appendix A.2).
    Refused if an encoder has no dropout to set: ModernBERT created with rate 0 has no dropout module in some positions.
    """

    name = "dropout-rates"
    summary = "the encoder's own dropout, with other rates"
    source = "Hinton et al. 2012, 1207.0580; BERT's places: Devlin et al. 2019, 1810.04805, A.2"
    kind = "noise"
    cost = "1x"
    variants = {"no-dropout": {"hidden": 0.0, "attention": 0.0}}  # noqa: RUF012
    space = {"hidden": (0.0, 0.1, 0.2), "attention": (0.0, 0.1, 0.2)}  # noqa: RUF012

    hidden: Annotated[Rate, Field(description='rate on hidden states, or "model": the encoder\'s rate')] = 0.1
    attention: Annotated[Rate, Field(description='rate on attention weights, or "model": the encoder\'s rate')] = 0.1

    def check(self, context: Context) -> None:
        from randout.models.kernels.dropout import places

        for setting, found in zip(("hidden", "attention"), places(_encoder(context.model)), strict=True):
            if (asked := getattr(self, setting)) not in ("model", 0.0) and not found:
                raise UserError(
                    f"methods.dropout-rates.{setting}: found {asked}, but this student has no {setting} dropout to set; "
                    'expected "model" or 0'
                )

    def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
        from randout.models.kernels.dropout import rates

        hidden, attention = (None if rate == "model" else rate for rate in (self.hidden, self.attention))
        return rates(_encoder(step.context.model), hidden, attention)


def _encoder(model: nn.Module) -> Any:
    """The model without its head; a neural baseline as a whole."""
    return getattr(model, "base_model", model)
