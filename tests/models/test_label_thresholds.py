"""Thresholds are stored in a model's configuration, by label."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE
from randout.models.label_thresholds import KEY, set_kind, set_thresholds, thresholds_of

LABELS = {0: "a", 1: "b"}


def test_thresholds_are_read_back_in_the_order_of_the_outputs() -> None:
    config = SimpleNamespace(id2label=LABELS)
    set_kind(config, multi_label=True)
    set_thresholds(config, (0.25, 0.75))
    stored = vars(config)
    assert stored[KEY] == {"a": 0.25, "b": 0.75}
    assert thresholds_of(stored, {0: "b", 1: "a"}, "m") == (0.75, 0.25)


def test_a_classifier_of_one_label_has_none_and_another_half() -> None:
    assert thresholds_of({"problem_type": "single_label_classification"}, LABELS, "m") is None
    assert thresholds_of({}, LABELS, "m") is None
    assert thresholds_of({"problem_type": PROBLEM_TYPE}, LABELS, "m") == (0.5, 0.5)


def test_a_new_head_forgets_the_thresholds_of_an_earlier_one() -> None:
    config = SimpleNamespace(id2label=LABELS, problem_type=PROBLEM_TYPE, **{KEY: {"a": 0.1, "b": 0.2}})
    set_kind(config, multi_label=False)
    assert config.problem_type is None
    assert not hasattr(config, KEY)


@pytest.mark.parametrize("found", [{"a": 0.5}, {"a": "x", "b": 0.5}, [0.5, 0.5]])
def test_thresholds_that_do_not_fit_are_refused(found: object) -> None:
    with pytest.raises(UserError, match=r"m: label_thresholds .*a, b"):
        thresholds_of({"problem_type": PROBLEM_TYPE, KEY: found}, LABELS, "m")
