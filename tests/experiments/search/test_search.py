"""A search: killed anywhere it ends in the same table; what it keeps, refuses, and never opens."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from randout.core import config
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.data import dataset as data
from randout.experiments.run import pipeline, planning, student
from randout.experiments.run.student import Options, Stopped
from randout.experiments.run.student_kinds import EncoderStudent
from randout.experiments.search import search, trials
from randout.experiments.search import space as grid
from randout.experiments.search.space import SearchTable
from randout.methods.builtin import METHODS
from randout.stats.verdicts import best_of
from randout.storage import study_folder as record
from randout.storage.predictions import Predictions, write_predictions
from randout.storage.study_record import Rung, SearchRecord, StudyData, Trial
from randout.testing.models import build
from randout.training import checkpoint
from support import forked, training
from support.tables import load

FAST = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "precision": "float32", "device": "cpu"}


class Killed(BaseException):
    """What stands for kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def made(tiny_model, toy_csv):
    """(preset, table of the search, **train) -> a search on 90 toy rows; training takes 4 steps."""

    def of(preset: str = "plain", table: dict[str, Any] | None = None, **train: Any) -> search.Search:
        asked = {
            "data": {"source": str(toy_csv(90))},
            "student": {"model": str(tiny_model("bert"))},
            "teacher": {"model": str(tiny_model("roberta")) if "kd" in preset else "none"},
            "train": FAST | train,
        }
        recipe = config.build([config.read_preset(preset), asked], METHODS)
        return search.make_search(recipe, SearchTable(**(table or {})))[0]

    return of


@pytest.fixture(scope="module")
def dataset(made):
    return data.load(made("plain", RATES).config.data)


RATES = {"space": {"learning_rate": [1e-4, 1e-3, 2e-3, 4e-3]}}
HALVING = RATES | {"halving": 2}


@pytest.fixture(scope="module")
def whole(made, dataset, tmp_path_factory):
    """(table of the search) -> what an uninterrupted search of the plain recipe leaves, and its folder; made once."""
    root, known = tmp_path_factory.mktemp("whole"), {}

    def of(table: dict[str, Any]) -> tuple[dict[str, Any], record.StudyFolder]:
        key = json.dumps(table)
        if key not in known:
            folder = go(made("plain", table), root / str(len(known)), dataset)
            known[key] = (lasting(folder.path), folder)
        return known[key]

    return of


def go(one: search.Search, folder: Path, dataset: Any = None, **options: Any) -> record.StudyFolder:
    asked = {"runs": folder.parent / "runs", "show": Show(quiet=True)}
    return search.run_search(one, folder, Options(**(asked | options)), dataset)


