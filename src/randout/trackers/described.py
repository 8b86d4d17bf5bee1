"""What a tracker is told of a run: its settings as flat names and values, and its scores as numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randout.storage.metrics_record import BaselineScores, Epoch, Metrics, Scores, TeacherGap
from randout.storage.run_folder import RunFolder

VALIDATION, FINAL, TEST = "eval_", "eval_final_", "test_"  # transformers groups values by the first word
FINAL_SCORES: tuple[str, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "expected_calibration_error")
FINAL_SCORES += ("sample_f1", "micro_f1")  # of multi-label data


@dataclass(frozen=True)
class Described:
    """A run or a study as a tracker is told of it.

    name: shown in the tracker. folder: of the run. curves: folder of TensorBoard files. study: name of its study; empty for
    none. parent: id of the study in the tracker, if it has one. id: of the run there, if it is resumed. settings: flat; about:
    versions and digests. step: optimizer steps done before; steps: of the whole training; 0 if unknown.
    """

    name: str
    folder: Path
    curves: Path
    study: str = ""
    parent: str = ""
    id: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    step: int = 0
    steps: int = 0


def flat_settings(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested tables as one, `{"train.seed": 1}`, without empty values; lists become text."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            found |= flat_settings(value, f"{above}{key}.")
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and value):
            found[above + key] = value
        elif isinstance(value, list | tuple) and value:
            found[above + key] = ", ".join(map(str, value))
    return found


def stored_settings(run: RunFolder) -> dict[str, Any]:
    """Return the settings in a run's `run.toml`; none if it cannot be read."""
    with suppress(OSError, ValueError):
        return flat_settings(tomllib.loads((run.path / "run.toml").read_text(encoding="utf-8")))
    return {}


def about_study() -> dict[str, str]:
    """Return the version of this package."""
    from randout import __version__

    return {"version": __version__}


def about_run(run: RunFolder) -> dict[str, str]:
    """Return the versions that a run was started with, its fingerprint and the digest of its data."""
    record = run.record
    found = about_study() | {"fingerprint": record.fingerprint, "data.sha256": record.data, "started": record.started}
    found |= {f"environment.{name}": str(value) for name, value in record.environment.items()}
    return found | {f"plugin.{name}": " ".join(origin.values()) for name, origin in record.plugins.items()}


def epoch_values(row: Epoch) -> dict[str, float]:
    """Return one validation as curves: `loss_ce`, `eval_accuracy`, `learning_rate`, ..."""
    found: dict[str, float] = {}
    for name, value in row.measured.items():
        if isinstance(value, int | float):
            found[name.replace("validation_", VALIDATION, 1) if name.startswith("validation_") else name] = value
    losses = [value for name, value in found.items() if name.startswith("loss_")]
    total = {"loss": sum(losses)} if losses else {}
    return found | total | {"epoch": float(row.epoch or 0), "epoch_seconds": row.seconds}


def final_values(metrics: Metrics) -> dict[str, float]:
    """Return the final scores with their 95 % intervals: `test_accuracy`, `test_accuracy_low`, `test_accuracy_high`, ..."""
    found = _values(metrics.validation, FINAL)
    return found | (_values(metrics.test, TEST) if metrics.test else {})


def _values(scores: Scores, start: str) -> dict[str, float]:
    known: dict[str, float | None] = {start + name: getattr(scores, name) for name in FINAL_SCORES}
    found = {name: value for name, value in known.items() if value is not None}
    for name in FINAL_SCORES:
        if interval := scores.interval(name):
            found |= {f"{start}{name}_low": interval[0], f"{start}{name}_high": interval[1]}
    if scores.teacher is not None:
        found |= _against_teacher(scores.teacher, start)
    if scores.baseline is not None:
        found |= _against_baseline(scores.baseline, start)
    return found


def _against_teacher(gap: TeacherGap, start: str) -> dict[str, float]:
    differences = {"": gap.difference, "_low": gap.low, "_high": gap.high}
    found = {f"{start}minus_teacher{end}": value for end, value in differences.items() if value is not None}
    return found | {f"{start}teacher_accuracy": gap.teacher_accuracy}


def _against_baseline(baseline: BaselineScores, start: str) -> dict[str, float]:
    if (gap := baseline.difference) is None:
        return {}
    found = {"": gap.estimate, "_low": gap.low, "_high": gap.high}
    return {f"{start}minus_baseline{end}": value for end, value in found.items()}
