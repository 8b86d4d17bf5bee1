"""HTML, Markdown and CSV reports of runs and studies. Nothing here trains.

subjects  models, arms, subjects                read         folders -> subjects
values    what tables, figures and sections are
compare, scores, search, ledger, checks         subjects -> sections
draw, svg                                       figures -> pictures, figures -> drawings on the page
sections  all of it in order                    write        files in a folder
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from randout.core.errors import UserError
from randout.core.files import check_folder


def report(
    paths: Sequence[Path], out: Path, *, texts: bool = True, formats: str = "html,md,csv,png,pdf", baseline: str = ""
) -> list[Path]:
    """Report on run and study folders in the folder `out`; the files written, the first one to open first.

    texts: whether texts that the runs kept may be shown. baseline: as for `read.read`.
    Raises UserError for what is wrong with a folder, with `out`, or with mixing several data sets.
    """
    from . import page, read, sections

    wanted = page.checked_formats(formats)
    page.refuse_others(out)
    check_folder(out.absolute().parent, out)
    if any(Path(path).resolve() == out.resolve() for path in paths):
        raise UserError(f"-o {out}: this is one of the folders to report on; name another")
    return page.write(sections.build(read.read(paths, baseline), texts), out, wanted)
