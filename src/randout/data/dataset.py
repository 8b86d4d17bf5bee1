"""Loads a labelled table as a `Dataset`: texts, class indices, duplicate groups, and a split that keeps test rows apart.

`load` reads, checks and splits; `describe` says what was found. Files are parsed by `tables`, opened by `sources`,
columns and labels checked by `columns`, rows assigned by `division` and `splits`, known names resolved by `datasets`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.config import Config
from randout.core.errors import UserError
from randout.data.row_hashes import Hashes, row_hashes

from . import columns as cols
from . import labels as label_rules
from . import toml_source
from .archives import opened_file
from .columns import row_list
from .sources import (
    Columns,
    Labels,
    Opened,
    Part,
    choose_columns,
    given_split,
    label_names,
    open_sources,
    read_part,
    read_unlabeled,
)
from .splits import Division, learnt_first
from .stratify import Ints, copies_of, merge_groups
from .streaming import Blocks, blocks_of, whole
from .summary import DataReport, make_report
from .table_writing import appended, write_table
from .tables import AUTO, FORMATS, Table, sha256_of

__all__ = [
    "DataReport",
    "Dataset",
    "Table",
    "appended",
    "data_identity",
    "describe",
    "load",
    "load_evaluation",
    "open_evaluation",
    "open_texts",
    "read_data",
    "row_list",
    "texts_of",
    "write_table",
]

Seen = Callable[[Table], None]  # told of each block that was read


@dataclass(frozen=True)
class Dataset:
    """n rows and how they are split: the main file's rows in order, then those of further files, unlabelled ones last."""

    texts: list[str]  # n
    labels: Ints  # (n,) index into id2label, then into unseen; -1 for unlabelled rows
    groups: Ints  # (n,) rows with the same number belong together: by copies and the group column, connected
    copies: Ints  # (n,) the same number for the same normalised text
    row_ids: list[str]  # "17" is data row 17 of the main file; "test.csv#17" of another
    id2label: dict[int, str]
    split: dict[str, Ints]  # "train", "validation", and "test", "unlabeled" where there are any -> sorted positions
    sha256: str  # of the file; of "role hash" lines where there are several
    name: str
    columns: dict[str, str | None]  # "text", "label", "group", "split" -> the column used
    report: DataReport
    labelled_sha256: str = ""  # as `sha256`, of the labelled rows' files alone
    about: str = ""
    max_length: int | None = None  # recommended for it, in tokens
    unseen: tuple[str, ...] = ()  # labels of held-out rows without a training row: no prediction is right
    lines: Ints = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # (n,) where each row starts in its file; 0: unknown

    @property
    def names(self) -> list[str]:
        """Every label of a row: the classes that are learnt, in order, then the unseen ones."""
        return [*self.id2label.values(), *self.unseen]

    def with_validation_in_training(self) -> Dataset:
        """The same data with the validation rows among the training rows, and no validation rows."""
        rows = np.sort(np.concatenate([self.split["train"], self.split["validation"]]))
        return replace(self, split=self.split | {"train": rows, "validation": np.zeros(0, np.int64)})

    @cached_property
    def hashes(self) -> Hashes:
        """(n,) by which rows are known to later runs (`seen`)."""
        return row_hashes(self.texts)


