"""Shared by several benchmarks: training plans, models with random weights, synthetic texts, a clock."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from randout.core import config
from randout.experiments.run import planning
from randout.experiments.run.plan import Plan
from randout.methods.builtin import METHODS

import torch  # isort: skip  (randout sets torch's environment first)

ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SHAPES: dict[
    str, tuple[str, tuple[int, int, int, int], dict[str, Any]]
] = {  # model type in transformers, SIZES, other fields
    "tiny": ("bert", (16, 2, 2, 32), {"vocab_size": 65, "max_position_embeddings": 64}),
    "minilm-l6": ("bert", (384, 6, 12, 1536), {}),
    "data2vec-base": ("data2vec-text", (768, 12, 12, 3072), ROBERTA),
    "roberta-large": ("roberta", (1024, 24, 16, 4096), ROBERTA),
}
# Token counts of RHMD's training texts for MiniLM, truncated at 215: minimum, every 5 % quantile, maximum.
RHMD = [3, 9, 11, 13, 15, 17, 19, 21, 24, 27, 31, 35, 42, 52, 64, 84, 107, 135, 163, 200, 215]


def make_plan(data: str, student: str, teacher: str, batch_size: int, max_length: int, **train: Any) -> Plan:
    """Plan the default recipe for these models and data. train: settings of this table in addition to the batch size."""
    own = {
        "data": {"source": data},
        "student": {"model": student, "max_length": max_length},
        "teacher": {"model": teacher},
        "train": {"batch_size": batch_size, **train},
    }
    return planning.make(config.build([config.read_preset("randout-kd"), own], METHODS))


def now(device: str = "cpu") -> float:
    """Current time in seconds, after waiting for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def tiny_model(folder: Path, words: int = 60, shape: dict[str, int] | None = None) -> str:
    """Create a tiny BERT with this vocabulary size. shape: fields of its configuration that replace the tiny ones."""
    return shaped_model(folder, "tiny", {"vocab_size": words + 5} | (shape or {}))


def shaped_model(folder: Path, shape: str, changed: dict[str, Any] | None = None) -> str:
    """The folder of an encoder of this shape, one of `SHAPES`, with random weights; its tokens are words w0, w1, ...

    changed: fields of its configuration in place of the shape's.
    """
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    kind, sizes, rest = SHAPES[shape]
    shaped = AutoConfig.for_model(kind, **(dict(zip(SIZES, sizes, strict=True)) | rest | (changed or {})))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(shaped.pad_token_id or 0, special.pop(0))
    words = special + [f"w{i}" for i in range(shaped.vocab_size - len(special))]
    place = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(kinds.WordLevel(place, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", place["[SEP]"]), ("[CLS]", place["[CLS]"]))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    longest = min(shaped.max_position_embeddings, 512)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=longest, **names)
    AutoModel.from_config(shaped).save_pretrained(folder / shape)
    tokenizer.save_pretrained(folder / shape)
    return str(folder / shape)


def tiny_data(folder: Path) -> str:
    draw = np.random.default_rng(0)
    return made_up_data(folder, draw.integers(3, 40, 400), 60)


def rhmd_like_data(folder: Path, texts: int, words: int = 20000) -> str:
    """Create synthetic texts with the lengths of RHMD."""
    share = np.random.default_rng(0).random(texts)
    lengths = np.interp(share, np.linspace(0, 1, len(RHMD)), RHMD).round().astype(int)
    return made_up_data(folder, np.maximum(lengths - 2, 1), words)  # without two special tokens


def made_up_data(folder: Path, lengths: np.ndarray, words: int) -> str:
    """Create a table of texts with these numbers of random words, and random labels."""
    draw = np.random.default_rng(1)
    lines = ["text,label"]
    for length in lengths:
        lines.append(f"{' '.join(f'w{i}' for i in draw.integers(0, words, length))},{'ab'[draw.integers(2)]}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "texts.csv")
