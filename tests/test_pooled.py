"""Classifiers on the mean of a text's states: the mean itself, packed and padded, trained, saved and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import LABELS, ids_of
from randout import models
from randout.encoder import Want
from randout.errors import UserError
from randout.methods.ce import CrossEntropy
from randout.pooled import CLASSIFIER, ENCODER, MeanPooledClassifier, masked_means, segment_means, stated_pooling
from training import session_of, some_material, tiny_encoder, trained

TEXTS = ["the cat sat", "a film about money and sport that goes on and on", "no"]


def test_means_by_hand() -> None:
    state = torch.arange(12.0).view(6, 2)
    assert segment_means(state, [1, 2, 3]).tolist() == [[0, 1], [3, 4], [8, 9]]
    padded = torch.stack([state[:3], state[3:]])
    assert masked_means(padded, torch.tensor([[1, 1, 0], [1, 1, 1]])).tolist() == [[1, 2], [8, 9]]


@pytest.mark.parametrize("family", ["bert", "roberta", "data2vec-text", "distilbert", "mpnet", "modernbert"])
def test_packed_padded_and_plain_agree(source, family: str) -> None:
    encoder = models.load(source(family), id2label=LABELS, pooling="mean", seed=2)
    encoder.model.eval()
    ids = sorted(ids_of(encoder, TEXTS), key=len)
    with torch.no_grad():
        found = encoder.forward(ids, Want(cls=True))
        padded = replace(encoder, packed=False).forward(ids, Want(cls=True))
        model = encoder.model
        for row, text in enumerate(ids):
            state = model.base_model(input_ids=text[None], attention_mask=torch.ones_like(text)[None]).last_hidden_state
            mean = state[0].mean(0)
            if family != "modernbert":  # which norms the last block's output once more
                torch.testing.assert_close(found.cls[row], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.logits[row], model.classifier(mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, padded.logits, rtol=1e-4, atol=1e-5)


def test_trained_saved_and_read_back(tiny_model, tmp_path: Path) -> None:
    encoder = tiny_encoder(tiny_model("bert"), pooling="mean")
    before = {name: p.clone() for name, p in encoder.model.named_parameters()}
    session = session_of(encoder, (CrossEntropy(),), epochs=1)
    trained(session, some_material(encoder))
    model = session.encoder.model
    assert isinstance(model, MeanPooledClassifier)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    models.save(session.encoder, tmp_path / "saved", 24, "card")
    found = models.find(str(tmp_path / "saved"))
    assert found.is_classifier
    back = models.load(found)
    ids = sorted(ids_of(back, TEXTS), key=len)
    model.eval(), back.model.eval()
    with torch.no_grad():
        assert torch.equal(back.forward(ids).logits, session.encoder.forward(ids).logits)
    assert back.model.config.id2label == model.config.id2label
    layout = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [part["path"] for part in layout] == [ENCODER, "1_Pooling", CLASSIFIER]
    assert stated_pooling(tmp_path / "saved") == "mean"


def test_its_encoder_starts_another_training(tiny_model, tmp_path: Path) -> None:
    encoder = tiny_encoder(tiny_model("bert"), pooling="mean")
    models.save(encoder, tmp_path / "saved", 24, "card")
    found = models.find(str(tmp_path / "saved"))
    for pooling in ("first", "mean"):
        again = models.load(found, id2label={0: "x", 1: "y"}, pooling=pooling, layers=[0])
        assert again.pooling == pooling
        assert again.model.config.num_labels == 2
    fingerprint = found.fingerprint()
    (tmp_path / "saved" / CLASSIFIER / "model.safetensors").write_bytes(b"broken")
    assert found.fingerprint() != fingerprint
    with pytest.raises(UserError, match=r"2_Classifier/model\.safetensors"):
        models.load(found)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode_max_tokens": True}, None),
        ([], None),
    ],
)
def test_what_a_configuration_states(tmp_path: Path, stated: object, expected: str | None) -> None:
    assert stated_pooling(tmp_path) is None
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    assert stated_pooling(tmp_path) == expected
