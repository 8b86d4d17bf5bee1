"""Figures as matplotlib pictures (PNG, PDF), and functions shared with the SVG drawings.

Drawn without pyplot (no global state, no display), in the colour-blind-safe colours of Okabe and Ito.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import fonts
from .run_pictures import matrix_labels
from .values import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#7A7A7A")
LEFT, RIGHT, GREY = "#D55E00", "#0072B2", "#7F7F7F"  # worse, better, undecided
SHADES = ("#EFF4F9", "#0B5394")  # of a confusion matrix: 0 and 100 %
NUMBER_CLASSES = 15  # more classes than this: omit the numbers from the picture
WIDTH, DPI = 9.0, 160  # inches, dots an inch
NAMES = ("panel", "series", "y", "row", "column")  # roles whose cells are names
CROWDED = 8  # more series than this are drawn at separate heights


@dataclass(frozen=True)
class Panel:
    """A panel of a figure. series: name -> rows of the table. own_y: has its own y scale."""

    name: str
    series: dict[str, list[int]]
    own_y: bool


def panels(figure: Figure) -> list[Panel]:
    """Rows of a figure's table by panel and series, both in order of first appearance."""
    found: dict[str, dict[str, list[int]]] = {}
    for at, (panel, name) in enumerate(zip(figure.role("panel"), figure.role("series"), strict=True)):
        found.setdefault(str(panel or ""), {}).setdefault(str(name or ""), []).append(at)
    return [Panel(name, rows, figure.roles.get("y") == "value") for name, rows in found.items()]


def series(figure: Figure) -> dict[str, list[int]]:
    """Rows of a figure's table by series."""
    found: dict[str, list[int]] = {}
    for at, name in enumerate(figure.role("series")):
        found.setdefault(str(name or ""), []).append(at)
    return found


def verdict_colour(words: str | None) -> str:
    """Blue for better, vermilion for worse, grey for all other verdicts; blue if there is no verdict."""
    if words is None:
        return RIGHT
    return RIGHT if words.startswith("better") else LEFT if words.startswith("worse") else GREY


def log2_ticks(figure: Figure) -> list[float]:
    """Distinct values of x, used as ticks."""
    return sorted({float(x) for x in figure.role("x") if x})


def diagonal_range(figure: Figure) -> float:
    """Lower end of a reliability diagram's axes: the multiple of ten below its lowest point."""
    return max(0.0, 10 * np.floor(min([*figure.role("x"), *figure.role("y")]) / 10 - 0.001).item())


def x_range(figure: Figure) -> tuple[float, float]:
    """Range of x including intervals and margin, padded at both ends."""
    ends = [end for role in ("interval", "wide") for pair in figure.role(role) if pair is not None for end in pair]
    ends += [value for value in figure.role("x") if value is not None]
    band = 100 * figure.options.get("band", 0.0)
    low, high = min([*ends, -band] if band else ends), max([*ends, band] if band else ends)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def line_columns(figure: Figure, count: int) -> int:
    """Number of panels of curves per row; diagrams with a diagonal keep the size of four per row."""
    return 4 if figure.options.get("diagonal") else min(3, count)


def scatter_range(figure: Figure) -> tuple[float, float, float, float]:
    """Return the ranges of a scatter: x, which is logarithmic, and y including the line and the band, padded."""
    x, y = [float(value) for value in figure.role("x")], [float(value) for value in figure.role("y")]
    if "level" in figure.options:
        y += [100 * figure.options["level"], 100 * (figure.options["level"] - figure.options.get("band", 0.0))]
    wide = max(max(x) / min(x), 1.5) ** 0.07
    room = 0.08 * (max(y) - min(y)) or 1.0
    return min(x) / wide, max(x) * wide, min(y) - room, max(y) + room


