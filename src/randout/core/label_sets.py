"""Label sets: the targets of data in which a text may have several labels or none (multi-label classification).

Rows refer to their set by its number, so that a row has one integer target, as in data with one label per text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBLEM_TYPE = "multi_label_classification"  # in the config.json of a Hugging Face model
NO_LABEL = "(no label)"
JOINED = "; "  # between the labels of a set, where a set is shown in one string
Label = str | list[str]  # a list for a label set


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The distinct label sets of a dataset. members: (S, C) bool, whether set s contains label c; rows are distinct."""

    members: NDArray[np.bool_]

    @staticmethod
    def of(rows: NDArray[np.bool_]) -> tuple[LabelSets, NDArray[np.int64]]:
        """Return the distinct sets among rows (n, C), in lexicographic order, and the number of each row's set, (n,)."""
        members, numbers = np.unique(rows, axis=0, return_inverse=True)
        return LabelSets(members), numbers.reshape(-1).astype(np.int64)

    def of_rows(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n, C) whether each row has each label; a row without a target (-1) has none."""
        found: NDArray[np.bool_] = self.members[numbers] & (numbers >= 0)[:, None]
        return found


def members_of(sets: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Return (n, C) whether each of n sets of labels contains each of C names. Raises KeyError for another label."""
    place = {name: at for at, name in enumerate(names)}
    found = np.zeros((len(sets), len(names)), dtype=bool)
    for row, labels in enumerate(sets):
        found[row, [place[label] for label in labels]] = True
    return found


def names_of(rows: NDArray[np.bool_], names: Sequence[str]) -> list[list[str]]:
    """Return the labels of each row of (n, C), in the order of `names`."""
    return [[names[at] for at in np.flatnonzero(row).tolist()] for row in rows]


def separator_in(separator: str) -> str:
    """Return what separates labels as it is looked for in a cell: without the white space around it."""
    return separator.strip() or separator


def joined(labels: Sequence[str], separator: str = JOINED) -> str:
    """Return a set of labels as a cell of a text table, empty for none; as a JSON list if a label has the separator itself."""
    text = separator.join(labels)
    unclear = any(separator_in(separator) in label for label in labels) or text.startswith("[")
    return json.dumps(labels, ensure_ascii=False) if unclear else text


def shown(labels: Sequence[str]) -> str:
    """Return a set of labels as one string."""
    return JOINED.join(labels) or NO_LABEL
