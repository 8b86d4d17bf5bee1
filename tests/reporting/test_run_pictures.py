"""Pictures are checked for being pictures of the right parts, and for leaving no litter."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from randout.core.errors import Failure
from randout.reporting import fonts
from randout.reporting.run_pictures import comparison_picture, confusion_picture
from randout.stats.paired import compare_models


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


def test_comparison_picture(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    plain = generator.normal(size=(400, 3)) + 1.5 * np.eye(3)[labels]
    long = "Randout-KD with a name that is far too long $for any table"
    others = {"plain": plain, long: plain + np.eye(3)[labels], "kd": plain + 0.05 * generator.normal(size=(400, 3))}
    rows = compare_models(labels, others, "plain", np.arange(400), 3, resamples=400)
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

    monkeypatch.setattr(fonts, "other_families", lambda: ())
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
    monkeypatch.setattr(fonts, "other_families", lambda: ("One", "Two", "Three"))
    monkeypatch.setattr(fonts, "characters_of", has.get)
    assert fonts.families(["a", "健康"]) == [fonts.DEFAULT, "One", "Two"]
    assert fonts.families(["ab"]) == [fonts.DEFAULT]
    assert fonts.numbered(["健康", "a"]) == (["健康", "a"], False)
    assert fonts.numbered(["育", "a"]) == (["0", "1 a"], True)


def test_report_figures_draw_names_without_a_font_by_number(monkeypatch):
    from randout.reporting.pictures import draw_picture, to_bytes
    from randout.reporting.values import Column, Figure, Table

    monkeypatch.setattr(fonts, "other_families", lambda: ())
    columns = (Column("model"), Column("true"), Column("predicted"), Column("share", "percent"))
    rows = tuple(("评", true, made, 0.5) for true in ("健康", "体育") for made in ("健康", "体育"))
    roles = {"panel": "model", "row": "true", "column": "predicted", "value": "share"}
    drawn = draw_picture(Figure("m", "m", "matrix", Table("m", "m", columns, rows), roles))
    assert to_bytes(drawn, "png").startswith(b"\x89PNG")
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["0", "1"]
    assert drawn.get_supxlabel() == fonts.NOTE
