"""A whole ladder on a tiny encoder: its files, its resumption, its one look at the test split, its measurement."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import randout
from conftest import Run
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.dataset import load
from randout.experiments.run.options import Options, Stopped
from randout.experiments.run.reload import TRUNCATION
from randout.experiments.run.saved_model import load_classifier
from randout.experiments.shrink import timed_process, timing
from randout.experiments.shrink.forms import Model, Rows, copy_chosen, write_forms
from randout.experiments.shrink.ladder import make_shrink
from randout.experiments.shrink.shrink import expected_seconds, run_shrink
from randout.methods.builtin import METHODS
from randout.reporting import report
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import record_opening_in
from randout.storage.seen_rows import read_seen
from randout.storage.study_folder import StudyFolder, read_record
from randout.storage.study_record import Cell, Cost, LadderForm, LadderRung, ShrinkRecord, StudyData
from randout.testing.models import build_decoder
from support import training  # noqa: F401  (one thread)

FAST = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "precision": "float32", "refit": False}
CUT = {"student.truncation": "head+tail", "student.max_length": 6}
SETTINGS = [word for key, value in FAST.items() for word in ("--set", f"{key}={str(value).lower()}")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, toy_csv: Any) -> Path:
    """A folder with the run of a teacher."""
    folder = tmp_path_factory.mktemp("ladder")
    settings = FAST | {"data.split_seed": 0}
    randout.train(
        toy_csv(90), student=tiny_model("bert"), preset="plain", settings=settings | CUT | {"output.test": False},
        runs=folder / "runs", out=folder / "teacher",
    )  # fmt: skip
    return folder


@pytest.fixture
def words(place: Path, tiny_model: Any, toy_csv: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command, whose students have one layer, without timing, in `place`."""
    monkeypatch.chdir(place)
    asked = ["shrink", toy_csv(90), "--teacher", "teacher", "--student", tiny_model("bert"), "--layers", "1"]
    return [*asked, "--cost", "size", "--rounds", 0, "--margin", 0.9, "--form", "torch", "-o", "ladder", *SETTINGS]


@pytest.fixture
def ladder(words: list[Any], place: Path, command: Run) -> StudyFolder[ShrinkRecord]:
    if not (place / "ladder" / "study.json").exists():
        code, out, error = command(*words)
        assert code == 0, error
        (place / "output.txt").write_text(out, encoding="utf-8")
    found: Any = read_record(place / "ladder")
    return found


def test_forms_are_compared_and_the_smallest_is_chosen(ladder: StudyFolder[ShrinkRecord], place: Path) -> None:
    record = ladder.record
    names = {form.name for form in record.forms}
    assert {"teacher, torch", "1 layer, torch", "bag of words"} <= names
    smallest = min((form for form in record.forms if form.validation), key=lambda form: form.size)
    assert record.chosen == smallest.name
    shown = (place / "output.txt").read_text(encoding="utf-8")
    assert f"{record.chosen} was chosen as the cheapest" in shown
    assert re.search(r"On \d+ test rows, scored once, the match is (confirmed|refuted|undecided):", shown)
    assert (place / "ladder" / "shrink.png").stat().st_size > 5000
    assert record.finished


def test_differences_are_those_of_the_stored_predictions(ladder: StudyFolder[ShrinkRecord], place: Path) -> None:
    names = ["health", "money", "sport"]
    folder = place / "ladder" / "predictions"
    teacher = read_predictions(folder / "teacher-torch-validation.parquet", names)
    student = read_predictions(folder / "1-layer-torch-validation.parquet", names)
    form = ladder.record.form("1 layer, torch")
    assert form is not None
    assert form.validation is not None
    right = [(one.predicted == one.labels).mean() for one in (student, teacher)]
    assert form.validation.accuracy == pytest.approx(right[0])
    assert form.validation.estimate == pytest.approx(right[0] - right[1])
    cell = ladder.record.cells_in("finished")[1]
    own = read_predictions(ladder.run(cell).predictions("validation"), names)
    np.testing.assert_allclose(student.logits, own.logits, atol=1e-4)


