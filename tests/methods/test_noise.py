"""The noises beside Randout and its controls: their equations written out plainly, their sizes, and where they act."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_equations import a_layout, by_text
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.integrations.attach import applied
from randout.methods.base import Batch, Context, Method, State, Step
from randout.methods.builtin import METHODS
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.equal_l2 import EqualL2
from randout.methods.functional import info_nce
from randout.methods.gaussian import Gaussian
from randout.methods.gaussian_contrastive import GaussianContrastive
from randout.methods.neftune import NEFTune
from randout.methods.randout import Randout
from randout.methods.scattered import Scattered
from randout.models.encoder import Output, Want
from randout.models.hooks import HookPoints, Layout
from support.external_loops import difference, foreign, make_batch
from support.perturbed import bare_step, perturbed
from support.training import hooks_of, new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
WIDTH = 48
LENGTHS = [3, 9, 4, 17, 1]
STATES = (Gaussian(), GaussianContrastive(), EqualL2(tokens=6, units=5), Scattered(tokens=6, units=5))
ADDED = (*STATES, NEFTune())
added = pytest.mark.parametrize("method", ADDED, ids=lambda method: method.name)


def noise_of(method: Any, layout: Layout, step: Step | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is added to a state of zeros, (rows, WIDTH)."""
    step = (step or bare_step()).at(layout)
    zeros = torch.zeros(1, int((layout.starts + layout.lengths).max()), WIDTH, dtype=dtype)
    return perturbed(method, step, zeros)[0]


# ---- every noise that is added


@added
def test_every_real_token_and_no_other(method: Method) -> None:
    layout = a_layout(LENGTHS, padded=True)
    noise = noise_of(method, layout)
    for text, length in zip(by_text(noise, layout), LENGTHS, strict=True):
        assert int((text != 0).sum()) == (min(6, length) * 5 if isinstance(method, Scattered) else length * WIDTH)
    inside = sum(int((text != 0).sum()) for text in by_text(noise, layout))
    assert int((noise != 0).sum()) == inside, "noise on padding"


@added
def test_it_is_a_function_of_its_key_and_of_nothing_else(method: Any) -> None:
    layout = a_layout(LENGTHS)
    state = torch.get_rng_state()
    first = noise_of(method, layout)
    assert torch.equal(state, torch.get_rng_state()), "the noise draws from torch's own stream"
    torch.rand(5)
    assert torch.equal(first, noise_of(method, layout))
    others = [noise_of(method, layout, bare_step(**key)) for key in ({"seed": 2}, {"number": 1}, {"rank": 1})]
    second = perturbed(method, bare_step().at(layout, call=1), torch.zeros(1, sum(LENGTHS), WIDTH))[0]
    seen = [first, *others, second]
    assert all(not torch.equal(a, b) for at, a in enumerate(seen) for b in seen[:at])


@added
def test_it_depends_neither_on_the_layout_nor_on_micro_batches(method: Method) -> None:
    packed = a_layout(LENGTHS)
    expected = by_text(noise_of(method, packed), packed)
    for left in (False, True):
        padded = a_layout(LENGTHS, padded=True, left=left)
        for ours, theirs in zip(by_text(noise_of(method, padded), padded), expected, strict=True):
            assert torch.equal(ours, theirs)
    for size in (1, 2, 3):
        found: list[Tensor] = []
        for first in range(0, len(LENGTHS), size):
            part = a_layout(LENGTHS[first : first + size])
            part = Layout(part.starts, part.lengths, max(LENGTHS), first, len(LENGTHS))
            found += by_text(noise_of(method, part), part)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@added
def test_half_precision_and_gradients(method: Any) -> None:
    layout = a_layout(LENGTHS)
    hidden = torch.randn(1, sum(LENGTHS), WIDTH, requires_grad=True)
    half = noise_of(method, layout, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, noise_of(method, layout).bfloat16())
    perturbed(method, bare_step().at(layout), hidden).sum().backward()
    assert torch.equal(hidden.grad, torch.ones_like(hidden))


