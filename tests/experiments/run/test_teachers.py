"""Several teachers, from the recipe to the report: what each gives, what the run remembers of them, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from randout import api
from randout.core import config
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import change_places
from randout.experiments.run import pipeline, planning
from randout.experiments.run.plan import Plan
from randout.experiments.run.planning import make
from randout.experiments.run.reload import reload_plan, stored_config
from randout.experiments.run.soft_labels import column_order
from randout.experiments.run.student import Options, Stopped
from randout.experiments.study import comparison, spec
from randout.experiments.study.finished_runs import teacher_key
from randout.methods.builtin import METHODS
from randout.reporting.subjects import Model
from randout.stats.metrics import score
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import RunRecord
from support.hub_server import HubServer

SETTINGS = {"epochs": 1, "learning_rate": 2e-3, "precision": "float32", "batch_size": 16, "device": "cpu"}
Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny, toy_csv: Any) -> Path:
    """A finished run whose classes stand in another order than those of the students it teaches."""
    labels = {"data.labels": ["sport", "health", "money"]}
    runs = tmp_path_factory.mktemp("first")
    student = str(tiny_model("bert"))
    done = api.train(
        toy_csv(90, 1), student=student, teacher="none", preset="plain", settings=SETTINGS | labels, runs=runs
    )
    return done.folder


def tables(data: Path, student: Path, teacher: Path | str, more: list[Path], **methods: Any) -> dict[str, Any]:
    return {
        "data": {"source": str(data)},
        "student": {"model": str(student)},
        "teacher": {"model": str(teacher), "more": [str(place) for place in more]},
        "methods": {"ce": {}} | methods,
        "train": SETTINGS,
    }


@pytest.fixture
def asked(first: Path, tiny_model: Tiny, toy_csv: Any) -> dict[str, Any]:
    """A run to learn from (bert, its own order of classes), and a bare encoder (roberta) to fine-tune first."""
    weights = {"multi-teacher": {"weights": [1.0, 3.0]}}
    return tables(toy_csv(90, 1), tiny_model("distilbert"), first, [tiny_model("roberta")], **weights)


def plan_of(asked: dict[str, Any], *above: dict[str, Any]) -> Plan:
    return make(config.build([asked, *above], METHODS))


def test_two_teachers_end_to_end(asked: dict[str, Any], first: Path, tmp_path: Path) -> None:
    options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
    plan = plan_of(asked)
    done = pipeline.execute(plan, options)
    run = RunFolder(done.folder)
    taught = pipeline.taught(plan, options)
    assert taught is not None
    (other,) = taught.others
    beside = tmp_path / "runs" / other.name  # the bare encoder, fine-tuned by a run of its own
    assert "roberta" in other.name
    assert RunFolder(beside).record.identity.methods.keys() == {"ce"}

    classes = list(plan.dataset.id2label.values())
    assert classes == ["health", "money", "sport"]
    for teacher, found in ((first, taught), (beside, other)):
        saved = json.loads((teacher / "model" / "config.json").read_text())["id2label"]
        rows = plan.dataset.split["train"]
        _, own = api.predict(teacher, [plan.dataset.texts[row] for row in rows], device="cpu")
        columns = [[saved[str(at)] for at in range(3)].index(name) for name in classes]
        np.testing.assert_allclose(found.logits[rows].softmax(1).numpy(), own[:, columns], atol=1e-5)
        assert torch.isnan(found.logits[plan.dataset.split["test"]]).all(), "of the test rows it was not asked"
    assert not torch.equal(taught.logits.nan_to_num(), other.logits.nan_to_num())

    record = run.record.teacher
    assert record.name == taught.name
    assert [one.name for one in record.more] == [other.name]
    assert record.more[0].validation_accuracy == other.validation["accuracy"]
    assert stored_config(run).teacher.more == (other.name,), "a finished run names its teachers"
    assert str(tmp_path) not in (done.folder / "run.toml").read_text()
    assert reload_plan(run).config.methods["multi-teacher"]["weights"] == [1.0, 3.0]
    assert pipeline.execute(plan, options).new is False


def test_a_run_that_was_stopped_finds_its_teachers_again(asked: dict[str, Any], tmp_path: Path) -> None:
    """Stopped in a teacher's training: its `run.toml` has paths that hold when everything is moved together."""
    place = tmp_path / "here"
    place.mkdir()
    for table, key in (("data", "source"), ("student", "model"), ("teacher", "model")):
        _bring(asked[table], key, place)
    _bring(asked["teacher"]["more"], 0, place)
    options = Options(runs=place / "runs", deadline=1.0, show=Show(quiet=True))
    with pytest.raises(Stopped) as stopped:
        pipeline.execute(plan_of(asked), options)
    fingerprint = stopped.value.run.record.fingerprint
    text = (stopped.value.run.path / "run.toml").read_text()
    assert tomllib.loads(text)["teacher"]["more"] == ["../../roberta"]
    moved = place.rename(tmp_path / "there")
    run = RunFolder(moved / "runs" / stopped.value.run.path.name)
    again = stored_config(run)
    assert again.teacher.more == (str(moved / "roberta"),)
    plan = make(again)
    assert plan.fingerprint == fingerprint
    done = pipeline.execute(plan, Options(runs=moved / "runs", show=Show(quiet=True)))
    assert done.folder == run.path
    assert RunFolder(done.folder).finished


