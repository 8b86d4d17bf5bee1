"""Fast dropout: its masks' statistics, its gradient, and that it leaves a model as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from randout.models.kernels import dropout
from support.forward import plain_call, token_ids


class TestDropout:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("rate", [0.1, 0.5])
    def test_statistics(self, rate, dtype):
        """Units stay at 1 - rate, to 1/65536, and what stays is scaled so that the expectation is exact."""
        torch.manual_seed(1)
        passed = dropout.Dropout(rate)(torch.ones(999, 1001, dtype=dtype))
        assert (passed.dtype, passed.shape) == (dtype, (999, 1001))
        assert len(passed.unique()) == 2
        share = float((passed != 0).double().mean())
        assert abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / passed.numel()) ** 0.5 + 1 / 65536
        true = 1 - round(rate * 65536) / 65536
        rounding = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 4e-3}[dtype]
        assert abs(float(passed.double().max()) * true - 1) <= rounding

    def test_scale_is_not_rounded_in_bfloat16(self):
        """The mean over units that differ is right to more than bfloat16's own steps."""
        torch.manual_seed(4)
        states = torch.rand(1_000_000) + 0.5
        passed = dropout.Dropout(0.1)(states.bfloat16()).double()
        assert abs(float(passed.mean()) / float(states.double().mean()) - 1) < 1.5e-3

    def test_units_are_independent(self):
        torch.manual_seed(2)
        kept = (dropout.Dropout(0.3)(torch.ones(400_000)) != 0).double() - 0.7
        for distance in (1, 2, 3, 4, 8):  # within and across the words that masks are cut from
            assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 5 * 0.21 / 400_000**0.5

    @pytest.mark.parametrize("units", [0, 1, 2, 3, 5, 1023])
    def test_any_size_and_layout(self, units):
        module = dropout.Dropout(0.1)
        assert module(torch.ones(units)).shape == (units,)
        assert module(torch.ones(units, 3).T).shape == (3, units)

    def test_all_dropped(self):
        assert not dropout.Dropout(1.0)(torch.ones(50)).any()

    def test_function_of_the_seed(self):
        module, ones = dropout.Dropout(0.5), torch.ones(500)
        torch.manual_seed(3)
        first, second = module(ones), module(ones)
        torch.manual_seed(3)
        assert torch.equal(first, module(ones))
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
