"""Exports: every form against the model that it was made from, through the script that predicts without PyTorch."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import randout
from conftest import Run
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.dataset import load
from randout.experiments.run import export as exporting
from randout.experiments.run.saved_model import load_classifier
from randout.experiments.shrink import forms as ladder
from randout.exports import checks, files, runtime
from randout.methods.builtin import METHODS
from randout.models import folder_checks, loading
from randout.models.tokens import encode, truncate
from randout.storage.study_record import LadderRung
from randout.testing.models import FAMILIES, LABELS, build, toy_texts
from support.label_sets import toy_label_sets, write_label_sets

TEXTS = ["a", "fever", "the match was good and the bank was not", *toy_texts(30, 5)[0], "goal " * 200]
WITHOUT_TORCH = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "transformers", "randout", "scipy"))
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path("predict.py", run_name="__main__")
"""


def softmax(logits: np.ndarray) -> np.ndarray:
    return runtime.softmax(logits.astype(np.float64))


def saved(family: str, folder: Path, pooling: Any = "first", **options: Any) -> loading.Source:
    """A classifier of a tiny encoder with one block, untrained, as a run saves it."""
    bare = loading.Source(family, build(family, folder / "bare", num_hidden_layers=1))
    encoder = loading.load(bare, id2label=LABELS, pooling=pooling, **options)
    loading.save(encoder, folder / "model", 24, "")
    return loading.Source(family, folder / "model")


def exported(source: loading.Source, folder: Path, truncation: str = "head", forms: Any = ("float32", "int8")) -> Path:
    folder.mkdir()
    files.write_record(folder, files.write_encoder(source, truncation, folder, forms))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_faithfully(family: str, tmp_path: Path) -> None:
    """Both poolings, in turn; the largest text is cut, and the batches have padding."""
    pooling = "mean" if FAMILIES.index(family) % 2 else "first"
    source = saved(family, tmp_path, pooling)
    folder = exported(source, tmp_path / "export")
    logits = load_classifier(str(source.folder)).logits(TEXTS, lambda count: None)
    full, small = (runtime.Classifier(folder, form) for form in ("float32", "int8"))
    np.testing.assert_allclose(full.logits(TEXTS), logits, rtol=0, atol=2e-5)
    assert 0 < full.texts_cut < len(TEXTS) / 2
    difference = np.abs(softmax(small.logits(TEXTS)) - softmax(logits)).max()
    assert 0 < difference < 0.1
    alone = [small.logits([text])[0] for text in TEXTS[:6]]
    np.testing.assert_array_equal(small.logits(TEXTS)[:6], alone)
    assert full.labels == list(LABELS.values())
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert config["id2label"] == {str(at): name for at, name in LABELS.items()}


@pytest.mark.parametrize("truncation", ["head", "head+tail"])
def test_long_texts_are_cut_as_in_training(truncation: str, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    tokenizer = loading.load_tokenizer(loading.Source("bert", tiny_model("bert")))
    texts = [*TEXTS, "bank " * 10, "team bank " * 20]
    cut = truncate(encode(tokenizer, texts), 12, truncation, suffix=1, prefix=1)
    shutil.copyfile(tiny_model("bert") / "tokenizer.json", tmp_path / "tokenizer.json")
    rows: list[list[int]] = []

    class Recorder(runtime.Classifier):
        def _session(self, path: Path) -> Any:
            class Session:
                def run(self, names: Any, feed: dict[str, np.ndarray]) -> Any:
                    for ids, mask in zip(feed["input_ids"], feed["attention_mask"], strict=True):
                        rows.append(ids[mask == 1].tolist())
                    return [np.zeros((len(feed["input_ids"]), 2), np.float32)]

            return Session()

    reader = {"kind": "tokens", "max_length": 12, "truncation": truncation, "prefix": 1, "suffix": 1}
    files.write_record(tmp_path, files.Exported(["a", "b"], {"float32": ""}, reader | {"padding_id": 0, "empty_id": 1}))
    model = Recorder(tmp_path)
    model.logits(texts)
    assert sorted(rows) == sorted(cut[row].tolist() for row in range(len(texts)))
    assert model.texts_cut == sum(cut.untruncated_lengths > 12) > 1


def test_batches_have_every_text_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 300).tolist()
    found = list(runtime.batches(lengths, 400))
    assert sorted(np.concatenate(found).tolist()) == list(range(300))
    sizes = [(len(places), max(lengths[at] for at in places)) for places in found]
    assert all(rows == 1 or rows * longest <= 400 for rows, longest in sizes)
    assert sum(rows * longest for rows, longest in sizes) < 1.1 * sum(lengths)


