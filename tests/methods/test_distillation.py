"""Methods of distillation against plain transcriptions of their equations, and what each leaves alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.methods.base import Context, Loop, Method, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.dropout_distillation import DropoutDistillation
from randout.methods.functional import squared_error
from randout.methods.hard_label import HardLabel
from randout.methods.hinton import Hinton
from randout.methods.kd import KnowledgeDistillation
from randout.methods.multi_teacher import MultiTeacher
from randout.methods.randout import Randout
from randout.methods.self_distillation import SelfDistillation
from randout.methods.weidc import WeiDC
from randout.models.encoder import Encoder, Output
from randout.models.hooks import HookPoints
from randout.models.tokens import batches
from randout.training.loop import TrainingData, TrainingState, losses_of, micro_batch_of, step_at
from randout.training.schedule import learning_rate
from support.training import (
    largest_difference,
    live_teacher,
    make_batch,
    new_training,
    settings,
    tiny_encoder,
    toy_training_data,
    trained,
    weights_of,
)

Tiny = Callable[[str], Path]
LABELS = [0, 2, -1, 1, 1, -1, 2]  # -1: without a gold label


def logits_of(seed: int, rows: int = len(LABELS), classes: int = 3) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bare_step(gold: Method | None = None, **changes: Any) -> Step:
    """A step of no model in which `gold` owns the loss on gold labels."""
    context = Context(nn.Identity(), HookPoints(nn.Identity(), ()), seed=1, **changes)
    gold = gold or CrossEntropy()
    return Step(context, Loop(gold_loss=lambda step, *given: gold.loss(step, State(), *given, None)["ce"]))


def losses(method: Method, logits: Tensor, batch: Any, step: Step | None = None) -> dict[str, Tensor]:
    return method.loss(step or bare_step(), State(), Output(logits, {}), batch, None)


def total_and_gradient(method: Method, logits: Tensor, batch: Any) -> tuple[float, np.ndarray]:
    logits = logits.clone().requires_grad_()
    total = sum(losses(method, logits, batch).values())
    (gradient,) = torch.autograd.grad(total, logits)
    return total.item(), gradient.numpy()


# ---- losses on stored logits, written out


def softmax(z: np.ndarray, t: float = 1.0) -> np.ndarray:
    powers = np.exp((z - z.max(-1, keepdims=True)) / t)
    return powers / powers.sum(-1, keepdims=True)


def one_hot(classes: list[int] | np.ndarray) -> np.ndarray:
    return np.array([[float(c == at) for c in range(3)] for at in classes])  # a row of zeros for -1


def gold_part(z: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy over the labelled texts, and its gradient (softmax - y) / n."""
    labelled = np.array(LABELS) >= 0
    y, q = one_hot(LABELS), softmax(z)
    return -(y * np.log(q)).sum() / labelled.sum(), (q - y) * labelled[:, None] / labelled.sum()


