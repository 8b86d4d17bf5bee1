"""Honest scores and what is written of them: metrics with intervals, predictions, pictures, the model card."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import data, diagnostics, figures, leaks, runs, tables, writing
from .classifiers import Classifier
from .errors import UserError
from .files import replace_text
from .labels import UnknownLabel
from .metrics import log_probabilities, score
from .predictions import Predictions, read_predictions, write_predictions
from .prepare import Plan
from .progress import Show
from .replay import replay
from .run_diagnostics import SPLITS, diagnose, of_file, of_run
from .runs import RunFolder
from .saved import RowLogits, check_own_split, device_of, opened_on, other_column, row_logits, trained_columns
from .seen import SeenRows, in_words, leaked, merged, read_seen, row_hashes, seen_in
from .soft_labels import output_names
from .statistics import Comparison, compare_models

PLACEHOLDER = re.compile(r"LABEL_\d+")  # what transformers names an output that nobody has named


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
    run: RunFolder, plan: Plan, show: Show, by: str = "evaluate", allow_leaks: bool = False, device: str = "cpu"
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
    before = run.read("metrics.json")
    metrics = before | {"test": score_test(row_logits(plan, run, device), plan, run, show, by)}
    metrics = diagnose(plan, run, metrics, run.read("history.json"))
    run.write("metrics.json", metrics)
    _update_card(plan, run, before, metrics, show)
    return metrics


def _update_card(plan: Plan, run: RunFolder, before: dict[str, Any], metrics: dict[str, Any], show: Show) -> None:
    """Put new scores and warnings in the place of the old ones in the model card; all else in it may be the user's."""
    card = run.model / "README.md"
    old, new = ("\n".join(_scores_table(plan, found)) for found in (before, metrics))
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if old in text:
        replace_text(card, text.replace(old, new, 1))
    else:
        show.say(f"note: the scores in {card} were changed by hand or are not there, and stay as they are")


def model_card(plan: Plan, metrics: dict[str, Any], teacher: str) -> str:
    """The README.md of the model folder."""
    if plan.classifier is not None:
        return "\n".join([*_words_card(plan, plan.classifier), "", *_scores_table(plan, metrics), ""])
    labels = ", ".join(plan.dataset.id2label.values())
    length = plan.config.student.max_length
    mean = plan.config.student.pooling == "mean"
    library = "sentence-transformers" if mean else "transformers"
    lines = ["---", "pipeline_tag: text-classification", f"library_name: {library}", "tags: [randout]", "---", ""]
    lines += [f"# {plan.student.label} fine-tuned on {plan.dataset.name}", ""]
    lines += [f"Labels: {labels}. Texts of up to {length} tokens, truncated by `{plan.config.student.truncation}`."]
    if plan.config.student.truncation != "head":
        lines += ["A `transformers` pipeline truncates by head only, so longer texts score differently there."]
    methods = ", ".join(
        f"`{m.name}` {json.dumps(m.model_dump(exclude_defaults=True, mode='json'))}" for m in plan.methods
    )
    lines += [f"Methods: {methods}." + (f" Teacher: {teacher}." if teacher else "")]
    lines += ["", *_scores_table(plan, metrics), "", *_usage(mean), ""]
    return "\n".join(lines)


