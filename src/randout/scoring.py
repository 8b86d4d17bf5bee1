"""Honest scores and what is written of them: metrics with intervals, predictions, pictures, the model card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import data, figures, leaks, runs, tables
from .classifiers import Classifier
from .errors import UserError
from .metrics import score
from .predictions import Predictions, read_predictions, write_predictions
from .prepare import Plan
from .progress import Show
from .replay import replay
from .run_diagnostics import SPLITS, diagnose, of_file, of_run
from .runs import RunFolder
from .saved import RowLogits, opened, other_column, row_logits, trained_columns
from .seen import SeenRows, in_words, leaked, merged, read_seen, row_hashes, seen_in
from .statistics import Comparison, compare_models


def score_split(logits_of: RowLogits, plan: Plan, name: str, run: RunFolder, show: Show) -> dict[str, Any]:
    """Metrics of one split with intervals, in float32; predictions and the picture of the confusion matrix are written."""
    dataset, rows = plan.dataset, plan.dataset.split[name]
    with show.bar(f"scoring {name}", len(rows)) as advance:
        logits = logits_of(rows, lambda count: advance(count, ""))
    labels = dataset.labels[rows]
    metrics = score(labels, logits, dataset.id2label, dataset.groups[rows])
    none = np.zeros(0, np.int64)
    copied = np.isin(rows, [*dataset.report.leaked.get(name, none), *plan.token_copies.get(name, none)])
    leaking = _leaks(plan, name, run)

    def without(unwanted: np.ndarray) -> dict[str, Any]:
        rest = ~unwanted
        return score(labels[rest], logits[rest], dataset.id2label, dataset.groups[rows][rest])

    if copied.any() and not copied.all():
        metrics["without_copies"] = without(copied)
    elif copied.any():
        show.warn(f"each of the {len(rows):,} {name} rows has a copy in train, so {name} scores measure memory")
    if leaking is not None:
        metrics["leaks"], which = leaking
        if which.any() and not which.all():
            metrics["without_leaks"] = without(which)
    texts = [dataset.texts[row] for row in rows] if plan.config.output.keep_texts else None
    row_ids = [dataset.row_ids[row] for row in rows]
    names = list(dataset.id2label.values())
    write_predictions(run.predictions(name), Predictions(names, row_ids, dataset.groups[rows], labels, logits, texts))
    figures.confusion_picture(
        metrics["confusion_matrix"], dataset.id2label, run.path / f"confusion-{name}.png", f"{run.path.name}: {name}"
    )
    return metrics


def _leaks(plan: Plan, name: str, run: RunFolder) -> tuple[dict[str, Any], np.ndarray] | None:
    """Rows of a held-out split that ancestors of a run have seen: how many, by role, and which were trained on (n,).
    None where there are none, or where the run is of a version that did not record them.
    """
    seen = read_seen(run.path)
    if seen is None:
        return None
    hashes = plan.dataset.hashes[plan.dataset.split[name]]
    counts, which = leaks.counted(seen, plan.dataset, name), leaked(seen, hashes)[1]
    if not counts:
        return None
    return {"rows": int(which.sum()), "of": len(hashes), "roles": counts}, which


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
    times = runs.record_opening(run, rows_sha256(plan, "test"), "test", by)
    show.say(f"test split opened; openings of these test rows recorded here so far: {times}")
    return score_split(logits_of, plan, "test", run, show)


def rows_sha256(plan: Plan, split: str) -> str:
    """Which rows were opened: the same texts with the same labels are the same rows, whatever they were trained with."""
    dataset = plan.dataset
    rows = sorted((dataset.texts[row], int(dataset.labels[row])) for row in dataset.split[split])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def open_test(
    run: RunFolder, plan: Plan, show: Show, by: str = "evaluate", allow_leaks: bool = False
) -> dict[str, Any]:
    """Score a finished run's saved model on its own test split, and record that it was opened.

    Raises LeakError, before it is opened, where the run's teacher or starting model has seen test rows, unless
    allow_leaks or the run's own configuration allows it.
    """
    seen = read_seen(run.path)
    if seen is None:
        if run.record["identity"].get("teacher"):
            show.say(
                "leaks: this run is of a version that did not record what its teacher was trained on, so whether the "
                "teacher has seen test rows cannot be known"
            )
    elif counts := leaks.counted(seen, plan.dataset, "test"):
        found = in_words(counts, len(plan.dataset.split["test"]), "test rows")
        if leaks.is_trained(counts) and not (allow_leaks or plan.config.output.allow_leaks):
            raise leaks.LeakError(leaks.refusal(found))
        show.warn(f"{found}, so test scores will flatter")
    metrics = run.read("metrics.json") | {"test": score_test(row_logits(plan, run), plan, run, show, by)}
    metrics = diagnose(plan, run, metrics, run.read("history.json"))
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
    for name in (split for split in SPLITS if split in metrics):
        found = metrics[name]
        low, high = found.get("intervals", {}).get("accuracy", (float("nan"), float("nan")))
        lines.append(
            f"| {name} | {rows[name]} | {found['accuracy']:.4f} | {low:.4f} to {high:.4f} | {found['macro_f1']:.4f} |"
        )
        if "baseline" in found:
            base = found["baseline"]
            lines.append(
                f"| {name}, {base['name']} | {rows[name]} | {base['accuracy']:.4f} | | {base['macro_f1']:.4f} |"
            )
    for name in (split for split in SPLITS if "leaks" in metrics.get(split, {})):
        leak = metrics[name]["leaks"]
        lines += ["", f"Leak: {in_words(leak['roles'], leak['of'], f'{name} rows')}."]
    if metrics.get("warnings"):
        lines += ["", "Warnings:", "", *(f"- {one['message']}" for one in metrics["warnings"])]
    return lines


def score_file(
    model: str, file: str, text_column: str | None, label_column: str | None, show: Show
) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of any classifier on a labelled file, and its id2label. Raises UserError for a label it does not know.

    Where the classifier or its ancestors have seen rows of the file, `seen` says how many of how many by role, and
    `without_seen` are the scores on the other rows.
    """
    saved = opened(model)
    id2label = saved.id2label
    trained = trained_columns(model)

    def told(columns: Mapping[str, str]) -> None:
        show.say(f"columns     text {columns['text']!r}, label {columns['label']!r}")
        if warning := other_column(trained, columns["text"], text_column, file):
            show.warn(warning)

    notes: list[str] = []
    texts, labels, copies = data.load_evaluation(
        file, id2label, text_column=text_column, label_column=label_column, notes=notes, trained=trained, told=told
    )
    for note in notes:
        show.say(f"note: {note}")
    counts, which = _seen_in_file(model, file, texts, show)
    with show.bar("scoring", len(texts)) as advance:
        logits = saved.logits(texts, lambda count: advance(count, ""))
    metrics = score(labels, logits, id2label, copies)
    if counts:
        metrics["seen"] = {"rows": int(which.sum()), "of": len(texts), "roles": counts}
        rest = ~which
        if rest.any():
            metrics["without_seen"] = score(labels[rest], logits[rest], id2label, copies[rest])
    return metrics | {"warnings": of_file(model, labels, logits.argmax(1), copies, id2label, metrics)}, id2label


