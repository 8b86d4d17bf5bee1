"""What is said of settings that cannot be: the setting, what was found, what is expected; never a library's own words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from randout.baselines import CLASSIFIERS
from randout.core import config
from randout.core.errors import UserError
from randout.experiments.search import space
from randout.experiments.study import spec
from randout.methods.builtin import METHODS

FOREIGN = re.compile(r"value error|input should|unable to parse|valid (integer|number|string|boolean)|pydantic", re.I)
LINE = re.compile(r"[\w.-]+: (found .+; expected .+|no such setting\..*|found .+ leave one out)", re.DOTALL)
BAD: tuple[Any, ...] = ("a word", -1, 1.5, True, [], {}, [1, "x"], float("nan"), float("inf"), 10**30, "", "x" * 5000)
TABLES: dict[str, Any] = {
    **{name: field.annotation for name, field in config.Config.model_fields.items() if name not in config.OPEN_TABLES},
    **{f"methods.{name}": method for name, method in METHODS.items()},
    **{f"classifier {name}": kind for name, kind in CLASSIFIERS.items()},
    "search": space.SearchTable,
    "study": spec.Study,
}


def refused(model: Any, key: str, value: Any) -> list[str]:
    """The lines of what is said of a setting; none where the value is taken."""
    try:
        config.checked(model, {key: value}, "table.")
    except UserError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("name", TABLES)
def test_every_bad_value_of_every_table_is_put_in_words(name: str) -> None:
    model, lines = TABLES[name], 0
    for key in model.model_fields:
        found = [line for value in BAD for line in refused(model, key, value)]
        assert found, f"{key} takes anything"
        for line in found:
            assert not FOREIGN.search(line), line
            assert LINE.fullmatch(line), line
            assert "another value" not in line, line
        lines += len(found)
    assert lines or not model.model_fields


@pytest.mark.parametrize("name", ["data", "student", "teacher", "train", "output", "methods", "classifier"])
@pytest.mark.parametrize("value", ["a word", 3, [1]])
def test_what_is_no_table(name: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        config.build([{name: value}], METHODS)
    assert re.fullmatch(
        rf"{name}: (found .+; expected a table|expected a table for each method, found .+)", str(error.value)
    )


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("epochs", 0, "train.epochs: found 0; expected a whole number above 0, or 'auto'"),
        ("epochs", "many", "train.epochs: found 'many'; expected a whole number above 0, or 'auto'"),
        ("learning_rate", -1e-5, "train.learning_rate: found -1e-05; expected a number above 0, or 'auto'"),
        ("max_length", 2, "student.max_length: found 2; expected a whole number of at least 4, or 'auto'"),
        ("adam_beta1", 1.0, "train.adam_beta1: found 1.0; expected a number of at least 0 and less than 1"),
        (
            "metric",
            "acc",
            "train.metric: found 'acc'; expected 'accuracy', 'macro_f1', 'balanced_accuracy', 'log_loss', 'micro_f1' or "
            "'sample_f1'",
        ),
        ("student.layers", [0, "x"], "student.layers.1: found 'x'; expected a whole number"),
        ("seed", True, "train.seed: found true; expected a whole number of at least 0 and less than 4,294,967,296"),
        ("epochs", True, "train.epochs: found true; expected a whole number above 0, or 'auto'"),
        ("randout.scale", False, "methods.randout.scale: found false; expected a number"),
        ("packing", "perhaps", "train.packing: found 'perhaps'; expected true or false"),
        ("weight_decay", float("inf"), "train.weight_decay: found inf; expected a finite number of at least 0"),
        ("teacher.epochs", 0, "teacher.epochs: found 0; expected a whole number of at least 1, or 'same' or 'auto'"),
        ("randout.units", -1, "methods.randout.units: found -1; expected a whole number of at least 0"),
        ("methods.kd", 3, "methods.kd: found 3; expected a table"),
        (
            "attention-noise.blocks",
            [],
            "methods.attention-noise.blocks: found []; expected a list of one or more whole numbers",
        ),
    ],
)
def test_what_is_said(setting: str, value: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        config.build([config.assignment_of(setting, value, METHODS)], METHODS)
    assert str(error.value) == said
