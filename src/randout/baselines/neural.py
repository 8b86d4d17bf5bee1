"""CNN and LSTM baselines with their own small vocabulary, in the form of an encoder that the training loop takes.

Sizes and training: Huang et al. 2020 (CODA-19, 2005.02367, and its published code). A text is its first 60 words, filled
up on the left; the CNN is one linear layer over the largest values of its filters, the LSTM one over its last state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from randout.core.config import TrainTable
from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.models.encoder import NOTHING, Encoder, Output, Want
from randout.models.hooks import Sites
from randout.models.inference import predict
from randout.models.tokens import Tokens

from .base import Arrays, Classifier, Fitted, Seen, Vocabulary

FILLER, UNKNOWN, FIRST = 0, 1, 2  # word ids; FIRST: of the vocabulary
Size = Annotated[int, Field(ge=1)]


class Network(Classifier):
    """A network over word ids. Its training settings stand here, with the published values, and go into `[train]`."""

    scores = "The scores are logits as an encoder's: their softmax was trained as the classes' probabilities."

    lowercase: Annotated[bool, Field(description="read texts in lower case")] = True
    split: Annotated[
        Literal["space", "punctuation"],
        Field(description='where words end: "space" (published); "punctuation" parts its marks from words too'),
    ] = "space"
    min_count: Annotated[int, Field(ge=1, description="fewest occurrences of a word in the training texts")] = 6
    length: Annotated[int, Field(ge=1, description="words of a text that are read")] = 60
    embedding: Annotated[int, Field(ge=1, description="numbers a word")] = 256
    dropout: Annotated[float, Field(ge=0, lt=1, description="rate")] = 0.3
    epochs: Annotated[int, Field(ge=1, description="passes over the training rows; the best on validation is kept")] = (
        50
    )
    batch_size: Annotated[int, Field(ge=1, description="texts an optimizer step")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="of Adam, constant")] = 5e-5
    weight_decay: Annotated[float, Field(ge=0, description="of Adam: added to the gradient, not decoupled")] = 1e-6
    patience: Annotated[int, Field(ge=0, description="stop after so many validations without a gain; 0: never")] = 0

    def module(self, words: int, labels: int) -> nn.Module:
        """(b, length) word ids -> (b, C) logits; words: how many ids there are."""
        raise NotImplementedError

    def training(self, asked: TrainTable) -> TrainTable:
        """The settings of the loop."""
        own = ("epochs", "batch_size", "learning_rate", "weight_decay", "patience")
        rest = {"schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.0, "keep": "best", "validate_every": 1}
        return asked.model_copy(update={name: getattr(self, name) for name in own} | rest)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def words(self, text: str) -> list[str]:
        text = text.lower() if self.lowercase else text
        if self.split == "space":
            return text.split()
        return "".join(c if c.isalnum() or c.isspace() or c == "_" else f" {c} " for c in text).split()

    def vocabulary(self, texts: Iterable[str]) -> Vocabulary:
        """The words to know, most frequent first. Raises UserError where none is left."""
        seen = Counter(word for text in texts for word in self.words(text))
        kept = [word for word, count in seen.items() if count >= self.min_count]
        if not kept:
            most = max(seen.values(), default=0)
            raise UserError(
                f"classifier.min_count: no word occurs {self.min_count} times in the training texts (the most frequent "
                f"one {most} times); lower it, as --set classifier.min_count=1"
            )
        return tuple(sorted(kept, key=lambda word: (-seen[word], word)))

    def tokens(self, vocabulary: Vocabulary, texts: Sequence[str]) -> Tokens:
        """`length` ids a text, filled up on the left; an unknown word has an id of its own."""
        index = {word: at + FIRST for at, word in enumerate(vocabulary)}
        ids, whole = np.full((len(texts), self.length), FILLER, dtype=np.int32), np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            words = self.words(text)
            known = [index.get(word, UNKNOWN) for word in words[: self.length]]
            ids[row, self.length - len(known) :] = known
            whole[row] = len(words)
        return Tokens(ids.reshape(-1), np.arange(len(texts) + 1, dtype=np.int64) * self.length, whole)

    def encoder(self, vocabulary: Vocabulary, id2label: dict[int, str], seed: int) -> WordEncoder:
        """A new network, drawn from `seed`."""
        torch.manual_seed(random_key(seed, "head"))
        model: Any = self.module(len(vocabulary) + FIRST, len(id2label))
        model.config = SimpleNamespace(num_labels=len(id2label), id2label=id2label, hidden_size=self.embedding)
        # packed: its cost does not depend on lengths, so its batches need not be sorted by them
        return WordEncoder(model, None, Sites(model.embedding, ()), packed=True, prefix=0, suffix=0)

    def fitted(self, encoder: Encoder, vocabulary: Vocabulary) -> Fitted:
        """What is to be saved of a trained network."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in encoder.model.state_dict().items()}
        return Fitted(self, encoder.model.config.id2label, vocabulary, arrays, {"words": len(vocabulary)})

    def logits_of(
        self, vocabulary: Vocabulary, arrays: Arrays, labels: int, texts: Sequence[str], seen: Seen, device: str
    ) -> np.ndarray:
        encoder = self.encoder(vocabulary, {at: str(at) for at in range(labels)}, seed=0)
        encoder.model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        encoder.model.to(device)
        return predict(encoder, self.tokens(vocabulary, texts), np.arange(len(texts)), "float32", seen)