def label_places(
    points: Sequence[tuple[float, float]], labels: Sequence[str], rings: Sequence[bool], level: float | None
) -> list[tuple[float, float, str]]:
    """Return where the label of each point stands: its shift from the point (dx, dy of the baseline) and its anchor.

    points: (x, y) in pixels, y downwards; rings: whether a ring is around it; level: y of a line. Of above, below, right and
    left, the first place counts that covers the fewest points, labels and lines.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    if level is not None:
        taken.append((-1e9, level - 1, 1e9, level + 1))
    found = []
    for (x, y), label, ring in zip(points, labels, rings, strict=True):
        far, wide = 13.0 if ring else 8.0, 6.5 * len(label)
        places = [(0.0, -far, "middle"), (0.0, far + 8, "middle"), (far, 4.0, "start"), (-far, 4.0, "end")]
        boxes = [_label_box(x + dx, y + dy, anchor, wide) for dx, dy, anchor in places]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = covered.index(min(covered))
        found.append(places[best])
        if label:
            taken.append(boxes[best])
    return found


def _label_box(x: float, y: float, anchor: str, wide: float) -> tuple[float, float, float, float]:
    left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 9, left + wide, y + 1


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high for a logarithmic axis: 1, 2, 5 of each power of ten, or all if there are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) >= 3:
            break
    return found


def draw_picture(figure: Figure) -> Picture:
    """Draw a figure on white; names that no font can draw are numbered."""
    figure, by_number = _with_drawable_names(figure)
    with fonts.use(str(cell) for row in figure.table.rows for cell in row if isinstance(cell, str)):
        made = {"intervals": _intervals, "lines": _lines, "scatter": _scatter, "matrix": _matrix}[figure.kind](figure)
        if by_number:
            made.supxlabel(fonts.NOTE, fontsize=8.5)
    return made


def _with_drawable_names(figure: Figure) -> tuple[Figure, bool]:
    """Number the names that no font can draw; returns the figure and whether any was replaced."""
    titles = [column.title for column in figure.table.columns]
    places = {titles.index(figure.roles[role]) for role in NAMES if role in figure.roles}
    cells = [row[at] for at in places for row in figure.table.rows]
    distinct = list(dict.fromkeys(cell for cell in cells if isinstance(cell, str)))
    if all(map(fonts.drawable, distinct)):
        return figure, False
    new: dict[Any, str] = {}
    for at in sorted(places):  # each column separately, so that numbers follow its order
        column = list(dict.fromkeys(row[at] for row in figure.table.rows if isinstance(row[at], str)))
        new |= {name: made for name, made in zip(column, fonts.numbered(column)[0], strict=True) if name not in new}
    rows = tuple(
        tuple(new.get(cell, cell) if at in places and isinstance(cell, str) else cell for at, cell in enumerate(row))
        for row in figure.table.rows
    )
    options = dict(figure.options)
    for key in {"marks", "steps"} & options.keys():
        options[key] = tuple(new.get(name, name) for name in options[key])
    return replace(figure, table=replace(figure.table, rows=rows), options=options), True


def to_bytes(drawn: Picture, form: str) -> bytes:
    """Deterministic PNG or PDF bytes of a picture."""
    out = io.BytesIO()
    dated = {"CreationDate": None} if form == "pdf" else {}
    drawn.savefig(out, format=form, dpi=DPI, facecolor="white", metadata=dated, bbox_inches="tight", pad_inches=0.12)
    drawn.set_layout_engine("none")  # laid out once; the next format keeps this layout
    return out.getvalue()


def _new(height: float, rows: int, columns: int, **layout: Any) -> tuple[Picture, np.ndarray]:
    from matplotlib.figure import Figure as Picture
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made = Picture(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03))
    axes = np.asarray(made.subplots(rows, columns, squeeze=False, **layout)).reshape(-1)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#999999")
        axis.tick_params(labelsize=9, color="#999999")
    return made, axes


def _wrapped(text: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" ..")) or text


def _intervals(figure: Figure) -> Picture:
    names, x, words = (figure.role(role) for role in ("y", "x", "words"))
    order = list(dict.fromkeys(map(str, names)))
    grouped = series(figure)
    crowded = len(grouped) > CROWDED  # then each series has its own height
    tall = 0.07 * len(grouped) if crowded else 0.36
    legend = 0.22 * -(-len(grouped) // 5) if len(grouped) > 1 else 0.0
    made, (axis,) = _new(0.9 + legend + tall * len(order), 1, 1)
    if band := figure.options.get("band"):
        axis.axvspan(-100 * band, 100 * band, color="#EEEEEE", zorder=0)
    if figure.options.get("zero"):
        axis.axvline(0, color="#666666", linewidth=1, linestyle="--", zorder=1)
    for at, (name, rows) in enumerate(grouped.items()):
        aside = 0.8 * ((at + 0.5) / len(grouped) - 0.5) if crowded else 0.0
        for row in rows:
            colour = verdict_colour(words[row]) if len(grouped) == 1 else COLOURS[at % len(COLOURS)]
            place = order.index(str(names[row])) + aside
            for role, width in (("wide", 1.2), ("interval", 3.2)):
                if (ends := figure.role(role)[row]) is not None:
                    axis.hlines(place, *ends, color=colour, linewidth=width, alpha=0.6 if role == "interval" else 1)
            axis.plot(
                x[row], place, "o", color=colour, markersize=6.5, zorder=3, label=name if row == rows[0] else None
            )
            if words[row]:
                axis.text(1.02, place, words[row], transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    axis.set_yticks(range(len(order)), [_wrapped(name) for name in order], parse_math=False)
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlim(*x_range(figure))
    _add_grid(axis, figure, "x")
    axis.set_xlabel(figure.axis("x"), fontsize=9.5, parse_math=False)
    if len(grouped) > 1:
        _legend(made, axis, len(grouped))
    return made


def _add_grid(axis: Axes, figure: Figure, grid: str) -> None:
    axis.grid(axis=grid, color="#E2E2E2", linewidth=0.7)  # type: ignore[arg-type]
    axis.set_axisbelow(True)


def _legend(made: Picture, axis: Axes, count: int) -> None:
    handles, names = axis.get_legend_handles_labels()
    found = made.legend(handles, names, loc="outside upper left", ncols=min(5, count), frameon=False, fontsize=9)
    for text in found.get_texts():
        text.set_parse_math(False)


def _lines(figure: Figure) -> Picture:
    parts = panels(figure)
    columns = line_columns(figure, len(parts))
    tall = min(WIDTH / columns, 4.5) if figure.options.get("diagonal") else 2.7
    made, axes = _new(0.7 + tall * -(-len(parts) // columns), -(-len(parts) // columns), columns)
    names = list(series(figure))
    for at, (axis, panel) in enumerate(zip(axes, parts, strict=False)):
        if figure.options.get("diagonal"):
            low = diagonal_range(figure)
            axis.plot([low, 100], [low, 100], color="#888888", linestyle="--", linewidth=1)
        for name, rows in panel.series.items():
            _line(axis, figure, name, names.index(name), rows)
        axis.set_title(panel.name, fontsize=10, loc="left", parse_math=False)
        axis.set_xlabel(figure.axis("x"), fontsize=9.5, parse_math=False)
        if not panel.own_y and at % columns == 0:
            axis.set_ylabel(figure.axis("y"), fontsize=9.5, parse_math=False)
        _set_x_scale(axis, figure, panel)
        _add_grid(axis, figure, "y")
    _share_y_scale(axes[: len(parts)], parts)
    for axis in axes[len(parts) :]:
        axis.remove()
    if len(names) > 1:
        fullest = max(range(len(parts)), key=lambda at: len(parts[at].series))
        _legend(made, axes[fullest], len(names))
    return made


def _line(axis: Axes, figure: Figure, name: str, at: int, rows: list[int]) -> None:
    marks, steps = figure.options.get("marks", ()), figure.options.get("steps", ())
    x, y, size = ([figure.role(role)[row] for row in rows] for role in ("x", "y", "size"))
    y = [np.nan if value is None else value for value in y]
    colour = GREY if name and name in marks else COLOURS[at % len(COLOURS)]
    style = ("-", "--", ":", "-.")[at // len(COLOURS) % 4]
    shown = "o" if name not in steps else ""
    line = {"color": colour, "linestyle": "" if name in marks else style, "linewidth": 1.6}
    stairs: Any = "steps-post" if name in steps else "default"
    sized = any(size)
    axis.plot(x, y, marker="" if sized else shown, markersize=4.5, drawstyle=stairs, label=name, **line)  # type: ignore[arg-type]
    if sized:
        largest = max(value for value in figure.role("size") if value)
        axis.scatter(x, y, s=[6 + 90 * value / largest for value in size], color=colour, alpha=0.85)


def _scatter(figure: Figure) -> Picture:
    """Points and lines of each series on a logarithmic axis, with a level, the band below it, and rings around marked points."""
    grouped = series(figure)
    made, (axis,) = _new(4.6 + 0.22 * -(-len(grouped) // 5), 1, 1)
    low, high, bottom, top = scatter_range(figure)
    if "level" in figure.options:
        level, band = 100 * figure.options["level"], 100 * figure.options.get("band", 0.0)
        names = [figure.options.get(f"{what} name") for what in ("level", "band")]
        axis.axhline(level, color="#666666", linewidth=1, linestyle="--", zorder=1, label=names[0])
        axis.axhspan(level - band, level, color="#E6E6E6", zorder=0, label=names[1])
    x, y, rings = (figure.role(role) for role in ("x", "y", "ring"))
    colours: dict[int, str] = {}
    for at, (name, rows) in enumerate(grouped.items()):
        marks = name in figure.options.get("marks", ())
        colour, style = GREY if marks else COLOURS[at % len(COLOURS)], "o" if marks else "-o"
        places = [x[row] for row in rows], [y[row] for row in rows]
        axis.plot(*places, style, color=colour, markersize=6, linewidth=1.1, label=name, zorder=3)
        for row in rows:
            if rings[row]:
                axis.plot(x[row], y[row], "o", color="black", markersize=13, fillstyle="none", zorder=4)
            colours[row] = colour
    axis.set_xscale("log")
    ticks = log_ticks(low, high)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(low, high)
    axis.set_ylim(bottom, top)
    axis.set_xlabel(figure.axis("x"), fontsize=9.5, parse_math=False)
    axis.set_ylabel(figure.axis("y"), fontsize=9.5, parse_math=False)
    axis.set_yticks([tick for tick in axis.get_yticks() if bottom <= tick <= min(top, 100)])
    _add_grid(axis, figure, "both")
    if len(grouped) > 1:
        _legend(made, axis, len(grouped))
    _add_labels(made, axis, figure, colours)
    return made


def _add_labels(made: Picture, axis: Axes, figure: Figure, colours: Mapping[int, str]) -> None:
    """Label the points of a scatter where there is room. colours: by row."""
    made.draw_without_rendering()  # the layout fixes where points are
    per_point = 72 / made.dpi
    x, y, rings = (figure.role(role) for role in ("x", "y", "ring"))
    labels = [str(label or "") for label in figure.role("label")]
    points = [
        (float(across) * per_point, -float(up) * per_point)
        for across, up in axis.transData.transform([*zip(x, y, strict=True)])
    ]
    level = None
    if "level" in figure.options:
        level = -float(axis.transData.transform((x[0], 100 * figure.options["level"]))[1]) * per_point
    sides = {"start": "left", "middle": "center", "end": "right"}
    for row, (dx, dy, anchor) in enumerate(label_places(points, labels, [bool(ring) for ring in rings], level)):
        if labels[row]:
            shift: Any = {"xytext": (dx, -dy), "textcoords": "offset points", "ha": sides[anchor], "va": "baseline"}
            axis.annotate(labels[row], (x[row], y[row]), color=colours[row], parse_math=False, fontsize=8, **shift)


def _set_x_scale(axis: Axes, figure: Figure, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    values = [figure.role("x")[row] for rows in panel.series.values() for row in rows]
    if figure.options.get("log2"):
        ticks = log2_ticks(figure)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    elif all(isinstance(value, int) for value in values):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if figure.options.get("diagonal"):
        axis.set_xlim(diagonal_range(figure), 103)
        axis.set_ylim(diagonal_range(figure), 103)
        axis.set_aspect("equal")


def _share_y_scale(axes: np.ndarray, parts: list[Panel]) -> None:
    """Use the same y scale in all panels that show the same quantity."""
    if len(parts) > 1 and not parts[0].own_y:
        ends = np.array([axis.get_ylim() for axis in axes])
        for axis in axes:
            axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())


def matrix_columns(size: int) -> int:
    """Number of confusion matrices of `size` classes per row; a single one keeps that size."""
    return 4 if size <= 4 else 3 if size <= 6 else 2 if size <= 12 else 1


def _matrix(figure: Figure) -> Picture:
    from matplotlib.colors import LinearSegmentedColormap

    parts, names = panels(figure), list(dict.fromkeys(map(str, figure.role("row"))))
    size, value, labels = len(names), figure.role("value"), matrix_labels(names)
    columns = matrix_columns(size)
    rows = -(-len(parts) // columns)
    made, axes = _new(rows * (min(WIDTH / columns, 8.0) + 0.35) * (0.98 if columns > 1 else 0.9), rows, columns)
    colours = LinearSegmentedColormap.from_list("shades", list(SHADES))
    for at, (axis, panel) in enumerate(zip(axes, parts, strict=False)):
        cells = [value[index] for index in panel.series[""]]
        grid = np.array([np.nan if cell is None else cell for cell in cells]).reshape(size, size)
        axis.imshow(grid, cmap=colours, vmin=0, vmax=100)
        for (row, column), cell in np.ndenumerate(grid) if size <= NUMBER_CLASSES else ():
            text = "-" if np.isnan(cell) else f"{cell:.1f}"
            axis.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=10 if size <= 6 else 7.5,
                color="white" if cell > 55 else "black",
            )
        axis.set_title(_wrapped(panel.name, 30), fontsize=10, parse_math=False)
        turned: dict[str, Any] = {}
        if max(map(len, names)) > 5:
            turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(size), labels, parse_math=False, **turned)
        axis.set_yticks(range(size), labels if at % columns == 0 else [""] * size, parse_math=False)
        if size > 6:
            axis.tick_params(labelsize=7.5)
        axis.set_xlabel("predicted", fontsize=9.5)
        axis.set_ylabel("true" if at % columns == 0 else "", fontsize=9.5)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    for axis in axes[len(parts) :]:
        axis.remove()
    return made
