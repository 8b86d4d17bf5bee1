"""Held-out rows that a teacher, its teacher or a starting model has seen: found in any file, refused, or counted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run
from randout import api
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data import dataset as data
from randout.data.row_hashes import row_hashes
from randout.experiments.run import leaks, pipeline
from randout.experiments.run.leaks import LeakError
from randout.experiments.run.plan import Plan
from randout.experiments.run.planning import make
from randout.experiments.run.scoring import rows_sha256
from randout.experiments.run.student import Options, class_weights
from randout.experiments.study import comparison, results
from randout.experiments.study.finished_runs import compare_finished
from randout.experiments.study.spec import make_study
from randout.methods.builtin import METHODS
from randout.storage import run_folder as runs
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import FILE, ROLES, SeenRows, leaked, merged, read_seen, seen_in, seen_rows, write_seen
from randout.testing.models import toy_texts
from support.tables import load

FAST = {"epochs": 1, "learning_rate": 2e-3, "precision": "float32", "batch_size": 16, "device": "cpu"}
Tiny = Callable[[str], Path]
Pretend = Callable[..., Path]


def write(path: Path, texts: Sequence[str], labels: Sequence[str] | None = None, **more: Sequence[str]) -> Path:
    columns = {"text": texts} | ({"label": labels} if labels is not None else {}) | more
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


def rows_in(path: Path) -> tuple[list[str], list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [row["text"] for row in rows], [row["label"] for row in rows]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny, toy_csv: Any) -> Path:
    """A finished plain run on 90 rows, split by seed 0."""
    student = str(tiny_model("bert"))
    runs = tmp_path_factory.mktemp("taught")
    done = api.train(
        toy_csv(90, 1), student=student, teacher="none", preset="plain", settings=FAST, out=runs / "one", runs=runs
    )
    return done.folder


@pytest.fixture
def asked(tiny_model: Tiny) -> Callable[..., config.Config]:
    """(data, teacher, student, **tables) -> the configuration of a student; with a teacher, one that distils."""

    def of(source: Path, teacher: Path | str = "none", student: Path | None = None, **tables: Any) -> config.Config:
        known: dict[str, Any] = {
            "data": {"source": str(source)},
            "student": {"model": str(student or tiny_model("bert"))},
        }
        known |= {"teacher": {"model": str(teacher)}, "train": FAST}
        preset = config.read_preset("plain" if teacher == "none" else "kd")
        return config.build([preset, known, tables], METHODS)

    return of


@pytest.fixture
def pretend(taught: Path, tmp_path: Path) -> Pretend:
    """A run as it would be if `plan` had been carried out: a trained model, with the rows that the plan says."""

    def of(plan: Plan, name: str) -> Path:
        folder = Path(shutil.copytree(taught, tmp_path / "pretended" / name))
        for place in (folder, folder / "model"):
            write_seen(place, leaks.seen_by(plan))
        return folder

    return of


def overlap(held: Plan, split: str, texts: set[str]) -> int:
    rows = held.dataset.split[split]
    own = {held.dataset.texts[row] for row in held.dataset.split["train"]}
    return sum(held.dataset.texts[row] in texts - own for row in rows)


def texts_of(dataset: data.Dataset, *splits: str) -> set[str]:
    return {dataset.texts[row] for split in splits for row in dataset.split.get(split, ())}


def check_found(one: config.Config, texts: set[str], role: str, how: str) -> None:
    """The plan is refused with the number of test rows among `texts`, and carries it as a warning where it is asked for."""
    with pytest.raises(LeakError, match="test scores are refused") as caught:
        make(one)
    output = {"output": one.output.model_copy(update={"allow_leaks": True})}
    plan = make(one.model_copy(update=output))
    test, validation = plan.leak_warnings[-1], plan.leak_warnings[0]
    for split, found in (("test", str(caught.value)), ("test", test), ("validation", validation)):
        count = overlap(plan, split, texts)
        assert count > 0
        assert f"{how} {count} of the {len(plan.dataset.split[split])} {split} rows" in found
    assert leaks.count_seen(leaks.seen_by(plan), plan.dataset, "test")[role] == overlap(plan, "test", texts)
    closed = {"output": one.output.model_copy(update={"test": False})}
    assert (
        make(one.model_copy(update=closed)).leak_warnings == plan.leak_warnings
    )  # nothing to refuse: said all the same


# ---- the record


def test_a_run_records_the_rows_it_has_seen(taught: Path, toy_csv: Any) -> None:
    dataset = load(toy_csv(90, 1))
    for place in (taught, taught / "model"):
        rows = read_seen(place)
        assert rows is not None
        assert rows.complete
        for split, role in (("train", "trained"), ("validation", "selected"), ("test", "")):
            roles = rows.roles_of(dataset.hashes[dataset.split[split]])
            assert set(roles) == {ROLES.get(role, 0)}
    assert (taught / FILE).read_bytes() == (taught / "model" / FILE).read_bytes()


def test_the_record_is_small_and_holds_no_objects(tmp_path: Path) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000).astype(np.uint64)
    write_seen(tmp_path, seen_rows(hashes, "trained"))
    assert (tmp_path / FILE).stat().st_size < 9 * len(hashes) + 2000
    with np.load(tmp_path / FILE, allow_pickle=False) as stored:
        assert sorted(stored) == ["complete", "format", "hashes", "roles"]
    found = read_seen(tmp_path)
    assert found is not None
    assert seen_in(found, hashes[:7])[0] == {"trained": 7}


@pytest.mark.parametrize("damage", [b"", b"PK no archive", "format", "shape"])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: Any) -> None:
    rows = {"hashes": np.zeros(2, np.uint64), "roles": np.zeros(2, np.uint8), "complete": np.array(True)}
    if isinstance(damage, bytes):
        (tmp_path / FILE).write_bytes(damage)
    else:
        changed = {"format": {"format": np.array(99)}, "shape": {"format": np.array(1), "roles": np.zeros(3, np.uint8)}}
        with (tmp_path / FILE).open("wb") as stream:
            np.savez(stream, **(rows | changed[damage]))
    with pytest.raises(UserError, match=r"seen-rows.npz: "):
        read_seen(tmp_path)


def test_the_same_row_in_another_form_is_the_same_row() -> None:
    one, *same = row_hashes(["Café  au lait", "cafe\u0301 au\u00a0lait", "CAFE\u200b au lait\ufeff", "cafe au lait"])
    assert set(same) == {one}
    assert len(set(row_hashes(["a b", "ab", "a b!", ""]))) == 4


def test_roles_are_handed_down() -> None:
    own = merged(
        [seen_rows(np.array([1, 2], np.uint64), "trained"), seen_rows(np.array([2, 3], np.uint64), "selected")]
    )
    child = own.inherited("teacher")
    assert child.roles.tolist() == [4, 4 | 8, 8]
    assert child.inherited("start").roles.tolist() == [128, 128 | 64, 64]
    assert merged([child, own]).roles.tolist() == [1 | 4, 1 | 2 | 4 | 8, 2 | 8]
    unknown = SeenRows(own.hashes, own.roles, complete=False)
    assert not merged([child, unknown.inherited("start")]).complete


def test_a_copy_of_an_own_training_row_is_not_the_teachers_leak() -> None:
    rows = merged(
        [seen_rows(np.array([1], np.uint64), "trained"), seen_rows(np.array([1, 2], np.uint64), "teacher-trained")]
    )
    counts, which = leaked(rows, np.array([1, 2, 3], np.uint64))
    assert counts == {"teacher-trained": 1}
    assert which.tolist() == [False, True, False]


# ---- every way in which held-out rows can have been seen


def test_a_teacher_of_another_split(taught: Path, asked: Any, toy_csv: Any) -> None:
    one = asked(toy_csv(90, 1), taught, data={"split_seed": 5})
    check_found(one, texts_of(load(toy_csv(90, 1)), "train"), "teacher-trained", "the teacher was trained on")


def test_a_file_with_one_row_appended(taught: Path, asked: Any, toy_csv: Any, tmp_path: Path) -> None:
    texts, labels = rows_in(toy_csv(90, 1))
    longer = write(tmp_path / "longer.csv", [*texts, "one more goal"], [*labels, "sport"])
    one = asked(longer, taught, data={"split_seed": 5})
    check_found(one, texts_of(load(toy_csv(90, 1)), "train"), "teacher-trained", "the teacher was trained on")


def test_a_teacher_of_a_superset(asked: Any, pretend: Pretend, toy_csv: Any, tmp_path: Path) -> None:
    texts, labels = rows_in(toy_csv(90, 1))
    more, others = toy_texts(60, 9)
    whole = write(tmp_path / "whole.csv", [*more, *(text.upper() for text in texts)], [*others, *labels])
    teacher = pretend(make(asked(whole)), "superset")
    learned = {text.lower() for text in texts_of(load(whole), "train")}
    check_found(asked(toy_csv(90, 1), teacher), learned, "teacher-trained", "the teacher was trained on")


def test_a_teacher_that_also_had_texts_without_labels(
    taught: Path, asked: Any, pretend: Pretend, toy_csv: Any, tmp_path: Path
) -> None:
    """Rows of its table, although the digest of all it read is another, and the unlabelled texts themselves."""
    more, others = toy_texts(60, 9)
    extra = write(tmp_path / "extra.csv", more)
    plan = make(asked(toy_csv(90, 1), taught, data={"unlabeled": str(extra)}))
    teacher = pretend(plan, "with-unlabelled")
    one = asked(toy_csv(90, 1), teacher, data={"split_seed": 5})
    learned = texts_of(plan.dataset, "train")
    check_found(one, learned, "teacher-trained", "the teacher was trained on")
    labelled = write(tmp_path / "labelled.csv", more, others)
    check_found(asked(labelled, teacher), set(more), "teacher-trained", "the teacher was trained on")


def test_a_teachers_teacher(taught: Path, asked: Any, pretend: Pretend, toy_csv: Any) -> None:
    learned = texts_of(load(toy_csv(90, 1)), "train")
    teacher = pretend(make(asked(toy_csv(90, 7), taught)), "pupil")
    how = "a model that the teacher learned from or started from was trained on"
    one = asked(toy_csv(90, 1), teacher, data={"split_seed": 5})
    check_found(one, learned, "teacher-earlier", how)
    further = pretend(make(asked(toy_csv(90, 8), teacher)), "pupils-pupil")
    check_found(asked(toy_csv(90, 1), further, data={"split_seed": 5}), learned, "teacher-earlier", how)


def test_a_student_that_starts_from_a_run(taught: Path, asked: Any, pretend: Pretend, toy_csv: Any) -> None:
    learned = texts_of(load(toy_csv(90, 1)), "train")
    one = asked(toy_csv(90, 1), student=taught, data={"split_seed": 5})
    check_found(one, learned, "start-trained", "the model that the student starts from was trained on")
    start = pretend(make(asked(toy_csv(90, 7), student=taught)), "second-start")
    how = "a model that the student's starting model learned from or started from was trained on"
    check_found(asked(toy_csv(90, 1), student=start, data={"split_seed": 5}), learned, "start-earlier", how)


def test_a_further_teacher(taught: Path, asked: Any, toy_csv: Any, tiny_model: Tiny) -> None:
    methods = {"kd": False, "multi-teacher": {}}
    first, tables = tiny_model("roberta"), {"data": {"split_seed": 5}, "methods": methods}
    one = asked(toy_csv(90, 1), first, **tables)
    one = one.model_copy(update={"teacher": one.teacher.model_copy(update={"more": (str(taught),)})})
    check_found(one, texts_of(load(toy_csv(90, 1)), "train"), "teacher-trained", "the teacher was trained on")


def test_rows_that_only_selected_the_teacher_are_warned_of(
    asked: Any, pretend: Pretend, toy_csv: Any, tmp_path: Path
) -> None:
    """Its validation rows are the student's test rows."""
    texts, labels = rows_in(toy_csv(90, 1))
    parts = [["train", "validation", "test"][at % 3] for at in range(90)]
    swapped = [{"validation": "test", "test": "validation"}.get(part, part) for part in parts]
    table = write(tmp_path / "t.csv", texts, labels, part=parts, other=swapped)
    teacher = pretend(make(asked(table, data={"split_column": "part"})), "swapped")
    plan = make(asked(table, teacher, data={"split_column": "other"}))
    assert plan.leak_warnings == (
        "the teacher was selected on 30 of the 30 test rows, so test scores will be too high",
    )


