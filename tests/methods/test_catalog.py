"""The shelf as arms of a study, as lines for people, and as a comparison that is carried out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from randout.cli import app
from randout.core import config
from randout.core.errors import UserError
from randout.experiments.study.spec import arm_config, make_study, tuning_of
from randout.methods import catalog
from randout.methods.builtin import GOLD, KD_ALONE, METHODS
from randout.methods.compatibility import check_together
from randout.storage.study_folder import open_study
from randout.storage.study_record import ComparisonRecord, StudyData
from randout.testing.models import build


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    import sys

    monkeypatch.setattr(sys, "argv", ["randout", *words])
    with pytest.raises(SystemExit) as end:
        app.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_every_use_is_a_recipe_that_can_stand() -> None:
    for entry in catalog.entries().values():
        built = config.build([config.read_preset(config.DEFAULT_PRESET), entry.recipe], METHODS)
        assert list(built.methods) == [name for name in METHODS if name in entry.methods]
        assert built.methods[entry.method.name].items() >= json.loads(json.dumps(entry.settings)).items()
        check_together([METHODS[name].model_validate(built.methods[name]) for name in built.methods])


def test_what_may_be_tuned_is_a_setting_of_the_method() -> None:
    for entry in catalog.entries().values():
        for key, values in entry.space.items():
            name, _, setting = key.partition(".")
            assert setting in METHODS[name].model_fields, key
            assert len(set(map(str, values))) == len(values) > 1, key
            for value in values:
                METHODS[name].model_validate(entry.settings | {setting: value})


def test_every_method_says_what_it_is() -> None:
    for row in catalog.rows():
        assert row["summary"], row["name"]
        assert row["source"], row["name"]
        assert row["cost"].endswith("x"), row["name"]
        assert len(row["equation"].splitlines()) > 2, row["name"]
        assert all(option["about"] for option in row["options"].values()), row["name"]
        assert row["hooks"], row["name"]
        assert row["kind"] != "distillation" or row["teacher"] or "self" in row["name"] or "weidc" in row["name"]


def test_a_study_of_methods() -> None:
    study = make_study({"methods": [KD_ALONE, "randout", "randout-kd"], "tuning": {"trials": 4}})
    assert list(study.arms) == ["plain", "kd", "randout", "randout-kd"]
    assert study.baseline == "plain"
    assert study.against == {KD_ALONE: ("randout-kd",)}
    assert tuning_of(study, "plain").space == {"train.learning_rate": [5e-5, 1e-4, 2e-4]}
    assert tuning_of(study, "randout").space.keys() == {"train.learning_rate", *catalog.entries()["randout"].space}
    assert set(arm_config(study, "plain", METHODS).methods) == {GOLD}
    assert set(arm_config(study, "randout-kd", METHODS).methods) == {GOLD, "kd", "randout"}
    again = make_study(study.model_dump(mode="json"))
    assert again == study, "its own words make the same study"


def test_what_lies_under_all_arms_reaches_each(toy_csv: Any) -> None:
    base = {"methods": {"randout": {"units": 7}, KD_ALONE: {"weight": 0.25}}}
    study = make_study({"methods": ["randout", "randout-kd"], "base": base, "arms": {"mine": {"preset": "plain"}}})
    assert list(study.arms)[-1] == "mine"
    assert arm_config(study, "randout", METHODS).methods["randout"]["units"] == 7
    assert arm_config(study, "randout-kd", METHODS).methods[KD_ALONE]["weight"] == 0.25
    assert KD_ALONE not in arm_config(study, "randout", METHODS).methods


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"methods": ["mixup"]}, "no method 'mixup'"),
        ({"methods": ["randout"], "against": {"kd": ["randout"]}}, "against.kd: no arm 'kd'"),
        ({"methods": ["randout"], "spaces": {"other": {}}}, "spaces: no arm 'other'"),
    ],
)
def test_what_cannot_be(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_study(tables | ({"tuning": {"trials": 1}} if "spaces" in tables else {}))


def test_further_teachers_are_kept_as_places_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "models" / "second").mkdir(parents=True)
    arm = {"teacher": {"more": [str(tmp_path / "models" / "second"), "scibert"]}}
    record = ComparisonRecord(kind="compare", name="one", metric="accuracy", data=StudyData(sha256=""))
    open_study(tmp_path / "studies" / "one", {"arms": {"multi-teacher": arm}}, record, (), dict)
    written = config.read_toml(tmp_path / "studies" / "one" / "study.toml", "study")
    assert written["arms"]["multi-teacher"]["teacher"]["more"] == ["../../models/second", "scibert"]


def test_methods_are_listed_and_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call(capsys, monkeypatch, "methods")
    assert code == 0
    header, *lines, _, legend, _ = out.splitlines()
    assert header.split()[:4] == ["method", "kind", "cost", "hooks"]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(catalog.entries())
    assert legend.startswith("cost: ")
    code, out, _ = call(capsys, monkeypatch, "methods", "randout")
    assert code == 0
    assert "eq. 3" in out
    assert "[methods.randout]" in out
    code, out, _ = call(capsys, monkeypatch, "methods", "--json")
    assert {row["name"] for row in json.loads(out)} == set(catalog.entries())
    code, _, err = call(capsys, monkeypatch, "methods", "randuot")
    assert code == 2
    assert "randout" in err


def test_a_recipe_is_what_the_explanation_ends_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, entry in catalog.entries().items():
        _, out, _ = call(capsys, monkeypatch, "methods", name)
        path = tmp_path / "recipe.toml"
        path.write_text(out[out.index("\n[methods.") :], encoding="utf-8")
        built = config.build([config.read_recipe(path)], METHODS)
        assert set(built.methods) == set(entry.methods) - ({KD_ALONE} if name == "randout-kd" else set()) or (
            set(built.methods) == set(entry.methods)
        )


@pytest.mark.slow
def test_compare_methods_is_a_study_ordered_by_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_csv: Any, tiny_model: Any
) -> None:
    """Two seeds, two trials an arm; each against plain, the distillation against KD alone as well."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", str(toy_csv(90, 1)), "--methods", "randout,randout-kd", "--seeds", "2", "--trials", "2"]
    student = build("bert", tmp_path / "wide", hidden_size=64)  # the noise is tuned on up to 64 units
    words += ["--student", str(student), "--teacher", str(tiny_model("roberta")), "-o", "out", "--quiet"]
    words += ["--set", "epochs=1", "--set", "precision=float32", "--set", "learning_rate=1e-3"]
    code, out, err = call(capsys, monkeypatch, *words)
    assert code == 0, err
    record = json.loads(Path("out/study.json").read_text())
    assert record["arms"] == ["plain", "kd", "randout", "randout-kd"]
    assert {entry["trials"] for entry in record["tuning"].values()} == {2}
    rows = record["result"]["rows"]
    assert [row["name"] for row in rows if row["against"] == "kd"] == ["randout-kd"]
    against = [row for row in rows if row["against"] == "plain"]
    assert {row["name"] for row in against} == {"kd", "randout", "randout-kd"}
    estimates = [row["difference"]["estimate"] for row in against]
    assert estimates == sorted(estimates, reverse=True)
    assert "randout-kd (against kd)" in out
    code, again, _ = call(capsys, monkeypatch, *words)
    assert (code, again) == (0, out)


