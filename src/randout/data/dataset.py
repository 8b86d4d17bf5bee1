"""Loads a labelled table as a `Dataset`: texts, class indices, duplicate groups, and a split that keeps test rows apart.

`load` reads, checks and splits; `describe` summarizes the result. Sources are opened by `sources`, files parsed by
`tables`, named datasets resolved by `named_datasets`, columns and labels checked by `columns` and `labels`, and rows
assigned to splits by `splits` and `stratify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from randout.core.config import Config, DataTable
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.label_sets import JOINED, LabelSets, members_of
from randout.core.wording import WARNING, plural, verb
from randout.data.row_hashes import Hashes, row_hashes
from randout.data.shards import is_sharded

from . import columns as cols
from . import labels as label_rules
from . import toml_source
from .archives import opened_file
from .columns import row_list
from .composed_text import content_of, is_pair, swapped
from .corrections import Corrections, corrected_parts
from .multi_label import SetReading, numbered, reading_of, separator_of
from .row_weights import Floats, weights_of
from .soft_label_files import key_of
from .sources import (
    SPLIT_VALUES,
    Columns,
    Labels,
    Opened,
    Part,
    choose_columns,
    fields_of,
    given_split,
    label_names,
    open_sources,
    read_part,
    read_unlabeled,
)
from .splits import assign, check_split, trained_classes_first, usable_roles
from .stratify import Ints, Strata, copies_of, grouped_folds, merge_groups, normalize, unordered_copies_of
from .streaming import Blocks, blocks_of, whole
from .summary import DataReport, make_report
from .table_writing import appended, write_table
from .tables import AUTO, FORMATS, Table, sha256_of
from .text_fields import NONE, TextFields, choose_pair_text
from .views import Views

__all__ = [
    "DataReport",
    "Dataset",
    "Table",
    "appended",
    "data_identity",
    "describe",
    "introduce",
    "load",
    "load_evaluation",
    "open_evaluation",
    "open_texts",
    "row_list",
    "texts_of",
    "write_table",
]

VIEW_SETTINGS = {name for name in DataTable.model_fields if name.startswith("view")}  # `load` does not read them
OnBlock = Callable[[Table], None]  # called with each block that was read


@dataclass(frozen=True)
class Dataset:
    """n rows and their split: rows of the main file in order, then rows of further files, unlabelled ones last."""

    texts: list[str]  # n; `composed_text.ComposedText` if an input has further columns
    labels: Ints  # (n,) index into id2label, then into unseen, or into `sets`; -1 for unlabelled rows
    groups: Ints  # (n,) equal for rows connected by copies or the group column, which stay in one split
    copies: Ints  # (n,) equal for rows with the same normalised text
    row_ids: list[str]  # "17" is data row 17 of the main file, "test.csv#17" that of another file
    id2label: dict[int, str]
    split: dict[str, Ints]  # "train", "validation", and if present "test", "unlabeled", "views" -> sorted positions
    sha256: str  # of the file; if there are several, of "role hash" lines
    name: str
    columns: dict[str, str | None]  # "text", "label", "group", "split" -> the column used
    report: DataReport
    labelled_sha256: str = ""  # as `sha256`, without unlabelled files
    about: str = ""
    max_length: int | None = None  # recommended maximum length in tokens
    unseen: tuple[str, ...] = ()  # labels without a training row, which no prediction can match
    ids: tuple[str | None, ...] = ()  # (n,) values of the id column, None for a row without one; empty: no id column
    lines: Ints = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # (n,) where each row starts in its file; 0: unknown
    weights: Floats = field(
        default_factory=lambda: np.zeros(0)
    )  # (n,) of each row in the training loss, as given (`row_weights.normalised`); empty: equal weights
    views: Views | None = None  # augmented views of training texts, which are the last rows
    fields: TextFields = NONE  # the columns of an input besides the text column
    sharded_rows: int = 0  # further texts to learn from that stay on disk (`data.unlabeled` as a folder of shards)
    sets: LabelSets | None = None  # multi-label data: the label sets that `labels` refers to, over `names`
    separator: str = (
        JOINED  # between labels where a set is written in one cell: that of the label column, if it has one
    )

    def truth(self, rows: Ints) -> np.ndarray:
        """Return the targets of labelled rows: (n,) class indices or, of multi-label data, (n, C) bool over `names`."""
        return self.labels[rows] if self.sets is None else self.sets.of_rows(self.labels[rows])

    @property
    def strata(self) -> np.ndarray:
        """By what rows are stratified: (n,) class indices, or (n, C) bool."""
        return self.labels if self.sets is None else self.sets.of_rows(self.labels)

    @property
    def names(self) -> list[str]:
        """All labels: the learnable classes in order, then the unseen ones."""
        return [*self.id2label.values(), *self.unseen]

    def with_validation_in_training(self) -> Dataset:
        """Return a copy whose validation rows are moved to the training rows."""
        rows = np.sort(np.concatenate([self.split["train"], self.split["validation"]]))
        return replace(self, split=self.split | {"train": rows, "validation": np.zeros(0, np.int64)})

    @property
    def unlabelled(self) -> Ints:
        """Rows without a gold label that a student may learn from: unlabelled texts, then views."""
        return np.concatenate(
            [self.split.get(name, np.zeros(0, np.int64)) for name in ("unlabeled", "views")], dtype=np.int64
        )

    def with_views(self, views: Views) -> Dataset:
        """Return a copy with views of its training rows as further rows, without labels; their split is "views"."""
        n, more = len(self.texts), len(views.made)
        sources = np.array([view.source for view in views.made], dtype=np.int64)
        first_free = int(self.copies.max(initial=-1)) + 1
        return replace(
            self,
            texts=[*self.texts, *(view.text for view in views.made)],
            labels=np.concatenate([self.labels, np.full(more, -1, np.int64)]),
            groups=np.concatenate([self.groups, self.groups[sources]]),
            copies=np.concatenate([self.copies, np.arange(first_free, first_free + more, dtype=np.int64)]),
            row_ids=[*self.row_ids, *(f"{self.row_ids[view.source]} view {view.number}" for view in views.made)],
            split=self.split | {"views": np.arange(n, n + more, dtype=np.int64)},
            ids=(*self.ids, *[None] * more) if self.ids else (),
            lines=np.concatenate([self.lines, np.zeros(more, np.int64)]) if len(self.lines) else self.lines,
            weights=np.concatenate([self.weights, self.weights[sources]]) if len(self.weights) else self.weights,
            report=replace(self.report, views=views.counts, views_left_out=views.left_out),
            views=views,
        )

    @cached_property
    def hashes(self) -> Hashes:
        """(n,) row hashes by which later runs recognise these rows (see `storage.seen_rows`)."""
        return row_hashes(self.texts)


def load(table: DataTable) -> Dataset:
    """Read and split the labelled table that `[data]` describes.

    A split column or the files `validation` and `test` take precedence over a drawn split. A missing validation split is
    taken from the training rows, never from the test rows. With folds, fold number `fold` of the labelled rows of all files is
    the test split, and a share of the other rows is the validation split; the folds depend on `split_seed` and `folds` only.

    Raises UserError naming file, row or line, and column for anything that cannot be used.
    """
    if not table.source:
        raise UserError("no data given. Name a file or a dataset, such as reviews.csv")
    check_split(table)
    files = {role: path for role in ("validation", "test", "unlabeled") if (path := getattr(table, role))}
    if is_sharded(files.get("unlabeled", "")):
        del files["unlabeled"]  # read block by block while the student's tokens are stored
    held_out = files.keys() - {"unlabeled"}
    notes: list[str] = []
    opened = open_sources(table.source, files, notes, table.encoding)
    text, label, group = (column or None for column in (table.text_column, table.label_column, table.group_column))
    fields = fields_of(opened, table.text_pair_column, table.prefix_columns)
    columns = choose_columns(opened, text, label, group, notes, reading_of(table), fields)
    given, found = _labelled(opened, columns, table.labels or None, notes)
    separator = (columns.sets and separator_of(given[0].table, columns.label, columns.sets)) or JOINED
    corrections = _corrections(given, table.corrections, found, notes, separator)
    parts = given if corrections is None else corrections.parts
    if not columns.named_text and cols.are_numbers(parts[0].texts):
        notes.append(WARNING + cols.numbers_warning(columns.text))
    split_column = table.split_column or (None if held_out else opened.reading.split_column)
    roles = usable_roles(table, given_split(parts, split_column, notes, bool(table.folds)), notes)
    if "unlabeled" in files:
        parts.append(read_unlabeled(opened, columns, notes))
    used = {"text": columns.text, "label": columns.label, "group": columns.group}
    used["split"] = None if roles is None else split_column
    if table.weight_column:
        used["weight"] = table.weight_column
    used |= _set_columns(columns.sets) if columns.sets else {}
    used |= columns.fields.named()
    targets = _targets(parts, found, roles)

    def divide(groups: Ints) -> dict[str, Ints]:
        by = targets if corrections is None else _targets_before(given, found, roles) or targets
        return assign(table, by.strata, groups, roles, [*by.id2label.values(), *by.unseen], notes)

    ids, weights = _ids(parts, table.id_column), weights_of(parts, table.weight_column)
    dataset = _assemble(parts, targets, divide, opened, used, notes, ids, weights)
    dataset = replace(dataset, fields=columns.fields, separator=separator)
    dataset = dataset if corrections is None else _with_corrections(dataset, corrections)
    return without_training_fold(dataset, table.train_folds, table.train_fold) if table.train_folds else dataset


def _set_columns(reading: SetReading) -> dict[str, str | None]:
    """Return how label sets are written, as a run records it with its columns."""
    return {"separator": reading.separator, "indicators": "\n".join(reading.columns)}


@dataclass(frozen=True)
class _Targets:
    """The targets of the labelled rows, as in `Dataset`."""

    y: Ints
    id2label: dict[int, str]
    unseen: tuple[str, ...]
    sets: LabelSets | None = None

    @property
    def strata(self) -> Strata:
        """By what rows are stratified."""
        return self.y if self.sets is None else self.sets.of_rows(self.y)


def _targets(parts: Sequence[Part], order: Labels | None, roles: list[str] | None) -> _Targets:
    """Number the classes or label sets of the labelled rows. order: the classes in order, if determined."""
    labelled = [part for part in parts if part.role != "unlabeled"]
    names = list(order.values()) if isinstance(order, Mapping) else order
    if parts[0].sets is not None:
        sets = [labels for part in labelled for labels in part.sets or ()]
        rows, id2label, unseen = numbered(sets, roles, names, parts[0].table.name)
        known, y = LabelSets.of(rows)
        return _Targets(y, id2label, unseen, known)
    id2label = label_rules.label_order([label for part in labelled for label in part.labels], names)
    label2id = {label: i for i, label in id2label.items()}
    y = np.array([label2id[label] for part in labelled for label in part.labels], dtype=np.int64)
    return _Targets(*trained_classes_first(parts, y, roles, id2label))


def _targets_before(parts: Sequence[Part], order: Labels | None, roles: list[str] | None) -> _Targets | None:
    """Return the targets before corrections, by which rows are split, so that no correction moves a row to another split.

    None if the table cannot be used without its corrections, such as one without a row of a listed class.
    """
    try:
        return _targets(parts, order, roles)
    except UserError:
        return None


def check_one_label(dataset: Dataset, what: str, why: str) -> None:
    """Raise UserError for multi-label data. what: the command or setting that does not support them; why: the reason."""
    if dataset.sets is not None:
        raise UserError(f"{what}: not supported for multi-label data: {why}")


def training_folds(dataset: Dataset, folds: int) -> Ints:
    """Return (n,) the fold of each training row, from 0; -1 for all other rows and for groups of rare classes.

    Folds are stratified and keep groups whole (`stratify.grouped_folds`). They depend on the labelled rows only. Raises
    UserError if the training rows cannot be split into so many folds.
    """
    rows = dataset.split["train"]
    found = np.full(len(dataset.texts), -1, dtype=np.int64)
    found[rows] = grouped_folds(dataset.strata[rows], dataset.groups[rows], folds, list(dataset.id2label.values()))
    return found


def without_training_fold(dataset: Dataset, folds: int, fold: int) -> Dataset:
    """Return the dataset without one fold of its training rows, which then belong to no split. fold: counted from 1."""
    try:
        left_out = training_folds(dataset, folds) == fold - 1
    except UserError as error:
        raise UserError(f"the training rows cannot be split into {folds} folds: {error}") from None
    rows = dataset.split["train"]
    split = dataset.split | {"train": rows[~left_out[rows]]}
    note = f"fold {fold} of {folds} of the training rows ({int(left_out.sum()):,} rows) is left out"
    report = make_report(
        dataset.labels,
        dataset.copies,
        dataset.groups,
        split,
        dataset.id2label,
        dataset.unseen,
        dataset.report.unlabeled_left_out,
        [*dataset.report.notes, note],
        dataset.sets,
    )
    return replace(dataset, split=split, report=replace(report, corrected=dataset.report.corrected))


def _ids(parts: Sequence[Part], column: str) -> tuple[str | None, ...]:
    """Return the id of each row of all parts; empty without an id column. Raises UserError if the main table lacks it."""
    if not column:
        return ()
    cols.named_column(parts[0].table, column, "--id-column")
    return tuple(key_of(value) for part in parts for value in part.table.columns.get(column, [None] * len(part.texts)))


class Datasets:
    """Loads the datasets of a study's cells and caches the last one."""

    def __init__(self) -> None:
        self.key = ""
        self.held: Dataset | None = None

    def read(self, config: Config) -> Dataset:
        """Load the dataset of `config`, unless it is the cached one."""
        key = config.data.model_dump_json(exclude=VIEW_SETTINGS)
        if self.held is None or key != self.key:
            self.key, self.held = key, load(config.data)
        return self.held


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what a dataset and its split contribute to a run's fingerprint. Views are not part of the split."""
    split = {
        name: hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        for name, rows in dataset.split.items()
        if name != "views"
    }
    data: dict[str, Any] = {
        "sha256": dataset.sha256,
        "columns": dataset.columns,
        "labels": list(dataset.id2label.values()),
    }
    if dataset.sets is not None:
        data["multi_label"] = True
    return {"data": data, "split": split}


