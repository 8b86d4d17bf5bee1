"""Multi-label data through the commands: teacher, student, saved model, prediction, evaluation, comparison, report."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import randout
from conftest import Run
from randout.core.config import build
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE, names_of
from randout.data.dataset import load
from randout.data.soft_label_files import FLOOR
from randout.data.tables import read_table
from randout.experiments.run import pipeline
from randout.experiments.run.imported_teacher import ImportedTeacher
from randout.experiments.run.options import Options
from randout.experiments.run.plan import Plan
from randout.experiments.run.planning import make
from randout.experiments.run.reload import reload_plan
from randout.methods.builtin import METHODS
from randout.models.label_thresholds import KEY
from randout.reporting.text import choice_lines, score_lines
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import read_record
from randout.storage.study_record import ShrinkRecord
from support.label_sets import toy_label_sets, write_label_sets
from support.tables import write_rows

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


def test_predicted_sets_in_tables(teacher: RunFolder, place: Path, run: Run, tmp_path: Path) -> None:
    """Lists in JSON and Parquet, one string in CSV, which is read back as label sets; none for an empty text."""
    texts = toy_label_sets(40, seed=1)[0]
    sets = randout.load(teacher.path).predict(texts)
    shutil.copy(place / "new.csv", tmp_path / "new.csv")
    with (tmp_path / "new.csv").open("a") as file:
        file.write(",\n")
    made = {}
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"made.{suffix}"
        code, _, error = run("predict", teacher.path, "--file", tmp_path / "new.csv", "-o", out)
        assert code == 0, error
        made[suffix] = read_table(out).columns["predicted_label"]
        out = tmp_path / f"scored.{suffix}"
        code, _, error = run("evaluate", teacher.path, place / "new.csv", "-o", out)
        assert code == 0, error
        assert read_table(out).columns["prediction"] == made[suffix][:-1]
    assert [*made["jsonl"]] == [*made["parquet"]] == [*sets, None]
    assert [*made["csv"]] == [*("; ".join(labels) for labels in sets), ""]
    found = load(
        build(
            [
                {
                    "data": {
                        "source": str(tmp_path / "made.csv"),
                        "label_column": "predicted_label",
                        "label_separator": ";",
                        "text_column": "text",
                    }
                }
            ],
            METHODS,
        ).data
    )
    rows = [sets[int(row) - 1] for row in found.row_ids]
    assert names_of(found.truth(np.arange(len(rows))), found.names) == rows
    code, out, error = run("predict", teacher.path, "--json", *texts, " ")
    assert code == 0, error
    assert [json.loads(line)["label"] for line in out.splitlines()] == [*sets, None]


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


def test_thresholds_after_a_refit_are_said_to_be_those_of_the_model_before(
    place: Path, tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = randout.train(
        str(place / "data.csv"), student=str(tiny_model("bert")), teacher="none", preset="plain", runs=tmp_path,
        settings=SETTINGS | {"epochs": 1, "refit": True}, quiet=False,
    )  # fmt: skip
    scores = done.run.metrics.validation
    assert json.loads((done.run.model / "config.json").read_text())[KEY] == scores.thresholds
    lines = score_lines(scores, dict(enumerate(LABELS)), "validation")
    assert any("the refitted model keeps them" in line for line in lines)
    assert "by the same training without them" in (done.run.model / "README.md").read_text()
    assert "the thresholds stay those of the model before" in capsys.readouterr().err


def soft_rows(teacher: RunFolder, texts: list[str]) -> list[dict[str, str]]:
    """The probabilities of a teacher, in full precision."""
    p = randout.load(teacher.path).predict_proba(texts)
    return [
        {"text": text, **{f"prob_{name}": repr(float(one)) for name, one in zip(LABELS, row, strict=True)}}
        for text, row in zip(texts, p, strict=True)
    ]


def planned(place: Path, student: Path, teacher: Any, preset: str = "kd", **settings: Any) -> Plan:
    tables: dict[str, Any] = {"data": {"source": str(place / "data.csv"), "label_separator": ";"}}
    tables |= {"student": {"model": str(student)}, "teacher": {"model": str(teacher)}}
    tables |= {"methods": {"ce": {}, preset: {}}}
    tables |= {"train": {"epochs": 1, "learning_rate": 1e-3, "precision": "float32", "device": "cpu", "refit": False}}
    above: dict[str, Any] = {}
    for key, value in settings.items():
        table, name = key.split("__")
        above.setdefault(table, {})[name] = value
    return make(build([tables, above], METHODS))


def test_imported_probabilities_are_joined_calibrated_and_scored(
    place: Path, teacher: RunFolder, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The log-odds of the file over t, t minimizing the binary cross-entropy on validation rows; nothing for test rows."""
    texts, _ = toy_label_sets(150, seed=0)
    rows = soft_rows(teacher, texts)
    plan = planned(place, tiny_model("bert"), write_rows(tmp_path / "soft.csv", rows))
    (imported,) = plan.teachers
    assert isinstance(imported, ImportedTeacher)
    t, held = imported.record.temperature, plan.dataset.split["validation"]
    odds = []
    for row in rows:
        p = [min(max(float(row[f"prob_{name}"]), FLOOR), 1 - FLOOR) for name in LABELS]
        odds.append([math.log(one / (1 - one)) for one in p])
    z, truth = np.array(odds), plan.dataset.truth(held)
    for name in ("train", "validation"):
        at = plan.dataset.split[name]
        np.testing.assert_allclose(imported.logits[at], z[at] / t, rtol=1e-5)
    assert np.isnan(imported.logits[plan.dataset.split["test"]]).all()

    def loss(t: float) -> float:
        p = 1 / (1 + np.exp(-z[held] / t))
        return float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())

    record = imported.record
    assert record.log_loss == pytest.approx([loss(1.0), loss(t)], rel=1e-5)
    assert (record.decisions, record.scored) == (truth.size, len(truth))
    assert record.fitted == (record.wrong >= 5)
    if record.fitted:
        assert loss(t) <= min(loss(t * 0.95), loss(t * 1.05)) + 1e-9
    assert imported.thresholds is not None
    made = 1 / (1 + np.exp(-imported.logits[held].astype(float))) > np.array(imported.thresholds)
    assert imported.validation["accuracy"] == pytest.approx((made == truth).all(1).mean())
    assert any("validation sample F1" in note and "threshold of each label" in note for note in plan.notes)


