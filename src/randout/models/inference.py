"""Logits of a model for many texts: no dropout, noise or gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .encoder import Encoder, computing
from .tokens import Tokens, by_length

AT_ONCE = {"cpu": 2048, "cuda": 8192, "mps": 8192}  # tokens per forward pass; on a CPU its activations stay in cache


@torch.no_grad()
def predict(
    encoder: Encoder,
    tokens: Tokens,
    rows: np.ndarray,
    precision: str,
    seen: Callable[[int], None] = lambda texts: None,
    share: tuple[int, int] = (0, 1),
) -> np.ndarray:
    """Compute logits (len(rows), C) in float32, in the order of `rows`, without dropout or noise.

    seen: called after each batch with its number of texts. share: (i, n) for the batches i, i + n, i + 2 n, ... only; the
    logits of other rows are 0.
    """
    encoder.model.eval()
    found = np.zeros((len(rows), encoder.model.config.num_labels), dtype=np.float32)
    with (
        reordered_weights(encoder.model, precision),
        computing(encoder.device, precision),
    ):  # weights are converted once
        batches = by_length(tokens.lengths[rows], np.arange(len(rows)), AT_ONCE[encoder.device.type])
        for places in batches[share[0] :: share[1]]:
            ids = [torch.from_numpy(tokens[row].astype(np.int64)) for row in rows[places]]
            found[places] = encoder.forward(ids).logits.float().cpu().numpy()
            seen(len(places))
    return found


@contextmanager
def reordered_weights(model: nn.Module, precision: str) -> Iterator[None]:
    """While open, linear layers use copies of their weights in oneDNN's layout (float32 on an x86 CPU; else no change).

    Results are equal up to rounding. Weights must not change while it is open.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and precision == "float32" and _plain(module)
    ]
    try:
        for layer in layers:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), AT_ONCE["cpu"])
            vars(layer)["forward"] = partial(_product, packed, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _plain(module: nn.Linear) -> bool:
    """Whether a module is a standard float32 linear layer on an x86 CPU and this torch has the oneDNN product."""
    there = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if type(module) is not nn.Linear or "forward" in vars(module) or not there:
        return False
    weight = module.weight
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return x86 and (weight.device.type, weight.dtype) == ("cpu", torch.float32)


def _product(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
