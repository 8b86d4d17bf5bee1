"""A student's training from end to end: the weights that are saved are those that did best on validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core import config
from randout.core.console import Show
from randout.experiments.run import pipeline, planning, student
from randout.methods.builtin import METHODS
from randout.storage.predictions import read_predictions

EPOCHS = 3


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_epoch_is_the_one_that_is_saved(
    tiny_model: Callable[[str], Path],
    toy_csv: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best: int,
) -> None:
    """Later epochs validate worse, so the saved predictions are those of the best epoch and of no other."""
    seen: list[np.ndarray] = []
    real = student.score

    def scripted(labels: Any, logits: Any, names: Any, **more: Any) -> dict[str, Any]:
        seen.append(np.array(logits))
        return real(labels, logits, names, **more) | {"accuracy": 0.9 if len(seen) - 1 == best else 0.1}

    monkeypatch.setattr(student, "score", scripted)
    train = {
        "epochs": EPOCHS,
        "patience": 0,
        "keep": "best",
        "validate_every": 1,
        "learning_rate": 2e-3,
        "precision": "float32",
        "device": "cpu",
    }
    tables = {
        "data": {"source": str(toy_csv(90))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": "none"},
        "methods": {"ce": {}},
        "train": train,
    }
    done = pipeline.execute(
        planning.make(config.build([tables], METHODS)), pipeline.Options(runs=tmp_path, show=Show(quiet=True))
    )
    history = json.loads((done.folder / "history.json").read_text())
    assert history["best_epoch"] == best + 1
    assert len(seen) == EPOCHS
    saved = read_predictions(done.folder / "predictions" / "validation.parquet", ["health", "money", "sport"]).logits
    distance = [float(np.abs(saved - each).max()) for each in seen]
    assert distance[best] < 1e-5
    assert min(distance[:best] + distance[best + 1 :]) > 1e-2
