"""Warnings about models that learned nothing, stopped too early, or were taught in the wrong order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout import api
from randout.baselines import reference
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.experiments.run import planning, run_request, soft_labels
from randout.experiments.run.student import Options
from randout.experiments.search import search
from randout.experiments.search.space import SearchTable
from randout.experiments.study import comparison
from randout.experiments.study.spec import make_study
from randout.experiments.study.study_warnings import of_study
from randout.methods.builtin import METHODS
from randout.reporting import report
from randout.stats import diagnostics
from randout.storage.run_folder import RunFolder
from randout.storage.study_record import ComparisonRecord
from support import folders
from support.tables import load

NAMES = ["health", "money", "sport"]
LITTLE = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-9, "precision": "float32", "device": "cpu"}
SETS = [word for key, value in LITTLE.items() for word in ("--set", f"{key}={value}")]


def kinds(labels: Any, predicted: Any, names: list[str] = NAMES, **options: Any) -> list[str]:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    found = diagnostics.of_split(
        labels, predicted, np.arange(len(labels)), names, options.pop("majority", 0), split="test", **options
    )
    return [finding.kind for finding in found]


def repeated(*counts: int) -> np.ndarray:
    """Class k `counts[k]` times."""
    return np.repeat(np.arange(len(counts)), counts)


def test_one_class_for_almost_every_row_is_found_where_other_classes_have_rows() -> None:
    even = repeated(40, 30, 30)
    assert "one-class" in kinds(even, np.zeros(100, int))
    almost = np.zeros(100, int)
    almost[-5:] = 2
    assert "one-class" in kinds(even, almost)
    almost[-6:] = 2
    assert "one-class" not in kinds(even, almost)
    rare = repeated(96, 4)
    assert kinds(rare, np.zeros(100, int), ["a", "b"]) == ["majority"], "4 rows of the other class say nothing"
    found = repeated(190, 10)
    assert kinds(found, found, ["a", "b"]) == [], "most rows are of one class, and it finds the others"
    assert "one-class" in kinds(found, np.zeros(200, int), ["a", "b"])


def test_a_class_with_enough_rows_that_is_never_predicted_is_named() -> None:
    labels = repeated(50, 40, 10)
    predicted = np.where(labels == 2, 0, labels)
    assert kinds(labels, predicted) == ["never-predicted"]
    (found,) = diagnostics.of_split(labels, predicted, np.arange(100), NAMES, 0, split="test")
    assert "'sport' (10 rows)" in found.message
    assert "money" not in found.message
    fewer = repeated(50, 41, 9)
    assert kinds(fewer, np.where(fewer == 2, 0, fewer)) == []


def test_not_above_the_majority_class_is_judged_by_the_interval_over_groups() -> None:
    labels = repeated(50, 50)
    names = ["a", "b"]
    slightly, clearly = np.zeros(100, int), np.zeros(100, int)
    slightly[48:53] = 1  # 3 rows gained, 2 lost
    clearly[40:] = 1  # 50 gained, 10 lost
    assert "majority" in kinds(labels, slightly, names)
    assert "majority" not in kinds(labels, clearly, names)
    few_groups = np.repeat(np.arange(2), 50)  # of the class "a" one group, of "b" the other
    found = diagnostics.of_split(labels, clearly, few_groups, names, 0, split="test")
    assert "majority" in [finding.kind for finding in found]
    trained_on_more_b = kinds(labels, np.ones(100, int) - slightly, names, majority=1)
    assert "majority" in trained_on_more_b, "the class that is largest in training, not in these rows"
    balanced = np.where(np.arange(100) < 30, labels, 1 - labels)
    balanced[50:] = 1
    rare = repeated(90, 10)
    found_rare = np.where(np.arange(100) < 75, 0, 1)  # accuracy 85 % < 90 %, but macro F1 above
    assert "majority" in kinds(rare, found_rare, names)
    assert "majority" not in kinds(rare, found_rare, names, metric="macro_f1")


def test_below_the_baseline_needs_an_interval_below_zero() -> None:
    labels = repeated(50, 50)
    base = {"accuracy": 0.9, "difference": {"estimate": -0.3, "low": -0.4, "high": -0.2}}
    right = repeated(50, 50)
    assert kinds(labels, right, ["a", "b"], baseline=base) == ["baseline"]
    unsure = base | {"difference": {"estimate": -0.3, "low": -0.6, "high": 0.01}}
    assert kinds(labels, right, ["a", "b"], baseline=unsure) == []
    assert kinds(labels, right, ["a", "b"], baseline=base | {"difference": None}) == []


def sure(labels: np.ndarray, confidence: float, right: float) -> np.ndarray:
    """(n, 2) logits with this confidence in the predicted class, which is right on this share of the rows."""
    wrong = np.arange(len(labels)) % 100 >= 100 * right
    made = np.where(wrong, 1 - labels, labels)
    return np.log(np.where(np.eye(2)[made] > 0, confidence, 1 - confidence))


def test_poor_calibration_is_found_where_it_is_more_than_few_rows_show() -> None:
    labels = np.arange(600) % 2
    many = np.arange(600)
    found = diagnostics.calibration(labels, sure(labels, 0.97, 0.45), many, "test")
    assert found is not None
    assert found.kind in diagnostics.KINDS
    assert "52.0 points" in found.message
    assert "mean confidence 97.0%, accuracy 45.0%" in found.message
    assert "label_smoothing" in found.message
    modest = diagnostics.calibration(labels, sure(labels, 0.6, 0.8), many, "test")
    assert modest is not None
    assert "more epochs" in modest.message
    assert diagnostics.calibration(labels, sure(labels, 0.8, 0.66), many, "test") is None, "14 points"
    assert diagnostics.calibration(labels, sure(labels, 0.8, 0.62), many, "test") is not None
    few = slice(34, 44)  # 6 of 10 right
    assert diagnostics.calibration(labels[few], sure(labels, 0.8, 0.4)[few], many[few], "test") is None
    copies = many // 60  # ten groups: as good as ten rows
    assert diagnostics.calibration(labels, sure(labels, 0.8, 0.62), copies, "test") is None


def test_calibration_is_reported_alongside_the_other_findings() -> None:
    labels = np.arange(600) % 2
    logits = sure(labels, 0.97, 0.6)
    assert kinds(labels, logits.argmax(1), ["a", "b"], logits=logits) == ["calibration"]
    assert kinds(labels, logits.argmax(1), ["a", "b"]) == []


def history(*values: float, ended: str = "all epochs done", metric: str = "accuracy") -> dict[str, Any]:
    rows = [{"epoch": at, "step": 3 * at, f"validation_{metric}": value} for at, value in enumerate(values, 1)]
    best = min(values) if metric == "log_loss" else max(values)
    return {"epochs": rows, "best_epoch": values.index(best) + 1, "ended": ended}


@pytest.mark.parametrize(
    ("found", "rows", "expected"),
    [
        (history(0.5, 0.6), 1000, True),
        (history(0.5, 0.6), 20, False),  # a row or two of 20
        (history(0.5, 0.501), 10**6, False),  # less than half a point
        (history(0.5, 0.7, 0.6), 1000, False),  # the best came earlier
        (history(0.5, 0.6, ended="no gain in 5 validations"), 1000, False),
        (history(0.6), 1000, False),  # a single epoch has nothing to rise from
        (history(0.4, 0.59, 0.60), 1000, False),  # rose before, and little at the end
    ],
)
def test_still_improving(found: dict[str, Any], rows: int, expected: bool) -> None:
    finding = diagnostics.still_improving(found, "accuracy", rows)
    assert (finding is not None) == expected
    if finding:
        assert "--set epochs=4" in finding.message


def test_still_improving_reads_losses_the_other_way_round() -> None:
    assert diagnostics.still_improving(history(1.0, 0.8, metric="log_loss"), "log_loss", 100) is not None
    assert diagnostics.still_improving(history(1.0, 0.99, metric="log_loss"), "log_loss", 100) is None
    assert diagnostics.still_improving(history(0.8, 1.0, metric="log_loss"), "log_loss", 100) is None


def test_the_hint_counts_optimizer_steps() -> None:
    assert "only 12 optimizer steps. Train longer: --set epochs=50" in diagnostics.hint(history(0.3, 0.3, 0.3, 0.3))
    many = history(0.3, 0.3)
    many["epochs"][-1]["step"] = 5000
    assert "epochs" not in diagnostics.hint(many)


@pytest.mark.parametrize(("usual", "advised"), [(0, 50), (40, 50), (60, 60)])
def test_the_hint_takes_no_fewer_epochs_than_auto(usual: int, advised: int) -> None:
    assert f"--set epochs={advised}." in diagnostics.hint(history(0.3, 0.3, 0.3, 0.3), usual)
    late = diagnostics.still_improving(history(0.5, 0.6, 0.9), "accuracy", 1000, usual)
    assert late is not None
    assert f"--set epochs={max(6, usual)}." in late.message


def checked(labels: Any, predicted: Any, names: list[str] = NAMES, columns: Any = None) -> None:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    columns = range(len(names)) if columns is None else columns
    diagnostics.check_teacher(labels, predicted, np.arange(len(labels)), names, columns, "t")


def test_a_teacher_with_permuted_labels_is_refused_with_the_order_that_makes_it_right() -> None:
    """The order in the message, given as --teacher-labels, is the one in which the teacher's outputs are right."""
    labels = np.random.default_rng(0).integers(0, 3, 60)
    output_of = np.array([2, 0, 1])  # true class -> the output that the teacher gives it
    student = dict(enumerate(NAMES))
    for wrong in (["health", "money", "sport"], ["sport", "health", "money"]):
        columns = soft_labels.column_order({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, student, wrong, "t")
        logits = np.eye(3)[output_of[labels]]
        with pytest.raises(UserError, match="order of its labels is wrong") as refused:
            checked(labels, logits[:, columns].argmax(1), columns=columns)
        named = str(refused.value).rpartition("--teacher-labels ")[2].split(",")
        right = soft_labels.column_order({0: "x", 1: "y", 2: "z"}, student, named, "t")
        assert (logits[:, right].argmax(1) == labels).all()
        checked(labels, logits[:, right].argmax(1), columns=right)


def test_two_labels_swapped_among_many_are_found() -> None:
    names = [f"c{at}" for at in range(8)]
    labels = np.random.default_rng(0).integers(0, 8, 200)
    swapped = np.where(labels == 2, 5, np.where(labels == 5, 2, labels))
    with pytest.raises(UserError, match=r"c2, c5, which is below chance.*--teacher-labels c0,c1,c5,c3,c4,c2,c6,c7"):
        checked(labels, swapped, names)


def test_a_teacher_that_is_merely_bad_is_not_refused_but_warned_of() -> None:
    draw = np.random.default_rng(1)
    for seed in range(20):
        labels, guesses = np.random.default_rng(seed).integers(0, 3, (2, 60))
        checked(labels, guesses)
    labels = draw.integers(0, 3, 60)
    checked(labels, np.zeros(60, int))
    for predicted in (np.zeros(60, int), draw.integers(0, 3, 60)):
        assert diagnostics.weak_teacher(labels, predicted, np.arange(60), NAMES, 0, "t") is not None
    assert diagnostics.weak_teacher(labels, labels, np.arange(60), NAMES, 0, "t") is None
    noisy = np.where(draw.random(60) < 0.6, labels, draw.integers(0, 3, 60))
    checked(labels, noisy)


def test_a_teacher_below_chance_that_no_order_explains_is_refused() -> None:
    """Always another class than the true one, any other: no order of labels is right."""
    labels = np.random.default_rng(0).integers(0, 4, 200)
    wrong = (labels + np.random.default_rng(1).integers(1, 4, 200)) % 4
    with pytest.raises(UserError, match=r"below chance \(1 in 4\), so it cannot be used") as refused:
        checked(labels, wrong, ["a", "b", "c", "d"])
    assert "--teacher-labels" not in str(refused.value)
    checked([0, 1, 2], [1, 2, 0])  # three rows are no evidence


def test_a_permuted_teacher_ends_the_job_before_the_student_trains(
    tiny_model: Any, toy_csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, student = tmp_path / "runs", str(tiny_model("bert"))
    taught = api.train(toy_csv(90, 1), student=student, teacher="none", preset="plain", settings=LITTLE, runs=runs)
    source = load(toy_csv(90, 1))
    known = dict(zip(source.texts, source.labels.tolist(), strict=True))

    def permuted(_encoder: Any, texts: list[str], *_rest: Any) -> np.ndarray:
        return 5 * np.eye(3, dtype=np.float32)[[(known[text] + 1) % 3 for text in texts]]

    monkeypatch.setattr(soft_labels, "compute", permuted)
    settings = {"student": student, "teacher": str(taught.folder), "settings": LITTLE, "runs": runs}
    with pytest.raises(UserError, match=r"order of its labels is wrong.*--teacher-labels sport,health,money"):
        api.train(toy_csv(90, 1), **settings)
    assert not [run for run in runs.glob("*/history.json") if run.parent != taught.folder]


def test_the_baseline_reads_training_rows_and_no_split_that_is_not_scored(
    toy_csv: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load(toy_csv(90, 41))  # of no other test: the last baseline is kept
    fitted, read = [], []
    fit, predicted = reference.SVM.fit, reference.Baseline.predicted
    monkeypatch.setattr(
        reference.SVM, "fit", lambda self, train, *rest: (fitted.extend(train.texts), fit(self, train, *rest))[1]
    )
    monkeypatch.setattr(
        reference.Baseline, "predicted", lambda self, texts: (read.extend(texts), predicted(self, texts))[1]
    )
    held = dataset.split["validation"]
    labels, groups = dataset.labels[held], dataset.groups[held]
    one = reference.scores_of(dataset, "validation", labels, labels, groups, "accuracy")
    again = reference.scores_of(dataset, "validation", labels, labels, groups, "accuracy")
    assert one == again
    assert sorted(fitted) == sorted(dataset.texts[row] for row in dataset.split["train"]), "fitted once"
    assert set(read) == {dataset.texts[row] for row in held}
    assert one is not None
    assert one["accuracy"] > 0.8
    assert not one["sampled"]
    assert one["difference"]["estimate"] == pytest.approx(1 - one["accuracy"])


def test_the_baseline_of_a_large_table_is_sampled_and_says_so(toy_csv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, other = load(toy_csv(120, 42)), load(toy_csv(120, 43))  # of no other test: the last baseline is kept
    monkeypatch.setattr(reference, "MAX_ROWS", 12)
    monkeypatch.setattr(reference, "MAX_SCORED", 10)
    held = dataset.split["test"]
    labels = dataset.labels[held]
    found = reference.scores_of(dataset, "test", labels, labels, dataset.groups[held], "accuracy")
    assert found is not None
    assert found["train_rows"] == 12
    assert found["sampled"]
    monkeypatch.setattr(reference, "MAX_CHARACTERS", 1)  # not even one text of each class
    held = other.split["test"]
    least = reference.scores_of(other, "test", other.labels[held], other.labels[held], other.groups[held], "accuracy")
    assert least is not None
    assert least["train_rows"] == 3, "each class keeps a row"


def test_texts_without_words_have_no_baseline(tmp_path: Path) -> None:
    table = tmp_path / "symbols.csv"
    table.write_text("text,label\n" + "".join(f"{'!' * (at + 1)},{'ab'[at % 2]}\n" for at in range(40)))
    assert reference.baseline_of(load(table)) is None


def test_train_and_evaluate_warn_once_where_the_user_looks(
    run: Any, toy_csv: Any, tiny_model: Any, tmp_path: Path
) -> None:
    words = ["train", toy_csv(150, 3), "--student", tiny_model("bert"), "--teacher", "none", "--preset", "plain", *SETS]
    code, out, err = run(*words, "-o", "runs/a", "--quiet")
    assert code == 0
    metrics = json.loads((tmp_path / "runs/a/metrics.json").read_text())
    found = {one["kind"]: one for one in metrics["warnings"]}
    assert {"majority", "baseline"} <= set(found)
    assert all(one["split"] == "test" for one in found.values())
    assert "--set epochs=58" in metrics["warnings"][0]["message"], "as auto: 400 steps at 7 an epoch"
    assert err.count("Warnings") == 1
    for one in found.values():
        assert err.count(one["message"]) == 1
        assert one["message"] in (tmp_path / "runs/a/model/README.md").read_text()
    for split in ("validation", "test"):
        assert metrics[split]["baseline"]["accuracy"] > metrics[split]["accuracy"]
        assert (
            f"{100 * metrics[split]['baseline']['accuracy']:.2f} %  (accuracy of a linear classifier on tf-idf" in out
        )
    record = json.loads((tmp_path / "runs/a/run.json").read_text())
    code, out, err = run(*words, "-o", "runs/a", "--json", "--name", "first")
    assert json.loads(out)["warnings"] == metrics["warnings"], "found again, they are shown again"
    assert "Warnings" in err
    named = json.loads((tmp_path / "runs/a/run.json").read_text())
    assert named == record | {"name": "first"}, "the fingerprint is the same"
    assert run("runs")[1].splitlines()[1].split()[0] == "first"
    assert json.loads(run("runs", "--json")[1])[0]["name"] == "first"

    for place in ([], ["--split", "validation"], ["--split", "test"]):
        code, out, err = run("evaluate", "runs/a", *place, "--json")
        assert code == 0
        split = place[1] if place else "validation"
        got = json.loads(out)["warnings"]
        assert {one["split"] for one in got} == {split}
        assert {"majority", "baseline"} <= {one["kind"] for one in got}
        assert err.count("Warnings") == 1
    code, out, err = run("evaluate", "runs/a", toy_csv(150, 4), "--json")
    assert "majority" in {one["kind"] for one in json.loads(out)["warnings"]}
    code, out, err = run("evaluate", "runs/a/model", toy_csv(150, 4))
    assert re.search("is not (clearly )?above that of the majority class", err)
    code, out, err = run("runs", "show", "runs/a")
    assert code == 0
    assert err.count("Warnings") == 1

    report([tmp_path / "runs/a"], tmp_path / "page", formats="md")
    page = next((tmp_path / "page").glob("*.md")).read_text()
    assert page.count("Below the bag-of-words baseline") == 1
    assert "A bag-of-words baseline (linear, tf-idf) reaches accuracy" in page


def test_a_good_model_gets_no_warning_and_a_closed_test_split_stays_closed(
    run: Any, toy_csv: Any, tiny_model: Any, tmp_path: Path
) -> None:
    words = ["train", toy_csv(240, 0), "--student", "svm", "--set", "classifier.min_df=1", "-o", "runs/w", "--no-test"]
    code, _, err = run(*words)
    assert code == 0
    metrics = json.loads((tmp_path / "runs/w/metrics.json").read_text())
    assert metrics.pop("warnings") == []
    assert "Warnings" not in err
    assert list(metrics) == ["validation"]
    assert "baseline" not in metrics["validation"], "it is one itself"


def test_the_model_card_follows_when_the_test_split_is_opened_later(run: Any, toy_csv: Any, tmp_path: Path) -> None:
    """Its scores and warnings are replaced, what the user wrote around them stays; edited scores stay too."""
    words = ["train", toy_csv(240, 0), "--student", "mnb-count", "-o", "runs/w", "--no-test"]
    assert run(*words)[0] == 0
    card = tmp_path / "runs/w/model/README.md"
    before = card.read_text()
    assert "| test |" not in before
    card.write_text(before + "\nOurs to use.\n")
    assert run("evaluate", "runs/w", "--split", "test")[0] == 0
    score = json.loads((tmp_path / "runs/w/metrics.json").read_text())["test"]["accuracy"]
    (line,) = (line for line in card.read_text().splitlines() if line.startswith("| test |"))
    assert f"| {score:.4f} |" in line
    assert card.read_text().replace(line + "\n", "").endswith("Ours to use.\n")
    card.write_text("Mine.\n")
    _, _, err = run("evaluate", "runs/w", "--split", "test")
    assert "were edited or removed" in err
    assert card.read_text() == "Mine.\n"


ASKED = {
    "preset": ["--preset", "kd"],
    "the default by name": ["--preset", "randout-kd"],
    "a setting": ["--set", "kd.weight=0.5"],
    "a method": ["--preset", "plain", "--set", "methods.hinton=true"],
    "a recipe": ["--recipe", "recipe.toml"],
}


@pytest.mark.parametrize("teacher", [["--teacher", "none"], []], ids=["declined", "not found"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_distillation_that_was_asked_for_needs_a_teacher(
    run: Any, toy_csv: Any, tiny_model: Any, tmp_path: Path, empty_caches: None, asked: list[str], teacher: list[str]
) -> None:
    (tmp_path / "recipe.toml").write_text("[methods.ce]\n[methods.kd]\nweight = 0.5\n")
    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "-o", "runs/k", *SETS]
    code, _, err = run(*words, *asked, *teacher)
    assert code == 2
    assert "learns from a teacher, and there is none" in err
    assert "--teacher NAME" in err
    assert "--preset plain" in err
    assert not (tmp_path / "runs" / "k").exists()


def test_the_default_preset_trains_without_a_teacher_and_says_so_among_the_results(
    run: Any, toy_csv: Any, tiny_model: Any, tmp_path: Path, empty_caches: None
) -> None:
    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), *SETS]
    code, _, err = run(*words, "-o", "runs/none", "--teacher", "none", "--set", "methods.kd=false")
    assert code == 0
    code, out, err = run(*words, "-o", "runs/auto")
    assert code == 0
    said = "no teacher: no larger encoder was found locally, so the student was trained without kd. To distil"
    assert out.count(said) == 1
    assert "teacher:" not in err.lower()
    assert "by default and without a teacher" in err
    assert run("runs", "show", "runs/auto")[1].count(said) == 1
    assert json.loads(run(*words, "-o", "runs/auto", "--json")[1])["left_out"] == ["kd"]
    report([tmp_path / "runs/auto"], tmp_path / "page", formats="md")
    assert next((tmp_path / "page").glob("*.md")).read_text().count("Trained without a teacher") == 1
    code, out, err = run(*words, "-o", "runs/declined", "--teacher", "none", "--fresh")
    assert code == 0
    assert "no larger encoder" not in out + err, "it was declined"
    code, _, err = run("soft-labels", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", "none")
    assert code == 2
    assert "needs a teacher" in err


def asked(tiny_model: Any, toy_csv: Any, teacher: str = "none", **train: Any) -> dict[str, Any]:
    tables: dict[str, Any] = {"data": {"source": str(toy_csv(90, 1))}, "student": {"model": str(tiny_model("bert"))}}
    return tables | {"teacher": {"model": teacher}, "train": LITTLE | train}


def test_a_search_over_distillation_needs_a_teacher(tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    built = config.build([config.read_preset("randout-kd"), asked(tiny_model, toy_csv)], METHODS)
    made, _ = search.make_search(built, SearchTable(space={"kd.weight": [0.2, 0.8]}))
    with pytest.raises(UserError, match=r"kd.weight 0.* cannot run: methods.kd learns from a teacher"):
        search.run_search(made, tmp_path / "s", Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    assert not (tmp_path / "s").exists()


def test_a_search_warns_of_its_best_trial_and_fits_one_baseline(
    tiny_model: Any, toy_csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = reference.SVM.fit
    monkeypatch.setattr(reference.SVM, "fit", lambda self, *words: (fits.append(1), fit(self, *words))[1])
    own = {"data": {"source": str(toy_csv(90, 44))}}  # of no other test: the last baseline is kept
    built = config.build([config.read_preset("plain"), asked(tiny_model, toy_csv) | own], METHODS)
    made, _ = search.make_search(built, SearchTable(space={"weight_decay": [0.0, 0.1]}))
    folder = search.run_search(made, tmp_path / "s", Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    assert len(fits) == 1
    assert "majority" in [one.kind for one in folder.record.warnings]
    assert {one.split for one in folder.record.warnings} == {"validation"}
    assert {one.trial for one in folder.record.warnings} == {folder.record.best}
    from randout.experiments.search.trials import summary

    assert sum("bag-of-words baseline" in line for line in summary(folder)) == 1


def test_a_comparison_names_the_arm_once_for_all_its_seeds(
    capsys: pytest.CaptureFixture[str], tiny_model: Any, toy_csv: Any, tmp_path: Path
) -> None:
    study = make_study(
        {"base": asked(tiny_model, toy_csv), "arms": {"plain": {"preset": "plain"}}, "seeds": [1, 2], "name": "s"}
    )
    options = Options(runs=tmp_path / "runs", show=Show(quiet=True))
    folder = comparison.run_study(study, tmp_path / "s", options)
    found = folder.record.warnings
    assert [one.kind for one in found if one.kind == "majority"] == ["majority"]
    (majority,) = (one for one in found if one.kind == "majority")
    assert majority.units == ["seed 1", "seed 2"]
    assert majority.message.startswith("2 of 2 runs, e.g. seed 1: ")
    assert sum("bag-of-words baseline on the test rows" in note for note in folder.record.result.notes) == 1
    assert "majority class" not in capsys.readouterr().err, "a run within a study leaves it to the study"


def fold_study(folder: Path, right: list[float], base: float) -> tuple[ComparisonRecord, Any]:
    """Five folds of one arm: hand-made runs with these accuracies, and a baseline with the same one in each."""
    cells = []
    for at, share in enumerate(right, 1):
        run = folders.make_run(folder / f"r{at}", seed=at, right=share, splits=("validation", "test"))
        metrics = json.loads((run / "metrics.json").read_text())
        rates = dict.fromkeys(("balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1"), base)
        metrics["test"]["baseline"] = rates | {"name": "svm", "train_rows": 60, "sampled": False, "accuracy": base}
        metrics["warnings"] = [{"kind": "majority", "message": "of this fold", "split": "test"}]
        folders.write(run / "metrics.json", metrics)
        cells.append({"unit": f"fold {at}", "arm": "plain", "state": "finished", "run": str(run)})
    record = {"format": 1, "name": "s", "kind": "cv", "data": {"sha256": "d"}, "arms": ["plain"], "cells": cells}
    return ComparisonRecord.model_validate(record), lambda cell: RunFolder(Path(cell.run))


def test_folds_are_asked_together(tmp_path: Path) -> None:
    good, note = of_study(*fold_study(tmp_path / "good", [0.8, 0.75, 0.85, 0.8, 0.78], 0.5), "accuracy")
    assert good == [], "what one fold could not show, all together do"
    assert "50.00 %, mean of 5 folds" in note
    bad, _ = of_study(*fold_study(tmp_path / "bad", [0.35, 0.3, 0.4, 0.35, 0.33], 0.9), "accuracy")
    assert [one.kind for one in bad] == ["majority", "baseline"]
    assert re.search(r"over 5 folds, 3\d\.\d%, is below that of a bag-of-words baseline \(90\.0%\)", bad[1].message)


def test_warnings_are_shown_once_each_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show(quiet=True)
    show.conclude([])
    assert capsys.readouterr().err == ""
    show.conclude(["one", "two", "one"])
    assert capsys.readouterr().err == "\nWarnings\n  - one\n  - two\n"


def test_a_run_of_an_earlier_version_is_diagnosed_from_its_predictions(tmp_path: Path) -> None:
    """No warnings and no baseline were stored; what the predictions show is shown."""
    from randout.experiments.run.run_warnings import of_run

    run = RunFolder(folders.make_run(tmp_path / "old", right=0.33, splits=("validation", "test")))
    assert [one.kind for one in of_run(run, "test")] == ["majority", "calibration"]
    good = RunFolder(folders.make_run(tmp_path / "good", right=0.9, splits=("validation", "test")))
    assert [one.kind for one in of_run(good, "test")] == ["calibration"], "made up: surer it should be"


def test_what_asks_for_a_method_is_told_apart_from_the_default(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[train]\nepochs = 2\n")
    assert run_request.asked_methods(None, recipe, []) == frozenset()
    assert run_request.asked_methods("kd", None, [{"methods": {"kd": False}}]) == {"ce"}
    assert run_request.asked_methods(None, None, [{"methods": {"kd": {"weight": 1}}}]) == {"kd"}
    assert "kd" in run_request.asked_methods("randout-kd", recipe, [])


def test_a_plan_remembers_what_was_left_out_only_where_no_teacher_was_declined(
    tiny_model: Any, toy_csv: Any, empty_caches: None
) -> None:
    preset = config.read_preset("randout-kd")
    plan = planning.make(config.build([preset, asked(tiny_model, toy_csv, "auto")], METHODS))
    assert plan.left_out == ("kd",)
    plan = planning.make(config.build([preset, asked(tiny_model, toy_csv, "none")], METHODS))
    assert plan.left_out == ()
    assert plan.config.methods.keys() == {"ce", "randout"}
