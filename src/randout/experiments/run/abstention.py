"""Leaves out uncertain labels: reads what a model's validation rows say, chooses a threshold, and applies it to logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.reporting import run_pictures
from randout.reporting.text import LABEL, threshold_words
from randout.stats.abstention import Threshold, choose, parse_target
from randout.stats.coverage import confidences, coverage_curve, risk_area
from randout.stats.intervals import share_interval
from randout.stats.metrics import group_codes
from randout.stats.targets import predicted, target_of
from randout.storage.abstention_record import Abstention, abstention_of, read_abstention, write_abstention
from randout.storage.metrics_record import AbstentionScores
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder

from .saved_model import export_folder, local_folder, model_folder, run_of
from .thresholds import Thresholds

PICTURE = "coverage-risk.png"  # in a run folder


@dataclass(frozen=True)
class Abstainer:
    """Decides which predictions are labels, or label sets. temperature: divides logits, which are then a confidence.

    Methods take the thresholds of the model's labels if it predicts label sets (multi-label), else None.
    """

    temperature: float
    threshold: Threshold

    def confidences(self, logits: np.ndarray, thresholds: Thresholds) -> np.ndarray:
        """Return (n,) the calibrated probability of each label, or whole label set, from logits (n, C)."""
        return confidences(logits, self.temperature, thresholds)

    def accepts(self, confidence: np.ndarray) -> np.ndarray:
        """Return (n,) whether each confidence is enough for a label."""
        return confidence >= self.threshold.confidence

    def scores(
        self, labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, thresholds: Thresholds
    ) -> AbstentionScores:
        """Return coverage and accuracy on labelled rows: groups (n,), logits (n, C).

        labels: (n,), or label sets (n, C + U) bool with U labels that the model has no output for; a set is right as a whole.
        """
        classes = labels.shape[-1]  # of label sets
        right = target_of(labels, classes).right(labels, predicted(logits, thresholds, classes))
        sure = self.confidences(logits, thresholds)
        kept = self.accepts(sure)
        found = AbstentionScores(
            target=str(self.threshold.target),
            confidence=self.threshold.confidence,
            temperature=self.temperature,
            rows=len(right),
            accepted=int(kept.sum()),
            coverage=float(kept.mean()),
            area=risk_area(sure, right),
            curve=list(coverage_curve(sure, right, groups)),
        )
        if kept.any():
            codes = group_codes(groups[kept], int(kept.sum()))
            found.accuracy = float(right[kept].mean())
            found.interval = share_interval(~right[kept], codes)
        return found


def abstainer(name: str, asked: str | float, show: Show, where: str = "--abstain") -> Abstainer:
    """Choose the threshold of a model for a target, and report it; a warning if the target is not assured.

    name: a run, a model folder or an export. asked: such as "accuracy=0.95". where: for messages. Raises UserError if the
    target cannot be reached, or if the model has no validation rows to choose by, unless a confidence is asked for.
    """
    target = parse_target(asked, where)
    record = find_abstention(name)
    if record is None:
        if target.kind != "confidence":
            raise UserError(
                f"{where} {target}: {name} has no validation rows, by which a threshold is chosen. Name the run that trained "
                "it, or a confidence: confidence=0.8"
            )
        show.warn(f"{name} has no validation rows, so its confidences are not calibrated")
        return Abstainer(1.0, choose(target, ()))
    try:
        threshold = choose(target, record.points)
    except UserError as error:
        whole = ". The accuracy of label sets is the share of whole sets that are right"
        raise UserError(f"{where} {error}{whole if record.label_sets and target.kind == 'accuracy' else ''}") from None
    words, warning = threshold_words(threshold, record)
    show.say(words)
    if warning:
        show.warn(warning)
    return Abstainer(record.temperature, threshold)


def find_abstention(name: str) -> Abstention | None:
    """Return what the validation rows of a model say; None for a model without them.

    A run of an earlier version has no such file: it is computed from the predictions of its validation rows.
    """
    name = local_folder(name)
    folder = export_folder(name) or model_folder(name)
    found = read_abstention(folder) if folder is not None else None
    run = run_of(name)
    if found is None and run is not None and run.finished and run.predictions("validation").exists():
        found = abstention_of(read_predictions(run.predictions("validation"), run.labels))
    return found


def record_abstention(run: RunFolder) -> None:
    """Write `abstention.json` into the model folder of a run whose validation split was scored, and draw its curve."""
    record = abstention_of(read_predictions(run.predictions("validation"), run.labels))
    write_abstention(run.model, record)
    title = f"{run.path.name}: validation"
    run_pictures.coverage_picture(record.points, run.path / PICTURE, title, sets=record.label_sets)


def note_abstained(abstained: int, texts: int, show: Show, *, sets: bool) -> None:
    """Log how many texts got no label because the model was not sure enough. texts: number of those that are not empty.

    sets: whether the model predicts label sets, of which an empty one is a prediction.
    """
    if texts:
        get = verb(abstained, "gets", "get")
        show.say(
            f"abstained: {abstained:,} of {plural(texts, 'text')} ({abstained / texts:.1%}) {get} no {LABEL[sets]}"
        )
