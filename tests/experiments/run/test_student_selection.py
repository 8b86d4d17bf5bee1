"""The choice between an encoder and a bag-of-words classifier: the rule, and whole runs that it decides."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import randout
from randout.core.errors import UserError
from randout.core.label_sets import LabelSets
from randout.data import stratify
from randout.experiments.run import pipeline, planning, student_selection
from randout.experiments.run.student_kinds import BagOfWordsBaseline, EncoderStudent
from randout.reporting.text import BAG_OF_WORDS, ENCODER, choice_lines
from randout.stats.label_set_scores import tuned_thresholds
from randout.storage.run_folder import RunFolder
from randout.testing.models import toy_texts

FAST = {"precision": "float32", "epochs": 1, "learning_rate": 1e-7, "teacher.model": "none", "preset": "plain"}


def judged(encoder: float, words: float, rows: int, groups: int | None = None, overlap: bool = True) -> dict[str, Any]:
    """Of two models that are right on these shares of the rows. overlap: on the same rows, as far as they go."""
    labels = np.zeros(rows, np.int64)

    def made(share: float, shift: int) -> np.ndarray:
        wrong = np.arange(rows) >= round(share * rows)
        return np.roll(wrong, shift).astype(np.int64)

    owner = np.arange(rows) % (groups or rows)
    dataset = SimpleNamespace(truth=lambda at: labels[at], groups=owner, id2label={0: "a", 1: "b"})
    config = SimpleNamespace(train=SimpleNamespace(metric="accuracy"), student=SimpleNamespace(alternative="svm"))
    plan: Any = SimpleNamespace(dataset=dataset, config=config, student=SimpleNamespace(label="mini"))
    both = {ENCODER: made(encoder, 0), BAG_OF_WORDS: made(words, 0 if overlap else rows // 2)}
    return student_selection.judged(plan, np.arange(rows), both, "validation")


@pytest.mark.parametrize(
    ("encoder", "words", "rows", "overlap", "chosen"),
    [
        (0.70, 0.80, 200, False, BAG_OF_WORDS),  # ahead
        (0.80, 0.80, 200, False, BAG_OF_WORDS),  # equal: the cheaper one
        (0.81, 0.80, 200, False, ENCODER),  # 200 rows do not show that it is by less than the margin
        (0.805, 0.80, 8000, True, BAG_OF_WORDS),  # 8,000 do
        (0.84, 0.80, 8000, True, ENCODER),
    ],
)
def test_the_rule(encoder: float, words: float, rows: int, overlap: bool, chosen: str) -> None:
    found = judged(encoder, words, rows, overlap=overlap).as_json()
    assert found["chosen"] == chosen
    assert found["difference"] == pytest.approx(words - encoder)
    assert (found["low90"] > -found["margin"] or found["difference"] >= 0) == (chosen == BAG_OF_WORDS)


def test_a_single_group_is_judged_by_the_scores_alone() -> None:
    assert judged(0.8, 0.9, 50, groups=1).chosen == BAG_OF_WORDS
    found = judged(0.9, 0.8, 50, groups=1).as_json()
    assert found["chosen"] == ENCODER
    assert "low90" not in found


def test_the_lines_have_both_scores_and_the_reason() -> None:
    first, second = choice_lines(judged(0.70, 0.80, 200, overlap=False))
    assert first == "student chosen on 200 validation rows (test rows not used): accuracy of mini 70.00% and svm 80.00%"
    assert second.startswith("svm minus mini: +10.00 points, 90 % interval [")
    assert second.endswith("]. The student is svm, a bag-of-words classifier: it scores higher")
    assert choice_lines(judged(0.9, 0.8, 50, groups=1))[1].endswith(
        "-10.00 points. The student is mini: the bag-of-words classifier scores lower, and these rows do not rule out a "
        "deficit of 2 points or more"
    )
    clear = choice_lines(judged(0.9, 0.5, 400))[1]
    assert clear.endswith("The student is mini: the bag-of-words classifier scores lower")


def test_label_sets_of_a_fold_are_decided_by_the_thresholds_of_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 2)) < 0.3
    logits = 2 * truth + rng.normal(size=(60, 2)) - 2
    sets, _ = LabelSets.of(truth)
    dataset: Any = SimpleNamespace(sets=sets, id2label={0: "a", 1: "b"}, truth=lambda rows: truth[rows])
    rows, fold = np.arange(60), np.arange(60) % 3
    made = student_selection.predicted_by_fold(dataset, rows, logits, fold)
    for number in range(3):
        held = fold == number
        limits = tuned_thresholds(truth[~held], logits[~held])
        p = 1 / (1 + np.exp(-logits[held]))
        np.testing.assert_array_equal(made[held], p > np.array(limits))
    one: Any = SimpleNamespace(sets=None)
    np.testing.assert_array_equal(student_selection.predicted_by_fold(one, rows, logits, fold), logits.argmax(1))


def test_folds_leave_rare_classes_out_and_keep_groups_whole() -> None:
    labels = np.array([0, 1] * 30 + [2, 2])
    groups = np.repeat(np.arange(31), 2)
    fold = stratify.grouped_folds(labels, groups, 3, ["a", "b", "rare"])
    assert (fold[60:] == -1).all()
    assert set(fold[:60].tolist()) == {0, 1, 2}
    assert (fold[::2] == fold[1::2]).all()
    assert all(set(labels[fold == number].tolist()) == {0, 1} for number in range(3))
    with pytest.raises(UserError, match="fewer than two classes have 3 groups"):
        stratify.grouped_folds(labels[:4], groups[:4], 3, ["a", "b"])


@pytest.fixture
def found_locally(tiny_model: Any, empty_caches: None, tmp_path: Path) -> str:
    """The label of the one encoder that is found locally."""
    shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / "tiny")
    return "tiny"


def train(table: Path, runs: Path, **more: Any) -> pipeline.Result:
    settings = {key: value for key, value in FAST.items() if key not in ("teacher.model", "preset")}
    asked = {"student": "auto", "teacher": "none", "preset": "plain", "runs": runs}
    return randout.train(table, **(asked | more | {"settings": settings | more.get("settings", {})}))


def test_bag_of_words_that_is_not_worse_becomes_the_student(
    toy_csv: Callable[..., Path], found_locally: str, tmp_path: Path, command: Any
) -> None:
    """The encoder learns nothing at its learning rate; 90 validation rows are too few, so folds decide."""
    table = toy_csv(600)
    result = train(table, tmp_path / "runs")
    record = result.run.record.as_json()
    assert record["choice"]["chosen"] == BAG_OF_WORDS
    assert (record["choice"]["by"], record["choice"]["rows"]) == ("cross-validation", 420)
    assert record["choice"][ENCODER]["name"] == found_locally
    assert record["choice"][BAG_OF_WORDS]["score"] > 0.9 > record["choice"][ENCODER]["score"]
    assert record["identity"]["student"]["classifier"] == "svm"
    assert result.metrics["test"]["accuracy"] > 0.9
    assert not (result.folder / student_selection.FOLDER).exists()
    assert not result.run.checkpoint.exists()
    again = train(table, tmp_path / "runs")
    assert (again.new, again.folder) == (False, result.folder)
    code, out, _ = command("evaluate", result.folder, "--split", "test", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == result.metrics["test"]["accuracy"]
    code, out, _ = command("predict", result.folder, "fever cough doctor pain")
    assert (code, out.split("\t")[0]) == (0, "health")
    code, out, _ = command("runs", "--runs", tmp_path / "runs")
    assert code == 0
    assert "svm" in out
    code, out, _ = command("runs", "show", result.folder)
    assert (code, "student chosen on 420 training rows, by cross-validation" in out) == (0, True)
    assert "student chosen on 420 training rows" in (result.model_path / "README.md").read_text(encoding="utf-8")
    code, out, _ = command("report", result.folder, "-o", tmp_path / "page")
    assert code == 0
    recipe = randout.train(recipe=result.folder / "run.toml", runs=tmp_path / "recipe")
    assert recipe.run.record.fingerprint == record["fingerprint"]
    assert recipe.metrics["test"]["accuracy"] == result.metrics["test"]["accuracy"]


def letters(path: Path, rows: int) -> Path:
    """A table whose labels are in single letters, which are no words of a bag-of-words classifier."""
    texts, _ = toy_texts(rows, 3)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for at, text in enumerate(texts):
            one = "xyz"[at % 3]
            writer.writerow([f"{one} {one} {one} {' '.join(text.split()[:3])}", f"class {one}"])
    return path


@pytest.mark.slow
def test_an_encoder_that_is_better_stays_the_student_and_validation_rows_decide_where_they_are_enough(
    found_locally: str, tmp_path: Path, command: Any
) -> None:
    table = letters(tmp_path / "letters.csv", 1400)
    words = ("--student", "auto", "--teacher", "none", "--preset", "plain", "--set", "precision=float32")
    words = ("train", table, *words, "--set", "epochs=2", "--set", "learning_rate=1e-3", "--runs", tmp_path / "runs")
    code, out, err = command(*words)
    assert code == 0, err
    result = pipeline.finished(next((tmp_path / "runs").glob("letters*")))
    assert result is not None
    record = result.run.record.as_json()
    assert (record["choice"]["chosen"], record["choice"]["by"]) == (ENCODER, "validation")
    assert record["choice"]["rows"] == 210
    assert record["choice"][ENCODER]["score"] == result.metrics["validation"]["accuracy"] > 0.8
    assert record["choice"][BAG_OF_WORDS]["score"] < 0.6
    assert "student chosen on 210 validation rows (test rows not used): accuracy of tiny " in out
    assert "The student is tiny: the bag-of-words classifier scores lower" in out
    assert (result.model_path / "config.json").exists()
    code, _, err = command(*words)
    assert (code, "already trained" in err) == (0, True)
    alone = train(table, tmp_path / "alone", student=found_locally, settings={"epochs": 2, "learning_rate": 1e-3})
    assert alone.run.record.fingerprint == record["fingerprint"]
    assert alone.metrics["test"]["accuracy"] == result.metrics["test"]["accuracy"]


def test_a_stopped_choice_resumes_to_the_same_run(
    toy_csv: Callable[..., Path], tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the second fold, and again after the choice was recorded."""
    table, folder = toy_csv(240), tiny_model("bert")
    asked = {"student": folder, "settings": {"student.alternative": "svm"}}
    whole = train(table, tmp_path / "whole", **asked)
    calls = 0

    def stopping(train: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, plan: Any, run: RunFolder, *words: Any) -> Any:
            nonlocal calls
            if run.path.parent.name == student_selection.FOLDER:  # a fold
                calls += 1
                if calls == 3:
                    raise pipeline.Stopped("the time limit", run)
            return train(self, plan, run, *words)

        return call

    for kind in (EncoderStudent, BagOfWordsBaseline):
        monkeypatch.setattr(kind, "train", stopping(kind.train))
    with pytest.raises(pipeline.Stopped) as stop:
        train(table, tmp_path / "runs", **asked)
    run = stop.value.run
    assert (run.path / student_selection.FOLDER / "fold-1" / "logits.json").exists()
    assert not run.finished
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "score_split", lambda *_: (_ for _ in ()).throw(pipeline.Stopped("Ctrl-C", run)))
        with pytest.raises(pipeline.Stopped):
            train(table, tmp_path / "runs", **asked)
    assert calls == 3 + 4  # the second fold, both models of it, and the third
    resumed = train(table, tmp_path / "runs", **asked)
    assert calls == 7
    same = ("choice", "fingerprint", "identity", "asked")
    assert {key: getattr(resumed.run.record, key) for key in same} == {
        key: getattr(whole.run.record, key) for key in same
    }
    assert resumed.metrics["test"] == whole.metrics["test"]


