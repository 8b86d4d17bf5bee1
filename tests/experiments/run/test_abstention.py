"""A model that abstains labels the same texts from the command line, Python, an export and its script."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import randout
from conftest import Run
from randout.exports.runtime import Abstention as ExportedRule
from randout.stats.temperature import fit_temperature
from randout.storage.predictions import read_predictions
from randout.testing.models import toy_texts
from support.abstention import check_exported_rule, check_without_record
from support.shards import read_all, write_shards

TARGET = "coverage=0.6"
TARGETS = ("accuracy=0.6", "accuracy=0.8", "coverage=0.5", "coverage=1", "coverage=0.07", "confidence=0.7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `run`, whose labels are noisy enough for mistakes, its export, and two tables."""
    place = tmp_path_factory.mktemp("abstention")
    for name, seed in (("train.csv", 0), ("new.csv", 1)):
        texts, labels = toy_texts(400, seed)
        draw = np.random.default_rng(seed)
        noisy = [str(draw.choice(sorted(set(labels)))) if draw.random() < 0.3 else label for label in labels]
        with (place / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *zip(texts, noisy, strict=True)])
    randout.train(place / "train.csv", student="svm", out=place / "run", runs=place)
    randout.export(place / "run", place / "export")
    return place


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def expected(folder: Path, texts: Sequence[str], target: str) -> list[str | None]:
    """Labels by the definitions: the temperature fitted on validation rows, and the share of rows above the threshold."""
    found = read_predictions(folder / "run" / "predictions" / "validation.parquet", _labels(folder))
    temperature = fit_temperature(found.logits, found.labels)

    def sure(logits: np.ndarray) -> np.ndarray:
        scaled = np.exp(np.asarray(logits, dtype=np.float64) / temperature)
        return (scaled / scaled.sum(1, keepdims=True)).max(1)

    share = float(target.partition("=")[2])
    least = np.sort(sure(found.logits))[::-1][int(np.ceil(share * len(found.rows))) - 1]
    logits = randout.load(folder / "run").saved.logits(texts, lambda count: None)
    best = logits.argmax(1)
    return [_labels(folder)[at] if one >= least else None for at, one in zip(best, sure(logits), strict=True)]


def _labels(folder: Path) -> list[str]:
    labels: list[str] = json.loads((folder / "run" / "run.json").read_text())["identity"]["data"]["labels"]
    return labels


