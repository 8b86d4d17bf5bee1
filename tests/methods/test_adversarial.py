"""Adversarial methods and R-Drop against plain transcriptions of their equations, on padded Hugging Face models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from randout.core.errors import UserError
from randout.methods.attention_noise import AttentionPerturbation
from randout.methods.base import Batch, Context, Method, Pass, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.embedding_adversarial import EmbeddingAdversarial
from randout.methods.freelb import FreeLB
from randout.methods.kd import KnowledgeDistillation
from randout.methods.r_drop import RDrop
from randout.methods.randout import Randout
from randout.models.encoder import Want
from randout.models.hooks import HookPoints
from randout.models.kernels import packing
from randout.training.loop import TrainingData, TrainingState, accumulate_gradients, losses_of, micro_batch_of, step_at
from support.plain import bert, cross_entropy, kl, padded
from support.training import hooks_of, new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
ALL = (
    EmbeddingAdversarial(),
    EmbeddingAdversarial(contrast="barlow-twins"),
    AttentionPerturbation(),
    AttentionPerturbation(form="virtual"),
    FreeLB(),
    RDrop(),
)
each_method = pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)


class AStep:
    """A step of eight texts, two of them without a label: as the loop takes it, and what a transcription needs."""

    def __init__(self, folder: Path, methods: Sequence[Method], dropout: bool = False, **options: Any) -> None:
        off = {} if dropout else {"dropout": 0.0, "attention_dropout": 0.0}
        encoder = tiny_encoder(folder, **off, **options)
        encoder.model.double()
        self.model: Any = encoder.model
        self.training: TrainingState = new_training(encoder, methods)
        self.data: TrainingData = toy_training_data(encoder, 28, unlabelled=4)
        chosen = np.array([0, 3, 5, 8, 11, 14, 25, 27])
        self.rows = chosen[self.data.tokens.lengths[chosen].argsort(kind="stable")]
        self.training.position.micro_batch = len(self.rows)

    @property
    def first(self) -> Step:
        """What the methods see of the first step."""
        return step_at(self.training, self.data, 0)

    @property
    def batch(self) -> Batch:
        return micro_batch_of(self.training, self.data, self.rows, 0)

    @property
    def labels(self) -> Tensor:
        return self.batch.labels

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def plain(self, weights: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Logits and [CLS] vectors of the padded batch by transformers alone."""
        block, mask = padded(self.batch.ids)
        keywords = {"input_ids": block, "attention_mask": mask, "output_hidden_states": True}
        found = torch.func.functional_call(self.model, weights or {}, (), keywords)
        return found.logits, found.hidden_states[-1][:, 0]

    def ours(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The losses that the loop logs for the step, and the gradients that it makes."""
        self.model.zero_grad()
        accumulate_gradients(self.training, step := self.first, self.data, self.rows)
        logged = step.logged
        losses = {name[5:]: float(sum(v for v, _ in logged[name])) for name in logged if name.startswith("loss_")}
        return losses, {name: p.grad for name, p in self.parameters().items() if p.grad is not None}


def gradients(loss: Tensor, step: AStep) -> dict[str, Tensor]:
    names, parameters = zip(*step.parameters().items(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def assert_same_step(step: AStep, losses: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Losses to float32, in which they are computed, and gradients to 5e-6 of the largest."""
    our_losses, ours = step.ours()
    assert our_losses == pytest.approx({name: loss.item() for name, loss in losses.items()}, rel=1e-5, abs=1e-6)
    assert ours.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert (ours[name] - gradient).abs().max() < 5e-6 * largest, name


# ---- adversarial word embeddings with a contrast


def plain_info_nce(a: Tensor, b: Tensor, t: float) -> Tensor:
    cosine = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    by_row, by_column = (cosine / t).softmax(1).diagonal(), (cosine / t).softmax(0).diagonal()
    return -(by_row.log().mean() + by_column.log().mean()) / 2


def plain_barlow_twins(a: Tensor, b: Tensor) -> Tensor:
    a, b = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
    c = torch.einsum("ni,nj->ij", a, b) / len(a)
    weights = torch.full_like(c, 0.005).fill_diagonal_(1.0)
    return (weights * (torch.eye(len(c)) - c) ** 2).sum()


@pytest.mark.parametrize("contrast", ["info-nce", "barlow-twins"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "mpnet"])
def test_adversarial_embeddings_are_a_perturbed_matrix(tiny_model: Tiny, family: str, contrast: str) -> None:
    """L = (1 - w) / 2 (CE + CE_adv) + w L_ctr, the adversarial model being one whose matrix is W + eps g / ||g||."""
    method = EmbeddingAdversarial(contrast=contrast, epsilon=0.7, weight=0.2)
    step = AStep(tiny_model(family), [CrossEntropy(), method])
    matrix = step.model.get_input_embeddings().weight
    name = next(name for name, p in step.parameters().items() if p is matrix)
    logits, cls = step.plain()
    clean = cross_entropy(logits, step.labels)
    (g,) = torch.autograd.grad(clean, matrix, retain_graph=True)
    r = 0.7 * g / g.square().sum().sqrt()
    other_logits, other_cls = step.plain({name: matrix + r})
    supervised = 0.4 * clean + 0.4 * cross_entropy(other_logits, step.labels)
    assert cross_entropy(other_logits, step.labels) > clean + 0.01, "a perturbation that does not show"
    together = plain_info_nce(cls, other_cls, 0.05) if contrast == "info-nce" else plain_barlow_twins(cls, other_cls)
    losses = {"ce": supervised, method.name: 0.2 * together}
    assert_same_step(step, losses, gradients(sum(losses.values()), step))


# ---- attention scores


@pytest.mark.parametrize("blocks", [(-1,), (1,), (1, 3)])
@pytest.mark.parametrize("pack", [True, False])
def test_adversarial_attention_is_its_equation(tiny_model: Tiny, blocks: tuple[int, ...], pack: bool) -> None:
    """r = eps g / ||g|| for each text, g the gradient of CE with respect to r at 0; L = CE + weight CE(r)."""
    step = AStep(
        tiny_model("bert"), [CrossEntropy(), AttentionPerturbation(blocks=blocks, epsilon=2.0, weight=0.6)], pack=pack
    )
    ids, chosen = step.batch.ids, [3 if block == -1 else block for block in blocks]
    zero = torch.zeros(len(ids), len(ids[-1]), dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(cross_entropy(bert(step.model, ids, dict.fromkeys(chosen, zero)), step.labels), zero)
    assert (g.norm(dim=1) > 0).tolist() == (step.labels >= 0).tolist()
    r = 2.0 * g / g.norm(dim=1, keepdim=True).clamp(min=1e-30)
    clean = cross_entropy(bert(step.model, ids, {}), step.labels)
    adversarial = cross_entropy(bert(step.model, ids, dict.fromkeys(chosen, r)), step.labels)
    assert adversarial > clean + 1e-3
    losses = {"ce": clean, "attention-noise": 0.6 * adversarial}
    assert_same_step(step, losses, gradients(sum(losses.values()), step))


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("pack", [True, False])
def test_virtual_attention_is_its_equation(tiny_model: Tiny, iterations: int, pack: bool) -> None:
    """d a random unit vector, then the direction of grad_r KL(clean || perturbed) at xi d; L = KL at eps d."""
    method = AttentionPerturbation(form="virtual", power_iterations=iterations, epsilon=3.0, weight=0.7)
    step = AStep(tiny_model("bert"), [CrossEntropy(), method], pack=pack)
    ids = step.batch.ids
    d = torch.randn(8, len(ids[-1]), generator=step.first.generator("attention-noise", torch.device("cpu"))).double()
    for row, text in enumerate(ids):
        d[row, len(text) :] = 0
    d = d / d.norm(dim=1, keepdim=True)
    logits = bert(step.model, ids, {})
    for _ in range(iterations):
        r = (1.0 * d).requires_grad_()
        (g,) = torch.autograd.grad(kl(logits.detach(), bert(step.model, ids, {3: r})), r)
        d = g / g.norm(dim=1, keepdim=True)
    divergence = kl(logits.detach(), bert(step.model, ids, {3: 3.0 * d}))
    assert divergence > 1e-4
    losses = {"ce": cross_entropy(logits, step.labels), "attention-noise": 0.7 * divergence}
    assert_same_step(step, losses, gradients(sum(losses.values()), step))


def test_power_iteration_finds_a_worse_direction_than_chance(tiny_model: Tiny) -> None:
    found = {}
    for iterations in (0, 1):
        method = AttentionPerturbation(form="virtual", power_iterations=iterations)
        found[iterations] = AStep(tiny_model("bert"), [CrossEntropy(), method]).ours()[0]["attention-noise"]
    assert found[1] > 2 * found[0]


def test_virtual_attention_needs_no_labels(tiny_model: Tiny) -> None:
    """Without any label the loss is the same as with them, and texts without one pull as the others do."""
    method = AttentionPerturbation(form="virtual")
    step = AStep(tiny_model("bert"), [CrossEntropy(), method])
    labelled = step.ours()[0]["attention-noise"]
    step.data.labels[:] = -1
    losses, found = step.ours()
    assert losses == {"ce": 0.0, "attention-noise": labelled}
    assert max(float(g.abs().max()) for g in found.values()) > 1e-5
    adversarial = AStep(tiny_model("bert"), [CrossEntropy(), AttentionPerturbation()])
    adversarial.data.labels[:] = -1
    losses, found = adversarial.ours()
    assert losses == {"ce": 0.0, "attention-noise": 0.0}
    assert all(not g.any() for g in found.values())


@pytest.mark.parametrize("form", ["adversarial", "virtual"])
def test_attention_keeps_the_dropout_masks_of_the_clean_pass(tiny_model: Tiny, form: str) -> None:
    """With dropout on and epsilon 0 the perturbed pass is the clean one."""
    step = AStep(tiny_model("bert"), [CrossEntropy(), AttentionPerturbation(form=form, epsilon=0.0)], dropout=True)
    losses, _ = step.ours()
    assert losses["attention-noise"] == pytest.approx({"adversarial": losses["ce"], "virtual": 0.0}[form], abs=1e-6)


def test_attention_refuses_what_it_cannot_reach(tiny_model: Tiny) -> None:
    for blocks in ((4,), (0,), (1, -4)):
        with pytest.raises(UserError, match=rf"methods.attention-noise.blocks: found {blocks[-1]}; expected 1 to 3, "):
            new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), AttentionPerturbation(blocks=blocks)])
    for family in ("mpnet", "deberta-v2"):
        with pytest.raises(UserError, match=rf"attention scores of this student \({family}\)"):
            new_training(tiny_encoder(tiny_model(family)), [CrossEntropy(), AttentionPerturbation()])


