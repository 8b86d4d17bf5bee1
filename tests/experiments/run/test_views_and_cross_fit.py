"""Views and cross-fitted soft labels from the request to the saved run: which model labels which text, and what is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import Run
from randout import api
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.dataset import training_folds
from randout.experiments.run import pipeline
from randout.experiments.run import teacher as teachers
from randout.experiments.run.cross_fit import compared, settings_to_repeat
from randout.experiments.run.plan import Plan, TeacherOutputs
from randout.experiments.run.planning import make
from randout.experiments.run.reload import reload_plan, stored_config
from randout.experiments.run.run_request import recipe_tables
from randout.experiments.run.student import Options, Stopped, make_training_data
from randout.experiments.study import spec
from randout.methods.builtin import METHODS
from randout.models.tokenization import token_copies
from randout.models.tokens import Tokens
from randout.reporting.cross_fit import cross_fit_lines
from randout.storage.run_folder import RunFolder
from randout.testing.models import toy_texts

Tiny = Callable[[str], Path]
TRAIN = {"epochs": 1, "learning_rate": 2e-3, "precision": "float32", "device": "cpu", "keep": "last"}
RARE = "a word that no other text has"
NO_VIEWS = {"data": {"views": 0}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny) -> dict[str, Any]:
    """A table in which three rows share an author and one class has a single row, and a file of unlabelled texts."""
    folder = tmp_path_factory.mktemp("views")
    texts, labels = toy_texts(90, 0)
    rows = [(text, label, at // 3) for at, (text, label) in enumerate(zip(texts, labels, strict=True))]
    _write(folder / "toy.csv", [("text", "label", "author"), *rows, (RARE, "rare", 99)])
    _write(folder / "more.csv", [("text",), *((text,) for text in toy_texts(12, 7)[0])])
    return {
        "data": {"source": str(folder / "toy.csv"), "group_column": "author", "views": 2},
        "student": {"model": str(tiny_model("bert")), "max_length": 24},
        "teacher": {"model": str(tiny_model("roberta"))},
        "methods": {"ce": {}, "kd": {}},
        "train": TRAIN,
    }


def _write(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def plan_of(tables: dict[str, Any], *above: dict[str, Any]) -> Plan:
    return make(config.build([tables, *above], METHODS))


@dataclass(frozen=True)
class Done:
    """A finished run with views, two fold teachers and unlabelled texts."""

    plan: Plan
    options: Options
    result: pipeline.Result
    taught: TeacherOutputs

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.result.folder)


@pytest.fixture(scope="module")
def done(tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Done:
    runs = tmp_path_factory.mktemp("done")
    more = str(Path(tables["data"]["source"]).with_name("more.csv"))
    plan = plan_of(tables, {"data": {"unlabeled": more}, "teacher": {"cross_fit": 2}})
    options = Options(runs=runs, show=Show(quiet=True))
    result = pipeline.execute(plan, options)
    taught = pipeline.taught(plan, options)
    assert taught is not None
    return Done(plan, options, result, taught)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


def probabilities(done: Done, run: str, rows: np.ndarray) -> np.ndarray:
    """The predictions of a saved teacher, its columns in the student's order of classes."""
    folder = done.options.runs / run
    saved = json.loads((folder / "model" / "config.json").read_text())["id2label"]
    order = [[saved[str(at)] for at in range(len(saved))].index(name) for name in done.plan.dataset.id2label.values()]
    _, found = api.predict(folder, [done.plan.dataset.texts[row] for row in rows], device="cpu")
    return found[:, order]


