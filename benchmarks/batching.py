"""Share of a training step spent on preparing its batch: row selection, token ids, positions, labels, tokenization."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from randout.experiments.run import defaults
from randout.experiments.run.plan import Plan
from randout.models.encoder import Encoder
from randout.models.tokens import batches, encode
from randout.training import loop

SAMPLE = 1000  # texts on which tokenization is timed
COUNTED = ((loop, "batch_of"), (Encoder, "_packed"), (Encoder, "layout"))


def shares(training: loop.TrainingState, data: loop.TrainingData, plan: Plan, steps: int) -> dict[str, float]:
    """Seconds of a step and of its batching; seconds of tokenizing a step's texts, once for all epochs of a
    default run; both as shares of a step.
    """
    settings, lengths = plan.config.train, plan.tokens.lengths
    train, none = plan.dataset.split["train"], np.zeros(0, np.int64)
    began = time.perf_counter()
    order = batches(lengths, train, none, settings.batch_size, settings.seed, 0, False)
    ordering = (time.perf_counter() - began) / len(order)
    with counted() as spent:
        began = time.perf_counter()
        for rows in order[:steps]:
            loop.step(training, data, rows)
            training.position.step += 1
        step = (time.perf_counter() - began) / len(order[:steps])
    texts = [plan.dataset.texts[row] for row in train[:SAMPLE]]
    began = time.perf_counter()
    encode(training.encoder.tokenizer, texts)
    text = (time.perf_counter() - began) / len(texts)
    tokenising = text * settings.batch_size / defaults.LEAST_EPOCHS
    batching = ordering + spent[0] / len(order[:steps])
    found = {"step_seconds": step, "batching_seconds": batching, "tokenising_seconds": tokenising}
    return found | {"batching_share": batching / step, "tokenising_share": tokenising / step}


@contextmanager
def counted() -> Iterator[list[float]]:
    """Context manager that sums the seconds spent in the functions that prepare a batch."""
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[0] += time.perf_counter() - began

        return call

    before = [getattr(owner, name) for owner, name in COUNTED]
    try:
        for (owner, name), function in zip(COUNTED, before, strict=True):
            setattr(owner, name, timed(function))
        yield spent
    finally:
        for (owner, name), function in zip(COUNTED, before, strict=True):
            setattr(owner, name, function)
