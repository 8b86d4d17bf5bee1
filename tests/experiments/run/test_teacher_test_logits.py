"""A teacher on the test rows of its student: where its logits come from, what is logged, and the warning that follows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout import api
from randout.core.errors import UserError
from randout.experiments.run import pipeline
from randout.experiments.run.reload import reload_plan
from randout.experiments.run.teacher_warnings import weak_first_teacher
from randout.stats.metrics import score
from randout.storage.metrics_record import Estimate, Leaks, Metrics, Scores, TeacherGap
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder, openings

SETTINGS = {
    "epochs": 2,
    "learning_rate": 2e-3,
    "precision": "float32",
    "batch_size": 16,
    "device": "cpu",
    "refit": False,
}
Train = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("students") / "runs"


@pytest.fixture(scope="module")
def train(place: Path, tiny_model: Callable[[str], Path], toy_csv: Any) -> Train:
    """Train on one table. more: settings of the student."""
    data, student = toy_csv(120, 1), str(tiny_model("bert"))

    def run(name: str, teacher: str = "none", preset: str = "plain", **more: Any) -> RunFolder:
        settings = SETTINGS | {key.replace("__", "."): value for key, value in more.items()}
        done = api.train(
            data, student=student, teacher=teacher, preset=preset, settings=settings, runs=place, out=place / name
        )
        return RunFolder(done.folder)

    return run


@pytest.fixture(scope="module")
def teacher(train: Train) -> RunFolder:
    """A run that was scored on its test rows."""
    return train("teacher")


def accuracy(run: RunFolder, split: str = "test") -> float:
    found = read_predictions(run.predictions(split), run.labels)
    return float((found.predicted == found.labels).mean())


def test_the_teachers_own_predictions_are_read(train: Train, teacher: RunFolder, place: Path) -> None:
    student = train("student", str(teacher.path), "kd")
    gap = student.metrics.test.teacher
    assert gap.teacher_accuracy == pytest.approx(accuracy(teacher))
    assert gap.student_accuracy == pytest.approx(accuracy(student))
    assert gap.difference == pytest.approx(accuracy(student) - accuracy(teacher))
    words = student.metrics.test.baseline
    assert gap.over_baseline.estimate == pytest.approx(accuracy(teacher) - words.accuracy)
    assert not (place / "soft-labels" / "test").exists(), "nothing had to be computed"
    entry = openings(place)[-1]
    assert (entry.run, entry.teacher, entry.by) == ("student", "teacher", "train")
    card = (student.model / "README.md").read_text()
    assert f"Student and teacher on the same {gap.rows} test rows: accuracy {gap.student_accuracy:.4f} and" in card


@pytest.mark.slow
def test_logits_that_are_computed_are_the_same_and_stored(
    train: Train, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The teacher's classes are in another order, so its own predictions are not read.

    A teacher that cannot be scored costs neither the student, which is saved before, nor its scores.
    """
    other = train("other", data__labels=["sport", "health", "money"])
    gap = train("another", str(other.path), "kd", seed=2).metrics.test.teacher
    assert gap.teacher_accuracy == pytest.approx(accuracy(other))
    (stored,) = (place / "soft-labels" / "test").glob("*.safetensors")
    written = stored.stat().st_mtime_ns
    again = train("third", str(other.path), "kd", seed=4).metrics.test.teacher
    assert again.teacher_accuracy == gap.teacher_accuracy
    assert stored.stat().st_mtime_ns == written, "the second student reads them"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    stored.write_bytes(b"damaged")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "compare_on_test", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("fourth", str(other.path), "kd", seed=5)
    assert (place / "fourth" / "model" / "model.safetensors").exists()
    caplog.clear()
    metrics = train("fourth", str(other.path), "kd", seed=5).metrics
    assert metrics.test is not None
    assert (metrics.test.teacher, metrics.compared_split) == (None, "validation")
    assert f"teacher other: it could not be scored on the test rows ({stored}" in caplog.text


def test_a_teacher_that_is_trained_for_the_run_is_scored_as_evaluate_does(
    train: Train, tiny_model: Callable[[str], Path], place: Path
) -> None:
    student = train("taught", str(tiny_model("roberta")), "kd", seed=6)
    teacher = RunFolder(place / student.record.teacher.name)
    assert teacher.metrics.test is None, "its own test split stays closed"
    gap = student.metrics.test.teacher
    assert gap.teacher_accuracy == pytest.approx(api.evaluate(teacher.path, split="test")["accuracy"])


def test_a_test_split_that_is_scored_later_compares_them_too(train: Train, teacher: RunFolder, place: Path) -> None:
    student = train("closed", str(teacher.path), "kd", seed=3, output__test=False)
    assert student.metrics.compared_split == "validation"
    before = len(openings(place))
    api.evaluate(student.path, split="test")
    gap = student.metrics.test.teacher
    assert student.metrics.compared_split == "test"
    assert gap.teacher_accuracy == pytest.approx(accuracy(teacher))
    assert [entry.teacher for entry in openings(place)[before:]] == ["teacher"]
    card = (student.model / "README.md").read_text()
    assert "Student and teacher on the same" in card
    assert "validation rows" not in card.partition("Student and teacher")[2].partition("\n")[0]


