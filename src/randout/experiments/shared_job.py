"""Joins a job by its folder alone, a study or the labelling of shards: what a further process needs to work on it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from randout.core.hardware import limit_kernel_cache
from randout.experiments.run.options import Options
from randout.experiments.shards.shard_cells import ShardCells
from randout.experiments.shards.task import is_task, read_task
from randout.experiments.sharing.cells import Cells, work_through


def join(path: Path, options: Options, required: Collection[str] = ()) -> None:
    """Work on the job in the folder `path` until nothing is left, as the command that started it does.

    required: methods that must not be left out, of the request of a study. Raises Stopped, UserError, Failure.
    """
    if is_task(path):
        work_through(cells_of(path, options), options)
        return
    from . import shared_study  # imports PyTorch

    shared_study.join(path, options, required)


def cells_of(path: Path, options: Options, required: Collection[str] = ()) -> Cells:
    """Return the cells of the job in a folder. Raises UserError."""
    if is_task(path):
        limit_kernel_cache()
        return ShardCells(read_task(path), options)
    from . import shared_study  # imports PyTorch

    return shared_study.cells_of(path, options, required)
