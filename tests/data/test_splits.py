"""Folds: a partition of the rows into stratified parts with whole groups, one of them the test split."""

import csv
import json
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stratify import rows

from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.splits import completed_split, fold_split
from randout.data.stratify import assign_folds
from randout.experiments.run import pipeline, planning
from randout.methods.builtin import METHODS
from randout.testing.models import build, toy_texts
from support.tables import load


def write(path, columns):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def held_out(source, folds, **options):
    """The test rows of each fold, as row ids."""
    found = [load(source, folds=folds, fold=fold, **options) for fold in range(1, folds + 1)]
    return found, [[d.row_ids[i] for i in d.split["test"]] for d in found]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows(), st.integers(2, 9), st.integers(0, 1000))
def test_dealt_rows_are_whole_groups_and_even_classes(table, folds, seed):
    labels, groups = table
    names = [str(k) for k in range(labels.max() + 1)]
    part = assign_folds(labels, groups, folds, seed, names)
    assert set(part) == set(range(folds))
    assert all(len(np.unique(part[groups == g])) == 1 for g in np.unique(groups))
    largest = np.bincount(groups).max()
    for p in range(folds):
        for k in range(len(names)):
            mine, whole = ((part == p) & (labels == k)).sum(), (labels == k).sum()
            assert mine >= 1
            assert abs(mine - whole / folds) <= 2 * largest + 2


@pytest.mark.parametrize("split", ["auto", "paper"])
def test_folds_partition_the_rows_whatever_the_fold(toy_csv, split):
    found, tests = held_out(toy_csv(121), 5, split=split, split_seed=3)
    assert sorted(chain(*tests)) == sorted(found[0].row_ids)
    assert all(24 <= len(rows) <= 25 for rows in tests)
    for dataset in found:
        parts = [set(dataset.split[name].tolist()) for name in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 121
        rest = 121 - len(parts[2])
        assert abs(len(parts[1]) - 0.15 * rest) <= 2
        for name in ("validation", "test"):
            share = np.bincount(dataset.labels[dataset.split[name]]) / len(dataset.split[name])
            assert np.abs(share - np.bincount(dataset.labels) / 121).max() < 0.07
    _, others = held_out(toy_csv(121), 5, split=split, split_seed=4)
    assert others != tests
    same = load(toy_csv(121), split=split, split_seed=3, folds=5, fold=2)
    assert all(np.array_equal(same.split[name], found[1].split[name]) for name in same.split)


def test_no_group_and_no_copy_crosses(tmp_path):
    texts, labels = toy_texts(240, 1)
    texts[200:] = [text.upper() for text in texts[:40]]  # copies after normalisation
    authors = [f"a{i // 3}" for i in range(240)]
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "author": authors})
    found, tests = held_out(path, 4, group_column="author")
    assert sorted(chain(*tests)) == sorted(found[0].row_ids)
    for dataset in found:
        assert dataset.report.shared_groups == {"validation": 0, "test": 0}
        assert all(len(leaked) == 0 for leaked in dataset.report.leaked.values())
    free, _ = held_out(path, 4, group_column="author", split="paper")  # stratified only: groups do cross
    assert all(dataset.report.shared_groups["test"] for dataset in free)


def parts_of_groups(dataset, group_of):
    """How many groups have rows in more than one part of the split; group_of: row id -> its group."""
    parts = {}
    for name, members in dataset.split.items():
        for row in members:
            parts.setdefault(group_of(dataset.row_ids[row]), set()).add(name)
    return sum(len(names) > 1 for names in parts.values())


def test_validation_that_is_carved_from_train_keeps_groups_whole(tmp_path):
    """Of a split that the data give without validation, of the rest of a fold, and of a drawn split."""
    texts, labels = toy_texts(240, 1)
    given = ["test" if i // 3 % 4 == 0 else "train" for i in range(240)]
    authors = [f"a{i // 3}" for i in range(240)]
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "author": authors, "part": given})
    for options in ({"split_column": "part"}, {"folds": 4, "fold": 2}, {}):
        for seed in range(3):
            dataset = load(path, group_column="author", split_seed=seed, **options)
            assert len(dataset.split["validation"]) >= 20
            assert parts_of_groups(dataset, lambda row: authors[int(row) - 1]) == 0, options


