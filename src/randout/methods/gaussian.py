"""Gaussian noise on a hidden state (Khan et al. 2022, 2204.06337), without the paper's second branch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import Method, Pass, Size, State
from .hidden_noise import add_gaussian, check_layers, noise_at

if TYPE_CHECKING:
    from torch import Tensor


class Gaussian(Method):
    """h_l += N(0, sigma^2) at every unit of every real token, in every training forward.

    h_l: (tokens, hidden), the output of block l = `layer` (0: the embedding output). Drawn in float32, keyed by (seed,
    step, call). The L2 norm of a text's noise is about sigma * sqrt(n * hidden), n its tokens: 15.7 at the default on 32
    tokens of 768 units.
    Source: the noise of their method section, where sigma is .01, .05, .1 or .3. In the paper, noise in middle blocks did
    worse than in the first or last.
    """

    name = "gaussian"
    summary = "Gaussian noise on all units of a block's output"
    source = "Khan et al. 2022, 2204.06337"
    kind = "noise"
    cost = "1x"
    space = {"sigma": (0.01, 0.05, 0.1, 0.3)}  # noqa: RUF012

    sigma: Annotated[float, Field(ge=0, description="standard deviation (paper: 0.01, 0.05, 0.1, 0.3)")] = 0.1
    layer: Annotated[int, Field(ge=0, description="0 the embedding output, i the output of block i")] = 1

    def check_size(self, size: Size) -> None:
        check_layers(self, "layer", [self.layer], size)

    def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
        return noise_at(step, self.layer, self._add)

    def _add(self, step: Pass, hidden: Tensor) -> Tensor:
        """Add noise to hidden (.., .., width)."""
        return add_gaussian(step, hidden, self.name, self.sigma)