def _corrections(
    parts: Sequence[Part], path: str, order: Labels | None, notes: list[str], separator: str
) -> Corrections | None:
    """Return the corrections of a file, applied to the labelled rows; None if no file is named. Raises UserError."""
    known = list(order.values()) if isinstance(order, Mapping) else order
    return corrected_parts(parts, path, known, notes, separator) if path else None


def _with_corrections(dataset: Dataset, corrections: Corrections) -> Dataset:
    """Return the dataset with the corrections, which changed its labels, in its digests and its report."""
    report = replace(dataset.report, corrected=corrections.changed)
    if not corrections.digest:
        return replace(dataset, report=report)
    whole, labelled = (
        sha256_of(f"{one} {corrections.digest}".encode()) for one in (dataset.sha256, dataset.labelled_sha256)
    )
    return replace(dataset, report=report, sha256=whole, labelled_sha256=labelled)


def _labelled(
    opened: Opened, columns: Columns, labels: Labels | None, notes: list[str]
) -> tuple[list[Part], Labels | None]:
    """Return the labelled rows of every file, and the classes in order, if they are determined."""
    classes = label_names(opened, columns.label, labels, columns.sets is not None)
    parts = [read_part(opened, "main", columns, classes, notes)]
    first = {*parts[0].labels, *(label for labels in parts[0].sets or () for label in labels)}
    for role in opened.tables:
        if role not in ("main", "unlabeled"):
            parts.append(read_part(opened, role, columns, classes, notes, found_in_main=first))
    return parts, classes


