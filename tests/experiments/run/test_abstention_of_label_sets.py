"""A model of label sets that abstains: the same texts are left out by the command line, Python, an export and shards."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar

import randout
from conftest import Run
from randout.core.label_sets import JOINED
from randout.data.tables import read_table
from randout.stats.label_set_scores import tuned_thresholds
from randout.storage.abstention_record import read_abstention
from randout.storage.predictions import read_predictions
from support.abstention import check_exported_rule, check_without_record
from support.label_sets import toy_label_sets

LABELS = ["health", "money", "sport"]
TARGET = "coverage=0.6"
TARGETS = ("accuracy=0.4", "accuracy=0.6", "coverage=0.5", "coverage=1", "confidence=0.7")
TEXTS = toy_label_sets(60, 2)[0]
Sets = list[list[str] | None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `run`, whose labels are noisy enough for mistakes, its export, and two tables."""
    place = tmp_path_factory.mktemp("abstention-of-sets")
    for name, seed in (("train.csv", 0), ("new.csv", 1)):
        draw, (texts, sets) = np.random.default_rng(seed), toy_label_sets(400, seed)
        noisy = [[label for label in LABELS if (label in labels) != (draw.random() < 0.1)] for labels in sets]
        with (place / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *zip(texts, map(";".join, noisy), strict=True)])
    settings = {"data.label_separator": ";"}
    randout.train(place / "train.csv", student="svm", settings=settings, out=place / "run", runs=place)
    randout.export(place / "run", place / "export")
    return place


def predicted(folder: Path, texts: list[str]) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """The sets, and the confidences of texts and of validation rows, by the definitions.

    Those of validation rows are of sets by thresholds that were tuned on the rows of other folds of groups.
    """
    found = read_predictions(folder / "run" / "predictions" / "validation.parquet", LABELS)
    limits = np.array(found.thresholds)

    def loss(t: float) -> float:
        p = 1 / (1 + np.exp(-found.logits / t))
        return float(-np.where(found.labels, np.log(p), np.log(1 - p)).mean())

    t = np.exp(minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=(-2.3, 2.3), method="bounded").x)

    def sure(z: np.ndarray, limits: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-z / t))
        return np.where(1 / (1 + np.exp(-z)) > limits, p, 1 - p).prod(1)

    order = list(dict.fromkeys(found.groups.tolist()))
    fold = np.array([order.index(group) % 5 for group in found.groups.tolist()])
    known = np.zeros(len(fold))
    for each in range(5):
        others = fold != each
        own = np.array(tuned_thresholds(found.labels[others], found.logits[others]))
        known[~others] = sure(found.logits[~others], own)

    z = randout.load(folder / "run").saved.logits(texts, lambda count: None).astype(np.float64)
    sets = [[name for name, yes in zip(LABELS, row, strict=True) if yes] for row in 1 / (1 + np.exp(-z)) > limits]
    return sets, sure(z, limits), known


def expected(folder: Path, texts: list[str], share: float = 0.6) -> Sets:
    """The sets of the texts whose confidence is that of the most confident `share` of validation rows; None for others."""
    sets, sure, known = predicted(folder, texts)
    least = np.sort(known)[::-1][int(np.ceil(share * len(known))) - 1]
    return [labels if one >= least - 1e-6 else None for labels, one in zip(sets, sure, strict=True)]


def cell(labels: list[str] | None) -> str:
    return JOINED.join(labels or [])