def test_a_table_has_labels_of_sure_rows_and_guesses_of_all(folder: Path, run: Run, tmp_path: Path) -> None:
    code, out, error = run(
        "predict", folder / "run", "--file", folder / "new.csv", "-o", "out.csv", "--abstain", TARGET, "--json"
    )
    assert code == 0, error
    rows = rows_of((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert list(rows[0])[2:] == ["predicted_label", "score", "best_guess", "confidence"]
    wanted = expected(folder, [row["text"] for row in rows], TARGET)
    assert [row["predicted_label"] or None for row in rows] == wanted
    assert all(row["best_guess"] and row["confidence"] for row in rows)
    assert {bool(row["score"]) for row in rows if not row["predicted_label"]} == {False}
    assert 0 < json.loads(out)["abstained"] == wanted.count(None) < len(rows)


def test_standard_input_texts_and_python_agree_with_the_table(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = toy_texts(30, 2)[0]
    wanted = expected(folder, texts, TARGET)
    assert None in wanted
    code, out, error = run("predict", folder / "run", "--abstain", TARGET, *texts)
    assert code == 0
    assert [line.split("\t")[0] or None for line in out.splitlines()] == wanted
    assert f"abstained: {wanted.count(None)} of 30 texts" in error
    stream = io.TextIOWrapper(io.BytesIO("\n".join(texts).encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    code, out, _ = run("predict", folder / "run", "--abstain", TARGET, "--json")
    assert [json.loads(line)["label"] for line in out.splitlines()] == wanted
    model = randout.load(folder / "run")
    assert model.predict(texts, abstain=TARGET) == wanted
    assert randout.predict(model, texts, abstain=TARGET)[0] == wanted
    least = model.threshold(TARGET).confidence
    assert [bool(one >= least) for one in model.confidence(texts)] == [label is not None for label in wanted]
    assert None not in model.predict(texts)


def test_an_export_and_its_script_agree(folder: Path) -> None:
    texts = toy_texts(30, 2)[0]
    wanted = expected(folder, texts, TARGET)
    assert randout.load(folder / "export").predict(texts, abstain=TARGET) == wanted
    words = [sys.executable, "predict.py", "--json", "--abstain", TARGET, *texts]
    done = subprocess.run(words, cwd=folder / "export", capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == wanted
    assert all(row["best_guess"] for row in rows)
    assert f"{wanted.count(None)} of 30 texts are below confidence" in done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_the_script_of_an_export_chooses_the_same_threshold(folder: Path, target: str) -> None:
    check_exported_rule(folder / "export", target)


def test_a_run_of_before_and_a_model_folder_by_itself(folder: Path, run: Run, tmp_path: Path) -> None:
    texts = toy_texts(30, 2)[0]
    check_without_record(folder, tmp_path, run, texts, expected(folder, texts, TARGET), TARGET)


def test_shards(folder: Path, run: Run, tmp_path: Path) -> None:
    texts = write_shards(tmp_path / "texts")
    code, out, error = run("predict", folder / "run", "texts", "-o", "out", "--abstain", TARGET, "--json")
    assert code == 0, error
    rows = read_all(tmp_path / "out")
    there = [at for at, text in enumerate(texts) if text and text.strip()]
    wanted = expected(folder, [str(texts[at]) for at in there], TARGET)
    assert [rows[at]["label"] for at in there] == wanted
    assert [rows[at]["skipped"] for at in there] == [None if label else "abstained" for label in wanted]
    assert all(rows[at]["best_guess"] and rows[at]["confidence"] for at in there)
    assert json.loads(out)["abstained"] == wanted.count(None) > 0
    assert pq.read_schema(tmp_path / "out" / "part-000.parquet").names[:5] == [
        "row_id",
        "label",
        "score",
        "best_guess",
        "confidence",
    ]
    code, _, error = run("predict", folder / "run", "texts", "-o", "out", "--abstain", "coverage=0.2")
    assert code == 2
    assert "labelled with other settings: abstention" in error


def test_evaluate_scores_the_rows_that_get_a_label(folder: Path, run: Run) -> None:
    words = ["evaluate", folder / "run", folder / "new.csv", "--abstain", TARGET, "-o", "scored.csv"]
    code, out, error = run(*words, "--json")
    assert code == 0, error
    found: dict[str, Any] = json.loads(out)["abstention"]
    rows = rows_of(Path("scored.csv").read_text(encoding="utf-8"))
    kept = [row for row in rows if row["prediction"]]
    assert found["accepted"] == len(kept)
    assert found["coverage"] == pytest.approx(len(kept) / len(rows))
    right = [row["prediction"] == row["label"] for row in kept]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    code, out, _ = run("evaluate", folder / "run", "--abstain", TARGET)
    assert code == 0
    assert "area under the risk-coverage curve" in out
    assert randout.evaluate(folder / "run", abstain=TARGET)["abstention"]["coverage"] == pytest.approx(0.6, abs=0.02)


def test_an_export_says_that_a_target_is_not_assured(tmp_path: Path) -> None:
    point = {"confidence": 0.7, "rows": 40, "coverage": 1.0, "accuracy": 0.95, "low": 0.84, "high": 0.98}
    record = {"temperature": 1.0, "points": [point]}
    (tmp_path / "abstention.json").write_text(json.dumps(record), encoding="utf-8")
    assert ExportedRule.of(tmp_path, "accuracy=0.8") == (1.0, 0.7, "")
    found = ExportedRule.of(tmp_path, "accuracy=0.9")
    assert found[:2] == (1.0, 0.7)
    assert "accuracy=0.9 is not assured" in found.warning
    assert "84.0% to 98.0%" in found.warning


def test_targets_that_cannot_be_met(folder: Path, run: Run) -> None:
    code, _, error = run("predict", folder / "run", "--abstain", "accuracy=1", "a text")
    assert code == 2 or "is not assured" in error
    code, _, error = run("predict", folder / "run", "--abstain", "accuracy=90", "a text")
    assert (code, "Write 90 % as 0.9" in error) == (2, True)
    code, _, error = run("soft-labels", folder / "run", "texts", "-o", "out", "--abstain", TARGET)
    assert code == 2


def test_the_report_has_the_curve(folder: Path, tmp_path: Path) -> None:
    randout.report(folder / "run", tmp_path / "report", formats="html,md,csv")
    assert "Risk and coverage" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    (whole,) = (
        row
        for row in rows_of((tmp_path / "report" / "tables" / "coverage.csv").read_text(encoding="utf-8"))
        if float(row["coverage %"]) == 100
    )
    metrics = json.loads((folder / "run" / "metrics.json").read_text())["validation"]
    assert float(whole["accuracy %"]) == pytest.approx(100 * metrics["accuracy"])


def test_the_picture_is_drawn(folder: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    from randout.reporting.pictures import draw_picture, to_bytes  # the figure of the report, by matplotlib
    from randout.reporting.read import read
    from randout.reporting.values import Figure

    section = __import__("randout.reporting.abstention", fromlist=["abstention"]).abstention(read([folder / "run"])[0])
    (figure,) = (part for part in section.parts if isinstance(part, Figure))
    (tmp_path / "curve.png").write_bytes(to_bytes(draw_picture(figure), "png"))
    assert imread(tmp_path / "curve.png").shape[0] > 200
