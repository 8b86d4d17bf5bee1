"""Reader of CODA-19 (Huang et al. 2020, 2005.02367) as released: an archive or folder with one JSON file per paper.

Only `human_label/{train,dev,test}/*.json` is read (test/expert/ has other labels). Archives are read in memory and never
unpacked to disk. Layout: github.com/windx0303/CODA-19, README, "Data JSON Schema".
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from randout.core.errors import UserError, nearest
from randout.core.wording import plural, type_words, verb

from .tables import Table, read_bytes, sha256_of

LABELS = ("background", "purpose", "method", "finding", "other")
ROLES = {"train": "main", "dev": "validation", "test": "test"}  # folder -> role of its rows
RELEASED = {"papers": 10_966, "train segments": 137_171, "dev segments": 15_640, "test segments": 15_475}
COLUMNS = ("segment_text", "crowd_label", "paper_id")
LARGEST_FILE, LARGEST_SUM = 4 * 2**20, 2**30  # bytes of one paper, of all papers; the longest abstract has 1,200 tokens
LAYOUT = "Expected human_label/train, human_label/dev and human_label/test with one JSON file per paper."


@dataclass
class _Split:
    """Rows and papers of one split."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    papers: dict[str, str] = field(default_factory=dict)  # paper id -> file
    blank: int = 0  # segments without text


def read(path: Path, notes: list[str]) -> dict[str, Table]:
    """Read the segments by role ("main", "validation", "test"), one row per segment.

    Columns: segment_text, crowd_label, paper_id. Papers are ordered by file name; segments without text are skipped. The
    tables' `sha256` is that of the archive, or of the folder's files in order. Appends to `notes` skipped rows and counts
    that differ from the release.

    Raises UserError, naming file and place, for another layout, invalid JSON, an unknown label, or a paper in two splits.
    """
    if path.is_dir():
        where = _find_folder(path)
        files = sorted(file for split in ROLES for file in (where / split).glob("*.json") if file.name[0] != ".")
        read_files = ((file.parent.name, str(file), _read_paper(file)) for file in files)
        splits, digest = _read_segments(read_files, str(path))
    else:
        data = read_bytes(path)
        splits, _ = _read_segments(_archive_papers(data, str(path)), str(path))
        digest = sha256_of(data)
    if not splits["train"].papers:
        raise UserError(f"{path}: no papers in human_label/train. {LAYOUT}")
    notes.extend(_notes(splits))
    return {
        role: Table(splits[name].columns, f"{path} ({name})", digest, "json")
        for name, role in ROLES.items()
        if splits[name].columns["segment_text"]
    }


def _find_folder(path: Path) -> Path:
    """Find the human_label folder at `path` or up to three levels below."""
    found = [place for place in (path, path / "human_label") if place.name == "human_label" and place.is_dir()]
    found = found or [p for pattern in ("*", "*/*") for p in path.glob(f"{pattern}/human_label") if p.is_dir()]
    return _single_folder(sorted(map(str, found)), str(path))


def _single_folder(places: list[str], path: str) -> Path:
    if not places:
        raise UserError(f"{path}: not CODA-19, as it has no folder human_label. {LAYOUT}")
    if len(places) > 1:
        raise UserError(f"{path}: has several folders human_label: {', '.join(places[:5])}. Name one of them.")
    return Path(places[0])


def _read_paper(path: Path) -> bytes:
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; a paper of CODA-19 has at most {LARGEST_FILE:,}.")
    return read_bytes(path)


def _archive_papers(data: bytes, name: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (split, place, content) of each paper in a zip archive, ordered by name."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{name}: not a readable zip archive ({error}). {LAYOUT}") from None
    papers, prefixes = [], set()
    for member in archive.infolist():
        match = re.fullmatch(r"((?:.*/)?)human_label/(train|dev|test)/([^/.][^/]*\.json)", member.filename)
        if match and "__MACOSX" not in match[1]:
            papers.append((match[2], member))
            prefixes.add(f"{match[1]}human_label")
    _single_folder(sorted(prefixes), name)
    if (total := sum(member.file_size for _, member in papers)) > LARGEST_SUM:
        raise UserError(f"{name}: the papers have {total:,} bytes when unpacked; the limit is {LARGEST_SUM:,}.")
    for split, member in sorted(papers, key=lambda paper: paper[1].filename):
        place = f"{name}, {member.filename}"
        if member.file_size > LARGEST_FILE:
            raise UserError(f"{place}: {member.file_size:,} bytes; a paper of CODA-19 has at most {LARGEST_FILE:,}.")
        try:
            content = archive.read(member)  # never more than file_size bytes
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise UserError(f"{place}: cannot be unpacked ({error}). Download the archive again.") from None
        yield split, place, content


