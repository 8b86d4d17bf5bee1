"""Arithmetic on logits that several methods share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Sum over texts of KL(softmax(teacher / t) || softmax(student / t)), in float32; both (b, C) logits."""
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def squared_error(one: Tensor, other: Tensor) -> Tensor:
    """Sum over texts of the mean over classes of (one - other)^2, in float32; both (b, C)."""
    return (one.float() - other.float()).square().mean(-1).sum()
