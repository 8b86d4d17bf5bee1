"""Resolves "auto" in the training of an encoder: pooling, epochs, learning rate, and when to validate.

The rules were chosen by `benchmarks/defaults_study.py` on one half of its tables and confirmed on the other; the numbers
are in benchmarks/README.md. A value that the user sets is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from randout.core.config import TrainTable
from randout.core.wording import plural, verb
from randout.data.dataset import Dataset
from randout.methods.base import Method
from randout.methods.compatibility import learned_rows
from randout.methods.contrastive import Contrastive
from randout.models.mean_pooling import Pooling, stated_pooling
from randout.models.sources import Source
from randout.models.tokens import Tokens

STEPS = 400  # minimum of optimizer steps in a training, within the limits on epochs
CONTRAST_STEPS = 200  # the same with a contrastive loss, which learns from every pair of a step
LEAST_EPOCHS, MOST_EPOCHS = 4, 60
RATE, RATE_WIDTH = 1e-4, 384  # learning rate at this hidden size; for wider encoders it falls with the power 3/2
FEW_HELD = 200  # below so many validation rows the last weights are kept: a choice among epochs would be noise
REFIT_BELOW = FEW_HELD  # below so many validation rows the student is trained again on all rows
VALIDATIONS = 10  # approximate number in a training
PROBED_ROWS, PROBE_FOLDS = 300, 5


def learning_rate(hidden: int) -> float:
    """Return the peak learning rate for an encoder of this hidden size, to two digits."""
    return float(f"{min(RATE, RATE * (RATE_WIDTH / hidden) ** 1.5):.1e}")


def epochs(rows: int, batch_size: int, steps: int = STEPS) -> int:
    """Return the number of epochs over `rows` training texts that gives `steps` optimizer steps, within limits."""
    return min(max(math.ceil(steps / math.ceil(rows / batch_size)), LEAST_EPOCHS), MOST_EPOCHS)


def training_texts(methods: Sequence[Method], dataset: Dataset) -> tuple[int, bool]:
    """Return how many texts an encoder learns from, and whether a contrastive loss is among the methods."""
    texts = len(learned_rows(dataset, methods)[0]) + len(dataset.unlabelled) + dataset.sharded_rows
    return texts, any(isinstance(method, Contrastive) for method in methods)


def resolved(train: TrainTable, rows: int, held: int, width: int, by_contrast: bool, notes: list[str]) -> TrainTable:
    """Return `train` with every "auto" resolved, and append a note for each to `notes`.

    rows: number of texts to learn from. held: number of validation rows. width: hidden size of the encoder. by_contrast:
    whether a contrastive loss is among the methods.
    """
    found: dict[str, Any] = {}
    if not train.epochs:
        found["epochs"] = epochs(rows, train.batch_size, CONTRAST_STEPS if by_contrast else STEPS)
    if not train.learning_rate:
        found["learning_rate"] = learning_rate(width)
    if train.refit == "auto":
        found["refit"] = train.keep == "auto" and 0 < held < REFIT_BELOW
    if train.keep == "auto":
        found["keep"] = "last" if held < FEW_HELD else "best"
    passes = found.get("epochs", train.epochs)
    if not train.validate_every:
        found["validate_every"] = max(1, passes // VALIDATIONS)
    train = train.model_copy(update=found)
    if {"epochs", "learning_rate"} & found.keys():
        steps = math.ceil(rows / train.batch_size) * passes
        ends = train.keep == "best" and train.patience and math.ceil(passes / train.validate_every) > train.patience + 1
        kept = "the weights with the best validation score are kept"
        if train.keep == "last":
            kept = "the last weights are kept"
            kept += (
                f": {plural(held, 'validation row')} {verb(held, 'is', 'are')} too few to choose by"
                if "keep" in found
                else ""
            )
        elif ends:
            kept += f", and training stops after {plural(train.patience, 'validation')} without improvement"
        notes.append(
            f"training: {'up to ' if ends else ''}{plural(passes, 'epoch')} ({plural(steps, 'step')} of "
            f"{train.batch_size} texts) at learning rate {train.learning_rate:g}; {kept}"
        )
    if train.refit:
        notes.append(
            f"refit: after the {held:,} validation rows are scored, the student is trained again on all {rows + held:,} "
            "rows; that model is saved and tested (--set refit=false turns this off)"
        )
    return train


def pooling_of(
    source: Source, dataset: Dataset, tokens: Tokens, rows: np.ndarray, device: str, notes: list[str]
) -> Pooling:
    """Choose the pooling of a new head, for a small table.

    It is what the encoder's configuration states, else the pooling whose frozen states predict the labels of training
    `rows` better in cross-validation.
    """
    from randout.models.loading import has_stock_mean, states_mean

    stated = "mean" if source.is_pooled or states_mean(source) else stated_pooling(source.folder)
    if stated is not None:
        why = "as stated in the encoder's configuration"
    else:
        accuracy = _probe(source, dataset, tokens, rows, device)
        stated = "mean" if accuracy["mean"] > accuracy["first"] else "first"
        why = (
            f"because a linear classifier on the frozen states has a cross-validated accuracy of {accuracy['mean']:.1%} with the "
            f"mean and {accuracy['first']:.1%} with the first token"
        )
    layout = stated == "mean" and not has_stock_mean(source)
    saved = "; the model folder has the layout of sentence-transformers" if layout else ""
    notes.append(f"pooling: {'mean of all tokens' if stated == 'mean' else 'first token'}, {why}{saved}")
    return stated


_probed: dict[tuple[Any, ...], dict[str, float]] = {}  # cache by encoder and rows: a study needs it often


def _probe(source: Source, dataset: Dataset, tokens: Tokens, rows: np.ndarray, device: str) -> dict[str, float]:
    """Return the cross-validated accuracy of a logistic regression on each pooling of the frozen last hidden states."""
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:PROBED_ROWS])
    key = (str(source.encoder_folder), dataset.labelled_sha256, rows.tobytes(), int(tokens.lengths.max()))
    if key not in _probed:
        states = _frozen_states(source, tokens, rows, device)
        _probed[key] = {name: probe_accuracy(found, dataset.labels[rows]) for name, found in states.items()}
    return _probed[key]


@torch.no_grad()
def _frozen_states(source: Source, tokens: Tokens, rows: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """Return the last hidden states of the texts of `rows`, (n, hidden) for each pooling."""
    from randout.models import loading
    from randout.models.encoder import Want
    from randout.models.tokens import by_length

    encoder = loading.load(source, id2label={0: "0", 1: "1"}, pooling="mean")
    encoder.model.to(device).eval()
    last = len(encoder.hook_points.blocks)
    found = {name: np.zeros((len(rows), encoder.model.config.hidden_size), np.float32) for name in ("first", "mean")}
    for places in by_length(tokens.lengths[rows], np.arange(len(rows)), 2048):
        ids = [torch.from_numpy(tokens[row].astype(np.int64)) for row in rows[places]]
        output = encoder.forward(ids, Want(hidden=(last,), pooled=True))
        state, lengths = output.hidden[last], [len(text) for text in ids]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        found["first"][places] = (state[0, starts] if encoder.packed else state[:, 0]).float().cpu().numpy()
        assert output.pooled is not None
        found["mean"][places] = output.pooled.float().cpu().numpy()
    return found


def probe_accuracy(states: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of a logistic regression on unit vectors over `PROBE_FOLDS` folds; 0 if a fold has one class only."""
    from sklearn.linear_model import LogisticRegression

    unit = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    order = np.random.default_rng(0).permutation(len(labels))
    right = 0
    for fold in range(PROBE_FOLDS):
        out = order[fold::PROBE_FOLDS]
        rest = np.setdiff1d(order, out)
        if len(out) == 0 or len(np.unique(labels[rest])) < 2:
            return 0.0
        model = LogisticRegression(C=10.0, max_iter=200).fit(unit[rest], labels[rest])
        right += int((model.predict(unit[out]) == labels[out]).sum())
    return right / len(labels)