def _assemble(
    parts: Sequence[Part],
    targets: _Targets,  # of the labelled rows, which come first
    divide: Callable[[Ints], dict[str, Ints]],  # groups (n,) of the labelled rows -> split
    opened: Opened,
    columns: dict[str, str | None],
    notes: list[str],
    ids: tuple[str | None, ...],
    weights: Floats,
) -> Dataset:
    """Find copies and groups, split, select the unlabelled rows, and create the report."""
    texts = [text for part in parts for text in part.texts]
    row_ids = [row_id for part in parts for row_id in part.row_ids]
    lines = np.concatenate([np.asarray(part.table.lines or [0] * len(part.texts), np.int64) for part in parts])
    labels, id2label, unseen, n = targets.y, targets.id2label, targets.unseen, len(targets.y)
    copies = copies_of(texts)
    groups = _groups(texts, copies, [value for part in parts for value in part.groups])
    split = divide(groups[:n])
    notes.extend(_swapped_pairs(texts[:n], split))
    left_out: dict[str, int] = {}
    if len(texts) > n:
        kept, left_out = _choose_unlabeled(texts, copies, split, n)
        split["unlabeled"] = np.arange(n, n + len(kept), dtype=np.int64)
        rows = [*range(n), *kept.tolist()]
        texts, row_ids, lines = [texts[i] for i in rows], [row_ids[i] for i in rows], lines[rows]
        labels = np.concatenate([labels, np.full(len(kept), -1, dtype=np.int64)])
        copies, groups = copies[rows], groups[rows]
        ids = tuple(ids[i] for i in rows) if ids else ()
        weights = weights[rows] if len(weights) else weights
    labelled = _sha256([part for part in parts if part.role != "unlabeled"], opened.one_file)
    return Dataset(
        texts=texts,
        labels=labels,
        groups=groups,
        copies=copies,
        row_ids=row_ids,
        id2label=id2label,
        split=split,
        sha256=_sha256(parts, False) if "unlabeled" in opened.tables else labelled,
        name=opened.name,
        columns=columns,
        report=make_report(labels, copies, groups, split, id2label, unseen, left_out, notes, targets.sets),
        labelled_sha256=labelled,
        about=opened.reading.about,
        max_length=opened.reading.max_length,
        unseen=unseen,
        ids=ids,
        lines=lines,
        weights=weights,
        sets=targets.sets,
    )


