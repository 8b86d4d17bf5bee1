"""The packed forward against the padded one, and which models are admitted to it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from randout.models import encoder
from randout.models.kernels import buffers, packing
from randout.testing.models import FAMILIES, LENGTHS, LONGEST, PACKED, PADDED
from support.forward import plain_call, token_ids


def logits_and_gradients(made, ids):
    made.model.zero_grad()
    logits = made.forward(ids).logits
    (logits * torch.linspace(1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad for name, p in made.model.named_parameters()}


def assert_same(ours, theirs, tolerance):
    """Logits to `tolerance` of the largest logit; every gradient to `tolerance` of the largest gradient."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=tolerance * float(theirs[0].abs().max()))
    largest = max(float(g.abs().max()) for g in theirs[1].values() if g is not None)
    for name, gradient in theirs[1].items():
        assert (gradient is None) == (ours[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=tolerance * largest, msg=name)


class TestPackedIsPadded:
    @pytest.mark.parametrize("mode", ["eval", "train"])
    @pytest.mark.parametrize("family", PACKED)
    def test_to_rounding(self, load, family, mode):
        for double, tolerance in ((True, 1e-10), (False, 1e-5)):
            made = load(family, double, dropout=0.0, attention_dropout=0.0)
            assert made.packed
            assert made.reason == ""
            made.model.train(mode == "train")
            ids = token_ids(made)
            packed = logits_and_gradients(made, ids)
            assert_same(packed, logits_and_gradients(replace(made, packed=False), ids), tolerance)

    @pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
    @pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], (3, 4, 5, 6, 7, 8, 9, 60), (5,)])
    def test_on_the_way_of_dropout(self, load, family, lengths):
        """A rate so small that nothing is dropped takes the road of attention with dropout."""
        made = load(family, True, dropout=0.0, attention_dropout=1e-12)
        made.model.train()
        ids = token_ids(made, lengths)
        packed = logits_and_gradients(made, ids)
        assert_same(packed, logits_and_gradients(replace(made, packed=False), ids), 1e-10)

    @pytest.mark.parametrize("family", PACKED)
    def test_order_and_company_do_not_matter(self, load, family):
        made = load(family, True)
        ids = token_ids(made)
        together = made.forward(ids).logits
        alone = torch.cat([made.forward([text]).logits for text in ids])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
        turned = made.forward(ids[::-1]).logits.flip(0)
        torch.testing.assert_close(together, turned, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("family", PACKED)
    def test_plain_padded_call_keeps_its_mask(self, load, family):
        """A packed model called by code that knows nothing of packing (pipelines, a Trainer)."""
        made = load(family, True)
        ids = token_ids(made)
        torch.testing.assert_close(plain_call(made, ids).logits, made.forward(ids).logits, rtol=0, atol=1e-10)
        full = [text[:7] for text in ids if len(text) >= 7]
        torch.testing.assert_close(
            made.model(input_ids=torch.stack(full)).logits, made.forward(full).logits, rtol=0, atol=1e-10
        )

    @pytest.mark.parametrize("family", ["roberta", "camembert", "bert"])
    def test_filler_written_out_in_a_text(self, load, family):
        """ "<pad>" inside a text has no position of its own in RoBERTa's kin, packed or padded."""
        made = load(family, True)
        ids = token_ids(made)
        ids[-1][3:5] = made.tokenizer.pad_token_id
        padded = replace(made, packed=False).forward(ids).logits
        torch.testing.assert_close(made.forward(ids).logits, padded, rtol=0, atol=1e-10)

    def test_other_weights(self, load):
        made = load("bert", True)
        ids = token_ids(made)
        others = {name: p * 1.1 for name, p in made.model.named_parameters()}
        swapped = made.forward(ids, weights=others).logits
        assert not torch.allclose(swapped, made.forward(ids).logits)
        padded = replace(made, packed=False).forward(ids, weights=others).logits
        torch.testing.assert_close(swapped, padded, rtol=0, atol=1e-10)
        with torch.no_grad():
            for name, parameter in made.model.named_parameters():
                parameter.copy_(others[name])
        torch.testing.assert_close(swapped, made.forward(ids).logits, rtol=0, atol=1e-12)

    def test_bfloat16_autocast(self, load):
        made = load("roberta")
        ids = token_ids(made)
        exact = made.forward(ids).logits.detach()
        with encoder.computing(made.device, "bfloat16"):
            rounded = made.forward(ids).logits.detach()
        assert torch.isfinite(rounded).all()
        torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05 * float(exact.abs().max()))


