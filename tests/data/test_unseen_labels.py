"""Held-out rows whose label no training row has: they train nothing, count as errors, and are warned of by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

import randout
from randout.core.errors import UserError
from randout.experiments.run import pipeline
from randout.reporting.text import score_lines
from randout.stats.metrics import log_probabilities, score
from randout.storage.metrics_record import Scores
from randout.storage.predictions import read_predictions
from randout.testing.models import toy_texts

KNOWN = {0: "a", 1: "b", 2: "c"}
FAST = {"precision": "float32", "epochs": 1, "learning_rate": 1e-3}


def example(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels of five classes, the last of which no row has, and logits of three."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 4, rows)
    return labels, draws.normal(size=(rows, 3)) + 2 * np.eye(5)[labels][:, :3]


def test_such_rows_count_in_every_metric_but_the_log_loss() -> None:
    labels, logits = example()
    found = score(labels, logits, KNOWN, np.arange(len(labels)), unseen=("later", "nowhere"))
    made, count = logits.argmax(1), int((labels == 3).sum())
    assert found["unseen"] == {"later": count}
    assert found["rows"] == len(labels)
    assert found["accuracy"] == pytest.approx((made == labels).mean())
    macro = reference.f1_score(labels, made, average="macro", labels=range(4), zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["balanced_accuracy"] == pytest.approx(reference.recall_score(labels, made, average="macro"))
    known = labels < 3
    own = -log_probabilities(logits)[np.flatnonzero(known), labels[known]].mean()
    assert found["log_loss"] == pytest.approx(own)
    assert np.array(found["confusion_matrix"]).shape == (4, 4)
    assert np.array(found["confusion_matrix"])[:, 3].sum() == 0
    assert list(found["per_class"]) == ["a", "b", "c", "later"]
    low, high = found["intervals"]["accuracy"]
    assert low <= found["accuracy"] <= high
    lines = "\n".join(score_lines(Scores.model_validate(found), KNOWN))
    assert f"{count} rows of these have a label that no training row has: 'later' ({count})" in lines
    assert "they count as errors; log loss is computed on the other rows" in lines
    assert "1.0986 for equal probabilities" in lines  # ln 3: of the model's outputs, not of the labels in the file


def test_without_such_rows_nothing_changes_and_they_alone_cannot_be_scored() -> None:
    labels, logits = example()
    known = labels < 3
    assert score(labels[known], logits[known], KNOWN, unseen=["later"]) == score(labels[known], logits[known], KNOWN)
    with pytest.raises(UserError, match="no rows to score with a class that the model has learned"):
        score(labels[~known], logits[~known], KNOWN, unseen=["later"])
    with pytest.raises(UserError, match="is class 3, but there are 3 classes"):
        score(labels, logits, KNOWN)


def write(path: Path, n: int, seed: int, others: dict[str, int]) -> Path:
    """A table of toy texts, and rows with other labels, so many of each."""
    texts, labels = toy_texts(n, seed)
    rows = [*zip(texts, labels, strict=True)]
    rows += [(f"{text} {name}", name) for name, count in others.items() for text in texts[:count]]
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def tables(tmp_path: Path, toy_csv: Callable[..., Path]) -> dict[str, Path]:
    held = {"validation": write(tmp_path / "dev.csv", 60, 5, {"chess": 2})}
    return held | {"test": write(tmp_path / "held.csv", 60, 6, {"art": 12, "chess": 3}), "train": toy_csv()}


def train(tables: dict[str, Path], runs: Path, student: Path | str, **more: Any) -> pipeline.Result:
    files = {f"data.{name}": str(tables[name]) for name in ("validation", "test")}
    asked = {"student": student, "teacher": "none", "preset": "plain", "runs": runs} | more
    settings = ({} if student == "svm" else FAST) | files | more.get("settings", {})
    return randout.train(tables["train"], **(asked | {"settings": settings}))


def test_a_run_with_such_rows(tables: dict[str, Path], tiny_model: Any, tmp_path: Path, command: Any) -> None:
    result = train(tables, tmp_path / "runs", tiny_model("bert"))
    assert sorted(result.run.labels) == ["health", "money", "sport"]
    validation, test = result.metrics["validation"], result.metrics["test"]
    assert (validation["unseen"], test["unseen"]) == ({"chess": 2}, {"art": 12, "chess": 3})
    assert (validation["rows"], test["rows"]) == (62, 75)
    assert test["per_class"]["art"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 12}
    assert test["baseline"]["accuracy"] <= 60 / 75
    messages = {one["split"]: one["message"] for one in result.metrics["warnings"] if one["kind"] == "unseen"}
    assert set(messages) == {"validation", "test"}
    assert "15 rows of test have a label that no training row has: 'art' (12), 'chess' (3)" in (messages["test"])
    assert not any("never predicts 'art'" in one["message"] for one in result.metrics["warnings"])
    made = read_predictions(result.run.predictions("test"), result.run.labels)
    assert (made.predicted == made.labels).mean() == pytest.approx(test["accuracy"])
    assert set(randout.load(result.folder).id2label.values()) == {"health", "money", "sport"}
    code, out, err = command("evaluate", result.folder, tables["test"], "--json", "-o", tmp_path / "out.csv")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(test["accuracy"])
    assert json.loads(out)["unseen"] == {"art": 12, "chess": 3}
    assert "15 rows of the file have a label that no training row has" in err
    with (tmp_path / "out.csv").open(encoding="utf-8") as stream:
        assert {row["prediction"] for row in csv.DictReader(stream)} <= {"health", "money", "sport"}
    code, out, _ = command("runs", "show", result.folder)
    assert code == 0
    assert "15 rows of these have a label" in out
    other = train(tables, tmp_path / "runs", tiny_model("bert"), settings={"seed": 2, "epochs": 2})
    code, _, err = command("report", result.folder, other.folder, "-o", tmp_path / "page", "--formats", "md,csv")
    assert code == 0, err
    page = next((tmp_path / "page").glob("**/*.md")).read_text(encoding="utf-8")
    assert "'art' (12)" in page
    classes = next((tmp_path / "page").glob("**/classes.csv")).read_text(encoding="utf-8")
    assert "art," in classes


@pytest.mark.slow
def test_other_students_and_a_teacher(tables: dict[str, Path], tiny_model: Any, tmp_path: Path) -> None:
    """A bag-of-words student, and a student with a teacher that is fine-tuned first, on the same rows."""
    words = train(tables, tmp_path / "runs", "svm", settings={"classifier.min_df": 1})
    assert words.metrics["test"]["unseen"] == {"art": 12, "chess": 3}
    taught = train(tables, tmp_path / "runs", tiny_model("bert"), teacher=tiny_model("roberta"), preset="kd")
    gap = taught.metrics["validation"]["teacher"]
    assert gap["rows"] == 62
    assert gap["student_accuracy"] == pytest.approx(taught.metrics["validation"]["accuracy"])
    chosen = train(tables, tmp_path / "auto", tiny_model("bert"), settings={"student.alternative": "svm"})
    assert chosen.run.record.choice


def test_the_test_split_opened_later_has_them_too(tables: dict[str, Path], tiny_model: Any, tmp_path: Path) -> None:
    result = train(tables, tmp_path / "runs", tiny_model("bert"), settings={"output.test": False})
    assert "test" not in result.metrics
    assert randout.evaluate(result.folder, split="test")["unseen"] == {"art": 12, "chess": 3}


def test_a_file_of_other_labels_alone_is_refused(tables: dict[str, Path], tmp_path: Path, command: Any) -> None:
    result = train(tables, tmp_path / "runs", "svm", settings={"classifier.min_df": 1})
    other = tmp_path / "other.csv"
    other.write_text("text,label\nfever cough,x\ngoal team,y\nbank price,z\n", encoding="utf-8")
    code, _, err = command("evaluate", result.folder, other)
    assert code == 2
    assert "other.csv, row 1 (line 2): unknown label 'x'" in err


def test_compared_with_statistics(tables: dict[str, Path], tiny_model: Any, tmp_path: Path, command: Any) -> None:
    one = train(tables, tmp_path / "runs", tiny_model("bert"))
    two = train(tables, tmp_path / "runs", "svm", settings={"classifier.min_df": 1})
    code, out, err = command("compare", one.folder, two.folder, "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["result"]["rows"]}
    values = sorted(row["value"] for row in rows.values())
    assert values == pytest.approx(sorted(run.metrics["test"]["accuracy"] for run in (one, two)))
