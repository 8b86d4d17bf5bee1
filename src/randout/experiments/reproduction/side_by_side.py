"""One table of the paper with measured values, their intervals, and a verdict on each difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from randout.core.text_tables import table_lines
from randout.experiments.study.results import StudyPredictions
from randout.paper.published import Number
from randout.stats.crossed import crossed_bootstrap
from randout.stats.intervals import edge_units, group_df, percentile, widened
from randout.stats.metrics import OVER_CLASSES, class_rates

TEXT_COLUMNS = (0, 1, 6)  # columns of text in a table of scores


@dataclass(frozen=True)
class ResultTable:
    """One table with published and measured values. rows: cells as printed; notes: footnotes and what was reduced."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    folder: str = ""  # of the study or search behind it
    left: tuple[int, ...] = (0,)  # columns of text, aligned left

    def lines(self) -> list[str]:
        table = table_lines(self.header, self.rows, self.left)
        return [self.title, *table, *(f"  note: {note}" for note in self.notes)]

    def markdown(self) -> list[str]:
        rule = "|" + "|".join("---" if at in self.left else "---:" for at in range(len(self.header))) + "|"
        body = ["| " + " | ".join(row) + " |" for row in (self.header, *self.rows)]
        return [f"## {self.title}", "", body[0], rule, *body[1:], "", *(f"- {note}" for note in self.notes), ""]


@dataclass(frozen=True)
class Measured:
    """A measured value with its 95 % interval, as fractions."""

    value: float
    low: float
    high: float


def reason_marks(why: Sequence[str], known: dict[str, str]) -> str:
    """Return `(a, c)` for the reasons, each with its letter in `known`, which new reasons are added to; "" for none."""
    marks = [known.setdefault(reason, "abcdefghijkl"[len(known) % 12]) for reason in why]
    return f"({', '.join(marks)})" if marks else ""


def score_header() -> list[str]:
    return ["model", "metric", "published", "measured", "95 % interval", "difference", "verdict"]


def comparison_row(number: Number, measured: Measured | None, why: str, name: str) -> list[str]:
    """Return a row: the difference is measured minus published, in points; `why` marks reasons against a verdict.

    The published number comes from one run; its error is assumed to equal that of the measured value.
    """
    metric = f"{number.label} {number.metric}".replace("_", " ").strip()
    if measured is None:
        return [name, metric, number.printed, "", "", "", "not run"]
    difference = 100 * measured.value - number.value
    reach = np.sqrt(2) * 100 * (measured.high - measured.low) / 2
    if why:
        verdict = f"not comparable {why}"
    else:
        verdict = "no difference seen" if abs(difference) <= reach else "higher" if difference > 0 else "lower"
    between = f"[{100 * measured.low:.2f}, {100 * measured.high:.2f}]"
    return [name, metric, number.printed, f"{100 * measured.value:.2f}", between, f"{difference:+.2f}", verdict]


def measured_of(scores: StudyPredictions, arm: str, number: Number, labels: Sequence[str]) -> Measured | None:
    """Return the measured counterpart of a published number: mean over seeds, bootstrap over seeds and groups of texts."""
    if not scores.units:
        return None
    made = np.stack(scores.predictions[arm])[None]  # (1, S, N)
    codes = np.unique(scores.groups[0], return_inverse=True)[1]
    if not number.label:
        labels_of = scores.labels[0]
        values, draws = crossed_bootstrap(labels_of, made, codes, scores.num_labels, number.metric, resamples=1000)
        edge = edge_units((made[0] != labels_of).mean(0), codes, labels_of if number.metric in OVER_CLASSES else None)
        return _with_interval(float(values[0].mean()), draws[0], codes, edge)
    return _of_class(scores, made[0], codes, labels.index(number.label), number.metric)


def _with_interval(value: float, draws: np.ndarray, codes: np.ndarray, edge: float | None) -> Measured:
    """Return a value with the 95 % interval of its bootstrap draws. edge: as `intervals.widened` takes it."""
    sizes = np.bincount(codes)
    between = percentile(draws, 0.95, group_df(sizes), len(sizes)) if len(sizes) > 1 else (0.0, 1.0)
    return Measured(value, *widened(between, value, edge, 0.95))


def _of_class(
    scores: StudyPredictions, made: np.ndarray, codes: np.ndarray, label: int, rate: str, resamples: int = 500
) -> Measured:
    """Return precision, recall or F1 of one class: mean over seeds, bootstrap over seeds and groups."""
    size, truth = scores.num_labels, scores.labels[0]
    count = int(codes.max()) + 1
    cells = truth[None] * size + made  # (S, N)
    by_group = np.zeros((len(made), count, size * size))
    for seed in range(len(made)):
        np.add.at(by_group[seed], (codes, cells[seed]), 1)
    rng = np.random.default_rng(0)

    def value(weights: np.ndarray, seeds: np.ndarray) -> float:
        confusions = np.einsum("g,sgc->sc", weights, by_group[seeds]).reshape(len(seeds), size, size)
        return float(class_rates(confusions)[rate][:, label].mean())

    every = np.arange(len(made))
    drawn = []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count).astype(float)
        drawn.append(value(weights, rng.integers(0, len(made), len(made))))
    edge = class_edge(truth, made, codes, label, rate)
    return _with_interval(value(np.ones(count), every), np.array(drawn), codes, edge)


def class_edge(truth: np.ndarray, made: np.ndarray, codes: np.ndarray, label: int, rate: str) -> float | None:
    """Return `edge_units` for the rate of one class, over the rows that count in it.

    Those are its true rows (recall), its predicted rows (precision), or either (F1). truth: `(N,)`; made: `(S, N)`
    predictions. Without any such row, every value is possible: the result is close to zero units.
    """
    true, predicted = np.broadcast_to(truth == label, made.shape), made == label
    entering = {"recall": true, "precision": predicted}.get(rate, true | predicted)
    rows = entering.any(0)
    if not rows.any():
        return 1e-9
    wrong = (entering & (made != truth)).mean(0)
    return edge_units(wrong[rows], np.unique(codes[rows], return_inverse=True)[1])
