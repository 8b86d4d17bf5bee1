"""A control for Randout: noise of the same expected size on every token and unit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import Method, Pass, Size, State
from .hidden_noise import add_gaussian, check_layers, check_noise, noise_at

if TYPE_CHECKING:
    from torch import Tensor


class EqualL2(Method):
    """h_l += N(0, s^2) at all n x d units of a text, s^2 = min(T, n) * min(H, d) / (12 * n * d).

    h_l: (n, d), the output of block l = `layer` for a text of n tokens. Randout with T = `tokens` and H = `units` adds
    min(T, n) * min(H, d) numbers of variance 1/12; this adds n * d numbers of variance s^2, so that the expected squared
    L2 norm is the same in each text. Any advantage of Randout over this control is due to noise on few units.
    Drawn in float32, keyed by (seed, step, call). A control of this project, for Randout with the settings of the paper
    (U(-.5, .5), eq. 3); with another law or scale, or with several layers, Randout's norm differs.
    """

    name = "equal-l2"
    summary = "control: Gaussian noise of Randout's size on all tokens and units"
    source = "a control for Randout, eq. 3"
    kind = "control"
    cost = "1x"
    space = {"tokens": (8, 64), "units": (2, 64)}  # noqa: RUF012

    tokens: Annotated[int, Field(ge=0, description="T of the Randout it is compared with")] = 64
    units: Annotated[int, Field(ge=0, description="H of the Randout it is compared with")] = 2
    layer: Annotated[int, Field(ge=0, description="0 the embedding output, i the output of block i")] = 1

    def check_size(self, size: Size) -> None:
        check_layers(self, "layer", [self.layer], size)
        check_noise(self, size)

    def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
        return noise_at(step, self.layer, self._add)

    def _add(self, step: Pass, hidden: Tensor) -> Tensor:
        """Add noise to hidden (.., .., width)."""
        layout, width = step.layout, hidden.shape[-1]
        square = layout.lengths.clamp(max=self.tokens) * min(self.units, width) / 12  # (b,) expected squared norms
        size = (square / (layout.lengths * width)).sqrt()[:, None, None]
        return add_gaussian(step, hidden, self.name, size)