def test_what_is_right_is_not_warned_of(
    taught: Path, asked: Any, toy_csv: Any, tiny_model: Tiny, tmp_path: Path
) -> None:
    """A finished teacher, or a start, of the same table and split, one that is fine-tuned first, and copies that cross
    a split as published.
    """
    extra = write(tmp_path / "u.csv", ["some new words"])
    texts, labels = rows_in(toy_csv(90, 1))
    copied = write(tmp_path / "copied.csv", [*texts, *texts[:40]], [*labels, *labels[:40]])
    paper = make(asked(copied, data={"split": "paper"}))
    folder = Path(shutil.copytree(taught, tmp_path / "paper"))
    for place in (folder, folder / "model"):
        write_seen(place, leaks.seen_by(paper))
    plans = [
        make(asked(toy_csv(90, 1), taught)),
        make(asked(toy_csv(90, 1), taught / "model", data={"unlabeled": str(extra)})),
        make(asked(toy_csv(90, 1), student=taught)),
        make(asked(toy_csv(90, 1), tiny_model("roberta"))),
        make(asked(toy_csv(90, 7), taught)),
        make(asked(copied, folder, data={"split": "paper"})),
    ]
    for plan in plans:
        assert plan.leak_warnings == ()
        assert not any(note.startswith("leaks: the rows that") for note in plan.notes)
    assert paper.dataset.report.leaked["test"].size > 0


