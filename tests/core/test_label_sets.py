"""Label sets are numbered, and read back, by their members."""

from __future__ import annotations

import numpy as np
import pytest

from randout.core.label_sets import NO_LABEL, LabelSets, joined, members_of, names_of, shown

NAMES = ["a", "b", "c"]
SETS = [["b"], [], ["a", "c"], ["b"], []]


def test_rows_are_numbered_by_their_set_and_read_back() -> None:
    rows = members_of(SETS, NAMES)
    sets, numbers = LabelSets.of(rows)
    assert len(sets.members) == 3
    assert numbers[0] == numbers[3]
    assert numbers[1] == numbers[4]
    assert len(set(numbers.tolist())) == 3
    assert np.array_equal(sets.of_rows(numbers), rows)
    assert names_of(rows, NAMES) == SETS


def test_a_row_without_a_target_has_no_label() -> None:
    sets, _ = LabelSets.of(members_of([["a"], ["b", "c"]], NAMES))
    assert not sets.of_rows(np.array([-1])).any()


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(KeyError, match="d"):
        members_of([["a", "d"]], NAMES)


def test_a_set_as_one_string() -> None:
    assert shown(["a", "c"]) == "a; c"
    assert shown([]) == NO_LABEL


def test_a_set_in_a_cell_of_a_text_table() -> None:
    assert [joined(labels) for labels in (["a", "c"], [], ["a;b", "c"], ["[x]"])] == [
        "a; c",
        "",
        '["a;b", "c"]',
        '["[x]"]',
    ]
