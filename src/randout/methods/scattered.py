"""A control for Randout: the same noise values at scattered positions, without its grid of tokens x units."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.lazy import torch

from .base import Method, Pass, Size, State
from .hidden_noise import check_layers, check_noise, noise_at

if TYPE_CHECKING:
    from torch import Tensor

    from randout.models.hooks import Layout


class Scattered(Method):
    """h_l += U(-.5, .5) at k = min(T, n) * min(H, d) of the n x d units of a text, drawn without replacement.

    h_l: (n, d), the output of block l = `layer` for a text of n tokens. Adds as many numbers from the same distribution,
    and so of the same L2 norm, as Randout with T = `tokens` and H = `units`, but different tokens have different units and
    different numbers of them. Any advantage of Randout over this control is due to its grid of tokens x units.
    Drawn in float32, keyed by (seed, step, call). A control of this project, for Randout with the settings of the paper
    (eq. 3). With k = n * d (all units), it equals Randout on all of them.
    """

    name = "scattered"
    summary = "control: Randout's noise at positions drawn over all tokens and units"
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
        flat = hidden.reshape(-1, width := hidden.shape[-1])
        rows, columns, noise = self.draw(step, step.layout, width, hidden.device)
        added = torch.zeros(flat.shape, device=hidden.device)
        added.index_put_((rows, columns), noise, accumulate=True)
        step.log("noise_l2", noise.square().sum(1).sqrt().mean(), weight=len(noise))
        return (flat + added.to(hidden.dtype)).view_as(hidden)

    def draw(self, step: Pass, layout: Layout, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw rows of the flattened state, columns and noise, each (b, k) with the k of the step's longest text; noise is
        zero beyond a text's own k. Drawn for the whole step, then sliced.
        """
        generator, mine = step.generator("scattered", device), slice(layout.first, layout.first + len(layout.lengths))
        most = min(self.tokens, layout.longest) * (units := min(self.units, width))
        ranks = torch.rand(layout.of, layout.longest * width, generator=generator, device=device)[mine]
        noise = torch.rand(layout.of, most, generator=generator, device=device)[mine] - 0.5
        outside = torch.arange(ranks.shape[1], device=device) >= layout.lengths[:, None] * width
        place = ranks.masked_fill(outside, torch.inf).topk(most, dim=-1, largest=False).indices  # smallest first
        own = torch.arange(most, device=device) < layout.lengths[:, None].clamp(max=self.tokens) * units
        place = place * own  # beyond its own k: zero noise at the first position
        return layout.starts[:, None] + place // width, place % width, noise * own