def test_asking_for_leaks_is_no_other_run(taught: Path, asked: Any, toy_csv: Any) -> None:
    one = asked(toy_csv(90, 1), taught)
    allowed = one.model_copy(update={"output": one.output.model_copy(update={"allow_leaks": True})})
    assert make(one).fingerprint == make(allowed).fingerprint


# ---- where the record is found, and where it is not


def test_the_record_goes_with_the_model(taught: Path, asked: Any, toy_csv: Any, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(taught, tmp_path / "elsewhere" / "renamed"))
    alone = Path(shutil.copytree(taught / "model", tmp_path / "just-a-model"))
    stripped = Path(shutil.copytree(taught, tmp_path / "stripped"))
    (stripped / "model" / FILE).unlink()
    for teacher in (whole, whole / "model", alone, stripped, stripped / "model"):
        with pytest.raises(LeakError, match="the teacher was trained on"):
            make(asked(toy_csv(90, 1), teacher, data={"split_seed": 5}))


def test_a_run_without_a_record(taught: Path, asked: Any, toy_csv: Any, tmp_path: Path) -> None:
    """Of the same file it is known by row numbers; of another it is said that it cannot be known."""
    old = Path(shutil.copytree(taught, tmp_path / "old"))
    for place in (old, old / "model"):
        (place / FILE).unlink()
    one = asked(toy_csv(90, 1), old, data={"split_seed": 5})
    check_found(one, texts_of(load(toy_csv(90, 1)), "train"), "teacher-trained", "the teacher was trained on")
    for teacher in (old, Path(shutil.copytree(old / "model", tmp_path / "alone"))):
        plan = make(asked(toy_csv(90, 7), teacher))
        assert any("may have seen held-out rows" in note and teacher.name in note for note in plan.notes)
    assert not leaks.seen_by(plan).complete