def load(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split: str = "auto",
    split_column: str | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    unlabeled: str | Path | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15),
    folds: int = 0,
    fold: int = 0,
    sample: int = 0,
    encoding: str = AUTO,
) -> Dataset:
    """Read a labelled table and split it. An empty string or empty `labels` is the same as None.

    `source`: a file, a known name (`rhmd`, `rhmd:PATH`, `coda19`, `film`), `hub:OWNER/NAME`, or a TOML file that
    describes the data (`described`); what is passed here goes before what it says. `split`: "auto" (stratified,
    copies and groups whole), "paper" (stratified only), "column" (by `split_column`); a split column or the files
    `validation` and `test` go before "auto". A missing validation split is carved from train, never from test.
    `labels`: the classes in order, or a mapping from values in the file to class names, in order. `folds`: the labelled
    rows of all files are dealt into so many folds, whatever split they came with; fold number `fold` (1 the first) is
    the test split, `fractions[1]` of the rest validation. The folds depend on (`seed`, `folds`) and not on `fold`.
    `sample`: about so many labelled rows are kept in all, the same share of each part of the split.
    `encoding`: of files that are text, as Python names it; "auto": UTF-8.

    UserError: anything in the files or the request that cannot be used, by file, row or line, and column.
    """
    given = {"validation": validation, "test": test, "unlabeled": unlabeled}
    files = {role: path for role, path in given.items() if path}
    held_out = [role for role in files if role != "unlabeled"]
    division = Division(split, seed, fractions, folds, fold, sample)
    division.check(split_column or None, held_out)
    notes: list[str] = []
    opened = open_sources(source, files, notes, encoding)
    columns = choose_columns(opened, text_column, label_column, group_column, notes)
    parts, id2label = _labelled(opened, columns, labels or None, notes)
    split_column = split_column or (None if held_out else opened.reading.split_column)
    roles = division.given(given_split(parts, split_column, notes), source, notes)
    if "unlabeled" in files:
        parts.append(read_unlabeled(opened, columns, notes))
    used = {"text": columns.text, "label": columns.label, "group": columns.group}
    used["split"] = None if roles is None else split_column
    label2id = {label: i for i, label in id2label.items()}
    y = np.array([label2id[label] for part in parts for label in part.labels], dtype=np.int64)
    y, id2label, unseen = learnt_first(parts, y, roles, id2label)

    def divide(groups: Ints) -> dict[str, Ints]:
        return division.divide(y, groups, roles, [*id2label.values(), *unseen], notes)

    return _assemble(parts, y, id2label, unseen, divide, opened, used, notes)


def read_data(config: Config) -> Dataset:
    """The dataset that `config.data` describes, split."""
    table = config.data
    given: dict[str, Any] = {
        name: value or None for name, value in table.model_dump().items() if name not in ("source", "split_seed")
    }
    given |= {"split": table.split, "folds": table.folds, "fold": table.fold, "sample": table.sample}
    if not table.source:
        raise UserError("no data: name a file or a dataset, as in `randout train reviews.csv`")
    return load(table.source, seed=table.split_seed, **given)


class Datasets:
    """The datasets of a study's cells: each data table is read once, and the last one is held."""

    def __init__(self) -> None:
        self.key = ""
        self.held: Dataset | None = None

    def read(self, config: Config) -> Dataset:
        key = config.data.model_dump_json()
        if self.held is None or key != self.key:
            self.key, self.held = key, read_data(config)
        return self.held


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """What a dataset and its split contribute to the fingerprint."""
    split = {name: hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() for name, rows in dataset.split.items()}
    data = {"sha256": dataset.sha256, "columns": dataset.columns, "labels": list(dataset.id2label.values())}
    return {"data": data, "split": split}


def _labelled(
    opened: Opened, columns: Columns, labels: Labels | None, notes: list[str]
) -> tuple[list[Part], dict[int, str]]:
    """The labelled rows of every file, and the classes in order."""
    classes = label_names(opened, columns.label, labels)
    parts = [read_part(opened, "main", columns, classes, notes)]
    for role in opened.tables:
        if role not in ("main", "unlabeled"):
            parts.append(read_part(opened, role, columns, classes, notes, found_in_main=set(parts[0].labels)))
    order = list(classes.values()) if isinstance(classes, Mapping) else classes
    return parts, label_rules.label_order([label for part in parts for label in part.labels], order)


def _assemble(
    parts: Sequence[Part],
    labels: Ints,  # (n,) of the labelled rows, which come first
    id2label: dict[int, str],
    unseen: tuple[str, ...],
    divide: Callable[[Ints], dict[str, Ints]],  # groups (n,) of the labelled rows -> split
    opened: Opened,
    columns: dict[str, str | None],
    notes: list[str],
) -> Dataset:
    """Find copies and groups, split, choose the unlabelled rows, and report."""
    texts = [text for part in parts for text in part.texts]
    row_ids = [f"{part.prefix}{row}" for part in parts for row in range(1, len(part.texts) + 1)]
    lines = np.concatenate([np.asarray(part.table.lines or [0] * len(part.texts), np.int64) for part in parts])
    n = len(labels)
    copies = copies_of(texts)
    groups = _groups(copies, [value for part in parts for value in part.groups])
    split = divide(groups[:n])
    left_out: dict[str, int] = {}
    if len(texts) > n:
        kept, left_out = _choose_unlabeled(texts, copies, split, n)
        split["unlabeled"] = np.arange(n, n + len(kept), dtype=np.int64)
        rows = [*range(n), *kept.tolist()]
        texts, row_ids, lines = [texts[i] for i in rows], [row_ids[i] for i in rows], lines[rows]
        labels = np.concatenate([labels, np.full(len(kept), -1, dtype=np.int64)])
        copies, groups = copies[rows], groups[rows]
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
        report=make_report(labels, copies, groups, split, id2label, unseen, left_out, notes),
        labelled_sha256=labelled,
        about=opened.reading.about,
        max_length=opened.reading.max_length,
        unseen=unseen,
        lines=lines,
    )


