"""Training state: the training data, the position, and everything that changes during training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from randout.core.config import TrainTable
from randout.methods.base import Logged
from randout.methods.stack import MethodStack
from randout.models.encoder import Encoder
from randout.models.tokens import Tokens

if TYPE_CHECKING:
    from .processes import Processes


@dataclass(frozen=True)
class TrainingData:
    """The data that a student learns from.

    tokens: all texts. labels: (n,) class index, -1 for none. labelled, unlabelled: rows of `tokens` to train on. teacher:
    (n, C) stored logits, NaN in rows without, or None. heldout: rows of the training split that a method withholds from
    the student. others: stored logits of further teachers. weights: (n,) float32, factor of each row's loss; None: 1 for all.
    """

    tokens: Tokens
    labels: Tensor
    labelled: np.ndarray
    unlabelled: np.ndarray
    teacher: Tensor | None = None
    heldout: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    others: tuple[Tensor, ...] = ()
    weights: Tensor | None = None

    def steps(self, settings: TrainTable) -> int:
        """Optimizer steps of a whole training."""
        return -(-(len(self.labelled) + len(self.unlabelled)) // settings.batch_size) * settings.epochs


@dataclass
class Position:
    """Position of a training; stored in a checkpoint as JSON."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    micro_batch: int = 0
    best: float | None = None
    best_epoch: int = 0
    without_gain: int = 0  # validations since the best
    sums: dict[str, list[float]] = field(default_factory=dict)  # of this epoch: name -> [sum, count]
    seconds: float = 0.0  # spent in this epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch
    ended: str = ""  # why training ended
    processes: int = 1  # that computed the last steps

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Unread(NamedTuple):
    """Numbers that a step logged and that were not read yet. logged: of each part that this process computed, by its number;
    those of the whole step are with part 0.
    """

    epoch: int
    batch: int
    logged: dict[int, Logged]


@dataclass
class TrainingState:
    """Everything that a training in progress consists of. processes: those that share it; None for this one only."""

    encoder: Encoder
    stack: MethodStack
    optimizer: torch.optim.Optimizer
    settings: TrainTable
    precision: str
    position: Position = field(default_factory=Position)
    pending: list[Unread] = field(default_factory=list)
    watched: dict[str, nn.Parameter] = field(
        default_factory=dict
    )  # student parameters, until the first step is checked
    processes: Processes | None = None

    @property
    def parts(self) -> int:
        """Number of parts into which the texts of a step are divided."""
        return self.settings.batch_parts or 1


@dataclass(frozen=True)
class Event:
    """Event after a step (`metrics` is None) or after a validation. texts: number trained on since the last event."""

    texts: int = 0
    metrics: dict[str, Any] | None = None
    improved: bool = False
