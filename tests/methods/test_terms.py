"""Methods on listed terms: their equations written out, their logged numbers, what they refuse, and a whole training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import randout
from randout.core import config
from randout.core.errors import UserError
from randout.experiments.run.run_request import recipe_tables
from randout.experiments.study.spec import read_study
from randout.methods.base import Batch, Context
from randout.methods.builtin import METHODS
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.term_pooling import TermPooling
from randout.methods.term_spans import TermSpans
from randout.methods.terms import TermMethod
from randout.models.encoder import Encoder
from randout.models.outputs import Output, Want
from randout.training.loop import step_at
from support.external_loops import stock
from support.training import bit_identical, new_training, tiny_encoder, toy_training_data, trained, weights_of

TEXTS = ["the fever and the cough", "no team", "coughing in the heart of the market", "fever"]
TERMS = ("fever", "cough*")
MARKED = [  # the words of TEXTS that belong to a term, by hand; a word may be several tokens
    [False, True, False, False, True],
    [False, False],
    [True, False, False, False, False, False, False],
    [True],
]
LABELS = [0, -1, 2, 1]


@pytest.fixture(params=["packed", "padded"])
def encoder(request: pytest.FixtureRequest, tiny_model: Any) -> Encoder:
    return tiny_encoder(tiny_model("bert"), pack=request.param == "packed", dropout=0.0, attention_dropout=0.0)


def case(encoder: Encoder, method: TermMethod) -> tuple[Any, Any, Batch, Output, list[list[bool]]]:
    """A step on TEXTS: step, the method's state, batch, the student's output, and by hand which tokens belong to a term."""
    training = new_training(encoder, [CrossEntropy(), method])
    state = training.stack.states[-1]
    for parameter in state.parameters:  # large enough that every term of the equations counts
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    words = [text.split() for text in TEXTS]
    split = [[encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in text] for text in words]
    ids = [torch.tensor(encoder.tokenizer(text)["input_ids"]) for text in TEXTS]
    marked = [
        [False, *(mark for word, mark in zip(text, marks, strict=True) for _ in word), False]
        for text, marks in zip(split, MARKED, strict=True)
    ]
    assert [len(text) for text in ids] == [len(text) for text in marked]
    labels = torch.tensor(LABELS)
    step_labels = torch.tensor([*LABELS, 2, -1])  # two more texts in another micro-batch
    batch = Batch(torch.arange(4), ids, labels, None, step_labels, 0, max(map(len, ids)))
    step = step_at(training, toy_training_data(encoder), 0)
    return step, state, batch, encoder.forward(ids, training.stack.want), marked


def states_of(encoder: Encoder, batch: Batch) -> list[Tensor]:
    """The last block's states of each text, read alone."""
    last = len(encoder.hook_points.blocks)
    with torch.no_grad():
        return [encoder.forward([text], Want(hidden=(last,))).hidden[last][0] for text in batch.ids]


def test_term_spans_is_its_equation(encoder: Encoder) -> None:
    step, state, batch, output, marked = case(encoder, TermSpans(terms=TERMS, weight=0.5))
    found = TermSpans(terms=TERMS, weight=0.5).loss(step, state, output, batch, step.forward)
    u, b = (parameter.detach() for parameter in state.parameters)
    total, hits, false = 0.0, [], []
    for states, marks in zip(states_of(encoder, batch), marked, strict=True):
        inside = range(1, len(states) - 1)  # without [CLS] and [SEP]
        p = [1 / (1 + math.exp(-float(state @ u + b))) for state in states]
        of_terms = [-math.log(p[j]) for j in inside if marks[j]]
        of_others = [-math.log(1 - p[j]) for j in inside if not marks[j]]
        total += sum(sum(part) / len(part) for part in (of_terms, of_others) if part) / 2
        hits += [p[j] > 0.5 for j in inside if marks[j]]
        false += [p[j] > 0.5 for j in inside if not marks[j]]
    assert float(found["term-spans"].detach()) == pytest.approx(0.5 * total / 6, rel=1e-4)
    logged = {name: [(float(value), weight) for value, weight in entries] for name, entries in step.logged.items()}
    assert logged["term_share"] == [(0.75, 4)]
    assert logged["term_recall"] == [(pytest.approx(sum(hits) / len(hits)), len(hits))]
    assert logged["term_false_alarms"] == [(pytest.approx(sum(false) / len(false)), len(false))]


def test_term_pooling_is_its_equation(encoder: Encoder) -> None:
    step, state, batch, output, marked = case(encoder, TermPooling(terms=TERMS, weight=0.5))
    found = TermPooling(terms=TERMS, weight=0.5).loss(step, state, output, batch, step.forward)
    w, b = (parameter.detach() for parameter in state.parameters)
    assert w.shape == (3, 2 * 32)
    total = 0.0
    for states, marks, label in zip(states_of(encoder, batch), marked, LABELS, strict=True):
        of_terms = [states[j] for j in range(len(states)) if marks[j]]
        mean = sum(of_terms) / len(of_terms) if of_terms else states[0]
        z = [float(w[c, :32] @ states[0] + w[c, 32:] @ mean + b[c]) for c in range(3)]
        if label >= 0:
            total += math.log(sum(math.exp(one) for one in z)) - z[label]
    assert float(found["term-pooling"].detach()) == pytest.approx(
        0.5 * total / 4, rel=1e-4
    )  # 4 of the step's 6 texts have a label


