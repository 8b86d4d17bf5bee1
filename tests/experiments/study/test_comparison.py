"""Studies: stopped anywhere they end in the same result; folds keep their test rows to themselves; honest comparisons."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from randout.core import config
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.experiments.run import pipeline, planning
from randout.experiments.run.student import Options, Stopped
from randout.experiments.run.student_kinds import EncoderStudent
from randout.experiments.study import comparison, results
from randout.experiments.study.finished_runs import compare_finished
from randout.experiments.study.spec import Study, make_study
from randout.experiments.study.study_warnings import of_study
from randout.methods.builtin import METHODS
from randout.stats.verdicts import compare_folds, compare_methods
from randout.storage import study_folder
from randout.storage.run_folder import RunFolder
from randout.testing.models import build
from support import training
from support.label_sets import write_label_sets
from support.tables import load

training.torch.set_num_threads(1)
FAST = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "precision": "float32", "device": "cpu"}
ARMS = {"plain": {"preset": "plain"}, "kd": {"preset": "kd"}}


class Killed(BaseException):
    """What stands for kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def base(tiny_model, toy_csv, tmp_path_factory):
    """What lies under every arm: 90 toy rows, a student of three blocks, a teacher of four."""
    larger = build("bert", tmp_path_factory.mktemp("teacher") / "larger", num_hidden_layers=4)
    return {
        "data": {"source": str(toy_csv(90))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": str(larger)},
        "train": FAST,
    }


@pytest.fixture
def made(base):
    """A study of two arms and two seeds, changed as asked."""
    return lambda **tables: make_study({"base": base, "arms": ARMS, "seeds": [1, 2], "name": "s"} | tables)


def go(study: Study, folder: Path, **options: Any) -> study_folder.StudyFolder:
    asked = {"runs": folder.parent / "runs", "show": Show(quiet=True)}
    return comparison.run_study(study, folder, Options(**(asked | options)))


def lasting(folder: Path) -> dict[str, Any]:
    """`study.json` without times."""
    found = json.loads((folder / "study.json").read_text())
    for cell in found["cells"]:
        del cell["seconds"]
    return {key: value for key, value in found.items() if key not in ("started", "finished")}


def runs_of(folder: study_folder.StudyFolder, arm: str) -> list[RunFolder]:
    return [folder.run(cell) for cell in folder.record.cells if cell.arm == arm]


def predictions_of(run: RunFolder) -> Any:
    return parquet.read_table(run.path / "predictions" / "test.parquet")


def counted_trainings(monkeypatch) -> list[str]:
    """The names of runs that are trained from now on."""
    found: list[str] = []
    real = EncoderStudent.train

    def train(student, plan, *rest):
        found.append(plan.name)
        return real(student, plan, *rest)

    monkeypatch.setattr(EncoderStudent, "train", train)
    return found


def failing(monkeypatch, when):
    real = EncoderStudent.train

    def train(student, plan, *rest):
        if when(plan):
            raise Failure("loss ce is nan at epoch 1, batch 2")
        return real(student, plan, *rest)

    monkeypatch.setattr(EncoderStudent, "train", train)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The study of two arms and two seeds, left alone."""
    study = make_study({"base": base, "arms": ARMS, "seeds": [1, 2], "name": "s"})
    return go(study, tmp_path_factory.mktemp("finished") / "s")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study and its runs, as deep in the tree: a study names its data by the way to them."""
    shutil.copytree(finished.path.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "s"


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_the_result_is_that_of_predictions_compared_by_hand(finished):
    plain, kd = runs_of(finished, "plain"), runs_of(finished, "kd")
    assert [run.record.identity.train.seed for run in plain + kd] == [1, 2, 1, 2]
    tables = {"plain": [predictions_of(run) for run in plain], "kd": [predictions_of(run) for run in kd]}
    first = tables["plain"][0]
    code = {name: at for at, name in enumerate(["health", "money", "sport"])}
    expected = compare_methods(
        {arm: np.array([[code[p] for p in t["prediction"].to_pylist()] for t in two]) for arm, two in tables.items()},
        np.array([code[name] for name in first["label"].to_pylist()]),
        first["group"].to_numpy(),
        "plain",
        3,
    )
    result = finished.record.result
    assert result.as_json()["rows"] == results.as_result(expected, "", [], {}).as_json()["rows"]
    assert result.head == "2 of 2 seeds"
    assert "nothing was tuned" in result.notes[-1]
    assert finished.record.finished
    for run, values in zip(plain, expected[0].values, strict=True):
        assert run.metrics.test.accuracy == pytest.approx(values)


def test_seeds_vary_the_teacher_and_arms_share_it(finished):
    teachers = [run.record.identity.teacher for run in runs_of(finished, "kd")]
    assert len(set(teachers)) == 2
    assert [run.record.identity.teacher for run in runs_of(finished, "plain")] == [None, None]


def test_killed_anywhere_and_started_again_it_ends_in_the_same_result(made, finished, tmp_path, monkeypatch):
    calls = {"left": float("inf"), "now": 0.0}

    def counted(function):
        def call(*words, **named):
            calls["now"] += 1
            if calls["now"] == calls["left"]:
                raise Killed
            found = function(*words, **named)
            if calls["now"] == calls["left"] - 0.5:
                raise Killed
            return found

        return call

    with monkeypatch.context() as patch:
        patch.setattr(study_folder.StudyFolder, "save", counted(study_folder.StudyFolder.save))
        patch.setattr(EncoderStudent, "train", counted(EncoderStudent.train))
        patch.setattr(pipeline, "clean", counted(pipeline.clean))
        heads = []
        for at in range(1, 60):
            calls |= {"left": 1 + 1.5 * (at - 1), "now": 0}  # by turns before a call and after one
            try:
                go(made(), tmp_path / "s")
                break
            except Killed:
                if (tmp_path / "s" / "study.json").exists():
                    result = study_folder.read_record(tmp_path / "s").record.result
                    heads.append(result.head if result else None)
    assert at > 5
    assert lasting(tmp_path / "s") == lasting(finished.path)
    assert "1 of 2 seeds" in heads
    assert [head for head in heads if head] == sorted(head for head in heads if head)
    openings = (tmp_path / "runs" / "test-openings.jsonl").read_text().splitlines()
    assert len(openings) == 4


@pytest.mark.slow
def test_a_prefix_is_balanced_and_a_time_limit_goes_on(made, finished, tmp_path, monkeypatch):
    trained = counted_trainings(monkeypatch)
    real, stop_at = pipeline.execute, [3]

    def execute(plan, options):
        stop_at[0] -= 1
        if stop_at[0] < 0:
            raise Stopped("the time limit", RunFolder(options.runs / plan.name))
        return real(plan, options)

    monkeypatch.setattr(pipeline, "execute", execute)
    # the teacher's training goes through the same door: plain 1, kd 1 and its teacher, then the limit
    with pytest.raises(Stopped):
        go(made(), tmp_path / "s")
    half = study_folder.read_record(tmp_path / "s").record
    assert half.result.head == "1 of 2 seeds"
    assert {row.name: len(row.values) for row in half.result.rows} == {"plain": 1, "kd": 1}
    assert half.finished is None
    stop_at[0] = 99
    done = go(made(), tmp_path / "s")
    assert lasting(done.path) == lasting(finished.path)
    assert len(trained) == len(set(trained)) == 6  # four students and two teachers, none of them twice


def test_adding_seeds_goes_on_and_nothing_is_trained_twice(made, copied, monkeypatch):
    trained = counted_trainings(monkeypatch)
    again = go(made(), copied)
    assert trained == []
    assert again.record.result.head == "2 of 2 seeds"
    more = go(made(seeds=[1, 2, 3]), copied)
    assert more.record.result.head == "3 of 3 seeds"
    assert len(trained) == 3  # two students and a teacher
    elsewhere = go(made(name="t"), copied.parent / "t")  # another study of the same runs finds them
    assert len(trained) == 3
    assert [row.values for row in elsewhere.record.result.rows] == [row.values for row in again.record.result.rows]


def test_a_run_that_was_deleted_is_trained_again(made, copied, finished, monkeypatch):
    folder = study_folder.read_record(copied)
    shutil.rmtree(folder.run(folder.record.cells[-1]).path)
    trained = counted_trainings(monkeypatch)
    again = go(made(), copied)
    assert len(trained) == 1
    assert lasting(again.path) == lasting(finished.path)


def test_another_study_or_changed_data_at_the_same_place_are_refused(made, copied, base, tmp_path):
    with pytest.raises(UserError, match=r"other settings \(base differ\)"):
        go(made(base=base | {"train": FAST | {"epochs": 2}}), copied)
    with pytest.raises(UserError, match=r"other settings \(baseline, metric differ\)"):
        go(made(metric="macro_f1", baseline="kd"), copied)
    rows = tmp_path / "rows.csv"
    rows.write_bytes(Path(base["data"]["source"]).read_bytes())
    one = made(base=base | {"data": {"source": str(rows)}}, arms={"plain": ARMS["plain"]}, seeds=[1])
    go(one, tmp_path / "t")
    rows.write_text(rows.read_text() + "some more,health\n")
    with pytest.raises(UserError, match="the data changed since"):
        go(one, tmp_path / "t")


@pytest.mark.parametrize("what", ["unlabelled texts", "soft labels"])
def test_what_only_a_later_arm_learns_from_must_not_change(what, made, base, tmp_path):
    rows = load(base["data"]["source"])
    file = tmp_path / "file.csv"
    if what == "soft labels":
        names = list(rows.id2label.values())
        lines = [f"{text},{','.join(['0.2'] * (len(names) - 1))},0.6\n" for text in rows.texts]
        file.write_text(f"text,{','.join(f'prob_{name}' for name in names)}\n" + "".join(lines))
        own = {"teacher": {"model": str(file)}}
    else:
        file.write_text("text\na doctor and a nurse\n")
        own = {"data": base["data"] | {"unlabeled": str(file)}}
    study = made(base=base | own)

    def opened() -> None:
        options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
        comparison.open_comparison(study, tmp_path / "s", options, comparison.Datasets())

    opened()
    opened()
    file.write_text(file.read_text().replace("0.6\n", "0.5\n").replace("doctor and", "doctor or"))
    with pytest.raises(UserError, match="the unlabelled texts or the soft labels changed since"):
        opened()


def test_a_preset_leaves_out_what_does_not_suit_the_data_and_a_named_method_is_refused(made, base, tmp_path):
    data = {"source": str(write_label_sets(tmp_path / "sets.csv", 90)), "multi_label": True}
    sets = base | {"data": data}
    one = made(base=sets, arms={"plain": {"preset": "plain"}, "auto": {"preset": "auto"}})
    _, notes, _ = comparison.check_arms(one, comparison.Datasets())
    assert any(note.startswith("auto: methods: contrastive left out: not supported for multi-label") for note in notes)
    named = made(
        base=sets, arms={"plain": {"preset": "plain"}, "own": {"preset": "kd", "methods": {"contrastive": {}}}}
    )
    with pytest.raises(UserError, match="own cannot run: contrastive left out: not supported for multi-label"):
        comparison.check_arms(named, comparison.Datasets())


def test_a_failed_run_is_kept_said_and_tried_again(made, copied, finished, monkeypatch, capsys):
    before = study_folder.read_record(copied)
    (cell,) = (cell for cell in before.record.cells if (cell.arm, cell.unit[-1]) == ("kd", "1"))
    shutil.rmtree(before.run(cell).path)
    with monkeypatch.context() as patch:
        failing(patch, lambda plan: plan.config.train.seed == 1 and "kd" in plan.config.methods)
        folder = go(made(), copied)
    result = folder.record.result
    assert result.head == "1 of 2 seeds"
    assert "failed, and their units are left out: seed 1 kd" in result.notes
    assert folder.record.finished is None
    bad = next(cell for cell in folder.record.cells if cell.state == "failed")
    assert "nan at epoch 1" in bad.error
    assert "tried again" in capsys.readouterr().err
    assert lasting(go(made(), copied).path) == lasting(finished.path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"arms": ARMS | {"bad": {"student": {"max_length": 9999}}}}, ["arms.bad cannot run", "takes at most 64"]),
        ({"arms": ARMS | {"bad": {"data": {"split_seed": 7}}}}, ["arms.bad cannot run", "test rows differ from those"]),
        ({"arms": ARMS | {"bad": {"output": {"test": False}}}}, ["arms.bad cannot run", "output.test is false"]),
        ({"tuning": {"space": {"kd.wieght": [1]}}}, ["arms.kd cannot run", "Did you mean 'weight'?"]),
        ({"tuning": {"trials": 2}}, ["cannot run", "search.space: empty"]),
        ({"seeds": [], "folds": 40}, ["folds", "30 groups", "40 folds need at least 40"]),
    ],
)
def test_an_arm_that_cannot_run_is_refused_before_any_training(made, tmp_path, changes, parts):
    with pytest.raises(UserError) as caught:
        go(made(**changes), tmp_path / "s")
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not list(tmp_path.rglob("run.json"))


