"""A control for Randout: noise of the same expected size on every token and unit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..errors import UserError
from ..method import Method, Run, State


class EqualL2(Method):
    """h_l += N(0, s^2) at all n x d places of a text, s^2 = min(T, n) * min(H, d) / (12 * n * d).

    h_l: (n, d), the output of block l = `layer` for a text of n tokens. Randout with T = `tokens` and H = `units` adds
    min(T, n) * min(H, d) numbers of variance 1/12; this adds n * d numbers of variance s^2, so that the expected square
    of the L2 norm is the same in each text. What is left of a gain over it is due to noise on few places.
    Drawn in float32, keyed by (seed, step, call). A control of this project's own, for Randout as it stands in the
    paper (U(-.5, .5), eq. 3); another law, scale or several layers of Randout's have another norm.
    """

    name = "equal-l2"
    summary = "control: Gaussian noise of Randout's size on all tokens and units"
    source = "a control for Randout, eq. 3"
    kind = "control"
    cost = "1x"
    space = {"tokens": (8, 64), "units": (2, 64)}  # noqa: RUF012

    tokens: Annotated[int, Field(ge=0, description="T of the Randout it stands against")] = 64
    units: Annotated[int, Field(ge=0, description="H of the Randout it stands against")] = 2
    layer: Annotated[int, Field(ge=0, description="0 the embedding output, i the output of block i")] = 1

    def check(self, run: Run) -> None:
        if self.layer > (blocks := len(run.sites.blocks)):
            raise UserError(f"methods.equal-l2.layer: {self.layer} is no place in this student; 0 to {blocks} are")

    @contextmanager
    def perturb(self, run: Run, state: State) -> Iterator[None]:
        undo = run.sites.change(self.layer, partial(self._add, run))
        try:
            yield
        finally:
            undo()

    def _add(self, run: Run, hidden: Tensor) -> Tensor:
        """hidden (.., .., width) -> the same with noise; a clean pass (no layout) goes through untouched."""
        if (layout := run.layout) is None:
            return hidden
        generator, width = run.generator("equal-l2", hidden.device), hidden.shape[-1]
        square = layout.lengths.clamp(max=self.tokens) * min(self.units, width) / 12  # (b,) of a text's norm, expected
        size = (square / (layout.lengths * width)).sqrt()[:, None, None]
        noise = torch.randn(layout.of, layout.longest, width, generator=generator, device=hidden.device)
        noise = size * layout.own(noise)  # (b, longest, width)
        run.log("noise_l2", noise.square().sum((1, 2)).sqrt().mean(), weight=len(noise))
        return layout.add(hidden, noise)
