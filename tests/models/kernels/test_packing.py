"""The fast paths of packing: grouped attention against the equations written out text by text, with the same masks."""

from __future__ import annotations

import pytest
import torch

from randout.models.kernels import dropout, packing

HEADS, WIDTH, SCALING = 3, 4, 0.5
BATCHES = [(5,), (3, 3, 3), (1, 2, 40, 41, 41, 90), (90, 2, 41, 8, 16), tuple(range(1, 30))]


def drawn(lengths: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Query, key and value (heads, tokens, d), laid out as a model hands them over: tokens first."""
    torch.manual_seed(len(lengths))
    shape = (sum(lengths), HEADS, WIDTH)
    return [torch.randn(shape, dtype=dtype).transpose(0, 1).requires_grad_() for _ in range(3)]


def masks_by_text(lengths: tuple[int, ...], rate: float, dtype: torch.dtype) -> list[torch.Tensor]:
    """The keep masks (heads, length, length) that the grouped path draws after the present seed, cut to each text."""
    found, shapes = [], packing.grouping(lengths, HEADS).shapes
    sizes = [texts * HEADS * length**2 for texts, length in shapes]
    masks = dropout.keep_mask(torch.empty(sum(sizes), dtype=dtype), rate).split(sizes)
    for members, (texts, length), mask in zip(packing.groups(lengths), shapes, masks, strict=True):
        found += [m[:, :n, :n] for m, n in zip(mask.view(texts, HEADS, length, length), members, strict=True)]
    return found


def plain(query, key, value, lengths, masks, rate) -> torch.Tensor:
    """softmax(q k' * scaling) * mask / (keep rate) v, text by text: (1, tokens, heads, d)."""
    pieces = []
    for q, k, v, mask in zip(*(x.split(lengths, 1) for x in (query, key, value)), masks, strict=True):
        weights = torch.softmax(SCALING * q @ k.transpose(1, 2), -1)
        pieces.append((weights * mask * dropout.scale(rate)) @ v)
    return torch.cat(pieces, 1).transpose(0, 1)[None]


class TestGroupedAttention:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    @pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3])
    @pytest.mark.parametrize("lengths", BATCHES)
    def test_equals_the_equations(self, lengths, rate, dtype, tolerance):
        inputs = drawn(lengths, dtype)
        torch.manual_seed(7)
        fast = packing.attend_groups(*inputs, packing.Boundaries(lengths), rate, SCALING)
        torch.manual_seed(7)
        slow = plain(*inputs, lengths, masks_by_text(lengths, rate, dtype), rate)
        torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
        towards = torch.randn(slow.shape, dtype=dtype)
        gradients = (torch.autograd.grad(out, inputs, towards) for out in (fast, slow))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("lengths", BATCHES)
    def test_equals_the_path_without_dropout(self, lengths):
        inputs, boundaries = drawn(lengths), packing.Boundaries(lengths)
        fast = packing.attend_groups(*inputs, boundaries, 0.0, SCALING)
        for other in (packing.attend_runs, packing.attend_padded):
            torch.testing.assert_close(fast, other(*inputs, boundaries, 0.0, SCALING), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("attend", [packing.attend_runs, packing.attend_padded])
    @pytest.mark.parametrize("lengths", BATCHES)
    def test_without_dropout_equals_the_equations(self, lengths, attend):
        """On a CPU and on other devices, gradients too."""
        inputs = drawn(lengths)
        fast = attend(*inputs, packing.Boundaries(lengths), 0.0, SCALING)
        slow = plain(*inputs, lengths, [torch.ones(HEADS, n, n) for n in lengths], 0.0)
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
        towards = torch.randn(slow.shape, dtype=slow.dtype)
        gradients = (torch.autograd.grad(out, inputs, towards) for out in (fast, slow))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)

    def test_gradients_of_gradients(self):
        lengths = (2, 5, 3)
        inputs = drawn(lengths)

        def seeded(*inputs):
            torch.manual_seed(0)
            return packing.attend_groups(*inputs, packing.Boundaries(lengths), 0.3, SCALING)

        assert torch.autograd.gradgradcheck(seeded, inputs)

    def test_bfloat16_under_autocast(self):
        lengths = (4, 9, 9, 31)
        inputs = [x.detach() for x in drawn(lengths, torch.float32)]
        exact = packing.attend_groups(*inputs, packing.Boundaries(lengths), 0.0, SCALING)
        with torch.autocast("cpu", torch.bfloat16):
            halves = [x.bfloat16() for x in inputs]
            rounded = packing.attend_groups(*halves, packing.Boundaries(lengths), 0.0, SCALING)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.03)

    def test_expectation_in_bfloat16(self):
        """The scale of what is kept is not rounded to the mask's format (1.111 is 1.109 there)."""
        lengths = (8,) * 16
        torch.manual_seed(0)
        query, key = (torch.zeros(HEADS, 128, WIDTH, dtype=torch.bfloat16) for _ in range(2))
        value = (1 + torch.rand(HEADS, 128, WIDTH)).bfloat16()
        boundaries = packing.Boundaries(lengths)
        means = [packing.attend_groups(query, key, value, boundaries, 0.1, SCALING).double().mean() for _ in range(600)]
        assert abs(float(torch.stack(means).mean() / value.double().mean()) - 1) < 8e-4


class TestGrouping:
    @pytest.mark.parametrize("lengths", BATCHES)
    def test_covers_every_row_once(self, lengths):
        plan = packing.grouping(lengths, HEADS)
        rows = torch.arange(sum(lengths) * HEADS)
        assert torch.equal(plan.into[plan.back], rows)
        slots = torch.cat([plan.back, plan.empty]).sort().values
        assert torch.equal(slots, torch.arange(len(plan.into)))
        assert sum(texts for texts, _ in plan.shapes) == len(lengths)
        assert all(length % packing.STEP == 0 for _, length in plan.shapes)

    @pytest.mark.parametrize("lengths", BATCHES)
    def test_padding_is_bounded(self, lengths):
        found = packing.groups(lengths)
        assert tuple(n for members in found for n in members) == lengths
        assert all(sum(max(members) ** 2 - n**2 for n in members) <= packing.SLACK for members in found)


class TestScaleOfDropout:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_forward_and_gradient_by_the_same_mask(self, dtype):
        module = dropout.Dropout(0.1)
        x = torch.randn(300, 400, dtype=dtype, requires_grad=True)
        torch.manual_seed(5)
        out = module(x)
        torch.manual_seed(5)
        mask = dropout.keep_mask(x, 0.1)
        assert torch.equal(out, x * mask * dropout.scale(0.1))
        out.sum().backward()
        torch.testing.assert_close(x.grad, mask * dropout.scale(0.1))
        assert abs(float(mask.double().mean()) * dropout.scale(0.1) - 1) < 5e-3
