"""Tracks forward passes driven by an external training loop: the step and the texts that each belongs to.

The external loop owns torch's random generators. Their state at the start of each training forward pass is saved, so that
a second pass can repeat the dropout masks of the first. After each pass made here, the previous state is restored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.core.rng import put_streams, random_key, seeded_streams, streams
from randout.methods.base import Batch, Loop, Pass, Step
from randout.methods.stack import MethodStack
from randout.models.encoder import LOGITS_ONLY, Output, Want
from randout.models.hooks import Layout, layout_of_arguments
from randout.models.kernels import packing

TEACHER = "teacher_logits"  # argument of the forward pass for the methods, not for the model
NOT_REPEATED = ("labels", "num_items_in_batch")  # arguments with which a model computes its own loss
MEMORY = 4096  # block inputs remembered for recomputation


@dataclass(frozen=True)
class Moment:
    """A forward pass as the methods see it, whether they perturb it, and the outputs to keep in addition to logits."""

    step: Pass
    perturb: bool = True
    want: Want = LOGITS_ONLY


@dataclass(frozen=True)
class TrackedForward:
    """A training forward pass of the external loop.

    keywords: its arguments by name, without labels. streams: states of the random generators at its start.
    """

    moment: Moment
    keywords: dict[str, Any]
    labels: Tensor | None
    teacher: Any
    streams: tuple[Tensor, ...]
    output: Output


@dataclass
class TrackedModel:
    """A model whose forward passes are tracked while `tracking` is open, and perturbed by its methods.

    step: of the last training forward pass. batch: the texts of that pass, once its loss was asked for. keyed: (rank,
    ranks) after `at` was called; otherwise each training forward pass counts as a step.
    """

    stack: MethodStack
    step: Step
    last: TrackedForward | None = None
    batch: Batch | None = None
    keyed: tuple[int, int] | None = None
    turns: int = 0  # training forward passes since `at`
    requested: Moment | None = None  # of the pass that `repeat` is about to make
    current: Moment | None = None  # of the current training forward pass
    inside: bool = False  # whether a forward pass of any kind is in progress
    implementation: Any = None  # the model's original attention function
    opened: ExitStack = field(default_factory=ExitStack)  # contexts that are open around the current pass
    begun: tuple[dict[str, Any], Any, tuple[Tensor, ...]] | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Any] = field(default_factory=dict)
    collected: Output | None = None
    memory: dict[int, Moment] = field(default_factory=dict)  # address of a block's input -> its forward pass
    late: ExitStack = field(default_factory=ExitStack)  # contexts that are open around a recomputed block

    def at(self, step: int, rank: int, ranks: int) -> None:
        """Declare the optimizer step of the next training forward passes, on process `rank` of `ranks`."""
        self.step, self.keyed, self.turns = replace(self.step, number=step), (rank, ranks), 0

    @staticmethod
    def of(stack: MethodStack, done: int, total: int) -> TrackedModel:
        """Make a model to be tracked. done, total: optimizer steps done, and of the whole training."""
        step = Step(stack.context, number=done - 1, total=total)  # the first training forward pass is step `done`
        tracked = TrackedModel(stack, step)
        tracked.step = replace(step, loop=Loop(tracked.forward, stack.gold_loss))
        return tracked

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """While open, track the model with hooks on it and its blocks."""
        model, config = self.stack.context.model, self.stack.context.hook_points.config
        self.implementation = getattr(config, "_attn_implementation", None)
        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            stack.callback(model.register_forward_hook(self._after, always_call=True).remove)
            for block in dict.fromkeys(self.stack.context.hook_points.blocks):
                stack.callback(block.register_forward_pre_hook(self._block, with_kwargs=True).remove)
            stack.callback(self._close)
            yield

    def forward(self, step: Step, batch: Batch, **options: Any) -> Output:
        """Run the model on the batch of the last training forward pass, the only one that it can be run on."""
        if batch is not self.batch:
            raise UserError("in an external training loop, a method can run the model on the loop's own batch only")
        return self.repeat(step, **options)

    def repeat(
        self,
        step: Step,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = True,
        perturb: bool = True,
        call: int = 0,
        want: Want = LOGITS_ONLY,
    ) -> Output:
        """Repeat the last training forward pass, in `step`; options as for `base.Forward`. Call 0 repeats its dropout masks
        and noise.
        """
        seen, context = self.last, self.stack.context
        model: Any = context.model
        if seen is None:
            raise UserError("there was no training forward pass of this model yet; call the model before the loss")
        modes = {module: module.training for module in model.modules()}
        device = next(model.parameters()).device
        key = random_key(context.seed, "dropout", step.number, step.rank, call)
        before = streams(device)
        self.requested = Moment(step.at(seen.moment.step.layout, call), perturb, want)
        put_streams(device, seen.streams if call == 0 else seeded_streams(device, key))
        try:
            if not dropout:
                model.eval()
            if weights is None:
                model(**seen.keywords)
            else:
                torch.func.functional_call(model, weights, (), seen.keywords)
        finally:
            self.requested = None
            put_streams(device, before)
            for module, mode in modes.items():
                module.training = mode
        assert self.collected is not None
        return self.collected

    def _before(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        self._close()
        self.begun, self.inside = None, True
        teacher = keywords.get(TEACHER)
        passed = {name: value for name, value in keywords.items() if name != TEACHER}
        if self.requested is not None:
            self._open(self.requested)
        elif module.training:
            given = dict(zip(inspect.signature(module.forward).parameters, arguments, strict=False)) | passed
            layout = layout_of_arguments(module, arguments, passed)
            self._count()
            self.begun = given, teacher, streams(next(module.parameters()).device)
            self._open(Moment(self.step.at(layout), want=self.stack.want))
        return (arguments, passed) if TEACHER in keywords else None

    def _count(self) -> None:
        self.batch = None
        if self.keyed is None:
            self.step = replace(self.step, number=self.step.number + 1, logged={})
        else:
            self.step = replace(self.step, rank=self.keyed[0] + self.keyed[1] * self.turns, logged={})
            self.turns += 1

    def _after(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        moment, self.inside = self.current, False
        self._close()
        if moment is None or output is None:  # a clean pass, or one that failed
            return
        self.collected = self._collect(moment, found_logits(output))
        if self.begun is not None:
            given, teacher, before = self.begun
            keywords = {name: value for name, value in given.items() if name not in NOT_REPEATED}
            kept = self.collected._replace(logits=self.collected.logits.detach())  # the loop owns the graph
            self.last = TrackedForward(moment, keywords, given.get("labels"), teacher, before, kept)
            self.begun = None

    def _open(self, moment: Moment) -> None:
        self._enter(moment, self.opened)
        self.current = moment
        self.hidden, self.attention = {}, {}
        hook_points = self.stack.context.hook_points
        last = len(hook_points.blocks)
        for point in dict.fromkeys((*moment.want.hidden, *([last] if moment.want.pooled else []))):
            self.opened.callback(hook_points.change(point, partial(self.hidden.setdefault, point)))
        for block in dict.fromkeys(moment.want.attention):
            self.opened.callback(hook_points.change_attention(block, seen=partial(self.attention.__setitem__, block)))
        for module in dict.fromkeys(hook_points.blocks):
            if getattr(module, "gradient_checkpointing", False):
                self._remember(module, moment)

    def _enter(self, moment: Moment, opened: ExitStack) -> None:
        """Enter the methods' contexts, if the pass is perturbed."""
        if moment.perturb:  # what is computed on entry is not part of a recomputed block
            with torch.autograd.graph.saved_tensors_hooks(_same, _same):
                opened.enter_context(self.stack.perturbed(moment.step))

    def _close(self) -> None:
        self.late.close()
        self.opened.close()
        self.current = None

    def _collect(self, moment: Moment, logits: Tensor | None) -> Output:
        layout, want = moment.step.layout, moment.want
        last, width = len(self.stack.context.hook_points.blocks), layout.longest
        pooled = self.hidden[last].flatten(0, -2)[layout.starts] if want.pooled else None
        attention = {}
        if self.attention:
            places = [slice(start % width, start % width + n) for start, n in _pairs(layout)]
            for block, found in self.attention.items():
                attention[block] = [w[:, at, at] for w, at in zip(found, places, strict=True)]
        logits = torch.zeros(0) if logits is None else logits  # a model without a head can be perturbed too
        return Output(logits, {point: self.hidden[point] for point in want.hidden}, pooled, attention)

    # Blocks that are recomputed for the backward pass (gradient checkpointing)

    def _remember(self, module: Any, moment: Moment) -> None:
        """Make a block's recomputation under gradient checkpointing be perturbed as its original forward pass."""
        checkpoint, config = module._gradient_checkpointing_func, self.stack.context.hook_points.config

        def remembering(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            if packing.attention_hooks or config._attn_implementation != self.implementation:
                raise UserError(
                    "gradient checkpointing recomputes attention without what a method adds to it or reads from it; "
                    "switch gradient checkpointing off for this method"
                )

            def body(*inputs: Any) -> Any:
                if self.current is not None:
                    return function(*inputs)
                self.current, self.inside = moment, True
                try:
                    with ExitStack() as opened:
                        self._enter(moment, opened)
                        return function(*inputs)
                finally:
                    self.current, self.inside = None, False

            return checkpoint(body, *arguments, **options)

        module._gradient_checkpointing_func = remembering
        self.opened.callback(setattr, module, "_gradient_checkpointing_func", checkpoint)

    def _block(self, _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Hook before a block. Called outside a forward pass, the block is being recomputed for a backward pass; its
        original pass is found by the address of its input, which the graph keeps alive.
        """
        place = next(iter((*arguments, *keywords.values()))).data_ptr()
        if self.inside:
            self.memory.pop(place, None)
            if self.current is None:
                return
            self.memory[place] = self.current
            if len(self.memory) > MEMORY:
                del self.memory[next(iter(self.memory))]
        elif place in self.memory and torch._C._current_graph_task_id() != -1:  # within a backward pass
            self.late.close()
            self._enter(self.memory[place], self.late)
            torch.autograd.Variable._execution_engine.queue_callback(self.late.close)  # after this backward pass


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _pairs(layout: Layout) -> list[tuple[int, int]]:
    return list(zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True))


def texts_of(seen: TrackedForward) -> list[Tensor]:
    """Token ids of each text of a forward pass, without padding; empty if it was called with embeddings."""
    ids = seen.keywords.get("input_ids")
    if ids is None:
        return [torch.zeros(0, dtype=torch.long) for _ in seen.moment.step.layout.lengths]
    flat = ids.reshape(-1)
    return [flat[start : start + n] for start, n in _pairs(seen.moment.step.layout)]


def found_logits(outputs: Any) -> Tensor | None:
    """Find the logits in the output of a classifier; None if there are none."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    if isinstance(outputs, (tuple, list)):
        return next((value for value in outputs if isinstance(value, Tensor) and value.dim() >= 2), None)
    return outputs if isinstance(outputs, Tensor) else None
