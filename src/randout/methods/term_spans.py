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
    """L = weight * 1/B * sum_i (mean over j in T_i of -log p_ij + mean over j not in T_i of -log(1 - p_ij)) / 2, in addition
    to the loss on gold labels, with p_ij = sigmoid(u . h_ij + b).

    h_ij: (d,) the last block's state of token j of text i, special tokens left out; T_i: its tokens that belong to a term; a
    mean over none is 0; B: texts of the step, labelled or not. u (d,) and b are learned with the student and are not part of
    the saved model. Terms and other words have equal weight in a text, because terms are few: with one mean over all tokens,
    the probe marked none.

    terms: words matched as whole words regardless of case; `*` at the end stands for any further letters (`models.terms`).

    An approximation of the identification of the target term in HMCNET (10.1145/3485447.3512129), whose layers and loss
    could not be checked against the paper's text: ours are a linear probe, one class for all terms, and the weight. HMCNET's
    user behaviour needs posts that the released data lacks, and has no counterpart here; the other part is `term-pooling`.

    Not useful if a text's class does not depend on how it uses the terms.
    """

    name = "term-spans"
    summary = "identify the tokens of listed terms (approximation of a part of HMCNET)"
    source = "after Naseem et al. 2022, 10.1145/3485447.3512129"
    kind = "gold"
    losses = ("term-spans",)
    label_sets = True
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
        weights = [_token_weights(text, context.prefix, context.suffix) for text in marked]
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


def _token_weights(marked: Tensor, prefix: int, suffix: int) -> Tensor:
    """Weight (n,) of each token of a text: 0 for special tokens at its ends; sum 1/2 over the marked ones, and over others."""
    words = torch.ones_like(marked)
    words[:prefix] = False
    words[len(words) - suffix :] = False
    parts = words & marked, words & ~marked
    return sum((part / (2 * part.sum().clamp(min=1)) for part in parts), torch.zeros(len(marked)))
