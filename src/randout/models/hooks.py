"""Where methods hook into a model: embeddings, blocks, attention, and the layout of a batch's tokens in them.

`Sites` finds the places of any encoder of transformers and lets a function change, or read, what passes there;
`Layout` says where each text's tokens lie in a state that passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from randout.models.kernels import packing


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each text lie in a hidden state flattened to (rows, hidden).

    starts, lengths: (b,) first row and number of real tokens of each text. longest: tokens of the longest text of the
    whole step (what padding would fill up to). prefix, suffix: special tokens at either end. first, of: position of
    these texts in their step and the number of texts in it, so that draws do not depend on micro-batches.
    """

    starts: Tensor
    lengths: Tensor
    longest: int
    first: int
    of: int
    prefix: int = 1
    suffix: int = 1

    def slots(self) -> tuple[Tensor, Tensor]:
        """(b, longest) the row of each place of each text, 0 where it has no token, and where it has one."""
        place = torch.arange(self.longest, device=self.starts.device)[None]
        real = place < self.lengths[:, None]
        return (self.starts[:, None] + place) * real, real

    def into_rows(self, values: Tensor, rows: int) -> Tensor:
        """values (b, longest, ...) -> (rows, ...), each at the row of its token; zero in rows without one."""
        index, real = self.slots()
        return values.new_zeros(rows, *values.shape[2:]).index_put((index[real],), values[real])

    def own(self, drawn: Tensor) -> Tensor:
        """Values drawn for the whole step (of, longest, ...) -> these texts' (b, longest, ...), zero where a text has no
        token.
        """
        mine = drawn[self.first : self.first + len(self.lengths)]
        return mine * self.slots()[1].view(*mine.shape[:2], *[1] * (mine.dim() - 2))

    def add(self, hidden: Tensor, values: Tensor) -> Tensor:
        """hidden (.., .., width) with values (b, longest, width) added at the rows of their tokens, in its own format."""
        rows = self.into_rows(values, hidden.numel() // hidden.shape[-1])
        return hidden + rows.to(hidden.dtype).view_as(hidden)

    def from_rows(self, flat: Tensor) -> Tensor:
        """(rows, ...) -> (b, longest, ...), zero where a text has no token."""
        index, real = self.slots()
        return flat[index] * real.view(*real.shape, *[1] * (flat.dim() - 1))


@dataclass(frozen=True)
class Sites:
    """The places of a model where what passes can be read or changed.

    Hidden states: 0 is the embedding output, i the output of block i. words: the embedding of token ids. config: the
    model's own, which names its attention function.
    """

    embedding: nn.Module
    blocks: tuple[nn.Module, ...]
    words: nn.Module | None = None
    config: Any = None

    @staticmethod
    def of(model: nn.Module) -> Sites:
        """Find them in any encoder of transformers. Raises TypeError naming the model where there are none."""
        base: Any = getattr(model, "base_model", model)
        config = getattr(base, "config", None)
        words = base.get_input_embeddings() if hasattr(base, "get_input_embeddings") else None
        if hasattr(base, "encoder") and hasattr(base.encoder, "albert_layer_groups"):  # blocks share their weights
            groups, layers = base.encoder.albert_layer_groups, base.config.num_hidden_layers
            shared = tuple(groups[i * len(groups) // layers] for i in range(layers))
            return Sites(base.encoder.embedding_hidden_mapping_in, shared, words, config)
        depth = getattr(config, "num_hidden_layers", None)
        for _, found in base.named_modules():
            if isinstance(found, nn.ModuleList) and len(found) == depth:
                embedding = getattr(base, "embeddings_project", None) or getattr(base, "embeddings", None)
                if embedding is not None:
                    return Sites(embedding, tuple(found), words, config)
        raise TypeError(f"{type(model).__name__}: no embeddings and list of {depth} blocks found in this model")

    def change(self, site: int, function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """Pass the hidden state at `site` through `function` in every forward; returns what undoes it.

        A block may return a tensor or a tuple that starts with one.
        """

        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

        return self._hook(site, after=hook)

    def change_words(self, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        """Pass the embedded tokens through `function(ids, embedded)`, (b, n) and (b, n, width), in every forward;
        returns what undoes it. Raises TypeError for a model without an embedding of token ids.
        """
        if self.words is None:
            raise TypeError("this model has no embedding of token ids")

        def hook(_module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            return function(arguments[0], output)

        return self.words.register_forward_hook(hook).remove

    def change_attention(
        self,
        block: int,
        bias: Callable[[int], Tensor] | None = None,
        seen: Callable[[Any], None] | None = None,
    ) -> Callable[[], None]:
        """In every forward add to the attention scores of block `block` (1 the first), or look at its weights.

        bias: of the number of rows in the batch (padding included) to (rows,), added to the score of every query with
        the key of that row, in all heads. seen: is handed the weights, as `packing.weights_of` gives them. Returns what
        undoes it. Works where `reaches_attention` says so.
        """
        before = self.config._attn_implementation
        aside = packing.AttentionHook(bias, seen)
        undo = self._hook(block, before=lambda *_: packing.attention_hooks.append(aside), after=lambda *_: _drop(aside))
        self.config._attn_implementation = packing.ATTENTION

        def restore() -> None:
            undo()
            _drop(aside)
            self.config._attn_implementation = before

        return restore

    def reaches_attention(self, model: nn.Module) -> bool:
        """Whether `change_attention` has a say in this model, tried on a text of five tokens."""
        if not self.blocks or not hasattr(self.config, "_attn_implementation"):
            return False
        ids = torch.arange(11, 16, device=next(model.parameters()).device)[None]
        training, found = model.training, []
        model.eval()
        try:
            for strength in (0.0, 9.0):
                bias = strength * torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], device=ids.device)
                undo = self.change_attention(len(self.blocks), partial(_always, bias))
                try:
                    with torch.no_grad():
                        found.append(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0])
                finally:
                    undo()
        finally:
            model.train(training)
        return not torch.equal(*found)

    def _hook(
        self, site: int, after: Callable[..., Any], before: Callable[..., Any] | None = None
    ) -> Callable[[], None]:
        """Hooks around the module at `site`; a hook that returns None changes nothing. Returns what removes them.

        Blocks that share a module (ALBERT) are told apart by their place in the forward, counted anew from the
        embeddings on.
        """
        if not 0 <= site <= len(self.blocks):
            raise IndexError(f"site {site}: this encoder has blocks 1 to {len(self.blocks)} and site 0, the embeddings")
        module = self.embedding if site == 0 else self.blocks[site - 1]
        turn = sum(block is module for block in self.blocks[: max(site - 1, 0)])
        shared = max(sum(block is module for block in self.blocks), 1)
        passed = 0

        def entering(*arguments: Any) -> None:
            if before is not None and passed % shared == turn:
                before(*arguments)

        def leaving(*arguments: Any) -> Any:
            nonlocal passed
            passed += 1
            return after(*arguments) if (passed - 1) % shared == turn else None

        def restart(*_: Any) -> None:
            nonlocal passed
            passed = 0

        handles = [module.register_forward_pre_hook(entering), module.register_forward_hook(leaving)]
        if before is None:
            handles.pop(0).remove()
        if shared > 1:
            handles.append(self.embedding.register_forward_hook(restart))

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo


def _always(bias: Tensor, _rows: int) -> Tensor:
    return bias


def _drop(aside: packing.AttentionHook) -> None:
    if aside in packing.attention_hooks:
        packing.attention_hooks.remove(aside)


def layout_of_arguments(model: nn.Module, arguments: tuple, keywords: dict) -> Layout:
    """The layout of a foreign model's padded forward, from its own arguments (`attention_mask`, else all real)."""
    given = dict(zip(inspect.signature(model.forward).parameters, arguments, strict=False)) | keywords
    tokens, embedded = given.get("input_ids"), given.get("inputs_embeds")
    if tokens is None:
        if embedded is None:
            raise ValueError("a forward without input_ids and inputs_embeds: where its tokens lie is unknown")
        tokens = embedded[..., 0]
    mask = given.get("attention_mask")
    mask = torch.ones_like(tokens) if mask is None else mask
    if mask.dim() != 2:
        raise ValueError(f"attention_mask of shape {tuple(mask.shape)}: a (batch, tokens) mask of 0 and 1 is expected")
    real = mask.to(tokens.device) != 0
    texts, width = real.shape
    starts = torch.arange(texts, device=real.device) * width + real.int().argmax(1)
    return Layout(starts, real.sum(1), width, first=0, of=texts)
