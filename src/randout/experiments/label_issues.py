"""`randout label-issues`: rows of a labelled table whose labels are doubtful, by models that were trained without them.

Every row gets out-of-fold probabilities: the labelled rows of all splits are divided into folds, with copies and groups kept
together, and a model trained on the other folds predicts each fold. By default, this is a bag-of-words model, which takes seconds
and no run folder; a named student is trained in one run for each fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from randout.baselines import BAGS, Labelled
from randout.core.config import Config, TrainTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset, introduce, load
from randout.data.stratify import grouped_folds
from randout.reporting import page
from randout.reporting.label_issues import chapter
from randout.stats.confident_learning import count_wrong, joint, likely_wrong
from randout.stats.metrics import log_probabilities
from randout.stats.temperature import fit_temperature
from randout.storage.label_issues import COPIES, FILE, LIKELY_WRONG, AmbiguousPair, LabelIssue, LabelIssues, SetIssues
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder

from .label_set_issues import assess_sets
from .run.options import Options

BAG_OF_WORDS = "bag of words"
EXAMINER, SET_EXAMINER = "mnb-tfidf", "svm"  # the bags of words that ranked planted wrong labels best (docs/log.md)
FOLDS, LEAST_FOLDS = 5, 2
MOST_PAIRS = 10  # pairs of classes that are listed


def check_output(out: Path, formats: str) -> None:
    """Raise UserError if `write_label_issues` would refuse to write to `out`, or to write one of the formats."""
    page.checked_formats(formats)
    page.refuse_others(out)


def write_label_issues(found: LabelIssues | SetIssues, out: Path, formats: str = "html,md,csv") -> list[Path]:
    """Write the table of issues and a report into a folder; return the paths, the table first.

    Raises UserError if the folder holds anything but an unchanged earlier one: a table with corrections is not overwritten.
    """
    content = {FILE: found.table().encode("utf-8")}
    written = page.write([chapter(found)], out, page.checked_formats(formats), content)
    return sorted(written, key=lambda path: path.name != FILE)


def find_label_issues(config: Config, folds: int, options: Options) -> LabelIssues | SetIssues:
    """Find doubtful labels of the data of `config`.

    config: its student is trained for each fold, in runs in `options.runs`; without one, a bag-of-words model is. Raises
    UserError for data that cannot be used, or that cannot be divided into so many folds; Stopped as a training does.
    """
    if folds < LEAST_FOLDS:
        raise UserError(f"--folds {folds}: expected {LEAST_FOLDS} or more")
    if config.data.folds or config.data.train_folds:
        raise UserError("data.folds, data.train_folds: all rows are divided into folds here; leave them out")
    if config.data.sample:
        raise UserError(f"data.sample = {config.data.sample}: all rows are examined here; leave it out")
    dataset = load(config.data)
    introduce(dataset, options.show)
    student = config.student.model
    rows, logits = _by_runs(config, dataset, folds, options) if student else _by_bag_of_words(dataset, folds, options)
    if dataset.sets is not None:
        conflicts = list(_conflicting_copies(dataset))
        return assess_sets(dataset, rows, logits, conflicts, student or BAG_OF_WORDS, folds)
    return _assess(dataset, rows, logits, student or BAG_OF_WORDS, folds)


def _by_bag_of_words(dataset: Dataset, folds: int, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n,) that belong to a fold, and their out-of-fold logits (n, C) by the bag of words for the data."""
    labelled = np.flatnonzero(dataset.labels >= 0)
    names = dict(enumerate(dataset.names))
    try:
        fold = grouped_folds(dataset.strata[labelled], dataset.groups[labelled], folds, dataset.names)
    except UserError as error:
        raise UserError(f"the labelled rows cannot be divided into {folds} folds: {error}") from None
    logits = np.full((len(labelled), len(names)), np.nan)
    examiner = BAGS[EXAMINER if dataset.sets is None else SET_EXAMINER]()
    with options.show.bar("examining labels", folds, unit="folds") as advance:
        for each in range(folds):
            learned, held = labelled[fold != each], fold == each
            rows = Labelled([dataset.texts[row] for row in learned], dataset.truth(learned))
            fitted = examiner.fit(rows, rows, names, TrainTable(seed=0), lambda done: None)
            logits[held] = fitted.logits([dataset.texts[row] for row in labelled[held]])
            advance(1, "")
    return labelled[fold >= 0], logits[fold >= 0]


