"""Multi-label data through the commands: teacher, student, saved model, prediction, evaluation, comparison, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import randout
from conftest import Run
from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE
from randout.experiments.run.reload import reload_plan
from randout.models.label_thresholds import KEY
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from support.label_sets import toy_label_sets, write_label_sets

SETTINGS = {
    "data.label_separator": ";",
    "epochs": 3,
    "learning_rate": 3e-3,
    "precision": "float32",
    "device": "cpu",
    "refit": False,
}
LABELS = ["health", "money", "sport"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label-sets")
    write_label_sets(folder / "data.csv", 150, seed=0)
    write_label_sets(folder / "new.csv", 40, seed=1)
    return folder


@pytest.fixture(scope="module")
def train(place: Path, tiny_model: Callable[[str], Path]) -> Callable[..., RunFolder]:
    def run(name: str, teacher: str = "none", preset: str = "plain", student: str = "", **more: Any) -> RunFolder:
        done = randout.train(
            str(place / "data.csv"),
            student=student or str(tiny_model("bert")),
            teacher=teacher,
            preset=preset,
            settings=SETTINGS | {key.replace("__", "."): value for key, value in more.items()},
            runs=place,
            out=place / name,
        )
        return RunFolder(done.folder)

    return run


@pytest.fixture(scope="module")
def teacher(train: Callable[..., RunFolder]) -> RunFolder:
    return train("teacher", epochs=8)


@pytest.fixture(scope="module")
def student(train: Callable[..., RunFolder], teacher: RunFolder) -> RunFolder:
    return train("student", teacher=str(teacher.path), preset="randout-kd", randout__tokens=2, randout__units=4)


def test_the_saved_model_says_what_it_is(teacher: RunFolder) -> None:
    config = json.loads((teacher.model / "config.json").read_text())
    assert config["problem_type"] == PROBLEM_TYPE
    assert config["id2label"] == dict(zip("012", LABELS, strict=True))
    assert config[KEY] == teacher.metrics.validation.thresholds
    assert teacher.record.identity.data.multi_label
    assert teacher.record.identity.train.metric == "sample_f1"
    assert "several labels or none" in (teacher.model / "README.md").read_text()


def test_a_teacher_is_learned_and_compared_with(student: RunFolder) -> None:
    losses = student.read("history.json")["epochs"][-1]
    assert losses["loss_kd"] > 0
    gap = student.metrics.splits["test"].teacher
    assert gap is not None
    assert gap.primary is not None
    assert gap.primary.metric == "sample_f1"
    assert 0 < gap.primary.teacher <= 1


def test_scores_are_those_of_the_stored_predictions(teacher: RunFolder) -> None:
    found, scores = read_predictions(teacher.predictions("test"), LABELS), teacher.metrics.splits["test"]
    assert scores.accuracy == pytest.approx((found.predicted == found.labels).all(1).mean())
    assert tuple(scores.thresholds.values()) == found.thresholds
    assert scores.labels_per_row["predicted"] == pytest.approx(found.predicted.sum(1).mean())
    assert scores.confusion_matrix == []
    assert scores.sample_f1 is not None
    assert scores.sample_f1 > 0.6
    split = reload_plan(teacher).dataset.split
    assert sum(map(len, split.values())) == 150


def test_prediction_uses_the_thresholds(teacher: RunFolder, run: Run, tmp_path: Path) -> None:
    texts, _ = toy_label_sets(12, seed=4)
    model = randout.load(teacher.path)
    assert model.thresholds is not None
    limits, shares = np.array(list(model.thresholds.values())), model.predict_proba(texts)
    sets = model.predict(texts)
    assert sets == [[name for name, yes in zip(LABELS, row, strict=True) if yes] for row in shares > limits]
    assert model.predict([texts[0]])[0] == sets[0]
    code, out, error = run("predict", teacher.path, texts[0], "--probabilities")
    assert code == 0, error
    label, score, *rest = out.strip().split("\t")
    assert label == "; ".join(sets[0])
    likely = np.where(shares[0] > limits, shares[0], 1 - shares[0]).prod()
    assert float(score) == pytest.approx(likely, abs=2e-4)
    assert rest[0] == f"health={shares[0, 0]:.4f}"


def test_a_pipeline_of_transformers_gives_the_same_probabilities(teacher: RunFolder) -> None:
    from transformers import pipeline

    texts, _ = toy_label_sets(3, seed=5)
    classify = pipeline("text-classification", str(teacher.model), truncation=True, top_k=None)
    theirs = [{one["label"]: one["score"] for one in found} for found in classify(texts)]
    ours = randout.load(teacher.path).predict_proba(texts)
    for found, row in zip(theirs, ours, strict=True):
        assert [found[name] for name in LABELS] == pytest.approx(row.tolist(), abs=1e-4)


def test_a_file_is_evaluated_and_predicted(teacher: RunFolder, place: Path, run: Run, tmp_path: Path) -> None:
    code, out, error = run("evaluate", teacher.path, place / "new.csv", "-o", tmp_path / "scored.csv")
    assert code == 0, error
    assert "sample F1" in out
    assert "threshold" in out
    found = randout.evaluate(teacher.path, place / "new.csv")
    _, sets = toy_label_sets(40, seed=1)
    assert found["per_class"]["sport"]["support"] == sum("sport" in labels for labels in sets)
    assert (tmp_path / "scored.csv").read_text().splitlines()[0] == "text,label,prediction,score"
    assert run("predict", teacher.path, "--file", place / "new.csv", "-o", tmp_path / "made.csv")[0] == 0


def test_runs_are_compared_and_reported(teacher: RunFolder, student: RunFolder, run: Run, tmp_path: Path) -> None:
    code, out, error = run("compare", teacher.path, student.path)
    assert code == 0, error
    assert "sample F1 %" in out
    code, _, error = run("report", teacher.path, student.path, "-o", tmp_path / "report")
    assert code == 0, error
    code, out, error = run("runs", "--runs", teacher.path.parent)
    assert code == 0, error
    assert "student" in out


def test_a_linear_classifier_has_a_machine_for_each_label(place: Path) -> None:
    settings = {"data.label_separator": ";"}
    own = RunFolder(randout.train(str(place / "data.csv"), student="svm", settings=settings, runs=place).folder)
    assert own.metrics.validation.sample_f1 is not None
    model = randout.load(own.path)
    assert model.thresholds == own.metrics.validation.thresholds
    texts, sets = toy_label_sets(30, seed=9)
    assert np.mean([one == other for one, other in zip(model.predict(texts), sets, strict=True)]) > 0.5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"methods.weidc": True}, "methods.weidc: not supported for multi-label data"),
    "metric": ({"data.label_separator": "", "metric": "micro_f1"}, "multi-label"),
    "forest": ({"student.model": "rf"}, "rf is not supported for multi-label data"),
    "choice": ({"student.alternative": "svm"}, "not supported for multi-label data"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_refused_with_the_reason(
    what: str, place: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    changes, message = REFUSED[what]
    plain = {"data.label_separator": ";", "device": "cpu"} if "student.model" in changes else SETTINGS
    data = "film" if what == "metric" else str(place / "data.csv")
    data = str(place / "one.csv") if what == "metric" else data
    (place / "one.csv").write_text("text,label\n" + "".join(f"text {at},{at % 2}\n" for at in range(60)))
    student = None if "student.model" in changes else str(tiny_model("bert"))
    with pytest.raises(UserError, match=message):
        randout.train(
            data, student=student, teacher="none", preset="plain", settings=plain | changes, runs=tmp_path / "runs"
        )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_give_label_sets_as_a_file_does(library: str, tmp_path: Path) -> None:
    frame = pytest.importorskip(library).DataFrame
    texts, sets = toy_label_sets(90, seed=1)
    found = {}
    for what, columns, settings in (
        ("lists", {"label": sets}, {"data.multi_label": True}),
        ("joined", {"label": [";".join(one) for one in sets]}, {"data.label_separator": ";"}),
        ("0 and 1", {name: [int(name in one) for one in sets] for name in LABELS}, {"data.label_columns": LABELS}),
        ("booleans", {name: [name in one for one in sets] for name in LABELS}, {"data.label_columns": LABELS}),
    ):
        done = randout.train(frame({"text": texts} | columns), student="svm", settings=settings, runs=tmp_path)
        found[what] = randout.load(done.folder).predict_proba(texts[:20]).tolist()
    assert all(one == found["lists"] for one in found.values())


def test_commands_for_one_label_refuse_label_sets(place: Path, teacher: RunFolder, run: Run, tmp_path: Path) -> None:
    (tmp_path / "fixed.csv").write_text("row,corrected_label\n1,a\n")
    data = ["--set", "data.label_separator=;"]
    for words, reason in (
        (["label-issues", place / "data.csv", *data], "label-issues: not supported for multi-label data"),
        (["train", place / "data.csv", *data, "--student", "svm", "--corrections", "fixed.csv"], "data.corrections"),
        (["predict", teacher.path, "a text", "--abstain", "coverage=0.9"], "not supported for a model of label sets"),
        (["evaluate", teacher.path, "--abstain", "confidence=0.9"], "not supported for a model of label sets"),
    ):
        code, _, error = run(*words)
        assert (code, reason in error) == (2, True), error
    model = randout.load(teacher.path)
    for call in (lambda: model.predict(["a text"], abstain=0.9), lambda: model.confidence(["a text"])):
        with pytest.raises(UserError, match="not supported for a model of label sets"):
            call()


def test_teachers_of_the_other_kind_and_exports_are_refused(
    teacher: RunFolder, tiny_model: Callable[[str], Path], toy_csv: Any, run: Run, tmp_path: Path
) -> None:
    options = ["--student", tiny_model("bert"), "--teacher", teacher.path, "--preset", "kd", "--set", "device=cpu"]
    code, _, error = run("train", toy_csv(60, 3), *options)
    assert code == 2
    assert "every text has exactly one" in error
    assert run("export", teacher.path, "-o", tmp_path / "out")[0] == 2