# ---- FreeLB


@contextmanager
def added_to_words(model: Any, delta: Tensor) -> Iterator[None]:
    handle = model.get_input_embeddings().register_forward_hook(lambda _module, _arguments, output: output + delta)
    try:
        yield
    finally:
        handle.remove()


def plain_freelb(step: AStep, k: int, ascent: float, init: float, limit: float, kd: float) -> dict[str, Tensor]:
    """Algorithm 1 on the padded batch: its losses; the gradients of the parameters are left in `.grad`."""
    batch = step.batch
    lengths = torch.tensor([len(text) for text in batch.ids])
    width = step.model.get_input_embeddings().weight.shape[1]
    shape = (len(lengths), int(lengths.max()), width)
    drawn = torch.rand(shape, generator=step.first.generator("freelb", torch.device("cpu")))
    mask = (torch.arange(shape[1]) < lengths[:, None]).double()[..., None]
    delta = (2 * drawn.double() - 1) * mask * init / (lengths * width).double().sqrt()[:, None, None]
    total: dict[str, Tensor] = {}
    for _ in range(k):
        delta.requires_grad_()
        with added_to_words(step.model, delta):
            logits, _ = step.plain()
        losses = {"ce": cross_entropy(logits, batch.labels)}
        if kd:
            losses["kd"] = kd * kl(batch.teacher.double(), logits)
        for name, loss in losses.items():
            total[name] = total.get(name, 0.0) + loss.detach() / k
        (sum(losses.values()) / k).backward()
        g = delta.grad
        delta = delta.detach() + ascent * g / g.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None]
        size = delta.flatten(1).norm(dim=1)[:, None, None]
        if limit:
            delta = torch.where(size > limit, delta / size * limit, delta)
    return total


