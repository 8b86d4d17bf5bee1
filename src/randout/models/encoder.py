"""Encoders: the forward pass of a Hugging Face model, packed or padded.

`probe_packing` decides which: it compares one packed training step with one padded step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from randout.models.kernels import block, dropout, packing
from randout.models.kernels import embedding as token_embedding
from randout.models.kernels.buffers import Arena, Gradients, Pool

from .hooks import HookPoints, Layout
from .mean_pooling import Pooling, masked_means, segment_means, stock_pooling
from .outputs import LOGITS_ONLY as LOGITS_ONLY
from .outputs import Output as Output
from .outputs import Want as Want
from .token_types import carry_types, plain_ids, takes_types, types_of


@dataclass(frozen=True)
class Encoder:
    """A sequence classifier with its tokenizer.

    packed: whether batches run without padding; if not, `reason` says why. prefix, suffix: number of special tokens that
    the tokenizer puts at either end of a text. fused: whether the blocks run the fused CPU code (`kernels.block`). fresh:
    names of parameters that are newly initialised, not pretrained. notes: what was chosen in loading, for the log.
    """

    model: Any
    tokenizer: Any
    hook_points: HookPoints
    packed: bool = False
    reason: str = ""
    prefix: int = 1
    suffix: int = 1
    fused: bool = False
    fresh: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    pool: Pool = field(default_factory=Pool, compare=False)
    gradients: Gradients = field(default_factory=Gradients, compare=False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def pooling(self) -> Pooling:
        """What the head reads from a text's last hidden states: the first token's state ("first"), or the mean."""
        found: Pooling | None = getattr(self.model, "pooling", None)
        return found or stock_pooling(self.model.config) or "first"

    @property
    def longest(self) -> int:
        """Maximum number of tokens in a text, special tokens included."""
        return longest_text(self.model, self.tokenizer)

    def forward(
        self, ids: Sequence[Tensor], want: Want = LOGITS_ONLY, weights: dict[str, Tensor] | None = None
    ) -> Output:
        """Compute the logits of the texts, and the other outputs that `want` asks for.

        ids: one tensor of token ids per text; those of pairs carry token types (`token_types`). weights: parameters by name,
        used instead of the model's own. Raises ValueError for an empty batch or a text without tokens, which in a packed batch
        would read its neighbour's states.
        """
        lengths = [len(text) for text in ids]
        if not all(lengths) or not lengths:
            raise ValueError(
                f"text {lengths.index(0)} of this batch has no tokens" if lengths else "the batch has no texts"
            )
        if self.packed and self.hook_points.config._attn_implementation != packing.ATTENTION:  # changed since the probe
            return replace(self, packed=False).forward(ids, want, weights)
        hidden: dict[int, Tensor] = {}
        attention: dict[int, list[Tensor]] = {}
        last = len(self.hook_points.blocks)
        first = last not in want.hidden + want.attention and self.pooling == "first"
        types = None
        if carry_types(ids):
            types = [types_of(text) for text in ids] if takes_types(self.model) else None
            ids = [plain_ids(text) for text in ids]
        keywords = self._packed(ids, types, first) if self.packed else self._padded(ids, types)
        with ExitStack() as stack:
            for point in dict.fromkeys((*want.hidden, *([last] if want.pooled else []))):
                stack.callback(self.hook_points.change(point, partial(hidden.setdefault, point)))
            for block in dict.fromkeys(want.attention):
                stack.callback(self.hook_points.change_attention(block, seen=partial(attention.__setitem__, block)))
            if self.packed:
                stack.enter_context(_one_state_per_text(self.model, keywords["boundaries"], self.pooling))
            if weights is None:
                logits = self.model(**keywords).logits
            else:
                logits = torch.func.functional_call(self.model, weights, (), keywords).logits
        attention = {i: [w[:, :n, :n] for w, n in zip(found, lengths, strict=True)] for i, found in attention.items()}
        return Output(logits, hidden, self._pooled(hidden[last], lengths) if want.pooled else None, attention)

    def _pooled(self, state: Tensor, lengths: Sequence[int]) -> Tensor:
        """Pool each text's states to (b, hidden): the first token's state, or the mean."""
        if self.pooling == "mean":
            if self.packed:
                return segment_means(state[0], lengths)
            real = torch.arange(state.shape[1])[None] < torch.tensor(lengths)[:, None]
            return masked_means(state, real.to(state.device))
        starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        if self.packed and state.shape[1] == len(lengths):
            return state[0]
        return state[0, starts.to(state.device)] if self.packed else state[:, 0]

    def layout(self, ids: Sequence[Tensor], first: int, of: int, longest: int) -> Layout:
        """Layout of each text's tokens in the hidden states of `forward(ids)`; see `Layout` for the other arguments."""
        lengths = torch.tensor([len(text) for text in ids])
        starts = lengths.cumsum(0) - lengths if self.packed else torch.arange(len(ids)) * int(lengths.max())
        device = self.device
        return Layout(starts.to(device), lengths.to(device), longest, first, of, self.prefix, self.suffix)

    def _packed(self, ids: Sequence[Tensor], types: Sequence[Tensor] | None, first: bool) -> dict[str, Any]:
        lengths = tuple(len(text) for text in ids)
        row = torch.cat(list(ids))[None].to(self.device)  # (1, tokens)
        positions = torch.cat(positions_of(ids, position_offset(self.model)))[None].to(self.device)
        keywords = {"input_ids": row, "position_ids": positions, "attention_mask": None}
        if types is not None:
            keywords["token_type_ids"] = torch.cat(list(types))[None].to(self.device)
        elif "token_type_ids" in inspect.signature(self.model.base_model.forward).parameters:
            keywords["token_type_ids"] = torch.zeros_like(row)
        end = self.hook_points.blocks[-1]  # hooks on it may read or change any state, so all of them are computed then
        first = first and not (end._forward_hooks or end._backward_hooks or end._backward_pre_hooks)
        trained = self.fused and self.device.type == "cpu" and torch.is_grad_enabled() and not block.fusion_disabled()
        arena = Arena(self.pool) if trained else None
        return keywords | {"boundaries": packing.Boundaries(lengths, arena, first)}

    def _padded(self, ids: Sequence[Tensor], types: Sequence[Tensor] | None) -> dict[str, Any]:
        filler = getattr(self.model.config, "pad_token_id", None) or 0
        words: Any = self.hook_points.words
        if words is not None and not 0 <= filler < len(words.weight):
            filler = 0  # any id will do: attention masks it out
        block = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=filler)  # (b, longest)
        lengths = torch.tensor([len(text) for text in ids])
        mask = (torch.arange(block.shape[1])[None] < lengths[:, None]).long()
        keywords = {"input_ids": block.to(self.device), "attention_mask": mask.to(self.device)}
        if types is not None:
            keywords["token_type_ids"] = nn.utils.rnn.pad_sequence(list(types), batch_first=True).to(self.device)
        return keywords


