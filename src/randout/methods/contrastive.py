"""Contrastive learning on the labels: pulls texts of the same class together and pushes other classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from randout.core.lazy import F, torch
from randout.models.outputs import Output, Want

from .base import Batch, Context, Forward, Method, State, Step

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Method):
    """L = weight * C(v, y), in addition to the loss on gold labels, over the labelled texts of the step; v: (n, hidden) the
    states that the head reads (the first token's, or the mean of all), y their labels.

    form "pairs": half the mean of (1 - cos(v_i, v_j))^2 over pairs of the same class, plus half the mean of cos(v_i, v_j)^2
    over pairs of different classes, as SetFit trains on balanced pairs (2209.11055, section 3; its default loss is the
    squared error of the cosine). Here, the pairs are all pairs of a step, so each text is encoded only once.
    form "supervised": the mean, over texts i with at least one other text of their class, of -1/|P(i)| * sum over p in P(i)
    of log(exp(s_ip) / sum over a != i of exp(s_ia)), s = cos / temperature (2004.11362, eq. 2).
    SetFit first trains the encoder on pairs, then a logistic regression on its frozen states. Here, the head is trained at
    the same time, which needs no second stage and was as good on the tables of `benchmarks/`.

    With weights of rows (`data.weight_column`), each mean over pairs or texts is weighted, a pair by the product of its two
    weights, and the sum over a counts each text by its weight.

    rows: the method is left out if more training rows than this have labels, because it helps with small tables; 0: never
    left out. A step cannot be split into micro-batches, because its pairs are those of all its texts.
    """

    name = "contrastive"
    summary = "pulls texts of a class together and pushes others apart: for few labels"
    source = "SetFit (2209.11055); supervised contrastive learning (2004.11362)"
    kind = "gold"
    losses = ("contrastive",)
    weighted = True
    no_label_sets = "its positive pairs are texts of the same class, and label sets can overlap in part"
    needs_full_batch = True
    variants = {"supervised-contrastive": {"form": "supervised", "weight": 0.3}}  # noqa: RUF012
    space = {"weight": (1.0, 4.0)}  # noqa: RUF012
    spaces = {"supervised-contrastive": {"weight": (0.1, 0.3, 1.0)}}  # noqa: RUF012

    form: Annotated[Literal["pairs", "supervised"], Field(description='squared error of cosines, or "supervised"')] = (
        "pairs"
    )
    weight: Annotated[float, Field(ge=0, description="factor of this loss")] = 4.0
    temperature: Annotated[float, Field(gt=0, description='of the form "supervised"')] = 0.1
    rows: Annotated[int, Field(ge=0, description="left out if more training rows have labels; 0: never")] = 0

    def suits(self, labelled: int) -> bool:
        return not self.rows or labelled <= self.rows

    def want(self, context: Context) -> Want:
        return Want(pooled=True)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        assert output.pooled is not None
        known = batch.labels >= 0
        states, labels = output.pooled[known], batch.labels[known]
        weights = None if batch.weights is None else batch.weights[known]
        if self.form == "pairs":
            found = pair_loss(states, labels, weights)
        else:
            found = supervised_contrastive(states, labels, self.temperature, weights)
        return {"contrastive": self.weight * found}


def pair_loss(states: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """(mean of (1 - cos)^2 over pairs of one class + mean of cos^2 over pairs of two classes) / 2; a mean over no pair is 0.

    states: (n, d), computed in float32 or longer; labels: (n,). weights: (n,), of which a pair has the product; None: plain
    means.
    """
    cosines, same, other = _pairs(states, labels)
    if weights is not None:
        of_pairs = weights[:, None] * weights[None]
        together = _weighted_mean((1 - cosines).square(), same * of_pairs)
        return (together + _weighted_mean(cosines.square(), other * of_pairs)) / 2
    together = (1 - cosines).square().mul(same).sum() / same.sum().clamp(min=1)
    apart = cosines.square().mul(other).sum() / other.sum().clamp(min=1)
    return (together + apart) / 2


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)  # no pair: 0 / 1e-12


def supervised_contrastive(states: Tensor, labels: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Mean, over texts i with non-empty P(i), of -1/|P(i)| sum_p log softmax over a != i of (cos(i, a) / temperature) at p;
    P(i): the other texts with the label of i. 0 if no two texts share a label. Shapes as for `pair_loss`; weights: (n,), of
    the texts i, a and p in their mean and sums.
    """
    cosines, same, _ = _pairs(states, labels)
    if len(labels) < 2:
        return 0 * cosines.sum()
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = (cosines / temperature).masked_fill(itself, float("-inf"))
    if weights is not None:
        logs = (scores - torch.logsumexp(scores + weights.clamp(min=1e-30).log(), 1, True)).masked_fill(itself, 0.0)
        of_partners = same * weights
        each = -(logs * of_partners).sum(1) / of_partners.sum(1).clamp(min=1e-12)
        return _weighted_mean(each, weights * (of_partners.sum(1) > 0))
    logs = torch.log_softmax(scores, dim=1).masked_fill(itself, 0.0)
    partners = same.sum(1)
    each = -(logs * same).sum(1) / partners.clamp(min=1)
    return each.sum() / (partners > 0).sum().clamp(min=1)


def _pairs(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosines, mask of pairs of the same class, and mask of pairs of different classes, each (n, n)."""
    unit = F.normalize(states if states.dtype == torch.float64 else states.float(), dim=-1)
    equal = labels[:, None] == labels[None]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return unit @ unit.T, equal & ~itself, ~equal
