"""What the forward pass of an encoder can be asked for (`Want`), and what it returns (`Output`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Want:
    """Outputs requested from a forward pass in addition to logits.

    hidden: hook points of hidden states (0: the embeddings, i: block i). pooled: whether to return the states that the
    head reads. attention: blocks whose attention weights to return (1 is the first).
    """

    hidden: tuple[int, ...] = ()
    pooled: bool = False
    attention: tuple[int, ...] = ()

    def __or__(self, other: Want) -> Want:
        return Want(self.hidden + other.hidden, self.pooled or other.pooled, self.attention + other.attention)


LOGITS_ONLY = Want()


class Output(NamedTuple):
    """Result of a forward pass on b texts.

    logits: (b, C). hidden: requested states by hook point, (1, tokens, hidden) if packed or (b, longest, hidden) if padded.
    pooled: (b, hidden), the last block's output at each text's first token, or its mean over the text's tokens if the model
    uses mean pooling. attention: by block, the weights of each text of n tokens before dropout, (heads, n, n).
    """

    logits: Tensor
    hidden: dict[int, Tensor]
    pooled: Tensor | None = None
    attention: dict[int, list[Tensor]] = {}  # noqa: RUF012
