"""Arithmetic on logits and vectors that several methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Sum over texts of KL(softmax(teacher / t) || softmax(student / t)), in float32; both (b, C) logits."""
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE with in-batch negatives, in both directions: mean over i of -log softmax(S / t)[i, i] by rows and by
    columns, their mean; S[i, j] = cos(a_i, b_j).

    a, b: (n, d), row i of one the positive of row i of the other; computed in float32. One text alone has no negatives
    and gives 0. Source: van den Oord et al. 2018 (1807.03748, eq. 4), symmetric as in Radford et al. 2021 (2103.00020).
    """
    similar = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / temperature  # (n, n)
    same = torch.arange(len(similar), device=similar.device)
    return (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2
