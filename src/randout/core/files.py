"""Files written atomically, never over something else, with paths that survive a move of the folder."""

from __future__ import annotations

import errno
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import Failure, UserError

PLACES = {  # settings of a recipe that may be paths; `more` is a list of them
    "data": ("source", "validation", "test", "unlabeled"),
    "student": ("model",),
    "teacher": ("model", "more"),
}


LONGEST_NAME = 255  # bytes of a file name, on nearly every file system
LONGEST_OWN_NAME = 200  # bytes of a name that is made here: others add -2, .partial, ... to it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to fill, which then takes the place of `path` in one move: a reader finds the old file or the whole new one.

    Nothing is left behind where filling it fails. Raises Failure where the disk (or the folder) does not take it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise not_written(path, error) from None
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one move, so that a reader sees the old or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        _remove(partial)
        if error.filename is None:  # of a write: it does not say which file it was
            error.filename = str(path)
        raise
    except BaseException:
        _remove(partial)
        raise


def not_written(path: Path, error: BaseException) -> Failure:
    """The error for a file that could not be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return Failure(f"{path}: could not be written ({reason}). Free some space or name another place, and run it again.")


def _remove(path: Path) -> None:
    with suppress(OSError):  # a folder that can no longer be written keeps it; the error under way says why
        path.unlink(missing_ok=True)


def check_new_file(path: Path) -> None:
    """Raise UserError where a new file cannot be written: something is there, or its folder is missing or read-only.

    To be called before any long work whose result goes there.
    """
    try:
        there = os.path.lexists(path)
        if path.is_dir():
            raise UserError(f"{path}: this is a folder. Name a file.")
        if there:
            raise _exists(path)
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}. Create it first.")
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: no file can have this name ({error.strerror}). Name another.") from None
    check_folder(path.parent, path)


def check_folder(folder: Path, path: Path | None = None) -> None:
    """Raise UserError where nothing can be written into `folder`, or into the nearest folder above it that exists.

    path: what is to be written, for the message.
    """
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk may have room again by then
            return
        raise UserError(
            f"{path or folder}: the folder {there} cannot be written ({error.strerror}). Name another place with -o."
        ) from None


def _exists(path: Path) -> UserError:
    return UserError(f"{path}: the file exists and is not overwritten. Give another name, or remove it first.")


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet: whole, or not at all. Raises as `new_file`."""
    with new_file(path) as stream:
        stream.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A stream to fill, which becomes a file that is not there yet: whole, or not at all.

    Raises UserError where something is at `path` by now, and Failure where the disk does not take it.
    """
    handle, name = _beside(path)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # a temporary file is for its owner's eyes only
        _move_new(partial, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        _remove(partial)


def _beside(path: Path) -> tuple[int, str]:
    """A temporary file in the folder of `path`."""
    try:
        return tempfile.mkstemp(dir=path.parent, prefix=f".{cut_name(path.name, 40)}.", suffix=".partial")
    except OSError as error:
        raise not_written(path, error) from None


def _move_new(partial: Path, path: Path) -> None:
    """Move a file to a place that must be free. A link never replaces a file, as a rename would."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _exists(path) from None
        partial.replace(path)


def cut_name(name: str, most: int) -> str:
    """The start of a name that takes at most so many bytes in UTF-8, no character cut in two."""
    return name.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


def joined_name(parts: Sequence[str], end: Sequence[str] = ()) -> str:
    """A file name of `parts` joined by hyphens, then `end`. Where it is too long, the longest parts are cut; control
    characters and slashes become hyphens.
    """
    kept = [re.sub(r"[\x00-\x1f\x7f/]+", "-", part) for part in parts]
    tail = "-".join(end)
    while len("-".join(kept).encode("utf-8", "surrogatepass") + tail.encode()) > LONGEST_OWN_NAME:
        longest = max(range(len(kept)), key=lambda at: len(kept[at].encode("utf-8", "surrogatepass")))
        kept[longest] = cut_name(kept[longest], len(kept[longest].encode("utf-8", "surrogatepass")) - 1)
    return "-".join(kept) + tail


def shell_path(path: str | Path) -> str:
    """A path as it can be pasted into a command line: quoted where it must be, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def parts_of(source: str | Path) -> tuple[Path, Path | None] | None:
    """(FILE.toml, FOLDER or None) of a source that a TOML file describes; None for any other."""
    match = re.fullmatch(r"(.+?\.toml)(?::(.+))?", str(source), flags=re.DOTALL)
    return (Path(match[1]), Path(match[2]) if match[2] else None) if match else None


def with_paths(source: str, change: Callable[[str], str]) -> str:
    """`source` with `change` made to its paths: PATH, NAME:PATH (rhmd), FILE.toml, FILE.toml:FOLDER."""
    if found := parts_of(source):
        return ":".join(change(str(path)) for path in found if path)
    name, colon, inner = source.rpartition(":")
    return f"{name}{colon}{change(inner)}"


def change_places(tables: dict[str, Any], change: Callable[[str], str]) -> None:
    """Make `change` to every setting of a recipe's tables that may be a path, in place."""
    for table, keys in PLACES.items():
        values = tables.get(table)
        if not isinstance(values, dict):  # what is wrong with it is said where the tables are checked
            continue
        for key in keys:
            value = values.get(key)
            if isinstance(value, list):
                values[key] = [change(one) if isinstance(one, str) and one else one for one in value]
            elif isinstance(value, str) and value:
                values[key] = change(value)


def resolve_places(tables: dict[str, Any], folder: Path) -> None:
    """Make every path of a recipe's tables that leads somewhere from `folder` absolute, in place."""

    def absolute(place: str) -> str:
        return str((folder / place).resolve()) if place and (folder / place).exists() else place

    change_places(tables, lambda value: with_paths(value, absolute))


def portable(path: str, folder: Path) -> str:
    """A path as `run.toml` keeps it: relative to the run folder; names of datasets and of the hub stay as they are."""

    def relative(place: str) -> str:
        found = Path(place).expanduser()
        return os.path.relpath(found.resolve(), folder.resolve()) if place and found.exists() else place

    return with_paths(path, relative)