def lasting(folder: Path) -> dict[str, Any]:
    """`study.json` without times, and the files of every trial with their content."""
    found = json.loads((folder / "study.json").read_text())
    for key in ("started", "finished", "name"):
        del found[key]
    for trial in found["trials"]:
        del trial["seconds"]
    files: dict[str, Any] = {}
    for path in sorted((folder / "trials").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in (".lock", "run.json", "run.toml", "README.md", "history.json"):
            files[name] = path.read_bytes()
        elif path.name == "history.json":
            rows = json.loads(path.read_text())["epochs"]
            files[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return {"record": found, "files": files}


def states(folder: record.StudyFolder) -> list[str]:
    return [trial.state for trial in folder.record.trials]


def bombs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Makes the process die before the k-th call of what a search does to the disk, and after it (k + 0.5)."""
    fuse: dict[str, float] = {"left": float("inf"), "calls": 0}

    def counted(function):
        def call(*words, **named):
            fuse["calls"] += 1
            if fuse["calls"] == fuse["left"]:
                raise Killed
            found = function(*words, **named)
            if fuse["calls"] == fuse["left"] - 0.5:
                raise Killed
            return found

        return call

    monkeypatch.setattr(record.StudyFolder, "save", counted(record.StudyFolder.save))
    monkeypatch.setattr(checkpoint, "save", counted(checkpoint.save))
    monkeypatch.setattr(pipeline, "score_split", counted(pipeline.score_split))
    monkeypatch.setattr(pipeline, "clean", counted(pipeline.clean))
    monkeypatch.setattr(search.shutil, "rmtree", counted(search.shutil.rmtree))
    return fuse


@pytest.mark.parametrize(
    "table", [RATES | {"trials": 2}, pytest.param(HALVING, marks=pytest.mark.slow)], ids=["grid", "halving"]
)
def test_killed_anywhere_and_started_again_it_ends_in_the_same_table(
    made, whole, dataset, tmp_path, monkeypatch, table
):
    one, expected = made("plain", table), whole(table)[0]
    fuse, killings = bombs(monkeypatch), 0
    for at in range(1, 400):  # each start gets one call further than the one before, and dies before or after it
        fuse |= {"left": 0.5 + at / 2, "calls": 0}
        try:
            go(one, tmp_path / "killed", dataset)
            break
        except Killed:
            killings += 1
    assert killings >= 8
    assert lasting(tmp_path / "killed") == expected


@pytest.mark.slow
def test_killed_in_every_step_of_a_training_too(made, whole, dataset, tmp_path, monkeypatch):
    one, expected = made("plain", HALVING, save_minutes=1e-9), whole(HALVING)[0]
    from randout.training import loop

    real, steps = loop.step, [0]

    def step(*words):
        steps[0] += 1
        if steps[0] % 3 == 0:
            raise Killed
        real(*words)

    monkeypatch.setattr(loop, "step", step)
    for _ in range(60):
        try:
            go(one, tmp_path / "killed", dataset)
            break
        except Killed:
            continue
    else:
        pytest.fail("it does not come to its end")
    assert lasting(tmp_path / "killed") == expected


class Deadline:
    """A time limit that is over at the n-th look at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __lt__(self, now: float) -> bool:
        self.looks -= 1
        return self.looks <= 0


def test_the_time_limit_stops_in_mid_trial_and_the_search_goes_on(made, whole, dataset, tmp_path):
    one = made("plain", RATES | {"trials": 2})
    waiting, one_done = ["waiting", "waiting"], ["finished", "waiting"]
    for looks, standing in ((3, waiting), (4, waiting), (2, one_done), (3, one_done)):
        with pytest.raises(Stopped, match="the time limit"):
            go(one, tmp_path / "limited", dataset, deadline=Deadline(looks))
        assert states(record.read_record(tmp_path / "limited")) == standing
    assert list((tmp_path / "limited" / "trials" / "0001").glob("checkpoint/position.json"))
    go(one, tmp_path / "limited", dataset)
    assert lasting(tmp_path / "limited") == whole(RATES | {"trials": 2})[0]


def test_halving_prunes_and_what_goes_on_is_a_full_training_bit_for_bit(made, whole, dataset, tmp_path):
    one, (_, folder) = made("plain", HALVING), whole(HALVING)
    done = folder.record.trials
    assert sorted(states(folder)) == ["finished", "pruned", "pruned", "pruned"]
    first = sorted(done, key=lambda trial: (-trial.rungs[0].value, trial.number))
    assert [len(trial.rungs) for trial in first[2:]] == [1, 1]
    assert sorted(len(trial.rungs) for trial in first[:2]) == [2, 3]
    assert [step for _, step, _ in done[folder.record.best].rungs] == [1, 2, 4]
    best = done[folder.record.best]
    alone = pipeline.execute(
        planning.make(one.trial_config(best.settings), dataset),
        Options(runs=tmp_path / "alone", show=Show(quiet=True)),
    )
    ours, theirs = folder.run(best).model / "model.safetensors", alone.model_path / "model.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()
    assert best.value == alone.metrics["validation"]["accuracy"]
    cut = folder.record.skipped
    assert cut.as_json() == {
        "cells": 4,
        "tried": 4,
        "not_tried": 0,
        "pruned": 3,
        "failed": 0,
        "steps": 1 + 1 + 2 + 4,
        "steps_of_all_cells": 16,
    }
    assert not list(folder.path.rglob("checkpoint"))
    assert any("50.0%" in line for line in trials.summary(folder))


def test_halving_within_a_budget_takes_no_more(made, dataset, tmp_path):
    one = made("plain", HALVING | {"budget": 0.48}, epochs=3)
    folder = go(one, tmp_path / "s", dataset)
    cut = folder.record.skipped
    assert (cut.steps_of_all_cells, states(folder).count("finished")) == (4 * 12, 1)
    assert grid.rungs(4, 2, 0.48) == pytest.approx([0.23, 0.46, 1.0])  # 2 r + 2 r + 1 = 0.48 * 4
    assert sorted(trial.step for trial in folder.record.trials) == [2, 2, 5, 12]
    assert cut.steps <= 0.48 * cut.steps_of_all_cells
    small = made("plain", HALVING | {"budget": 0.2})
    with pytest.raises(UserError, match=r"search\.budget: 0\.2 of 4 trials is 0\.80 full trainings"):
        go(small, tmp_path / "small", dataset)
    assert not (tmp_path / "small").exists()


def test_a_look_at_chance_is_said(made, dataset, tmp_path, capsys):
    """The first look at a tiny model, after one of four steps at a rate that moves nothing."""
    one = made("plain", {"space": {"train.learning_rate": [1e-9, 2e-9]}, "halving": 2})
    search.run_search(one, tmp_path / "s", Options(runs=tmp_path / "runs", show=Show()), dataset)
    said = [line for line in capsys.readouterr().err.splitlines() if "no trial is better than chance" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: after 50.0% of a training (2 steps) the best of 2 trials has ")


def test_what_chance_is():
    """Two standard errors above the largest class, worked out by hand: 0.6 + 2 sqrt(0.24 / 100) = 0.698."""
    labels = np.repeat([0, 1], [60, 40])
    tried = [Trial(number=at, settings={}, run="", rungs=[Rung(0.5, 7, value)]) for at, value in enumerate((0.4, 0.69))]
    record = SearchRecord(kind="search", name="s", data=StudyData(sha256="d"), metric="accuracy", trials=tried)
    found = trials.at_chance(record, 0.5, labels)
    assert found is not None
    assert "after 50.0% of a training (7 steps) the best of 2 trials has a validation accuracy of 69.0%" in found
    assert trials.at_chance(record, 1.0, labels) is None
    assert trials.at_chance(record.model_copy(update={"metric": "log_loss"}), 0.5, labels) is None
    tried[1].rungs = [Rung(0.5, 7, 0.70)]
    assert trials.at_chance(record, 0.5, labels) is None


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("best", 1), pytest.param("all", 3, marks=pytest.mark.slow), pytest.param("none", 0, marks=pytest.mark.slow)],
)
def test_keep_leaves_the_weights_that_it_says(made, dataset, tmp_path, keep, kept):
    folder = go(made("plain", RATES | {"trials": 3, "keep": keep}), tmp_path / "s", dataset)
    models = list((tmp_path / "s").rglob("*.safetensors"))
    assert len(models) == kept
    best = folder.run(folder.record.trials[folder.record.best])
    assert keep != "best" or models == [best.model / "model.safetensors"]
    for trial in folder.record.trials:
        there = {path.name for path in folder.run(trial).path.iterdir()}
        assert {"run.toml", "history.json", "metrics.json", "predictions"} <= there
        assert "checkpoint" not in there
    assert any("evaluate" in line for line in trials.summary(folder)) == (keep != "none")


def test_the_test_split_stays_closed_and_its_record_empty(whole):
    _, folder = whole(HALVING)
    assert not list(folder.path.parent.rglob("test.parquet"))
    assert not list(folder.path.parent.rglob("test-openings.jsonl"))
    for trial in folder.record.trials:
        if trial.state == "finished":
            assert list(folder.run(trial).read("metrics.json")) == ["validation", "warnings"]


def test_one_teacher_and_one_file_of_soft_labels_whatever_the_student_s_training(made, dataset, tmp_path):
    table = {"space": {"batch_size": [16, 32], "learning_rate": [1e-3, 2e-3], "kd.weight": [0.5]}}
    folder = go(made("kd", table), tmp_path / "s", dataset)
    assert states(folder) == ["finished"] * 4
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1
    assert len(list((tmp_path / "runs" / "soft-labels").iterdir())) == 1
    teachers = {folder.run(trial).record.identity.teacher for trial in folder.record.trials}
    assert len(teachers) == 1
    assert not list(tmp_path.rglob("test.parquet"))


def test_settings_that_a_teacher_shares_are_said(made, dataset, tmp_path, capsys):
    one = made("kd", {"space": {"weight_decay": [0.0, 0.1], "kd.weight": [0.5]}})
    assert search.settings_of_teacher(one) == ["train.weight_decay"]
    assert search.planned(one, dataset)[-1].endswith("a teacher for each value of train.weight_decay")
    assert search.planned(made("kd", {"space": {"epochs": [1, 2]}}), dataset)[-1].endswith("one teacher for all")
    assert "teacher" not in search.planned(made("plain", RATES), dataset)[-1]


def failing(monkeypatch, when):
    """Trainings for which `when(plan, options)` holds end in a failure."""
    real = EncoderStudent.train

    def train(student, plan, run, teacher, options):
        if when(plan, options):
            raise Failure("loss ce is nan at epoch 1, batch 2. The last checkpoint is intact.")
        return real(student, plan, run, teacher, options)

    monkeypatch.setattr(EncoderStudent, "train", train)


def test_a_failed_trial_is_kept_with_its_error_and_tried_again(made, whole, dataset, tmp_path, monkeypatch, capsys):
    one = made("plain", RATES | {"trials": 3})
    with monkeypatch.context() as patch:
        failing(patch, lambda plan, options: plan.config.train.learning_rate == 1e-3)
        folder = go(one, tmp_path / "s", dataset)
        bad = next(t for t in folder.record.trials if t.settings["train.learning_rate"] == 1e-3)
        assert (bad.state, bad.value) == ("failed", None)
        assert "nan at epoch 1" in bad.error
        assert folder.record.skipped.failed == 1
        assert folder.record.best not in (None, bad.number)
        assert any(f"trial {bad.number} failed: loss ce" in line for line in trials.summary(folder))
        assert "tried again" in capsys.readouterr().err
        before = lasting(tmp_path / "s")
        go(one, tmp_path / "s", dataset)
        assert lasting(tmp_path / "s") == before  # it fails again, and the table is the same
    folder = go(one, tmp_path / "s", dataset)
    assert states(folder) == ["finished"] * 3
    assert folder.record.trials[bad.number].error is None
    assert lasting(tmp_path / "s") == whole(RATES | {"trials": 3})[0]


def test_a_trial_that_fails_after_a_rung_keeps_what_it_reached(made, dataset, tmp_path, monkeypatch):
    one = made("plain", HALVING)
    failing(monkeypatch, lambda plan, options: options.pause_at != 1)
    folder = go(one, tmp_path / "s", dataset)
    before = lasting(tmp_path / "s")
    assert states(folder).count("failed") == 2
    assert all([share for share, _, _ in trial.rungs] == [0.25] for trial in folder.record.trials)
    go(one, tmp_path / "s", dataset)
    assert lasting(tmp_path / "s") == before


def test_a_loss_that_is_not_finite_fails_the_trial_alone(made, dataset, tmp_path):
    table = {"space": {"learning_rate": [1e-3, 1e38], "adam_epsilon": [1e-38]}}
    folder = go(made("plain", table, epochs=2, warmup_ratio=0.0, max_grad_norm=0.0), tmp_path / "s", dataset)
    by_rate = {trial.settings["train.learning_rate"]: trial for trial in folder.record.trials}
    assert by_rate[1e38].state == "failed"
    assert "is nan" in by_rate[1e38].error or "is inf" in by_rate[1e38].error
    assert by_rate[1e-3].state == "finished"


@pytest.mark.parametrize(
    ("preset", "space", "parts"),
    [
        ("kd", {"kd.weight": [0.4, -1]}, ["kd.weight -1", "cannot run", "methods.kd.weight"]),
        ("kd", {"kd.wieght": [0.4]}, ["kd.wieght 0.4", "Did you mean 'weight'?"]),
        ("plain", {"student.max_length": [20, 9999]}, ["student.max_length 9999", "at most 64"]),
        ("plain", {"layers": [[0], [7]]}, ["layers [7]", "cannot run"]),
        ("plain", {"epochs": [1, 0]}, ["train.epochs 0"]),
        ("plain", {"student.model": ["nonexistent-model-name"]}, ["nonexistent-model-name"]),
    ],
)
@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_configuration_that_cannot_run_is_refused_before_any_training(
    made, dataset, tmp_path, preset, space, parts, sampler, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one = made(preset, {"space": space, "sampler": sampler, "trials": 2 if sampler == "tpe" else 0})
    with pytest.raises(UserError) as caught:
        go(one, tmp_path / "s", dataset)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not list(tmp_path.rglob("run.json"))
    assert not (tmp_path / "s" / "trials").exists()
    with pytest.raises(UserError):
        search.planned(one, dataset)


TPE = {
    "space": {"learning_rate": {"low": 1e-4, "high": 5e-3, "log": True}, "batch_size": [16, 32]},
    "sampler": "tpe",
    "trials": 4,
}


@pytest.mark.slow
def test_tpe_is_a_function_of_the_trials_before(made, dataset, tmp_path, monkeypatch):
    one = made("plain", TPE)
    whole = go(one, tmp_path / "whole", dataset)
    fuse = bombs(monkeypatch)
    for at in range(1, 100):
        fuse |= {"left": 2.5 * at - 1.5, "calls": 0}
        try:
            go(one, tmp_path / "killed", dataset)
            break
        except Killed:
            continue
    assert at > 3
    fuse["left"] = float("inf")
    assert lasting(tmp_path / "killed") == lasting(tmp_path / "whole")
    rates = [trial.settings["train.learning_rate"] for trial in whole.record.trials]
    assert len(set(rates)) == 4
    assert all(1e-4 <= rate <= 5e-3 for rate in rates)
    assert whole.record.grid is None
    other = go(made("plain", TPE | {"seed": 1, "trials": 1}), tmp_path / "other", dataset)
    assert other.record.trials[0].settings["train.learning_rate"] != rates[0]


def test_a_proposal_that_cannot_run_is_a_failed_trial_and_the_search_goes_on(made, dataset, tmp_path, monkeypatch):
    real = search.planning.make

    def make(one, *rest):
        if one.train.batch_size == 32 and one.train.learning_rate > 1e-4:
            raise UserError("these two do not go together")
        return real(one, *rest)

    monkeypatch.setattr(search.planning, "make", make)
    table = {"space": {"learning_rate": [1e-4, 1e-3, 2e-3], "batch_size": [16, 32]}, "sampler": "tpe", "trials": 6}
    folder = go(made("plain", table), tmp_path / "s", dataset)
    assert set(states(folder)) == {"failed", "finished"}
    assert {trial.error for trial in folder.record.trials} == {None, "these two do not go together"}


def test_equal_proposals_share_a_run(made, dataset, tmp_path):
    table = {"space": {"learning_rate": [1e-3, 2e-3]}, "sampler": "tpe", "trials": 5, "halving": 2}
    folder = go(made("plain", table), tmp_path / "s", dataset)
    done = folder.record.trials
    copies = [trial for trial in done if trial.same_as is not None]
    assert len(done) == 5
    assert len(copies) >= 3
    for trial in copies:
        first = done[trial.same_as]
        assert trial.run == first.run
        assert (trial.settings, trial.value, trial.rungs) == (
            first.settings,
            first.value,
            first.rungs,
        )
    assert len(list((tmp_path / "s" / "trials").iterdir())) == 5 - len(copies)
    cut = folder.record.skipped
    assert cut.steps == sum(trial.step for trial in done if trial.same_as is None)
    assert cut.not_tried == 2 - (5 - len(copies))
    before = lasting(tmp_path / "s")
    go(made("plain", table), tmp_path / "s", dataset)
    assert lasting(tmp_path / "s") == before


def test_optimism_is_best_of_the_trials_validation_predictions(whole):
    _, folder = whole(RATES | {"trials": 3})
    tables = [
        parquet.read_table(folder.run(trial).path / "predictions" / "validation.parquet")
        for trial in folder.record.trials
    ]
    right = [[a == b for a, b in zip(t["label"].to_pylist(), t["prediction"].to_pylist(), strict=True)] for t in tables]
    expected = best_of(np.array(right), tables[0]["group"].to_numpy())
    found = folder.record.optimism
    assert found.apparent == expected.apparent == folder.record.trials[folder.record.best].value
    assert (found.optimism, found.corrected, found.trials) == (expected.optimism, expected.corrected, 3)
    assert expected.chosen == folder.record.best


def test_other_metrics_choose_by_it_and_leave_the_optimism_out(made, dataset, tmp_path):
    folder = go(made("plain", RATES | {"trials": 2}, metric="log_loss"), tmp_path / "s", dataset)
    values = [trial.value for trial in folder.record.trials]
    assert folder.record.best == int(np.argmin(values))
    assert folder.record.optimism is None
    assert any("accuracy and sample F1 only" in line for line in trials.summary(folder))


def test_optimism_of_label_sets_is_that_of_the_f1_of_rows(tmp_path):
    """F1 of a row: 2 |T & P| / (|T| + |P|), 1 for two empty sets."""
    rng = np.random.default_rng(0)
    truth, groups, runs, values = rng.random((40, 2)) < 0.5, np.arange(40), [], []
    for at in range(3):
        logits = 3.0 * truth + rng.normal(size=(40, 2)) - 1
        path = tmp_path / f"{at}.parquet"
        found = Predictions(["a", "b"], [str(row) for row in groups], groups, truth, logits, None, (0.5, 0.6))
        write_predictions(path, found)
        made = 1 / (1 + np.exp(-logits)) > np.array([0.5, 0.6])
        pairs = zip(truth, made, strict=True)
        values.append([2 * (t & p).sum() / (t.sum() + p.sum()) if t.any() or p.any() else 1.0 for t, p in pairs])
        runs.append(SimpleNamespace(labels=["a", "b"], predictions=lambda split, path=path: path))
    own = [SimpleNamespace(number=at, state="finished", same_as=None) for at in range(3)]
    record = SimpleNamespace(metric="sample_f1", trials=own)
    folder = SimpleNamespace(record=record, run=lambda trial: runs[trial.number])
    found, expected = trials.optimism(folder), best_of(np.array(values), groups)
    assert (found.apparent, found.optimism) == pytest.approx((expected.apparent, expected.optimism))


def test_soft_labels_that_changed_are_refused(made, dataset, tmp_path):
    file = tmp_path / "soft.csv"
    names = list(dataset.id2label.values())
    lines = [f"{text},{','.join(['0.2'] * (len(names) - 1))},0.6\n" for text in dataset.texts]
    file.write_text(f"text,{','.join(f'prob_{name}' for name in names)}\n" + "".join(lines))
    one = made("kd", RATES | {"trials": 1})
    teacher = one.config.teacher.model_copy(update={"model": str(file)})
    one = replace(one, config=one.config.model_copy(update={"teacher": teacher}))
    options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
    search.open_search(one, tmp_path / "s", options, dataset)
    search.open_search(one, tmp_path / "s", options, dataset)
    file.write_text(file.read_text().replace("0.6\n", "0.5\n"))
    with pytest.raises(UserError, match="the soft labels changed since"):
        search.open_search(one, tmp_path / "s", options, dataset)


def test_another_search_or_other_data_in_the_folder_are_refused(made, dataset, tmp_path, toy_csv):
    go(made("plain", RATES | {"trials": 1}), tmp_path / "s", dataset)
    with pytest.raises(UserError, match=r"other settings \(search differ"):
        go(made("plain", RATES | {"trials": 2}), tmp_path / "s", dataset)
    with pytest.raises(UserError, match=r"other settings \(recipe differ"):
        go(made("plain", RATES | {"trials": 1}, epochs=2), tmp_path / "s", dataset)
    with pytest.raises(UserError, match="the data changed since"):
        go(made("plain", RATES | {"trials": 1}), tmp_path / "s", load(toy_csv(90, 5)))
    file = tmp_path / "s" / "study.toml"
    text = file.read_text()
    file.write_text(text.replace("weight_decay = 0.01\n", "").replace("halving = 0\n", ""))  # by an older version
    go(made("plain", RATES | {"trials": 1}), tmp_path / "s", dataset)
    assert file.read_text() == text
    file.write_text(text.replace("halving", "pruning"))
    with pytest.raises(UserError, match=r"study\.toml: this study cannot be resumed .*pruning"):
        go(made("plain", RATES | {"trials": 1}), tmp_path / "s", dataset)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("other", "file"):
        with pytest.raises(UserError, match="not a study folder"):
            go(made("plain", RATES), tmp_path / name, dataset)


def test_a_checkpoint_of_another_machine_stops_the_search(made, dataset, tmp_path, monkeypatch):
    one = made("plain", HALVING)
    with pytest.raises(Stopped):
        go(one, tmp_path / "s", dataset, deadline=Deadline(2))
    monkeypatch.setattr(training.torch, "get_num_threads", lambda: 99)
    with pytest.raises(UserError, match=r"threads was 1, is 99.*--accept-changes"):
        go(one, tmp_path / "s", dataset)
    assert states(record.read_record(tmp_path / "s")) == ["waiting"] * 4
    assert "failed" not in states(go(one, tmp_path / "s", dataset, accept_changes=True))


def whole_search(recipe: dict[str, Any], table: dict[str, Any], folder: str) -> None:
    """What a process that is killed does."""
    training.torch.set_num_threads(1)
    one = search.make_search(config.build([recipe], METHODS), SearchTable(**table))[0]
    go(one, Path(folder))


@pytest.mark.slow
def test_kill_9_in_mid_trial(made, whole, dataset, tmp_path):
    one = made("plain", HALVING, save_minutes=1e-9)
    recipe = one.config.model_dump(mode="json")
    process = forked.started(whole_search, recipe, HALVING, str(tmp_path / "killed"))
    began = time.monotonic()
    while (
        process.is_alive() and not (tmp_path / "killed" / "trials" / "0002" / "checkpoint" / "position.json").exists()
    ):
        assert time.monotonic() - began < 120
        time.sleep(0.002)
    process.kill()
    process.join(60)
    assert process.exitcode == -9
    go(one, tmp_path / "killed", dataset)
    assert lasting(tmp_path / "killed") == whole(HALVING)[0]


def test_the_command(run, tiny_model, toy_csv, tmp_path):
    words = ["search", toy_csv(90), "--student", tiny_model("bert"), "--preset", "plain", "-o", "s", "--trials", 2]
    words += [part for key, value in FAST.items() if key != "learning_rate" for part in ("--set", f"{key}={value}")]
    words += ["--space", "learning_rate=[1e-3, 2e-3, 4e-3]"]
    code, out, err = run(*words, "--dry-run")
    assert code == 0, err
    assert out.splitlines()[-1] == "2 of 3 cells; compared after 100.0% of a training"
    assert "90 labelled rows, 3 classes" in err
    assert not (tmp_path / "s").exists()
    code, out, err = run(*words, "--dry-run", "--halving", 2, "--budget", 0.8)
    assert out.splitlines()[-1] == "2 of 3 cells; compared after 60.0%, 100.0% of a training", err
    code, out, err = run(*words)
    assert code == 0, err
    assert "2 of 3 cells tried, 0 pruned, 0 failed" in out
    assert "best 1 of 1/2" in err  # the live table
    assert "next    randout evaluate s/trials/" in out
    code, out, err = run(*words, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["kind"], len(found["trials"]), found["skipped"]["tried"]) == ("search", 2, 2)
    assert err.partition("\nWarnings\n")[0] == ""
    best = f"s/{found['trials'][found['best']]['run']}"
    code, out, err = run("evaluate", best, "--split", "test", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] in (13, 14)


def test_every_cell_of_the_paper_fits_a_dry_run(run, tiny_model, toy_csv, tmp_path):
    student = build("bert", tmp_path / "wide", hidden_size=128)  # the paper's cells have up to 128 units
    words = ["search", toy_csv(90), "--student", student, "--teacher", tiny_model("roberta"), "--dry-run"]
    code, out, err = run(*words, "--space", "paper")
    assert code == 0, err
    assert out.splitlines()[-1].startswith("1344 of 1344 cells; compared after 100.0% of a training; one teacher")
    assert len({line[6:] for line in out.splitlines()[:-1]}) == 1344
    code, out, err = run(*words, "--space", "paper", "--preset", "plain")
    assert code == 2
    assert "no method of this recipe learns from a teacher" in err
    words = [word for word in words if word not in ("--teacher", tiny_model("roberta"))]
    code, out, err = run(*words, "--space", "paper", "--preset", "plain")
    assert out.splitlines()[-1].startswith("2 of 2 cells")
    assert "left out, because this recipe has no such method: kd.weight, kd.temperature" in err


def test_a_search_where_all_fails_says_so_and_ends_with_1(run, tiny_model, toy_csv, monkeypatch):
    failing(monkeypatch, lambda plan, options: True)
    words = ["search", toy_csv(90), "--student", tiny_model("bert"), "--preset", "plain", "-o", "s", "-q"]
    code, out, err = run(*words, "--space", "learning_rate=[1e-3]", "--set", "device=cpu")
    assert code == 1
    assert "trial 0 failed: loss ce is nan" in out
    assert "every trial failed" in err
    assert "Traceback" not in err


def test_grid_cells_of_a_search_are_those_of_its_seed(made, dataset, tmp_path):
    folder = go(made("plain", RATES | {"trials": 2, "seed": 3}), tmp_path / "s", dataset)
    expected, _ = grid.grid_points({"train.learning_rate": RATES["space"]["learning_rate"]}, 2, 3)
    assert [trial.settings for trial in folder.record.trials] == expected


@pytest.mark.parametrize("table", [RATES | {"trials": 2}, HALVING], ids=["last validation", "rung"])
def test_a_stop_that_is_asked_for_while_a_trial_is_validated_is_heard(
    made, whole, dataset, tmp_path, monkeypatch, table
):
    real, one = student.predict, made("plain", table)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    monkeypatch.setattr(student, "predict", interrupted)
    with pytest.raises(Stopped, match="SIGTERM"):
        go(one, tmp_path / "stopped", dataset)
    monkeypatch.setattr(student, "predict", real)
    assert states(record.read_record(tmp_path / "stopped"))[0] == "waiting"
    go(one, tmp_path / "stopped", dataset)
    assert lasting(tmp_path / "stopped") == whole(table)[0]