def test_a_further_teacher_from_the_hub_is_recorded_with_its_commit(
    first: Path, model_hub: HubServer, tiny_model: Tiny, toy_csv: Any, tmp_path: Path
) -> None:
    """Also for the repetition of the run after the branch has moved on."""
    commit = model_hub.commit("ada/other", first / "model")
    data = toy_csv(90, 1)
    with data.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    answers = [{"text": row["text"], "answer": row["label"], "confidence": 0.8} for row in rows]
    soft = tmp_path / "answers.json"
    soft.write_text(json.dumps(answers), encoding="utf-8")
    asked = tables(data, tiny_model("bert"), soft, [], **{"multi-teacher": {}})
    asked["teacher"]["more"] = ["ada/other@main"]
    plan = plan_of(asked)
    assert plan.config.teacher.more == (f"ada/other@{commit}",), "in run.toml while the run may have to be resumed"
    run = RunFolder(pipeline.execute(plan, Options(runs=tmp_path / "runs", show=Show(quiet=True))).folder)
    assert tomllib.loads((run.path / "run.toml").read_text())["teacher"]["more"] == [f"ada/other@{commit}"]
    (model,) = (first / "model").glob("*.safetensors")
    model_hub.commit("ada/other", {model.name: b"another"})
    assert make(stored_config(run)).fingerprint == plan.fingerprint


def _bring(holder: Any, key: Any, place: Path) -> None:
    """A copy of the file or folder that a setting names, in `place`, and the setting pointing at it."""
    source = Path(holder[key])
    copy = shutil.copytree if source.is_dir() else shutil.copy2
    holder[key] = str(copy(source, place / source.name))


def test_every_teacher_and_its_place_are_in_the_fingerprint(asked: dict[str, Any], tiny_model: Tiny) -> None:
    one, two = str(tiny_model("roberta")), str(tiny_model("electra"))
    unweighted = {"methods": {"multi-teacher": {"weights": []}}}
    found = [plan_of(asked, unweighted, {"teacher": {"more": m}}) for m in ([], [one], [two], [one, two], [two, one])]
    assert len({plan.fingerprint for plan in found}) == 5
    assert "more" not in found[0].identity, "runs of one teacher keep their fingerprint"
    assert [len(plan.more) for plan in found] == [0, 1, 1, 2, 2]
    table = found[1].identity["teacher"]
    assert table.keys() == {"model", "max_length", "truncation", "labels"}


def test_a_further_teacher_that_is_a_run(asked: dict[str, Any], first: Path, tiny_model: Tiny) -> None:
    """Of a classifier that is there already the length it reads decides, as with the first."""
    swap = {"teacher": {"model": str(tiny_model("roberta")), "more": [str(first)], "max_length": 20}}
    plan = plan_of(asked, swap)
    assert plan.identity["more"] == [{"model": plan.more[0].fingerprint(), "max_length": 20, "truncation": "head"}]
    assert plan_of(asked, swap, {"teacher": {"max_length": 30}}).identity["more"] != plan.identity["more"]


def test_a_pinned_revision_is_the_first_teachers(asked: dict[str, Any]) -> None:
    built = config.build([asked, {"teacher": {"revision": "abc"}}], METHODS)
    assert planning.teacher_config(built, "x").student.revision == "abc"
    assert planning.teacher_config(built, "y", revision="").student.revision == ""


# ---- what is refused


