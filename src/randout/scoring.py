"""Honest scores and what is written of them: metrics with intervals, predictions, pictures, the model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import data, figures, runs
from .classifiers import Classifier
from .errors import UserError
from .metrics import score
from .predictions import Predictions, read_predictions, write_predictions
from .prepare import Plan
from .progress import Show
from .replay import replay
from .runs import RunFolder
from .saved import RowLogits, opened, other_column, row_logits, trained_columns
from .statistics import Comparison, compare_models


def score_split(logits_of: RowLogits, plan: Plan, name: str, run: RunFolder, show: Show) -> dict[str, Any]:
    """Metrics of one split with intervals, in float32; predictions and the picture of the confusion matrix are written."""
    dataset, rows = plan.dataset, plan.dataset.split[name]
    with show.bar(f"scoring {name}", len(rows)) as advance:
        logits = logits_of(rows, lambda count: advance(count, ""))
    labels = dataset.labels[rows]
    metrics = score(labels, logits, dataset.id2label, dataset.groups[rows])
    copied = np.isin(rows, dataset.report.leaked.get(name, np.zeros(0, np.int64)))
    if copied.any():
        rest = ~copied
        metrics["without_copies"] = score(labels[rest], logits[rest], dataset.id2label, dataset.groups[rows][rest])
    texts = [dataset.texts[row] for row in rows] if plan.config.output.keep_texts else None
    row_ids = [dataset.row_ids[row] for row in rows]
    names = list(dataset.id2label.values())
    write_predictions(run.predictions(name), Predictions(names, row_ids, dataset.groups[rows], labels, logits, texts))
    figures.confusion_picture(
        metrics["confusion_matrix"], dataset.id2label, run.path / f"confusion-{name}.png", f"{run.path.name}: {name}"
    )
    return metrics


def compare_runs(found: dict[str, RunFolder], baseline: str, split: str = "test") -> list[Comparison]:
    """Finished runs on the same rows, each against `baseline`: what is known of these saved models (one table row each).

    Raises UserError where a run has no predictions of `split`, or of other rows.
    """
    read = {name: read_predictions(run.predictions(split), run.labels) for name, run in found.items()}
    first = read[baseline]
    for name, predictions in read.items():
        if not predictions.same_rows(first):
            raise UserError(f"{found[name].path}: its {split} rows are not those of {found[baseline].path}")
    order = [baseline, *(name for name in read if name != baseline)]
    logits = {name: read[name].logits for name in order}
    return compare_models(first.labels, logits, baseline, first.groups, len(first.names))


def score_test(logits_of: RowLogits, plan: Plan, run: RunFolder, show: Show, by: str) -> dict[str, Any]:
    """Metrics of the test split; that it was opened is recorded first."""
    times = runs.record_opening(run, _rows_sha256(plan, "test"), "test", by)
    show.say(f"test split opened; openings of these test rows recorded here so far: {times}")
    return score_split(logits_of, plan, "test", run, show)


def _rows_sha256(plan: Plan, split: str) -> str:
    """Which rows were opened: the same texts with the same labels are the same rows, whatever they were trained with."""
    dataset = plan.dataset
    rows = sorted((dataset.texts[row], int(dataset.labels[row])) for row in dataset.split[split])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def open_test(run: RunFolder, plan: Plan, show: Show, by: str = "evaluate") -> dict[str, Any]:
    """Score a finished run's saved model on its own test split, and record that it was opened."""
    metrics = run.read("metrics.json") | {"test": score_test(row_logits(plan, run), plan, run, show, by)}
    run.write("metrics.json", metrics)
    return metrics


