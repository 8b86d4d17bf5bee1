"""`randout report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="runs, studies, or a folder of runs", metavar="RUN|STUDY...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the report")] = Path("report"),
    no_texts: Annotated[bool, typer.Option("--no-texts", help="show no text of the data")] = False,
    formats: Annotated[str, typer.Option(help="which to write, by comma")] = "html,md,csv,png,pdf",
    baseline: Annotated[str, typer.Option(help="the run that the others are set beside")] = "",
) -> None:
    """One page on runs and studies. Verdicts, tables, figures, checks; also as Markdown, CSV, PNG, PDF."""
    from randout.reporting import report as make

    written = make(folders, out, texts=not no_texts, formats=formats, baseline=baseline)
    print(written[0])
