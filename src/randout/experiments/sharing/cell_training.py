"""Trains the run of one cell of a study, and records how that ended."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from randout.core.errors import Failure
from randout.experiments.run import pipeline
from randout.experiments.run.options import Options, Stopped
from randout.experiments.run.plan import Plan
from randout.storage.locks import LockLost
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import Cell

from .cells import Outcome, peak_memory


def train_cell(folder: StudyFolder[Any], cell: Cell, plan: Plan, options: Options, name: str, progress: str) -> Outcome:
    """Train the run of a cell to the end, or take over its finished run, and save the study.

    name: of the cell in messages. progress: how far the study is, shown after the name. A run that was trained before counts
    with the seconds of its epochs, so that the time left can be estimated. Raises Stopped, Busy, LockLost and UserError.
    """
    options.show.say(f"{name} {progress}")
    cell.run, cell.state, cell.error = folder.place(options.runs / plan.name), "waiting", None
    folder.save()  # so that others know the run before they plan it
    within = replace(options, out=None, fresh=False, name="", request="", show=options.show.within())
    within = replace(within, report_to=options.report_to.labelled(name))
    began, state = time.monotonic(), "finished"
    try:
        found = pipeline.execute(plan, within)
        cell.state, cell.error = "finished", None
        if not found.new:
            cell.seconds = sum(one.seconds for one in found.run.history.epochs)
    except LockLost:
        raise
    except Stopped:
        folder.save()
        raise
    except Failure as error:
        cell.state = state = "failed"
        cell.error = str(error)
        options.show.warn(f"{name} failed; it is tried again when the study is resumed: {error}")
    cell.seconds = round(cell.seconds + time.monotonic() - began, 3)
    if memory := peak_memory(options):
        cell.memory = memory
    folder.save()
    return Outcome("finished" if state == "finished" else "failed")
