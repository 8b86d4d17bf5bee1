"""A method on a model in an external training loop: `applied`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from randout.core.errors import Failure, UserError
from randout.integrations.attach import applied, attached
from randout.methods.base import Method, Pass, State
from randout.methods.randout import Randout
from randout.models.hooks import Layout
from support.external_loops import difference, foreign, make_batch
from support.training import hooks_of

Tiny = Callable[[str], Path]
FAMILIES = ("bert", "roberta", "distilbert", "albert", "mpnet", "deberta-v2", "modernbert")


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_noise_on_real_tokens_in_training_only(tiny_model: Tiny, family: str, left: bool) -> None:
    model = foreign(tiny_model(family))
    batch = make_batch(left)
    real = batch["attention_mask"].bool()
    hooks = hooks_of(model)
    with applied(model, Randout(tokens=64, units=2, seed=0)) as context:
        noise = difference(model, context, **batch)
        assert not noise[~real].any(), "noise on padding"
        assert ((noise != 0).sum(2)[real] == 2).all()
        assert noise.abs().max() < 0.5 + 1e-5
        assert not torch.equal(noise, difference(model, context, **batch)), "each forward draws anew"
        model.eval()
        assert not difference(model, context, **batch).any(), "noise in evaluation"
        clean = model(**batch).logits
        model.train()
        assert difference(model, context, **batch).any()
    assert hooks_of(model) == hooks
    assert torch.equal(model.eval()(**batch).logits, clean)


def test_positional_arguments_and_no_mask(tiny_model: Tiny) -> None:
    model, batch = foreign(tiny_model("bert")), make_batch()
    method = Randout(tokens=64, units=2)
    with applied(model, method) as context:
        by_place = difference(model, context, batch["input_ids"], batch["attention_mask"])
    with applied(model, method) as context:
        by_name = difference(model, context, **batch)
    assert torch.equal(by_place, by_name)
    with applied(model, method) as context:
        assert ((difference(model, context, batch["input_ids"]) != 0).sum(2) == 2).all(), "without a mask all is real"
    with applied(model, method) as context:
        rows = model.get_input_embeddings()(batch["input_ids"])
        assert (difference(model, context, inputs_embeds=rows, attention_mask=batch["attention_mask"]) != 0).any()
    with pytest.raises(ValueError, match=r"expected \(batch, tokens\)"), applied(model, method):
        model(batch["input_ids"], batch["attention_mask"][:, None, None])


def test_seeds_are_told_apart_and_repeat(tiny_model: Tiny) -> None:
    model, batch, found = foreign(tiny_model("bert")), make_batch(), []
    for seed in (0, 0, 1):
        with applied(model, Randout(seed=seed)):
            found.append([model(**batch).logits for _ in range(2)])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])
    assert not torch.equal(found[0][0], found[2][0])


def test_hooks_go_when_the_body_fails(tiny_model: Tiny) -> None:
    model = foreign(tiny_model("bert"))
    hooks = hooks_of(model)
    with pytest.raises(KeyError), applied(model, Randout()):
        raise KeyError("x")
    with pytest.raises(UserError, match=r"methods.randout.layers: found 7"), applied(model, Randout(layers=7)):
        pass
    assert hooks_of(model) == hooks
    with pytest.raises(TypeError, match="Linear"), applied(nn.Linear(2, 2), Randout()):
        pass


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_gradient_checkpointing_changes_nothing(tiny_model: Tiny, family: str, reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        model = foreign(tiny_model(family))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with applied(model, Randout(layers=[1, 2])):
            for _ in range(2):
                model(**make_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
        found.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


class Block(nn.Module):
    """A linear map of a state, returned as a tensor or as the first of a tuple."""

    def __init__(self, width: int, as_tuple: bool) -> None:
        super().__init__()
        self.linear, self.as_tuple = nn.Linear(width, width), as_tuple

    def forward(self, hidden: Tensor) -> Any:
        made = torch.tanh(self.linear(hidden))
        return (made, "more") if self.as_tuple else made


class Homemade(nn.Module):
    """Embeddings and blocks under the names that are looked for; `again` recomputes whole blocks, hooks included."""

    def __init__(self, as_tuple: bool, again: bool) -> None:
        super().__init__()
        self.config = type("Config", (), {"num_hidden_layers": 3})()
        self.embeddings, self.again = nn.Embedding(50, 16), again
        self.layers = nn.ModuleList(Block(16, as_tuple) for _ in range(3))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embeddings(input_ids)
        for block in self.layers:
            hidden = checkpoint(block, hidden, use_reentrant=False) if self.again else block(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden.mean(1).square().sum()


@pytest.mark.parametrize("as_tuple", [False, True])
def test_blocks_that_are_computed_again_get_their_own_noise(as_tuple: bool) -> None:
    """Also when two training forwards and an evaluation come before one backward."""
    found = []
    for again in (False, True):
        torch.manual_seed(1)
        model = Homemade(as_tuple, again)
        with applied(model, Randout(units=8, layers=[1, 2, 3])):
            first, second = model(make_batch()["input_ids"]), model(**make_batch())
            assert first != second
            model.eval()
            model(**make_batch())
            model.train()
            (first + 2 * second).backward()
        found.append([p.grad for p in model.parameters()])
        assert hooks_of(model) == 0
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_layout_under_way_is_the_models_own(tiny_model: Tiny) -> None:
    model, seen = foreign(tiny_model("roberta")), []

    class Spy(Method):
        name = "spy"
        summary = "keeps the layout"

        def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
            seen.append(step.layout)
            return nullcontext()

    with applied(model, Spy()):
        model(**make_batch(left=True))
    (layout,) = seen
    assert isinstance(layout, Layout)
    assert layout.lengths.tolist() == [4, 9, 1]
    assert layout.starts.tolist() == [5, 9, 26]


def test_a_parameter_that_loses_its_gradient_is_named(tiny_model: Tiny) -> None:
    """Once, after the first step; not where it has none in the plain model either, nor where all are gone already."""
    for lose in (False, True):
        model, batch = foreign(tiny_model("bert")), make_batch()
        model.bert.unused = nn.Linear(2, 2)
        handle: Any = nn.Identity()
        if lose:
            handle = model.bert.encoder.layer[0].output.dense.register_forward_hook(lambda m, i, o: o.detach())
        with attached(model, [Randout()]) as work:
            work.stepped()  # nothing was seen yet
            assert not work.checked
            work.loss(model(**batch), torch.tensor([0, 1, 2])).backward()
            if lose:
                handle.remove()
                with pytest.raises(Failure, match=r"encoder\.layer\.0\.intermediate\.dense\.weight.* got no gradient"):
                    work.stepped()
            else:
                work.stepped()
            assert work.checked
            model.zero_grad()
            work.stepped()
