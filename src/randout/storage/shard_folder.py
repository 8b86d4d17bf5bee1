"""A folder of labelled shards, local or at a URL: reading records, and putting complete files in place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randout.core.errors import Failure, UserError
from randout.core.files import replace_text, replacing
from randout.data.shards import file_system, is_url, open_file

from .record import parsed
from .run_folder import locked
from .shard_record import FORMAT, MANIFEST, METADATA, Manifest, ShardRecord


@dataclass(frozen=True)
class ShardFolder:
    """Labelled shards at a path or URL. A file is there completely or not at all: locally by renaming, remotely by upload."""

    place: str

    @property
    def local(self) -> Path | None:
        """The folder, if it is local."""
        return None if is_url(self.place) else Path(self.place).expanduser()

    def path(self, name: str) -> str:
        """Path or URL of a file of the folder."""
        return f"{str(self.local or self.place).rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        system, path = file_system(self.path(name))
        return bool(system.exists(path))

    def record(self, name: str) -> ShardRecord | None:
        """Return the record of a labelled shard; None if there is no such file. Raises UserError for another file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.exists(name):
            return None
        with open_file(self.path(name)) as stream:
            try:
                stored = (pq.read_schema(stream).metadata or {}).get(METADATA)
            except (pa.ArrowException, OSError):
                stored = None
        if stored is None:
            raise UserError(
                f"{self.path(name)}: this file is not one of labelled shards and is not overwritten. Choose another folder "
                "with -o, or delete it first"
            )
        found = json.loads(stored)
        if found.get("format") != FORMAT:
            raise UserError(f"{self.path(name)}: has format {found.get('format')}; this version reads format {FORMAT}")
        return parsed(ShardRecord, found, Path(self.path(name)))

    def put(self, file: Path, name: str) -> None:
        """Put a complete local file in place. Raises Failure if it cannot be written."""
        if self.local is not None:
            with replacing(Path(self.path(name))) as partial:
                shutil.move(file, partial)
            return
        system, path = file_system(self.path(name))
        try:
            system.put_file(str(file), path)
        except Exception as error:  # whatever a remote file system raises
            raise _not_put(self.path(name), error) from None
        file.unlink()

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file."""
        with open_file(self.path(name)) as stream:
            total = hashlib.sha256()
            while data := stream.read(1 << 20):
                total.update(data)
        return total.hexdigest()

    def write_manifest(self, manifest: Manifest) -> None:
        """Write `manifest.json`. Raises Failure if it cannot be written."""
        text = json.dumps(manifest.as_json(), indent=1, ensure_ascii=False) + "\n"
        if self.local is not None:
            replace_text(Path(self.path(MANIFEST)), text)
            return
        system, path = file_system(self.path(MANIFEST))
        try:
            system.pipe_file(path, text.encode())
        except Exception as error:  # whatever a remote file system raises
            raise _not_put(self.path(MANIFEST), error) from None

    def manifest(self) -> Manifest:
        """Return the content of `manifest.json`. Raises UserError if it is missing, or of another format."""
        where = self.path(MANIFEST)
        if not self.exists(MANIFEST):
            raise UserError(
                f"{self.place}: no {MANIFEST} in this folder. Expected complete shards, as written by `randout soft-labels "
                "MODEL TEXTS -o FOLDER`; run that command again to complete them"
            )
        with open_file(where) as stream:
            try:
                found: Any = json.loads(stream.read())
            except ValueError as error:
                raise UserError(f"{where}: cannot be read ({error})") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            version = found.get("format") if isinstance(found, dict) else None
            raise UserError(f"{where}: has format {version}; this version reads format {FORMAT}")
        return parsed(Manifest, found, Path(where))


def _not_put(place: str, error: Exception) -> Failure:
    return Failure(f"{place}: could not be written ({' '.join(str(error).split())[:200] or type(error).__name__})")


def is_shard_folder(place: str) -> bool:
    """Return whether a path or URL is a folder of labelled shards."""
    return (is_url(place) or Path(place).expanduser().is_dir()) and ShardFolder(place).exists(MANIFEST)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a task by a lock on its folder; yields False if another process has it.

    The one place that decides how processes share shards.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, "shard"))
            mine = True
        except UserError:
            mine = False
        yield mine