class TestAdmission:
    @pytest.mark.parametrize("family", PADDED)
    def test_what_does_not_fit_is_padded(self, load, family):
        made = load(family)
        assert not made.packed
        assert made.reason

    @pytest.mark.parametrize("implementation", [None, "eager"])
    @pytest.mark.parametrize("family", PADDED)
    def test_padded_is_the_plain_call(self, load, tiny_model, family, implementation):
        from transformers import AutoModelForSequenceClassification

        made = load(family)
        folder = tiny_model(family)
        stock = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=3, attn_implementation=implementation, dtype=torch.float32
        )
        stock.load_state_dict(made.model.state_dict())
        ids = token_ids(made)
        plain = plain_call(replace(made, model=stock.eval()), ids).logits.detach()
        torch.testing.assert_close(made.forward(ids).logits, plain, rtol=0, atol=1e-6 * float(plain.abs().max() + 1))

    def test_switched_off(self, load):
        made = load("bert", pack=False)
        assert (made.packed, made.reason) == (False, "packing was switched off")

    @pytest.mark.parametrize("training", [True, False])
    def test_probe_leaves_no_trace(self, load, training):
        made = load("bert")
        made.model.train(training)
        before, state = copy.deepcopy(made.model.state_dict()), torch.get_rng_state()
        assert encoder.probe_packing(made) == ""
        assert made.model.training is training
        assert all(p.grad is None for p in made.model.parameters())
        assert all(torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())

    def test_wrong_attention_is_found(self, load, monkeypatch):
        def leaking(module, query, key, value, attention_mask, **_):
            """Attention over the whole packed row: a text reads the others."""
            return nn.functional.scaled_dot_product_attention(query, key, value, attention_mask).transpose(1, 2), None

        made = replace(load("bert"), fused=False)
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, packing.ATTENTION, leaking)
        assert "differ" in encoder.probe_packing(made)

    def test_frozen_model(self, load):
        made = load("bert")
        made.model.requires_grad_(False)
        assert encoder.probe_packing(made) == ""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_longest_allowed_runs(self, load, family):
        """As many tokens as `longest` says, though the tokenizer states no limit of its own."""
        made = load(family)
        made.tokenizer.model_max_length = 10**30
        assert made.longest == LONGEST
        assert torch.isfinite(made.forward(token_ids(made, (LONGEST, 5))).logits).all()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_special_tokens(self, load, family):
        made = load(family)
        assert (made.prefix, made.suffix) == (1, 1)

    def test_no_special_tokens(self, tiny_model):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
        tokenizer._tokenizer.post_processor = None
        tokenizer._tokenizer.post_processor = _ends("", "")
        assert encoder.special_tokens(tokenizer) == (0, 0)
        tokenizer._tokenizer.post_processor = _ends("[CLS] ", "")
        assert encoder.special_tokens(tokenizer) == (1, 0)
        assert encoder.special_tokens(None) == (1, 1)


def _ends(before, after):
    from tokenizers import processors

    known = [("[CLS]", 2), ("[SEP]", 3)]
    return processors.TemplateProcessing(single=f"{before}$A{after}", special_tokens=known)


