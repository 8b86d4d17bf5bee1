"""The fused block compared with transformers' own: outputs, gradients, masks, memory; also the embedding's rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad
import torch.nn.utils.parametrize
import torch.utils.checkpoint
from torch import nn
from torch.nn.modules import module as every_module

from randout.models.encoder import LOGITS_ONLY, Encoder, Want
from randout.models.kernels import block, dropout
from randout.models.kernels import buffers as memory
from randout.testing.models import FAMILIES, LENGTHS
from support.training import tiny_encoder

FUSED = ("bert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "electra")


def encoder_of(family: str, tiny_model, dtype: torch.dtype = torch.float64) -> Encoder:
    """A packed tiny classifier whose biases and norms are no longer what they start as."""
    encoder = tiny_encoder(tiny_model(family))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    encoder.model.to(dtype).train()
    return encoder


def texts_of(encoder: Encoder) -> list[torch.Tensor]:
    size = encoder.model.config.vocab_size
    return [(torch.arange(n) * 7 + 11) % (size - 5) + 5 for n in sorted(LENGTHS)]


def every_token(encoder: Encoder) -> Want:
    return Want(hidden=tuple(range(len(encoder.hook_points.blocks) + 1)))


def passed(encoder: Encoder, want: Want = LOGITS_ONLY, slow: bool = False, seed: int = 1) -> dict[str, torch.Tensor]:
    """Logits, states asked for and all gradients of a training forward."""
    torch.manual_seed(seed)
    encoder.model.zero_grad()
    if slow:
        with block.plain():
            output = encoder.forward(texts_of(encoder), want)
    else:
        output = encoder.forward(texts_of(encoder), want)
    target = torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(2)).to(output.logits.dtype)
    ((output.logits - target) ** 2).sum().backward()
    found = {"logits": output.logits.detach()} | {f"hidden {point}": x.detach() for point, x in output.hidden.items()}
    return found | {n: p.grad.clone() for n, p in encoder.model.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_which_families_have_this_block(family, tiny_model):
    assert tiny_encoder(tiny_model(family)).fused == (family in FUSED)


@pytest.mark.parametrize("family", FUSED)
def test_equals_transformers_block_with_the_same_masks(family, tiny_model):
    """Every token's last state asked for, so that both ways compute the same and draw the same masks."""
    encoder = encoder_of(family, tiny_model)
    fast = passed(encoder, every_token(encoder))
    assert_same(fast, passed(encoder, every_token(encoder), slow=True))
    assert not torch.equal(fast["logits"], passed(encoder, every_token(encoder), seed=9)["logits"])  # there are masks


@pytest.mark.parametrize("family", FUSED)
def test_first_tokens_only_equals_padding(family, tiny_model):
    encoder = encoder_of(family, tiny_model)
    with dropout.rates(encoder.model, 0.0, 0.0):
        assert_same(passed(encoder), passed(replace(encoder, packed=False), slow=True))


@pytest.mark.parametrize("family", FUSED)
def test_first_tokens_only_has_the_masks_of_all(family, tiny_model):
    encoder = encoder_of(family, tiny_model)
    fast, slow = passed(encoder), passed(encoder, every_token(encoder), slow=True)
    assert_same(fast, {name: value for name, value in slow.items() if "hidden" not in name})


def test_a_method_that_changes_the_last_state_sees_all_of_it(tiny_model):
    encoder = encoder_of("bert", tiny_model)
    seen = []
    undo = encoder.hook_points.change(len(encoder.hook_points.blocks), lambda state: seen.append(state.shape) or state)
    with dropout.rates(encoder.model, 0.0, 0.0):
        changed = passed(encoder)
        undo()
        assert_same(changed, passed(encoder))
    assert seen == [(1, sum(LENGTHS), encoder.model.config.hidden_size)]


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward"])
def test_parts_that_a_method_changes_are_not_passed_by(tiny_model, how):
    """Mixout and others change a linear layer inside a block: then the block runs as transformers wrote it."""
    encoder = encoder_of("bert", tiny_model)
    layer = encoder.hook_points.blocks[1].intermediate.dense
    own = layer.forward
    if how == "hook":
        layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif how == "pre-hook":
        layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    else:
        layer.forward = lambda x: 2 * own(x)
    changed = passed(encoder)
    assert_same(changed, passed(encoder, slow=True))
    layer._forward_hooks.clear()
    layer._forward_pre_hooks.clear()
    vars(layer).pop("forward", None)
    assert not torch.allclose(changed["logits"], passed(encoder)["logits"])