@pytest.mark.parametrize("t", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_hinton(a: float, t: float) -> None:
    z_s, z_t, n = logits_of(0).numpy(), logits_of(1).numpy(), len(LABELS)
    p, q = softmax(z_t, t), softmax(z_s, t)
    gold, gold_gradient = gold_part(z_s)
    expected = (1 - a) * gold + a * t**2 * (p * np.log(p / q)).sum() / n
    gradient = (1 - a) * gold_gradient + a * t * (q - p) / n  # t^2 and one 1/t of the logits
    batch = make_batch(LABELS, logits_of(1))
    ours = total_and_gradient(Hinton(alpha=a, temperature=t), logits_of(0), batch)
    assert ours[0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(ours[1], gradient, atol=1e-6)


LACKING = [1, 3]  # texts without a soft label, both with a gold label


def lacking(logits: Tensor, *texts: int) -> Tensor:
    logits = logits.clone()
    logits[list(texts)] = float("nan")
    return logits


@pytest.mark.parametrize("name", ["kd", "hinton", "hard-label"])
def test_texts_without_a_soft_label_add_nothing(name: str) -> None:
    """The second term is the sum over the texts that have one, divided by all texts of the step; cross-entropy is whole."""
    z_s, z_t, n = logits_of(0).numpy(), logits_of(1).numpy(), len(LABELS)
    kept = [at for at in range(n) if at not in LACKING]
    p, q = softmax(z_t[kept], 2.0), softmax(z_s[kept], 2.0)
    decided, gold = one_hot(z_t[kept].argmax(1)), gold_part(z_s)[0]
    divergence, hard = (p * np.log(p / q)).sum() / n, -(decided * np.log(softmax(z_s[kept]))).sum() / n
    methods: dict[str, tuple[Method, float]] = {
        "kd": (KnowledgeDistillation(weight=0.4, temperature=2.0), 0.4 * divergence),
        "hinton": (Hinton(alpha=0.3, temperature=2.0), 0.7 * gold + 0.3 * 4 * divergence),
        "hard-label": (HardLabel(alpha=0.3), 0.7 * gold + 0.3 * hard),
    }
    method, expected = methods[name]
    batch = replace(make_batch(LABELS, lacking(logits_of(1), *LACKING)), partial=True)
    total, gradient = total_and_gradient(method, logits_of(0), batch)
    assert total == pytest.approx(expected, rel=1e-5)
    gold_only = gold_part(z_s)[1][LACKING] * (0 if name == "kd" else 0.7)
    np.testing.assert_allclose(gradient[LACKING], gold_only, atol=1e-7)
    none = replace(make_batch(LABELS, lacking(logits_of(1), *range(n))), partial=True)
    assert np.isfinite(total_and_gradient(method, logits_of(0), none)[0]), "no text of the batch has a soft label"


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_several_teachers_that_lack_soft_labels(average: str) -> None:
    """A text's average is over the teachers that have it: 0 both, 1 the second, 2 the first, 3 none, others both."""
    z_s, n = logits_of(0).numpy(), len(LABELS)
    one, two = lacking(logits_of(1), 1, 3), lacking(logits_of(2), 2, 3)
    soft = 0.0
    for at in range(n):
        parts = [(w, z[at].numpy()) for w, z in ((1.0, one), (3.0, two)) if not z[at].isnan().any()]
        if parts:
            total = sum(w for w, _ in parts)
            mean = sum(w / total * (softmax(z) if average == "probabilities" else z) for w, z in parts)
            p = mean if average == "probabilities" else softmax(mean)
            soft -= (p * np.log(softmax(z_s[at]))).sum() / n
    method = MultiTeacher(weights=(1.0, 3.0), average=average)
    batch = replace(make_batch(LABELS, one, others=[two]), partial=True)
    ours, gradient = total_and_gradient(method, logits_of(0), batch)
    assert ours == pytest.approx(soft, rel=1e-5)
    assert not gradient[3].any()
    only_first = MultiTeacher(weights=(1.0, 0.0), average=average)
    _, gradient = total_and_gradient(only_first, logits_of(0), batch)
    assert not gradient[[1, 3]].any(), "the only teacher with a weight has no soft label for them"


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_hard_label(a: float) -> None:
    z_s, z_t, n = logits_of(0).numpy(), logits_of(1).numpy(), len(LABELS)
    decided, q = one_hot(z_t.argmax(1)), softmax(z_s)
    gold, gold_gradient = gold_part(z_s)
    expected = (1 - a) * gold - a * (decided * np.log(q)).sum() / n
    ours = total_and_gradient(HardLabel(alpha=a), logits_of(0), make_batch(LABELS, logits_of(1)))
    assert ours[0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(ours[1], (1 - a) * gold_gradient + a * (q - decided) / n, atol=1e-6)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("weights", [(), (1.0, 1.0, 1.0), (3.0, 0.0, 1.0)])
def test_multi_teacher(weights: tuple[float, ...], average: str) -> None:
    z_s, teachers, n = logits_of(0).numpy(), [logits_of(seed) for seed in (1, 2, 3)], len(LABELS)
    w = np.array(weights or (1.0, 1.0, 1.0))
    w = w / w.sum()
    if average == "logits":
        p = softmax(sum(w[k] * teachers[k].numpy() for k in range(3)))
    else:
        p = sum(w[k] * softmax(teachers[k].numpy()) for k in range(3))
    q = softmax(z_s)
    batch = make_batch(LABELS, teachers[0], others=teachers[1:])
    ours = total_and_gradient(MultiTeacher(weights=weights, average=average, weight=0.7), logits_of(0), batch)
    assert ours[0] == pytest.approx(-0.7 * (p * np.log(q)).sum() / n, rel=1e-5)
    np.testing.assert_allclose(ours[1], 0.7 * (q - p) / n, atol=1e-6)


def test_one_teacher_of_several_is_distillation_at_temperature_1() -> None:
    """Cross-entropy against its distribution is the KL and a constant: one gradient."""
    batch = make_batch(LABELS, logits_of(1))
    ours = total_and_gradient(MultiTeacher(), logits_of(0), batch)[1]
    theirs = total_and_gradient(Hinton(alpha=1.0, temperature=1.0), logits_of(0), batch)[1]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_weights_of_teachers_are_one_each() -> None:
    MultiTeacher(weights=(1.0, 2.0)).check(bare_step(teachers=2).context)
    MultiTeacher().check(bare_step(teachers=5).context)
    with pytest.raises(UserError, match=r"methods.multi-teacher.weights: 3 for 2 teachers .*one for each, or none"):
        MultiTeacher(weights=(1.0, 2.0, 1.0)).check(bare_step(teachers=2).context)
    with pytest.raises(UserError, match=r"2 for 1 teacher \("):
        MultiTeacher(weights=(1.0, 2.0)).check(bare_step(teachers=1).context)
    for wrong in ((0.0, 0.0), (1.0, -0.5)):
        with pytest.raises(UserError, match="at least one above 0"):
            MultiTeacher(weights=wrong)


OF_LOGITS = [Hinton(), HardLabel(), MultiTeacher(), MultiTeacher(average="logits")]


@pytest.mark.parametrize("method", OF_LOGITS, ids=str)
def test_micro_batches_add_up_to_the_step(method: Method) -> None:
    logits, teacher, others = logits_of(0), logits_of(1), logits_of(2)
    whole = losses(method, logits, make_batch(LABELS, teacher, others=[others]))
    parts = [
        losses(method, logits[at], make_batch(LABELS[at], teacher[at], LABELS, at.start, others=[others[at]]))
        for at in (slice(0, 3), slice(3, 6), slice(6, 7))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


@pytest.mark.parametrize("method", OF_LOGITS, ids=str)
def test_logits_of_half_precision_are_summed_in_float32(method: Method) -> None:
    logits, teacher = logits_of(0).bfloat16(), logits_of(1).bfloat16()
    ours = losses(method, logits, make_batch(LABELS, teacher, others=[teacher]))
    theirs = losses(method, logits.float(), make_batch(LABELS, teacher.float(), others=[teacher.float()]))
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], value)


@pytest.mark.parametrize("method", [Hinton(), HardLabel()], ids=str)
def test_settings_of_the_loss_on_gold_labels_hold(method: Method) -> None:
    """The part of gold labels is the recipe's own: smoothed, weighted, as `ce` says."""
    gold = CrossEntropy(label_smoothing=0.2, class_weights="balanced")
    step = bare_step(gold, class_weights=torch.tensor([0.4, 1.5, 3.0]))
    batch = make_batch(LABELS, logits_of(1))
    ours = losses(method, logits_of(0), batch, step)["ce"]
    (theirs,) = gold.loss(step, State(), Output(logits_of(0), {}), batch, None).values()
    torch.testing.assert_close(ours, 0.5 * theirs)


def test_a_loss_without_what_it_needs_says_so() -> None:
    for method in OF_LOGITS:
        with pytest.raises(RuntimeError, match="without stored teacher logits"):
            losses(method, logits_of(0), make_batch(LABELS))
    with pytest.raises(RuntimeError, match="this training has no teacher that runs alongside"):
        losses(DropoutDistillation(), logits_of(0), make_batch(LABELS))


# ---- weighted self-distillation: the weights


@pytest.mark.parametrize(
    ("weighting", "by"),  # by (teacher right, student right): (0, 0), (0, 1), (1, 0), (1, 1)
    [("1", (1, 2, 2, 3)), ("2", (1, 2, 3, 4)), ("3", (1, 3, 2, 4)), ("4", (2, 1, 4, 3)), ("none", (1, 1, 1, 1))],
)
def test_weights_by_who_is_right(weighting: str, by: tuple[int, ...]) -> None:
    right, wrong = torch.tensor([0.0, 5.0, 1.0]), torch.tensor([3.0, 0.0, 1.0])
    teacher, student = (
        torch.stack([right if e else wrong for e in each])
        for each in zip(*itertools.product((0, 1), repeat=2), strict=True)
    )
    found = WeiDC(weighting=weighting).weights_of(teacher, student, torch.ones(4, dtype=torch.int64))
    assert found.tolist() == list(by)
    unlabelled = WeiDC(weighting=weighting).weights_of(teacher, student, torch.full((4,), -1))
    assert unlabelled.tolist() == [1.0] * 4


@pytest.mark.parametrize("weighting", ["2", "4", "none"])
def test_weighted_error_and_its_gradient(weighting: str) -> None:
    """(1-a) * CE + a * mean over texts and classes of (w s - w t)^2; gradient of the second 2 w^2 (s - t) / (n C)."""
    z_s, z_t, n, a = logits_of(0).numpy(), logits_of(1).numpy(), len(LABELS), 0.4
    of = {"2": lambda t, s: 2 * t + s + 1, "4": lambda t, s: 2 * t - s + 2, "none": lambda t, s: 1}[weighting]
    w = np.array(
        [[of(int(z_t[i].argmax() == y), int(z_s[i].argmax() == y)) if y >= 0 else 1] for i, y in enumerate(LABELS)]
    )
    gold, gold_gradient = gold_part(z_s)
    expected = (1 - a) * gold + a * ((w * z_s - w * z_t) ** 2).mean()
    gradient = (1 - a) * gold_gradient + a * 2 * w**2 * (z_s - z_t) / (n * 3)
    logits = logits_of(0).requires_grad_()
    state = State(tensors={"theta": torch.zeros(1)})
    made = WeiDC(alpha=a, weighting=weighting)
    forward = lambda **_: Output(logits_of(1), {})  # noqa: E731
    total = sum(made.loss(bare_step(), state, Output(logits, {}), make_batch(LABELS), forward).values())
    total.backward()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, atol=1e-6)


def test_no_teacher_before_the_first_validation() -> None:
    """The loss is then cross-entropy, whole, and nothing of the second part is there."""
    logits = logits_of(0).requires_grad_()
    found = losses(WeiDC(alpha=0.9), logits, make_batch(LABELS))
    assert found["weidc"].item() == 0.0
    (gradient,) = torch.autograd.grad(sum(found.values()), logits)
    expected, expected_gradient = gold_part(logits_of(0).numpy())
    assert found["ce"].item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, atol=1e-6)


