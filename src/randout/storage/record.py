"""The base class of what is stored as JSON: typed when read, and written as it was.

A file of an earlier version may lack keys that have a default; a file of a later version may have keys that are not known
here. Such a file is written again with the same keys in the same order: defaults are not added, unknown keys are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from randout.core.errors import UserError

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A JSON object with known keys. Assigning to a field adds its key at the end, in the order of the fields."""

    model_config = ConfigDict(
        extra="allow",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        ser_json_inf_nan="constants",
    )

    _order: tuple[str, ...] = PrivateAttr(())  # of the keys, as read

    @model_validator(mode="wrap")
    @classmethod
    def _remember_order(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(value)
        if isinstance(value, Mapping):
            fields = cls.model_fields
            made._order = tuple((fields[key].serialization_alias if key in fields else None) or key for key in value)
        return made

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = handler(self)
        return {key: found[key] for key in self._order if key in found} | found

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object: the keys that were read, given or assigned, without defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


def parsed(kind: type[R], value: Any, file: Path) -> R:
    """Return the content of `file` as a record. Raises UserError that names the file and the first wrong key."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "a JSON object"
        found = "" if first["type"] == "missing" else f" has an unexpected value, {first['input']!r:.80}"
        what = f"the key {key}{found}" if found else f"expected the key {key}"
        raise UserError(f"{file}: {what}; was the file written by another tool?") from None
