"""Opens the sources of a dataset (files, named datasets, the Hub) and reads them into texts, labels and groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from randout.core.errors import UserError, nearest
from randout.core.wording import WARNING, plural, verb

from . import columns as cols
from . import labels as classes
from . import named_datasets, toml_source
from .archives import SUFFIXES, content_name
from .multi_label import SetReading, Sets, check_sets, matched_sets, read_sets
from .named_datasets import ReadingOptions, ResolvedSource
from .tables import AUTO, TABLE_SUFFIXES, Table, codec_of, read_table
from .text_fields import NONE, TextFields, choose_pair_text

SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Labels = Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Opened:
    """The opened tables of a request by role ("main" first, "validation", "test", "unlabeled")."""

    name: str
    reading: ReadingOptions  # how to read the source
    tables: dict[str, Table]
    prefixes: dict[str, str]  # role -> prefix of row ids; "" for main
    one_file: bool  # whether all labelled rows are from one file


@dataclass(frozen=True)
class Columns:
    """The columns used in the main table, and those that the user named (None: chosen automatically)."""

    text: str
    label: str
    group: str | None
    named_text: str | None
    named_label: str | None
    sets: SetReading | None = None  # how several labels of a row are written; None: one label per row
    fields: TextFields = NONE  # further columns of an input


@dataclass(frozen=True)
class Part:
    """The checked rows of one table."""

    role: str
    table: Table
    prefix: str
    texts: list[str]  # `composed_text.ComposedText` if an input has further columns
    labels: list[str]  # empty for unlabelled rows
    groups: list[str | None]  # None: the row is its own group
    sets: Sets | None = None  # the labels of each row of multi-label data, in place of `labels`

    @property
    def row_ids(self) -> list[str]:
        """The id of each row: the prefix of the table and the row's number in it."""
        return [f"{self.prefix}{row}" for row in self.table.numbers or range(1, len(self.texts) + 1)]


def open_sources(source: str | Path, files: Mapping[str, str | Path], notes: list[str], encoding: str = AUTO) -> Opened:
    """Open the main source and further files by role.

    encoding: of text files. Appends to `notes`. Raises UserError for a source that cannot be read.
    """
    check_name(source)
    codec_of(encoding)
    known = toml_source.resolve(source, encoding)
    if known is None and not Path(source).is_file():
        known = named_datasets.resolve(str(source), notes)
    if known is None:
        known = _open_other(source, files, notes, encoding)
    tables = {role: table for role, table in known.tables.items() if role not in files}
    notes.extend(
        f"the {role} rows of {known.name} are not used, because --{role} names a file"
        for role in known.tables.keys() - tables.keys()
    )
    prefixes = {role: "" if role == "main" else f"{role}#" for role in tables}
    taken = {Path(tables["main"].name).name}
    for role, path in files.items():
        tables[role] = read_table(path, encoding)
        prefixes[role] = f"{path}#" if Path(path).name in taken else f"{Path(path).name}#"
        taken.add(Path(path).name)
    return Opened(known.name, known.reading, tables, prefixes, known.one_file and not files.keys() - {"unlabeled"})


def check_name(source: str | Path) -> None:
    """Raise UserError for a string that cannot be a file name, such as the content of a table."""
    name = str(source)
    try:
        possible = "\0" not in name and "\n" not in name
        Path(name).is_file()
    except (OSError, ValueError):  # too long a name
        possible = False
    if not possible:
        raise UserError(
            f"{name!r:.60}: not a valid file name ({len(name):,} characters). Expected a file path, a dataset name, "
            'or in Python a DataFrame or columns: {"text": [...], "label": [...]}.'
        )


def _open_other(source: str | Path, files: Mapping[str, Any], notes: list[str], encoding: str) -> ResolvedSource:
    """Open a file or a Hub dataset without predefined reading options."""
    spec = hub_spec(source)
    if spec is not None:
        name = re.sub(r"[^\w.-]+", "--", spec)
        return ResolvedSource(name, ReadingOptions(), _hub_or_missing(source, spec, files, notes), one_file=False)
    if re.fullmatch(r"\w+", str(source)) and not Path(source).exists():
        raise UserError(
            f"{source}: no such file or dataset.{nearest(str(source), named_datasets.NAMED)} Named datasets: "
            f"{', '.join(named_datasets.NAMED)}. For a dataset of the Hugging Face Hub, write hub:{source}."
        )
    name = Path(content_name(str(source))).stem
    return ResolvedSource(name, ReadingOptions(), {"main": read_table(source, encoding)})