def test_arms_on_other_data_are_refused(made, tmp_path, toy_csv):
    arms = ARMS | {"other": {"preset": "plain", "data": {"source": str(toy_csv(90, 5))}}}  # the same row numbers
    with pytest.raises(UserError, match=r"arms\.other cannot run: its test rows differ from those"):
        go(make_study({"base": made().base, "arms": arms, "seeds": [1]}), tmp_path / "s")


@pytest.mark.slow
def test_tuning_chooses_on_validation_at_the_first_seed_and_counts_its_trials(made, tmp_path):
    tuning = {"space": {"learning_rate": [1e-5, 4e-3], "kd.weight": [0.5]}}
    folder = go(made(tuning=tuning), tmp_path / "s")
    tuned = folder.record.tuning
    assert set(tuned) == {"plain-seed-1", "kd-seed-1"}
    assert folder.record.result.notes[-1].endswith("opened: plain 2, kd 2")
    for arm in ARMS:
        entry = tuned[f"{arm}-seed-1"]
        search = study_folder.read_record(tmp_path / "s" / "tuning" / f"{arm}-seed-1").record
        assert entry.settings == search.trials[search.best].settings
        for run in runs_of(folder, arm):
            assert run.record.identity.train.learning_rate == entry.settings["train.learning_rate"]
    assert "kd.weight" not in tuned["plain-seed-1"].settings
    assert not list((tmp_path / "s" / "tuning").rglob("test.parquet"))
    assert len({run.record.identity.teacher for run in runs_of(folder, "kd")}) == 2  # of two seeds
    with pytest.raises(UserError, match=r"tuned at seed 1\. Keep that seed first"):
        go(made(tuning=tuning, seeds=[2, 3]), tmp_path / "s")


