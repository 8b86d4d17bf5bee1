"""Prediction files: what is written is what is read, column by column, and a wrong file is said."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from randout.core.errors import UserError
from randout.stats.label_set_scores import tuned_thresholds
from randout.storage.abstention_record import abstention_of
from randout.storage.predictions import Predictions, read_predictions, write_predictions

NAMES = ["no", "yes"]
LOGITS = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, 3.0]], dtype=np.float32)
MADE = Predictions(NAMES, ["7", "2", "test.csv#1"], np.array([4, 4, 9]), np.array([0, 0, 1]), LOGITS, ["a", "b", "c"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that a run has of its test split."""
    return tmp_path / "run" / "predictions" / "test.parquet"


def test_the_columns_are_these(path: Path) -> None:
    write_predictions(path, MADE)
    found = parquet.read_table(path).to_pydict()
    assert list(found) == ["row", "group", "text", "label", "prediction", "score", "logits"]
    assert (found["row"], found["group"], found["text"]) == (["7", "2", "test.csv#1"], [4, 4, 9], ["a", "b", "c"])
    assert (found["label"], found["prediction"]) == (["no", "no", "yes"], ["no", "yes", "yes"])
    assert found["logits"] == LOGITS.tolist()
    odds = [np.exp(2.0), np.exp(0.5), np.exp(4.0)]  # softmax of two classes: 1 / (1 + exp(-difference))
    assert found["score"] == pytest.approx([one / (1 + one) for one in odds])
    write_predictions(path, replace(MADE, texts=None))
    assert "text" not in parquet.read_table(path).column_names
    assert [file.name for file in path.parent.iterdir()] == ["test.parquet"], "nothing half-written is left"


def test_what_was_written_is_read(path: Path) -> None:
    for made in (MADE, replace(MADE, texts=None)):
        write_predictions(path, made)
        found = read_predictions(path, NAMES)
        assert (found.names, found.rows, found.texts) == (made.names, made.rows, made.texts)
        for name in ("groups", "labels", "logits"):
            assert np.array_equal(getattr(found, name), getattr(made, name)), name
        assert found.predicted.tolist() == [0, 1, 1]


def test_same_rows_are_the_same_ids_and_class_names_in_order() -> None:
    assert MADE.same_rows(replace(MADE, logits=-LOGITS, texts=None))
    assert not MADE.same_rows(replace(MADE, rows=["2", "7", "test.csv#1"]))
    assert not MADE.same_rows(replace(MADE, labels=np.array([0, 1, 1])))
    assert not MADE.same_rows(replace(MADE, names=["yes", "no"]))
    assert not MADE.same_rows(Predictions(NAMES, ["7"], np.array([4]), np.array([0]), LOGITS[:1], None))


def test_a_wrong_file_is_said(path: Path) -> None:
    with pytest.raises(
        UserError, match=r"run: no predictions for the test split\. Create them with `randout evaluate --split test`"
    ):
        read_predictions(path, NAMES)
    write_predictions(path, MADE)
    for names in (["no", "maybe"], ["no", "yes", "maybe"]):
        with pytest.raises(UserError, match="cannot be read as predictions of this run"):
            read_predictions(path, names)
    parquet.write_table(pyarrow.table({"a": [1]}), path)
    with pytest.raises(UserError, match="cannot be read as predictions of this run"):
        read_predictions(path, NAMES)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"test\.parquet: cannot be read as predictions of this run"):
        read_predictions(path, NAMES)


def test_reading_needs_no_torch() -> None:
    code = "import sys, randout.storage.predictions; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_labels_that_the_model_has_not_learnt_come_back_after_its_classes(path: Path) -> None:
    made = Predictions(
        ["no", "yes", "later", "maybe"], ["1", "2", "3"], np.array([1, 2, 3]), np.array([3, 0, 2]), LOGITS, None
    )
    write_predictions(path, made)
    found = read_predictions(path, NAMES)
    assert (found.names, found.labels.tolist()) == (made.names, [3, 0, 2])
    assert found.logits.shape == (3, 2)
    with pytest.raises(UserError, match="cannot be read as predictions of this run"):  # a prediction is always a class
        read_predictions(path, ["no", "maybe"])


def test_predictions_without_a_known_label_have_a_record_of_abstention() -> None:
    """Rows whose labels no training row had are wrong, and there is nothing to fit a temperature on."""
    groups = np.arange(12)
    found = Predictions(
        ["a", "b", "new"], [str(at) for at in groups], groups, np.full(12, 2), np.eye(2)[groups % 2], None
    )
    record = abstention_of(found)
    assert (record.temperature, record.fitted, record.rows, record.wrong) == (1.0, False, 12, 12)


def drawn_sets(n: int, seed: int = 0) -> Predictions:
    """Predictions of two labels, twice too sure, and a third one that no training row had, in the last row; rows in pairs."""
    draw = np.random.default_rng(seed)
    odds = draw.normal(size=(n, 2)) * 2
    labels = np.zeros((n, 3), dtype=bool)
    labels[:, :2] = draw.random((n, 2)) < 1 / (1 + np.exp(-odds))
    labels[-1] = [False, False, True]
    rows = [str(at) for at in range(n)]
    return Predictions(["a", "b", "new"], rows, np.arange(n) // 2, labels, 2 * odds, None, (0.4, 0.7))


def test_the_record_of_label_sets_counts_whole_sets() -> None:
    found = drawn_sets(400)
    record = abstention_of(found)
    t, z, truth = record.temperature, found.logits.tolist(), found.labels.tolist()

    def loss(t: float) -> float:
        """Mean of -log p for a label that the row has and -log (1 - p) for another, over the labels with an output."""
        total = 0.0
        for row, labels in zip(z, truth, strict=True):
            for one, has in zip(row, labels[:2], strict=True):
                p = 1 / (1 + math.exp(-one / t))
                total -= math.log(p if has else 1 - p)
        return total / (2 * len(z))

    assert loss(t) < min(loss(t * 0.99), loss(t * 1.01))
    assert t == pytest.approx(2, rel=0.2)
    assert record.log_loss == pytest.approx((loss(1.0), loss(t)))
    sure, right = [], []
    for at, (row, labels) in enumerate(zip(z, truth, strict=True)):
        others = (found.groups % 5) != found.groups[at] % 5
        limits = tuned_thresholds(found.labels[others, :2], found.logits[others])
        made = [1 / (1 + math.exp(-one)) > limit for one, limit in zip(row, limits, strict=True)]
        p = [1 / (1 + math.exp(-one / t)) for one in row]
        sure.append(math.prod(one if yes else 1 - one for one, yes in zip(p, made, strict=True)))
        right.append([*made, False] == labels)
    assert (record.rows, record.wrong, record.label_sets) == (400, right.count(False), True)
    assert not right[-1], "a label without an output is missed"
    for point in record.points:
        kept = [good for one, good in zip(sure, right, strict=True) if one >= point.confidence * (1 - 1e-9)]
        assert (point.rows, point.accuracy) == (len(kept), pytest.approx(np.mean(kept)))
    before, after = record.calibration_error
    assert after < before


def test_the_record_of_single_labels_has_no_key_of_label_sets() -> None:
    keys: dict[str, Any] = abstention_of(MADE).as_json()
    assert "label_sets" not in keys
    assert abstention_of(drawn_sets(30)).as_json()["label_sets"] is True