def _sha256(parts: Sequence[Part], one_file: bool) -> str:
    if one_file:
        return parts[0].table.sha256
    return sha256_of("\n".join(f"{part.role} {part.table.sha256}" for part in parts).encode())


def _groups(texts: Sequence[str], copies: Ints, values: Sequence[str | None]) -> Ints:
    """Return (n,) group numbers: copies merged with the values of the group column; None is its own group.

    The same two texts in either order are in one group.
    """
    if any(map(is_pair, texts)):
        copies = merge_groups(copies, unordered_copies_of(texts))
    if all(value is None for value in values):
        return copies.copy()
    seen: dict[Any, int] = {}
    keys: list[Any] = [(i,) if value is None else value for i, value in enumerate(values)]
    return merge_groups(copies, np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64))


def _swapped_pairs(texts: Sequence[str], split: Mapping[str, Ints]) -> list[str]:
    """Return the notes on pairs whose other order is a row too: they are other rows, but not independent ones."""
    keys = [normalize(content_of(text)) for text in texts if is_pair(text)]
    if len(keys) < len(texts):
        return []
    others = [normalize(str(swapped(text))) for text in texts]
    every = set(keys)
    rows = [row for row, (key, other) in enumerate(zip(keys, others, strict=True)) if other in every and other != key]
    if not rows:
        return []
    trained = {keys[row] for row in split["train"].tolist()}
    crossed = {name: sum(others[row] in trained for row in split.get(name, ())) for name in ("validation", "test")}
    found = [
        f"{WARNING}pairs: {plural(count, f'{name} row')} {verb(count, 'is', 'are')} a training pair in the other order; not "
        "counted as copies"
        for name, count in crossed.items()
        if count
    ]
    both = f"pairs: {len(rows):,} rows are another row's pair in the other order: different rows, kept in one split"
    return found or [both]