def test_texts_without_any_term_contribute(encoder: Encoder) -> None:
    """They are negatives of the probe, and the second head reads the text's state twice."""
    for method in (TermSpans(terms=("stadium",)), TermPooling(terms=("stadium",))):
        step, state, batch, output, _ = case(encoder, method)
        (loss,) = method.loss(step, state, output, batch, step.forward).values()
        gradients = torch.autograd.grad(loss, state.parameters)
        assert torch.isfinite(loss)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        assert [float(value) for value, _ in step.logged["term_share"]] == [0.0]
        assert "term_recall" not in step.logged


@pytest.mark.parametrize("kind", [TermSpans, TermPooling])
def test_what_is_refused(kind: type[TermMethod], tiny_model: Any) -> None:
    name, encoder = kind.name, tiny_encoder(tiny_model("bert"))
    with pytest.raises(UserError, match=f"methods.{name}.terms: no terms; expected a list, or a text file"):
        new_training(encoder, [CrossEntropy(), kind()])
    with pytest.raises(UserError, match=f"methods.{name}.terms: the student's tokenizer has no tokens for 'ωμέγα'"):
        new_training(encoder, [CrossEntropy(), kind(terms=("ωμέγα",))])
    with pytest.raises(UserError, match=r"none of the 2 terms \(measles, rash, ...\) occurs in the 4 training texts"):
        kind(terms=("measles", "rash")).check_texts(TEXTS)
    kind(terms=("measles", "fever")).check_texts(TEXTS)
    outside = Context(encoder.model, encoder.hook_points, seed=1)
    with pytest.raises(UserError, match=f"methods.{name}: not supported because terms are found through the tokenizer"):
        kind(terms=TERMS).check(outside)
    with pytest.raises(UserError, match=r"terms: found 'none.txt'; no such file; expected a list of terms"):
        config.build([{"methods": {name: {"terms": "none.txt"}}}], METHODS)


@pytest.mark.parametrize("kind", [TermSpans, TermPooling])
def test_external_loops_are_refused(kind: type[TermMethod], tiny_model: Any) -> None:
    attached = randout.attached(stock(tiny_model("bert"), dropout=False), [CrossEntropy(), kind(terms=TERMS)])
    with pytest.raises(UserError, match=r"external training loop.*use randout\.train"), attached:
        pass


def test_a_file_of_terms_is_the_same_configuration_as_its_list(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("fever\ncough*\n", encoding="utf-8")

    def built(terms: str | Sequence[str]) -> config.Config:
        return config.build([config.read_preset("hmcnet"), {"methods": {"term-spans": {"terms": terms}}}], METHODS)

    assert built(str(path)) == built(["fever", "cough*"])
    assert built(str(path)).methods["term-spans"]["terms"] == ["fever", "cough*"]


def test_recipes_and_studies_read_the_file_beside_them(tmp_path: Path) -> None:
    """A study records the terms themselves, so that a file edited between two sittings changes no arm unseen."""
    (tmp_path / "terms.txt").write_text("fever\n", encoding="utf-8")
    table = '[methods]\nce = {}\nterm-spans = { terms = "terms.txt", weight = 1 }\n'
    (tmp_path / "recipe.toml").write_text(table, encoding="utf-8")
    tables = recipe_tables(tmp_path / "recipe.toml")
    assert config.build([tables], METHODS).methods["term-spans"]["terms"] == ["fever"]
    (tmp_path / "study.toml").write_text(table.replace("[methods]", "[arms.one.methods]"), encoding="utf-8")
    study = read_study(tmp_path / "study.toml")
    assert study.arms["one"]["methods"]["term-spans"] == {"terms": ["fever"], "weight": 1.0}
    (tmp_path / "terms.txt").unlink()
    with pytest.raises(UserError, match=r"arms.one.methods.term-spans.terms: found '.*terms.txt'; no such file"):
        read_study(tmp_path / "study.toml")


def test_the_probe_learns_and_is_not_saved(tiny_model: Any) -> None:
    method = TermSpans(terms=("the", "a", "of", "and", "to", "in", "it"), weight=3.0)
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), method], epochs=6, learning_rate=2e-2)
    names = set(training.encoder.model.state_dict())
    (u, _) = training.stack.states[-1].parameters
    before = u.detach().clone()
    trained(training, toy_training_data(training.encoder))
    history = training.position.as_json()["history"]
    assert history[-1]["loss_term-spans"] < 0.95 * history[0]["loss_term-spans"]
    assert (u - before).abs().max() > 1e-3
    assert set(training.encoder.model.state_dict()) == names


def test_the_preset_needs_terms_and_saves_an_ordinary_model(
    run: Any, tiny_model: Any, toy_csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    monkeypatch.chdir(tmp_path)
    words = ["train", str(toy_csv(90, 1)), "--student", str(tiny_model("bert")), "--preset", "hmcnet", "-o", "here"]
    words += ["--set", "epochs=1", "--set", "precision=float32"]
    code, _, error = run(*words)
    assert code == 2
    assert "methods.term-spans.terms: no terms" in error
    Path("terms.txt").write_text("fever\nteam\nbank*\n", encoding="utf-8")
    words += ["--set", "term-spans.terms=terms.txt"]
    code, _, error = run(*words, "--set", "term-pooling.terms=terms.txt")
    assert code == 0, error
    assert len(pipeline("text-classification", model="here/model")("fever in the bank")) == 1


def test_other_trainings_are_as_before(tiny_model: Any) -> None:
    """At weight 0, both methods leave a training as it is, to the bit."""
    plain = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy()])
    off = [TermSpans(terms=TERMS, weight=0.0), TermPooling(terms=TERMS, weight=0.0)]
    other = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), *off])
    for training in (plain, other):
        trained(training, toy_training_data(training.encoder))
    assert bit_identical(weights_of(plain), weights_of(other))
