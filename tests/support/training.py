"""Small trainings for the tests, of `randout.testing`, on one thread."""

from __future__ import annotations

import torch

from randout.testing.training import (
    HELD_OUT,
    NAMES,
    WIDER,
    WIDER_DISTILBERT,
    bit_identical,
    hooks_of,
    largest_difference,
    live_teacher,
    make_batch,
    new_training,
    settings,
    tiny_encoder,
    toy_training_data,
    trained,
    validation,
    weights_of,
)

__all__ = [
    "HELD_OUT",
    "NAMES",
    "WIDER",
    "WIDER_DISTILBERT",
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

torch.set_num_threads(1)  # models this small: threads only wait for one another, seconds where the machine is busy
