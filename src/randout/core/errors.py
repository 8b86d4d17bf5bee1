"""The kinds of error that end a command: the user's mistake, a failure, and a failure of another process."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OTHER_NAMES = {  # setting: its names in other tools
    "learning_rate": ("lr", "learningrate", "peak_lr", "max_lr"),
    "batch_size": ("bs", "batchsize", "train_batch_size", "per_device_train_batch_size"),
    "micro_batch": ("micro_batch_size", "mini_batch", "gradient_accumulation_steps"),
    "epochs": ("n_epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "seed": ("random_state", "random_seed", "rng_seed"),
    "max_length": ("max_len", "maxlen", "max_seq_len", "max_seq_length", "seq_len", "model_max_length"),
    "weight_decay": ("wd", "l2"),
    "warmup_ratio": ("warmup", "warmup_steps", "warmup_proportion"),
    "schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type"),
    "max_grad_norm": ("clip", "grad_clip", "clip_norm", "gradient_clip_val", "max_norm"),
    "adam_epsilon": ("eps", "epsilon", "adam_eps"),
    "adam_beta1": ("beta1",),
    "adam_beta2": ("beta2",),
    "patience": ("early_stopping", "early_stopping_patience"),
    "metric": ("metric_for_best_model", "monitor"),
    "precision": ("dtype", "fp16", "bf16", "amp", "mixed_precision"),
    "dropout": ("hidden_dropout", "hidden_dropout_prob", "drop"),
    "attention_dropout": ("attn_dropout", "attention_probs_dropout_prob"),
    "temperature": ("temp", "tau"),
    "class_weights": ("class_weight",),
}


class UserError(Exception):
    """A mistake by the user; the message says what was found, what was expected, what to do. Exit code 2, no traceback."""

    exit_code = 2


class Failure(Exception):
    """A failure that is not the user's mistake (disk full, loss not finite). Exit code 1, no traceback."""

    exit_code = 1


class EndedElsewhere(Failure):
    """Another process of the same training ended. told: whether it has printed why. exit_code: its exit code."""

    def __init__(self, message: str, exit_code: int = 1, told: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.told = exit_code, told


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known word closest to `word`, or an empty string.

    Names that other tools use for a setting (`lr`) are recognised.
    """
    names = {name.casefold(): name for name in known}
    for ours, others in OTHER_NAMES.items():
        if word.casefold().replace("-", "_") in others and ours in names:
            return f" Did you mean {ours!r}?"
    close = difflib.get_close_matches(word.casefold(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def closest(word: str, known: Iterable[str], most: int = 2) -> list[str]:
    """Return at most `most` known names similar to a misspelt one, closest first, then names that contain it."""
    names = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), list(names), n=most, cutoff=0.6)
    found += [name for name in names if len(word) > 2 and word.casefold() in name and name not in found]
    return [names[name] for name in found[:most]]


def did_you_mean(names: Iterable[str]) -> str:
    """Return `" Did you mean 'x' or 'y'?"`, or an empty string for no names."""
    listed = " or ".join(map(repr, names))
    return f" Did you mean {listed}?" if listed else ""
