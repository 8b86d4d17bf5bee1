"""Figures as inline SVG for the HTML page. Every mark has a title, shown on hover.

No script is needed. Text keeps its size on narrow screens: rows of intervals have widths in percent, and each panel of
curves or matrices is a separate drawing that the page lays out. Axes and text use the colours of the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from .pictures import (
    COLOURS,
    GREY,
    NUMBER_CLASSES,
    SHADES,
    Panel,
    diagonal_range,
    label_places,
    log2_ticks,
    log_ticks,
    panels,
    scatter_range,
    series,
    verdict_colour,
    x_range,
)
from .text import distinct_names
from .values import Figure, format_cell

ROW, BAR = 30, 3.5  # pixels: height of a row of intervals, width of its bar
WIDTH, HEIGHT = 430, 270  # pixels of a panel of curves
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 12, 46  # its margins
DASHES = ("", "7 4", "2 3", "7 3 2 3")
LETTER = 6.6  # approximate width of a letter in pixels
LONGEST_LABEL = 20  # most letters of a class name in a matrix
NARROW, WIDE = "fijlrt.,:;'|!()[]/- ", "mwMW@%—"  # letters whose width differs most from the others'


def svg(figure: Figure) -> str:
    """Draw a figure as HTML; all text from the data is escaped."""
    return {"intervals": _intervals, "lines": _lines, "scatter": _scatter, "matrix": _matrix}[figure.kind](figure)


def _tag(name: str, inside: str = "", **attributes: Any) -> str:
    """Format an element. inside: markup. Underscores in attribute names become hyphens; None omits an attribute."""
    given = {key.strip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    text = "".join(f' {key}="{html.escape(_number(value))}"' for key, value in given.items())
    return f"<{name}{text}>{inside}</{name}>"


def _number(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _text(words: str, x: float | str, y: float, anchor: str = "start", **more: Any) -> str:
    return _tag("text", html.escape(words), x=x, y=y, text_anchor=anchor, **more)


def _title(words: str) -> str:
    return _tag("title", html.escape(words))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _hover(figure: Figure, row: int) -> str:
    cells = zip(figure.table.columns, figure.table.rows[row], strict=True)
    return "; ".join(
        f"{column.title}: {format_cell(cell, column.kind)}" for column, cell in cells if format_cell(cell, column.kind)
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers from low to high."""
    least = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _legend(figure: Figure, names: Sequence[str]) -> str:
    """Legend of the series; empty for a single one."""
    if len(names) < 2:
        return ""
    items = []
    for at, name in enumerate(names):
        colour, dash = _style(figure, name, at)
        line = _tag("line", x1=0, x2=22, y1=6, y2=6, stroke=colour, stroke_width=3, stroke_dasharray=dash or None)
        items.append(_tag("span", _tag("svg", line, width=22, height=12, aria_hidden="true") + html.escape(name)))
    return _tag("div", "".join(items), class_="legend")


