"""Methods that run a teacher, noisy distillation, MetaDistil and matched layers, against plain transcriptions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from randout.core.errors import UserError
from randout.methods.base import Batch, Context, LiveTeacher, Method, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.layer_matching import LayerMatching
from randout.methods.metadistil import MetaDistil
from randout.methods.noisy_distillation import NoisyDistillation
from randout.models.encoder import Encoder, Output
from randout.models.hooks import HookPoints
from randout.models.kernels import packing
from randout.training.loop import TrainingState, losses_of, step, step_at
from support.training import live_teacher, new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
OFF = {"dropout": 0.0, "attention_dropout": 0.0}


def begun(folder: Path, method: Method, kin: bool = False, double: bool = False, **options: Any) -> TrainingState:
    """A training of cross-entropy and `method` with a live teacher, as far as before its first step."""
    teacher = live_teacher(folder, 28, same_family=kin, **({"dropout": 0.0, "attention_dropout": 0.0} | options))
    encoder = tiny_encoder(folder, **options)
    if double:
        encoder.model.double()
        teacher.encoder.model.double()
    training = new_training(encoder, [CrossEntropy(), method], teacher, max_grad_norm=0)
    return training


def at(training: TrainingState, number: int = 0) -> Step:
    """What the methods see of a step of four."""
    data = toy_training_data(training.encoder, 28, unlabelled=4, heldout=10)
    return replace(step_at(training, data, number), total=4)


def a_step(training: TrainingState, texts: int = 8) -> Batch:
    """The batch of the step under way: texts of many lengths, the last of them without a label."""
    from randout.training.loop import batch_of

    data = toy_training_data(training.encoder, 28, unlabelled=4, heldout=10)
    rows = np.array([0, 3, 7, 11, 16, 19, 23, 26][:texts])
    rows = rows[np.argsort(data.tokens.lengths[rows], kind="stable")]
    return batch_of(training, data, rows, rows, 0)


def plain_kl(p: np.ndarray, q: np.ndarray) -> float:
    """sum_c p_c log(p_c / q_c) of one text."""
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def softmax(logits: Tensor, t: float = 1.0) -> np.ndarray:
    powers = np.exp(logits.detach().double().numpy() / t)
    return powers / powers.sum(-1, keepdims=True)


# ---- noisy self-distillation


@pytest.mark.parametrize("dropout", [True, False])
def test_noisy_distillation_is_its_equation(tiny_model: Tiny, dropout: bool) -> None:
    """(1 - w) CE + w KL(teacher || student), and its gradient at the student's logits; none reaches the teacher."""
    method = NoisyDistillation(weight=0.3, teacher_dropout=dropout)
    training = begun(tiny_model("bert"), method, dropout=0.1)
    batch, teacher = a_step(training), training.stack.context.teacher
    assert teacher is not None
    teacher.encoder.model.requires_grad_(True)
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    losses = method.loss(at(training), training.stack.states[1], Output(logits, {}), batch, None)
    taught = teacher.forward(at(training), batch, dropout=dropout).logits
    p, q, labels = softmax(taught), softmax(logits), batch.labels.tolist()
    gold = [i for i, label in enumerate(labels) if label >= 0]
    assert 0 < len(gold) < 8
    expected = -np.mean([np.log(q[i, labels[i]]) for i in gold])
    assert losses["ce"].item() == pytest.approx(0.7 * expected, rel=1e-5)
    expected = np.mean([plain_kl(p[i], q[i]) for i in range(8)])
    assert losses["noisy-distillation"].item() == pytest.approx(0.3 * expected, rel=1e-5)
    sum(losses.values()).backward()
    one_hot = np.array([np.eye(3)[label] if label >= 0 else q[i] for i, label in enumerate(labels)])
    slope = 0.3 * (q - p) / 8 + 0.7 * (q - one_hot) / len(gold)
    np.testing.assert_allclose(logits.grad.numpy(), slope, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher.encoder.model.parameters())


def test_the_teachers_dropout_is_drawn_anew_at_every_step(tiny_model: Tiny) -> None:
    found = {}
    for dropout in (True, False):
        method = NoisyDistillation(teacher_dropout=dropout)
        training = begun(tiny_model("bert"), method, dropout=0.1)
        batch, output = a_step(training), Output(torch.zeros(8, 3), {})
        for number in (0, 1, 0):
            loss = method.loss(at(training, number), training.stack.states[1], output, batch, None)[
                "noisy-distillation"
            ]
            found.setdefault(dropout, []).append(loss.item())
    assert found[True][0] == found[True][2] != found[True][1]
    assert len(set(found[False])) == 1
    assert found[True][0] != found[False][0]


