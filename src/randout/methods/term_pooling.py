"""Classification from the states of listed terms together with that of the text (after Naseem et al. 2022, HMCNET)."""

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


class TermPooling(TermMethod):
    """L = weight * 1/n * sum over labelled texts i of CE(W [v_i; m_i] + b, y_i), in addition to the loss on gold labels.

    v_i: (d,) the state that the head reads (the first token's, [CLS]; or the mean, if the student pools so). m_i: (d,) the
    mean of the last block's states of the tokens of terms in text i, or v_i if it has no term. W (C, 2d) and b (C,) are
    learned with the student; n: labelled texts of the step. Without label smoothing, class weights and dropout.

    terms: words matched as whole words regardless of case; `*` at the end stands for any further letters (`models.terms`).

    An approximation of HMCNET's classification from the target term and the text (10.1145/3485447.3512129). The second head
    is used in training only: the saved model is an ordinary classifier with the head on v_i, which stock classes load, so
    the terms' states reach its predictions only through the encoder that both heads share. HMCNET's layers could not be
    checked against the paper's text, and its user behaviour has no counterpart. The other part is `term-spans`.

    Not useful if few texts have a term: both halves of [v; m] are then the same.
    """

    name = "term-pooling"
    summary = "classify from listed terms and the text, by a second head (approximation of a part of HMCNET)"
    source = "after Naseem et al. 2022, 10.1145/3485447.3512129"
    kind = "gold"
    losses = ("term-pooling",)
    no_label_sets = "its own classifier is a softmax over the classes"
    space = {"weight": (0.3, 1.0)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, description="factor of this loss")] = 1.0

    def start(self, context: Context) -> State:
        if not self.weight:
            return State()
        device = next(context.model.parameters()).device
        width: int = context.model.config.hidden_size  # type: ignore[assignment, union-attr]
        generator = context.generator(self.name, torch.device("cpu"))
        drawn = 0.02 * torch.randn(context.num_labels, 2 * width, generator=generator)
        return State([nn.Parameter(part.to(device)) for part in (drawn, torch.zeros(context.num_labels))])

    def want(self, context: Context) -> Want:
        return Want(hidden=(len(context.hook_points.blocks),), pooled=True) if self.weight else Want()

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if not self.weight:
            return {}
        assert output.pooled is not None
        context, (w, b) = step.context, state.parameters
        states = token_states(output.hidden[len(context.hook_points.blocks)], [len(text) for text in batch.ids])
        marked = self.masks(context, batch)
        means = term_means(at_least_float32(states), at_least_float32(output.pooled), marked)
        logits = torch.cat([at_least_float32(output.pooled), means], dim=1) @ w.T + b  # (b, C)
        known = batch.labels >= 0
        total = F.cross_entropy(at_least_float32(logits[known]), batch.labels[known], reduction="sum")
        step.log("term_share", torch.stack([text.any() for text in marked]).float().mean(), weight=len(marked))
        return {"term-pooling": self.weight * total / (batch.step_labels >= 0).sum().clamp(min=1)}


def term_means(states: Tensor, pooled: Tensor, marked: Sequence[Tensor]) -> Tensor:
    """Mean of the states of each text's marked tokens (b, d), or its row of `pooled` (b, d) if none is marked.

    states: (tokens, d), text by text; marked: for each text (n,) bool.
    """
    counts = torch.stack([text.sum() for text in marked])
    owner = torch.repeat_interleave(torch.arange(len(marked)), counts).to(states.device)
    of_terms = states[torch.cat(list(marked)).to(states.device)]
    sums = states.new_zeros(pooled.shape).index_add(0, owner, of_terms)
    counts = counts.to(states.device)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), pooled)
