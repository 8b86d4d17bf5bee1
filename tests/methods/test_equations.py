"""The equations of the paper (section 3) against plain transcriptions of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.methods.base import Context, Method, State, Step
from randout.methods.builtin import METHODS
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.functional import kl_divergence
from randout.methods.kd import KnowledgeDistillation
from randout.methods.randout import Randout
from randout.models.encoder import Output, Want
from randout.models.hooks import Layout
from randout.training.loop import losses_of, step_at
from support.perturbed import bare_step, perturbed
from support.training import (
    bit_identical,
    make_batch,
    new_training,
    tiny_encoder,
    toy_training_data,
    trained,
    weights_of,
)

WIDTH = 48


def loss_of(method: Method, logits: Tensor, batch: Any, step: Step | None = None) -> Tensor:
    (value,) = method.loss(step or bare_step(), State(), Output(logits, {}), batch, lambda: None).values()
    return value


def logits_of(rows: int, classes: int = 3, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- eq. 2


def plain_cross_entropy(logits: np.ndarray, labels: list[int]) -> float:
    """-1/N sum_i sum_c y_ic log p(y_ic), eq. 1 and 2 letter by letter."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        powers = [math.exp(value) for value in row]
        for c, power in enumerate(powers):
            y = 1.0 if c == label else 0.0
            total += y * math.log(power / sum(powers))
    return -total / len(labels)


def test_cross_entropy_is_equation_2() -> None:
    logits, labels = logits_of(7), [0, 2, 1, 1, 0, 2, 2]
    ours = loss_of(CrossEntropy(), logits, make_batch(labels))
    assert ours.item() == pytest.approx(plain_cross_entropy(logits.numpy(), labels), rel=1e-6)
    assert loss_of(CrossEntropy(weight=0.3), logits, make_batch(labels)).item() == pytest.approx(
        0.3 * ours.item(), rel=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_is_torchs(smoothing: float) -> None:
    logits, labels = logits_of(9).float(), torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0])
    ours = loss_of(CrossEntropy(label_smoothing=smoothing), logits, make_batch(labels.tolist()))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("labels", [[0, 2, 1, 1, 0], [0], [0, 0]])
def test_class_weights_are_torchs(labels: list[int]) -> None:
    """Also where the weights of a batch sum to less than one (one text of the commonest class)."""
    step = bare_step(class_weights=torch.tensor([0.4, 1.5, 3.0]))
    logits = logits_of(len(labels)).float()
    ours = loss_of(CrossEntropy(class_weights="balanced"), logits, make_batch(labels), step)
    torch.testing.assert_close(ours, F.cross_entropy(logits, torch.tensor(labels), weight=step.context.class_weights))
    unweighted = loss_of(CrossEntropy(), logits, make_batch(labels), step)
    torch.testing.assert_close(unweighted, F.cross_entropy(logits, torch.tensor(labels)))


def test_smoothing_and_weights_together() -> None:
    step, labels, e = bare_step(class_weights=torch.tensor([0.4, 1.5, 3.0])), [0, 2, 1, 1], 0.2
    logits = logits_of(4)
    ours = loss_of(CrossEntropy(class_weights="balanced", label_smoothing=e), logits, make_batch(labels), step)
    log_p = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))
    above = below = 0.0
    for row, label in zip(log_p, labels, strict=True):
        target = np.full(3, e / 3)
        target[label] += 1 - e
        weight = float(step.context.class_weights[label])
        above, below = above - weight * float((target * row).sum()), below + weight
    assert ours.item() == pytest.approx(above / below, rel=1e-5)


