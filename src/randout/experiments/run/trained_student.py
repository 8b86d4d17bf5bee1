"""A trained student of any kind, as evaluation and saving need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randout.baselines import Bag, Labelled, Network
from randout.core.console import duration
from randout.models import loading
from randout.models.inference import predict
from randout.stats.metrics import score
from randout.storage.run_folder import RunFolder

from .planning import Plan
from .saved_model import RowLogits
from .student import Options, Stopped, TeacherOutputs, train_student


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student. logits: computes those of rows of the dataset. history: the content of `history.json`.

    save: writes the model into a folder, with a model card. about: what `run.json` records of the student.
    """

    logits: RowLogits
    history: dict[str, Any]
    save: Callable[[Path, str], None]
    about: dict[str, Any]

    @property
    def size(self) -> dict[str, int]:
        """Its number of parameters; empty for a baseline."""
        return {"parameters": self.about["encoder"]["parameters"]} if "encoder" in self.about else {}


def train(plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
    """Train the student of `plan`, from its last checkpoint if there is one. Raises Stopped, UserError, Failure."""
    classifier = plan.classifier
    if isinstance(classifier, Bag):
        return _fit(classifier, plan, run, options)
    session = train_student(plan, run, teacher, options)
    encoder, position = session.encoder, session.position
    history = {"epochs": position.history, "best_epoch": position.best_epoch, "ended": position.ended}

    def logits(rows: Any, progress: Any) -> Any:
        return predict(encoder, plan.tokens, rows, "float32", progress)

    if isinstance(classifier, Network):
        fitted = classifier.fitted(encoder, classifier.vocabulary(_part(plan, "train").texts))
        return TrainedStudent(logits, history, fitted.save, {"classifier": fitted.found})
    longest = int(plan.config.student.max_length)
    parameters = sum(p.numel() for p in encoder.model.parameters())
    about = {"encoder": {"packed": encoder.packed, "reason": encoder.reason, "parameters": parameters}}
    return TrainedStudent(logits, history, lambda folder, card: loading.save(encoder, folder, longest, card), about)


def _part(plan: Plan, name: str) -> Labelled:
    rows = plan.dataset.split[name]
    return Labelled([plan.dataset.texts[row] for row in rows], plan.dataset.labels[rows])


def _fit(classifier: Bag, plan: Plan, run: RunFolder, options: Options) -> TrainedStudent:
    """Fit a bag-of-words baseline. It has no checkpoint: after a stop it is fitted from the start."""
    show, id2label, texts = options.show, plan.dataset.id2label, plan.dataset.texts
    held, began = _part(plan, "validation"), time.monotonic()
    with show.bar(classifier.name, classifier.pieces, unit="fits") as bar:

        def advance(done: int) -> None:
            bar(done, "")
            if options.deadline and time.monotonic() > options.deadline:
                raise Stopped("the time limit", run)

        fitted = classifier.fit(_part(plan, "train"), held, id2label, plan.config.train, advance)
    spent = time.monotonic() - began
    metrics = score(held.labels, fitted.logits(held.texts), id2label, unseen=plan.dataset.unseen)
    row = {
        "epoch": 1,
        "step": 1,
        **{f"validation_{name}": value for name, value in metrics.items() if isinstance(value, float)},
    }
    history = {"epochs": [row | {"seconds": round(spent, 3)}], "best_epoch": 1, "ended": "fitted"}
    found = ", ".join(f"{name} {value}" for name, value in fitted.found.items() if not isinstance(value, list))
    show.say(f"{classifier.name}: {found}, validation accuracy {metrics['accuracy']:.2%}, {duration(spent)}")
    return TrainedStudent(
        lambda rows, progress: fitted.logits([texts[row] for row in rows], progress),
        history,
        fitted.save,
        {"classifier": fitted.found},
    )
