"""The pictures that a run or a comparison writes: confusion matrices and intervals, as PNG files.

They are drawn without pyplot (no global state, no display), use colours that are distinguishable in grey and for
colour-blind readers, and are written atomically.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from randout.core.files import replacing
from randout.stats.abstention import CoveragePoint
from randout.stats.metrics import label_names
from randout.stats.paired import Comparison

from . import fonts
from .text import HEADLINE, NAME_WIDTH, distinct_names, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBER_CLASSES = 15  # more classes than this: omit the numbers from the picture
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"  # Okabe and Ito's colour-blind-safe blue and vermilion


def save_picture(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a PNG atomically. Raises Failure if it cannot be written."""
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def _figure(width: float, height: float, columns: int, title: str, **layout: Any) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
    figure = Figure(figsize=(width, height), layout=engine)
    axes = figure.subplots(1, columns, **layout)
    if title:
        figure.suptitle("\n".join(textwrap.wrap(title, int(width * 9))), fontsize=12, parse_math=False)
    return figure, axes


def matrix_labels(names: Sequence[str]) -> list[str]:
    """Names of classes along a drawn matrix: on two lines, or on one if there are many classes."""
    return _wrapped(names) if len(names) <= 8 else distinct_names(names, NAME_WIDTH)


def _wrapped(names: Sequence[str], width: int = 24, lines: int = 2) -> list[str]:
    return ["\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder=" ..")) for name in names]


def _cell_texts(axis: Axes, values: np.ndarray, image: Any, texts: list[list[str]], size: float) -> None:
    """Draw one text per cell, black or white depending on the cell's luminance (Rec. 709)."""
    colours = image.cmap(image.norm(values))  # (C, C, 4)
    light = colours[..., :3] @ np.array([0.2126, 0.7152, 0.0722]) > 0.5
    for (row, column), bright in np.ndenumerate(light):
        colour = "black" if bright else "white"
        axis.text(column, row, texts[row][column], ha="center", va="center", color=colour, fontsize=size)


def _matrix_panel(axis: Axes, values: np.ndarray, texts: list[list[str]], names: list[str], top: float) -> Any:
    from matplotlib.colors import PowerNorm

    size = len(names)
    gamma = 1.0 if size <= NUMBER_CLASSES else 0.5  # without numbers, a square-root scale shows rare confusions
    image = axis.imshow(values, cmap="Blues", norm=PowerNorm(gamma, vmin=0, vmax=top))
    tick = 10 if size <= 8 else 8
    slanted = size > 6 or max(len(line) for name in names for line in name.split("\n")) > 9
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axis.set_xticks(range(size), names, fontsize=tick, parse_math=False, **turned)
    axis.set_yticks(range(size), names, fontsize=tick, parse_math=False)
    axis.set_xlabel("predicted", fontsize=11)
    axis.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.0)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    if size <= NUMBER_CLASSES:
        _cell_texts(axis, np.nan_to_num(values), image, texts, min(12.0, 5.5 + 18.0 / size))
    return image


def confusion_picture(matrix: Any, id2label: Mapping[Any, str], path_png: str | os.PathLike[str], title: str) -> Path:
    """Draw a confusion matrix as counts and as percent of each true class. Returns the path written.

    matrix: (C, C), rows are true classes. With more than 15 classes the numbers are left out and colours grow with the
    square root. A class without rows is blank (-) in the right panel. If no font can draw some class name, classes are
    numbered.
    """
    names, by_number = fonts.numbered(label_names(id2label))
    with fonts.use([*names, title]):
        return _confusion_picture(matrix, names, path_png, fonts.shown(title), fonts.NOTE if by_number else "")


def _confusion_picture(matrix: Any, names: list[str], path_png: str | os.PathLike[str], title: str, note: str) -> Path:
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"confusion matrix: expected {len(names)} x {len(names)}, got {counts.shape}")
    names = matrix_labels(names)
    support = counts.sum(1, keepdims=True)
    shares = np.where(support > 0, 100 * counts / np.maximum(support, 1), np.nan)
    panel = min(8.0, max(3.0, 1.4 + 0.55 * len(names)))  # inches
    figure, (left, right) = _figure(2 * panel + 2.2, panel + 1.2, 2, title)
    count_texts = [[f"{count:,}" for count in row] for row in counts]
    share_texts = [["-" if np.isnan(share) else f"{share:.1f}" for share in row] for row in shares]
    images = (
        _matrix_panel(left, counts, count_texts, names, max(1, counts.max())),
        _matrix_panel(right, shares, share_texts, names, 100),
    )
    left.set_title("rows", fontsize=11)
    right.set_title("% of the true class", fontsize=11)
    left.set_ylabel("true", fontsize=11)
    right.set_ylabel("true", fontsize=11)
    right.set_yticks([])
    if len(names) > NUMBER_CLASSES:
        for axis, image in zip((left, right), images, strict=True):
            figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02).outline.set_visible(False)
    if note:
        figure.supxlabel(note, fontsize=9)
    return save_picture(figure, path_png)


