"""A figure as the JSON that plotly.js draws. Everything from the data is escaped: plotly reads tags in its texts."""

from __future__ import annotations

import html
from typing import Any

from .draw import (
    COLOURS,
    GREY,
    NUMBER_CLASSES,
    SHADES,
    Panel,
    diagonal_range,
    line_columns,
    log2_ticks,
    matrix_columns,
    panels,
    series,
    span,
    verdict_colour,
)
from .values import Figure, shown

GRID, LINE = "rgba(128,128,128,0.22)", "rgba(128,128,128,0.7)"
FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13}


def _safe(text: Any) -> str:
    return html.escape(str(text), quote=False)


def _axis(title: str, **more: Any) -> dict[str, Any]:
    shape = {"gridcolor": GRID, "zeroline": False, "linecolor": LINE, "automargin": True, "fixedrange": True}
    return {**shape, "title": {"text": _safe(title), "standoff": 8}, **more}


def plotly(figure: Figure) -> dict[str, Any]:
    """{"data", "layout"} for `Plotly.newPlot`; `layout.height` in pixels, the width is the page's."""
    data, layout = {"intervals": _intervals, "lines": _lines, "matrix": _matrix}[figure.kind](figure)
    whole: dict[str, Any] = {
        "font": FONT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
    }
    whole |= {"margin": {"l": 10, "r": 20, "t": 34, "b": 48}, "showlegend": False}
    return {"data": data, "layout": whole | layout}


def _intervals(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    names, x, words = figure.role("y"), figure.role("x"), figure.role("words")
    order = list(dict.fromkeys(map(_safe, names)))
    data: list[Any] = []
    grouped = series(figure)
    for at, (name, rows) in enumerate(grouped.items()):
        colours = (
            [verdict_colour(words[row]) for row in rows]
            if len(grouped) == 1
            else [COLOURS[at % len(COLOURS)]] * len(rows)
        )
        for role, width in (("wide", 1.5), ("interval", 5)):
            for row, colour in zip(rows, colours, strict=True):
                if (ends := figure.role(role)[row]) is not None:
                    bar = {
                        "type": "scatter",
                        "mode": "lines",
                        "x": list(ends),
                        "y": [_safe(names[row])] * 2,
                        "hoverinfo": "skip",
                    }
                    data.append(
                        bar
                        | {"line": {"color": colour, "width": width}, "opacity": 0.55 if role == "interval" else 0.9}
                    )
        texts = [_safe(_hover(figure, row)) for row in rows]
        mark: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "x": [x[row] for row in rows],
            "y": [_safe(names[row]) for row in rows],
        }
        mark |= {
            "marker": {"color": colours, "size": 11, "line": {"width": 0}},
            "hovertext": texts,
            "hoverinfo": "text",
        }
        data.append(mark | {"name": _safe(name), "showlegend": len(grouped) > 1})
    tall = 88 + 40 * len(order) + (34 if len(grouped) > 1 else 0)
    layout: dict[str, Any] = {"height": tall, "showlegend": len(grouped) > 1, "legend": _legend()}
    layout["xaxis"] = _axis(figure.axis("x"), range=list(span(figure)))
    layout["yaxis"] = _axis(
        "", categoryorder="array", categoryarray=order[::-1], type="category", range=[-0.6, len(order) - 0.4]
    )
    layout["annotations"] = [
        {"x": 1.01, "xref": "paper", "xanchor": "left", "y": _safe(names[row]), "text": _safe(word), "showarrow": False}
        for row, word in enumerate(words)
        if word
    ]
    if layout["annotations"]:
        layout["margin"] = {"l": 10, "r": 30 + 7 * max(len(str(word)) for word in words if word), "t": 20, "b": 48}
    layout["shapes"] = _zero(figure)
    return data, layout


def _hover(figure: Figure, row: int) -> str:
    cells = zip(figure.table.columns, figure.table.rows[row], strict=True)
    return "; ".join(
        f"{column.title}: {shown(cell, column.kind)}" for column, cell in cells if shown(cell, column.kind)
    )


def _zero(figure: Figure) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    band = figure.options.get("band")
    full = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    if band:
        shapes.append(
            {
                "type": "rect",
                "x0": -100 * band,
                "x1": 100 * band,
                "fillcolor": "rgba(128,128,128,0.13)",
                "line": {"width": 0},
            }
            | full
        )
    if figure.options.get("zero"):
        shapes.append({"type": "line", "x0": 0, "x1": 0, "line": {"color": LINE, "width": 1.2, "dash": "dash"}} | full)
    return shapes


