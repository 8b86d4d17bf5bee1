"""What is recorded of labelled shards: in the metadata of each Parquet file, and in the manifest of a folder."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

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
    abstention: temperature and least confidence of a label; None if every text gets one. thresholds: of the probabilities of
    the labels of a model that predicts label sets (multi-label); None: one label per text.
    """

    kind: Literal["soft-labels", "predictions"]
    model: str
    classes: list[str]
    text_column: str
    id_column: str
    probabilities: bool = False
    deduplicate: bool = False
    held_out: str = ""
    abstention: tuple[float, float] | None = None
    input_fields: TextFields | None = None
    thresholds: list[float] | None = None

    @property
    def fields(self) -> TextFields:
        """The columns of an input besides the text column."""
        return self.input_fields or NONE

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of an input."""
        return (self.text_column, *self.fields.columns)

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what an earlier version did not have, unless it is used: shards keep their identity."""
        later = ("abstention", "input_fields", "thresholds")
        return {name: value for name, value in handler(self).items() if name not in later or value is not None}

    def differences(self, other: LabellingSettings) -> list[str]:
        """Return the names of the settings that differ."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


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
    labelled, empty, copies, held_out, abstained: number of rows with a label, and without one by reason.
    """

    format: int = FORMAT
    settings: LabellingSettings
    input: InputShard
    before: str = ""
    labelled: int = 0
    empty: int = 0
    copies: int = 0
    held_out: int = 0
    abstained: int = 0

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides the content."""
        return digest([self.settings.model_dump(), self.input.model_dump(), self.before])


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
    abstained: int = 0
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
    abstained: int = 0
    shards: list[ManifestEntry] = Field(default_factory=list)


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