def bare_step(number: int = 0, seed: int = 1, prefix: int = 1, suffix: int = 1) -> Step:
    context = Context(nn.Identity(), HookPoints(nn.Identity(), ()), seed, prefix=prefix, suffix=suffix)
    return Step(context, number=number)


def noisy(
    method: NoisyDistillation, texts: Sequence[Tensor], step: Step | None = None, rows: Any = None
) -> list[Tensor]:
    rows = torch.arange(len(texts)) if rows is None else torch.tensor(rows)
    labels = torch.zeros(len(texts), dtype=torch.int64)
    batch = Batch(rows, list(texts), labels, None, labels, 0, max(len(text) for text in texts))
    made = method.inputs(step or bare_step(), None, batch)
    assert made.longest == batch.longest
    assert torch.equal(made.rows, rows)
    return made.ids


@pytest.mark.parametrize(("drop", "k"), [(0.0, 3), (0.3, 0), (0.3, 2), (0.1, 1)])
def test_input_noise_is_that_of_the_source(drop: float, k: int) -> None:
    """Words dropped one by one, the rest sorted by place + (k + 1) * U(0, 1)."""
    first, texts = bare_step(4), [torch.arange(100, 100 + n) for n in (3, 4, 9, 25)]
    ours = noisy(NoisyDistillation(word_drop=drop, shuffle=k), texts, first)
    for row, (text, found) in enumerate(zip(texts, ours, strict=True)):
        words = text[1:-1].tolist()
        luck, moves = torch.rand(
            2, len(words), generator=first.generator("noisy-distillation", torch.device("cpu"), row)
        )
        kept = [at for at in range(len(words)) if luck[at] >= drop] or [int(luck.argmax())]
        order = sorted(range(len(kept)), key=lambda i, at=kept, u=moves: i + (k + 1) * float(u[at[i]]))
        assert found.tolist() == [100, *(words[kept[i]] for i in order), 99 + len(text)]


def test_input_noise_keeps_its_bounds() -> None:
    """No word moves further than k, a share of them is dropped, no text becomes empty, special tokens stay."""
    for k in (1, 3, 6):
        for number in range(40):
            (found,) = noisy(NoisyDistillation(word_drop=0, shuffle=k), [torch.arange(42)], bare_step(number))
            assert found[0] == 0
            assert found[-1] == 41
            assert sorted(found.tolist()) == list(range(42))
            assert int((found - torch.arange(42)).abs().max()) <= k
    lengths = [
        len(noisy(NoisyDistillation(word_drop=0.2), [torch.arange(42)], bare_step(n))[0]) - 2 for n in range(200)
    ]
    assert np.mean(lengths) == pytest.approx(0.8 * 40, abs=5 * np.sqrt(40 * 0.2 * 0.8 / 200))
    for text in noisy(NoisyDistillation(word_drop=0.999), [torch.arange(n) for n in (3, 4, 30)]):
        assert len(text) == 3
    two = bare_step(prefix=2, suffix=0)
    (found,) = noisy(NoisyDistillation(word_drop=0.3), [torch.arange(40)], two)
    assert found[:2].tolist() == [0, 1]
    assert sorted(found.tolist()) != list(range(40))
    bare = torch.arange(2)
    assert noisy(NoisyDistillation(word_drop=0.999), [bare])[0] is bare


def test_input_noise_is_a_function_of_seed_step_and_row() -> None:
    """And neither of a text's place in its batch nor of torch's own stream, which it leaves alone."""
    texts, method = [torch.arange(100 * n, 100 * n + 20) for n in range(4)], NoisyDistillation()
    whole = noisy(method, texts)
    state = torch.get_rng_state()
    parts = [noisy(method, [texts[n]], rows=[n])[0] for n in (3, 1, 0, 2)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(whole[n], part) for n, part in zip((3, 1, 0, 2), parts, strict=True))
    for other in (bare_step(number=1), bare_step(seed=2)):
        assert not all(torch.equal(a, b) for a, b in zip(whole, noisy(method, texts, other), strict=True))
    assert not torch.equal(whole[0], noisy(method, texts[:1], rows=[9])[0])
    assert noisy(NoisyDistillation(word_drop=0, shuffle=0), texts)[0] is texts[0]


