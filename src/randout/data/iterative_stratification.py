"""Iterative stratification of label sets (Sechidis, Tsoumakas, Vlahavas 2011), with groups of rows kept whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from randout.core.wording import plural, verb

SHOWN = 5  # labels named in a note


def split_iteratively(
    rows: np.ndarray, groups: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Return (n,) the part of each row, with groups kept whole and each label spread over the parts by `fractions`.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), on groups in place of rows: of the labels with groups
    left, the one with the fewest is placed first, because it is the hardest to spread. Each of its groups, largest first,
    goes to the part that lacks most rows of this label; ties are broken by the part that lacks most rows of all, then at
    random. Groups without any label follow, to the part that lacks most rows. rows: (n, C) bool.
    """
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(groups)  # (G,) rows
    count = np.zeros((len(sizes), rows.shape[1]))  # (G, C) rows of each label
    np.add.at(count, groups, rows)
    shares = np.asarray(fractions, dtype=np.float64)
    lack, room = np.outer(shares, count.sum(0)), shares * len(rows)  # (P, C), (P,) rows still wanted
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.full(len(sizes), -1, dtype=np.int64)

    def place(group: int, wanted: np.ndarray) -> None:
        best = np.flatnonzero(wanted >= wanted.max() - 1e-9)
        best = best[room[best] >= room[best].max() - 1e-9]
        at = int(best[0] if len(best) == 1 else draws.choice(best))
        part[group] = at
        lack[at] -= count[group]
        room[at] -= sizes[group]

    left = (count > 0).sum(0).astype(np.float64)  # (C,) groups of each label that are not placed yet
    while (left > 0).any():
        label = int(np.where(left > 0, left, np.inf).argmin())
        for group in order[(part[order] < 0) & (count[order, label] > 0)].tolist():
            place(group, lack[:, label].copy())
            left -= count[group] > 0
    for group in order[part[order] < 0].tolist():
        place(group, room.copy())
    return part[groups]


def rare_labels_note(rows: np.ndarray, part: NDArray[np.int64], parts: int, names: Sequence[str]) -> str:
    """Return a note on labels that some part has no row of; empty if there are none."""
    lacking = [name for at, name in enumerate(names) if len(np.unique(part[rows[:, at]])) < parts]
    if not lacking:
        return ""
    named = ", ".join(map(repr, lacking[:SHOWN])) + (", ..." if len(lacking) > SHOWN else "")
    return (
        f"{plural(len(lacking), 'label')} {verb(len(lacking), 'has', 'have')} too few rows for every split: "
        f"{named}. Where a split has no row of a label, its F1 counts 0 there"
    )