def hub_spec(source: str | Path) -> str | None:
    """Return the Hub name in a source: `hub:NAME`, or OWNER/NAME that is not a file and has no file suffix; else None."""
    text, path = str(source), Path(source)
    if text.startswith("hub:"):
        return text.removeprefix("hub:")
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) and path.suffix.lower() not in (*TABLE_SUFFIXES, *SUFFIXES)
    return text if plain and not path.exists() and not path.parent.is_dir() else None


def _hub_or_missing(source: str | Path, spec: str, files: Mapping[str, Any], notes: list[str]) -> dict[str, Table]:
    """Load the tables of a Hub dataset; if `source` may be a mistyped path, the error says so."""
    try:
        return _hub_parts(spec, files, notes)
    except UserError as error:
        if str(source).startswith("hub:"):
            raise
        raise UserError(f"{source}: no such file, so it was taken as a dataset of the Hub. {error}") from None


def _hub_parts(spec: str, files: Mapping[str, Any], notes: list[str]) -> dict[str, Table]:
    """Load the Hub dataset's tables by role; unused splits are noted."""
    found = named_datasets.hub_tables(spec)
    roles: dict[str, Table] = {}
    for split, table in found.items():
        role = SPLIT_VALUES.get(split.lower())
        if len(found) == 1 or role == "train":
            roles["main"] = table
        elif role is None or role in files or role in roles:
            notes.append(f"the Hub's split {split!r} ({plural(len(table), 'row')}) is not used")
        elif any(set(table.columns[c]) <= {-1, None} for c in table.categories):
            notes.append(f"the Hub's split {split!r} has no labels and is not used")
        else:
            roles[role] = table
    if "main" not in roles:
        raise UserError(
            f"hub:{spec}: no split named train (splits: {', '.join(found)}). Save the rows to a file first."
        )
    return {"main": roles.pop("main"), **roles}


def choose_columns(
    opened: Opened,
    text: str | None,
    label: str | None,
    group: str | None,
    notes: list[str],
    sets: SetReading | None = None,
    fields: TextFields = NONE,
) -> Columns:
    """Choose the columns of the main table: as named by the user or the dataset, else by names or content, with a note.

    sets: how several labels of a row are written. fields: the further columns of an input, which the table must have.
    """
    table = opened.tables["main"]
    if sets is not None and sets.columns:
        for name in sets.columns:
            cols.named_column(table, name, "--label-columns")
        label = sets.columns[0]
    text = text or (choose_pair_text(list(table.columns), fields) if fields.pair else None)
    found = _choose_columns(opened, text, label, group, notes)
    fields.check(list(table.columns), table.name, found.text)
    if known := [name for name in (found.label, *(sets.columns if sets else ())) if name in fields.columns]:
        raise UserError(
            f"{table.name}: column {known[0]!r} is the label and would be part of the input, which would give the answer. "
            "Leave it out of --text-pair and --prefix-column, or name the label with --label-column"
        )
    fields = fields.model_copy(update={"text": found.text}) if fields else fields
    return replace(found, sets=sets, fields=fields)


def fields_of(opened: Opened, pair: str = "", prefix: Sequence[str] = ()) -> TextFields:
    """Return the further columns of an input: as named by the user (pair, prefix), else by the dataset."""
    known = opened.reading
    return TextFields(pair=pair or known.text_pair_column or "", prefix=tuple(prefix) or known.prefix_columns)


