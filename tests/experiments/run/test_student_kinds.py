"""The three kinds of student answer the same questions, and a plan reads a model once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.baselines import BAGS, CLASSIFIERS, NETWORKS
from randout.core import config
from randout.data.dataset import load
from randout.experiments.run import planning
from randout.experiments.run.plan import Plan
from randout.experiments.run.student_kinds import BagOfWordsBaseline, EncoderStudent, NeuralBaseline, baseline_of
from randout.methods.builtin import METHODS
from randout.models import tokenization
from randout.models.sources import CLASSIFIER_NAMES, find


@pytest.fixture
def asked(toy_csv: Callable[..., Path]) -> Callable[..., config.Config]:
    def of(name: str, **tables: Any) -> config.Config:
        table = {"data": {"source": str(toy_csv(90))}, "student": {"model": name}, "teacher": {"model": "none"}}
        table |= {"train": {"device": "cpu", "precision": "float32"}, "methods": {"ce": {}}}
        return config.build([table | tables], METHODS)

    return of


@pytest.fixture
def plan_of(asked: Any) -> Callable[..., Plan]:
    return lambda name, **tables: planning.make(asked(name, **tables))


def test_every_baseline_has_a_kind(asked: Any) -> None:
    assert tuple(CLASSIFIERS) == CLASSIFIER_NAMES
    assert BAGS.keys() | NETWORKS.keys() == CLASSIFIERS.keys()
    for name in CLASSIFIERS:
        expected = BagOfWordsBaseline if name in BAGS else NeuralBaseline
        assert type(baseline_of(asked(name, methods={}))) is expected
    assert baseline_of(asked("an-encoder")) is None


def test_a_plan_holds_its_student(plan_of: Any, tiny_model: Callable[[str], Path]) -> None:
    encoder = plan_of(str(tiny_model("bert")), train={"device": "cpu", "epochs": 3, "batch_size": 8})
    assert encoder.student == EncoderStudent(find(str(tiny_model("bert"))))
    assert encoder.identity["student"]["weights"] == encoder.student.source.fingerprint()
    assert encoder.steps == 3 * -(-len(encoder.dataset.split["train"]) // 8)
    bag = plan_of("svm", classifier={"min_df": 1}, methods={})
    assert (bag.student.label, bag.student.source, bag.steps, len(bag.tokens.lengths)) == ("svm", None, 1, 0)
    assert bag.identity["student"]["classifier"] == "svm"
    with pytest.raises(TypeError, match="svm has no network"):
        bag.student.load(bag)
    network = plan_of("cnn", classifier={"min_count": 1, "epochs": 2})
    words = {word for row in network.dataset.split["train"] for word in network.dataset.texts[row].lower().split()}
    assert set(network.student.vocabulary) == words
    assert len(network.tokens.lengths) == len(network.dataset.texts)
    assert [one.student.usual_epochs(one) for one in (bag, network)] == [0, 0]
    assert encoder.student.usual_epochs(encoder) > 3  # as "auto", whatever was requested
    assert [one.student.with_reference for one in (encoder, network, bag)] == [True, True, False]


def test_only_an_encoder_can_have_rows_with_the_same_tokens(plan_of: Any, tiny_model: Callable[[str], Path]) -> None:
    plan = plan_of("", student={"model": str(tiny_model("bert")), "max_length": 4})
    texts = list(plan.dataset.texts)
    held, learned = plan.dataset.split["validation"][0], plan.dataset.split["train"][0]
    texts[held] = texts[learned].upper() + " and more"
    changed = replace(plan.dataset, texts=texts)
    found = plan.student.token_copies(plan.config.student, changed)
    assert held in found["validation"]
    assert plan_of("svm", classifier={"min_df": 1}, methods={}).student.token_copies(plan.config.student, changed) == {}


def test_a_second_plan_reads_the_model_no_more(
    asked: Any, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one of its files changes."""
    folder = Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))
    request = asked(str(folder))
    dataset, calls = load(request.data), []
    real = tokenization.tokenizer_and_limit
    monkeypatch.setattr(tokenization, "tokenizer_and_limit", lambda source: (calls.append(source), real(source))[1])
    first, second = (planning.make(request, dataset) for _ in range(2))
    assert len(calls) == 1
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.tokens.lengths, first.tokens.lengths)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text + "\n")
    third = planning.make(request, dataset)
    assert len(calls) == 2
    assert third.fingerprint != first.fingerprint