def _choose_unlabeled(
    texts: Sequence[str], copies: Ints, split: Mapping[str, Ints], n: int
) -> tuple[Ints, dict[str, int]]:
    """Select unlabelled rows that are neither empty nor copies of a labelled or an earlier row.

    n: number of labelled rows, which come first. Returns the positions, and the number of rows left out by reason.
    """
    rows = np.arange(n, len(texts), dtype=np.int64)
    empty = np.array([not text.strip() for text in texts[n:]], dtype=bool)
    held_out = np.concatenate([split[name] for name in ("validation", "test") if name in split])
    of_held_out = ~empty & np.isin(copies[rows], copies[held_out])
    of_train = ~empty & ~of_held_out & np.isin(copies[rows], copies[split["train"]])
    free = rows[~empty & ~of_held_out & ~of_train]
    kept = free[np.sort(np.unique(copies[free], return_index=True)[1])]
    counts = {
        "without a text": int(empty.sum()),
        "copies of validation or test rows": int(of_held_out.sum()),
        "copies of training rows": int(of_train.sum()),
        "copies of one another": len(free) - len(kept),
    }
    return kept, counts


def describe(dataset: Dataset) -> list[str]:
    """Return the lines that summarize a dataset for the user."""
    n = int((dataset.labels >= 0).sum())
    columns = dict(dataset.columns)
    if indicators := columns.pop("indicators", None):  # a column for each label, of which `label` is the first
        columns["label"] = None
    used = ", ".join(f"{what} {column!r}" for what, column in columns.items() if column)
    if indicators:
        used += f", labels {label_rules.listed(indicators.splitlines())}"
    kinds = f"{len(dataset.id2label)} classes"
    if dataset.sets is not None:
        each = dataset.sets.members.sum(1)[dataset.labels[dataset.labels >= 0]].mean()
        kinds = f"{len(dataset.id2label)} labels, any number for a row (multi-label), {each:.2f} on average"
    head = [f"data        {dataset.name}: {n:,} labelled rows, {kinds}", f"columns     {used}"]
    about = [f"about       {dataset.about}"] * bool(dataset.about)
    return head[:1] + about + head[1:] + dataset.report.lines()