def test_texts_without_labels_add_nothing_to_cross_entropy() -> None:
    logits = logits_of(4).requires_grad_()
    ours = loss_of(CrossEntropy(label_smoothing=0.1), logits, make_batch([1, -1, 2, -1]))
    theirs = loss_of(CrossEntropy(label_smoothing=0.1), logits[[0, 2]], make_batch([1, 2]))
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    assert logits.grad[[1, 3]].abs().max() == 0 < logits.grad[[0, 2]].abs().min()
    for weights in ("none", "balanced"):
        step = bare_step(class_weights=torch.ones(3))
        nothing = loss_of(CrossEntropy(class_weights=weights), logits_of(2), make_batch([-1, -1]), step)
        assert nothing.item() == 0.0


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("method", [CrossEntropy, KnowledgeDistillation])
def test_micro_batches_add_up_to_the_step(method: type[Method], weights: str) -> None:
    """Each is divided by the counts of the whole step, so their sum is the loss of the larger batch."""
    step, labels = bare_step(class_weights=torch.tensor([0.4, 1.5, 3.0])), [0, 2, -1, 1, 0, 0, 2]
    logits, teacher = logits_of(7), logits_of(7, seed=1)
    made = method(class_weights=weights) if method is CrossEntropy else method(reduction="mean")
    whole = loss_of(made, logits, make_batch(labels, teacher), step)
    parts = [
        loss_of(made, logits[at], make_batch(labels[at], teacher[at], step_labels=labels, first=at.start), step)
        for at in (slice(0, 3), slice(3, 6), slice(6, 7))
    ]
    torch.testing.assert_close(sum(parts), whole)


# ---- eq. 4 to 6


def plain_distillation(teacher: np.ndarray, student: np.ndarray, t: float) -> float:
    """sum_x KL(f_T(x) || f_S(x)), f by eq. 4."""
    total = 0.0
    for z_t, z_s in zip(teacher, student, strict=True):
        f_t = [math.exp(z / t) / sum(math.exp(o / t) for o in z_t) for z in z_t]
        f_s = [math.exp(z / t) / sum(math.exp(o / t) for o in z_s) for z in z_s]
        total += sum(p * math.log(p / q) for p, q in zip(f_t, f_s, strict=True))
    return total


@pytest.mark.parametrize("t", [1.0, 2.0, 3.0, 0.5])
def test_distillation_is_equation_4_to_6(t: float) -> None:
    teacher, student, labels = logits_of(6, 4), logits_of(6, 4, seed=1), [0] * 6
    plain = plain_distillation(teacher.numpy(), student.numpy(), t)
    assert kl_divergence(teacher, student, t).item() == pytest.approx(plain, rel=1e-5)
    by = {"batchmean": plain / 6, "sum": plain, "mean": plain / 24}
    for reduction, expected in by.items():
        for squared in (False, True):
            for weight in (0.0, 0.4, 1.0):
                made = KnowledgeDistillation(temperature=t, reduction=reduction, t_squared=squared, weight=weight)
                ours = loss_of(made, student, make_batch(labels, teacher)).item()
                assert ours == pytest.approx(weight * expected * (t * t if squared else 1), rel=1e-5)


def test_the_teachers_distribution_comes_first() -> None:
    teacher, student = logits_of(6), logits_of(6, seed=1)
    made = KnowledgeDistillation(weight=1.0, reduction="sum")
    ours = loss_of(made, student, make_batch([0] * 6, teacher)).item()
    forward = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="sum").item()
    backward = F.kl_div(teacher.log_softmax(1), student.softmax(1), reduction="sum").item()
    assert ours == pytest.approx(forward, rel=1e-5)
    assert abs(forward - backward) > 0.1, "these logits cannot tell the directions apart"


def test_distillation_is_zero_at_the_teacher_and_pulls_towards_it() -> None:
    teacher = logits_of(5).float()
    student = teacher.clone().requires_grad_()
    loss = loss_of(KnowledgeDistillation(temperature=2.0), student, make_batch([0] * 5, teacher))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6
    student = logits_of(5, seed=1).float().requires_grad_()
    loss_of(KnowledgeDistillation(weight=1.0, reduction="sum"), student, make_batch([0] * 5, teacher)).backward()
    torch.testing.assert_close(student.grad, student.softmax(1) - teacher.softmax(1))  # at t = 1