def _style(figure: Figure, name: str, at: int) -> tuple[str, str]:
    """Colour and dashes of a series."""
    colour = GREY if name and name in figure.options.get("marks", ()) else COLOURS[at % len(COLOURS)]
    return colour, DASHES[at // len(COLOURS) % 4]


def _intervals(figure: Figure) -> str:
    """Grid of three columns: names, bars, verdicts. On narrow screens names and verdicts are above their bars."""
    names, words, grouped = [str(name) for name in figure.role("y")], figure.role("words"), series(figure)
    low, high = x_range(figure)
    order = list(dict.fromkeys(names))
    rows = []
    for name in order:
        here = [[row for row in found if names[row] == name] for found in grouped.values()]
        verdict = next((str(words[row]) for found in here for row in found if words[row]), "")
        height = max(ROW, 14 * len(here))
        bars = "".join(
            _bar(figure, row, place, height * (place + 0.5) / len(here), len(grouped), (low, high))
            for place, found in enumerate(here)
            for row in found
        )
        drawn = _tag(
            "svg", _row_background(figure, low, high, height) + bars, width="100%", height=height, aria_hidden="true"
        )
        rows.append(_tag("div", html.escape(name), class_="name") + drawn)
        rows.append(_tag("div", html.escape(verdict), class_="outcome"))
    axis = "".join(_text(_tick(tick), _x_percent(tick, low, high), 14, "middle") for tick in ticks(low, high))
    axis += _text(figure.axis("x"), "50%", 33, "middle", class_="axis")
    ends = _tag("div", class_="name") + _tag("svg", axis, width="100%", height=40, aria_hidden="true")
    kind = "intervals" + (" worded" if any(words) else "")
    return _legend(figure, list(grouped)) + _tag(
        "div", "".join(rows) + ends + _tag("div", class_="outcome"), class_=kind
    )


def _x_percent(value: float, low: float, high: float) -> str:
    return f"{100 * (value - low) / (high - low):.2f}%"


def _row_background(figure: Figure, low: float, high: float, height: float) -> str:
    """Margin, grid and zero line behind a row."""
    drawn = ""
    if band := figure.options.get("band"):
        wide = f"{100 * 200 * band / (high - low):.2f}%"
        drawn += _tag("rect", class_="band", x=_x_percent(-100 * band, low, high), y=0, width=wide, height=height)
    for tick in ticks(low, high):
        zero = bool(figure.options.get("zero")) and abs(tick) < 1e-9
        place = _x_percent(tick, low, high)
        drawn += _tag("line", class_="zero" if zero else "grid", x1=place, x2=place, y1=0, y2=height)
    return drawn


def _bar(figure: Figure, row: int, at: int, y: float, count: int, ends: tuple[float, float]) -> str:
    """One mark with its intervals."""
    value, words = figure.role("x")[row], figure.role("words")
    if value is None:
        return ""
    colour = verdict_colour(words[row]) if count == 1 else COLOURS[at % len(COLOURS)]
    drawn = _title(_hover(figure, row))
    for role, width, opacity in (("wide", 1.3, 0.9), ("interval", BAR, 0.6)):
        if (pair := figure.role(role)[row]) is not None:
            x1, x2 = (_x_percent(end, *ends) for end in pair)
            drawn += _tag("line", x1=x1, x2=x2, y1=y, y2=y, stroke=colour, stroke_width=width, opacity=opacity)
    return _tag("g", drawn + _tag("circle", cx=_x_percent(value, *ends), cy=y, r=5, fill=colour))


def _panels(drawn: Sequence[tuple[str, str]]) -> str:
    """Titled drawings in a wrapping row."""
    parts = []
    for name, drawing in drawn:
        title = _tag("div", html.escape(name), class_="name") if name else ""
        parts.append(_tag("div", title + drawing, class_="panel"))
    return _tag("div", "".join(parts), class_="panels")


def _lines(figure: Figure) -> str:
    names, parts = list(series(figure)), panels(figure)
    return _legend(figure, names) + _panels([(panel.name, _curves(figure, panel, parts, names)) for panel in parts])


def _curves(figure: Figure, panel: Panel, parts: list[Panel], names: list[str]) -> str:
    """Axes and curves of one panel."""
    places, labels = _x_positions(figure, panel)
    shared = [panel] if panel.own_y else parts
    low, high = _y_range(figure, [row for one in shared for rows in one.series.values() for row in rows])
    inside, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def y_of(value: float) -> float:
        return TOP + tall * (1 - (value - low) / (high - low))

    drawn = ""
    for tick in ticks(low, high, 5):
        drawn += _tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y_of(tick), y2=y_of(tick))
        drawn += _text(_tick(tick), LEFT - 7, y_of(tick) + 4, "end")
    for share, label in labels:
        drawn += _text(label, LEFT + inside * share, HEIGHT - BOTTOM + 18, "middle")
    drawn += _text(figure.axis("x"), LEFT + inside / 2, HEIGHT - 6, "middle", class_="axis")
    upright = panel.name if panel.own_y else figure.axis("y")
    middle = TOP + tall / 2
    drawn += _text(_cut(upright, 34), 13, middle, "middle", class_="axis", transform=f"rotate(-90 13 {middle:g})")
    if figure.options.get("diagonal"):
        ends = (y_of(low), y_of(100))
        right = LEFT + inside * (100 - low) / (high - low)
        drawn += _tag("line", class_="zero", x1=LEFT, x2=right, y1=ends[0], y2=ends[1])
    for name, rows in panel.series.items():
        points = [(LEFT + inside * places[row], y_of(figure.role("y")[row]), row) for row in rows if row in places]
        drawn += _curve(figure, name, names.index(name), points)
    drawn += _tag("line", class_="edge", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM)
    return _tag("svg", drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_hidden="true")


