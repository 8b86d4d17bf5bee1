"""Parts of a BERT and of training written out plainly, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts as a block of ids (b, n), filled with 0, and the mask (b, n) that is 1 at real tokens."""
    block = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    mask = torch.zeros_like(block)
    for row, text in enumerate(ids):
        block[row, : len(text)], mask[row, : len(text)] = text, 1
    return block, mask


def bert_block(block: Any, state: Tensor, added: Tensor) -> Tensor:
    """One block of BERT in evaluation: softmax(q k' / sqrt(d) + added) v in each head, then the rest of it.

    state: (b, n, hidden). added: (b, n), to the scores of each key.
    """
    own = block.attention.self
    heads = own.num_attention_heads
    q, k, v = (part(state).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (own.query, own.key, own.value))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5 + added[:, None, None, :]
    mixed = torch.einsum("bhij,bhjd->bhid", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    attended = block.attention.output(mixed.transpose(1, 2).flatten(2), state)
    return block.output(block.intermediate(attended), attended)


def bert(model: Any, ids: Sequence[Tensor], added: dict[int, Tensor]) -> Tensor:
    """Logits of a BERT classifier, block by block; added: (b, n) by block, 1 the first, to its attention scores."""
    block, mask = padded(ids)
    state = model.bert.embeddings(input_ids=block)
    off = torch.where(mask == 0, -torch.inf, 0.0).to(state.dtype)
    for number, layer in enumerate(model.bert.encoder.layer, 1):
        state = bert_block(layer, state, off + added.get(number, 0.0))
    return model.classifier(model.bert.pooler(state))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled texts of -log softmax(z)[y]."""
    each = [-F.log_softmax(z, -1)[y] for z, y in zip(logits, labels, strict=True) if y >= 0]
    return torch.stack(each).mean() if each else 0 * logits.sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean over texts of sum_c P_c log(P_c / Q_c), P and Q the softmax of logits (b, C)."""
    p, q = p.softmax(-1), q.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()