def test_the_script_and_the_model_folders_agree_on_names() -> None:
    assert runtime.RECORD == folder_checks.EXPORT
    assert set(files.ONNX) == set(exporting.FORMS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, toy_csv: Any) -> Path:
    """A run of a tiny encoder and its export in both forms, `run` and `export`."""
    place = tmp_path_factory.mktemp("export")
    settings = {"epochs": 2, "precision": "float32", "student.max_length": 16, "student.truncation": "head+tail"}
    table = toy_csv(120, 0)
    randout.train(table, student=tiny_model("bert"), teacher="none", settings=settings, out=place / "run", runs=place)
    randout.export(place / "run", place / "export", forms=["float32", "int8"])
    return place


@pytest.fixture(scope="module")
def bag_of_words(tmp_path_factory: pytest.TempPathFactory, toy_csv: Any) -> Path:
    """The folder of a run whose export takes no time."""
    place = tmp_path_factory.mktemp("bag")
    randout.train(toy_csv(120, 0), student="svm", settings={"classifier.min_df": 1}, out=place / "run", runs=place)
    return place / "run"


class TestEncoder:
    def test_checks_are_recorded_and_correct(self, trained: Path) -> None:
        record = json.loads((trained / "export" / "export.json").read_text())
        for form in ("float32", "int8"):
            found = record["checks"][form]
            assert found["rows"] == record["rows"] > found["scored"] > 10, "validation and test texts"
            assert (found["trained_on"], found["scored_trained_on"]) == (False, False)
            assert found["agreement"] == 1 - found["differing"] / found["rows"]
            assert (
                found["difference"]["low"] <= found["score"] - found["reference_score"] <= found["difference"]["high"]
            )
        assert record["checks"]["float32"]["agreement"] == 1
        assert record["checks"]["float32"]["largest_difference"] < 1e-5 < record["checks"]["int8"]["largest_difference"]
        assert record["checks"]["float32"]["reference_score"] == pytest.approx(
            json.loads((trained / "run" / "metrics.json").read_text())["validation"]["accuracy"]
        )
        assert record["columns"] == {"text": "text", "label": "label"}
        assert record["reader"]["truncation"] == "head+tail"
        assert record["texts_cut"] > 0

    def test_layout_is_that_of_other_runtimes(self, trained: Path) -> None:
        folder = trained / "export"
        expected = {"onnx/model.onnx", "onnx/model_quantized.onnx", "config.json", "tokenizer.json", "README.md"}
        expected |= {"tokenizer_config.json", "export.json", "predict.py", "seen-rows.npz", "abstention.json"}
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == expected
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
        assert [(one.name, one.shape) for one in session.get_inputs()] == [
            ("input_ids", ["batch", "sequence"]),
            ("attention_mask", ["batch", "sequence"]),
        ]
        assert [one.name for one in session.get_outputs()] == ["logits"]
        sizes = [(folder / path).stat().st_size for path in ("onnx/model_quantized.onnx", "onnx/model.onnx")]
        assert sizes[0] < sizes[1]

    def test_predictions_are_those_of_the_run(self, trained: Path, command: Run) -> None:
        texts = TEXTS[:6]
        probabilities = randout.load(trained / "run").predict_proba(texts)
        record = json.loads((trained / "export" / "export.json").read_text())
        record["default"] = "float32"
        folder = trained / "float32"
        shutil.copytree(trained / "export", folder)
        (folder / "export.json").write_text(json.dumps(record))
        np.testing.assert_allclose(randout.load(folder).predict_proba(texts), probabilities, atol=1e-5)
        outputs = [command("predict", path, "--probabilities", "--json", *texts) for path in (trained / "run", folder)]
        assert outputs[0][0] == outputs[1][0] == 0
        rows = [[json.loads(line) for line in out.splitlines()] for _, out, _ in outputs]
        assert [row["label"] for row in rows[0]] == [row["label"] for row in rows[1]]

    def test_the_script_needs_neither_torch_nor_randout(self, trained: Path, tmp_path: Path) -> None:
        texts = [*TEXTS[:4], " ", TEXTS[-1]]
        (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

        def call(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", WITHOUT_TORCH, *words],
                cwd=trained / "export",
                env=environment,
                input=given,
                capture_output=True,
                text=True,
                check=False,
            )

        printed = [
            call("--json", "--form", "float32", "--file", str(tmp_path / "texts.txt")),
            call("--json", "--form", "float32", given="\n".join(texts) + "\n"),
            call("--json", "--form", "float32", *texts),
        ]
        for one in printed:
            assert one.returncode == 0, one.stderr
            assert one.stdout == printed[0].stdout
            empty, cut = one.stderr.splitlines()
            assert empty == f"note: 1 of {len(texts)} texts is empty and gets no label"
            assert cut == f"note: 2 of {len(texts)} texts are too long and were cut"
        rows = [json.loads(line) for line in printed[0].stdout.splitlines()]
        assert rows[4] == {"text": " ", "label": None, "score": None, "probabilities": None}
        model = randout.load(trained / "run")
        kept = [text for text in texts if text.strip()]
        found = [list(row["probabilities"].values()) for row in rows if row["label"]]
        np.testing.assert_allclose(found, model.predict_proba(kept), atol=1e-5)
        assert [row["label"] for row in rows if row["label"]] == model.predict(kept)
        assert call("a text").stdout.split("\t")[2] == "a text\n"
        wrong = call("--form", "float16", "a text")
        assert (wrong.returncode, "it has float32, int8" in wrong.stderr) == (2, True)

    def test_a_form_is_chosen(self, trained: Path, command: Run) -> None:
        scores = {}
        for form in ("", "float32", "int8"):
            asked = ["--form", form] if form else []
            code, out, error = command("predict", trained / "export", "--json", *asked, "a goal", "the team was good")
            assert code == 0, error
            scores[form] = [json.loads(line)["score"] for line in out.splitlines()]
        assert scores[""] == scores["float32"] != scores["int8"]
        code, _, error = command("predict", trained / "export", "--form", "int4", "a goal")
        assert (code, "has float32, int8" in error) == (2, True)
        code, _, error = command("predict", trained / "run", "--form", "int8", "a goal")
        assert (code, "is not an export" in error) == (2, True)

    def test_a_form_is_evaluated(self, trained: Path, command: Run, toy_csv: Any) -> None:
        table, found = toy_csv(150, 0), {}
        for form in ("float32", "int8"):
            code, out, error = command("evaluate", trained / "export", table, "--form", form, "--json")
            assert code == 0, error
            found[form] = json.loads(out)
            assert found[form] == randout.evaluate(trained / "export", table, form=form)
        assert found["float32"]["log_loss"] != found["int8"]["log_loss"]
        code, _, error = command("evaluate", trained / "run", "--form", "int8")
        assert (code, "--form needs FILE" in error) == (2, True)

    def test_the_script_reads_tables(self, trained: Path, tmp_path: Path) -> None:
        texts = ['a "good", long\nmatch', "fever", ""]

        def call(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
            command = [sys.executable, str(trained / "export" / "predict.py"), *words]
            return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

        by_line = [call(text).stdout.split("\t")[:2] for text in texts[:2]]
        for name, separator, column in (("a.csv", ",", "text"), ("b.TSV", "\t", "body"), ("c.csv", ";", "body")):
            with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
                csv.writer(file, delimiter=separator).writerows([["id", column], *enumerate(texts)])
            asked = [] if column == "text" else ["--text-column", column]
            done = call("--file", str(tmp_path / name), *asked)
            assert done.returncode == 0, done.stderr
            rows = [line.split("\t") for line in done.stdout.splitlines()]
            assert [row[:2] for row in rows] == [*by_line, ["", ""]]
            assert rows[0][2] == 'a "good", long match'
            assert done.stderr == "note: 1 of 3 texts is empty and gets no label\n"
            piped = call("--text-column", column, given=(tmp_path / name).read_text(encoding="utf-8"))
            assert piped.stdout == done.stdout
        wrong = call("--file", str(tmp_path / "b.TSV"))
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "no column 'text'; use --text-column with one of: id, body" in wrong.stderr

    def test_the_script_without_texts_or_reader(self, trained: Path) -> None:
        words = [sys.executable, str(trained / "export" / "predict.py")]
        done = subprocess.run(words, input="", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: no texts given. Give them as arguments, with --file, or ")
        with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            process.stdout.close()
            process.stdin.write("a goal\n" * 5)
            process.stdin.close()
            assert process.stderr.read() == ""
        assert process.returncode == 0

    def test_an_export_loads_without_torch(self, trained: Path) -> None:
        code = "import sys, randout; print(randout.load(sys.argv[1]).predict(['a goal']), 'torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code, str(trained / "export")], capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith("] False\n")

    def test_a_file_is_labelled_and_evaluated(self, trained: Path, run: Run, toy_csv: Any) -> None:
        code, _, error = run("predict", trained / "export", "--file", toy_csv(40, 3), "-o", "labelled.csv")
        assert code == 0, error
        code, out, error = run("evaluate", trained / "export", toy_csv(40, 3), "--json")
        assert code == 0, error
        assert json.loads(out)["rows"] == 40
        code, out, error = run("evaluate", trained / "export", toy_csv(120, 0), "--json")
        assert json.loads(out)["seen"]["rows"] > 60, "the rows of its training are found"

    def test_an_export_is_no_model_to_train(self, trained: Path, run: Run, toy_csv: Any) -> None:
        code, _, error = run("train", toy_csv(40, 3), "--student", trained / "export")
        assert code == 2
        assert "this is an export" in error

    def test_a_damaged_export_is_reported(self, trained: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(trained / "export", tmp_path / "export"))
        for path in (folder / "onnx").iterdir():
            path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match="cannot be read"):
            randout.load(folder)
        (folder / "export.json").write_text(json.dumps({"format": 7}))
        with pytest.raises(UserError, match="format 7"):
            randout.load(folder)


@pytest.fixture(scope="module")
def label_sets(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A multi-label run of a tiny encoder and its export in both forms, `run` and `export`."""
    place = tmp_path_factory.mktemp("label-sets")
    settings = {"epochs": 5, "precision": "float32", "learning_rate": 3e-3, "refit": False, "data.label_separator": ";"}
    table = write_label_sets(place / "data.csv", 150)
    options: dict[str, Any] = {"teacher": "none", "settings": settings, "out": place / "run", "runs": place}
    randout.train(table, student=tiny_model("bert"), **options)
    randout.export(place / "run", place / "export", forms=["float32", "int8"])
    return place


class TestLabelSets:
    """A model of label sets (multi-label): thresholds and sigmoid probabilities wherever the export is read."""

    def test_the_record_has_thresholds_and_checks_of_sets(self, label_sets: Path) -> None:
        folder = label_sets / "export"
        record, config = (json.loads((folder / name).read_text()) for name in ("export.json", "config.json"))
        scores = json.loads((label_sets / "run" / "metrics.json").read_text())["validation"]
        assert record["problem_type"] == config["problem_type"] == "multi_label_classification"
        assert record["thresholds"] == config["label_thresholds"] == scores["thresholds"]
        assert record["columns"] == {"text": "text", "label": "label", "separator": ";"}
        check = record["checks"]["float32"]
        assert (check["agreement"], check["label_agreement"], check["problems"]) == (1, 1, [])
        assert check["largest_difference"] < 1e-5
        assert check["metric"] == "sample_f1"
        assert check["reference_score"] == pytest.approx(scores["sample_f1"])
        assert "| form | same label set | same labels |" in (folder / "README.md").read_text()

    @pytest.mark.parametrize("form", ["float32", "int8"])
    def test_every_reader_gives_the_sets_of_the_model(
        self, form: str, label_sets: Path, command: Run, tmp_path: Path
    ) -> None:
        texts, _ = toy_label_sets(20, seed=3)
        model = runtime.Classifier(label_sets / "export", form)
        shares, limits = model.probabilities(texts), np.array([*model.record["thresholds"].values()])
        expected = [[label for label, yes in zip(model.labels, row, strict=True) if yes] for row in shares > limits]
        assert {len(labels) for labels in expected} > {0, 1, 2}
        own = randout.load(label_sets / "run").predict_proba(texts)
        np.testing.assert_allclose(shares, own, atol=1e-5 if form == "float32" else 0.1)
        assert model.predict(texts) == expected
        assert [model.predict([text])[0] for text in texts[:5]] == expected[:5]
        asked = ["--form", form, "--probabilities", "--json"]
        code, out, error = command("predict", label_sets / "export", *asked, *texts)
        assert code == 0, error
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["label"] for row in rows] == expected
        np.testing.assert_array_equal(np.float32([[*row["probabilities"].values()] for row in rows]), shares)
        likely = np.where(shares > limits, shares, 1 - shares).prod(1)
        assert [row["score"] for row in rows] == pytest.approx(likely.tolist())
        predictor = randout.load(label_sets / "export", form=form)
        assert (predictor.predict(texts), predictor.thresholds) == (expected, model.record["thresholds"])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

        def script(*words: str) -> subprocess.CompletedProcess[str]:
            called = [sys.executable, "-c", WITHOUT_TORCH, "--form", form, *words]
            options: dict[str, Any] = {"cwd": label_sets / "export", "env": environment, "check": False}
            return subprocess.run(called, capture_output=True, text=True, **options)

        printed = [json.loads(line) for line in script("--json", *texts, " ").stdout.splitlines()]
        assert printed.pop() == {"text": " ", "label": None, "score": None, "probabilities": None}
        assert printed == rows
        cells = [line.split("\t") for line in script(*texts).stdout.splitlines()]
        assert [row[0] for row in cells] == ["; ".join(labels) for labels in expected]

    @pytest.mark.parametrize("form", ["float32", "int8"])
    def test_sets_that_are_not_sure_enough_are_left_out(self, form: str, label_sets: Path, command: Run) -> None:
        """By every reader, with the confidence written out from the logits of the form."""
        record = json.loads((label_sets / "export" / "abstention.json").read_text())
        assert record == json.loads((label_sets / "run" / "model" / "abstention.json").read_text())
        texts, target = toy_label_sets(40, seed=3)[0], "coverage=0.5"
        model = runtime.Classifier(label_sets / "export", form)
        z, limits = model.logits(texts).astype(np.float64), np.array([*model.record["thresholds"].values()])
        made, p = 1 / (1 + np.exp(-z)) > limits, 1 / (1 + np.exp(-z / record["temperature"]))
        sure = np.where(made, p, 1 - p).prod(1)
        least = next(point["confidence"] for point in record["points"] if point["coverage"] >= 0.5)
        sets = [[label for label, yes in zip(model.labels, row, strict=True) if yes] for row in made]
        expected = [labels if one >= least else None for labels, one in zip(sets, sure, strict=True)]
        assert None in expected
        assert [] in expected, "a set without labels is a prediction"
        assert model.predict(texts, abstain=target) == expected
        predictor = randout.load(label_sets / "export", form=form)
        assert predictor.predict(texts, abstain=target) == expected
        np.testing.assert_allclose(predictor.confidence(texts), sure, rtol=1e-6)
        asked = ["--form", form, "--abstain", target, "--json"]
        code, out, error = command("predict", label_sets / "export", *asked, *texts, "")
        assert code == 0, error
        rows = [json.loads(line) for line in out.splitlines()]
        words = [sys.executable, str(label_sets / "export" / "predict.py"), *asked, *texts, ""]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        printed = [json.loads(line) for line in done.stdout.splitlines()]
        for row in printed:
            del row["probabilities"]
        assert rows == printed
        empty = {"text": "", "label": None, "score": None, "best_guess": None, "confidence": None}
        assert printed.pop() == empty
        assert [row["label"] for row in printed] == expected
        assert [row["best_guess"] for row in printed] == sets
        assert [row["confidence"] for row in printed] == pytest.approx(sure.tolist())
        assert f"{expected.count(None)} of 40 texts are below confidence" in done.stderr

    def test_a_file_is_evaluated_with_columns_of_zeros_and_ones(
        self, label_sets: Path, tmp_path: Path, command: Run
    ) -> None:
        texts, sets = toy_label_sets(30, seed=8)
        labels = runtime.read_record(label_sets / "export")["labels"]
        rows = [[text, *(int(label in one) for label in labels)] for text, one in zip(texts, sets, strict=True)]
        with (tmp_path / "new.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text", *labels], *rows])
        found = []
        for model in ("run", "run/model", "export"):
            code, out, error = command("evaluate", label_sets / model, tmp_path / "new.csv", "--json")
            assert code == 0, error
            found.append(json.loads(out))
        assert len({one["sample_f1"] for one in found}) == 1
        assert found[2]["per_class"][labels[0]]["support"] == sum(labels[0] in one for one in sets)

    def test_a_record_without_a_threshold_is_refused(self, label_sets: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(label_sets / "export", tmp_path / "export"))
        record = json.loads((folder / "export.json").read_text())
        del record["thresholds"][record["labels"][0]]
        (folder / "export.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=r"thresholds in export\.json are not a number for each label"):
            randout.load(folder)

    @pytest.mark.parametrize("name", ["svm", pytest.param("cnn", marks=pytest.mark.slow)])
    def test_baselines(self, name: str, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"data.label_separator": ";"}
        settings |= {"classifier.min_df": 1} if name == "svm" else {"classifier.epochs": 1, "precision": "float32"}
        table = write_label_sets(tmp_path / "data.csv")
        randout.train(table, student=name, settings=settings, out=tmp_path / "run", runs=tmp_path)
        made = randout.export(tmp_path / "run", tmp_path / "export")
        assert made.checks[0].agreement == 1
        texts, _ = toy_label_sets(20, seed=5)
        own, exported = randout.load(tmp_path / "run"), randout.load(tmp_path / "export")
        np.testing.assert_allclose(exported.predict_proba(texts), own.predict_proba(texts), atol=1e-6)
        assert exported.predict(texts) == own.predict(texts)


class TestRefusals:
    def test_an_existing_folder_is_kept(self, bag_of_words: Path, run: Run) -> None:
        Path("mine").mkdir()
        Path("mine/notes.txt").write_text("keep")
        code, _, error = run("export", bag_of_words, "-o", "mine")
        assert (code, "already exists" in error) == (2, True)
        assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
        Path("out.old").mkdir()
        Path("out.old/notes.txt").write_text("keep")
        Path("out").mkdir()
        code, _, error = run("export", bag_of_words, "-o", "out")
        assert code == 0, error
        assert Path("out.old/notes.txt").read_text() == "keep"
        assert Path("out").stat().st_mode & 0o777 == Path("mine").stat().st_mode & 0o777

    def test_an_unknown_form(self, trained: Path, run: Run) -> None:
        code, _, error = run("export", trained / "run", "-o", "out", "--form", "int4")
        assert (code, "expected float32 or int8" in error, Path("out").exists()) == (2, True, False)

    def test_a_missing_package(self, trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        found = exporting.find_spec
        monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else found(name))
        code, _, error = run("export", trained / "run", "-o", "out")
        assert code == 2
        assert "not installed: onnxscript. Install with: pip install 'randout[export]'" in error

    @pytest.mark.slow
    def test_a_form_outside_its_tolerance(self, trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is left out with the reason, and written with a warning if it is named."""
        none = checks.Tolerance(agreement=1.0, probability=0.0, accuracy=0.0)
        monkeypatch.setitem(checks.TOLERANCES, "int8", none)
        code, out, error = run("export", trained / "run", "-o", "out", "--json")
        assert code == 0
        record = json.loads(out)
        assert list(record["files"]) == list(record["checks"]) == ["float32"]
        assert record["default"] == "float32"
        assert not Path("out/onnx/model_quantized.onnx").exists()
        assert "Write it all the same with --form int8" in error
        code, out, error = run("export", trained / "run", "-o", "named", "--form", "int8")
        assert code == 0
        assert "outside tolerance" in out
        assert "  - int8: " in error
        assert "a probability differs" in error
        assert [path.name for path in Path("named/onnx").iterdir()] == ["model_quantized.onnx"]

    def test_no_form_within_its_tolerance(self, bag_of_words: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(checks.TOLERANCES, "arrays", checks.Tolerance(1.0, -1.0, 0.0))
        code, _, error = run("export", bag_of_words, "-o", "neither")
        assert (code, "no form is close enough" in error) == (1, True)
        assert not [path for path in Path().iterdir() if "neither" in path.name]


BAGS = ("svm", "rf", "mnb-count", "mnb-tfidf")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        *((name, classes) for name in BAGS for classes in (2, 3)),
        ("cnn", 2),
        pytest.param("lstm", 3, marks=pytest.mark.slow),
    ],
)
def test_baselines(name: str, classes: int, tmp_path: Path) -> None:
    texts, labels = toy_texts(150, 1)
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if classes == 3 or label != "money"]
    table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    settings: dict[str, Any] = {"classifier.min_df": 1} if name not in exporting.NETWORKS else {"classifier.epochs": 1}
    if name in exporting.NETWORKS:
        settings |= {"classifier.min_count": 1, "classifier.length": 12, "precision": "float32"}
        settings |= {"classifier.layers": 2} if name == "lstm" else {}
    randout.train(table, student=name, settings=settings, out=tmp_path / "run", runs=tmp_path)
    made = randout.export(
        tmp_path / "run", tmp_path / "export", forms=["float32"] if name in exporting.NETWORKS else []
    )
    assert [check.problems for check in made.checks] == [()]
    given = [*toy_texts(40, 7)[0], "unknownword", "Goal goal, MATCH", "bank " * 90]
    np.testing.assert_allclose(
        randout.load(tmp_path / "export").predict_proba(given),
        randout.load(tmp_path / "run").predict_proba(given),
        atol=1e-6,
    )
    assert (tmp_path / "export" / "predict.py").exists()