def test_distillation_counts_texts_without_labels() -> None:
    teacher, student = logits_of(4), logits_of(4, seed=1)
    ours = loss_of(KnowledgeDistillation(), student, make_batch([1, -1, 2, -1], teacher))
    torch.testing.assert_close(ours, loss_of(KnowledgeDistillation(), student, make_batch([0] * 4, teacher)))
    with pytest.raises(RuntimeError, match="without stored teacher logits"):
        loss_of(KnowledgeDistillation(), student, make_batch([0] * 4))


def test_the_whole_loss_is_equation_6(tiny_model: Callable[[str], Path]) -> None:
    """L = L_CE + lambda * L_KD, and its gradient that of the sum."""
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    data = toy_training_data(encoder)
    training = new_training(encoder, [CrossEntropy(), KnowledgeDistillation(weight=0.4, temperature=2.0)])
    rows = np.arange(8)
    ids = [torch.from_numpy(data.tokens[row].astype(np.int64)) for row in rows]
    batch = make_batch(data.labels[:8].tolist(), data.teacher[:8])
    batch = type(batch)(torch.from_numpy(rows), ids, batch.labels, batch.teacher, batch.step_labels, 0, 24)
    losses, logits = losses_of(training, step_at(training, data, 0), batch)
    plain = logits.detach().double().numpy()
    ce = plain_cross_entropy(plain, data.labels[:8].tolist())
    kd = plain_distillation(data.teacher[:8].double().numpy(), plain, 2.0) / 8
    assert losses["ce"].item() == pytest.approx(ce, rel=1e-5)
    assert sum(losses.values()).item() == pytest.approx(ce + 0.4 * kd, rel=1e-5)


# ---- eq. 3


def a_layout(
    lengths: list[int], padded: bool = False, left: bool = False, first: int = 0, of: int | None = None
) -> Layout:
    """Texts end to end, or each in a row as wide as the longest."""
    sizes, widest = torch.tensor(lengths), max(lengths)
    starts = torch.arange(len(lengths)) * widest if padded else sizes.cumsum(0) - sizes
    if left:
        starts = starts + widest - sizes
    return Layout(starts, sizes, widest, first, of or len(lengths))


def noise_of(method: Randout, layout: Layout, step: Step | None = None, rows: int = 0, layer: int = 1) -> Tensor:
    """What is added to a state of zeros (rows, WIDTH)."""
    step = (step or bare_step()).at(layout)
    rows = rows or int((layout.starts + layout.lengths).max())
    return perturbed(method.model_copy(update={"layers": (layer,)}), step, torch.zeros(1, rows, WIDTH), layer)[0]


def by_text(noise: Tensor, layout: Layout) -> list[Tensor]:
    """Cut a flattened state into the texts: (length, WIDTH) each."""
    return [noise[start : start + n] for start, n in zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True)]


def test_noise_is_equation_3_in_law() -> None:
    layout = a_layout([40] * 60)
    noise = noise_of(Randout(tokens=40, units=WIDTH), layout).flatten().double()
    assert noise.min() >= -0.5
    assert noise.max() < 0.5
    assert noise.mean().item() == pytest.approx(0.0, abs=4 * 0.2887 / math.sqrt(len(noise)))
    assert noise.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.01)
    counts = torch.histc(noise, 20, -0.5, 0.5) / len(noise)
    assert (counts - 0.05).abs().max() < 0.002  # flat


def test_low_high_offset_scale() -> None:
    layout = a_layout([40] * 20)
    made = Randout(tokens=40, units=WIDTH, low=2.0, high=5.0, offset=-1.0, scale=0.5)
    noise = noise_of(made, layout)
    assert noise.min() >= 0.5
    assert noise.max() < 2.0
    assert noise.mean().item() == pytest.approx(1.25, abs=0.01)
    plain = noise_of(Randout(tokens=40, units=WIDTH), layout)
    torch.testing.assert_close(noise, ((plain + 0.5) * 3 + 2 - 1) * 0.5)


