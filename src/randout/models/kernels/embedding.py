"""Token embedding whose gradient covers only the rows that occur in the batch.

A batch of 16 posts has some 400 different tokens of a vocabulary of 30,000. torch's gradient is a matrix of zeros as large
as the embedding, made anew in every step; here it is kept, and only rows that were touched are cleared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .buffers import Gradients, observed, plain_tensor


class _Lookup(torch.autograd.Function):
    """weight[ids], with torch's gradient."""

    @staticmethod
    def forward(weight: Tensor, ids: Tensor, padding: int, gradients: Gradients) -> Tensor:
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.weight, ctx.ids, ctx.padding, ctx.gradients = inputs

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, ids = ctx.weight, ctx.ids  # the parameter itself: saved tensors may come back as copies
        if not ctx.gradients.takes(weight):
            found = torch.ops.aten.embedding_dense_backward(gradient, ids, len(weight), ctx.padding, False)
            return found, None, None, None
        rows, place = ids.unique(return_inverse=True)
        padding = (rows == ctx.padding).nonzero()
        without = int(padding) if len(padding) else -1
        found = torch.ops.aten.embedding_dense_backward(gradient, place, len(rows), without, False)
        ctx.gradients.add_rows(weight, rows, found)
        return None, None, None, None


class SparseRowEmbedding(nn.Embedding):
    """An `nn.Embedding` whose gradient is kept to rows while `Gradients.adding` is open."""

    gradients: Gradients

    def forward(self, input: Tensor) -> Tensor:
        special = self.sparse or self.scale_grad_by_freq or self.max_norm is not None
        if special or not plain_tensor(self.weight) or observed():
            return super().forward(input)
        padding = -1 if self.padding_idx is None else self.padding_idx
        return _Lookup.apply(self.weight, input, padding, self.gradients)


def install(words: nn.Module | None, gradients: Gradients) -> None:
    """Make a plain embedding one of rows, in place; any other is left as it is."""
    if type(words) is nn.Embedding:
        words.__class__ = SparseRowEmbedding
        words.gradients = gradients  # type: ignore[assignment]
