"""The space of a search: settings and their values, grid cells, and the rungs of successive halving.

Pure functions: names of settings in, tables for `config.build` out. Nothing is read or trained, and there is no global
random state.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from randout.core import config as configuration
from randout.core.config import Config, Table, assignment_of, overlay
from randout.core.errors import UserError, nearest
from randout.models.sources import CLASSIFIER_NAMES

Settings = dict[str, Any]  # "kd.weight" -> 0.4
Space = dict[str, Any]  # "kd.weight" -> list of values, or (for the sampler "tpe") {low, high, log}

SPACES: dict[str, Space] = tomllib.loads(
    resources.files("randout").joinpath("experiments", "search", "spaces.toml").read_text(encoding="utf-8")
)


class SearchTable(Table):
    """`[search]` of a search file, `[tuning]` of a study."""

    space: dict[str, Any] = Field({}, description="setting -> list of values, or {low, high, log} with the sampler tpe")
    preset: str = Field("", description="a space of the package: paper, figures; `space` overrides it")
    trials: Annotated[int, Field(ge=0)] = Field(0, description="number of cells to try, drawn at random; 0: all")
    sampler: Literal["grid", "tpe"] = Field(
        "grid", description="grid: cells of a grid; tpe: Optuna proposes each next trial"
    )
    halving: Annotated[int, Field(ge=0)] = Field(
        0, description="keep one in this many trials at each rung; 0: no halving"
    )
    budget: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of all cells' steps that halving may use, e.g. 0.15; 0: as its rungs require"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="random seed for drawing cells, and for tpe")
    keep: Literal["best", "all", "none"] = Field("best", description="trials whose weights are kept on disk")


def space_of(table: SearchTable, config: Config, methods: Mapping[str, Any]) -> tuple[Space, list[str]]:
    """Return the space by full setting names, and the settings left out because `config` lacks their method.

    Raises UserError for an unknown preset or setting, for values that are not a list, for a setting that decides how
    trials are judged, and for an empty space.
    """
    if table.sampler == "tpe" and not table.trials:
        raise UserError("search.trials: the sampler tpe needs a number of trials, e.g. --trials 30")
    if table.budget and (table.sampler == "tpe" or table.halving < 2):
        raise UserError(
            f"search.budget: {table.budget:g} needs successive halving of a grid; set search.halving, e.g. --halving 4"
            + (", and leave --sampler tpe out" if table.sampler == "tpe" else "")
        )
    if table.preset and table.preset not in SPACES:
        raise UserError(
            f"search.preset: no space {table.preset!r}; there are: {', '.join(SPACES)}.{nearest(table.preset, SPACES)}"
        )
    asked = {**SPACES.get(table.preset, {}), **table.space}
    space: Space = {}
    absent = []
    for key, values in asked.items():
        name = full_name(key, methods)
        if name.partition(".")[0] in ("data", "output") or name == "train.metric":
            raise UserError(
                f"search.space {key}: this setting changes how trials are judged, so it cannot vary between them"
            )
        if name.partition(".")[0] in methods and name.partition(".")[0] not in config.methods:
            absent.append(name)
            continue
        space[name] = _checked(key, values, table.sampler)
    if not asked:
        raise UserError(
            f"search.space: empty, so there is nothing to search. Add settings, e.g. --space {_example(config)}"
        )
    return space, absent


def _example(config: Config) -> str:
    """Return a setting that this recipe has, with values."""
    if config.student.model == "svm":
        return '"classifier.C=[0.1, 1]"'
    if config.student.model in CLASSIFIER_NAMES:
        return '"classifier.NAME=[...]"'
    return '"learning_rate=[3e-5, 1e-4]"'


def full_name(key: str, methods: Mapping[str, Any]) -> str:
    """Return the full name of a setting of `[search.space]`, as `config.full_name`. Raises UserError."""
    try:
        return configuration.full_name(key, methods)
    except UserError as error:
        raise UserError(str(error).replace("--set ", "search.space ", 1)) from None


def _checked(key: str, values: Any, sampler: str) -> Any:
    """Return the values of a setting without duplicates, or its range. Raises UserError."""
    if isinstance(values, dict):
        if sampler != "tpe":
            raise UserError(
                f"search.space {key}: the range {values} needs the sampler tpe; the sampler grid takes a list of values"
            )
        return _range(key, values)
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"search.space {key}: found {values!r}; expected a non-empty list of values")
    return [value for at, value in enumerate(values) if value not in list(values)[:at]]


def _range(key: str, values: dict[str, Any]) -> dict[str, Any]:
    ends: list[Any] = [values.get("low"), values.get("high")]
    plain = all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
    log = values.get("log", False)
    known = values.keys() <= {"low", "high", "log"} and isinstance(log, bool)
    if not known or not plain or ends[0] >= ends[1] or (log and ends[0] <= 0):
        above = ", low above 0" if log is True else ""
        raise UserError(
            f"search.space {key}: found {values}; expected {{low = ..., high = ..., log = true or false}}{above}"
        )
    return values


def each_value(space: Space) -> list[Settings]:
    """Return a trial for every value (of a range, its ends), with the other settings at their first value."""
    ends = {name: [v["low"], v["high"]] if isinstance(v, dict) else v for name, v in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    return [first, *(first | {name: value} for name, values in ends.items() for value in values[1:])]


def parse_space(texts: Sequence[str]) -> Space:
    """Parse `KEY=[VALUES]` of the command line. Raises UserError."""
    space: Space = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            if not equals or not key.strip():
                raise ValueError
            space[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except ValueError:
            raise UserError(
                f'--space {text}: expected KEY=[VALUES], as in "kd.weight=[0.2, 0.4]", or one of {", ".join(SPACES)}.'
                + nearest(text, SPACES)
            ) from None
    return space


def grid_points(space: Space, trials: int, seed: int) -> tuple[list[Settings], int]:
    """Return the cells to try, and the number of cells in the grid.

    Their order is drawn with `seed`, so that any prefix is a random sample of the grid.
    """
    names = list(space)
    size = math.prod(len(values) for values in space.values())
    order = np.random.default_rng(seed).permutation(size)[: trials or size]
    every = list(itertools.product(*space.values()))
    return [dict(zip(names, every[at], strict=True)) for at in order], size


def tables_of(settings: Settings, methods: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's settings as tables to overlay on a recipe."""
    tables: dict[str, Any] = {}
    for key, value in settings.items():
        tables = overlay(tables, assignment_of(key, value, methods))
    return tables