def test_gaussian_law() -> None:
    noise = noise_of(Randout(law="gaussian", sigma=0.3, tokens=40, units=WIDTH), a_layout([40] * 60)).flatten()
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert abs(noise.mean().item()) < 0.005
    within = ((noise.abs() < 0.3).float().mean().item(), (noise.abs() < 0.6).float().mean().item())
    assert within == pytest.approx((0.6827, 0.9545), abs=0.005)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("units", ["random", "leading", "per-token"])
@pytest.mark.parametrize("tokens", ["random", "leading"])
def test_t_tokens_times_h_units_of_each_text(tokens: str, units: str, padded: bool) -> None:
    """Exactly T x H distinct entries a text (T clipped to its length), none of them outside its real tokens."""
    lengths = [3, 9, 4, 17, 1]
    layout = a_layout(lengths, padded)
    made = Randout(tokens=6, units=5, choose_tokens=tokens, choose_units=units)
    noise = noise_of(made, layout, rows=len(lengths) * 17 if padded else 0)
    texts = by_text(noise, layout)
    assert [int((text != 0).sum()) for text in texts] == [min(6, n) * 5 for n in lengths]
    assert int((noise != 0).sum()) == sum(min(6, n) * 5 for n in lengths), "noise outside the texts"
    for text in texts:
        touched = (text != 0).any(1)
        assert set((text[touched] != 0).sum(1).tolist()) == {5}
        used = {tuple(row.nonzero()[:, 0].tolist()) for row in text[touched]}
        if units == "leading":
            assert used == {(0, 1, 2, 3, 4)}
        elif units == "random":
            assert len(used) == 1, "units are shared by the tokens of a text"
        if tokens == "leading":
            assert touched.nonzero()[:, 0].tolist() == list(range(min(6, len(text))))
    across = {tuple((text != 0).any(0).nonzero()[:, 0].tolist()) for text in texts}
    assert units == "leading" or len(across) > 1, "units differ from text to text"


def test_units_of_each_token_apart() -> None:
    (text,) = by_text(noise_of(Randout(tokens=8, units=4, choose_units="per-token"), layout := a_layout([20])), layout)
    rows = [tuple(row.nonzero()[:, 0].tolist()) for row in text if row.any()]
    assert len(rows) == 8
    assert len(set(rows)) > 4


def test_tokens_and_units_are_chosen_evenly() -> None:
    tokens, units = torch.zeros(12), torch.zeros(WIDTH)
    for number in range(60):
        layout = a_layout([12] * 20)
        noise = noise_of(Randout(tokens=3, units=4), layout, bare_step(number=number)).view(20, 12, WIDTH)
        tokens += (noise != 0).any(2).sum(0)
        units += (noise != 0).any(1).sum(0)
    drawn = 60 * 20
    for counts, share in ((tokens, 3 / 12), (units, 4 / WIDTH)):
        assert (counts / drawn - share).abs().max() < 5 * math.sqrt(share * (1 - share) / drawn)


def test_special_tokens_can_be_left_out() -> None:
    lengths = [2, 3, 9, 14]
    for padding in (False, True):
        layout = a_layout(lengths, padded=True)
        noise = noise_of(Randout(tokens=64, units=WIDTH, special=False, padding=padding), layout, rows=4 * 14)
        for text in by_text(noise, layout):
            assert not text[0].any()
            assert not text[-1].any()
            assert bool((text[1:-1] != 0).all())
        assert int((noise != 0).any(1).sum()) == sum(n - 2 for n in lengths)
    longer = Layout(layout.starts, layout.lengths, 14, 0, 4, prefix=2, suffix=0)
    texts = by_text(noise_of(Randout(tokens=64, units=3, special=False), longer, rows=4 * 14), longer)
    assert [(text != 0).any(1).tolist() for text in texts][2] == [False] * 2 + [True] * 7


