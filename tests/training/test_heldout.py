"""Training rows that a method keeps from the student, and whole trainings with a live teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import randout
from randout.core import config
from randout.core.console import Show
from randout.experiments.run import pipeline, planning
from randout.experiments.run.student import make_training_data, same_tokens
from randout.methods.builtin import METHODS
from randout.methods.compatibility import learned_rows
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.metadistil import MetaDistil
from randout.testing.models import toy_texts
from randout.training.loop import held_out
from support.tables import load
from support.training import new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
BOTH = (CrossEntropy(), MetaDistil())


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    """A table of 240 texts by 60 authors."""
    texts, names = toy_texts(240, 3)
    lines = [f"{text},{name},{at % 60}" for at, (text, name) in enumerate(zip(texts, names, strict=True))]
    path = tmp_path / "authors.csv"
    path.write_text("\n".join(["text,label,author", *lines]) + "\n")
    return path


def test_held_out_rows_are_whole_groups_of_the_training_rows(authors: Path) -> None:
    """A tenth of them, every class among them, and nothing of the validation and test splits."""
    dataset = load(authors, group_column="author")
    kept, held = learned_rows(dataset, BOTH)
    assert sorted([*kept, *held]) == sorted(dataset.split["train"])
    assert len(held) == pytest.approx(0.1 * len(dataset.split["train"]), abs=6)
    assert not set(dataset.groups[kept]) & set(dataset.groups[held])
    assert set(dataset.labels[held]) == {0, 1, 2}
    for other in ("validation", "test"):
        assert not set(held) & set(dataset.split[other])
    plain, none = learned_rows(dataset, BOTH[:1])
    assert (plain == dataset.split["train"]).all()
    assert len(none) == 0


def test_held_out_rows_are_a_function_of_the_split_alone(authors: Path) -> None:
    """Neither of the seed of training nor of what else a method is set to; another split, other rows."""
    dataset = load(authors, group_column="author")
    _, held = learned_rows(dataset, BOTH)
    again = load(authors, group_column="author")
    assert (held == learned_rows(again, (CrossEntropy(), MetaDistil(weight=0.1)))[1]).all()
    other = load(authors, group_column="author", split_seed=5)
    assert set(held) != set(learned_rows(other, BOTH)[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which a teacher is fine-tuned once for all."""
    return tmp_path_factory.mktemp("runs")


def recipe(source: Path, tiny_model: Tiny, methods: dict[str, Any], **train: Any) -> config.Config:
    tables = {
        "data": {"source": str(source)},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": str(tiny_model("roberta"))},
        "methods": {"ce": {}} | methods,
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "device": "cpu"} | train,
    }
    return config.build([tables], METHODS)


def test_steps_are_counted_without_them(authors: Path, tiny_model: Tiny) -> None:
    plan = planning.make(recipe(authors, tiny_model, {"metadistil": {}}))
    kept, held = learned_rows(plan.dataset, plan.methods)
    assert plan.steps == 2 * -(-len(kept) // 8)
    data = make_training_data(plan, None)
    assert (data.labelled == kept).all()
    assert (data.heldout == held).all()
    plain = planning.make(recipe(authors, tiny_model, {"kd": {}}))
    assert plain.steps > plan.steps
    assert len(make_training_data(plain, None).heldout) == 0


@pytest.mark.parametrize("size", [3, 8, 10, 64])
def test_every_held_out_row_is_asked_equally_often(tiny_model: Tiny, size: int) -> None:
    """Once in each pass, in an order of its own, labels and all; larger batches than there are rows take them all."""
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy()], batch_size=size)
    data = toy_training_data(training.encoder, 28, unlabelled=4, heldout=10)
    ask = partial(held_out, training, data)
    found = [ask(number) for number in range(30)]
    assert all(len(batch.ids) == min(size, 10) for batch in found)
    rows = np.concatenate([np.sort(batch.rows.numpy()) for batch in found])
    _, counts = np.unique(rows, return_counts=True)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= (0 if 30 * min(size, 10) % 10 == 0 else 1)
    assert set(rows) == set(data.heldout)
    for batch in found:
        assert torch.equal(batch.labels, data.labels[batch.rows])
        assert torch.equal(batch.step_labels, batch.labels)
        assert all(a.tolist() == data.tokens[int(r)].tolist() for a, r in zip(batch.ids, batch.rows, strict=True))
    assert [batch.rows.tolist() for batch in found[:4]] == [ask(number).rows.tolist() for number in range(4)]
    if size == 3:
        assert {tuple(sorted(b.rows.tolist())) for b in found[:3]} != {
            tuple(sorted(b.rows.tolist())) for b in found[10:13]
        }


def test_equal_tokenizers_are_told_from_others(tiny_model: Tiny) -> None:
    """By the texts that neither side cuts."""
    tokens = {
        name: toy_training_data(tiny_encoder(tiny_model(name)), 28).tokens for name in ("bert", "roberta", "electra")
    }
    assert same_tokens(tokens["bert"], tokens["electra"])
    assert not same_tokens(tokens["bert"], tokens["roberta"])
    cut = replace(tokens["electra"], untruncated_lengths=tokens["electra"].untruncated_lengths + np.arange(28) % 2)
    assert same_tokens(tokens["bert"], cut)
    assert not same_tokens(tokens["bert"], replace(cut, untruncated_lengths=cut.lengths + 1))


@pytest.mark.parametrize(
    "methods",
    [
        {"noisy-distillation": {}},
        pytest.param({"metadistil": {"teacher_learning_rate": 1e-3}}, marks=pytest.mark.slow),
        pytest.param({"kd": {}, "layer-matching": {}}, marks=pytest.mark.slow),
        pytest.param(
            {"layer-matching": {"states": "first", "normalize": True}, "metadistil": {"form": "first-order"}},
            marks=pytest.mark.slow,
        ),
    ],
    ids="+".join,
)
def test_a_whole_training_with_a_live_teacher(
    toy_csv: Callable[..., Path], tiny_model: Tiny, shared: Path, methods: dict[str, Any]
) -> None:
    """The teacher fine-tuned first, once; the student from it, stopped half way and gone on with: the same bits."""
    built = recipe(toy_csv(90, 0), tiny_model, methods)
    plan = planning.make(built)
    options = pipeline.Options(runs=shared, show=Show(quiet=True))
    whole = pipeline.execute(plan, options)
    epochs = whole.run.read("history.json")["epochs"]
    assert {f"loss_{loss}" for method in plan.methods for loss in method.losses} <= epochs[0].keys()
    assert ("heldout_loss" in epochs[0]) == ("metadistil" in methods)
    halted = replace(options, out=shared / "halted" / plan.name)
    with pytest.raises(pipeline.Stopped):
        pipeline.execute(plan, replace(halted, pause_at=plan.steps // 2 + 1))
    again = pipeline.execute(plan, halted)
    name = Path("model") / "model.safetensors"
    assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert again.metrics == whole.metrics


def test_a_training_through_the_front_door(toy_csv: Callable[..., Path], tiny_model: Tiny, tmp_path: Path) -> None:
    settings = {"methods.metadistil.form": "first-order", "epochs": 1, "device": "cpu", "precision": "float32"}
    result = randout.train(
        toy_csv(90, 0),
        student=str(tiny_model("bert")),
        teacher=str(tiny_model("roberta")),
        settings=settings,
        runs=tmp_path,
    )
    assert {"ce", "kd", "randout", "metadistil"} <= result.run.record.identity.methods.keys()
    assert "loss_metadistil" in result.run.read("history.json")["epochs"][0]