@pytest.mark.slow
def test_a_teacher_and_its_written_probabilities_teach_the_same(
    place: Path, teacher: RunFolder, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """With temperature 1, sigmoid(log-odds) is sigmoid(z): the students differ by rounding only."""
    texts, _ = toy_label_sets(150, seed=0)
    rows = soft_rows(teacher, texts)
    assert all(FLOOR < float(row[f"prob_{name}"]) < 1 - FLOOR for row in rows for name in LABELS)
    file = write_rows(tmp_path / "soft.csv", rows)
    options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
    direct = pipeline.execute(planned(place, tiny_model("bert"), teacher.path), options)
    read = pipeline.execute(planned(place, tiny_model("bert"), file, teacher__temperature=1.0), options)
    one, other = (load_file(each.model_path / "model.safetensors") for each in (direct, read))
    assert all(np.allclose(one[name], other[name], atol=2e-3) for name in one)
    gap = read.scores.validation.teacher
    assert gap is not None
    assert gap.primary is not None
    assert gap.primary.metric == "sample_f1"


@pytest.mark.slow
def test_soft_labels_of_unlabelled_texts_and_of_one_of_several_teachers(
    place: Path, teacher: RunFolder, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    texts, _ = toy_label_sets(150, seed=0)
    more, _ = toy_label_sets(20, seed=7)
    file = write_rows(tmp_path / "soft.csv", soft_rows(teacher, [*texts[::2], *more[:15]]))
    write_rows(tmp_path / "more.csv", [{"text": text} for text in more])
    plan = planned(
        place, tiny_model("bert"), teacher.path, "multi-teacher",
        teacher__more=[str(file)], data__unlabeled=str(tmp_path / "more.csv"),
    )  # fmt: skip
    assert plan.more[0].record.rows["unlabeled"] == 15  # type: ignore[union-attr]
    done = pipeline.execute(plan, Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    history = json.loads((done.folder / "history.json").read_text())["epochs"]
    assert np.isfinite(history[-1]["loss_multi-teacher"])
    assert history[-1]["loss_multi-teacher"] > 0


@pytest.mark.slow
def test_the_student_is_chosen_between_an_encoder_and_a_bag_of_words(
    place: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The encoder learns nothing at its learning rate; with so few validation rows, folds of the training rows decide."""
    done = randout.train(
        str(place / "data.csv"), student=str(tiny_model("bert")), teacher="none", preset="plain", runs=tmp_path,
        settings=SETTINGS | {"student.alternative": "svm", "epochs": 1, "learning_rate": 1e-7},
    )  # fmt: skip
    choice = done.run.record.choice
    assert choice is not None
    assert (choice.chosen, choice.by, choice.metric) == ("bag-of-words", "cross-validation", "sample_f1")
    assert choice.words.score > 0.9 > choice.encoder.score
    assert "sample F1 of" in choice_lines(choice)[0]
    assert randout.load(done.folder).thresholds == done.run.metrics.validation.thresholds


def test_a_ladder_compares_forms_by_sample_f1(
    place: Path, tiny_model: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["shrink", place / "data.csv", "--teacher", tiny_model("bert"), "--student", tiny_model("bert")]
    asked += ["--layers", "1", "--cost", "size", "--rounds", 0, "--margin", 0.9, "--form", "torch", "-o", "ladder"]
    asked += ["--set", "label_separator=;", "--set", "epochs=2", "--set", "learning_rate=3e-3"]
    code, out, error = run(*asked)
    assert code == 0, error
    assert "sample F1" in out
    record = read_record(tmp_path / "ladder").record
    assert isinstance(record, ShrinkRecord)
    assert record.metric == "sample_f1"
    form = record.form("1 layer, torch")
    assert form is not None
    assert form.validation is not None
    folder, values = tmp_path / "ladder" / "predictions", []
    for name in ("1-layer-torch", "teacher-torch"):
        found = read_predictions(folder / f"{name}-validation.parquet", LABELS)
        each = []
        for true, made in zip(found.labels, found.predicted, strict=True):
            sizes = true.sum() + made.sum()
            each.append(2 * (true & made).sum() / sizes if sizes else 1.0)
        values.append(float(np.mean(each)))
    assert form.validation.accuracy == pytest.approx(values[0])
    assert form.validation.reference == pytest.approx(values[1])
    assert record.test is not None
    assert record.test.metric == "sample_f1"
    assert set(randout.load(tmp_path / "ladder" / "chosen").thresholds or ()) == set(LABELS)


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


def test_teachers_of_the_other_kind_are_refused(
    teacher: RunFolder, tiny_model: Callable[[str], Path], toy_csv: Any, run: Run
) -> None:
    options = ["--student", tiny_model("bert"), "--teacher", teacher.path, "--preset", "kd", "--set", "device=cpu"]
    code, _, error = run("train", toy_csv(60, 3), *options)
    assert code == 2
    assert "every text has exactly one" in error