def _sha256(parts: Sequence[Part], one_file: bool) -> str:
    if one_file:
        return parts[0].table.sha256
    return sha256_of("\n".join(f"{part.role} {part.table.sha256}" for part in parts).encode())


def _groups(copies: Ints, values: Sequence[str | None]) -> Ints:
    """(n,) copies merged with the values of the group column, where None is a group of its own."""
    if all(value is None for value in values):
        return copies.copy()
    seen: dict[Any, int] = {}
    keys: list[Any] = [(i,) if value is None else value for i, value in enumerate(values)]
    return merge_groups(copies, np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64))


def _choose_unlabeled(
    texts: Sequence[str], copies: Ints, split: Mapping[str, Ints], n: int
) -> tuple[Ints, dict[str, int]]:
    """Positions from n on that are neither empty nor copies of a labelled or an earlier row; how many were left out."""
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
    """What a user is shown of a data set, a line each."""
    n = int((dataset.labels >= 0).sum())
    used = ", ".join(f"{what} {column!r}" for what, column in dataset.columns.items() if column)
    head = [f"data        {dataset.name}: {n:,} labelled rows, {len(dataset.id2label)} classes", f"columns     {used}"]
    about = [f"about       {dataset.about}"] * bool(dataset.about)
    return head[:1] + about + head[1:] + dataset.report.lines()


@dataclass(frozen=True)
class TextBlocks:
    """The texts of a table that was looked through once, to be read again block by block."""

    blocks: Blocks
    column: str  # of the texts
    rows: int
    empty: int  # rows without a text
    first_empty: list[int]  # numbers of the first of these rows; the first row is 1
    first_lines: list[int]  # the lines on which they start; empty where these are not known

    def __iter__(self) -> Iterator[tuple[Table, list[str]]]:
        """Each block of rows with its texts, "" where a row has none."""
        for block in self.blocks:
            yield block, ["" if cols.is_missing(value) else value for value in block.columns[self.column]]


@contextmanager
def open_texts(
    path: str | Path, text_column: str | None = None, trained: str | None = None, encoding: str = AUTO
) -> Iterator[tuple[Blocks, Callable[[Seen], TextBlocks]]]:
    """The blocks of a file to predict on, and a function that looks through them for its texts (`texts_of`).

    The file stays open as long as the context is. Arguments as of `texts_of` and `load`.
    """
    known = toml_source.resolve(path, encoding)
    if known is not None and len(known.tables) > 1:
        names = ", ".join(table.name for table in known.tables.values())
        raise UserError(f"{path} describes several tables, and one is labelled at a time. Name one of them: {names}.")
    if known is not None:
        column = text_column or known.reading.text_column
        blocks = whole(known.tables["main"])
        yield blocks, lambda seen: texts_of(blocks, column, trained, seen)
        return
    with opened_file(path, FORMATS) as opened:
        blocks = blocks_of(opened, encoding)
        yield blocks, lambda seen: texts_of(blocks, text_column, trained, seen)


def texts_of(
    blocks: Blocks, text_column: str | None = None, trained: str | None = None, seen: Seen = lambda block: None
) -> TextBlocks:
    """Look through a whole table for its texts; no label column is needed.

    trained: the column that the model was trained on; it is read where nobody names another and the table has it.
    seen: told of each block. UserError: a malformed file, an unclear column, a text that is no string, no text at all.
    """
    column, rows, empty = "", 0, 0
    first_empty: list[int] = []
    first_lines: list[int] = []
    for block in blocks:
        if not column:
            labels = [c for c in block.columns if c.lower() in cols.LABEL_NAMES]
            asked = text_column or (trained if trained in block.columns else None)
            column = cols.choose_text(block, asked or None, labels[0] if labels else None)
        texts = cols.texts_or_empty(blocks.name, block.columns[column], column, rows)
        without = [row for row, text in enumerate(texts, rows + 1) if not text]
        shown = without[: max(cols.SHOWN - len(first_empty), 0)]
        first_empty += shown
        first_lines += [block.lines[row - rows - 1] for row in shown] if block.lines else []
        rows, empty = rows + len(texts), empty + len(without)
        seen(block)
    if blocks.format != "lines" and empty == rows:
        raise cols.without_text(blocks.name, column)
    return TextBlocks(blocks, column, rows, empty, first_empty, first_lines)