# ---- self-distillation and its weighted form: whole trainings against a loop written out


class Plain:
    """A training written out: padded batches, AdamW, and a teacher that `teacher(self)` gives as models to average.

    thetas: a copy of the model as it was before each step, the oldest first. kept: what `validated` keeps.
    """

    def __init__(self, encoder: Encoder, data: TrainingData, table: Any) -> None:
        self.model, self.data, self.table = encoder.model, data, table
        self.thetas: list[nn.Module] = []
        self.kept: nn.Module | None = None
        self.best, self.gains = -1.0, 0

    def logits(self, model: nn.Module, rows: np.ndarray) -> Tensor:
        texts = [torch.from_numpy(self.data.tokens[row].astype(np.int64)) for row in rows]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        return model(input_ids=ids, attention_mask=mask).logits

    def train(self, loss: Callable[[Plain, np.ndarray, Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """loss(self, rows, logits, labels): of a step. Returns the weights at the end."""
        table, model, data = self.table, self.model.eval(), self.data
        decay = [p for p in model.parameters() if p.dim() >= 2]
        rest = [p for p in model.parameters() if p.dim() < 2]
        optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1.0)
        optimizer.param_groups[0]["weight_decay"] = table.weight_decay
        total = table.epochs * -(-len(data.tokens) // table.batch_size)
        for epoch in range(table.epochs):
            order = (data.tokens.lengths, data.labelled, data.unlabelled, table.batch_size, table.seed)
            for rows in batches(*order, epoch, False):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(table, len(self.thetas), total)
                optimizer.zero_grad()
                loss(self, rows, self.logits(model, rows), data.labels[torch.from_numpy(rows)]).backward()
                self.thetas.append(copy.deepcopy(model))
                optimizer.step()
            self.validate()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def validate(self) -> None:
        rows = self.data.labelled[::2]
        with torch.no_grad():
            right = self.logits(self.model, rows).argmax(1) == self.data.labels[torch.from_numpy(rows)]
        if float(right.double().mean()) > self.best:
            self.best, self.kept = float(right.double().mean()), copy.deepcopy(self.model)
            self.gains += 1


def averaged(models: list[nn.Module]) -> nn.Module:
    """A model whose weights are the mean of those of `models`."""
    made = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(sum(model.get_parameter(name) for model in models) / len(models))
    return made


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=-1)


def last(plain: Plain, k: int) -> list[nn.Module]:
    """theta_{t-1} .. theta_{t-k}, as far as there are any; at step 0 theta_0."""
    return plain.thetas[-k:] or [copy.deepcopy(plain.model)]


def plain_sda(plain: Plain, rows: np.ndarray, logits: Tensor, labels: Tensor, k: int = 2, w: float = 1.5) -> Tensor:
    teacher = plain.logits(averaged(last(plain, k)), rows).detach()
    return cross_entropy(logits, labels) + w * F.mse_loss(logits, teacher)


def plain_sdv(plain: Plain, rows: np.ndarray, logits: Tensor, labels: Tensor, k: int = 3, w: float = 1.5) -> Tensor:
    votes = [plain.logits(model, rows).detach() for model in last(plain, k)]
    return cross_entropy(logits, labels) + w * F.mse_loss(logits, sum(votes) / len(votes))


def plain_ema(plain: Plain, rows: np.ndarray, logits: Tensor, labels: Tensor, most: float, w: float = 1.5) -> Tensor:
    """e_n = d e_{n-1} + (1 - d) theta_n from the beginning on, d = min(most, (1+n)/(10+n))."""
    thetas = [*plain.thetas, copy.deepcopy(plain.model)]
    made = copy.deepcopy(thetas[0])
    for n, theta in enumerate(thetas[1:], 1):
        d = min(most, (1 + n) / (10 + n))
        for e, value in zip(made.parameters(), theta.parameters(), strict=True):
            e.data = d * e.data + (1 - d) * value.data
    return cross_entropy(logits, labels) + w * F.mse_loss(logits, plain.logits(made, rows).detach())


def plain_weidc(
    plain: Plain, rows: np.ndarray, logits: Tensor, labels: Tensor, last_one: bool = False, a: float = 0.3
) -> Tensor:
    """Weights "4"."""
    per_epoch = -(-len(plain.data.tokens) // plain.table.batch_size)
    done = len(plain.thetas)
    if done < per_epoch:
        return cross_entropy(logits, labels)
    epoch = done // per_epoch
    ended = ([*plain.thetas, plain.model])[epoch * per_epoch]  # as it was at the last validation
    teacher = plain.logits(copy.deepcopy(ended) if last_one else plain.kept, rows).detach()
    w = torch.ones(len(rows), 1, dtype=logits.dtype)
    for at, y in enumerate(labels.tolist()):
        if y >= 0:
            w[at] = 2 * int(teacher[at].argmax() == y) - int(logits[at].argmax() == y) + 2
    return (1 - a) * cross_entropy(logits, labels) + a * F.mse_loss(w * logits, w * teacher)


TRAININGS = [
    (SelfDistillation(window=2, weight=1.5), plain_sda),
    (SelfDistillation(window=1, weight=1.5), partial(plain_sda, k=1)),
    (SelfDistillation(window=20, weight=1.5), partial(plain_sda, k=20)),  # more than there are steps
    (SelfDistillation(form="sdv", weight=1.5), plain_sdv),
    (SelfDistillation(average="ema", weight=1.5), partial(plain_ema, most=0.995)),
    (SelfDistillation(average="ema", decay=0.3, weight=1.5), partial(plain_ema, most=0.3)),
    (WeiDC(), plain_weidc),
    (WeiDC(checkpoint="last"), partial(plain_weidc, last_one=True)),
]


EPOCHS = {"epochs": 4, "max_grad_norm": 0.0, "learning_rate": 6e-3}


def in_float64(folder: Path) -> tuple[Encoder, TrainingData]:
    """A student without dropout, and texts of which some have no label."""
    encoder = tiny_encoder(folder, dropout=0.0, attention_dropout=0.0)
    encoder.model.double()
    return encoder, toy_training_data(encoder, 28, teacher=False, unlabelled=4)


@cache
def written_out(folder: Path, at: int) -> dict[str, Tensor]:
    """The weights at the end of a plain training with the loss of `TRAININGS[at]`."""
    plain = Plain(*in_float64(folder), settings(**EPOCHS))
    found = plain.train(TRAININGS[at][1])
    assert plain.gains < 4, "every validation is a gain: the best checkpoint is always the last"
    return found


@cache
def with_labels_alone(folder: Path) -> dict[str, Tensor]:
    encoder, data = in_float64(folder)
    alone = new_training(encoder, [CrossEntropy()], **EPOCHS)
    trained(alone, data)
    return weights_of(alone)


@pytest.mark.parametrize("at", range(len(TRAININGS)))
@pytest.mark.parametrize("micro_batch", ["auto", 3])
def test_a_training_is_the_loop_written_out(tiny_model: Tiny, at: int, micro_batch: Any) -> None:
    """Four epochs with texts without labels, dropout off, in float64: the weights at the end. Not every validation of
    these is a gain, so that the best checkpoint is not always the last.
    """
    folder = tiny_model("bert")
    theirs = written_out(folder, at)
    encoder, data = in_float64(folder)
    training = new_training(encoder, [CrossEntropy(), TRAININGS[at][0]], micro_batch=micro_batch, **EPOCHS)
    trained(training, data)
    assert largest_difference(weights_of(training), theirs) < 1e-6
    assert largest_difference(with_labels_alone(folder), theirs) > 1e-3, (
        "this method changes nothing here: nothing was compared"
    )


def test_the_best_checkpoint_is_not_the_last(tiny_model: Tiny) -> None:
    """A validation without a gain leaves the teacher as it is; with "last" it becomes the teacher."""
    kept = {}
    for which in ("best", "last"):
        training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), WeiDC(checkpoint=which)], epochs=3)
        first = {name: p.detach().clone() for name, p in training.encoder.model.named_parameters()}
        WeiDC(checkpoint=which).evaluated(first_step(training), training.stack.states[1], {}, improved=True)
        assert largest_difference(training.stack.states[1].tensors, first) == 0
        with torch.no_grad():
            for p in training.encoder.model.parameters():
                p += 1.0
        WeiDC(checkpoint=which).evaluated(first_step(training), training.stack.states[1], {}, improved=False)
        kept[which] = largest_difference(training.stack.states[1].tensors, first)
    assert kept == {"best": 0.0, "last": pytest.approx(1.0)}


