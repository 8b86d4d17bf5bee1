"""A decoder classifier as the teacher of an encoder: from the command to the stored soft labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from conftest import Run
from randout import api
from randout.core.errors import UserError
from randout.experiments.run.teacher_test_logits import teacher_of_run
from randout.models.sources import find
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from randout.testing.models import build_decoder

OTHER_ORDER = {0: "Sport", 1: "health", 2: "money"}
SETTINGS = {"epochs": 1, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_decoder("qwen3", tmp_path_factory.mktemp("decoders") / "qwen3", OTHER_ORDER, side="left")


def test_a_student_learns_from_a_decoder(decoder: Path, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"student": tiny_model("bert"), "preset": "kd", "runs": tmp_path}
    done = api.train(toy_csv(60, 1), teacher=decoder, settings=SETTINGS, **options)
    (stored,) = (tmp_path / "soft-labels").glob("*.safetensors")
    identity = RunFolder(done.folder).record.identity.as_json()
    assert identity["teacher"]["model"] == find(str(decoder), decoders=True).fingerprint()

    with toy_csv(60, 1).open(newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    labels, probabilities = api.predict(decoder, texts, device="cpu")
    assert set(labels) <= set(OTHER_ORDER.values())
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    logits = load_file(stored)["logits"].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    used = [
        probabilities[np.abs(probabilities - row).sum(1).argmin()] for row in shares
    ]  # each stored text is one of them
    assert np.allclose(shares, used, atol=1e-4)


def test_a_decoder_outside_the_folder_of_runs_is_compared_on_test_rows(
    decoder: Path, tiny_model: Any, toy_csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the precision of the training. By its name alone it is looked for in the folder of runs, never on the hub."""
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"student": tiny_model("bert"), "preset": "kd", "runs": "runs", "out": "runs/student"}
    settings = SETTINGS | {"precision": "bfloat16", "refit": False}
    api.train(toy_csv(60, 1), teacher=decoder, settings=settings | {"output.test": False}, **options)
    run, asked = RunFolder(Path("runs/student")), []

    def download(name: str, **_: Any) -> None:
        asked.append(name)
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.snapshot_download", download)
        assert teacher_of_run(run) is None
    assert not asked
    api.train(toy_csv(60, 1), teacher=decoder, settings=settings | {"output.test": True}, **options)
    (stored,) = Path("runs/soft-labels/test").glob("*.safetensors")
    with safe_open(stored, framework="numpy") as file:
        assert file.metadata()["precision"] == "bfloat16"
        logits = file.get_tensor("logits")
    rows = read_predictions(run.predictions("test"), run.labels)
    assert run.metrics.test is not None
    assert run.metrics.test.teacher is not None
    assert run.metrics.test.teacher.teacher_accuracy == pytest.approx((logits.argmax(1) == rows.labels).mean())


def test_methods_that_run_the_teacher_are_refused(
    decoder: Path, tiny_model: Any, toy_csv: Any, run: Run, tmp_path: Path
) -> None:
    words = ["train", toy_csv(60, 1), "--student", tiny_model("bert"), "--set", "methods.layer-matching=true"]
    code, _, error = run(*words, "--teacher", decoder)
    assert code == 2
    assert "methods.layer-matching reads inside the teacher, which a decoder does not support. Name an encoder" in error
    assert not list(tmp_path.iterdir())


def test_a_decoder_is_no_student(decoder: Path, toy_csv: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"QWEN3 is a decoder; randout takes encoders"):
        api.train(toy_csv(60, 1), student=decoder, teacher="none")