def _curve(figure: Figure, name: str, at: int, points: list[tuple[float, float, int]]) -> str:
    colour, dash = _style(figure, name, at)
    stairs, sizes = name in figure.options.get("steps", ()), figure.role("size")
    drawn = ""
    if name not in figure.options.get("marks", ()) and len(points) > 1:
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        path += "".join(f"H{x:.1f}V{y:.1f}" if stairs else f"L{x:.1f} {y:.1f}" for x, y, _ in points[1:])
        drawn = _tag("path", d=path, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash or None)
    largest = max((size for size in sizes if size), default=None)
    for x, y, row in points:
        radius = 2.5 + 6.5 * (sizes[row] / largest) ** 0.5 if largest else 2.0 if stairs else 3.5
        dot = _tag("circle", cx=x, cy=y, r=radius, fill=colour, opacity=0.85)
        around = _tag("circle", cx=x, cy=y, r=max(radius, 9.0), fill="transparent")  # larger hover area
        drawn += _tag("g", _title(_hover(figure, row)) + around + dot)
    return drawn


def _scatter(figure: Figure) -> str:
    """Points of each series on a logarithmic axis, as `pictures` draws them."""
    grouped, wide, high = series(figure), 620, 360
    left, right, bottom, top = scatter_range(figure)
    inside, tall = wide - LEFT - RIGHT, high - TOP - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + inside * math.log(value / left) / math.log(right / left)

    def y_of(value: float) -> float:
        return TOP + tall * (1 - (value - bottom) / (top - bottom))

    drawn = ""
    if "level" in figure.options:
        level, band = 100 * figure.options["level"], 100 * figure.options.get("band", 0.0)
        ends: dict[str, Any] = {
            "x": LEFT,
            "width": inside,
            "y": y_of(level),
            "height": y_of(level - band) - y_of(level),
        }
        drawn += _tag("rect", class_="band", **ends)
        drawn += _tag("line", class_="zero", x1=LEFT, x2=wide - RIGHT, y1=y_of(level), y2=y_of(level))
    for tick in ticks(bottom, min(top, 100.0), 6):
        drawn += _tag("line", class_="grid", x1=LEFT, x2=wide - RIGHT, y1=y_of(tick), y2=y_of(tick))
        drawn += _text(_tick(tick), LEFT - 7, y_of(tick) + 4, "end")
    for tick in log_ticks(left, right):
        drawn += _text(_tick(tick), x_of(tick), high - BOTTOM + 18, "middle")
    drawn += _text(figure.axis("x"), LEFT + inside / 2, high - 6, "middle", class_="axis")
    middle = TOP + tall / 2
    drawn += _text(figure.axis("y"), 13, middle, "middle", class_="axis", transform=f"rotate(-90 13 {middle:g})")
    x, y, rings = (figure.role(role) for role in ("x", "y", "ring"))
    labels = [str(label or "") for label in figure.role("label")]
    places = [(x_of(across), y_of(up)) for across, up in zip(x, y, strict=True)]
    line = y_of(100 * figure.options["level"]) if "level" in figure.options else None
    shifts = label_places(places, labels, [bool(ring) for ring in rings], line)
    for at, (name, rows) in enumerate(grouped.items()):
        points = [(*places[row], row) for row in rows]
        drawn += _curve(figure, name, at, points)
        for across, down, row in points:
            if rings[row]:
                drawn += _tag("circle", class_="ring", cx=across, cy=down, r=9, fill="none", stroke="currentColor")
            if labels[row]:
                dx, dy, anchor = shifts[row]
                drawn += _text(labels[row], across + dx, down + dy, anchor)
    drawn += _tag("line", class_="edge", x1=LEFT, x2=wide - RIGHT, y1=high - BOTTOM, y2=high - BOTTOM)
    drawing = _tag("svg", drawn, viewBox=f"0 0 {wide} {high}", style=f"max-width:{wide}px", aria_hidden="true")
    return _legend(figure, list(grouped)) + drawing


def _y_range(figure: Figure, rows: list[int]) -> tuple[float, float]:
    """Padded range of y of some rows."""
    if figure.options.get("diagonal"):
        return diagonal_range(figure), 103.0
    values = [value for row in rows if (value := figure.role("y")[row]) is not None] or [0.0]
    room = 0.08 * (max(values) - min(values)) or 0.5
    return min(values) - room, max(values) + room


