"""Stratified, grouped splits into training, validation and test rows, with groups kept whole.

All functions depend only on their arguments (labels, groups, fractions, seed). Labels are class indices (n,) or, for
several labels per row, (n, C) bool; the latter are spread by iterative stratification, which has no rare classes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError
from randout.core.wording import WARNING

from .composed_text import content_of, texts_in
from .iterative_stratification import rare_labels_note, split_iteratively

Ints = NDArray[np.int64]
Strata = NDArray[Any]  # (n,) class indices, or (n, C) bool
SHOWN_CLASSES = 20  # maximum classes named in a message


INVISIBLE = re.compile(  # Unicode's Default_Ignorable_Code_Point (soft hyphen, zero-width, bidi marks, BOM, variation
    # selectors, tags), interlinear marks, and control characters other than white space
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def normalize(text: str) -> str:
    """Normalize a text so that copies are equal.

    Removes invisible characters, applies NFKC and case folding, and collapses and strips white space.
    """
    if not (text.isascii() and text.isprintable()):  # fast path for most texts: a million rows must be cheap
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    return " ".join(text.casefold().split())


def copies_of(texts: Sequence[str]) -> Ints:
    """Return (n,) copy numbers: equal for texts equal after `normalize`, numbered by first occurrence.

    Fields before a text do not count, and the order of a pair does.
    """
    seen: dict[str, int] = {}
    keys = (normalize(content_of(text)) for text in texts)
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), dtype=np.int64, count=len(texts))


def unordered_copies_of(texts: Sequence[str]) -> Ints:
    """Return (n,) as `copies_of` does, but equal also for pairs of the same two texts in the other order."""
    seen: dict[tuple[str, ...], int] = {}
    keys = (tuple(sorted(map(normalize, texts_in(text)))) for text in texts)
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), dtype=np.int64, count=len(texts))


def merge_groups(copies: Ints, groups: Ints) -> Ints:
    """Return (n,) the connected components of rows that share a copy number or a group number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_copies, n_groups = int(copies.max(initial=-1)) + 1, int(groups.max(initial=-1)) + 1
    size = n_copies + n_groups
    edges = coo_matrix((np.ones(len(copies)), (copies, n_copies + groups)), shape=(size, size))
    component = connected_components(edges, directed=False)[1]
    return np.unique(component[copies], return_inverse=True)[1].astype(np.int64)


def stratified(labels: Strata, fractions: Sequence[float], seed: int, names: Sequence[str]) -> Ints:
    """Return (n,) the part of each row (0, 1 or 2), stratified by class, ignoring duplicates.

    Uses sklearn's `train_test_split` twice: the last part is drawn first, with ceil(fraction * n) rows, then the middle one
    from the rest. Raises UserError for a class with fewer rows than parts, or a part with fewer rows than classes.
    """
    from sklearn.model_selection import train_test_split

    n = len(labels)
    if labels.ndim == 2:
        return split_iteratively(labels, np.arange(n), fractions, seed)
    _check_spread(np.bincount(labels), np.bincount(labels), len(fractions), names)
    sizes = [math.ceil(round(f * n, 6)) for f in fractions]
    rest, part = np.arange(n), np.zeros(n, dtype=np.int64)
    for p in range(len(fractions) - 1, 0, -1):
        try:
            rest, drawn = train_test_split(rest, test_size=sizes[p], stratify=labels[rest], random_state=seed)
        except ValueError as error:
            raise UserError(f"the rows cannot be split by class: {error} Add rows of the rare classes.") from None
        part[drawn] = p
    return part


def assign_folds(labels: Strata, groups: Ints | None, folds: int, seed: int, names: Sequence[str]) -> Ints:
    """Return (n,) the fold of each row, from 0: stratified, with groups kept whole; groups None: stratified only.

    Raises UserError for a class with fewer groups (without groups: rows) than folds.
    """
    own_groups = np.arange(len(labels)) if groups is None else groups
    if labels.ndim == 2:
        return _iterative_folds(labels, own_groups, folds, seed)
    k = int(labels.max()) + 1
    spread = np.bincount(
        np.unique(own_groups * k + labels) % k, minlength=k
    )  # number of groups that contain each class
    _check_spread(spread, np.bincount(labels), folds, names, "folds")
    if groups is not None:
        return grouped(labels, groups, [1 / folds] * folds, seed, names)
    from sklearn.model_selection import StratifiedKFold

    part = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for p, (_, rows) in enumerate(splitter.split(labels, labels)):
        part[rows] = p
    return part


