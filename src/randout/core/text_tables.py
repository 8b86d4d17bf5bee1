"""Text tables with aligned columns, as lines for the caller to print, and cells cut to fit into a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

NARROWEST = 12  # least columns of a shortened cell


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Format a table with aligned columns; columns in `left` are left-aligned, the others right-aligned."""
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        sized = zip(row, widths, strict=True)
        padded = [(cell, " " * (width - cell_len(cell))) for cell, width in sized]
        cells = [cell + gap if at in left else gap + cell for at, (cell, gap) in enumerate(padded)]
        lines.append("  ".join(cells).rstrip())
    return lines


def fit_to_width(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, shortened: Sequence[int], ellipsis: str = "…"
) -> list[tuple[str, ...]]:
    """Shorten cells so that the lines of `table_lines` fit into `width` terminal columns.

    Cells of the columns `shortened` are cut in the middle, the widest columns first; no column gets narrower than its
    header or than `NARROWEST`.
    """
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    least = {at: max(NARROWEST, cell_len(header[at])) for at in shortened}
    while sum(widths) + 2 * (len(widths) - 1) > width:
        open_ = [at for at in shortened if widths[at] > least[at]]
        if not open_:
            break
        widths[max(open_, key=lambda at: widths[at])] -= 1
    return [
        tuple(without_middle(cell, widths[at], ellipsis) if at in least else cell for at, cell in enumerate(row))
        for row in rows
    ]


def without_middle(text: str, width: int, ellipsis: str, after: int | None = None) -> str:
    """Cut the middle of a text so that it fits into `width` terminal columns.

    after: most columns of the part after the cut; by default half of what is shown.
    """
    if cell_len(text) <= width:
        return text
    room = width - cell_len(ellipsis)
    end = text
    while cell_len(end) > (room // 2 if after is None else after):
        end = end[1:]
    return set_cell_size(text, room - cell_len(end)).rstrip() + ellipsis + end
