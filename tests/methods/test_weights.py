"""Methods that act on weights and rates: dropout at rates of choice, Mixout, NoisyTune."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.integrations.attach import applied
from randout.methods.base import Context, Method, Pass, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.dropout_rates import DropoutRates
from randout.methods.mixout import Mixout
from randout.methods.noisytune import NoisyTune
from randout.models.hooks import HookPoints, Layout
from randout.models.kernels import dropout
from randout.testing.models import FAMILIES
from support.external_loops import foreign, make_batch
from support.training import bit_identical, new_training, tiny_encoder, toy_training_data, trained, weights_of

Tiny = Callable[[str], Path]


def rates_of(model: Any) -> list[tuple[str, float]]:
    """Every rate of a model by name: those of its dropouts and ModernBERT's own number."""
    found = [(name, module.p) for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    own = [(name, m.attention_dropout) for name, m in model.named_modules() if isinstance(_of(m), float)]
    return found + own


def _of(module: nn.Module) -> Any:
    return vars(module).get("attention_dropout")


# ---- dropout


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_rates_are_those_of_the_configuration(load: Any, family: str) -> None:
    """A model built with two rates has, at each place, the one that this place is taken for."""
    model = load(family, dropout=0.2, attention_dropout=0.3).model
    hidden, attention = dropout.places(model.base_model)
    assert {getattr(*place) for place in attention} == {0.3}
    after_attention = {0.3} if family == "modernbert" else set()  # it drops its attention's output at that rate
    assert {getattr(*place) for place in hidden} == {0.2} | after_attention
    blocks = len({id(block) for block in HookPoints.of(model).blocks})
    assert len(attention) == blocks
    every = sum(isinstance(module, nn.Dropout) for module in model.base_model.modules())
    own = blocks if family == "modernbert" else 0
    assert len(hidden) + len(attention) == every + own


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "modernbert", "deberta-v2"])
def test_rates_are_set_and_put_back(load: Any, family: str) -> None:
    model = load(family, dropout=0.2, attention_dropout=0.3).model
    before = rates_of(model)
    with dropout.rates(model.base_model, 0.05, None):
        assert {getattr(*place) for place in dropout.places(model.base_model)[0]} == {0.05}
        assert {getattr(*place) for place in dropout.places(model.base_model)[1]} == {0.3}
        with dropout.rates(model.base_model, None, 0.0):
            hidden, attention = dropout.places(model.base_model)
            assert {getattr(*p) for p in hidden} == {0.05}
            assert {getattr(*p) for p in attention} == {0.0}
    assert rates_of(model) == before
    with pytest.raises(KeyError), dropout.rates(model, 0.5, 0.5):
        raise KeyError
    assert rates_of(model) == before


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert"])
@pytest.mark.parametrize("rate", ["hidden", "attention"])
def test_dropout_method_sets_what_it_names(tiny_model: Tiny, family: str, rate: str) -> None:
    """Training forwards vary with the rate and only with it; rate 0 is the forward of evaluation (head off)."""
    encoder = tiny_encoder(tiny_model(family))
    ids = [torch.arange(5, 5 + n) for n in (4, 9)]
    head = [m for n, m in encoder.model.named_children() if n != encoder.model.base_model_prefix]
    for module in (m for part in head for m in part.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    clean = encoder.forward(ids).logits
    encoder.model.train()
    for strength in (0.0, 0.4):
        method = DropoutRates(**({"hidden": 0.0, "attention": 0.0} | {rate: strength}))
        step = Step(Context.of(encoder, 1)).at(encoder.layout(ids, 0, 2, 9))
        with method.perturb(step, State()):
            one, other = encoder.forward(ids).logits, encoder.forward(ids).logits
        assert torch.equal(one, other) == (strength == 0)
        if strength == 0:
            torch.testing.assert_close(one, clean)
    assert not torch.equal(encoder.forward(ids).logits, encoder.forward(ids).logits)  # its own rates again


def test_dropout_law(tiny_model: Tiny) -> None:
    """x * m / (1 - p): what passes the embeddings' dropout is 0 with probability p, else x / (1 - p)."""
    encoder = tiny_encoder(tiny_model("bert"))
    ids = [torch.arange(5, 45)] * 30
    step = Step(Context.of(encoder, 1)).at(encoder.layout(ids, 0, 30, 40))
    drop = encoder.model.base_model.embeddings.dropout
    seen: list[tuple[Tensor, Tensor]] = []
    handle = drop.register_forward_hook(lambda _m, given, output: seen.append((given[0], output)))
    encoder.model.train()
    with DropoutRates(hidden=0.3).perturb(step, State()):
        encoder.forward(ids)
    handle.remove()
    before, after = seen[0]
    kept = after != 0
    assert 1 - kept.float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(after[kept], before[kept] / 0.7, rtol=1e-4, atol=0)


def test_dropout_refuses_what_is_not_there() -> None:
    context = Context(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), HookPoints(nn.Identity(), ()), 1)
    DropoutRates(attention="model").check(context)
    DropoutRates(attention=0.0).check(context)
    with pytest.raises(
        UserError, match=r"methods.dropout-rates.attention: found 0.1, but this student has no attention"
    ):
        DropoutRates().check(context)