def grouped(labels: Strata, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str]) -> Ints:
    """Return (n,) the part of each row, with groups kept whole and each class spread over the parts by `fractions`.

    First, groups of several rows are placed, largest first, each in the part where it most reduces the sum over classes
    of (rows - target)^2 / target. Then single rows fill up each class to its target; rounding errors are carried from
    class to class so that they do not accumulate. Finally, a part that lacks a class gets the smallest group with that
    class from another part.

    names: of the classes, for messages. Raises UserError for a class with fewer groups than parts.
    """
    if labels.ndim == 2:
        return split_iteratively(labels, groups, fractions, seed)
    groups = np.unique(groups, return_inverse=True)[1]  # (n,) in 0..G-1
    n_classes, n_parts = int(labels.max()) + 1, len(fractions)
    keys, counts = np.unique(groups * n_classes + labels, return_counts=True)
    pair_group, pair_class = keys // n_classes, keys % n_classes  # (pairs,) group, class and number of rows
    _check_spread(np.bincount(pair_class, minlength=n_classes), np.bincount(labels), n_parts, names)
    totals = np.bincount(labels, minlength=n_classes).astype(float)  # (K,)
    target = np.maximum(np.outer(fractions, totals), 1.0)  # (P, K)
    target[0] = totals - target[1:].sum(axis=0)
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)  # (G,)
    part = np.full(len(sizes), -1, dtype=np.int64)  # (G,)
    has = place_large(part, sizes, pair_group, pair_class, counts, target, rng)
    single_class = np.full(len(sizes), -1)
    single_class[pair_group[sizes[pair_group] == 1]] = pair_class[sizes[pair_group] == 1]
    _place_single(part, single_class, has, target, rng)
    fill_empty(part, sizes, pair_group, pair_class, n_parts, names)
    return part[groups]


def grouped_keeping_rare(
    labels: Strata, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str], notes: list[str]
) -> Ints:
    """Split as `grouped` does, but keep the groups of classes too rare for every part in the first part, with a note."""
    if labels.ndim == 2:
        part = split_iteratively(labels, groups, fractions, seed)
        notes.extend(filter(None, [rare_labels_note(labels, part, len(fractions), names)]))
        return part
    rest, rare = _without_rare(labels, groups, len(fractions))
    classes = np.unique(labels[rest])
    if not rare or len(classes) < 2:
        return grouped(labels, groups, fractions, seed, names)
    part = np.zeros(len(labels), dtype=np.int64)
    compact = np.searchsorted(classes, labels[rest])
    part[rest] = grouped(compact, groups[rest], fractions, seed, [names[k] for k in classes.tolist()])
    sizes = ", ".join(f"{names[k]!r} ({int((labels == k).sum()):,})" for k in rare[:SHOWN_CLASSES])
    notes.append(
        f"{WARNING}these classes have too few rows for every split, so all of their rows are training rows and no score "
        f"covers them: {sizes}. Add rows of these classes, or merge them with others"
    )
    return part


def _without_rare(labels: Strata, groups: Ints, parts: int) -> tuple[NDArray[np.bool_], list[int]]:
    """Return which rows (n,) are in no group with a rare class (one with fewer groups than parts), and the rare classes."""
    rest = np.full(len(labels), True)
    rare: list[int] = []
    while rest.any():
        pairs = np.unique(np.stack([labels[rest], groups[rest]]), axis=1)
        found = np.flatnonzero(np.isin(np.bincount(pairs[0]), np.arange(1, parts)))
        if not len(found):
            break
        rare += found.tolist()
        rest &= ~np.isin(groups, np.unique(groups[rest & np.isin(labels, found)]))
    return rest, rare


def grouped_where_present(
    labels: Strata, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str]
) -> Ints:
    """Split as `grouped` does, but allow missing classes, and keep groups of rare classes in the first part."""
    if labels.ndim == 2:
        return split_iteratively(labels, groups, fractions, seed)
    rest, _ = _without_rare(labels, groups, len(fractions))
    part = np.zeros(len(labels), dtype=np.int64)
    if rest.any():
        classes = np.unique(labels[rest])
        compact = np.searchsorted(classes, labels[rest])
        part[rest] = grouped(compact, groups[rest], fractions, seed, [names[k] for k in classes.tolist()])
    return part


def grouped_folds(labels: Strata, groups: Ints, folds: int, names: Sequence[str]) -> Ints:
    """Return (n,) the fold of each row, from 0: stratified, with groups kept whole; -1 for groups of rare classes.

    A rare class has fewer groups than there are folds. Raises UserError if fewer than two other classes are left, or a
    class cannot be placed in every fold.
    """
    if labels.ndim == 2:
        return _iterative_folds(labels, groups, folds, 0)
    rest, _ = _without_rare(labels, groups, folds)
    classes = np.unique(labels[rest])
    if len(classes) < 2:
        raise UserError(f"fewer than two classes have {folds} groups of distinct texts")
    fold = np.full(len(labels), -1, dtype=np.int64)
    compact = np.searchsorted(classes, labels[rest])
    fold[rest] = grouped(compact, groups[rest], [1 / folds] * folds, 0, [names[k] for k in classes.tolist()])
    return fold


def _iterative_folds(labels: Strata, groups: Ints, folds: int, seed: int) -> Ints:
    """Return (n,) the fold of each row of multi-label data. Raises UserError for fewer groups than folds."""
    if len(np.unique(groups)) < folds:
        raise UserError(f"{len(np.unique(groups))} groups of distinct texts; {folds} folds need at least {folds}")
    return split_iteratively(labels, groups, [1 / folds] * folds, seed)