def position_offset(model: nn.Module) -> int:
    """Position id of a text's first token: 0, or padding_idx + 1 in the RoBERTa family."""
    embeddings = getattr(getattr(model, "base_model", model), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def positions_of(ids: Sequence[Tensor], offset: int) -> list[Tensor]:
    """Position ids of each text's tokens, as transformers counts them.

    In the RoBERTa family (offset > 0), a padding token that occurs literally in a text ("<pad>") has the position
    padding_idx and is not counted.
    """
    if offset == 0:
        return [torch.arange(len(text)) for text in ids]
    real = [(text != offset - 1).long() for text in ids]
    return [r.cumsum(0) * r + offset - 1 for r in real]


def longest_text(model: Any, tokenizer: Any) -> int:
    """Maximum number of tokens in a text, special tokens included: the model's positions, or less if the tokenizer states
    a smaller maximum. An invalid stated length (0, negative, None) is ignored.
    """
    positions = (getattr(model.config, "max_position_embeddings", None) or 10**6) - position_offset(model)
    stated = getattr(tokenizer, "model_max_length", None)
    return int(min(positions, stated)) if stated is not None and stated >= 1 else int(positions)


@contextmanager
def _one_state_per_text(model: nn.Module, boundaries: packing.Boundaries, pooling: Pooling) -> Iterator[None]:
    """While open, turn the inner encoder's last hidden state (1, tokens, hidden) into (texts, 1, hidden): the first token's
    state, or the mean.
    """
    base = model.base_model
    inner: Any = getattr(base, "encoder", None) or getattr(base, "transformer", None)
    lengths = torch.tensor(boundaries.lengths)
    index = lengths.cumsum(0) - lengths

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        state = output.last_hidden_state
        if pooling == "mean":
            output.last_hidden_state = segment_means(state[0], boundaries.lengths)[:, None]
            return output
        only = state.shape[1] == len(index)  # the last block computed first tokens only
        output.last_hidden_state = state.transpose(0, 1) if only else state[0, index.to(state.device)][:, None]
        return output

    handle = inner.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def prepare(model: Any, tokenizer: Any, pack: bool = True) -> Encoder:
    """Make an `Encoder` of a loaded model: install fast dropout, find its blocks, and probe whether it can be packed.

    To be packed, the model must have been loaded with `attn_implementation=packing.ATTENTION`. A model that fails the
    probe must be loaded again without it, because its padded forward may be wrong too.
    """
    dropout.install(model)
    prefix, suffix = special_tokens(tokenizer)
    encoder = Encoder(model, tokenizer, HookPoints.of(model), prefix=prefix, suffix=suffix)
    if not pack:
        return replace(encoder, reason="packing was switched off")
    token_embedding.install(encoder.hook_points.words, encoder.gradients)
    encoder = replace(encoder, fused=block.install(encoder.hook_points.blocks, encoder.gradients))
    reason = probe_packing(encoder)
    return replace(encoder, packed=not reason, reason=reason)


def probe_packing(encoder: Encoder) -> str:
    """Compare a packed and a padded training step on three short texts. Returns why the model cannot be packed, or "".

    Both steps run as in the training loop, in training mode with gradients added to `.grad`, but with dropout off. Logits
    and the gradient of every parameter must agree to 1e-4 of the largest (float32; models that fail differ by far more),
    and no gradient may be zero in only one of the two steps. The model's gradients and modes are restored.
    """
    model = encoder.model
    modes, grads = {m: m.training for m in model.modules()}, {p: p.grad for p in model.parameters()}
    size = model.config.vocab_size
    texts = [(torch.arange(n) * 7 + 11) % (size - 1) + 1 for n in (5, 9, 9)]
    try:
        with torch.random.fork_rng(devices=[]), dropout.rates(model, 0.0, 0.0):
            padded, packed = (_step_taken(replace(encoder, packed=packed), texts) for packed in (False, True))
    except Exception as error:  # whatever a third-party model raises, it cannot be packed
        return f"its forward does not take packed texts ({type(error).__name__})"
    finally:
        for parameter, grad in grads.items():
            parameter.grad = grad
        for module, mode in modes.items():
            module.training = mode
        encoder.gradients.forget()
    return _difference(padded, packed)


def _step_taken(encoder: Encoder, texts: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the logits of `texts`, then the gradient of each trainable parameter after a training step on them."""
    model = encoder.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.zero_grad(set_to_none=True)
    logits = encoder.forward(texts).logits
    if parameters:  # none in a frozen model
        with encoder.gradients.adding() if encoder.packed else nullcontext():  # padded: as torch and transformers do
            logits.square().sum().backward()
    return [logits.detach(), *(None if p.grad is None else p.grad.clone() for p in parameters)]


def _difference(padded: Sequence[Tensor | None], packed: Sequence[Tensor | None]) -> str:
    """Describe how the two steps of `probe_packing` differ; an empty string if they agree."""
    largest = max((float(g.abs().max()) for g in padded[1:] if g is not None), default=0.0)
    for place, (ours, theirs) in enumerate(zip(padded, packed, strict=True)):
        if (ours is None) != (theirs is None):
            return "packed and padded gradients differ"
        if ours is None or theirs is None:
            continue
        own = float(ours.abs().max())
        scale = largest if place else own
        if not math.isfinite(scale):
            return f"its {'gradients' if place else 'logits'} are not finite"
        lost = own > 1e-5 * largest and not theirs.any()
        if lost or not torch.allclose(ours, theirs, rtol=0.0, atol=1e-4 * max(scale, 1e-6)):
            return f"packed and padded {'gradients' if place else 'logits'} differ"
    return ""


def special_tokens(tokenizer: Any) -> tuple[int, int]:
    """Count the special tokens that the tokenizer puts before and after a text."""
    if tokenizer is None:
        return 1, 1
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    inside = [place for place, special in enumerate(mask) if not special]
    return (inside[0], len(mask) - 1 - inside[-1]) if inside else (len(mask), 0)


def computing(device: torch.device, precision: str) -> Any:
    """Context for forward passes: autocast to bfloat16, or no change for float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