def test_votes_have_no_moving_average() -> None:
    with pytest.raises(UserError, match=r"^SelfDistillation: found .* leave one out"):
        SelfDistillation(form="sdv", average="ema")


def test_squared_error() -> None:
    one, other = logits_of(0), logits_of(1)
    expected = sum(((a - b) ** 2).mean() for a, b in zip(one.numpy(), other.numpy(), strict=True))
    assert squared_error(one, other).item() == pytest.approx(expected, rel=1e-6)
    assert squared_error(one.bfloat16(), other.bfloat16()).dtype == torch.float32


# ---- dropout distillation


def a_session(
    tiny_model: Tiny, methods: list[Method], teacher: dict[str, Any] | None = None, **off: float
) -> TrainingState:
    live = live_teacher(tiny_model("bert"), 28, **(teacher or {}))
    return new_training(tiny_encoder(tiny_model("bert"), **off), methods, live)


def first_step(training: TrainingState) -> Step:
    return step_at(training, toy_training_data(training.encoder, 28, unlabelled=4), 0)


def a_step(training: TrainingState) -> Any:
    data = toy_training_data(training.encoder, 28, unlabelled=4)
    training.position.micro_batch = 8
    return micro_batch_of(training, data, data.tokens.lengths[20:].argsort(kind="stable") + 20, 0)