@dataclass(frozen=True)
class WordEncoder(Encoder):
    """A network in an encoder's place: every text has the same number of ids."""

    def forward(self, ids: Sequence[Tensor], want: Want = NOTHING, weights: dict[str, Tensor] | None = None) -> Output:
        block = torch.stack(list(ids)).to(self.device)  # (b, length)
        return Output(self.model(block), {})


class CNN(Network):
    """max over time of each filter over the embeddings (dropout on these), joined, then one linear layer."""

    name = "cnn"
    summary = "convolutional network of words"

    filters: Annotated[tuple[Size, ...], Field(min_length=1, description="widths of the filters, in words")] = (3, 4, 5)
    channels: Annotated[int, Field(ge=1, description="filters of each width")] = 100

    def check(self) -> None:
        if max(self.filters) > self.length:
            raise UserError(
                f"classifier.filters: a filter of {max(self.filters)} words does not fit into texts of "
                f"{self.length} (classifier.length)"
            )

    def module(self, words: int, labels: int) -> nn.Module:
        return Convolutions(words, labels, self)


class Convolutions(nn.Module):
    def __init__(self, words: int, labels: int, settings: CNN) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, settings.embedding, padding_idx=FILLER)
        self.filters = nn.ModuleList(
            nn.Conv1d(settings.embedding, settings.channels, width) for width in settings.filters
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(settings.channels * len(settings.filters), labels)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.dropout(self.embedding(ids).transpose(1, 2))  # (b, embedding, length)
        found = [convolve(states) for convolve in self.filters]  # (b, channels, length - width + 1) each
        return self.linear(torch.cat([F.max_pool1d(each, each.shape[2])[..., 0] for each in found], 1))


class LSTM(Network):
    """Layers of LSTM with dropout between them; one linear layer on the last step of the last layer."""

    name = "lstm"
    summary = "long short-term memory network of words"

    layers: Annotated[int, Field(ge=1, description="how many on top of one another")] = 10
    hidden: Annotated[int, Field(ge=1, description="numbers of a state")] = 256

    def module(self, words: int, labels: int) -> nn.Module:
        return Recurrent(words, labels, self)


class Recurrent(nn.Module):
    def __init__(self, words: int, labels: int, settings: LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, settings.embedding, padding_idx=FILLER)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.lstm = nn.LSTM(settings.embedding, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.linear = nn.Linear(settings.hidden, labels)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embedding(ids))[0][:, -1])
