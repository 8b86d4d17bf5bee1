"""Evaluates a trained student on held-out rows: metrics with intervals, predictions, a picture."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.label_sets import names_of
from randout.core.wording import WARNING, plural, verb
from randout.data import dataset as data
from randout.data import table_writing, tables
from randout.data.columns import rows_in
from randout.data.labels import UnknownLabel
from randout.data.row_hashes import row_hashes
from randout.reporting import run_pictures
from randout.stats import diagnostics
from randout.stats.paired import Comparison, compare_models
from randout.stats.targets import score
from randout.storage import run_folder
from randout.storage.metrics_record import Leaks, Metrics, Scores, TestRows
from randout.storage.predictions import Predictions, read_predictions, write_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import SeenRows, in_words, merged, read_seen, seen_in

from . import leaks
from .abstention import Abstainer, abstainer
from .batch_prediction import GUESS, decided
from .model_card import update_card, update_openings
from .plan import Plan, RowLogits
from .reload import reload_plan
from .run_warnings import diagnose, of_file, of_run
from .saved_model import (
    check_own_split,
    column_warning,
    device_of,
    evaluation_fields,
    load_classifier,
    load_on_device,
    run_of,
    trained_columns,
)
from .soft_labels import output_names
from .teacher_test_logits import TestedTeacher, compare_on_test, teacher_of_run
from .thresholds import Thresholds, tuned

PLACEHOLDER = re.compile(r"LABEL_\d+")  # the name that transformers gives an unnamed output


def score_split(
    logits_of: RowLogits, plan: Plan, name: str, run: RunFolder, show: Show, thresholds: Thresholds = None
) -> Scores:
    """Return metrics of one split with intervals, in float32; write its predictions and a confusion matrix image.

    thresholds: of multi-label data; None: tuned on these rows.
    """
    dataset, rows = plan.dataset, plan.dataset.split[name]
    with show.bar(f"scoring {name}", len(rows)) as advance:
        logits = logits_of(rows, lambda count: advance(count, ""))
    labels, limits = dataset.truth(rows), thresholds or tuned(dataset, rows, logits)

    def scored(kept: np.ndarray) -> Scores:
        rest = (labels[kept], logits[kept], dataset.id2label, dataset.groups[rows][kept])
        return Scores.model_validate(score(*rest, unseen=dataset.unseen, thresholds=limits))

    scores = scored(np.full(len(rows), True))
    none = np.zeros(0, np.int64)
    copied = np.isin(rows, [*dataset.report.leaked.get(name, none), *plan.token_copies.get(name, none)])
    leaking = _leaks(plan, name, run)

    learnt = labels < len(dataset.id2label) if dataset.sets is None else np.full(len(rows), True)
    if copied.any() and learnt[~copied].any():
        scores.without_copies = scored(~copied)
    elif copied.all():
        show.warn(
            f"all {len(rows):,} {name} rows have a copy in the training split, so {name} scores measure memorization"
        )
    if leaking is not None:
        scores.leaks, which = leaking
        if which.any() and learnt[~which].any():
            scores.without_leaks = scored(~which)
    texts = [dataset.texts[row] for row in rows] if plan.config.output.keep_texts else None
    row_ids = [dataset.row_ids[row] for row in rows]
    write_predictions(
        run.predictions(name), Predictions(dataset.names, row_ids, dataset.groups[rows], labels, logits, texts, limits)
    )
    if not scores.multi_label:
        run_pictures.confusion_picture(
            scores.confusion_matrix,
            dict(enumerate(scores.per_class)),
            run.path / f"confusion-{name}.png",
            f"{run.path.name}: {name}",
        )
    return scores


def _leaks(plan: Plan, name: str, run: RunFolder) -> tuple[Leaks, np.ndarray] | None:
    """Return how many rows of a held-out split the ancestors of a run have seen, by role, and which were trained on (n,).

    Returns None if there are none, or if the run is of a version that did not record them.
    """
    seen = read_seen(run.path)
    if seen is None:
        return None
    counts, which = leaks.seen_of_split(seen, plan.dataset, name)
    if not counts:
        return None
    return Leaks(rows=int(which.sum()), of=len(which), roles=counts), which


def compare_runs(found: dict[str, RunFolder], baseline: str, split: str = "test") -> list[Comparison]:
    """Compare finished runs on the same rows, each with `baseline`: one table row per saved model.

    Raises UserError if a run has no predictions of `split`, or predictions of other rows.
    """
    read = {name: read_predictions(run.predictions(split), run.labels) for name, run in found.items()}
    first = read[baseline]
    for name, predictions in read.items():
        if not predictions.same_rows(first):
            raise UserError(f"{found[name].path}: its {split} rows differ from those of {found[baseline].path}")
    order = [baseline, *(name for name in read if name != baseline)]
    outputs, sets = first.logits.shape[1], first.thresholds is not None
    found_by = {name: read[name].predicted if sets else read[name].logits for name in order}
    return compare_models(first.labels, found_by, baseline, first.groups, len(first.names), outputs=outputs)


def score_test(
    logits_of: RowLogits,
    plan: Plan,
    run: RunFolder,
    show: Show,
    by: str,
    teacher: TestedTeacher | None = None,
    thresholds: Thresholds = None,
) -> Scores:
    """Score the test split and return its metrics; the opening is recorded first.

    thresholds: of multi-label data. teacher: the one that will be scored on the same rows in the same opening, by
    `compare_on_test`.
    """
    name = teacher.name if teacher else ""
    times = run_folder.record_opening(run, rows_sha256(plan, "test"), "test", by, teacher=name)
    show.say(f"scoring the test split ({times_scored(times)})")
    return score_split(logits_of, plan, "test", run, show, thresholds)


def times_scored(times: int) -> str:
    """Return how often these test rows have been scored, for a message."""
    return "first time in this folder of runs" if times == 1 else f"{times:,} times so far in this folder of runs"


def rows_sha256(plan: Plan, split: str) -> str:
    """Return a digest of a split's texts and labels: it identifies the rows, whatever the training."""
    dataset, at = plan.dataset, plan.dataset.split[split]
    labels: Sequence[Any] = dataset.labels[at].tolist()
    if dataset.sets is not None:  # by name: the number of a set changes if another row is corrected
        labels = [sorted(labels) for labels in names_of(dataset.truth(at), dataset.names)]
    rows = sorted(zip([dataset.texts[row] for row in at], labels, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def open_test(
    run: RunFolder,
    plan: Plan,
    show: Show,
    by: str = "evaluate",
    allow_leaks: bool = False,
    device: str = "cpu",
    teacher: TestedTeacher | None = None,
) -> Metrics:
    """Score a finished run's saved model on its own test split, and record the opening.

    teacher: is scored on the same rows and compared with the student; None: the one in the same folder of runs, if any.
    Raises LeakError before the opening if the run's teacher or starting model has seen test rows, unless allow_leaks or
    the run's configuration allows it.
    """
    seen = read_seen(run.path)
    if seen is None:
        if run.record.identity.teacher:
            show.say(
                "leaks: this run is of a version that did not record the training rows of its teacher, so the teacher may "
                "have seen test rows"
            )
    elif counts := leaks.count_seen(seen, plan.dataset, "test"):
        found = in_words(counts, len(plan.dataset.split["test"]), "test rows")
        if leaks.any_trained_on(counts) and not (allow_leaks or plan.config.output.allow_leaks):
            raise leaks.LeakError(leaks.refusal_message(found))
        show.warn(f"{found}, so test scores will be too high")
    before, metrics = run.metrics, run.metrics
    saved = load_classifier(str(run.path), device)
    teacher = teacher or teacher_of_run(run)
    metrics.test = score_test(saved.row_logits(plan.dataset), plan, run, show, by, teacher, saved.thresholds)
    if teacher is not None:
        compare_on_test(metrics.test, plan, run, teacher, device, show)
    diagnose(plan, run, metrics, run.read("history.json"))
    run.write("metrics.json", metrics.as_json())
    update_card(plan, run, before, metrics, show)
    return metrics


@dataclass(frozen=True)
class FileRequest:
    """What to evaluate on a labelled file, and how.

    labels: the classes in the order of the model's outputs, if its own names say nothing. form: of an export; empty: its
    default. out: a table to write, with the prediction and score of each row, and the probabilities of all classes if
    `probabilities`. abstain: a target as for `abstention.abstainer`, by which rows get no prediction; empty: all get one.
    text_pair: column of the second texts; None: as in training.
    """

    model: str
    file: str
    text_column: str | None = None
    label_column: str | None = None
    encoding: str = tables.AUTO
    device: str = "auto"
    form: str = ""
    labels: Sequence[str] = ()
    out: Path | None = None
    probabilities: bool = False
    abstain: str = ""
    text_pair: str | None = None


def score_file(
    request: FileRequest, show: Show, opened: data.LabelledFile | None = None
) -> tuple[Scores, dict[int, str]]:
    """Return the metrics of any classifier on a labelled file, and its id2label.

    Rows without a text are not scored; `without_text` counts them. Rows whose label is not a class of the model count as
    errors; `unseen` counts them. If the classifier or its ancestors have seen rows of the file, `seen` counts them by role,
    and `without_seen` holds the scores on the other rows. If the file holds test rows of the run itself, an opening of its
    test split is recorded; `test_rows` gives their number and how often they have been scored (None if that cannot be
    recorded).

    opened: the file, if it has been read already. Raises UserError if no row has a label that the model knows (with
    `labels`: if any row has another label), for outputs named in a wrong order, and for an `out` that cannot be written.
    """
    model, labels, out = request.model, request.labels, request.out
    if out is not None:
        table_writing.check_output(out)
    abstain = abstainer(model, request.abstain, show) if request.abstain else None
    saved = load_on_device(model, request.device, "evaluate", request.form)
    id2label = dict(enumerate(output_names(saved.id2label, labels, model, "--labels")))
    if twice := [name for name in labels if list(labels).count(name) > 1]:
        raise UserError(f"--labels: {twice[0]!r} is named more than once; each output is a different class")
    found = _rows_to_score(request, show, id2label, opened, saved.thresholds is not None)
    write = table_writing.writer(found.table, out) if out is not None else None
    counts, which, held = _seen_in_file(model, request.file, found.texts, show)
    test_rows = _open_by_file(run_of(model), held, len(found.texts), show) if held else None
    with show.bar("scoring", len(found.texts)) as advance:
        logits = saved.logits(found.texts, lambda count: advance(count, ""))
    names = list(id2label.values())
    if labels and saved.thresholds is None:
        order, made = range(len(names)), logits.argmax(1)
        diagnostics.check_order(found.labels, made, found.groups, names, order, f"model {model}", "rows", "--labels")
    scores = _scores_of_rows(found, logits, id2label, counts, which, saved.thresholds)
    if test_rows is not None:
        scores.test_rows = test_rows
    if abstain is not None:
        scores.abstention = abstain.scores(found.labels, logits, found.groups, saved.thresholds)
    if write is not None:
        write(_prediction_columns(found, logits, names, request.probabilities, saved.thresholds, abstain))
        show.say(f"predictions {out}")
    every = dict(enumerate([*names, *found.unseen]))
    scores.warnings = of_file(model, found.labels, logits, found.groups, every, scores, saved.thresholds)
    return scores, id2label


def _scores_of_rows(
    found: data.Evaluation,
    logits: np.ndarray,
    id2label: dict[int, str],
    counts: dict[str, int],
    seen: np.ndarray,
    thresholds: Thresholds,
) -> Scores:
    """Return the metrics of the rows of a file, also without those that the model has seen.

    logits: (n, C). counts: rows that it has seen, by role; seen: which these are, (n,).
    """
    options: dict[str, Any] = {"unseen": found.unseen, "thresholds": thresholds}
    scores = Scores.model_validate(score(found.labels, logits, id2label, found.groups, **options))
    if found.without_text:
        scores.without_text = len(found.without_text)
    if counts:
        scores.seen = Leaks(rows=int(seen.sum()), of=len(found.texts), roles=counts)
        rest = ~seen
        if rest.any() and (thresholds is not None or (found.labels[rest] < len(id2label)).any()):
            kept = (found.labels[rest], logits[rest], id2label, found.groups[rest])
            scores.without_seen = Scores.model_validate(score(*kept, **options))
    return scores


def _rows_to_score(
    request: FileRequest, show: Show, id2label: dict[int, str], opened: data.LabelledFile | None, sets: bool
) -> data.Evaluation:
    """Read the rows of a file and log notes and warnings. sets: whether the model predicts label sets."""
    model, file, named = request.model, request.file, bool(request.labels)
    trained = trained_columns(model)

    def report_columns(columns: Mapping[str, str]) -> None:
        show.say(f"columns     {', '.join(f'{what} {column!r}' for what, column in columns.items())}")
        if warning := column_warning(trained, columns["text"], request.text_column, file):
            show.warn(warning)

    notes: list[str] = []
    try:
        columns = (request.text_column, request.label_column)
        names = list(id2label.values()) if sets else None
        kept = None if sets else opened  # read again, as label sets
        fields = evaluation_fields(model, request.text_pair)
        read = kept or data.open_evaluation(file, *columns, trained, request.encoding, names, fields)
        found = data.load_evaluation(read, id2label, notes=notes, told=report_columns, strict=named)
    except UnknownLabel as error:
        if named or not all(PLACEHOLDER.fullmatch(name) for name in id2label.values()):
            raise
        places = ",".join(f"NAME_OF_{name}" for name in id2label.values())
        raise UserError(
            f"{error} If the model has the file's classes, name them in the order of its outputs: --labels {places}, each "
            "replaced by the class that it means; the model card or label2id gives the order"
        ) from None
    for note in notes:
        if note.startswith(WARNING):
            show.warn(note.removeprefix(WARNING))
        else:
            show.say(f"note: {note}")
    if left_out := found.without_text:
        of = len(found.texts) + len(left_out)
        have, are = verb(len(left_out), "has", "have"), verb(len(left_out), "is", "are")
        which = rows_in(found.table, left_out)
        show.warn(f"{len(left_out):,} of {plural(of, 'row')} {have} no text and {are} not scored: {which}")
    return found


def _prediction_columns(
    found: data.Evaluation,
    logits: np.ndarray,
    names: list[str],
    every: bool,
    thresholds: Thresholds,
    abstain: Abstainer | None,
) -> dict[str, list[Any]]:
    """Return the columns to add to the scored table; None in rows that were not scored. every: the probability of each label.

    With `abstain`, rows below its confidence have no prediction and no score.
    """
    guesses, likely, shares = decided(logits, names, thresholds)
    columns: dict[str, list[Any]] = {}

    def add(name: str, values: list[Any]) -> None:
        spread: list[Any] = [None] * len(found.table)
        for row, value in zip(found.rows.tolist(), values, strict=True):
            spread[row] = value
        columns[table_writing.free_name([*found.table.columns, *columns], name)] = spread

    sure = np.ones(len(guesses)) if abstain is None else abstain.confidences(logits, thresholds)
    kept = (np.ones(len(guesses), bool) if abstain is None else abstain.accepts(sure)).tolist()
    add("prediction", [guess if accepted else None for guess, accepted in zip(guesses, kept, strict=True)])
    add("score", [score if accepted else None for score, accepted in zip(likely.tolist(), kept, strict=True)])
    for name, values in zip(GUESS, (guesses, sure.tolist()), strict=True) if abstain is not None else ():
        add(name, values)
    for at, name in enumerate(names if every else []):
        add(f"probability_{name}", shares[:, at].tolist())
    return columns


def _seen_in_file(model: str, file: str, texts: Sequence[str], show: Show) -> tuple[dict[str, int], np.ndarray, int]:
    """Return the rows of a file that a classifier or its ancestors have seen: their number by role, and which (n,).

    The third value is the number of test rows of the run itself. Warns about rows that were seen.
    """
    hashes, known, run = row_hashes(texts), read_seen(Path(os.path.expanduser(model))), run_of(model)
    if (known is None or known.test is None) and run is not None:
        by_file = _rows_by_file(run, file, hashes)
        if known is None and by_file is None:
            show.say("leaks: this run did not record its training rows, so the file may hold some of them")
        known = replace(known, test=by_file.test) if known is not None and by_file is not None else known or by_file
    known = known or merged([])
    counts, which = seen_in(known, hashes)
    if counts:
        warning = in_words(counts, len(texts), "rows of this file")
        show.warn(f"{warning}, so scores on the whole file will be too high; scores without these rows are given too")
    return counts, which, int(np.count_nonzero(known.test_rows(hashes)))


def _rows_by_file(run: RunFolder, file: str, hashes: np.ndarray) -> SeenRows | None:
    """Return the rows of a run of an earlier version that did not record them, if `file` is its training file; else None."""
    path, split = Path(os.path.expanduser(file)), run.split
    same = path.is_file() and tables.sha256_of(path.read_bytes()) == run.record.data
    if not same or sum(map(len, split.values())) != len(hashes):
        return None
    return leaks.rows_by_id(split, [str(row) for row in range(1, len(hashes) + 1)], hashes)


def _open_by_file(run: RunFolder | None, held: int, rows: int, show: Show) -> TestRows:
    """Record the scoring of a file with `held` test rows of a run among its `rows`; return its entry in the scores."""
    found = (
        f"{held:,} of the {plural(rows, 'row')} of this file {verb(held, 'is a test row', 'are test rows')} of this run"
    )
    times: int | None = None
    if run is None:
        show.warn(f"{found}; its run folder was not found, so this opening of its test split is not recorded")
        return TestRows(rows=held, of=rows, openings=times)
    record = run.record
    try:
        known = record.rows.get("test") or record.fingerprint
        times = run_folder.record_opening(run, known, "test", "evaluate FILE", held)
        update_openings(run)
    except OSError as error:
        show.warn(f"{run.path}: this opening of its test split cannot be recorded ({error.strerror or error})")
    else:
        show.say(f"test rows scored: {found} ({times_scored(times)})")
    return TestRows(rows=held, of=rows, openings=times)


def score_run(
    path: Path, split: str, show: Show, allow_leaks: bool = False, device: str = "auto", abstain: str = ""
) -> tuple[Scores, dict[int, str]]:
    """Return the metrics of a finished run on one of its own splits; opening the test split is recorded.

    abstain: as in `FileRequest`. The threshold is that of the validation rows, so their own scores fit it too well.
    """
    run = check_own_split(path, split)
    rejecting = abstainer(str(path), abstain, show) if abstain else None
    scores, id2label = _scores_of_split(run, split, show, allow_leaks, device)
    if rejecting is not None:
        found = read_predictions(run.predictions(split), run.labels)
        scores.abstention = rejecting.scores(found.labels, found.logits, found.groups, found.thresholds)
    return scores, id2label


def _scores_of_split(
    run: RunFolder, split: str, show: Show, allow_leaks: bool, device: str
) -> tuple[Scores, dict[int, str]]:
    path = run.path
    where = device_of(device, "evaluate")
    labels = run.labels
    if split == "validation":
        scores = run.metrics.validation
        scores.warnings = of_run(run, split)
        return scores, dict(enumerate(labels))
    plan = reload_plan(run)
    if "test" not in plan.dataset.split:
        raise UserError(f"{path}: the data of this run has no test split. Name a labelled file instead")
    metrics = open_test(run, plan, show, allow_leaks=allow_leaks, device=where)
    assert metrics.test is not None
    metrics.test.warnings = metrics.warnings
    return metrics.test, plan.dataset.id2label