def _read_segments(papers: Iterator[tuple[str, str, bytes]], name: str) -> tuple[dict[str, _Split], str]:
    """Return the segments of all papers by split, and the SHA-256 of lines "split/file sha256"."""
    splits, lines = {split: _Split() for split in ROLES}, []
    for split, place, content in papers:
        file = PurePosixPath(place.replace("\\", "/"))
        lines.append(f"{split}/{file.name} {sha256_of(content)}")
        document = _document(content, place)
        paper = _paper_id(document) or file.stem
        for other, known in splits.items():
            if other != split and paper in known.papers:
                raise UserError(
                    f"{place}: the paper {paper!r} is also in {known.papers[paper]}, so its rows would be both in {other} "
                    f"and in {split}. Remove one of the two files."
                )
        own = splits[split]
        own.papers.setdefault(paper, place)
        for text, label in _segments(document, place):
            if not text.strip():
                own.blank += 1
                continue
            for column, value in zip(COLUMNS, (text, label, paper), strict=True):
                own.columns[column].append(value)
    return splits, sha256_of("\n".join(lines).encode())


def _document(content: bytes, place: str) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8-sig"))
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"{place}, line {error.lineno}, column {error.colno}: invalid JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a lone surrogate, nested too deep
        raise UserError(f"{place}: unreadable JSON ({error}).") from None
    if not isinstance(document, dict):
        raise UserError(f"{place}: expected an object with paper_id and abstract, found {type_words(document)}.")
    return document


def _paper_id(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    number = metadata.get("coda_paper_id") if isinstance(metadata, dict) else None
    found = document.get("paper_id") or (number if number is not None else "")
    return str(found).strip()


def _segments(document: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Yield (text, label) of each segment, in the order of the paper."""
    for p, paragraph in enumerate(_required_list(document, "abstract", place)):
        for s, sentence in enumerate(_required_list(paragraph, "sentences", f"{place}, abstract[{p}]")):
            where = f"{place}, abstract[{p}].sentences[{s}]"
            if not isinstance(sentence, list):
                raise UserError(f"{where}: expected a list of segments, found {sentence!r:.60}.")
            for i, segment in enumerate(sentence):
                text, label = (segment.get(key) if isinstance(segment, dict) else None for key in COLUMNS[:2])
                if not isinstance(text, str) or not isinstance(label, str):
                    raise UserError(f"{where}[{i}]: expected segment_text and crowd_label, found {segment!r:.60}.")
                if label not in LABELS:
                    known = ", ".join(map(repr, LABELS))
                    raise UserError(
                        f"{where}[{i}]: unknown crowd_label {label!r:.60}.{nearest(label, LABELS)} Known: {known}."
                    )
                yield text, label


def _required_list(holder: Any, key: str, place: str) -> list[Any]:
    found = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{place}: expected an object with a list {key!r}, found {found if found else holder!r:.60}.")
    return found


def _notes(splits: dict[str, _Split]) -> list[str]:
    """Return notes on skipped segments, and on counts that differ from the release (which counts blank segments)."""
    found = {"papers": sum(len(split.papers) for split in splits.values())}
    found |= {f"{name} segments": len(s.columns["segment_text"]) + s.blank for name, s in splits.items()}
    notes = [
        f"{plural(split.blank, 'segment')} of {name} {verb(split.blank, 'has no text and is', 'have no text and are')} left out"
        for name, split in splits.items()
        if split.blank
    ]
    other = [
        f"{found[what]:,} {what} (released: {count:,})" for what, count in RELEASED.items() if found[what] != count
    ]
    return notes + [f"counts differ from the released CODA-19: {', '.join(other)}"] * bool(other)
