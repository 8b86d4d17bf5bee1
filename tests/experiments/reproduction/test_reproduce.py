"""`randout reproduce`: every item of the paper on stand-ins, published beside ours, and what may be compared."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from randout.core.console import Show
from randout.core.errors import UserError
from randout.data import named_datasets
from randout.experiments.reproduction import reproduce, side_by_side
from randout.experiments.reproduction.budgets import (
    BUDGETS,
    ITEMS,
    arm,
    items_of,
    make_request,
    reasons,
    search_of,
    study_of,
)
from randout.experiments.run.student import Options
from randout.paper.published import paper
from randout.storage.study_folder import read_record
from randout.testing.models import build, toy_texts

APPROXIMATE = "approximation without user behaviour, and of layers not checked"
SYSTEMS = ("Randout-KD", "Naseem et al. 2022a", "HMCNET (approximation)")  # of the ten folds


@pytest.fixture
def rhmd(tmp_path, monkeypatch):
    """A table that the name `rhmd` accepts for this test: 150 toy texts in its columns."""
    texts, labels = toy_texts(150, 0)
    number = {name: str(at) for at, name in enumerate(sorted(set(labels)))}
    path = tmp_path / "RHMD_3_Class.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["Text", "Label"])
        rows.writerows((text, number[label]) for text, label in zip(texts, labels, strict=True))
    here = vars(named_datasets.NAMED["rhmd"]) | {"digest": hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(named_datasets.NAMED, "rhmd", named_datasets.NamedDataset(**here))
    return f"rhmd:{path}"


@pytest.fixture(scope="module")
def asked(tiny_model, tmp_path_factory):
    student = build(
        "bert", tmp_path_factory.mktemp("wide") / "bert", hidden_size=128
    )  # the paper's cells have up to 128 units
    return {"student": {"model": str(student)}, "teacher": {"model": str(tiny_model("roberta"))}}


def carried_out(request, items, tmp_path):
    options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
    return {
        block.title.split(":")[0].split(" (")[0]: block
        for block in reproduce.reproduce(request, items, tmp_path / "out", options)
    }


@pytest.mark.slow
def test_every_item_of_rhmd_runs_and_shares_its_runs(rhmd, asked, tmp_path):
    request = make_request("rhmd", "smoke", asked | {"data": {"source": rhmd}})
    blocks = carried_out(request, items_of("rhmd", [], [], []), tmp_path)
    assert list(blocks) == [
        "Table 1", "Table 2", "Table 3", "Table 5", "Table 6", "Figure 1", "Figure 2",
        "Figure 4 and section 5.1", "Section 5",
    ]  # fmt: skip
    trained = [path.parent.name for path in (tmp_path / "runs").glob("*/run.json")]
    assert len(trained) == 5 + 3 * 5, "four arms and their teacher once; five folds, each with a teacher and HMCNET"
    for place in ("Table 2", "Table 3", "Table 5", "Table 6"):
        numbers = paper().find(place, "rhmd")
        assert [row[2] for row in blocks[place].rows] == [number.printed for number in numbers]
        assert all(row[6].startswith("not comparable (") for row in blocks[place].rows)
        assert any("600 labelled rows, one epoch" in note for note in blocks[place].notes)
    folds = {name: [row for row in blocks["Section 5"].rows if row[0] == name] for name in SYSTEMS}
    assert [row[2] for row in folds["HMCNET (approximation)"]] == ["81"] * 3
    for name in ("Randout-KD", "HMCNET (approximation)"):
        assert all(0 < float(row[3]) <= 100 and row[6].startswith("not comparable (") for row in folds[name])
    assert all(row[6] == "not run" for row in folds["Naseem et al. 2022a"])
    assert any("approximation without user behaviour" in note for note in blocks["Section 5"].notes)
    page = reproduce.page(request, list(blocks.values()))
    assert page.count("\n## ") == len(blocks)
    again = carried_out(request, ["table 6"], tmp_path)
    assert again["Table 6"] == blocks["Table 6"]


@pytest.mark.slow
def test_ours_are_the_scores_of_the_predictions(rhmd, asked, tmp_path):
    request = make_request("rhmd", "smoke", asked | {"data": {"source": rhmd}})
    blocks = carried_out(request, ["table 3", "table 5", "figure 2"], tmp_path)
    study = read_record(tmp_path / "out" / "table-3")
    cell = next(cell for cell in study.record.cells if cell.arm == "randout-kd")
    table = parquet.read_table(study.run(cell).path / "predictions" / "test.parquet")
    true, made = (np.array(table[name].to_pylist()) for name in ("label", "prediction"))
    shown = {row[1]: float(row[3]) for row in blocks["Table 3"].rows if row[0] == "Randout-KD"}
    assert shown["accuracy"] == pytest.approx(100 * (true == made).mean(), abs=0.005)
    macro = f1_score(true, made, labels=["FM", "NHM", "HM"], average="macro", zero_division=0)
    assert shown["macro f1"] == pytest.approx(100 * macro, abs=0.005)
    each = precision_recall_fscore_support(true, made, labels=["FM", "NHM", "HM"], zero_division=0)
    shown = {row[1]: float(row[3]) for row in blocks["Table 5"].rows if row[0] == "Randout-KD"}
    for at, label in enumerate(("FM", "NHM", "HM")):
        for values, rate in zip(each, ("precision", "recall", "f1"), strict=False):
            assert shown[f"{label} {rate}"] == pytest.approx(100 * values[at], abs=0.005)
    matrix = np.array([[float(cell) for cell in row[1:]] for row in blocks["Figure 2"].rows])
    assert matrix[0, 0] == pytest.approx(100 * ((true == "FM") & (made == "FM")).sum() / (true == "FM").sum(), abs=0.05)


@pytest.mark.slow
def test_table_4_runs_the_classifiers_of_words(coda19_folder, asked, tmp_path, monkeypatch):
    smoke = BUDGETS["smoke"].classifiers
    small = {"cnn": {"epochs": 1, "min_count": 1, "embedding": 8, "channels": 4}}
    small |= {"lstm": {"epochs": 1, "min_count": 1, "embedding": 8, "hidden": 8, "layers": 1}}
    small |= {name: {"min_df": 1} for name in ("svm", "rf", "mnb-count", "mnb-tfidf")}
    assert smoke.keys() <= small.keys()
    monkeypatch.setitem(
        BUDGETS, "smoke", BUDGETS["smoke"].__class__(**(vars(BUDGETS["smoke"]) | {"classifiers": small}))
    )
    request = make_request("coda19", "smoke", asked | {"data": {"source": f"coda19:{coda19_folder}"}})
    block = carried_out(request, ["table 4"], tmp_path)["Table 4"]
    ran = {row[0]: row for row in block.rows}
    assert set(ran) == {"SVM", "random forest", "MNB on counts", "MNB on tf-idf", "CNN", "LSTM"} | {
        paper().names[name] for name in ("plain", "randout-kd")
    }
    assert len(block.rows) == 8 * 15
    assert all(row[3] for row in block.rows)


def test_a_verdict_only_where_nothing_forbids_it():
    number = paper().number("Table 3", "rhmd", "plain", "accuracy")
    near = side_by_side.Measured(number.value / 100 + 0.002, number.value / 100 - 0.02, number.value / 100 + 0.024)
    assert side_by_side.comparison_row(number, near, "", "x")[5:] == ["+0.20", "no difference seen"]
    far = side_by_side.Measured(0.9, 0.88, 0.92)
    assert side_by_side.comparison_row(number, far, "", "x")[6] == "higher"
    assert side_by_side.comparison_row(number, far, "(a)", "x")[6] == "not comparable (a)"
    assert side_by_side.comparison_row(number, None, "", "x")[6] == "not run"


def test_what_forbids_a_comparison():
    full = make_request("rhmd", "full", {})
    assert [reasons(full, name) for name in ("plain", "kd", "teacher")] == [[], [], []]
    hub = make_request("rhmd", "full", {"student": {"model": "facebook/data2vec-text-base"}})
    assert reasons(hub, "plain") == []
    other = make_request("rhmd", "full", {"student": {"model": "some/small-one"}, "train": {"epochs": 3}})
    assert reasons(other, "plain") == ["student small-one instead of data2vec", "changed settings: train.epochs = 3"]
    assert reasons(full, "hmcnet") == ["student data2vec instead of bert-large", APPROXIMATE]
    assert reasons(make_request("coda19", "small", {}), "svm") == ["two epochs at 5e-5"]
    assert "different split" in reasons(make_request("rhmd", "full", {"data": {"split": "auto"}}), "plain")


def test_the_full_budget_is_the_published_training():
    request = make_request("coda19", "full", {})
    study = study_of(request, "table 6")
    assert request.base["train"]["epochs"] == 15
    assert request.base["train"]["learning_rate"] == 1e-5
    assert study.arms["randout-kd"]["methods"] == {"kd": {"weight": 0.8}, "randout": {"tokens": 64, "units": 64}}
    assert search_of(request).preset == "paper"
    assert study_of(make_request("rhmd", "full", {}), "section 5").folds == 10
    assert study_of(make_request("rhmd", "full", {}), "section 5").arms.keys() == {"randout-kd"}
    hmcnet = study_of(make_request("rhmd", "full", {}), "section 5 hmcnet").arms["hmcnet"]
    assert hmcnet["preset"] == "hmcnet"
    assert [len(settings["terms"]) for settings in hmcnet["methods"].values()] == [15, 15]
    assert arm(request, "scibert")["student"]["model"] == "scibert"


@pytest.mark.parametrize(
    ("dataset", "budget", "tables", "said"),
    [
        ("rmhd", "smoke", [], "Did you mean 'rhmd'"),
        ("rhmd", "tiny", [], "expected smoke, small, full"),
        ("rhmd", "smoke", [4], "table 4: not in the paper for rhmd"),
        ("coda19", "smoke", [5], "table 5: not in the paper for coda19"),
    ],
)
def test_what_the_paper_has_not_is_refused(dataset, budget, tables, said):
    with pytest.raises(UserError, match=said):
        items_of(make_request(dataset, budget, {}).dataset, tables, [], [])


def test_items_cover_what_the_paper_prints():
    for dataset in ITEMS:
        places = {number.place for number in paper().find(dataset=dataset) if number.place.startswith("Table")}
        assert {item.capitalize() for item in ITEMS[dataset] if item.startswith("table")} == places | {"Table 1"}


def test_paths_are_left_out_of_the_page(rhmd, asked, tmp_path):
    request = make_request("rhmd", "smoke", asked | {"data": {"source": rhmd}})
    blocks = list(carried_out(request, ["table 1", "figure 1"], tmp_path).values())
    assert str(Path(request.student).parent) not in reproduce.page(request, blocks)
