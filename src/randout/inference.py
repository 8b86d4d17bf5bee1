"""A model's logits on many texts: no dropout, no noise, no gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .encoder import Encoder, computing
from .tokens import Tokens, by_length


@torch.no_grad()
def predict(
    encoder: Encoder, tokens: Tokens, rows: np.ndarray, precision: str, seen: Callable[[int], None] = lambda texts: None
) -> np.ndarray:
    """Logits (len(rows), C) in float32, in the order of `rows`; no dropout, no noise. seen: told of texts done."""
    encoder.model.eval()
    place = {int(row): at for at, row in enumerate(rows)}
    found = np.zeros((len(rows), encoder.model.config.num_labels), dtype=np.float32)
    for group in by_length(tokens.lengths, rows):
        ids = [torch.from_numpy(tokens[row].astype(np.int64)) for row in group]
        with computing(encoder.device, precision):
            logits = encoder.forward(ids).logits
        found[[place[int(row)] for row in group]] = logits.float().cpu().numpy()
        seen(len(group))
    return found