def model_card(plan: Plan, metrics: dict[str, Any], teacher: str) -> str:
    """The README.md of the model folder."""
    if plan.classifier is not None:
        return "\n".join([*_words_card(plan, plan.classifier), "", *_scores_table(plan, metrics), ""])
    labels = ", ".join(plan.dataset.id2label.values())
    length = plan.config.student.max_length
    lines = ["---", "pipeline_tag: text-classification", "library_name: transformers", "tags: [randout]", "---", ""]
    lines += [f"# {plan.student.label} fine-tuned on {plan.dataset.name}", ""]
    lines += [f"Labels: {labels}. Texts of up to {length} tokens, truncated by `{plan.config.student.truncation}`."]
    if plan.config.student.truncation != "head":
        lines += ["A `transformers` pipeline truncates by head only, so longer texts score differently there."]
    methods = ", ".join(
        f"`{m.name}` {json.dumps(m.model_dump(exclude_defaults=True, mode='json'))}" for m in plan.methods
    )
    lines += [f"Methods: {methods}." + (f" Teacher: {teacher}." if teacher else "")]
    lines += ["", *_scores_table(plan, metrics), "", "```python", "from transformers import pipeline", ""]
    lines += ['classify = pipeline("text-classification", "path/to/this/folder", truncation=True)', "```", ""]
    return "\n".join(lines)


def _words_card(plan: Plan, classifier: Classifier) -> list[str]:
    settings = json.dumps(classifier.model_dump(mode="json"))
    lines = ["---", "pipeline_tag: text-classification", "tags: [randout]", "---", ""]
    lines += [f"# {classifier.name} ({classifier.summary}) trained on {plan.dataset.name}", ""]
    lines += [f"Labels: {', '.join(plan.dataset.id2label.values())}. Settings: `{settings}`.", "", classifier.scores]
    return [*lines, "", "No model of `transformers`: `randout predict` and `randout evaluate` read this folder."]


def _scores_table(plan: Plan, metrics: dict[str, Any]) -> list[str]:
    rows = {name: len(index) for name, index in plan.dataset.split.items()}
    lines = ["| split | rows | accuracy | 95 % interval | macro F1 |", "|---|---|---|---|---|"]
    for name, found in metrics.items():
        low, high = found.get("intervals", {}).get("accuracy", (float("nan"), float("nan")))
        lines.append(
            f"| {name} | {rows[name]} | {found['accuracy']:.4f} | {low:.4f} to {high:.4f} | {found['macro_f1']:.4f} |"
        )
    return lines


def score_file(
    model: str, file: str, text_column: str | None, label_column: str | None, show: Show
) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of any classifier on a labelled file, and its id2label. Raises UserError for a label it does not know."""
    saved = opened(model)
    id2label = saved.id2label
    trained = trained_columns(model)

    def told(columns: Mapping[str, str]) -> None:
        show.say(f"columns     text {columns['text']!r}, label {columns['label']!r}")
        if warning := other_column(trained, columns["text"], text_column, file):
            show.warn(warning)

    texts, labels, copies = data.load_evaluation(
        file, id2label, text_column=text_column, label_column=label_column, trained=trained, told=told
    )
    with show.bar("scoring", len(texts)) as advance:
        logits = saved.logits(texts, lambda count: advance(count, ""))
    return score(labels, logits, id2label, copies), id2label


def score_run(path: Path, split: str, show: Show) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of a finished run on one of its own splits; opening the test split is recorded."""
    run = RunFolder(path)
    run.read("run.json")
    if not run.finished:
        raise UserError(f"{path}: this run is not finished; its `randout train` command goes on with it")
    labels = run.labels
    if split not in ("validation", "test"):
        raise UserError(f"--split {split}: a run is scored on validation or test, or name a file")
    if split == "validation":
        return run.read("metrics.json")[split], dict(enumerate(labels))
    plan = replay(run)
    if "test" not in plan.dataset.split:
        raise UserError(f"{path}: this run's data has no test split; name a labelled file instead")
    return open_test(run, plan, show)["test"], plan.dataset.id2label


def run_rows(folder: Path) -> list[dict[str, Any]]:
    """A row a run: name, state, validation and test accuracy (None where there is none)."""
    rows = []
    for run in runs.list_runs(folder):
        try:
            done = run.finished
            metrics = run.read("metrics.json") if done else {}
            state = "finished" if done else "unfinished"
        except UserError as error:
            metrics, state = {}, str(error).rsplit(": ", 1)[-1]
        scores = {name: metrics.get(name, {}).get("accuracy") for name in ("validation", "test")}
        rows.append({"run": run.path.name, "state": state, **scores})
    return rows