def test_copies_in_train_stay_on_one_side_of_a_carved_validation(tmp_path):
    texts, labels = toy_texts(120, 1)
    texts, labels = texts + [text.title() for text in texts], labels * 2
    given = ["train"] * 90 + ["test"] * 30
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "part": given * 2})
    dataset = load(path, split_column="part")
    assert len(dataset.split["validation"]) >= 20
    assert parts_of_groups(dataset, lambda row: texts[int(row) - 1].lower()) == 0
    assert len(dataset.report.leaked["validation"]) == 0


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_of_carved_validation_is_the_one_asked_for(share):
    labels, groups, names = np.arange(240) % 3, np.arange(240), ["a", "b", "c"]
    given = completed_split(labels, groups, ["train"] * 200 + ["test"] * 40, share, 0, names, [])
    folded = fold_split(labels, groups, (4, 2), share, 0, names, [])
    for split, rest in ((given, 200), (folded, 180)):
        assert len(split["validation"]) == pytest.approx(share * rest, abs=3)


def test_a_sample_keeps_groups_whole(tmp_path):
    """All rows of an author are in the sample or none."""
    texts, labels = toy_texts(240, 1)
    authors = [f"a{i // 3}" for i in range(240)]
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "author": authors})
    dataset = load(path, group_column="author", sample=60)
    rows = [int(dataset.row_ids[row]) - 1 for part in dataset.split.values() for row in part]
    assert abs(len(rows) - 60) <= 9
    assert all((author in {authors[row] for row in rows}) == (i in rows) for i, author in enumerate(authors))
    assert parts_of_groups(dataset, lambda row: authors[int(row) - 1]) == 0


def test_a_given_split_is_not_used_and_said(tmp_path, toy_csv):
    texts, labels = toy_texts(90, 0)
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "part": ["train"] * 80 + ["test"] * 10})
    found, tests = held_out(path, 3, split_column="part")
    assert sorted(chain(*tests), key=int) == [str(i) for i in range(1, 91)]
    assert found[0].columns["split"] is None
    assert any("fold 1 of 3" in note and "split in the data is not used" in note for note in found[0].report.notes)
    found, tests = held_out(path, 3, test=toy_csv(60, 5))
    assert len(list(chain(*tests))) == 150
    assert "toy-60-5.csv#1" in chain(*tests)
    assert any("split in the data is not used" in note for note in found[0].report.notes)
    assert not any("in the data is not used" in note for note in load(path, folds=3, fold=1).report.notes)


def test_unlabelled_copies_of_held_out_rows_are_left_out(tmp_path):
    texts, labels = toy_texts(60, 0)
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels})
    extra = write(tmp_path / "u.csv", {"text": [*texts, "something new"]})
    for fold in (1, 2):
        dataset = load(path, folds=2, fold=fold, unlabeled=extra)
        assert [dataset.texts[i] for i in dataset.split["unlabeled"]] == ["something new"]
        held = len(dataset.split["validation"]) + len(dataset.split["test"])
        assert dataset.report.unlabeled_left_out["copies of validation or test rows"] == held


@pytest.mark.parametrize(
    ("folds", "fold", "parts"),
    [
        (1, 1, ["data.folds = 1", "2 or more"]),
        (-3, 1, ["data.folds = -3", "2 or more"]),
        (5, 0, ["data.fold = 0", "1 to 5"]),
        (5, 6, ["data.fold = 6", "1 to 5"]),
        (0, 2, ["data.fold = 2", "data.folds is 0"]),
        (41, 1, ["'health' (40 rows in 40 groups)", "'sport'", "41 folds need at least 41", "fewer folds"]),
    ],
)
@pytest.mark.parametrize("split", ["auto", "paper"])
def test_folds_that_cannot_be(toy_csv, folds, fold, parts, split):
    with pytest.raises(UserError) as caught:
        load(toy_csv(120), folds=folds, fold=fold, split=split)
    assert all(part in str(caught.value) for part in parts)