# ---- scores


@pytest.fixture(scope="module")
def leaking(taught: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny, toy_csv: Any) -> Path:
    """A run whose teacher has seen test rows, scored all the same."""
    settings = FAST | {"data.split_seed": 5, "output.allow_leaks": True}
    runs = tmp_path_factory.mktemp("leaking")
    return api.train(
        toy_csv(90, 1), student=str(tiny_model("bert")), teacher=str(taught), preset="kd", settings=settings,
        runs=runs, out=runs / "leaky",
    ).folder  # fmt: skip


def counts_of(toy_csv: Any) -> dict[str, int]:
    learned = texts_of(load(toy_csv(90, 1)), "train")
    held = load(toy_csv(90, 1), split_seed=5)
    return {split: len(texts_of(held, split) & learned) for split in ("validation", "test")}


def test_scores_come_with_their_leaks(leaking: Path, toy_csv: Any) -> None:
    metrics = RunFolder(leaking).read("metrics.json")
    for split, count in counts_of(toy_csv).items():
        found = metrics[split]
        assert found["leaks"] == {"rows": count, "of": found["rows"], "roles": found["leaks"]["roles"]}
        assert found["leaks"]["roles"]["teacher-trained"] == count
        assert found["without_leaks"]["rows"] == found["rows"] - count
    card = (leaking / "model" / "README.md").read_text()
    assert f"the teacher was trained on {counts_of(toy_csv)['test']} of the" in card


