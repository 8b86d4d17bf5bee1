"""Metrics and comparisons as text tables and PNG pictures.

Text tables are lists of lines in fixed-width columns, for the caller to print. Pictures are drawn without pyplot (no
global state, no display), use colours that are distinguishable in grey and for colour-blind readers, and are written
atomically.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from randout.core.files import replacing
from randout.core.text_tables import table_lines, without_middle
from randout.core.wording import plural, unseen_words, verb
from randout.stats import diagnostics
from randout.stats.metrics import label_names
from randout.stats.paired import Comparison
from randout.stats.verdicts import FOLDS, MethodRow
from randout.storage.metrics_record import Leaks, Scores
from randout.storage.run_record import StudentChoice
from randout.storage.seen_rows import in_words

from . import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADLINE = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "expected_calibration_error": "calibration error",
}
CALIBRATION = "expected_calibration_error"
NAME_WIDTH = 28  # most columns of a label in a text table
MODEL_WIDTH = 44  # least columns of a shortened name of a run or an arm
CUT = ".."  # marks the cut in a shortened name
MATRIX_WIDTH = 92  # approximate width of a confusion matrix in columns
MATRIX_CLASSES = 12  # more classes than this: list the most common confusions instead of the matrix
NUMBER_CLASSES = 15  # more classes than this: omit the numbers from the picture
ENCODER, BAG_OF_WORDS = "encoder", "bag-of-words"  # keys of a recorded choice in `run.json`
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"  # Okabe and Ito's colour-blind-safe blue and vermilion


def _shorten(name: str, width: int = NAME_WIDTH) -> str:
    """Shorten a name to at most `width` terminal columns; two dots mark the cut."""
    return name if cell_len(name) <= width else set_cell_size(name, width - 2).rstrip() + ".."


def distinct_names(names: Sequence[str], width: int) -> list[str]:
    """Cut the middle of names that are wider than `width` terminal columns, so that different names stay different.

    If the names differ only where the middle is cut, the cut moves; if no place is left, all names get wider.
    """
    different, widest = len(set(names)), max(map(cell_len, names), default=0)
    for limit in range(width, widest):
        room = limit - len(CUT)
        for after in sorted(range(room + 1), key=lambda after: abs(after - room // 2)):
            found = [without_middle(name, limit, CUT, after) for name in names]
            if len(set(found)) == different:
                return found
    return list(names)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _confusion_lines(counts: np.ndarray, names: list[str]) -> list[str]:
    """Format the confusion matrix, or for many classes the ten most common confusions.

    Labels in the header are shortened to fit a terminal; if that makes two of them equal, they are numbered.
    """
    if len(names) <= MATRIX_CLASSES:
        down = distinct_names(names, NAME_WIDTH)
        across = (MATRIX_WIDTH - max(map(cell_len, down))) // len(names) - 2
        head = [_shorten(name, min(NAME_WIDTH, max(5, across))) for name in names]
        if len(set(head)) < len(head):
            head = [_shorten(f"{at} {name}", max(5, across)) for at, name in enumerate(names)]
            down = [f"{at} {name}" for at, name in enumerate(down)]
        cells = [[name, *map(str, line)] for name, line in zip(down, counts, strict=True)]
        return table_lines(["true \\ predicted", *head], cells)
    wrong = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    places = [divmod(int(at), len(names)) for at in order if wrong.flat[at]]
    shown = distinct_names(names, NAME_WIDTH)
    rows = [[f"{shown[true]} -> {shown[made]}", str(wrong[true, made])] for true, made in places]
    return table_lines(["most common confusions, true -> predicted", "rows"], rows)


def score_lines(scores: Scores, id2label: Mapping[Any, str]) -> list[str]:
    """Format the scores of a split or file: headline metrics with intervals, each class, the confusion matrix.

    Values in percent with two decimals, intervals with one; log loss in nats.
    """
    names = [*label_names(id2label), *scores.unseen]
    counts = np.asarray(scores.confusion_matrix)
    groups = ""
    if scores.groups is not None and scores.groups != scores.rows:
        groups = f" in {plural(scores.groups, 'group')} (copies and rows of the same group count as one)"
    baseline = scores.baseline
    wide = max(map(len, [*HEADLINE.values(), *([baseline.name] if baseline else [])]))
    lines = [f"{plural(scores.rows, 'row')}{groups}" + (", 95 % intervals in brackets" if scores.intervals else "")]
    if scores.before_refit:
        lines.append("scored before the refit; the saved model has been trained on these rows too")
    if scores.unseen:
        lines.append(f"{unseen_words(scores.unseen, 'these')}; log loss is computed on the other rows")
    for metric, title in HEADLINE.items():
        between = " [no interval]" if metric in scores.no_interval else _brackets(scores.interval(metric))
        about = "  (mean distance between confidence and accuracy)" * (metric == CALIBRATION)
        lines.append(f"{title:<{wide}}  {_percent(scores.value(metric)):>6} %{between}{about}")
    about = f"(lower is better; {math.log(len(names)):.4f} for equal probabilities)"
    lines.append(f"{'log loss':<{wide}}  {scores.log_loss:>6.4f}    {about}")
    always = f"%  (accuracy of always predicting {_shorten(scores.majority_label)!r})"
    lines.append(f"{'majority class':<{wide}}  {_percent(scores.majority_baseline):>6} {always}")
    if baseline:
        size = f"{plural(baseline.train_rows, 'training row')}{', sampled' if baseline.sampled else ''}"
        metric = baseline.metric
        other = "" if metric == "accuracy" else f"; {HEADLINE[metric]} {_percent(baseline.value(metric))} %"
        about = f"(accuracy of a linear classifier on tf-idf of {size}{other})"
        lines.append(f"{baseline.name:<{wide}}  {_percent(baseline.accuracy):>6} %  {about}")
    lines += [f"no interval: {reason}" for reason in dict.fromkeys(scores.no_interval.values())]
    rows = []
    for name, shown in zip(names, distinct_names(names, NAME_WIDTH), strict=True):
        each = scores.per_class[name]
        rows.append([shown, *map(_percent, (each.precision, each.recall, each.f1)), f"{each.support:,}"])
    lines += ["", *table_lines(["label", "precision", "recall", "F1", "rows"], rows)]
    return [*lines, "", *_confusion_lines(counts, names)]


def covered(head: str) -> str:
    """Say what a study's result covers. head: as stored, `2 of 3 seeds`; `3 of 3 seeds` becomes `3 seeds`."""
    done, of, rest = head.partition(" of ")
    planned, _, units = rest.partition(" ")
    if not of or done != planned:
        return head
    return f"{done} {units}"