@added
def test_what_is_logged_is_what_was_added(method: Method) -> None:
    layout, step = a_layout(LENGTHS), bare_step()
    norms = [float(text.norm()) for text in by_text(noise_of(method, layout, step), layout)]
    ((logged, texts),) = step.logged["noise_l2"]
    assert texts == len(LENGTHS)
    assert float(logged) == pytest.approx(np.mean(norms), rel=1e-5)


@pytest.mark.parametrize("method", STATES, ids=lambda method: method.name)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_it_enters_at_its_layer(tiny_model: Tiny, method: Method, layer: int) -> None:
    """States before it are clean, it and those after it are not; the clean pass after it is clean."""
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    ids, want = [torch.arange(5, 5 + n) for n in (4, 9)], Want((0, 1, 2, 3))
    clean = encoder.forward(ids, want).hidden
    step = Step(Context.of(encoder, 1)).at(encoder.layout(ids, 0, 2, 9))
    method = method.model_copy(update={"layer": layer})
    method.check(step.context)
    with method.perturb(step, State()):
        noisy = encoder.forward(ids, want).hidden
    assert [torch.equal(clean[point], noisy[point]) for point in range(4)] == [point < layer for point in range(4)]
    again = encoder.forward(ids, want).hidden
    assert all(torch.equal(clean[point], again[point]) for point in range(4))


@pytest.mark.parametrize("method", STATES, ids=lambda method: method.name)
def test_a_layer_that_is_not_there(method: Method) -> None:
    method = method.model_copy(update={"layer": 4})
    with pytest.raises(UserError, match=rf"methods.{method.name}.layer: found 4; expected 0 .the embeddings. to 3"):
        method.check(bare_step().context)


def test_a_contrast_needs_blocks() -> None:
    with pytest.raises(
        UserError, match=r"methods.gaussian-contrastive: not supported because this student is a neural baseline"
    ):
        GaussianContrastive().check(Context(nn.Identity(), HookPoints(nn.Identity(), ()), 1))


ALONE = [method for method in ADDED if not isinstance(method, GaussianContrastive)]  # its loss has to be asked for


@pytest.mark.parametrize("method", ALONE, ids=lambda method: method.name)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "albert", "modernbert", "deberta-v2"])
def test_on_a_model_of_another_training_loop(tiny_model: Tiny, method: Method, family: str) -> None:
    """In training only, on real tokens only, and gone afterwards."""
    model, batch = foreign(tiny_model(family)), make_batch()
    hooks, names = hooks_of(model), [name for name, _ in model.named_parameters()]
    with applied(model, method) as context:
        first, second = model(**batch).logits, model(**batch).logits
        if not isinstance(method, NEFTune):
            real = batch["attention_mask"].bool()
            noise = difference(model, context, **batch)
            assert noise[real].any()
            assert not noise[~real].any()
        model.eval()
        clean = model(**batch).logits
        model.train()
    assert not torch.equal(first, second)
    assert hooks_of(model) == hooks
    assert [name for name, _ in model.named_parameters()] == names
    assert torch.equal(model.eval()(**batch).logits, clean)
    assert not torch.equal(first, clean)


# ---- Gaussian (2204.06337)


@pytest.mark.parametrize("method", [Gaussian(sigma=0.3), GaussianContrastive(sigma=0.3)], ids=lambda m: m.name)
def test_gaussian_noise_in_law(method: Method) -> None:
    noise = noise_of(method, a_layout([40] * 60)).flatten().double()
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert abs(noise.mean().item()) < 0.005
    within = ((noise.abs() < 0.3).double().mean().item(), (noise.abs() < 0.6).double().mean().item())
    assert within == pytest.approx((0.6827, 0.9545), abs=0.005)