@pytest.mark.parametrize("passes", [1, 3])
def test_dropout_distillation(tiny_model: Tiny, passes: int) -> None:
    """KL(mean of the passes || student without dropout) / n, and its gradient (q - p) / n at the logits."""
    training = a_session(tiny_model, [DropoutDistillation(passes=passes, weight=0.7)])
    step, batch, teacher = first_step(training), a_step(training), training.stack.context.live_teacher
    each = [teacher.forward(step, batch, dropout=True, call=m).logits.detach() for m in range(passes)]
    found, logits = losses_of(training, step, batch)
    p = sum(softmax(z.double().numpy()) for z in each) / passes
    training.encoder.model.eval()
    q = softmax(training.encoder.forward(batch.ids).logits.detach().double().numpy())
    n = len(batch.ids)
    assert (batch.labels < 0).any()
    assert found["dropout-distillation"].item() == pytest.approx(0.7 * (p * np.log(p / q)).sum() / n, rel=1e-4)
    (gradient,) = torch.autograd.grad(found["dropout-distillation"], logits)
    np.testing.assert_allclose(gradient.numpy(), 0.7 * (q - p) / n, atol=1e-6)
    assert passes == 1 or (each[0] - each[1]).abs().max() > 1e-3, "all passes have the same masks"


def test_the_students_dropout_is_off_and_comes_back(tiny_model: Tiny) -> None:
    training = a_session(tiny_model, [DropoutDistillation(passes=1)])
    plain = a_session(tiny_model, [CrossEntropy()])
    batch = a_step(training)
    forward, other = (partial(first_step(one).forward, batch) for one in (training, plain))
    assert torch.equal(forward(call=0).logits, forward(call=1).logits)
    assert torch.equal(forward().logits, other(dropout=False).logits)
    assert training.encoder.model.training, "the mode is left as it was found"
    assert not torch.equal(other().logits, other(dropout=False).logits)


