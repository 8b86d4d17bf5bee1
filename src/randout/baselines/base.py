"""The interface of a baseline, and its files: JSON and safetensors, never pickle.

A classifier is a frozen object whose fields are its settings (the table `[classifier]` of a recipe). Fitted, it is those
settings, a vocabulary in order, and arrays by name; its scores are computed from these by our own code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from randout.core.config import Table, checked
from randout.core.errors import UserError, nearest
from randout.models.loading import whole_folder

FORMAT = 1
RECORD, WEIGHTS = "classifier.json", "weights.safetensors"
Vocabulary = tuple[str, ...]
Arrays = dict[str, np.ndarray]
Seen = Callable[[int], None]  # told of texts done


class Labelled(NamedTuple):
    """labels: (n,) class index of each text."""

    texts: Sequence[str]
    labels: np.ndarray


class Classifier(Table):
    """Base of every classifier. `name` is how a recipe asks for it, `scores` what its logits are, for the model card."""

    name: ClassVar[str]
    summary: ClassVar[str]
    scores: ClassVar[str]

    def check(self) -> None:
        """Raise UserError where settings do not go together."""

    def logits_of(
        self, vocabulary: Vocabulary, arrays: Arrays, labels: int, texts: Sequence[str], seen: Seen, device: str
    ) -> np.ndarray:
        """Scores (n, C) of texts. Raises KeyError or ValueError where the arrays are not those of this classifier."""
        raise NotImplementedError


def _nothing(_texts: int) -> None:
    pass


@dataclass(frozen=True)
class Fitted:
    """A classifier that has learnt. found: what fitting chose by itself, for the record."""

    settings: Classifier
    id2label: dict[int, str]
    vocabulary: Vocabulary
    arrays: Arrays
    found: dict[str, Any] = field(default_factory=dict)

    def logits(self, texts: Sequence[str], seen: Seen = _nothing, device: str = "cpu") -> np.ndarray:
        """Scores (n, C), float32, columns by `id2label`; their softmax is what counts as probability."""
        found = self.settings.logits_of(self.vocabulary, self.arrays, len(self.id2label), texts, seen, device)
        return found.astype(np.float32)

    def save(self, folder: Path, card: str) -> None:
        """Write classifier.json, weights.safetensors and README.md, whole or not at all."""
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
            (coming / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (coming / "README.md").write_text(card, encoding="utf-8")


def is_fitted(folder: Path) -> bool:
    """Whether a folder holds a fitted classifier of words."""
    return (folder / RECORD).is_file()


def load(folder: Path, kinds: dict[str, type[Classifier]]) -> Fitted:
    """The fitted classifier in `folder`. Raises UserError for one that is damaged, or of a kind that is not known."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(f"{folder}: a classifier of format {record['format']}; this version reads format {FORMAT}")
        name, labels, words = record["classifier"], record["labels"], record["vocabulary"]
        asked, found, sha256 = record["settings"], record["found"], record["weights_sha256"]
        if _sha256(folder / WEIGHTS) != sha256:
            raise UserError(f"{folder / WEIGHTS}: damaged (its sha256 is not the recorded one); train it again")
        arrays = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: this classifier cannot be read ({type(error).__name__}: {error})") from None
    if name not in kinds:
        raise UserError(f"{folder}: a classifier {name!r}, which is not known here.{nearest(str(name), kinds)}")
    fitted = Fitted(checked(kinds[name], asked, "classifier."), dict(enumerate(labels)), tuple(words), arrays, found)
    try:
        fitted.logits(["a word"])
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"{folder}: the weights do not fit the settings ({str(error)[:200]}); train it again") from None
    return fitted


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
