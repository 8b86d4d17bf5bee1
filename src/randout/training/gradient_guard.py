"""Detects trainable parameters that get no gradient in training although they get one in a plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from randout.core.errors import Failure

SHOWN = 3  # names in a message


def check(model: nn.Module, watched: Mapping[str, nn.Parameter], plain: Callable[[], Tensor]) -> None:
    """Raise Failure if a watched parameter got no gradient in a step but gets one in a plain forward pass, or was replaced.

    watched: the parameters to be trained, by name. plain: returns the logits of a plain forward pass with a graph; called
    only if a gradient is missing. Parameters that the plain model does not use either (such as a pooler that the head does
    not read) are ignored.
    """
    now = dict(model.named_parameters())
    replaced = [name for name, parameter in watched.items() if now.get(name, parameter) is not parameter]
    if replaced:
        raise Failure(
            f"{_listed(replaced, watched)} were replaced by others that the optimizer does not have, so they would not be "
            "trained. Change parameters in place, or replace them before the optimizer is created"
        )
    missing = {name: parameter for name, parameter in watched.items() if parameter.grad is None}
    if not missing:
        return
    lost = used(missing, plain)
    if lost:
        frozen = sum(not missing[name].requires_grad for name in lost)
        why = f" {frozen:,} of them no longer require a gradient." if frozen else ""
        raise Failure(
            f"{_listed(lost, watched)} got no gradient in the first step, so they would not be trained.{why} "
            "Check for methods or hooks that freeze, detach or replace parts of the model, and that a loss uses its logits"
        )


def _listed(names: Sequence[str], watched: Mapping[str, nn.Parameter]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    shown = f"{', '.join(names[:SHOWN])}{more}"
    return f"{len(names):,} of {len(watched):,} trainable parameters of the student ({shown})"


def used(parameters: Mapping[str, nn.Parameter], plain: Callable[[], Tensor]) -> list[str]:
    """Names of the `parameters` that the logits of a plain forward pass depend on, frozen or not."""
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
