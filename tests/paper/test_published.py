"""The paper's numbers as data: complete, found by what they are, footnoted where the paper contradicts itself."""

from __future__ import annotations

from collections import Counter

import pytest

from randout.core.errors import UserError
from randout.data.named_datasets import NAMED
from randout.paper.published import paper
from randout.stats.metrics import COUNTED

SIZES = {"Table 1": 10, "Table 2": 8, "Table 3": 16, "Table 4": 150, "Table 5": 18, "Table 6": 8}


def test_every_table_is_whole():
    found = Counter(number.place for number in paper().numbers)
    assert {place: found[place] for place in SIZES} == SIZES
    assert list(found) == list(paper().captions)
    where = [(number.place, number.dataset, number.model, number.metric, number.label) for number in paper().numbers]
    assert len(set(where)) == len(where)
    known = {*COUNTED, "precision", "recall", "f1", "layers", "million_parameters"}
    assert {number.metric for number in paper().numbers} <= known


def test_numbers_are_found():
    assert paper().number("Table 3", "rhmd", "plain", "accuracy").value == 78.17
    assert paper().number("Table 5", "rhmd", "randout-kd", "recall", "NHM").printed == "74.36"
    assert paper().number("Table 4", "coda19", "scibert", "f1", "other").value == 82.2
    assert paper().number("Table 1", "", "roberta-large", "million_parameters").value == 355
    assert [one.value for one in paper().find("Section 5, ten folds", model="randout-kd")] == [79.93, 79.93, 79.80]
    assert {one.value for one in paper().find(dataset="rhmd", model="naseem2022b")} == {81}
    assert len(paper().find(dataset="coda19", metric="accuracy", label="")) == 1 + 2 + 4 + 3 + 1
    assert paper().number("Table 4", "coda19", "svm", "recall", "purpose").step == pytest.approx(0.1)
    assert paper().number("Section 5, ten folds", "rhmd", "naseem2022a", "macro_f1").step == 1


def test_numbers_of_other_papers_have_a_source() -> None:
    (one,) = paper().elsewhere
    assert (one.dataset, one.classes, one.system, one.printed) == ("rhmd", 4, "HMCNET", "0.75")
    assert one.model in paper().names
    assert "10.1145/3485447.3512129" in one.source


def test_one_number_stands_alike_wherever_it_is_printed():
    for dataset in ("rhmd", "coda19"):
        for model in ("plain", "randout-kd"):
            table3, table6 = (paper().number(place, dataset, model, "accuracy") for place in ("Table 3", "Table 6"))
            assert table3.printed == table6.printed


def test_footnotes_lead_to_texts_and_slips_to_their_numbers():
    used = {key for item in (*paper().numbers, *paper().best) for key in item.notes}
    used |= set(paper().datasets["rhmd"]["notes"])
    assert used <= set(paper().notes)
    assert set(paper().notes) - used == {"freelb", "truncated"}  # they concern the text alone
    assert "0.57" in paper().footnotes(paper().find("Table 3", "coda19", metric="accuracy"))[0]
    assert len(paper().footnotes(paper().find("Table 6"))) == 2


def test_best_settings_grid_and_sizes():
    assert [(one.lam, one.tokens, one.units) for one in paper().best if one.overall] == [(0.8, 64, 64), (0.4, 64, 2)]
    outside = [one for one in paper().best if one.units not in paper().training["units"]]
    assert [one.notes for one in outside] == [("units-28",)]
    grid = [paper().training[name] for name in ("lambda", "temperature", "tokens", "units", "batch_size")]
    size = 1
    for values in grid:
        size *= len(values)
    assert size == 1344
    rhmd, coda19 = paper().datasets["rhmd"], paper().datasets["coda19"]
    assert sum(rhmd["class_rows"].values()) == rhmd["rows"] == 10015
    assert rhmd["test_rows"] == {name: -(-rows * 15 // 100) for name, rows in rhmd["class_rows"].items()}
    assert list(rhmd["test_rows"]) == list((NAMED["rhmd"].labels or {}).values())
    assert sum(coda19["test_rows"].values()) == 15475
    assert coda19["rows"] == 137171 + 15640 + 15475


def test_unknown_words_are_named():
    with pytest.raises(UserError, match="Did you mean 'Table 3'"):
        paper().find("Table3")
    with pytest.raises(UserError, match="model 'gpt'"):
        paper().find(model="gpt")
    with pytest.raises(UserError, match="Table 2 has no accuracy of plain on rhmd"):
        paper().number("Table 2", "rhmd", "plain", "accuracy")
