"""Encoders: the only file that knows the insides of Hugging Face models.

Where the blocks are (`Sites`), where the tokens of a text lie in a hidden state (`Layout`), how a batch goes through a
model packed or padded (`Encoder.forward`), and the probe that decides which of the two (`admit`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import dropout, packing


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


class Output(NamedTuple):
    """logits: (b, C). hidden: states asked for by site, (1, tokens, hidden) packed or (b, longest, hidden) padded."""

    logits: Tensor
    hidden: dict[int, Tensor]


@dataclass(frozen=True)
class Sites:
    """The places of a model where a hidden state can be read or changed: 0 the embedding output, i block i's output."""

    embedding: nn.Module
    blocks: tuple[nn.Module, ...]

    @staticmethod
    def of(model: nn.Module) -> Sites:
        """Find them in any encoder of transformers. Raises TypeError naming the model where there are none."""
        base: Any = getattr(model, "base_model", model)
        if hasattr(base, "encoder") and hasattr(base.encoder, "albert_layer_groups"):  # blocks share their weights
            groups, layers = base.encoder.albert_layer_groups, base.config.num_hidden_layers
            shared = tuple(groups[i * len(groups) // layers] for i in range(layers))
            return Sites(base.encoder.embedding_hidden_mapping_in, shared)
        depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
        for _, found in base.named_modules():
            if isinstance(found, nn.ModuleList) and len(found) == depth:
                embedding = getattr(base, "embeddings_project", None) or getattr(base, "embeddings", None)
                if embedding is not None:
                    return Sites(embedding, tuple(found))
        raise TypeError(f"{type(model).__name__}: no embeddings and list of {depth} blocks found in this model")

    def change(self, site: int, function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """Pass the hidden state at `site` through `function` in every forward; returns what undoes it.

        A block may return a tensor or a tuple that starts with one. Blocks that share a module (ALBERT) are told apart
        by their place in the forward, counted anew from the embeddings on.
        """
        if not 0 <= site <= len(self.blocks):
            raise IndexError(f"site {site}: this encoder has blocks 1 to {len(self.blocks)} and site 0, the embeddings")
        module = self.embedding if site == 0 else self.blocks[site - 1]
        turn = sum(block is module for block in self.blocks[: max(site - 1, 0)])
        shared = max(sum(block is module for block in self.blocks), 1)
        passed = 0

        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            nonlocal passed
            mine = passed % shared == turn
            passed += 1
            if not mine:
                return output
            return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

        def restart(_module: nn.Module, _arguments: Any, _output: Any) -> None:
            nonlocal passed
            passed = 0

        handles = [module.register_forward_hook(hook)]
        if shared > 1:
            handles.append(self.embedding.register_forward_hook(restart))

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo


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


@dataclass(frozen=True)
class Encoder:
    """A sequence classifier with its tokenizer. `packed`: whether batches go without padding; else `reason` says why.

    prefix, suffix: special tokens that the tokenizer puts at either end of a text.
    """

    model: Any
    tokenizer: Any
    sites: Sites
    packed: bool = False
    reason: str = ""
    prefix: int = 1
    suffix: int = 1

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def longest(self) -> int:
        """The most tokens a text may have, special tokens included."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or 10**6
        stated = self.tokenizer.model_max_length if self.tokenizer is not None else 10**6
        return min(limit - position_offset(self.model), stated)

    def forward(
        self, ids: Sequence[Tensor], want: Iterable[int] = (), weights: dict[str, Tensor] | None = None
    ) -> Output:
        """Logits of the texts, and hidden states at the sites of `want`.

        ids: one tensor of token ids a text. weights: parameters by name to use in place of the model's own.
        """
        hidden: dict[int, Tensor] = {}
        keywords = self._packed(ids) if self.packed else self._padded(ids)
        with ExitStack() as stack:
            for site in want:
                stack.callback(self.sites.change(site, partial(hidden.setdefault, site)))
            if self.packed:
                stack.enter_context(_first_tokens(self.model, keywords["boundaries"]))
            if weights is None:
                return Output(self.model(**keywords).logits, hidden)
            return Output(torch.func.functional_call(self.model, weights, (), keywords).logits, hidden)

    def layout(self, ids: Sequence[Tensor], first: int, of: int, longest: int) -> Layout:
        """Where `forward(ids)` will put each text's tokens."""
        lengths = torch.tensor([len(text) for text in ids])
        starts = lengths.cumsum(0) - lengths if self.packed else torch.arange(len(ids)) * int(lengths.max())
        device = self.device
        return Layout(starts.to(device), lengths.to(device), longest, first, of, self.prefix, self.suffix)

    def _packed(self, ids: Sequence[Tensor]) -> dict[str, Any]:
        lengths = tuple(len(text) for text in ids)
        row = torch.cat(list(ids))[None].to(self.device)  # (1, tokens)
        positions = torch.cat(positions_of(ids, position_offset(self.model)))[None].to(self.device)
        keywords = {"input_ids": row, "position_ids": positions, "attention_mask": None}
        if "token_type_ids" in inspect.signature(self.model.forward).parameters:
            keywords["token_type_ids"] = torch.zeros_like(row)
        return keywords | {"boundaries": packing.Boundaries(lengths)}

    def _padded(self, ids: Sequence[Tensor]) -> dict[str, Any]:
        filler = getattr(self.model.config, "pad_token_id", None) or 0
        block = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=filler)  # (b, longest)
        lengths = torch.tensor([len(text) for text in ids])
        mask = (torch.arange(block.shape[1])[None] < lengths[:, None]).long()
        return {"input_ids": block.to(self.device), "attention_mask": mask.to(self.device)}


def position_offset(model: nn.Module) -> int:
    """The position number of a text's first token: 0, or padding_idx + 1 in RoBERTa's kin."""
    embeddings = getattr(getattr(model, "base_model", model), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def positions_of(ids: Sequence[Tensor], offset: int) -> list[Tensor]:
    """The position numbers of each text's tokens, as transformers counts them.

    In RoBERTa's kin (offset > 0) a filler that is written out in a text ("<pad>") has the position padding_idx and is
    not counted.
    """
    if offset == 0:
        return [torch.arange(len(text)) for text in ids]
    real = [(text != offset - 1).long() for text in ids]
    return [r.cumsum(0) * r + offset - 1 for r in real]


@contextmanager
def _first_tokens(model: nn.Module, boundaries: packing.Boundaries) -> Iterator[None]:
    """While open, the inner encoder's last hidden state (1, tokens, hidden) becomes (texts, 1, hidden)."""
    base = model.base_model
    inner: Any = getattr(base, "encoder", None) or getattr(base, "transformer", None)
    lengths = torch.tensor(boundaries.lengths)
    index = lengths.cumsum(0) - lengths

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        state = output.last_hidden_state
        output.last_hidden_state = state[0, index.to(state.device)][:, None]
        return output

    handle = inner.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def prepare(model: Any, tokenizer: Any, pack: bool = True) -> Encoder:
    """An `Encoder` of a loaded model: fast dropout installed, blocks found, packing admitted or not.

    The model must have been loaded with `attn_implementation=packing.ATTENTION` to be packed; one that is refused must
    be loaded anew without it, for its padded forward may be wrong too.
    """
    dropout.install(model)
    prefix, suffix = special_tokens(tokenizer)
    encoder = Encoder(model, tokenizer, Sites.of(model), prefix=prefix, suffix=suffix)
    if not pack:
        return replace(encoder, reason="packing was switched off")
    reason = admit(encoder)
    return replace(encoder, packed=not reason, reason=reason)


def admit(encoder: Encoder) -> str:
    """Why this model cannot be packed, or an empty string: two short texts, packed against padded.

    Logits and the gradient of every parameter that has one must agree, with dropout off, to 1e-4 of the largest
    (float32; what fails, fails by far more). The model's gradients and mode are left as found.
    """
    model = encoder.model
    training, size = model.training, model.config.vocab_size
    texts = [(torch.arange(n) * 7 + 11) % (size - 1) + 1 for n in (5, 9, 9)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    try:
        found = []
        for packed in (False, True):
            logits = replace(encoder, packed=packed).forward(texts).logits
            gradients: tuple = ()
            if parameters:  # none in a frozen model
                gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
            found.append([None if x is None else x.detach() for x in (logits, *gradients)])
    except Exception as error:  # whatever a foreign model raises means the same: it does not fit
        return f"its forward does not take packed texts ({type(error).__name__})"
    finally:
        model.train(training)
    largest = max((float(g.abs().max()) for g in found[0][1:] if g is not None), default=0.0)
    for place, (ours, theirs) in enumerate(zip(*found, strict=True)):
        if (ours is None) != (theirs is None):
            return "packed and padded gradients differ"
        if ours is None:
            continue
        scale = float(ours.abs().max()) if place == 0 else largest
        if not torch.allclose(ours, theirs, rtol=0.0, atol=1e-4 * max(scale, 1e-6)):
            return f"packed and padded {'gradients' if place else 'logits'} differ"
    return ""


def special_tokens(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before and after a text."""
    if tokenizer is None:
        return 1, 1
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    inside = [place for place, special in enumerate(mask) if not special]
    return (inside[0], len(mask) - 1 - inside[-1]) if inside else (len(mask), 0)


def computing(device: torch.device, precision: str) -> Any:
    """The context in which forwards run: autocast to bfloat16, or nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
