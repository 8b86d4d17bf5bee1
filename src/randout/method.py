"""What a fine-tuning method is, what it may see of a run, and where its random numbers come from.

A method is a frozen object whose fields are its configuration. It joins training at six seams, all optional; the loop
knows the seams and never a method's name. Random numbers are functions, not streams: every draw is keyed by (seed,
purpose, step, rank, call), so that a resumed run repeats the uninterrupted one without any generator state to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .encoder import Layout, Output, Sites, layout_of_arguments


def random_key(*parts: Any) -> int:
    """A 63-bit seed that is a function of `parts` alone (integers and strings)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a step. A step's losses are normalised by the whole step's counts, so that splitting a step
    into micro-batches adds up to the larger batch.

    rows: (b,) positions in the dataset. ids: the token ids of each text, special tokens included, shortest first.
    labels: (b,) class index, -1 where there is none. teacher: (b, C) stored logits of the teacher, or None.
    step_labels: (B,) labels of all B texts of the step. first: position of this micro-batch's first text in the step.
    longest: tokens of the step's longest text.
    """

    rows: Tensor
    ids: list[Tensor]
    labels: Tensor
    teacher: Tensor | None
    step_labels: Tensor
    first: int
    longest: int


@dataclass
class State:
    """What changes while a method runs. `parameters` join the optimizer; `tensors` are checkpointed, by name."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)


Forward = Callable[..., Output]


@dataclass
class Run:
    """What a method may see: the student, the seed, and where in training we are."""

    model: nn.Module
    sites: Sites
    seed: int
    num_labels: int = 0
    class_weights: Tensor | None = None  # (C,)
    steps: int = 0  # of the whole training
    rank: int = 0
    step: int = 0  # optimizer steps done
    call: int = 0  # which forward of this step; the same call repeats the same masks
    layout: Layout | None = None  # of the forward under way, None in clean passes
    logged: dict[str, list[tuple[Tensor, float]]] = field(default_factory=dict)  # name -> (number, weight) of this step

    def generator(self, purpose: str, device: torch.device, *extra: Any) -> torch.Generator:
        """A generator whose numbers are a function of (seed, purpose, step, rank, call, extra)."""
        key = random_key(self.seed, purpose, self.step, self.rank, self.call, *extra)
        return torch.Generator(device).manual_seed(key)

    def log(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Keep a scalar of this step for the history, read later. weight: what a mean counts for, as its texts."""
        self.logged.setdefault(name, []).append((value.detach(), weight))


class Method(BaseModel):
    """Base of every method; each seam's default does nothing.

    `name` is its table in a recipe (`[methods.NAME]`), `summary` one line for people, `teacher` whether it reads stored
    teacher logits, `losses` the names that its `loss` may return (two methods must not own the same).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]
    summary: ClassVar[str]
    teacher: ClassVar[bool] = False
    losses: ClassVar[tuple[str, ...]] = ()

    def check(self, run: Run) -> None:
        """Raise UserError where this method cannot work on this student."""

    def start(self, run: Run) -> State:
        """Once, before the optimizer exists."""
        return State()

    def inputs(self, run: Run, state: State, batch: Batch) -> Batch:
        """Before each training forward: the batch the student is to see."""
        return batch

    def perturb(self, run: Run, state: State) -> AbstractContextManager[None]:
        """Around each training forward of the student. Evaluation and teachers are clean by construction."""
        return nullcontext()

    def loss(self, run: Run, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        """Named scalar losses of a micro-batch; they are logged apart and summed. `forward` may be called again."""
        return {}

    def gradient(self, run: Run, state: State, inner: Callable[[Batch], None]) -> Callable[[Batch], None]:
        """How `.grad` of a micro-batch comes about; `inner(batch)` is the plain way. At most one method changes it."""
        return inner

    def stepped(self, run: Run, state: State) -> None:
        """After each optimizer step."""

    def evaluated(self, run: Run, state: State, metrics: dict[str, Any], improved: bool) -> None:
        """After each validation."""

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[Run]:
        """This method's `perturb` on a model of any training loop, for as long as the context is open.

        The attention mask is read from the forward's own arguments (without one, every token is real). Active only
        while `model.training`; each training forward draws anew. Texts are taken as padded on the right or the left.
        A block that gradient checkpointing computes again gets the noise of its forward again: call `backward` inside
        the context. Raises TypeError where the model's blocks cannot be found.
        """
        run = Run(model, Sites.of(model), seed=0, step=-1)
        with ExitStack() as stack:
            _follow(run, stack)
            stack.enter_context(self.perturb(run, self.start(run)))
            yield run


def _follow(run: Run, stack: ExitStack) -> None:
    """Keep `run.step` and `run.layout` those of the model's forward under way, until `stack` closes.

    A block called outside a forward is computed again for a backward pass: it is known by the memory of its input,
    which the graph keeps alive, and gets the step and layout of its own forward.
    """
    forwards, inside = -1, False
    seen: dict[int, tuple[int, Layout | None]] = {}

    def before(module: nn.Module, arguments: tuple, keywords: dict) -> None:
        nonlocal forwards, inside
        forwards, inside = forwards + module.training, True
        run.step = forwards
        run.layout = layout_of_arguments(module, arguments, keywords) if module.training else None

    def after(*_: Any) -> None:
        nonlocal inside
        inside = False

    def block(_module: nn.Module, arguments: tuple, keywords: dict) -> None:
        place = next(iter((*arguments, *keywords.values()))).data_ptr()
        if inside:
            seen.pop(place, None)
            seen[place] = (run.step, run.layout)
            if len(seen) > 4096:
                del seen[next(iter(seen))]
        elif place in seen:
            run.step, run.layout = seen[place]

    stack.callback(run.model.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(run.model.register_forward_hook(after, always_call=True).remove)
    for module in dict.fromkeys(run.sites.blocks):
        stack.callback(module.register_forward_pre_hook(block, with_kwargs=True).remove)
