"""Inputs of several columns: strings, parts, copies, and what survives being sent to another process."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from randout.core.config import DataTable
from randout.data.composed_text import ComposedText, content_of, is_pair, parts_of, swapped, texts_in
from randout.data.row_hashes import row_hashes
from randout.data.stratify import copies_of, unordered_copies_of
from randout.data.views import make_views
from randout.exports import runtime

PAIR = ComposedText(("It is fast.", "We measure it."), "position: 3/8 | ")


def test_the_string_and_the_parts():
    assert PAIR == "position: 3/8 | It is fast. ||| We measure it."
    assert parts_of(PAIR) == ("position: 3/8 | It is fast.", "We measure it.")
    assert (content_of(PAIR), swapped(PAIR)) == ("It is fast. ||| We measure it.", "We measure it. ||| It is fast.")
    assert (parts_of("a"), texts_in("a"), content_of("a"), swapped("a"), is_pair("a")) == (
        ("a",),
        ("a",),
        "a",
        None,
        False,
    )
    assert runtime.in_words(("It is fast.", "We measure it.")) == content_of(PAIR)  # exports read words in the same way


@pytest.mark.parametrize("sent", [copy.deepcopy, lambda text: pickle.loads(pickle.dumps(text))])
def test_it_stays_what_it_is_in_another_process(sent):
    found = sent([PAIR])[0]
    assert (found, found.texts, found.prefix) == (PAIR, PAIR.texts, PAIR.prefix)


def test_copies_ignore_fields_and_mind_the_order():
    other_place = ComposedText(PAIR.texts, "position: 7/8 | ")
    turned = ComposedText(PAIR.texts[::-1], PAIR.prefix)
    texts = [PAIR, other_place, turned, ComposedText(("It is fast.",), "position: 1/8 | "), "it is FAST."]
    assert copies_of(texts).tolist() == [0, 0, 1, 2, 2]
    assert unordered_copies_of(texts[:3]).tolist() == [0, 0, 0]
    hashes = row_hashes(texts)
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[3] == hashes[4]  # a run with fields recognises the rows of one without


def test_views_change_each_text_of_a_pair_and_keep_the_fields():
    texts = [
        ComposedText((f"one two three four {n}", f"five six seven eight {n}"), f"position: {n} | ") for n in range(30)
    ]
    views = make_views(texts, {"train": np.arange(30)}, DataTable(views=6), seed=1)
    assert {view.kind for view in views.made} == {"word drop", "window", "splice"}
    for view in views.made:
        source = texts[view.source]
        assert isinstance(view.text, ComposedText)
        assert view.text.prefix == source.prefix
        partner = texts[view.partner] if view.partner >= 0 else source
        for part, own, other in zip(view.text.texts, source.texts, partner.texts, strict=True):
            assert part
            assert set(part.split()) <= {*own.split(), *other.split()}
