"""CNN and LSTM baselines with their own small vocabulary, in the form of an encoder that the training loop takes.

Sizes and training follow Huang et al. 2020 (CODA-19, arXiv 2005.02367, and its published code). A text is its first 60
words, padded on the left. The CNN is a linear layer over max-pooled filters, the LSTM a linear layer over its last state.
PyTorch is loaded when a network is made (`networks`), not to read or print settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from randout.core.config import TrainTable
from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.core.rng import random_key
from randout.models.tokens import Tokens

from .base import COMMON_SETTINGS, Arrays, Classifier, Fitted, Progress, Vocabulary

if TYPE_CHECKING:
    from torch import nn

    from randout.models.encoder import Encoder

    from .networks import WordEncoder

PADDING, UNKNOWN, FIRST = 0, 1, 2  # word ids; padding as in `networks`; FIRST: the first word of the vocabulary
Size = Annotated[int, Field(ge=1)]


class Network(Classifier):
    """Base class of the neural baselines. Its training settings default to the published values and override `[train]`."""

    label_sets = True
    scores = "The scores are logits, as those of an encoder: their softmax was trained as class probabilities."
    gives_probabilities = True
    own_loss = False
    train_settings = (*COMMON_SETTINGS, "precision", "micro_batch")

    lowercase: Annotated[bool, Field(description="convert texts to lower case")] = True
    split: Annotated[
        Literal["space", "punctuation"],
        Field(
            description='word splitting: "space" (published), or "punctuation", which also separates punctuation marks'
        ),
    ] = "space"
    min_count: Annotated[int, Field(ge=1, description="minimum occurrences of a word in the training texts")] = 6
    length: Annotated[int, Field(ge=1, description="maximum words per text")] = 60
    embedding: Annotated[int, Field(ge=1, description="embedding size")] = 256
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout rate")] = 0.3
    epochs: Annotated[
        int, Field(ge=1, description="passes over the training rows; the best one on validation is kept")
    ] = 50
    batch_size: Annotated[int, Field(ge=1, description="texts per optimizer step")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="learning rate of Adam, constant")] = 5e-5
    weight_decay: Annotated[
        float, Field(ge=0, description="weight decay of Adam: added to the gradient, not decoupled")
    ] = 1e-6
    patience: Annotated[
        int, Field(ge=0, description="stop after this many validations without improvement; 0: never")
    ] = 0

    def module(self, words: int, labels: int) -> nn.Module:
        """Create the network, which maps word ids (b, length) to logits (b, C).

        words: number of word ids. labels: number of classes C.
        """
        raise NotImplementedError

    def training(self, asked: TrainTable) -> TrainTable:
        """Return the settings of the training loop: the network's own in place of those requested in `asked`."""
        precision = "bfloat16" if asked.precision == "bfloat16" else "float32"  # "auto": float32, as published
        own = ("epochs", "batch_size", "learning_rate", "weight_decay", "patience")
        rest = {"schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.0, "keep": "best", "validate_every": 1}
        return asked.model_copy(update={name: getattr(self, name) for name in own} | rest | {"precision": precision})

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Create the optimizer of the network's parameters."""
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def words(self, text: str) -> list[str]:
        """Split a text into words."""
        text = text.lower() if self.lowercase else text
        if self.split == "space":
            return text.split()
        return "".join(c if c.isalnum() or c.isspace() or c == "_" else f" {c} " for c in text).split()

    def vocabulary(self, texts: Iterable[str]) -> Vocabulary:
        """Return the vocabulary, most frequent words first. Raises UserError if no word is frequent enough."""
        seen = Counter(word for text in texts for word in self.words(text))
        kept = [word for word, count in seen.items() if count >= self.min_count]
        if not kept:
            most = max(seen.values(), default=0)
            raise UserError(
                f"classifier.min_count: no word occurs {self.min_count} times in the training texts (the most frequent "
                f"one {most} times). Lower it, for example with --set classifier.min_count=1"
            )
        return tuple(sorted(kept, key=lambda word: (-seen[word], word)))

    def tokens(self, vocabulary: Vocabulary, texts: Sequence[str]) -> Tokens:
        """Convert each text to `length` word ids, padded on the left; unknown words share one id."""
        index = {word: at + FIRST for at, word in enumerate(vocabulary)}
        ids, whole = np.full((len(texts), self.length), PADDING, dtype=np.int32), np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            words = self.words(text)
            known = [index.get(word, UNKNOWN) for word in words[: self.length]]
            ids[row, self.length - len(known) :] = known
            whole[row] = len(words)
        return Tokens(ids.reshape(-1), np.arange(len(texts) + 1, dtype=np.int64) * self.length, whole)

    def encoder(self, vocabulary: Vocabulary, id2label: dict[int, str], seed: int) -> WordEncoder:
        """Create a network, randomly initialized from `seed`."""
        from randout.models.hooks import HookPoints

        from .networks import WordEncoder

        torch.manual_seed(random_key(seed, "head"))
        model: Any = self.module(len(vocabulary) + FIRST, len(id2label))
        model.config = SimpleNamespace(num_labels=len(id2label), id2label=id2label, hidden_size=self.embedding)
        # packed: all texts have the same length, so sorting them by length is not needed
        return WordEncoder(model, None, HookPoints(model.embedding, ()), packed=True, prefix=0, suffix=0)

    def fitted(self, encoder: Encoder, vocabulary: Vocabulary) -> Fitted:
        """Return a trained network in the form in which it is saved."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in encoder.model.state_dict().items()}
        return Fitted(self, encoder.model.config.id2label, vocabulary, arrays, {"words": len(vocabulary)})

    def restored(self, vocabulary: Vocabulary, arrays: Arrays, labels: int) -> WordEncoder:
        """Return the network with trained weights, for `labels` classes."""
        encoder = self.encoder(vocabulary, {at: str(at) for at in range(labels)}, seed=0)
        encoder.model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return encoder

    def logits_of(
        self, vocabulary: Vocabulary, arrays: Arrays, labels: int, texts: Sequence[str], progress: Progress, device: str
    ) -> np.ndarray:
        from randout.models.inference import predict

        encoder = self.restored(vocabulary, arrays, labels)
        encoder.model.to(device)
        return predict(encoder, self.tokens(vocabulary, texts), np.arange(len(texts)), "float32", progress)


class CNN(Network):
    """Filters over word embeddings (with dropout), max-pooled over time, concatenated, then a linear layer."""

    name = "cnn"
    summary = "convolutional network on words"

    filters: Annotated[tuple[Size, ...], Field(min_length=1, description="filter widths in words")] = (3, 4, 5)
    channels: Annotated[int, Field(ge=1, description="number of filters of each width")] = 100

    def check(self) -> None:
        if max(self.filters) > self.length:
            raise UserError(
                f"classifier.filters: a filter of {max(self.filters)} words is longer than texts, which have at most "
                f"{self.length} words (classifier.length)"
            )

    def module(self, words: int, labels: int) -> nn.Module:
        from .networks import Convolutions

        return Convolutions(words, labels, self.embedding, self.dropout, self.filters, self.channels)


class LSTM(Network):
    """Stacked LSTM layers with dropout between them, then a linear layer on the last step of the last layer."""

    name = "lstm"
    summary = "long short-term memory network on words"

    layers: Annotated[int, Field(ge=1, description="number of stacked LSTM layers")] = 10
    hidden: Annotated[int, Field(ge=1, description="size of the hidden state")] = 256

    def module(self, words: int, labels: int) -> nn.Module:
        from .networks import Recurrent

        return Recurrent(words, labels, self.embedding, self.dropout, self.layers, self.hidden)