def test_each_text_is_labelled_by_the_teacher_that_was_not_trained_on_it(done: Done) -> None:
    """By the saved fold teachers and the rows that their own `split.json` lists; views as their source rows."""
    dataset, taught = done.plan.dataset, done.taught
    assert taught.cross_fit is not None
    assert dataset.views is not None
    place = {row: at for at, row in enumerate(dataset.row_ids)}
    train, views = dataset.split["train"], dataset.split["views"]
    labelled: list[int] = []
    for name in taught.cross_fit.teachers:
        split = RunFolder(done.options.runs / name).split
        own = np.array([place[row] for row in split["train"]])
        assert [place[row] for row in split["validation"]] == dataset.split["validation"].tolist()
        unseen = np.setdiff1d(train, own)
        assert not set(dataset.groups[unseen]) & set(dataset.groups[own]), "groups are whole"
        counts = [np.bincount(dataset.labels[rows], minlength=3)[:3] for rows in (unseen, own)]
        assert abs(counts[0] - counts[1]).max() <= 4, "folds are stratified"
        theirs = [
            row
            for row, view in zip(views.tolist(), dataset.views.made, strict=True)
            if {view.source, view.partner} - {-1} <= set(unseen.tolist())
        ]
        rows = np.concatenate([unseen, np.array(theirs, dtype=np.int64)])
        np.testing.assert_allclose(taught.logits[rows].softmax(1).numpy(), probabilities(done, name, rows), atol=1e-5)
        labelled += rows.tolist()
    rare = [row for row in train.tolist() if dataset.texts[row] == RARE]
    assert len(rare) == 1
    assert sorted(labelled) == sorted({*train.tolist(), *views.tolist()} - {*rare})
    assert torch.isnan(taught.logits[rare]).all(), "every fold's teacher was trained on it"
    assert rare[0] not in {view.source for view in dataset.views.made}
    rest = np.concatenate([dataset.split["validation"], dataset.split["unlabeled"]])
    np.testing.assert_allclose(
        taught.logits[rest].softmax(1).numpy(), probabilities(done, taught.name, rest), atol=1e-5
    )
    assert torch.isnan(taught.logits[dataset.split["test"]]).all()