def test_first_tokens_are_what_is_asked_for(tiny_model):
    encoder = encoder_of("bert", tiny_model)
    encoder.model.eval()
    whole = encoder.forward(texts_of(encoder), Want(pooled=True, hidden=(len(encoder.hook_points.blocks),))).pooled
    for gradients in (True, False):
        seen = []
        handle = encoder.hook_points.blocks[-1].intermediate.register_forward_hook(
            lambda *states, seen=seen: seen.append(states[2])
        )
        with torch.set_grad_enabled(gradients):
            narrow = encoder.forward(texts_of(encoder), Want(pooled=True)).pooled
        handle.remove()
        torch.testing.assert_close(narrow, whole, rtol=0, atol=1e-10)
        assert [state.shape[1] for state in seen] == [
            sum(LENGTHS) if gradients else len(LENGTHS)
        ]  # a hook: not by hand


def test_bfloat16_is_as_near_to_float32_as_transformers_is(tiny_model):
    encoder = encoder_of("bert", tiny_model, torch.float32)
    exact = passed(encoder, every_token(encoder), slow=True)
    with torch.autocast("cpu", torch.bfloat16):
        ways = [passed(encoder, every_token(encoder), slow) for slow in (False, True)]
    ours, theirs = (torch.stack([(way[n].float() - x).norm() for n, x in exact.items()]).norm() for way in ways)
    assert 0 < ours <= 1.5 * theirs