@pytest.fixture(scope="module")
def five(base, tmp_path_factory):
    """Five folds of two arms with a nested search."""
    tuning = {"space": {"kd.weight": [0.5, 1.0]}, "trials": 1}
    study = make_study({"base": base, "arms": ARMS, "folds": 5, "name": "cv", "tuning": tuning})
    return go(study, tmp_path_factory.mktemp("five") / "cv")


def teachers_of(folder: study_folder.StudyFolder) -> dict[str, RunFolder]:
    """By fold, the run of the teacher that the student of the arm kd learned from."""
    known = {run.record.fingerprint: run for run in map(RunFolder, (folder.path.parent / "runs").glob("*/"))
             if run.exists}  # fmt: skip
    cells = [cell for cell in folder.record.cells if cell.arm == "kd"]
    return {cell.unit: known[folder.run(cell).record.identity.teacher] for cell in cells}


def leaks(folder: study_folder.StudyFolder) -> dict[str, set[str]]:
    """By fold, the test rows that the fold's teacher was trained or validated on."""
    found = {}
    for cell in folder.record.cells:
        if cell.arm == "kd":
            taught = teachers_of(folder)[cell.unit].read("split.json")
            found[cell.unit] = set(folder.run(cell).read("split.json")["test"]) & {
                *taught["train"],
                *taught["validation"],
            }
    return found


