"""Small trainings for tests: a tiny classifier, a little training data, and functions that run the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randout.core.config import TrainTable
from randout.methods.base import Batch, Context, LiveTeacher, Method
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.tokens import Tokens, encode, truncate
from randout.stats.metrics import score
from randout.training.loop import begin, fit
from randout.training.state import Event, TrainingData, TrainingState

from .models import build, loaded, toy_texts

__all__ = [
    "NAMES",
    "bit_identical",
    "hooks_of",
    "largest_difference",
    "live_teacher",
    "make_batch",
    "new_training",
    "settings",
    "tiny_encoder",
    "toy_training_data",
    "trained",
    "validation",
    "weights_of",
]

NAMES = {0: "health", 1: "money", 2: "sport"}
HELD_OUT = 10  # texts in addition to those to train on
WIDER = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 4}  # wider and deeper than the tiny models
WIDER_DISTILBERT = {"dim": 48, "n_heads": 6, "n_layers": 4}


def tiny_encoder(folder: Path, **options: Any) -> Encoder:
    """Load a classifier of three classes with the encoder in `folder`; `options` as for `loading.load`."""
    return loaded(folder, **({"id2label": NAMES, "seed": 3} | options))


def toy_training_data(
    encoder: Encoder, n: int = 24, seed: int = 0, teacher: bool = True, unlabelled: int = 0, heldout: int = 0
) -> TrainingData:
    """Make n toy texts of up to 24 tokens, the last `unlabelled` of them without labels, with random logits of a teacher and
    two further ones, followed by `heldout` texts that are withheld from the student.
    """
    texts, names = (column[: n + heldout] for column in _texts(n, seed))
    tokens = _tokens(encoder, texts)
    labels = torch.tensor([{name: at for at, name in NAMES.items()}[name] for name in names])
    labels[n - unlabelled : n] = -1
    generator = torch.Generator().manual_seed(seed)
    first, *others = (2 * torch.randn(len(texts), len(NAMES), generator=generator) for _ in range(3))
    rows = np.arange(len(texts))
    data = TrainingData(tokens, labels, rows[: n - unlabelled], rows[n - unlabelled : n], heldout=rows[n:])
    return replace(data, teacher=first, others=tuple(others)) if teacher else data


def _texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Make n toy texts, then `HELD_OUT` more, with their labels."""
    (texts, names), (more, others) = toy_texts(n, seed), toy_texts(HELD_OUT, seed + 1000)
    return texts + more, names + others


def _tokens(encoder: Encoder, texts: list[str]) -> Tokens:
    return truncate(encode(encoder.tokenizer, texts), 24, "head", encoder.suffix, encoder.prefix)


def live_teacher(student: Path, n: int = 24, seed: int = 0, same_family: bool = False, **options: Any) -> LiveTeacher:
    """Make a frozen teacher with its own tokens of the texts of `toy_training_data(n, seed)` and its classes in another order.

    student: folder of the student's encoder. The teacher is the tiny RoBERTa in the same parent folder, built if missing;
    or, with `same_family`, a wider and deeper model of the student's family with the same tokens. options: as for
    `loading.load`.
    """
    family = student.name if same_family else "roberta"
    folder = student.parent / (f"wider-{family}" if same_family else family)
    if not folder.exists():
        build(family, folder, **((WIDER_DISTILBERT if family == "distilbert" else WIDER) if same_family else {}))
    names = {0: NAMES[1], 1: NAMES[2], 2: NAMES[0]}
    encoder = loaded(folder, id2label=names, seed=11, **options)
    encoder.model.requires_grad_(False)
    return LiveTeacher(encoder, _tokens(encoder, _texts(n, seed)[0]), columns=(2, 0, 1), same_tokens=same_family)


def settings(**changes: Any) -> TrainTable:
    """Two epochs of batches of 8, in float32, fast enough to move the weights a lot."""
    asked: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "precision": "float32",
        "patience": 0,
        "device": "cpu",
    }
    return TrainTable(**(asked | changes))


def new_training(
    encoder: Encoder, methods: Sequence[Method], teacher: LiveTeacher | None = None, **changes: Any
) -> TrainingState:
    """Make a training at position zero. teacher: for methods that run one. changes: as for `settings`."""
    table = settings(**changes)
    weights = torch.tensor([0.5, 1.0, 2.0])
    context = Context.of(encoder, table.seed, len(NAMES), weights, teachers=3, teacher=teacher)
    return begin(encoder, context, methods, table, "float32")


def validation(training: TrainingState, data: TrainingData) -> Callable[[], dict[str, Any]]:
    rows = data.labelled[::2]

    def validate() -> dict[str, Any]:
        return score(data.labels[rows].numpy(), predict(training.encoder, data.tokens, rows, "float32"), NAMES)

    return validate


def trained(training: TrainingState, data: TrainingData, events: int | None = None) -> list[Event]:
    """Train to the end, or until `events` events; returns the events."""
    found: list[Event] = []
    for event in fit(training, data, validation(training, data)):
        found.append(event)
        if len(found) == events:
            break
    return found


def weights_of(training: TrainingState) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.encoder.model.state_dict().items()}


def bit_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest absolute difference between two sets of tensors."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def hooks_of(model: torch.nn.Module) -> int:
    """Count the hooks on the modules and parameters of a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    return on_modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


def make_batch(
    labels: Iterable[int],
    teacher: Tensor | None = None,
    step_labels: Iterable[int] | None = None,
    first: int = 0,
    others: Iterable[Tensor] = (),
) -> Batch:
    """Make a micro-batch of texts of four tokens, for losses that read logits only."""
    labels = torch.tensor(list(labels))
    whole = labels if step_labels is None else torch.tensor(list(step_labels))
    ids = [torch.arange(4) for _ in labels]
    return Batch(torch.arange(len(labels)), ids, labels, teacher, whole, first, 4, tuple(others))
