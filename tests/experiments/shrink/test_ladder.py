"""The definition of a ladder, and the rule that chooses a form, against a plain computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core import config
from randout.core.errors import UserError
from randout.experiments.shrink.choice import cheapest, closest
from randout.experiments.shrink.ladder import (
    check_layers,
    depths,
    in_paths,
    kept_blocks,
    make_shrink,
    rungs_of,
    student_labels,
)
from randout.methods.builtin import METHODS
from randout.models.sources import Source
from randout.storage.study_record import Cost, LadderForm, MarginTest


def recipe(**tables: Any) -> config.Config:
    below = {"data": {"source": "reviews.csv"}, "student": {"model": "encoder"}, "teacher": {"model": "runs/teacher"}}
    return config.build([config.read_preset("kd"), below, tables], METHODS)


def test_depths_halve_down_to_one() -> None:
    assert [depths(of) for of in (1, 2, 3, 6, 12, 22)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 6],
        [1, 2, 3, 6, 12],
        [1, 2, 3, 6, 11, 22],
    ]


def test_kept_blocks_are_evenly_spaced_from_the_first() -> None:
    assert [kept_blocks(count, 6) for count in (1, 2, 3, 4, 6)] == [(0,), (0, 3), (0, 2, 4), (0, 1, 3, 4), ()]


def test_rungs_have_the_requested_layers_that_the_encoder_has() -> None:
    assert [(rung.name, rung.layers) for rung in rungs_of("small", 6, (), False)] == [
        ("1 layer", 1),
        ("2 layers", 2),
        ("3 layers", 3),
        ("6 layers", 6),
    ]
    assert [rung.name for rung in rungs_of("small", 6, (12, 3, 1, 3), True)] == ["small, 1 layer", "small, 3 layers"]


@pytest.mark.parametrize(
    ("given", "tables", "message"),
    [
        ({"students": ("svm",)}, {}, "--student svm"),
        ({"students": ("a", "a")}, {}, "named twice"),
        ({}, {"student": {"layers": [0, 1]}}, "--layers"),
        ({}, {"train": {"refit": True}}, "train.refit"),
        ({}, {"teacher": {"model": "none"}}, "--teacher none"),
        ({"rounds": 0}, {}, "--cost size"),
        ({"margin": 1.5}, {}, "--margin"),
        ({"cost": "price"}, {}, "--cost"),
        ({"forms": ("int4", "int8", "half")}, {}, "--form int4, half: expected torch, float32, int8"),
        ({}, {"output": {"test": False}}, "--open none"),
        ({"seeds": 2}, {"teacher": {"cross_fit": 2}}, "--seeds 1"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(given: dict[str, Any], tables: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_shrink(recipe(**tables), given)


def test_numbers_of_layers_that_no_student_has_are_all_named() -> None:
    check_layers((1, 6, 3), 6)
    with pytest.raises(UserError, match="--layers: found 0, 9, 7; expected numbers from 1 to 6"):
        check_layers((0, 9, 3, 7), 6)


def encoder(folder: Path, weights: str) -> Source:
    """A folder with the files that identify a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 6}', encoding="utf-8")
    (folder / "model.safetensors").write_text(weights, encoding="utf-8")
    return Source(str(folder), folder)


def test_students_with_the_same_label_have_names_of_their_own(tmp_path: Path) -> None:
    first, second, other = (encoder(tmp_path / name, name) for name in ("a/base", "b/base", "other"))
    found = student_labels([first, second, other])
    assert found == [first.name, second.name, "other"]
    names = [rung.name for label in found for rung in rungs_of(label, 6, (), True)]
    assert len({in_paths(name) for name in names}) == 3 * 4
    with pytest.raises(UserError, match="same model"):
        student_labels([first, encoder(tmp_path / "copy", "a/base")])
    with pytest.raises(UserError, match="same names"):
        student_labels([other, encoder(tmp_path / "other-", "c")])


def test_students_are_not_trained_on_the_rows_that_choose_among_them() -> None:
    made = make_shrink(recipe(), {"seeds": 2}).student_config("encoder", (0, 2), 1)
    assert (made.train.refit, made.train.seed, made.student.layers) == (False, 2, (0, 2))
    assert made.output.test is False
    words = make_shrink(recipe(), {}).words_config()
    assert (words.student.model, words.methods, words.output.test) == ("svm", {}, False)


def form(name: str, price: float, size: int, low: float, margin: float, rung: str = "a") -> LadderForm:
    found = MarginTest(
        accuracy=0.9, reference=0.9, margin=margin, estimate=low + 0.01, low=low, high=low + 0.02, standard_error=0.01,
        disagreement=0.1, rows=900, groups=900, equal_groups=900.0, verdict="confirmed" if low > -margin else "undecided",
    )  # fmt: skip
    cost = Cost(latency=price, latency95=price, throughput=1 / price, texts=10, rounds=1)
    return LadderForm(name=name, rung=rung, form="torch", folder=".", size=size, cost=cost, validation=found)


def test_the_cheapest_form_that_is_not_worse_is_chosen() -> None:
    """The rule in plain Python, on random forms: lowest cost, and within 5 % of it the smallest."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        forms = [
            form(
                str(at),
                *draw.choice([1.0, 1.03, 2.0, 5.0], 1),
                int(draw.integers(1, 9)),
                draw.normal(-0.02, 0.02),
                0.02,
            )
            for at in range(6)
        ]
        fit = [one for one in forms if one.validation is not None and one.validation.low > -0.02]
        found = cheapest(forms, "latency")
        if not fit:
            assert found is None
            continue
        assert found is not None
        least = min(one.cost.latency for one in fit if one.cost)
        near = [one for one in fit if one.cost and one.cost.latency <= 1.05 * least]
        assert found.size == min(one.size for one in near)
        assert found in near
        assert cheapest(forms, "size") == min(fit, key=lambda one: (one.size, one.size))


def test_the_closest_form_has_the_highest_bound_and_is_not_the_teachers() -> None:
    forms = [
        form("teacher, int8", 1.0, 1, -0.03, 0.02, "teacher"),
        form("a", 9.0, 1, -0.05, 0.02),
        form("b", 1.0, 1, -0.04, 0.02),
    ]
    assert cheapest(forms, "latency") is None
    near = closest(forms, "latency", "teacher")
    assert near is not None
    assert near.name == "b"


def test_a_form_that_was_not_measured_is_not_the_cheapest() -> None:
    one, other = form("a", 1.0, 5, 0.0, 0.02), form("b", 2.0, 9, 0.0, 0.02)
    one.cost = None
    found = cheapest([one, other], "throughput")
    assert found is not None
    assert found.name == "b"