@pytest.mark.parametrize(
    ("family", "settings", "kd"),
    [
        ("bert", {}, 0.0),
        ("bert", {"limit": 0.15}, 0.8),  # the ball is reached
        ("bert", {"steps": 5, "ascent": 0.5, "limit": 0.0}, 0.8),
        ("bert", {"steps": 1}, 0.0),
        ("roberta", {"init": 0.0, "limit": 0.15}, 0.0),
        ("albert", {}, 0.8),
        ("mpnet", {}, 0.8),
    ],
)
def test_freelb_is_its_algorithm(tiny_model: Tiny, family: str, settings: dict[str, Any], kd: float) -> None:
    method = FreeLB(**settings)
    beside = [CrossEntropy(), *([KnowledgeDistillation(weight=kd)] if kd else [])]
    step = AStep(tiny_model(family), [*beside, method])
    losses = plain_freelb(step, method.steps, method.ascent, method.init, method.limit, kd)
    expected = {name: p.grad.clone() for name, p in step.parameters().items() if p.grad is not None}
    assert_same_step(step, losses, expected)
    plain = AStep(tiny_model(family), beside)
    clean = plain.ours()[1]
    assert max(float((clean[name] - g).abs().max()) for name, g in expected.items()) > 1e-3, "it changes nothing"


