"""Summary of a dataset: sizes, classes, duplicates, and duplicates across splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from randout.core.console import Show
from randout.core.label_sets import LabelSets
from randout.core.text_tables import table_lines
from randout.core.wording import WARNING, plural, unseen_words, verb

from .labels import class_name_notes
from .stratify import Ints

SHOWN_CLASSES = 8  # maximum class columns; beyond, only the smallest and the largest class are shown


@dataclass(frozen=True)
class DataReport:
    """Row counts of a dataset; dictionaries are by split ("train", "validation", "test", "unlabeled")."""

    sizes: dict[str, int]
    class_counts: dict[str, dict[str, int]]  # labelled splits only: split -> class -> rows
    majority_share: dict[str, float]  # split -> share of its largest class
    imbalance: float  # largest class over smallest, in train
    duplicate_groups: int  # groups of two or more labelled rows with the same normalised text
    duplicate_rows: int  # rows in these groups
    conflicting_groups: int  # of these groups, those with more than one label
    leaked: dict[str, Ints]  # "validation", "test" -> positions of rows with a copy in train
    shared_groups: dict[str, int]  # "validation", "test" -> rows in a group that also has training rows
    unlabeled_left_out: dict[str, int]  # reason -> unlabelled rows left out
    notes: tuple[str, ...]  # warnings among them start with `WARNING`
    views: dict[str, int] = field(default_factory=dict)  # kind -> augmented views of training texts
    views_left_out: dict[str, int] = field(default_factory=dict)  # reason -> views left out
    corrected: int = 0  # labels that `data.corrections` changed

    def counts(self) -> dict[str, Any]:
        """Return the report for JSON, with the number of leaked rows in place of their positions."""
        found = asdict(self) | {"leaked": {name: len(rows) for name, rows in self.leaked.items()}}
        without: tuple[str, ...] = ("views", "views_left_out") if not self.views and not self.views_left_out else ()
        without += () if self.corrected else ("corrected",)
        return {name: value for name, value in found.items() if name not in without}

    def lines(self) -> list[str]:
        """Return the lines shown to the user: a table of the splits, then copies and notes other than warnings."""
        found = _split_lines(self)
        if self.duplicate_groups:
            found.append(
                f"copies      {plural(self.duplicate_groups, 'group')} of the same text ({self.duplicate_rows:,} rows), "
                f"{self.conflicting_groups:,} of them with different labels"
            )
        else:
            found.append("copies      none")
        for name, rows in self.leaked.items():
            if len(rows):
                share, have = len(rows) / self.sizes[name], verb(len(rows), "has", "have")
                found.append(f"leaked      {plural(len(rows), f'{name} row')} ({share:.1%}) {have} a copy in train")
            if self.shared_groups[name] > len(rows):
                count = self.shared_groups[name]
                found.append(
                    f"leaked      {plural(count, f'{name} row')} {verb(count, 'shares', 'share')} a group with train"
                )
        left_out = [f"{count:,} {why}" for why, count in self.unlabeled_left_out.items() if count]
        if left_out:
            found.append(f"left out    unlabelled rows: {', '.join(left_out)}")
        return found + [f"note        {note}" for note in self.notes if not note.startswith(WARNING)]

    def warnings(self) -> list[str]:
        """Return the notes that are warnings, without the word."""
        return [note.removeprefix(WARNING) for note in self.notes if note.startswith(WARNING)]

    def warn(self, show: Show) -> None:
        """Show the warnings; everything that trains on the data does so."""
        for warning in self.warnings():
            show.warn(warning)


def _split_lines(report: DataReport) -> list[str]:
    """Format the table of splits: rows, classes, share of the largest class."""
    classes = list(report.class_counts["train"])
    few = len(classes) <= SHOWN_CLASSES
    head = ["split", "rows", *(classes if few else ["smallest", "largest"]), "majority"]
    table = []
    for name, size in report.sizes.items():
        counts = report.class_counts.get(name)
        if counts is None:
            table.append([name, f"{size:,}", *[""] * (len(head) - 2)])
            continue
        shown = list(counts.values()) if few else [min(counts.values()), max(counts.values())]
        table.append([name, f"{size:,}", *(f"{c:,}" for c in shown), f"{report.majority_share[name]:.1%}"])
    return table_lines([f"{head[0]:<10}", *head[1:]], table)


def make_report(
    labels: Ints,
    copies: Ints,
    groups: Ints,
    split: Mapping[str, Ints],
    id2label: Mapping[int, str],
    unseen: Sequence[str],
    left_out: dict[str, int],
    notes: Sequence[str],
    sets: LabelSets | None = None,
) -> DataReport:
    """Create the report. labels: (n,), -1 for unlabelled rows. unseen: labels that no training row has.

    sets: of multi-label data, that `labels` refers to; a row then counts for each of its labels.
    """
    learnt = len(id2label)
    id2label = dict(enumerate([*id2label.values(), *unseen]))
    labelled = {name: rows for name, rows in split.items() if name != "unlabeled"}

    def counted(rows: Ints) -> Ints:
        if sets is not None:
            return sets.of_rows(labels[rows]).sum(0)
        return np.bincount(labels[rows], minlength=len(id2label))

    counts = {name: counted(rows) for name, rows in labelled.items()}
    totals = {name: len(labelled[name]) if sets is not None else int(c.sum()) for name, c in counts.items()}
    absent = [
        f"{name} has no rows of class {', '.join(repr(id2label[k]) for k in np.flatnonzero(c[:learnt] == 0)[:5])}"
        for name, c in counts.items()
        if (c[:learnt] == 0).any()
    ]
    for name, c in counts.items():
        if c[learnt:].any():
            of = {id2label[k]: int(c[k]) for k in range(learnt, len(c)) if c[k]}
            absent.append(f"{WARNING}{unseen_words(of, name)}")
    held_out = [name for name in ("validation", "test") if name in split]
    duplicated, rows, conflicting = _duplicates(copies[labels >= 0], labels[labels >= 0])
    return DataReport(
        sizes={name: len(rows) for name, rows in split.items()},
        class_counts={name: {id2label[k]: int(c[k]) for k in id2label} for name, c in counts.items()},
        majority_share={name: float(c.max() / totals[name]) for name, c in counts.items()},
        imbalance=float(counts["train"].max() / counts["train"][:learnt].min()),
        duplicate_groups=duplicated,
        duplicate_rows=rows,
        conflicting_groups=conflicting,
        leaked={name: split[name][np.isin(copies[split[name]], copies[split["train"]])] for name in held_out},
        shared_groups={name: int(np.isin(groups[split[name]], groups[split["train"]]).sum()) for name in held_out},
        unlabeled_left_out=left_out,
        notes=tuple(dict.fromkeys((*notes, *absent, *class_name_notes(list(id2label.values()))))),
    )


def _duplicates(copies: Ints, labels: Ints) -> tuple[int, int, int]:
    """Count groups of two or more copies, rows in them, and groups with more than one label."""
    size = np.bincount(copies)
    several = size > 1
    pairs = np.unique(np.stack([copies, labels]), axis=1)[0] if len(copies) else copies  # each pair (copy, label) once
    return int(several.sum()), int(size[several].sum()), int((np.bincount(pairs) > 1).sum())
