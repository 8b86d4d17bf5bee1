"""A teacher that is a file of soft labels, such as the answers of a language model: joined to the data and calibrated.

Needs no PyTorch, so that a file that cannot be used is reported before it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.config import Config
from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.data.archives import SUFFIXES
from randout.data.columns import ALL_TEXT_NAMES, named_column
from randout.data.composed_text import texts_in
from randout.data.dataset import Dataset
from randout.data.multi_label import reading_of
from randout.data.soft_label_files import SoftLabels, read_soft_labels
from randout.data.soft_label_sets import read_soft_label_sets
from randout.data.stratify import normalize
from randout.data.tables import TABLE_SUFFIXES, Table, read_table
from randout.methods.builtin import METHODS
from randout.models.sources import FileState, Source, find
from randout.reporting.soft_labels import temperature_words
from randout.stats.diagnostics import metric_name
from randout.stats.label_set_scores import SAMPLE_F1
from randout.stats.targets import score
from randout.stats.temperature import Calibration, calibrate
from randout.storage.run_record import ImportedLabels
from randout.storage.shard_folder import is_shard_folder

from .sharded_labels import ShardedLabels, SoftLabelShards, open_labels
from .thresholds import Thresholds, tuned

MOST_LOST = 0.5  # mean share of the probability on other answers from which a file is refused
LEARNED = ("train", "unlabeled")
USED = (*LEARNED, "validation")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SoftLabelFile:
    """A file of soft labels that is named as a teacher. name: as given."""

    name: str

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    def state(self) -> tuple[FileState, ...]:
        """Path, size and modification times: it differs after any change of the file. Raises UserError if it is missing."""
        try:
            stat = self.path.stat()
        except OSError:
            raise UserError(f"{self.name}: no such file of soft labels") from None
        return ((str(self.path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns),)


@dataclass(frozen=True)
class ImportedTeacher:
    """Soft labels from a file, as logits for the rows of a dataset.

    name: of the file, as given. identity: its entry in a run's identity. logits: (n, C) float32, log-probabilities (of label
    sets, log-odds) divided by the temperature; NaN for rows without a soft label, and for all test rows. record: as
    `run.json` stores it. validation: metrics on the validation rows with a soft label; empty if there are none. notes: for
    the log. shards: soft labels of texts that stay on disk, to which `record.temperature` is still to be applied.
    thresholds: of label sets, tuned on the validation rows with a soft label, as those of the student are.
    """

    name: str
    identity: dict[str, Any]
    logits: Floats
    record: ImportedLabels
    validation: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shards: ShardedLabels | None = None
    thresholds: Thresholds = None

    @property
    def label(self) -> str:
        """Short name, for display."""
        return Path(self.name).name


def is_soft_label_file(name: str) -> bool:
    """Return whether a teacher's name is that of a table (a file, or a name that ends as one does) or of labelled shards."""
    path = Path(name).expanduser()
    return (
        is_shard_folder(name)
        or path.is_file()
        or (path.suffix.lower() in (*TABLE_SUFFIXES, *SUFFIXES) and not path.exists())
    )


def find_teacher(
    name: str, revision: str = "", methods: Collection[str] = ()
) -> Source | SoftLabelFile | SoftLabelShards:
    """Find the model or the file of soft labels that a teacher's name means. Raises UserError if there is none.

    methods: names of those that learn from it. One that runs the teacher itself is an error if the model is a decoder.
    """
    if not is_soft_label_file(name):
        found_model = find(name, revision, decoders=True)
        if found_model.is_decoder:
            _check_logits_suffice(
                name, "reads inside the teacher, which a decoder does not support", "an encoder", methods
            )
        return found_model
    found = SoftLabelShards(name) if is_shard_folder(name) else SoftLabelFile(name)
    found.state()
    return found


def check_imported(config: Config, dataset: Dataset) -> list[str]:
    """Read the files of soft labels that a configuration names, and return the digest of each.

    Raises UserError for one that cannot be used.
    """
    found = []
    for name in (config.teacher.model, *config.teacher.more):
        if name not in ("auto", "none") and is_soft_label_file(name):
            file = SoftLabelShards(name) if is_shard_folder(name) else SoftLabelFile(name)
            found.append(import_teacher(file, config, dataset).record.sha256)
    return found


