"""What the forward pass of an encoder can be asked for (`Want`), and what it returns (`Output`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Want:
    """What a forward is asked for besides logits. hidden: sites; cls: the states that the head reads; attention: blocks
    (1 the first).
    """

    hidden: tuple[int, ...] = ()
    cls: bool = False
    attention: tuple[int, ...] = ()

    def __or__(self, other: Want) -> Want:
        return Want(self.hidden + other.hidden, self.cls or other.cls, self.attention + other.attention)


NOTHING = Want()


class Output(NamedTuple):
    """logits: (b, C). hidden: states asked for by site, (1, tokens, hidden) packed or (b, longest, hidden) padded.
    cls: (b, hidden) the last block's output at each text's first token, or where the model pools by mean, its mean over
    the text's tokens. attention: by block the weights of each text before dropout, (heads, n, n).
    """

    logits: Tensor
    hidden: dict[int, Tensor]
    cls: Tensor | None = None
    attention: dict[int, list[Tensor]] = {}  # noqa: RUF012
