"""Works on single cells of a job, one after another: `python -m randout.experiments.cell_worker`.

Started on the nodes of a cluster by `experiments.sharing.ray_task`, once for each job and place for a task. The first order
names the job and the versions that its processes must have; each further one a cell, and the cells that have failed. The last
event of a cell tells how it ended: `{"ended": "finished" | "failed" | "busy", "lock": [FOLDER, NAME] | null}`.
"""

from __future__ import annotations

import queue
from pathlib import Path

from randout.core.errors import UserError

from .node_check import versions
from .worker import EventShow, Order, main, prepare


def serve(order: Order, show: EventShow, further: queue.Queue[Order]) -> None:
    """Work on the cells that further orders name, until the process is stopped. Raises Stopped, UserError, Failure."""
    for name, found in versions().items():
        if found != order["versions"][name]:
            raise UserError(f"{name} is {found} here, and {order['versions'][name]} where the command was started")
    options = prepare(order, show)
    from randout.experiments.shared_job import cells_of
    from randout.experiments.sharing.cells import attempt

    cells = cells_of(Path(order["job"]), options, order["required"])
    while True:
        asked = further.get()
        state, lock = "busy", None
        if asked["cell"] in cells.open(asked["tried"]):
            outcome = attempt(cells, asked["cell"], options)
            state = outcome.state
            if outcome.busy is not None:
                lock = [str(outcome.busy.folder.absolute()), outcome.busy.name]
        show.event({"ended": state, "lock": lock})


if __name__ == "__main__":
    main(serve)
