"""Students that learn from sharded soft labels: the same tokens, rows and order as in memory, resumed exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from conftest import Run
from randout.core import config
from randout.core.console import Show
from randout.data.row_hashes import row_key
from randout.experiments.run import pipeline, planning
from randout.experiments.run.options import Options
from randout.experiments.run.saved_model import load_classifier
from randout.experiments.run.student import make_training_data
from randout.experiments.shards.label_shards import ShardRequest, label_shards
from randout.methods.builtin import METHODS
from randout.models.tokens import encode, truncate
from support.label_sets import toy_label_sets, write_label_sets
from support.shards import fitted_svm, write_shards

ROWS = (40, 30)


@pytest.fixture
def place(tmp_path: Path, toy_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with films.csv, texts/ (shards) and labels/ (their soft labels by a support vector machine)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "films.csv").write_bytes(toy_csv().read_bytes())
    write_shards(tmp_path / "texts", ROWS, seed=3)
    label_again(tmp_path)
    return tmp_path


def label_again(place: Path) -> None:
    model = place / "svm" if (place / "svm").exists() else fitted_svm(place / "svm")
    request = ShardRequest("soft-labels", str(model), [str(place / "texts")], str(place / "labels"))
    label_shards(request, Options(show=Show(quiet=True)))


def words(student: Path, *more: str) -> list[object]:
    return [
        "train", "films.csv", "--student", student, "--teacher", "labels", "--unlabeled", "texts", "--preset", "kd",
        "--set", "epochs=2", "--set", "precision=float32", *more,
    ]  # fmt: skip


def plan_of(place: Path, student: Path) -> Any:
    tables = {
        "data": {"source": str(place / "films.csv"), "unlabeled": str(place / "texts")},
        "student": {"model": str(student)},
        "teacher": {"model": str(place / "labels")},
        "train": {"epochs": 1, "precision": "float32"},
    }
    return planning.make(config.build([config.read_preset("kd"), tables], METHODS))


def test_the_data_are_those_that_memory_would_hold(place: Path, tiny_model: Callable[[str], Path]) -> None:
    plan = plan_of(place, tiny_model("bert"))
    data = make_training_data(plan, pipeline.taught(plan, pipeline.Options(runs=place / "runs", show=Show(quiet=True))))
    known = {text.casefold() for text in plan.dataset.texts}
    texts = [text for path in sorted((place / "texts").iterdir()) for text in pq.read_table(path)["text"].to_pylist()]
    kept = [text for text in texts if (text or "").strip() and text.casefold() not in known]
    n, encoder = len(plan.dataset.texts), plan.student.load(plan)
    assert data.unlabelled.tolist() == list(range(n, n + len(kept)))
    every = [*plan.dataset.texts, *kept]
    tokens = truncate(encode(encoder.tokenizer, every), plan.config.student.max_length, "head", encoder.suffix)
    np.testing.assert_array_equal(data.tokens.ids, tokens.ids)
    np.testing.assert_array_equal(data.tokens.offsets, tokens.offsets)
    model = load_classifier(str(place / "svm"))
    assert model.id2label == plan.dataset.id2label
    np.testing.assert_array_equal(data.teacher[n:].numpy(), model.logits(kept, lambda done: None))
    assert data.teacher[:n].isnan().all()
    assert data.labels[n:].tolist() == [-1] * len(kept)
    assert plan.steps == -(-(len(plan.dataset.split["train"]) + plan.dataset.sharded_rows) // 16)


def test_a_training_resumes_to_the_same_weights(place: Path, tiny_model: Callable[[str], Path], run: Run) -> None:
    student = tiny_model("bert")
    code, _, errors = run(*words(student, "-o", "whole"))
    assert code == 0, errors
    code, _, errors = run(*words(student, "-o", "cut", "--time-limit", "0s"))
    assert code == 0, errors
    assert "Resume with" in errors
    code, _, errors = run("train", "--resume", "cut")
    assert code == 0, errors
    assert "mapped from token-stores" in errors
    whole, cut = (load_file(place / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    for name, weights in whole.items():
        np.testing.assert_array_equal(weights, cut[name], err_msg=name)
    record = json.loads((place / "whole" / "run.json").read_text(encoding="utf-8"))
    assert record["teacher"]["soft_labels"]["rows"] == {"unlabeled": sum(ROWS) - 4}


def test_copies_of_labelled_rows_are_left_out(place: Path, tiny_model: Callable[[str], Path]) -> None:
    plan = plan_of(place, tiny_model("bert"))
    path = place / "texts" / "part-000.parquet"
    table = pq.read_table(path)
    held = plan.dataset.texts[int(plan.dataset.split["test"][0])]
    texts = [held.upper(), *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "text", [texts]), path, row_group_size=10)
    label_again(place)
    plan = plan_of(place, tiny_model("bert"))
    taught = pipeline.taught(plan, pipeline.Options(runs=place / "runs", show=Show(quiet=True)))
    assert taught is not None
    assert taught.stored is not None
    known = {row_key(text) for text in plan.dataset.texts}
    every = [text for one in sorted((place / "texts").iterdir()) for text in pq.read_table(one)["text"].to_pylist()]
    copies = [text for text in every if (text or "").strip() and row_key(text) in known]
    assert held.upper() in copies
    assert taught.stored.count("copies") == len(copies)


def test_students_of_label_sets_learn_from_shards(place: Path, tiny_model: Callable[[str], Path], run: Run) -> None:
    """Logits of the labels as the model gives them, labelled rows with their sets, and a student that is scored by F1."""
    write_label_sets(place / "sets.csv", 120)
    (place / "texts" / "part-001.parquet").unlink()
    texts = toy_label_sets(30, seed=5)[0]
    pq.write_table(pa.table({"text": texts}), place / "texts" / "part-000.parquet")
    separator = ("--set", "data.label_separator=;")
    code, _, errors = run(
        "train", "sets.csv", "--student", "svm", *separator, "--set", "classifier.min_df=1", "-o", "sets-svm"
    )
    assert code == 0, errors
    code, _, errors = run("soft-labels", "sets-svm", "texts", "-o", "sets-labels")
    assert code == 0, errors
    tables = {
        "data": {"source": "sets.csv", "unlabeled": "texts", "label_separator": ";"},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": "sets-labels"},
        "train": {"epochs": 1, "precision": "float32"},
    }
    plan = planning.make(config.build([config.read_preset("kd"), tables], METHODS))
    data = make_training_data(plan, pipeline.taught(plan, Options(runs=place / "runs", show=Show(quiet=True))))
    n = len(plan.dataset.texts)
    known = {row_key(text) for text in plan.dataset.texts}
    model = load_classifier("sets-svm")
    logits = model.logits([text for text in texts if row_key(text) not in known], lambda done: None)
    np.testing.assert_array_equal(data.teacher[n:].numpy(), logits)
    assert data.labels[:n].tolist() == plan.dataset.labels.tolist()

    given = ("train", "--student", tiny_model("bert"), "--unlabeled", "texts", "--preset", "kd", "--set", "epochs=1")
    code, out, errors = run(*given, "sets.csv", "--teacher", "sets-labels", *separator)
    assert (code, "sample F1" in out) == (0, True), errors
    code, _, errors = run(*given, "films.csv", "--teacher", "sets-labels")
    assert (code, "gives each text a set of labels (multi-label), but in these data each text has" in errors) == (
        2,
        True,
    )
    code, _, errors = run(*given, "sets.csv", "--teacher", "labels", *separator)
    assert (code, "gives each text exactly one label, but in these data each text has" in errors) == (2, True), errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no texts", "Name these with --unlabeled FOLDER"),
        ("new shard", "part-002.parquet is missing from the labels"),
        ("changed text", "has changed since it was labelled"),
        ("changed labels", "differs from the file that manifest.json records"),
        ("predictions", "holds predictions, not soft labels"),
        ("a model", "a folder of shards, which needs sharded soft labels"),
        ("views", "which has none for new texts"),
    ],
)
def test_shards_that_do_not_fit_are_refused(
    change: str, message: str, place: Path, tiny_model: Callable[[str], Path], run: Run
) -> None:
    given = words(tiny_model("bert"), *(["--views", "1"] if change == "views" else []))
    if change == "no texts":
        given = [word for word in given if word not in ("--unlabeled", "texts")]
    elif change == "new shard":
        write_shards(place / "texts", (*ROWS, 12), seed=3)
    elif change == "changed text":
        write_shards(place / "texts", ROWS, seed=4)
    elif change == "changed labels":
        path = place / "labels" / "part-000.parquet"
        pq.write_table(pq.read_table(path), path, compression="snappy")
    elif change == "predictions":
        path = place / "labels" / "manifest.json"
        path.write_text(path.read_text(encoding="utf-8").replace('"soft-labels"', '"predictions"'), encoding="utf-8")
    elif change == "a model":
        given[given.index("labels")] = tiny_model("roberta")
    code, _, errors = run(*given)
    assert (code, message in errors) == (2, True), errors
