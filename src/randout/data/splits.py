"""The split of a request: given by the user and completed, or drawn as shares or folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from randout.core.errors import UserError, nearest

from .labels import listed
from .sources import Part
from .stratify import Ints, dealt, grouped, grouped_keeping_rare, grouped_where_present, stratified

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Division:
    """How labelled rows are divided, as asked for (`data.load` says what each setting means)."""

    split: str = "auto"
    seed: int = 0
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)  # of train, validation, test
    folds: int = 0
    fold: int = 0
    sample: int = 0

    def check(self, split_column: str | None, files: Sequence[str]) -> None:
        """Raise UserError where settings do not go together, or with a split column or files of held-out rows."""
        _check_split(self.split, split_column, files)
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"fractions {tuple(self.fractions)}: expected three positive shares that sum to 1 (0.7, 0.15, 0.15)."
            )
        _check_folds(self.folds, self.fold)

    def given(self, roles: list[str] | None, source: object, notes: list[str]) -> list[str] | None:
        """The split that the data came with, as far as it is used: each row's, or None. UserError: not with "paper"."""
        if self.folds:
            ignored = " (the split that it came with is not used)" if roles is not None else ""
            rest = f"{self.fractions[1]:.0%} of the rest validate"
            notes.append(f"fold {self.fold} of {self.folds} is the test split{ignored}; {rest}")
            return None
        if roles is not None and self.split == "paper":
            raise UserError(f"split 'paper' draws the split itself, and {source} has one already. Use split 'auto'.")
        return roles

    def divide(
        self, labels: Ints, groups: Ints, roles: list[str] | None, names: Sequence[str], notes: list[str]
    ) -> dict[str, Ints]:
        """Row positions of each part. labels, groups: (n,); roles: of `given`; names: the classes, for messages."""
        whole = self._whole(labels, groups, roles, names, notes)
        return sampled(whole, labels, groups, self.sample, self.seed, names) if self.sample else whole

    def _whole(
        self, labels: Ints, groups: Ints, roles: list[str] | None, names: Sequence[str], notes: list[str]
    ) -> dict[str, Ints]:
        paper, shares, seed = self.split == "paper", self.fractions, self.seed
        if self.folds:
            return folded(labels, None if paper else groups, (self.folds, self.fold), shares[1], seed, names, notes)
        if roles is not None:
            return complete(labels, groups, roles, shares[1], seed, names, notes)
        if paper:
            draw = stratified(labels, shares, seed, names)
        else:
            draw = grouped_keeping_rare(labels, groups, shares, seed, names, notes)
        return {name: np.flatnonzero(draw == part) for part, name in enumerate(SPLITS)}


def _check_split(split: str, split_column: str | None, files: Sequence[str]) -> None:
    if split not in ("auto", "paper", "column"):
        raise UserError(
            f"split {split!r}: expected 'auto', 'paper' or 'column'.{nearest(split, ('auto', 'paper', 'column'))} "
            "A column that says each row's split is named with --split-column."
        )
    if split == "column" and split_column is None:
        raise UserError("split 'column' needs the column's name: --split-column NAME.")
    if split_column is not None and files:
        raise UserError(f"--split-column and --{files[0]} both give the split. Use one of them.")
    if split == "paper" and (split_column is not None or files):
        raise UserError("split 'paper' draws the split itself: leave out --split-column, --validation and --test.")


def _check_folds(folds: int, fold: int) -> None:
    if folds == 0:
        if fold != 0:
            raise UserError(f"data.fold = {fold}, but data.folds is 0: no folds. Say into how many the rows are dealt.")
    elif folds < 2:
        raise UserError(f"data.folds = {folds}: expected 2 or more, or 0 for no folds.")
    elif not 1 <= fold <= folds:
        raise UserError(f"data.fold = {fold}: expected 1 to {folds}, the number of the fold that is the test split.")


