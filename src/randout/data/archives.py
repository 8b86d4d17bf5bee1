"""Compressed files (gzip, bzip2, xz, zstd, zip with one member), recognised by their first bytes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from randout.core.errors import UserError, nearest

KINDS = {  # first bytes of a file -> its compression
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".zip")
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@dataclass(frozen=True)
class OpenedFile:
    """A file open for reading that is decompressed on the fly. name: as the user gave it, for messages."""

    name: str
    handle: BinaryIO  # seekable
    kind: str  # a key of `KINDS`; "" if not compressed
    suffix: str  # of the decompressed file's name, in lower case

    def stream(self) -> BinaryIO:
        """Open the decompressed content from its start. Read only one stream at a time.

        Raises UserError, also later while reading, if the file is damaged or a zip archive without exactly one file.
        """
        self.handle.seek(0)
        source: Any = _Unclosed(self.handle)
        if self.kind:
            with self._damage():
                source = self._unpacked(source)
        return io.BufferedReader(_Checked(source, self), 1 << 17)

    def read(self) -> bytes:
        """Return the whole decompressed content."""
        with self.stream() as stream:
            return stream.read()

    @property
    def stamp(self) -> tuple[int, int]:
        """Size in bytes and modification time in nanoseconds, to detect changes."""
        found = os.fstat(self.handle.fileno())
        return found.st_size, found.st_mtime_ns

    def _unpacked(self, source: Any) -> Any:
        if self.kind == "gzip":
            return gzip.GzipFile(fileobj=source)
        if self.kind == "bzip2":
            return bz2.BZ2File(source)
        if self.kind == "xz":
            return lzma.LZMAFile(source)
        if self.kind == "zip":
            archive = zipfile.ZipFile(source)
            return archive.open(_member(archive, self.name))
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(source, "r"), "zstd")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Convert the errors of decompressors to UserError."""
        try:
            yield
        except DAMAGE as error:
            if not self.kind:
                raise UserError(f"{self.name}: the file cannot be read ({error}).") from None
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            other = " (or an Excel workbook: save the sheet as CSV in UTF-8)" if self.kind == "zip" else ""
            raise UserError(
                f"{self.name}: a damaged {self.kind} archive{other}: {reason}. Copy or download it again."
            ) from None


class _Unclosed(io.RawIOBase):
    """A view of a seekable file that leaves it open when the view is closed."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Checked(io.RawIOBase):
    """A stream whose errors name the damaged file."""

    def __init__(self, source: Any, opened: OpenedFile) -> None:
        self._source, self._opened = source, opened

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._opened._damage():
            data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def opened_file(path: str | Path, expected: str) -> Iterator[OpenedFile]:
    """Open a file for the duration of a context. Anything but a regular file (a pipe) is copied to a temporary file first.

    expected: the kind of file, for messages. Raises UserError if the file is missing (with the closest name alongside), a
    folder, or not readable.
    """
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(_opened(Path(path), expected))
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            handle = stack.enter_context(spooled(handle))
        yield of_handle(handle, str(path))


def _opened(path: Path, expected: str) -> BinaryIO:
    try:
        if (path / "run.json").is_file():
            raise UserError(
                f"{path}: this is a run, not a table. Expected one file: {expected}. A run can be the teacher of another one "
                f"(--teacher {path}), or be evaluated on a table: randout evaluate {path} FILE"
            )
        if path.is_dir():
            raise UserError(f"{path}: this is a folder. Expected one file: {expected}.")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        alongside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file.{nearest(path.name, alongside)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def spooled(stream: Any) -> BinaryIO:
    """Copy the rest of a stream to a temporary file, which is deleted when closed."""
    copy: Any = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


def of_handle(handle: BinaryIO, name: str) -> OpenedFile:
    """Wrap a seekable file that is already open."""
    handle.seek(0)
    start = handle.read(16)
    kind = next((kind for kind, magic in KINDS.items() if magic.match(start)), "")
    own = name
    if kind == "zip":
        with contextlib.suppress(*DAMAGE, UserError):
            handle.seek(0)
            own = _member(zipfile.ZipFile(_Unclosed(handle)), name).filename
    elif kind:
        own = content_name(name)
    return OpenedFile(name, handle, kind, Path(own).suffix.lower())


def content_name(name: str) -> str:
    """Return a file name without its compression suffix."""
    path = Path(name)
    return str(path.with_name(path.stem)) if path.suffix.lower() in SUFFIXES else name


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the only file in a zip archive, ignoring files that macOS adds.

    Raises UserError if there are no or several files, or the file is encrypted.
    """
    listed = [member for member in archive.infolist() if not member.is_dir()]
    names = [member.filename for member in listed]
    if "xl/workbook.xml" in names:
        raise UserError(f"{name}: this is an Excel workbook: save the sheet as CSV in UTF-8.")
    found = [member for member in listed if not member.filename.startswith("__MACOSX/")]
    if len(found) != 1:
        some = ", ".join(member.filename for member in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UserError(
            f"{name}: a zip archive of {len(found)} files{f' ({some})' if found else ''}; expected one table. "
            "Unpack it and name the file."
        )
    if found[0].flag_bits & 1:
        raise UserError(f"{name}: this zip archive is encrypted. Unpack it first.")
    return found[0]
