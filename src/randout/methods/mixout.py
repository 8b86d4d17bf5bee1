"""Mixout: in each forward pass, some columns of each weight are the pretrained ones (Lee et al. 2020, 1909.11299)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import F, nn, torch

from .base import Context, Method, Pass, State

if TYPE_CHECKING:
    from torch import Tensor, nn


class Mixout(Method):
    """W~ = ((1 - m) * u + m * w - p * u) / (1 - p), so that E[W~] = w; y = x W~^T + b in every training forward.

    w: (out, in) the weight of each `nn.Linear` of the encoder, u its pretrained value, m: (in,) ~ Bernoulli(1 - p), one
    mask over the columns shared by all rows, as in the authors' code. Biases, embeddings and norms are trained as usual.
    The encoder's dropout is off. The head is new, so it is trained as usual and keeps its dropout; a pooler that the
    pretrained weights lack is also trained as usual, without dropout. Which tensors are new is known if randout loaded the
    model (`Context.fresh`); `attached` and `applied` treat everything inside the encoder as pretrained, including a newly
    initialised pooler.
    m is drawn again in each forward pass, keyed by (seed, step, call, name of the layer): the micro-batches of a step share
    it. A block used several times (ALBERT) has one mask per forward pass. The gradient is autograd's,
    dL/dw = m / (1 - p) * dL/dW~; the authors' code omits the factor 1 / (1 - p).
    Source: section 3, where p is .7, .8 or .9. p = 0 is training without dropout. Not useful if the pretrained weights are
    not worth keeping. Needs memory for a second copy of the weights.
    """

    name = "mixout"
    summary = "mixes the pretrained weights back in, column by column"
    source = "Lee et al. 2020, 1909.11299, section 3"
    kind = "noise"
    cost = "1x"
    space = {"p": (0.7, 0.8, 0.9)}  # noqa: RUF012

    p: Annotated[float, Field(ge=0, lt=1, description="share of columns that are pretrained (paper: 0.7 to 0.9)")] = 0.7

    def check(self, context: Context) -> None:
        if not hasattr(context.model, "base_model"):
            raise UserError(
                f"methods.mixout: the student {type(context.model).__name__} has no pretrained encoder; use it with an "
                "encoder, or remove it"
            )

    def start(self, context: Context) -> State:
        return State(tensors={name: layer.weight.detach().clone() for name, layer in _layers(context)})

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        from randout.models.kernels.dropout import rates

        layers = _layers(step.context) if self.p else []
        before = [vars(layer).get("forward") for _, layer in layers]  # usually None, unless other code set one
        with rates(step.context.model.base_model, 0.0, 0.0):  # type: ignore[arg-type]
            try:
                for name, layer in layers:
                    layer.forward = partial(self._mixed, step, state, name, layer)  # type: ignore[method-assign]
                yield
            finally:
                for (_, layer), found in zip(layers, before, strict=True):
                    vars(layer).pop("forward", None)
                    if found is not None:
                        layer.forward = found  # type: ignore[method-assign]

    def _mixed(self, step: Pass, state: State, name: str, layer: nn.Linear, x: Tensor) -> Tensor:
        """Forward pass of a layer, x (.., in) -> (.., out)."""
        w, u = layer.weight, state.tensors[name]
        generator = step.generator("mixout", w.device, name)
        m = (torch.rand(w.shape[1], generator=generator, device=w.device) >= self.p).to(w.dtype)
        return F.linear(x, u + (w - u) * (m / (1 - self.p)), layer.bias)


def _layers(context: Context) -> list[tuple[str, nn.Linear]]:
    """Pretrained linear layers of the encoder with their names, each once."""
    base: nn.Module = context.model.base_model  # type: ignore[assignment]
    linear = [(name, module) for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    fresh = context.fresh_weights()
    return [(name, module) for name, module in linear if not any(module.weight is weight for weight in fresh)]
