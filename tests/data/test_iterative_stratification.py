"""Label sets are spread over the parts of a split, with groups kept whole."""

from __future__ import annotations

import numpy as np

from randout.data.iterative_stratification import rare_labels_note, split_iteratively

FRACTIONS = (0.7, 0.15, 0.15)


def example(n: int = 400, seed: int = 0) -> np.ndarray:
    """Label sets (n, 5) with rare labels, of which some always occur together."""
    draws = np.random.default_rng(seed)
    rows = draws.random((n, 5)) < np.array([0.5, 0.2, 0.1, 0.05, 0.0])
    rows[:, 4] = rows[:, 3] & (draws.random(n) < 0.8)
    return rows


def test_every_label_is_spread_by_the_fractions() -> None:
    rows = example()
    part = split_iteratively(rows, np.arange(len(rows)), FRACTIONS, seed=1)
    for label in rows.T:
        shares = np.bincount(part[label], minlength=3) / label.sum()
        assert np.abs(shares - FRACTIONS).max() <= 1 / label.sum() + 0.02
    assert np.abs(np.bincount(part) / len(rows) - FRACTIONS).max() < 0.02


def test_rare_labels_are_spread_better_than_by_chance() -> None:
    rows = example()
    rare = rows[:, 4]

    def error(part: np.ndarray) -> float:
        return float(np.abs(np.bincount(part[rare], minlength=3) / rare.sum() - FRACTIONS).sum())

    draws = np.random.default_rng(0)
    by_chance = [error(draws.choice(3, size=len(rows), p=FRACTIONS)) for _ in range(50)]
    assert error(split_iteratively(rows, np.arange(len(rows)), FRACTIONS, seed=0)) < np.median(by_chance)


def test_groups_are_kept_whole_and_the_seed_decides() -> None:
    rows = example()
    groups = np.random.default_rng(3).integers(0, 120, len(rows))
    part = split_iteratively(rows, groups, FRACTIONS, seed=5)
    assert all(len(np.unique(part[groups == group])) == 1 for group in np.unique(groups))
    assert np.array_equal(part, split_iteratively(rows, groups, FRACTIONS, seed=5))
    assert not np.array_equal(part, split_iteratively(rows, groups, FRACTIONS, seed=6))


def test_rows_without_labels_fill_the_parts() -> None:
    rows = np.zeros((100, 3), dtype=bool)
    part = split_iteratively(rows, np.arange(100), (0.5, 0.5), seed=0)
    assert np.bincount(part).tolist() == [50, 50]


def test_labels_that_some_part_lacks_are_named() -> None:
    rows = np.zeros((60, 2), dtype=bool)
    rows[:30, 0] = True
    rows[:1, 1] = True
    part = split_iteratively(rows, np.arange(60), FRACTIONS, seed=0)
    assert "'rare'" in rare_labels_note(rows, part, 3, ["common", "rare"])
    assert "'common'" not in rare_labels_note(rows, part, 3, ["common", "rare"])
    assert rare_labels_note(rows[:, :1], part, 3, ["common"]) == ""