def test_the_student_learns_from_views_as_from_unlabelled_texts(done: Done) -> None:
    dataset = done.plan.dataset
    data = make_training_data(done.plan, done.taught)
    assert data.unlabelled.tolist() == [*dataset.split["unlabeled"].tolist(), *dataset.split["views"].tolist()]
    assert (data.labels[torch.from_numpy(data.unlabelled)] == -1).all(), "no loss on gold labels"
    assert not data.teacher[torch.from_numpy(data.unlabelled)].isnan().any()
    assert done.plan.steps == -(-(len(data.labelled) + len(data.unlabelled)) // 16)
    assert done.run.history.epochs[0].step == done.plan.steps


def test_out_of_fold_and_in_sample_labels_are_scored_against_gold(done: Done) -> None:
    """Accuracy, log loss and calibration error written out, of the fold teachers and of the teacher of all rows."""
    dataset, record = done.plan.dataset, done.taught.cross_fit
    assert record is not None
    train = dataset.split["train"]
    rows = np.array([row for row in train if dataset.texts[row] != RARE])
    assert (record.folds, record.rows, record.without) == (2, len(train) - 1, 1)
    gold = dataset.labels[rows]
    fold = done.taught.logits[rows].softmax(1).numpy()
    for scores, p in ((record.out_of_fold, fold), (record.in_sample, probabilities(done, done.taught.name, rows))):
        right, best = p.argmax(1) == gold, p.max(1)
        bins = np.ceil(best * 15)
        error = sum(abs(right[bins == b].mean() - best[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
        assert scores.accuracy == pytest.approx(right.mean())
        assert scores.log_loss == pytest.approx(-np.log(p[np.arange(len(rows)), gold]).mean(), abs=1e-4)
        assert scores.expected_calibration_error == pytest.approx(error, abs=1e-4)
    (line,) = cross_fit_lines(done.run.record)
    assert f"{record.out_of_fold.accuracy:.2%}" in line
    assert f"{record.in_sample.log_loss:.3f}" in line
    assert "1 training row of classes too rare" in line


def test_the_scores_of_two_soft_labels_differ_where_they_do(done: Done) -> None:
    """Perfect labels against labels that are wrong everywhere."""
    dataset = done.plan.dataset
    perfect = np.full((len(dataset.texts), 4), -9.0)
    perfect[np.arange(len(dataset.texts)), dataset.labels.clip(0)] = 9.0
    found = compared(dataset, perfect, np.roll(perfect, 1, axis=1), 2, [])
    assert (found.out_of_fold.accuracy, found.in_sample.accuracy) == (1.0, 0.0)
    assert found.out_of_fold.log_loss < 1e-6 < 17 < found.in_sample.log_loss


def test_the_run_says_what_it_learned_from(done: Done, run: Run, tmp_path: Path) -> None:
    dataset, record = done.plan.dataset, done.run.record
    assert dataset.views is not None
    assert record.data_report.views == dataset.views.counts
    assert record.data_report.views_left_out == dataset.views.left_out
    assert record.teacher.cross_fit.teachers == done.taught.cross_fit.teachers
    assert set(done.run.split) == {"train", "validation", "test", "unlabeled"}
    card = (done.result.model_path / "README.md").read_text(encoding="utf-8")
    assert f"{len(dataset.views.made)} views of training texts" in card
    assert "Cross-fitted soft labels: 2 folds" in card
    assert run("report", done.result.folder, "-o", tmp_path / "report", "--formats", "csv,html")[0] == 0
    with (tmp_path / "report" / "tables" / "cross-fit.csv").open(encoding="utf-8", newline="") as stream:
        accuracy = [float(row["accuracy %"]) for row in csv.DictReader(stream)]
    own = record.teacher.cross_fit
    assert accuracy == pytest.approx([100 * own.out_of_fold.accuracy, 100 * own.in_sample.accuracy])
    assert "augmented views: splice" in (tmp_path / "report" / "tables" / "copies.csv").read_text(encoding="utf-8")


def test_a_finished_run_is_found_evaluated_and_repeated(done: Done, run: Run) -> None:
    assert pipeline.execute(done.plan, done.options).new is False
    assert reload_plan(done.run).dataset.views is None, "held-out rows are scored without views"
    assert run("evaluate", done.result.folder, "--split", "validation")[0] == 0
    again = config.build([recipe_tables(done.result.folder / "run.toml")], METHODS)
    assert Path(again.teacher.model).name == "roberta", (
        "an encoder to fine-tune for each fold, not the finished teacher"
    )
    assert (again.teacher.epochs, again.train.validate_every) == (1, 0), "as requested: 0 is auto"
    assert make(again).fingerprint == done.plan.fingerprint


def test_a_cross_fitted_training_with_automatic_settings_can_be_repeated(tables: dict[str, Any]) -> None:
    """The teacher of all rows, those of the folds and the student each have their own epochs and validations."""
    auto = {"train": {"epochs": "auto", "learning_rate": "auto", "batch_size": 8, "keep": "auto"}}
    plan = plan_of(tables, auto, {"teacher": {"cross_fit": 2}, "data": {"views": 1}})
    assert plan.teacher_plan is not None
    trained = [one.config.train for one in (plan, plan.teacher_plan, plan.fold_teachers[0])]
    assert len({train.epochs for train in trained}) == 3
    assert len({train.validate_every for train in trained}) == 3
    settings, train = settings_to_repeat(plan)
    own = {"teacher": plan.config.teacher.model_copy(update=settings), "train": train}
    again = make(plan.config.model_copy(update=own))
    assert again.teacher_plan is not None
    assert again.teacher_plan.fingerprint == plan.teacher_plan.fingerprint
    assert [one.fingerprint for one in again.fold_teachers] == [one.fingerprint for one in plan.fold_teachers]
    assert again.fingerprint == plan.fingerprint


def test_held_out_rows_with_the_tokens_of_a_view_are_found(tables: dict[str, Any]) -> None:
    dataset = plan_of(tables).dataset
    view, held = int(dataset.split["views"][0]), int(dataset.split["test"][3])
    rows = len(dataset.texts)
    ids = np.arange(rows, dtype=np.int32)
    ids[held] = ids[view]
    found = token_copies(Tokens(ids, np.arange(rows + 1), np.ones(rows, np.int64)), dataset)
    assert {name: copies.tolist() for name, copies in found.items()} == {"test": [held]}


def test_views_count_as_texts_to_learn_from_where_pooling_is_chosen(tables: dict[str, Any]) -> None:
    """Without views the training rows are few enough to choose the pooling; with two views of each they are not."""
    few = {"methods": {"contrastive": {"rows": 100}}}
    chosen = [any("pooling:" in note for note in plan_of(tables, few, more).notes) for more in ({}, NO_VIEWS)]
    assert chosen == [False, True]


@pytest.mark.slow
def test_a_teacher_that_knows_its_rows_by_heart_is_told_apart(
    tables: dict[str, Any], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the teacher has 99.5%" in teachers.memorized(0.995, 0.58)
    assert teachers.memorized(0.68, 0.58 + 1e-9) == ""

    monkeypatch.setattr(teachers, "MEMORIZED", -2.0)  # any teacher
    words = ["train", tables["data"]["source"], "--student", tables["student"]["model"], "--preset", "kd"]
    words += ["--teacher", tables["teacher"]["model"], "--set", "epochs=1", "--set", "precision=float32"]
    code, _, log = run(*words, "-o", tmp_path / "in-sample")
    assert (code, "hint: on the training rows the teacher has" in log) == (0, True), log
    code, _, log = run(*words, "--views", "1", "-o", tmp_path / "views")
    assert (code, "hint: on the training rows" in log) == (0, False), log
    monkeypatch.setattr(teachers, "FEW_ROWS", 10)
    code, _, log = run(*words, "-o", tmp_path / "many", "--seed", "2")
    assert (code, "hint: on the training rows" in log) == (0, False), log


def test_stopped_and_resumed_is_bit_for_bit_the_same(done: Done, tables: dict[str, Any], tmp_path: Path) -> None:
    """Stopped in each of its teachers and in the student; `run.toml` leads to the same run each time."""
    past = Options(runs=tmp_path, deadline=1.0, show=Show(quiet=True))
    plan = done.plan
    for _ in range(3):  # the teacher of all rows, then those of the folds
        with pytest.raises(Stopped) as stopped:
            pipeline.execute(plan, past)
        plan = make(stored_config(stopped.value.run))
        assert plan.fingerprint == done.plan.fingerprint
        unfinished = next(one for one in (plan.teacher_plan, *plan.fold_teachers) if not _finished(tmp_path, one))
        pipeline.execute(unfinished, Options(runs=tmp_path, show=Show(quiet=True)))
    with pytest.raises(Stopped):
        pipeline.execute(plan, past)
    again = pipeline.execute(plan, Options(runs=tmp_path, show=Show(quiet=True)))
    assert again.new
    ours, theirs = weights(again.folder), weights(done.result.folder)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours | theirs)


def _finished(runs: Path, plan: Plan | None) -> bool:
    assert plan is not None
    return RunFolder(runs / plan.name).finished


def test_a_teacher_with_automatic_settings_is_found_again(tables: dict[str, Any], tmp_path: Path) -> None:
    """A student of many views has fewer epochs than its teacher; a resumed run keeps both."""
    auto = {"train": {"epochs": "auto", "learning_rate": "auto"}, "data": {"views": 6}}
    plan = plan_of(tables, auto)
    assert plan.teacher_plan is not None
    assert plan.config.train.epochs < plan.teacher_plan.config.train.epochs
    with pytest.raises(Stopped) as stopped:
        pipeline.execute(plan, Options(runs=tmp_path, deadline=1.0, show=Show(quiet=True)))
    assert make(stored_config(stopped.value.run)).fingerprint == plan.fingerprint


def test_fingerprints_change_with_views_and_folds_only(tables: dict[str, Any]) -> None:
    none = {"data": {"views": 0}}
    plain = plan_of(tables, none)
    assert plain.identity.keys() == {"data", "split", "student", "teacher", "methods", "train"}
    assert plain.fingerprint == plan_of(tables, none, {"data": {"view_splice": 0.5, "view_drop_rate": 0.4}}).fingerprint
    others = [plan_of(tables), plan_of(tables, {"data": {"views": 3}}), plan_of(tables, {"data": {"view_splice": 0.0}})]
    others += [plan_of(tables, none, {"teacher": {"cross_fit": folds}}) for folds in (2, 3)]
    assert len({plan.fingerprint for plan in [plain, *others]}) == 6
    for plan in others:
        assert plan.teacher_plan is not None
        assert plain.teacher_plan is not None
        assert plan.teacher_plan.fingerprint == plain.teacher_plan.fingerprint, "the teacher of all rows is shared"
    assert plain.identity["split"] == others[0].identity["split"]


def test_a_fold_teacher_is_an_ordinary_run(tables: dict[str, Any]) -> None:
    """Its settings alone, read from the file, give the same rows and the same fingerprint."""
    plan = plan_of(tables, {"teacher": {"cross_fit": 3}, "data": {"views": 0}})
    folds = training_folds(plan.dataset, 3)
    for fold, teacher in enumerate(plan.fold_teachers):
        assert make(teacher.config).fingerprint == teacher.fingerprint
        left_out = np.setdiff1d(plan.dataset.split["train"], teacher.dataset.split["train"])
        assert left_out.tolist() == np.flatnonzero(folds == fold).tolist()
        assert f"fold {fold + 1} of 3 of the training rows" in " ".join(teacher.dataset.report.notes)


@pytest.mark.parametrize(
    ("above", "words"),
    [
        ({"teacher": {"model": "none"}}, "data.views: views are texts without a gold label"),
        ({"methods": {"kd": False}, "teacher": {"model": "auto"}}, "data.views: views are texts without a gold label"),
        (
            {"student": {"model": "svm", "max_length": "auto"}, "teacher": {"model": "auto"}},
            "data.views: not supported",
        ),
        ({"teacher": {"cross_fit": 1}}, "expected 2 or more folds"),
        (
            {"teacher": {"cross_fit": 2}, "data": {"train_folds": 3, "train_fold": 1}},
            "train_folds = 3 already leaves out",
        ),
        ({"teacher": {"cross_fit": 40}}, "teacher.cross_fit = 40: the training rows cannot be split"),
        ({"teacher": {"cross_fit": 2, "model": "none"}, "data": {"views": 0}}, "no teacher to fine-tune"),
        ({"teacher": {"cross_fit": 2}, "methods": {"kd": False, "layer-matching": {}}}, "methods.layer-matching runs"),
        ({"data": {"views": 0, "train_folds": 3}}, "expected 1 to 3"),
        ({"data": {"views": 0, "train_folds": 1, "train_fold": 1}}, "expected 2 or more folds"),
        ({"data": {"views": 0, "train_folds": 40, "train_fold": 1}}, "cannot be split into 40 folds"),
    ],
)
def test_what_cannot_be_done_is_refused(tables: dict[str, Any], above: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(tables, above)


def test_teachers_that_are_finished_or_files_are_refused(done: Done, tables: dict[str, Any], tmp_path: Path) -> None:
    finished = {"teacher": {"model": str(done.options.runs / done.taught.name), "cross_fit": 2}}
    with pytest.raises(UserError, match="is a finished classifier"):
        plan_of(tables, finished)
    dataset = done.plan.dataset
    answers = [(dataset.texts[row], dataset.id2label[int(dataset.labels[row])]) for row in dataset.split["train"]]
    _write(tmp_path / "answers.csv", [("text", "prediction"), *answers])
    with pytest.raises(UserError, match="is a file of soft labels, which has none for new texts"):
        plan_of(tables, {"teacher": {"model": str(tmp_path / "answers.csv")}})
    with pytest.raises(UserError, match="is a file of soft labels, and what it was trained on"):
        plan_of(tables, {"teacher": {"model": str(tmp_path / "answers.csv"), "cross_fit": 2}, "data": {"views": 0}})


def test_arms_of_a_study_without_a_teacher_ignore_views(tables: dict[str, Any]) -> None:
    base = {"data": tables["data"], "teacher": {**tables["teacher"], "cross_fit": 2}}
    arms: dict[str, Any] = {"kd": {"preset": "kd"}, "plain": {"preset": "plain"}, "svm": {"student": {"model": "svm"}}}
    arms["asked"] = {"preset": "plain", "data": {"views": 3}}
    study = spec.make_study({"base": base, "arms": arms, "seeds": [1]})
    found = {arm: spec.arm_config(study, arm, METHODS) for arm in arms}
    assert [found[arm].data.views for arm in arms] == [2, 0, 0, 3]
    assert [found[arm].teacher.cross_fit for arm in arms] == [2, 0, 0, 0]
