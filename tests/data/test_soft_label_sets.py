"""Soft labels of label sets from a file: one test per form with its formula written out, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.errors import UserError
from randout.data.multi_label import SetReading
from randout.data.soft_label_files import FLOOR, SoftLabels
from randout.data.soft_label_sets import read_soft_label_sets
from randout.data.tables import read_table
from support.tables import write_rows

LABELS = ["health", "money", "so so"]


def read(tmp_path: Path, rows: list[dict[str, Any]], suffix: str = ".csv", **more: Any) -> SoftLabels:
    path = tmp_path / f"soft{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        write_rows(path, rows)
    return read_soft_label_sets(read_table(path), LABELS, "text", "label", **more)


def odds(p: float) -> float:
    q = min(max(p, FLOOR), 1 - FLOOR)
    return math.log(q / (1 - q))


def equal(found: SoftLabels, *expected: list[float]) -> None:
    np.testing.assert_allclose(found.logits, [[odds(one) for one in row] for row in expected], rtol=1e-9, atol=1e-12)


def test_each_probability_is_that_of_its_label(tmp_path: Path) -> None:
    """Nothing is divided by a sum: two sure labels stay sure, and a text without any label is one like any other."""
    head = ["text", "prob_money", "prob_health", "prob_So-So", "prob_unsure"]
    rows = [
        dict(zip(head, row, strict=True)) for row in (("a", 0.9, 0.8, 0.5, 0.4), ("b", 0, 0, 0, 0), ("c", *[""] * 4))
    ]
    found = read(tmp_path, rows)
    np.testing.assert_allclose(found.logits[0], [math.log(0.8 / 0.2), math.log(0.9 / 0.1), 0], atol=1e-12)
    np.testing.assert_allclose(found.logits[1], [math.log(FLOOR / (1 - FLOOR))] * 3)
    assert np.isnan(found.logits[2]).all()
    assert not found.lost.any()
    notes = " ".join(found.notes)
    assert "'prob_unsure' is not used: it is no label of the data" in notes
    assert "'So-So' as 'so so'" in notes
    assert "sum to 1" not in notes


def test_probabilities_that_always_sum_to_one_are_pointed_out(tmp_path: Path) -> None:
    row = {"prob_health": 0.2, "prob_money": 0.7, "prob_so so": 0.1}
    found = read(tmp_path, [{"text": f"t{at}", **row} for at in range(12)])
    equal(found, *[[0.2, 0.7, 0.1]] * 12)
    assert "classes that exclude each other" in " ".join(found.notes)


def test_logits_go_through_a_sigmoid(tmp_path: Path) -> None:
    found = read(tmp_path, [{"text": "a", "logit_health": 1.5, "logit_money": -2, "logit_so so": 40}])
    equal(found, [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(2)), 1.0])
    np.testing.assert_allclose(found.logits[0, :2], [1.5, -2])


@pytest.mark.parametrize(
    ("suffix", "cells"),
    [
        (".csv", ["money;health", "", '["so so"]', "money;other", "other"]),
        (".jsonl", [["money", "health"], [], ["so so"], ["money", "other"], ["other"]]),
    ],
)
def test_label_sets_alone(tmp_path: Path, suffix: str, cells: list[Any]) -> None:
    rows = [{"text": f"t{at}", "answer": cell} for at, cell in enumerate(cells)]
    found = read(tmp_path, [*rows, {"text": "u", "answer": None}] if suffix == ".jsonl" else rows, suffix)
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_allclose(found.logits[:4], [[odds(one) for one in row] for row in expected])
    assert np.isnan(found.logits[4:]).all()  # no known label; in JSON Lines also a row without an answer
    assert found.lost[:5].tolist() == [0, 0, 0, 0.5, 1]
    assert found.unknown == {"other": 2}
    assert "1 row has an empty label set" in " ".join(found.notes)
    assert found.form == "label sets alone (answer)"


def test_the_columns_of_the_data_are_label_sets(tmp_path: Path) -> None:
    rows = [{"text": "a", "health": 1, "money": 0, "so so": 1}, {"text": "b", "health": 0, "money": 0, "so so": 0}]
    equal(read(tmp_path, rows, reading=SetReading(columns=tuple(LABELS))), [1, 0, 1], [0, 0, 0])


VOTES = {"a": [["health"], ["health", "money"], ["health"]], "b": [[]], "c": [["so so"], []]}
SHARES = [3 / 6, 1 / 6, 1 / 6]  # of all six label sets
SMOOTHED = [  # (votes for the label + its share) / (all votes + 1)
    [(3 + SHARES[0]) / 4, (1 + SHARES[1]) / 4, (0 + SHARES[2]) / 4],
    [(0 + SHARES[0]) / 2, (0 + SHARES[1]) / 2, (0 + SHARES[2]) / 2],
    [(0 + SHARES[0]) / 3, (0 + SHARES[1]) / 3, (1 + SHARES[2]) / 3],
]


def test_several_annotators_in_lists_rows_and_columns_give_the_same(tmp_path: Path) -> None:
    listed = [{"text": key, "votes": sets} for key, sets in VOTES.items()]
    equal(read(tmp_path, listed, ".jsonl"), *SMOOTHED)
    long = [
        {"text": key, "annotator": f"x{at}", "label": ";".join(labels)}
        for key, sets in VOTES.items()
        for at, labels in enumerate(sets)
    ]
    equal(read(tmp_path, long), *SMOOTHED)
    names = ["annotator_1", "annotator_2", "annotator_3"]
    wide = [
        {"text": key, **dict.fromkeys(names, ""), **dict(zip(names, (";".join(s) or "[]" for s in sets), strict=False))}
        for key, sets in VOTES.items()
    ]
    found = read(tmp_path, [*wide, {"text": "d", **dict.fromkeys(names, "")}])  # an empty cell is no answer
    np.testing.assert_allclose(found.logits[:3], [[odds(one) for one in row] for row in SMOOTHED])
    assert np.isnan(found.logits[3]).all()
    assert "1 to 3 label sets per text" in found.form


def test_the_votes_on_test_rows_do_not_count_for_other_rows(tmp_path: Path) -> None:
    listed = [{"text": key, "votes": sets} for key, sets in VOTES.items()]
    found = read(tmp_path, listed, ".jsonl", held_out={"a"})
    share = [0, 0, 1 / 3]
    np.testing.assert_allclose(found.logits[1], [odds(one / 2) for one in share])


P = {"prob_health": 0.2, "prob_money": 0.7, "prob_so so": 0.1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"text": "a", **P}, {"text": "b", **P, "prob_money": 1.2}],
            ["row 2 (line 3)", "'prob_money' is 1.2", "0 to 1"],
        ),
        ([{"text": "a", **P, "prob_money": -2}], ["row 1 (line 2)", "'prob_money' is -2", "logit_LABEL"]),
        ([{"text": "a", **P, "prob_money": 70}], ["'prob_money' is 70", "by 100"]),
        ([{"text": "a", "prob_health": 0.2, "prob_money": 0.8}], ["no column prob_so so"]),
        ([{"text": "a", **P, "logit_money": 1}], ["both probabilities"]),
        (
            [{"text": "a", "top_logprobs": '{"health": -0.1}'}],
            ["'top_logprobs'", "several labels or none", "prob_LABEL"],
        ),
        (
            [{"text": "a", "prediction": "health; money", "score": 0.9}],
            ["'score'", "--probabilities", "remove 'score'"],
        ),
        ([{"text": "a", "votes": '["health", "money"]'}], ["row 1 (line 2)", "for each annotator"]),
        ([{"text": "a", "what": "health"}], ["no soft labels found", "prob_LABEL", "'what'"]),
        ([{"text": "a", "answer": one} for one in ("health", "money")], ["rows 1, 2 (lines 2, 3)", "'a'"]),
        (
            [{"text": "a", "annotator": "x", "label": one} for one in ("health;money", "money")],
            ["rows 1, 2 (lines 2, 3)", "annotator 'x'"],
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, Any]], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    for word in ["soft.csv", *words]:
        assert word in str(caught.value)