def test_the_literal_reading_is_the_compact_tensor() -> None:
    """`h[:, :T, :H] += torch.rand([B, T, H]) - 0.5` over a padded batch: the same at every real token."""
    lengths, tokens, units = [3, 9, 4], 6, 5
    made = Randout(tokens=tokens, units=units, choose_tokens="leading", choose_units="leading", padding=True)
    layout = a_layout(lengths, padded=True)
    step = bare_step().at(layout)
    _, _, eta = made.draw(step, 1, layout, WIDTH, torch.device("cpu"))
    hidden = torch.randn(3, 9, WIDTH)
    ours = perturbed(made, step, hidden)
    literal = hidden.clone()
    literal[:, :tokens, :units] += eta
    real = torch.arange(9)[None] < layout.lengths[:, None]
    assert torch.equal(ours[real], literal[real])
    assert torch.equal(ours[~real], hidden[~real])
    generator = step.generator("randout", torch.device("cpu"), 0, 1)
    for shape in ((3, 9), (3, 1, WIDTH)):  # the draws that choose come first
        torch.rand(shape, generator=generator)
    drawn = torch.rand([3, tokens, units], generator=generator) - 0.5
    assert torch.equal(literal[real], _literally_added(hidden, drawn, tokens, units)[real])


def _literally_added(hidden: Tensor, eta: Tensor, tokens: int, units: int) -> Tensor:
    added = hidden.clone()
    added[:, :tokens, :units] += eta
    return added


def test_padding_may_take_a_share_of_the_noise() -> None:
    """With `padding` the T tokens are chosen among all positions of the padded batch; those on padding are lost."""
    lengths = [4] * 40 + [40]
    layout = a_layout(lengths)
    touched = 0
    for number in range(20):
        noise = noise_of(Randout(tokens=10, units=2, padding=True), layout, bare_step(number=number))
        touched += sum(int((text != 0).any(1).sum()) for text in by_text(noise, layout)[:40])
    assert touched / (20 * 40) == pytest.approx(10 * 4 / 40, abs=0.15)  # and not min(10, 4)


def test_replacing_in_place_of_adding() -> None:
    layout, hidden = a_layout([3, 9]), torch.randn(1, 12, WIDTH)
    added = noise_of(Randout(tokens=4, units=5), layout)
    ours = perturbed(Randout(tokens=4, units=5, replace=True), bare_step().at(layout), hidden)[0]
    assert torch.equal(ours, torch.where(added != 0, added, hidden[0]))


@pytest.mark.parametrize(("tokens", "units"), [(64, 2), (64, 48), (1, 1), (8, 16)])
def test_expected_size_of_the_noise(tokens: int, units: int) -> None:
    """sqrt(T * H / 12) by text, and what is logged is what was added."""
    layout, sizes = a_layout([64] * 40), []
    for number in range(8):
        step = bare_step(number=number)
        texts = by_text(noise_of(Randout(tokens=tokens, units=units), layout, step), layout)
        sizes += [text.norm().item() for text in texts]
        ((logged, texts_logged),) = step.logged["noise_l2"]
        assert texts_logged == 40
        assert logged.item() == pytest.approx(np.mean(sizes[-40:]), rel=1e-5)
    assert np.sqrt(np.mean(np.square(sizes))) == pytest.approx(math.sqrt(tokens * units / 12), rel=0.06)


def test_noise_is_a_function_of_its_key() -> None:
    layout, made = a_layout([5, 9]), Randout(tokens=4, units=3)
    first = noise_of(made, layout, bare_step())
    torch.rand(5)  # torch's own stream has no say
    assert torch.equal(first, noise_of(made, layout, bare_step()))
    state = torch.get_rng_state()
    noise_of(made, layout, bare_step())
    assert torch.equal(state, torch.get_rng_state()), "the noise draws from torch's own stream"
    others = [
        noise_of(made, layout, bare_step(seed=2)),
        noise_of(made, layout, bare_step(number=1)),
        perturbed(made, bare_step().at(layout, call=1), torch.zeros(1, 14, WIDTH))[0],
        noise_of(made, layout, bare_step(rank=1)),
        noise_of(made, layout, bare_step(), layer=2),
        noise_of(Randout(tokens=4, units=3, seed=1), layout, bare_step()),
    ]
    seen = [first, *others]
    assert all(not torch.equal(a, b) for at, a in enumerate(seen) for b in seen[:at])


