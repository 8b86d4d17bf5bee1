"""The PyTorch modules of the neural baselines (`neural`), and their form as an encoder that the training loop takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randout.models.encoder import LOGITS_ONLY, Encoder, Output, Want

PADDING = 0  # word id of the padding


@dataclass(frozen=True)
class WordEncoder(Encoder):
    """A network with the interface of an encoder; every text has the same number of ids."""

    def forward(
        self, ids: Sequence[Tensor], want: Want = LOGITS_ONLY, weights: dict[str, Tensor] | None = None
    ) -> Output:
        block = torch.stack(list(ids)).to(self.device)  # (b, length)
        return Output(self.model(block), {})


class Convolutions(nn.Module):
    """The module of `neural.CNN`, whose settings the arguments are. words: number of word ids. labels: of classes."""

    def __init__(
        self, words: int, labels: int, embedding: int, dropout: float, filters: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=PADDING)
        self.filters = nn.ModuleList(nn.Conv1d(embedding, channels, width) for width in filters)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels * len(filters), labels)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.dropout(self.embedding(ids).transpose(1, 2))  # (b, embedding, length)
        found = [convolve(states) for convolve in self.filters]  # (b, channels, length - width + 1) each
        return self.linear(torch.cat([F.max_pool1d(each, each.shape[2])[..., 0] for each in found], 1))


class Recurrent(nn.Module):
    """The module of `neural.LSTM`, whose settings the arguments are. words: number of word ids. labels: of classes."""

    def __init__(self, words: int, labels: int, embedding: int, dropout: float, layers: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=PADDING)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.linear = nn.Linear(hidden, labels)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embedding(ids))[0][:, -1])