def _x_positions(figure: Figure, panel: Panel) -> tuple[dict[int, float], list[tuple[float, str]]]:
    """Positions on the x axis (0 to 1) of a panel's rows that have a y, and the axis labels."""
    x, y = figure.role("x"), figure.role("y")
    rows = [row for found in panel.series.values() for row in found if y[row] is not None and x[row] is not None]
    if any(isinstance(x[row], str) for row in rows):
        named = list(dict.fromkeys(str(x[row]) for found in panel.series.values() for row in found))
        shares = {name: (at + 0.5) / len(named) for at, name in enumerate(named)}
        most = max(3, int((WIDTH - LEFT - RIGHT) / len(named) / LETTER))
        return {row: shares[str(x[row])] for row in rows}, [(at, _cut(name, most)) for name, at in shares.items()]
    logarithmic = bool(figure.options.get("log2"))
    values = {row: math.log2(x[row]) if logarithmic else float(x[row]) for row in rows if not logarithmic or x[row]}
    if figure.options.get("diagonal"):
        low, high = diagonal_range(figure), 103.0
    else:
        low, high = min(values.values(), default=0.0), max(values.values(), default=1.0)
        room = 0.04 * (high - low) or 0.5
        low, high = low - room, high + room
    if logarithmic:
        labels = [(math.log2(tick), _tick(tick)) for tick in log2_ticks(figure)]
    else:
        whole = all(isinstance(x[row], int) for row in values)
        labels = [(tick, _tick(tick)) for tick in ticks(low, high) if not whole or tick == round(tick)]
    return (
        {row: (value - low) / (high - low) for row, value in values.items()},
        [((at - low) / (high - low), label) for at, label in labels],
    )


def _matrix(figure: Figure) -> str:
    parts, names = panels(figure), list(dict.fromkeys(map(str, figure.role("row"))))
    return _panels([(panel.name, _cells(figure, panel.series[""], names)) for panel in parts])


def _pixels(text: str) -> float:
    """Approximate width of a label in pixels, rather too wide than too narrow."""
    return sum(
        13.0
        if cell_len(letter) > 1
        else 11.5
        if letter in WIDE
        else 4.8
        if letter in NARROW
        else 9.0
        if letter.isupper()
        else 7.6
        for letter in text
    )


def _cells(figure: Figure, rows: list[int], names: list[str]) -> str:
    """Draw a confusion matrix: true classes as rows, predicted classes as columns.

    What rows and columns are stands above them, where no name of a class reaches.
    """
    size, value = len(names), figure.role("value")
    side = 62 if size <= 4 else 50 if size <= 8 else 40 if size <= NUMBER_CLASSES else 22
    labels = distinct_names(names, LONGEST_LABEL)
    longest = max(map(_pixels, ["true", *labels]))
    left, top, slanted = 10 + longest, 22, longest > side
    below = 6 + (0.72 * longest + 6 if slanted else 16)
    right = 6 + (0 if slanted else 4)
    drawn = _text("true", left - 6, 13, "end", class_="axis")
    drawn += _text("predicted", left + size * side / 2, 13, "middle", class_="axis")
    for at, row in enumerate(rows):
        down, across = divmod(at, size)
        x, y = left + across * side, top + down * side
        box: dict[str, Any] = {"x": x + 1, "y": y + 1, "width": side - 2, "height": side - 2}
        share = value[row]
        cell = _title(_hover(figure, row)) + _tag("rect", fill=_shade(share), class_="cell", **box)
        if size <= NUMBER_CLASSES:
            words, dark = "-" if share is None else f"{share:.1f}", share is not None and share > 55
            colour = "#fff" if dark else "#1b1d20"
            cell += _text(words, x + side / 2, y + side / 2 + 4, "middle", style=f"fill:{colour}")
        drawn += _tag("g", cell)
    for at, (label, name) in enumerate(zip(labels, names, strict=True)):
        middle = (at + 0.5) * side
        drawn += _tag("g", _title(name) + _text(label, left - 6, top + middle + 4, "end"))
        x, y = left + middle, top + size * side + 14
        turned = {"transform": f"rotate(-45 {x:g} {y:g})"} if slanted else {}
        drawn += _tag("g", _title(name) + _text(label, x, y, "end" if slanted else "middle", **turned))
    width, height = left + size * side + right, top + size * side + below
    return _tag("svg", drawn, viewBox=f"0 0 {width:g} {height:g}", style=f"max-width:{width:g}px", aria_hidden="true")


def _shade(share: float | None) -> str:
    """Colour between the ends of `SHADES`; transparent for a class without rows."""
    if share is None:
        return "transparent"
    ends = [[int(shade[at : at + 2], 16) for at in (1, 3, 5)] for shade in SHADES]
    return "#" + "".join(f"{round(a + (b - a) * share / 100):02x}" for a, b in zip(*ends, strict=True))