def test_finished_runs_are_compared_with_the_number_beside_the_score(
    leaking: Path, tiny_model: Tiny, toy_csv: Any, tmp_path: Path
) -> None:
    settings = FAST | {"data.split_seed": 5}
    plain = api.train(
        toy_csv(90, 1),
        student=str(tiny_model("bert")),
        teacher="none",
        preset="plain",
        settings=settings,
        runs=tmp_path,
    )
    asked = make_study({"arms": {"runs": {}}, "seeds": [1]})
    record = compare_finished([plain.folder, leaking], "", asked)
    test = RunFolder(leaking).read("metrics.json")["test"]
    lines = results.result_lines(record)
    (line,) = (line for line in lines if "LEAK" in line)
    assert line.startswith(f"ce + kd (LEAK: {counts_of(toy_csv)['test']} of {test['rows']} test rows)")
    old = tmp_path / "leaky"
    shutil.copytree(leaking, old)  # of an earlier version, whose teacher is not beside it
    (old / FILE).unlink()
    metrics = json.loads((old / "metrics.json").read_text())
    del metrics["test"]["leaks"]
    (old / "metrics.json").write_text(json.dumps(metrics))
    notes = compare_finished([plain.folder, old], "", asked).result.notes
    assert any("ce + kd learned from a teacher whose training rows are not recorded" in note for note in notes)


def test_a_test_split_left_closed_is_refused_when_it_is_opened(
    leaking: Path, toy_csv: Any, tmp_path: Path, run: Run
) -> None:
    closed = Path(shutil.copytree(leaking, tmp_path / "closed"))
    metrics = json.loads((closed / "metrics.json").read_text())
    del metrics["test"]
    (closed / "metrics.json").write_text(json.dumps(metrics))
    settings = (closed / "run.toml").read_text().replace("allow_leaks = true", "allow_leaks = false")
    settings = settings.replace(settings[settings.index("source = ") :].split("\n")[0], f'source = "{toy_csv(90, 1)}"')
    (closed / "run.toml").write_text(settings)
    code, _, errors = run("evaluate", closed, "--split", "test")
    assert code == 2
    assert f"refused: the teacher was trained on {counts_of(toy_csv)['test']} of the" in errors
    assert not (closed.parent / "test-openings.jsonl").exists()
    assert "test" not in RunFolder(closed).read("metrics.json")
    code, out, errors = run("evaluate", closed, "--split", "test", "--allow-leaks")
    assert code == 0
    assert "leak: the teacher was trained on" in out
    assert "without these" in out
    assert "test scores will be too high" in errors


def test_every_fold_is_looked_at_before_anything_is_trained(
    taught: Path, tiny_model: Tiny, toy_csv: Any, tmp_path: Path
) -> None:
    base = {"data": {"source": str(toy_csv(90, 1))}, "student": {"model": str(tiny_model("bert"))}, "train": FAST}
    base |= {"teacher": {"model": str(taught)}}
    tables = {"base": base, "arms": {"plain": {"preset": "plain"}, "kd": {"preset": "kd"}}, "folds": 5}
    learned = texts_of(load(toy_csv(90, 1)), "train")
    folds = [load(toy_csv(90, 1), folds=5, fold=fold) for fold in range(1, 6)]
    counts = [len(texts_of(fold, "test") & learned) for fold in folds]
    assert sum(counts) == 63
    with pytest.raises(UserError, match=r"arms.kd cannot run: test scores are refused") as caught:
        comparison.run_study(
            make_study(tables), tmp_path / "cv", Options(runs=tmp_path / "runs", show=Show(quiet=True))
        )
    said = [
        f"fold {at}: the teacher was trained on {count} of the 18 test rows"
        for at, count in enumerate(counts, 1)
        if count
    ]
    assert len(said) > 2
    assert all(words in str(caught.value) for words in said)
    assert list(tmp_path.iterdir()) == []
    base["output"] = {"allow_leaks": True}
    _, notes, _ = comparison.check_arms(make_study(tables), comparison.Datasets())
    (note,) = (note for note in notes if note.startswith("leak, kd"))
    assert all(words in note for words in said)


