"""Stratified, grouped splits: which rows train, validate and test, with groups kept whole.

Everything here works on integers only and is a function of (labels, groups, fractions, seed).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError

Ints = NDArray[np.int64]
SHOWN_CLASSES = 20  # classes that a message names


INVISIBLE = re.compile(  # Unicode's Default_Ignorable_Code_Point (soft hyphen, zero-width, bidi marks, BOM, variation
    # selectors, tags), interlinear marks, and control characters that are no white space
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def normalize(text: str) -> str:
    """The form in which two texts are the same: without invisible characters, NFKC, case folded, white space collapsed
    and stripped.
    """
    if not (text.isascii() and text.isprintable()):  # what most texts are: a million rows are to be cheap
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    return " ".join(text.casefold().split())


def copies_of(texts: Sequence[str]) -> Ints:
    """(n,) the same number for texts that are the same after `normalize`, numbered by first occurrence."""
    seen: dict[str, int] = {}
    return np.fromiter((seen.setdefault(normalize(t), len(seen)) for t in texts), dtype=np.int64, count=len(texts))


def merge_groups(copies: Ints, groups: Ints) -> Ints:
    """(n,) connected components of rows that share a copy number or a group number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_copies, n_groups = int(copies.max(initial=-1)) + 1, int(groups.max(initial=-1)) + 1
    size = n_copies + n_groups
    edges = coo_matrix((np.ones(len(copies)), (copies, n_copies + groups)), shape=(size, size))
    component = connected_components(edges, directed=False)[1]
    return np.unique(component[copies], return_inverse=True)[1].astype(np.int64)


def stratified(labels: Ints, fractions: Sequence[float], seed: int, names: Sequence[str]) -> Ints:
    """(n,) part 0, 1 or 2 by class only, duplicates ignored: two draws of sklearn's `train_test_split`.

    The last part is drawn first and has ceil(fraction * n) rows, then the middle one likewise from what remains.
    UserError: a class with fewer rows than there are parts, or a part smaller than the number of classes.
    """
    from sklearn.model_selection import train_test_split

    n = len(labels)
    _check_spread(np.bincount(labels), np.bincount(labels), len(fractions), names)
    sizes = [math.ceil(round(f * n, 6)) for f in fractions]
    rest, part = np.arange(n), np.zeros(n, dtype=np.int64)
    for p in range(len(fractions) - 1, 0, -1):
        try:
            rest, drawn = train_test_split(rest, test_size=sizes[p], stratify=labels[rest], random_state=seed)
        except ValueError as error:
            raise UserError(f"the rows cannot be split by class: {error} Give more rows of the rare classes.") from None
        part[drawn] = p
    return part


def dealt(labels: Ints, groups: Ints | None, folds: int, seed: int, names: Sequence[str]) -> Ints:
    """(n,) the fold of each row, 0 the first: each class spread over the folds, groups whole; None: by class only.

    UserError: a class in fewer groups (with no groups: rows) than there are folds.
    """
    k = int(labels.max()) + 1
    alone = np.arange(len(labels)) if groups is None else groups
    spread = np.bincount(np.unique(alone * k + labels) % k, minlength=k)  # groups that hold each class
    _check_spread(spread, np.bincount(labels), folds, names, "folds")
    if groups is not None:
        return grouped(labels, groups, [1 / folds] * folds, seed, names)
    from sklearn.model_selection import StratifiedKFold

    part = np.zeros(len(labels), dtype=np.int64)
    deal = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for p, (_, rows) in enumerate(deal.split(labels, labels)):
        part[rows] = p
    return part


def grouped(labels: Ints, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str]) -> Ints:
    """(n,) the part of each row: groups whole, each class spread over the parts by `fractions`.

    Groups of several rows go first, largest first, each to the part where it lowers most the sum over classes of
    (rows - target)^2 / target; single rows then fill each class up to its target, with rounding errors carried from
    class to class so that they do not add up. At last a part without a class gets its smallest group from another.
    `names` are the classes' names, for messages.

    UserError: a class in fewer groups than there are parts.
    """
    groups = np.unique(groups, return_inverse=True)[1]  # (n,) in 0..G-1
    n_classes, n_parts = int(labels.max()) + 1, len(fractions)
    keys, counts = np.unique(groups * n_classes + labels, return_counts=True)
    pair_group, pair_class = keys // n_classes, keys % n_classes  # (pairs,) which group holds which class how often
    _check_spread(np.bincount(pair_class, minlength=n_classes), np.bincount(labels), n_parts, names)
    totals = np.bincount(labels, minlength=n_classes).astype(float)  # (K,)
    target = np.maximum(np.outer(fractions, totals), 1.0)  # (P, K)
    target[0] = totals - target[1:].sum(axis=0)
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)  # (G,)
    part = np.full(len(sizes), -1, dtype=np.int64)  # (G,)
    has = _place_large(part, sizes, pair_group, pair_class, counts, target, rng)
    single_class = np.full(len(sizes), -1)
    single_class[pair_group[sizes[pair_group] == 1]] = pair_class[sizes[pair_group] == 1]
    _place_single(part, single_class, has, target, rng)
    _fill_empty(part, sizes, pair_group, pair_class, n_parts, names)
    return part[groups]