def metrics_of(gap: dict[str, Any], **known: Any) -> Metrics:
    """Of a run with a comparison on the test rows. gap: what differs from that of a teacher that is worth learning from."""
    found = {"rows": 2, "margin": 0.02, "student_accuracy": 0.8, "teacher_accuracy": 0.9, "verdict": "undecided"}
    over = {"over_majority": Estimate(estimate=0.4, low=0.3, high=0.5)}
    scores = Scores.model_validate(score([0, 1], np.eye(2), {0: "a", 1: "b"}))
    test = scores.model_copy(update={"teacher": TeacherGap.model_validate(found | over | gap)} | known)
    return Metrics(validation=scores, test=test)


BELOW = {"over_majority": Estimate(estimate=0.1, low=-0.1, high=0.3)}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (metrics_of({}), None),
        (metrics_of({"student_accuracy": 0.95}), None),  # chance may explain it
        (metrics_of({"student_accuracy": 0.95, "verdict": "better"}), "is below this student (95.0%)"),
        (metrics_of({"over_baseline": Estimate(estimate=-0.05, low=-0.09, high=-0.01)}), "baseline (95.0%)"),
        (metrics_of({"over_baseline": Estimate(estimate=-0.05, low=-0.1, high=0.01)}), None),
        (metrics_of(BELOW), "not clearly above the majority class (80.0%)"),
        (metrics_of(BELOW, leaks=Leaks(rows=1, of=2, roles={"teacher-trained": 1})), None),
    ],
)
def test_a_teacher_that_has_little_to_teach(
    teacher: RunFolder, metrics: Metrics, expected: str | None, tmp_path: Path
) -> None:
    found = weak_first_teacher(reload_plan(teacher), RunFolder(tmp_path / "alone"), metrics)
    assert (found is None) is (expected is None)
    if found is not None:
        assert expected in found.message
        assert (found.kind, found.split) == ("weak-teacher", "test")


def test_the_plain_student_is_compared_on_the_same_rows(teacher: RunFolder) -> None:
    """A teacher that the same student, trained without it in the same folder, equals on the test rows."""
    beside = RunFolder(teacher.path.parent / "any")
    own = teacher.metrics.test.accuracy
    found = weak_first_teacher(reload_plan(teacher), beside, metrics_of({"teacher_accuracy": own}))
    assert found is not None
    assert f"not above the student trained without it ({own:.1%})" in found.message
    assert weak_first_teacher(reload_plan(teacher), beside, metrics_of({"teacher_accuracy": own + 0.001})) is None
    for setting in ({"seed": 9}, {"epochs": 3}, {"refit": True}):
        plan = reload_plan(teacher)
        other = replace(plan, identity=plan.identity | {"train": plan.identity["train"] | setting})
        assert weak_first_teacher(other, beside, metrics_of({"teacher_accuracy": own})) is None


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_plain_student_with_the_settings_of_the_run_is_compared_first(
    teacher: RunFolder, tmp_path: Path, order: str
) -> None:
    """Whatever the folders are called: here one with label smoothing, whose fingerprint and score come first."""
    for name in order:
        shutil.copytree(teacher.path, tmp_path / name)
    record, scores = (json.loads((teacher.path / name).read_text()) for name in ("run.json", "metrics.json"))
    record["identity"]["methods"]["ce"]["label_smoothing"] = 0.1
    record["fingerprint"], scores["test"]["accuracy"] = "0" * 64, 0.0
    (tmp_path / order[0] / "run.json").write_text(json.dumps(record))
    (tmp_path / order[0] / "metrics.json").write_text(json.dumps(scores))
    own = teacher.metrics.test.accuracy
    found = weak_first_teacher(reload_plan(teacher), RunFolder(tmp_path / "c"), metrics_of({"teacher_accuracy": own}))
    assert found is not None
    assert f"not above the student trained without it ({own:.1%})" in found.message


def test_a_teacher_with_other_labels_is_refused_before_a_run_folder_is_made(
    teacher: RunFolder, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    table = tmp_path / "notes.csv"
    rows = [
        f"a note of the {('first' if at % 2 else 'second')} kind {at},{'one' if at % 2 else 'two'}" for at in range(60)
    ]
    table.write_text("\n".join(["text,label", *rows]))
    asked = {
        "student": str(tiny_model("bert")),
        "teacher": str(teacher.path),
        "preset": "kd",
        "runs": tmp_path / "runs",
    }
    with pytest.raises(UserError, match="its labels are health, money, sport; the data's are one, two"):
        api.train(table, settings=SETTINGS, **asked)
    assert not (tmp_path / "runs").exists()
