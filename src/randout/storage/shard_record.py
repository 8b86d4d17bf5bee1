"""What is recorded of labelled shards: in the metadata of each Parquet file, and in the manifest of a folder."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from randout.data.shards import Shard
from randout.data.text_fields import NONE, TextFields

from .record import Record

FORMAT = 1
MANIFEST = "manifest.json"
METADATA = b"randout"  # key in the metadata of a Parquet file; its value is a `ShardRecord` as JSON


class LabellingSettings(Record):
    """What the rows of a labelled shard depend on, apart from the texts.

    model: fingerprint of weights, tokenizer and truncation. classes: in the order of the model. held_out: digest of the
    held-out rows whose copies are left out; "" for none. probabilities: whether predictions have one column per class.
    input_fields: the columns of an input besides the text column; None: none.
    """

    kind: Literal["soft-labels", "predictions"]
    model: str
    classes: list[str]
    text_column: str
    id_column: str
    probabilities: bool = False
    deduplicate: bool = False
    held_out: str = ""
    input_fields: TextFields | None = None

    @property
    def fields(self) -> TextFields:
        """The columns of an input besides the text column."""
        return self.input_fields or NONE

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of an input."""
        return (self.text_column, *self.fields.columns)

    def content(self) -> dict[str, Any]:
        """Return the settings for digests. Without further columns it is as before there were any, so that digests stay."""
        found = self.model_dump()
        return found if self.input_fields else {name: value for name, value in found.items() if name != "input_fields"}

    def differences(self, other: LabellingSettings) -> list[str]:
        """Return the names of the settings that differ."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [name for name in mine if mine[name] != theirs[name]]


class InputShard(Record):
    """The file that was labelled (`data.shards.Shard.identity`)."""

    name: str
    size: int
    stamp: str
    footer: str
    rows: int


class ShardRecord(Record):
    """The metadata of a labelled shard.

    before: digest of the shards before it, in which the first copy of a text may be; "" unless copies are left out.
    labelled, empty, copies, held_out: number of rows with a label, and without one by reason.
    """

    format: int = FORMAT
    settings: LabellingSettings
    input: InputShard
    before: str = ""
    labelled: int = 0
    empty: int = 0
    copies: int = 0
    held_out: int = 0

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides the content."""
        return digest([self.settings.content(), self.input.model_dump(), self.before])


class LabellingTask(Record):
    """The content of `task.json`: what processes that share a labelling need to know. out: folder or URL of its result."""

    format: int = FORMAT
    model: str
    device: str
    form: str
    out: str
    settings: LabellingSettings
    shards: tuple[Shard, ...]


class ManifestEntry(Record):
    """One labelled shard. sha256: of the written file."""

    name: str
    identity: str
    sha256: str
    rows: int
    labelled: int
    empty: int
    copies: int
    held_out: int
    input: InputShard


class Manifest(Record):
    """The content of `manifest.json`, which is written once all shards are complete. version: of randout."""

    format: int = FORMAT
    version: str
    model_name: str
    settings: LabellingSettings
    rows: int
    labelled: int
    empty: int
    copies: int
    held_out: int
    shards: list[ManifestEntry] = Field(default_factory=list)


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