def test_the_choice_never_looks_at_test_rows(toy_csv: Callable[..., Path], tiny_model: Any, tmp_path: Path) -> None:
    """Test rows with other labels change neither the choice nor the scores behind it."""
    with toy_csv(240).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for name in ("right", "wrong"):
        table = tmp_path / f"{name}.csv"
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label", "split"])
            for at, row in enumerate(rows):
                split = "test" if at % 4 == 0 else "validation" if at % 4 == 1 else "train"
                label = "sport" if name == "wrong" and split == "test" else row["label"]
                writer.writerow([row["text"], label, split])
        asked = {
            "student": tiny_model("bert"),
            "settings": {"student.alternative": "svm", "data.split_column": "split"},
        }
        result = train(table, tmp_path / "runs", **asked)
        found.append((result.run.record.choice, result.metrics["test"]["accuracy"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_texts_without_words_leave_the_encoder(tiny_model: Any, tmp_path: Path) -> None:
    table = tmp_path / "letters.csv"
    with table.open("w", encoding="utf-8") as stream:
        stream.write(
            "text,label\n" + "".join(f"{'ab'[at % 2]} {'cdefg'[at % 5]} {at % 7},{at % 2}\n" for at in range(140))
        )
    result = train(table, tmp_path / "runs", student=tiny_model("bert"), settings={"student.alternative": "svm"})
    assert result.run.record.choice.chosen == ENCODER
    assert "no word occurs in 1 of the" in result.run.record.choice.why


def test_a_choice_with_a_teacher_is_made_on_validation(
    toy_csv: Callable[..., Path], tiny_model: Any, tmp_path: Path
) -> None:
    """A teacher has learned from the rows of every fold; it is no part of a run of the bag-of-words classifier."""
    asked = {"teacher": tiny_model("roberta"), "preset": "kd", "settings": {"student.alternative": "svm"}}
    result = train(toy_csv(240), tmp_path / "runs", student=tiny_model("bert"), **asked)
    record = result.run.record.as_json()
    assert (record["choice"]["by"], record["choice"]["chosen"]) == ("validation", BAG_OF_WORDS)
    assert record["identity"]["teacher"] is None
    assert "teacher" not in record
    assert "teacher" not in result.metrics["validation"]


def test_only_train_chooses(toy_csv: Callable[..., Path], found_locally: str, tmp_path: Path, command: Any) -> None:
    for words in (("compare", toy_csv(), "--seeds", 1), ("search", toy_csv(), "--space", "kd.weight=[0.4]")):
        code, _, err = command(*words, "--student", "auto", "--teacher", "none", "-o", tmp_path / "study")
        assert code == 2
        assert "only `randout train` chooses" in err
    with pytest.raises(UserError, match="a setting of encoders, but the student is svm"):
        train(toy_csv(), tmp_path / "runs", student="svm", settings={"student.alternative": "svm"})


def test_a_dry_run_says_how_the_student_is_chosen(
    toy_csv: Callable[..., Path], found_locally: str, tmp_path: Path, command: Any
) -> None:
    words = ("train", toy_csv(), "--student", "auto", "--teacher", "none", "--preset", "plain", "--dry-run")
    code, out, _ = command(*words, "--runs", tmp_path / "runs")
    assert code == 0
    assert (
        "student: tiny or svm, chosen by 3-fold cross-validation on the training rows, because 18 validation rows are too few"
        in out
    )
    assert "cross-validation trains the encoder 3 times on fewer rows" in out


def test_no_option_is_the_encoder_as_before(toy_csv: Callable[..., Path], found_locally: str) -> None:
    from randout.core import config
    from randout.methods.builtin import METHODS

    tables = {"data": {"source": str(toy_csv())}, "teacher": {"model": "none"}}
    plan = planning.make(config.build([config.read_preset("plain"), tables], METHODS))
    named = planning.make(config.build([config.read_preset("plain"), tables, {"student": {"model": "tiny"}}], METHODS))
    assert plan.alternative is None
    assert plan.fingerprint == named.fingerprint
    assert "alternative" not in plan.identity["student"]