def _usage(mean: bool) -> list[str]:
    """How to load the folder. mean: its head reads the mean of the tokens' states, which no class of transformers does."""
    if not mean:
        lines = ["from transformers import pipeline", ""]
        lines += ['classify = pipeline("text-classification", "path/to/this/folder", truncation=True)']
        return ["```python", *lines, "```"]
    lines = ["from sentence_transformers import SentenceTransformer", ""]
    lines += ['logits = SentenceTransformer("path/to/this/folder").encode(["a text"])  # (texts, labels)']
    about = "The head reads the mean of the tokens' states, which no stock class of `transformers` does; the folder is laid "
    about += "out as sentence-transformers does it, with the labels in the order above. `randout predict` reads it too."
    return [about, "", "```python", *lines, "```"]


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
    model: str,
    file: str,
    text_column: str | None,
    label_column: str | None,
    show: Show,
    *,
    device: str = "auto",
    encoding: str = tables.AUTO,
    labels: Sequence[str] = (),
    out: Path | None = None,
    probabilities: bool = False,
    opened: data.LabelledFile | None = None,
) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of any classifier on a labelled file, and its id2label. Rows without a text are not scored; `without_text`
    says how many. Where the classifier or its ancestors have seen rows of the file, `seen` says how many of how many by
    role, and `without_seen` are the scores on the other rows.

    opened: the file, where it has been read already. labels: the classes in the order of the model's outputs, where its own
    names are none. out: the table with prediction and score of each row is written there, with the probabilities of all
    classes where these are asked for. Raises UserError for a label that the model does not know, for outputs named in a
    wrong order, and for an `out` that cannot be written.
    """
    if out is not None:
        writing.check_output(out)
    saved = opened_on(model, device, "evaluate")
    id2label = dict(enumerate(output_names(saved.id2label, labels, model, "--labels")))
    if twice := [name for name in labels if list(labels).count(name) > 1]:
        raise UserError(f"--labels: {twice[0]!r} is named more than once; each output is another class")
    found = _rows_to_score(model, file, text_column, label_column, show, encoding, id2label, bool(labels), opened)
    write = writing.writer(found.table, out) if out is not None else None
    counts, which = _seen_in_file(model, file, found.texts, show)
    with show.bar("scoring", len(found.texts)) as advance:
        logits = saved.logits(found.texts, lambda count: advance(count, ""))
    predicted, names = logits.argmax(1), list(id2label.values())
    if labels:
        order = range(len(names))
        diagnostics.check_order(
            found.labels, predicted, found.groups, names, order, f"model {model}", "rows", "--labels"
        )
    metrics = score(found.labels, logits, id2label, found.groups)
    if found.without_text:
        metrics["without_text"] = len(found.without_text)
    if counts:
        metrics["seen"] = {"rows": int(which.sum()), "of": len(found.texts), "roles": counts}
        rest = ~which
        if rest.any():
            metrics["without_seen"] = score(found.labels[rest], logits[rest], id2label, found.groups[rest])
    if write is not None:
        write(_prediction_columns(found, logits, names, probabilities))
        show.say(f"predictions {out}")
    warnings = of_file(model, found.labels, logits, found.groups, id2label, metrics)
    return metrics | {"warnings": warnings}, id2label


def _rows_to_score(
    model: str,
    file: str,
    text_column: str | None,
    label_column: str | None,
    show: Show,
    encoding: str,
    id2label: dict[int, str],
    named: bool,
    opened: data.LabelledFile | None,
) -> data.Evaluation:
    """The rows of a file, and what is to be said of them. named: whether the user has named the model's outputs."""
    trained = trained_columns(model)

    def told(columns: Mapping[str, str]) -> None:
        show.say(f"columns     text {columns['text']!r}, label {columns['label']!r}")
        if warning := other_column(trained, columns["text"], text_column, file):
            show.warn(warning)

    notes: list[str] = []
    try:
        read = opened or data.open_evaluation(file, text_column, label_column, trained, encoding)
        found = data.load_evaluation(read, id2label, notes=notes, told=told)
    except UnknownLabel as error:
        if named or not all(PLACEHOLDER.fullmatch(name) for name in id2label.values()):
            raise
        places = ",".join(f"NAME_OF_{name}" for name in id2label.values())
        raise UserError(
            f"{error} If the model has the file's classes, name them in the order of its outputs: --labels {places}, each "
            "replaced by the class that it means; its model card or label2id says which is which"
        ) from None
    for note in notes:
        show.say(f"note: {note}")
    if left_out := found.without_text:
        of = len(found.texts) + len(left_out)
        show.warn(f"{len(left_out):,} of {of:,} rows have no text and are not scored ({data.row_list(left_out)})")
    return found


def _prediction_columns(
    found: data.Evaluation, logits: np.ndarray, names: list[str], probabilities: bool
) -> dict[str, list[Any]]:
    """The further columns of the table that was scored; None in rows that were not."""
    shares = np.exp(log_probabilities(logits))
    columns: dict[str, list[Any]] = {}

    def add(name: str, values: list[Any]) -> None:
        spread: list[Any] = [None] * len(found.table)
        for row, value in zip(found.rows.tolist(), values, strict=True):
            spread[row] = value
        columns[writing.free_name([*found.table.columns, *columns], name)] = spread

    add("prediction", [names[at] for at in logits.argmax(1).tolist()])
    add("score", shares.max(1).tolist())
    for at, name in enumerate(names if probabilities else []):
        add(f"probability_{name}", shares[:, at].tolist())
    return columns


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


def score_run(
    path: Path, split: str, show: Show, allow_leaks: bool = False, device: str = "auto"
) -> tuple[dict[str, Any], dict[int, str]]:
    """Metrics of a finished run on one of its own splits; opening the test split is recorded."""
    run = check_own_split(path, split)
    where = device_of(device, "evaluate")
    labels = run.labels
    if split == "validation":
        return run.read("metrics.json")[split] | {"warnings": of_run(run, split)}, dict(enumerate(labels))
    plan = replay(run)
    if "test" not in plan.dataset.split:
        raise UserError(f"{path}: this run's data has no test split; name a labelled file instead")
    metrics = open_test(run, plan, show, allow_leaks=allow_leaks, device=where)
    return metrics["test"] | {"warnings": metrics["warnings"]}, plan.dataset.id2label
