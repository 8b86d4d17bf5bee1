"""The interface of a baseline, and its files: JSON and safetensors, never pickle.

A classifier is an immutable object whose fields are its settings (the table `[classifier]` of a recipe). A fitted
classifier is these settings, an ordered vocabulary, and named arrays; randout's own code computes its scores from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from randout.core.config import Table, TrainTable, checked
from randout.core.errors import UserError, nearest
from randout.models.folder_checks import BASELINE

FORMAT = 1
RECORD, WEIGHTS = BASELINE, "weights.safetensors"
COMMON_SETTINGS = ("seed", "metric", "device", "save_minutes")  # settings of [train] that every baseline accepts
Vocabulary = tuple[str, ...]
Arrays = dict[str, np.ndarray]
Progress = Callable[[int], None]  # called with the number of texts just processed


class Labelled(NamedTuple):
    """Labelled texts. labels: (n,) class index of each text."""

    texts: Sequence[str]
    labels: np.ndarray


class Classifier(Table):
    """Base class of the baselines; the fields of a subclass are its settings.

    name: the value of `student.model` that selects it. summary: one line for lists. scores: what its logits mean, for the
    model card. gives_probabilities: whether it is trained to give probabilities. own_loss: whether it has a loss of its own
    instead of the method cross-entropy. train_settings: the settings of `[train]` that it accepts. label_sets:
    whether it supports multi-label data.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    scores: ClassVar[str]
    gives_probabilities: ClassVar[bool]
    own_loss: ClassVar[bool]
    train_settings: ClassVar[tuple[str, ...]]
    label_sets: ClassVar[bool] = False

    def check(self) -> None:
        """Raise UserError if settings are inconsistent."""

    def resolved(self, rows: int, notes: list[str]) -> Self:
        """Return the settings with every "auto" resolved for this number of training rows, each with a line in `notes`."""
        return self

    def training(self, asked: TrainTable) -> TrainTable:
        """Return the table `[train]` that it is trained with: its own settings in place of those requested in `asked`."""
        raise NotImplementedError

    def logits_of(
        self, vocabulary: Vocabulary, arrays: Arrays, labels: int, texts: Sequence[str], progress: Progress, device: str
    ) -> np.ndarray:
        """Return scores (n, C) of n texts for C = `labels` classes.

        vocabulary, arrays: as fitted. progress: called with the number of texts just scored. device: for networks. Raises
        KeyError or ValueError if the arrays do not fit this classifier.
        """
        raise NotImplementedError


def _ignore(_texts: int) -> None:
    pass


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier. found: what fitting determined (such as the vocabulary size), for the record.

    thresholds: of the labels, if it predicts label sets (multi-label); on the sigmoid of its scores.
    """

    settings: Classifier
    id2label: dict[int, str]
    vocabulary: Vocabulary
    arrays: Arrays
    found: dict[str, Any] = field(default_factory=dict)
    thresholds: tuple[float, ...] | None = None

    def logits(self, texts: Sequence[str], progress: Progress = _ignore, device: str = "cpu") -> np.ndarray:
        """Return scores (n, C), float32, columns as in `id2label`. Their softmax is used as the probability."""
        found = self.settings.logits_of(self.vocabulary, self.arrays, len(self.id2label), texts, progress, device)
        return found.astype(np.float32)

    def save(self, folder: Path, card: str, thresholds: tuple[float, ...] | None = None) -> None:
        """Write classifier.json, weights.safetensors and README.md (the text `card`) atomically."""
        from randout.models.loading import whole_folder  # imports PyTorch

        with whole_folder(folder) as coming:
            save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, coming / WEIGHTS)
            record = {
                "format": FORMAT,
                "classifier": self.settings.name,
                "settings": self.settings.model_dump(mode="json"),
                "labels": [self.id2label[at] for at in range(len(self.id2label))],
                "found": self.found,
                "versions": {name: version(name) for name in ("numpy", "scikit-learn", "torch")},
                "weights_sha256": _sha256(coming / WEIGHTS),
                "vocabulary": list(self.vocabulary),
            }
            if thresholds is not None:
                record["thresholds"] = list(thresholds)
            (coming / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (coming / "README.md").write_text(card, encoding="utf-8")


def is_fitted(folder: Path) -> bool:
    """Return whether a folder contains a fitted baseline."""
    return (folder / RECORD).is_file()


def kind_of(folder: Path) -> str:
    """Return the name of the kind of the fitted baseline in a folder; empty if it cannot be read, which `load` reports."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["classifier"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load(folder: Path, kinds: dict[str, type[Classifier]]) -> Fitted:
    """Load the fitted classifier in `folder`.

    kinds: the registry, by name. Raises UserError if the files are damaged or of an unknown kind.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(
                f"{folder}: the classifier has format {record['format']}; this version reads format {FORMAT}"
            )
        name, labels, words = record["classifier"], record["labels"], record["vocabulary"]
        asked, found, sha256 = record["settings"], record["found"], record["weights_sha256"]
        if _sha256(folder / WEIGHTS) != sha256:
            raise UserError(f"{folder / WEIGHTS}: damaged (its SHA-256 differs from the recorded one). Train it again")
        arrays = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot read this classifier ({type(error).__name__}: {error})") from None
    if name not in kinds:
        raise UserError(f"{folder}: unknown kind of classifier {name!r}.{nearest(str(name), kinds)}")
    settings, limits = checked(kinds[name], asked, "classifier."), record.get("thresholds")
    thresholds = None if limits is None else tuple(map(float, limits))
    fitted = Fitted(settings, dict(enumerate(labels)), tuple(words), arrays, found, thresholds)
    try:
        fitted.logits(["a word"])
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"{folder}: the weights do not fit the settings ({str(error)[:200]}). Train it again") from None
    return fitted


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
