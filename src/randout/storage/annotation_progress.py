"""The answers of an unfinished `randout annotate`, one JSON line per batch, so that an interrupted one can be resumed.

The first line says what is annotated with what. A line that was cut by a crash, and what follows it, is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from randout.core.errors import UserError
from randout.core.files import not_written

Batch = dict[str, Any]


class AnnotationProgress:
    """Batches that were answered so far, in order, and the file to which further ones are appended."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Read the batches of an unfinished annotation. Raises UserError if the file is that of another one.

        identity: what decides the answers, by name; values as JSON has them.
        """
        self.path, self.identity = path, json.loads(json.dumps(dict(identity)))
        self.batches: list[Batch] = []
        self._size = 0  # bytes of the lines that are whole
        lines = list(_whole_lines(path))
        if not lines:
            return
        found = lines[0][0]
        if differing := [name for name in self.identity | found if self.identity.get(name) != found.get(name)]:
            raise UserError(
                f"{path}: an interrupted annotation with another {', '.join(differing)}. Repeat its command to resume it, "
                "or delete this file to begin again"
            )
        self.batches = [batch for batch, _ in lines[1:]]
        self._size = lines[-1][1]

    @contextmanager
    def open(self) -> Iterator[AnnotationProgress]:
        """Open the file to append to. Raises Failure if it cannot be written."""
        try:
            with self.path.open("r+b" if self._size else "wb") as stream:
                stream.truncate(self._size)
                stream.seek(self._size)
                self._stream: BinaryIO = stream
                if not self._size:
                    self._write(self.identity)
                yield self
        except OSError as error:
            raise not_written(self.path, error) from None

    def append(self, batch: Batch) -> None:
        """Add the answers of one more batch; they are kept if the process is killed afterwards."""
        self._write(batch)
        self.batches.append(batch)

    def _write(self, value: Any) -> None:
        self._stream.write(json.dumps(value, allow_nan=True).encode() + b"\n")
        self._stream.flush()


def _whole_lines(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield the object of each whole line of a file, and where the line ends; nothing if there is no file."""
    end = 0
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Delete it to begin again") from None
    for line in data.splitlines(keepends=True):
        end += len(line)
        try:
            found = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(found, dict):
            return
        yield found, end
