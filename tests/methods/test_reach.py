"""What methods reach inside a student: word embeddings, attention scores and weights, [CLS], rows of a state."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from randout.models.encoder import Want
from randout.models.hooks import Layout
from randout.models.kernels import packing
from randout.testing.models import FAMILIES, PACKED
from support.forward import plain_call, token_ids
from support.plain import bert_block
from support.training import hooks_of

BOTH = pytest.mark.parametrize("packed", [True, False])


def rows_of(values, layout, rows):
    """(b, longest) -> (rows,), number by number."""
    flat = torch.zeros(rows, dtype=values.dtype)
    for text, (start, length) in enumerate(zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True)):
        for place in range(length):
            flat[start + place] = values[text, place]
    return flat


class TestWords:
    @BOTH
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_change_is_a_changed_matrix(self, load, family, packed):
        made = load(family, True)
        made = replace(made, packed=made.packed and packed)
        ids = token_ids(made, (5, 8, 3))
        weight = made.model.get_input_embeddings().weight
        name = next(n for n, p in made.model.named_parameters() if p is weight)
        shift = 0.1 * torch.randn(weight.shape, dtype=torch.float64)
        shift[made.tokenizer.pad_token_id] = 0
        clean, hooks = made.forward(ids).logits, hooks_of(made.model)
        seen = []

        def change(tokens, embedded):
            seen.append((tuple(tokens.shape), tuple(embedded.shape)))
            return embedded + F.embedding(tokens, shift)

        undo = made.hook_points.change_words(change)
        ours = made.forward(ids).logits
        undo()
        expected = made.forward(ids, weights={name: weight + shift}).logits
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
        assert (ours - clean).abs().max() > 1e-4
        assert torch.equal(made.forward(ids).logits, clean)
        assert hooks_of(made.model) == hooks
        shape = (1, 16) if made.packed else (3, 8)
        assert seen == [(shape, (*shape, weight.shape[1]))]

    def test_no_words(self, load):
        with pytest.raises(TypeError, match="no token embedding"):
            replace(load("bert").hook_points, words=None).change_words(lambda ids, embedded: embedded)


class TestAttention:
    @BOTH
    @pytest.mark.parametrize("block", [1, 2, 3])
    def test_a_bias_is_added_to_the_scores_of_each_key(self, load, block, packed):
        """The block written out, text by text, in all heads and for all queries; states before it are untouched."""
        made = replace(load("bert", True), packed=packed)
        made.model.eval()
        ids = token_ids(made, (5, 9, 9, 3))
        layout = made.layout(ids, 0, 4, 9)
        r = 3 * torch.randn(4, 9, dtype=torch.float64)
        rows = []

        def bias(n):
            rows.append(n)
            return rows_of(r, layout, n)

        want = Want(tuple(range(4)))
        clean = made.forward(ids, want).hidden
        undo = made.hook_points.change_attention(block, bias)
        found = made.forward(ids, want).hidden
        undo()
        assert rows == [26 if packed else 36]
        assert all(torch.equal(found[point], clean[point]) for point in range(block))
        for text, (start, length) in enumerate(zip(layout.starts, layout.lengths, strict=True)):
            before, after = (found[point].flatten(0, 1)[start : start + length] for point in (block - 1, block))
            expected = bert_block(made.model.bert.encoder.layer[block - 1], before[None], r[text : text + 1, :length])
            torch.testing.assert_close(after, expected[0], rtol=0, atol=1e-12)
            assert (after - clean[block].flatten(0, 1)[start : start + length]).abs().max() > 1e-3

    @BOTH
    @pytest.mark.parametrize("family", PACKED)
    def test_every_family_that_is_packed_is_reached(self, load, family, packed):
        """A change of one key's score is seen from its block on, in training with dropout too; a constant is not."""
        made = load(family, True)
        assert made.hook_points.reaches_attention(made.model)
        made = replace(made, packed=packed)
        ids = token_ids(made, (5, 9, 7))
        layout = made.layout(ids, 0, 3, 9)
        one = torch.zeros(3, 9, dtype=torch.float64)
        one[:, 2] = 4.0

        def states(added):
            undo = (
                made.hook_points.change_attention(2, lambda n: layout.into_rows(added, n))
                if added is not None
                else None
            )
            torch.manual_seed(5)
            try:
                return made.forward(ids, Want((1, 2))).hidden
            finally:
                if undo:
                    undo()

        for training in (False, True):
            made.model.train(training)
            clean, same, other = states(None), states(torch.full_like(one, 4.0)), states(one)
            assert torch.equal(other[1], clean[1])
            real = layout.from_rows(torch.ones_like(clean[2].flatten(0, 1)[:, 0])) > 0
            ours, constant, theirs = (layout.from_rows(x[2].flatten(0, 1))[real] for x in (other, same, clean))
            torch.testing.assert_close(constant, theirs, rtol=0, atol=1e-12)
            assert ((ours - theirs).abs().amax(-1) > 1e-6).all()

    @pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
    def test_a_family_with_attention_of_its_own_is_not_reached(self, load, family):
        made = load(family)
        before = made.model.config._attn_implementation, made.model.training
        assert not made.hook_points.reaches_attention(made.model)
        assert (made.model.config._attn_implementation, made.model.training) == before
        assert packing.attention_hooks == []

    @BOTH
    def test_nothing_is_left_behind(self, load, packed):
        """Not after a forward, nor after one that ended with an exception inside the block."""
        made = replace(load("bert", pack=packed), packed=packed)
        ids = token_ids(made, (5, 9))
        before, hooks = made.model.config._attn_implementation, hooks_of(made.model)

        def broken(rows):
            raise KeyboardInterrupt

        undo = made.hook_points.change_attention(2, broken)
        assert made.model.config._attn_implementation == packing.ATTENTION
        with pytest.raises(KeyboardInterrupt):
            made.forward(ids)
        undo()
        assert packing.attention_hooks == []
        assert hooks_of(made.model) == hooks
        assert made.model.config._attn_implementation == before

    @BOTH
    @pytest.mark.parametrize("family", PACKED)
    def test_weights_are_output_attentions(self, load, family, packed):
        """Those that transformers' own eager attention returns for the padded batch, each text's real tokens."""
        made = load(family, True)
        eager = copy.deepcopy(made)
        eager.model.set_attn_implementation("eager")
        made = replace(made, packed=packed)
        for each in (made, eager):
            each.model.eval()
        ids = token_ids(made, (5, 9, 9, 3))
        theirs = plain_call(eager, ids, output_attentions=True).attentions
        found = made.forward(ids, Want(attention=(1, 3)))
        assert sorted(found.attention) == [1, 3]
        for block, weights in found.attention.items():
            for text, ours in enumerate(weights):
                n = len(ids[text])
                expected = theirs[block - 1][text, :, :n, :n]
                torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6, check_dtype=False)
        torch.testing.assert_close(found.logits, made.forward(ids).logits, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_cls_is_the_first_tokens_last_state(load, family, packed):
    made = load(family, True)
    made = replace(made, packed=made.packed and packed)
    made.model.eval()
    ids = token_ids(made, (5, 9, 9, 3))
    ours = made.forward(ids, Want(pooled=True)).pooled
    last = []
    handle = made.hook_points.blocks[-1].register_forward_hook(
        lambda _module, _inputs, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    plain_call(made, ids)
    handle.remove()
    torch.testing.assert_close(ours, last[-1][:, 0], rtol=0, atol=1e-12)
    assert made.forward(ids).pooled is None


class TestRows:
    @pytest.mark.parametrize("side", ["packed", "right", "left"])
    def test_there_and_back(self, side):
        lengths, longest = torch.tensor([3, 1, 5]), 6  # the longest text of the step is in another micro-batch
        starts = torch.tensor({"packed": [0, 3, 4], "right": [0, 5, 10], "left": [2, 9, 10]}[side])
        rows = 9 if side == "packed" else 15
        layout = Layout(starts, lengths, longest, first=2, of=8)
        values = torch.randn(3, longest, dtype=torch.float64)
        flat = layout.into_rows(values, rows)
        assert torch.equal(flat, rows_of(values, layout, rows))
        real = torch.arange(longest)[None] < lengths[:, None]
        assert torch.equal(layout.from_rows(flat), values * real)
        wide = torch.randn(rows, 4)
        found = layout.from_rows(wide)
        assert found.shape == (3, longest, 4)
        for text, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            assert torch.equal(found[text, :length], wide[start : start + length])
            assert not found[text, length:].any()
        assert torch.equal(layout.from_rows(layout.into_rows(found, rows)), found)

    def test_gradients_go_through(self):
        layout = Layout(torch.tensor([0, 2]), torch.tensor([2, 4]), 4, 0, 2)
        values = torch.randn(2, 4, requires_grad=True)
        weights = torch.arange(1.0, 7.0)
        (layout.into_rows(values, 6) * weights).sum().backward()
        assert torch.equal(values.grad, torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 5.0, 6.0]]))
