"""Fast CPU dropout: one 16-bit random integer per unit instead of a Bernoulli draw.

torch's mask costs about 5 ns per unit on a CPU, a fifth of a small encoder's training step. Here, each 64-bit number of
numpy's SFC64 (half the cost of torch's generator), seeded from torch's generator, gives four 16-bit integers, which are
compared with a threshold. The rate is rounded to 1/65536 and kept units are scaled by the resulting keep rate, so the
expectation is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

QUERIES = {"query", "q_lin", "q", "q_proj", "query_proj", "Wqkv"}  # names of the query projection in encoders
Place = tuple[nn.Module, str]  # a module and the name of its attribute that holds a rate


def keep_mask(like: Tensor, rate: float) -> Tensor:
    """Draw a mask of `like`'s shape and dtype on the CPU: 0 with probability `rate`, else 1.

    One draw from torch's generator seeds the whole mask. Kept units must be multiplied by `scale(rate)`; the mask does not
    include that factor because 1.111 would be rounded to 1.109 in bfloat16.
    """
    return fill_keep_mask(torch.empty(like.shape, dtype=like.dtype), rate)


def fill_keep_mask(mask: Tensor, rate: float) -> Tensor:
    """`keep_mask`, written to existing memory."""
    seed, units = int(torch.empty((), dtype=torch.int64).random_()), mask.numel()
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-units // 4)).view(np.int16))[:units].view(mask.shape)
    return torch.ge(bits, _threshold(rate) - 32768, out=mask)  # via booleans, it would take four times as long


def scale(rate: float) -> float:
    """1 / (share of units that `keep_mask` keeps)."""
    return 65536 / (65536 - _threshold(rate))


def _threshold(rate: float) -> int:
    return min(round(rate * 65536), 65535)


class Dropout(nn.Dropout):
    """`nn.Dropout` that uses `keep_mask` in training on a CPU; unchanged on other devices and in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0.0 or input.device.type != "cpu":
            return super().forward(input)
        return (input * keep_mask(input, self.p)).mul_(scale(self.p))


def install(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of `model` by `Dropout`, in place; parameters and their order do not change."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


def places(model: nn.Module) -> tuple[list[Place], list[Place]]:
    """Find where `model` stores its dropout rates: (hidden, attention).

    Attention rates belong to a module that also has the query projection, except for dropout of its output (name starts
    with "out") or of positions ("pos_"). A rate is that of an `nn.Dropout`, or a float attribute with "dropout" in its
    name, such as ModernBERT's `attention_dropout`.
    """
    hidden: list[Place] = []
    attention: list[Place] = []
    for module in model.modules():
        attends = any(name in QUERIES for name, _ in module.named_children())
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                inside = attends and not name.startswith(("out", "pos_"))
                (attention if inside else hidden).append((child, "p"))
        for name, value in vars(module).items():
            if isinstance(value, float) and "dropout" in name:
                (attention if attends or "attention" in name else hidden).append((module, name))
    return hidden, attention


@contextmanager
def rates(model: nn.Module, hidden: float | None, attention: float | None) -> Iterator[None]:
    """While open, set the hidden and the attention dropout rates of `model`; None leaves them unchanged."""
    found = zip(places(model), (hidden, attention), strict=True)
    wanted = [(module, name, rate) for group, rate in found if rate is not None for module, name in group]
    before = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    try:
        for module, name, rate in wanted:
            setattr(module, name, rate)
        yield
    finally:
        for module, name, rate in before:
            setattr(module, name, rate)
