"""Hook points against transformers' own hidden states, and layouts against where tokens lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from randout.models import loading
from randout.models.encoder import Want
from randout.models.hooks import HookPoints, Layout, layout_of_arguments
from randout.testing.models import FAMILIES, LABELS, build
from support.forward import plain_call, token_ids


class TestHookPoints:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_are_hidden_states(self, load, family):
        """Hook point i holds hidden_states[i] of transformers' plain padded call, real tokens alone."""
        made = load(family, True)
        ids = token_ids(made)
        assert len(made.hook_points.blocks) == 3
        hidden = made.forward(ids, want=Want(tuple(range(4)))).hidden
        assert not any(m._forward_hooks for m in made.model.modules())
        theirs = plain_call(made, ids, output_hidden_states=True).hidden_states  # leaves hooks of its own behind
        layout = made.layout(ids, 0, len(ids), max(map(len, ids)))
        assert sorted(hidden) == [0, 1, 2, 3]
        for point, state in hidden.items():
            flat = state.flatten(0, 1)  # (rows, hidden)
            last_normed = family == "modernbert" and point == 3  # its last hidden state went through a norm
            for text, (start, length) in enumerate(zip(layout.starts, layout.lengths, strict=True)):
                ours = flat[start : start + length]
                ours = made.model.base_model.final_norm(ours) if last_normed else ours
                torch.testing.assert_close(ours, theirs[point][text, :length], rtol=0, atol=1e-10)

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_change_goes_on(self, load, family, packed):
        """A change at hook point i is at hook point i, untouched before it, in all after it, applied once."""
        made = load(family, True)
        made = replace(made, packed=made.packed and packed)
        ids = token_ids(made, (5, 8, 8, 3))
        clean = made.forward(ids, want=Want(tuple(range(4))))
        seen = set()
        for point in range(4):
            shift = torch.linspace(-1, 1, clean.hidden[point].shape[-1], dtype=torch.float64)
            undo = made.hook_points.change(point, lambda h, shift=shift: h + shift)
            changed = made.forward(ids, want=Want(tuple(range(4))))
            again = made.forward(ids)
            undo()
            torch.testing.assert_close(changed.logits, again.logits, rtol=0, atol=1e-12)
            for other in range(point):
                assert torch.equal(changed.hidden[other], clean.hidden[other])
            torch.testing.assert_close(changed.hidden[point], clean.hidden[point] + shift, rtol=0, atol=1e-14)
            for other in range(point + 1, 4):
                assert not torch.allclose(changed.hidden[other], clean.hidden[other])
            seen.add(tuple(changed.logits.flatten().tolist()))
        assert len(seen) == 4
        torch.testing.assert_close(made.forward(ids).logits, clean.logits, rtol=0, atol=1e-12)
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
        undo = made.hook_points.change(2, lambda h: 2 * h)
        torch.testing.assert_close(made.forward(list(ids)).logits, expected, rtol=0, atol=1e-12)
        undo()

    def test_albert_counts_anew_after_a_broken_forward(self, load):
        made = load("albert", True)
        ids = token_ids(made, (5, 5))
        undo = made.hook_points.change(2, lambda h: 2 * h)
        right = made.forward(ids).logits

        def stop(_module, _arguments):
            raise KeyboardInterrupt

        handle = made.model.base_model.encoder.albert_layer_groups[0].register_forward_pre_hook(stop)
        made.hook_points.blocks[0].register_forward_hook(lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            made.forward(ids)
        handle.remove()
        block = made.model.base_model.encoder.albert_layer_groups[0]
        block(torch.zeros(1, 4, 32, dtype=torch.float64))  # a pass outside a forward puts the count off
        assert torch.equal(made.forward(ids).logits, right)
        undo()

    def test_albert_groups(self, tmp_path):
        folder = build("albert", tmp_path / "albert", num_hidden_layers=4, num_hidden_groups=2)
        made = loading.load(loading.Source("albert", folder), id2label=LABELS)
        assert made.packed
        first, second = made.model.base_model.encoder.albert_layer_groups
        assert made.hook_points.blocks == (first, first, second, second)
        ids = token_ids(made)
        theirs = plain_call(made, ids, output_hidden_states=True).hidden_states
        hidden = made.forward(ids, want=Want(tuple(range(5)))).hidden
        for point in range(5):
            torch.testing.assert_close(hidden[point][0, : len(ids[0])], theirs[point][0, : len(ids[0])])

    @pytest.mark.parametrize("point", [-1, 4, 99])
    def test_out_of_range(self, load, point):
        made = load("bert")
        with pytest.raises(IndexError, match=r"\(the embeddings\) to 3"):
            made.hook_points.change(point, lambda h: h)

    def test_no_blocks(self):
        with pytest.raises(TypeError, match="Linear"):
            HookPoints.of(nn.Linear(3, 3))

    def test_two_changes_at_one_site(self, load):
        made = load("bert", True)
        ids = token_ids(made, (5,))
        undo_first = made.hook_points.change(1, lambda h: h + 1)
        undo_second = made.hook_points.change(1, lambda h: h * 2)
        both = made.forward(ids, want=Want((1,))).hidden[1]
        undo_first()
        undo_second()
        torch.testing.assert_close(both, 2 * (made.forward(ids, want=Want((1,))).hidden[1] + 1), rtol=0, atol=1e-14)


class TestLayout:
    @pytest.mark.parametrize("packed", [True, False])
    def test_of_a_forward(self, load, packed):
        made = replace(load("bert"), packed=packed)
        ids = token_ids(made, (3, 8, 5))
        layout = made.layout(ids, first=4, of=16, longest=11)
        assert layout.starts.tolist() == ([0, 3, 11] if packed else [0, 8, 16])
        assert layout.lengths.tolist() == [3, 8, 5]
        assert (layout.longest, layout.first, layout.of, layout.prefix, layout.suffix) == (11, 4, 16, 1, 1)
        flat = made.forward(ids, want=Want((0,))).hidden[0].flatten(0, 1)
        embedded = made.hook_points.embedding
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
        with pytest.raises(ValueError, match="attention_mask has the shape"):
            layout_of_arguments(model, (torch.ones(2, 3).long(), torch.ones(2, 1, 3, 3)), {})
