"""The methods of a training as one: in which order hooks are called, which losses count, and what a state holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.methods.base import GOLD_LOSS, Context, Method, Pass, State, Step
from randout.methods.stack import MethodStack, load_optimizer, optimizer_tensors
from randout.models.encoder import Output, Want
from randout.models.hooks import HookPoints, Layout

Events = list[Any]
LAYOUT = Layout(torch.tensor([0]), torch.tensor([4]), 4, 0, 1)
OUTPUT = Output(torch.zeros(1, 3), {})


class Traced(Method):
    """Adds to `events` what is called, with its letter."""

    name = "traced"
    summary = "test"
    events: ClassVar[Events] = []
    letter: str = "a"
    refuses: bool = False

    def check(self, context: Context) -> None:
        self.events.append(f"check {self.letter}")
        if self.refuses:
            raise UserError("refused")

    def start(self, context: Context) -> State:
        self.events.append(f"start {self.letter}")
        return State(parameters=[nn.Parameter(torch.zeros(2))], tensors={"sum": torch.zeros(2)})

    def inputs(self, step: Step, state: State, batch: Any) -> Any:
        return f"{batch}{self.letter}"

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        self.events.append(f"enter {self.letter}")
        yield
        self.events.append(f"leave {self.letter}")

    def want(self, context: Context) -> Want:
        return Want(hidden=(1,)) if self.letter == "a" else Want(pooled=True)

    def loss(self, step: Step, state: State, output: Output, batch: Any, forward: Any) -> dict[str, Tensor]:
        return {self.letter: state.tensors["sum"].sum() + forward()}

    def stepped(self, step: Step, state: State) -> None:
        self.events.append((self.letter, step, state))

    def evaluated(self, step: Step, state: State, metrics: dict[str, Any], improved: bool) -> None:
        self.events.append((self.letter, step, state, metrics, improved))


class Other(Traced):
    name = "other"


class Gold(Method):
    name = "gold"
    summary = "test"
    losses = (GOLD_LOSS,)

    def loss(self, step: Step, state: State, output: Output, batch: Any, forward: Any) -> dict[str, Tensor]:
        return {GOLD_LOSS: output.logits.sum() + 2 + forward()}


class Replacing(Method):
    name = "replacing"
    summary = "test"
    losses = (GOLD_LOSS,)
    replaces_gold_loss = True

    def loss(self, step: Step, state: State, output: Output, batch: Any, forward: Any) -> dict[str, Tensor]:
        return {GOLD_LOSS: torch.tensor(7.0)}


class Owning(Method):
    name = "owning"
    summary = "test"

    def gradient(self, step: Step, state: State, batch: Any, backward: Any) -> None:
        backward(batch, 0.5)
        backward(batch, 0.25)


@pytest.fixture(autouse=True)
def events() -> Events:
    Traced.events.clear()
    return Traced.events


def stack_of(*methods: Method) -> MethodStack:
    return MethodStack.start(methods, Context(nn.Linear(2, 3), HookPoints(nn.Identity(), ()), 1))


def step_of(stack: MethodStack, forward: Callable[..., Any] = lambda *_, **__: 1.0, **more: Any) -> Step:
    from randout.methods.base import Loop

    return Step(stack.context, Loop(forward), **more)


def test_all_methods_are_checked_before_any_starts(events: Events) -> None:
    stack = stack_of(Traced(letter="a"), Other(letter="b"))
    assert events == ["check a", "check b", "start a", "start b"]
    assert stack.want == Want(hidden=(1,), pooled=True)
    assert [method.name for method, _ in stack] == ["traced", "other"]
    assert [id(p) for p in stack.parameters] == [id(state.parameters[0]) for state in stack.states]
    events.clear()
    with pytest.raises(UserError, match="refused"):
        stack_of(Traced(letter="a"), Other(letter="b", refuses=True))
    assert events == ["check a", "check b"]


def test_inputs_pass_through_the_methods_in_turn() -> None:
    stack, batch = stack_of(Traced(letter="a"), Other(letter="b")), ("x",)
    given: Any = "-"
    assert stack.inputs(step_of(stack), given) == "-ab"
    assert stack_of(Gold()).inputs(step_of(stack), batch) is batch  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize("around", [False, True])
def test_perturbations_are_nested_within_the_one_around_the_pass(events: Events, around: bool) -> None:
    @contextmanager
    def outside(step: Pass) -> Iterator[None]:
        events.append("enter")
        yield
        events.append("leave")

    stack = stack_of(Traced(letter="a"), Other(letter="b"))
    events.clear()
    with stack.perturbed(step_of(stack, around=outside if around else None).at(LAYOUT)):
        events.append("pass")
    inner = ["enter a", "enter b", "pass", "leave b", "leave a"]
    assert events == (["enter", *inner, "leave"] if around else inner)


def test_losses_are_those_of_all_methods_on_the_batch() -> None:
    stack, seen = stack_of(Gold(), Traced(letter="a")), []
    batch: Any = object()

    def forward(step: Step, given: Any, **_: Any) -> float:
        seen.append(given)
        return 1.0

    step = step_of(stack, forward)
    losses = stack.losses(step, OUTPUT, batch)
    assert {name: float(value) for name, value in losses.items()} == {GOLD_LOSS: 3.0, "a": 1.0}
    assert float(stack.gold_loss(step, OUTPUT, batch)) == 3.0
    assert len(seen) == 3
    assert all(given is batch for given in seen)


@pytest.mark.parametrize("methods", [(Gold(), Replacing()), (Replacing(), Gold())])
def test_a_replaced_gold_loss_is_left_out_and_still_within_reach(methods: tuple[Method, ...]) -> None:
    stack = stack_of(*methods)
    assert {name: float(value) for name, value in stack.losses(step_of(stack), OUTPUT, None).items()} == {
        GOLD_LOSS: 7.0
    }
    assert float(stack.gold_loss(step_of(stack), OUTPUT, None)) == 3.0  # type: ignore[arg-type]


def test_no_gold_loss_is_an_error() -> None:
    stack = stack_of(Traced(), Replacing())
    with pytest.raises(RuntimeError, match="no method of this recipe owns the loss on gold labels"):
        stack.gold_loss(step_of(stack), OUTPUT, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [((Gold(), Traced()), [("batch",)]), ((Gold(), Owning(), Traced()), [("batch", 0.5), ("batch", 0.25)])],
)
def test_the_gradient_is_of_the_method_that_owns_it(methods: tuple[Method, ...], expected: Events) -> None:
    stack, calls = stack_of(*methods), []
    batch: Any = "batch"
    stack.gradient(step_of(stack), batch, lambda *words: calls.append(words))
    assert calls == expected


def test_all_methods_are_told_of_steps_and_validations(events: Events) -> None:
    stack = stack_of(Traced(letter="a"), Other(letter="b"))
    step, metrics = step_of(stack), {"accuracy": 0.5}
    events.clear()
    stack.stepped(step)
    stack.evaluated(step, metrics, True)
    one, other = stack.states
    assert events == [
        ("a", step, one),
        ("b", step, other),
        ("a", step, one, metrics, True),
        ("b", step, other, metrics, True),
    ]


# ---- states


def filled(value: float) -> MethodStack:
    """Two methods with a tensor and a parameter each, and an optimizer of the first that made a step."""
    stack = stack_of(Traced(letter="a"), Other(letter="b"))
    for at, state in enumerate(stack.states):
        state.tensors["sum"] += value + at
        state.parameters[0].data += 10 * value + at
    inner = nn.Parameter(torch.full((3,), value))
    stack.states[0].optimizers["inner"] = torch.optim.AdamW([inner], lr=0.1)
    inner.sum().backward()
    if value:
        stack.states[0].optimizers["inner"].step()
    return stack


def test_a_state_is_named_and_comes_back_in_place() -> None:
    stack, other = filled(2.0), filled(0.0)
    tensors = stack.state_dict()
    inner = {f"optimizer-inner-of-traced.0.{slot}" for slot in ("step", "exp_avg", "exp_avg_sq")}
    names = {"state.traced.sum", "state.other.sum", "parameter.traced.0", "parameter.other.0"}
    assert tensors.keys() == names | inner
    assert not any(tensor.requires_grad for tensor in tensors.values())
    assert tensors["parameter.other.0"].tolist() == [21.0, 21.0]
    held = [(state.tensors["sum"], state.parameters[0]) for state in other.states]
    other.load_state_dict(tensors | {"model.weight": torch.ones(3), "state.unknown.sum": torch.ones(1)})
    for state, (tensor, parameter) in zip(other.states, held, strict=True):
        assert state.tensors.keys() == {"sum"}
        assert state.tensors["sum"] is tensor
        assert state.parameters[0] is parameter
    found = other.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_tensors_that_came_or_went_since_the_start() -> None:
    stack, other = filled(1.0), filled(0.0)
    stack.states[1].tensors = {"later": torch.ones(2, dtype=torch.float64)}
    other.load_state_dict(stack.state_dict())
    assert other.states[1].tensors.keys() == {"later"}
    assert torch.equal(other.states[1].tensors["later"], stack.states[1].tensors["later"])
    assert other.states[0].tensors.keys() == {"sum"}


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("state.other.sum", "methods.other: its state is missing in the state to resume from (no sum)"),
        (
            "parameter.traced.0",
            "methods.traced: its state is missing in the state to resume from (no parameter.traced.0)",
        ),
    ],
)
def test_a_missing_state_is_refused(gone: str, said: str) -> None:
    tensors = filled(1.0).state_dict()
    del tensors[gone]
    with pytest.raises(UserError) as refused:
        filled(0.0).load_state_dict(tensors)
    assert str(refused.value) == f"{said}; resume with the methods of the original training"


def test_an_optimizer_that_made_no_step_has_no_state() -> None:
    """One that made none in the saved training starts without any, and its settings are its own."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    assert optimizer_tensors("o", optimizer) == {}
    load_optimizer("o", optimizer, {"o2.0.momentum_buffer": torch.ones(2), "model.o.weight": torch.ones(2)})
    assert optimizer_tensors("o", optimizer) == {}
    load_optimizer("o", optimizer, {"o.0.momentum_buffer": torch.full((2,), 3.0)})
    assert optimizer_tensors("o", optimizer)["o.0.momentum_buffer"].tolist() == [3.0, 3.0]
    assert optimizer.param_groups[0]["lr"] == 0.5