def _choose_columns(
    opened: Opened, text: str | None, label: str | None, group: str | None, notes: list[str]
) -> Columns:
    """Choose the text and the label column of the main table."""
    table, known = opened.tables["main"], opened.reading
    use_text, use_label = text or known.text_column, label or known.label_column
    group = group or known.group_column
    if use_text:
        cols.named_column(table, use_text, "--text-column")
    if group:
        cols.named_column(table, group, "--group")
    try:
        found_text, found_label = _named_columns(table, use_text, use_label)
    except cols.UnclearColumns:
        found = cols.choose_by_content(table, use_text, use_label)
        if found is None:
            raise
        notes.append(
            f"columns chosen by their content: text {found[0]!r}, label {found[1]!r} (others: --text-column and "
            "--label-column)"
        )
        return Columns(*found, group, *found)
    if found_text == found_label:
        raise UserError(
            f"{table.name}: column {found_text!r} is given as both text and label. Name two different columns."
        )
    chosen: list[tuple[str, str, tuple[str, ...]]] = [("text", found_text, cols.ALL_TEXT_NAMES)] * (not use_text)
    chosen += [("label", found_label, cols.LABEL_NAMES)] * (not use_label)
    usual = [f"{what} {name!r}" for what, name, names in chosen if name.lower() in names]
    if usual:
        notes.append(f"columns chosen by their names: {', '.join(usual)}")
    notes.extend(
        f"column {name!r} is used as the {what}, because no other column is left for it"
        for what, name, names in chosen
        if name.lower() not in names
    )
    return Columns(found_text, found_label, group, text, label)


def _named_columns(table: Table, text: str | None, label: str | None) -> tuple[str, str]:
    """Return the text and the label column by their names. Raises UnclearColumns if one of them is unclear."""
    try:
        found = cols.choose_label(table, label, text)
    except cols.UnclearColumn as label_error:
        try:
            cols.choose_text(table, text)
        except cols.UnclearColumn as text_error:
            raise cols.both_unclear(table, text_error, label_error) from None
        raise
    return cols.choose_text(table, text, found), found


def label_names(opened: Opened, label: str, given: Labels | None, sets: bool = False) -> Labels | None:
    """Return the classes as given, as defined by the dataset, or as declared by the Hub; None: those found, sorted.

    sets: whether a row may have several labels.
    """
    known = opened.reading.labels
    if given is not None and isinstance(known, Mapping) and not isinstance(given, Mapping):
        values = {name: value for value, name in known.items()}
        return {values[n]: n for n in given} if set(given) == set(values) else given
    if given is not None or known is not None:
        return given if given is not None else known
    main = opened.tables["main"]
    if sets or label not in main.categories:
        return None
    present = set(classes.labels_of(main, label))
    return [name for name in main.categories[label] if name in present]


def read_part(
    opened: Opened,
    role: str,
    columns: Columns,
    labels: Labels | None,
    notes: list[str],
    found_in_main: Collection[str] = (),
    evaluated: bool = False,
    strict: bool = True,
) -> Part:
    """Read the rows of one labelled table; its columns are named as in the main table, or else chosen again.

    labels: the classes, if already determined. found_in_main: for other roles, the labels of the main table; labels that
    differ from them only in spelling are matched if `labels` is None. evaluated: whether rows without a text are left out
    silently, as many as there are; otherwise with a warning in `notes`, and an error for most rows. strict: whether labels
    outside `labels` are an error; otherwise they are kept unchanged.
    """
    table = opened.tables[role]
    text = _text_column(table, columns, notes)
    label = columns.label
    if label not in table.columns:
        label = cols.choose_label(table, columns.named_label, text)
        notes.append(f"{table.name}: labels from column {label!r}")
    columns.fields.check(list(table.columns), table.name, text)
    for column in filter(None, (text, columns.fields.pair)):
        table = cols.rows_with_text(table, column)[0] if evaluated else cols.training_rows(table, column, notes)
    texts = columns.fields.read_table(table, text)
    if columns.sets is not None:
        sets = _read_sets(table, label, columns.sets, labels, notes, found_in_main, strict)
        return Part(role, table, opened.prefixes[role], texts, [], _groups_of(table, columns.group, notes), sets)
    known_labels = [*labels, *labels.values()] if isinstance(labels, Mapping) else labels
    found = classes.labels_of(table, label, known_labels or found_in_main or None, notes)
    if labels is not None:
        found = classes.matched(table, label, found, labels, notes, strict)
    elif found_in_main:
        found = classes.matched(table, label, found, found_in_main, notes, strict=False)
    else:
        classes.check_classes(table, label, found, notes)
    return Part(role, table, opened.prefixes[role], texts, found, _groups_of(table, columns.group, notes))


