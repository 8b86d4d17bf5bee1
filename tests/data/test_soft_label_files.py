"""Soft labels from a file: one test per form with its formula written out, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.errors import UserError
from randout.data.soft_label_files import ALPHA, FLOOR, SoftLabels, read_soft_labels
from randout.data.tables import read_table
from support.tables import write_rows

CLASSES = ["bad", "good", "so so"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_rows(path, rows, "\t" if path.suffix == ".tsv" else ",")
    return path


def read(tmp_path: Path, rows: list[dict[str, Any]], suffix: str = ".csv", key: str = "text") -> SoftLabels:
    return read_soft_labels(read_table(write(tmp_path / f"soft{suffix}", rows)), CLASSES, key, "label")


def floored(p: list[float]) -> np.ndarray:
    raised = [max(one, FLOOR) for one in p]
    return np.array([math.log(one / sum(raised)) for one in raised])


def equal(found: SoftLabels, *expected: list[float]) -> None:
    np.testing.assert_allclose(found.logits, [floored(p) for p in expected], rtol=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("prefix", ["prob_", "probability_"])
def test_probabilities(tmp_path: Path, suffix: str, prefix: str) -> None:
    names = [f"{prefix}good", f"{prefix}bad", f"{prefix}so so"]  # in another order than the classes
    rows = [dict(zip(["text", *names], row, strict=True)) for row in (("a", 0.7, 0.2, 0.1), ("b", 1.0, 0.0, 0.0))]
    found = read(tmp_path, rows, suffix)
    equal(found, [0.2, 0.7, 0.1], [0.0, 1.0, 0.0])
    assert found.keys == ["a", "b"]
    assert found.form.startswith("probabilities")
    assert not found.lost.any()


def test_probabilities_are_divided_by_their_sum_and_other_answers_are_lost(tmp_path: Path) -> None:
    head = ["text", "prob_bad", "prob_good", "prob_So-So", "prob_unsure"]
    rows = [dict(zip(head, row, strict=True)) for row in (("a", 20, 40, 20, 20), ("b", 0.5, 0.5, 0, 0))]
    found = read(tmp_path, rows)
    equal(found, [0.25, 0.5, 0.25], [0.5, 0.5, 0])
    assert found.lost.tolist() == [pytest.approx(0.2), 0]
    assert found.unknown == {"prob_unsure": pytest.approx(0.2)}
    notes = " ".join(found.notes)
    assert "1 row do not sum to 1 (100 to 100)" in notes
    assert "'So-So' as 'so so'" in notes


def test_logits(tmp_path: Path) -> None:
    z = [1.0, -2.0, 0.5]
    found = read(tmp_path, [{"text": "a", "logit_bad": z[0], "logit_good": z[1], "logit_so so": z[2]}])
    total = sum(map(math.exp, z))
    equal(found, [math.exp(one) / total for one in z])


def test_a_label_with_a_confidence(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "good", "confidence": 0.8}, {"text": "b", "label": "BAD", "confidence": 0.5}]
    found = read(tmp_path, [*rows, {"text": "c", "label": "no idea", "confidence": 0.9}])
    np.testing.assert_allclose(found.logits[0], floored([0.1, 0.8, 0.1]))
    np.testing.assert_allclose(found.logits[1], floored([0.5, 0.25, 0.25]))
    assert np.isnan(found.logits[2]).all()
    assert found.lost.tolist() == [0, 0, 1]
    assert found.unknown == {"no idea": 1}


def test_predictions_of_randout_take_precedence_over_gold_labels(tmp_path: Path) -> None:
    found = read(tmp_path, [{"text": "a", "label": "bad", "prediction": "good", "score": 0.6}])
    equal(found, [0.2, 0.6, 0.2])
    assert found.form == "labels with a confidence (prediction, score)"


def test_labels_alone(tmp_path: Path) -> None:
    found = read(tmp_path, [{"text": "a", "label": "good"}, {"text": "b", "label": ""}], ".jsonl")
    np.testing.assert_allclose(found.logits[0], floored([0, 1, 0]))
    assert np.isnan(found.logits[1]).all()
    assert found.form == "labels alone (label)"


OPENAI = [{"token": " good", "logprob": math.log(0.5)}, {"token": "BAD", "logprob": math.log(0.2)}]
OPENAI += [{"token": "so", "logprob": math.log(0.1)}, {"token": "Hmm", "logprob": math.log(0.1)}]
PAIRS = {" good": math.log(0.5), "BAD": math.log(0.2), "so": math.log(0.1), "Hmm": math.log(0.1)}
ENGINE = {str(at): {"decoded_token": token, "logprob": value} for at, (token, value) in enumerate(PAIRS.items())}


@pytest.mark.parametrize(
    "value",
    [
        OPENAI,
        {"content": [{"token": " good", "logprob": math.log(0.5), "top_logprobs": OPENAI}, {"token": "."}]},
        [{"token": " good", "logprob": math.log(0.5), "top_logprobs": OPENAI}],
        PAIRS,
        [PAIRS, {"!": -0.1}],
        {"top_logprobs": [PAIRS]},
        ENGINE,
        [OPENAI, OPENAI[:1]],
    ],
    ids=["list", "content", "token", "pairs", "per token", "completions", "engine", "nested"],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_candidate_tokens(tmp_path: Path, value: Any, suffix: str) -> None:
    """0.5 on good, 0.2 on bad, 0.1 on a token that begins one class, 0.1 on another answer, 0.1 not listed."""
    found = read(tmp_path, [{"text": "a", "top_logprobs": json.dumps(value) if suffix == ".csv" else value}], suffix)
    equal(found, [0.2 / 0.8, 0.5 / 0.8, 0.1 / 0.8])
    assert found.lost[0] == pytest.approx(0.2)
    assert found.unknown == {"Hmm": pytest.approx(0.1)}
    assert any("'so' as 'so so'" in note for note in found.notes)


def shares(*counts: int) -> list[float]:
    return [(count + ALPHA) / (sum(counts) + ALPHA * len(CLASSES)) for count in counts]


def test_several_annotators_in_columns(tmp_path: Path) -> None:
    head = ["text", "annotator_1", "annotator_2", "annotator_3"]
    rows = [("a", "good", "good", "bad"), ("b", "so so", "", ""), ("c", "", "", ""), ("d", "good", "??", "")]
    found = read(tmp_path, [dict(zip(head, row, strict=True)) for row in rows])
    expected = [shares(1, 2, 0), shares(0, 0, 1), shares(0, 1, 0)]
    np.testing.assert_allclose(found.logits[[0, 1, 3]], [floored(p) for p in expected])
    assert np.isnan(found.logits[2]).all()
    assert found.lost.tolist() == [0, 0, 0, 0.5]
    assert "1 to 3 votes per text" in found.form


def test_several_annotators_in_rows_and_in_lists_give_the_same(tmp_path: Path) -> None:
    votes = [("a", "x", "good"), ("b", "x", "bad"), ("a", "y", "good"), ("a", "z", "bad"), ("a", "z", "bad")]
    rows = [dict(zip(("text", "annotator", "label"), row, strict=True)) for row in votes]
    found = read(tmp_path, rows)
    equal(found, shares(1, 2, 0), shares(1, 0, 0))
    assert found.keys == ["a", "b"]
    listed = [{"text": "a", "votes": ["good", "good", "bad"]}, {"text": "b", "votes": ["bad"]}]
    np.testing.assert_array_equal(read(tmp_path, listed, ".jsonl").logits, found.logits)


def test_ids_are_the_same_in_every_format(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl", ".parquet"):
        rows = [{"id": 7, "label": "good"}, {"id": 8, "label": "bad"}]
        assert read(tmp_path, rows, suffix, "id").keys == ["7", "8"]


P = {"prob_bad": 0.2, "prob_good": 0.7, "prob_so so": 0.1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", **P, "logit_bad": 1}], ["both probabilities ('prob_bad') and logits ('logit_bad')"]),
        ([{"text": "a", "prob_bad": 0.2, "prob_goood": 0.8, "prob_so so": 0}], ["no column prob_good", "prob_goood"]),
        ([{"text": "a", **P, "prob_Good": 0.1}], ["'prob_good', 'prob_Good' are all of class 'good'"]),
        ([{"text": "a", **P}, {"text": "b", **P, "prob_good": ""}], ["row 2 (line 3)", "'prob_good' is empty"]),
        ([{"text": "a", **P, "prob_bad": -1}], ["row 1 (line 2)", "'prob_bad' is -1, below 0", "logit_CLASS"]),
        ([{"text": "a", **P, "prob_bad": "much"}], ["row 1 (line 2)", "'prob_bad' is 'much'", "finite number"]),
        ([{"text": "a", **P, "prob_bad": "inf"}], ["row 1 (line 2)", "'prob_bad' is 'inf'", "finite number"]),
        ([{"text": "a", **dict.fromkeys(P, 0)}], ["row 1 (line 2)", "all probabilities are 0"]),
        ([{"text": "a", "label": "good", "confidence": 85}], ["row 1 (line 2)", "'confidence' is 85", "by 100"]),
        ([{"text": "a", "top_logprobs": "{'good'"}], ["row 1 (line 2)", "'top_logprobs' is not valid JSON"]),
        ([{"text": "a", "top_logprobs": "[1, 2]"}], ["row 1 (line 2)", "expected candidates of one token"]),
        ([{"text": "a", "top_logprobs": '{"good": 0.5}'}], ["row 1 (line 2)", "'good' is 0.5", "at most 0"]),
        ([{"text": "a", "top_logprobs": '{"good": -0.1, "bad": -0.1}'}], ["row 1 (line 2)", "sum to 1.81"]),
        ([{"text": "a", "Good": 0.9, "bad": 0.1}], ["no soft labels found", "rename it to 'prob_Good', and so on"]),
        ([{"text": "a", "what": "good"}], ["no soft labels found", "prob_CLASS", "'what'"]),
        ([{"text": "a", "label": "good"}, {"text": "a", "label": "bad"}], ["rows 1, 2 (lines 2, 3)", "'a'"]),
        (
            [{"text": "a", "annotator": "x", "label": one} for one in ("good", "bad")],
            ["rows 1, 2 (lines 2, 3)", "annotator 'x'", "'good' and 'bad'"],
        ),
        ([{"text": "a", "annotator": "", "label": "good"}], ["row 1 (line 2)", "'annotator' is empty"]),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, Any]], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    for word in ["soft.csv", *words]:
        assert word in str(caught.value)


def test_equal_repeats_are_one_row(tmp_path: Path) -> None:
    found = read(tmp_path, [{"text": "a", **P}, {"text": "b", **P}, {"text": "a", **P}])
    assert found.keys == ["a", "b"]
    assert any("1 row repeats" in note for note in found.notes)