@pytest.mark.slow
def test_arms_that_cannot_run_are_refused_or_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_csv: Any, tiny_model: Any
) -> None:
    """One that is named is refused with the reason; of all, it is left out and said."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", str(toy_csv(90, 1)), "--student", str(tiny_model("mpnet")), "--dry-run"]
    code, _, err = call(capsys, monkeypatch, *words, "--teacher", "none", "--methods", "randout,attention-noise")
    assert code == 2
    assert "arms.attention-noise cannot run: methods.attention-noise: not supported because nothing can be added" in err
    code, _, err = call(capsys, monkeypatch, *words, "--teacher", "none", "--methods", "hinton")
    assert code == 2
    assert "learns from a teacher, and there is none" in err
    code, out, _ = call(capsys, monkeypatch, *words, "--teacher", "none", "--methods", "all")
    assert code == 0
    left_out = {line.split()[1] for line in out.splitlines() if " is left out: " in line}
    assert {"attention-noise", "attention-noise-virtual", "kd", "hinton", "layer-matching"} <= left_out
    assert not left_out & {"randout", "freelb", "self-distillation"}
    words[3] = str(tiny_model("bert"))
    code, out, _ = call(capsys, monkeypatch, *words, "--teacher", str(tiny_model("roberta")), "--methods", "all")
    assert "tinybert is left out: methods.layer-matching.attention: 1.0, but teacher and student have" in out


def test_a_screening_gives_no_verdicts(toy_csv: Any, tiny_model: Any, tmp_path: Path) -> None:
    from randout.core.console import Show
    from randout.experiments.run.student import Options
    from randout.experiments.study.comparison import run_study
    from randout.experiments.study.results import result_lines

    base = {
        "data": {"source": str(toy_csv(90, 1))},
        "student": {"model": str(tiny_model("bert"))},
        "train": {"epochs": 1, "precision": "float32"},
    }
    study = make_study({"methods": ["randout"], "seeds": [1], "base": base, "screening": True})
    folder = run_study(study, tmp_path / "study", Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    lines = result_lines(folder.record)
    assert lines[0].endswith("result over 1 seed (screening: no verdict)")
    assert folder.record.result.rows[1].words == "screening: no verdict"