def introduce(dataset: Dataset, show: Show) -> None:
    """Show a summary of a dataset and the warnings about it."""
    for line in describe(dataset):
        show.say(line)
    dataset.report.warn(show)


@dataclass(frozen=True)
class TextBlocks:
    """The texts of a table that was checked once and can be read again block by block."""

    blocks: Blocks
    column: str  # the text column
    fields: TextFields  # the further columns of an input
    rows: int
    empty: int  # rows without a text
    first_empty: list[int]  # numbers of the first few of these rows, counted from 1
    first_lines: list[int]  # the lines on which they start; empty if unknown
    numbers: bool = False  # whether all texts are numbers

    def __iter__(self) -> Iterator[tuple[Table, list[str]]]:
        """Yield each block of rows with its texts; a missing text is ""."""
        for block in self.blocks:
            if self.fields:
                yield block, self.fields.read(self.blocks.name, block.columns, self.column)
            else:
                yield block, ["" if cols.is_missing(value) else value for value in block.columns[self.column]]


class TextReader(Protocol):
    """Checks the texts of an open file; arguments and errors as of `texts_of`."""

    def __call__(self, seen: OnBlock, trained: str | None = None, fields: TextFields = NONE) -> TextBlocks: ...


@contextmanager
def open_texts(
    path: str | Path, text_column: str | None = None, encoding: str = AUTO
) -> Iterator[tuple[Blocks, TextReader]]:
    """Open a file to predict on; yields its blocks, and a function that checks them and returns the texts.

    The file is open for the duration of the context. Arguments as for `texts_of` and `load`.
    """
    known = toml_source.resolve(path, encoding)
    if known is not None and len(known.tables) > 1:
        names = ", ".join(table.name for table in known.tables.values())
        raise UserError(f"{path} describes several tables; predict on one at a time. Name one of them: {names}.")
    if known is not None:
        yield from _with_reader(whole(known.tables["main"]), text_column or known.reading.text_column)
        return
    with opened_file(path, FORMATS) as opened:
        yield from _with_reader(blocks_of(opened, encoding), text_column)


