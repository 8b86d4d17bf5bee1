"""The packed forward against the padded one, sites against transformers' own hidden states, layouts, fast dropout."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, LONGEST, build
from torch import nn

from randout import dropout, encoder, models, packing
from randout.encoder import Layout, Sites, layout_of_arguments

PACKED = ("bert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "electra", "distilbert", "albert")
PADDED = ("mpnet", "deberta-v2", "modernbert")
LENGTHS = (3, 3, 3, 4, 7, 7, 12, LONGEST - 1, LONGEST, 9)  # one token beyond [CLS] [SEP], runs, longest allowed
LABELS = {0: "a", 1: "b", 2: "c"}


@pytest.fixture
def load(tiny_model):
    def of(family, double=False, **options):
        found = models.load(models.Source(family, tiny_model(family)), id2label=LABELS, **options)
        if double:
            found.model.double()
        return found

    return of


def token_ids(made, lengths=LENGTHS, seed=0):
    """Random texts of the given lengths between the tokenizer's own special tokens, (length,) each."""
    draw = torch.Generator().manual_seed(seed)
    first, last = made.tokenizer.cls_token_id, made.tokenizer.sep_token_id
    middle = [torch.randint(10, 150, (n - 2,), generator=draw) for n in lengths]
    return [torch.cat([torch.tensor([first]), m, torch.tensor([last])]) for m in middle]


def plain_call(made, ids, side="right", **keywords):
    """transformers called as its documentation says: padded block, attention mask, nothing else."""
    longest, filler = max(map(len, ids)), made.tokenizer.pad_token_id
    block = torch.full((len(ids), longest), filler)
    mask = torch.zeros_like(block)
    for row, text in enumerate(ids):
        place = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        block[row, place], mask[row, place] = text, 1
    return made.model(input_ids=block, attention_mask=mask, **keywords)


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
    def test_by_padded_products_too(self, load, family, monkeypatch):
        made = load(family, True)
        ids = token_ids(made)
        padded = logits_and_gradients(replace(made, packed=False), ids)
        monkeypatch.setattr(packing, "_attend_runs", packing._attend_padded)
        assert_same(logits_and_gradients(made, ids), padded, 1e-10)

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
        assert encoder.admit(made) == ""
        assert made.model.training is training
        assert all(p.grad is None for p in made.model.parameters())
        assert all(torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())

    def test_wrong_attention_is_found(self, load, monkeypatch):
        def leaking(query, key, value, boundaries, rate, scaling):
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
            return mixed.transpose(0, 1)[None]

        made = load("bert")
        monkeypatch.setattr(packing, "_attend_runs", leaking)
        assert "differ" in encoder.admit(made)

    def test_frozen_model(self, load):
        made = load("bert")
        made.model.requires_grad_(False)
        assert encoder.admit(made) == ""

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
        assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
        assert not torch.equal(first, made.forward(ids).logits)
        torch.manual_seed(5)
        assert torch.equal(first, made.forward(ids).logits)

    @pytest.mark.parametrize("strategy", ["_attend_runs", "_attend_padded"])
    def test_attention_dropout_alone_acts(self, load, strategy, monkeypatch):
        monkeypatch.setattr(packing, "_attend_runs", getattr(packing, strategy))
        made = load("bert", dropout=0.0, attention_dropout=0.5)
        made.model.train()
        ids = token_ids(made)
        assert not torch.allclose(made.forward(ids).logits, made.forward(ids).logits, atol=1e-4)

    def test_attention_dropout_keeps_the_mean(self):
        """The mean over many draws of one attention is its value without dropout."""
        torch.manual_seed(0)
        q, k, v = torch.randn(3, 2, 9, 8).unbind(0)
        boundaries = packing.Boundaries((4, 5))
        many = torch.stack([packing._attend_runs(q, k, v, boundaries, 0.3, 0.35) for _ in range(3000)])
        exact = packing._attend_runs(q, k, v, boundaries, 0.0, 0.35)
        error = many.std(0) / 3000**0.5
        assert float(((many.mean(0) - exact) / error).abs().max()) < 5.0

    @pytest.mark.parametrize("family", FAMILIES)
    def test_rates_reach_every_dropout(self, load, family):
        made = load(family, dropout=0.0, attention_dropout=0.0)
        made.model.train()
        ids = token_ids(made)
        assert torch.equal(made.forward(ids).logits, made.forward(ids).logits)
        assert all(m.p == 0.0 for m in made.model.modules() if isinstance(m, nn.Dropout))


