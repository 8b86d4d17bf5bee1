"""Checks which methods can be combined, and splits off the training rows that they withhold from the student."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from randout.core.config import Config
from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.data.stratify import grouped

from .base import GOLD_LOSS, Method, overrides, owns_gold, takes_label_sets
from .builtin import GOLD, METHODS


def methods_of(config: Config) -> tuple[Method, ...]:
    """Make the methods of a recipe. Raises UserError if two of them cannot be combined."""
    methods = tuple(METHODS[name].model_validate(settings) for name, settings in config.methods.items())
    check_together(methods, config.train.micro_batch, config.train.batch_size)
    return methods


def learned_rows(dataset: Dataset, methods: Sequence[Method]) -> tuple[np.ndarray, np.ndarray]:
    """Split the training rows into those that the student learns from and those that a method withholds from it.

    The split is by whole groups, stratified by class, and depends on the dataset only. Raises UserError if a class has too
    few groups.
    """
    train = dataset.split["train"]
    share = max((method.heldout for method in methods), default=0.0)
    if not share:
        return train, train[:0]
    names = list(dataset.id2label.values())
    apart = grouped(dataset.strata[train], dataset.groups[train], (1 - share, share), 0, names)
    return train[apart == 0], train[apart == 1]


def check_together(methods: Sequence[Method], micro_batch: int | str = "auto", batch_size: int = 0) -> None:
    """Raise UserError if methods cannot be combined, or need larger micro-batches."""
    owners: dict[str, str] = {}
    replacing = [method.name for method in methods if method.replaces_gold_loss]
    gold = [method.name for method in methods if owns_gold(method)]
    if len(replacing) > 1:
        raise UserError(
            f"methods.{replacing[1]}: methods.{replacing[0]} already controls the loss on gold labels; keep one"
        )
    if replacing and not gold:
        raise UserError(f"methods.{replacing[0]}: it needs a loss on gold labels; add [methods.{GOLD}]")
    for method in methods:
        for loss in method.losses:
            if loss in owners and not (loss == GOLD_LOSS and replacing):
                raise UserError(
                    f"methods.{method.name}: methods.{owners[loss]} already has the loss {loss!r}; keep one"
                )
            owners[loss] = method.name
    own_gradient = [method.name for method in methods if overrides(method, "gradient")]
    if len(own_gradient) > 1:
        raise UserError(
            f"methods.{own_gradient[1]}: methods.{own_gradient[0]} already computes the gradients in its own way; keep one"
        )
    whole = [method.name for method in methods if method.needs_full_batch]
    if whole and micro_batch != "auto" and int(micro_batch) < batch_size:
        raise UserError(
            f"train.micro_batch: {micro_batch}, but methods.{whole[0]} needs all {batch_size} texts of a step at "
            "once; remove micro_batch, or lower batch_size"
        )


def check_weights(methods: Sequence[Method]) -> None:
    """Raise UserError if a method has losses that do not take the weights of rows into account."""
    if without := [method.name for method in methods if method.losses and not method.weighted]:
        raise UserError(
            f"data.weight_column: methods.{without[0]} does not support weights of rows. Leave one of the two out: "
            f"--set methods.{without[0]}=false"
        )


def check_targets(methods: Sequence[Method], dataset: Dataset) -> None:
    """Raise UserError for a method that does not support multi-label data, with the reason."""
    refused = [method for method in methods if dataset.sets is not None and not takes_label_sets(method)]
    if refused:
        name, why = (
            refused[0].name,
            refused[0].no_label_sets or "its author did not declare that it does (`label_sets`)",
        )
        raise UserError(
            f"methods.{name}: not supported for multi-label data: {why}. Leave it out: --set methods.{name}=false"
        )


def check_parts(methods: Sequence[Method], parts: int, batch_size: int) -> None:
    """Raise UserError if a step of these methods cannot be divided into so many parts. parts: 0: undecided, as 1."""
    if parts < 2:
        return
    divided = f"train.batch_parts: each step is divided into {parts} parts, one per process"
    if whole := [method.name for method in methods if method.needs_full_batch]:
        raise UserError(
            f"{divided}, but methods.{whole[0]} needs all texts of a step at once. Train in one process, or leave the method "
            f"out: --set methods.{whole[0]}=false"
        )
    if parts > batch_size:
        raise UserError(f"{divided}, but a step has {batch_size} texts. Raise train.batch_size, or use fewer processes")