def _by_runs(config: Config, dataset: Dataset, folds: int, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """As `_by_bag_of_words`, by the test predictions of a run for each fold."""
    from .run import pipeline, planning  # imports PyTorch

    place = {row_id: at for at, row_id in enumerate(dataset.row_ids)}
    rows: list[int] = []
    logits: list[np.ndarray] = []
    for fold in range(1, folds + 1):
        data = config.data.model_copy(update={"folds": folds, "fold": fold})
        output = config.output.model_copy(update={"test": True})
        plan = planning.make(config.model_copy(update={"data": data, "output": output}))
        options.show.say(f"fold {fold} of {folds}")
        run: RunFolder = pipeline.execute(plan, replace(options, name="")).run
        found = read_predictions(run.predictions("test"), run.labels)
        order = [run.labels.index(name) for name in dataset.names]  # in folds, every label has training rows
        rows += [place[row_id] for row_id in found.rows]
        logits.append(found.logits[:, order])
    return np.array(rows, dtype=np.int64), np.concatenate(logits)


def _assess(dataset: Dataset, rows: np.ndarray, logits: np.ndarray, model: str, folds: int) -> LabelIssues:
    """Assess the labels of examined rows (n,) with out-of-fold logits (n, C)."""
    labels, names = dataset.labels[rows], dataset.names
    temperature = fit_temperature(logits, labels)
    shares = np.exp(log_probabilities(logits / temperature))
    wrong = likely_wrong(shares, labels)
    at_row = {int(row): shares[at] for at, row in enumerate(rows)}
    split_of = {int(row): name for name in ("train", "validation", "test") for row in dataset.split.get(name, ())}
    conflicts = list(_conflicting_copies(dataset))
    issues, listed = [], set()

    def add(row: int, reason: str, copies: int | None, suggested: str) -> None:
        by_class = at_row.get(row)
        issues.append(
            LabelIssue(
                dataset.row_ids[row],
                split_of.get(row, ""),
                reason,
                copies,
                dataset.texts[row],
                names[dataset.labels[row]],
                suggested,
                None if by_class is None else dict(zip(names, by_class.tolist(), strict=True)),
            )
        )
        listed.add(row)

    doubtful = {int(row) for row in rows[wrong]}
    for number, group in enumerate(conflicts, 1):
        suggested = names[_label_of_copies([int(dataset.labels[row]) for row in group], at_row.get(group[0]))]
        for row in group:
            add(row, f"{COPIES}, {LIKELY_WRONG}" if row in doubtful else COPIES, number, suggested)
    for at in wrong.tolist():
        if int(rows[at]) not in listed:
            add(int(rows[at]), LIKELY_WRONG, None, names[int(shares[at].argmax())])
    return LabelIssues(
        data=dataset.name,
        model=model,
        folds=folds,
        rows=int((dataset.labels >= 0).sum()),
        examined=len(rows),
        classes=names,
        accuracy=float((logits.argmax(1) == labels).mean()),
        majority=float(np.bincount(labels).max() / len(labels)),
        temperature=temperature,
        wrong=count_wrong(shares, labels, dataset.groups[rows]),
        likely_wrong=len(wrong),
        conflicting_groups=len(conflicts),
        conflicting_rows=sum(map(len, conflicts)),
        corrected=dataset.report.corrected,
        pairs=_pairs(len(rows) * joint(shares, labels), names),
        issues=issues,
    )


def _conflicting_copies(dataset: Dataset) -> Iterator[list[int]]:
    """Yield the rows of each group of copies that have different labels, in the order of the first one."""
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(dataset.labels >= 0).tolist():
        groups.setdefault(int(dataset.copies[row]), []).append(row)
    yield from (rows for rows in groups.values() if len({int(dataset.labels[row]) for row in rows}) > 1)


def _label_of_copies(labels: Sequence[int], shares: np.ndarray | None) -> int:
    """Return the most common label of copies; among equally common ones, the most probable. shares: (C,), or None."""
    counts = Counter(labels)
    most = max(counts.values())
    return max(
        (label for label, count in counts.items() if count == most), key=lambda k: 0 if shares is None else shares[k]
    )


def _pairs(expected: np.ndarray, names: Sequence[str]) -> list[AmbiguousPair]:
    """Return the pairs of classes by the expected number of rows (C, C) that have the label of the other one."""
    found = [
        AmbiguousPair(names[i], names[j], float(expected[i, j] + expected[j, i]), float(expected[i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    return sorted((pair for pair in found if pair.rows >= 0.5), key=lambda pair: -pair.rows)[:MOST_PAIRS]