def test_freelb_keeps_its_dropout_masks_in_all_passes(tiny_model: Tiny) -> None:
    """With dropout on and nothing added, the mean of three passes is one pass."""
    one = AStep(tiny_model("bert"), [CrossEntropy()], dropout=True).ours()
    three = AStep(tiny_model("bert"), [CrossEntropy(), FreeLB(init=0.0, ascent=0.0)], dropout=True).ours()
    assert three[0] == pytest.approx(one[0], rel=1e-6)
    assert max(float((three[1][name] - g).abs().max()) for name, g in one[1].items()) < 1e-6


def test_freelb_climbs(tiny_model: Tiny) -> None:
    """More ascent, more loss; the ball holds it back."""

    def loss(**settings: Any) -> float:
        return AStep(tiny_model("bert"), [CrossEntropy(), FreeLB(init=0.0, **settings)]).ours()[0]["ce"]

    assert loss(ascent=0.0) < loss(ascent=0.1, limit=0.01) < loss(ascent=0.1) < loss(ascent=0.3, limit=0.0)


def test_freelb_takes_a_text_by_its_own_gradient(tiny_model: Tiny) -> None:
    """What is added to a text does not depend on the loss's scale, nor on the texts it shares a micro-batch with."""
    found = []
    for micro_batch, scale in ((8, 1.0), (1, 1.0), (3, 1.0), (8, 0.01)):
        seen: list[Tensor] = []

        def keep(ids: Tensor, embedded: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(embedded.detach().flatten(0, 1))
            return embedded

        class Keep(Method):  # behind the method's own hook: what it made of the words
            name = "keep"
            summary = "keeps the words"

            @contextmanager
            def perturb(self, step: Pass, state: State, keep: Any = keep) -> Iterator[None]:
                undo = step.context.hook_points.change_words(keep)
                yield
                undo()

        step = AStep(tiny_model("bert"), [CrossEntropy(), FreeLB(), Keep()])

        def backward(
            batch: Batch, part: float = 1.0, around: Any = None, step: AStep = step, of: float = scale
        ) -> None:
            losses, _ = losses_of(step.training, step.first.within(around), batch)
            (of * part * losses["ce"]).backward()

        passes: list[list[Tensor]] = [[], [], []]
        for first in range(0, 8, micro_batch):
            seen.clear()
            step.training.position.micro_batch = micro_batch
            step.training.stack.gradient(
                step.first, micro_batch_of(step.training, step.data, step.rows, first), backward
            )
            for place in range(3):
                passes[place].append(seen[place])
        found.append([torch.cat(part) for part in passes])
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (found[0][2] - found[0][0]).abs().max() > 1e-3


# ---- R-Drop


@pytest.mark.parametrize("noise", [False, True])
def test_r_drop_is_its_equation(tiny_model: Tiny, noise: bool) -> None:
    """(CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2 of two passes, with gradients into both."""
    beside = [CrossEntropy(), *([Randout(tokens=4, units=8)] if noise else [])]
    step = AStep(tiny_model("bert"), [*beside, RDrop(alpha=3.0)], dropout=True)
    one, two = (step.first.forward(step.batch, call=call).logits for call in (0, 1))
    assert (one - two).abs().max() > 1e-2
    supervised = (cross_entropy(one, step.labels) + cross_entropy(two, step.labels)) / 2
    log_one, log_two = F.log_softmax(one, -1), F.log_softmax(two, -1)
    there = F.kl_div(log_two, log_one.exp(), reduction="batchmean")
    back = F.kl_div(log_one, log_two.exp(), reduction="batchmean")
    losses = {"ce": supervised, "r-drop": 3.0 * (there + back) / 2}
    assert_same_step(step, losses, gradients(sum(losses.values()), step))


def test_r_drop_without_dropout_is_plain(tiny_model: Tiny) -> None:
    plain, ours = (AStep(tiny_model("bert"), [CrossEntropy(), *more]).ours() for more in ([], [RDrop()]))
    assert ours[0] == pytest.approx(plain[0] | {"r-drop": 0.0}, abs=1e-6)
    assert max(float((ours[1][name] - g).abs().max()) for name, g in plain[1].items()) < 1e-6


# ---- all of them


@each_method
@pytest.mark.parametrize("dropout", [False, True])
def test_weights_are_as_they_were_after_the_gradients(tiny_model: Tiny, method: Method, dropout: bool) -> None:
    """Bit for bit, the embedding matrix above all: what is added to it is never in it."""
    step = AStep(tiny_model("bert"), [CrossEntropy(), method], dropout=dropout)
    before = {name: p.detach().clone() for name, p in step.parameters().items()}
    step.ours()
    assert all(torch.equal(p, before[name]) for name, p in step.parameters().items())


@cache
def losses_of_a_fresh_step(folder: Path, method: Method, pack: bool) -> dict[str, float]:
    return AStep(folder, [CrossEntropy(), method], pack=pack).ours()[0]


@each_method
@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("broken", [1, 2, 3])
def test_an_exception_leaves_nothing_behind(tiny_model: Tiny, method: Method, family: str, broken: int) -> None:
    """In the first, second or third forward of a step: no hook, no bias, and the model's own attention."""
    if family == "mpnet" and isinstance(method, AttentionPerturbation):
        family = "roberta"  # MPNet is refused
    step = AStep(tiny_model(family), [CrossEntropy(), method], pack=family != "roberta")
    own, hooks, forwards = step.model.config._attn_implementation, hooks_of(step.model), 0

    def stop(*_: Any) -> None:
        nonlocal forwards
        forwards += 1
        if forwards == broken:
            raise KeyboardInterrupt

    handle = step.training.stack.context.hook_points.blocks[-1].register_forward_pre_hook(stop)
    if broken <= 2 or isinstance(method, AttentionPerturbation | FreeLB):
        with pytest.raises(KeyboardInterrupt):
            step.ours()
    else:
        step.ours()
        assert forwards == 2
    handle.remove()
    assert hooks_of(step.model) == hooks
    assert step.model.config._attn_implementation == own
    assert packing.attention_hooks == []
    assert step.ours()[0] == losses_of_a_fresh_step(tiny_model(family), method, family != "roberta")


@each_method
def test_batches_without_labels_give_no_nan(tiny_model: Tiny, method: Method) -> None:
    step = AStep(tiny_model("bert"), [CrossEntropy(), method], dropout=True)
    step.data.labels[:] = -1
    losses, found = step.ours()
    assert losses["ce"] == 0.0
    assert all(np.isfinite(value) for value in losses.values())
    assert all(bool(g.isfinite().all()) for g in found.values())


@each_method
def test_a_batch_of_one(tiny_model: Tiny, method: Method) -> None:
    step = AStep(tiny_model("bert"), [CrossEntropy(), method], dropout=True)
    step.rows = step.rows[:1]
    losses, found = step.ours()
    assert all(np.isfinite(value) for value in losses.values())
    assert all(bool(g.isfinite().all()) for g in found.values())
    assert max(float(g.abs().max()) for g in found.values()) > 1e-4


@each_method
def test_the_first_forward_is_the_clean_one(tiny_model: Tiny, method: Method) -> None:
    """A further loss of the recipe reads clean logits (under FreeLB perturbed ones: all losses are climbed)."""
    plain = AStep(tiny_model("bert"), [CrossEntropy(), KnowledgeDistillation()], dropout=True).ours()[0]["kd"]
    ours = AStep(tiny_model("bert"), [CrossEntropy(), KnowledgeDistillation(), method], dropout=True).ours()[0]["kd"]
    assert (ours == plain) == (not isinstance(method, FreeLB))


@pytest.mark.parametrize("method", [EmbeddingAdversarial(), FreeLB()], ids=lambda method: method.name)
def test_a_student_without_word_embeddings_is_refused(method: Method) -> None:
    model = torch.nn.Identity()
    with pytest.raises(UserError, match=rf"methods.{method.name}: this student has no word embeddings"):
        method.check(Context(model, HookPoints(model, (model,)), seed=0))


def test_only_the_method_that_asked_gets_cls(tiny_model: Tiny) -> None:
    assert EmbeddingAdversarial().want(None) == Want(pooled=True)  # type: ignore[arg-type]
    assert RDrop().want(None) == Want()  # type: ignore[arg-type]
