"""`randout.testing`: every promise of the contract is seen to be broken by a method that breaks it, and only then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.methods.base import Backward, Batch, Context, Forward, Method, Pass, State, Step
from randout.methods.builtin import METHODS
from randout.models.outputs import Output
from randout.testing import CHECKS, ContractError, check_method


class Good(Method):
    """weight * mean_i |z_i|^2 + noise of the word embeddings, as every promise wants it."""

    name = "good"
    summary = "small logits"
    losses = ("good",)
    weight: float = 0.3

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"good": self.weight * output.logits.square().sum() / batch.step_labels.numel()}

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        undo = step.context.hook_points.change_words(partial(self._add, step))
        try:
            yield
        finally:
            undo()

    def _add(self, step: Pass, ids: Tensor, embedded: Tensor) -> Tensor:
        layout = step.layout
        generator = step.generator(self.name, embedded.device)
        noise = torch.randn(layout.of, layout.longest, embedded.shape[-1], generator=generator)
        return layout.add(embedded, self.weight * layout.own(noise))


class NoToml(Good):
    weight: float | None = None  # type: ignore[assignment]


class NoSpace(Good):
    space = {"weight": (0.5, 1.0)}  # noqa: RUF012


class OtherLoss(Good):
    losses = ("better",)


class NotNeutral(Good):
    def start(self, context: Context) -> State:
        with torch.no_grad():
            context.hook_points.words.weight.mul_(1.01)  # type: ignore[union-attr]
        return State()


class Nothing(Good):
    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"good": 0 * output.logits.sum()}

    def perturb(self, step: Pass, state: State) -> Any:
        return super(Good, self).perturb(step, state)


class OwnStream(Good):
    def _add(self, step: Pass, ids: Tensor, embedded: Tensor) -> Tensor:
        return embedded * (1 + self.weight * random.random())


class Forgets(Good):
    """Counts steps outside of its state."""

    seen: ClassVar[int] = 0

    def start(self, context: Context) -> State:
        type(self).seen = 0
        return State()

    def stepped(self, step: Step, state: State) -> None:
        type(self).seen += 1

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        loss = output.logits.square().sum() / batch.step_labels.numel()
        return {"good": self.weight * self.seen * loss}


class LeavesHook(Good):
    def start(self, context: Context) -> State:
        context.model.register_forward_hook(lambda *_: None)
        return State()


class LeavesModule(Good):
    def start(self, context: Context) -> State:
        context.model.extra = nn.Linear(2, 2)
        return State()


class InEvaluation(Good):
    """A hook that stays."""

    def start(self, context: Context) -> State:
        context.hook_points.change_words(lambda ids, embedded: 1.01 * embedded)
        return State()


class LooksAtPadding(Good):
    def _add(self, step: Pass, ids: Tensor, embedded: Tensor) -> Tensor:
        return embedded * (1 + embedded.numel() / 1e5)


class OtherGradient(Good):
    """Its own backward pass depends on the layout of the batch."""

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        seen: list[int] = []
        step.context.hook_points.change_words(lambda ids, embedded: (seen.append(ids.numel()), embedded)[1])
        backward(batch, 0.0)
        backward(batch, 1 + seen[-1] / 1000)


class ByMicroBatch(Good):
    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"good": self.weight * output.logits.square().sum() / len(batch.ids)}


class DrawnByMicroBatch(Good):
    def _add(self, step: Pass, ids: Tensor, embedded: Tensor) -> Tensor:
        layout = step.layout
        shape = (len(layout.lengths), layout.longest, embedded.shape[-1])
        noise = torch.randn(shape, generator=step.generator(self.name, embedded.device))
        return layout.add(embedded, self.weight * noise * layout.slots()[1][..., None])


BREAKS = [
    (NoToml, "toml", "cannot be written as TOML"),
    (NoSpace, "declarations", "the default weight = 0.3 is not among the values"),
    (OtherLoss, "losses", r"returns the losses \['good'\], but declares \['better'\]"),
    (NotNeutral, "neutral", "weights are not bit-identical to those of a training without it"),
    (Nothing, "neutral", "it has no effect"),
    (OwnStream, "resume", "stopped after 2 steps and resumed, .* tensors differ"),
    (Forgets, "resume", "stopped after 2 steps and resumed, .* tensors differ"),
    (LeavesHook, "model", "1 hooks are left on the model"),
    (LeavesModule, "model", r"parameters changed: \['extra.bias', 'extra.weight'\]"),
    (InEvaluation, "evaluation", "acts in evaluation too"),
    (LooksAtPadding, "packed", "bert: the loss 'ce' is .* in a packed batch"),
    (OtherGradient, "packed-gradient", "bert, packed and padded: gradients of .* differ"),
    (ByMicroBatch, "accumulation", "the loss 'good' of a step is .* as a whole"),
    (DrawnByMicroBatch, "accumulation", "of a step is .* as a whole"),
]


@pytest.mark.parametrize(("kind", "check", "text"), BREAKS, ids=[kind.__name__ for kind, *_ in BREAKS])
def test_a_broken_promise_is_seen(kind: type[Good], check: str, text: str) -> None:
    with pytest.raises(ContractError, match=rf"^methods\.good breaks 1 of 1 promises\n  {check}: .*{text}"):
        check_method(kind(), neutral={"weight": 0.0}, checks=[check])


def test_every_check_can_fail() -> None:
    assert {check for _, check, _ in BREAKS} == set(CHECKS)


@pytest.mark.slow
def test_a_method_that_keeps_them_all() -> None:
    """And what is global stays as it was."""
    torch.manual_seed(3)
    stream, threads = torch.get_rng_state(), torch.get_num_threads()
    check_method(Good(), neutral={"weight": 0.0})
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.get_num_threads() == threads
    assert "good" not in METHODS


def test_every_broken_promise_is_listed() -> None:
    with pytest.raises(ContractError, match="breaks 2 of 2 promises") as broken:
        check_method(NotNeutral(), neutral={"weight": 0.1}, checks=["neutral", "neutral"])
    assert str(broken.value).count("\n  neutral: at {'weight': 0.1}") == 2


def test_mistakes_of_the_call() -> None:
    with pytest.raises(UserError, match="no check 'neutrality'; known checks: toml, "):
        check_method(Good(), neutral=None, checks=["neutrality"])
    with pytest.raises(UserError, match=r"found <class .*Good'>, expected a method with its settings"):
        check_method(Good, neutral=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Good: wieght: no such setting"):
        check_method(Good(), neutral={"wieght": 0.0})


def test_an_error_of_the_method_names_the_check() -> None:
    class Raises(Good):
        def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as error:
        check_method(Raises(), neutral=None, checks=["losses"])
    assert error.value.__notes__ == ["methods.good: raised in the check 'losses' of randout.testing.check_method"]
