"""A plan: one training with every decision made, and what the code that runs it needs of a student of any kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from randout.core.config import Config, StudentTable, TrainTable
from randout.core.files import joined_name
from randout.data.dataset import Dataset
from randout.data.stratify import Ints
from randout.methods.base import LiveTeacher, Method
from randout.methods.builtin import METHODS
from randout.methods.registry import Origin
from randout.models.encoder import Encoder
from randout.models.sources import Source
from randout.models.token_store import TokenStore
from randout.models.tokens import Tokens
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import CrossFit

from . import defaults
from .imported_teacher import ImportedTeacher
from .options import Options
from .thresholds import Thresholds

NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int64))
FOLDS = 3  # of the cross-validation on the training rows that chooses a student

Progress = Callable[[int], None]  # progress callback: number of texts done
RowLogits = Callable[[np.ndarray, Progress], np.ndarray]  # rows of a dataset (n,) -> logits (n, C)


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's logits for every row of the dataset (n, C), NaN for rows it did not score, and its validation metrics.

    imported: the file of soft labels that they come from, if any; it may lack rows, and `validation` is then of the rows that
    it has, or empty. others: further teachers. live: the teacher itself, if a method runs it. about: its number of
    parameters. again: loads it again and returns what computes the logits of rows, up to some size. cross_fit: if the logits
    of the training rows are those of fold teachers. stored: the tokens and logits of all rows of the dataset and then of
    sharded texts, if there are any; `logits` has these rows too. thresholds: of its labels, for multi-label data.
    """

    name: str
    logits: torch.Tensor
    validation: dict[str, Any] = field(default_factory=dict)
    others: tuple[TeacherOutputs, ...] = ()
    live: LiveTeacher | None = None
    about: dict[str, float] = field(default_factory=dict)
    imported: ImportedTeacher | None = None
    cross_fit: CrossFit | None = None
    again: Callable[[], Callable[[np.ndarray], np.ndarray]] | None = None
    stored: TokenStore | None = None
    thresholds: Thresholds = None


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student of any kind, as evaluation and saving need it.

    logits: computes those of rows of the dataset. history: the content of `history.json`. save: writes the model into a
    folder, with a model card and the thresholds of its labels. about: what `run.json` records of the student. size: its
    number of parameters; empty for a baseline.
    """

    logits: RowLogits
    history: dict[str, Any]
    save: Callable[[Path, str, Thresholds], None]
    about: dict[str, Any]
    size: dict[str, int] = field(default_factory=dict)


class Student(Protocol):
    """A student before training, with its settings: an encoder, a neural baseline or a bag-of-words baseline.

    `student_kinds` implements the three.
    """

    @property
    def label(self) -> str:
        """Its name in messages and in names of runs."""

    @property
    def source(self) -> Source | None:
        """The pretrained encoder that it starts from; None for a baseline, which learns from labels only."""

    @property
    def with_reference(self) -> bool:
        """Whether its scores are compared with the bag-of-words baseline of `baselines.reference`."""

    def identity(self, plan: Plan) -> dict[str, Any]:
        """Return its part of the run's fingerprint."""

    def load(self, plan: Plan) -> Encoder:
        """Load or create the network that the training loop trains. Raises TypeError for a student without a network."""

    def train(self, plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
        """Train it, from the last checkpoint if there is one. Raises Stopped, UserError, Failure."""

    def estimate(self, plan: Plan, steps: int = 3) -> list[str]:
        """Return the lines of a dry run; `steps`: training steps to measure."""

    def usual_epochs(self, plan: Plan) -> int:
        """Return the epochs that "auto" gives it on these rows, whatever was requested; 0 for a baseline."""

    def token_copies(self, table: StudentTable, dataset: Dataset) -> dict[str, Ints]:
        """Return held-out rows with the tokens of a training row, as `tokenization.token_copies`; none for a baseline."""


@dataclass(frozen=True)
class Plan:
    """A training with every decision made: the data, the models, and all settings resolved.

    tokens: of all texts, as the student reads them; none if it reads words, and in the plan of a finished run. identity:
    what the fingerprint is computed from, by part. teacher: an existing classifier, or soft labels from a file.
    teacher_plan: how a pretrained encoder is first fine-tuned into a teacher. fold_teachers: the same for the teacher of each
    fold of the training rows, trained on the rows of the other folds (`teacher.cross_fit`). more: further teachers, of any
    kind.
    token_copies: as `tokenization.token_copies` returns it. leak_warnings: held-out rows that the teachers or the
    pretrained student have seen. left_out: methods removed because no teacher was found, although none was declined.
    asked: `config.train` before "auto" was resolved, for the teachers, which resolve it themselves. alternative: a
    bag-of-words baseline that becomes the student if it is not worse than this encoder (`student_selection`).
    """

    config: Config
    dataset: Dataset
    methods: tuple[Method, ...]
    student: Student
    tokens: Tokens = NO_TOKENS
    identity: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    teacher: Source | ImportedTeacher | None = None
    teacher_plan: Plan | None = None
    fold_teachers: tuple[Plan, ...] = ()
    more: tuple[Source | ImportedTeacher | Plan, ...] = ()
    token_copies: dict[str, Ints] = field(default_factory=dict)
    leak_warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    asked: TrainTable | None = None
    alternative: Plan | None = None

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def origins(self) -> dict[str, Origin]:
        """Where methods that are not built in come from, by name."""
        return METHODS.origins(method.name for method in self.methods)

    @property
    def teachers(self) -> tuple[Source | ImportedTeacher | Plan, ...]:
        """All teachers, the first one first."""
        first = self.teacher or self.teacher_plan
        return (first, *self.more) if first is not None else ()

    @property
    def has_teacher(self) -> bool:
        return bool(self.teachers)

    def dataset_of_model(self, split: str) -> Dataset:
        """Return the dataset as the model learned it that is scored on `split`: after a refit, with the validation rows."""
        refitted = split == "test" and self.config.train.refit is True
        return self.dataset.with_validation_in_training() if refitted else self.dataset

    @property
    def steps(self) -> int:
        """The optimizer steps of a whole training without early stopping; 1 for a baseline fitted in one call."""
        rows = defaults.training_texts(self.methods, self.dataset)[0]
        return max(1, -(-rows // self.config.train.batch_size) * self.config.train.epochs)

    @property
    def chooses_by_folds(self) -> bool:
        """Whether a plan with an alternative chooses its student by cross-validation on the training rows.

        This is so if there are too few validation rows, and no teacher has learned from the training rows of every fold.
        """
        held = len(self.dataset.split["validation"])
        return held < defaults.FEW_HELD and not self.has_teacher and not len(self.dataset.unlabelled)

    @property
    def name(self) -> str:
        """The default name of the run folder: data, student, methods, seed, fingerprint.

        Long parts are shortened to fit the limits of file systems; the fingerprint keeps names unique.
        """
        cut = f"-{len(self.config.student.layers)}layers" if self.config.student.layers else ""
        parts = [self.dataset.name, self.student.label + cut, "+".join(m.name for m in self.methods)]
        if self.alternative is not None:
            parts[1] += f"-or-{self.alternative.student.label}"
        return joined_name([*filter(None, parts)], ["", f"s{self.config.train.seed}", self.fingerprint[:8]])