def import_teacher(file: SoftLabelFile | SoftLabelShards, config: Config, dataset: Dataset) -> ImportedTeacher:
    """Read a file of soft labels, join it to the rows of `dataset`, and fit its temperature.

    Raises UserError if a method of `config` needs more than soft labels, if the file has no clear form or a wrong value
    (with its row), if no training row has a soft label, or if most of the probability is on other answers.
    """
    _check_use(file, config)
    if isinstance(file, SoftLabelShards):
        return _import_shards(file, config, dataset)
    table = _table(file.state()[0], file.name, config.data.encoding)
    table, key = _keyed(table, config, dataset)
    soft = _soft_labels(table, config, dataset, key)
    if soft.form.startswith(("labels alone", "label sets alone")) and table.sha256 in (
        dataset.sha256,
        dataset.labelled_sha256,
    ):
        raise UserError(
            f"{file.name}: this is the labelled data itself, so its labels teach nothing more. Name a file with soft labels"
        )
    joined = _join(soft, dataset, table, config.data.id_column)
    differing = _differing_texts(table, soft, joined, dataset) if config.data.id_column else []
    soft_rows = soft.logits[joined.place[joined.rows]]
    lost = soft.lost[joined.place[joined.rows]]
    lost_of = "the probability" if dataset.sets is None else "the labels"
    _check_lost(file.name, soft, float(lost.mean()), lost_of)
    usable = ~np.isnan(soft_rows).any(1)
    rows, log_p = joined.rows[usable], soft_rows[usable]
    if not np.isin(rows, _rows_of(dataset, LEARNED)).any():
        raise UserError(
            f"{file.name}: no training row and no unlabelled row has a soft label, so there is nothing to learn"
        )
    spread = np.full((len(dataset.texts), len(dataset.id2label)), np.nan)
    spread[rows] = log_p
    asked = config.teacher.temperature
    temperature, found = _temperature(asked, dataset, spread)
    logits = (spread / temperature).astype(np.float32)
    validation, thresholds = _validation_scores(dataset, logits) if found else ({}, None)
    record = ImportedLabels(
        file=Path(file.name).name,
        sha256=table.sha256,
        form=soft.form,
        joined_by=config.data.id_column or "text",
        rows={name: int(np.isin(index, rows).sum()) for name, index in dataset.split.items() if name in USED},
        of={name: len(index) for name, index in dataset.split.items() if name in USED},
        test_rows=joined.test,
        unmatched=joined.unmatched,
        lost=float(lost.mean()),
        temperature=temperature,
        fitted=found.fitted if found else False,
        given=asked != "auto",
        scored=found.rows if found else 0,
        wrong=found.wrong if found else 0,
        decisions=found.decisions if found and dataset.sets is not None else None,
        log_loss=list(found.log_loss) if found else [],
        calibration_error=list(found.calibration_error) if found else [],
    )
    identity = {"model": table.sha256, "joined_by": record.joined_by, "temperature": asked}
    by = f"column {key!r}" if config.data.id_column else "exact text" + f" (columns {key})" * bool(dataset.fields)
    notes = _notes(record, soft, by, len(soft_rows) - len(rows), validation, lost_of)
    return ImportedTeacher(file.name, identity, logits, record, validation, (*notes, *differing), thresholds=thresholds)


def _soft_labels(table: Table, config: Config, dataset: Dataset, key: str) -> SoftLabels:
    """Read the soft labels of a file for the kind of target that a dataset has. key: the column by which they are joined."""
    names, label = list(dataset.id2label.values()), dataset.columns["label"] or ""
    if dataset.sets is None:
        return read_soft_labels(table, names, key, label)
    by = dataset.ids if config.data.id_column else dataset.texts
    tested = {by[row] for row in dataset.split.get("test", [])}
    return read_soft_label_sets(table, names, key, label, reading_of(config.data), tested - {None})


