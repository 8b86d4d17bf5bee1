"""A guard against training that trains nothing: parameters that get no gradient though the plain model gives them one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import Failure

SHOWN = 3  # names in a message


def check(watched: Mapping[str, nn.Parameter], plain: Callable[[], Tensor]) -> None:
    """Raise Failure where a parameter of `watched` has no gradient after a step, but has one in a plain forward.

    watched: by name, what is to be trained. plain: logits of a plain forward with a graph; called only where a gradient
    is missing. Parameters that the plain model does not use either (a pooler that the head leaves out) are passed over.
    """
    missing = {name: parameter for name, parameter in watched.items() if parameter.grad is None}
    if not missing:
        return
    lost = used(missing, plain)
    if lost:
        frozen = sum(not missing[name].requires_grad for name in lost)
        more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
        why = f" {frozen:,} of them do not require a gradient any more." if frozen else ""
        raise Failure(
            f"{len(lost):,} of {len(watched):,} trainable parameters of the student got no gradient in the first step, "
            f"so they would not be trained: {', '.join(lost[:SHOWN])}{more}.{why} Check what freezes, detaches or "
            "replaces parts of the model (a method, a hook), and that some loss reaches its logits"
        )


def used(parameters: Mapping[str, nn.Parameter], plain: Callable[[], Tensor]) -> list[str]:
    """The names of the `parameters` that the logits of a plain forward depend on, whether or not they are frozen."""
    with _requiring_gradients(parameters), torch.enable_grad():
        logits = plain()
        if not logits.requires_grad:
            return []
        found = torch.autograd.grad(logits.float().sum(), list(parameters.values()), allow_unused=True)
    return [name for name, gradient in zip(parameters, found, strict=True) if gradient is not None]


@contextmanager
def _requiring_gradients(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
