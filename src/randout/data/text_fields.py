"""Which columns, besides the text column, make a model's input: the second text of a pair, and fields put before the text.

A field is written as its name, its value and a bar: with the columns `section` and `position`, the text of a row becomes
`section: Methods | position: 3/8 | We measure it.` A cell without a value is left out. The columns are recorded in the model
folder, so that other tables are read in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from randout.core.errors import UserError, nearest
from randout.core.files import atomic

from . import columns as cols
from .composed_text import ComposedText
from .tables import Table

FILE = "text_fields.json"  # in a model folder; missing if the model reads one column
PAIR_OPTION, PREFIX_OPTION = "--text-pair", "--prefix-column"


class TextFields(BaseModel):
    """The columns of an input besides the text column. pair: of the second texts; empty: single texts. prefix: fields.

    text: the text column of the training data.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    pair: str = ""
    prefix: tuple[str, ...] = ()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.pair or self.prefix)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read besides the text column."""
        return (*self.prefix, *filter(None, [self.pair]))

    @property
    def words(self) -> str:
        """What an input is, for messages: "pairs of texts (the second from column 'b') with the fields 'position'"."""
        pair = f"pairs of texts (the second from column {self.pair!r})" if self.pair else "single texts"
        if not self.prefix:
            return pair
        kind = "the field" if len(self.prefix) == 1 else "the fields"
        return f"{pair} with {kind} {', '.join(map(repr, self.prefix))} before the text"

    def named(self) -> dict[str, str]:
        """Return the columns by role, as a run records them; empty for single texts."""
        found = {"pair": self.pair, "prefix": " | ".join(self.prefix)}
        return {role: name for role, name in found.items() if name}

    def check(self, names: Sequence[str], table: str, text: str) -> None:
        """Raise UserError if a table lacks one of the columns, or if one of them is also the text column.

        names: the columns of the table. table: its name. text: its text column.
        """
        for column in self.columns:
            what = "the second text of each pair" if column == self.pair else "a field that is put before the text"
            if column not in names:
                option = f"; name another one with {PAIR_OPTION}" if column == self.pair else ""
                raise UserError(
                    f"{table}: no column {column!r}, which holds {what}{option}.{nearest(column, names)} "
                    f"Columns: {', '.join(map(str, names))}."
                )
            if column == text:
                raise UserError(
                    f"{table}: column {column!r} is given as the text and as {what}. Name two different columns: "
                    f"--text-column NAME {PAIR_OPTION if column == self.pair else PREFIX_OPTION} NAME"
                )

    def read(self, name: str, columns: Mapping[str, Sequence[Any]], text: str, before: int = 0) -> list[str]:
        """Return the input of each row, "" if a text of it is missing.

        name: of the table. columns: its values by column. text: the text column. before: number of rows of the table before
        these. Raises UserError with the row if a text is not a string.
        """
        texts = cols.texts_or_empty(name, columns[text], text, before)
        if not self:
            return texts
        found = [texts]
        if self.pair:
            found.append(cols.texts_or_empty(name, columns[self.pair], self.pair, before))
        fields = [[_rendered(column, value) for value in columns[column]] for column in self.prefix]
        prefixes = map("".join, zip(*fields, strict=True)) if fields else [""] * len(texts)
        return [
            ComposedText(parts, prefix) if all(parts) else ""
            for parts, prefix in zip(zip(*found, strict=True), prefixes, strict=True)
        ]

    def read_table(self, table: Table, text: str) -> list[str]:
        """Return the inputs of the rows of a table, which all have their texts. Raises UserError as `read` does."""
        if not self:
            return table.columns[text]
        return self.read(table.name, table.columns, text)

    def read_items(self, items: Sequence[Any], call: str) -> list[Any]:
        """Return inputs that are given in Python: rows by column, or for pairs without fields two texts each.

        call: for messages. Raises UserError for anything else if the model reads more than a text.
        """
        if not self:
            return list(items)
        row = {self.text or "text": "...", **dict.fromkeys(self.columns, "...")}
        expected = f"a row with these columns, as in {row}"
        if self.pair and not self.prefix:
            expected = f"two texts, as in ('...', '...'), or {expected}"
        found: list[str] = []
        for at, item in enumerate(items):
            if isinstance(item, ComposedText):
                found.append(item)
                continue
            two = isinstance(item, tuple | list) and len(item) == 2 and not self.prefix and bool(self.pair)
            columns = dict(zip((self.text or "text", self.pair), item, strict=True)) if two else item
            if not isinstance(columns, Mapping) or not row.keys() <= columns.keys():
                raise UserError(
                    f"{call}: texts[{at}] is {item!r:.80}; this model reads {self.words}: expected {expected}"
                )
            found += self.read(f"{call}: texts[{at}]", {name: [columns[name]] for name in row}, self.text or "text")
        return found


NONE = TextFields()


def _rendered(column: str, value: Any) -> str:
    """Return a field as it is put before a text: `position: 3/8 | `; "" for a missing value."""
    if cols.is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column that has missing values
        value = int(value)
    return f"{column}: {' '.join(str(value).split())} | "


def choose_pair_text(names: Sequence[str], fields: TextFields) -> str | None:
    """Return the first text's column if the second's has the usual name of one (`sentence1`, `sentence2`); else None."""
    lower = {name.lower(): name for name in names}
    for first, second in cols.PAIRS:
        if fields.pair.lower() == second and first in lower:
            return lower[first]
    return None


def read_fields(folder: Path) -> TextFields:
    """Return the columns that a model folder records; those of single texts if it records none. Raises UserError."""
    path = folder / FILE
    if not path.is_file():
        return NONE
    try:
        return TextFields.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the record of the model's columns cannot be read: {text}. Copy the model folder again"
        ) from None


def write_fields(folder: Path, fields: TextFields) -> None:
    """Record the columns in a model folder; nothing is written for single texts."""
    if fields:
        with atomic(folder / FILE) as partial:
            partial.write_text(json.dumps(fields.model_dump(mode="json")) + "\n", encoding="utf-8")
