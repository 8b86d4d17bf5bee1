"""Refit: validation scores without the validation rows, and a saved model that has learned from them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from randout.core import config
from randout.core.config import TrainTable
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.row_hashes import row_hashes
from randout.experiments import study_requests
from randout.experiments.run import defaults, pipeline, planning
from randout.experiments.run.reload import reload_plan
from randout.methods.builtin import METHODS
from randout.reporting.checks import teacher_saw_held_out
from randout.reporting.read import read
from randout.reporting.teachers import run_lines
from randout.reporting.text import score_lines
from randout.storage.metrics_record import Scores
from randout.storage.seen_rows import TRAINED, read_seen, seen_in
from randout.testing.models import toy_texts

Runs = Callable[..., pipeline.Result]


@pytest.fixture
def train_on(tiny_model: Callable[[str], Path], tmp_path: Path) -> Runs:
    """(split names of the rows of one table, refit, **settings) -> its result."""

    def run(splits: list[str], refit: bool, **more: Any) -> pipeline.Result:
        texts, labels = toy_texts(len(splits), 3)
        path = tmp_path / f"{len(list(tmp_path.glob('*.csv')))}.csv"
        rows = [row for row in zip(texts, labels, splits, strict=True) if row[2]]
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label", "split"), *rows])
        tables = {
            "data": {"source": str(path), "split_column": "split"},
            "student": {"model": str(tiny_model("bert")), "max_length": 20},
            "teacher": {"model": "none"},
            "methods": {"ce": {}},
            "train": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "device": "cpu"}
            | {"keep": "last", "refit": refit},
        } | more
        plan = planning.make(config.build([tables], METHODS))
        return pipeline.execute(plan, pipeline.Options(runs=tmp_path / "runs", show=Show()))

    return run


PARTS = ["train"] * 48 + ["validation"] * 18 + ["test"] * 24


def weights(result: pipeline.Result) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(result.model_path / "model.safetensors")
    return found


def test_the_saved_model_has_learned_from_the_validation_rows_too(train_on: Runs) -> None:
    """It is, bit for bit, the model of a run in which these rows are training rows and others validate."""
    refit = train_on([*PARTS, *[""] * 9], True)
    joined = train_on([*["train"] * 66, *PARTS[66:], *["validation"] * 9], False)
    ours, theirs = weights(refit), weights(joined)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert refit.metrics["test"]["accuracy"] == joined.metrics["test"]["accuracy"]
    assert not (refit.folder / "refit").exists()
    assert [one.run.history.refit_seconds is not None for one in (refit, joined)] == [True, False]
    cards = [(one.model_path / "README.md").read_text(encoding="utf-8") for one in (refit, joined)]
    assert ["the same training without them" in card for card in cards] == [True, False]


def test_validation_scores_are_of_the_model_that_has_not_seen_them(train_on: Runs) -> None:
    refit, plain = train_on(PARTS, True), train_on(PARTS, False)
    assert refit.folder != plain.folder
    kept = ("accuracy", "macro_f1", "log_loss", "confusion_matrix")
    assert [refit.metrics["validation"][name] for name in kept] == [plain.metrics["validation"][name] for name in kept]
    assert any(not np.array_equal(weights(refit)[name], value) for name, value in weights(plain).items())


def test_a_reader_of_the_scores_is_told(train_on: Runs) -> None:
    told = "scored before the refit; the saved model has been trained on these rows too"
    for refit in (True, False):
        metrics = train_on(PARTS, refit).metrics
        names = dict(enumerate(metrics["validation"]["per_class"]))
        assert (told in score_lines(Scores.model_validate(metrics["validation"]), names)) is refit
        assert told not in score_lines(Scores.model_validate(metrics["test"]), names)


def test_a_run_whose_data_was_moved_says_where_it_looked(train_on: Runs, tmp_path: Path) -> None:
    result = train_on(PARTS, False)
    (path,) = tmp_path.glob("*.csv")
    path.rename(tmp_path / "elsewhere.csv")
    with pytest.raises(
        UserError, match=rf"the data of this run is not at {re.escape(str(path))}.*randout evaluate .* FILE"
    ):
        reload_plan(result.run)


def test_later_runs_are_told_that_the_validation_rows_were_trained_on(train_on: Runs) -> None:
    texts = toy_texts(len(PARTS), 3)[0]
    for refit in (True, False):
        seen = read_seen(train_on(PARTS, refit).folder)
        assert seen is not None
        roles = seen.roles_of(row_hashes(texts))
        assert [bool(roles[at] & TRAINED) for at in (0, 50, 80)] == [True, refit, False]
        counts, _ = seen_in(seen, row_hashes(texts))
        assert counts == ({"trained": 66} if refit else {"trained": 48, "selected": 18})


def test_the_row_counts_of_a_refit_agree(train_on: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They count unlabelled texts, which the refit learns from as well."""
    unlabeled = tmp_path / "unlabelled.txt"
    unlabeled.write_text("\n".join(["text", *toy_texts(7, 11)[0]]), encoding="utf-8")
    teacher = train_on(PARTS, False)
    data = {"source": str(next(tmp_path.glob("*.csv"))), "split_column": "split", "unlabeled": str(unlabeled)}
    more = {"data": data, "teacher": {"model": str(teacher.folder)}, "methods": {"ce": {}, "kd": {}}}
    plan = train_on(PARTS, True, **more).run.split
    said = capsys.readouterr().err
    texts = sum(len(plan[name]) for name in ("train", "validation", "unlabeled"))
    assert texts > 66
    assert f"trained again on all {texts} rows" in said
    assert f"refit on all {texts} rows" in said