def rungs(trials: int, keep_one_in: int, budget: float = 0.0) -> list[float]:
    """Return the shares of a full training after which trials are compared; the last is 1.

    Successive halving (Jamieson and Talwalkar 2016): each rung trains `keep_one_in` times longer than the one before
    and keeps one in `keep_one_in` of its trials, so that all rungs cost about the same; without halving there is one rung.
    budget: the share of all trials' steps to use; 0: as many rungs as it takes until one trial is left. Raises UserError
    for too small a budget.
    """
    if keep_one_in < 2:
        return [1.0]
    most = 1
    while keep_one_in**most <= trials:
        most += 1
    return _within(trials, keep_one_in, budget, most) if budget else _geometric(keep_one_in, most)


def _geometric(keep_one_in: int, count: int) -> list[float]:
    return [float(keep_one_in) ** (rung - count + 1) for rung in range(count)]


def _within(trials: int, keep_one_in: int, budget: float, most: int) -> list[float]:
    """Return rungs that use `budget`: one factor scales all but the last.

    There are as few rungs as possible while the first one is at least as long as without scaling, because an early
    comparison says little.
    """
    found: list[float] = []
    for count in range(2, most + 1):
        shares = _geometric(keep_one_in, count)
        finish = trials // keep_one_in ** (count - 1)
        factor = (budget * trials - finish) / (trials * spent(trials, keep_one_in, shares) - finish)
        if factor > 0:
            found = [*(factor * share for share in shares[:-1]), 1.0]
        if factor * keep_one_in >= 1:
            break
    if not found:
        raise UserError(
            f"search.budget: {budget:g} of {trials} trials is {budget * trials:.2f} full trainings, and halving that keeps "
            f"one in {keep_one_in} ends with {trials // keep_one_in ** (most - 1)}; set a larger budget, or try more cells"
        )
    return found


def spent(trials: int, keep_one_in: int, shares: Sequence[float]) -> float:
    """Return the share of all trials' steps that these rungs use.

    A trial resumes where it paused, so it uses the steps of the last rung that it reached.
    """
    left = [trials // keep_one_in**rung for rung in range(len(shares))]
    ended = [many - fewer for many, fewer in zip(left, [*left[1:], 0], strict=True)]
    return sum(count * share for count, share in zip(ended, shares, strict=True)) / trials


def settings_text(settings: Settings) -> str:
    """Format settings for a message: `kd.weight 0.2, randout.tokens 64`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
