"""Sections on model quality: classes, confusion matrix, calibration, learning curves, disagreements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from randout.core.label_sets import names_of, shown
from randout.stats.label_set_scores import set_probability
from randout.stats.metrics import LOWER_IS_BETTER, class_rates, top_label
from randout.stats.targets import probabilities, target_of
from randout.storage.metrics_record import Scores
from randout.storage.predictions import Predictions

from .comparison import aligned_predictions
from .subjects import Arm, Model, Subject
from .text import remarks
from .values import Column, Figure, Section, Table, metric_kind, metric_title

BINS = 15  # of the reliability diagram, as for the expected calibration error
EXAMPLES = 50  # most rows shown for each pair of models that differ


def counts_of(arm: Arm, split: str) -> np.ndarray:
    """Confusion counts (C, C) of an arm, summed over its units; rows are true classes."""
    return np.sum([np.asarray(m.metrics.splits[split].confusion_matrix) for m in arm.models], axis=0)


def _labels(subject: Subject) -> list[str]:
    """Classes of the confusion matrices, in order."""
    return list(subject.scores(subject.scored()[0].models[0]).per_class)


def _units_note(arms: list[Arm]) -> str:
    most = max(len(arm.models) for arm in arms)
    return (
        ""
        if most == 1
        else f"Mean over {most} units."
        if all(len(a.models) == most for a in arms)
        else "Mean over units."
    )


def overview(subject: Subject) -> Table:
    """Table of every headline metric of every arm."""
    names = ["accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1"]
    names += ["log_loss", "expected_calibration_error", "majority_baseline"]
    arms = subject.scored()
    if _has_sets(arms, subject):
        names = ["sample_f1", "micro_f1", *names, "label_accuracy"]
    columns = [Column("model"), *(Column(metric_title(name), metric_kind(name)) for name in names)]
    rows = []
    for arm in arms:
        found = [[subject.scores(model).value(name) for model in arm.models] for name in names]
        rows.append((arm.name, *(_mean(values) for values in found)))
    note = f"{_units_note(arms)} Majority baseline: accuracy of always predicting the most common class.".strip()
    for arm in arms:
        of = len(arm.models)
        told = Counter(text for model in arm.models for text in remarks(subject.scores(model), len(model.labels)))
        for text, count in told.items():
            note += f" {arm.name}{f' ({count} of {of} units)' if of > 1 else ''}: {text}."
    return Table("metrics", "All metrics", tuple(columns), tuple(rows), note)


def _has_sets(arms: Sequence[Arm], subject: Subject) -> bool:
    """Whether a row may have several labels."""
    return any(subject.scores(model).multi_label for arm in arms for model in arm.models)


def _class_rates(scores: Scores) -> dict[str, np.ndarray]:
    """Precision, recall, f1 and support of each class, (C,) each."""
    if not scores.multi_label:
        return class_rates(np.asarray(scores.confusion_matrix))
    each = list(scores.per_class.values())
    return {key: np.array([getattr(one, key) for one in each]) for key in ("precision", "recall", "f1", "support")}


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def per_class(subject: Subject) -> Section | None:
    """Precision, recall and F1 of each class and arm (means over units)."""
    arms = subject.scored()
    if not arms:
        return None
    columns: tuple[Column, ...] = (
        Column("class"),
        Column("model"),
        Column("precision %", "percent"),
        Column("recall %", "percent"),
    )
    columns += (Column("F1 %", "percent"), Column("rows", "count"))
    rates = {}
    for arm in arms:
        each = [_class_rates(subject.scores(m)) for m in arm.models]
        rates[arm.name] = {key: np.mean([one[key] for one in each], axis=0) for key in ("precision", "recall", "f1")}
        rates[arm.name]["rows"] = np.sum([one["support"] for one in each], axis=0)
    rows = [
        (label, name, *(float(found[key][at]) for key in ("precision", "recall", "f1")), int(found["rows"][at]))
        for at, label in enumerate(_labels(subject))
        for name, found in rates.items()
    ]
    table = Table("classes", "Precision, recall and F1 of each class", columns, tuple(rows), _units_note(arms))
    roles = {"y": "class", "x": "F1 %", "series": "model"}
    figure = Figure("f1", "F1 of each class", "intervals", table, roles)
    return Section("classes", "Classes", (overview(subject), table, figure))


def confusion(subject: Subject) -> Section | None:
    """The confusion matrix of each arm, each row divided by its sum (the paper's Figure 2)."""
    arms = subject.scored()
    if not arms or _has_sets(arms, subject):
        return None
    names = _labels(subject)
    columns: tuple[Column, ...] = (
        Column("model"),
        Column("true"),
        Column("predicted"),
        Column("% of the true class", "percent"),
    )
    columns += (Column("rows", "count"),)
    rows = []
    for arm in arms:
        counts = counts_of(arm, subject.split)
        for true, predicted in np.ndindex(counts.shape):
            support = counts[true].sum()
            share = float(counts[true, predicted] / support) if support else None
            rows.append((arm.name, names[true], names[predicted], share, int(counts[true, predicted])))
    summed = "Counts are summed over units. " if max(len(arm.models) for arm in arms) > 1 else ""
    table = Table("confusion", "Confusion matrices", columns, tuple(rows), summed.strip())
    roles = {"panel": "model", "row": "true", "column": "predicted", "value": "% of the true class", "count": "rows"}
    note = f"Each row is a true class and sums to 100 %; the diagonal shows correct predictions. {summed}".strip()
    figure = Figure("confusion", f"Confusion on the {subject.split} split", "matrix", table, roles, note)
    return Section("confusion", "Confusion", (figure,))


def learning(subject: Subject) -> Section | None:
    """Losses and the validation metric by epoch; with several units, the mean over those validated at that epoch.

    Models that are fitted in one step, such as an SVM, have no epochs.
    """
    rows: list[tuple[Any, ...]] = []
    for arm in subject.arms:
        for number, epoch in _validations(arm):
            for key in dict.fromkeys(key for row in epoch for key in row if key.startswith("loss_")):
                rows.append((f"training loss, {key[5:]}", arm.name, number, _mean([row.get(key) for row in epoch])))
            key = f"validation_{subject.metric}"
            if any(key in row for row in epoch):
                scale = 1 if metric_kind(subject.metric) == "number" else 100
                value = _mean([row.get(key) for row in epoch])
                title = f"validation {metric_title(subject.metric)}"
                rows.append((title, arm.name, number, None if value is None else scale * value))
    if not rows:
        return None
    rows.sort(key=lambda row: not row[0].startswith("validation"))
    columns: tuple[Column, ...] = (
        Column("curve"),
        Column("model"),
        Column("epoch", "count"),
        Column("value", "number"),
    )
    table = Table(
        "learning",
        "Losses and validation scores by epoch",
        columns,
        tuple(rows),
        _units_note([arm for arm in subject.arms if arm.models]),
    )
    roles = {"panel": "curve", "series": "model", "x": "epoch", "y": "value"}
    figure = Figure("learning", "Learning curves", "lines", table, roles, _learning_note(subject))
    best = [
        (
            arm.name,
            m.unit or None,
            m.history.best_epoch,
            m.history.last_epoch,
            m.history.ended or None,
        )
        for arm in subject.arms
        for m in arm.models
        if m.history.epochs and not m.history.fitted
    ]
    heads = (
        Column("model"),
        Column("unit"),
        Column("epoch kept", "count"),
        Column("epochs", "count"),
        Column("ended by"),
    )
    kept = [at for at in range(len(heads)) if any(row[at] is not None for row in best)]
    ends = tuple(tuple(row[at] for at in kept) for row in best)
    return Section("learning", "Learning", (figure, Table("epochs", "Epochs", tuple(heads[at] for at in kept), ends)))


def _validations(arm: Arm) -> list[tuple[int, list[dict[str, float]]]]:
    """Epochs of an arm that end with a validation, in order, each with the losses and metrics of every unit."""
    found: dict[int, list[dict[str, float]]] = {}
    for model in (model for model in arm.models if not model.history.fitted):
        for at, one in enumerate(model.history.epochs, 1):
            found.setdefault(one.epoch or at, []).append(one.measured)
    return sorted(found.items(), key=lambda item: item[0])


def _learning_note(subject: Subject) -> str:
    """Caption of the learning curves: how to read them, which weights are kept, and which models were refit."""
    trained = [
        (arm.name, model.record.identity.train)
        for arm in subject.arms
        for model in arm.models
        if len(model.history.epochs) > 1  # a single validation is not a curve
    ]
    if not trained:
        return ""
    last = dict.fromkeys(name for name, train in trained if train.keep == "last")
    refit = dict.fromkeys(name for name, train in trained if train.refit)
    names = dict.fromkeys(name for name, _ in trained)
    best = "the weights of the best epoch are kept"
    if len(last) == len(names):
        best = "the last weights are kept, not those of the best epoch"
    elif last:
        best += f" (the last weights for {_listed(last)})"
    loss = subject.metric in LOWER_IS_BETTER
    better, worse = ("falls", "rises") if loss else ("rises", "falls")
    note = f"If a validation curve still {better} at its end, more epochs may help. If it {worse}, {best}."
    if refit:
        which = "" if len(refit) == len(names) else f" of {_listed(refit)}"
        note += f" The curves{which} show the training before the refit on training and validation rows."
    return note


def _listed(names: Iterable[str]) -> str:
    """Names in one phrase, quoted if one contains a comma."""
    return ", ".join(f"“{name}”" if "," in name else name for name in names)


def calibration(subject: Subject) -> Section | None:
    """Confidence against accuracy in 15 bins (Guo et al. 2017), pooled over units, with each arm's calibration error."""
    rows, errors = [], []
    if _has_sets(subject.scored(), subject):
        return None
    for arm in subject.scored():
        found = [p for m in arm.models if (p := m.predictions(subject.split)) is not None and len(p.rows)]
        if not found:
            continue
        error = _mean([subject.scores(m).expected_calibration_error for m in arm.models])
        rows += [(arm.name, *row) for row in reliability(found)]
        confidence, accuracy = (
            float(np.mean(np.concatenate(side))) for side in zip(*map(_confidence, found), strict=True)
        )
        errors.append((arm.name, error, confidence, accuracy, confidence - accuracy))
    if not rows:
        return None
    columns: tuple[Column, ...] = (Column("model"), Column("bin", "interval"), Column("rows", "count"))
    columns += (Column("mean confidence %", "percent"), Column("accuracy %", "percent"))
    table = Table(
        "reliability",
        "Reliability",
        columns,
        tuple(rows),
        "Bins of confidence, in percent; empty bins are left out.",
    )
    roles = {"panel": "model", "x": "mean confidence %", "y": "accuracy %", "size": "rows"}
    note = "On the dashed line confidence equals accuracy. Below it a model is overconfident, above it underconfident. "
    note += "Larger dots stand for more rows."
    figure = Figure(
        "reliability",
        "Reliability diagram",
        "lines",
        table,
        roles,
        note,
        {"diagonal": True, "marks": ("",)},
    )
    heads: tuple[Column, ...] = (
        Column("model"),
        Column("calibration error %", "percent"),
        Column("mean confidence %", "percent"),
    )
    heads += (Column("accuracy %", "percent"), Column("overconfidence", "points"))
    note = "Calibration error: the mean distance between confidence and accuracy over 15 bins, weighted by rows."
    if words := [arm.name for arm in subject.scored() if any(model.history.fitted for model in arm.models)]:
        note += f" Bag-of-words baselines ({_listed(words)}) give scores that rank the classes, not probabilities."
    each = Table("calibration", "Calibration", heads, tuple(errors), note)
    return Section("calibration", "Calibration", (each, figure))


def _confidence(found: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the predicted class (n,), and whether the prediction is correct (n,)."""
    return top_label(found.logits), found.logits.argmax(-1) == found.labels


def reliability(found: list[Predictions]) -> list[tuple[Any, ...]]:
    """(bin, rows, mean confidence, accuracy) of every non-empty bin ((k-1)/15, k/15]."""
    pairs = [_confidence(one) for one in found]
    confidence, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = []
    for at in range(BINS):
        inside = which == at
        if inside.any():
            bounds = (at / BINS, (at + 1) / BINS)
            rows.append((bounds, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())))
    return rows


def _pairs(subject: Subject) -> Iterator[tuple[Arm, list[tuple[Model, Predictions, Predictions]]]]:
    """Each arm except the baseline, with (model, baseline predictions, own predictions) for every common unit."""
    arms = {arm.name: arm for arm in subject.scored()}
    base = arms.pop(subject.baseline, None)
    for arm in arms.values() if base else ():
        found = []
        for model in arm.models:
            other = next((one for one in base.models if one.unit == model.unit), None)  # type: ignore[union-attr]
            mine = aligned_predictions(model, other, subject.split) if other else None
            theirs = other.predictions(subject.split) if other else None
            if mine is not None and theirs is not None:
                found.append((model, theirs, mine))
        if found:
            yield arm, found


def disagreement(subject: Subject, texts: bool) -> Section | None:
    """Agreement of each arm with the baseline, and the rows on which they differ, most confident first."""
    parts: list[Any] = []
    rows, listed = [], []
    for arm, pairs in _pairs(subject):
        base = [(p.predicted, p.labels) for _, p, _ in pairs]
        mine = [p.predicted for _, _, p in pairs]
        sums = np.sum(
            [_agreement_counts(b, m, labels) for (b, labels), m in zip(base, mine, strict=True)], axis=0
        ).tolist()
        rows.append((arm.name, sum(len(labels) for _, labels in base), *sums, sum(sums[1:3]) + sums[4]))
        listed.append(examples(subject, arm, pairs[0], texts))
    if not rows:
        return None
    heads = ["rows", "both right", f"only {subject.baseline} right", "only this model right"]
    heads += ["both wrong, same", "both wrong, different", "disagree"]
    columns: tuple[Column, ...] = (Column("model"), *(Column(head, "count") for head in heads))
    note = "Summed over units." if any(len(arm.models) > 1 for arm in subject.arms) else ""
    parts.append(Table("agreement", f"Agreement with {subject.baseline}", columns, tuple(rows), note))
    return Section("differences", "Where models differ", (*parts, *(table for table in listed if table.rows)))


def _agreement_counts(base: np.ndarray, mine: np.ndarray, labels: np.ndarray) -> list[int]:
    """Count rows: both right, only the baseline, only the other, both wrong with the same or different predictions."""
    target = target_of(labels, labels.shape[-1])
    first, second, differ = target.right(labels, base), target.right(labels, mine), target.differs(base, mine)
    wrong = ~first & ~second
    found = (first & second, first & ~second, ~first & second, wrong & ~differ, wrong & differ)
    return [int(np.count_nonzero(one)) for one in found]


def _confidence_of(found: Predictions) -> np.ndarray:
    """Probability of the predicted class or label set, (n,)."""
    if found.thresholds is None:
        return top_label(found.logits)
    likely = probabilities(found.logits, found.thresholds)
    return set_probability(likely, found.predicted[:, : likely.shape[1]])


def _shown(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """Name of the class or label set of each row."""
    return [names[at] for at in labels] if labels.ndim == 1 else [shown(one) for one in names_of(labels, names)]


def examples(subject: Subject, arm: Arm, pair: tuple[Model, Predictions, Predictions], texts: bool) -> Table:
    """Rows of one unit on which the two models predict different classes, at most `EXAMPLES`."""
    model, base, mine = pair
    one, other, target = base.predicted, mine.predicted, target_of(base.labels, len(base.names))
    sure = [_confidence_of(p) for p in (base, mine)]
    right_by = [target.right(base.labels, made) for made in (one, other)]
    true, made, theirs = (_shown(each, base.names) for each in (base.labels, one, other))
    differ = np.flatnonzero(target.differs(one, other))
    differ = differ[np.argsort(-(sure[0] + sure[1])[differ], kind="stable")]
    kept = mine.texts if texts else None
    columns: tuple[Column, ...] = (
        Column("row"),
        Column("true"),
        Column(subject.baseline),
        Column("its score %", "percent"),
    )
    columns += (Column(arm.name), Column("score %", "percent"), Column("right"))
    columns += (Column("text"),) if kept is not None else ()
    rows = []
    for at in differ[:EXAMPLES].tolist():
        right = subject.baseline if right_by[0][at] else arm.name if right_by[1][at] else "neither"
        cells = [base.rows[at], true[at], made[at], float(sure[0][at])]
        cells += [theirs[at], float(sure[1][at]), right]
        rows.append((*cells, *([str(kept[at])] if kept is not None else [])))
    shown = f"{len(rows)} of {len(differ)} rows" if len(differ) > len(rows) else f"All {len(rows)} rows"
    where = f" of {model.unit}" if model.unit else ""
    title = f"{subject.baseline} and {arm.name} disagree"
    note = f"{shown}{where}, most confident first. Score: probability of the predicted class."
    return Table(f"examples-{arm.name}", title, columns, tuple(rows), note, texts=kept is not None, folded=True)
