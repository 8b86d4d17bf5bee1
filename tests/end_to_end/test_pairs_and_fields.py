"""Pairs of texts with a field before the first, from training to every way in which the model is used afterwards."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import randout
from randout import baselines
from randout.core import config
from randout.core.errors import UserError
from randout.data.composed_text import ComposedText
from randout.data.dataset import load
from randout.experiments.run.imported_teacher import SoftLabelFile, import_teacher
from randout.experiments.run.saved_model import load_classifier
from randout.exports import runtime
from randout.methods.builtin import METHODS
from randout.testing.models import toy_texts
from support.tables import write_rows

SETTINGS = {
    "data.text_column": "text",
    "data.text_pair_column": "before",
    "data.prefix_columns": ["place"],
    "student.max_length": 40,
    "train.epochs": 2,
    "train.learning_rate": 1e-3,
}


def rows(n=90):
    texts, labels = toy_texts(n, 0)
    return [
        {"text": text, "before": before, "place": f"{at % 5}/5", "label": label}
        for at, (text, before, label) in enumerate(zip(texts, toy_texts(n, 1)[0], labels, strict=True))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def data(place):
    return write_rows(place / "pairs.csv", rows())


@pytest.fixture(scope="module")
def trained(place, data, tiny_model):
    """A distilled run on pairs with a field; its teacher is fine-tuned on them first."""
    found = randout.train(
        data,
        student=tiny_model("bert"),
        teacher=str(tiny_model("electra")),
        preset="kd",
        settings=SETTINGS,
        runs=place / "runs",
    )
    return found.folder


def expected(folder: Path, some):
    texts = [ComposedText((row["text"], row["before"]), f"place: {row['place']} | ") for row in some]
    return load_classifier(str(folder)).logits(texts, lambda done: None)


def test_every_way_to_read_new_rows_gives_the_same_labels(place, data, trained, command, monkeypatch):
    model, some = randout.load(trained), rows()[:20]
    logits = expected(trained, some)
    best = [model.id2label[at] for at in logits.argmax(1)]
    assert model.predict(some) == best
    code, out, _ = command("predict", trained, "--file", data, "-o", place / "out.csv", "--json")
    assert code == 0
    added = json.loads(out)["columns"][0]
    with (place / "out.csv").open(encoding="utf-8") as stream:
        assert [row[added] for row in csv.DictReader(stream)][:20] == best
    moved = place / "moved"  # the model folder alone, without its run
    if not moved.exists():
        subprocess.run(["cp", "-r", trained / "model", moved], check=True)
    assert randout.load(moved).predict(some) == best
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.read_bytes()), encoding="utf-8"))
    code, out, _ = command("predict", trained, "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["label"] for line in lines[:20]] == best
    assert lines[0]["text"] == f"place: 0/5 | {some[0]['text']} ||| {some[0]['before']}"
    other = write_rows(
        place / "named.csv", [{**{k: v for k, v in row.items() if k != "before"}, "b": row["before"]} for row in some]
    )
    assert command("evaluate", trained, other, "--text-pair", "b", "--json")[0] == 0


def test_the_field_and_the_order_decide(trained):
    some = rows()[:20]
    turned = [row | {"text": row["before"], "before": row["text"]} for row in some]
    elsewhere = [row | {"place": "4/5"} for row in some]
    for changed in (turned, elsewhere):
        assert not np.allclose(expected(trained, some), expected(trained, changed), atol=1e-4)


def test_texts_that_lack_the_columns_are_refused(place, trained, command, monkeypatch):
    code, _, error = command("predict", trained, "a single text")
    assert code == 2
    assert (
        "this model reads pairs of texts (the second from column 'before') with the field 'place' before the text"
        in error
    )
    assert "--file FILE with the columns 'text', 'place', 'before'" in error
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a text\nanother, text\n"), encoding="utf-8"))
    code, _, error = command("predict", trained)
    assert code == 2
    assert "Expected a table with a header that names these columns" in error
    short = write_rows(place / "short.csv", [{"text": "a", "before": "b", "label": "sport"}] * 3)
    for words in (("predict", trained, "--file", short), ("evaluate", trained, short)):
        code, _, error = command(*words)
        assert code == 2
        assert "no column 'place', which holds a field that is put before the text" in error
    with pytest.raises(UserError, match="expected a row with these columns"):
        randout.load(trained).predict([("a", "b")])


def test_the_model_card_says_what_is_read(trained):
    card = (trained / "model" / "README.md").read_text(encoding="utf-8")
    assert "Input: pairs of texts, from the columns 'text' and 'before' of the training data" in card
    assert "in the form `place: ... | `" in card
    assert 'model.predict([{"text": "A text.", "place": "...", "before": "..."}])' in card


def test_a_teacher_of_other_columns_is_refused(place, data, trained, tiny_model):
    single = SETTINGS | {"data.text_pair_column": "", "data.prefix_columns": []}
    with pytest.raises(UserError, match=r"it was trained on pairs of texts .*, but the data are single texts"):
        randout.train(data, student=tiny_model("bert"), teacher=trained, settings=single, runs=place / "runs")


@pytest.mark.slow
def test_an_export_reads_the_same_columns(place, data, trained):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = place / "export"
    found = randout.export(trained, folder, forms=["float32"])
    assert found.record["reader"]["token_types"] is True
    assert not found.checks[0].problems
    some = rows()[:20]
    best = randout.load(trained).predict(some)
    assert randout.load(folder).predict(some) == best
    script = [sys.executable, "predict.py", "--json"]
    made = subprocess.run([*script, "--file", data], cwd=folder, capture_output=True, text=True, check=True)
    assert [json.loads(line)["label"] for line in made.stdout.splitlines()][:20] == best
    refused = subprocess.run([*script, "a text"], cwd=folder, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "this model reads the columns 'text', 'before', 'place'" in refused.stderr


@pytest.mark.parametrize("student", ["svm", "cnn"])
def test_baselines_read_both_texts_in_one(place, data, student):
    settings = {key: value for key, value in SETTINGS.items() if key.startswith("data.")}
    settings |= {"classifier.epochs": 1} if student == "cnn" else {}
    run = randout.train(data, student=student, teacher="none", settings=settings, runs=place / "runs").folder
    assert {"place", "fever"} < set(baselines.load(run / "model").vocabulary)
    assert "It reads both texts of a pair as one, joined by `|||`" in (run / "model" / "README.md").read_text("utf-8")
    some = rows()[:10]
    labels = randout.load(run).predict(some)
    if student == "svm":
        folder = place / "svm-export"
        randout.export(run, folder)
        assert randout.load(folder).predict(some) == labels
        empty = [some[0] | {"before": missing} for missing in (None, float("nan"), " ")]  # pandas writes NaN
        assert runtime.Classifier(folder).inputs(empty) == ["", "", ""]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_gives_pairs_and_fields_as_a_file_does(library, place):
    frame = pytest.importorskip(library).DataFrame
    some = [row | {"place": None if at == 3 else at % 5} for at, row in enumerate(rows())]  # a float column in pandas
    settings = {key: value for key, value in SETTINGS.items() if key.startswith("data.")}
    made = frame({name: [row[name] for row in some] for name in some[0]})
    of_frame = randout.load(randout.train(made, student="svm", settings=settings, runs=place / "frames").folder)
    data = write_rows(place / "frame.csv", some)
    of_file = randout.load(randout.train(data, student="svm", settings=settings, runs=place / "frames").folder)
    assert np.array_equal(of_frame.predict_proba(some[:20]), of_file.predict_proba(some[:20]))


@pytest.fixture
def soft(place):
    """A file of soft labels: row 0 twice, with another second text and the opposite label; a field as a number."""
    names = sorted({row["label"] for row in rows()})
    some = [{key: value for key, value in row.items() if key != "label"} for row in rows()]
    sure = [row["label"] for row in rows()]
    some.append(some[0] | {"before": "another text"})
    sure.append(next(name for name in names if name != sure[0]))
    for row, label in zip(some, sure, strict=True):
        row |= {f"prob_{name}": 0.8 if name == label else 0.1 for name in names}
    return write_rows(place / "soft.csv", some)


def imported(soft, data, **more):
    settings = {"data": {"source": str(data)} | {k[5:]: v for k, v in SETTINGS.items() if k.startswith("data.")} | more}
    made = config.build([config.read_preset("kd"), settings, {"teacher": {"model": str(soft)}}], METHODS)
    return import_teacher(SoftLabelFile(str(soft)), made, load(made.data)), load(made.data)


def test_soft_labels_are_joined_by_all_columns(place, data, soft):
    taught, dataset = imported(soft, data)
    used = np.concatenate([dataset.split["train"], dataset.split["validation"]])
    assert np.array_equal(taught.logits[used].argmax(1), dataset.labels[used])
    assert taught.record.unmatched == 1
    assert any("joined by exact text (columns text, place, before)" in note for note in taught.notes)
    with soft.open(encoding="utf-8", newline="") as stream:
        lacking = [{key: value for key, value in row.items() if key != "place"} for row in csv.DictReader(stream)]
    with pytest.raises(
        UserError, match=r"soft labels are joined by 'text', 'place', 'before', and the file has no column 'place'"
    ):
        imported(write_rows(place / "lacking.csv", lacking), data)


def test_soft_labels_joined_by_ids_are_of_the_same_pairs(place):
    data = write_rows(place / "ids.csv", [row | {"id": at} for at, row in enumerate(rows())])
    names = sorted({row["label"] for row in rows()})
    given = [{"id": at, "text": row["text"], "before": "of another pair"} for at, row in enumerate(rows())]
    soft = write_rows(
        place / "of-others.csv", [row | {f"prob_{name}": 1 / len(names) for name in names} for row in given]
    )
    with pytest.raises(UserError, match="The ids number other rows"):
        imported(soft, data, id_column="id")


def test_shards_of_pairs(place, trained, tiny_model):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    shards = place / "shards"
    shards.mkdir()
    more = [row | {"text": f"{row['text']} more"} for row in rows(40)]
    pq.write_table(pa.Table.from_pylist(more), shards / "a.parquet")
    randout.label_shards(trained, shards, place / "labels")
    labels = pq.read_table(place / "labels" / "a.parquet").to_pylist()
    names = list(randout.load(trained).id2label.values())
    stored = np.array([[row[f"logit_{name}"] for name in names] for row in labels])
    np.testing.assert_allclose(stored, expected(trained, more), atol=1e-4)
    settings = SETTINGS | {"data.unlabeled": str(shards)}
    found = randout.train(
        place / "pairs.csv",
        student=tiny_model("bert"),
        teacher=place / "labels",
        preset="kd",
        settings=settings,
        runs=place / "runs",
    )
    assert found.metrics
    settings["data.prefix_columns"] = []
    with pytest.raises(UserError, match="Label the shards with a teacher that was trained on the same columns"):
        randout.train(
            place / "pairs.csv",
            student=tiny_model("bert"),
            teacher=place / "labels",
            preset="kd",
            settings=settings,
            runs=place / "runs",
        )


def test_noise_that_moves_words_is_refused_for_pairs(place, data, tiny_model):
    settings = SETTINGS | {"methods.noisy-distillation": True}
    with pytest.raises(
        UserError, match="not supported for pairs of texts, because words would move between the two texts"
    ):
        randout.train(
            data, student=tiny_model("bert"), teacher=str(tiny_model("electra")), settings=settings, runs=place / "runs"
        )
