"""MetaDistil (Zhou, Xu & McAuley 2022): the teacher learns to teach from its student's loss on held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Backward, Batch, Context, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class MetaDistil(Method):
    """Each step, with theta the student's weights, phi the teacher's, and a = `weight`:

        L(theta; phi) = (1 - a) * L_gold + a * t^2 / B * sum_i KL(softmax(z_t / t) || softmax(z_s / t))
        theta' = theta - eta * grad_theta L(theta; phi)                                  a pilot step, discarded
        phi <- AdamW(phi, grad_phi L_gold(theta'; a batch of held-out rows))             through theta'
        theta <- the training's optimizer on L(theta; phi), with the new phi

    z_t, z_s: (B, C) logits; B: texts of the step. The pilot step has the dropout masks and the noise of the following
    student step, and only these two of the recipe's losses; theta' is evaluated without dropout and noise. The held-out
    rows are a share of the training rows that the student never learns from. With v = grad_theta' L_gold(theta'), phi's
    gradient is -eta * J' d/dz_t <grad_theta L(theta; z_t), v>, J = dz_t/dphi: one backward pass of the teacher, and a (B, C)
    derivative by `form`. "exact": a second backward pass through the student. "first-order": the difference of L at
    theta + h v and theta - h v over 2h, h = .003 / ||v||: two forward passes instead, in float32 only, with an error of a
    few percent if the kink of a ReLU lies between them.

    Source: 2106.04570, section 3, and its published code: a = .5, t = 5, eta 5e-5, the teacher's learning rate 1e-5
    with linear decay, its gradients clipped to 1. In that code, the soft term is a squared difference of probabilities, a
    term on hidden states (PKD) may be added, and each step uses all held-out rows; here, each step uses one batch of them,
    and the KL of the paper.

    Not useful if there are few training rows. The teacher's own accuracy may fall. Stored soft labels are those of the
    teacher before this training.
    """

    name = "metadistil"
    summary = "match a teacher that is trained on its student's loss on held-out rows"
    source = "Zhou, Xu & McAuley 2022, 2106.04570, section 3"
    kind = "distillation"
    cost = "6x"  # with a teacher of the student's size
    teacher = "model"
    replaces_gold_loss = True
    heldout = 0.1
    needs_full_batch = True
    losses = ("ce", "metadistil")
    label_sets = True
    space = {"weight": (0.4, 0.5, 0.6), "temperature": (2.0, 5.0)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, le=1, description="a: share of the teacher's loss")] = 0.5
    temperature: Annotated[float, Field(gt=0, description="t of both distributions")] = 5.0
    pilot_rate: Annotated[float, Field(gt=0, description="eta: step size of the pilot step")] = 5e-5
    teacher_learning_rate: Annotated[float, Field(ge=0, description="of the teacher's optimizer, at the start")] = 1e-5
    optimizer: Annotated[Literal["adamw", "sgd"], Field(description="the teacher's")] = "adamw"
    max_grad_norm: Annotated[float, Field(ge=0, description="clipping of the teacher's gradients; 0: no clipping")] = (
        1.0
    )
    form: Annotated[
        Literal["exact", "first-order"], Field(description="second derivatives, or a difference of two forwards")
    ] = "exact"
    teacher_dropout: Annotated[bool, Field(description="the teacher's dropout is on while it is trained")] = False

    def start(self, context: Context) -> State:
        if not self.weight:
            return State()
        teacher = context.live_teacher
        if self.form == "first-order" and teacher.precision != "float32":
            raise UserError(
                f'methods.metadistil.form: "first-order" needs differences that are lost in {teacher.precision}; '
                'use "exact", or train.precision = "float32"'
            )
        model = teacher.encoder.model.requires_grad_(True)
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.optimizer]
        optimizer = kind(model.parameters(), lr=self.teacher_learning_rate, weight_decay=0.0)
        return State([], {f"teacher.{n}": p.data for n, p in model.named_parameters()}, {"teacher": optimizer})

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        if self.weight:
            self._teach(step, state.optimizers["teacher"], batch)
        backward(batch)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if not self.weight:
            return {"ce": step.gold_loss(output, batch)}
        with torch.no_grad():
            teacher = step.context.live_teacher.forward(step, batch).logits
        gold = (1 - self.weight) * step.gold_loss(output, batch)
        return {"ce": gold, "metadistil": self._soft(step, teacher, output.logits, batch)}

    def _soft(self, step: Step, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
        """The second term of L; both (b, C) logits."""
        divergence = step.context.target.divergence(teacher, student, self.temperature)
        return self.weight * self.temperature**2 * divergence / batch.step_labels.numel()

    def _teach(self, step: Step, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        """Take one optimizer step of the teacher."""
        teacher = step.context.live_teacher
        parameters = list(teacher.encoder.model.parameters())
        logits = teacher.forward(step, batch, dropout=self.teacher_dropout).logits  # (b, C)
        wanted = self.logit_gradient(step, logits.detach(), batch)
        found = torch.autograd.grad(logits, parameters, wanted.to(logits.dtype), allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        if self.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.teacher_learning_rate * max(1 - step.number / max(step.total, 1), 0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def logit_gradient(self, step: Step, logits: Tensor, batch: Batch) -> Tensor:
        """Gradient (b, C) of the held-out loss of theta' with respect to the teacher's logits on `batch`."""
        logits = logits.requires_grad_()
        names, weights = zip(
            *((n, p) for n, p in step.context.model.named_parameters() if p.requires_grad), strict=True
        )
        exact = self.form == "exact"
        with _twice_differentiable() if exact else nullcontext():
            output = step.forward(batch)
            loss = (1 - self.weight) * step.gold_loss(output, batch) + self._soft(step, logits, output.logits, batch)
            slope = _grad(loss, weights, create_graph=exact)
            pilot = [(w.detach() - self.pilot_rate * g.detach()).requires_grad_() for w, g in _pairs(weights, slope)]
            v = self._judged(step, dict(zip(names, pilot, strict=True)))
            if exact:
                used = [(g, direction) for g, direction in _pairs(slope, v) if g.requires_grad]
                (found,) = torch.autograd.grad([g for g, _ in used], logits, [direction for _, direction in used])
                return -self.pilot_rate * found
        return -self.pilot_rate * self._difference(
            step, logits, batch, dict(zip(names, _pairs(weights, v), strict=True))
        )

    def _judged(self, step: Step, pilot: dict[str, Tensor]) -> list[Tensor]:
        """v: the gradient with respect to theta' of its loss on a batch of held-out rows."""
        batch = step.heldout()
        loss = step.gold_loss(step.forward(batch, weights=pilot, dropout=False, perturb=False), batch)
        step.log("heldout_loss", loss)
        return _grad(loss, list(pilot.values()))

    def _difference(self, step: Step, logits: Tensor, batch: Batch, moved: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """d/dz_t of (L(theta + h v) - L(theta - h v)) / 2h. moved: by name the weight and v."""
        h = 0.003 / torch.stack([v.square().sum() for _, v in moved.values()]).sum().sqrt().clamp(min=1e-12)
        total = torch.zeros((), device=logits.device)
        for sign in (1, -1):
            with torch.no_grad():
                shifted = {name: weight + sign * h * v for name, (weight, v) in moved.items()}
                student = step.forward(batch, weights=shifted).logits
            total = total + sign * self._soft(step, logits, student, batch)
        (found,) = torch.autograd.grad(total, logits)
        return found / (2 * h)


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """While open, forward passes have second derivatives, which fused attention and fused blocks lack."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from randout.models.kernels.block import plain

    with sdpa_kernel(SDPBackend.MATH), plain():
        yield


def _grad(loss: Tensor, of: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of `loss` with respect to `of`; zero for tensors that it does not depend on."""
    found = torch.autograd.grad(loss, of, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(of, found, strict=True)]


def _pairs(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one, other, strict=True))
