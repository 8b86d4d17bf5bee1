"""A process that follows: it takes part in the trainings of the leader's command, and writes and prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from randout.core.errors import Failure
from randout.training.loop import fit, flush

from .plan import Plan
from .planning import refit_plan
from .student import begin_training, make_training_data, stop_on_signal, validation_metrics
from .together import agreed, share_start

if TYPE_CHECKING:
    from randout.training.processes import Processes


def follow(processes: Processes, make_plan: Callable[[], Plan]) -> dict[str, Any]:
    """Carry out what the leader's messages ask for, until the last one, which is returned.

    make_plan: the plan of the command, which this process makes from the same arguments as the leader. Raises Failure if it
    is not the leader's.
    """
    plans: dict[str, Plan] = {}
    while (message := processes.next_message())["do"] == "train":
        plans = plans or {plan.fingerprint: plan for plan in _all_plans(make_plan())}
        plan = plans.get(message["fingerprint"])
        if plan is None:
            raise Failure(
                "this process has another plan than the first one: the data, the models, the versions or the machine differ"
            )
        _train(refit_plan(plan) if message["refit"] else plan, processes)
    return message


def _all_plans(plan: Plan) -> Iterator[Plan]:
    """Yield a plan and those of the teachers that are trained for it."""
    yield plan
    for teacher in (*plan.teachers, *plan.fold_teachers):
        if isinstance(teacher, Plan):
            yield from _all_plans(teacher)


def _train(plan: Plan, processes: Processes) -> None:
    """Train as `student.train_student` does, without checkpoints; the result is the leader's to save."""
    training = begin_training(plan, None)
    data = share_start(training, make_training_data(plan, None), processes)
    with stop_on_signal() as stop:
        for _ in fit(training, data, partial(validation_metrics, plan, training)):
            why, saves = agreed(processes, stop.why, False)
            if saves:
                flush(training)
            if why:
                return