def _with_reader(blocks: Blocks, text_column: str | None) -> Iterator[tuple[Blocks, TextReader]]:
    def read(seen: OnBlock, trained: str | None = None, fields: TextFields = NONE) -> TextBlocks:
        return texts_of(blocks, text_column, trained, seen, fields)

    yield blocks, read


def texts_of(
    blocks: Blocks,
    text_column: str | None = None,
    trained: str | None = None,
    seen: OnBlock = lambda block: None,
    fields: TextFields = NONE,
) -> TextBlocks:
    """Check the texts of a whole table; no label column is needed.

    text_column: the column to read; None: `trained` (the text column of the model's training data) if the table has it,
    else the obvious one. seen: called with each block. fields: the further columns of an input, which the table must have.
    Raises UserError for a malformed file, an unclear column, a text that is not a string, or a table without texts.
    """
    column, rows, empty, numbers = "", 0, 0, True
    first_empty: list[int] = []
    first_lines: list[int] = []
    for block in blocks:
        if not column:
            labels = [c for c in block.columns if c.lower() in cols.LABEL_NAMES]
            asked = text_column or (trained if trained in block.columns else None)
            asked = asked or (choose_pair_text(list(block.columns), fields) if fields.pair else None)
            column = cols.choose_text(block, asked or None, labels[0] if labels else None)
            fields.check(list(block.columns), blocks.name, column)
        texts = fields.read(blocks.name, block.columns, column, rows)
        without = [row for row, text in enumerate(texts, rows + 1) if not text]
        shown = without[: max(cols.SHOWN - len(first_empty), 0)]
        first_empty += shown
        first_lines += [block.lines[row - rows - 1] for row in shown] if block.lines else []
        rows, empty, numbers = rows + len(texts), empty + len(without), numbers and cols.are_numbers(texts)
        seen(block)
    if blocks.format != "lines" and empty == rows:
        raise cols.without_text(blocks.name, column)
    return TextBlocks(blocks, column, fields, rows, empty, first_empty, first_lines, numbers and empty < rows)


@dataclass(frozen=True)
class Evaluation:
    """Rows on which to evaluate a model: the positions `rows` (from 0) in `table`."""

    texts: list[str]
    labels: np.ndarray  # (n,) index into the model's classes, then into unseen, or (n, C) bool over both
    groups: Ints  # (n,) equal for copies and for rows that the dataset groups
    table: Table
    rows: Ints  # (n,)
    without_text: list[int]  # numbers of the rows left out for lack of a text, counted from 1
    unseen: tuple[str, ...] = ()  # labels that are not classes of the model, sorted


@dataclass(frozen=True)
class LabelledFile:
    """A labelled file and its columns, read and checked independently of any model."""

    opened: Opened
    columns: Columns
    notes: list[str]
    asked: bool = False  # whether the text column was named for this file, not taken from the training data or chosen


def open_evaluation(
    source: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    trained: Mapping[str, str | None] | None = None,
    encoding: str = AUTO,
    sets: Sequence[str] | None = None,
    fields: TextFields | None = None,
) -> LabelledFile:
    """Read a labelled file and choose its columns: the part of `load_evaluation` that needs no model.

    sets: the labels of a model that predicts label sets; the file may then have a column of 0 and 1 for each of them in
    place of a label column. fields: the further columns of an input, which the file must have; None: those of the dataset.
    Other arguments and errors as for `load_evaluation`.
    """
    notes: list[str] = []
    opened = open_sources(source, {}, notes, encoding)
    known, trained = opened.reading, trained or {}
    there = {what: column for what, column in trained.items() if column in opened.tables["main"].columns}
    asked = bool(text_column or known.text_column)
    text_column = text_column or known.text_column or there.get("text")
    label_column = label_column or known.label_column or there.get("label")
    reading = None
    if sets is not None:
        columns = tuple(sets) if not label_column and set(sets) <= opened.tables["main"].columns.keys() else ()
        reading = SetReading("" if columns else trained.get("separator") or "", columns)
    fields = fields_of(opened) if fields is None else fields
    chosen = choose_columns(opened, text_column, label_column, None, notes, reading, fields)
    return LabelledFile(opened, chosen, notes, asked)


