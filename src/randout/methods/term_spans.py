"""Identification of terms: a probe marks the tokens of listed terms (after Naseem et al. 2022, HMCNET)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.lazy import F, nn, torch
from randout.models.outputs import Output, Want

from .base import Batch, Context, Forward, State, Step
from .functional import at_least_float32, token_states
from .terms import TermMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class TermSpans(TermMethod):
    """L = weight * 1/B * sum_i 1/n_i * sum_j BCE(sigmoid(u . h_ij + b), t_ij), in addition to the loss on gold labels.

    h_ij: (d,) the last block's state of token j of text i; n_i: its tokens without special tokens, over which j runs; t_ij: 1
    if the token belongs to a term, else 0; B: texts of the step, labelled or not. u (d,) and b are learned with the student
    and are not part of the saved model. A text without a term has targets 0 only.

    terms: words matched as whole words regardless of case; `*` at the end stands for any further letters (`models.terms`).

    An approximation of the identification of the target term in HMCNET (10.1145/3485447.3512129), whose layers and loss
    could not be checked against the paper's text: ours are a linear probe, one class for all terms, and the weight. HMCNET's
    user behaviour needs posts that the released data lacks, and has no counterpart here; the other part is `term-pooling`.

    Not useful if the terms say nothing about the class and its meaning does not depend on them. Finding listed words is easy
    for an encoder, so the loss is soon small.
    """

    name = "term-spans"
    summary = "identify the tokens of listed terms (approximation of a part of HMCNET)"
    source = "after Naseem et al. 2022, 10.1145/3485447.3512129"
    kind = "gold"
    losses = ("term-spans",)
    space = {"weight": (0.1, 0.3, 1.0)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="factor of this loss")] = 0.3

    def start(self, context: Context) -> State:
        if not self.weight:
            return State()
        weight = next(context.model.parameters())
        width: int = context.model.config.hidden_size  # type: ignore[assignment, union-attr]
        drawn = 0.02 * torch.randn(width, generator=context.generator(self.name, torch.device("cpu")))
        return State([nn.Parameter(part.to(weight.device)) for part in (drawn, torch.zeros(()))])

    def want(self, context: Context) -> Want:
        return Want(hidden=(len(context.hook_points.blocks),)) if self.weight else Want()

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if not self.weight:
            return {}
        context, (u, b) = step.context, state.parameters
        lengths = [len(text) for text in batch.ids]
        states = token_states(output.hidden[len(context.hook_points.blocks)], lengths)  # (tokens, d)
        marked = self.masks(context, batch)
        weights = [_word_weights(n, context.prefix, context.suffix) for n in lengths]
        scores = at_least_float32(states) @ u + b  # (tokens,)
        targets = torch.cat(marked).to(scores.device, scores.dtype)
        each = F.binary_cross_entropy_with_logits(at_least_float32(scores), targets, reduction="none")
        self._log(step, scores.detach() > 0, marked, weights)
        total = (each * torch.cat(weights).to(each.device)).sum()
        return {"term-spans": self.weight * total / batch.step_labels.numel()}

    def _log(self, step: Step, found: Tensor, marked: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Log the share of texts with a term, of term tokens that the probe marks, and of other words that it marks."""
        texts = torch.stack([text.any() for text in marked]).float()
        step.log("term_share", texts.mean(), weight=len(texts))
        terms, words = torch.cat(list(marked)), torch.cat(list(weights)) > 0
        for name, of in (("term_recall", terms & words), ("term_false_alarms", ~terms & words)):
            if count := int(of.sum()):
                step.log(name, found[of.to(found.device)].float().mean(), weight=count)


def _word_weights(length: int, prefix: int, suffix: int) -> Tensor:
    """Weight (length,) of each token of a text: 0 for special tokens at its ends, and equal for the others, with sum 1."""
    weights = torch.zeros(length)
    words = max(length - prefix - suffix, 0)
    weights[prefix : prefix + words] = 1 / max(words, 1)
    return weights