class TestChecks:
    def test_numbers_by_hand(self) -> None:
        labels = np.repeat([0, 1], 50)
        reference = np.where(labels[:, None] == [0, 1], 1.0, -1.0)
        found = reference.copy()
        found[[0, 60]] *= -1  # two rows change sides, to the wrong label
        check = checks.compare("int8", reference, found, labels, np.arange(100), 2)
        assert (check.agreement, check.differing, check.rows) == (0.98, 2, 100)
        assert (check.score, check.reference_score) == (0.98, 1.0)
        assert check.largest_difference == pytest.approx(np.tanh(1.0))
        assert check.difference is not None
        assert check.difference["estimate"] == pytest.approx(-0.02)
        assert check.difference["low"] < -0.02 < check.difference["high"]
        assert check.problems == ("accuracy is 2.00% lower (at most 1%)",)
        assert check.equivalent is False

    def test_rows_of_a_refit_are_not_evidence(self) -> None:
        """Labels and probabilities on the test rows alone, accuracy on the validation rows alone."""
        labels = np.repeat([0, 1], 50)
        reference = np.where(np.tile(labels, 2)[:, None] == [0, 1], 1.0, -1.0)  # 100 validation rows, 100 test rows
        found = reference.copy()
        found[100] *= -1
        found[[0, 60]] *= -1
        kept = checks.compare("int8", reference, found, labels, np.arange(100), 2)
        assert (kept.rows, kept.differing, kept.far, kept.trained_on) == (200, 3, 0.015, False)
        check = checks.compare("int8", reference, found, labels, np.arange(100), 2, refitted=True)
        assert (check.rows, check.differing, check.far, check.trained_on) == (100, 1, 0.01, False)
        assert (check.scored, check.score, kept.score) == (100, 0.98, 0.98)
        assert check.cells()["same label"] == "99.00% of 100"
        assert check.cells()["accuracy on validation rows"] == "98.00% of 100 (trained on them)"
        alone = checks.compare("int8", reference[:100], found[:100], labels, np.arange(100), 2, refitted=True)
        assert (alone.rows, alone.trained_on) == (100, True)
        assert alone.cells()["same label"] == "98.00% of 100 (trained on them)"

    def test_rounding_passes_and_nan_does_not(self) -> None:
        labels = np.arange(40) % 2
        reference = np.random.default_rng(0).normal(size=(40, 2))
        same = checks.compare("float32", reference, reference + 1e-7, labels, np.arange(40), 2)
        assert (same.problems, same.equivalent) == ((), False)  # so few rows cannot show it
        many = np.tile(reference, (50, 1))
        assert checks.compare("float32", many, many, np.arange(2000) % 2, np.arange(2000), 2).equivalent is True
        broken = checks.compare("float32", reference, np.full((40, 2), np.nan), labels, np.arange(40), 2)
        assert "its scores are not finite" in broken.problems

    def test_label_sets_by_hand(self) -> None:
        """A set counts as one label, and by its F1 on the rows with true labels; the threshold of the second label is 0.9."""
        labels = np.tile([[True, False, False], [True, True, False]], (50, 1))  # the third has no training row
        reference = np.where(labels[:, :2], 3.0, 0.5)
        found = reference.copy()
        found[0, 1], found[1, 0] = 3.0, -3.0
        check = checks.compare("int8", reference, found, labels, np.arange(100), 3, thresholds=(0.5, 0.9))
        assert (check.metric, check.reference_score, check.score) == ("sample_f1", 1, 1 - 2 / 3 / 100)
        assert (check.agreement, check.label_agreement, check.differing) == (0.98, 1 - 2 / 300, 2)  # 150 labels of each
        assert check.largest_difference == pytest.approx(np.tanh(1.5))
        assert check.difference is not None
        assert check.difference["estimate"] == pytest.approx(-2 / 3 / 100)
        assert (check.cells()["same label set"], check.cells()["same labels"]) == ("98.00% of 100", "99.33%")
        assert check.cells()["sample F1 on validation rows"] == "99.33% of 100"
        assert check.problems == ()
        found[1:10, 1] = -3.0
        check = checks.compare("int8", reference, found, labels, np.arange(100), 3, thresholds=(0.5, 0.9))
        assert check.problems[0].startswith(
            "97.63% of the labels are the same, and 6 rows of 100 get another label set"
        )
        none = checks.compare("int8", reference, reference, labels, np.arange(100), 3, thresholds=(1.0, 1.0))
        assert (none.agreement, none.label_agreement) == (1, 1)

    def test_one_group_has_no_interval(self) -> None:
        logits = np.eye(2)[[0, 1, 1]]
        check = checks.compare("int8", logits, logits, np.array([0, 1, 0]), np.zeros(3), 2)
        assert check.difference is None
        assert "not available" in check.cells().values()


