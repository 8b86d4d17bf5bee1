"""HTML, Markdown and CSV reports of runs and studies. Nothing here trains.

subjects                              models, arms and subjects of a report
values                                tables, figures and sections as plain values
read                                  folders -> subjects
comparison, scores, search, teachers,
runs_table, student_selection, checks,
abstention                            subjects -> sections
sections                              all sections in reading order
pictures, svg                         figures -> matplotlib pictures, inline SVG of the page
page                                  sections -> files in a folder
text                                  scores, comparisons and choices as lines for a terminal
run_pictures, workflow_figure         pictures of single runs and comparisons
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from randout.core.errors import UserError
from randout.core.files import check_folder


def report(
    paths: Sequence[Path], out: Path, *, texts: bool = True, formats: str = "html,md,csv,png,pdf", baseline: str = ""
) -> list[Path]:
    """Write a report on run and study folders to the folder `out`; returns the files written, the main one first.

    texts: show texts that the runs kept. formats: comma-separated. baseline: as for `read.read`.
    Raises UserError for a faulty folder, an unsuitable `out`, or folders of different data sets.
    """
    from . import page, read, sections

    wanted = page.checked_formats(formats)
    page.refuse_others(out)
    check_folder(out.absolute().parent, out)
    if any(Path(path).resolve() == out.resolve() for path in paths):
        raise UserError(f"-o {out}: this is one of the folders to report on; give another folder")
    return page.write(sections.build(read.read(paths, baseline), texts), out, wanted)