def coverage_picture(
    points: Sequence[CoveragePoint], path_png: str | os.PathLike[str], title: str, *, sets: bool = False
) -> Path:
    """Draw the risk-coverage curve with its 95 % intervals. sets: errors are label sets. Returns the path written."""
    error, label = ("wrong sets among these rows", "label set") if sets else ("error of these rows", "label")
    with fonts.use([title]):
        figure, axes = _figure(6.5, 4.2, 1, fonts.shown(title), squeeze=False)
        axis: Axes = np.ravel(np.asarray(axes))[0]
        coverage = [100 * point.coverage for point in points]
        low, high = ([100 * (1 - getattr(point, end)) for point in points] for end in ("high", "low"))
        axis.fill_between(coverage, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
        axis.plot(coverage, [100 * (1 - point.accuracy) for point in points], color=BLUE, label=error)
        axis.set_xlabel(f"coverage: share of rows that get a {label}, %")
        axis.set_ylabel(f"{error}, %")
        axis.set_xlim(0, 102)
        axis.set_ylim(bottom=0)
        axis.grid(color="#DDDDDD", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper left", frameon=False, fontsize=9)
        return save_picture(figure, path_png)


def _whiskers(axis: Axes, at: int, value: float, low: float, high: float, colour: str) -> None:
    axis.hlines(at, 100 * low, 100 * high, color=colour, linewidth=2)
    axis.plot(100 * value, at, "o", color=colour, markersize=6)


def comparison_picture(rows: Sequence[Comparison], path_png: str | os.PathLike[str], title: str) -> Path:
    """Draw each model's metric (left) and its difference from the baseline (right), with intervals and verdicts.

    Verdicts other than "not distinguishable" are coloured. If no font can draw some model's name, models are numbered.
    Returns the path written.
    """
    names, by_number = fonts.numbered([row.name for row in rows])
    with fonts.use([*names, title]):
        return _comparison_picture(rows, names, path_png, fonts.shown(title), fonts.NOTE if by_number else "")


def _comparison_picture(
    rows: Sequence[Comparison], names: list[str], path_png: str | os.PathLike[str], title: str, note: str
) -> Path:
    metric = HEADLINE.get(rows[0].metric, rows[0].metric)
    figure, (left, right) = _figure(11, 1.6 + 0.5 * len(rows), 2, title, sharey=True)
    for at, row in enumerate(rows):
        decided = (row.words or "").startswith(("better", "worse"))
        colour = GREY if not decided else BLUE if (row.words or "").startswith("better") else ORANGE
        _whiskers(left, at, row.value, row.low, row.high, "black" if row.difference is None else colour)
        verdict = "baseline"
        if row.difference is not None:
            _whiskers(right, at, row.difference.estimate, row.difference.low, row.difference.high, colour)
            verdict = f"{100 * row.difference.estimate:+.2f}  " + (row.words or "").replace(", ", ",\n", 1)
        right.text(1.02, at, verdict, transform=right.get_yaxis_transform(), va="center", fontsize=10)
    right.axvline(0, color="black", linewidth=1, linestyle="--", zorder=0)
    left.set_yticks(range(len(rows)), _wrapped(names, 30), fontsize=10, parse_math=False)
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel(f"{metric}, %, 95 % interval" if _level(rows) == 0.95 else f"{metric}, %")
    right.set_xlabel(f"difference from {shortened(names[0])}, percentage points", parse_math=False)
    for axis in (left, right):
        axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    if note:
        figure.supxlabel(note, fontsize=9)
    return save_picture(figure, path_png)


def _level(rows: Sequence[Comparison]) -> float:
    return next((row.difference.level for row in rows if row.difference is not None), 0.95)
