"""Decoder classifiers (Qwen3, Llama, ...): their logits against transformers, text by text, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from randout.core.errors import UserError
from randout.models import loading
from randout.models.inference import predict
from randout.models.sources import find
from randout.models.tokens import encode
from randout.testing.models import DECODERS, LABELS, build_decoder, toy_texts

TEXTS = [*toy_texts(6, 3)[0], "goal"]


def one_by_one(folder: Path) -> np.ndarray:
    """Logits of the stock class, each text alone and so without padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate([model(**tokenizer([text], return_tensors="pt")).logits.numpy() for text in TEXTS])


def batched(folder: Path, precision: str = "float32") -> tuple[np.ndarray, tuple[str, ...]]:
    encoder = loading.load(find(str(folder), decoders=True), precision=precision)
    tokens = encode(encoder.tokenizer, TEXTS)
    assert len(set(tokens.lengths)) > 2  # so that a batch has padding
    return predict(encoder, tokens, np.arange(len(TEXTS)), precision), encoder.notes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_batch_has_the_logits_of_each_text_alone(family: str, side: str, tmp_path: Path) -> None:
    folder = build_decoder(family, tmp_path / family, LABELS, side=side)
    logits, notes = batched(folder)
    expected = one_by_one(folder)
    assert np.abs(expected).max() > 0.5
    assert np.allclose(logits, expected, atol=1e-5)
    assert notes == ()


@pytest.mark.parametrize(
    ("pad", "said"), [("<pad>", "padded with its tokenizer's pad token"), (None, "tokenizer's end-of-text token")]
)
def test_a_missing_padding_token_is_taken_from_the_tokenizer(pad: str | None, said: str, tmp_path: Path) -> None:
    folder = build_decoder("llama", tmp_path / "llama", LABELS, pad=pad, pad_token_id=None)
    logits, (note,) = batched(folder)
    assert said in note
    assert np.allclose(logits, one_by_one(folder), atol=1e-5)


def test_a_token_that_ends_every_text_is_not_padding(tmp_path: Path) -> None:
    """Without a padding token transformers reads the last token, also if that is the end-of-text token."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = build_decoder("llama", tmp_path / "llama", LABELS, pad=None, pad_token_id=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = [("<|end|>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|end|>", special_tokens=end)
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("goal")["input_ids"][-1] == tokenizer.eos_token_id
    logits, (note,) = batched(folder)
    assert "padded with token" in note
    assert np.allclose(logits, one_by_one(folder), atol=1e-5)


def test_bfloat16_weights(tmp_path: Path) -> None:
    folder = build_decoder("qwen3", tmp_path / "qwen3", LABELS)
    source = find(str(folder), decoders=True)
    assert {p.dtype for p in loading.load(source, precision="bfloat16").model.parameters()} == {torch.bfloat16}
    exact, rounded = batched(folder)[0], batched(folder, "bfloat16")[0]
    assert not np.array_equal(exact, rounded)
    assert np.allclose(exact, rounded, atol=0.2)


def test_what_is_refused(tmp_path: Path) -> None:
    classifier = build_decoder("qwen3", tmp_path / "classifier", LABELS)
    with pytest.raises(
        UserError, match=r"QWEN3 is a decoder; randout takes encoders.*--teacher FOLDER.*randout annotate"
    ):
        find(str(classifier))
    chat = build_decoder("qwen3", tmp_path / "chat")
    with pytest.raises(UserError, match=r"without a classification head.*randout annotate TABLE --model .*chat"):
        find(str(chat), decoders=True)
    (classifier / "model.safetensors").rename(classifier / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors only"):
        find(str(classifier), decoders=True)
    settings = json.loads((chat / "config.json").read_text()) | {"model_type": "codegen"}
    (chat / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no sequence classifier for the decoder CODEGEN"):
        find(str(chat), decoders=True)