def test_the_student_reads_noise_and_the_teacher_does_not(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    training = begun(tiny_model("bert"), NoisyDistillation(word_drop=0.3))
    batch, seen, plain = a_step(training), {}, Encoder.forward
    assert training.stack.context.teacher is not None

    def spy(self: Any, ids: Any, *rest: Any) -> Any:
        seen.setdefault("student" if self is training.encoder else "teacher", []).append(ids)
        return plain(self, ids, *rest)

    monkeypatch.setattr(Encoder, "forward", spy)
    losses_of(training, at(training), batch)
    (ours,), (theirs,) = seen["student"], seen["teacher"]
    assert sum(map(len, ours)) < sum(map(len, batch.ids))
    tokens = training.stack.context.teacher.tokens
    assert all(a.tolist() == tokens[int(row)].tolist() for a, row in zip(theirs, batch.rows, strict=True))


# ---- MetaDistil


def padded(ids: Sequence[Tensor], filler: int) -> dict[str, Tensor]:
    block = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=filler)
    mask = torch.arange(block.shape[1])[None] < torch.tensor([len(text) for text in ids])[:, None]
    return {"input_ids": block, "attention_mask": mask.long()}


def plain_copy(model: Any) -> Any:
    """A copy that owes nothing to packing or fused attention."""
    found = copy.deepcopy(model).eval().requires_grad_(True)
    found.config._attn_implementation = "eager"
    return found


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -torch.stack([logits[i].log_softmax(0)[label] for i, label in enumerate(labels) if label >= 0]).mean()


def plain_round(
    training: TrainingState, method: MetaDistil, batch: Batch, step: Step
) -> tuple[list[Tensor], list[Tensor]]:
    """The teacher's gradient through a pilot step, and the student's in the step proper, after plain descent of phi."""
    live = training.stack.context.teacher
    assert live is not None
    teacher, student, columns = plain_copy(live.encoder.model), plain_copy(training.encoder.model), list(live.columns)
    texts = [torch.from_numpy(live.tokens[int(row)].astype("int64")) for row in batch.rows]
    t, a = method.temperature, method.weight
    own, theirs = padded(batch.ids, student.config.pad_token_id), padded(texts, teacher.config.pad_token_id)

    def inner(weights: dict[str, Tensor]) -> Tensor:
        z = torch.func.functional_call(student, weights, (), own).logits
        p = (teacher(**theirs).logits[:, columns] / t).softmax(1)
        kl = (p * (p.log() - (z / t).log_softmax(1))).sum(1).mean()
        return (1 - a) * plain_cross_entropy(z, batch.labels) + a * t**2 * kl

    theta = dict(student.named_parameters())
    slope = torch.autograd.grad(inner(theta), list(theta.values()), create_graph=True, allow_unused=True)
    pilot = {n: w if g is None else w - method.pilot_rate * g for (n, w), g in zip(theta.items(), slope, strict=True)}
    z = torch.func.functional_call(
        student, pilot, (), padded((judge := step.heldout()).ids, student.config.pad_token_id)
    ).logits
    phi = list(teacher.parameters())
    found = torch.autograd.grad(plain_cross_entropy(z, judge.labels), phi, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for w, g in zip(phi, found, strict=True)]
    with torch.no_grad():
        for w, g in zip(phi, found, strict=True):
            w -= method.teacher_learning_rate * (1 - step.number / 4) * g
    after = torch.autograd.grad(inner(theta), list(theta.values()), allow_unused=True)
    return found, [torch.zeros_like(w) if g is None else g for w, g in zip(theta.values(), after, strict=True)]


