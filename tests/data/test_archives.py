"""Compressed tables: each kind read as the file that it holds, and each way in which an archive can be no table."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import threading
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from randout.core.errors import UserError
from randout.data import archives, dataset, table_writing
from randout.data.tables import read_table
from support.tables import load

CONTENT = "text\tlabel\nün, ï\tx\nb\ty\n".encode()
COLUMNS = {"text": ["ün, ï", "b"], "label": ["x", "y"]}


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv", "rows"])
def test_a_compressed_table_is_the_same_data(tmp_path, suffix, name):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKERS[suffix](CONTENT))
    table = read_table(path)
    assert table.columns == COLUMNS
    assert table.sha256 == hashlib.sha256(CONTENT).hexdigest()
    renamed = path.rename(tmp_path / "packed")  # its bytes decide, not its name
    assert read_table(renamed).columns == COLUMNS


def test_parts_that_are_compressed_one_after_another_are_one_file(tmp_path):
    for suffix, pack in PACKERS.items():
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(pack(CONTENT[:20]) + pack(CONTENT[20:]))
        assert read_table(path).columns == COLUMNS, suffix


def test_a_zip_archive_of_one_table_is_read(tmp_path):
    path = zipped(tmp_path / "rows.zip", {"data/": b"", "data/rows.tsv": CONTENT, "__MACOSX/._rows.tsv": b"\0"})
    assert read_table(path).columns == COLUMNS
    line = b'{"text": "a", "label": "x"}\n'
    assert read_table(zipped(tmp_path / "b.zip", {"rows.jsonl": line})).columns == {"text": ["a"], "label": ["x"]}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.csv": CONTENT, "b.csv": CONTENT}, r"a zip archive of 2 files \(a\.csv, b\.csv\); expected one table"),
        ({}, "a zip archive of 0 files; expected one table"),
        ({"xl/workbook.xml": b"", "a": b""}, "an Excel workbook: save the sheet as CSV"),
    ],
)
def test_a_zip_archive_that_is_no_table_is_refused(tmp_path, members, words):
    with pytest.raises(UserError, match=words):
        read_table(zipped(tmp_path / "a.zip", members))


@pytest.mark.parametrize("suffix", [*PACKERS, ".zip"])
def test_a_damaged_archive_is_named(tmp_path, suffix):
    path = tmp_path / f"rows.csv{suffix}"
    noise = b"text\n" + os.urandom(50_000).hex().encode()
    if suffix == ".zip":
        zipped(path, {"rows.csv": noise})
    else:
        path.write_bytes(PACKERS[suffix](noise))
    whole = path.read_bytes()
    changed = whole[:20_000] + b"\xff" * 300 + whole[20_300:]
    for damaged in (whole[:-40], *[changed] * (suffix != ".zst")):  # this zstd archive has no checksum
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"rows\.csv\{suffix}: a damaged \w+ archive.*Copy or download it again"):
            read_table(path)


def test_names_come_without_the_suffix_of_the_compression(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"text {at},{'no' if at % 2 else 'yes'}\n" for at in range(40))
    Path("rows.csv.gz").write_bytes(gzip.compress(f"text,label\n{rows}".encode()))
    assert load("rows.csv.gz").name == "rows"
    assert table_writing.default_output(read_table("rows.csv.gz"), "labelled") == Path("rows.labelled.csv")


def test_a_pipe_is_read_like_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(gzip.compress(CONTENT),))
    writer.start()
    assert read_table(path).columns == COLUMNS
    writer.join()


def test_a_stream_can_be_read_again_from_its_start(tmp_path):
    for suffix, pack in PACKERS.items():
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(pack(CONTENT * 100_000))
        with archives.opened_file(path, "a table") as opened:
            with opened.stream() as first:
                assert first.read(10) == CONTENT[:10]
            assert opened.read() == CONTENT * 100_000, suffix


@pytest.mark.parametrize("encoding", ["latin1", "utf-16", "UTF-8", "cp1252"])
def test_a_table_in_a_named_encoding_is_the_same_data_as_in_utf_8(tmp_path, encoding):
    path = tmp_path / "rows.tsv"
    path.write_bytes(CONTENT.decode().encode(encoding))
    table = read_table(path, encoding)
    assert (table.columns, table.sha256) == (COLUMNS, hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "mine.toml").write_text(f'source = "rows.tsv"\nencoding = "{encoding}"')
    assert dataset.toml_source.resolve(tmp_path / "mine.toml").tables["main"].columns == COLUMNS


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("latin-l", "encoding: unknown text encoding 'latin-l'. Did you mean 'latin-1'"),
        ("base64", "encoding: unknown text encoding 'base64'"),
        ("ascii", r"rows\.tsv, line 2: not text in ascii \(byte 0xc3 at offset 11: .*--encoding"),
    ],
)
def test_an_encoding_that_does_not_fit_is_refused(tmp_path, encoding, words):
    path = tmp_path / "rows.tsv"
    path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=words):
        load(path, encoding=encoding)
