"""Classifiers on mean-pooled token states, saved in the layout of sentence-transformers.

Encoders that were pretrained for sentence embeddings represent a text by the mean of its tokens' last states. ModernBERT's
stock class has a head on that mean (`classifier_pooling` in its configuration), which is used. Other families have none:
their classifier is saved in the layout of sentence-transformers, so that `SentenceTransformer(folder).encode(texts)`
returns the logits:

    modules.json                 the three modules, in order
    0_Transformer/               the encoder, a standard Hugging Face folder, with id2label in its configuration
    1_Pooling/config.json        the mean over tokens
    2_Classifier/                a linear layer, hidden -> classes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from randout.core.errors import UserError

from .folder_checks import CLASSIFIER, ENCODER, POOLING
from .folder_checks import is_pooled as is_pooled

Pooling = Literal["first", "mean"]
SETTING = "classifier_pooling"  # configuration key of families whose stock class supports mean pooling
PREFIX = "sentence_transformers.models"


def segment_means(state: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean of each text's rows of `state` (tokens, hidden), packed: (texts, hidden)."""
    sizes = torch.tensor(lengths, device=state.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=state.device), sizes)
    sums = state.new_zeros(len(lengths), state.shape[-1]).index_add(0, owner, state)
    return sums / sizes[:, None].to(state.dtype)


def masked_means(state: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens of `state` (texts, longest, hidden), padded: (texts, hidden).

    mask: (texts, longest), 1 at real tokens and 0 at padding.
    """
    weights = mask[..., None].to(state.dtype)
    return (state * weights).sum(1) / weights.sum(1)


class MeanPooledClassifier(nn.Module):
    """Linear classifier on mean-pooled states of any transformers encoder: logits = W dropout(mean of last states) + b.

    config: the encoder's, with num_labels and id2label. base_model: the encoder, without a pooler.
    """

    base_model_prefix = "base_model"
    pooling: Pooling = "mean"

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.config = encoder.config
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # nothing reads it
        self.base_model = encoder
        rate = getattr(self.config, "classifier_dropout", None)
        self.dropout = nn.Dropout(getattr(self.config, "hidden_dropout_prob", 0.1) if rate is None else rate)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        nn.init.normal_(self.classifier.weight, std=getattr(self.config, "initializer_range", 0.02))
        nn.init.zeros_(self.classifier.bias)

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.base_model.get_input_embeddings()
        return found

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **keywords: Any) -> Any:
        """Return logits as `SequenceClassifierOutput`; in a packed batch, the encoder already returns one state per text."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        keywords = {name: value for name, value in keywords.items() if value is not None}
        state = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **keywords).last_hidden_state
        if "boundaries" in keywords:
            mean = state[:, 0]
        else:
            mask = torch.ones(state.shape[:2], device=state.device) if attention_mask is None else attention_mask
            mean = masked_means(state, mask)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(mean)))  # type: ignore[arg-type]


def stock_pooling(config: Any) -> Pooling | None:
    """Pooling of a configuration's stock classifier if the family has that setting; None otherwise."""
    stated = getattr(config, SETTING, None)
    if stated == "mean":
        return "mean"
    return "first" if stated == "cls" else None


def set_stock_pooling(config: Any, pooling: Pooling) -> None:
    """Set the pooling of the stock classifier, for a configuration that has the setting."""
    setattr(config, SETTING, "mean" if pooling == "mean" else "cls")


def stated_pooling(folder: Path) -> Pooling | None:
    """Pooling in an encoder's own sentence-transformers configuration; None if there is none or it is not supported."""
    try:
        stated = json.loads((folder / POOLING / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stated, dict):
        return None
    modes = {key.removeprefix("pooling_mode_") for key, value in stated.items() if value is True}
    modes |= {stated["pooling_mode"]} if isinstance(stated.get("pooling_mode"), str) else set()
    if modes & {"mean_tokens", "mean"}:
        return "mean"
    return "first" if modes & {"cls_token", "cls"} else None


def read_classifier(model: MeanPooledClassifier, folder: Path, name: str) -> None:
    """Load the linear layer of a saved classifier. Raises UserError if it is missing or has other shapes."""
    try:
        tensors = load_file(folder / CLASSIFIER / "model.safetensors")
        model.classifier.load_state_dict({key.removeprefix("linear."): value.float() for key, value in tensors.items()})
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: its classifier ({CLASSIFIER}/model.safetensors) cannot be read: {text}") from None


def save(model: MeanPooledClassifier, tokenizer: Any, folder: Path, max_length: int) -> None:
    """Write the classifier to an existing folder. max_length: number of tokens at which sentence-transformers truncates."""
    for part in (ENCODER, POOLING, CLASSIFIER):
        (folder / part).mkdir()
    model.config.architectures = [type(model.base_model).__name__]
    model.base_model.save_pretrained(folder / ENCODER)
    tokenizer.save_pretrained(folder / ENCODER)
    hidden, classes = model.config.hidden_size, model.config.num_labels
    tensors = {
        f"linear.{key}": value.detach().cpu().contiguous() for key, value in model.classifier.state_dict().items()
    }
    save_file(tensors, folder / CLASSIFIER / "model.safetensors", metadata={"format": "pt"})
    dense = {"in_features": hidden, "out_features": classes, "bias": True}
    kinds = ("Transformer", "Pooling", "Dense")
    parts = (ENCODER, POOLING, CLASSIFIER)
    modules = [
        {"idx": at, "name": str(at), "path": part, "type": f"{PREFIX}.{kind}"}
        for at, (part, kind) in enumerate(zip(parts, kinds, strict=True))
    ]
    for path, content in (
        (f"{POOLING}/config.json", {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}),
        (f"{CLASSIFIER}/config.json", dense | {"activation_function": "torch.nn.modules.linear.Identity"}),
        (f"{ENCODER}/sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}),
        ("modules.json", modules),
    ):
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