class TestTraining:
    @pytest.mark.parametrize("family", PACKED)
    def test_dropout_draws(self, load, family):
        made = load(family, dropout=0.2, attention_dropout=0.3)
        made.model.train()
        ids = token_ids(made)
        torch.manual_seed(5)
        first, gradients = logits_and_gradients(made, ids)
        assert torch.isfinite(first).all()
        reached = [g for g in gradients.values() if g is not None]
        assert len(reached) > len(gradients) / 2
        assert all(torch.isfinite(g).all() for g in reached)
        assert not torch.equal(first, made.forward(ids).logits)
        torch.manual_seed(5)
        assert torch.equal(first, made.forward(ids).logits)

    def test_attention_dropout_alone_acts(self, load):
        made = load("bert", dropout=0.0, attention_dropout=0.5)
        made.model.train()
        ids = token_ids(made)
        assert not torch.allclose(made.forward(ids).logits, made.forward(ids).logits, atol=1e-4)

    @pytest.mark.parametrize("attend", [packing.attend_groups, packing.attend_padded])
    def test_attention_dropout_keeps_the_mean(self, attend):
        """The mean over many draws of one attention is its value without dropout."""
        torch.manual_seed(0)
        q, k, v = torch.randn(3, 2, 9, 8).unbind(0)  # (heads, tokens, d)
        texts = packing.Boundaries((4, 5))
        many = torch.stack([attend(q, k, v, texts, 0.3, 8**-0.5) for _ in range(2000)])
        assert not torch.equal(many[0], many[1])
        exact = attend(q, k, v, texts, 0.0, 8**-0.5)
        error = many.std(0) / 2000**0.5
        assert float(((many.mean(0) - exact) / error).abs().max()) < 5.0

    def test_attention_dropout_has_its_own_gradient(self):
        """The gradient is that of the very masks drawn: against differences of the same draw, float64."""
        torch.manual_seed(0)
        states = torch.randn(3, 1, 2, 12, 4, dtype=torch.float64, requires_grad=True)
        texts = packing.Boundaries((3, 4, 5))

        def attention(x):
            torch.manual_seed(7)
            return packing.attend(None, x[0], x[1], x[2], None, 0.4, boundaries=texts)[0]

        assert torch.autograd.gradcheck(attention, (states,), eps=1e-6, atol=1e-7)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_rates_reach_every_dropout(self, load, family):
        made = load(family, dropout=0.0, attention_dropout=0.0)
        made.model.train()
        ids = token_ids(made)
        assert torch.equal(made.forward(ids).logits, made.forward(ids).logits)
        rates = [m.p for m in made.model.modules() if isinstance(m, nn.Dropout)]
        assert set(rates) == {0.0}


class TestAdmissionBySteps:
    """What only a training step shows: forwards agree, and a gradient is lost on the way to `.grad`."""

    def test_a_lost_gradient_is_found(self, load, monkeypatch):
        made, add = load("bert"), buffers.Gradients.add

        def forgetting(self, weight, gradient):
            return None if self.direct and weight.shape == (32, 48) else add(self, weight, gradient)

        monkeypatch.setattr(buffers.Gradients, "add", forgetting)
        assert encoder.probe_packing(made) == "packed and padded gradients differ"

    def test_a_gradient_of_zeros_is_found(self, load, monkeypatch):
        made = load("bert")
        monkeypatch.setattr(buffers.Gradients, "add_rows", lambda self, weight, rows, found: setattr(
            weight, "grad", torch.zeros_like(weight)))  # fmt: skip
        assert "gradients differ" in encoder.probe_packing(made)

    def test_modes_gradients_and_memory_are_left_as_found(self, load):
        made = load("bert")
        made.model.train()
        made.hook_points.blocks[0].eval()
        weight = made.model.classifier.weight
        weight.grad = kept = torch.ones_like(weight)
        modes = [m.training for m in made.model.modules()]
        assert encoder.probe_packing(made) == ""
        assert [m.training for m in made.model.modules()] == modes
        assert weight.grad is kept
        assert not made.gradients.kept

    def test_another_attention_set_since_is_padded(self, load):
        """Packed texts would read one another under an attention that knows no boundaries."""
        made = load("bert", True)
        ids = token_ids(made)
        before = made.forward(ids).logits
        made.model.set_attn_implementation("eager")
        torch.testing.assert_close(made.forward(ids).logits, before, rtol=0, atol=1e-10)