class TestDropout:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("rate", [0.1, 0.5])
    def test_mask_statistics(self, rate, dtype):
        torch.manual_seed(1)
        like = torch.empty(999, 1001, dtype=dtype)
        mask = dropout.keep_mask(like, rate)
        assert mask.dtype == dtype
        assert mask.shape == like.shape
        assert len(mask.unique()) == 2
        kept = float((mask != 0).double().mean())
        assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate) / mask.numel()) ** 0.5 + 1 / 65536
        true = 1 - round(rate * 65536) / 65536
        rounding = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 4e-3}[dtype]
        assert abs(float(mask.double().max()) * true - 1) <= rounding

    def test_units_are_independent(self):
        torch.manual_seed(2)
        kept = (dropout.keep_mask(torch.empty(400_000), 0.3) != 0).double() - 0.7
        for distance in (1, 2, 3, 4, 8):  # within and across the words that masks are cut from
            assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 5 * 0.21 / 400_000**0.5

    @pytest.mark.parametrize("units", [0, 1, 2, 3, 5, 1023])
    def test_any_size_and_layout(self, units):
        assert dropout.keep_mask(torch.empty(units), 0.1).shape == (units,)
        turned = torch.empty(units, 3).T
        assert dropout.keep_mask(turned, 0.1).shape == (3, units)

    def test_function_of_the_seed(self):
        torch.manual_seed(3)
        first, second = (dropout.keep_mask(torch.empty(500), 0.5) for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(first, dropout.keep_mask(torch.empty(500), 0.5))
        assert not torch.equal(first, second)

    def test_module(self):
        ones = torch.ones(100, requires_grad=True)
        module = nn.Sequential(nn.Dropout(0.5))
        dropout.install(module)
        torch.manual_seed(0)
        passed = module(ones)
        passed.sum().backward()
        assert torch.equal(passed, ones.grad)  # the gradient goes through the same mask
        assert set(passed.tolist()) == {0.0, 2.0}
        assert torch.equal(module.eval()(ones), ones)

    @pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
    def test_install_keeps_the_model(self, load, family):
        from transformers import AutoModelForSequenceClassification

        made = load(family)
        stock = AutoModelForSequenceClassification.from_config(made.model.config)
        assert [n for n, _ in stock.named_parameters()] == [n for n, _ in made.model.named_parameters()]
        stock.load_state_dict(made.model.state_dict())
        ids = token_ids(made)
        before = plain_call(replace(made, model=stock.eval()), ids).logits
        assert torch.equal(before, plain_call(made, ids).logits)


class TestSites:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_are_hidden_states(self, load, family):
        """Site i holds hidden_states[i] of transformers' plain padded call, real tokens alone."""
        made = load(family, True)
        ids = token_ids(made)
        assert len(made.sites.blocks) == 3
        hidden = made.forward(ids, want=range(4)).hidden
        assert not any(m._forward_hooks for m in made.model.modules())
        theirs = plain_call(made, ids, output_hidden_states=True).hidden_states  # leaves hooks of its own behind
        layout = made.layout(ids, 0, len(ids), max(map(len, ids)))
        assert sorted(hidden) == [0, 1, 2, 3]
        for site, state in hidden.items():
            flat = state.flatten(0, 1)  # (rows, hidden)
            last_normed = family == "modernbert" and site == 3  # its last hidden state went through a norm
            for text, (start, length) in enumerate(zip(layout.starts, layout.lengths, strict=True)):
                ours = flat[start : start + length]
                ours = made.model.base_model.final_norm(ours) if last_normed else ours
                torch.testing.assert_close(ours, theirs[site][text, :length], rtol=0, atol=1e-10)

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_change_goes_on(self, load, family, packed):
        """A change at site i is at site i, untouched before it, in all after it, applied once."""
        made = load(family, True)
        made = replace(made, packed=made.packed and packed)
        ids = token_ids(made, (5, 8, 8, 3))
        clean = made.forward(ids, want=range(4))
        seen = set()
        for site in range(4):
            shift = torch.linspace(-1, 1, clean.hidden[site].shape[-1], dtype=torch.float64)
            undo = made.sites.change(site, lambda h, shift=shift: h + shift)
            changed = made.forward(ids, want=range(4))
            again = made.forward(ids)
            undo()
            assert torch.equal(changed.logits, again.logits)
            for other in range(site):
                assert torch.equal(changed.hidden[other], clean.hidden[other])
            torch.testing.assert_close(changed.hidden[site], clean.hidden[site] + shift, rtol=0, atol=1e-14)
            for other in range(site + 1, 4):
                assert not torch.allclose(changed.hidden[other], clean.hidden[other])
            seen.add(tuple(changed.logits.flatten().tolist()))
        assert len(seen) == 4
        assert torch.equal(made.forward(ids).logits, clean.logits)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())

    def test_albert_by_hand(self, load):
        """The shared block run three times by hand, with a change after the second."""
        made = load("albert", True)
        ids = torch.stack(token_ids(made, (6, 6)))
        base = made.model.base_model
        block = base.encoder.albert_layer_groups[0]
        state = base.encoder.embedding_hidden_mapping_in(base.embeddings(ids))
        for number in (1, 2, 3):
            found = block(state)
            state = (found[0] if isinstance(found, tuple) else found) * (2.0 if number == 2 else 1.0)
        expected = made.model.classifier(base.pooler_activation(base.pooler(state[:, 0])))
        undo = made.sites.change(2, lambda h: 2 * h)
        torch.testing.assert_close(made.forward(list(ids)).logits, expected, rtol=0, atol=1e-12)
        undo()

    def test_albert_counts_anew_after_a_broken_forward(self, load):
        made = load("albert", True)
        ids = token_ids(made, (5, 5))
        undo = made.sites.change(2, lambda h: 2 * h)
        right = made.forward(ids).logits

        def stop(_module, _arguments):
            raise KeyboardInterrupt

        handle = made.model.base_model.encoder.albert_layer_groups[0].register_forward_pre_hook(stop)
        made.sites.blocks[0].register_forward_hook(lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            made.forward(ids)
        handle.remove()
        block = made.model.base_model.encoder.albert_layer_groups[0]
        block(torch.zeros(1, 4, 32, dtype=torch.float64))  # a pass outside a forward puts the count off
        assert torch.equal(made.forward(ids).logits, right)
        undo()

    def test_albert_groups(self, tmp_path):
        folder = build("albert", tmp_path / "albert", num_hidden_layers=4, num_hidden_groups=2)
        made = models.load(models.Source("albert", folder), id2label=LABELS)
        assert made.packed
        first, second = made.model.base_model.encoder.albert_layer_groups
        assert made.sites.blocks == (first, first, second, second)
        ids = token_ids(made)
        theirs = plain_call(made, ids, output_hidden_states=True).hidden_states
        hidden = made.forward(ids, want=range(5)).hidden
        for site in range(5):
            torch.testing.assert_close(hidden[site][0, : len(ids[0])], theirs[site][0, : len(ids[0])])

    @pytest.mark.parametrize("site", [-1, 4, 99])
    def test_out_of_range(self, load, site):
        made = load("bert")
        with pytest.raises(IndexError, match="blocks 1 to 3"):
            made.sites.change(site, lambda h: h)

    def test_no_blocks(self):
        with pytest.raises(TypeError, match="Linear"):
            Sites.of(nn.Linear(3, 3))

    def test_two_changes_at_one_site(self, load):
        made = load("bert", True)
        ids = token_ids(made, (5,))
        undo_first = made.sites.change(1, lambda h: h + 1)
        undo_second = made.sites.change(1, lambda h: h * 2)
        both = made.forward(ids, want=[1]).hidden[1]
        undo_first()
        undo_second()
        torch.testing.assert_close(both, 2 * (made.forward(ids, want=[1]).hidden[1] + 1), rtol=0, atol=1e-14)


class TestLayout:
    @pytest.mark.parametrize("packed", [True, False])
    def test_of_a_forward(self, load, packed):
        made = replace(load("bert"), packed=packed)
        ids = token_ids(made, (3, 8, 5))
        layout = made.layout(ids, first=4, of=16, longest=11)
        assert layout.starts.tolist() == ([0, 3, 11] if packed else [0, 8, 16])
        assert layout.lengths.tolist() == [3, 8, 5]
        assert (layout.longest, layout.first, layout.of, layout.prefix, layout.suffix) == (11, 4, 16, 1, 1)
        flat = made.forward(ids, want=[0]).hidden[0].flatten(0, 1)
        embedded = made.sites.embedding
        for start, length, text in zip(layout.starts, layout.lengths, ids, strict=True):
            torch.testing.assert_close(flat[start : start + length], embedded(input_ids=text[None])[0])

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_of_arguments(self, load, side):
        model = load("bert").model
        lengths = (2, 5, 3)
        mask = torch.zeros(3, 6, dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, slice(0, length) if side == "right" else slice(6 - length, 6)] = 1
        ids = torch.ones(3, 6, dtype=torch.long)
        expected = [0, 6, 12] if side == "right" else [4, 7, 15]
        for arguments, keywords in (
            ((ids, mask), {}),
            ((ids,), {"attention_mask": mask}),
            ((), {"input_ids": ids, "attention_mask": mask.bool()}),
            ((), {"input_ids": None, "inputs_embeds": torch.zeros(3, 6, 32), "attention_mask": mask.float()}),
        ):
            found = layout_of_arguments(model, arguments, keywords)
            assert isinstance(found, Layout)
            assert found.starts.tolist() == expected
            assert found.lengths.tolist() == list(lengths)
            assert (found.longest, found.first, found.of) == (6, 0, 3)

    def test_of_arguments_without_mask(self, load):
        model = load("bert").model
        found = layout_of_arguments(model, (), {"inputs_embeds": torch.zeros(2, 4, 32)})
        assert (found.starts.tolist(), found.lengths.tolist()) == ([0, 4], [4, 4])

    def test_of_wrong_arguments(self, load):
        model = load("bert").model
        with pytest.raises(ValueError, match="input_ids"):
            layout_of_arguments(model, (), {})
        with pytest.raises(ValueError, match="attention_mask of shape"):
            layout_of_arguments(model, (torch.ones(2, 3).long(), torch.ones(2, 1, 3, 3)), {})