# ---- Mixout


def reference(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor, mask: Tensor, p: float) -> Tensor:
    """The authors' layer: for a matrix the mask (1 where the target stays) is one row drawn over the input columns and
    repeated for every output, then ((1 - mask) * weight + mask * target - p * target) / (1 - p).
    """
    rows, columns = weight.shape
    output = torch.empty(rows, columns, dtype=weight.dtype)
    for row in range(rows):
        for column in range(columns):
            w, u, m = (float(t) for t in (weight[row, column], target[row, column], mask[column]))
            output[row, column] = ((1 - m) * w + m * u - p * u) / (1 - p)
    return x @ output.T + bias


def a_layer(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer, its pretrained weight, and an input (4, 6)."""
    torch.manual_seed(seed)
    return nn.Linear(6, 5).double(), torch.randn(5, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)


def a_pass(call: int = 0, **changes: Any) -> Pass:
    step = Step(Context(nn.Identity(), HookPoints(nn.Identity(), ()), 1), **changes)
    return step.at(Layout(torch.tensor([0]), torch.tensor([4]), 4, 0, 1), call)


def mixed(p: float, step: Pass, u: Tensor, layer: nn.Linear, x: Tensor) -> Tensor:
    """Output of `layer`, of an encoder whose only layer it is, within Mixout's `perturb`. u: its pretrained weight."""
    model = nn.Module()
    model.base_model = nn.ModuleDict({"a": layer})
    step = replace(step, context=replace(step.context, model=model))
    with Mixout(p=p).perturb(step, State(tensors={"a": u})):
        return layer(x)


def kept(p: float, width: int, step: Step, name: str = "a") -> Tensor:
    """The columns that stay the trained ones, as the method draws them."""
    return torch.rand(width, generator=step.generator("mixout", torch.device("cpu"), name)) >= p


@pytest.mark.parametrize("p", [0.3, 0.7, 0.9])
def test_mixout_is_its_equation_and_the_authors(p: float) -> None:
    layer, u, x = a_layer()
    step = a_pass()
    ours = mixed(p, step, u, layer, x)
    m = kept(p, 6, step).double()
    assert m.sum() > 0 or p > 0.5
    w = layer.weight.detach()
    weight = ((1 - m) * u + m * w - p * u) / (1 - p)
    torch.testing.assert_close(ours, x @ weight.T + layer.bias)
    torch.testing.assert_close(ours, reference(x, w, u, layer.bias.detach(), 1 - m, p))


def test_mixout_by_hand() -> None:
    """w = [[2, 3]], u = [[1, 1]], p = .5, the first column kept: [[(2 - .5) / .5, (1 - .5) / .5]] = [[3, 1]]."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, 3.0]])
    number = next(number for number in range(50) if kept(0.5, 2, a_pass(number=number)).tolist() == [True, False])
    ours = mixed(0.5, a_pass(number=number), torch.ones(1, 2), layer, torch.eye(2))
    assert ours[:, 0].tolist() == [3.0, 1.0]


def test_mixouts_expectation_is_the_weight_itself() -> None:
    layer, u, _ = a_layer()
    total = torch.zeros(5, 6, dtype=torch.float64)
    shares = torch.zeros(6)
    for number in range(4000):
        step = a_pass(number=number)
        total += (mixed(0.7, step, u, layer, torch.eye(6).double()) - layer.bias).T
        shares += kept(0.7, 6, step)
    assert (total / 4000 - layer.weight).abs().max() < 0.2  # the sd of one is up to 4, over sqrt(4000)
    assert (shares / 4000 - 0.3).abs().max() < 4 * math.sqrt(0.21 / 4000)


def test_mixouts_gradient_is_autograds() -> None:
    """dL/dw = m / (1 - p) * dL/dW~ (the authors' backward leaves 1 / (1 - p) out); none reaches u."""
    layer, u, x = a_layer()
    step = a_pass()
    u.requires_grad_()
    mixed(0.6, step, u.detach(), layer, x).square().sum().backward()
    m = kept(0.6, 6, step).double()
    effective = (((1 - m) * u + m * layer.weight - 0.6 * u) / 0.4).detach().requires_grad_()
    (x @ effective.T + layer.bias.detach()).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, m / 0.4 * effective.grad)
    assert layer.weight.grad[:, m == 0].abs().max() == 0
    assert u.grad is None


def test_mixouts_masks_are_keyed() -> None:
    seen = [
        kept(0.5, 60, a_pass()),
        *(kept(0.5, 60, a_pass(**key)) for key in ({"number": 1}, {"call": 1}, {"rank": 1})),
    ]
    layer, u, x = a_layer()
    seen += [kept(0.5, 60, a_pass(), name="b")]
    assert all(not torch.equal(a, b) for at, a in enumerate(seen) for b in seen[:at])
    one, other = (mixed(0.5, a_pass(), u, layer, x) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "distilbert", "modernbert", "deberta-v2"])
