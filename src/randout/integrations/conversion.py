"""Checks what an external loop passes (model output, labels, teacher logits) and converts it to our form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from randout.core.errors import UserError

from .tracking import found_logits


def logits_of(outputs: Any) -> Tensor:
    """Raises UserError where a model's output has no (b, C) logits."""
    logits = found_logits(outputs)
    if logits is None or logits.dim() != 2:
        raise UserError(f"no (texts, classes) logits in the model's output, a {type(outputs).__name__}")
    return logits


def classes_of(labels: Any, texts: int) -> Tensor:
    """(b,) class or -1. Raises UserError for labels that are no classes."""
    if labels is None:
        return torch.full((texts,), -1)
    labels = torch.as_tensor(labels)
    if labels.shape != (texts,) or labels.is_floating_point():
        raise UserError(
            f"labels of shape {tuple(labels.shape)}, {labels.dtype}: one whole number for each text is expected"
        )
    return labels.long().clamp(min=-1)


def teachers_of(given: Any, logits: Tensor) -> list[Tensor]:
    """(b, C) logits of each teacher, in float32 beside the student's."""
    if given is None:
        return []
    each = list(given) if isinstance(given, (list, tuple)) or given.dim() == 3 else [given]
    if bad := [tuple(one.shape) for one in each if one.shape != logits.shape]:
        raise UserError(f"teacher_logits of shape {bad[0]}: that of the student's, {tuple(logits.shape)}, is expected")
    return [one.detach().to(logits.device, torch.float32) for one in each]


def step_labels(classes: Tensor, texts: int | None) -> Tensor:
    """Labels that count as those of the whole step; the texts of other micro-batches count as labelled."""
    if texts is None or texts == len(classes):
        return classes
    if texts < len(classes) or bool((classes < 0).any()):
        raise UserError(
            f"texts: {texts} in the step, but {len(classes)} here; with unlabelled texts they must be equal"
        )
    return torch.cat([classes, classes.new_zeros(texts - len(classes))])


def plain_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cross-entropy over the texts that have a label; zero where none has."""
    labelled = classes >= 0
    total = F.cross_entropy(logits.float(), classes.clamp(min=0).to(logits.device), reduction="none")
    return (total * labelled.to(logits.device)).sum() / labelled.sum().clamp(min=1).to(logits.device)
