"""A step's texts divided into parts, whose gradients are summed in the order of the parts, in one process or several.

    rows of a step, shortest first     a b c d e f g h
    two parts of about as many tokens  [a b c d e f] [g h]

The sum is ((g_0 + g_1) + g_2) + ..., each g the gradient of a whole part, whichever process computes a part. So the result
has the same bits with any number of processes: it depends on the number of parts only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from randout.methods.base import Logged
from randout.models.kernels.embedding import SparseRowEmbedding as Words

from .state import Unread

if TYPE_CHECKING:
    from .processes import Processes

Span = tuple[int, int]  # first and last + 1 of the rows of a step


def divide(lengths: np.ndarray, parts: int) -> list[Span]:
    """Cut the texts of a step into contiguous parts of about as many tokens; the last are empty if there are too few texts.

    lengths: (n,) number of tokens of each text, in the order of the step.
    """
    before = np.concatenate([[0], np.cumsum(lengths)])
    cuts = [0]
    for part in range(1, parts):
        wanted = before[-1] * part / parts
        at = int(np.searchsorted(before, wanted))
        at -= at > 0 and wanted - before[at - 1] <= before[at] - wanted
        cuts.append(min(max(at, cuts[-1] + 1), max(len(lengths) - (parts - part), part), len(lengths)))
    return [(first, end) for first, end in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]


def sum_gradients(
    parameters: Sequence[Tensor],
    words: Words | None,
    parts: int,
    compute: Callable[[int], None],
    processes: Processes | None,
) -> None:
    """Set `.grad` of the parameters to the sum of the gradients of all parts.

    words: the token embedding, if its gradients come as rows. compute: sets `.grad` to the gradient of a part, from
    nothing. processes: those that share the parts; None for this one only.
    """
    rank, size = (processes.rank, processes.size) if processes else (0, 1)
    total: dict[Tensor, Tensor] = {}
    for start in range(0, parts, size):
        for parameter in parameters:
            parameter.grad = None
        if start + rank < parts:
            compute(start + rank)
        if processes:
            found = _exchanged(parameters, words, total, min(size, parts - start), processes)
            if parts <= size:
                _put(found, words)
                return
            _keep(found, total)
        else:
            _add(parameters, total)
    for parameter in parameters:
        parameter.grad = total.get(parameter)


def _add(parameters: Sequence[Tensor], total: dict[Tensor, Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter in total:
                total[parameter] += parameter.grad
            else:
                total[parameter] = parameter.grad.clone()


class _Sum(NamedTuple):
    """The summed gradient of a parameter. rows: those that `values` (n, ...) are of, all others zero; None: all."""

    parameter: Tensor
    rows: Tensor | None
    values: Tensor


def _exchanged(
    parameters: Sequence[Tensor],
    words: Words | None,
    total: dict[Tensor, Tensor],
    parts: int,
    processes: Processes,
) -> list[_Sum]:
    """Return `total` plus the gradients of the first `parts` processes, added in their order.

    Only what some process has is sent: parameters with a gradient, and of an embedding the rows in use.
    """
    rows = _rows_of_all(parameters, words, processes)
    found = []
    for dtype in dict.fromkeys(parameter.dtype for parameter in rows):
        of = [parameter for parameter in rows if parameter.dtype == dtype]
        own = torch.cat([_flat(parameter, parameter.grad, rows[parameter]) for parameter in of])
        earlier = None
        if total:
            earlier = torch.cat([_flat(parameter, total.get(parameter), rows[parameter]) for parameter in of])
        shapes = [_shape(parameter, rows[parameter]) for parameter in of]
        flat = _summed(own, earlier, parts, processes).split([prod(shape) for shape in shapes])
        for parameter, shape, values in zip(of, shapes, flat, strict=True):
            found.append(_Sum(parameter, rows[parameter], values.view(shape)))
    return found


def _rows_of_all(
    parameters: Sequence[Tensor], words: Words | None, processes: Processes
) -> dict[Tensor, Tensor | None]:
    """Return the parameters that have a gradient in some process, with the rows in use in any; None for all rows."""
    flags = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    if words is not None:
        rows = words.gradients.occupied_rows(words.weight)
        mask = torch.full((len(words.weight),), rows is None and words.weight.grad is not None, dtype=torch.uint8)
        flags = torch.cat([flags, mask if rows is None else mask.index_fill_(0, rows.cpu(), 1)])
    present, mask = processes.largest(flags).split([len(parameters), len(flags) - len(parameters)])
    found: dict[Tensor, Tensor | None] = {
        p: None for p, there in zip(parameters, present.tolist(), strict=True) if there
    }
    if words is not None and words.weight in found:
        found[words.weight] = mask.nonzero()[:, 0].to(words.weight.device)
    return found


def _shape(parameter: Tensor, rows: Tensor | None) -> tuple[int, ...]:
    return tuple(parameter.shape) if rows is None else (len(rows), *parameter.shape[1:])


def _flat(parameter: Tensor, gradient: Tensor | None, rows: Tensor | None) -> Tensor:
    """Return these rows of a gradient of `parameter` as one vector; zeros if there is none."""
    if gradient is None:
        return parameter.new_zeros(prod(_shape(parameter, rows)))
    return (gradient if rows is None else gradient[rows]).reshape(-1)


def _summed(own: Tensor, earlier: Tensor | None, parts: int, processes: Processes) -> Tensor:
    """Return `earlier` plus the vectors `own` of the first `parts` processes, added in their order.

    Each process adds one piece of all vectors and sends the sum to all.
    """
    size, length = processes.size, len(own)
    piece = -(-length // size)
    padded = torch.nn.functional.pad(own.detach(), (0, piece * size - length))
    received = processes.exchanged(padded).view(size, piece)  # this process's piece of each vector
    here = slice(processes.rank * piece, (processes.rank + 1) * piece)
    if earlier is None:
        whole = received[0].clone()
        rest = received[1:parts]
    else:
        whole = torch.nn.functional.pad(earlier, (0, piece * size - length))[here].clone()
        rest = received[:parts]
    for vector in rest:
        whole += vector
    return processes.exchanged(whole.repeat(size))[:length]


def _put(found: Sequence[_Sum], words: Words | None) -> None:
    for parameter, rows, values in found:
        if rows is not None and words is not None:
            words.gradients.set_rows(parameter, rows, values)
        elif parameter.grad is None:
            parameter.grad = values.clone()
        else:
            parameter.grad.copy_(values)


def _keep(found: Sequence[_Sum], total: dict[Tensor, Tensor]) -> None:
    for parameter, rows, values in found:
        if rows is None:
            total[parameter] = values.clone()
        else:
            total.setdefault(parameter, torch.zeros_like(parameter, requires_grad=False))[rows] = values


def merged(logged: dict[int, Logged]) -> Logged:
    """Concatenate the numbers that the parts of a step logged, in the order of the parts."""
    found: Logged = {}
    for part in sorted(logged):
        for name, entries in logged[part].items():
            found.setdefault(name, []).extend(entries)
    return found


def logged_by_all(processes: Processes, pending: Sequence[Unread]) -> list[Unread]:
    """Return the numbers that every process logged in the same steps."""
    own = [
        {
            part: {name: [(float(value), weight) for value, weight in entries] for name, entries in one.items()}
            for part, one in logged.items()
        }
        for _, _, logged in pending
    ]
    found = [Unread(epoch, batch, {}) for epoch, batch, _ in pending]
    for steps in processes.gathered(own):
        for (_, _, logged), parts in zip(found, steps, strict=True):
            for part, one in parts.items():
                logged[int(part)] = {
                    name: [(torch.tensor(value), weight) for value, weight in entries] for name, entries in one.items()
                }
    return found
