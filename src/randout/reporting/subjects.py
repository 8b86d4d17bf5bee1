"""The subjects of a report as values: models and arms.

A `Subject` is the topic of one chapter of a report: a study, or all runs that are not part of a study. Its arms hold
one model per unit (seed or fold); a single run is an arm with one model.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.stats.metrics import COUNTED
from randout.storage.predictions import Predictions, read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import of_run


@dataclass(frozen=True)
class Model:
    """A finished run. metrics: by split. warnings: as stored in `metrics.json`."""

    name: str
    path: Path
    record: dict[str, Any]
    toml: str
    metrics: dict[str, Any]
    history: dict[str, Any]
    unit: str = ""
    warnings: tuple[dict[str, str], ...] = ()

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in self.record["identity"]["data"]["labels"]]

    @property
    def methods(self) -> dict[str, Any]:
        return dict(self.record["identity"].get("methods") or {})

    @property
    def teachers(self) -> list[str]:
        return teachers_of(self.record)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Parsed `run.toml`. Raises UserError if it is not valid TOML."""
        try:
            return tomllib.loads(self.toml)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{self.path / 'run.toml'}: cannot be read ({error})") from None

    @property
    def data_name(self) -> str:
        source = str(self.settings.get("data", {}).get("source", ""))
        named, colon, _ = source.partition(":")
        if colon and named.isidentifier() and named != "hub":
            return named  # a named dataset that is read from the user's file
        return os.path.basename(source.rstrip("/")) or "unnamed data"

    @property
    def data_key(self) -> str:
        """Digest of its labelled rows, independent of unlabelled texts."""
        return str(self.record.get("labelled_data") or self.record.get("data", ""))

    def leaks(self, split: str) -> dict[str, Any]:
        """Rows of a scored split that its teachers or starting model were trained on: {rows, of, roles}; empty if none."""
        return of_run(RunFolder(self.path), split)

    @cached_property
    def split_rows(self) -> dict[str, list[str]]:
        """Row ids by split; empty if the run has no split.json."""
        return RunFolder(self.path).read("split.json") if (self.path / "split.json").exists() else {}

    def predictions(self, split: str) -> Predictions | None:
        """Predictions of a split, or None. Raises UserError if the file is not a table of predictions."""
        path = RunFolder(self.path).predictions(split)
        return read_predictions(path, self.labels) if path.exists() else None


@dataclass(frozen=True)
class Arm:
    """One configuration of a comparison, trained once per unit."""

    name: str
    models: tuple[Model, ...]


@dataclass(frozen=True)
class Subject:
    """Topic of a chapter. kind: "runs" or the kind of a study. study: its `study.json`, empty for runs.

    notes: what was left out, and why.
    """

    name: str
    kind: str
    arms: tuple[Arm, ...]
    baseline: str
    study: dict[str, Any] = field(default_factory=dict)
    toml: str = ""
    path: Path = Path()
    notes: tuple[str, ...] = ()
    shown: frozenset[str] = frozenset()  # names and fingerprints of all runs that the whole report knows of

    @property
    def models(self) -> list[Model]:
        return [model for arm in self.arms for model in arm.models]

    @property
    def metric(self) -> str:
        """Metric of the study; for runs, the metric they were all selected by if it has intervals, else accuracy."""
        if self.study:
            return str(self.study.get("metric", "accuracy"))
        return selection_metric(model.record for model in self.models)

    @property
    def best(self) -> dict[str, Any]:
        """Best trial of a search; empty if there is none yet."""
        found = (t for t in self.study.get("trials", []) if t.get("number") == self.study.get("best"))
        return dict(next(found, {}))

    @property
    def split(self) -> str:
        """Split that is shown: test if the baseline (or without one, any model) was scored on it, else validation."""
        first = [model for arm in self.arms if arm.name == self.baseline for model in arm.models] or self.models
        return "test" if any("test" in model.metrics for model in first) else "validation"

    @property
    def on_split(self) -> str:
        """ " on the test split", for titles; empty without runs."""
        return f" on the {self.split} split" if self.models else ""

    def scored(self) -> list[Arm]:
        """Arms with the models that were scored on `split`."""
        kept = [Arm(arm.name, tuple(m for m in arm.models if self.split in m.metrics)) for arm in self.arms]
        return [arm for arm in kept if arm.models]


def teachers_of(record: Mapping[str, Any]) -> list[str]:
    """Identifier of each teacher of a run: the fingerprint of the run that trains it, or of an existing classifier.

    record: the run's `run.json`.
    """
    identity = record["identity"]
    known = [identity.get("teacher"), *identity.get("more", ())]
    return [str(one.get("model", "") if isinstance(one, dict) else one) for one in known if one]


def default_baseline(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, str]:
    """Model that the others are compared with if none is named, and a note that says so.

    It is the first that learns from labels only (one method at most, no teacher) and teaches none of the others; else the
    first that teaches none of the others; else the first. models: by name, the `run.json` of its runs.
    """
    taught = {teacher for records in models.values() for record in records for teacher in teachers_of(record)}
    students = [name for name, runs in models.items() if not taught & {str(run.get("fingerprint")) for run in runs}]
    plain = [name for name in students if all(_learns_from_labels(record) for record in models[name])]
    why = "the first that learns from labels only" if plain else "the first that teaches none of the others"
    chosen = next(iter([*plain, *students, *models]))
    why = why if students else "the first"
    return chosen, f"The baseline is {chosen}, {why} (another: --baseline)."


def _learns_from_labels(record: Mapping[str, Any]) -> bool:
    return len(record["identity"].get("methods") or {}) <= 1 and not teachers_of(record)


def selection_metric(records: Iterable[Mapping[str, Any]]) -> str:
    """Metric by which runs are compared: the one they were all selected by if it has intervals, else accuracy.

    records: the `run.json` of each run.
    """
    chosen = {((record.get("identity") or {}).get("train") or {}).get("metric") for record in records}
    return next((metric for metric in COUNTED if chosen == {metric}), "accuracy")


def data_of(subject: Subject) -> tuple[str, str]:
    """Name of a subject's data and sha256 of its labelled rows (for studies of earlier versions: of all rows)."""
    data = subject.study.get("data") or {}
    first = subject.models[0] if subject.models else None
    name = data.get("name") or (first.data_name if first else "unnamed data")
    return str(name), str(data.get("labelled_sha256") or data.get("sha256") or (first.data_key if first else ""))
