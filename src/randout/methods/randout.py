"""Randout: uniform noise on T random tokens x H hidden units of an early hidden state (paper, section 3.2, eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from randout.core.lazy import torch

from .base import Method, Pass, Size, State
from .hidden_noise import check_layers, check_noise

if TYPE_CHECKING:
    from torch import Tensor

    from randout.models.hooks import Layout


class Randout(Method):
    """h[b, token, unit] += scale * (U(low, high) + offset) at T tokens x H units of each text (eq. 3).

    Drawn again in every training forward pass, in float32, keyed by (the training's seed, `seed`, step, layer); never in
    evaluation. With the defaults the noise is U(-.5, .5): mean 0, standard deviation .2887, L2 norm about sqrt(T * H / 12).
    layers: 0 is the embedding output, i the output of block i. `choose_tokens`, `choose_units`: at random per text (the
    units shared by its tokens, or drawn for each token), or the leading ones. T is clipped to a text's number of tokens;
    more units or tokens than the encoder supports are refused. padding: also choose among the positions that padding would
    fill. replace: overwrite instead of adding (the wording of section 6). law "gaussian": sigma * N(0, 1) instead of eq. 3.
    """

    name = "randout"
    summary = "uniform noise on T tokens x H hidden units of the first block's output"
    source = "paper, section 3.2, eq. 3, and section 4.2"
    kind = "noise"
    cost = "1x"
    space = {"tokens": (8, 64), "units": (2, 16, 64)}  # noqa: RUF012

    tokens: Annotated[int, Field(ge=0, description="T: tokens of each text that get noise (paper: 1 to 64)")] = 64
    units: Annotated[int, Field(ge=0, description="H: hidden units of each such token (paper: 1 to 128)")] = 2
    layers: Annotated[tuple[int, ...], Field(description="0 the embedding output, i the output of block i")] = (1,)
    law: Annotated[Literal["uniform", "gaussian"], Field(description="what the noise is drawn from")] = "uniform"
    low: Annotated[float, Field(description="min of eq. 3")] = 0.0
    high: Annotated[float, Field(description="max of eq. 3")] = 1.0
    offset: Annotated[float, Field(description="added to the uniform draw (eq. 3: -0.5)")] = -0.5
    sigma: Annotated[float, Field(ge=0, description="standard deviation of the Gaussian law")] = 0.1
    scale: Annotated[float, Field(description="factor of the noise; 0 is no noise")] = 1.0
    choose_tokens: Annotated[Literal["random", "leading"], Field(description="which T tokens")] = "random"
    choose_units: Annotated[
        Literal["random", "leading", "per-token"], Field(description='which H units; "per-token" draws them per token')
    ] = "random"
    special: Annotated[bool, Field(description="whether special tokens ([CLS], [SEP]) may get noise")] = True
    padding: Annotated[bool, Field(description="also choose among padded positions, where noise has no effect")] = False
    replace: Annotated[bool, Field(description="overwrite the units instead of adding to them")] = False
    seed: Annotated[int, Field(description="change it for different noise in the same run")] = 0

    @field_validator("layers", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    def check_size(self, size: Size) -> None:
        check_layers(self, "layers", self.layers, size)
        check_noise(self, size)

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self.layers:
                stack.callback(step.context.hook_points.change(layer, partial(self._add, step, layer)))
            yield

    def _add(self, step: Pass, layer: int, hidden: Tensor) -> Tensor:
        """Add noise to hidden (.., .., width)."""
        rows, columns, noise = self.draw(step, layer, step.layout, hidden.shape[-1], hidden.device)
        step.log("noise_l2", noise.square().sum((1, 2)).sqrt().mean(), weight=len(noise))
        flat = hidden.reshape(-1, hidden.shape[-1])
        place = (rows.expand_as(noise), columns.expand_as(noise))
        if self.replace:
            real = (rows >= 0).expand_as(noise)
            place = (place[0][real], place[1][real])
            return flat.index_put(place, noise[real].to(hidden.dtype)).view_as(hidden)
        added = torch.zeros(flat.shape, device=hidden.device)
        added.index_put_((place[0].clamp(min=0), place[1]), noise, accumulate=True)
        return (flat + added.to(hidden.dtype)).view_as(hidden)

    def draw(
        self, step: Pass, layer: int, layout: Layout, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw positions and noise: rows (b, T, 1) of the flattened state, -1 if a text has too few tokens; columns
        (b, 1 or T, H); noise (b, T, H), zero without a token. Drawn for the whole step, then sliced.
        """
        generator = step.generator("randout", device, self.seed, layer)
        texts, longest = layout.of, layout.longest
        tokens, units = min(self.tokens, longest), min(self.units, width)
        mine = slice(layout.first, layout.first + len(layout.lengths))
        ranks = torch.rand(texts, longest, generator=generator, device=device)
        per = tokens if self.choose_units == "per-token" else 1
        unit_ranks = torch.rand(texts, per, width, generator=generator, device=device)
        noise = self._noise(torch.empty(texts, tokens, units, device=device), generator)[mine]
        chosen, real = self._tokens(ranks[mine], layout, tokens)  # (b, T) each
        columns = unit_ranks[mine].topk(units, dim=-1, sorted=False).indices
        if self.choose_units == "leading":
            columns = torch.arange(units, device=device).expand(len(chosen), 1, units)
        rows = torch.where(real, layout.starts[:, None] + chosen, -1)[..., None]
        return rows, columns, noise * real[..., None]

    def _noise(self, empty: Tensor, generator: torch.Generator) -> Tensor:
        if self.law == "gaussian":
            return empty.normal_(generator=generator).mul_(self.sigma * self.scale)
        uniform = torch.rand(empty.shape, generator=generator, device=empty.device)
        return (uniform * (self.high - self.low) + (self.low + self.offset)).mul_(self.scale)

    def _tokens(self, ranks: Tensor, layout: Layout, tokens: int) -> tuple[Tensor, Tensor]:
        """Choose T positions of each text (b, T), in order of preference; also returns which of them are real tokens."""
        place = torch.arange(ranks.shape[1], device=ranks.device)[None]
        lengths = layout.lengths[:, None]
        eligible = (place < lengths) | self.padding
        if not self.special:
            eligible &= (place >= layout.prefix) & ((place < lengths - layout.suffix) | (place >= lengths))
        preference = place.to(ranks.dtype) if self.choose_tokens == "leading" else ranks
        chosen = preference.expand_as(ranks).masked_fill(~eligible, torch.inf).argsort(-1)[:, :tokens]
        return chosen, eligible.gather(1, chosen) & (chosen < lengths)
