"""Detects parameters that get no gradient although the plain model gives them one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from randout.core.errors import Failure

SHOWN = 3  # names in a message


def check(model: nn.Module, watched: Mapping[str, nn.Parameter], plain: Callable[[], Tensor]) -> None:
    """Raise Failure where a parameter of `watched` has no gradient after a step, but has one in a plain forward, and where
    `model` has another parameter in its place by now.

    watched: by name, what is to be trained. plain: logits of a plain forward with a graph; called only where a gradient
    is missing. Parameters that the plain model does not use either (a pooler that the head leaves out) are passed over.
    """
    now = dict(model.named_parameters())
    replaced = [name for name, parameter in watched.items() if now.get(name, parameter) is not parameter]
    if replaced:
        raise Failure(
            f"{_listed(replaced, watched)} were replaced by others that the optimizer does not know, so they would not be "
            "trained. Change parameters in place, or replace them before the optimizer is made"
        )
    missing = {name: parameter for name, parameter in watched.items() if parameter.grad is None}
    if not missing:
        return
    lost = used(missing, plain)
    if lost:
        frozen = sum(not missing[name].requires_grad for name in lost)
        why = f" {frozen:,} of them do not require a gradient any more." if frozen else ""
        raise Failure(
            f"{_listed(lost, watched)} got no gradient in the first step, so they would not be trained.{why} "
            "Check what freezes, detaches or replaces parts of the model (a method, a hook), and that a loss reaches its logits"
        )


def _listed(names: Sequence[str], watched: Mapping[str, nn.Parameter]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    shown = f"{', '.join(names[:SHOWN])}{more}"
    return f"{len(names):,} of {len(watched):,} trainable parameters of the student ({shown})"


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
