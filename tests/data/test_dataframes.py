"""Tables in memory as data: frames of any library by their columns, and what is refused without a trace."""

import decimal
import json

import numpy as np
import pytest

import randout
from randout.core.errors import UserError
from randout.data import dataframes
from randout.data.tables import read_table
from support.tables import load

TEXTS = [f"text {i}" for i in range(30)]
LABELS = ["no", "yes"] * 15


class Frame:
    """What pandas' and polars' frames have in common: names in `columns`, columns by name; and no mapping."""

    def __init__(self, **columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self._columns[name]


class Hub(Frame):
    """A `datasets.Dataset`: `column_names`, and features with the names of classes."""

    def __init__(self, names, **columns):
        import pyarrow as pa

        super().__init__(**columns)
        self.column_names = self.columns
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self.features = type("Features", (dict,), {"arrow_schema": pa.schema([], metadata=metadata)})()


class Series(list):
    def to_list(self):
        return list(self)


def arrow():
    import pyarrow as pa

    return pa.table({"text": TEXTS, "label": LABELS})


def pandas_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"text": TEXTS, "label": pandas.Categorical(LABELS)})


@pytest.mark.parametrize(
    "table",
    [
        lambda: {"text": TEXTS, "label": LABELS},
        lambda: {"text": np.array(TEXTS), "label": tuple(LABELS)},
        lambda: {"text": iter(TEXTS), "label": Series(LABELS)},
        lambda: Frame(text=Series(TEXTS), label=Series(LABELS)),
        lambda: [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
        arrow,
        pandas_frame,
    ],
)
def test_the_same_columns_are_the_same_file_whatever_holds_them(tmp_path, table):
    expected, new = dataframes.saved({"text": TEXTS, "label": LABELS}, tmp_path)
    assert new
    assert dataframes.saved(table(), tmp_path) == (expected, False)
    assert read_table(expected).columns == {"text": TEXTS, "label": LABELS}
    assert [path.name for path in tmp_path.iterdir()] == [expected.name]


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    odd = [1, "a", None, {"x": 1}, object(), float("nan")] * 5
    path, _ = dataframes.saved({"text": TEXTS, "label": LABELS, "odd": odd}, tmp_path)
    assert path.suffix == ".jsonl"
    assert load(path).id2label == {0: "no", 1: "yes"}
    with pytest.raises(UserError, match=r"\(column 'odd'\) are of different types|\(column 'odd'\) is an object"):
        load(path, label_column="odd")


def test_missing_values_of_frames_are_missing(tmp_path):
    missing = [float("nan"), None, type("NAType", (), {})(), type("NaTType", (), {})()]
    path, _ = dataframes.saved({"text": TEXTS, "label": LABELS, "who": [*missing, *LABELS[4:]]}, tmp_path)
    assert read_table(path).columns["who"][:5] == [None] * 4 + ["no"]
    money = [decimal.Decimal("1.10")] * 30
    assert read_table(dataframes.saved({"text": TEXTS, "label": LABELS, "x": money}, tmp_path)[0]).columns["x"] == money


def test_names_of_classes_of_a_hub_dataset_are_kept(tmp_path):
    path, _ = dataframes.saved(Hub(["neg", "pos"], text=TEXTS, label=[0, 1] * 15), tmp_path)
    assert load(path).id2label == {0: "neg", 1: "pos"}


REFUSED = {  # name -> (data, parts of the message)
    "unequal": ({"text": TEXTS, "label": LABELS[:-1]}, ["different lengths", "'text' 30", "'label' 29"]),
    "mixed": ({"text": TEXTS, "label": [1, "a"] * 15}, ["'label'", "different types", "strings", "numbers"]),
    "mixed with truth": ({"text": TEXTS, "label": [1, True] * 15}, ["'label'", "different types"]),
    "a text as a column": ({"text": "abc", "label": ["a", "b", "c"]}, ["'text' is a str", "a list of values"]),
    "a column of pandas' to_dict": ({"text": dict(enumerate(TEXTS)), "label": dict(enumerate(LABELS))}, ["'text' is a dict"]),
    "a set": ({"text": TEXTS, "label": {"a", "b"}}, ["'label' is a set"]),
    "a number as a column": ({"text": TEXTS, "label": 1}, ["'label' is an int"]),
    "numbers as names": ({0: TEXTS, 1: LABELS}, ["column name 0 is an int"]),
    "no columns": ({}, ["no row"]),
    "no rows": ({"text": [], "label": []}, ["no row", "DataFrame"]),
    "an empty list": ([], ["found list", "DataFrame"]),
    "a list of texts": (TEXTS, ["found list"]),
    "nothing": (None, ["found NoneType", "DataFrame"]),
    "bytes": (b"text,label", ["found bytes"]),
    "rows as a text": ("text,label\n" + "a,b\n" * 2000, ["not a valid file name", "DataFrame"]),
    "a text that is too long": ("x" * 5000, ["not a valid file name"]),
    "a NUL": ("a\0.csv", ["not a valid file name"]),
    "no such column": ({"a": TEXTS, "b": LABELS}, ["the label is not clear"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing_behind(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    given, parts = REFUSED[case]
    with pytest.raises(UserError) as caught:
        randout.train(given, student="none", teacher="none", preset="plain")
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_of_an_earlier_call_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"text": TEXTS, "label": LABELS}
    path, _ = dataframes.saved(columns, tmp_path / "runs" / "data")
    with pytest.raises(UserError):
        randout.train(columns, student="none such", teacher="none", preset="plain")
    assert path.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_no_part_of_a_file(tmp_path, monkeypatch, error):
    import pyarrow.parquet as parquet

    def fail(table, where):
        where.write(b"half")
        raise error

    monkeypatch.setattr(parquet, "write_table", fail)
    with pytest.raises(type(error)):
        dataframes.saved({"text": TEXTS, "label": LABELS}, tmp_path / "data")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
