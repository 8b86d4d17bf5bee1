"""Doubtful labels of multi-label data, from out-of-fold scores: each label is examined as a question with two answers.

A label is not examined if fewer groups than folds have it, or lack it, because no model of the other folds may know it, or if the
model learned hardly anything about it: its doubts would then be about hard rows, of which a rare label has nearly all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from randout.core.label_sets import names_of
from randout.data.dataset import Dataset
from randout.stats.confident_learning import count_wrong_in_sets, likely_wrong_in_sets
from randout.stats.label_calibration import explained, platt
from randout.storage.label_issues import COPIES, LIKELY_WRONG, LabelFindings, SetIssue, SetIssues

LEAST_EXPLAINED = 0.05  # of the uncertainty about a label that is examined
RARE = "fewer than"  # begins the reason why a rare label is not examined


def assess_sets(
    dataset: Dataset,
    rows: np.ndarray,
    scores: np.ndarray,
    conflicts: Sequence[Sequence[int]],
    model: str,
    folds: int,
) -> SetIssues:
    """Assess the label sets of examined rows (n,) with out-of-fold scores (n, C). conflicts: rows of copies that differ."""
    sets, groups, names = dataset.truth(rows), dataset.groups[rows], dataset.names
    probabilities = np.column_stack([platt(own, has) for own, has in zip(scores.T, sets.T, strict=True)])
    known = [explained(own, has) for own, has in zip(probabilities.T, sets.T, strict=True)]
    reasons = [_not_examined(has, groups, folds, share) for has, share in zip(sets.T, known, strict=True)]
    examined = np.array([not reason for reason in reasons])
    wrong = np.zeros(sets.shape, dtype=bool)
    wrong[:, examined] = likely_wrong_in_sets(probabilities[:, examined], sets[:, examined])
    counted = count_wrong_in_sets(probabilities[:, examined], sets[:, examined], groups)
    place = {at: number for number, at in enumerate(np.flatnonzero(examined).tolist())}  # among the examined labels
    right = ((probabilities > 0.5) == sets)[:, examined]
    shares = sets[:, examined].mean(0)
    return SetIssues(
        data=dataset.name,
        model=model,
        folds=folds,
        rows=int((dataset.labels >= 0).sum()),
        accuracy=float(right.mean()) if right.size else 0.0,
        majority=float(np.maximum(shares, 1 - shares).mean()) if right.size else 0.0,
        wrong=counted,
        likely_wrong=int(wrong.any(1).sum()),
        conflicting_groups=len(conflicts),
        conflicting_rows=sum(map(len, conflicts)),
        corrected=dataset.report.corrected,
        separator=dataset.separator,
        labels=[
            LabelFindings(
                name,
                int(sets[:, at].sum()),
                reasons[at],
                None if reasons[at].startswith(RARE) else known[at],
                None if reasons[at] else counted.missing[place[at]],
                None if reasons[at] else counted.superfluous[place[at]],
                int((wrong & ~sets)[:, at].sum()),
                int((wrong & sets)[:, at].sum()),
            )
            for at, name in enumerate(names)
        ],
        issues=_listed(
            dataset,
            _of_all_rows(dataset, rows, np.where(examined, probabilities, np.nan), np.nan),
            _of_all_rows(dataset, rows, wrong, False),
            conflicts,
        ),
    )


def _not_examined(has: np.ndarray, groups: np.ndarray, folds: int, known: float) -> str:
    """Return why a label is not examined; empty if it is. has: (n,) bool. known: what the model explains of it."""
    for rows, verb in ((has, "have"), (~has, "lack")):
        if len(np.unique(groups[rows])) < folds:
            return f"{RARE} {folds} distinct texts or groups {verb} it"
    return "" if known >= LEAST_EXPLAINED else "the model learned too little about it"


def _of_all_rows(dataset: Dataset, rows: np.ndarray, values: np.ndarray, other: float) -> np.ndarray:
    """Return values (n, C) of examined rows in an array of all rows of the dataset; `other` for the rest."""
    found = np.full((len(dataset.texts), values.shape[1]), other, dtype=values.dtype)
    found[rows] = values
    return found


def _listed(
    dataset: Dataset, probabilities: np.ndarray, wrong: np.ndarray, conflicts: Sequence[Sequence[int]]
) -> list[SetIssue]:
    """Return the issues: copies with different label sets, then rows with a likely wrong label, the most certain first.

    probabilities: (N, C), to have each label, of all rows; NaN for a row or a label that was not examined. wrong: (N, C) bool.
    """
    names, sets = dataset.names, dataset.strata
    split_of = {int(row): name for name in ("train", "validation", "test") for row in dataset.split.get(name, ())}

    def issue(row: int, reason: str, copies: int | None, suggested: np.ndarray) -> SetIssue:
        own, doubtful = sets[row], wrong[row]
        given, missing, superfluous, better = names_of(
            np.array([own, doubtful & ~own, doubtful & own, suggested]), names
        )
        shares = {name: float(p) for name, p in zip(names, probabilities[row], strict=True) if not np.isnan(p)}
        split, text = split_of.get(row, ""), dataset.texts[row]
        return SetIssue(dataset.row_ids[row], split, reason, copies, text, given, missing, superfluous, better, shares)

    issues = []
    for number, group in enumerate(conflicts, 1):
        suggested = set_of_copies(sets[group], probabilities[group[0]])
        for row in group:
            reason = f"{COPIES}, {LIKELY_WRONG}" if wrong[row].any() else COPIES
            issues.append(issue(row, reason, number, suggested))
    copied = {row for group in conflicts for row in group}
    given = np.where(sets, probabilities, 1 - probabilities)
    least = np.where(wrong, given, np.inf).min(1)  # (N,) the probability of the most doubtful answer
    order = np.argsort(least, kind="stable")[: int(wrong.any(1).sum())].tolist()
    issues += [issue(row, LIKELY_WRONG, None, sets[row] ^ wrong[row]) for row in order if row not in copied]
    return issues


def set_of_copies(sets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (C,) the label set that most copies agree on, label by label. sets: (m, C) bool, of the copies.

    probabilities: (C,), to have each label, which decide ties; NaN for a label that was not examined, where the first copy
    decides.
    """
    votes, half = sets.sum(0), len(sets) / 2
    tied = np.where(np.isnan(probabilities), sets[0], probabilities > 0.5)
    found: np.ndarray = np.where(votes == half, tied, votes > half)
    return found