def _brackets(interval: tuple[float, float] | None) -> str:
    """Format an interval in percent, to follow its value; empty without one."""
    return f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""


def choice_lines(choice: StudentChoice) -> list[str]:
    """Format a recorded choice of student: both scores, their difference, the choice and its reason."""
    encoder, words = choice.encoder, choice.words
    if choice.why:
        return [f"student: {encoder.name}, because {words.name} cannot be fitted: {choice.why}"]
    where = f"{choice.rows:,} validation rows"
    if choice.by == "cross-validation":
        where = f"{choice.rows:,} training rows, by cross-validation"
    scores = [f"{one.name} {one.score:.2%}" for one in (encoder, words)]
    metric = diagnostics.title(choice.metric).lower()
    lines = [f"student chosen on {where} (test rows not used): {metric} of {' and '.join(scores)}"]
    text = f"{words.name} minus {encoder.name}: {100 * choice.difference:+.2f} points"
    if choice.low90 is not None and choice.high90 is not None:
        text += f", 90 % interval [{100 * choice.low90:+.2f}, {100 * choice.high90:+.2f}]"
    return [*lines, f"{text}. {_choice_reason(choice)}"]


def _choice_reason(choice: StudentChoice) -> str:
    margin = f"{100 * choice.margin:g} points"
    if choice.chosen == ENCODER:
        lower = choice.high90 is not None and choice.high90 < 0
        doubt = "" if lower else f", and these rows do not rule out a deficit of {margin} or more"
        return f"The student is {choice.encoder.name}: the bag-of-words classifier scores lower{doubt}"
    name = choice.words.name
    if choice.difference > 0:
        return f"The student is {name}, a bag-of-words classifier: it scores higher"
    if choice.difference == 0:
        return f"The student is {name}, a bag-of-words classifier: it scores the same and costs less"
    return f"The student is {name}, a bag-of-words classifier: it scores less than {margin} lower and costs less"


def leak_lines(scores: Scores) -> list[str]:
    """Report scored rows that a model was trained on, or that are the run's own test rows.

    Gives their number by role and the accuracy without rows seen before; empty if there are none.
    """
    lines = []
    if own := scores.test_rows:
        are = verb(own.rows, "is a test row", "are test rows")
        lines.append(f"test rows scored: {own.rows:,} of the {plural(own.of, 'row')} of this file {are} of this run")
    leaks, seen = (scores.leaks, scores.without_leaks, "rows"), (scores.seen, scores.without_seen, "rows of this file")
    for found, rest, what in (leaks, seen):
        if found is None:
            continue
        lines.append(f"leak: {in_words(found.roles, found.of, what)}")
        if rest:
            count = scores.rows - rest.rows
            lines.append(
                f"without {'this row' if count == 1 else f'these {count:,} rows'} ({rest.rows:,} left): accuracy "
                f"{_percent(rest.accuracy)} %{_brackets(rest.interval('accuracy'))}"
            )
        elif found.rows:
            lines.append("no rows remain without these")
    return lines


