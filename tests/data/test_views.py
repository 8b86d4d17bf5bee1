"""Augmented views: their formulas, their sources, what is left out, and that they are functions of (seed, row, number)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.data.stratify import normalize
from randout.data.views import Views, make_views, splice, window, word_drop, words_of
from randout.testing.models import toy_texts
from support.tables import load

SPLIT = {"train": np.arange(6), "validation": np.array([6]), "test": np.array([7])}
TEXTS = [f"t{row}a t{row}b t{row}c t{row}d t{row}e" for row in range(6)] + ["v1 v2 v3", "x1 x2 x3"]
ONLY = {
    "word drop": {"view_window": 0.0, "view_splice": 0.0},
    "window": {"view_word_drop": 0.0, "view_splice": 0.0},
    "splice": {"view_word_drop": 0.0, "view_window": 0.0},
}


def made(texts: list[str] = TEXTS, seed: int = 1, views: int = 4, **settings: Any) -> Views:
    where = {name: settings.pop(name) for name in ("rows", "folds") if name in settings}
    split = settings.pop("split", SPLIT)
    return make_views(texts, split, DataTable(views=views, **settings), seed, **where)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  one  two\nthree ", ["one  ", "two\n", "three"]),
        ("好电影 very 好", ["好", "电", "影 ", "very ", "好"]),
        ("さよなら", ["さ", "よ", "な", "ら"]),
        ("naïve, isn't it?", ["naïve, ", "isn't ", "it?"]),
    ],
)
def test_words_keep_their_white_space_and_scripts_without_spaces_are_cut_by_character(
    text: str, words: list[str]
) -> None:
    assert words_of(text) == words
    assert "".join(words) == text.strip()


def test_word_drop_by_its_formula() -> None:
    words = [f"w{at} " for at in range(2000)]
    kept = word_drop(words, 0.3, np.random.default_rng(4)).split()
    uniform = np.random.default_rng(4).random(2000)
    assert kept == [f"w{at}" for at in range(2000) if uniform[at] >= 0.3]
    assert abs(len(kept) / 2000 - 0.7) < 0.03
    alone = {word_drop(["a ", "b ", "c"], 1 - 1e-12, np.random.default_rng(at)) for at in range(40)}
    assert alone == {"a", "b", "c"}, "one word stays, any of them"


def test_a_window_by_its_formula() -> None:
    words = [f"w{at} " for at in range(10)]
    lengths, starts = set(), set()
    for seed in range(200):
        draw = np.random.default_rng(seed)
        length = max(1, round((0.4 + 0.4 * draw.random()) * 10))
        start = draw.integers(10 - length + 1)
        found = window(words, (0.4, 0.8), np.random.default_rng(seed)).split()
        assert found == [f"w{at}" for at in range(start, start + length)]
        lengths.add(length)
        starts.add(start)
    assert lengths == {4, 5, 6, 7, 8}
    assert starts == set(range(7)), "a window of 4 of 10 words may start at 0 to 6"
    assert window(["one"], (0.4, 0.8), np.random.default_rng(0)) == "one"


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [("a b c d", "w x y z", "a b y z"), ("a b c", "x y z", "a b y z"), ("a", "z", "a z"), ("a\nb", "y  z", "a z")],
)
def test_a_splice_is_the_first_half_and_the_second_half(first: str, second: str, joined: str) -> None:
    assert splice(words_of(first), words_of(second)) == joined


def test_a_view_is_a_function_of_seed_row_and_number() -> None:
    """Written out for windows; more views, other rows and other texts change none that was there."""
    views = made(**ONLY["window"], view_window_share=(0.4, 0.6))
    for view in views.made:
        draw = np.random.default_rng(random_key(1, "view", view.source, view.number - 1))
        draw.random()  # the kind
        assert view.text == window(words_of(TEXTS[view.source]), (0.4, 0.6), draw)
    first = {(view.source, view.number): view.text for view in made(**ONLY["word drop"]).made}
    more = {(view.source, view.number): view.text for view in made(views=9, **ONLY["word drop"]).made}
    fewer = {(view.source, view.number): view.text for view in made(rows=np.arange(3), **ONLY["word drop"]).made}
    assert first.items() <= more.items()
    assert fewer.items() <= first.items()
    assert fewer.keys() == {key for key in first if key[0] < 3}
    assert made().identity == made().identity
    assert made().identity["texts"] != made(seed=2).identity["texts"]


def test_kinds_have_their_relative_frequencies() -> None:
    texts = [" ".join(f"{row}-{at}" for at in range(20)) for row in range(300)]
    split = {"train": np.arange(300)}
    counts = made(texts, split=split, views=5, view_word_drop=3.0, view_window=1.0, view_splice=0.0).counts
    assert counts["splice"] == 0
    assert abs(counts["word drop"] / 1500 - 0.75) < 0.04


def test_only_training_rows_are_sources() -> None:
    views = made(views=30)
    assert {word[:2] for view in views.made for word in view.text.split()} == {f"t{row}" for row in range(6)}
    assert {view.source for view in views.made} == set(range(6))
    spliced = [view for view in views.made if view.kind == "splice"]
    assert {view.partner for view in spliced} == set(range(6))
    for view in spliced:
        assert view.partner != view.source
        assert view.text == splice(words_of(TEXTS[view.source]), words_of(TEXTS[view.partner]))
    with pytest.raises(ValueError, match="training rows only"):
        made(rows=np.array([6]))


def test_copies_are_left_out_and_counted() -> None:
    """Windows of two of the three words "a b c" are "a b" and "b c"; case and accents do not tell texts apart."""
    texts = ["a b c", "A\u0301  B", "b c"]
    split = {"train": np.array([0, 2]), "test": np.array([1])}
    views = made(texts, split=split, views=20, rows=np.array([0]), **ONLY["window"], view_window_share=(2 / 3, 2 / 3))
    assert views.made == ()
    held, train = (views.left_out[f"copies of {what} rows"] for what in ("validation or test", "training"))
    assert min(held, train) > 0
    assert held + train == 20
    free = made(["a b c"], split={"train": np.array([0])}, views=20, **ONLY["window"], view_window_share=(2 / 3, 2 / 3))
    assert {view.text for view in free.made} == {"a b", "b c"}
    assert free.left_out["copies of one another"] == 18
    unlabelled = split | {"train": np.array([0]), "unlabeled": np.array([2])}
    views = made(texts, split=unlabelled, views=20, **ONLY["window"], view_window_share=(2 / 3, 2 / 3))
    assert views.left_out["copies of unlabelled rows"] == train
    alone = made(["a b"], split={"train": np.array([0])}, views=3, **ONLY["splice"])
    assert alone.left_out["without another text to splice with"] == 3


def test_rows_of_different_folds_are_not_spliced() -> None:
    folds = np.array([0, 1, 0, 1, 0, -1, -1, -1])
    views = made(views=40, folds=folds, **ONLY["splice"])
    assert {view.source for view in views.made} == {0, 1, 2, 3, 4}, "a row in no fold has no views"
    assert {(folds[view.source], folds[view.partner]) for view in views.made} == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"view_word_drop": 0.0, "view_window": 0.0, "view_splice": 0.0}, "frequency 0"),
        ({"view_window_share": (0.8, 0.4)}, "smaller share first"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(**settings)
    assert made(views=0, **settings).made == ()


def test_views_are_rows_without_a_label(tmp_path: Path) -> None:
    texts, labels = toy_texts(60, 0)
    with (tmp_path / "toy.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", "who"), *zip(texts, labels, range(60), strict=True)])
    plain = load(tmp_path / "toy.csv", id_column="who")
    views = make_views(plain.texts, plain.split, DataTable(views=3), 1)
    dataset = plain.with_views(views)
    rows = dataset.split["views"]
    assert rows.tolist() == list(range(60, 60 + len(views.made)))
    assert dataset.unlabelled.tolist() == rows.tolist()
    assert (dataset.labels[rows] == -1).all()
    assert [dataset.texts[row] for row in rows] == [view.text for view in views.made]
    assert dataset.groups[rows].tolist() == [plain.groups[view.source] for view in views.made]
    assert {len(column) for column in (dataset.row_ids, dataset.ids, dataset.copies, dataset.hashes)} == {
        len(dataset.texts)
    }
    for name in plain.split:
        assert np.array_equal(plain.split[name], dataset.split[name])
    held = {normalize(plain.texts[row]) for name in ("validation", "test") for row in plain.split[name]}
    assert not held & {normalize(dataset.texts[row]) for row in rows}
    assert sum(dataset.report.counts()["views"].values()) == len(rows)
    assert "views" not in plain.report.counts()
