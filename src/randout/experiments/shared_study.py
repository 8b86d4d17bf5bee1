"""Joins a study by its folder alone: what another process, on this machine or another one, needs to work on it.

`run_cell` works on one named cell, claimed by its lock like any other: schedulers of clusters call it in processes of their own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from randout.core.config import Config, build
from randout.core.errors import UserError
from randout.data.dataset import Datasets, load
from randout.experiments.run.options import Options
from randout.experiments.search.search import Trials, open_search, run_search
from randout.experiments.search.search_request import make_search
from randout.experiments.search.space import SearchTable
from randout.experiments.sharing.cells import Cells, prepared
from randout.experiments.shrink.ladder import Shrink, ShrinkTable
from randout.experiments.shrink.shrink import Rungs, open_shrink, run_shrink
from randout.experiments.study.comparison import StudyCells, open_comparison, run_study
from randout.experiments.study.spec import make_study
from randout.methods.builtin import METHODS
from randout.storage.study_folder import read_record, read_request


def join(path: Path, options: Options, required: Collection[str] = ()) -> None:
    """Work on the study in the folder `path` until nothing is left, as the command that started it does.

    required: methods that must not be left out, of its request. Raises Stopped, UserError, Failure.
    """
    kind, request = read_record(path).record.kind, read_request(path)
    if kind == "search":
        run_search(_search(request, required), path, options)
    elif kind == "shrink":
        made = _shrink(request, required)
        run_shrink(made, path, options, load(made.config.data))
    else:
        run_study(make_study(request), path, options)


def cells_of(path: Path, options: Options, required: Collection[str] = ()) -> Cells:
    """Return the cells of the study in a folder. Raises UserError, also for a search that has to run one trial at a time."""
    kind, request = read_record(path).record.kind, read_request(path)
    options = prepared(replace(options, jobs=1))
    if kind == "search":
        search = _search(request, required)
        if search.table.sampler == "tpe":
            raise UserError(
                f"{path}: the sampler tpe proposes each trial from those before it, so they cannot be shared"
            )
        dataset = load(search.config.data)
        return Trials(search, open_search(search, path, options, dataset), dataset, options)
    if kind == "shrink":
        made = _shrink(request, required)
        ladder, shrink_folder = open_shrink(made, path, options, load(made.config.data))
        return Rungs(ladder, shrink_folder, options)
    datasets = Datasets()
    study, folder = open_comparison(make_study(request), path, options, datasets)
    return StudyCells(study, folder, datasets, options)


def run_cell(
    path: Path, name: str, options: Options, required: Collection[str] = ()
) -> Literal["finished", "failed", "busy"]:
    """Work on one cell of a study: `UNIT, ARM`, the number of a trial, or `RUNG, SEED`.

    Returns "busy" if another process works on its run, its teacher or its soft labels, or if the cell is not open now (a trial
    that waits for others): `cells_of(...).open(())` lists those that are. Raises Stopped, and UserError for what stops the study.
    """
    cells = cells_of(path, options, required)
    return cells.run(name).state if name in cells.open(()) else "busy"


def _search(request: dict[str, Any], required: Collection[str]) -> Any:
    recipe: Config = build([request["recipe"]], METHODS)
    return make_search(recipe, SearchTable.model_validate(request["search"]), required)[0]


def _shrink(request: dict[str, Any], required: Collection[str]) -> Shrink:
    table = {name: value for name, value in request.items() if name != "recipe"}
    return Shrink(build([request["recipe"]], METHODS), ShrinkTable.model_validate(table), frozenset(required))