NODE = """
const {pipeline, env} = require("@huggingface/transformers");
const path = require("path");
(async () => {
  const [folder, dtype, ...texts] = process.argv.slice(2);
  env.allowRemoteModels = false;
  env.localModelPath = path.dirname(folder) + "/";
  const classify = await pipeline("text-classification", path.basename(folder), {dtype, device: "cpu"});
  for (const text of texts) console.log(JSON.stringify(await classify(text, {top_k: null})));
})();
"""


def node_finds_transformers() -> bool:
    """Whether Node finds transformers.js; set NODE_PATH to the `node_modules` folder that has @huggingface/transformers."""
    words = ["node", "-e", "require.resolve('@huggingface/transformers')"]
    return shutil.which("node") is not None and not subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.skipif(not node_finds_transformers(), reason="needs Node and @huggingface/transformers (NODE_PATH)")
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "xlm-roberta", "mpnet"])
def test_a_browser_runtime_reads_an_export(family: str, tmp_path: Path) -> None:
    """transformers.js gives the probabilities of `predict.py`, one text at a time. It has its own tokenizer, and cuts long
    texts at `max_length` without the special token at their end.
    """
    folder = exported(saved(family, tmp_path, "mean"), tmp_path / "export")
    record = json.loads((folder / "export.json").read_text())
    record["reader"]["suffix"] = 0
    (folder / "export.json").write_text(json.dumps(record))
    (tmp_path / "read.cjs").write_text(NODE, encoding="utf-8")
    texts = [*TEXTS[:5], TEXTS[-1]]
    for form, dtype, tolerance in (("float32", "fp32", 1e-5), ("int8", "q8", 0.02)):
        words = ["node", str(tmp_path / "read.cjs"), str(folder), dtype, *texts]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        model = runtime.Classifier(folder, form)
        rows = [{one["label"]: one["score"] for one in json.loads(line)} for line in done.stdout.splitlines()]
        found = np.array([[row[label] for label in model.labels] for row in rows])
        expected = np.concatenate([model.probabilities([text]) for text in texts])
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_a_ladder_of_sizes_has_every_form_of_a_model(toy_csv: Any, tmp_path: Path) -> None:
    """Here, because this module has loaded what exports need: see tests/experiments/shrink."""
    source = saved("bert", tmp_path)
    dataset = load(config.build([{"data": {"source": str(toy_csv(90))}}], METHODS).data)
    held, show = ladder.Rows(dataset, dataset.split["validation"], "validation"), Show(quiet=True)
    model = ladder.Model(LadderRung(name="1 layer", kind="encoder", student="bert", layers=1, depth=1), source.folder)
    found = ladder.write_forms(model, tmp_path, held, False, ["torch", "float32", "int8"], show, [])
    assert [form.name for form in found] == ["1 layer, torch", "1 layer, ONNX", "1 layer, int8"]
    assert {form.parameters for form in found} == {found[0].parameters}
    assert found[2].size < found[1].size
    logits = [ladder.score(form, (), tmp_path, held, show).logits for form in found]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
    assert 0 < np.abs(logits[0] - logits[2]).max() < 1
    record = json.loads((tmp_path / "forms" / "1-layer" / "export.json").read_text(encoding="utf-8"))
    assert record["checks"].keys() == {"float32", "int8"}
    chosen = ladder.copy_chosen(found[2], tmp_path)
    assert [path.name for path in (chosen / "onnx").iterdir()] == ["model_quantized.onnx"]
    assert randout.load(chosen).predict(["fever"])[0] in dataset.names
