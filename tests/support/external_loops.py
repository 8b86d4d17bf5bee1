"""Small foreign trainings for the tests: stock classifiers and batches as another loop has them, and stand-in methods."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randout.methods.base import Backward, Batch, Context, Forward, Method, Pass, State, Step
from randout.methods.functional import kl_divergence
from randout.models.encoder import Output
from randout.models.hooks import Layout
from randout.testing.models import toy_texts
from support.training import NAMES

_stock: dict[str, tuple[Any, Tensor]] = {}  # by folder, seed and options


def stock(folder: Path, dropout: bool = True, seed: int = 0, **options: Any) -> Any:
    """A stock classifier of three classes, loaded as anybody would, and torch's generator as it is after that: a copy of
    one that is loaded once.
    """
    from transformers import AutoModelForSequenceClassification

    key = repr((folder, seed, sorted(options.items())))
    if key not in _stock:
        torch.manual_seed(seed)
        made = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **options)
        _stock[key] = made, torch.get_rng_state()
    model, state = copy.deepcopy(_stock[key][0]), _stock[key][1]
    torch.set_rng_state(state)
    if not dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return model.train()


def examples(folder: Path, n: int = 24, teacher: bool = False) -> list[dict[str, Any]]:
    """n labelled toy texts of up to 24 tokens, as a tokenizer gives them, with a made-up teacher's logits if asked."""
    from transformers import AutoTokenizer

    texts, names = toy_texts(n, 0)
    encoded = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=24)
    place = {name: at for at, name in NAMES.items()}
    logits = 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for row, name in enumerate(names):
        one = {"input_ids": encoded["input_ids"][row], "attention_mask": encoded["attention_mask"][row]}
        found.append(one | {"labels": place[name]} | ({"teacher_logits": logits[row].tolist()} if teacher else {}))
    return found


def padded(rows: list[dict[str, Any]], left: bool = False) -> dict[str, Tensor]:
    """A batch of `examples`, padded to the longest."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {}
    for name in ("input_ids", "attention_mask"):
        filled = [(row[name], [0] * (longest - len(row[name]))) for row in rows]
        batch[name] = torch.tensor([gap + own if left else own + gap for own, gap in filled])
    batch |= {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name not in batch}
    return batch


class Twice(Method):
    """Two passes under different dropout masks, as R-Drop has them."""

    name = "twice"
    summary = "two passes that must agree"
    losses = ("ce", "twice")
    replaces_gold_loss = True
    weight: float = 1.0

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        other = forward(call=1)
        both = kl_divergence(output.logits, other.logits, 1.0) + kl_divergence(other.logits, output.logits, 1.0)
        gold = (step.gold_loss(output, batch) + step.gold_loss(other, batch)) / 2
        return {"ce": gold, "twice": self.weight * both / (2 * batch.step_labels.numel())}


class Square(Method):
    """A loss that is not zero without dropout."""

    name = "square"
    summary = "small logits"
    losses = ("square",)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"square": 0.1 * forward().logits.square().sum() / batch.step_labels.numel()}


class Ascent(Method):
    """Passes over word embeddings that move along their own gradient, as FreeLB has them."""

    name = "ascent"
    summary = "adversarial passes"
    passes: int = 3
    rate: float = 0.5

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        width = step.context.hook_points.words.weight.shape[1]  # type: ignore[union-attr]
        delta = torch.zeros(len(batch.ids), batch.longest, width)
        for _ in range(self.passes):
            delta = delta.detach().requires_grad_()
            backward(batch, 1 / self.passes, partial(self._around, delta))
            assert delta.grad is not None
            delta = delta + self.rate * delta.grad / delta.grad.flatten(1).norm(dim=1)[:, None, None]

    @contextmanager
    def _around(self, delta: Tensor, step: Pass) -> Iterator[None]:
        undo = step.context.hook_points.change_words(partial(self._add, step.layout, delta))
        try:
            yield
        finally:
            undo()

    def _add(self, layout: Layout, delta: Tensor, ids: Tensor, embedded: Tensor) -> Tensor:
        return embedded + layout.into_rows(delta, embedded.shape[:-1].numel()).view_as(embedded)


class Mixed(Method):
    """The weights that were there at the start take the place of half the present ones, drawn when a forward begins."""

    name = "mixed"
    summary = "old weights mixed in"

    def start(self, context: Context) -> State:
        with torch.no_grad():
            context.hook_points.words.weight.mul_(1.01)  # type: ignore[union-attr]
        return State(tensors={str(at): m.weight.detach().clone() for at, m in enumerate(_linear(context))})

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        layers = _linear(step.context)
        for at, layer in enumerate(layers):
            draw = torch.rand(layer.weight.shape, generator=step.generator("mixed", layer.weight.device, at)) < 0.5
            mixed = torch.where(draw, layer.weight, state.tensors[str(at)])
            layer.forward = partial(nn.functional.linear, weight=mixed, bias=layer.bias)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)


def _linear(context: Context) -> list[nn.Linear]:
    return [module for module in context.hook_points.blocks[0].modules() if isinstance(module, nn.Linear)]


def foreign(folder: Path, **options: Any) -> Any:
    """A stock classifier with dropout off, loaded as anybody would."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def make_batch(left: bool = False) -> dict[str, Tensor]:
    lengths, width = [4, 9, 1], 9
    ids, mask = torch.ones(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(0, length)
        ids[row, place], mask[row, place] = torch.arange(length) + 20 + row, 1
    return {"input_ids": ids, "attention_mask": mask}


def difference(model: Any, context: Context, *arguments: Tensor, **batch: Tensor) -> Tensor:
    """What the method adds after the first block: the second's input minus the first's own output."""
    states: dict[str, Tensor] = {}
    inputs: list[Tensor] = []  # of the second block; of all blocks where they are one module (ALBERT)
    blocks = context.hook_points.blocks

    def clean(_m: Any, _a: Any, output: Any) -> None:
        states.setdefault("clean", (output[0] if isinstance(output, tuple) else output).detach())

    def noisy(_m: Any, given: tuple, keywords: dict) -> None:
        inputs.append(next(iter((*given, *keywords.values()))).detach())

    handles = [blocks[0].register_forward_hook(clean, prepend=True)]
    handles.append(blocks[1].register_forward_pre_hook(noisy, with_kwargs=True))
    model(*arguments, **batch)
    for handle in handles:
        handle.remove()
    return inputs[blocks[0] is blocks[1]] - states["clean"]
