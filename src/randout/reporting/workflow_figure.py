"""Figure 1 of the paper drawn from a configuration: text, teacher, student, noise, and the two losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .run_pictures import BLUE, GREY, ORANGE, save_picture

BOXES = {  # part -> (x, y, colour) of its centre, in a picture 12 wide and 5.4 high
    "text": (1.3, 2.7, GREY),
    "teacher": (4.4, 4.4, BLUE),
    "soft labels": (7.9, 4.4, BLUE),
    "student": (4.4, 1.0, ORANGE),
    "noise": (4.4, 2.7, ORANGE),
    "head": (7.9, 1.0, ORANGE),
    "loss": (10.7, 2.7, GREY),
}
ARROWS = [("text", "teacher"), ("teacher", "soft labels"), ("soft labels", "loss"), ("text", "student")]
ARROWS += [("noise", "student"), ("student", "head"), ("head", "loss")]
WIDE, HIGH = 2.4, 1.1


def workflow_picture(parts: Mapping[str, str], path: Path) -> Path:
    """Draw the workflow as a PNG. parts: a short text for each of `BOXES`, lines separated by newlines."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(12, 5.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12), ylim=(0, 5.4))
    axes.axis("off")
    for start, end in ARROWS:
        (x, y, _), (u, v, colour) = BOXES[start], BOXES[end]
        if x == u:  # one above the other
            tail, tip = (x, y - HIGH / 2 if y > v else y + HIGH / 2), (u, v + HIGH / 2 if y > v else v - HIGH / 2)
        else:
            tail, tip = (x + WIDE / 2, y), (u - WIDE / 2, v)
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4})
    for name, (x, y, colour) in BOXES.items():
        corner = (x - WIDE / 2, y - HIGH / 2)
        shape = FancyBboxPatch(corner, WIDE, HIGH, boxstyle="round,pad=0.02", facecolor="white", edgecolor=colour)
        axes.add_patch(shape)
        axes.text(x, y + HIGH / 2 - 0.2, name, ha="center", va="center", fontsize=10, color=colour, weight="bold")
        axes.text(x, y - 0.15, parts[name], ha="center", va="center", fontsize=8, linespacing=1.3)
    return save_picture(figure, path)