@pytest.mark.slow
def test_a_fold_s_teacher_never_saw_its_test_rows(five):
    assert leaks(five) == {f"fold {fold}": set() for fold in range(1, 6)}
    assert len({run.path for run in teachers_of(five).values()}) == 5
    rows = [row for run in runs_of(five, "kd") for row in run.read("split.json")["test"]]
    assert sorted(rows, key=int) == [str(row) for row in range(1, 91)]  # every row is tested once
    for unit, run in teachers_of(five).items():
        assert not (run.path / "predictions" / "test.parquet").exists()
        said = tomllib.loads((run.path / "run.toml").read_text())["data"]  # what a replay of it would read
        assert f"fold {said['fold']} of {said['folds']}" == f"{unit} of 5"


@pytest.mark.slow
def test_a_teacher_of_the_ordinary_split_would_be_caught(base, tmp_path, monkeypatch):
    """The test above can fail: with folds dropped from a teacher's configuration it does."""
    real = planning.teacher_config

    def without_folds(one, name):
        made = real(one, name)
        return made.model_copy(update={"data": made.data.model_copy(update={"folds": 0, "fold": 0})})

    monkeypatch.setattr(planning, "teacher_config", without_folds)
    monkeypatch.setattr(planning, "make", _reading_anew(planning.make))
    study = make_study({"base": base, "arms": {"kd": ARMS["kd"]}, "folds": 5, "name": "cv"})
    folder = go(study, tmp_path / "cv")
    assert any(leaks(folder).values())


