"""Text tables line by line; pictures are checked for being pictures of the right parts, and for leaving no litter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.cells import cell_len

from randout.core.errors import Failure
from randout.reporting import fonts
from randout.reporting.figures import (
    comparison_lines,
    comparison_picture,
    confusion_picture,
    distinct_names,
    method_lines,
    score_lines,
)
from randout.stats.metrics import score
from randout.stats.paired import compare_models
from randout.stats.verdicts import compare_methods
from randout.storage.metrics_record import Scores

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


def picture(path):
    pixels = imread(path)
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 400
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing unfinished is left
    return pixels


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_confusion_picture(tmp_path, classes):
    names = {at: f"$label_{at} of the 日本 scheme\\frac{{" for at in range(classes)}  # no mathematics, no glyphs
    counts = np.random.default_rng(0).integers(0, 30, (classes, classes)) + 20000 * np.eye(classes, dtype=int)
    counts[-1] = 0  # a class without rows
    path = confusion_picture(counts, names, tmp_path / "new" / "confusion.png", "A title $with_ a dollar")
    first = picture(path)
    confusion_picture(counts.T, names, path, "A title $with_ a dollar")
    assert not np.array_equal(first, picture(path))


def test_confusion_picture_of_nothing_and_of_the_wrong_shape(tmp_path):
    picture(confusion_picture(np.zeros((2, 2)), {0: "a", 1: "b"}, tmp_path / "none.png", ""))
    with pytest.raises(ValueError, match="2 x 2"):
        confusion_picture(np.zeros((3, 3)), {0: "a", 1: "b"}, tmp_path / "wrong.png", "")


def test_comparison_picture(tmp_path, rows):
    picture(comparison_picture(rows, tmp_path / "comparison.png", "Accuracy of the saved models"))


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "confusion.png"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(Failure, match=r"confusion\.png: could not be written \(disk full\)"):
        confusion_picture(np.eye(2), {0: "a", 1: "b"}, path, "")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


@pytest.mark.parametrize("names", [["健康", "体育"], ["สวัสดี", "sport"], ["हिन्दी", "1"]])
def test_classes_that_no_font_can_draw_go_by_number(tmp_path, monkeypatch, names):
    """Without other fonts than matplotlib's own. Warnings, of a missing glyph too, are errors here."""
    from matplotlib.text import Text

    monkeypatch.setattr(fonts, "_other_families", lambda: ())
    drawn = []
    monkeypatch.setattr(Text, "set_text", lambda self, text, kept=Text.set_text: (drawn.append(text), kept(self, text)))
    confusion_picture([[3, 1], [1, 3]], dict(enumerate(names)), tmp_path / "c.png", "评 run: test")
    assert {"0", "1" if fonts.drawable(names[1]) is False else f"1 {names[1]}"} <= set(drawn)
    assert fonts.NOTE in drawn
    assert "? run: test" in drawn
    assert not any("健" in str(text) or "ส" in str(text) for text in drawn)


def test_classes_that_can_be_drawn_keep_their_names(tmp_path):
    names, by_number = fonts.numbered(["café", "Ж", "❤️", "تجربة" if fonts.shapes() else "é"])
    assert not by_number
    assert names[:3] == ["café", "Ж", "❤"]
    confusion_picture(np.eye(4), dict(enumerate(names)), tmp_path / "c.png", "t")


def test_scripts_that_need_shaping_are_not_drawn_without_it(monkeypatch):
    monkeypatch.setattr(fonts, "shapes", lambda: False)
    assert not fonts.drawable("تجربة")
    assert fonts.drawable("Ж")


def test_a_font_that_has_the_characters_is_used(monkeypatch):
    has = {fonts.DEFAULT: frozenset("ab"), "One": frozenset("健"), "Two": frozenset("康健"), "Three": frozenset("x")}
    monkeypatch.setattr(fonts, "_other_families", lambda: ("One", "Two", "Three"))
    monkeypatch.setattr(fonts, "_characters", has.get)
    assert fonts.families(["a", "健康"]) == [fonts.DEFAULT, "One", "Two"]
    assert fonts.families(["ab"]) == [fonts.DEFAULT]
    assert fonts.numbered(["健康", "a"]) == (["健康", "a"], False)
    assert fonts.numbered(["育", "a"]) == (["0", "1 a"], True)


def test_report_figures_draw_names_without_a_font_by_number(monkeypatch):
    from randout.reporting.pictures import draw_picture, to_bytes
    from randout.reporting.values import Column, Figure, Table

    monkeypatch.setattr(fonts, "_other_families", lambda: ())
    columns = (Column("model"), Column("true"), Column("predicted"), Column("share", "percent"))
    rows = tuple(("评", true, made, 0.5) for true in ("健康", "体育") for made in ("健康", "体育"))
    roles = {"panel": "model", "row": "true", "column": "predicted", "value": "share"}
    drawn = draw_picture(Figure("m", "m", "matrix", Table("m", "m", columns, rows), roles))
    assert to_bytes(drawn, "png").startswith(b"\x89PNG")
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["0", "1"]
    assert drawn.get_supxlabel() == fonts.NOTE


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


def test_classes_with_long_names_stay_different():
    names = {at: f"{'a long description of a class ' * 2}{at}" for at in range(3)}
    lines = score_lines(scored(np.arange(30) % 3, np.eye(3)[np.arange(30) % 3], names, np.arange(30)), names)
    heads = [line.split("  ")[0] for line in lines if line.startswith("a long")]
    assert len(set(heads)) == 3, heads