def _seen_in_file(model: str, file: str, texts: Sequence[str], show: Show) -> tuple[dict[str, int], np.ndarray]:
    """The rows of a file that a classifier or its ancestors have seen: how many by role, and which (n,). Warns."""
    folder = Path(os.path.expanduser(model))
    hashes, known = row_hashes(texts), read_seen(folder)
    if known is None:
        known = _seen_by_old_run(RunFolder(folder.parent if folder.name == "model" else folder), file, hashes, show)
    counts, which = seen_in(known, hashes)
    if counts:
        warning = in_words(counts, len(texts), "rows of this file")
        show.warn(f"{warning}, so scores on all of it will flatter; those without these rows are given too")
    return counts, which


def _seen_by_old_run(run: RunFolder, file: str, hashes: np.ndarray, show: Show) -> SeenRows:
    """Of a run without a record of its rows: its training and validation rows, if `file` is the very file that it was
    trained on, else nothing.
    """
    if run.exists:
        record, path = run.record, Path(os.path.expanduser(file))
        same = path.is_file() and tables.sha256_of(path.read_bytes()) == record["data"]
        split = run.read("split.json")
        if same and sum(map(len, split.values())) == len(hashes):
            return leaks.rows_by_id(split, [str(row) for row in range(1, len(hashes) + 1)], hashes)
        show.say("leaks: this run did not record its training rows, so whether the file holds any cannot be known")
    return merged([])


def score_run(path: Path, split: str, show: Show, allow_leaks: bool = False) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of a finished run on one of its own splits; opening the test split is recorded."""
    run = RunFolder(path)
    run.read("run.json")
    if not run.finished:
        raise UserError(f"{path}: this run is not finished; its `randout train` command goes on with it")
    labels = run.labels
    if split not in ("validation", "test"):
        raise UserError(f"--split {split}: a run is scored on validation or test, or name a file")
    if split == "validation":
        return run.read("metrics.json")[split] | {"warnings": of_run(run, split)}, dict(enumerate(labels))
    plan = replay(run)
    if "test" not in plan.dataset.split:
        raise UserError(f"{path}: this run's data has no test split; name a labelled file instead")
    metrics = open_test(run, plan, show, allow_leaks=allow_leaks)
    return metrics["test"] | {"warnings": metrics["warnings"]}, plan.dataset.id2label