def test_noise_does_not_depend_on_the_layout() -> None:
    """Packed, padded on the right, padded on the left: the same noise at the same (text, token, unit)."""
    lengths = [3, 9, 4, 7]
    for made in (Randout(tokens=4, units=3), Randout(tokens=4, units=3, choose_units="per-token", special=False)):
        packed = a_layout(lengths)
        expected = by_text(noise_of(made, packed), packed)
        for left in (False, True):
            padded = a_layout(lengths, padded=True, left=left)
            for ours, theirs in zip(by_text(noise_of(made, padded, rows=36), padded), expected, strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_noise_does_not_depend_on_micro_batches(size: int) -> None:
    lengths, made = [3, 4, 7, 9], Randout(tokens=4, units=3)
    whole = a_layout(lengths)
    expected = by_text(noise_of(made, whole), whole)
    found = []
    for first in range(0, 4, size):
        part = a_layout(lengths[first : first + size], first=first, of=4)
        part = Layout(part.starts, part.lengths, 9, first, 4)
        found += by_text(noise_of(made, part), part)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_half_precision() -> None:
    step = bare_step().at(a_layout([12]))
    wide = perturbed(Randout(), step, torch.zeros(1, 12, WIDTH))
    half = perturbed(Randout(), step, torch.zeros(1, 12, WIDTH, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, wide.bfloat16())


def test_gradients_pass_through_the_noise() -> None:
    for replace in (False, True):
        layout = a_layout([3, 9])
        hidden = torch.randn(1, 12, WIDTH, requires_grad=True)
        method = Randout(tokens=4, units=5, replace=replace)
        perturbed(method, bare_step().at(layout), hidden).sum().backward()
        touched = noise_of(Randout(tokens=4, units=5), layout, bare_step()) != 0
        expected = torch.where(touched, 0.0, 1.0) if replace else torch.ones(12, WIDTH)
        assert torch.equal(hidden.grad[0], expected)


def test_settings_are_checked() -> None:
    assert Randout(layers=2).layers == (2,)
    assert Randout(layers=[0, 1]).layers == (0, 1)
    for bad in ({"tokens": -1}, {"sigma": -0.1}, {"choose_units": "all"}, {"scale": float("nan")}, {"token": 3}):
        with pytest.raises(UserError, match=f"Randout: {next(iter(bad))}"):
            Randout(**bad)
    with pytest.raises(UserError, match=r"layers: found 4; expected 0 .the embeddings. to 3"):
        Randout(layers=4).check(bare_step().context)
    with pytest.raises(UserError, match="cannot be changed"):
        Randout().tokens = 3
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert all(field.description for field in method.model_fields.values()), name


def test_keys_are_told_apart() -> None:
    keys = [random_key(*parts) for parts in [(1, "a"), ("1", "a"), (1, "b"), (11,), (1, 1), (1, 1, 0), ("a", 1)]]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    assert random_key(3, "dropout", 7) == random_key(3, "dropout", 7)


# ---- in a student


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (1, 3), (0, 1, 2, 3)])
def test_noise_enters_where_it_is_asked(tiny_model: Callable[[str], Path], layers: tuple[int, ...]) -> None:
    """States before the first such place are clean; at it they differ by T x H entries a text."""
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    ids = [torch.arange(5, 5 + n) for n in (4, 9)]
    clean = encoder.forward(ids, want=Want(tuple(range(4)))).hidden
    step = Step(Context.of(encoder, 1)).at(encoder.layout(ids, 0, 2, 9))
    method = Randout(tokens=3, units=2, layers=layers)
    with method.perturb(step, State()):
        noisy = encoder.forward(ids, want=Want(tuple(range(4)))).hidden
    first = min(layers)
    assert all(torch.equal(clean[point], noisy[point]) for point in range(first))
    assert int((clean[first] != noisy[first]).sum()) == 2 * 3 * 2
    assert all(not torch.equal(clean[point], noisy[point]) for point in range(first, 4))
    assert len(step.logged["noise_l2"]) == len(layers)
    again = encoder.forward(ids, want=Want(tuple(range(4)))).hidden
    assert all(torch.equal(clean[point], again[point]) for point in range(4))