def test_dropout_distillation_needs_no_labels(tiny_model: Tiny) -> None:
    """Without `ce` it learns the same whatever the labels say."""
    found = []
    for shift in (0, 1):
        training = a_session(tiny_model, [DropoutDistillation(passes=2)])
        data = toy_training_data(training.encoder, 28)
        data.labels.add_(shift).remainder_(3)
        trained(training, data, events=3)
        found.append(weights_of(training))
    assert largest_difference(*found) == 0
    assert largest_difference(found[0], tiny_encoder(tiny_model("bert")).model.state_dict()) > 1e-3


# ---- what no gradient reaches


def test_no_gradient_reaches_a_live_teacher(tiny_model: Tiny) -> None:
    training = a_session(tiny_model, [DropoutDistillation(passes=2)])
    teacher = training.stack.context.teacher.encoder.model.requires_grad_(True)
    before = copy.deepcopy(teacher.state_dict())
    trained(training, toy_training_data(training.encoder, 28), events=2)
    assert all(p.grad is None for p in teacher.parameters())
    assert largest_difference(before, teacher.state_dict()) == 0
    assert any(p.grad is not None for p in training.encoder.model.parameters())


@pytest.mark.parametrize(
    "method",
    [SelfDistillation(), SelfDistillation(average="ema"), SelfDistillation(form="sdv"), WeiDC(checkpoint="last")],
    ids=str,
)
def test_no_gradient_reaches_what_the_student_was(tiny_model: Tiny, method: Method) -> None:
    """Of the loss to the kept weights: none; and to the student only through its own logits."""
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), method, Randout(tokens=8, units=8)])
    data = toy_training_data(training.encoder, 28, unlabelled=4)
    trained(training, data, events=6)
    batch, state = a_step(training), training.stack.states[1]
    kept = [tensor.requires_grad_() for tensor in state.tensors.values()]
    found, logits = losses_of(training, first_step(training), batch)
    loss = found[method.name]
    assert loss.item() > 0
    assert all(g is None for g in torch.autograd.grad(loss, kept, retain_graph=True, allow_unused=True))
    (at_logits,) = torch.autograd.grad(loss, logits, retain_graph=True)
    parameters = list(training.encoder.model.parameters())
    ours = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(logits, parameters, at_logits, allow_unused=True)
    reached = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    assert len(reached) > len(parameters) / 2
    assert all(torch.equal(a, b) for a, b in reached)


@pytest.mark.parametrize("method", [SelfDistillation(window=1), SelfDistillation(form="sdv"), WeiDC()], ids=str)
def test_the_student_as_it_was_runs_clean(tiny_model: Tiny, method: Method) -> None:
    """Neither dropout nor the recipe's noise is in the teacher's logits: those of its weights in evaluation."""
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), method, Randout(tokens=8, units=8)])
    batch = a_step(training)
    method.evaluated(first_step(training), training.stack.states[1], {}, True)
    seen = []

    def forward(**asked: Any) -> Output:
        seen.append(first_step(training).forward(batch, **asked))
        return seen[-1]

    output = first_step(training).forward(batch)
    method.loss(first_step(training), training.stack.states[1], output, batch, forward)
    training.encoder.model.eval()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].logits, training.encoder.forward(batch.ids).logits, rtol=0, atol=1e-5)
    assert not torch.equal(output.logits, seen[0].logits)


def test_defaults_of_hintons_distillation() -> None:
    assert (Hinton().alpha, Hinton().temperature) == (0.5, 2.0)