def test_gaussian_noise_is_sigma_times_its_draw() -> None:
    """h_l + sigma * N(0, 1), the draw being that of the whole padded step."""
    step, hidden = bare_step().at(a_layout(LENGTHS, padded=True)), torch.randn(5, 17, WIDTH)
    eta = torch.randn(5, 17, WIDTH, generator=step.generator("gaussian", torch.device("cpu")))
    real = torch.arange(17)[None, :, None] < torch.tensor(LENGTHS)[:, None, None]
    torch.testing.assert_close(perturbed(Gaussian(sigma=0.05), step, hidden), hidden + 0.05 * eta * real)


def two_branches(folder: Path, method: GaussianContrastive, dropout: float = 0.0) -> tuple[Any, Batch, Output, dict]:
    """The first step, its batch, the noisy branch, and the method's losses."""
    from functools import partial

    from randout.training.loop import batch_of, step_at

    encoder = tiny_encoder(folder, dropout=dropout, attention_dropout=dropout)
    training = new_training(encoder, [CrossEntropy(), method])
    data = toy_training_data(encoder, 8, unlabelled=2)
    rows = np.argsort(data.tokens.lengths, kind="stable")
    batch = batch_of(training, data, rows, rows, 0)
    step = step_at(training, data, 0)
    forward = partial(step.forward, batch)
    noisy = forward(want=training.stack.want)
    return step, batch, noisy, method.loss(step, training.stack.states[1], noisy, batch, forward)


def test_two_branches_and_their_contrast(tiny_model: Tiny) -> None:
    """(CE(z) + CE(z~)) / 2 + weight * InfoNCE(c, c~), on branches computed apart, dropout off."""
    method = GaussianContrastive(sigma=0.2, layer=2, weight=0.4, temperature=0.1)
    first, batch, _, losses = two_branches(tiny_model("bert"), method)
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    step = Step(Context.of(encoder, first.context.seed)).at(encoder.layout(batch.ids, 0, 8, batch.longest))
    states, logits = [], []
    for noise in (False, True):
        with method.perturb(step, State()) if noise else nullcontext():
            output = encoder.forward(batch.ids, Want((3,)))
        starts = step.layout.starts
        states.append(output.hidden[3][0, starts])
        logits.append(output.logits)
    labelled = batch.labels >= 0
    gold = [-row.log_softmax(1)[labelled, batch.labels[labelled]].sum() / labelled.sum() for row in logits]
    assert not torch.equal(*logits)
    torch.testing.assert_close(losses["ce"], (gold[0] + gold[1]) / 2)
    torch.testing.assert_close(losses["gaussian-contrastive"], 0.4 * info_nce(*states, 0.1))


def test_branches_share_their_dropout_masks(tiny_model: Tiny) -> None:
    """Without noise the two branches are one, dropout on: each vector's positive is itself."""
    method = GaussianContrastive(sigma=0.0, weight=1.0)
    first, batch, noisy, losses = two_branches(tiny_model("bert"), method, dropout=0.3)
    torch.testing.assert_close(losses["ce"], first.gold_loss(noisy, batch))
    torch.testing.assert_close(losses["gaussian-contrastive"], info_nce(noisy.pooled, noisy.pooled, 0.05))
    with_noise = two_branches(tiny_model("bert"), GaussianContrastive(sigma=1.0, weight=1.0), dropout=0.3)[3]
    assert with_noise["gaussian-contrastive"] > 1.01 * losses["gaussian-contrastive"]


def test_gradient_reaches_both_branches(tiny_model: Tiny) -> None:
    first, _, noisy, losses = two_branches(tiny_model("bert"), GaussianContrastive(weight=1.0))
    head = [p for n, p in first.context.model.named_parameters() if n.startswith("classifier")]
    body: Any = first.context.hook_points.blocks[0].attention.self.query.weight
    assert torch.autograd.grad(losses["gaussian-contrastive"], body, retain_graph=True)[0].abs().max() > 0
    assert (
        torch.autograd.grad(losses["gaussian-contrastive"], head, retain_graph=True, allow_unused=True) == (None,) * 2
    )
    (half,) = torch.autograd.grad(losses["ce"], noisy.logits, retain_graph=True)
    assert half.abs().max() > 0