@dataclass(frozen=True)
class Evaluation:
    """Rows to score a model on: those of `rows` in `table`, numbered from 0."""

    texts: list[str]
    labels: Ints  # (n,) index into the model's classes, then into unseen
    groups: Ints  # (n,) the same number for copies, and for what the data set groups
    table: Table
    rows: Ints  # (n,)
    without_text: list[int]  # numbers of the rows that are left out, as they have no text; the first row is 1
    unseen: tuple[str, ...] = ()  # labels that are no classes of the model, sorted


@dataclass(frozen=True)
class LabelledFile:
    """A labelled file that was read, and its columns, before a model is known that could be scored on it."""

    opened: Opened
    columns: Columns
    notes: list[str]


def open_evaluation(
    source: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    trained: Mapping[str, str | None] | None = None,
    encoding: str = AUTO,
) -> LabelledFile:
    """The first part of `load_evaluation`, which needs no model: what can be wrong with the file itself is reported here.

    Arguments and errors as of `load_evaluation`.
    """
    notes: list[str] = []
    opened = open_sources(source, {}, notes, encoding)
    known, trained = opened.reading, trained or {}
    there = {what: column for what, column in trained.items() if column in opened.tables["main"].columns}
    text_column = text_column or known.text_column or there.get("text")
    label_column = label_column or known.label_column or there.get("label")
    return LabelledFile(opened, choose_columns(opened, text_column, label_column, None, notes), notes)


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
    """The labelled rows of a file, to score a model on; rows without a text are left out.

    `source` and `encoding` as for `load` (the whole file; where it comes with a test split, that one), or what
    `open_evaluation` returned, which has the columns. Labels are matched
    as `load` matches those of further files; `notes` is appended to where a spelling differs. trained: the columns
    "text" and "label" that the model was trained on; they are read where nobody names others and the file has them.
    told: is called with the columns that are read. strict: whether every label must be in `id2label`. UserError for a
    label that is not, by row, with the known ones, where strict or where no row has a known one; and where no row has a
    text.
    """
    notes = [] if notes is None else notes
    if not isinstance(source, LabelledFile):
        source = open_evaluation(source, text_column, label_column, trained, encoding)
    opened, columns, known = source.opened, source.columns, source.opened.reading
    notes += source.notes
    told({"text": columns.text, "label": columns.label})
    role = "test" if "test" in opened.tables else "main"
    own, names = known.labels, list(id2label.values())
    renamed = isinstance(own, Mapping) and set(own.values()) <= set(names)
    known_labels = own if renamed else names
    part = read_part(opened, role, columns, known_labels, notes, empty_texts=True, strict=strict)
    label2id = {label: i for i, label in id2label.items()}
    unseen = sorted(set(part.labels) - label2id.keys())
    label2id |= {label: i for i, label in enumerate(unseen, len(label2id))}
    labels = np.array([label2id[label] for label in part.labels], dtype=np.int64)
    with_text = np.array([bool(text) for text in part.texts], dtype=bool)
    filled = np.flatnonzero(with_text)  # empty texts are no copies of one another
    groups = np.full(len(labels), -1, dtype=np.int64)
    groups[filled] = _groups(copies_of([part.texts[row] for row in filled]), [part.groups[row] for row in filled])
    rows = np.arange(len(labels))
    if role == "main" and opened.reading.split_column:
        roles = given_split([part], opened.reading.split_column, notes) or []
        rows = np.flatnonzero(np.array(roles) == "test") if "test" in roles else rows
    left_out, rows = (rows[~with_text[rows]] + 1).tolist(), rows[with_text[rows]]
    if not len(rows):
        raise cols.without_text(part.table.name, columns.text)
    if (labels[rows] >= len(id2label)).all():  # labels of another kind: refused, with what is known
        read_part(opened, role, columns, known_labels, [], empty_texts=True)
    kept = [part.texts[row] for row in rows]
    return Evaluation(kept, labels[rows], groups[rows], part.table, rows, left_out, tuple(unseen))