def _groups_of(table: Table, column: str | None, notes: list[str]) -> list[str | None]:
    groups: list[str | None] = [None] * len(table)
    if column:
        values = table.columns.get(column, groups)
        groups = [None if cols.is_missing(value) else str(value) for value in values]
        if lacking := groups.count(None):
            notes.append(
                f"{table.name}: {plural(lacking, 'row')} {verb(lacking, 'has', 'have')} no {column!r}; "
                "each of them is its own group"
            )
    return groups


def _read_sets(
    table: Table,
    column: str,
    reading: SetReading,
    labels: Labels | None,
    notes: list[str],
    found_in_main: Collection[str],
    strict: bool,
) -> Sets:
    """Return the label sets of a table; arguments as for `read_part`."""
    found = read_sets(table, column, reading, notes)
    if labels is not None:
        return matched_sets(table, column, found, labels, notes, strict)
    if found_in_main:
        return matched_sets(table, column, found, found_in_main, notes, strict=False)
    check_sets(table, column, found, notes)
    return found


def read_unlabeled(opened: Opened, columns: Columns, notes: list[str]) -> Part:
    """Read the rows of the unlabelled table; a missing text is ""."""
    table = opened.tables["unlabeled"]
    text = _text_column(table, columns, notes)
    if columns.label in table.columns:
        notes.append(f"{table.name}: column {columns.label!r} is ignored, as these rows are used without labels")
    if columns.fields:
        columns.fields.check(list(table.columns), table.name, text)
        texts = columns.fields.read(table.name, table.columns, text)
    else:
        texts = [value if isinstance(value, str) else "" for value in table.columns[text]]
    if not any(value.strip() for value in texts):
        raise cols.without_text(table.name, text)
    return Part("unlabeled", table, opened.prefixes["unlabeled"], texts, [], [None] * len(texts))


def _text_column(table: Table, columns: Columns, notes: list[str]) -> str:
    if columns.text in table.columns:
        return columns.text
    text = cols.choose_text(table, columns.named_text, columns.label if columns.label in table.columns else None)
    notes.append(f"{table.name}: texts from column {text!r}")
    return text


def _unused_split(table: Table, name: str, files: int) -> str:
    """Return the note on a column that is called "split"; a warning if it assigns every row of the only file to a split."""
    if files == 1 and all(str(value).strip().lower() in SPLIT_VALUES for value in table.columns[name]):
        return (
            f"{WARNING}column {name!r} assigns each row to train, validation or test, but it is not used. Add --split-column "
            f"{name} to use it; otherwise the rows are split at random"
        )
    return f"column {name!r} is not used (use --split-column {name} to split by it)"


def given_split(
    parts: Sequence[Part], split_column: str | None, notes: list[str], folds: bool = False
) -> list[str] | None:
    """Return the given split of each labelled row, or None if the rows must be split randomly, or into folds."""
    main = parts[0].table
    if split_column is None:
        unused = [name for name in main.columns if name.lower() == "split" and not folds]
        notes.extend(_unused_split(main, name, len(parts)) for name in unused)
        roles = ["train" if part.role == "main" else part.role for part in parts for _ in part.texts]
        return roles if len(parts) > 1 else None
    if len(parts) > 1:
        raise UserError(f"{main.name} comes with its own splits. Leave out --split-column.")
    cols.named_column(main, split_column, "--split-column")
    values = ["" if cols.is_missing(v) else str(v).strip() for v in main.columns[split_column]]
    unknown = [row for row, value in enumerate(values, 1) if value.lower() not in SPLIT_VALUES]
    if unknown:
        found = list(dict.fromkeys(values))
        shown = ", ".join(repr(value if len(value) <= 40 else value[:40] + "...") for value in found[:5])
        shown += ", ..." if len(found) > 5 else ""
        raise UserError(
            f"{main.name}, {cols.rows_in(main, unknown)}: column {split_column!r} has values other than train, validation "
            f"(or valid, val, dev) and test. Found: {shown}."
        )
    return [SPLIT_VALUES[value.lower()] for value in values]