class TestGradients:
    def test_added_directly_they_are_autograds(self, tiny_model):
        """Two batches added up, then a step anew with other texts: rows of the embedding must have been cleared."""
        encoder = encoder_of("roberta", tiny_model)
        parameters = dict(encoder.model.named_parameters())

        def backward(texts: list[torch.Tensor], direct: bool) -> None:
            torch.manual_seed(4)
            total = encoder.forward(texts).logits.square().sum()
            if direct:
                with encoder.gradients.adding():
                    total.backward()
            else:
                total.backward()

        texts = texts_of(encoder)
        memory = []
        for batches in ([texts[:4], texts[4:]], [texts[2:5]]):
            found = []
            for direct in (True, False):
                encoder.model.zero_grad(set_to_none=True)
                for batch in batches:
                    backward(batch, direct)
                found.append({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})
                if direct:
                    memory.append(encoder.hook_points.words.weight.grad.data_ptr())
            assert_same(*found)
        assert memory[0] == memory[1]

    def test_an_embedding_that_other_losses_look_at_too(self, tiny_model):
        """Autograd adds to the kept memory in a step's second batch; the next step must start from zeros all the same."""
        encoder = encoder_of("bert", tiny_model)
        weight, texts = encoder.hook_points.words.weight, texts_of(encoder)
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for direct, slopes in found.items():
            for _ in range(3):
                weight.grad = None
                for batch, looks in ((texts[:4], False), (texts[4:6], True)):
                    torch.manual_seed(4)
                    total = encoder.forward(batch).logits.square().sum()
                    if looks:  # in the second batch alone: in the first, autograd would put memory of its own in place
                        total = total + 0.3 * weight.square().sum()
                    with encoder.gradients.adding() if direct else nullcontext():
                        total.backward()
                slopes.append(weight.grad.clone())
                if direct:
                    assert weight.grad is encoder.gradients.kept[weight]
                    encoder.model.zero_grad(set_to_none=True)
        for ours, theirs in zip(found[True], found[False], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)

    def test_the_filler_has_none(self, tiny_model):
        encoder = encoder_of("roberta", tiny_model)
        padding = encoder.hook_points.words.padding_idx
        texts = [torch.tensor([0, padding, 7, 2]), torch.tensor([0, 8, 7, 2])]
        with encoder.gradients.adding():
            encoder.forward(texts).logits.square().sum().backward()
        gradient = encoder.hook_points.words.weight.grad
        assert gradient[padding].abs().max() == 0 < gradient[7].abs().max()

    def test_frozen_parameters_have_none(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        frozen = [encoder.hook_points.blocks[0].intermediate.dense.weight, encoder.hook_points.words.weight]
        for parameter in frozen:
            parameter.requires_grad_(False)
        found = passed(encoder, every_token(encoder))
        assert all(parameter.grad is None for parameter in frozen)
        assert_same(found, passed(encoder, every_token(encoder), slow=True))

    def test_weights_that_are_handed_in(self, tiny_model):
        """functional_call: gradients reach what the weights were made of, even while gradients are added directly."""
        encoder = encoder_of("bert", tiny_model)
        name, own = next((n, p) for n, p in encoder.model.named_parameters() if "intermediate" in n)
        factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        with dropout.rates(encoder.model, 0.0, 0.0):
            total = encoder.forward(texts_of(encoder), weights={name: own * factor}).logits.sum()
            with encoder.gradients.adding():
                total.backward()
            fast = factor.grad.clone()
            factor.grad = None
            with block.plain():
                encoder.forward(texts_of(encoder), weights={name: own * factor}).logits.sum().backward()
        torch.testing.assert_close(fast, factor.grad, rtol=1e-9, atol=0)

    def test_backward_twice(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        total = encoder.forward(texts_of(encoder)).logits.square().sum()
        once, twice = (torch.autograd.grad(total, encoder.model.parameters(), retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))

    def test_second_derivatives_need_the_plain_way(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        weight = encoder.hook_points.blocks[0].output.dense.weight
        target = torch.zeros(len(LENGTHS), 3, dtype=torch.float64, requires_grad=True)

        def slope_of_slope() -> torch.Tensor:
            total = (encoder.forward(texts_of(encoder)).logits - target).square().sum()
            (slope,) = torch.autograd.grad(total, weight, create_graph=True)
            return torch.autograd.grad(slope.square().sum(), target)[0]

        with pytest.raises(RuntimeError, match="second derivatives"):
            slope_of_slope()
        with block.plain():
            assert slope_of_slope().abs().max() > 0


class TestMemory:
    def test_comes_back_with_the_graph(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        for _ in range(3):
            passed(encoder)
        free = sorted(chunk.data_ptr() for chunk in encoder.pool.free)
        passed(encoder)
        assert sorted(chunk.data_ptr() for chunk in encoder.pool.free) == free

    def test_what_leaves_a_block_stays_as_it_is(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        output = encoder.forward(texts_of(encoder), every_token(encoder))
        (slope,) = torch.autograd.grad(output.logits.sum(), output.hidden[1])
        kept = [*output.hidden.values(), slope]
        copies = [x.detach().clone() for x in kept]
        del output
        for seed in range(3):
            passed(encoder, seed=seed)
        assert all(torch.equal(a.detach(), b) for a, b in zip(kept, copies, strict=True))


def step_of(encoder: Encoder, seed: int = 1) -> dict[str, torch.Tensor]:
    """Logits, and `.grad` of every parameter after a step of the training loop's kind."""
    torch.manual_seed(seed)
    encoder.model.zero_grad(set_to_none=True)
    output = encoder.forward(texts_of(encoder), every_token(encoder))
    with encoder.gradients.adding():
        output.logits.square().sum().backward()
    found = {name: p.grad.clone() for name, p in encoder.model.named_parameters() if p.grad is not None}
    return found | {"logits": output.logits.detach()}


def stock_step(encoder: Encoder, seed: int = 1) -> dict[str, torch.Tensor]:
    """The same by transformers' blocks and by autograd alone."""
    torch.manual_seed(seed)
    encoder.model.zero_grad(set_to_none=True)
    with block.plain():
        output = encoder.forward(texts_of(encoder), every_token(encoder))
    output.logits.square().sum().backward()
    found = {name: p.grad.clone() for name, p in encoder.model.named_parameters() if p.grad is not None}
    return found | {"logits": output.logits.detach()}


@contextmanager
def checkpointing(encoder: Encoder, reentrant: bool) -> Iterator[None]:
    """As `gradient_checkpointing: true` of a config.json does."""
    for made in encoder.hook_points.blocks:
        made._gradient_checkpointing_func = partial(torch.utils.checkpoint.checkpoint, use_reentrant=reentrant)
        made.gradient_checkpointing = True
    try:
        yield
    finally:
        for made in encoder.hook_points.blocks:
            made.gradient_checkpointing = False


def kept_as_copies() -> Any:
    return torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every block that runs by hand."""
    runs, run = [], block.run
    monkeypatch.setattr(block, "run", lambda *given: runs.append(1) or run(*given))
    return runs


@pytest.mark.parametrize("family", FUSED)
def test_every_parameter_learns_where_saved_tensors_are_not_kept_as_they_are(family, tiny_model, monkeypatch):
    encoder = encoder_of(family, tiny_model)
    runs = counted(monkeypatch)
    ways: dict[str, Callable[[], Any]] = {
        "checkpointing": lambda: checkpointing(encoder, False),
        "reentrant checkpointing": lambda: checkpointing(encoder, True),
        "save_on_cpu": torch.autograd.graph.save_on_cpu,
        "hooks": kept_as_copies,
    }
    exact = stock_step(encoder)
    with dropout.rates(encoder.model, 0.0, 0.0):  # the stock model, padded
        torch_alone = stock_step(replace(encoder, packed=False))
        for name, way in ways.items():
            with way():
                assert_same(step_of(encoder), torch_alone)
            assert not runs, name
    for name, way in ways.items():  # with masks, which are drawn again where a block is computed again
        with way():
            assert_same(step_of(encoder), exact)
        assert not runs, name
    assert_same(step_of(encoder), exact)
    assert len(runs) == len(encoder.hook_points.blocks)
    assert len(exact) > 16 * len(runs)


def test_gradients_belong_to_the_parameters_even_where_saved_tensors_come_back_as_copies(tiny_model, monkeypatch):
    """The block itself, should it ever run under hooks that nobody noticed."""
    encoder = encoder_of("bert", tiny_model)
    monkeypatch.setattr(block, "observed", lambda: False)
    runs, exact = counted(monkeypatch), stock_step(encoder)
    with kept_as_copies():
        assert_same(step_of(encoder), exact)
    assert len(runs) == len(encoder.hook_points.blocks)


def test_a_weight_that_was_changed_in_place_before_the_backward_pass_is_noticed(tiny_model):
    encoder = encoder_of("bert", tiny_model)
    total = encoder.forward(texts_of(encoder)).logits.square().sum()
    with torch.no_grad():
        encoder.hook_points.blocks[1].output.dense.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"), encoder.gradients.adding():
        total.backward()


class Subclass(nn.Parameter):
    pass


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def _tripled(parameter: nn.Parameter) -> None:
    parameter.grad.mul_(3)


def _frozen(parts: Any) -> None:
    parts.attention.output.dense.weight.requires_grad_(False)
    parts.intermediate.dense.bias.requires_grad_(False)


def _own_forward(parts: Any) -> None:
    own = parts.intermediate.dense.forward
    parts.intermediate.dense.forward = lambda x: 2 * own(x)


def _subclass(parts: Any) -> None:
    parts.intermediate.dense.weight = Subclass(parts.intermediate.dense.weight.detach())


CHANGES: dict[str, Callable[[Any], Any]] = {  # of a block; what may still run by hand is named below
    "forward hook": lambda b: b.intermediate.dense.register_forward_hook(lambda m, i, o: 2 * o),
    "forward pre-hook": lambda b: b.output.dense.register_forward_pre_hook(lambda m, i: (2 * i[0],)),
    "backward hook": lambda b: b.intermediate.dense.register_full_backward_hook(lambda m, i, o: (2 * i[0],)),
    "backward pre-hook": lambda b: b.output.dense.register_full_backward_pre_hook(lambda m, o: (2 * o[0],)),
    "hook of the norm": lambda b: b.output.LayerNorm.register_full_backward_hook(lambda m, i, o: (2 * i[0],)),
    "hook of a parameter": lambda b: b.output.dense.weight.register_hook(lambda g: 2 * g),
    "hook after accumulation": lambda b: b.output.dense.bias.register_post_accumulate_grad_hook(_tripled),
    "eval of a part": lambda b: b.attention.self.eval(),
    "eval of a dropout": lambda b: b.output.dropout.eval(),
    "dropout rate": lambda b: setattr(b.attention.output.dropout, "p", 0.5),
    "scaling": lambda b: setattr(b.attention.self, "scaling", 0.9),
    "epsilon": lambda b: setattr(b.output.LayerNorm, "eps", 0.5),
    "activation": lambda b: setattr(b.intermediate.intermediate_act_fn, "act", torch.nn.functional.relu),
    "other activation": lambda b: setattr(b.intermediate, "intermediate_act_fn", nn.Tanh()),
    "own forward": _own_forward,
    "frozen parts": _frozen,
    "parametrization": lambda b: nn.utils.parametrize.register_parametrization(b.output.dense, "weight", Doubled()),
    "subclass": _subclass,
    "shared weight": lambda b: setattr(b.attention.self.key, "weight", b.attention.self.query.weight),
    "feed-forward chunks": lambda b: setattr(b, "chunk_size_feed_forward", sum(LENGTHS)),  # one chunk
}
STILL_FUSED = {
    "hook of a parameter", "hook after accumulation", "dropout rate", "scaling", "epsilon", "frozen parts", "shared weight"
}  # fmt: skip
IN_EVERY_FAMILY = ("forward hook", "backward hook", "hook of a parameter", "eval of a part", "scaling", "frozen parts")
SAME_NUMBERS = {"subclass", "feed-forward chunks"}


@pytest.mark.parametrize("family", FUSED)
def test_what_is_changed_in_a_block_counts(family, tiny_model, monkeypatch):
    made = encoder_of(family, tiny_model)
    runs, before = counted(monkeypatch), step_of(made)
    names = CHANGES if family == "bert" else IN_EVERY_FAMILY
    for name, change in ((name, CHANGES[name]) for name in names):
        encoder = copy.deepcopy(made)
        change(encoder.hook_points.blocks[1])
        runs.clear()
        ours = step_of(encoder)
        assert len(runs) == len(encoder.hook_points.blocks) - (name not in STILL_FUSED), name
        theirs = stock_step(encoder)
        assert set(ours) == set(theirs), name
        for key, value in ours.items():
            torch.testing.assert_close(
                value, theirs[key], rtol=0, atol=1e-9, msg=lambda m, n=name, k=key: f"{n} {k} {m}"
            )
        same = all(key in before and torch.allclose(before[key], value) for key, value in ours.items())
        assert (same and set(ours) == set(before)) == (name in SAME_NUMBERS), name


@pytest.mark.filterwarnings("ignore:For backward hooks to be called", "ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_on_all_modules_are_called(tiny_model, kind):
    encoder, seen = encoder_of("bert", tiny_model), []
    inside = {id(part) for made in encoder.hook_points.blocks for name, part in made.named_modules() if name}
    register = getattr(every_module, f"register_module_{kind}_hook")
    handle = register(lambda module, *_: seen.append(id(module)))
    try:
        ours, seen_by_ours = step_of(encoder), sorted(x for x in seen if x in inside)
        seen.clear()
        theirs = stock_step(encoder)
    finally:
        handle.remove()
    assert_same(ours, theirs)
    assert seen_by_ours == sorted(x for x in seen if x in inside) != []


def test_backward_hooks_of_the_last_block_see_all_tokens(tiny_model):
    encoder, seen = encoder_of("bert", tiny_model), []
    encoder.hook_points.blocks[-1].register_full_backward_hook(lambda module, into, out: seen.append(out[0].shape))
    passed(encoder)
    assert seen == [(1, sum(LENGTHS), encoder.model.config.hidden_size)]


def test_hooks_of_the_embedding_are_called(tiny_model):
    encoder = encoder_of("bert", tiny_model)
    weight, calls = encoder.hook_points.words.weight, []
    weight.register_hook(lambda gradient: 2 * gradient)
    weight.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.shape))
    ours = step_of(encoder)
    assert len(calls) == 1
    assert_same(ours, stock_step(encoder))
    encoder.hook_points.words.max_norm = 0.5  # set after the model was made ready
    weight._backward_hooks.clear()
    weight._post_accumulate_grad_hooks.clear()
    assert_same(step_of(encoder), stock_step(encoder))


@pytest.mark.parametrize("family", FUSED)
def test_transforms_of_torch_func(family, tiny_model):
    encoder = encoder_of(family, tiny_model)
    texts, parameters = texts_of(encoder), {n: p.detach() for n, p in encoder.model.named_parameters()}
    with dropout.rates(encoder.model, 0.0, 0.0):
        exact = stock_step(replace(encoder, packed=False))
        exact.pop("logits")

        def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return encoder.forward(texts, weights=weights).logits.square().sum()

        found = torch.func.grad(loss)(parameters)
        assert_same({name: found[name] for name in exact}, exact)
        asked = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        with encoder.gradients.adding():
            loss(asked).backward()
        assert_same({name: asked[name].grad for name in exact}, exact)


def test_what_keeps_blocks_from_running_by_hand_is_noticed():
    assert not memory.observed()
    with torch.autograd.graph.save_on_cpu():
        assert memory.observed()
    with torch.autograd.forward_ad.dual_level():
        assert memory.observed()
    noticed = []
    torch.func.grad(lambda x: noticed.append(memory.observed()) or x)(torch.ones(()))
    assert noticed == [True]
    assert not memory.observed()
