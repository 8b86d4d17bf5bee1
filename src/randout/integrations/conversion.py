"""Checks and converts what an external loop passes: model output, labels, teacher logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from randout.core.errors import UserError
from randout.core.wording import type_words

from .tracked_model import found_logits


def logits_of(outputs: Any) -> Tensor:
    """Extract the logits (b, C) of a model's output. Raises UserError if there are none."""
    logits = found_logits(outputs)
    if logits is None or logits.dim() != 2:
        raise UserError(f"no logits of shape (texts, classes) in the model's output, {type_words(outputs)}")
    return logits


def classes_of(labels: Any, logits: Tensor) -> Tensor:
    """Convert labels to (b,) class indices, -1 for none. logits: (b, C). Raises UserError for other labels.

    Whether labels are below C is checked on the CPU only: on a GPU, the check would wait for it in each step.
    """
    texts, count = logits.shape
    if labels is None:
        return torch.full((texts,), -1)
    classes: Tensor = torch.as_tensor(labels)
    if classes.shape != (texts,) or classes.is_floating_point():
        raise UserError(
            f"labels: found shape {tuple(classes.shape)} and {classes.dtype}, expected one integer per text"
        )
    if classes.device.type == "cpu" and texts and int(classes.max()) >= count:
        raise UserError(
            f"labels: found {int(classes.max())}, expected at most {count - 1}: the model has {count} outputs"
        )
    return classes.long().clamp(min=-1)


def teachers_of(given: Any, logits: Tensor) -> list[Tensor]:
    """Convert teacher logits to a list of (b, C) tensors, in float32 on the device of the student's logits."""
    if given is None:
        return []
    each = list(given) if isinstance(given, (list, tuple)) or given.dim() == 3 else [given]
    if bad := [tuple(one.shape) for one in each if one.shape != logits.shape]:
        raise UserError(f"teacher_logits: found shape {bad[0]}, expected the student's shape {tuple(logits.shape)}")
    return [one.detach().to(logits.device, torch.float32) for one in each]


def step_labels(classes: Tensor, texts: int | None) -> Tensor:
    """Labels of the whole step, for normalisation only; texts of other micro-batches count as labelled."""
    if texts is None or texts == len(classes):
        return classes
    if texts < len(classes) or bool((classes < 0).any()):
        raise UserError(
            f"texts: {texts} in the step, but {len(classes)} in this batch; with unlabelled texts they must be equal"
        )
    return torch.cat([classes, classes.new_zeros(texts - len(classes))])


def plain_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled texts; zero if there are none."""
    labelled = classes >= 0
    total = F.cross_entropy(logits.float(), classes.clamp(min=0).to(logits.device), reduction="none")
    return (total * labelled.to(logits.device)).sum() / labelled.sum().clamp(min=1).to(logits.device)
