"""Atomic file writing that never overwrites other files, and paths that stay valid when a run folder moves."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import Failure, UserError

PATH_SETTINGS = {  # table: settings that may be paths; `more` is a list
    "data": ("source", "validation", "test", "unlabeled", "corrections"),
    "student": ("model",),
    "teacher": ("model", "more"),
}
WORDS = ("auto", "none")  # values of settings that may be paths, which are never paths
METHOD_PATHS = ("terms",)  # settings of methods that may be paths

FILE_SUFFIXES = (  # of files that a user may expect where a folder is written
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".xlsx", ".toml", ".html", ".md", ".pdf", ".png"),
    *(".onnx", ".safetensors", ".bin", ".pt", ".zip", ".gz"),
)
LONGEST_NAME = 255  # bytes of a file name, on nearly every file system
LONGEST_OWN_NAME = 200  # bytes of a generated name, which leaves room for -2, .partial, ...


PUBLISH_CHECKS: list[Callable[[Path], None]] = []  # called with a path before a new file or folder is moved there


def check_publish(path: Path) -> None:
    """Raise an error if this process must not write at `path` any more (`storage.locks`)."""
    for check in PUBLISH_CHECKS:
        check(path)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success; on an error it is removed and the error raised.

    A reader finds the old file or the complete new one, also after a power failure. Two processes that write one file at
    once have different temporary paths.
    """
    partial = path.with_name(f"{cut_name(path.name, LONGEST_OWN_NAME)}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        check_publish(path)
        partial.replace(path)
    except BaseException as error:
        _remove(partial)
        if (
            isinstance(error, OSError) and error.errno and error.filename is None
        ):  # errors of `write` do not name the file
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file as `atomic` does, in a folder that is created if missing. Raises Failure if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            yield partial
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise not_written(path, error) from None
        raise


def final_name(name: str) -> str:
    """Return the name of the file that a temporary file of `atomic` was to replace; other names are returned unchanged."""
    return re.sub(r"(\.[0-9a-f]{8})?\.partial$", "", name)


def replace_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def not_written(path: Path, error: BaseException) -> Failure:
    """Return the error for a file that could not be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return Failure(f"{path}: could not be written ({reason}). Free disk space or choose another location, then retry.")


def _remove(path: Path) -> None:
    with suppress(OSError):  # the folder is no longer writable; the original error says why
        path.unlink(missing_ok=True)


def check_new_file(path: Path) -> None:
    """Check that a new file can be written, before any long work whose result goes there.

    Raises UserError if something exists at `path`, or if its folder is missing or read-only.
    """
    try:
        there = os.path.lexists(path)
        if path.is_dir():
            raise UserError(f"{path}: this is a folder. Give a file name.")
        if there:
            raise _already_exists(path)
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist. Create it first.")
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: not a valid file name ({error.strerror}). Choose another name.") from None
    check_folder(path.parent, path)


def check_folder_name(path: Path) -> None:
    """Raise UserError if a folder that is to be written has the name of a file; one that exists is accepted."""
    if path.suffix.lower() in FILE_SUFFIXES and not path.exists():
        raise UserError(
            f"{path}: this is the name of a file, but a folder is written here. Name a folder, such as {path.with_suffix('')}"
        )


def check_folder(folder: Path, path: Path | None = None) -> None:
    """Raise UserError if `folder`, or its nearest existing parent, cannot be written.

    path: the file to be written, for the message; None: `folder` itself is made, and must not have the name of a file.
    """
    if path is None:
        check_folder_name(folder)
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # there may be space again when the file is written
            return
        raise UserError(
            f"{path or folder}: the folder {there} is not writable ({error.strerror}). Choose another location with -o."
        ) from None


def _already_exists(path: Path) -> UserError:
    return UserError(
        f"{path}: the file already exists and is not overwritten. Choose another name, or delete it first."
    )


def write_new(path: Path, data: bytes) -> None:
    """Write a new file atomically. Raises as `new_file` does."""
    with new_file(path) as stream:
        stream.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary stream that becomes the new file `path` on success; on an error nothing is left.

    Raises UserError if something exists at `path` by then, and Failure if the file cannot be written.
    """
    handle, name = _temporary_file(path)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
        _move_new(partial, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        _remove(partial)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the new folder `path` on success; on an error nothing is left.

    Raises UserError if something other than an empty folder exists at `path` by then, and Failure if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{cut_name(path.name, 40)}.", suffix=".partial"))
        try:
            yield partial
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o777 & ~mask)  # mkdtemp makes folders that only their owner can read
            check_new_folder(path)
            partial.rename(path)  # replaces an empty folder
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise not_written(path, error) from None


def check_new_folder(path: Path) -> None:
    """Raise UserError unless a folder can be made at `path`, or there is an empty one."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise UserError(f"{path} already exists and is not overwritten. Choose another name, or delete it first")
    check_folder(path)


def _temporary_file(path: Path) -> tuple[int, str]:
    """Create a temporary file in the folder of `path`; return its handle and name."""
    try:
        return tempfile.mkstemp(dir=path.parent, prefix=f".{cut_name(path.name, 40)}.", suffix=".partial")
    except OSError as error:
        raise not_written(path, error) from None


def _move_new(partial: Path, path: Path) -> None:
    """Move a file to a path that must not exist. Uses a link, which never replaces a file as a rename would."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _already_exists(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _already_exists(path) from None
        partial.replace(path)


def cut_name(name: str, most: int) -> str:
    """Shorten a name to at most `most` bytes in UTF-8 without cutting a character in two."""
    return name.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


def joined_name(parts: Sequence[str], end: Sequence[str] = ()) -> str:
    """Join `parts` and then `end` with hyphens into a file name.

    If the name is too long, the longest parts are shortened. Control characters and slashes become hyphens.
    """
    kept = [re.sub(r"[\x00-\x1f\x7f/]+", "-", part) for part in parts]
    tail = "-".join(end)
    while len("-".join(kept).encode("utf-8", "surrogatepass") + tail.encode()) > LONGEST_OWN_NAME:
        longest = max(range(len(kept)), key=lambda at: len(kept[at].encode("utf-8", "surrogatepass")))
        kept[longest] = cut_name(kept[longest], len(kept[longest].encode("utf-8", "surrogatepass")) - 1)
    return "-".join(kept) + tail


def shell_path(path: str | Path) -> str:
    """Return a path that can be pasted into a command line: quoted if necessary, never read as an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def split_toml_source(source: str | Path) -> tuple[Path, Path | None] | None:
    """Split the source `FILE.toml` or `FILE.toml:FOLDER` into (file, folder or None); return None for other sources."""
    match = re.fullmatch(r"(.+?\.toml)(?::(.+))?", str(source), flags=re.DOTALL)
    return (Path(match[1]), Path(match[2]) if match[2] else None) if match else None


def map_paths(source: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the paths in a source: PATH, NAME:PATH (rhmd), FILE.toml, FILE.toml:FOLDER; not to `WORDS`."""
    if source in WORDS:
        return source
    if found := split_toml_source(source):
        return ":".join(change(str(path)) for path in found if path)
    name, colon, inner = source.rpartition(":")
    return f"{name}{colon}{change(inner)}"


def change_places(tables: dict[str, Any], change: Callable[[str], str]) -> None:
    """Apply `change` in place to every setting in `tables` that may be a path."""
    for table, keys in PATH_SETTINGS.items():
        values = tables.get(table)
        if not isinstance(values, dict):  # reported later, when the tables are validated
            continue
        for key in keys:
            value = values.get(key)
            if isinstance(value, list):
                values[key] = [change(one) if isinstance(one, str) and one else one for one in value]
            elif isinstance(value, str) and value:
                values[key] = change(value)
    methods = tables.get("methods")
    for settings in methods.values() if isinstance(methods, dict) else ():
        for key in METHOD_PATHS if isinstance(settings, dict) else ():
            if isinstance(settings.get(key), str):
                settings[key] = change(settings[key])


def resolve_places(tables: dict[str, Any], folder: Path) -> None:
    """Make every path in `tables` that exists relative to `folder` absolute, in place."""

    change_places(tables, lambda value: resolved_place(value, folder))


def resolved_place(source: str, folder: Path) -> str:
    """Return a source with the paths in it that exist relative to `folder` made absolute."""

    def absolute(place: str) -> str:
        return str((folder / place).resolve()) if place and (folder / place).exists() else place

    return map_paths(source, absolute)


def portable(path: str, folder: Path) -> str:
    """Return a source as `run.toml` stores it: paths relative to the run folder, dataset and hub names unchanged."""

    def relative(place: str) -> str:
        found = Path(place).expanduser()
        return os.path.relpath(found.resolve(), folder.resolve()) if place and found.exists() else place

    return map_paths(path, relative)
