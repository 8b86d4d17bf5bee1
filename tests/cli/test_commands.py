"""The command line from end to end on tiny models: what it leaves, what it prints, and what it says to bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import transformers
from matplotlib.image import imread

from conftest import Run
from randout.cli import doctor
from randout.core import hardware
from randout.experiments.run import planning
from randout.testing.models import toy_texts
from support import folders, forked
from support.folders import make_run
from support.label_sets import write_label_sets

SMALL = [
    "--set",
    "methods.contrastive=false",
    "--set",
    "epochs=1",
    "--set",
    "learning_rate=2e-3",
    "--set",
    "precision=float32",
]
SMALL += ["--set", "batch_size=16", "--set", "refit=false"]


def write_csv(path: Path, rows: list[tuple[str, ...]], head: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])
    return path


def read_csv(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, toy_csv: Any) -> Path:
    """A finished Randout-KD run with a teacher that was fine-tuned for it, made once by the real command."""
    folder = tmp_path_factory.mktemp("finished")
    teacher, student = tiny_model("roberta"), tiny_model("bert")
    process = forked.command(
        ["train", toy_csv(240, 0), "-o", "runs/one", "--student", student, "--teacher", teacher, *SMALL], folder
    )
    process.join()
    assert process.exitcode == 0, (folder / "errors.txt").read_text()
    return folder


def test_run_folder_is_whole_and_says_everything(finished: Path) -> None:
    run = finished / "runs" / "one"
    names = {path.name for path in run.iterdir()} - {".lock"}
    assert names == {
        "run.toml",
        "run.json",
        "history.json",
        "split.json",
        "seen-rows.npz",
        "metrics.json",
        "predictions",
        "model",
        "confusion-validation.png",
        "confusion-test.png",
        "coverage-risk.png",
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"validation", "test", "warnings"}
    shapes = [imread(run / f"confusion-{split}.png").shape[0] for split in ("validation", "test")]
    shapes.append(imread(run / "coverage-risk.png").shape[0])
    assert min(shapes) > 200, "real pictures"
    assert metrics["test"]["intervals"]["accuracy"][0] <= metrics["test"]["accuracy"]
    table = parquet.read_table(run / "predictions" / "test.parquet")
    assert table.num_rows == metrics["test"]["rows"]
    assert "text" not in table.column_names
    right = sum(a == b for a, b in zip(table["label"].to_pylist(), table["prediction"].to_pylist(), strict=True))
    assert right / table.num_rows == pytest.approx(metrics["test"]["accuracy"])
    history = json.loads((run / "history.json").read_text())["epochs"][0]
    assert {"loss_ce", "loss_kd", "noise_l2", "gradient_kd_to_ce", "validation_accuracy"} <= set(history)
    assert history["noise_l2"] > 0
    record = json.loads((run / "run.json").read_text())
    assert record["finished"]
    assert record["format"] == 1
    assert record["teacher"]["name"]


def test_run_folder_holds_no_path_of_the_machine(finished: Path) -> None:
    for file in (finished / "runs" / "one").rglob("*"):
        if file.suffix in (".toml", ".json", ".md", ".parquet"):
            assert str(finished).encode() not in file.read_bytes(), file
    settings = tomllib.loads((finished / "runs" / "one" / "run.toml").read_text())
    student = Path(settings["student"]["model"])
    assert (student.is_absolute(), student.name) == (False, "bert")
    assert "/" not in settings["teacher"]["model"]


def test_output_is_results_and_messages_go_to_standard_error(finished: Path) -> None:
    out, errors = (finished / "output.txt").read_text(), (finished / "errors.txt").read_text()
    assert "accuracy" in out
    assert "next " in out
    assert "\x1b" not in out + errors
    assert "teacher: fine-tuning" in errors
    assert "computed once" in errors
    assert "majority" in out


def test_pipeline_loads_the_model_and_agrees(finished: Path) -> None:
    from transformers import pipeline

    run = finished / "runs" / "one"
    split = json.loads((run / "split.json").read_text())["test"]
    source = (run / tomllib.loads((run / "run.toml").read_text())["data"]["source"]).resolve()
    rows = read_csv(source)
    classify = pipeline("text-classification", str(run / "model"), truncation=True, top_k=None)
    table = parquet.read_table(run / "predictions" / "test.parquet")
    for row, logits in list(zip(split, table["logits"].to_pylist(), strict=True))[:20]:
        theirs = {found["label"]: found["score"] for found in classify([rows[int(row) - 1]["text"]])[0]}
        ours = np.exp(logits) / np.exp(logits).sum()
        names = [classify.model.config.id2label[index] for index in range(3)]
        np.testing.assert_allclose(ours, [theirs[name] for name in names], atol=1e-5)


def test_the_same_command_is_recognised_and_soft_labels_are_reused(
    run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path
) -> None:
    words = ["train", toy_csv(120, 1), "--student", tiny_model("bert"), "--teacher", tiny_model("roberta"), *SMALL]
    assert run(*words)[0] == 0
    code, _, errors = run(*words)
    assert code == 0
    assert "already trained" in errors
    code, _, errors = run(*words, "--seed", "1", "--set", "randout.units=3")
    assert code == 0
    assert "reused from" in errors
    openings = [json.loads(line) for line in (tmp_path / "runs" / "test-openings.jsonl").read_text().splitlines()]
    assert [row["by"] for row in openings] == ["train", "train"]
    code, out, _ = run("runs", "--json")
    assert code == 0
    assert len(json.loads(out)) == 3  # the teacher's is one


def test_fresh_trains_beside(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    words = ["train", toy_csv(90, 2), "-o", "runs/a", "--student", tiny_model("bert"), "--teacher", "none", *SMALL]
    assert run(*words)[0] == 0
    assert run(*words, "--fresh")[0] == 0
    assert (tmp_path / "runs" / "a-2" / "metrics.json").exists()
    first, second = (tmp_path / "runs" / name / "model" / "model.safetensors" for name in ("a", "a-2"))
    assert first.read_bytes() == second.read_bytes()


def test_no_test_leaves_the_split_closed_until_evaluate_opens_it(
    run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path
) -> None:
    words = ["train", toy_csv(90, 2), "-o", "runs/a", "--student", tiny_model("bert"), "--teacher", "none", *SMALL]
    assert run(*words, "--no-test")[0] == 0
    assert set(json.loads((tmp_path / "runs/a/metrics.json").read_text())) == {"validation", "warnings"}
    assert not (tmp_path / "runs" / "test-openings.jsonl").exists()
    code, out, _ = run("evaluate", "runs/a", "--split", "test", "--json")
    assert code == 0
    assert json.loads(out)["rows"] > 0
    assert "test" in json.loads((tmp_path / "runs/a/metrics.json").read_text())
    assert len((tmp_path / "runs" / "test-openings.jsonl").read_text().splitlines()) == 1


def test_unlabelled_texts_are_learned_from_a_teacher(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    texts, _ = toy_texts(60, 9)
    known = read_csv(toy_csv(120, 1))
    more = write_csv(tmp_path / "more.csv", [(text,) for text in [*texts, known[0]["text"]]], ("text",))
    words = ["train", toy_csv(120, 1), "--student", tiny_model("bert"), *SMALL, "--unlabeled", more]
    code, _, errors = run(*words, "--teacher", "none")
    assert code == 2
    assert "Name one with --teacher" in errors
    code, _, errors = run(*words, "--teacher", tiny_model("roberta"), "-o", "runs/u")
    assert code == 0
    assert "left out" in errors
    assert len(json.loads((tmp_path / "runs/u/split.json").read_text())["unlabeled"]) >= 60


def test_leaking_split_of_the_user_is_scored_with_and_without_copies(run: Run, tiny_model: Any, tmp_path: Path) -> None:
    texts, labels = toy_texts(120, 3)
    main = write_csv(tmp_path / "train.csv", list(zip(texts[:90], labels[:90], strict=True)))
    test = write_csv(tmp_path / "test.csv", list(zip(texts[80:], labels[80:], strict=True)))
    words = [
        "train",
        main,
        "--test",
        test,
        "--student",
        tiny_model("bert"),
        "--teacher",
        "none",
        *SMALL,
        "-o",
        "runs/l",
    ]
    code, out, errors = run(*words)
    assert code == 0
    assert "have a copy in train" in errors
    assert "without the" in out
    metrics = json.loads((tmp_path / "runs/l/metrics.json").read_text())["test"]
    assert metrics["without_copies"]["rows"] < metrics["rows"]


def test_resume_by_folder_and_time_limit(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    words = [
        "train",
        toy_csv(120, 1),
        "--student",
        tiny_model("bert"),
        "--teacher",
        "none",
        *SMALL,
        "--set",
        "epochs=3",
    ]
    assert run(*words, "-o", "whole/r")[0] == 0
    code, _, errors = run(*words, "-o", "parts/r", "--time-limit", "0s")
    assert code == 0
    assert "Stopped by the time limit" in errors
    found = re.search(r"randout train --resume (\S+)", errors)
    assert found is not None
    code, _, errors = run("train", "--resume", found[1])
    assert code == 0, errors
    assert "resuming from step" in errors
    for name in ("model/model.safetensors", "metrics.json", "predictions/test.parquet"):
        assert (tmp_path / "whole/r" / name).read_bytes() == (tmp_path / "parts/r" / name).read_bytes()


def test_dry_run_says_what_it_would_take_and_writes_nothing(
    run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path
) -> None:
    code, out, _ = run("train", toy_csv(90, 2), "--student", tiny_model("bert"), "--teacher", "none", "--dry-run")
    assert code == 0
    assert {"rows:", "tokens:", "memory:", "time:"} <= {line.split()[0] for line in out.splitlines()}
    assert not (tmp_path / "runs").exists()


def test_predict_from_arguments_file_and_standard_input(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    model = finished / "runs" / "one"
    code, out, _ = run("predict", model, "fever cough doctor pain", "goal team match", "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == ["fever cough doctor pain", "goal team match"]
    assert all(0 < row["score"] <= 1 for row in rows)
    monkeypatch.setattr(sys, "stdin", io.StringIO("fever cough doctor pain\ngoal team match\n"))
    code, piped, _ = run("predict", model)
    assert [line.split("\t")[0] for line in piped.splitlines()] == [row["label"] for row in rows]
    table = write_csv(tmp_path / "in.csv", [("7", "goal team", "x"), ("3", "fever", "y")], ("id", "text", "label"))
    code, out, _ = run("predict", model, "--file", table, "-o", tmp_path / "out.csv")
    assert code == 0
    written = read_csv(tmp_path / "out.csv")
    assert [row["id"] for row in written] == ["7", "3"]
    assert list(written[0]) == ["id", "text", "label", "predicted_label", "score"]
    code, _, errors = run("predict", model, "--file", table, "-o", tmp_path / "out.csv")
    assert code == 2
    assert "out.csv" in errors


@pytest.mark.parametrize(("rare", "metric"), [(2, "balanced_accuracy"), (30, "macro_f1")])
def test_the_hint_on_imbalance_names_a_metric_that_all_classes_can_reach(
    run: Run, tmp_path: Path, rare: int, metric: str
) -> None:
    labels = ["a"] * 120 + ["b"] * 100 + ["c"] * rare
    rows = [f"word{at} text of {label},{label}" for at, label in enumerate(labels)]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    code, _, errors = run("train", tmp_path / "few.csv", "--student", "svm", "--dry-run")
    assert code == 0, errors
    assert f"consider --set metric={metric}" in errors


def test_predict_without_a_text_says_so(run: Run, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, out, errors = run("predict", finished / "runs" / "one")
    assert (code, out) == (0, "")
    assert "no texts given" in errors


def test_evaluate_a_file_and_an_unknown_label(run: Run, finished: Path, toy_csv: Any, tmp_path: Path) -> None:
    model = finished / "runs" / "one"
    code, out, _ = run("evaluate", model, toy_csv(60, 5), "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 60
    other = write_csv(tmp_path / "other.csv", [("goal team", "SPORT"), ("stock price", "money\u200b")])
    code, _, errors = run("evaluate", model, other)
    assert code == 0
    assert "'SPORT' as 'sport' (1 row)" in errors
    assert "'money\\u200b' as 'money' (1 row)" in errors
    bad = write_csv(tmp_path / "bad.csv", [("goal team", "sport"), ("stock price", "finance")])
    code, out, errors = run("evaluate", model, bad, "--json")
    assert code == 0
    assert json.loads(out)["unseen"] == {"finance": 1}
    assert json.loads(out)["accuracy"] <= 0.5
    assert "1 row of the file has a label that no training row has: 'finance' (1)" in errors
    worse = write_csv(tmp_path / "worse.csv", [("goal team", "football"), ("stock price", "finance")])
    code, _, errors = run("evaluate", model, worse)
    assert code == 2
    assert "unknown label 'football'" in errors
    assert "Known: 'health', 'money', 'sport'" in errors


def test_evaluate_splits(run: Run, finished: Path) -> None:
    code, out, _ = run("evaluate", finished / "runs" / "one", "--json")
    assert code == 0
    stored = json.loads((finished / "runs" / "one" / "metrics.json").read_text())
    found = json.loads(out)
    assert isinstance(found.pop("warnings"), list)
    assert found == stored["validation"]
    code, out, _ = run("evaluate", finished / "runs" / "one")
    assert (code, out.splitlines()[0]) == (0, "validation")


def test_a_run_can_be_the_teacher(run: Run, finished: Path, tiny_model: Any, toy_csv: Any) -> None:
    words = ["train", toy_csv(240, 0), "--student", tiny_model("distilbert"), "--teacher", finished / "runs" / "one"]
    code, _, errors = run(*words, *SMALL, "-o", "runs/x")
    assert code == 0, errors
    assert "teacher one: validation accuracy" in errors
    assert "was trained on" not in errors


def test_a_teacher_that_saw_the_held_out_rows_is_refused_before_any_training(
    run: Run, finished: Path, tiny_model: Any, toy_csv: Any, tmp_path: Path
) -> None:
    words = ["train", toy_csv(240, 0), "--student", tiny_model("bert"), "--teacher", finished / "runs" / "one"]
    words += [*SMALL, "-o", "runs/y", "--set", "split_seed=5"]
    code, _, errors = run(*words)
    assert code == 2
    found = re.search(r"test scores are refused: the teacher was trained on (\d+) of the 36 test rows", errors)
    assert found
    assert "--allow-leaks" in errors
    assert not (tmp_path / "runs").exists()
    code, out, errors = run(*words, "--allow-leaks")
    assert code == 0
    assert re.search(r"warning: the teacher was trained on \d+ of the 36 validation rows", errors)
    assert f"leak: the teacher was trained on {found[1]} of the 36 rows" in out


def test_teacher_with_other_labels(run: Run, finished: Path, tiny_model: Any, tmp_path: Path) -> None:
    texts, labels = toy_texts(90, 3)
    renamed = {"health": "A", "money": "B", "sport": "C"}
    main = write_csv(tmp_path / "t.csv", [(t, renamed[label]) for t, label in zip(texts, labels, strict=True)])
    words = ["train", main, "--student", tiny_model("bert"), "--teacher", finished / "runs" / "one", *SMALL]
    code, _, errors = run(*words)
    assert code == 2
    assert "health, money, sport" in errors
    assert "A, B, C" in errors
    assert "--teacher-labels" in errors
    assert run(*words, "--teacher-labels", "A,B,C")[0] == 0
    code, _, errors = run(*words, "--teacher-labels", "A,B")
    assert code == 2
    assert "2 names for the 3 outputs" in errors


def test_stale_soft_labels_are_refused(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", tiny_model("bert"), *SMALL]
    assert run(*words)[0] == 0
    (store,) = (tmp_path / "runs" / "soft-labels").glob("*.safetensors")
    save_file({"logits": load_file(store)["logits"] * 2}, store, metadata={"model": "another"})
    code, _, errors = run(*words, "--set", "randout.units=3")
    assert code == 2
    assert "outdated or belong to another run" in errors
    store.write_bytes(b"not safetensors")
    code, _, errors = run(*words, "--set", "randout.units=3")
    assert code == 2
    assert "cannot be read" in errors


def test_soft_labels_ahead_of_time(run: Run, tiny_model: Any, toy_csv: Any) -> None:
    models = ["--teacher", tiny_model("roberta"), "--student", tiny_model("bert")]
    code, out, _ = run("soft-labels", toy_csv(90, 1), *models, *SMALL)
    assert code == 0
    assert "logits saved in" in out
    code, _, errors = run("train", toy_csv(90, 1), *models, *SMALL)
    assert code == 0
    assert "reused from" in errors
    assert "already trained" in errors  # the teacher


def test_soft_labels_of_label_sets_by_the_default_preset(run: Run, tiny_model: Any, tmp_path: Path) -> None:
    """Its methods that do not support label sets are left out, as in a training."""
    data = write_label_sets(tmp_path / "sets.csv", 90)
    models = ["--teacher", tiny_model("roberta"), "--student", tiny_model("bert"), "--set", "multi_label=true"]
    code, out, error = run("soft-labels", data, *models, *SMALL, "--json")
    assert code == 0, error
    assert json.loads(out).keys() == {"teacher", "sample_f1", "written"}


def test_data_changed_since_the_run(run: Run, tiny_model: Any, tmp_path: Path) -> None:
    texts, labels = toy_texts(90, 3)
    main = write_csv(tmp_path / "t.csv", list(zip(texts, labels, strict=True)))
    words = ["train", main, "--student", tiny_model("bert"), "--teacher", "none", *SMALL, "-o", "runs/d"]
    assert run(*words, "--time-limit", "0s")[0] == 0
    write_csv(main, list(zip(texts[1:], labels[1:], strict=True)))
    for again in (words, ["train", "--resume", "runs/d"]):
        code, _, errors = run(*again)
        assert code == 2
        assert "the data has changed" in errors


def test_two_processes_on_one_run(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    from randout.storage.run_folder import RunFolder

    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", "none", *SMALL, "-o", "runs/t"]
    with RunFolder(tmp_path / "runs" / "t").lock():
        code, _, errors = run(*words)
    assert code == 2
    assert f"pid {os.getpid()}" in errors


def test_full_disk_while_saving(tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    """A real limit on file size in a child process: it fails with one line, and leaves no half-written file."""
    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", "none", *SMALL, "-o", "runs/f"]
    process = forked.command(words, tmp_path, limit=60000)
    process.join()
    errors = (tmp_path / "errors.txt").read_text()
    assert process.exitcode == 1, errors
    assert "could not be written" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "runs" / "f" / "checkpoint").glob("*.partial"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], "no data"),
        (["train", "nowhere.csv"], "nowhere.csv"),
        (["train", "ok.csv", "--student", "./nowhere"], "no such folder"),
        (["train", "ok.csv", "--student", "no-such-model"], "HF_HUB_OFFLINE"),
        (["train", "ok.csv", "--set", "learning_rat=1"], "learning_rate"),
        (["train", "ok.csv", "--set", "C=1"], "classifier.C"),
        (["train", "ok.csv", "--set", "train.epoch=1"], "epochs"),
        (["train", "ok.csv", "--set", "epochs=0"], "train.epochs"),
        (["train", "ok.csv", "--set", "epochs"], "KEY=VALUE"),
        (["train", "ok.csv", "--set", "methods.randut.tokens=1"], "randout"),
        (["train", "ok.csv", "--set", "randout.tokns=1"], "tokens"),
        (["train", "ok.csv", "--set", "kd.temperature=0"], "temperature"),
        (["train", "ok.csv", "--preset", "papr"], "paper"),
        (["train", "ok.csv", "--preset", "plain", "--recipe", "r.toml"], "use one of them"),
        (["train", "ok.csv", "--recipe", "nowhere.toml"], "nowhere.toml"),
        (["train", "ok.csv", "--recipe", "broken.toml"], "line 1"),
        (["train", "ok.csv", "--time-limit", "soon"], "2h"),
        (["train", "ok.csv", "--device", "tpu"], "train.device"),
        (["train", "ok.csv", "--student", "svm", "--device", "cuda"], "doctor"),
        (["train", "ok.csv", "--split", "magic"], "data.split"),
        (["train", "ok.csv", "--student", "svm", "--text-column", "txt"], "text"),
        (["train", "--resume", "nowhere"], "nowhere: no such run"),
        (["train", "one.csv", "--student", "svm"], "at least two classes"),
        (["train", "."], "folder"),
        (["evaluate", "nowhere"], "nowhere: no such run"),
        (["predict", "./nowhere", "a"], "no such folder"),
        (["runs", "--runs", "nowhere"], "nowhere"),
        (["runs", "show", "nowhere"], "nowhere"),
        (["runs", "rm", "."], "not a run folder"),
        (["init", "-o", "ok.csv"], "not overwritten"),
    ],
)
def test_mistakes_are_told_in_one_message(
    run: Run, tmp_path: Path, words: list[str], expected: str, toy_csv: Any
) -> None:
    (tmp_path / "ok.csv").write_bytes(Path(toy_csv(90, 1)).read_bytes())
    write_csv(tmp_path / "one.csv", [(f"text {i}", "only") for i in range(20)])
    (tmp_path / "broken.toml").write_text("[train\nepochs = 1\n")
    code, out, errors = run(*words)
    assert code == 2
    assert expected in errors
    assert "Traceback" not in errors + out
    assert out == ""


def test_settings_of_the_model_that_cannot_be(run: Run, tiny_model: Any, toy_csv: Any) -> None:
    base = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", "none"]
    for words, expected in (
        (["--set", "max_length=5000"], "takes at most 64"),
        (["--set", "student.layers=[0,7]"], "layers 0 to 2, got 7"),
        (["--set", "randout.layers=[9]"], "expected 0 (the embeddings) to 3"),
        (["--set", "methods.ce=false"], "no method with a training target is left"),
    ):
        code, _, errors = run(*base, *words)
        assert code == 2
        assert expected in errors
    code, _, errors = run(*base[:-2], "--teacher", tiny_model("roberta"), "--preset", "plain")
    assert code == 2
    assert "no method of this recipe learns from a teacher" in errors


def test_init_prints_a_recipe_that_reads_back(run: Run, tmp_path: Path) -> None:
    from randout.core import config
    from randout.methods.builtin import METHODS

    code, out, _ = run("init")
    assert code == 0
    (tmp_path / "r.toml").write_text(out)
    plain = config.build([config.read_preset(config.DEFAULT_PRESET)], METHODS)
    assert config.build([config.read_recipe(tmp_path / "r.toml")], METHODS) == plain
    for line in out.splitlines():
        assert not line or line.startswith("[") or "  # " in line, line


def test_every_preset_reads_and_says_what_it_is_for() -> None:
    from randout.core import config
    from randout.methods.builtin import METHODS

    for name, about in config.presets().items():
        assert about, name
        config.build([config.read_preset(name)], METHODS)


def test_doctor_knows_the_extras_of_the_package() -> None:
    """Each is an optional dependency of the package and installs what it is said to."""
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert set(doctor.EXTRAS) == set(extras) - {"docs", "test"}
    for name, (packages, _) in doctor.EXTRAS.items():
        assert {re.match(r"[\w-]+", one)[0] for one in extras[name]} == set(packages)


def test_doctor_looks_at_this_machine(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    rows = {row["what"]: row["found"] for row in json.loads(out)}
    assert rows["torch"] == torch.__version__
    assert rows["transformers"] == transformers.__version__
    assert rows["bfloat16 on the CPU"].startswith("native" if planning.native_bfloat16("cpu") else "emulated")
    assert "HF_HUB_OFFLINE" in rows["model hub"]


@pytest.mark.usefixtures("registry_restored")
def test_doctor_lists_methods_that_are_not_built_in(run: Run, tmp_path: Path) -> None:
    assert ("other methods", "none") in {(row["what"], row["found"]) for row in json.loads(run("doctor", "--json")[1])}
    lines = ["import randout", "", "", "@randout.register", "class Listed(randout.Method):"]
    lines += ['    name = "listed-noise"', '    summary = "does nothing"', ""]
    (tmp_path / "listed.py").write_text("\n".join(lines))
    rows = {row["what"]: row["found"] for row in json.loads(run("doctor", "--json", "--plugin", "listed.py")[1])}
    assert rows["method: listed-noise"] == "not built in; from the file listed.py"
    assert "from file listed.py, not built in" in run("methods")[1]


@pytest.mark.parametrize(("limit", "said"), [("1", "(threads limited by OMP_NUM_THREADS=1)"), (None, "")])
def test_doctor_tells_cores_and_the_limit_on_threads(
    run: Run, limit: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: 7)
    for name in doctor.LIMITS:
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    rows = {row["what"]: row["found"] for row in json.loads(run("doctor", "--json")[1])}
    assert rows["CPU"].partition(",")[0] == " ".join(filter(None, ["7 cores", said]))


def test_runs_fit_a_terminal_and_are_whole_elsewhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"films-{'a-long-name-of-an-encoder-' * 3}{at}-s1-{at:08x}" for at in range(2)]
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
        folders.write(tmp_path / "runs" / name / "run.json", folders.begun())
    whole = run("runs")[1]
    assert all(name in whole for name in names)
    assert [row["run"] for row in json.loads(run("runs", "--json")[1])] == names
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    lines = run("runs")[1].splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    for line, name in zip(lines[1:], names, strict=True):
        shown = line.split()[-1]
        start, _, end = shown.partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
        assert len(start) > 3
        assert len(end) > 3


def test_compare_tells_long_names_apart_in_a_terminal_and_shows_them_whole_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, names = [], []
    for kind, rate in (("plain", 0.1), ("kd", 0.2)):
        path = make_run(tmp_path / kind, kind)
        record = json.loads((path / "run.json").read_text())
        record["identity"] |= {"split": {"test": "e"}, "student": {"weights": "w"}, "train": {"seed": 1}}
        names.append(f"ce + contrastive + randout, label_smoothing {rate}, tokens 16")
        (path / "run.json").write_text(json.dumps(record | {"name": names[-1]}))
        paths.append(str(path))
    whole = run("compare", *paths)[1].splitlines()
    assert [line[: len(name)] for line, name in zip(whole[3:5], names, strict=True)] == names
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = [line[:44].rstrip() for line in run("compare", *paths)[1].splitlines()[3:5]]
    assert shown[0] != shown[1]
    assert all(".." in name for name in shown)


def test_the_list_of_commands_is_not_cut_off(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = out.partition("Commands:")[2].split("\n")
    assert any("Show what this machine supports and what is missing." in line for line in commands)
    assert not [line for line in commands if line.endswith("...")]


def test_help_and_import_load_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "pydantic", "matplotlib")
    script = (
        "import atexit, sys, randout, randout.cli.app; sys.argv = ['randout', '--help'];"
        f"atexit.register(lambda: print('loaded:', [name for name in {heavy} if name in sys.modules]));"
        "randout.cli.app.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_library_train_on_columns_in_memory(tiny_model: Any, tmp_path: Path) -> None:
    import randout

    texts, labels = toy_texts(120, 4)
    settings = {"epochs": 4, "learning_rate": 2e-3, "precision": "float32"}
    asked = {"student": str(tiny_model("bert")), "teacher": "none", "runs": tmp_path / "runs", "settings": settings}
    asked["preset"] = "plain"
    result = randout.train({"text": texts, "label": labels}, **asked)
    assert result.new
    assert result.metrics["validation"]["accuracy"] > result.metrics["validation"]["majority_baseline"]
    assert set(result.predictions) == {"validation", "test"}
    assert (result.model_path / "model.safetensors").exists()
    assert not randout.train({"text": texts, "label": labels}, **asked).new
    found, probabilities = randout.predict(result.folder, ["fever cough doctor pain nurse"])
    assert found == ["health"]
    assert probabilities.shape == (1, 3)


def test_another_thread_count_is_asked_about(
    run: Run, tiny_model: Any, toy_csv: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from randout.core import console

    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "--teacher", "none", *SMALL, "-o", "runs/t"]
    assert run(*words, "--time-limit", "0s")[0] == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    code, _, errors = run(*words)
    assert code == 2
    assert "threads was" in errors
    assert "is 7" in errors
    assert "--accept-changes" in errors
    asked: list[str] = []
    monkeypatch.setattr(console.Show, "ask", lambda self, question: asked.append(question) or True)
    assert run(*words)[0] == 0
    assert "Resume anyway?" in asked[0]


def test_ctrl_c_saves_and_says_how_to_go_on(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    words = ["train", str(toy_csv(120, 1)), "--student", str(tiny_model("bert")), "--teacher", "none", *SMALL]
    words += ["--set", "epochs=400", "--set", "patience=0", "--set", "validate_every=1", "-o", "runs/c"]
    process, errors, began = forked.command(words, tmp_path), tmp_path / "errors.txt", time.monotonic()
    while process.is_alive() and not (errors.exists() and "epoch 2/400" in errors.read_text()):
        assert time.monotonic() - began < 120
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    said = errors.read_text()
    assert process.exitcode == 130, said
    assert "Interrupted; checkpoint saved. Resume with: randout train --resume runs/c" in said
    assert "Traceback" not in said
    position = json.loads((tmp_path / "runs/c/checkpoint/position.json").read_text())["position"]
    assert 2 <= position["epoch"] < 400


def test_the_settings_of_a_run_with_a_teacher_are_a_recipe(
    run: Run, finished: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data, its student and its teacher are found from where it lies."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = finished / "runs" / "one" / "run.toml"
    code, out, errors = run("train", "--recipe", recipe, "--dry-run")
    assert code == 0, errors
    assert "teacher, fine-tuned first" not in out
