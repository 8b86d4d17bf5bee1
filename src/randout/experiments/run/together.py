"""A training that several processes share: how it begins, and what they agree on at each step.

The leader runs the whole command. At each training of a network (of a teacher, the student, a refit), it tells the others
the plan's fingerprint and hands over the soft labels and the state to start from; they run the same loop, and at its end
wait for its next message (`follower`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from randout.core.errors import Failure, UserError
from randout.core.terminal import EXIT_CODES
from randout.core.wording import plural
from randout.methods.compatibility import check_parts
from randout.training import checkpoint
from randout.training.state import Position, TrainingData, TrainingState

from .plan import Plan

if TYPE_CHECKING:
    from randout.training.processes import Processes

SAVE, TIME_LIMIT = 1, 2
REASONS = {TIME_LIMIT: "the time limit", **dict(enumerate(EXIT_CODES, 3))}  # why a training stops, as numbers


def check_divisible(plan: Plan, launched_processes: int) -> None:
    """Raise UserError if several processes cannot share the training of `plan`, or that of one of its teachers."""
    size = plural(launched_processes, "process", "processes")
    alone = "Start it without torchrun"
    if plan.alternative is not None:
        raise UserError(
            f'student.model = "auto": {size} train one encoder together, but this may choose a bag-of-words classifier. '
            "Name the student: --student ENCODER"
        )
    if plan.student.source is None:
        raise UserError(
            f"--student {plan.student.label}: a baseline is small and is trained by one process, but {size} were started. "
            f"{alone}"
        )
    if running := [method.name for method in plan.methods if method.teacher == "model"]:
        raise UserError(
            f"methods.{running[0]}: it runs a teacher alongside the student, which several processes do not share, and "
            f"{size} were started. {alone}, or learn from stored soft labels (--preset kd)"
        )
    if plan.dataset.sharded_rows:
        raise UserError(
            f"data.unlabeled = {plan.config.data.unlabeled}: sharded texts are read by one process, but {size} were started. "
            f"{alone}"
        )
    check_parts(plan.methods, plan.config.train.batch_parts, plan.config.train.batch_size)
    for teacher in (*plan.teachers, *plan.fold_teachers):
        if isinstance(teacher, Plan):
            check_divisible(teacher, launched_processes)


def begin_together(plan: Plan, training: TrainingState, data: TrainingData, processes: Processes) -> None:
    """Start the others on the training that the leader has begun or resumed."""
    refit = not len(plan.dataset.split["validation"])
    processes.tell({"do": "train", "fingerprint": plan.fingerprint, "refit": refit})
    share_start(training, data, processes)


def share_start(training: TrainingState, data: TrainingData, processes: Processes) -> TrainingData:
    """Give `training` the leader's weights, states and position; returns `data` with its soft labels."""
    leads = processes.leads
    processes.meet()
    given = [logits for logits in (data.teacher, *data.others) if logits is not None]
    logits = processes.shared_tensors({str(at): one for at, one in enumerate(given)} if leads else None)
    tensors = processes.shared_tensors(checkpoint.tensors_of(training) if leads else None)
    position = processes.shared(training.position.as_json())
    training.processes = processes
    if not leads:
        checkpoint.put(training, tensors)
        training.position = Position(**position)
        found = list(logits.values())
        data = replace(data, teacher=found[0] if found else None, others=tuple(found[1:]))
    training.position.processes = processes.size
    return data


def agreed(processes: Processes | None, why: str, due: bool) -> tuple[str, bool]:
    """Return why all processes stop at this step (empty: they do not), and whether they save the state.

    why: why this process would stop. due: whether the leader's checkpoint is due.
    """
    if processes is None:
        return why, due
    numbers = {reason: number for number, reason in REASONS.items()}
    found = processes.agreed(numbers[why] if why else SAVE * due)
    return REASONS.get(found, ""), bool(found)


def check_same_weights(training: TrainingState, processes: Processes) -> None:
    """Raise Failure if the weights of the processes differ, as they may between unlike machines."""
    own = checksum(training)
    if any(other != own for other in processes.gathered(own)):
        raise Failure(
            f"the weights of the {processes.size} processes differ after step {training.position.step}: their machines or "
            "libraries compute differently. Use machines with the same CPU or GPU, and the same versions"
        )


@torch.no_grad()
def checksum(training: TrainingState) -> list[int]:
    """Return a number for each parameter that depends on all its bits."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return [
        int(p.detach().contiguous().view(-1).view(whole[p.element_size()]).sum(dtype=torch.int64))
        for p in training.encoder.model.parameters()
    ]
