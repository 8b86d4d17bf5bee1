"""The methods of a training and their states: what every training loop does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.outputs import LOGITS_ONLY, Output, Want

from .base import GOLD_LOSS, Backward, Batch, Context, Method, Pass, State, Step, overrides, owns_gold

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class MethodStack:
    """Started methods in the order of their recipe. want: outputs of the forward pass that their losses need."""

    context: Context
    methods: tuple[Method, ...]
    states: tuple[State, ...]
    want: Want

    @classmethod
    def start(cls, methods: Sequence[Method], context: Context) -> MethodStack:
        """Check the methods against the student and start them, before the optimizer exists. Raises UserError."""
        for method in methods:
            method.check(context)
        states = tuple(method.start(context) for method in methods)
        want = reduce(or_, (method.want(context) for method in methods), LOGITS_ONLY)
        return cls(context, tuple(methods), states, want)

    def __iter__(self) -> Iterator[tuple[Method, State]]:
        return zip(self.methods, self.states, strict=True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the methods, to be added to the student's optimizer."""
        return [parameter for state in self.states for parameter in state.parameters]

    def inputs(self, step: Step, batch: Batch) -> Batch:
        """The batch that the student reads."""
        for method, state in self:
            batch = method.inputs(step, state, batch)
        return batch

    @contextmanager
    def perturbed(self, step: Pass) -> Iterator[None]:
        """Context of a perturbed forward pass of the student."""
        with ExitStack() as opened:
            if step.around is not None:
                opened.enter_context(step.around(step))
            for method, state in self:
                opened.enter_context(method.perturb(step, state))
            yield

    def losses(self, step: Step, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Named losses of a micro-batch, from the student's `output` on it.

        A method with `replaces_gold_loss` returns the loss on gold labels in place of the method that owns this loss.
        """
        replaced = any(method.replaces_gold_loss for method in self.methods)
        forward = partial(step.forward, batch)
        losses: dict[str, Tensor] = {}
        for method, state in self:
            if not (replaced and owns_gold(method)):
                losses |= method.loss(step, state, output, batch, forward)
        return losses

    def gold_loss(self, step: Step, output: Output, batch: Batch) -> Tensor:
        """The loss on gold labels of `output`, from the method that owns it. Raises RuntimeError if there is none."""
        for method, state in self:
            if owns_gold(method):
                return method.loss(step, state, output, batch, partial(step.forward, batch))[GOLD_LOSS]
        raise RuntimeError("no method of this recipe owns the loss on gold labels")

    def gradient(self, step: Step, batch: Batch, backward: Backward) -> None:
        """Add the gradient of a micro-batch to `.grad`, as the method that owns the gradient does; else by `backward`."""
        owner = next((pair for pair in self if overrides(pair[0], "gradient")), None)
        if owner is None:
            backward(batch)
        else:
            owner[0].gradient(step, owner[1], batch, backward)

    def stepped(self, step: Step) -> None:
        """Tell the methods that the optimizer made a step."""
        for method, state in self:
            method.stepped(step, state)

    def evaluated(self, step: Step, metrics: dict[str, Any], improved: bool) -> None:
        """Tell the methods the metrics of a validation after `step`."""
        for method, state in self:
            method.evaluated(step, state, metrics, improved)

    def state_dict(self) -> dict[str, Tensor]:
        """The states as tensors by name: what a checkpoint holds of the methods."""
        tensors: dict[str, Tensor] = {}
        for method, state in self:
            tensors |= {f"state.{method.name}.{name}": tensor for name, tensor in state.tensors.items()}
            tensors |= {f"parameter.{method.name}.{i}": p.detach() for i, p in enumerate(state.parameters)}
            for name, optimizer in state.optimizers.items():
                tensors |= optimizer_tensors(f"optimizer-{name}-of-{method.name}", optimizer)
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the states from `state_dict`; other names are ignored. Raises UserError if a method's state is missing.

        Tensors are restored in place, because a method may hold a reference; those that were added or removed during
        training are added or removed.
        """
        device = next(self.context.model.parameters()).device
        with torch.no_grad():
            for method, state in self:
                _load(method.name, state, tensors, device)


def _load(name: str, state: State, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    prefix = f"state.{name}."
    saved = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    parameters = [f"parameter.{name}.{i}" for i in range(len(state.parameters))]
    missing = [*([] if saved else state.tensors), *(key for key in parameters if key not in tensors)]
    if missing:
        raise UserError(
            f"methods.{name}: its state is missing in the state to resume from (no {missing[0]}); "
            "resume with the methods of the original training"
        )
    for key in state.tensors.keys() - saved.keys():
        del state.tensors[key]
    for key, tensor in saved.items():
        if key in state.tensors:
            state.tensors[key].copy_(tensor)
        else:
            state.tensors[key] = tensor.to(device)
    for key, parameter in zip(parameters, state.parameters, strict=True):
        parameter.copy_(tensors[key])
    for of, optimizer in state.optimizers.items():
        load_optimizer(f"optimizer-{of}-of-{name}", optimizer, tensors)


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer for each parameter, as PREFIX.INDEX.SLOT."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{slot}": torch.as_tensor(v) for i, slots in state.items() for slot, v in slots.items()}


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore an optimizer from the result of `optimizer_tensors`."""
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            index, slot = name.removeprefix(f"{prefix}.").split(".", 1)
            state["state"].setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(state)