@pytest.mark.parametrize("nothing", [{"scale": 0.0}, {"tokens": 0}, {"units": 0}, {"law": "gaussian", "sigma": 0.0}])
def test_no_noise_is_no_method(tiny_model: Callable[[str], Path], nothing: dict[str, Any]) -> None:
    """Strength zero gives the bits of a training without it, dropout and all; strength one does not."""
    found = []
    for methods in ([CrossEntropy()], [CrossEntropy(), Randout(**nothing)], [CrossEntropy(), Randout()]):
        encoder = tiny_encoder(tiny_model("bert"))
        training = new_training(encoder, methods, epochs=1)
        trained(training, toy_training_data(encoder))
        found.append(weights_of(training))
    assert bit_identical(found[0], found[1])
    assert not bit_identical(found[0], found[2])


# A changed default changes every run that relies on it, and the published comparisons with it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ce": {"weight": 1.0, "label_smoothing": 0.0, "class_weights": "none"},
    "contrastive": {"form": "pairs", "weight": 4.0, "temperature": 0.1, "rows": 0},
    "kd": {"weight": 0.8, "temperature": 1.0, "reduction": "batchmean", "t_squared": False},
    "randout": {"tokens": 64, "units": 2, "layers": (1,), "law": "uniform", "low": 0.0, "high": 1.0, "offset": -0.5}
    | {"sigma": 0.1, "scale": 1.0, "choose_tokens": "random", "choose_units": "random", "special": True}
    | {"padding": False, "replace": False, "seed": 0},
    "dropout-rates": {"hidden": 0.1, "attention": 0.1},
    "mixout": {"p": 0.7},
    "noisytune": {"strength": 0.15},
    "gaussian": {"sigma": 0.1, "layer": 1},
    "gaussian-contrastive": {"sigma": 0.1, "layer": 1, "weight": 0.3, "temperature": 0.05},
    "neftune": {"alpha": 5.0},
    "equal-l2": {"tokens": 64, "units": 2, "layer": 1},
    "scattered": {"tokens": 64, "units": 2, "layer": 1},
    "embedding-adversarial": {"epsilon": 1.0, "weight": 0.3, "contrast": "info-nce", "temperature": 0.05}
    | {"off_diagonal": 0.005},
    "attention-noise": {"form": "adversarial", "epsilon": 1.0, "weight": 1.0, "blocks": (-1,), "power_iterations": 1}
    | {"xi": 1.0},
    "freelb": {"steps": 3, "ascent": 0.1, "init": 0.2, "limit": 0.3},
    "r-drop": {"alpha": 1.0},
    "hinton": {"alpha": 0.5, "temperature": 2.0},
    "hard-label": {"alpha": 0.5},
    "multi-teacher": {"weight": 1.0, "weights": (), "average": "probabilities"},
    "self-distillation": {"weight": 1.0, "form": "sda", "window": 3, "average": "uniform", "decay": 0.995},
    "weidc": {"alpha": 0.3, "weighting": "4", "checkpoint": "best"},
    "dropout-distillation": {"weight": 1.0, "passes": 4},
    "noisy-distillation": {"weight": 0.6, "teacher_dropout": True, "word_drop": 0.1, "shuffle": 3},
    "metadistil": {"weight": 0.5, "temperature": 5.0, "pilot_rate": 5e-05, "teacher_learning_rate": 1e-05}
    | {"optimizer": "adamw", "max_grad_norm": 1.0, "form": "exact", "teacher_dropout": False},
    "layer-matching": {"hidden": 1.0, "attention": 0.0, "pairs": (), "states": "auto", "normalize": False},
    "term-spans": {"terms": (), "weight": 0.3},
    "term-pooling": {"terms": (), "weight": 1.0},
}


def test_the_defaults_of_every_method() -> None:
    assert {name: method().model_dump() for name, method in METHODS.items()} == DEFAULTS
