"""Classifiers on the mean of a text's states: the mean itself, packed and padded, trained, saved and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from randout.core.errors import UserError
from randout.methods.cross_entropy import CrossEntropy
from randout.models import loading
from randout.models.encoder import Want
from randout.models.mean_pooling import (
    CLASSIFIER,
    ENCODER,
    MeanPooledClassifier,
    masked_means,
    segment_means,
    stated_pooling,
)
from randout.testing.models import LABELS, build
from support.forward import ids_of
from support.training import new_training, tiny_encoder, toy_training_data, trained

TEXTS = ["the cat sat", "a film about money and sport that goes on and on", "no"]


def test_means_by_hand() -> None:
    state = torch.arange(12.0).view(6, 2)
    assert segment_means(state, [1, 2, 3]).tolist() == [[0, 1], [3, 4], [8, 9]]
    padded = torch.stack([state[:3], state[3:]])
    assert masked_means(padded, torch.tensor([[1, 1, 0], [1, 1, 1]])).tolist() == [[1, 2], [8, 9]]


@pytest.mark.parametrize("family", ["bert", "roberta", "data2vec-text", "distilbert", "mpnet", "modernbert"])
def test_packed_padded_and_plain_agree(source, family: str) -> None:
    encoder = loading.load(source(family), id2label=LABELS, pooling="mean", seed=2)
    encoder.model.eval()
    ids = sorted(ids_of(encoder, TEXTS), key=len)
    with torch.no_grad():
        found = encoder.forward(ids, Want(pooled=True))
        padded = replace(encoder, packed=False).forward(ids, Want(pooled=True))
        model = encoder.model
        for row, text in enumerate(ids):
            state = model.base_model(input_ids=text[None], attention_mask=torch.ones_like(text)[None]).last_hidden_state
            mean = state[0].mean(0)
            if family != "modernbert":  # which norms the last block's output once more
                torch.testing.assert_close(found.pooled[row], mean, rtol=1e-4, atol=1e-5)
            inner = model.head(mean) if family == "modernbert" else mean  # its stock class reads the mean
            torch.testing.assert_close(found.logits[row], model.classifier(inner), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, padded.logits, rtol=1e-4, atol=1e-5)


def test_trained_saved_and_read_back(tiny_model, tmp_path: Path) -> None:
    encoder = tiny_encoder(tiny_model("bert"), pooling="mean")
    before = {name: p.clone() for name, p in encoder.model.named_parameters()}
    training = new_training(encoder, (CrossEntropy(),), epochs=1)
    trained(training, toy_training_data(encoder))
    model = training.encoder.model
    assert isinstance(model, MeanPooledClassifier)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    loading.save(training.encoder, tmp_path / "saved", 24, "card")
    found = loading.find(str(tmp_path / "saved"))
    assert found.is_classifier
    back = loading.load(found)
    ids = sorted(ids_of(back, TEXTS), key=len)
    model.eval(), back.model.eval()
    with torch.no_grad():
        assert torch.equal(back.forward(ids).logits, training.encoder.forward(ids).logits)
    assert back.model.config.id2label == model.config.id2label
    layout = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [part["path"] for part in layout] == [ENCODER, "1_Pooling", CLASSIFIER]
    assert stated_pooling(tmp_path / "saved") == "mean"


def test_its_encoder_starts_another_training(tiny_model, tmp_path: Path) -> None:
    encoder = tiny_encoder(tiny_model("bert"), pooling="mean")
    loading.save(encoder, tmp_path / "saved", 24, "card")
    found = loading.find(str(tmp_path / "saved"))
    for pooling in ("first", "mean"):
        again = loading.load(found, id2label={0: "x", 1: "y"}, pooling=pooling, layers=[0])
        assert again.pooling == pooling
        assert again.model.config.num_labels == 2
    fingerprint = found.fingerprint()
    (tmp_path / "saved" / CLASSIFIER / "model.safetensors").write_bytes(b"broken")
    assert found.fingerprint() != fingerprint
    with pytest.raises(UserError, match=r"2_Classifier/model\.safetensors"):
        loading.load(found)


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


def test_a_stock_class_that_reads_the_mean_is_what_is_saved(tiny_model, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    encoder = tiny_encoder(tiny_model("modernbert"), pooling="mean")
    assert encoder.pooling == "mean"
    training = new_training(encoder, (CrossEntropy(),), epochs=1)
    trained(training, toy_training_data(encoder))
    saved = tmp_path / "saved"
    loading.save(training.encoder, saved, 24, "card")
    assert not (saved / "modules.json").exists()
    assert json.loads((saved / "config.json").read_text())["classifier_pooling"] == "mean"
    stock = AutoModelForSequenceClassification.from_pretrained(saved, attn_implementation="eager").eval()
    training.encoder.model.eval()
    ids = sorted(ids_of(encoder, TEXTS), key=len)
    with torch.no_grad():
        ours = training.encoder.forward(ids).logits
        theirs = torch.cat([stock(input_ids=text[None]).logits for text in ids])
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
        back = loading.load(loading.find(str(saved)))
        assert back.pooling == "mean"
        torch.testing.assert_close(back.forward(ids).logits, ours, rtol=1e-4, atol=1e-5)


def test_the_first_token_is_read_where_it_is_asked_for_whatever_the_configuration_says(tmp_path: Path) -> None:
    folder = build("modernbert", tmp_path / "stated", classifier_pooling="mean")
    source = loading.find(str(folder))
    assert loading.states_mean(source)
    assert loading.load(source, id2label=LABELS, pooling="first").model.config.classifier_pooling == "cls"
    assert loading.load(source, id2label=LABELS, pooling="mean").model.config.classifier_pooling == "mean"
    linear = loading.load(source, id2label=LABELS, pooling="mean", head="linear")
    assert isinstance(linear.model, MeanPooledClassifier)


def test_a_classifier_with_a_stock_mean_starts_another_training(tiny_model, tmp_path: Path) -> None:
    """With other classes; an older folder in the layout of sentence-transformers is still read, and starts one too."""
    source = loading.find(str(tiny_model("modernbert")))
    loading.save(loading.load(source, id2label=LABELS, pooling="mean"), tmp_path / "stock", 24, "card")
    linear = loading.load(source, id2label=LABELS, pooling="mean", head="linear")
    loading.save(linear, tmp_path / "older", 24, "card")
    older = loading.load(loading.find(str(tmp_path / "older")))
    assert isinstance(older.model, MeanPooledClassifier)
    for folder in ("stock", "older"):
        again = loading.load(loading.find(str(tmp_path / folder)), id2label={0: "x", 1: "y"}, pooling="mean")
        assert (again.pooling, again.model.config.num_labels) == ("mean", 2)
        assert not isinstance(again.model, MeanPooledClassifier)


def test_a_run_with_a_stock_mean(tmp_path: Path, toy_csv) -> None:
    """The configuration of the encoder decides; the folder is a stock one, and its card says how to load it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import randout

    folder = build("modernbert", tmp_path / "stated", classifier_pooling="mean")
    settings = {"epochs": 1, "precision": "float32"}
    words = {"teacher": "none", "preset": "plain", "settings": settings, "runs": tmp_path / "runs"}
    result = randout.train(toy_csv(), student=folder, **words)
    assert 'pooling = "mean"' in (result.folder / "run.toml").read_text()
    assert "library_name: transformers" in (result.model_path / "README.md").read_text()
    texts = ["fever cough doctor", "goal team coach match"]
    tokenizer = AutoTokenizer.from_pretrained(result.model_path)
    stock = AutoModelForSequenceClassification.from_pretrained(result.model_path).eval()
    with torch.no_grad():
        theirs = stock(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    ours = torch.from_numpy(randout.load(result.folder).predict_proba(texts))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
