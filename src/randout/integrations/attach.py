"""Methods in an external PyTorch training loop: `attached` and `applied`.

    with attached(model, [RDrop(), Randout()]) as methods:
        for batch in loader:
            loss = methods.loss(model(**batch), batch["labels"])
            loss.backward()

The loop calls the model as usual. A method that needs another forward pass repeats the last training call with its
arguments, with the same dropout masks or new ones, and restores the state of the loop's random generators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.methods.base import (
    GOLD_LOSS,
    Batch,
    Context,
    Method,
    Perturbation,
    Step,
    as_methods,
    overrides,
    owns_gold,
)
from randout.methods.builtin import GOLD, METHODS
from randout.methods.stack import MethodStack
from randout.models.hooks import HookPoints
from randout.training import gradient_guard

from .conversion import classes_of, logits_of, plain_loss, step_labels, teachers_of
from .tracked_model import TrackedModel, texts_of


@dataclass(repr=False)
class Attached:
    """Methods attached to a model in an external training loop. losses: parts of the last loss by name, without a graph."""

    stack: MethodStack
    tracked: TrackedModel
    losses: dict[str, Tensor] = field(default_factory=dict)
    checked: bool = False  # whether a step was checked for parameters without a gradient

    def __repr__(self) -> str:
        names = ", ".join(method.name for method in self.stack.methods)
        return f"Attached({type(self.stack.context.model).__name__}, methods: {names})"

    @property
    def makes_gradients(self) -> bool:
        """Whether a method computes gradients in its own way, so that `backward` must be used instead of `loss`."""
        return any(overrides(method, "gradient") for method in self.stack.methods)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the methods, to be added to the loop's optimizer."""
        return self.stack.parameters

    def loss(self, outputs: Any, labels: Any = None, teacher_logits: Any = None, texts: int | None = None) -> Tensor:
        """Sum of the methods' losses, including the one on gold labels, for the model's last training forward pass.

        outputs: what the model returned. labels: (b,) classes, negative for none; by default those given to the forward
        pass. teacher_logits: (b, C), or one such tensor per teacher; by default the `teacher_logits` of the forward pass.
        texts: number of texts in the whole optimizer step, if the loop accumulates gradients and does not divide the loss
        itself. If the model is in evaluation mode, returns the plain cross-entropy. Raises UserError if a method computes
        gradients in its own way.
        """
        if not self.stack.context.model.training:
            return self._plain(outputs, labels)
        if owners := [method.name for method in self.stack.methods if overrides(method, "gradient")]:
            raise UserError(
                f"methods.{owners[0]}: it computes gradients in several passes, which a single loss cannot "
                "represent; call attached.backward(outputs, labels) instead of attached.loss(...).backward()"
            )
        batch = self._batch(outputs, labels, teacher_logits, texts)
        assert self.tracked.last is not None
        output = self.tracked.last.output._replace(logits=logits_of(outputs))
        losses = self.stack.losses(self.tracked.step, output, batch)
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def backward(
        self,
        outputs: Any,
        labels: Any = None,
        teacher_logits: Any = None,
        texts: int | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Add the gradient of the methods' losses to `.grad`, in as many passes as needed; returns their sum for logging.

        Arguments as for `loss`. scale: factor of the gradient (1 / number of micro-batches, a GradScaler's scale); the
        returned value does not include it.
        """
        batch = self._batch(outputs, labels, teacher_logits, texts)
        self.losses = {}
        step = self.tracked.step
        self.stack.gradient(step, batch, partial(self._pass, step, scale))
        return torch.stack([loss.float() for loss in self.losses.values()]).sum()

    def at(self, step: int, rank: int = 0, ranks: int = 1) -> None:
        """Declare that the next training forward passes are micro-batches of optimizer step `step`, on process `rank` of
        `ranks`; random draws are keyed by these. Without this call, each training forward pass counts as one step.
        """
        self.tracked.at(step, rank, ranks)

    def stepped(self) -> None:
        """Call this after each optimizer step, for methods that track the weights (averages).

        Raises Failure if the first step left a trainable parameter without the gradient that the plain model gives it. This
        is not checked if the gradients are already cleared, or in distributed training.
        """
        if not self.checked:
            self.check_gradients()
        self.stack.stepped(self.tracked.step)

    def check_gradients(self, present: bool = False) -> None:
        """Run the check of `stepped`. present: gradients must still exist, so having none at all is a failure too."""
        parameters = {name: p for name, p in self.stack.context.model.named_parameters() if p.requires_grad}
        there = present or any(p.grad is not None for p in parameters.values())
        if there and self.tracked.last is not None and not torch.distributed.is_initialized():
            self.checked = True
            plain = partial(self.tracked.repeat, self.tracked.step, dropout=False, perturb=False)
            gradient_guard.check(self.stack.context.model, parameters, lambda: plain().logits)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the methods and the step, for `attached(..., resume=...)` in a resumed training."""
        return {"step": torch.tensor(self.tracked.step.number), **self.stack.state_dict()}

    def _plain(self, outputs: Any, labels: Any) -> Tensor:
        loss = plain_loss(logits_of(outputs), classes_of(labels, logits_of(outputs)))
        self.losses = {GOLD_LOSS: loss.detach()}
        return loss

    def _batch(self, outputs: Any, labels: Any, teacher_logits: Any, texts: int | None) -> Batch:
        """Batch of the last training forward pass for the methods; `outputs` must be the result of that pass."""
        seen, logits = self.tracked.last, logits_of(outputs)
        if seen is None or (logits.shape, logits.device) != (seen.output.logits.shape, seen.output.logits.device):
            raise UserError("these outputs are not those of the model's last training forward pass with these methods")
        if logits.data_ptr() != seen.output.logits.data_ptr() and not torch.distributed.is_initialized():
            raise UserError(
                "these outputs are not those of the model's last training forward pass: compute the loss of each forward "
                "pass before the next one, from what the model returned"
            )
        classes = classes_of(seen.labels if labels is None else labels, logits).to(logits.device)
        teachers = teachers_of(seen.teacher if teacher_logits is None else teacher_logits, logits)
        if not teachers and (needs := [method.name for method in self.stack.methods if method.teacher == "logits"]):
            raise UserError(
                f"methods.{needs[0]}: it needs the teacher's logits of this batch; pass attached.loss(..., "
                "teacher_logits=...), or add a column teacher_logits to the batch"
            )
        whole, layout = step_labels(classes, texts), seen.moment.step.layout
        first, others = (teachers[0], tuple(teachers[1:])) if teachers else (None, ())
        rows = torch.arange(len(logits))
        self.tracked.batch = Batch(rows, texts_of(seen), classes, first, whole, 0, layout.longest, others)
        return self.tracked.batch

    def _pass(
        self, step: Step, factor: float, batch: Batch, scale: float = 1.0, around: Perturbation | None = None
    ) -> None:
        """One pass of `backward`: a new forward pass and its gradient."""
        step = step.within(around)
        losses = self.stack.losses(step, step.forward(batch, want=self.stack.want), batch)
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros_like(loss)) + scale * loss.detach()
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        (total * (factor * scale)).backward()


@contextmanager
def attached(
    model: nn.Module,
    methods: Sequence[Method],
    *,
    seed: int = 0,
    steps: int = 0,
    class_weights: Tensor | None = None,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[Attached]:
    """Attach `methods` to `model`, a stock classifier of transformers, while the context is open.

    Noise is drawn again in every training forward pass and never acts in evaluation. Methods that change the weights once
    do so on entry. If no method has the loss on gold labels, plain cross-entropy is added. Texts may be padded on the right
    or the left, as `attention_mask` says (without one, every token is real). On exit, all hooks are removed, and dropout
    rates and the attention function are restored; the trained weights stay.

    seed: of all random draws. steps: optimizer steps of the whole training, for methods that need it. class_weights: (C,),
    for `class_weights = "balanced"`. resume: `Attached.state_dict()` of the training to resume; the weights, which the loop
    has already loaded, are then not changed. Raises UserError for a method that is not supported in an external loop, and
    TypeError if the model's blocks cannot be found.
    """
    from randout.methods.compatibility import check_together

    methods = as_methods(methods)
    owned = any(owns_gold(method) for method in methods)
    together = tuple(methods) if owned else (METHODS[GOLD](), *methods)
    check_together(together)
    labels = getattr(getattr(model, "config", None), "num_labels", 0)
    context = Context(model, HookPoints.of(model), seed, labels, class_weights)
    for method in together:
        _check_possible(method, class_weights)
    with _rates_kept(model, context.hook_points.config):
        stack = _started(context, together, resume)
        tracked = TrackedModel.of(stack, 0 if resume is None else int(resume["step"]) + 1, steps)
        with tracked.tracking():
            yield Attached(stack, tracked)


def _check_possible(method: Method, class_weights: Tensor | None) -> None:
    """Raise UserError for a method that needs randout's own training loop."""
    where = ", which an external loop does not support; use randout.train or `randout train`"
    if method.teacher == "model":
        raise UserError(f"methods.{method.name}: it runs a teacher alongside the student{where}")
    if method.heldout:
        raise UserError(f"methods.{method.name}: it needs training rows withheld from the student{where}")
    if overrides(method, "inputs"):
        raise UserError(f"methods.{method.name}: it changes the texts before the student reads them{where}")
    if overrides(method, "evaluated"):
        raise UserError(f"methods.{method.name}: it uses the result of each validation{where}")
    if getattr(method, "class_weights", "none") == "balanced" and class_weights is None:
        raise UserError(
            f'methods.{method.name}.class_weights: "balanced" needs the weights; pass attached(..., class_weights=...)'
        )


def _started(context: Context, methods: Sequence[Method], resume: Mapping[str, Tensor] | None) -> MethodStack:
    """Start the methods; their states are new, or restored from `resume`, which leaves the model's weights unchanged."""
    if resume is None:
        return MethodStack.start(methods, context)
    with torch.no_grad():
        before = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
        stack = MethodStack.start(methods, context)
        for name, tensor in context.model.state_dict().items():
            tensor.copy_(before[name])
    stack.load_state_dict(resume)
    return stack


@contextmanager
def _rates_kept(model: nn.Module, config: Any) -> Iterator[None]:
    """Restore dropout rates (and all other float attributes of modules) and the attention function on exit."""
    numbers = {module: {k: v for k, v in vars(module).items() if isinstance(v, float)} for module in model.modules()}
    implementation = getattr(config, "_attn_implementation", None)
    try:
        yield
    finally:
        for module, values in numbers.items():
            for name, value in values.items():
                setattr(module, name, value)
        if implementation is not None and config._attn_implementation != implementation:
            config._attn_implementation = implementation


@contextmanager
def applied(model: nn.Module, method: Method) -> Iterator[Context]:
    """Apply one method to a model in any training loop, while the context is open.

    Short form of `attached(model, [method])` for methods that act on their own: in the forward pass, or once on the weights.
    Raises UserError for methods that the training loop must call.
    """
    as_methods([method])
    kind = type(method)
    asked = [hook for hook in ("loss", "gradient", "inputs", "stepped", "evaluated") if overrides(kind, hook)]
    if asked:
        needs = "its backward pass" if "gradient" in asked else "its loss" if "loss" in asked else "it at each step"
        raise UserError(
            f"applied(model, {kind.__name__}()) would have no effect: the training loop must call {needs}. Use "
            f"randout.attached(model, [{kind.__name__}()]), and its loss or backward, instead of the model's loss"
        )
    with attached(model, [method]) as work:
        yield work.stack.context
