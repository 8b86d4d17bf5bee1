"""Text tables line by line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from randout.reporting.text import (
    comparison_lines,
    distinct_names,
    method_lines,
    score_lines,
)
from randout.stats.metrics import score
from randout.stats.paired import compare_models
from randout.stats.verdicts import compare_methods
from randout.storage.metrics_record import BaselineScores, Rates, Scores

NAMES = {0: "figurative mention", 1: "health mention", 2: "non-health"}


def logits_of(predictions: list[int], classes: int) -> np.ndarray:
    return np.log(np.where(np.eye(classes)[predictions] > 0, 0.9, 0.1 / (classes - 1)))


def scored(*arguments: Any, **options: Any) -> Scores:
    return Scores.model_validate(score(*arguments, **options))


def test_score_lines():
    labels, made = [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 2]
    found = scored(labels, logits_of(made, 3), NAMES)
    assert score_lines(found, NAMES) == [
        "6 rows",
        "accuracy            66.67 %",
        "balanced accuracy   72.22 %",
        "macro precision     72.22 %",
        "macro recall        72.22 %",
        "macro F1            66.67 %",
        "weighted F1         66.67 %",
        "calibration error   23.33 %  (mean distance between confidence and accuracy)",
        "log loss           1.0688    (lower is better; 1.0986 for equal probabilities)",
        "majority class      50.00 %  (accuracy of always predicting 'health mention')",
        "",
        "label               precision  recall     F1  rows",
        "figurative mention     100.00   50.00  66.67     2",
        "health mention          66.67   66.67  66.67     3",
        "non-health              50.00  100.00  66.67     1",
        "",
        "true \\ predicted    figurative mention  health mention  non-health",
        "figurative mention                   1               1           0",
        "health mention                       0               2           1",
        "non-health                           0               0           1",
    ]


def test_long_labels_of_a_matrix_are_shortened_and_columns_line_up():
    names = {0: "a first label that is longer than any table would show", 1: "健康に関する言及", 2: "c"}
    names |= {at: f"a label that begins as the others do, {at}" for at in range(3, 8)}
    labels = list(range(8))
    lines = score_lines(scored(labels, logits_of(labels, 8), names), names)[-9:]
    assert lines[0].split()[:3] == ["true", "\\", "predicted"]
    assert len({cell_len(line) for line in lines}) == 1
    assert cell_len(lines[0]) < 110
    heads = lines[0].split("  ")
    assert any(head.strip().startswith("3 a") and head.endswith("..") for head in heads), "alike when cut, so numbered"
    assert lines[2].startswith("1 健康に関する言及  ")


def test_score_lines_with_intervals_and_from_json():
    found = score([0, 1] * 50, logits_of([0, 1, 1, 1] * 25, 2), {0: "a", 1: "b"}, np.arange(100), resamples=500)
    lines = score_lines(Scores.model_validate_json(json.dumps(found)), {"0": "a", "1": "b"})
    low, high = found["intervals"]["accuracy"]
    assert lines[0] == "100 rows, 95 % intervals in brackets"
    assert lines[1] == f"accuracy            75.00 % [{100 * low:.1f}, {100 * high:.1f}]"


@pytest.mark.parametrize(("value", "told"), [(0.5, False), (4 / 6, True), (0.9, True)])
def test_a_model_that_is_not_above_the_baseline_is_told_so(value: float, told: bool) -> None:
    found = scored([0, 0, 1, 1, 1, 2], logits_of([0, 1, 1, 1, 2, 2], 3), NAMES)
    rates = dict.fromkeys(Rates.model_fields, value)
    about = {"name": "bag-of-words baseline", "train_rows": 9, "sampled": False, "metric": "accuracy"}
    found.baseline = BaselineScores.model_validate(rates | about | {"classifier": "svm", "difference": None})
    below = "23.3 points below" if value == 0.9 else "not above"
    line = f"accuracy is {below} the bag-of-words baseline ({100 * value:.2f} %), which costs seconds"
    assert (line in score_lines(found, NAMES)) is told


def test_a_mean_over_classes_without_rows_says_so() -> None:
    labels = np.array([0, 1] * 10)
    names = {0: "a", 1: "b", 2: "c"}
    lines = score_lines(scored(labels, logits_of(labels, 3), names), names, "test")
    told = [
        line.split()[:3] for line in lines if "(over 3 classes, one of which has no test rows and counts 0)" in line
    ]
    assert told == [["macro", name, "66.67"] for name in ("precision", "recall", "F1")]
    labels = np.array([0, 1, 2] * 10)
    assert "classes" not in "".join(score_lines(scored(labels, logits_of(labels, 3), names), names, "test"))


def test_probabilities_that_are_worse_than_equal_ones_are_told() -> None:
    line = "log loss is worse than that of equal probabilities: use the labels, not the probabilities"
    for made, told in (([0, 1, 2], False), ([1, 2, 0], True)):
        assert (line in score_lines(scored([0, 1, 2], logits_of(made, 3), NAMES), NAMES)) is told


def test_many_classes_list_the_commonest_confusions():
    names = {at: f"class {at} of a very long-winded scheme" for at in range(20)}
    labels, made = list(range(20)) * 2, [*range(20), *range(1, 20), 1]
    lines = score_lines(scored(labels, logits_of(made, 20), names), names)
    assert "most common confusions, true -> predicted" in "\n".join(lines)
    assert len(lines) == 10 + 1 + 21 + 1 + 11
    assert len({len(line) for line in lines[11:32]}) == 1


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    plain = generator.normal(size=(400, 3)) + 1.5 * np.eye(3)[labels]
    long = "Randout-KD with a name that is far too long $for any table"
    others = {"plain": plain, long: plain + np.eye(3)[labels], "kd": plain + 0.05 * generator.normal(size=(400, 3))}
    return compare_models(labels, others, "plain", np.arange(400), 3, resamples=400)


def test_comparison_lines(rows):
    lines = comparison_lines(rows)
    assert lines[0].split()[:3] == ["model", "accuracy", "%"]
    ends = [line.split("  ")[-1] for line in lines]
    assert ends == ["verdict", "baseline", *(row.words for row in rows[1:])]
    assert f"{100 * rows[1].difference.estimate:+.2f}" in lines[2]
    assert f"{rows[1].mcnemar.b}/{rows[1].mcnemar.c}" in lines[2]


FIRST, SECOND = (f"ce + contrastive + randout, ce.label_smoothing {rate}, randout.tokens 16" for rate in (0, 0.1))


@pytest.mark.parametrize(
    "names",
    [
        (f"{'x' * 60} first", f"{'x' * 60} second"),
        (f"first {'x' * 60}", f"second {'x' * 60}"),
        (f"{'x' * 30}1{'x' * 30}", f"{'x' * 30}2{'x' * 30}"),
        (f"{'x' * 40}1{'x' * 40}", f"{'x' * 40}2{'x' * 40}", "short"),
        (f"{'語' * 30}1{'x' * 30}", f"{'語' * 30}2{'x' * 30}"),
        (FIRST, SECOND),
    ],
)
def test_shortened_names_stay_different(names):
    found = distinct_names(names, 44)
    assert len(set(found)) == len(names)
    for short, name in zip(found, names, strict=True):
        start, cut, end = short.partition("..")
        assert name.startswith(start)
        assert name.endswith(end if cut else name)
        assert cell_len(short) < cell_len(name) or name == "short"


def test_names_that_fit_are_not_shortened():
    assert distinct_names(["a" * 44, "b"], 44) == ["a" * 44, "b"]
    assert distinct_names(["a" * 50, "a" * 50], 44) == ["a" * 21 + ".." + "a" * 21] * 2, "the same name stays the same"


def test_a_comparison_shortens_names_only_for_a_narrow_terminal():
    labels = np.arange(60) % 3
    made = {FIRST: labels[None], SECOND: np.where(np.arange(60) < 20, 0, labels)[None]}
    rows = compare_methods(made, labels, np.arange(60), FIRST, 3, resamples=100)
    whole = method_lines(rows)
    assert whole[2].startswith(FIRST)
    assert whole[3].startswith(SECOND)
    widest = max(map(len, whole[1:4]))
    assert method_lines(rows, width=widest) == whole
    almost = method_lines(rows, width=widest - 10)
    assert max(map(len, almost[1:4])) == widest - 10
    narrow = method_lines(rows, width=80)
    names = [line[:44].rstrip() for line in narrow[2:4]]
    assert names[0] != names[1]
    assert all(".." in name and FIRST.startswith(name.partition("..")[0]) for name in names)
    assert f"{names[1]}: McNemar: " in narrow[-1], "the notes use the names of the table"


def test_one_method_has_no_columns_of_a_comparison():
    labels = np.arange(60) % 3
    rows = compare_methods({FIRST: labels[None]}, labels, np.arange(60), FIRST, 3, resamples=100)
    heading, header, row = method_lines(rows)
    assert heading.startswith("intervals apply to ")
    assert header.split() == ["method", "accuracy", "%", "interval"]
    assert row.startswith(FIRST)
    assert "baseline" not in row


def test_classes_with_long_names_stay_different():
    names = {at: f"{'a long description of a class ' * 2}{at}" for at in range(3)}
    lines = score_lines(scored(np.arange(30) % 3, np.eye(3)[np.arange(30) % 3], names, np.arange(30)), names)
    heads = [line.split("  ")[0] for line in lines if line.startswith("a long")]
    assert len(set(heads)) == 3, heads
