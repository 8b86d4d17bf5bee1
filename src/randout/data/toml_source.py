"""Datasets described by a TOML file (`FILE.toml` or `FILE.toml:FOLDER`): their files, columns and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from randout.core.config import Name, Table, checked, read_toml
from randout.core.errors import UserError
from randout.core.files import split_toml_source

from . import columns as cols
from .named_datasets import ReadingOptions, ResolvedSource
from .tables import AUTO, read_bytes, read_table, sha256_of
from .tables import Table as Rows

ROLES = {"source": "main", "train": "main", "validation": "validation", "test": "test"}
File = Literal["source", "train", "validation", "test"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Description(Table):
    """The keys of a TOML description. Paths are relative to `folder`, which is relative to the TOML file."""

    name: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""  # empty: the name of the TOML file
    about: str = ""
    folder: Name = ""
    source: Name = ""  # one table, split as usual; alternatively train, and optionally validation and test
    train: Name = ""
    validation: Name = ""
    test: Name = ""
    sha256: dict[File, Sha256] = Field(default_factory=dict)
    text_column: Name = ""
    label_column: Name = ""
    text_pair_column: Name = ""
    prefix_columns: tuple[str, ...] = ()
    group_column: Name = ""
    split_column: Name = ""
    labels: (
        tuple[str, ...] | dict[str, str]
    ) = ()  # class names in order, or an ordered mapping from values in the file to class names
    max_length: Annotated[int, Field(ge=4)] | None = None
    encoding: Name = AUTO  # of text files; "auto": UTF-8


def resolve(source: str | Path, encoding: str = AUTO) -> ResolvedSource | None:
    """Read the dataset that a TOML file describes; return None for any other source.

    encoding: of its files, unless "auto", overrides the description. Raises UserError for an unknown key, an invalid value, a
    file that is missing or has another digest, or a missing column.
    """
    found = split_toml_source(source)
    if found is None:
        return None
    path, folder = found
    tables = read_toml(path, "description of the data")
    if isinstance(tables.get("train"), dict) or {"student", "methods"} & tables.keys():
        raise UserError(f"{path}: this is a recipe, not a description of a dataset. Use it with --recipe.")
    described: Description = checked(Description, tables, f"{path}: ", "docs/how-to/prepare-data.md lists the keys")
    _check_files(path, described)
    encoding = described.encoding if encoding == AUTO else encoding
    base = folder if folder is not None else path.parent / Path(described.folder).expanduser()
    read = {ROLES[key]: _table(path, described, key, base, encoding) for key in ROLES if getattr(described, key)}
    for key in ("text_column", "label_column", "group_column", "split_column"):
        if column := getattr(described, key):
            cols.named_column(read["main"], column, f"{key} in {path}")
    columns = {key: getattr(described, f"{key}_column") or None for key in ("text", "label", "group", "split")}
    reading = ReadingOptions(
        about=described.about,
        text_column=columns["text"],
        label_column=columns["label"],
        text_pair_column=described.text_pair_column or None,
        prefix_columns=described.prefix_columns,
        group_column=columns["group"],
        split_column=columns["split"],
        labels=described.labels or None,
        max_length=described.max_length,
    )
    return ResolvedSource(described.name or path.stem, reading, read, one_file=len(read) == 1)


def _check_files(path: Path, described: Description) -> None:
    if bool(described.source) == bool(described.train):
        found = "both" if described.source else "neither"
        raise UserError(f"{path}: expected source (one table) or train (the training rows' table), found {found}.")
    if described.split_column and (described.validation or described.test):
        raise UserError(
            f"{path}: split_column and the files validation or test both define the split. Use one of them."
        )
    for key in described.sha256:
        if not getattr(described, key):
            raise UserError(f"{path}: sha256.{key}: there is no {key} file to check.")


def _table(path: Path, described: Description, key: str, base: Path, encoding: str) -> Rows:
    file = base / Path(getattr(described, key)).expanduser()
    expected = described.sha256.get(key)  # type: ignore[call-overload]
    if expected and (found := sha256_of(read_bytes(file))) != expected:  # digest of the file on disk
        raise UserError(f"{file}: its SHA-256 is {found}, expected {expected} (sha256.{key} in {path}).")
    return read_table(file, encoding)