def test_a_study_over_seeds_has_the_number_in_its_table(taught: Path, tiny_model: Tiny, toy_csv: Any, run: Run) -> None:
    words = ["compare", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", taught, "--arms", "kd"]
    words += ["--seeds", "1", "--set", "epochs=1", "--set", "precision=float32", "--set", "split_seed=5", "-q"]
    code, _, errors = run(*words)
    assert code == 2
    assert "arms.kd cannot run: test scores are refused" in errors
    code, out, errors = run(*words, "--allow-leaks")
    assert code == 0
    count, held = counts_of(toy_csv)["test"], len(load(toy_csv(90, 1), split_seed=5).split["test"])
    assert f"kd (LEAK: {count} of {held} test rows)" in out
    assert "note: leak, kd: the teacher was trained on" in out
    assert errors.count("warning: leak, kd") == 1


# ---- a file to evaluate


def test_evaluate_says_how_many_rows_trained_the_model(taught: Path, toy_csv: Any, tmp_path: Path, run: Run) -> None:
    dataset = load(toy_csv(90, 1))
    sizes = {name: len(rows) for name, rows in dataset.split.items()}
    code, out, errors = run("evaluate", taught, toy_csv(90, 1))
    assert code == 0
    said = f"this model was trained on {sizes['train']} of the 90 rows of this file"
    chosen = f"this model was selected on {sizes['validation']} of the 90 rows of this file"
    assert said in errors
    assert chosen in errors
    assert f"leak: {said}; {chosen}" in out
    assert f"({sizes['test']} left): accuracy" in out
    found = json.loads(run("evaluate", taught, toy_csv(90, 1), "--json")[1])
    own = RunFolder(taught).read("metrics.json")["test"]
    assert found["without_seen"]["accuracy"] == pytest.approx(own["accuracy"])
    assert found["seen"] == {
        "rows": 90 - sizes["test"],
        "of": 90,
        "roles": {"trained": sizes["train"], "selected": sizes["validation"]},
    }
    row = int(dataset.split["train"][0])
    hidden = dataset.texts[row].replace(" ", " \u200b")
    other = write(
        tmp_path / "x.csv", [hidden.upper(), "goal team"], [dataset.id2label[int(dataset.labels[row])], "sport"]
    )
    assert "trained on 1 of the 2 rows" in run("evaluate", taught / "model", other)[2]
    code, out, errors = run("evaluate", taught, toy_csv(60, 5))
    assert (code, "leak" in out, "warning" in errors) == (0, False, False)


def test_evaluate_on_nothing_but_training_rows(taught: Path, toy_csv: Any, tmp_path: Path, run: Run) -> None:
    dataset = load(toy_csv(90, 1))
    rows = dataset.split["train"]
    names = [dataset.id2label[int(label)] for label in dataset.labels[rows]]
    path = write(tmp_path / "train.csv", [dataset.texts[row] for row in rows], names)
    code, out, _ = run("evaluate", taught, path)
    assert code == 0
    assert "no rows remain without these" in out


def test_evaluate_a_run_without_a_record(taught: Path, toy_csv: Any, tmp_path: Path, run: Run) -> None:
    old = Path(shutil.copytree(taught, tmp_path / "old"))
    for place in (old, old / "model"):
        (place / FILE).unlink()
    trained = len(load(toy_csv(90, 1)).split["train"])
    assert f"this model was trained on {trained} of the 90 rows" in run("evaluate", old, toy_csv(90, 1))[2]
    assert "may hold some of them" in run("evaluate", old, toy_csv(60, 5))[2]


def test_evaluate_counts_the_teachers_rows_too(leaking: Path, toy_csv: Any, run: Run) -> None:
    found = json.loads(run("evaluate", leaking, toy_csv(90, 1), "--json")[1])
    assert found["seen"]["roles"]["teacher-trained"] == 63
    assert found["seen"]["rows"] > 63


def test_a_classifier_of_words_has_a_record(toy_csv: Any, tmp_path: Path, run: Run) -> None:
    done = api.train(toy_csv(90, 1), student="mnb-count", teacher="none", preset="plain", runs=tmp_path / "runs")
    assert "this model was trained on 63 of the 90 rows" in run("evaluate", done.folder, toy_csv(90, 1))[2]


# ---- copies that a student cannot tell apart


def test_rows_with_the_same_tokens_are_counted_and_scored_apart(asked: Any, tmp_path: Path) -> None:
    """An uncased BERT drops accents: the texts differ, the tokens do not."""
    texts, labels = toy_texts(90, 1)
    parts = ["train"] * 60 + ["validation"] * 15 + ["test"] * 15
    for held, trained in ((60, 0), (61, 1), (75, 2), (76, 3), (77, 4)):
        texts[held], labels[held] = texts[trained].replace("a", "\u00e1").replace("o", "\u00f6"), labels[trained]
    table = write(tmp_path / "t.csv", texts, labels, part=parts)
    one = asked(table, data={"split_column": "part"})
    plan = make(one)
    assert {name: rows.tolist() for name, rows in plan.token_copies.items()} == {
        "validation": [60, 61],
        "test": [75, 76, 77],
    }
    assert all(rows.size == 0 for rows in plan.dataset.report.leaked.values()), "no copies as texts"
    assert any("3 test rows have the same tokens as a training row" in note for note in plan.notes)
    done = pipeline.execute(plan, Options(runs=tmp_path / "runs", show=Show(quiet=True)))
    assert done.metrics["test"]["without_copies"]["rows"] == 12
    assert done.run.record.data_report.same_tokens == {"validation": 2, "test": 3}


def test_texts_alike_up_to_the_cut_have_the_same_tokens(asked: Any, tmp_path: Path) -> None:
    texts, labels = toy_texts(90, 1)
    texts[0], texts[75] = "goal team coach match player", "goal team coach match league"
    parts = ["train"] * 60 + ["validation"] * 15 + ["test"] * 15
    table = write(tmp_path / "t.csv", texts, labels, part=parts)
    for length, found in ((6, True), (7, False)):
        one = asked(table, data={"split_column": "part"})
        plan = make(one.model_copy(update={"student": one.student.model_copy(update={"max_length": length})}))
        assert (75 in plan.token_copies.get("test", [])) is found


def test_a_split_of_nothing_but_copies_is_scored_and_said(
    asked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = toy_texts(60, 1)
    parts = ["train"] * 60 + ["validation"] * 15 + ["test"] * 15
    table = write(tmp_path / "t.csv", [*texts, *texts[:30]], [*labels, *labels[:30]], part=parts)
    plan = make(asked(table, data={"split_column": "part"}))
    metrics = pipeline.execute(plan, Options(runs=tmp_path / "runs", show=Show(quiet=True))).metrics
    assert "without_copies" not in metrics["test"]
    assert "all 15 test rows have a copy in the training split" in capsys.readouterr().err


# ---- what "auto" is decided by


@pytest.fixture
def lopsided(tmp_path: Path) -> Path:
    """A table whose held-out rows are far longer than the training rows, and of other classes."""
    texts, labels = toy_texts(120, 1)
    parts = ["train"] * 60 + ["validation"] * 30 + ["test"] * 30
    names = sorted(set(labels))
    labels = (
        [names[at % 3] for at in range(60)]
        + [names[0]] * 25
        + names[1:] * 2
        + [names[0]]
        + [names[0]] * 26
        + names[1:] * 2
    )
    texts = [" ".join(text.split()[:4]) for text in texts[:60]] + [f"{text} " * 3 for text in texts[60:]]
    return write(tmp_path / "lopsided.csv", texts, labels, part=parts)


def test_auto_max_length_comes_from_training_rows_alone(asked: Any, lopsided: Path, tmp_path: Path) -> None:
    plan = make(asked(lopsided, data={"split_column": "part"}))
    train = plan.dataset.split["train"]
    assert plan.config.student.max_length == int(plan.tokens.untruncated_lengths[train].max()) == 6
    assert np.percentile(plan.tokens.untruncated_lengths, 99) > 30
    unlabelled = write(tmp_path / "u.csv", [f"{'goal ' * 40}{at}" for at in range(30)])
    table = {"split_column": "part", "unlabeled": str(unlabelled)}
    more = make(asked(lopsided, asked(lopsided).student.model, data=table))
    assert more.config.student.max_length == 6
    assert more.teacher_plan is not None
    assert more.teacher_plan.config.student.max_length == 6


def test_class_weights_come_from_training_rows_alone(lopsided: Path) -> None:
    dataset = load(lopsided, split_column="part")
    assert class_weights(dataset).tolist() == [1.0, 1.0, 1.0]
    counts = np.bincount(dataset.labels)
    assert counts.max() == 3 * counts.min()
    fewer = replace(dataset, split=dataset.split | {"train": dataset.split["train"][1:]})
    assert class_weights(fewer).tolist() != [1.0, 1.0, 1.0]


def test_scoring_own_test_rows_from_a_file_opens_the_test_split(toy_csv: Any, tmp_path: Path, run: Run) -> None:
    table = toy_csv(240, 0)
    code, out, _ = run("train", table, "--student", "mnb-count", "-o", "runs/w", "--no-test")
    assert code == 0
    dataset, folder = load(table), tmp_path / "runs" / "w"
    test = dataset.split["test"]
    assert f"test    not scored yet ({len(test)} rows)" in out
    assert "randout evaluate runs/w --split test" in out
    assert "test    not scored yet" in run("runs", "show", "w")[1]
    card = folder / "model" / "README.md"
    assert "\nTest split: closed." in card.read_text()

    def rows_file(name: str, rows: Any) -> Path:
        texts = [dataset.texts[row].upper() for row in rows]
        return write(tmp_path / name, texts, [dataset.id2label[int(dataset.labels[row])] for row in rows])

    seen = rows_file("seen.csv", [*dataset.split["train"][:5], *dataset.split["validation"][:3]])
    found = json.loads(run("evaluate", "runs/w", seen, "--json")[1])
    assert found["seen"]["roles"] == {"trained": 5, "selected": 3}
    assert "test_rows" not in found
    assert "selected on 3 of the 8 rows of this file (its validation rows)" in run("evaluate", "runs/w", seen)[1]
    assert runs.openings(tmp_path / "runs") == []

    some = rows_file("some.csv", [*test[:2], dataset.split["train"][0]])
    assert json.loads(run("evaluate", "runs/w", some, "--json")[1])["test_rows"] == {"rows": 2, "of": 3, "openings": 1}
    (entry,) = runs.openings(tmp_path / "runs")
    record = RunFolder(folder).record
    assert (entry.rows, entry.fingerprint) == (record.rows["test"], record.fingerprint)
    assert (entry.by, entry.scored) == ("evaluate FILE", 2)
    assert "\nTest split: scored with this model once.\n" in card.read_text()
    assert "test    not scored yet" not in run("runs", "show", "w")[1]

    code, out, errors = run("evaluate", "runs/w/model", table)
    found = f"test rows scored: {len(test)} of the 240 rows of this file are test rows of this run"
    assert found in out
    assert f"{found} (2 times so far in this folder of runs)" in errors
    assert run("evaluate", "runs/w", "--split", "test")[0] == 0
    assert [entry.by for entry in runs.openings(tmp_path / "runs")] == ["evaluate FILE", "evaluate FILE", "evaluate"]
    assert "\nTest split: scored with this model 3 times.\n" in card.read_text()


def test_an_opening_that_cannot_be_recorded_is_said(
    toy_csv: Any, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = toy_csv(240, 0)
    assert run("train", table, "--student", "mnb-count", "-o", "runs/w", "--no-test")[0] == 0
    alone = shutil.copytree(tmp_path / "runs" / "w" / "model", tmp_path / "alone")
    code, out, errors = run("evaluate", alone, table, "--json")
    assert json.loads(out)["test_rows"]["openings"] is None
    assert "are test rows of this run; its run folder was not found" in errors

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "record_opening", full)
    code, out, errors = run("evaluate", "runs/w", table, "--json")
    assert code == 0
    assert json.loads(out)["test_rows"]["openings"] is None
    assert "cannot be recorded (No space left on device)" in errors


def test_test_rows_of_a_run_of_an_earlier_version_are_known_from_its_own_file(
    toy_csv: Any, tmp_path: Path, run: Run
) -> None:
    table = toy_csv(240, 0)
    assert run("train", table, "--student", "mnb-count", "-o", "runs/w", "--no-test")[0] == 0
    folder = tmp_path / "runs" / "w"
    rows = read_seen(folder)
    assert rows is not None
    for place in (folder, folder / "model"):
        write_seen(place, SeenRows(rows.hashes, rows.roles, rows.complete))
    held = len(load(table).split["test"])
    assert json.loads(run("evaluate", folder, table, "--json")[1])["test_rows"]["rows"] == held
    assert "test_rows" not in json.loads(run("evaluate", folder, toy_csv(60, 5), "--json")[1])


def test_own_test_rows_are_not_taken_over_by_descendants() -> None:
    hashes = row_hashes(["a", "b", "c"])
    rows = SeenRows(hashes[:1], np.array([1], np.uint8), test=hashes)
    assert rows.test_rows(hashes).tolist() == [False, True, True]  # of the first, the model has seen a copy
    assert rows.inherited("teacher").test is None
    assert merged([rows]).test is None


def test_a_correction_of_a_training_row_leaves_test_rows_of_label_sets_the_same(tmp_path: Path) -> None:
    """By their digest, by which openings of the test split are counted."""
    labels = ["a", "b", "a;c"] * 20
    rows = write(tmp_path / "rows.csv", [f"text number {at}" for at in range(60)], labels)

    def plan(**more: str) -> Plan:
        table = {"source": str(rows), "multi_label": True} | more
        return make(config.build([{"data": table, "student": {"model": "svm"}}], METHODS))

    before = plan()
    row = before.dataset.row_ids[int(before.dataset.split["train"][0])]
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(f"row,corrected_label\n{row},b;c\n")  # a set that no row had
    after = plan(corrections=str(corrections))
    assert after.dataset.report.corrected == 1
    assert rows_sha256(before, "test") == rows_sha256(after, "test") != rows_sha256(before, "validation")