def grouped_keeping_rare(
    labels: Ints, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str], notes: list[str]
) -> Ints:
    """`grouped`, but the groups of classes that are too rare to be in every part stay in the first one, with a note."""
    rest, rare = _without_rare(labels, groups, len(fractions))
    classes = np.unique(labels[rest])
    if not rare or len(classes) < 2:
        return grouped(labels, groups, fractions, seed, names)
    part = np.zeros(len(labels), dtype=np.int64)
    compact = np.searchsorted(classes, labels[rest])
    part[rest] = grouped(compact, groups[rest], fractions, seed, [names[k] for k in classes.tolist()])
    sizes = ", ".join(f"{names[k]!r} ({int((labels == k).sum()):,})" for k in rare[:SHOWN_CLASSES])
    notes.append(
        f"warning: too few rows to be in every part, so all of them train and no score speaks of them: {sizes}; give more "
        "rows of such a class, or join it with another"
    )
    return part


def _without_rare(labels: Ints, groups: Ints, parts: int) -> tuple[NDArray[np.bool_], list[int]]:
    """Which rows (n,) are in no group with a class that is in fewer groups than there are parts; and those classes."""
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
    labels: Ints, groups: Ints, fractions: Sequence[float], seed: int, names: Sequence[str]
) -> Ints:
    """`grouped` of rows that need not have every class; what is too rare to be in every part stays in the first one."""
    rest, _ = _without_rare(labels, groups, len(fractions))
    part = np.zeros(len(labels), dtype=np.int64)
    if rest.any():
        classes = np.unique(labels[rest])
        compact = np.searchsorted(classes, labels[rest])
        part[rest] = grouped(compact, groups[rest], fractions, seed, [names[k] for k in classes.tolist()])
    return part


def grouped_folds(labels: Ints, groups: Ints, folds: int, names: Sequence[str]) -> Ints:
    """(n,) the fold of each row, 0 the first, by class and with groups whole; -1 for the groups of classes that are too
    rare to be in every fold, which belong to none.

    UserError: fewer than two classes are left, or a class cannot be put into every fold.
    """
    rest, _ = _without_rare(labels, groups, folds)
    classes = np.unique(labels[rest])
    if len(classes) < 2:
        raise UserError(f"fewer than two classes have {folds} groups of distinct texts")
    fold = np.full(len(labels), -1, dtype=np.int64)
    compact = np.searchsorted(classes, labels[rest])
    fold[rest] = grouped(compact, groups[rest], [1 / folds] * folds, 0, [names[k] for k in classes.tolist()])
    return fold


def _check_spread(spread: Ints, rows: Ints, parts: int, names: Sequence[str], unit: str = "parts") -> None:
    """UserError that names every class (the first 20) in fewer groups than `parts`. spread, rows: (K,) groups and rows."""
    few: list[int] = np.flatnonzero(spread < parts).tolist()
    if not few:
        return
    counts = [(int(rows[k]), int(spread[k])) for k in few[:SHOWN_CLASSES]]
    sizes = [f"{n:,} row{'s' * (n != 1)} in {g:,} group{'s' * (g != 1)}" for n, g in counts]
    fewer = "" if unit == "parts" else f"ask for fewer {unit}, "
    if len(few) == 1:
        raise UserError(
            f"class {names[few[0]]!r} has {sizes[0]} of distinct texts; {parts} {unit} need at least {parts}. "
            f"Give more rows of this class, join it with another class, {fewer}or remove it."
        )
    named = ", ".join(f"{names[k]!r} ({size})" for k, size in zip(few, sizes, strict=False))
    more = f" and {len(few) - SHOWN_CLASSES:,} more" if len(few) > SHOWN_CLASSES else ""
    raise UserError(
        f"{len(few):,} classes have too few groups of distinct texts; {parts} {unit} need at least {parts} of each class: "
        f"{named}{more}. Give more rows of these classes, join them with other classes, {fewer}or remove them."
    )


def _place_large(part, sizes, pair_group, pair_class, counts, target, rng) -> NDArray[np.float64]:
    """Assign the groups of two rows and more, in place. Returns the (P, K) rows of each part and class."""
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
    """Assign the groups of one row, in place: per class by what each part still lacks, by largest remainder."""
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


def _fill_empty(part, sizes, pair_group, pair_class, n_parts, names) -> None:
    """Give each part that lacks a class the smallest group that holds it and can be spared, in place."""
    spread = np.zeros((n_parts, int(pair_class.max()) + 1), dtype=np.int64)  # groups of each part and class
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
            f"groups hold {'it' if one else 'them'}. Give more rows of {'it' if one else 'each'}, or a split of your own "
            "with --split-column."
        )
