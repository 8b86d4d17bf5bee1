"""Prediction in batches by length, with weights laid out for the processor, is the plain forward of each text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from randout.models.inference import AT_ONCE, predict, reordered_weights
from randout.models.tokens import encode, truncate
from randout.testing.models import toy_texts
from support.training import tiny_encoder


@pytest.fixture
def encoder(tiny_model: Any) -> Any:
    made = tiny_encoder(tiny_model("bert"))
    for layer in made.model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)  # so that logits are far apart
    return made


def overridden(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def test_each_text_has_the_logits_it_has_alone(encoder: Any) -> None:
    texts = toy_texts(40, 3)[0]
    tokens = truncate(encode(encoder.tokenizer, texts), 24, "head", encoder.suffix, encoder.prefix)
    rows, seen = np.tile([7, 3, 39, 3, 0, 21], 80), []
    assert tokens.lengths[rows].sum() > AT_ONCE["cpu"], "several batches"
    found = predict(encoder, tokens, rows, "float32", seen.append)
    encoder.model.eval()
    with torch.no_grad():
        alone = [
            encoder.forward([torch.from_numpy(tokens[row].astype(np.int64))]).logits[0].numpy() for row in rows[:6]
        ]
    assert np.abs(np.stack(alone)).max() > 0.1
    np.testing.assert_allclose(found, np.tile(np.stack(alone), (80, 1)), rtol=1e-5, atol=1e-6)
    assert (found.dtype, sum(seen), len(seen) > 1) == (np.float32, len(rows), True)


def test_reordered_weights_give_the_same_products_and_are_put_away(encoder: Any) -> None:
    before = overridden(encoder.model)
    layer = next(module for module in encoder.model.modules() if type(module) is nn.Linear)
    for x in (torch.randn(1, 5, layer.in_features), torch.randn(3, layer.in_features)):
        with torch.no_grad():
            plain = x @ layer.weight.T + layer.bias
            with reordered_weights(encoder.model, "float32"):
                torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
    assert overridden(encoder.model) == before

    with pytest.raises(KeyboardInterrupt), reordered_weights(encoder.model, "float32"):
        raise KeyboardInterrupt
    assert overridden(encoder.model) == before


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.float32), ("float32", torch.float64)])
def test_other_number_formats_are_left_alone(encoder: Any, precision: str, dtype: torch.dtype) -> None:
    encoder.model.to(dtype)
    before = overridden(encoder.model)
    with reordered_weights(encoder.model, precision):
        assert overridden(encoder.model) == before