def comparison_lines(rows: Sequence[Comparison]) -> list[str]:
    """Format the result of `stats.paired.compare_models`; differences and intervals in percentage points."""
    title = HEADLINE.get(rows[0].metric, rows[0].metric)
    header = ["model", f"{title} %", "difference", "interval", "Holm p", "only one right", "detectable"]
    table = []
    for row in rows:
        cells = [row.name, _percent(row.value)]
        if row.difference is None or row.mcnemar is None:
            table.append([*cells, "", "", "", "", "", "baseline"])
            continue
        low, high = row.difference.low, row.difference.high
        between = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        cells += [f"{100 * row.difference.estimate:+.2f}", between, f"{row.adjusted_p:.4f}"]
        cells += [f"{row.mcnemar.b}/{row.mcnemar.c}", _percent(row.detectable or 0.0), row.words or ""]
        table.append(cells)
    verdicts = [cells.pop() for cells in table]
    return [
        f"{line}  {word}"
        for line, word in zip(_padded(table_lines(header, table)), ["verdict", *verdicts], strict=True)
    ]


def method_lines(
    rows: Sequence[MethodRow], leaks: Mapping[str, Leaks] | None = None, width: int | None = None
) -> list[str]:
    """Format the result of `stats.verdicts.compare_methods` or `compare_folds`; differences in percentage points.

    leaks: by method, the number of test rows seen before (rows) and of all test rows (of). width: columns of the
    terminal; names are shortened, to `MODEL_WIDTH` columns at least, if the table is wider. Without it, names are shown
    in full.
    """
    names = list(dict.fromkeys([*(row.name for row in rows), *(row.against for row in rows if row.against)]))
    lines = _method_lines(rows, leaks or {}, dict(zip(names, names, strict=True)))
    over = 0 if width is None else max(cell_len(line) for line in lines[1 : len(rows) + 2]) - width
    if over <= 0:
        return lines
    room = max(MODEL_WIDTH, max(map(cell_len, names)) - over)
    return _method_lines(rows, leaks or {}, dict(zip(names, distinct_names(names, room), strict=True)))


def _method_lines(rows: Sequence[MethodRow], leaks: Mapping[str, Leaks], shown: Mapping[str, str]) -> list[str]:
    """Format rows as `method_lines` does. shown: by name, what is printed for it."""
    base = rows[0]
    count = len(base.values)
    unit = "fold" if base.estimand == FOLDS else "seed"
    title = HEADLINE.get(base.metric, base.metric)
    header = ["method", f"{title} %", "interval", "difference", "interval", "simultaneous", "Holm p", "detectable"]
    table, verdicts, notes = [], ["verdict"], []
    for row in rows:
        other = f" (against {shown[row.against]})" if row.against and row.against != base.name else ""
        if seen := leaks.get(row.name):
            other += f" (LEAK: {seen.rows:,} of {seen.of:,} test rows)"
        cells = [
            shown[row.name] + other,
            _percent(row.value),
            f"[{_percent(row.low)}, {_percent(row.high)}]",
        ]
        if row.difference is None or row.simultaneous is None:
            table.append([*cells, "", "", "", "", ""])
            verdicts.append("baseline")
            continue
        pairs = [(row.difference.low, row.difference.high), row.simultaneous]
        cells += [f"{100 * row.difference.estimate:+.2f}"]
        cells += [f"[{100 * low:+.2f}, {100 * high:+.2f}]" for low, high in pairs]
        table.append([*cells, f"{row.adjusted_p:.4f}", _percent(row.detectable or 0.0)])
        verdicts.append(row.words or "")
        notes += [f"{shown[row.name]}: {test}: {found}" for test, found in row.secondary.items()]
    lines = [f"intervals and verdicts apply to {base.estimand}; {plural(count, unit)}"]
    lines += [f"{line}  {word}" for line, word in zip(_padded(table_lines(header, table)), verdicts, strict=True)]
    return [*lines, *(["", "other tests (not used for verdicts):", *notes] if notes else [])]


def _padded(lines: list[str]) -> list[str]:
    wide = max(map(cell_len, lines))
    return [line + " " * (wide - cell_len(line)) for line in lines]


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
    right.set_xlabel(f"difference from {_shorten(names[0])}, percentage points", parse_math=False)
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
