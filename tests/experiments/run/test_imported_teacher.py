"""A file of soft labels as a teacher: joined, calibrated, never used on test rows, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import randout
from conftest import Run
from randout import api
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.soft_label_files import FLOOR
from randout.experiments.run import pipeline
from randout.experiments.run.imported_teacher import check_imported
from randout.experiments.run.plan import Plan
from randout.experiments.run.planning import make
from randout.experiments.run.reload import reload_plan, stored_config
from randout.experiments.run.student import Options, Stopped
from randout.methods.builtin import METHODS
from randout.reporting.read import read as read_subject
from randout.reporting.teachers import teachers
from randout.storage.seen_rows import read_seen
from randout.testing.models import toy_texts
from support.tables import write_rows

TRAIN = {"epochs": 1, "learning_rate": 2e-3, "precision": "float32", "batch_size": 16, "device": "cpu"}
CLASSES = ["health", "money", "sport"]
Tiny = Callable[[str], Path]


def rows_of(n: int = 90, seed: int = 1) -> list[dict[str, str]]:
    texts, labels = toy_texts(n, seed)
    return [{"id": f"r{at}", "text": texts[at], "label": labels[at]} for at in range(n)]


def soft(rows: list[dict[str, str]], key: str = "text", sure: float = 0.97, wrong: int = 4) -> list[dict[str, Any]]:
    """Probabilities, `sure` of the gold label, or of the next class in every `wrong`-th row."""
    found = []
    for at, row in enumerate(rows):
        best = (CLASSES.index(row["label"]) + (at % wrong == 0)) % 3
        p = {f"prob_{name}": sure if c == best else (1 - sure) / 2 for c, name in enumerate(CLASSES)}
        found.append({key: row[key], **p})
    return found


class Place:
    """A folder with data.csv, and plans and runs on it."""

    def __init__(self, folder: Path, student: Path) -> None:
        self.folder, self.student = folder, student
        self.rows = rows_of()
        self.data = write_rows(folder / "data.csv", self.rows)

    def config(self, file: Path | str, *above: dict[str, Any], **tables: Any) -> config.Config:
        known: dict[str, Any] = {"data": {"source": str(self.data)}, "student": {"model": str(self.student)}}
        known |= {"teacher": {"model": str(file)}, "train": TRAIN, "methods": {"ce": {}, "kd": {}}}
        return config.build([known, tables, *above], METHODS)

    def plan(self, file: Path | str, *above: dict[str, Any], **tables: Any) -> Plan:
        return make(self.config(file, *above, **tables))

    def file(self, name: str = "soft.csv", **changes: Any) -> Path:
        return write_rows(self.folder / name, soft(self.rows, **changes))

    @property
    def options(self) -> Options:
        return Options(runs=self.folder / "runs", show=Show(quiet=True))


@pytest.fixture
def place(tmp_path: Path, tiny_model: Tiny) -> Place:
    return Place(tmp_path, tiny_model("bert"))


def imported(plan: Plan) -> Any:
    (teacher,) = plan.teachers
    return teacher


def split_of(plan: Plan, name: str) -> list[int]:
    return plan.dataset.split[name].tolist()


@pytest.mark.parametrize("by", ["text", "id"])
def test_rows_are_joined_and_test_rows_are_left_out(place: Place, by: str) -> None:
    shuffled = soft(place.rows[::-1], by)
    file = write_rows(place.folder / "soft.csv", [*shuffled, {**shuffled[0], by: "of no row"}])
    plan = place.plan(file, data={"id_column": "id"} if by == "id" else {}, teacher={"temperature": 1.0})
    teacher, test = imported(plan), split_of(plan, "test")
    values = {row[by]: row for row in shuffled}
    for row in (*split_of(plan, "train"), *split_of(plan, "validation")):
        p = [max(values[place.rows[row][by]][f"prob_{name}"], FLOOR) for name in CLASSES]
        np.testing.assert_allclose(teacher.logits[row], np.log(np.array(p) / sum(p)), rtol=1e-6)
    assert np.isnan(teacher.logits[test]).all()
    assert teacher.record.test_rows == len(test)
    assert teacher.record.unmatched == 1
    assert teacher.record.rows == {
        "train": len(split_of(plan, "train")),
        "validation": len(split_of(plan, "validation")),
    }
    assert any(f"{len(test)} rows of the file are test rows and not used" in note for note in plan.notes)
    assert any("joined by " + ("exact text" if by == "text" else "column 'id'") in note for note in plan.notes)


def test_the_temperature_is_that_of_the_validation_rows(place: Place) -> None:
    """Right in three of four rows with p = 0.97: softmax(log p / t) of the best class is that accuracy at the best t."""
    place.rows = rows_of(400)
    place.data = write_rows(place.folder / "data.csv", place.rows)
    plan = place.plan(place.file(sure=0.97))
    teacher, held = imported(plan), split_of(plan, "validation")
    right = [place.rows[row]["label"] == CLASSES[int(teacher.logits[row].argmax())] for row in held]
    assert right.count(False) >= 5
    best = torch.tensor(teacher.logits[held]).softmax(1).max(1).values
    np.testing.assert_allclose(best, np.mean(right), atol=1e-4)
    logits = np.log([0.97, 0.015, 0.015])
    ratio = (logits[0] - logits[1]) / (teacher.logits[held[0]].max() - teacher.logits[held[0]].min())
    assert teacher.record.temperature == pytest.approx(ratio, rel=1e-4)
    assert teacher.record.fitted
    assert teacher.record.log_loss[1] < teacher.record.log_loss[0]
    assert any("fitted on" in note and "before" in note for note in plan.notes)


def test_no_temperature_is_fitted_on_too_few_wrong_rows(place: Place) -> None:
    record = imported(place.plan(place.file(wrong=1000))).record
    assert (record.temperature, record.fitted) == (1.0, False)
    plan = place.plan(place.file(wrong=1000))
    assert any("not fitted" in note and "at least 5 right and 5 wrong" in note for note in plan.notes)


def test_the_values_of_test_rows_change_nothing(place: Place) -> None:
    values = soft(place.rows)
    plan = place.plan(write_rows(place.folder / "one.csv", values))
    changed = [dict(row) for row in values]
    for row in split_of(plan, "test"):
        changed[row] |= {"prob_health": 1.0, "prob_money": 0.0, "prob_sport": 0.0}
    other = place.plan(write_rows(place.folder / "two.csv", changed))
    np.testing.assert_array_equal(imported(plan).logits, imported(other).logits)
    one, two = (pipeline.execute(each, place.options) for each in (plan, other))
    assert one.folder != two.folder
    first, second = (load_file(each.model_path / "model.safetensors") for each in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_fingerprint_is_that_of_content_join_and_temperature(place: Place) -> None:
    file = place.file()
    plan = place.plan(file)
    renamed = place.plan(write_rows(place.folder / "other.csv", soft(place.rows)))
    assert renamed.fingerprint == plan.fingerprint
    assert place.plan(place.file("c.csv", sure=0.96)).fingerprint != plan.fingerprint
    assert place.plan(file, teacher={"temperature": 1.5}).fingerprint != plan.fingerprint
    both = [{**row, "id": own["id"]} for row, own in zip(soft(place.rows), place.rows, strict=True)]
    by_text = place.plan(write_rows(place.folder / "both.csv", both))
    by_id = place.plan(place.folder / "both.csv", data={"id_column": "id"})
    assert by_text.fingerprint != by_id.fingerprint
    write_rows(file, soft(place.rows, sure=0.5))
    assert place.plan(file).fingerprint != plan.fingerprint, "a file that has changed is read again"


def test_rows_without_a_soft_label_learn_from_gold_only(place: Place) -> None:
    """The losses stay finite, and the log says how many rows there are; tests/methods has the formulas."""
    plan = place.plan(place.file())
    train, held = split_of(plan, "train"), split_of(plan, "validation")
    few = [soft(place.rows)[row] for row in (train[0], *held)]
    plan = place.plan(write_rows(place.folder / "few.csv", few))
    assert any(
        f"{len(train) - 1} training rows without a soft label learn from the gold label only" in n for n in plan.notes
    )
    done = pipeline.execute(plan, place.options)
    history = json.loads((done.folder / "history.json").read_text())["epochs"]
    assert all(np.isfinite(row["loss_kd"]) and np.isfinite(row["loss_ce"]) for row in history)


def test_run_record_card_and_report(place: Place) -> None:
    file = place.file()
    done = pipeline.execute(place.plan(file), place.options)
    used = done.run.record.teacher
    assert used.name == "soft.csv"
    assert used.soft_labels.sha256 == done.run.record.identity.teacher.model
    assert used.validation_accuracy == done.scores.validation.teacher.teacher_accuracy
    card = (done.model_path / "README.md").read_text(encoding="utf-8")
    for words in ("soft.csv", used.soft_labels.sha256[:12], "probabilities", "joined by text", "temperature"):
        assert words in card
    seen = read_seen(done.folder)
    assert not seen.complete, "what the source of the file has seen is not known"
    hashes = reload_plan(done.run).dataset.hashes
    test = [int(row) - 1 for row in done.run.split["test"]]
    assert not seen.roles_of(hashes[test]).any(), "no row is claimed that is not known"
    section = teachers(read_subject([done.folder])[0])
    table = next(part for part in section.parts if part.name == "soft-labels")
    assert "soft.csv" in table.rows[0]
    assert Path(stored_config(done.run).teacher.model).samefile(file), "the run's recipe names the file"
    again = pipeline.execute(make(stored_config(done.run, to_train=True)), place.options)
    assert again.folder == done.folder
    assert not again.new


def test_a_run_that_was_stopped_is_resumed(place: Place) -> None:
    plan = place.plan(place.file(), train={"epochs": 3})
    whole = pipeline.execute(plan, Options(runs=place.folder / "whole", show=Show(quiet=True)))
    with pytest.raises(Stopped) as stopped:
        pipeline.execute(plan, Options(runs=place.folder / "runs", pause_at=5, show=Show(quiet=True)))
    run = stopped.value.run
    done = pipeline.execute(make(stored_config(run, to_train=True)), place.options)
    assert done.folder == run.path
    first, second = (load_file(each.model_path / "model.safetensors") for each in (whole, done))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_one_of_several_teachers(place: Place, tiny_model: Tiny) -> None:
    """A file that lacks half of the rows, with an encoder that is fine-tuned first; and the file as the first of both."""
    half = write_rows(place.folder / "half.csv", soft(place.rows)[::2])
    methods = {"ce": {}, "kd": False, "multi-teacher": {"weights": [1.0, 3.0]}}
    for first, more in ((tiny_model("roberta"), half), (half, tiny_model("roberta"))):
        plan = place.plan(first, teacher={"more": [str(more)]}, methods=methods)
        done = pipeline.execute(plan, place.options)
        used = done.run.record.teachers
        assert {bool(one.soft_labels) for one in used} == {True, False}
        history = json.loads((done.folder / "history.json").read_text())["epochs"]
        assert np.isfinite(history[-1]["loss_multi-teacher"])


def test_unlabelled_texts(place: Place) -> None:
    texts = list(dict.fromkeys(toy_texts(400, 7)[0]))
    extra = [text for text in texts if text not in {row["text"] for row in place.rows}][:20]
    unlabelled = write_rows(place.folder / "more.csv", [{"text": text} for text in extra])
    answers = [*soft(place.rows), *soft([{"text": text, "label": "sport"} for text in extra[:15]])]
    plan = place.plan(write_rows(place.folder / "soft.csv", answers), data={"unlabeled": str(unlabelled)})
    assert imported(plan).record.rows["unlabeled"] == 15
    assert any("nothing is learned from 5 unlabelled rows" in note for note in plan.notes)
    assert pipeline.execute(plan, place.options).new


def test_a_direct_teacher_and_its_written_probabilities_teach_the_same(place: Place) -> None:
    """With temperature 1, softmax(log p) is softmax(z): the students differ by rounding only, where no p is below the floor."""
    plain = place.config("none").model_copy(update={"methods": {"ce": METHODS["ce"]().model_dump(mode="json")}})
    teacher = pipeline.execute(make(plain), place.options)
    _, p = api.predict(teacher.folder, [row["text"] for row in place.rows], device="cpu")
    assert p.min() > FLOOR
    values = [{"text": row["text"], **{f"prob_{n}": repr(float(x)) for n, x in zip(CLASSES, own, strict=True)}}
              for row, own in zip(place.rows, p, strict=True)]  # fmt: skip
    file = write_rows(place.folder / "soft.csv", values)
    direct = pipeline.execute(place.plan(teacher.folder), place.options)
    read = pipeline.execute(place.plan(file, teacher={"temperature": 1.0}), place.options)
    first, second = (np.array(each.predictions["validation"]["logits"].to_pylist()) for each in (direct, read))
    np.testing.assert_allclose(second, first, atol=1e-3)
    assert read.run.record.teacher.validation_accuracy == direct.run.record.teacher.validation_accuracy


def test_python_and_command_line(place: Place, run: Run) -> None:
    file = place.file()
    settings = TRAIN | {"methods.randout": False, "methods.contrastive": False}
    done = randout.train(place.data, student=place.student, teacher=file, settings=settings, runs=place.folder / "runs")
    assert done.run.record.teacher.soft_labels.file == "soft.csv"
    words = ["train", str(place.data), "--student", str(place.student), "--teacher", str(file)]
    plain = ["--set", "epochs=1", "--set", "precision=float32", "--id-column", "id"]
    with_ids = write_rows(place.folder / "ids.csv", soft(place.rows, "id"))
    code, dry, _ = run(*words[:-1], with_ids, *plain, "--dry-run")
    assert code == 0
    assert "joined by column 'id'" in dry
    assert "temperature" in dry
    found = json.loads(run(*words[:-1], with_ids, *plain, "--json")[1])
    assert found["teacher"]["soft_labels"]["joined_by"] == "id"


def test_predictions_that_randout_wrote(place: Place) -> None:
    write_rows(place.folder / "predicted.csv", [row | {"prediction": row["label"], "score": 0.9} for row in place.rows])
    assert imported(place.plan(place.folder / "predicted.csv")).record.form.startswith(
        "labels with a confidence (prediction"
    )


def changed_texts(rows: list[dict[str, Any]], change: Callable[[str], str]) -> list[dict[str, Any]]:
    return [row | {"text": change(row["text"])} for row in rows]


def test_what_is_refused(place: Place) -> None:
    good, values = place.file(), soft(place.rows)
    plan = place.plan(good)
    test = [values[row] for row in split_of(plan, "test")]
    held = [values[row] for row in split_of(plan, "validation")]
    others = [{"text": row["text"], "label": "who knows", "confidence": 0.9} for row in place.rows[1:]]
    others += [{"text": place.rows[0]["text"], "label": "sport", "confidence": 0.9}]
    twice = [row | {"id": f"r{at % 45}"} for at, row in enumerate(place.rows)]
    cases: list[tuple[list[dict[str, Any]] | Path, dict[str, Any], list[str]]] = [
        (changed_texts(values, lambda text: text.upper()), {}, ["none of its", "In the file: ", "in the data: ", "would match"]),
        (changed_texts(values, lambda text: text + " x"), {}, ["none of its", "--id-column"]),
        (test, {}, ["test rows, which are never used"]),
        (held, {}, ["no training row and no unlabelled row"]),
        (others, {}, ["99% of the probability", "'who knows'"]),
        (soft(place.rows, "id"), {}, ["no column 'text'", "--id-column", "'prob_health'"]),
        (good, {"data": {"id_column": "id"}}, ["no column 'id'", "--id-column"]),
        (good, {"data": {"id_column": "ident"}}, ["no column 'ident'", "Did you mean 'id'?"]),
        (place.data, {}, ["this is the labelled data itself"]),
        (place.folder / "missing.csv", {}, ["missing.csv: no such file"]),
        (good, {"methods": {"kd": False, "dropout-distillation": {}}}, ["runs the teacher on every text", "kd"]),
        (good, {"teacher": {"labels": ["a", "b", "c"]}}, ["--teacher-labels", "by name"]),
        (good, {"teacher": {"more": [str(good)]}, "methods": {"kd": False, "multi-teacher": {}}}, ["named twice"]),
        (good, {"methods": {"kd": False}}, ["no method of this recipe learns from a teacher"]),
    ]  # fmt: skip
    for at, (rows, tables, words) in enumerate(cases):
        file = rows if isinstance(rows, Path) else write_rows(place.folder / f"case{at}.csv", rows)
        with pytest.raises(UserError) as caught:
            place.plan(file, **tables)
        for word in words:
            assert word in str(caught.value), (at, str(caught.value))
    double = write_rows(place.folder / "twice.csv", twice)
    ids = write_rows(place.folder / "ids.csv", soft(place.rows, "id"))
    with pytest.raises(UserError, match=r"rows 1 and 46 of the data have the same id 'r0'"):
        place.plan(ids, data={"id_column": "id", "source": str(double)})
    texts = [row["text"] for row in place.rows]
    shifted = [row | {"text": text} for row, text in zip(soft(place.rows, "id"), [*texts[1:], texts[0]], strict=True)]
    with pytest.raises(UserError, match=r"joined by id have another text .* join by text"):
        place.plan(write_rows(place.folder / "shifted.csv", shifted), data={"id_column": "id"})
    with pytest.raises(UserError, match="cnn learns from labels only"):
        place.plan(good, student={"model": "cnn"})


def test_a_text_that_differs_under_the_same_id_is_counted(place: Place) -> None:
    rows = [row | {"text": own["text"]} for row, own in zip(soft(place.rows, "id"), place.rows, strict=True)]
    train = split_of(place.plan(place.file()), "train")
    rows[train[0]]["text"] = "another text"
    plan = place.plan(write_rows(place.folder / "ids.csv", rows), data={"id_column": "id"})
    assert any("1 of 77 rows joined by id has another text" in note for note in plan.notes)


@pytest.mark.slow
def test_a_study_learns_from_a_file(place: Place, run: Run) -> None:
    words = ["compare", place.data, "--student", place.student, "--teacher", place.file(), "--methods", "kd,hinton"]
    code, out, error = run(*words, "--seeds", "1", "--set", "epochs=1", "--set", "precision=float32", "-o", "study")
    assert code == 0, error
    assert "kd" in out


def test_a_file_is_checked_without_a_plan(place: Place) -> None:
    dataset = place.plan(place.file()).dataset
    check_imported(place.config(place.folder / "soft.csv"), dataset)
    check_imported(place.config("auto"), dataset)
    with pytest.raises(UserError, match="no soft labels found"):
        check_imported(place.config(write_rows(place.folder / "bad.csv", [{"text": "a", "x": 1}])), dataset)