def _reading_anew(make):
    def call(one, dataset=None):
        return make(one, dataset if dataset is not None and one.data.folds else None)

    return call


@pytest.mark.slow
def test_nested_search_stays_inside_each_fold(five):
    assert set(five.record.tuning) == {f"kd-fold-{fold}" for fold in range(1, 6)}
    for fold in range(1, 6):
        search = study_folder.read_record(five.path / "tuning" / f"kd-fold-{fold}")
        run = next(r for r, c in ((five.run(c), c) for c in five.record.cells) if c.unit == f"fold {fold}")
        held = set(run.read("split.json")["test"])
        for trial in search.record.trials:
            split = search.run(trial).read("split.json")
            assert held == set(split["test"])
            assert held.isdisjoint([*split["train"], *split["validation"]])
            scored = parquet.read_table(search.run(trial).path / "predictions" / "validation.parquet")
            assert set(scored["row"].to_pylist()) == set(split["validation"])
    assert not list((five.path / "tuning").rglob("test.parquet"))
    notes = five.record.result.notes
    assert "validation trials before the test split was opened: plain 0, kd 5" in notes
    assert not any("optimistic" in note for note in notes)


@pytest.mark.slow
@pytest.mark.slow
def test_a_nested_cross_validation_killed_anywhere_ends_in_the_same_result(five, base, tmp_path, monkeypatch):
    shutil.copytree(
        five.path.parent / "runs", tmp_path / "runs"
    )  # the folds' runs are found, their searches begin anew
    tuning = {"space": {"kd.weight": [0.5, 1.0]}, "trials": 1}
    study = make_study({"base": base, "arms": ARMS, "folds": 5, "name": "cv", "tuning": tuning})
    calls = {"left": 0, "now": 0}
    real = study_folder.StudyFolder.save

    def save(folder):
        calls["now"] += 1
        if calls["now"] == calls["left"]:
            raise Killed
        real(folder)

    monkeypatch.setattr(study_folder.StudyFolder, "save", save)
    for left in (1, 6, 11, 16, 10**6):
        calls |= {"left": left, "now": 0}
        try:
            go(study, tmp_path / "cv")
        except Killed:
            continue
    assert lasting(tmp_path / "cv") == lasting(five.path)


@pytest.mark.slow
def test_folds_are_compared_as_by_hand(five):
    values = {arm: [r.metrics.test.accuracy for r in runs_of(five, arm)] for arm in ARMS}
    sizes = [run.read("split.json") for run in runs_of(five, "plain")]
    expected = compare_folds(
        {arm: np.array(each) for arm, each in values.items()},
        np.array([len(split["train"]) for split in sizes]),
        np.array([len(split["test"]) for split in sizes]),
        "plain",
    )
    found = five.record.result
    assert found.head == "5 of 5 folds"
    for row, other in zip(results.rows_of(found), expected, strict=True):
        assert (row.name, row.words, row.estimand) == (other.name, other.words, other.estimand)
        assert row.values == pytest.approx(other.values)
        assert (row.low, row.high) == pytest.approx((other.low, other.high))
    assert results.rows_of(found)[1].difference.estimate == pytest.approx(expected[1].difference.estimate)


