"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="runs, studies or a folder of runs", metavar="RUN|STUDY...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the report")] = Path("report"),
    no_texts: Annotated[bool, typer.Option("--no-texts", help="leave out texts of the data")] = False,
    formats: Annotated[str, typer.Option(help="formats to write, comma-separated")] = "html,md,csv,png,pdf",
    baseline: Annotated[str, typer.Option(help="run that the others are compared with")] = "",
) -> None:
    """Create an HTML report of runs or studies. Also writes Markdown, CSV, PNG and PDF."""
    from randout.reporting import report as write_report

    written = write_report(folders, out, texts=not no_texts, formats=formats, baseline=baseline)
    print(written[0])
