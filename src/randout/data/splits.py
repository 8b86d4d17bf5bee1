"""Assigns rows to splits: as given by the user and completed, or drawn randomly as shares or folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from randout.core.config import DataTable
from randout.core.errors import UserError

from .labels import listed
from .sources import Part
from .stratify import Ints, Strata, assign_folds, grouped, grouped_keeping_rare, grouped_where_present, stratified

SPLITS = ("train", "validation", "test")


SHARES = (0.70, 0.15, 0.15)  # of train, validation and test


def check_split(table: DataTable) -> None:
    """Raise UserError if the settings of the split contradict each other."""
    files = [name for name in ("validation", "test") if getattr(table, name)]
    if table.split_column and files:
        raise UserError(f"--split-column and --{files[0]} both give the split. Use one of them.")
    if table.split == "paper" and (table.split_column or files):
        raise UserError("split 'paper' draws a random split: leave out --split-column, --validation and --test.")
    _check_folds(table.folds, table.fold)
    _check_train_folds(table.train_folds, table.train_fold)


def usable_roles(table: DataTable, roles: list[str] | None, notes: list[str]) -> list[str] | None:
    """Return the split of each row that the data came with, if it is used; else None.

    roles: the given split of each row, or None. Appends to `notes`. Raises UserError if it contradicts "paper".
    """
    if table.folds:
        ignored = " (the split in the data is not used)" if roles is not None else ""
        rest = f"{SHARES[1]:.0%} of the other rows are the validation split"
        notes.append(f"fold {table.fold} of {table.folds} is the test split{ignored}; {rest}")
        return None
    if roles is not None and table.split == "paper":
        raise UserError(f"split 'paper' draws a random split, but {table.source} already has one. Use split 'auto'.")
    return roles


def assign(
    table: DataTable, labels: Strata, groups: Ints, roles: list[str] | None, names: Sequence[str], notes: list[str]
) -> dict[str, Ints]:
    """Return the row positions of each split, of a sample if one is requested.

    labels, groups: (n,). roles: as returned by `usable_roles`. names: the classes, for messages.
    """
    split = _full_split(table, labels, groups, roles, names, notes)
    return sample_split(split, labels, groups, table.sample, table.split_seed, names) if table.sample else split


def _full_split(
    table: DataTable, labels: Strata, groups: Ints, roles: list[str] | None, names: Sequence[str], notes: list[str]
) -> dict[str, Ints]:
    paper, seed = table.split == "paper", table.split_seed
    if table.folds:
        which = (table.folds, table.fold)
        return fold_split(labels, None if paper else groups, which, SHARES[1], seed, names, notes)
    if roles is not None:
        return completed_split(labels, groups, roles, SHARES[1], seed, names, notes)
    how = (SHARES, seed, names)
    draw = stratified(labels, *how) if paper else grouped_keeping_rare(labels, groups, *how, notes)
    return {name: np.flatnonzero(draw == part) for part, name in enumerate(SPLITS)}


def _check_folds(folds: int, fold: int) -> None:
    if folds == 0:
        if fold != 0:
            raise UserError(
                f"data.fold = {fold}, but data.folds is 0 (no folds). Set data.folds to the number of folds."
            )
    elif folds < 2:
        raise UserError(f"data.folds = {folds}: expected 2 or more, or 0 for no folds.")
    elif not 1 <= fold <= folds:
        raise UserError(f"data.fold = {fold}: expected 1 to {folds}, the number of the fold that is the test split.")


def _check_train_folds(folds: int, fold: int) -> None:
    if folds in (0, 1) and folds + fold:
        raise UserError(
            f"data.train_folds = {folds}, data.train_fold = {fold}: expected 2 or more folds and the number of the one to "
            "leave out, or 0 for both to train on all training rows."
        )
    if folds and not 1 <= fold <= folds:
        raise UserError(f"data.train_fold = {fold}: expected 1 to {folds}, the fold of the training rows to leave out.")


def fold_split(
    labels: Strata,
    groups: Ints | None,
    which: tuple[int, int],
    share: float,
    seed: int,
    names: Sequence[str],
    notes: list[str],
) -> dict[str, Ints]:
    """Return row positions with one fold as the test split.

    which: (folds, fold). groups: (n,), or None to stratify only. share: of the other rows for validation.
    """
    folds, fold = which
    if groups is not None and (largest := int(np.bincount(groups).max())) > len(labels) / folds:
        size = f"{len(labels) // folds:,}"
        notes.append(f"folds are uneven: one group has {largest:,} rows, more than the {size} of an even fold")
    part = assign_folds(labels, groups, folds, seed, names)
    test, rest = np.flatnonzero(part == fold - 1), np.flatnonzero(part != fold - 1)
    own = int(np.random.SeedSequence([seed, folds, fold]).generate_state(1)[0])
    shares = (1 - share, share)
    inner = (
        stratified(labels[rest], shares, own, names)
        if groups is None
        else grouped(labels[rest], groups[rest], shares, own, names)
    )
    return {"train": rest[inner == 0], "validation": rest[inner == 1], "test": test}


def sample_split(
    split: dict[str, Ints], labels: Strata, groups: Ints, sample: int, seed: int, names: Sequence[str]
) -> dict[str, Ints]:
    """Sample about `sample` rows in all: the same share of each split, stratified, with groups kept whole."""
    total = sum(len(rows) for rows in split.values())
    if sample >= total:
        return split
    kept = {}
    for name, rows in split.items():
        share = sample / total
        drawn = grouped_where_present(labels[rows], groups[rows], (share, 1 - share), seed, names)
        kept[name] = rows[drawn == 0]
    return kept


def completed_split(
    labels: Strata, groups: Ints, roles: list[str], share: float, seed: int, names: Sequence[str], notes: list[str]
) -> dict[str, Ints]:
    """Return the given split as row positions; a missing validation split is taken from the training rows."""
    given = np.array(roles)
    rows = {name: np.flatnonzero(given == name) for name in SPLITS}
    train, validation, test = (rows[name] for name in SPLITS)
    if not len(validation):
        part = grouped_keeping_rare(labels[train], groups[train], (1 - share, share), seed, names, notes)
        train, validation = train[part == 0], train[part == 1]
        notes.append(
            f"no validation rows given: {share:.0%} of the training rows are used, stratified, with groups kept whole"
        )
    if not len(test):
        notes.append("no test rows given: there is no test split")
    split = {"train": train, "validation": validation, "test": test}
    return {name: positions for name, positions in split.items() if len(positions)}


def trained_classes_first(
    parts: Sequence[Part], labels: Ints, roles: list[str] | None, id2label: Mapping[int, str]
) -> tuple[Ints, dict[int, str], tuple[str, ...]]:
    """Renumber labels so that classes without a training row come last.

    Returns the labels (n,), id2label of the learnable classes in order, and the other classes, sorted. Raises UserError if
    there are no training rows, fewer than two classes among them, a listed class without rows, or a held-out split
    without any row of a learnable class.
    """
    main = parts[0].table.name
    train = np.array(roles) == "train" if roles is not None else np.full(len(labels), True)
    if not train.any():
        raise UserError(f"{main}: the training split has no rows.")
    counts = np.bincount(labels[train], minlength=len(id2label))
    if (counts > 0).sum() < 2:
        raise UserError(f"{main}: the training rows have only one class. A classifier needs at least two classes.")
    rows_of = np.bincount(labels, minlength=len(id2label))
    if unused := [id2label[k] for k in np.flatnonzero(rows_of == 0).tolist()]:
        raise UserError(f"The list of labels contains {listed(unused)}, which no row of {main} has. Correct the list.")
    absent = sorted(np.flatnonzero(counts == 0).tolist(), key=id2label.__getitem__)
    if not absent:
        return labels, dict(id2label), ()
    for name in sorted({role for role in roles or () if role != "train"}):
        in_role = np.array(roles) == name
        if np.isin(labels[in_role], absent).all():
            found = listed(dict.fromkeys(id2label[k] for k in labels[in_role].tolist()))
            raise UserError(
                f"{main}: every {name} row has a label that no training row has ({found}), so no prediction can be correct. "
                "Are these labels from another column or table? Correct them, or add training rows with these labels."
            )
    learnable = [k for k in id2label if counts[k]]
    place = np.empty(len(id2label), dtype=np.int64)
    place[[*learnable, *absent]] = np.arange(len(id2label))
    return place[labels], {at: id2label[k] for at, k in enumerate(learnable)}, tuple(id2label[k] for k in absent)