@pytest.mark.slow
def test_the_paper_s_protocol_tunes_once_and_says_that_it_is_optimistic(base, tmp_path):
    tables = {"base": base, "arms": {"plain": ARMS["plain"]}, "folds": 5, "protocol": "paper", "name": "cv"}
    folder = go(make_study(tables | {"tuning": {"space": {"batch_size": [16, 32]}}}), tmp_path / "cv")
    assert set(folder.record.tuning) == {"plain-ordinary-split"}
    assert any("optimistic" in note for note in folder.record.result.notes)
    chosen = folder.record.tuning["plain-ordinary-split"].settings["train.batch_size"]
    assert {run.record.identity.train.batch_size for run in runs_of(folder, "plain")} == {chosen}
    trial = RunFolder(tmp_path / "cv" / "tuning" / "plain-ordinary-split" / "trials" / "0000")
    ordinary = load(base["data"]["source"])
    assert set(trial.read("split.json")["test"]) == {ordinary.row_ids[row] for row in ordinary.split["test"]}


def scored(units: list[str]) -> results.StudyPredictions:
    """One arm with made-up predictions at some units, and another that is always right."""
    draw = np.random.default_rng(0)
    labels = [draw.integers(0, 3, 20) for _ in units]
    logits = {"a": [draw.normal(size=(20, 3)) for _ in units], "b": [np.eye(3)[y] for y in labels]}
    made = {arm: [each.argmax(1) for each in rows] for arm, rows in logits.items()}
    return results.StudyPredictions(units, made, logits, labels, [np.arange(20) for _ in units], [80] * len(units), 3)


@pytest.mark.parametrize(
    ("done", "used", "repeats"),
    [
        (range(10), range(10), 2),
        (range(9), range(5), 1),
        (range(5), range(5), 1),
        (range(3), range(3), 1),
        ([0, 1, 2, 3, 5, 6, 7, 8, 9], range(5, 10), 1),  # a fold of the first repeat failed
    ],
)
def test_repeats_of_a_cross_validation_count_whole(done, used, repeats):
    study = make_study({"arms": {"a": {}, "b": {}}, "folds": 5, "repeats": 2})
    names = [unit.name for unit in comparison.units(study)]
    found, count = results.units_to_use(study, scored([names[at] for at in done]), names)
    assert found.units == [names[at] for at in used]
    assert count == repeats
    assert len(found.labels) == len(found.predictions["a"]) == len(found.logits["b"]) == len(used)
    if len(used) >= 5:
        rows = results.rows_for(study, found, count)
        assert rows[1].value == 1.0


def trained(base, folder: Path, preset: str, seed: int, **tables: Any) -> Path:
    """A finished run."""
    plain = {"teacher": {"model": "none"}} if preset == "plain" else {}
    asked = base | plain | tables | {"train": FAST | {"seed": seed}}
    plan = planning.make(config.build([config.read_preset(preset), asked], METHODS))
    return pipeline.execute(plan, Options(runs=folder, show=Show(quiet=True))).folder


def test_finished_runs_are_arms_by_settings_and_seeds(finished, made):
    plain, kd = ([run.path for run in runs_of(finished, arm)] for arm in ARMS)
    found = compare_finished([plain[0], kd[1], plain[1], kd[0]], "", made())
    assert found.baseline == "ce"
    assert found.units == ["seed 1", "seed 2"]
    assert found.arms == ["ce", "ce + kd"]
    ours, theirs = found.result.rows, finished.record.result.rows
    for one, other in zip(ours, theirs, strict=True):
        for key in ("value", "low", "high", "words", "adjusted_p", "estimand"):
            assert getattr(one, key) == getattr(other, key)
        assert one.values == other.values
    for name in (str(kd[0]), kd[1].name, "ce + kd"):
        assert compare_finished([*plain, *kd], name, made()).baseline == "ce + kd"
    single = compare_finished([plain[0], kd[0]], "", made())
    assert single.result.head == "1 seed per recipe"