def test_mixout_in_a_model(tiny_model: Tiny, family: str) -> None:
    """The forward is that of a plain model holding the mixed weights: every Linear of the encoder and nothing else.

    Its dropout is off, its head's is on; evaluation and clean passes use w; parameters and forwards are left as found.
    """
    encoder = tiny_encoder(tiny_model(family))
    model, method, ids = encoder.model, Mixout(p=0.6), [torch.arange(5, 5 + n) for n in (4, 9)]
    names = [name for name, _ in model.named_parameters()]
    step = Step(replace(Context.of(encoder, 1), fresh=frozenset())).at(encoder.layout(ids, 0, 2, 9))
    state = method.start(step.context)
    linear = {name for name, m in model.base_model.named_modules() if isinstance(m, nn.Linear)}
    assert set(state.tensors) == linear
    assert all(torch.equal(u, model.base_model.get_submodule(n).weight) for n, u in state.tensors.items())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    prefix, mixed = model.base_model_prefix, {}
    for name, u in state.tensors.items():
        w = model.base_model.get_submodule(name).weight.detach()
        m = kept(0.6, w.shape[1], step, name).float()
        mixed[f"{prefix}.{name}.weight"] = ((1 - m) * u + m * w - 0.6 * u) / 0.4
    with dropout.rates(model, 0.0, 0.0):
        clean, expected = encoder.forward(ids).logits, encoder.forward(ids, weights=mixed).logits
    model.train()
    before = rates_of(model)
    with method.perturb(step, state):
        head = [(n, rate) for n, rate in rates_of(model) if not n.startswith(f"{prefix}.")]
        assert head == [(n, rate) for n, rate in before if not n.startswith(f"{prefix}.")] != []
        assert {getattr(*place) for group in dropout.places(model.base_model) for place in group} == {0.0}
        with dropout.rates(model, 0.0, 0.0):
            torch.testing.assert_close(encoder.forward(ids).logits, expected, rtol=1e-4, atol=1e-5)
    with dropout.rates(model, 0.0, 0.0):
        torch.testing.assert_close(encoder.forward(ids).logits, clean)
    assert not torch.allclose(clean, expected, atol=1e-3)
    assert rates_of(model) == before
    assert not any("forward" in vars(module) for module in model.modules())
    assert [name for name, _ in model.named_parameters()] == names


def test_mixout_under_functional_call(tiny_model: Tiny) -> None:
    """Weights given to the forward are mixed in place of the model's own, and get the gradient."""
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    training = new_training(encoder, [CrossEntropy(), Mixout(p=0.6)])
    ids = [torch.arange(5, 5 + n) for n in (4, 9)]
    step = Step(training.stack.context).at(encoder.layout(ids, 0, 2, 9))
    other = {n: (p + 0.1).detach().requires_grad_() for n, p in encoder.model.named_parameters()}
    found = []
    for given in (True, False):
        if not given:
            encoder.model.load_state_dict(other, strict=False)
        with training.stack.methods[1].perturb(step, training.stack.states[1]):
            output = encoder.forward(ids, weights=other if given else None)
        parameters = other if given else dict(encoder.model.named_parameters())
        gradients = torch.autograd.grad(output.logits.square().sum(), list(parameters.values()), allow_unused=True)
        found.append((output.logits, *gradients))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert any(g is not None and g.abs().max() > 0 for g in found[0][1:])


def test_mixout_moves_from_the_pretrained_weights(tiny_model: Tiny) -> None:
    """u stays as it was, while w is trained; a forward somebody else had set is put back."""
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy(), Mixout()])
    began = {name: tensor.clone() for name, tensor in training.stack.states[1].tensors.items()}
    layer = encoder.hook_points.blocks[0].attention.self.query
    own = layer.forward
    layer.forward = lambda x: own(x)
    set_by_others = layer.forward
    trained(training, toy_training_data(encoder))
    assert bit_identical(began, training.stack.states[1].tensors)
    name = "encoder.layer.0.attention.self.query"
    assert not torch.equal(layer.weight, began[name])
    assert layer.forward is set_by_others