def refused(asked: dict[str, Any], *above: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        plan_of(asked, *above)
    return str(caught.value)


def test_further_teachers_that_nobody_learns_from(asked: dict[str, Any], tiny_model: Tiny) -> None:
    alone = {"methods": {"multi-teacher": False, "kd": {}}}
    assert "teacher.more: " in refused(asked, alone)
    assert "no method of this recipe learns from several" in refused(asked, alone)
    assert "there is no first teacher" in refused(asked, {"teacher": {"model": "none"}})
    words = {"student": {"model": "svm"}, "methods": {"multi-teacher": False}, "teacher": {"model": "none"}}
    assert "svm learns from labels only" in refused(asked, words)


def test_a_teacher_named_twice(asked: dict[str, Any], first: Path) -> None:
    again = [*asked["teacher"]["more"], str(first)]
    assert f"teacher.more: {first} is named twice" in refused(asked, {"teacher": {"more": again}})
    twice = asked["teacher"]["more"] * 2
    assert "Name each teacher once" in refused(asked, {"teacher": {"more": twice}})


def test_a_further_teacher_with_other_labels(
    asked: dict[str, Any], tiny_model: Tiny, first: Path, tmp_path: Path
) -> None:
    """Said before anything is trained, and without advice that is for the first teacher."""
    other = tmp_path / "other"
    shutil.copytree(first / "model", other)
    settings = json.loads((other / "config.json").read_text())
    settings["id2label"] = {"0": "A", "1": "B", "2": "C"}
    settings["label2id"] = {"A": 0, "B": 1, "C": 2}
    (other / "config.json").write_text(json.dumps(settings))
    said = refused(asked, {"teacher": {"more": [str(other)]}})
    assert "its labels are A, B, C; the data's are health, money, sport" in said
    assert "--teacher-labels" not in said


def test_weights_are_counted_before_anything_is_trained(asked: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(asked, {"methods": {"multi-teacher": {"weights": [1.0, 1.0, 1.0]}}})
    with pytest.raises(UserError, match="weights: 3 for 2 teachers"):
        pipeline.execute(plan, Options(runs=tmp_path, show=Show(quiet=True)))
    assert not list(tmp_path.glob("*roberta*")), "the teacher was trained all the same"


@pytest.mark.parametrize("place", ["first", "further"])
def test_logits_that_are_not_finite_reach_no_student(
    asked: dict[str, Any], first: Path, tmp_path: Path, place: str
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(first / "model", broken)
    weights = load_file(broken / "model.safetensors")
    weights["classifier.weight"][1] = weights["classifier.bias"][1] = 3e38  # finite, as the check of weights asks
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    above = {"teacher": {"model": str(broken), "more": []} if place == "first" else {"more": [str(broken)]}}
    if place == "first":
        above["methods"] = {"multi-teacher": {"weights": [1.0]}}
    with pytest.raises(Failure, match=r"teacher .*not finite for \d+ of \d+ texts"):
        pipeline.execute(plan_of(asked, above), Options(runs=tmp_path / "runs", show=Show(quiet=True)))


# ---- studies and reports


def test_paths_of_further_teachers_in_a_study_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "s.toml"
    file.write_text('[base.teacher]\nmodel = "x"\nmore = ["a", "b"]\n[arms.one]\nteacher = {more = ["a"]}\n')
    read = spec.read_study(file)
    assert read.base["teacher"]["more"] == [str(tmp_path / "a"), "b"]
    assert read.arms["one"]["teacher"]["more"] == [str(tmp_path / "a")]


def test_what_is_no_path_is_left_alone() -> None:
    given = {"teacher": {"more": "a", "model": ""}, "data": ["x"], "student": {"layers": [1]}}
    change_places(given, str.upper)
    assert given == {"teacher": {"more": "A", "model": ""}, "data": ["x"], "student": {"layers": [1]}}
    given = {"teacher": {"more": ["a", 3, ""]}}
    change_places(given, str.upper)
    assert given == {"teacher": {"more": ["A", 3, ""]}}


@pytest.mark.slow
def test_arms_that_learn_from_one_teacher_have_no_further_ones(asked: dict[str, Any], tmp_path: Path) -> None:
    """A study whose base names several: each arm takes as many as its methods learn from."""
    base = {name: asked[name] for name in ("data", "student", "teacher", "train")}
    off = dict.fromkeys(METHODS, False)
    arms = {
        name: {"methods": off | {"ce": {}} | own}
        for name, own in {"plain": {}, "kd": {"kd": {}}, "both": {"multi-teacher": {}}}.items()
    }
    made = spec.make_study({"base": base, "arms": arms, "seeds": [1]})
    tables = {arm: spec.arm_config(made, arm, METHODS).teacher for arm in arms}
    assert [tables[arm].model for arm in arms] == ["none", asked["teacher"]["model"], asked["teacher"]["model"]]
    assert [len(tables[arm].more) for arm in arms] == [0, 0, 1]
    folder = comparison.run_study(made, tmp_path / "study", Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    assert all(cell.state == "finished" for cell in folder.record.cells)
    runs = {cell.arm: folder.run(cell) for cell in folder.record.cells}
    assert "more" not in runs["kd"].record.identity.as_json()
    assert len(runs["both"].record.identity.more) == 1


def test_a_search_says_what_a_study_leaves_out(asked: dict[str, Any]) -> None:
    from randout.experiments.search.search import make_search
    from randout.experiments.search.space import SearchTable

    built = config.build([asked, {"methods": {"multi-teacher": False, "kd": {}}}], METHODS)
    with pytest.raises(UserError, match="no method of this recipe learns from several teachers"):
        make_search(built, SearchTable(space={"kd.weight": [0.2, 0.4]}))


def recorded(used: dict[str, Any] | None, **identity: Any) -> RunRecord:
    """The record of a finished run. identity: of its teachers."""
    known = {"data": {"sha256": "d", "labels": ["a", "b"]}, "split": {}, "student": {"weights": "w"}, "teacher": None}
    known |= {"methods": {}, "train": {"seed": 1}} | identity
    record = {"format": 1, "fingerprint": "f", "identity": known, "data": "d", "started": "", "teacher": used}
    return RunRecord.model_validate(record)


def test_arms_of_finished_runs_are_told_apart_by_all_their_teachers() -> None:
    def run(name: str, more: list[Any], names: list[str]) -> Any:
        teacher = {"name": name, "more": [{"name": one} for one in names]} if names else {"name": name}
        return SimpleNamespace(record=recorded(teacher, teacher="f", more=more))

    one, same = (run(f"t-s{seed}-12345678", ["g"], [f"u-s{seed}-abcdef01"]) for seed in (1, 2))
    assert teacher_key(one) == teacher_key(same) == ["t", "u"]
    assert teacher_key(run("t-s1-12345678", ["g"], ["v-s1-abcdef01"])) != teacher_key(one)
    there = {"model": "h", "max_length": "auto", "truncation": "head"}
    assert teacher_key(run("t-s1-12345678", [there], ["anything"])) == ["t", there]
    assert teacher_key(run("t-s1-12345678", [], [])) == ["t"]


def test_a_report_knows_all_teachers(asked: dict[str, Any], tmp_path: Path) -> None:
    """What each saw is checked, and the one that is no run beside the model is named as unknown."""
    from randout.reporting.checks import teacher_saw_held_out
    from randout.reporting.subjects import Arm, Subject

    used = {"name": "one", "more": [{"name": "two"}, {"name": "x"}]}
    record = recorded(used, teacher={"model": "a"}, more=["b", {"model": "c"}])
    for name, rows in (("one", ["1"]), ("two", ["2", "3"])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "split.json").write_text(json.dumps({"train": rows}))
        (folder / "run.json").write_text(json.dumps(recorded(None).as_json()))
    student = tmp_path / "student"
    student.mkdir()
    (student / "split.json").write_text(json.dumps({"validation": ["0"], "test": ["1", "2", "9"]}))
    (student / "run.json").write_text(json.dumps(record.as_json()))
    scores = score([0, 1], np.eye(2), {0: "a", 1: "b"})
    (student / "metrics.json").write_text(json.dumps({"validation": scores}))
    run = RunFolder(student)
    model = Model("student", student, run.record, "", run.metrics, run.history)
    assert model.teachers == ["a", "b", "c"]
    subject = Subject("", "runs", (Arm("student", (model,)),), "student")
    found = {check.code: check.explanation for check in teacher_saw_held_out(subject)}
    assert "2 of the 3 test rows (student)" in found["teacher-saw-held-out"]
    assert "student" in found["teacher-not-checked"]


class TestColumnOrder:
    """Which output of a teacher means which class of the data."""

    DATA: ClassVar = {0: "health", 1: "money", 2: "not sport"}

    def order(self, *names: str, named: list[str] | tuple[()] | None = ()) -> list[int]:
        return column_order(dict(enumerate(names)), self.DATA, named, "teacher")

    def test_names_that_differ_by_case_alone(self) -> None:
        assert self.order("Not_Sport", "HEALTH", "Money") == [1, 2, 0]
        assert self.order("x", "y", "z", named=["Not-Sport", "health", "money"]) == [1, 2, 0]
        assert self.order("not sport", "health", "money", named=None) == [1, 2, 0]

    def test_names_that_only_case_tells_apart(self) -> None:
        data = {0: "us", 1: "US"}
        assert column_order({0: "US", 1: "us"}, data, (), "teacher") == [1, 0]
        with pytest.raises(UserError, match="its labels are Us, uS"):
            column_order({0: "Us", 1: "uS"}, data, (), "teacher")

    def test_the_advice_is_in_the_order_of_the_teacher_and_cannot_be_pasted(self) -> None:
        with pytest.raises(UserError, match="NAME_OF_LABEL_0,NAME_OF_LABEL_1,NAME_OF_LABEL_2") as found:
            self.order("LABEL_0", "LABEL_1", "LABEL_2")
        assert "--teacher-labels health" not in str(found.value)
        with pytest.raises(UserError, match="exactly the 3 classes of the data; it has 4"):
            self.order("a", "b", "c", "d")
        with pytest.raises(UserError, match=r"2 names for the 3 outputs of teacher \(its own names.*: a, b, c\)"):
            self.order("a", "b", "c", named=["health", "money"])