def load_evaluation(
    source: str | Path | LabelledFile,
    id2label: Mapping[int, str],
    text_column: str | None = None,
    label_column: str | None = None,
    notes: list[str] | None = None,
    trained: Mapping[str, str | None] | None = None,
    told: Callable[[Mapping[str, str]], None] = lambda columns: None,
    encoding: str = AUTO,
    strict: bool = False,
) -> Evaluation:
    """Load the labelled rows of a file to evaluate a model on; rows without a text are left out.

    source: as for `load` (all rows, or the test split if the data come with one), or the result of `open_evaluation`.
    id2label: the model's classes. Labels are matched to them as `load` matches those of further files.
    text_column, label_column: the columns to read; None: those of `trained` ("text" and "label" of the model's training
        data) if the file has them, else the obvious ones.
    notes: gets a line if spellings differ, and a warning if all texts are numbers.
    told: called with the columns that are read.
    encoding: as for `load`.
    strict: whether every label must be a class of the model.

    Raises UserError for an unknown label, naming row and known labels, if `strict` or if no row has a known label; and if
    no row has a text.
    """
    notes = [] if notes is None else notes
    if not isinstance(source, LabelledFile):
        source = open_evaluation(source, text_column, label_column, trained, encoding)
    opened, columns, known = source.opened, source.columns, source.opened.reading
    notes += source.notes
    label = ", ".join(columns.sets.columns if columns.sets else ()) or columns.label
    told({"text": columns.text, "label": label, **columns.fields.named()})
    role = "test" if "test" in opened.tables else "main"
    own, names = known.labels, [id2label[at] for at in sorted(id2label)]
    renamed = isinstance(own, Mapping) and set(own.values()) <= set(names)
    known_labels = own if renamed else names
    part = read_part(opened, role, columns, known_labels, notes, evaluated=True, strict=strict)
    if not part.texts:
        raise cols.without_text(part.table.name, columns.text)
    if not source.asked and cols.are_numbers(part.texts):
        notes.append(WARNING + cols.numbers_warning(columns.text))
    present = set(part.labels) if part.sets is None else {label for labels in part.sets for label in labels}
    unseen = sorted(present - {*names})
    groups = _groups(part.texts, copies_of(part.texts), part.groups)
    table, split_column = opened.tables[role], opened.reading.split_column if role == "main" else None
    kept, left_out = _rows_to_evaluate(part, table, split_column, notes)
    labels: np.ndarray
    if part.sets is None:
        place = {label: at for at, label in enumerate([*names, *unseen])}
        labels = np.array([place[label] for label in part.labels], dtype=np.int64)
        unknown = bool((labels[kept] >= len(names)).all())
    else:
        labels = members_of(part.sets, [*names, *unseen])
        unknown = bool(unseen) and not labels[kept][:, : len(names)].any()
    if unknown:  # no label is known: raise the error of a strict match
        read_part(opened, role, columns, known_labels, [], evaluated=True)
    texts, at = (
        [part.texts[row] for row in kept],
        np.asarray(part.table.numbers or range(1, len(labels) + 1), np.int64) - 1,
    )
    return Evaluation(texts, labels[kept], groups[kept], table, at[kept], left_out, tuple(unseen))


def _rows_to_evaluate(part: Part, table: Table, split_column: str | None, notes: list[str]) -> tuple[Ints, list[int]]:
    """Return the positions in `part` of the rows to evaluate, and the numbers of those of `table` that lack a text.

    part: the rows of `table` that have a text. split_column: the column of splits; if it has test rows, only these count.
    """
    with_text = set(part.table.numbers or range(1, len(part.texts) + 1))
    left_out = [number for number in range(1, len(table) + 1) if number not in with_text]
    roles = (given_split([part], split_column, notes) or []) if split_column else []
    if split_column is None or "test" not in roles:
        return np.arange(len(part.texts)), left_out
    values = table.columns[split_column]
    of_test = [number for number in left_out if SPLIT_VALUES.get(str(values[number - 1]).strip().lower()) == "test"]
    return np.flatnonzero(np.array(roles) == "test"), of_test