def test_mixout_on_a_model_of_another_training_loop(tiny_model: Tiny) -> None:
    model, batch = foreign(tiny_model("bert")), make_batch()
    pretrained = {name: p.detach().clone() for name, p in model.named_parameters()}
    with applied(model, Mixout(p=0.7)):
        assert torch.allclose(model(**batch).logits, model.eval()(**batch).logits, atol=1e-5), "w is u still"
        model.train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1
        one, other = model(**batch).logits, model(**batch).logits
        assert not torch.equal(one, other), "each forward draws anew"
        one.sum().backward()
        clean = model.eval()(**batch).logits
    assert torch.equal(clean, model(**batch).logits)
    assert list(pretrained) == [name for name, _ in model.named_parameters()]
    queries = [p for n, p in model.named_parameters() if "query" in n]
    assert len(queries) == 6, "weights and biases of three blocks"
    assert all(p.grad is not None and bool(p.grad.any()) for p in queries)


# ---- NoisyTune


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_noisytune_is_its_equation(tiny_model: Tiny, family: str) -> None:
    """W + (rand - .5) * lambda * std(W) tensor by tensor, std by n - 1; the head is left alone."""
    plain, noisy = tiny_encoder(tiny_model(family)), tiny_encoder(tiny_model(family))
    context = Context(noisy.model, noisy.hook_points, 5)
    NoisyTune(strength=0.3).start(context)
    prefix = plain.model.base_model_prefix + "."
    for name, before in plain.model.named_parameters():
        after, w = noisy.model.get_parameter(name), before.detach().double()
        if not name.startswith(prefix):
            assert torch.equal(before, after)
            continue
        rand = torch.rand(w.shape, generator=context.generator("noisytune", torch.device("cpu"), name[len(prefix) :]))
        sd = math.sqrt(float((w - w.mean()).square().sum()) / (w.numel() - 1))
        torch.testing.assert_close(after.double(), w + (rand.double() - 0.5) * 0.3 * sd, rtol=1e-5, atol=1e-7)


def test_noisytunes_size(tiny_model: Tiny) -> None:
    """Noise of sd lambda * std(W) / sqrt(12), never beyond lambda * std(W) / 2; other seeds, other noise."""
    plain, found = tiny_encoder(tiny_model("bert")), []
    before = plain.model.get_input_embeddings().weight
    for seed in (1, 1, 2):
        noisy = tiny_encoder(tiny_model("bert"))
        NoisyTune().start(Context(noisy.model, noisy.hook_points, seed))
        found.append((noisy.model.get_input_embeddings().weight - before).detach())
    sd = 0.15 * before.std().item()
    assert found[0].std().item() == pytest.approx(sd / math.sqrt(12), rel=0.02)
    assert 0.99 * sd / 2 < found[0].abs().max().item() < 1.0001 * sd / 2
    assert abs(found[0].mean().item()) < 0.02 * sd
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_noisytune_leaves_single_numbers_and_constants() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.even = nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((7,), 3.0))
            self.base_model = nn.ParameterList([self.one, self.even, nn.Parameter(torch.arange(4.0))])

    model = Model()
    NoisyTune().start(Context(model, HookPoints(nn.Identity(), ()), 1))
    assert model.one.item() == 1.0, "the std of one number is not a number"
    assert torch.equal(model.even, torch.full((7,), 3.0))
    assert not torch.equal(model.base_model[2], torch.arange(4.0))
    assert model.base_model[2].requires_grad


def test_noisytune_is_done_once(tiny_model: Tiny) -> None:
    """Before the optimizer exists: the training is that of a student whose weights were so to begin with."""
    ours = tiny_encoder(tiny_model("bert"))
    training = new_training(ours, [CrossEntropy(), NoisyTune()])
    theirs = tiny_encoder(tiny_model("bert"))
    theirs.model.load_state_dict(ours.model.state_dict())
    plain = new_training(theirs, [CrossEntropy()])
    trained(training, toy_training_data(ours))
    trained(plain, toy_training_data(theirs))
    assert bit_identical(weights_of(training), weights_of(plain))


# ---- what they need


@pytest.mark.parametrize("method", [Mixout(), NoisyTune()], ids=lambda method: method.name)
def test_a_pretrained_encoder_is_needed(method: Method) -> None:
    with pytest.raises(UserError, match=rf"methods.{method.name}: the student Linear has no pretrained encoder"):
        method.check(Context(nn.Linear(2, 2), HookPoints(nn.Identity(), ()), 1))


def test_spaces_and_variants_are_settings() -> None:
    for method in (DropoutRates, Mixout, NoisyTune):
        assert method.space
        for name, values in method.space.items():
            assert all(method(**{name: value}) for value in values)
        assert all(method(**settings) for settings in method.variants.values())


def test_defaults_are_those_of_the_papers() -> None:
    assert Mixout().p == 0.7
    assert NoisyTune().strength == 0.15
