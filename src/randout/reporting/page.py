"""Writes a report to a folder: one self-contained HTML page, Markdown, CSV, PNG and PDF.

The folder is written under a temporary name and then renamed. `report.json` lists the files of a report, so that the
next report replaces only those. The same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from randout.core.errors import Failure, UserError, nearest
from randout.core.files import check_folder_name

from .pictures import draw_picture, to_bytes
from .sections import Chapter
from .svg import svg
from .values import Check, Code, Column, Figure, Points, Section, Table, format_cell, format_exact

FORMATS = ("html", "md", "csv", "png", "pdf")
MANIFEST = "report.json"
SCRIPT = Path(__file__).with_name("report.js")
TEMPLATE = "report.html.jinja"
KIND = {Table: "table", Figure: "figure", Check: "check", Code: "code", Points: "points", str: "text"}


def checked_formats(text: str) -> list[str]:
    """Parse a list of formats such as `html,csv`. Raises UserError for an unknown format."""
    found = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in found:
        if word not in FORMATS:
            raise UserError(
                f"--formats {text}: unknown format {word!r}; expected some of {', '.join(FORMATS)}.{nearest(word, FORMATS)}"
            )
    if not found:
        raise UserError(f"--formats: give at least one of {', '.join(FORMATS)}")
    return found


def write(
    chapters: Sequence[Chapter],
    folder: Path,
    formats: Sequence[str] = FORMATS,
    more: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write a report and return the paths written. Raises UserError if `folder` holds anything but an earlier report.

    more: the content of further files, by name.
    """
    refuse_others(folder)
    files = _files(chapters, formats) | dict(more or {})
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = (json.dumps({"format": 1, "files": listed}, indent=1) + "\n").encode()
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise Failure(f"{folder}: could not be written ({error.strerror}).") from None
    try:
        for name, content in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes(content)
        mask = os.umask(0)
        os.umask(mask)
        made.chmod(0o777 & ~mask)
        _swap(made, folder)
    except OSError as error:
        raise Failure(f"{folder}: could not be written ({error.strerror}).") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return [folder / name for name in files]


def _swap(made: Path, folder: Path) -> None:
    """Replace `folder` by `made`; restores `folder` if that fails."""
    if not folder.exists():
        made.rename(folder)
        return
    aside = made.with_name(made.name + ".old")
    folder.rename(aside)
    try:
        made.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def refuse_others(folder: Path) -> None:
    """Raise UserError if `folder` is a file, has the name of one, or holds anything but an unchanged earlier report."""
    check_folder_name(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"-o {folder}: this is a file, which is not overwritten; give a folder")
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        listed = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or (name == MANIFEST and listed):
            continue
        if name not in listed:
            raise UserError(
                f"-o {folder}: it holds {name}, which was not written by a report and is not overwritten; give another folder"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]:
            raise UserError(
                f"-o {folder}: {name} was changed after the report was written and is not overwritten; give another folder"
            )


def _files(chapters: Sequence[Chapter], formats: Sequence[str]) -> dict[str, bytes]:
    """Content of every file by name."""
    sections = [section for chapter in chapters for section in chapter.sections]
    figures = [part for section in sections for part in section.parts if isinstance(part, Figure)]
    drawn = {figure.name: draw_picture(figure) for figure in figures} if {"png", "pdf"} & set(formats) else {}
    files: dict[str, bytes] = {}
    if "html" in formats:
        files["report.html"] = page(chapters).encode()
    if "md" in formats:
        files["report.md"] = markdown(chapters, "png" in formats).encode()
    if "csv" in formats:
        tables = [table for section in sections for table in section.tables()]
        files |= {f"tables/{table.name}.csv": to_csv(table).encode() for table in tables}
    if "png" in formats:
        files |= {f"figures/{name}.png": to_bytes(one, "png") for name, one in drawn.items()}
    if "pdf" in formats:
        files |= {f"figures/{name}.pdf": to_bytes(one, "pdf") for name, one in drawn.items()}
    return files


def page(chapters: Sequence[Chapter]) -> str:
    """Render the HTML page. Its content security policy allows only its own script and no network access."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    script = SCRIPT.read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    policy += "base-uri 'none'; form-action 'none'"
    setting = Environment(
        loader=PackageLoader("randout", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    setting.filters |= {"format_cell": format_cell, "kind": lambda part: KIND[type(part)], "typeset": typeset}
    setting.filters["drawn"] = lambda figure: Markup(svg(figure))
    return setting.get_template(TEMPLATE).render(chapters=chapters, policy=Markup(policy), script=Markup(script))


def typeset(text: str) -> str:
    """Use a true minus sign, and a non-breaking space before the percent sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text).replace(" %", "\u00a0%")


def to_csv(table: Table) -> str:
    """Format a table as CSV: numbers in the unit of their column title, not rounded; an interval takes two columns."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([title for column in table.columns for title in column.titles])
    for row in table.rows:
        writer.writerow(
            [text for column, cell in zip(table.columns, row, strict=True) for text in format_exact(cell, column.kind)]
        )
    return out.getvalue()


def markdown(chapters: Sequence[Chapter], pictures: bool) -> str:
    """Format the report as Markdown; pictures: include the PNG files."""
    lines = []
    for chapter in chapters:
        lines += [f"# {_escape_markdown(chapter.title)}", "", _escape_markdown(chapter.lead), ""]
        for section in chapter.sections:
            lines += [f"## {_escape_markdown(section.title)}", "", *_markdown_parts(section, pictures)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_parts(section: Section, pictures: bool) -> list[str]:
    lines: list[str] = []
    for part in section.parts:
        match part:
            case str():
                lines += [_escape_markdown(part), ""]
            case Points(items):
                lines += [*(f"- {_escape_markdown(item)}" for item in items), ""]
            case Check():
                lines += [
                    f"- **{part.severity}: {_escape_markdown(part.title)}.** {_escape_markdown(part.explanation)}",
                    "",
                ]
            case Table():
                lines += [f"### {_escape_markdown(part.title)}", "", *_markdown_table(part)]
            case Figure():
                lines += [f"### {_escape_markdown(part.title)}", ""]
                lines += [f"![{_escape_markdown(part.title)}](figures/{part.name}.png)", ""] if pictures else []
                lines += [*([_escape_markdown(part.note), ""] if part.note else []), *_markdown_table(part.table)]
            case Code():
                lines += [
                    f"### {_escape_markdown(part.title)}",
                    "",
                    *(f"    {line}" for line in part.text.splitlines()),
                    "",
                ]
    return lines


def _markdown_table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(_escape_markdown(column.title) for column in table.columns) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|")
    lines += ["| " + " | ".join(_cells(table.columns, row)) + " |" for row in table.rows]
    return [*lines, "", *([_escape_markdown(table.note), ""] if table.note else [])]


def _cells(columns: tuple[Column, ...], row: tuple[Any, ...]) -> list[str]:
    return [_escape_markdown(format_cell(cell, column.kind)) for column, cell in zip(columns, row, strict=True)]


def _escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it literally."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text
