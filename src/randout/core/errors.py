"""The two kinds of error that end a command: the user's mistake and a failure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ELSEWHERE = {  # our setting: what it is called in other tools
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
    """The user's mistake: what was found, what was expected, what to do. Exit code 2, no traceback."""

    exit_code = 2


class Failure(Exception):
    """Something outside the user's request went wrong (disk full, loss not finite). Exit code 1, no traceback."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known word closest to `word`, or called so in other tools; or an empty string."""
    names = {name.casefold(): name for name in known}
    for ours, others in ELSEWHERE.items():
        if word.casefold().replace("-", "_") in others and ours in names:
            return f" Did you mean {ours!r}?"
    close = difflib.get_close_matches(word.casefold(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def closest(word: str, known: Iterable[str], most: int = 2) -> list[str]:
    """The known names that are closest to a misspelt one, closest first; names that contain it come after these."""
    names = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), list(names), n=most, cutoff=0.6)
    found += [name for name in names if len(word) > 2 and word.casefold() in name and name not in found]
    return [names[name] for name in found[:most]]


def did_you_mean(names: Iterable[str]) -> str:
    """`" Did you mean 'x' or 'y'?"`, or an empty string for no names."""
    listed = " or ".join(map(repr, names))
    return f" Did you mean {listed}?" if listed else ""