def _import_shards(file: SoftLabelShards, config: Config, dataset: Dataset) -> ImportedTeacher:
    """Match sharded soft labels with the texts of `data.unlabeled`. The rows of the dataset itself have no soft labels."""
    if config.teacher.more or file.name != config.teacher.model:
        raise UserError(f"{file.name}: sharded soft labels cannot be combined with a further teacher (teacher.more)")
    labels = open_labels(file.name, config.data.unlabeled, dataset.id2label, dataset.sets is not None)
    if not labels.rows:
        raise UserError(f"{file.name}: no row has a soft label, so there is nothing to learn")
    asked = config.teacher.temperature
    temperature = 1.0 if asked == "auto" else float(asked)
    record = ImportedLabels(
        file=Path(file.name).name,
        sha256=labels.sha256,
        form=f"sharded logits of {labels.manifest.model_name}",
        joined_by="shard and row",
        rows={"unlabeled": labels.rows},
        of={"unlabeled": labels.manifest.rows},
        test_rows=0,
        unmatched=0,
        lost=0.0,
        temperature=temperature,
        fitted=False,
        given=asked != "auto",
        scored=0,
        wrong=0,
    )
    notes = (
        f"teacher {record.file}: logits of {labels.rows:,} of {labels.manifest.rows:,} texts in "
        f"{plural(len(labels.shards), 'shard')}, by {labels.manifest.model_name}; labelled rows learn from the gold label only",
        f"teacher {record.file}: {temperature_words(record)}",
    )
    identity = {"model": labels.sha256, "joined_by": record.joined_by, "temperature": asked}
    logits = np.full((len(dataset.texts), len(dataset.id2label)), np.nan, np.float32)
    return ImportedTeacher(file.name, identity, logits, record, notes=notes, shards=labels)


def _temperature(asked: float | str, dataset: Dataset, log_p: np.ndarray) -> tuple[float, Calibration | None]:
    """Return the temperature of all rows, and its fit on the validation rows that have soft labels, if there are any.

    asked: `teacher.temperature`. log_p: (n, C), NaN for rows without soft labels.
    """
    given = None if asked == "auto" else float(asked)
    held = _scored(dataset, log_p)
    if len(held):
        found = calibrate(log_p[held], _gold(dataset, held), given)
        return found.temperature, found
    return 1.0 if given is None else given, None


def _gold(dataset: Dataset, rows: NDArray[np.int64]) -> np.ndarray:
    """Return the gold labels (n,) of rows or, of label sets, (n, C) which of the labels that can be predicted each has."""
    return dataset.labels[rows] if dataset.sets is None else dataset.truth(rows)[:, : len(dataset.id2label)]


def _validation_scores(dataset: Dataset, logits: np.ndarray) -> tuple[dict[str, Any], Thresholds]:
    """Score the soft labels on the validation rows, and return the thresholds with which label sets are scored.

    Labels that no training row has count as errors.
    """
    rows = dataset.split["validation"]
    rows = rows[~np.isnan(logits[rows]).any(1)]
    limits, groups = tuned(dataset, rows, logits[rows]), dataset.groups[rows]
    truth = dataset.truth(rows)
    found = score(truth, logits[rows], dataset.id2label, groups, unseen=dataset.unseen, thresholds=limits)
    return found, limits


@lru_cache(maxsize=4)
def _table(state: FileState, name: str, encoding: str) -> Table:
    """Read a table in a given state; cached, because a command checks it first, and a study plans many runs with it."""
    return read_table(name, encoding)


def _check_use(file: SoftLabelFile | SoftLabelShards, config: Config) -> None:
    """Raise UserError for settings that need more of the first teacher than soft labels."""
    if file.name != config.teacher.model:
        return
    why = "runs the teacher on every text, and a file holds only its answers"
    _check_logits_suffice(file.name, why, "a model", config.methods)
    if config.teacher.labels:
        raise UserError(
            f"--teacher-labels: {file.name} is a file of soft labels, which are matched to the classes by name. Remove the "
            "option, and rename the columns or labels in the file if they have other names"
        )


def _check_logits_suffice(teacher: str, why: str, instead: str, methods: Collection[str]) -> None:
    """Raise UserError if one of `methods` needs more of a teacher than stored logits. why, instead: for the message."""
    for name in methods:
        if name in METHODS and METHODS[name].teacher == "model":
            able = ", ".join(sorted(one for one in METHODS if METHODS[one].teacher == "logits"))
            raise UserError(
                f"--teacher {teacher}: methods.{name} {why}. Name {instead}, or use a method that learns from stored soft "
                f"labels: {able}"
            )