def test_runs_that_cannot_be_compared_are_refused(finished, made, base, tmp_path, toy_csv):
    plain, kd = ([run.path for run in runs_of(finished, arm)] for arm in ARMS)
    for paths, reason in (
        ([*plain, kd[0]], "do not have the same seeds"),
        (plain, "differ only in their seeds"),
        ([plain[0], plain[0]], "the same settings and seed"),
    ):
        with pytest.raises(UserError, match=reason):
            compare_finished(paths, "", made())
    with pytest.raises(UserError, match="--baseline other: not among the runs"):
        compare_finished([plain[0], kd[0]], "other", made())
    other = trained(base, tmp_path, "plain", 1, data={"source": str(toy_csv(90, 5))})
    split = trained(base, tmp_path, "plain", 1, data=base["data"] | {"split_seed": 3})
    for path in (other, split):
        with pytest.raises(UserError, match="its test rows, or their labels, differ from those of"):
            compare_finished([kd[0], path], "", made())


def test_an_encoder_that_changed_between_the_runs_is_a_warning(copied):
    folder = study_folder.read_record(copied)
    assert "models" not in {warning.kind for warning in of_study(folder.record, folder.run, "accuracy")[0]}
    changed = runs_of(folder, "kd")[1].path / "run.json"
    record = json.loads(changed.read_text())
    record["identity"]["student"]["weights"] = "0" * 64
    changed.write_text(json.dumps(record))
    folder = study_folder.read_record(copied)
    (found,) = (one for one in of_study(folder.record, folder.run, "accuracy")[0] if one.kind == "models")
    assert (found.arm, found.units) == ("kd", ["seed 2"])
    assert found.message.startswith("seed 2: not the same encoder or teacher as in seed 1")


def test_runs_with_corrected_labels_are_compared_where_the_test_labels_are_the_same(finished, made, base, tmp_path):
    plain = runs_of(finished, "plain")[0]

    def corrected(split: str) -> Path:
        """A run with one corrected label of a split; row ids count the rows of the table."""
        row = plain.split[split][0]
        rows = list(csv.DictReader(Path(base["data"]["source"]).read_text().splitlines()))
        label = rows[int(row) - 1]["label"]
        table = tmp_path / f"{split}.csv"
        table.write_text(f"row,corrected_label\n{row},{'money' if label == 'health' else 'health'}\n")
        return trained(base, tmp_path / split, "plain", 1, data=base["data"] | {"corrections": str(table)})

    found = compare_finished([plain.path, corrected("train")], "", made())
    assert found.arms == ["ce, labels as given", "ce, 1 corrected label"]
    with pytest.raises(UserError, match="its test rows, or their labels, differ"):
        compare_finished([plain.path, corrected("test")], "", made())


def test_broken_and_half_written_runs_are_refused(copied, made):
    folder = study_folder.read_record(copied)
    plain, kd = ([run.path for run in runs_of(folder, arm)] for arm in ARMS)
    predictions = kd[0] / "predictions" / "test.parquet"
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:50])
    with pytest.raises(UserError, match=r"test\.parquet: cannot be read"):
        compare_finished([plain[0], kd[0]], "", made())
    predictions.unlink()
    with pytest.raises(UserError, match="no predictions for the test split"):
        compare_finished([plain[0], kd[0]], "", made())
    record_file = kd[0] / "run.json"
    about = json.loads(record_file.read_text())
    for change, reason in (
        ({"finished": None}, "this run is not finished"),
        ({"format": 0}, "the run folder has format 0; this version reads format 1"),
        ({"identity": None}, "run.json: the key identity has an unexpected value, None"),
        ({"identity": about["identity"] | {"train": {}}}, "run.json: expected the key identity.train.seed"),
    ):
        record_file.write_text(json.dumps(about | change))
        with pytest.raises(UserError, match=reason):
            compare_finished([plain[0], kd[0]], "", made())