@pytest.mark.parametrize(
    ("form", "family", "pack"),
    [
        ("exact", "bert", True),
        ("exact", "bert", False),
        ("exact", "distilbert", True),
        ("first-order", "bert", True),
        ("first-order", "roberta", False),
    ],
)
def test_metadistil_is_the_two_level_loop(tiny_model: Tiny, form: Any, family: str, pack: bool) -> None:
    """In float64 but for the losses, at the second of four steps: phi's step, then the student's gradient after it."""
    rates = {"pilot_rate": 0.2, "teacher_learning_rate": 0.5, "max_grad_norm": 0}
    method = MetaDistil(form=form, weight=0.7, temperature=2.0, optimizer="sgd", **rates)
    training = begun(tiny_model(family), method, double=True, pack=pack, **OFF)
    live = training.stack.context.teacher
    assert live is not None
    batch, second = a_step(training), at(training, 1)
    before = [p.detach().clone() for p in live.encoder.model.parameters()]
    slope, gradients = plain_round(training, method, batch, second)
    largest = max(float(g.abs().max()) for g in slope)
    assert largest > 1e-3, "no gradient to compare"

    tolerance = {"exact": 1e-5, "first-order": 1e-3}[form]
    state = training.stack.states[1]
    method.gradient(second, state, batch, lambda batch: _plain_backward(training, second, batch))
    for was, now, g in zip(before, live.encoder.model.parameters(), slope, strict=True):
        assert ((was - now.detach()) / (0.5 * 0.75) - g).abs().max() < tolerance * largest
    scale = max(float(g.abs().max()) for g in gradients)
    for p, g in zip(training.encoder.model.parameters(), gradients, strict=True):
        assert ((torch.zeros_like(g) if p.grad is None else p.grad) - g).abs().max() < 1e-3 * scale
    assert all(p.grad is None for p in live.encoder.model.parameters())


def _plain_backward(training: TrainingState, step: Step, batch: Batch) -> None:
    losses, _ = losses_of(training, step, batch)
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()


@pytest.mark.parametrize("pack", [True, False])
def test_both_forms_agree_under_dropout(tiny_model: Tiny, pack: bool) -> None:
    """The pilot step, its second derivative and the two forwards of the difference all see the same masks."""
    found = []
    for form in ("exact", "first-order"):
        training = begun(tiny_model("bert"), method := MetaDistil(form=form, pilot_rate=0.1), pack=pack)
        logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(5))
        found.append(method.logit_gradient(at(training), logits, a_step(training)))
    assert (found[0] - found[1]).abs().max() < 1e-3 * found[0].abs().max()
    assert found[0].abs().max() > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_packed_attention_has_second_derivatives(dropout: float) -> None:
    shape, draw = (1, 2, 6, 2), torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attend(*qkv: Tensor) -> Tensor:
        torch.manual_seed(3)
        return packing.attend(None, *qkv, None, dropout=dropout, boundaries=packing.Boundaries((2, 1, 3)))[0]

    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(attend, inputs)
        assert torch.autograd.gradgradcheck(attend, inputs)


def test_the_teachers_gradient_is_clipped(tiny_model: Tiny) -> None:
    method = MetaDistil(optimizer="sgd", teacher_learning_rate=1.0, max_grad_norm=1e-7, pilot_rate=0.2)
    training = begun(tiny_model("bert"), method)
    assert training.stack.context.teacher is not None
    phi = list(training.stack.context.teacher.encoder.model.parameters())
    before = [p.detach().clone() for p in phi]
    method.gradient(at(training), training.stack.states[1], a_step(training), lambda batch: None)
    moved = (
        torch.stack([(a.double() - b.double()).square().sum() for a, b in zip(before, phi, strict=True)]).sum().sqrt()
    )
    assert 0 < moved.item() < 2e-7


def test_a_teacher_that_learns_leaves_another_run_its_own(tiny_model: Tiny) -> None:
    """Weight 0 leaves it alone too, and frozen."""
    folder = tiny_model("bert")
    one, other = (begun(folder, MetaDistil(weight=w, teacher_learning_rate=1e-2)) for w in (0.5, 0.0))
    data = toy_training_data(one.encoder, 28, unlabelled=4, heldout=10)
    fresh = live_teacher(folder, 28).encoder.model.state_dict()
    for training in (one, other):
        step(training, data, np.arange(8))
    models = [training.stack.context.teacher.encoder.model for training in (one, other)]
    assert max(float((t - fresh[n]).abs().max()) for n, t in models[0].state_dict().items()) > 1e-3
    assert all(torch.equal(t, fresh[n]) for n, t in models[1].state_dict().items())
    assert not any(p.requires_grad for p in models[1].parameters())
    assert "heldout_loss" in one.position.sums
    assert "heldout_loss" not in other.position.sums


