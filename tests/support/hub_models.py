"""Repositories of the paper's encoders as they are on the hub, with tiny weights: configurations, files and tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .hub_server import HubServer

BERT = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}
ROBERTA = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODERS: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    # name -> family, class that was saved, what its configuration says, files of its tokenizer
    "facebook/data2vec-text-base": (
        "data2vec-text",
        "Data2VecTextModel",
        {**ROBERTA, "model_type": "data2vec-text", "pad_token_id": 1, "position_embedding_type": "absolute"},
        ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"],
    ),
    "FacebookAI/roberta-large": (
        "roberta",
        "RobertaForMaskedLM",
        {**ROBERTA, "model_type": "roberta", "pad_token_id": 1},
        ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"],
    ),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": (
        "bert",
        "BertForMaskedLM",
        {**BERT, "position_embedding_type": "absolute", "use_cache": True},
        ["vocab.txt", "tokenizer_config.json"],
    ),
    "allenai/scibert_scivocab_uncased": ("bert", "BertModel", {**BERT, "architectures": None}, ["vocab.txt"]),
    "google-bert/bert-large-uncased": (
        "bert",
        "BertForPreTraining",
        {**BERT, "gradient_checkpointing": False, "position_embedding_type": "absolute"},
        ["vocab.txt", "tokenizer.json", "tokenizer_config.json"],
    ),
}
IN_PULL_REQUEST = (  # of these, safetensors are not on main
    "facebook/data2vec-text-base",
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "allenai/scibert_scivocab_uncased",
)


def repository_files(name: str, folder: Path, tiny_model: Callable[[str], Path]) -> Path:
    """Write the files of one of `ENCODERS` to `folder`, weights included, and return it."""
    import transformers

    family, kind, settings, tokenizer = ENCODERS[name]
    bare = tiny_model(family)
    config = json.loads((bare / "config.json").read_text()) | {"architectures": [kind]} | settings
    config = {key: value for key, value in config.items() if value is not None}
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        made = getattr(transformers, kind)(transformers.AutoConfig.for_model(**config))
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((bare / "tokenizer.json").read_text())["model"]
    for file in tokenizer:
        if file == "vocab.txt":
            (folder / file).write_text("\n".join(words["vocab"]) + "\n", encoding="utf-8")
        elif file == "vocab.json":
            (folder / file).write_text(json.dumps(words["vocab"]))
        elif file == "merges.txt":
            lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in words["merges"]]
            (folder / file).write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
        elif (bare / file).exists():
            shutil.copyfile(bare / file, folder / file)
    return folder


def publish_encoder(hub: HubServer, name: str, folder: Path, tiny_model: Callable[[str], Path]) -> str:
    """Publish one of `ENCODERS`, its safetensors on main or in the second pull request; returns the commit with them."""
    files = {path.name: path.read_bytes() for path in repository_files(name, folder, tiny_model).iterdir()}
    weights = files.pop("model.safetensors")
    main = files | {"pytorch_model.bin": b"never read", "flax_model.msgpack": b"never read", "README.md": b"# encoder"}
    hub.commit(name, main)
    if name not in IN_PULL_REQUEST:
        return hub.commit(name, {"model.safetensors": weights})
    hub.commit(name, {"README.md": b"# a better text"}, "refs/pr/1")
    return hub.commit(name, {"model.safetensors": weights}, "refs/pr/2")
