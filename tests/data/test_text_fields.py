"""Pairs and fields from tables: which columns are read, how fields are rendered, and what is refused."""

from __future__ import annotations

import re

import pytest

from randout.core.errors import UserError
from randout.data.composed_text import ComposedText, parts_of
from randout.data.dataset import data_identity, describe, load_evaluation, open_evaluation, open_texts
from randout.data.text_fields import NONE, TextFields, read_fields, write_fields
from support.tables import load, write_rows

LABELS = ("no", "yes")


def rows(n=60):
    return [
        {"first": f"first {at} a", "second": f"second {at} b", "place": f"{at % 4}/4", "label": LABELS[at % 2]}
        for at in range(n)
    ]


@pytest.fixture
def file(tmp_path):
    return write_rows(tmp_path / "pairs.csv", rows())


BOTH = {"text_column": "first", "text_pair_column": "second", "prefix_columns": ("place",)}


def test_a_table_of_pairs_with_a_field(file):
    dataset = load(file, **BOTH)
    assert parts_of(dataset.texts[5]) == ("place: 1/4 | first 5 a", "second 5 b")
    assert dataset.fields == TextFields(pair="second", prefix=("place",), text="first")
    assert "columns     text 'first', label 'label', pair 'second', prefix 'place'" in describe(dataset)


def test_the_identity_of_single_texts_has_no_new_entries(file):
    single = data_identity(load(file, text_column="first"))
    assert set(single["data"]["columns"]) == {"text", "label", "group", "split"}
    assert type(load(file, text_column="first").texts[0]) is str
    for settings in ({"text_pair_column": "second"}, {"prefix_columns": ("place",)}):
        assert data_identity(load(file, text_column="first", **settings)) != single


def test_usual_names_of_pairs_are_found_if_the_second_is_named(tmp_path):
    some = [{"premise": r["first"], "hypothesis": r["second"], "label": r["label"]} for r in rows()]
    path = write_rows(tmp_path / "nli.csv", some)
    assert parts_of(load(path, text_pair_column="hypothesis").texts[0]) == ("first 0 a", "second 0 b")
    with pytest.raises(
        UserError, match=r"look like pairs of texts\. To read both, name the second with --text-pair hypothesis"
    ):
        load(path)


def test_fields_as_they_are_rendered():
    fields = TextFields(prefix=("section", "position"), text="text")
    columns = {
        "text": ["a", "b", "c", ""],
        "section": ["Methods\n 1", None, " ", "x"],
        "position": [3.0, 0.5, float("nan"), 1],
    }
    assert fields.read("t", columns, "text") == ["section: Methods 1 | position: 3 | a", "position: 0.5 | b", "c", ""]


def test_rows_without_one_of_the_texts(tmp_path):
    some = rows()
    some[3]["second"], some[4]["first"] = " ", ""
    path = write_rows(tmp_path / "gaps.csv", some)
    dataset = load(path, **BOTH)
    assert len(dataset.texts) == 58
    notes = "\n".join(dataset.report.notes)
    assert re.search("no text in column 'first' and is left out: row 5", notes)
    assert re.search("no text in column 'second' and is left out: row 4", notes)
    scored = load_evaluation(open_evaluation(path, "first", "label", fields=dataset.fields), dict(enumerate(LABELS)))
    assert (len(scored.texts), scored.without_text) == (58, [4, 5])
    with open_texts(path, "first") as (_, look_through):
        texts = look_through(lambda block: None, fields=dataset.fields)
        assert (texts.rows, texts.empty, texts.first_empty) == (60, 2, [4, 5])
        assert [text for _, block in texts for text in block][3:5] == ["", ""]


def test_both_orders_are_different_rows_of_one_group(tmp_path):
    some = rows()
    some += [dict(row, first=row["second"], second=row["first"]) for row in some[:10]]
    path = write_rows(tmp_path / "orders.csv", some)
    dataset = load(path, **BOTH)
    assert dataset.report.notes[-1].startswith(
        "pairs: 20 rows are another row's pair in the other order: different rows"
    )
    assert dataset.copies[0] != dataset.copies[60]
    assert (dataset.groups[:10] == dataset.groups[60:]).all()
    some = [dict(row, split="test" if at >= 60 else "train") for at, row in enumerate(some)]
    given = load(write_rows(tmp_path / "given.csv", some), **BOTH, split_column="split")
    assert any(
        "test rows are a training pair in the other order; not counted as copies" in n for n in given.report.notes
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_columns": ("place", "label")}, "column 'label' is the label and would be part of the input"),
        (
            {"text_pair_column": "secnd"},
            "no column 'secnd', which holds the second text of each pair; name another one with",
        ),
        (
            {"prefix_columns": ("plac",)},
            "no column 'plac', which holds a field that is put before the text. Did you mean 'place'",
        ),
        ({"text_pair_column": "first"}, "column 'first' is given as the text and as the second text of each pair"),
    ],
)
def test_columns_that_cannot_be_read(file, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load(file, text_column="first", **settings)


def test_a_table_without_the_columns_is_refused(file):
    with (
        open_texts(file, "first") as (_, look_through),
        pytest.raises(UserError, match="no column 'section', which holds a field"),
    ):
        look_through(lambda block: None, fields=TextFields(prefix=("section",)))


def test_the_record_in_a_model_folder(tmp_path):
    fields = TextFields(pair="second", prefix=("place",), text="first")
    assert read_fields(tmp_path) == NONE
    write_fields(tmp_path, NONE)
    assert not list(tmp_path.iterdir())  # folders of single texts stay as they were
    write_fields(tmp_path, fields)
    assert read_fields(tmp_path) == fields
    (tmp_path / "text_fields.json").write_text('{"pair": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="the record of the model's columns cannot be read"):
        read_fields(tmp_path)


def test_inputs_in_python():
    pair = TextFields(pair="second", text="first")
    assert pair.read_items([("a", "b"), {"first": "a", "second": "b"}], "predict") == [ComposedText(("a", "b"))] * 2
    assert pair.read_items([("a", "")], "predict") == [""]
    with pytest.raises(UserError, match=r"texts\[1\] is 'a'; this model reads pairs of texts .*: expected two texts"):
        pair.read_items([("a", "b"), "a"], "predict")
    field = TextFields(prefix=("place",), text="text")
    assert field.read_items([{"text": "a", "place": "1/4", "more": 1}], "predict") == ["place: 1/4 | a"]
    with pytest.raises(UserError, match="single texts with the field 'place' before the text: expected a row"):
        field.read_items(["a"], "predict")