def folded(
    labels: Ints,
    groups: Ints | None,
    which: tuple[int, int],
    share: float,
    seed: int,
    names: Sequence[str],
    notes: list[str],
) -> dict[str, Ints]:
    """Row positions with one fold as the test split; `which`: (folds, fold). groups None: stratified only."""
    folds, fold = which
    if groups is not None and (largest := int(np.bincount(groups).max())) > len(labels) / folds:
        size = f"{len(labels) // folds:,}"
        notes.append(f"one group holds {largest:,} rows, more than the {size} of an even fold: the folds are uneven")
    part = dealt(labels, groups, folds, seed, names)
    test, rest = np.flatnonzero(part == fold - 1), np.flatnonzero(part != fold - 1)
    own = int(np.random.SeedSequence([seed, folds, fold]).generate_state(1)[0])
    shares = (1 - share, share)
    inner = (
        stratified(labels[rest], shares, own, names)
        if groups is None
        else grouped(labels[rest], groups[rest], shares, own, names)
    )
    return {"train": rest[inner == 0], "validation": rest[inner == 1], "test": test}


def sampled(
    split: dict[str, Ints], labels: Ints, groups: Ints, sample: int, seed: int, names: Sequence[str]
) -> dict[str, Ints]:
    """About `sample` rows in all: the same share of each part, by class and whole groups. All of them, where fewer."""
    total = sum(len(rows) for rows in split.values())
    if sample >= total:
        return split
    kept = {}
    for name, rows in split.items():
        share = sample / total
        drawn = grouped_where_present(labels[rows], groups[rows], (share, 1 - share), seed, names)
        kept[name] = rows[drawn == 0]
    return kept


def complete(
    labels: Ints, groups: Ints, roles: list[str], share: float, seed: int, names: Sequence[str], notes: list[str]
) -> dict[str, Ints]:
    """The user's split as row positions, with validation carved from train where it is missing."""
    given = np.array(roles)
    rows = {name: np.flatnonzero(given == name) for name in SPLITS}
    train, validation, test = (rows[name] for name in SPLITS)
    if not len(validation):
        part = grouped_keeping_rare(labels[train], groups[train], (1 - share, share), seed, names, notes)
        train, validation = train[part == 0], train[part == 1]
        notes.append(f"no validation rows were given: {share:.0%} of train were set apart, by class and whole groups")
    if not len(test):
        notes.append("no test rows were given: there is no test split")
    split = {"train": train, "validation": validation, "test": test}
    return {name: positions for name, positions in split.items() if len(positions)}


def learnt_first(
    parts: Sequence[Part], labels: Ints, roles: list[str] | None, id2label: Mapping[int, str]
) -> tuple[Ints, dict[int, str], tuple[str, ...]]:
    """The labels renumbered so that classes without a training row come last; the classes that can be learnt, in order,
    and the others, sorted.

    UserError: no training rows, fewer than two classes among them, a listed class that no row has, or a held-out split
    in which no row has a class that can be learnt.
    """
    main = parts[0].table.name
    train = np.array(roles) == "train" if roles is not None else np.full(len(labels), True)
    if not train.any():
        raise UserError(f"{main}: no row is in the train split: there is nothing to train on.")
    counts = np.bincount(labels[train], minlength=len(id2label))
    if (counts > 0).sum() < 2:
        raise UserError(f"{main}: the training rows have one class only. A classifier needs two classes or more.")
    rows_of = np.bincount(labels, minlength=len(id2label))
    if nowhere := [id2label[k] for k in np.flatnonzero(rows_of == 0).tolist()]:
        raise UserError(
            f"The listed labels have {listed(nowhere)}, and no row of {main} has it. Leave it out of the list."
        )
    absent = sorted(np.flatnonzero(counts == 0).tolist(), key=id2label.__getitem__)
    if not absent:
        return labels, dict(id2label), ()
    for name in sorted({role for role in roles or () if role != "train"}):
        mine = np.array(roles) == name
        if np.isin(labels[mine], absent).all():
            found = listed(dict.fromkeys(id2label[k] for k in labels[mine].tolist()))
            raise UserError(
                f"{main}: every {name} row has a label that no training row has ({found}), so no prediction can be right. "
                "Are these labels of another column or table? Correct them, or add training rows with them."
            )
    learnt = [k for k in id2label if counts[k]]
    place = np.empty(len(id2label), dtype=np.int64)
    place[[*learnt, *absent]] = np.arange(len(id2label))
    return place[labels], {at: id2label[k] for at, k in enumerate(learnt)}, tuple(id2label[k] for k in absent)