@pytest.mark.slow
def test_a_refitted_teacher_gets_no_verdict_on_rows_that_it_was_trained_on(
    train_on: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for refit in (True, False):
        teacher = train_on(PARTS, refit)
        for student_refit in (True, False):
            capsys.readouterr()
            student = train_on(
                PARTS,
                student_refit,
                teacher={"model": str(teacher.folder)},
                methods={"ce": {}, "kd": {}},
                output={"test": student_refit},
            )
            said, count = capsys.readouterr().err, "the teacher was trained on 18 of the"
            assert (f"warning: {count} 18 validation rows" in said) is refit
            assert ("(the teacher was trained on 18 of these 18 rows)" in said) is refit
            assert "test rows" not in said
            (subject,) = read([student.folder])
            found = {check.code: check for check in teacher_saw_held_out(subject)}
            assert found.keys() == ({"teacher-refit"} if refit else set())
            assert all(check.severity == "warning" for check in found.values())
            lines = "\n".join(run_lines(student.run.record, student.run.metrics))
            if student_refit:  # the test split is scored, of which neither has seen a row
                assert "on the same 24 test rows\n" in lines
                assert "no verdict" not in lines
                compared = study_requests.finished([str(teacher.folder), str(student.folder)], study_requests.Asked())
                assert compared.result is not None
                assert not compared.result.leaks
                continue
            assert "on the same 18 validation rows\n" in lines
            assert ("no verdict on either: the teacher was trained on 18 of these rows" in lines) is refit
            assert ("randout compare TEACHER RUN" in lines) is refit
            assert not refit or "weak-teacher" not in [one.kind for one in student.run.metrics.warnings]


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "REFIT_BELOW", 200)
    notes: list[str] = []
    assert defaults.resolved(TrainTable(), 50, 9, 384, False, notes).refit is True
    assert "trained again on all 59 rows" in notes[-1]
    assert "refit=false" in notes[-1]
    for asked, held in (
        (TrainTable(), 200),
        (TrainTable(), 0),
        (TrainTable(keep="last"), 9),
        (TrainTable(refit=False), 9),
    ):
        assert defaults.resolved(asked, 50, held, 384, False, []).refit is False
    assert defaults.resolved(TrainTable(refit=True), 5000, 500, 384, False, []).refit is True


def test_a_bag_of_words_is_not_refitted(train_on: Runs) -> None:
    with pytest.raises(UserError, match=r"train\.refit"):
        train_on(PARTS, True, student={"model": "mnb-count"}, methods={}, train={"refit": True})