def test_groups_not_rows_are_counted(tmp_path):
    texts, labels = toy_texts(60, 0)
    path = write(
        tmp_path / "t.csv", {"text": texts, "label": labels, "by": [f"{x}{i % 4}" for i, x in enumerate(labels)]}
    )
    with pytest.raises(UserError, match=r"5 folds need at least 5 of each class: 'health' \(20 rows in 4 groups\)"):
        load(path, folds=5, fold=1, group_column="by")
    assert load(path, folds=4, fold=1, group_column="by").report.shared_groups["test"] == 0


def test_a_group_larger_than_a_fold_is_said(tmp_path):
    texts, labels = toy_texts(120, 0)
    path = write(tmp_path / "t.csv", {"text": texts, "label": labels, "by": [max(0, i - 60) for i in range(120)]})
    dataset = load(path, folds=4, fold=1, group_column="by")
    assert any("one group has 61 rows, more than the 30 of an even fold" in note for note in dataset.report.notes)
    assert dataset.report.shared_groups == {"validation": 0, "test": 0}


@pytest.fixture
def configured(tiny_model, tmp_path, toy_csv):
    """fold -> the configuration of a student and a teacher that is fine-tuned first, on that fold."""
    larger = build("bert", tmp_path / "larger", num_hidden_layers=4)
    fast = {"epochs": 1, "precision": "float32", "device": "cpu", "learning_rate": 1e-3}

    def of(fold, folds=3, **table):
        asked = {
            "data": {"source": str(toy_csv(90)), "folds": folds, "fold": fold} | table,
            "student": {"model": str(tiny_model("bert"))},
            "teacher": {"model": str(larger)},
            "train": fast,
        }
        return config.build([config.read_preset("kd"), asked], METHODS)

    return of


def test_a_teacher_of_a_fold_has_the_same_test_rows_and_never_sees_them(configured, tmp_path):
    unlabeled = write(tmp_path / "u.csv", {"text": [f"new words {i}" for i in range(9)]})
    seen = []
    for fold in (1, 2, 3):
        for table in ({}, {"unlabeled": str(unlabeled)}):
            plan = planning.make(configured(fold, **table))
            taught, own = plan.teacher_plan, plan.dataset
            assert (taught.config.data.folds, taught.config.data.fold) == (3, fold)
            test = {own.texts[i] for i in own.split["test"]}
            learnt = {taught.dataset.texts[i] for name in ("train", "validation") for i in taught.dataset.split[name]}
            assert len(test) == 30
            assert not test & learnt
            assert not taught.config.output.test
            seen.append(taught.fingerprint)
    assert len(set(seen)) == 3  # a teacher a fold, whether or not the student has more texts


def test_a_fold_carried_out_leaves_a_teacher_run_without_the_test_rows(configured, tmp_path):
    result = pipeline.execute(
        planning.make(configured(2)), pipeline.Options(runs=tmp_path / "runs", show=Show(quiet=True))
    )
    own = json.loads((result.folder / "split.json").read_text())
    others = [path for path in (tmp_path / "runs").glob("*/split.json") if path.parent != result.folder]
    assert len(others) == 1
    taught = json.loads(others[0].read_text())
    assert set(own["test"]).isdisjoint(taught["train"] + taught["validation"])
    assert sorted(own["test"]) == sorted(taught["test"])
    assert not (others[0].parent / "predictions" / "test.parquet").exists()

    wrong = configured(3, unlabeled=str(write(tmp_path / "u.csv", {"text": ["some new words"]})))
    wrong = wrong.model_copy(update={"teacher": wrong.teacher.model_copy(update={"model": str(others[0].parent)})})
    with pytest.raises(UserError, match=r"the teacher was trained on \d+ of the 30 test rows"):  # that of another fold
        planning.make(wrong)


def test_a_configuration_without_folds_is_what_it_was(toy_csv):
    plain, off = load(toy_csv(120)), load(toy_csv(120), folds=0, fold=0)
    assert plain.split.keys() == off.split.keys()
    assert all(np.array_equal(plain.split[name], off.split[name]) for name in plain.split)