def _check_spread(spread: Ints, rows: Ints, parts: int, names: Sequence[str], unit: str = "parts") -> None:
    """Raise UserError that names the classes with fewer groups than `parts`. spread, rows: (K,) groups and rows by class."""
    few: list[int] = np.flatnonzero(spread < parts).tolist()
    if not few:
        return
    counts = [(int(rows[k]), int(spread[k])) for k in few[:SHOWN_CLASSES]]
    sizes = [f"{n:,} row{'s' * (n != 1)} in {g:,} group{'s' * (g != 1)}" for n, g in counts]
    fewer = "" if unit == "parts" else f"ask for fewer {unit}, "
    if len(few) == 1:
        raise UserError(
            f"class {names[few[0]]!r} has {sizes[0]} of distinct texts; {parts} {unit} need at least {parts}. "
            f"Add rows of this class, merge it with another class, {fewer}or remove it."
        )
    named = ", ".join(f"{names[k]!r} ({size})" for k, size in zip(few, sizes, strict=False))
    more = f" and {len(few) - SHOWN_CLASSES:,} more" if len(few) > SHOWN_CLASSES else ""
    raise UserError(
        f"{len(few):,} classes have too few groups of distinct texts; {parts} {unit} need at least {parts} of each class: "
        f"{named}{more}. Add rows of these classes, merge them with other classes, {fewer}or remove them."
    )


def place_large(part, sizes, pair_group, pair_class, counts, target, rng) -> NDArray[np.float64]:
    """Assign groups of several rows to parts, in place. Returns (P, K) the number of rows by part and class."""
    goal = np.maximum(target, 1.0).tolist()
    goal_total = [sum(row) for row in goal]
    has = [[0.0] * len(row) for row in goal]
    has_total = [0.0] * len(goal)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    first = np.searchsorted(pair_group, np.arange(len(sizes) + 1)).tolist()
    classes, rows, size_of = pair_class.tolist(), counts.tolist(), sizes.tolist()
    for g in order[: int((sizes > 1).sum())].tolist():
        members = [(classes[j], rows[j]) for j in range(first[g], first[g + 1])]
        size = size_of[g]
        costs = [
            sum(c * (2 * (has[p][k] - goal[p][k]) + c) / goal[p][k] for k, c in members)
            + size * (2 * (has_total[p] - goal_total[p]) + size) / goal_total[p]
            for p in range(len(goal))
        ]
        p = costs.index(min(costs))
        part[g] = p
        has_total[p] += size
        for k, c in members:
            has[p][k] += c
    return np.array(has)


def _place_single(part, single_class, has, target, rng) -> None:
    """Assign groups of one row to parts, in place: for each class by the rows that a part lacks, by largest remainder."""
    carry = np.zeros(len(has))  # (P,) rows owed to each part by rounding
    by_class = rng.permutation(np.flatnonzero(single_class >= 0))
    by_class = by_class[np.argsort(single_class[by_class], kind="stable")]
    bounds = np.searchsorted(single_class[by_class], np.arange(target.shape[1] + 1))
    for k in range(target.shape[1]):
        rows = by_class[bounds[k] : bounds[k + 1]]
        if not len(rows):
            continue
        lack = np.maximum(target[:, k] - has[:, k], 0.0)
        quota = len(rows) * lack / lack.sum() if lack.sum() > 0 else np.eye(len(has))[0] * len(rows)
        take = np.floor(quota + 1e-9).astype(np.int64)
        extra = np.argsort(-(quota - take + carry), kind="stable")[: len(rows) - take.sum()]
        take[extra] += 1
        carry += quota - take
        part[rows] = np.repeat(np.arange(len(has)), take)


def fill_empty(part, sizes, pair_group, pair_class, n_parts, names) -> None:
    """Move to each part that lacks a class the smallest group with that class that can be spared, in place."""
    spread = np.zeros((n_parts, int(pair_class.max()) + 1), dtype=np.int64)  # number of groups by part and class
    np.add.at(spread, (part[pair_group], pair_class), 1)
    failed: list[int] = []
    for p, k in np.argwhere(spread == 0).tolist():
        if spread[p, k]:  # filled by a group moved for another class
            continue
        holders = pair_group[pair_class == k]
        for g in holders[np.argsort(sizes[holders], kind="stable")]:
            members = pair_class[pair_group == g]
            if part[g] != p and (spread[part[g], members] > 1).all():
                spread[part[g], members] -= 1
                spread[p, members] += 1
                part[g] = p
                break
        else:
            failed.append(k)
    if failed:
        classes = list(dict.fromkeys(failed))
        named = ", ".join(repr(names[k]) for k in classes[:SHOWN_CLASSES])
        more = f" and {len(classes) - SHOWN_CLASSES:,} more" if len(classes) > SHOWN_CLASSES else ""
        one = len(classes) == 1
        raise UserError(
            f"class{'' if one else 'es'} {named}{more} cannot be put into every part of the split with whole groups: too few "
            f"groups contain {'it' if one else 'them'}. Add rows of {'it' if one else 'each'}, or define the split "
            "with --split-column."
        )