def _keyed(table: Table, config: Config, dataset: Dataset) -> tuple[Table, str]:
    """Return the file and its column by which rows are joined. Raises UserError.

    Inputs of several columns are joined by all of these, which become one column of the table.
    """
    if config.data.id_column:
        return table, named_column(table, config.data.id_column, "--id-column")
    own = dataset.columns["text"] or ""
    if dataset.fields:
        columns = (own, *dataset.fields.columns)
        if missing := [column for column in columns if column not in table.columns]:
            raise UserError(
                f"--teacher {table.name}: the data are {dataset.fields.words}, so soft labels are joined by "
                f"{', '.join(map(repr, columns))}, and the file has no column {missing[0]!r}. Add it, or name a column of ids in "
                "both files with --id-column"
            )
        for column in columns:
            named_column(table, column, "--text-column")  # refuses a name that occurs twice
        rest = {name: values for name, values in table.columns.items() if name not in columns}
        key = ", ".join(columns)
        return replace(table, columns={key: dataset.fields.read_table(table, own), **rest}), key
    if own in table.columns:
        return table, named_column(table, own, "--text-column")
    found = [name for word in ALL_TEXT_NAMES for name in table.columns if name.lower() == word]
    if len(found) != 1:
        raise UserError(
            f"{table.name}: no column {own!r} with the texts of the data, by which soft labels are joined. Add it, or name a "
            f"column of ids in both files with --id-column. Columns: {', '.join(map(repr, table.columns))}"
        )
    return table, found[0]


@dataclass(frozen=True)
class _Joined:
    """rows: rows of the dataset that have an entry in the file, without test rows. place: (n,) its index; -1 for none.

    test: entries of the file that belong to test rows. unmatched: those that belong to no row.
    """

    rows: NDArray[np.int64]
    place: NDArray[np.int64]
    test: int
    unmatched: int


def _join(soft: SoftLabels, dataset: Dataset, table: Table, id_column: str) -> _Joined:
    """Join the entries of a file to the rows of a dataset. Raises UserError if no row outside the test split has one."""
    at = {key: index for index, key in enumerate(soft.keys)}
    keys: Sequence[str | None] = dataset.ids if id_column else dataset.texts
    place = np.array([-1 if key is None else at.get(key, -1) for key in keys], dtype=np.int64)
    if id_column:
        _check_ids(dataset, place, id_column)
    used = _rows_of(dataset, USED)
    rows = used[place[used] >= 0]
    tested = dataset.split.get("test", used[:0])
    if not (place >= 0).any():
        raise _no_match(soft, [key for key in keys if key is not None], table.name, id_column)
    if not len(rows):
        raise UserError(
            f"{table.name}: all rows that match the data are test rows, which are never used for training. Label the training "
            "texts"
        )
    found = set(place[place >= 0].tolist())
    tests = len(set(place[tested][place[tested] >= 0].tolist()))
    return _Joined(rows, place, tests, len(soft.keys) - len(found))


def _rows_of(dataset: Dataset, splits: Collection[str]) -> NDArray[np.int64]:
    return np.sort(np.concatenate([dataset.split[name] for name in splits if name in dataset.split]))


def _check_ids(dataset: Dataset, place: NDArray[np.int64], column: str) -> None:
    """Raise UserError if an id of the file belongs to rows of the data with different texts."""
    first: dict[int, int] = {}
    for row in np.flatnonzero(place >= 0).tolist():
        before = first.setdefault(int(place[row]), row)
        if dataset.texts[before] != dataset.texts[row]:
            raise UserError(
                f"--id-column {column}: the rows {dataset.row_ids[before]} and {dataset.row_ids[row]} of the data have the "
                f"same id {dataset.ids[row]!r:.40} and different texts. Number the rows of all files without repeats, or join "
                "by text"
            )


def _differing_texts(table: Table, soft: SoftLabels, joined: _Joined, dataset: Dataset) -> list[str]:
    """Compare the texts of rows that are joined by id, if the file has them. Returns a note if some differ.

    Raises UserError if most differ: the ids are then those of other rows.
    """
    names = filter(None, (dataset.columns["text"], dataset.fields.pair))
    columns = {at: table.columns[name] for at, name in enumerate(names) if name in table.columns}
    pairs = {row: soft.rows[joined.place[row]] for row in joined.rows.tolist()}
    other = [
        row
        for row, place in pairs.items()
        if any(texts[place - 1] not in (None, "", texts_in(dataset.texts[row])[at]) for at, texts in columns.items())
    ]
    if not other:
        return []
    first = other[0]
    found = (
        f"{len(other):,} of {plural(len(pairs), 'row')} joined by id {verb(len(other), 'has', 'have')} another text than in the "
        f"data, the first with id {dataset.ids[first]!r:.40} ({table.row(pairs[first])})"
    )
    if len(other) > len(pairs) / 2:
        raise UserError(f"{table.name}: {found}. The ids number other rows; correct them, or join by text")
    return [f"teacher {Path(table.name).name}: {found}"]


