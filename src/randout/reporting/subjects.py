"""The subjects of a report as values: models and arms.

A `Subject` is what one part of a report speaks of: a study, or all the runs that were named on their own. Its arms
hold one model a unit (seed or fold); a run on its own is an arm of one model.
"""

from __future__ import annotations

import os
import tomllib
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
    """A finished run, read. metrics: by split. warnings: as `metrics.json` stores them."""

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
        """What each teacher is known by: the fingerprint of the run that trains it, or of a classifier that was there."""
        identity = self.record["identity"]
        known = [identity.get("teacher"), *identity.get("more", ())]
        return [str(one.get("model", "") if isinstance(one, dict) else one) for one in known if one]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`run.toml`. Raises UserError where it is no TOML."""
        try:
            return tomllib.loads(self.toml)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{self.path / 'run.toml'}: cannot be read ({error})") from None

    @property
    def data_name(self) -> str:
        source = str(self.settings.get("data", {}).get("source", ""))
        named, colon, _ = source.partition(":")
        if colon and named.isidentifier() and named != "hub":
            return named  # a named dataset read from a file of the user's
        return os.path.basename(source.rstrip("/")) or "unnamed data"

    @property
    def data_key(self) -> str:
        """What data its labelled rows are, whatever texts without labels it learned from too."""
        return str(self.record.get("labelled_data") or self.record.get("data", ""))

    def leaks(self, split: str) -> dict[str, Any]:
        """Rows of a scored split that its teachers or its starting model have seen: {rows, of, roles}; empty for none."""
        return of_run(RunFolder(self.path), split)

    @cached_property
    def split_rows(self) -> dict[str, list[str]]:
        """split -> row ids; empty where the run has no split.json."""
        return RunFolder(self.path).read("split.json") if (self.path / "split.json").exists() else {}

    def predictions(self, split: str) -> Predictions | None:
        """Predictions of a split, None where there are none. Raises UserError for a file that is no such table."""
        path = RunFolder(self.path).predictions(split)
        return read_predictions(path, self.labels) if path.exists() else None


@dataclass(frozen=True)
class Arm:
    """What is compared: one configuration, trained once a unit."""

    name: str
    models: tuple[Model, ...]


@dataclass(frozen=True)
class Subject:
    """kind: "runs" or a study's kind. study: `study.json`, empty for runs. notes: what was left out, and why."""

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
        """The study's metric; of runs, the one that all were selected by where it has intervals, else accuracy."""
        if self.study:
            return str(self.study.get("metric", "accuracy"))
        chosen = {(model.record["identity"].get("train") or {}).get("metric") for model in self.models}
        return next((metric for metric in COUNTED if chosen == {metric}), "accuracy")

    @property
    def best(self) -> dict[str, Any]:
        """The best trial of a search; empty where there is none (yet)."""
        found = (t for t in self.study.get("trials", []) if t.get("number") == self.study.get("best"))
        return dict(next(found, {}))

    @property
    def split(self) -> str:
        """The split that is shown: test where the baseline (else any model) has been scored on it."""
        first = [model for arm in self.arms if arm.name == self.baseline for model in arm.models] or self.models
        return "test" if any("test" in model.metrics for model in first) else "validation"

    @property
    def on_split(self) -> str:
        """ " on the test split", for titles; nothing where no run is there to tell which."""
        return f" on the {self.split} split" if self.models else ""

    def scored(self) -> list[Arm]:
        """The arms with the models that were scored on `split`."""
        kept = [Arm(arm.name, tuple(m for m in arm.models if self.split in m.metrics)) for arm in self.arms]
        return [arm for arm in kept if arm.models]


def data_of(subject: Subject) -> tuple[str, str]:
    """Name of a subject's data, and the sha256 of its labelled rows (of an earlier version's study: of all its rows)."""
    data = subject.study.get("data") or {}
    first = subject.models[0] if subject.models else None
    name = data.get("name") or (first.data_name if first else "unnamed data")
    return str(name), str(data.get("labelled_sha256") or data.get("sha256") or (first.data_key if first else ""))
