"""Chooses what works on the cells of a study: this process, several of this machine (`--jobs`), or a cluster (`--cluster`)."""

from __future__ import annotations

from collections.abc import Collection

from randout.experiments.run.options import Options

from . import ray_cluster, workers
from .cells import Cells, work_through


def work(cells: Cells, options: Options, required: Collection[str] = ()) -> None:
    """Work on the cells of a study until all are finished or have failed, whoever did them.

    required: methods that must not be left out, of the request. Raises Stopped, UserError, Failure.
    """
    if options.cluster:
        ray_cluster.run(cells, options, required)
    elif options.jobs > 1:
        workers.run(cells, options, required)
    else:
        work_through(cells, options)