def _legend() -> dict[str, Any]:
    return {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"}


def _lines(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    parts = panels(figure)
    columns, data = line_columns(figure, len(parts)), []
    layout: dict[str, Any] = {"annotations": []}
    rows = -(-len(parts) // columns)
    names = list(series(figure))
    drawn: set[str] = set()
    for at, panel in enumerate(parts):
        key = "" if at == 0 else str(at + 1)
        for name, indices in panel.series.items():
            data.append(_line(figure, name, names.index(name), indices, key, name not in drawn and len(names) > 1))
            drawn.add(name)
        layout |= _place(figure, panel, at, columns, rows, key)
        if panel.name:
            spot = {
                "xref": f"x{key} domain",
                "yref": f"y{key} domain",
                "x": 0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
            }
            layout["annotations"].append({**spot, "text": _safe(panel.name), "showarrow": False, "font": {"size": 13}})
        if figure.options.get("diagonal"):
            data.insert(0, _diagonal(figure, key))
    layout |= {"height": 70 + 320 * rows, "showlegend": len(names) > 1, "legend": _legend() | {"y": 1.03 + 0.05 / rows}}
    layout["margin"] = {"l": 10, "r": 20, "t": 64 + 18 * (len(names) > 5), "b": 48}
    return data, layout


def _diagonal(figure: Figure, key: str) -> dict[str, Any]:
    ends = [diagonal_range(figure), 100]
    line = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip", "showlegend": False}
    return line | {"line": {"color": LINE, "dash": "dash", "width": 1.2}, "xaxis": f"x{key}", "yaxis": f"y{key}"}


def _line(figure: Figure, name: str, at: int, rows: list[int], key: str, legend: bool) -> dict[str, Any]:
    x, y, size = figure.role("x"), figure.role("y"), figure.role("size")
    marks, steps = figure.options.get("marks", ()), figure.options.get("steps", ())
    colour = GREY if name and name in marks else COLOURS[at % len(COLOURS)]
    mode = "markers" if name in marks else "lines" if name in steps else "lines+markers"
    texts = [_safe(_hover(figure, row)) for row in rows]
    largest = max((value for value in size if value), default=None)
    sizes = [4 + 14 * (size[row] / largest) ** 0.5 for row in rows] if largest else 7
    trace = {"type": "scatter", "mode": mode, "name": _safe(name), "legendgroup": _safe(name), "showlegend": legend}
    trace |= {
        "x": [_safe(x[row]) if isinstance(x[row], str) else x[row] for row in rows],
        "y": [y[row] for row in rows],
    }
    trace |= {"xaxis": f"x{key}", "yaxis": f"y{key}", "hovertext": texts, "hoverinfo": "text"}
    dash = ("solid", "dash", "dot", "dashdot")[at // len(COLOURS) % 4]
    line = {"color": colour, "width": 2, "dash": dash, "shape": "hv" if name in steps else "linear"}
    return trace | {"line": line, "marker": {"color": colour, "size": sizes, "opacity": 0.85}}


def _place(figure: Figure, panel: Panel, at: int, columns: int, rows: int, key: str) -> dict[str, Any]:
    row, column = divmod(at, columns)
    across, down = _domains(column, columns, row, rows, 0.07, 0.22 / rows)
    x = _axis(figure.axis("x"), domain=across, anchor=f"y{key}")
    y = _axis("" if panel.own_y or column else figure.axis("y"), domain=down, anchor=f"x{key}")
    values = [value for rows_ in panel.series.values() for value in (figure.role("x")[i] for i in rows_)]
    if figure.options.get("log2"):
        ticks = log2_ticks(figure)
        x |= {
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
            "minor": {"showgrid": False},
        }
    elif all(isinstance(value, int) for value in values):
        x |= {"tickmode": "linear", "dtick": max(1, (max(values) - min(values)) // 8)} if values else {}
    elif any(isinstance(value, str) for value in values):
        x |= {"type": "category"}
    if figure.options.get("diagonal"):
        low = diagonal_range(figure)
        x["range"] = y["range"] = [low, 103]
    if at and not panel.own_y:
        y["matches"] = "y"
    return {f"xaxis{key}": x, f"yaxis{key}": y}


def _matrix(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    parts, names = panels(figure), list(dict.fromkeys(map(str, figure.role("row"))))
    size, value = len(names), figure.role("value")
    columns = matrix_columns(size)
    rows = -(-len(parts) // columns)
    side = max(230, min(760, 60 + (46 if size <= 12 else 26) * size))
    layout: dict[str, Any] = {"height": rows * (side + 70) + 40, "annotations": []}
    data = []
    for at, panel in enumerate(parts):
        key = "" if at == 0 else str(at + 1)
        cells = panel.series[""]
        grid = [cells[start : start + size] for start in range(0, len(cells), size)]
        texts = [
            ["" if value[i] is None or size > NUMBER_CLASSES else f"{value[i]:.1f}" for i in line] for line in grid
        ]
        heat = {"type": "heatmap", "z": [[value[i] for i in line] for line in grid], "zmin": 0, "zmax": 100}
        heat |= {"x": [_safe(name) for name in names], "y": [_safe(name) for name in names], "xgap": 2, "ygap": 2}
        heat |= {"text": texts, "texttemplate": "%{text}", "textfont": {"size": 13 if size <= 6 else 10}}
        heat |= {"hovertext": [[_safe(_hover(figure, i)) for i in line] for line in grid], "hoverinfo": "text"}
        heat |= {"showscale": False, "colorscale": [[0, SHADES[0]], [1, SHADES[1]]]}
        data.append({**heat, "xaxis": f"x{key}", "yaxis": f"y{key}"})
        row, column = divmod(at, columns)
        across, down = _domains(column, columns, row, rows, 0.05, 74 / layout["height"])
        flat: dict[str, Any] = {"showgrid": False, "type": "category"}
        layout[f"xaxis{key}"] = _axis("predicted", domain=across, anchor=f"y{key}", **flat)
        flat |= {"autorange": "reversed", "showticklabels": column == 0}
        layout[f"yaxis{key}"] = _axis("true" if column == 0 else "", domain=down, anchor=f"x{key}", **flat)
        spot = {"xref": f"x{key} domain", "yref": f"y{key} domain", "x": 0.5, "y": 1.01, "xanchor": "center"}
        layout["annotations"].append({**spot, "yanchor": "bottom", "text": _safe(panel.name), "showarrow": False})
    return data, layout


def _domains(
    column: int, columns: int, row: int, rows: int, gap: float, rise: float
) -> tuple[list[float], list[float]]:
    """Where a panel lies across and down, as shares of the whole; gap and rise are the spaces between."""
    width, height = (1 - gap * (columns - 1)) / columns, (1 - rise * (rows - 1)) / rows
    left, top = column * (width + gap), 1 - row * (height + rise)
    return [left, min(1.0, left + width)], [max(0.0, top - height), top]
