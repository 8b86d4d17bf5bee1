"""What the losses of methods need to know of the targets: one class for each text, or a label set (multi-label)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from randout.core.lazy import F, torch

from .functional import at_least_float32, kl_divergence, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


class Target(Protocol):
    """The kind of target of a training. Logits are (b, C); targets (b,) integers, -1 for a text without one.

    rows: (b,) factor of each text (`Batch.weights`); None: 1.
    """

    def cross_entropy(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        smoothing: float,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log-likelihood of the gold targets, summed over the texts that have one.

        weights: (C,), of the classes. smoothing: share of the target that is spread over the alternatives.
        """

    def total_weight(self, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Return what the sum of `cross_entropy` over a step is divided by, from the targets of the step."""

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
        """Return the sum over texts of KL(teacher || student), both divided by the temperature."""

    def soft_cross_entropy(self, probabilities: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the sum over texts of the cross-entropy of predictions with given probabilities (b, C)."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (b, C) of the predictions."""

    def decided_cross_entropy(self, teacher: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the sum over texts of the cross-entropy with the decisions of a teacher, from its logits (b, C)."""

    def mean_prediction(self, logits: Tensor) -> Tensor:
        """Return logits (b, C) of the mean of the predictions with logits (m, b, C)."""


class OneLabel:
    """One class for each text: a softmax over the classes."""

    def cross_entropy(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        smoothing: float,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Sum over the labelled rows of w[y] * ((1 - e) * -log p_y + e * mean_c -log p_c)."""
        minus_log = -F.log_softmax(at_least_float32(logits), dim=-1)  # (b, C)
        labelled = targets >= 0
        gold = targets.clamp(min=0)
        each = minus_log.gather(1, gold[:, None])[:, 0]
        if smoothing:
            each = (1 - smoothing) * each + smoothing * minus_log.mean(1)
        if weights is not None:
            each = each * weights[gold]
        return weighted_sum(each * labelled, rows)

    def total_weight(self, targets: Tensor, weights: Tensor | None) -> Tensor:
        labels = targets[targets >= 0]
        each = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights[labels]
        return each.sum()

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
        return kl_divergence(teacher, student, temperature, rows)

    def soft_cross_entropy(self, probabilities: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        return -weighted_sum(probabilities * F.log_softmax(logits.float(), dim=-1), rows)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def decided_cross_entropy(self, teacher: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return F.cross_entropy(logits.float(), teacher.argmax(1), reduction="sum")
        return weighted_sum(F.cross_entropy(logits.float(), teacher.argmax(1), reduction="none"), rows)

    def mean_prediction(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=-1).logsumexp(0) - math.log(len(logits))


@dataclass(frozen=True, eq=False)
class LabelSetTarget:
    """A label set for each text: a sigmoid for each label, labels taken as independent given the text.

    members: (S, C) bool, the label sets that targets refer to. All losses are sums over labels, so that they are the
    log-likelihoods of whole sets, and gold labels and teachers keep their ratio.
    """

    members: Tensor

    def cross_entropy(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        smoothing: float,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Sum over the labelled rows and labels of the binary cross-entropy, -w q log p - (1 - q) log(1 - p).

        p = sigmoid(z); q is 1 for a label of the row and 0 for another, or (1 - e) q + e / 2. w: (C,), of positive rows.
        """
        labelled = targets >= 0
        gold = self.members[targets.clamp(min=0)].to(at_least_float32(logits).dtype)
        gold = (1 - smoothing) * gold + smoothing / 2
        each = F.binary_cross_entropy_with_logits(at_least_float32(logits), gold, reduction="none", pos_weight=weights)
        return weighted_sum(each.sum(1) * labelled, rows)

    def total_weight(self, targets: Tensor, weights: Tensor | None) -> Tensor:
        return (targets >= 0).sum().float()

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
        """Sum of the Bernoulli KL over texts and labels (`bernoulli_divergence`)."""
        return bernoulli_divergence(teacher, student, temperature, rows)

    def soft_cross_entropy(self, probabilities: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return F.binary_cross_entropy_with_logits(logits.float(), probabilities.float(), reduction="sum")
        return weighted_sum(
            F.binary_cross_entropy_with_logits(logits.float(), probabilities.float(), reduction="none"), rows
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decided_cross_entropy(self, teacher: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """A teacher decides for the labels with a probability above 0.5."""
        return self.soft_cross_entropy((teacher > 0).float(), logits, rows)

    def mean_prediction(self, logits: Tensor) -> Tensor:
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)


def bernoulli_divergence(teacher: Tensor, student: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
    """Sum over texts and labels of p log(p / q) + (1 - p) log((1 - p) / (1 - q)), in float32 or float64.

    p = sigmoid(teacher / t), q = sigmoid(student / t); teacher, student: (b, C) logits. rows: as for
    `Target`.
    """
    one, other = (at_least_float32(logits) / temperature for logits in (teacher, student))
    p = one.sigmoid()
    yes = F.logsigmoid(one) - F.logsigmoid(other)
    no = F.logsigmoid(-one) - F.logsigmoid(-other)
    return weighted_sum(p * yes + (1 - p) * no, rows)


ONE_LABEL = OneLabel()