def test_python_and_the_command_line_leave_out_the_same_texts(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, (sets, sure, _) = expected(folder, TEXTS), predicted(folder, TEXTS)
    assert [] in wanted, "a set without labels is a prediction"
    assert None in wanted
    model = randout.load(folder / "run")
    assert model.predict(TEXTS, abstain=TARGET) == wanted
    assert randout.predict(model, TEXTS, abstain=TARGET)[0] == wanted
    assert model.predict(TEXTS) == sets, "decisions are those without --abstain"
    assert model.confidence(TEXTS) == pytest.approx(sure, rel=1e-4)
    with pytest.warns(UserWarning, match="is empty"):
        assert np.isnan(model.confidence([" "])).all()
    code, out, error = run("predict", folder / "run", "--abstain", TARGET, *TEXTS, " ")
    assert code == 0
    assert f"abstained: {wanted.count(None)} of 60 texts" in error
    assert "get no label set" in error
    *lines, empty = [line.split("\t") for line in out.split("\n")[:-1]]
    assert [line[0] for line in lines] == [cell(labels) for labels in wanted]
    assert [line[1] == "" for line in lines] == [labels is None for labels in wanted], "only a set has a score"
    assert [line[2] for line in lines] == [cell(labels) for labels in sets]
    assert [float(line[3]) for line in lines] == pytest.approx(sure, abs=2e-4)
    assert empty == ["", "", "", "", ""]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    code, out, _ = run("predict", folder / "run", "--abstain", TARGET, "--json")
    assert [json.loads(line)["label"] for line in out.splitlines()] == wanted
    assert [json.loads(line)["best_guess"] for line in out.splitlines()] == sets


def test_tables_tell_an_empty_set_from_a_text_without_one(folder: Path, run: Run, tmp_path: Path) -> None:
    """Null and [] in JSON Lines and Parquet. In CSV both are empty, and only a set has a score; best guesses are there."""
    wanted, (sets, _, _) = expected(folder, TEXTS), predicted(folder, TEXTS)
    pq.write_table(pa.table({"text": [*TEXTS, ""]}), tmp_path / "texts.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"out.{suffix}"
        code, told, error = run(
            "predict", folder / "run", "--file", tmp_path / "texts.parquet", "-o", out, "--abstain", TARGET, "--json"
        )
        assert code == 0, error
        assert json.loads(told)["abstained"] == wanted.count(None)
        columns = read_table(out).columns
        assert list(columns) == ["text", "label", "score", "best_guess", "confidence"]
        scores = [score not in (None, "") for score in columns["score"]]
        assert scores == [*(labels is not None for labels in wanted), False]
        confident = [sure not in (None, "") for sure in columns["confidence"]]
        assert confident == [*[True] * len(wanted), False]
        if suffix == "csv":
            assert columns["label"] == [*map(cell, wanted), ""]
            assert columns["best_guess"] == [*map(cell, sets), ""]
        else:
            assert [*columns["label"]] == [*wanted, None]
            assert [*columns["best_guess"]] == [*sets, None]


def test_an_export_and_its_script_agree(folder: Path) -> None:
    wanted = expected(folder, TEXTS)
    assert randout.load(folder / "export").predict(TEXTS, abstain=TARGET) == wanted
    words = [sys.executable, "predict.py", "--abstain", TARGET]
    done = subprocess.run([*words, "--json", *TEXTS], cwd=folder / "export", capture_output=True, text=True, check=True)
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == wanted
    assert f"{wanted.count(None)} of 60 texts are below confidence" in done.stderr
    done = subprocess.run([*words, *TEXTS], cwd=folder / "export", capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:2] == ["", ""] for line in lines] == [labels is None for labels in wanted]
    bad = subprocess.run(
        [sys.executable, "predict.py", "--abstain", "accuracy=90", "a text"],
        cwd=folder / "export",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: --abstain accuracy=90: expected accuracy=0.95")


@pytest.mark.parametrize("target", TARGETS)
def test_the_script_of_an_export_chooses_the_same_threshold(folder: Path, target: str) -> None:
    check_exported_rule(folder / "export", target)


def test_a_run_of_before_and_a_model_folder_by_itself(folder: Path, run: Run, tmp_path: Path) -> None:
    check_without_record(folder, tmp_path, run, TEXTS, expected(folder, TEXTS), TARGET)


def test_shards(folder: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": [*TEXTS, " "]}), tmp_path / "texts" / "a.parquet", row_group_size=9)
    code, out, error = run("predict", folder / "run", "texts", "-o", "out", "--abstain", TARGET, "--json")
    assert code == 0, error
    wanted, (sets, sure, _) = expected(folder, TEXTS), predicted(folder, TEXTS)
    *rows, empty = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
    assert [row["label"] for row in rows] == wanted
    assert [row["best_guess"] for row in rows] == sets
    assert [row["skipped"] for row in rows] == [None if labels is not None else "abstained" for labels in wanted]
    assert [row["score"] is None for row in rows] == [labels is None for labels in wanted]
    assert [row["confidence"] for row in rows] == pytest.approx(sure, rel=1e-4)
    assert (empty["label"], empty["best_guess"], empty["confidence"], empty["skipped"]) == (None, None, None, "empty")
    assert json.loads(out)["abstained"] == wanted.count(None)


def test_evaluate_counts_whole_sets(folder: Path, run: Run) -> None:
    words = ["evaluate", folder / "run", folder / "new.csv", "--abstain", TARGET]
    code, out, error = run(*words, "-o", "scored.jsonl", "--json")
    assert code == 0, error
    found: dict[str, Any] = json.loads(out)["abstention"]
    rows = [json.loads(line) for line in Path("scored.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if row["prediction"] is not None]
    assert found["accepted"] == len(kept) < len(rows)
    right = [set(row["prediction"]) == set(filter(None, row["label"].split(";"))) for row in kept]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    code, out, _ = run(*words)
    assert code == 0
    assert "right as a whole" in out
    assert "accuracy of whole sets" in out
    assert randout.evaluate(folder / "run", abstain=TARGET)["abstention"]["coverage"] == pytest.approx(0.6, abs=0.02)


def test_a_label_that_the_model_does_not_know_makes_a_set_wrong(folder: Path) -> None:
    text = TEXTS[0]
    (own,) = randout.load(folder / "run").predict([text])
    file = folder / "other.csv"
    file.write_text(f"text,label\n{text},{';'.join(own)}\n{text} {text},{';'.join([*own, 'weather'])}\n")
    found = randout.evaluate(folder / "run", file, abstain="confidence=0.0001")["abstention"]
    assert (found["rows"], found["accuracy"]) == (2, 0.5)


def test_targets_that_cannot_be_met(folder: Path, run: Run) -> None:
    code, _, error = run("predict", folder / "run", "--abstain", "accuracy=1", "a text")
    if code == 2:
        assert "the share of whole sets that are right" in error
    else:
        assert "the accuracy of new label sets is lower" in error
    code, _, error = run("predict", folder / "run", "--abstain", "precision=0.9", "a text")
    assert (code, "expected accuracy=0.95, coverage=0.9 or confidence=0.8" in error) == (2, True)
    with pytest.raises(randout.UserError, match=r"abstain accuracy=90.*Write 90 % as 0\.9"):
        randout.load(folder / "run").predict(["a text"], abstain="accuracy=90")


def test_the_report_has_the_curve_and_the_run_its_picture(folder: Path, tmp_path: Path) -> None:
    randout.report(folder / "run", tmp_path / "report", formats="html,csv")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert (
        "A label set is right as a whole, with thresholds of its labels that were tuned on other validation rows"
        in page
    )
    with (tmp_path / "report" / "tables" / "coverage.csv").open(encoding="utf-8") as stream:
        (whole,) = (row for row in csv.DictReader(stream) if float(row["coverage %"]) == 100)
    record = read_abstention(folder / "run" / "model")
    assert record is not None
    assert float(whole["accuracy %"]) == pytest.approx(100 * (1 - record.wrong / record.rows))
    assert (folder / "run" / "coverage-risk.png").exists()
