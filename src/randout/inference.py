"""A model's logits on many texts: no dropout, no noise, no gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .encoder import Encoder, computing
from .tokens import Tokens, by_length

AT_ONCE = {"cpu": 2048, "cuda": 8192, "mps": 8192}  # tokens of a forward; on a CPU its activations then stay in cache


@torch.no_grad()
def predict(
    encoder: Encoder, tokens: Tokens, rows: np.ndarray, precision: str, seen: Callable[[int], None] = lambda texts: None
) -> np.ndarray:
    """Logits (len(rows), C) in float32, in the order of `rows`; no dropout, no noise. seen: told of texts done."""
    encoder.model.eval()
    found = np.zeros((len(rows), encoder.model.config.num_labels), dtype=np.float32)
    with computing(encoder.device, precision):  # around all forwards: weights are converted once
        for places in by_length(tokens.lengths[rows], np.arange(len(rows)), AT_ONCE[encoder.device.type]):
            ids = [torch.from_numpy(tokens[row].astype(np.int64)) for row in rows[places]]
            found[places] = encoder.forward(ids).logits.float().cpu().numpy()
            seen(len(places))
    return found