# ---- NEFTune (2310.05914)


def test_neftune_is_its_algorithm() -> None:
    """X + alpha / sqrt(L d) * eps with eps ~ U(-1, 1), L of each text apart."""
    step, embedded = bare_step().at(a_layout(LENGTHS, padded=True)), torch.randn(5, 17, WIDTH)
    eps = 2 * torch.rand(5, 17, WIDTH, generator=step.generator("neftune", torch.device("cpu"))) - 1
    expected = embedded.clone()
    for row, length in enumerate(LENGTHS):
        expected[row, :length] += 7 / math.sqrt(length * WIDTH) * eps[row, :length]
    ours = perturbed(NEFTune(alpha=7), step, embedded)
    torch.testing.assert_close(ours, expected)


def test_neftune_and_transformers_own() -> None:
    """The same law and bound where nothing is padded; where something is, theirs counts padding and perturbs it."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    class Words(nn.Module):
        neftune_noise_alpha = 5.0

    def theirs(rows: int, longest: int) -> Tensor:
        return neftune_post_forward_hook(Words().train(), None, torch.zeros(rows, longest, WIDTH))

    torch.manual_seed(0)
    even = a_layout([40] * 50)
    for noise in (noise_of(NEFTune(), even), theirs(50, 40)):
        bound = 5 / math.sqrt(40 * WIDTH)
        assert 0.999 * bound < noise.abs().max() <= bound
        assert noise.double().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        assert abs(noise.double().mean().item()) < 0.001
        counts = torch.histc(noise, 20, -bound, bound) / noise.numel()
        assert (counts - 0.05).abs().max() < 0.003
    uneven = a_layout([10] * 49 + [40], padded=True)
    ours, other = noise_of(NEFTune(), uneven).view(50, 40, WIDTH), theirs(50, 40)
    assert ours[:49].abs().max() > 1.9 * other[:49].abs().max()  # sqrt(40 / 10) = 2 times as large
    assert not ours[:49, 10:].any()
    assert other[:49, 10:].any(), "theirs perturbs padding"


def test_neftunes_norm_does_not_depend_on_the_length() -> None:
    layout = a_layout([5, 20, 60] * 30)
    norms = torch.tensor([float(text.norm()) for text in by_text(noise_of(NEFTune(), layout), layout)])
    for kind in range(3):
        assert norms[kind::3].mean().item() == pytest.approx(5 / math.sqrt(3), rel=0.03)  # 2.9


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_neftune_acts_on_word_embeddings(tiny_model: Tiny, family: str) -> None:
    """In their own width (ELECTRA's is not that of its states)."""
    encoder = tiny_encoder(tiny_model(family), dropout=0.0, attention_dropout=0.0)
    ids, seen = [torch.arange(5, 5 + n) for n in (4, 9)], []
    step = Step(Context.of(encoder, 1)).at(encoder.layout(ids, 0, 2, 9))
    with NEFTune().perturb(step, State()):
        handle = encoder.hook_points.words.register_forward_hook(lambda _m, _a, output: seen.append(output.detach()))
        encoder.forward(ids)
        handle.remove()
    width = encoder.hook_points.words.weight.shape[1]
    assert width == (16 if family == "electra" else 32)
    noise = seen[0][0] - encoder.hook_points.words.weight.detach()[torch.cat(ids)]
    for part, length in zip(noise.split([4, 9]), (4, 9), strict=True):
        bound = 5 / math.sqrt(length * width)
        assert 0.9 * bound < part.abs().max() <= bound + 1e-6


def test_neftune_needs_words() -> None:
    with pytest.raises(UserError, match=r"methods.neftune: no token embedding"):
        NEFTune().check(Context(nn.Identity(), HookPoints(nn.Identity(), ()), 1))


# ---- controls


@pytest.mark.parametrize("made", [{"tokens": 6, "units": 5}, {"tokens": 64, "units": 2}, {"tokens": 1, "units": 99}])
@pytest.mark.parametrize("control", [EqualL2, Scattered])
def test_controls_are_as_large_as_randout(control: Any, made: dict[str, int]) -> None:
    """E ||eta||^2 = min(T, n) * min(H, d) / 12 in each text, Randout's and the controls'."""
    lengths = [3] * 40 + [20] * 40 + [70] * 40
    layout, squares = a_layout(lengths), {}
    for method in (control(**made), Randout(**made)):
        found = torch.zeros(len(lengths))
        for number in range(12):
            noise = (
                noise_of(method, layout, bare_step(number=number))
                if isinstance(method, control)
                else _randout(method, layout, number)
            )
            found += torch.tensor([float(text.square().sum()) for text in by_text(noise, layout)]) / 12
        squares[type(method)] = [float(part.mean()) for part in found.split(40)]
    expected = [min(made["tokens"], n) * min(made["units"], WIDTH) / 12 for n in (3, 20, 70)]
    assert squares[control] == pytest.approx(expected, rel=0.12)
    assert squares[Randout] == pytest.approx(expected, rel=0.12)


def _randout(method: Randout, layout: Layout, number: int) -> Tensor:
    return perturbed(method, bare_step(number=number).at(layout), torch.zeros(1, int(layout.lengths.sum()), WIDTH))[0]


def test_equal_l2_is_spread_over_all_places() -> None:
    """Normal with s = sqrt(min(T, n) * min(H, d) / (12 n d)), by hand: 6 * 5 / (12 * 60 * 48) = .0295^2."""
    noise = noise_of(EqualL2(tokens=6, units=5), a_layout([60] * 30)).flatten().double()
    assert noise.std().item() == pytest.approx(0.0294628, rel=0.01)
    assert (noise.abs() < 0.0294628).double().mean().item() == pytest.approx(0.6827, abs=0.005)


def test_scattered_numbers_are_randouts_and_their_places_are_not() -> None:
    """Exactly k numbers a text, U(-.5, .5); places even over tokens and units; tokens do not share units."""
    lengths = [12] * 400
    layout = a_layout(lengths)
    noise = noise_of(Scattered(tokens=6, units=5), layout)
    values = noise[noise != 0].double()
    assert len(values) == 400 * 30
    assert values.abs().max() <= 0.5
    assert values.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.02)
    assert (torch.histc(values.float(), 10, -0.5, 0.5) / len(values) - 0.1).abs().max() < 0.015
    counts = (noise.view(400, 12, WIDTH) != 0).sum(0) / 400
    share = 30 / (12 * WIDTH)
    assert (counts - share).abs().max() < 5 * math.sqrt(share * (1 - share) / 400)
    texts = by_text(noise, layout)
    assert np.mean([float((text != 0).any(0).sum()) for text in texts]) > 20, "units are shared by the tokens"
    assert np.mean([float((text != 0).any(1).sum()) for text in texts]) > 10, "tokens are chosen as by Randout"


def test_scattered_with_all_places_is_noise_everywhere() -> None:
    layout = a_layout([3, 9])
    noise = noise_of(Scattered(tokens=64, units=WIDTH), layout)
    assert bool((noise != 0).all())


def test_kinds_of_the_shelf() -> None:
    kinds = {
        name: METHODS[name].kind for name in ("gaussian", "gaussian-contrastive", "neftune", "equal-l2", "scattered")
    }
    assert [name for name, kind in kinds.items() if kind == "control"] == ["equal-l2", "scattered"]
    for method in ADDED:
        assert method.source
        for name, values in method.space.items():
            assert all(type(method)(**{name: value}) for value in values)
