"""Where methods hook into a model: embeddings, blocks, attention, and the layout of a batch's tokens in them.

`HookPoints` finds the hook points of any transformers encoder and lets a function read or change the tensors that pass there.
`Layout` says which rows of such a tensor hold each text's tokens.
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
    """Position of each text's tokens in a hidden state flattened to (rows, hidden).

    starts, lengths: (b,) first row and number of real tokens of each text. longest: tokens of the longest text of the
    whole step (the length that padding would fill up to). prefix, suffix: number of special tokens at either end. first,
    of: position of these texts in their step and number of texts in the step, so that random draws do not depend on
    micro-batches.
    """

    starts: Tensor
    lengths: Tensor
    longest: int
    first: int
    of: int
    prefix: int = 1
    suffix: int = 1

    def slots(self) -> tuple[Tensor, Tensor]:
        """Return two (b, longest) tensors: the row of each position of each text (0 if there is no token), and a mask of
        the positions that have a token.
        """
        place = torch.arange(self.longest, device=self.starts.device)[None]
        real = place < self.lengths[:, None]
        return (self.starts[:, None] + place) * real, real

    def into_rows(self, values: Tensor, rows: int) -> Tensor:
        """Scatter values (b, longest, ...) to (rows, ...), each at the row of its token; rows without a token are zero."""
        index, real = self.slots()
        return values.new_zeros(rows, *values.shape[2:]).index_put((index[real],), values[real])

    def own(self, drawn: Tensor) -> Tensor:
        """Select this micro-batch's values (b, longest, ...) from values drawn for the whole step (of, longest, ...); zero
        at positions without a token.
        """
        mine = drawn[self.first : self.first + len(self.lengths)]
        return mine * self.slots()[1].view(*mine.shape[:2], *[1] * (mine.dim() - 2))

    def add(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Add values (b, longest, width) to hidden (.., .., width) at the rows of their tokens, in the dtype of `hidden`."""
        rows = self.into_rows(values, hidden.numel() // hidden.shape[-1])
        return hidden + rows.to(hidden.dtype).view_as(hidden)

    def from_rows(self, flat: Tensor) -> Tensor:
        """Gather (rows, ...) to (b, longest, ...); zero at positions without a token."""
        index, real = self.slots()
        return flat[index] * real.view(*real.shape, *[1] * (flat.dim() - 1))


@dataclass(frozen=True)
class HookPoints:
    """The places of a model where tensors can be read or changed during a forward pass.

    Hidden states are numbered: hook point 0 is the embedding output, hook point i the output of block i. words: the token
    embedding (ids to vectors). config: the model's configuration, which names its attention function.
    """

    embedding: nn.Module
    blocks: tuple[nn.Module, ...]
    words: nn.Module | None = None
    config: Any = None

    @staticmethod
    def of(model: nn.Module) -> HookPoints:
        """Find the hook points of any transformers encoder. Raises TypeError naming the model if there are none."""
        base: Any = getattr(model, "base_model", model)
        config = getattr(base, "config", None)
        words = base.get_input_embeddings() if hasattr(base, "get_input_embeddings") else None
        if hasattr(base, "encoder") and hasattr(base.encoder, "albert_layer_groups"):  # blocks share their weights
            groups, layers = base.encoder.albert_layer_groups, base.config.num_hidden_layers
            shared = tuple(groups[i * len(groups) // layers] for i in range(layers))
            return HookPoints(base.encoder.embedding_hidden_mapping_in, shared, words, config)
        depth = getattr(config, "num_hidden_layers", None)
        for _, found in base.named_modules():
            if isinstance(found, nn.ModuleList) and len(found) == depth:
                embedding = getattr(base, "embeddings_project", None) or getattr(base, "embeddings", None)
                if embedding is not None:
                    return HookPoints(embedding, tuple(found), words, config)
        blocks = "a list of blocks" if depth is None else f"a list of {depth} blocks"
        raise TypeError(
            f"{type(model).__name__}: no transformers encoder with embeddings and {blocks} found in this model"
        )

    def change(self, point: int, function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """Pass the hidden state at `point` through `function` in every forward pass; returns a function that removes the hook.

        A block may return a tensor or a tuple that starts with one.
        """

        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

        return self._hook(point, after=hook)

    def change_words(self, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        """Pass the token embeddings through `function(ids, embedded)`, (b, n) and (b, n, width), in every forward pass;
        returns a function that removes the hook. Raises TypeError for a model without a token embedding.
        """
        if self.words is None:
            raise TypeError("this model has no token embedding")

        def hook(_module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            return function(arguments[0], output)

        return self.words.register_forward_hook(hook).remove

    def change_attention(
        self,
        block: int,
        bias: Callable[[int], Tensor] | None = None,
        seen: Callable[[Any], None] | None = None,
    ) -> Callable[[], None]:
        """Add a bias to the attention scores of block `block` (1 is the first), or read its weights, in every forward pass.

        bias: called with the number of rows in the batch (padding included), returns (rows,), added in all heads to the
        score of every query with the key of that row. seen: called with the weights, as `packing.weights_of` returns
        them. Returns a function that removes the hook. Only works if `reaches_attention` is true.
        """
        before = self.config._attn_implementation
        added = packing.AttentionHook(bias, seen)
        undo = self._hook(block, before=lambda *_: packing.attention_hooks.append(added), after=lambda *_: _drop(added))
        self.config._attn_implementation = packing.ATTENTION

        def restore() -> None:
            undo()
            _drop(added)
            self.config._attn_implementation = before

        return restore

    def reaches_attention(self, model: nn.Module) -> bool:
        """Test on a text of five tokens whether `change_attention` has an effect in this model."""
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
        self, point: int, after: Callable[..., Any], before: Callable[..., Any] | None = None
    ) -> Callable[[], None]:
        """Register hooks around the module at `point`; a hook that returns None changes nothing. Returns a function that
        removes them.

        Blocks that share a module (ALBERT) are told apart by their order in the forward pass, counted from the embeddings.
        """
        if not 0 <= point <= len(self.blocks):
            raise IndexError(
                f"hook point {point}: this encoder has hook points 0 (the embeddings) to {len(self.blocks)}"
            )
        module = self.embedding if point == 0 else self.blocks[point - 1]
        turn = sum(block is module for block in self.blocks[: max(point - 1, 0)])
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


def _drop(hook: packing.AttentionHook) -> None:
    if hook in packing.attention_hooks:
        packing.attention_hooks.remove(hook)


def layout_of_arguments(model: nn.Module, arguments: tuple, keywords: dict) -> Layout:
    """Layout of a padded forward pass in an external loop, from its arguments: `attention_mask`, or else all tokens real."""
    given = dict(zip(inspect.signature(model.forward).parameters, arguments, strict=False)) | keywords
    tokens, embedded = given.get("input_ids"), given.get("inputs_embeds")
    if tokens is None:
        if embedded is None:
            raise ValueError("the forward pass has neither input_ids nor inputs_embeds; pass one of them by name")
        tokens = embedded[..., 0]
    mask = given.get("attention_mask")
    mask = torch.ones_like(tokens) if mask is None else mask
    if mask.dim() != 2:
        raise ValueError(f"attention_mask has the shape {tuple(mask.shape)}; expected (batch, tokens) with 0 and 1")
    real = mask.to(tokens.device) != 0
    texts, width = real.shape
    starts = torch.arange(texts, device=real.device) * width + real.int().argmax(1)
    return Layout(starts, real.sum(1), width, first=0, of=texts)
