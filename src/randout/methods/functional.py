"""Loss functions and vector arithmetic shared by several methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from randout.core.errors import UserError
from randout.core.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Convert `x` to float32 if its dtype has fewer bits; float32 and float64 are unchanged."""
    return x.float() if x.dtype.itemsize < 4 else x


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Sum over texts of KL(softmax(teacher / t) || softmax(student / t)), in float32 or float64; both (b, C) logits.

    weights: (b,) factor of each text; None: 1. Raises UserError for logits of different shapes, which would broadcast, and
    for a temperature that is not above 0.
    """
    if teacher.shape != student.shape:
        shapes = f"{tuple(teacher.shape)} and {tuple(student.shape)}"
        raise UserError(
            f"kl_divergence: found logits of shapes {shapes}; expected teacher and student of one shape (b, C)"
        )
    if not temperature > 0:
        raise UserError(f"kl_divergence: temperature: found {temperature}; expected a number above 0")
    log_p = F.log_softmax(at_least_float32(teacher) / temperature, dim=-1)
    log_q = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    return weighted_sum(log_p.exp() * (log_p - log_q), weights)


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """Sum `values` (b, ...), each text's multiplied by its weight (b,) if weights are given."""
    if weights is None:
        return values.sum()
    return ((values.flatten(1).sum(1) if values.dim() > 1 else values) * weights).sum()


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE with in-batch negatives: mean over i of -log softmax(S / t)[i, i], averaged over softmax by rows and by
    columns; S[i, j] = cos(a_i, b_j).

    a, b: (n, d), row i of a is the positive of row i of b; computed in float32. A single text has no negatives and gives 0.
    Source: van den Oord et al. 2018 (1807.03748, eq. 4), symmetric as in Radford et al. 2021 (2103.00020).
    """
    similar = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / temperature  # (n, n)
    same = torch.arange(len(similar), device=similar.device)
    return (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2


def barlow_twins(a: Tensor, b: Tensor, off_diagonal: float = 0.005) -> Tensor:
    """sum_i (1 - c_ii)^2 + lambda * sum_{i != j} c_ij^2, where c (d, d) is the correlation over the batch of the features
    of a with those of b; lambda is `off_diagonal`.

    a, b: (n, d), row i of both is the same text; computed in float32. A constant feature (every feature, in a batch of one)
    has zero correlation and gives a constant. Source: Zbontar et al. 2021 (2103.03230, eq. 1 and 2).
    """
    a, b = _standardised(a.float()), _standardised(b.float())
    squares = (a.T @ b / len(a) - torch.eye(a.shape[1], device=a.device)).square()  # (d, d)
    same = squares.diagonal().sum()
    return same + off_diagonal * (squares.sum() - same)


def _standardised(features: Tensor) -> Tensor:
    """Standardise (n, d) to mean 0 and variance 1 over the batch; 1e-5 is added to variances, as in batch normalisation."""
    centred = features - features.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt()


def unit(gradient: Tensor) -> Tensor:
    """Divide the gradient of each text (b, ...) by its L2 norm; a zero gradient stays zero."""
    norm = gradient.flatten(1).norm(dim=1)
    return gradient / torch.where(norm > 0, norm, 1.0).view(-1, *[1] * (gradient.dim() - 1))


def token_states(state: Tensor, lengths: Sequence[int]) -> Tensor:
    """Flatten (1, tokens, d) packed or (b, longest, d) padded to (tokens, d), text by text, without padding."""
    if state.shape[0] == 1:
        return state[0]
    real = torch.arange(state.shape[1])[None] < torch.tensor(lengths)[:, None]
    return state[real.to(state.device)]


def squared_error(one: Tensor, other: Tensor) -> Tensor:
    """Sum over texts of the mean over classes of (one - other)^2, in float32 or float64; both (b, C)."""
    return (at_least_float32(one) - at_least_float32(other)).square().mean(-1).sum()
