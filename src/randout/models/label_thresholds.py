"""The thresholds of a multi-label classifier, in its configuration next to `problem_type` and `id2label`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE

KEY = "label_thresholds"  # in config.json: {label: probability above which it is predicted}
DEFAULT = 0.5


def thresholds_of(config: Mapping[str, Any], id2label: Mapping[int, str], name: str) -> tuple[float, ...] | None:
    """Return the threshold of each output; None for a classifier with one label per text.

    config: the content of config.json. name: of the model, for messages. A multi-label classifier without thresholds, such
    as one trained elsewhere, has 0.5. Raises UserError for thresholds that do not fit its labels.
    """
    if config.get("problem_type") != PROBLEM_TYPE:
        return None
    found = config.get(KEY) or dict.fromkeys(id2label.values(), DEFAULT)
    try:
        thresholds = tuple(float(found[id2label[at]]) for at in sorted(id2label))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{name}: {KEY} in its config.json is not a number for each of its labels ({', '.join(id2label.values())}); "
            "correct it, or remove it to use 0.5 for all labels"
        ) from None
    return thresholds


def set_kind(config: Any, multi_label: bool) -> None:
    """Say in a configuration (an object of transformers) whether a new head is for label sets.

    What is left from earlier training is removed: a pipeline applies a sigmoid or a softmax by it.
    """
    config.problem_type = PROBLEM_TYPE if multi_label else None
    if hasattr(config, KEY):
        delattr(config, KEY)


def set_thresholds(config: Any, thresholds: Sequence[float] | None) -> None:
    """Store thresholds in a model's configuration, to be saved with it."""
    if thresholds is not None:
        names = [config.id2label[at] for at in sorted(config.id2label)]
        setattr(config, KEY, dict(zip(names, map(float, thresholds), strict=True)))