def _no_match(soft: SoftLabels, keys: Sequence[str], file: str, id_column: str) -> UserError:
    """Return the error for a file without a row of the data, with an example of each side."""
    what = f"ids ({id_column!r})" if id_column else "texts"
    theirs, ours = (repr(some[0])[:80] if some else "none" for some in (soft.keys, list(keys)))
    hint = (
        "Write the texts unchanged, or join by ids: --id-column NAME"
        if not id_column
        else "Write the ids as in the data"
    )
    alike = {normalize(key) for key in soft.keys} & {normalize(key) for key in keys}
    if alike:
        hint = f"{plural(len(alike), 'row')} would match if case, white space and punctuation were ignored. {hint}"
    return UserError(
        f"{file}: none of its {plural(len(soft.keys), 'row')} has one of the {what} of the data. In the file: {theirs}; in the "
        f"data: {ours}. {hint}"
    )


def _check_lost(file: str, soft: SoftLabels, lost: float, lost_of: str) -> None:
    if lost <= MOST_LOST:
        return
    shown = ", ".join(f"{name!r:.40}" for name in list(soft.unknown)[:5]) or "none"
    raise UserError(
        f"{file}: {lost:.0%} of {lost_of} ({soft.form}) is on answers that are no class of the data, so little is left "
        f"to learn from. The most frequent of them: {shown}. Rename them, or ask for exactly the names of the classes"
    )


def _scored(dataset: Dataset, logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the validation rows that have a soft label, and a gold label that can be predicted."""
    held = dataset.split["validation"]
    learnt = dataset.labels[held] < len(dataset.id2label) if dataset.sets is None else True
    return held[~np.isnan(logits[held]).any(1) & learnt]


def _notes(
    record: ImportedLabels, soft: SoftLabels, by: str, unusable: int, validation: dict[str, Any], lost_of: str
) -> list[str]:
    """Return what the log says about a file: form, rows, what is not used, score, and temperature.

    by: what the rows are joined by. lost_of: what the lost share is one of.
    """
    start = f"teacher {record.file}"
    counts = ", ".join(f"{count:,} of {record.of[name]:,} {name} rows" for name, count in record.rows.items())
    notes = [f"{start}: soft labels from {soft.form}, joined by {by}: {counts}"]
    notes += [f"{start}: {note}" for note in soft.notes]
    if unusable:
        notes.append(f"{start}: {plural(unusable, 'matched row')} {verb(unusable, 'has', 'have')} no usable soft label")
    if without := record.of["train"] - record.rows["train"]:
        learn = verb(without, "learns", "learn")
        notes.append(
            f"{start}: {plural(without, 'training row')} without a soft label {learn} from the gold label only"
        )
    if without := record.of.get("unlabeled", 0) - record.rows.get("unlabeled", 0):
        notes.append(f"{start}: nothing is learned from {plural(without, 'unlabelled row')} without a soft label")
    if record.test_rows:
        are = verb(record.test_rows, "is a test row", "are test rows")
        notes.append(f"{start}: {plural(record.test_rows, 'row')} of the file {are} and not used")
    if record.unmatched:
        match = verb(record.unmatched, "matches", "match")
        notes.append(f"{start}: {plural(record.unmatched, 'row')} of the file {match} no row of the data")
    if record.lost > 0:
        shown = f" ({', '.join(f'{name!r:.40}' for name in list(soft.unknown)[:5])})" if soft.unknown else ""
        then = "; the rest is divided by its sum" if lost_of == "the probability" else ", which are left out"
        notes.append(
            f"{start}: on average {record.lost:.2%} of {lost_of} is on other answers than the classes{shown}{then}"
        )
    if validation:
        metric = "accuracy" if "thresholds" not in validation else SAMPLE_F1
        ends = validation["intervals"].get(metric)
        between = f", 95 % interval {ends[0]:.2%} to {ends[1]:.2%}" if ends else ""
        rows = plural(validation["rows"], "validation row")
        if metric == "accuracy":
            more = f"; always predicting {validation['majority_label']!r:.60} has {validation['majority_baseline']:.2%}"
        else:
            more = ", which also chose the threshold of each label"
        notes.append(f"{start}: validation {metric_name(metric)} {validation[metric]:.2%}{between}, on {rows}{more}")
    return [*notes, f"{start}: {temperature_words(record)}"]
