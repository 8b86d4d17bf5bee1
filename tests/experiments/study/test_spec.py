"""A study: its units and their order, the recipes of its arms, what they share, and studies that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from randout.core import config
from randout.core.errors import UserError
from randout.experiments.study import spec
from randout.methods.builtin import METHODS

ARMS = {name: {"preset": name} for name in spec.ABLATION}


def made(**tables) -> spec.Study:
    return spec.make_study({"arms": ARMS} | tables)


def methods_of(one: spec.Study, arm: str, above=None) -> dict:
    return spec.arm_config(one, arm, METHODS, above).methods


def test_units_come_one_after_the_other_with_every_arm():
    one = made(seeds=[3, 1])
    assert [unit.name for unit in spec.units(one)] == ["seed 3", "seed 1"]
    assert [(unit.name, arm) for unit, arm in spec.cells(one)] == [
        (f"seed {seed}", arm) for seed in (3, 1) for arm in spec.ABLATION
    ]
    assert [unit.tables for unit in spec.units(one)] == [{"train": {"seed": 3}}, {"train": {"seed": 1}}]
    assert made().seeds == (1, 2, 3)
    assert made().baseline == "plain"


def test_folds_of_further_repeats_are_dealt_anew_and_the_first_keeps_its_names():
    once, twice = (made(folds=5, repeats=n, base={"data": {"split_seed": 7}}) for n in (1, 2))
    assert [unit.name for unit in spec.units(once)] == [f"fold {fold}" for fold in range(1, 6)]
    assert spec.units(twice)[:5] == spec.units(once)
    assert [unit.name for unit in spec.units(twice)[5:]] == [f"repeat 2, fold {fold}" for fold in range(1, 6)]
    assert spec.units(twice)[6].tables == {"data": {"folds": 5, "fold": 2, "split_seed": 8}}
    assert once.kind == "cv"
    assert made().kind == "compare"


def test_an_arm_is_its_preset_over_the_base_with_the_unit_on_top():
    one = made(
        base={"train": {"epochs": 7, "batch_size": 4}, "student": {"model": "a", "layers": [0]}},
        arms={"kd": {"preset": "kd", "train": {"batch_size": 8}}, "other": {"student": {"model": "b"}}},
    )
    found = spec.arm_config(one, "kd", METHODS, {"train": {"seed": 5}})
    assert (found.train.epochs, found.train.batch_size, found.train.seed) == (7, 8, 5)
    assert (found.student.model, found.student.layers) == ("a", (0,))
    assert set(found.methods) == {"ce", "kd"}
    other = spec.arm_config(one, "other", METHODS)
    assert (other.student.model, other.student.layers) == ("b", ())  # nothing of another encoder's student


def test_the_base_sets_methods_and_does_not_add_or_remove_any_of_a_named_preset():
    one = made(base={"methods": {"kd": {"weight": 0.25}, "randout": {"units": 3}}})
    assert {arm: set(methods_of(one, arm)) for arm in one.arms} == {
        "plain": {"ce"},
        "randout": {"ce", "randout"},
        "kd": {"ce", "kd"},
        "randout-kd": {"ce", "kd", "randout"},
    }
    assert methods_of(one, "kd")["kd"]["weight"] == 0.25
    assert methods_of(one, "randout-kd")["randout"]["units"] == 3
    off = made(base={"methods": {"kd": False}})
    assert "kd" in methods_of(off, "kd")
    own = made(base={"methods": {"kd": False}}, arms={"x": {}, "y": {"methods": {"randout": False}}})
    assert set(methods_of(own, "x")) == {"ce", "randout"}  # an arm without a preset takes what the base says
    assert set(methods_of(own, "y")) == {"ce"}


def test_teachers_are_trained_as_the_base_says_whatever_an_arm_or_a_trial_changes():
    one = made(
        base={"train": {"epochs": 2, "batch_size": 4}, "teacher": {"model": "t", "learning_rate": 1e-3}},
        arms={"kd": {"preset": "kd", "train": {"epochs": 9, "learning_rate": 1e-2}}, "plain": {"preset": "plain"}},
    )
    for above in ({}, {"train": {"batch_size": 64, "learning_rate": 0.1, "seed": 3}}):
        found = spec.arm_config(one, "kd", METHODS, above)
        assert (found.teacher.epochs, found.teacher.batch_size, found.teacher.learning_rate) == (2, 4, 1e-3)
        assert found.train.epochs == 9
    assert spec.arm_config(one, "plain", METHODS).teacher.model == "none"


def test_drop_one_gives_the_four_arms_of_table_6():
    whole = config.build([config.read_preset("randout-kd"), {"methods": {"kd": {"weight": 0.3}}}], METHODS)
    arms = spec.drop_one(whole, METHODS)
    one = spec.make_study({"arms": arms, "base": {}})
    found = {arm: set(methods_of(one, arm)) - {"ce"} for arm in arms}
    assert found == {
        "plain": set(),
        "without kd": {"randout"},
        "without randout": {"kd"},
        "kd+randout": {"kd", "randout"},
    }
    assert methods_of(one, "without randout")["kd"]["weight"] == 0.3
    assert methods_of(one, "kd+randout") == whole.methods
    assert one.baseline == "plain"
    kd = config.build([config.read_preset("kd")], METHODS)
    assert list(spec.drop_one(kd, METHODS)) == ["plain", "kd"]
    with pytest.raises(UserError, match="no method to drop"):
        spec.drop_one(config.build([config.read_preset("plain")], METHODS), METHODS)


def test_unequal_budgets_and_students_are_said():
    one = made(arms={"a": {"train": {"epochs": 2}}, "b": {"train": {"epochs": 3}, "student": {"layers": [1]}}})
    said = spec.budget_differences(one, {arm: spec.arm_config(one, arm, METHODS) for arm in one.arms})
    assert said == ["the arms do not have equal budgets: train.epochs is a 2, b 3", "the arms have different students"]
    same = made()
    assert spec.budget_differences(same, {arm: spec.arm_config(same, arm, METHODS) for arm in same.arms}) == []


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"arms": {}}, ["arms: found none"]),
        ({"sedes": [1]}, ["sedes", "Did you mean 'seeds'?", "a study has name"]),
        ({"tuning": {"trails": 3}}, ["tuning.trails", "Did you mean 'trials'?"]),
        ({"baseline": "plian"}, ["no arm 'plian'", "randout-kd", "Did you mean 'plain'?"]),
        ({"folds": 3}, ["folds: found 3", "at least 5"]),
        ({"folds": 3, "repeats": 2}, ["folds: found 3", "at least 5", "even repeated"]),
        ({"folds": -1}, ["folds: found -1"]),
        ({"repeats": 2}, ["repeats"]),
        ({"folds": 5, "base": {"data": {"folds": 3, "fold": 1}}}, ["base.data.folds", "leave it out"]),
        ({"folds": 5, "seeds": [1]}, ["seeds and folds"]),
        ({"seeds": [1, 2, 1]}, ["[1, 2, 1]", "once"]),
        ({"seeds": ["x"]}, ["seeds", "'x'"]),
        ({"metric": "acuracy"}, ["metric", "'acuracy'"]),
        ({"margin": 0}, ["margin"]),
        ({"name": "a/b"}, ["name"]),
        ({"arms": ["plain"]}, ["arms"]),
        ({"base": "plain"}, ["base"]),
        ({"base": {"data": "x.csv"}}, ["base.data", "'x.csv'", "table"]),
        ({"base": {"data": {"split_sed": 1}}}, ["base.data.split_sed", "Did you mean 'split_seed'?"]),
        ({"base": {"data": {"split_seed": "x"}}}, ["base.data.split_seed", "'x'"]),
        ({"arms": {"a": {"student": "bert"}}}, ["arms.a.student", "'bert'", "table"]),
    ],
)
def test_studies_that_are_refused_with_the_reason(tables, parts):
    with pytest.raises(UserError) as caught:
        made(**tables)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("arm", "parts"),
    [
        ({"preset": "plian"}, ["arms.a", "'plian'", "Did you mean 'plain'?"]),
        ({"train": {"epoch": 1}}, ["arms.a", "train.epoch", "Did you mean 'epochs'?"]),
        ({"methods": {"kd": {"wieght": 1}}}, ["arms.a", "methods.kd.wieght", "Did you mean 'weight'?"]),
        ({"trian": {"epochs": 1}}, ["arms.a", "trian", "Did you mean 'train'?"]),
    ],
)
def test_arms_that_are_refused_with_the_reason(arm, parts):
    with pytest.raises(UserError) as caught:
        spec.arm_config(made(arms={"a": arm}), "a", METHODS)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_paths_of_a_study_file_are_relative_to_it_and_it_is_named_after_it(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\n")
    file = tmp_path / "my study.toml"
    file.write_text(
        "seeds = [1]\n"
        '[base.data]\nsource = "rows.csv"\ntest = "elsewhere.csv"\n[base.student]\nmodel = "model"\n'
        '[base.teacher]\nmodel = "roberta-large"\n[arms.a]\ndata = {source = "rhmd:rows.csv"}\n'
    )
    one = spec.read_study(file)
    assert one.base["data"]["source"] == str(tmp_path / "rows.csv")
    assert one.base["data"]["test"] == "elsewhere.csv"  # not there: left as it stands
    assert one.base["student"]["model"] == str(tmp_path / "model")
    assert one.base["teacher"]["model"] == "roberta-large"
    assert one.arms["a"]["data"]["source"] == f"rhmd:{tmp_path / 'rows.csv'}"
    assert one.name == "my-study"
    file.write_text("seeds = [1]\nbaselin = 'a'\n[arms.a]\n")
    with pytest.raises(UserError, match=r"my study\.toml: baselin: .*Did you mean 'baseline'"):
        spec.read_study(file)
    file.write_text("seeds = [1\n")
    with pytest.raises(UserError, match="not valid TOML"):
        spec.read_study(file)
