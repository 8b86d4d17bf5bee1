"""Run and study folders made by hand, for the report's tests: the files as the other commands leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from randout.stats.metrics import score
from randout.storage.predictions import Predictions, write_predictions

LABELS = ["a & b", "<b>bold</b>", "c"]
SPLITS = {"train": range(60), "validation": range(60, 90), "test": range(90, 150)}
POST = '<script>document.title = "taken"</script> | a post & "quotes" $x$'
ACCURACY = {"plain": 0.72, "kd": 0.8, "randout-kd": 0.85}


def rows_of(split: str) -> list[str]:
    return [str(row) for row in SPLITS[split]]


def truth(split: str) -> np.ndarray:
    """(n,) the labels of a split, the same in every run."""
    return np.random.default_rng(len(split)).integers(0, 3, len(SPLITS[split]))


def logits_of(split: str, right: float, seed: int) -> np.ndarray:
    """(n, 3) logits whose largest is the true class about `right` of the time."""
    draw = np.random.default_rng((seed, len(split)))
    labels, logits = truth(split), draw.normal(size=(len(SPLITS[split]), 3))
    wins = np.where(draw.random(len(labels)) < right, labels, (labels + draw.integers(1, 3, len(labels))) % 3)
    logits[np.arange(len(labels)), wins] = logits.max(1) + draw.uniform(0.1, 2.0, len(labels))
    return logits.astype(np.float32).astype(np.float64)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def begun(**changes: Any) -> dict[str, Any]:
    """The `run.json` of a run that has been started. changes: other keys of it."""
    identity = {"data": {"sha256": "d" * 64, "labels": LABELS}, "split": {}, "student": {"weights": "w" * 64}}
    identity |= {"teacher": None, "methods": {}, "train": {"seed": 1}}
    started = {"started": "2026-01-02T03:04:05", "finished": None}
    return {"format": 1, "fingerprint": "f" * 64, "identity": identity, "data": "d" * 64, **started, **changes}


def make_run(path: Path, name: str = "plain", seed: int = 0, texts: bool = False, **changes: Any) -> Path:
    """A finished run as `randout train` leaves it, without its weights. changes: keys of run.json."""
    splits = changes.pop("splits", ("validation", "test"))
    noise, methods = changes.pop("noise", None), {"ce": {"weight": 1.0}}
    if name != "plain":
        methods["kd"] = {"weight": 0.8}
    if noise:
        methods["randout"] = dict(zip(("tokens", "units"), noise, strict=True))
    right, metrics = changes.pop("right", ACCURACY.get(name, 0.7)), {}
    for split in splits:
        logits, labels = logits_of(split, right, seed), truth(split)
        groups = np.arange(len(labels)) // 2
        metrics[split] = score(labels, logits, dict(enumerate(LABELS)), groups, resamples=200)
        kept = [f"{POST} {row}" for row in rows_of(split)] if texts else None
        found = Predictions(LABELS, rows_of(split), groups, labels, logits, kept)
        write_predictions(path / "predictions" / f"{split}.parquet", found)
    identity = {
        "data": {"sha256": "d" * 64, "labels": LABELS},
        "split": {split: split[0] * 64 for split in SPLITS},
        "student": {"weights": "w" * 64},
        "teacher": None if name == "plain" else "t" * 64,
        "methods": methods,
        "train": {"seed": seed},
    }
    record = {
        "format": 1,
        "name": path.name,
        "fingerprint": f"{path.name}{seed}",
        "identity": identity,
        "data": "d" * 64,
        "runs": "..",
    }
    record |= {"environment": {"torch": "2.13.0", "device": "cpu"}, "started": "2026-01-01T00:00:00+00:00"}
    record |= {"finished": "2026-01-01T00:01:40+00:00"}
    write(path / "run.json", record | changes)
    (path / "run.toml").write_text('[data]\nsource = "posts.csv"\n', encoding="utf-8")
    write(path / "metrics.json", metrics)
    write(path / "split.json", {split: rows_of(split) for split in SPLITS})
    epochs = [
        {"epoch": at, "loss_ce": 1 / at, "validation_accuracy": 0.5 + 0.05 * at, "seconds": 10.5} for at in (1, 2, 3)
    ]
    write(path / "history.json", {"epochs": epochs, "best_epoch": 2, "ended": "all epochs done"})
    return path


def make_study(folder: Path, arms: tuple[str, ...] = ("plain", "kd", "randout-kd"), units: int = 3) -> Path:
    """A comparison of which one run of the last unit is still waiting; its runs lie beside it."""
    cells, names = [], [f"seed {at + 1}" for at in range(units)]
    done = names[:-1]
    values: dict[str, list[float]] = {arm: [] for arm in arms}
    for at, unit in enumerate(names):
        for arm in arms:
            cell = {
                "unit": unit,
                "arm": arm,
                "run": f"../runs/{arm}-{at}",
                "state": "finished",
                "error": None,
                "seconds": 9.0,
            }
            if unit == names[-1] and arm == arms[-1]:
                cells.append(cell | {"run": None, "state": "failed", "error": "out of memory <b>"})
                continue
            run = make_run(folder.parent / "runs" / f"{arm}-{at}", arm, at)
            cells.append(cell)
            if unit in done:
                values[arm].append(json.loads((run / "metrics.json").read_text())["test"]["accuracy"])
    rows: list[dict[str, Any]] = []
    for arm, found in values.items():
        row = {
            "name": arm,
            "metric": "accuracy",
            "value": float(np.mean(found)),
            "values": found,
            "low": 0.5,
            "high": 0.9,
        }
        if arm != "plain":
            apart = float(np.mean(found) - np.mean(values["plain"]))
            ends = {"low": apart - 0.05, "high": apart + 0.05}
            row["difference"] = {"estimate": apart, **ends, "standard_error": 0.02, "df": 3.1, "p_value": 0.01}
            row |= {"simultaneous": [apart - 0.07, apart + 0.07], "adjusted_p": 0.02, "words": "better"}
            row |= {"detectable": 0.04, "secondary": {"Wilcoxon": "cannot reach .05 with 2 seeds"}, "against": "plain"}
        rows.append(row)
    study = {"format": 1, "kind": "compare", "name": "four arms", "started": "2026-01-01", "finished": None}
    study |= {
        "metric": "accuracy",
        "baseline": "plain",
        "margin": 0.02,
        "data": {"name": "posts.csv", "sha256": "d" * 64},
    }
    study |= {"units": names, "arms": list(arms), "cells": cells}
    study["tuning"] = {
        "plain": {"arm": "plain", "trials": 4, "settings": {"learning_rate": 5e-5}, "value": 0.7},
        "kd": {"arm": "kd", "trials": 8},
    }
    study["result"] = {
        "head": f"{len(done)} of {units} seeds",
        "estimand": "the method",
        "rows": rows,
        "notes": ["a note"],
    }
    write(folder / "study.json", study)
    (folder / "study.toml").write_text('[study]\nname = "four arms"\n', encoding="utf-8")
    return folder


SKIPPED = {
    "cells": 1344,
    "tried": 12,
    "not_tried": 1332,
    "pruned": 1,
    "failed": 1,
    "steps": 400,
    "steps_of_all_cells": 53760,
}


def make_search(folder: Path) -> Path:
    """A search over lambda, tokens and units; one trial was pruned, one failed, one is waiting."""
    trials = []
    grid = [(weight, tokens, units) for weight in (0.2, 0.8) for tokens in (16, 64) for units in (2, 8, 32)]
    for number, (weight, tokens, units) in enumerate(grid):
        settings = {"kd.weight": weight, "randout.tokens": tokens, "randout.units": units}
        value = 0.6 + 0.1 * weight + 0.001 * tokens + 0.002 * units
        trial = {"number": number, "settings": settings, "state": "finished", "value": value, "step": 40, "steps": 40}
        trials.append(
            trial | {"rungs": [[0.25, 10, 0.5], [1.0, 40, value]], "run": f"trials/{number:04d}", "error": None}
        )
    trials[2] |= {"state": "pruned", "value": 0.99, "step": 10}
    trials[3] |= {"state": "failed", "value": None, "error": "loss is not finite"}
    trials[4] |= {"state": "waiting", "value": None}
    make_run(folder.parent / "runs" / "trial-11", "randout-kd", noise=(64, 32), splits=("validation",))
    trials[11]["run"] = "../runs/trial-11"
    study = {"format": 1, "kind": "search", "name": "grid", "metric": "accuracy", "trials": trials, "best": 11}
    study |= {"data": {"name": "posts.csv", "sha256": "d" * 64}, "skipped": SKIPPED}
    study |= {"space": {"kd.weight": [0.2, 0.8], "randout.tokens": [16, 64], "randout.units": [2, 8, 32]}}
    study["optimism"] = {"apparent": 0.808, "optimism": 0.013, "corrected": 0.795, "trials": 9}
    write(folder / "study.json", study)
    return folder