def test_a_better_teacher_helps_on_held_out_rows(tiny_model: Tiny) -> None:
    """What the equation is for: a step of phi lowers the held-out loss of the pilot step that follows."""
    method = MetaDistil(weight=1.0, optimizer="sgd", teacher_learning_rate=0.005, pilot_rate=0.2, max_grad_norm=0)
    training = begun(tiny_model("bert"), method, **OFF)
    first, batch = at(training), a_step(training)
    for _ in range(4):
        method.gradient(first, training.stack.states[1], batch, lambda batch: None)
    losses = [value.item() for value, _ in first.logged["heldout_loss"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1e-3


def test_differences_need_float32(tiny_model: Tiny) -> None:
    folder = tiny_model("bert")
    teacher = replace(live_teacher(folder, 28), precision="bfloat16")
    with pytest.raises(UserError, match=r'metadistil.form: "first-order" needs differences that are lost in bfloat16'):
        new_training(tiny_encoder(folder), [CrossEntropy(), MetaDistil(form="first-order")], teacher)
    new_training(tiny_encoder(folder), [CrossEntropy(), MetaDistil()], teacher)


# ---- layers


def same_size(folder: Path) -> LiveTeacher:
    """A teacher with the student's tokens, width and heads, and other weights."""
    teacher = replace(live_teacher(folder, 28, **OFF), same_tokens=True)
    encoder = tiny_encoder(folder, **OFF)
    with torch.no_grad():
        for at, parameter in enumerate(encoder.model.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(at))
    tokens = toy_training_data(encoder, 28, heldout=10).tokens
    return replace(teacher, encoder=encoder, tokens=tokens)


def states_of(model: Any, ids: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states (b, longest, d) by point and attention (b, heads, n, n) by block, as transformers gives them."""
    model = plain_copy(model)
    with torch.no_grad():
        found = model(**padded(ids, model.config.pad_token_id), output_hidden_states=True, output_attentions=True)
    return list(found.hidden_states), [None, *found.attentions]


def plain_layers(method: LayerMatching, pairs: Any, ours: Any, theirs: Any, ids: Any, others: Any, maps: Any) -> float:
    """The docstring's equations, text by text."""
    total = 0.0
    for text, (mine, other) in enumerate(zip(ids, others, strict=True)):
        same = mine.tolist() == other.tolist()
        for at, (i, j) in enumerate(pairs):
            taken = range(len(mine)) if same and method.states != "first" else [0]
            far = []
            for n in taken:
                h, g = ours[0][i][text, n].double(), theirs[0][j][text, n].double()
                h = h @ maps[at].double() if maps else h
                if method.normalize:
                    far.append(float(((h / h.norm() - g / g.norm()) ** 2).sum()))
                else:
                    far.append(float(((h - g) ** 2).mean()))
            total += method.hidden * float(np.mean(far)) / (8 * len(pairs))
            if method.attention and same:
                a, c = (side[1][block][text, :, : len(mine), : len(mine)] for side, block in ((ours, i), (theirs, j)))
                a, c = (a, c) if len(a) == len(c) else (a.mean(0, keepdim=True), c.mean(0, keepdim=True))
                far = [
                    float(((a[head, n] - c[head, n]) ** 2).sum()) for head in range(len(a)) for n in range(len(mine))
                ]
                total += method.attention * float(np.mean(far)) / (8 * len(pairs))
    return total


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    ("teacher", "settings", "pairs"),
    [
        ("wider", {}, ((1, 1), (2, 3), (3, 4))),
        ("wider", {"attention": 0.5, "hidden": 2.0}, ((1, 1), (2, 3), (3, 4))),
        ("wider", {"attention": 0.5, "pairs": ((2, 4),), "normalize": True}, ((2, 4),)),
        ("wider", {"states": "first", "normalize": True, "hidden": 10.0}, ((1, 1), (2, 3), (3, 4))),
        ("same", {"attention": 3.0, "pairs": ((1, 2), (3, 3))}, ((1, 2), (3, 3))),
        ("same", {"pairs": ((0, 0), (3, 1))}, ((0, 0), (3, 1))),
        ("roberta", {}, ((1, 1), (2, 2), (3, 3))),
    ],
)
def test_layers_are_their_equations(tiny_model: Tiny, teacher: str, settings: Any, pairs: Any, pack: bool) -> None:
    """Against transformers' own states and attention of padded copies, in plain loops."""
    folder, method = tiny_model("bert"), LayerMatching(**settings)
    live = same_size(folder) if teacher == "same" else live_teacher(folder, 28, same_family=teacher == "wider", **OFF)
    live.encoder.model.requires_grad_(False)
    training = new_training(tiny_encoder(folder, pack=pack, **OFF), [CrossEntropy(), method], live)
    batch, state = a_step(training), training.stack.states[1]
    assert method.matched(training.stack.context) == pairs
    assert len(state.parameters) == (len(pairs) if teacher == "wider" else 0)
    output = at(training).forward(batch, want=training.stack.want)
    ours = method.loss(at(training), state, output, batch, None)["layer-matching"]
    others = [torch.from_numpy(live.tokens[int(row)].astype("int64")) for row in batch.rows]
    assert any(a.tolist() == b.tolist() for a, b in zip(batch.ids, others, strict=True)) == (teacher != "roberta")
    found = states_of(training.encoder.model, batch.ids), states_of(live.encoder.model, others)
    expected = plain_layers(method, pairs, *found, batch.ids, others, [p.detach() for p in state.parameters])
    assert ours.item() == pytest.approx(expected, rel=1e-4)
    live.encoder.model.requires_grad_(True)
    method.loss(at(training), state, output, batch, None)["layer-matching"].backward()
    assert all(p.grad is None for p in live.encoder.model.parameters()), "a gradient flows into the teacher"
    assert all(p.grad.abs().max() > 0 for p in state.parameters)
    first = training.encoder.model.get_input_embeddings().weight.grad
    assert first.abs().max() > 0


def test_texts_that_another_method_changes_are_matched_at_their_first_token(tiny_model: Tiny) -> None:
    folder = tiny_model("bert")
    training = new_training(
        tiny_encoder(folder, **OFF), [CrossEntropy(), LayerMatching(attention=1.0)], same_size(folder)
    )
    method, batch = LayerMatching(attention=1.0), a_step(training)
    ids = [text if at % 2 else torch.cat([text[:1], text[2:]]) for at, text in enumerate(batch.ids)]
    changed = replace(batch, ids=ids)
    output = at(training).forward(changed, want=training.stack.want)
    ours = method.loss(at(training), training.stack.states[1], output, changed, None)["layer-matching"].item()
    assert training.stack.context.teacher is not None
    found = states_of(training.encoder.model, ids), states_of(training.stack.context.teacher.encoder.model, batch.ids)
    expected = plain_layers(method, method.matched(training.stack.context), *found, ids, batch.ids, [])
    assert ours == pytest.approx(expected, rel=1e-4)


def test_layers_that_cannot_be_matched_are_refused(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model("bert")
    encoder, across = tiny_encoder(folder), live_teacher(folder, 28)
    refused = {
        "attention: 0.5, but teacher and student have different tokenizers": {"attention": 0.5},
        'states: "tokens", but teacher and student': {"states": "tokens"},
        "pairs: the student has blocks 1 to 3, got 4": {"pairs": ((4, 1),)},
        "pairs: the teacher has blocks 1 to 3, got 7": {"pairs": ((1, 7),)},
    }
    for words, settings in refused.items():
        with pytest.raises(UserError, match=f"methods.layer-matching.{words}"):
            new_training(encoder, [CrossEntropy(), LayerMatching(**settings)], across)
    monkeypatch.setattr(HookPoints, "reaches_attention", lambda self, model: model is not encoder.model)
    kin = live_teacher(folder, 28, same_family=True)
    with pytest.raises(UserError, match="this student's attention cannot be read"):
        new_training(encoder, [CrossEntropy(), LayerMatching(attention=0.5)], kin)
    monkeypatch.setattr(HookPoints, "reaches_attention", lambda self, model: model is encoder.model)
    with pytest.raises(UserError, match="this teacher's attention cannot be read"):
        new_training(encoder, [CrossEntropy(), LayerMatching(attention=0.5)], kin)
    for bad in ({"pairs": ((1,),)}, {"hidden": -1}, {"states": "all"}):
        with pytest.raises(UserError, match="LayerMatching"):
            LayerMatching(**bad)


def test_blocks_are_paired_evenly() -> None:
    """The last with the last, whichever is deeper."""

    def matched(ours: int, theirs: int) -> list[int]:
        ends = [HookPoints(nn.Identity(), (nn.Identity(),) * blocks) for blocks in (ours, theirs)]
        teacher: Any = LiveTeacher(Encoder(None, None, ends[1]), None, ())
        pairs = LayerMatching().matched(Context(nn.Identity(), ends[0], 0, teacher=teacher))
        assert [i for i, _ in pairs] == list(range(1, ours + 1))
        return [j for _, j in pairs]

    assert matched(6, 12) == [2, 4, 6, 8, 10, 12]
    assert matched(4, 12) == [3, 6, 9, 12]
    assert matched(3, 4) == [1, 3, 4]
    assert matched(3, 3) == [1, 2, 3]
    assert matched(6, 2) == [1, 1, 1, 1, 2, 2]
