"""What a search varies: the paper's space, the order of its cells, the rungs of halving, and spaces that are refused."""

from __future__ import annotations

import itertools

import pytest

from randout.core import config
from randout.core.errors import UserError
from randout.experiments.search import space as grid
from randout.experiments.search.space import SearchTable
from randout.methods.builtin import METHODS


def recipe(preset: str = "randout-kd") -> config.Config:
    return config.build([config.read_preset(preset)], METHODS)


def space(methods: str = "randout-kd", **table) -> tuple[dict, list[str]]:
    return grid.space_of(SearchTable(**table), recipe(methods), METHODS)


@pytest.mark.parametrize(
    ("preset", "size", "absent"),
    [
        ("randout-kd", 7 * 8 * 4 * 3 * 2, set()),  # section 4.2: 1,344
        ("paper", 1344, set()),
        ("kd", 4 * 3 * 2, {"randout.tokens", "randout.units"}),
        ("randout", 7 * 8 * 2, {"kd.weight", "kd.temperature"}),
        ("plain", 2, {"kd.weight", "kd.temperature", "randout.tokens", "randout.units"}),  # baselines and teachers
    ],
)
def test_the_papers_space_by_recipe(preset, size, absent):
    found, left_out = space(preset, preset="paper")
    drawn, cells = grid.grid_points(found, 0, 0)
    assert cells == len(drawn) == size
    assert set(left_out) == absent
    assert found["train.batch_size"] == [16, 32]


def test_every_cell_comes_once_in_an_order_drawn_by_the_seed():
    over = {"kd.weight": [0.2, 0.4, 0.6], "train.batch_size": [16, 32]}
    drawn, size = grid.grid_points(over, 0, 5)
    whole = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    assert size == len(drawn) == 6
    assert sorted(map(str, drawn)) == sorted(map(str, whole))
    assert drawn != whole
    assert grid.grid_points(over, 0, 5)[0] == drawn
    assert grid.grid_points(over, 0, 6)[0] != drawn
    for trials in (1, 2, 4, 6, 100):  # fewer trials are a prefix, so that more can be no others
        assert grid.grid_points(over, trials, 5) == (drawn[:trials], 6)


def test_a_user_s_values_lie_over_a_preset_s_and_copies_count_once():
    found, _ = space(preset="paper", space={"methods.kd.weight": [0.5, 0.5, 0.25], "learning_rate": [1e-5]})
    assert found["kd.weight"] == [0.5, 0.25]
    assert found["train.learning_rate"] == [1e-5]
    assert len(grid.grid_points(found, 0, 0)[0]) == 2 * 3 * 7 * 8 * 2


def test_a_cell_becomes_tables_over_a_recipe():
    cell = {"kd.weight": 0.2, "kd.temperature": 3.0, "train.batch_size": 32, "student.max_length": 20}
    made = config.build([recipe().model_dump(mode="json"), grid.tables_of(cell, METHODS)], METHODS)
    assert (made.methods["kd"]["weight"], made.methods["kd"]["temperature"]) == (0.2, 3.0)
    assert (made.train.batch_size, made.student.max_length) == (32, 20)
    assert made.methods["randout"] == recipe().methods["randout"]
    assert grid.settings_text({"kd.weight": 0.2, "train.batch_size": 32}) == "kd.weight 0.2, train.batch_size 32"


@pytest.mark.parametrize(
    ("trials", "keep", "shares"),
    [
        (4, 0, [1]),
        (4, 1, [1]),
        (1, 2, [1]),
        (3, 4, [1]),
        (4, 4, [1 / 4, 1]),
        (4, 2, [1 / 4, 1 / 2, 1]),
        (7, 2, [1 / 4, 1 / 2, 1]),
        (27, 3, [1 / 27, 1 / 9, 1 / 3, 1]),
    ],
)
def test_rungs_cost_the_same_each(trials, keep, shares):
    found = grid.rungs(trials, keep)
    assert found == pytest.approx(shares)
    left = trials
    for _ in found[1:]:
        left //= keep
    assert left >= 1


@pytest.mark.parametrize(
    ("trials", "keep", "budget", "shares"),
    [
        (16, 4, 0.15, [1.4 / 24, 1.4 / 6, 1]),  # 12 r + 3 (4 r) + 1 = 0.15 * 16
        (1344, 4, 0.15, [1.4 / 24, 1.4 / 6, 1]),  # not six rungs, the first after a thousandth of a training
        (16, 4, 0.6, [5.6 / 12, 1]),  # 12 r + 4 = 0.6 * 16
        (16, 16, 0.15, [1.4 / 15, 1]),
    ],
)
def test_rungs_within_a_budget(trials, keep, budget, shares):
    assert grid.rungs(trials, keep, budget) == pytest.approx(shares)


