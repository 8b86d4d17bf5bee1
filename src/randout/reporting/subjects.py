"""The subjects of a report as values: models and arms.

A `Subject` is the topic of one chapter of a report: a study, or all runs that are not part of a study. Its arms hold
one model per unit (seed or fold); a single run is an arm with one model.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.stats.metrics import COUNTED, OF_SETS
from randout.storage.metrics_record import History, Leaks, Metrics, Scores
from randout.storage.predictions import Predictions, read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import Identity, RunRecord
from randout.storage.seen_rows import of_run
from randout.storage.study_record import ComparisonRecord, SearchRecord, ShrinkRecord, Trial

MARGIN = 0.02  # smallest difference that counts, unless a study sets another


@dataclass(frozen=True)
class Model:
    """A finished run: the content of its files."""

    name: str
    path: Path
    record: RunRecord
    toml: str
    metrics: Metrics
    history: History
    unit: str = ""

    @property
    def labels(self) -> list[str]:
        return self.record.identity.data.labels

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        return self.record.identity.methods

    @property
    def teachers(self) -> list[str]:
        """Identifier of each teacher: the fingerprint of the run that trains it, or of an existing classifier."""
        return self.record.identity.teacher_ids

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
        return self.record.labelled_data or self.record.data

    def leaks(self, split: str) -> Leaks | None:
        """Rows of a scored split that its teachers or starting model were trained on; None if there are none."""
        return of_run(RunFolder(self.path), split)

    @cached_property
    def split_rows(self) -> dict[str, list[str]]:
        """Row ids by split; empty if the run has no split.json."""
        return RunFolder(self.path).split

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
    """Topic of a chapter. kind: "runs" or the kind of a study. comparison, search, ladder: the `study.json` of a
    study, by its kind.

    notes: what was left out, and why.
    """

    name: str
    kind: str
    arms: tuple[Arm, ...]
    baseline: str
    comparison: ComparisonRecord | None = None
    search: SearchRecord | None = None
    ladder: ShrinkRecord | None = None
    toml: str = ""
    path: Path = Path()
    notes: tuple[str, ...] = ()
    shown: frozenset[str] = frozenset()  # names and fingerprints of all runs that the whole report knows of

    @property
    def models(self) -> list[Model]:
        return [model for arm in self.arms for model in arm.models]

    @property
    def study(self) -> ComparisonRecord | SearchRecord | ShrinkRecord | None:
        """The record of a study; None for runs."""
        return self.comparison or self.search or self.ladder

    @property
    def metric(self) -> str:
        """Metric of the study; for runs, the metric they were all selected by if it has intervals, else accuracy."""
        return self.study.metric if self.study else selection_metric(model.record for model in self.models)

    @property
    def margin(self) -> float:
        """Smallest difference that counts."""
        return self.comparison.margin if self.comparison else MARGIN

    @property
    def trials(self) -> list[Trial]:
        """Trials of a search."""
        return self.search.trials if self.search else []

    @property
    def split(self) -> str:
        """Split that is shown: test if the baseline (or without one, any model) was scored on it, else validation."""
        first = [model for arm in self.arms if arm.name == self.baseline for model in arm.models] or self.models
        return "test" if any(model.metrics.test for model in first) else "validation"

    @property
    def on_split(self) -> str:
        """ " on the test split", for titles; empty without runs."""
        return f" on the {self.split} split" if self.models else ""

    def scored(self) -> list[Arm]:
        """Arms with the models that were scored on `split`."""
        kept = [Arm(arm.name, tuple(m for m in arm.models if self.split in m.metrics.splits)) for arm in self.arms]
        return [arm for arm in kept if arm.models]

    def scores(self, model: Model) -> Scores:
        """Scores of a model of `scored` on `split`."""
        return model.metrics.splits[self.split]


def default_baseline(
    models: Mapping[str, Sequence[RunRecord]], folders: Mapping[str, Collection[str]] | None = None
) -> tuple[str, str]:
    """Model that the others are compared with if none is named, and a note that says so.

    It is the first that learns from labels only (one method at most, no teacher) and teaches none of the others; else the
    first that teaches none of the others; else the first. models: by name, the records of its runs. folders: by name, the
    names of their folders, by which records refer to a teacher that is a finished run.
    """
    records = [record for runs in models.values() for record in runs]
    taught = {teacher for record in records for teacher in record.identity.teacher_ids}
    taught |= {used.name for record in records for used in record.teachers}
    own = {name: {run.fingerprint for run in runs} | {*(folders or {}).get(name, ())} for name, runs in models.items()}
    students = [name for name in models if not taught & own[name]]
    plain = [name for name in students if all(_learns_from_labels(record.identity) for record in models[name])]
    why = "the first that learns from labels only" if plain else "the first that teaches none of the others"
    chosen = next(iter([*plain, *students, *models]))
    why = why if students else "the first"
    return chosen, f"The baseline is {chosen}, {why} (another: --baseline)."


def _learns_from_labels(identity: Identity) -> bool:
    return len(identity.methods) <= 1 and not identity.teachers


def selection_metric(records: Iterable[RunRecord]) -> str:
    """Metric by which runs are compared: the one they were all selected by if it has intervals, else accuracy."""
    chosen = {record.identity.train.metric for record in records}
    return next((metric for metric in (*COUNTED, *OF_SETS) if chosen == {metric}), "accuracy")


def data_of(subject: Subject) -> tuple[str, str]:
    """Name of a subject's data and sha256 of its labelled rows (for studies of earlier versions: of all rows)."""
    first = subject.models[0] if subject.models else None
    name = first.data_name if first else "unnamed data"
    if subject.study:
        data = subject.study.data
        return data.name or name, data.labelled_sha256 or data.sha256
    return name, first.data_key if first else ""