def test_resuming_trains_and_opens_nothing_again(
    ladder: StudyFolder[ShrinkRecord], words: list[Any], place: Path, command: Run
) -> None:
    runs = sorted((place / "runs").glob("*/history.json"))
    times = {path: path.stat().st_mtime_ns for path in [*runs, *(place / "ladder" / "forms").rglob("*")]}
    log = (place / "runs" / "test-openings.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in log.splitlines()]
    assert [entry["by"] for entry in entries] == ["shrink"]
    code, out, error = command(*words, "--json")
    assert code == 0, error
    again = json.loads(out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (place / "runs" / "test-openings.jsonl").read_text(encoding="utf-8") == log
    before = ladder.record.as_json()
    for name in ("forms", "chosen", "tested", "test", "cells", "rungs"):
        assert again[name] == before[name]
    code, _, error = command(*[0.5 if word == 0.9 else word for word in words])
    assert code == 2
    assert "the test split was scored for a margin of 90 points" in error
    code, _, error = command(*[2 if word == "1" else word for word in words])
    assert code == 2
    assert "layers differ" in error


def test_an_opening_that_was_interrupted_is_logged_once(
    ladder: StudyFolder[ShrinkRecord], words: list[Any], place: Path, command: Run
) -> None:
    """The state after a crash between the opening and the record of its result; another study's opening counts."""
    log = place / "runs" / "test-openings.jsonl"
    before = log.read_text(encoding="utf-8")
    (entry,) = map(json.loads, before.splitlines())
    assert entry["teacher"] == ladder.record.teacher == "teacher"
    shutil.copytree(place / "ladder", place / "crashed")
    study: Any = read_record(place / "crashed")
    study.record.tested = study.record.test = None
    study.save()
    code, _, error = command(*["crashed" if word == "ladder" else word for word in words])
    assert code == 0, error
    assert log.read_text(encoding="utf-8") == before
    assert read_record(place / "crashed").record.as_json()["test"] == ladder.record.as_json()["test"]
    values = [entry[name] for name in ("run", "fingerprint", "rows", "split", "by")]
    copy = place / "copy"
    copy.mkdir()
    (copy / log.name).write_text(before, encoding="utf-8")
    assert record_opening_in(copy, *values, since=ladder.record.started) == 1
    assert record_opening_in(copy, *values, since="2999-01-01T00:00:00+00:00") == 2


def test_the_plan_names_the_runs(
    ladder: StudyFolder[ShrinkRecord], words: list[Any], place: Path, command: Run
) -> None:
    code, out, error = command(*words, "--dry-run")
    assert code == 0, error
    assert "labelled rows, 3 classes" in error
    planned = dict(line.split(": ") for line in out.splitlines()[:2])
    made = {cell.arm: ladder.run(cell).path.name for cell in ladder.record.cells}
    assert planned == {arm: name.rpartition("-")[0] for arm, name in made.items()}


def test_an_exported_bag_of_words_knows_its_training_rows(
    ladder: StudyFolder[ShrinkRecord], place: Path, tmp_path: Path
) -> None:
    words = ladder.record.form("bag of words")
    assert words is not None
    seen = read_seen(copy_chosen(words, place / "ladder").resolve())
    own = read_seen(ladder.run(ladder.record.cells[0]).path)
    assert seen is not None
    assert own is not None
    np.testing.assert_array_equal(seen.hashes, own.hashes)


def test_the_chosen_form_predicts(ladder: StudyFolder[ShrinkRecord], place: Path) -> None:
    model = randout.load(place / "ladder" / "chosen")
    assert model.predict(["fever and cough", "a goal for the team"])[0] in {"health", "money", "sport"}


def test_the_report_has_a_section_on_sizes(ladder: StudyFolder[ShrinkRecord], place: Path, tmp_path: Path) -> None:
    report([place / "ladder"], tmp_path / "report", formats="html,md,csv")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "MB on disk" in page
    assert "was chosen as the cheapest of" in page
    assert (
        len((tmp_path / "report" / "tables" / "forms.csv").read_text(encoding="utf-8").splitlines())
        == len(ladder.record.forms) + 1
    )


def test_forms_are_measured_in_processes_of_their_own(ladder: StudyFolder[ShrinkRecord], place: Path) -> None:
    """A bag of words in a process, which does not load PyTorch; the encoder in this one, by the same function."""
    form = ladder.record.form("bag of words")
    assert form is not None
    cost = timing.measure([form], place / "ladder", ["fever", "a goal"] * 6, 1, 1, Show(quiet=True))["bag of words"]
    assert 0 < cost.latency <= cost.latency95 < 1
    assert (cost.texts, cost.rounds) == (12, 1)
    if cost.process is not None and cost.memory is not None:
        assert cost.memory < cost.process < 150e6  # PyTorch alone takes more
    encoder = ladder.record.form("1 layer, torch")
    assert encoder is not None
    folder = os.path.normpath(place / "ladder" / encoder.folder)
    found = timed_process.measured(folder, "torch", 1, ["fever", "a goal for the team"] * 6, 0.05)
    assert len(found["singles"]) >= 10
    assert found["throughput"] > 0


def test_other_threads_or_rounds_need_a_new_measurement() -> None:
    cost = Cost(latency=1.0, latency95=1.0, throughput=1.0, texts=10, rounds=3)
    form = LadderForm(name="a", rung="a", form="torch", folder=".", size=1, cost=cost)
    record = ShrinkRecord(kind="shrink", name="a", data=StudyData(sha256=""), forms=[form], machine=timing.machine(1))
    assert timing.measured_otherwise(record, 1, 3) == ""
    for other in ((2, 3), (1, 5)):
        assert "with 1 thread and 3 rounds" in timing.measured_otherwise(record, *other)


def test_the_least_disturbed_round_counts() -> None:
    rounds = [
        {"singles": [1.0, 4.0, 9.0], "throughput": 5.0, "base": 100, "peak": 150},
        {"singles": [3.0, 3.5, 5.0, 3.2], "throughput": 7.0, "base": 100, "peak": 170},
        {"singles": [6.0, 7.0], "throughput": 1.0, "base": None, "peak": None},
    ]
    cost = timing.summary(rounds)
    assert cost.latency == pytest.approx((3.2 + 3.5) / 2)
    assert cost.latency95 == pytest.approx(np.percentile([3.0, 3.5, 5.0, 3.2], 95))
    assert (cost.throughput, cost.memory, cost.process, cost.texts) == (7.0, 60, 160, 4)


def request(toy_csv: Any, tiny_model: Any, teacher: str) -> Any:
    tables = {"data": {"source": str(toy_csv(90))}, "student": {"model": str(tiny_model("bert"))}}
    tables |= {"teacher": {"model": teacher}, "train": FAST}
    return make_shrink(config.build([config.read_preset("kd"), tables], METHODS), {})


def test_the_time_limit_stops_before_a_training_that_would_not_end(
    place: Path, toy_csv: Any, tiny_model: Any, tmp_path: Path
) -> None:
    made = request(toy_csv, tiny_model, str(place / "teacher"))
    options = Options(runs=tmp_path / "runs", deadline=time.monotonic() - 1, show=Show(quiet=True))
    with pytest.raises(Stopped, match="time limit"):
        run_shrink(made, tmp_path / "ladder", options, load(made.config.data))
    record = read_record(tmp_path / "ladder").record
    assert isinstance(record, ShrinkRecord)
    assert {cell.state for cell in record.cells} == {"waiting"}
    assert [rung.name for rung in record.rungs] == ["teacher", "bag of words", "1 layer", "2 layers", "3 layers"]
    assert not (tmp_path / "runs").exists()


def test_the_expected_time_grows_with_the_layers() -> None:
    rungs = [LadderRung(name=str(count), kind="encoder", student="a", layers=count, depth=6) for count in (1, 2, 6)]
    rungs.append(LadderRung(name="words", kind="words", student="svm"))
    seconds = {"words": 99.0, "1": 10.0, "2": 16.0}
    cells = [Cell(unit="seed 1", arm=name, run=None, state="finished", seconds=took) for name, took in seconds.items()]
    record = ShrinkRecord(kind="shrink", name="a", data=StudyData(sha256=""), rungs=rungs, cells=cells)
    assert expected_seconds(record, rungs[2]) == 6 * max(10.0 / 1, 16.0 / 2)
    assert expected_seconds(record, rungs[3]) == 0.0


def test_a_chosen_model_cuts_texts_as_in_training(place: Path, toy_csv: Any, tmp_path: Path) -> None:
    dataset = load(config.build([{"data": {"source": str(toy_csv(90)), "split_seed": 0}}], METHODS).data)
    few = dataset.split["train"][:3]  # some tokens of the tiny model are not in use, so that it can be trimmed
    held = Rows(replace(dataset, split={"train": few}), few, "train")
    model = Model(LadderRung(name="a", kind="encoder", student="bert", layers=1, depth=1), place / "teacher")

    def logits(folder: Path) -> np.ndarray:
        return load_classifier(str(folder)).logits(held.texts, lambda *_: None)

    forms = write_forms(model, tmp_path, held, True, ["torch"], Show(quiet=True), [])
    own = logits(place / "teacher")
    assert [form.name for form in forms] == ["a, torch", "a, trimmed, torch"]
    for form in forms:
        chosen = copy_chosen(form, tmp_path)
        np.testing.assert_allclose(logits(chosen), own, atol=1e-5)
        (chosen / TRUNCATION).unlink()
        assert np.abs(logits(chosen) - own).max() > 1e-3  # texts are long enough to be cut


@pytest.mark.slow
def test_students_learn_from_cross_fitted_teachers(
    words: list[Any], place: Path, tiny_model: Any, command: Run
) -> None:
    words = [tiny_model("bert") if word == "teacher" else word for word in words]
    code, _, error = command(*words, "--set", "teacher.cross_fit=2", "--open", "none", "-o", "crossed")
    assert code == 0, error
    study: Any = read_record(place / "crossed")
    assert {cell.state for cell in study.record.cells} == {"finished"}
    learned = study.run(study.record.cells[1]).record.teacher
    assert learned.cross_fit.folds == 2
    for name in (learned.name, *learned.cross_fit.teachers):
        assert (place / "runs" / name / "model").is_dir()
    teacher = study.record.form("teacher, torch")
    assert (study.path / teacher.folder).resolve().parent.name == learned.name


def test_a_decoder_is_no_teacher_of_a_ladder(toy_csv: Any, tiny_model: Any, tmp_path: Path, command: Run) -> None:
    decoder = build_decoder("qwen3", tmp_path / "decoder", dict(enumerate(["health", "money", "sport"])))
    asked = ["shrink", toy_csv(90), "--student", tiny_model("bert"), "--teacher", decoder, "--dry-run"]
    code, _, error = command(*asked)
    assert code == 2
    assert "this is a decoder (qwen3)" in error


def test_a_recipe_or_a_search_without_a_teacher_asks_for_one(
    toy_csv: Any, tiny_model: Any, command: Run, empty_caches: None
) -> None:
    asked = ["shrink", toy_csv(90), "--student", tiny_model("bert"), "--dry-run"]
    code, _, error = command(*asked)
    assert code == 2
    assert "--teacher NAME" in error
    assert "--preset" not in error
    code, _, error = command(*asked, "--preset", "plain")
    assert code == 2
    assert "--teacher NAME" in error
    assert "Leave --preset out" in error


def test_the_plan_names_the_training_of_the_teacher(toy_csv: Any, tiny_model: Any, command: Run) -> None:
    asked = ["shrink", toy_csv(90), "--student", tiny_model("bert"), "--teacher", tiny_model("bert"), "--dry-run"]
    code, out, error = command(*asked)
    assert code == 0, error
    assert out.startswith("teacher, fine-tuned first: ")
    code, out, error = command(*asked, "--set", "teacher.cross_fit=2")
    assert code == 0, error
    assert sum(line.startswith("teacher, fine-tuned first: ") for line in out.splitlines()) >= 2


def test_a_teacher_below_the_bag_of_words_is_named(
    place: Path, words: list[Any], tiny_model: Any, command: Run
) -> None:
    """A teacher and a student that hardly train; the bag of words learns the toy texts."""
    slow = ["learning_rate=2e-3", "learning_rate=0.002"]
    other = dict.fromkeys(slow, "learning_rate=1e-7") | {"teacher": tiny_model("bert"), "ladder": "weak"}
    code, out, error = command(*[other.get(word, word) for word in words])
    assert code == 0, error
    assert "This says little, because the teacher is weak" in out
    assert "is clearly below bag of words" in error
    assert "teacher.epochs" in error
    record: Any = read_record(place / "weak").record
    assert {"teacher", "1 layer"} <= {one.arm for one in record.warnings}
    names = ["health", "money", "sport"]
    student = read_predictions(place / "weak" / "predictions" / "1-layer-torch-validation.parquet", names)
    (own,) = (one for one in record.warnings if one.arm == "1 layer")
    assert own.kind == ("one-class" if len(set(student.predicted)) == 1 else "majority")
    assert own.message in error
    report([place / "weak"], place / "weak-report", formats="md")
    assert "is clearly below bag of words" in (place / "weak-report" / "report.md").read_text(encoding="utf-8")


def test_a_file_of_soft_labels_and_no_teacher_are_refused(
    place: Path, toy_csv: Any, tiny_model: Any, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps({"text": row.rsplit(",", 1)[0], "prediction": row.rsplit(",", 1)[1], "confidence": 0.9}) + "\n"
            for row in toy_csv(90).read_text().splitlines()[1:]
        ),
        encoding="utf-8",
    )
    asked = ["shrink", toy_csv(90), "--student", tiny_model("bert"), "--dry-run", *SETTINGS]
    code, _, error = command(*asked, "--teacher", "answers.jsonl")
    assert code == 2
    assert "cannot be run" in error
    code, out, error = command(*asked, "--teacher", place / "teacher")
    assert code == 0, error
    assert "chosen by latency among those that are not worse by 1 point on" in out
    assert "at least 300 are needed" in out
    with pytest.raises(UserError, match="none"):
        randout.shrink(toy_csv(90), teacher="none", students=[tiny_model("bert")])