def test_a_budget_is_spent_and_not_exceeded():
    tried = 0
    for trials, keep, budget in itertools.product(range(2, 60), range(2, 9), (0.05, 0.15, 0.3, 0.5, 0.9)):
        last = trials // keep ** max(n for n in range(8) if keep**n <= trials)
        if keep > trials or budget * trials <= last:  # nothing to halve, or the last ones alone take as much
            with pytest.raises(UserError, match=r"search\.budget"):
                grid.rungs(trials, keep, budget)
            continue
        shares = grid.rungs(trials, keep, budget)
        tried += 1
        assert all(0 < one < other for one, other in itertools.pairwise(shares))
        assert shares[-1] == 1
        steps, left = 0.0, [trials // keep**rung for rung in range(len(shares))]
        for rung, share in enumerate(shares):  # what those that come to a rung train further
            steps += left[rung] * (share - (shares[rung - 1] if rung else 0))
        assert steps / trials == pytest.approx(budget)
        assert grid.spent(trials, keep, shares) == pytest.approx(budget)
    assert tried > 1000


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({}, ["empty", "--space"]),
        ({"space": {"kd.weight": []}}, ["kd.weight", "[]", "non-empty"]),
        ({"space": {"kd.weight": 0.4}}, ["kd.weight", "0.4", "list of values"]),
        ({"space": {"learning_rat": [1e-4]}}, ["search.space learning_rat", "Did you mean 'learning_rate'?"]),
        ({"preset": "papr"}, ["'papr'", "paper, figures", "Did you mean 'paper'?"]),
        ({"space": {"kd.weight": {"low": 0.1, "high": 0.9}}}, ["kd.weight", "the range", "tpe"]),
        ({"space": {"kd.weight": [1]}, "sampler": "tpe"}, ["--trials 30"]),
        ({"space": {"kd.weight": [1]}, "budget": 0.15}, ["search.budget", "0.15", "--halving 4"]),
        ({"space": {"kd.weight": [1]}, "budget": 0.1, "halving": 2, "sampler": "tpe", "trials": 3}, ["tpe out"]),
        ({"space": {"output.test": [True]}}, ["output.test", "how trials are judged"]),
        ({"space": {"split_seed": [1, 2]}}, ["split_seed", "how trials are judged"]),
        ({"space": {"metric": ["accuracy", "macro_f1"]}}, ["metric", "how trials are judged"]),
    ],
)
def test_spaces_that_are_refused_with_the_reason(table, parts):
    with pytest.raises(UserError) as caught:
        space(**table)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    "values",
    [
        {"low": 0.9, "high": 0.1},
        {"low": 0.1},
        {"low": "a", "high": "b"},
        {"low": 1, "high": "b"},
        {"low": 0, "high": 1, "log": True},
        {"low": 0.1, "high": 1, "log": "yes"},
        {"low": 0.1, "high": 1, "step": 2},
        {"low": False, "high": True},
        {"low": 0.0, "high": float("inf")},
    ],
)
def test_ranges_that_are_none(values):
    with pytest.raises(UserError, match=r"kd\.weight: found"):
        space(space={"kd.weight": values}, sampler="tpe", trials=3)


def test_a_range_is_kept_for_tpe_and_stands_for_its_ends():
    values = {"low": 1e-5, "high": 1e-3, "log": True}
    found, _ = space(space={"learning_rate": values, "kd.weight": [0.4, 0.8]}, sampler="tpe", trials=3)
    assert found == {"train.learning_rate": values, "kd.weight": [0.4, 0.8]}
    assert grid.each_value(found) == [
        {"train.learning_rate": 1e-5, "kd.weight": 0.4},
        {"train.learning_rate": 1e-3, "kd.weight": 0.4},
        {"train.learning_rate": 1e-5, "kd.weight": 0.8},
    ]


def test_spaces_of_the_command_line():
    assert grid.parse_space(["kd.weight=[0.2, 0.4]", "learning_rate = {low=1e-5, high=1e-3}"]) == {
        "kd.weight": [0.2, 0.4],
        "learning_rate": {"low": 1e-5, "high": 1e-3},
    }
    for text in ("nonsense", "=[1]", "kd.weight=", "kd.weight=[0.2", "kd.weight=abc"):
        with pytest.raises(UserError, match=r"expected KEY=\[VALUES\]"):
            grid.parse_space([text])
    with pytest.raises(UserError, match="Did you mean 'figures'"):
        grid.parse_space(["figurs"])
