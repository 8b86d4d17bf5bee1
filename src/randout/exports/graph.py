"""ONNX graphs of a trained network: float32, and int8 with dynamic quantization.

The graph is the model's own padded forward pass with its head, whatever it pools, from token ids to logits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randout.core.errors import UserError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 20  # the first with Gelu as an operator


class _Logits(nn.Module):
    """The logits (b, C) of a classifier for padded token ids (b, longest), their attention mask, and token types of pairs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def write_encoder(model: Any, path: Path, longest: int, types: bool = False) -> None:
    """Write the float32 graph of a sequence classifier: input_ids, attention_mask (batch, sequence) -> logits (batch, C).

    types: whether token_type_ids (batch, sequence) is a third input.

    The model is put into evaluation mode and computes attention without fused kernels, which gives the simplest graph.
    longest: maximum number of tokens of a text. Raises UserError if the model cannot be traced.
    """
    encoder = getattr(model, "base_model", model)
    with_choice = hasattr(encoder, "set_attn_implementation")
    before = getattr(encoder.config, "_attn_implementation", None)
    if with_choice:
        encoder.set_attn_implementation("eager")
    ids = torch.randint(1, 5, (2, min(longest, 8)))  # a batch of one would be exported as a constant
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    batch, sequence = torch.export.Dim("batch", min=1), torch.export.Dim("sequence", min=1, max=longest)
    try:
        example = (ids, mask, 1 - mask) if types else (ids, mask)
        _write(_Logits(model), example, INPUTS[: len(example)], ({0: batch, 1: sequence},) * len(example), path)
    finally:
        if with_choice and before is not None:
            encoder.set_attn_implementation(before)


def write_network(model: nn.Module, path: Path, length: int) -> None:
    """Write the float32 graph of a neural baseline: input_ids (batch, length) -> logits (batch, C)."""
    ids = torch.randint(0, 2, (2, length))
    _write(model, (ids,), ["input_ids"], ({0: torch.export.Dim("batch", min=1)},), path)


def _write(
    model: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], dimensions: tuple[Any, ...], path: Path
) -> None:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model.eval(),
                example,
                dynamo=True,
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=dimensions,
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"export: PyTorch cannot write this model as ONNX ({type(error).__name__}: {text})") from error


def quantize(source: Path, path: Path) -> None:
    """Write the int8 graph of a float32 one: weights per output channel, activations scaled to each batch's range.

    Weights use all eight bits: with seven, which processors without int8 dot products (VNNI) need for exact sums, fewer
    labels agree.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(str(source), str(path), per_channel=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's and the quantizer's logs and warnings, which are about packages and APIs, not this model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
