"""The block by hand against transformers' own: outputs, gradients, masks, memory; the embedding's rows likewise."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from conftest import FAMILIES, LENGTHS
from randout import block, dropout
from randout.encoder import NOTHING, Encoder, Want
from training import tiny_encoder

BY_HAND = ("bert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "electra")


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
    return Want(hidden=tuple(range(len(encoder.sites.blocks) + 1)))


def passed(encoder: Encoder, want: Want = NOTHING, slow: bool = False, seed: int = 1) -> dict[str, torch.Tensor]:
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
    found = {"logits": output.logits.detach()} | {f"hidden {site}": x.detach() for site, x in output.hidden.items()}
    return found | {n: p.grad.clone() for n, p in encoder.model.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_which_families_have_this_block(family, tiny_model):
    assert tiny_encoder(tiny_model(family)).by_hand == (family in BY_HAND)


@pytest.mark.parametrize("family", BY_HAND)
def test_equals_transformers_block_with_the_same_masks(family, tiny_model):
    """Every token's last state asked for, so that both ways compute the same and draw the same masks."""
    encoder = encoder_of(family, tiny_model)
    fast = passed(encoder, every_token(encoder))
    assert_same(fast, passed(encoder, every_token(encoder), slow=True))
    assert not torch.equal(fast["logits"], passed(encoder, every_token(encoder), seed=9)["logits"])  # there are masks


@pytest.mark.parametrize("family", BY_HAND)
def test_first_tokens_only_equals_padding(family, tiny_model):
    encoder = encoder_of(family, tiny_model)
    with dropout.rates(encoder.model, 0.0, 0.0):
        assert_same(passed(encoder), passed(replace(encoder, packed=False), slow=True))


@pytest.mark.parametrize("family", BY_HAND)
def test_first_tokens_only_has_the_masks_of_all(family, tiny_model):
    encoder = encoder_of(family, tiny_model)
    fast, slow = passed(encoder), passed(encoder, every_token(encoder), slow=True)
    assert_same(fast, {name: value for name, value in slow.items() if "hidden" not in name})


def test_a_method_that_changes_the_last_state_sees_all_of_it(tiny_model):
    encoder = encoder_of("bert", tiny_model)
    seen = []
    undo = encoder.sites.change(len(encoder.sites.blocks), lambda state: seen.append(state.shape) or state)
    with dropout.rates(encoder.model, 0.0, 0.0):
        changed = passed(encoder)
        undo()
        assert_same(changed, passed(encoder))
    assert seen == [(1, sum(LENGTHS), encoder.model.config.hidden_size)]


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward"])
def test_parts_that_a_method_changes_are_not_passed_by(tiny_model, how):
    """Mixout and others change a linear layer inside a block: then the block runs as transformers wrote it."""
    encoder = encoder_of("bert", tiny_model)
    layer = encoder.sites.blocks[1].intermediate.dense
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
    whole = encoder.forward(texts_of(encoder), Want(cls=True, hidden=(len(encoder.sites.blocks),))).cls
    for gradients in (True, False):
        seen = []
        handle = encoder.sites.blocks[-1].intermediate.register_forward_hook(
            lambda *states, seen=seen: seen.append(states[2])
        )
        with torch.set_grad_enabled(gradients):
            narrow = encoder.forward(texts_of(encoder), Want(cls=True)).cls
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
                    memory.append(encoder.sites.words.weight.grad.data_ptr())
            assert_same(*found)
        assert memory[0] == memory[1]

    def test_an_embedding_that_other_losses_look_at_too(self, tiny_model):
        """Autograd adds to the kept memory in a step's second batch; the next step must start from zeros all the same."""
        encoder = encoder_of("bert", tiny_model)
        weight, texts = encoder.sites.words.weight, texts_of(encoder)
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for direct, slopes in found.items():
            for _ in range(3):
                weight.grad = None
                for batch, factor in ((texts[:4], 0.0), (texts[4:], 0.3)):
                    torch.manual_seed(4)
                    total = encoder.forward(batch).logits.square().sum() + factor * weight.square().sum()
                    with encoder.gradients.adding() if direct else nullcontext():
                        total.backward()
                slopes.append(weight.grad.clone())
                if direct:
                    encoder.model.zero_grad(set_to_none=True)
        for ours, theirs in zip(found[True], found[False], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)

    def test_the_filler_has_none(self, tiny_model):
        encoder = encoder_of("roberta", tiny_model)
        padding = encoder.sites.words.padding_idx
        texts = [torch.tensor([0, padding, 7, 2]), torch.tensor([0, 8, 7, 2])]
        with encoder.gradients.adding():
            encoder.forward(texts).logits.square().sum().backward()
        gradient = encoder.sites.words.weight.grad
        assert gradient[padding].abs().max() == 0 < gradient[7].abs().max()

    def test_frozen_parameters_have_none(self, tiny_model):
        encoder = encoder_of("bert", tiny_model)
        frozen = [encoder.sites.blocks[0].intermediate.dense.weight, encoder.sites.words.weight]
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
        weight = encoder.sites.blocks[0].output.dense.weight
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
