"""Blocks left out, and the linear head: plain transcriptions of both, and stock transformers on what was saved."""

from __future__ import annotations

import re

import pytest
import torch

from randout.core.errors import UserError
from randout.models import heads, loading
from randout.models.encoder import Want
from randout.testing.models import LABELS, LONGEST, toy_texts
from support.forward import ids_of

LINEAR = ("bert", "albert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "mpnet")
NOT_LINEAR = ("electra", "distilbert", "deberta-v2", "modernbert")


class TestCut:
    @pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2"])
    @pytest.mark.parametrize("layers", [(0, 2), (2, 0), (1,)])
    def test_by_hand(self, source, family, layers, tmp_path):
        """Equal to a model built with fewer blocks that was given these blocks' weights; saved and loaded, the same."""
        whole = loading.load(source(family), id2label=LABELS, seed=1)
        made = loading.load(source(family), id2label=LABELS, seed=1, layers=layers)
        config = type(whole.model.config).from_dict(whole.model.config.to_dict() | {"num_hidden_layers": len(layers)})
        config.num_hidden_layers = len(layers)
        by_hand = type(whole.model)(config).eval()
        state = whole.model.state_dict()
        target = by_hand.state_dict()
        for name in target:
            block = re.sub(r"\.layer\.(\d+)\.", lambda m: f".layer.{layers[int(m[1])]}.", name)
            target[name] = state[block]
        by_hand.load_state_dict(target)
        ids = ids_of(made, toy_texts(6, 1)[0])
        expected = torch.cat([by_hand(input_ids=text[None]).logits for text in ids])
        torch.testing.assert_close(made.forward(ids).logits, expected, rtol=0, atol=1e-5)
        assert len(made.hook_points.blocks) == len(layers)
        loading.save(made, tmp_path / "saved", LONGEST, "")
        torch.testing.assert_close(loading.load(loading.find(str(tmp_path / "saved"))).forward(ids).logits, expected,
                                   rtol=0, atol=1e-5)  # fmt: skip

    @pytest.mark.parametrize(
        ("family", "layers", "reason"),
        [
            ("albert", (0, 1), "share their weights"),
            ("modernbert", (0, 1), "alternate"),
            ("bert", (0, 3), "layers 0 to 2, got 3"),
            ("bert", (-1,), "got -1"),
            ("bert", (1, 1), "listed twice"),
        ],
    )
    def test_refused(self, source, family, layers, reason):
        with pytest.raises(UserError, match=reason):
            loading.load(source(family), id2label=LABELS, layers=layers)


class TestLinearHead:
    @pytest.mark.parametrize("family", LINEAR)
    def test_is_linear_and_stock_agrees(self, source, family, tmp_path):
        from transformers import AutoModelForSequenceClassification

        made = loading.load(source(family), id2label=LABELS, head="linear", seed=4)
        assert heads.is_linear(made.model)
        with torch.no_grad():  # as after training: a head of ordinary size, a bias, states of ordinary size
            for name, parameter in made.model.named_parameters():
                if name.startswith("classifier"):
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        ids = ids_of(made, toy_texts(8, 2)[0])
        output = made.forward(ids, want=Want((3,)))
        layout = made.layout(ids, 0, 8, 0)
        cls = output.hidden[3].flatten(0, 1)[layout.starts]  # (b, hidden)
        last = made.model.classifier.out_proj if hasattr(made.model.classifier, "out_proj") else made.model.classifier
        expected = cls @ last.weight.T + last.bias
        torch.testing.assert_close(output.logits, expected, rtol=1e-6, atol=1e-5)

        loading.save(made, tmp_path / "saved", LONGEST, "")
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        assert type(theirs).__name__.endswith("ForSequenceClassification")
        logits = torch.cat([theirs(input_ids=text[None]).logits for text in ids])
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=5e-6 * largest)
        again = loading.load(loading.find(str(tmp_path / "saved"))).forward(ids).logits
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=5e-6 * largest)

    @pytest.mark.parametrize("family", LINEAR)
    def test_trains(self, source, family):
        """Every parameter that is left has a gradient, and none is idle."""
        made = loading.load(source(family), id2label=LABELS, head="linear")
        made.model.train()
        made.forward(ids_of(made, toy_texts(8, 2)[0])).logits.square().sum().backward()
        idle = [name for name, p in made.model.named_parameters() if p.requires_grad and p.grad is None]
        assert idle == []

    def test_dropout_before_it(self, source):
        made = loading.load(source("roberta"), id2label=LABELS, head="linear", dropout=0.5)
        assert made.model.classifier.dropout.p == 0.5

    @pytest.mark.parametrize("family", NOT_LINEAR)
    def test_refused(self, source, family):
        with pytest.raises(UserError, match="no tanh in its head"):
            loading.load(source(family), id2label=LABELS, head="linear")

    def test_lookalike_is_refused(self, source):
        """RoBERTa's layers around another function: taken by its parts it would fold wrongly."""
        made = loading.load(source("roberta"), id2label=LABELS)

        class Gelu(type(made.model.classifier)):
            def forward(self, features, **_):
                return self.out_proj(torch.nn.functional.gelu(self.dense(features[:, 0])))

        made.model.classifier.__class__ = Gelu
        with pytest.raises(UserError, match="no tanh"):
            heads.put_linear_head(made.model, "lookalike")
