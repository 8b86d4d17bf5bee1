"""Loads and saves models as standard Hugging Face folders (located by `sources`, changed by `heads`).

Weights are read from safetensors only, and code that ships with a model is never run.
"""

from __future__ import annotations

import glob
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from randout.core.errors import UserError
from randout.core.files import check_publish, not_written
from randout.core.rng import random_key
from randout.models.kernels.packing import ATTENTION

from .encoder import Encoder, prepare, special_tokens
from .folder_checks import FAMILIES, check_labels, check_vocabulary
from .heads import is_linear, keep_layers, put_linear_head, stock_state_dict
from .hooks import HookPoints
from .label_thresholds import set_kind, set_thresholds
from .mean_pooling import SETTING, MeanPooledClassifier, Pooling, read_classifier, set_stock_pooling, stock_pooling
from .mean_pooling import save as save_pooled
from .sources import ALIASES, DEFAULT_STUDENT, Source, find, load_tokenizer, local_encoders

__all__ = ["ALIASES", "DEFAULT_STUDENT", "Source", "find", "load", "local_encoders", "save"]
DROPOUTS = ["hidden_dropout_prob", "dropout", "mlp_dropout", "embedding_dropout", "pooler_dropout"]
DROPOUTS += ["classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"]
ATTENTION_DROPOUTS = ["attention_probs_dropout_prob", "attention_dropout"]


def load(
    source: Source,
    *,
    id2label: dict[int, str] | None = None,
    head: str = "model",
    pooling: Pooling = "first",
    layers: Sequence[int] = (),
    seed: int = 0,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    pack: bool = True,
    precision: str = "float32",
    multi_label: bool = False,
) -> Encoder:
    """Load a classifier, ready to train or run, in float32 on the CPU.

    id2label: add a new head for these classes, initialised from `seed`; without it, the model must be a classifier and
    keeps its head. head: "model" (the family's) or "linear" (eq. 1: softmax(W s_CLS)). pooling: of a new head; "mean" is
    the family's head on the mean of the last states if its stock class has one (`has_stock_mean`), otherwise a linear
    head on the mean, whatever `head` says. layers: blocks to keep, in order (0 is the first). dropout,
    attention_dropout: replace the model's rates. pack: use packed batches if the model supports them. precision: dtype of
    the weights of a decoder classifier, which gives logits only (`_decoder`). multi_label: whether the new head is for label
    sets, which the configuration then says. Raises UserError for what this model does
    not support.
    """
    from transformers import logging as library_logging

    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    if id2label is None and source.is_decoder:
        return _decoder(source, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    rates: dict[str, float | None] = dict.fromkeys(DROPOUTS, dropout)
    rates |= dict.fromkeys(ATTENTION_DROPOUTS, attention_dropout)

    def one(packed: bool) -> Encoder:
        try:
            model, fresh = _weights(source, id2label, seed, rates, ATTENTION if packed else None, pooling, head)
            if id2label is not None:
                set_kind(model.config, multi_label)
        except UserError:
            raise
        except Exception as error:
            raise _unloadable(source, error) from None
        tokenizer = load_tokenizer(source)
        words = model.get_input_embeddings()
        if isinstance(words, torch.nn.Embedding):
            check_vocabulary(source.name, tokenizer, words.num_embeddings)
        if layers:
            keep_layers(model, layers, source.name)
        if head == "linear" and not isinstance(model, MeanPooledClassifier):
            put_linear_head(model, source.name)
        try:
            return replace(prepare(model, tokenizer, packed), fresh=fresh)
        except TypeError as error:  # no blocks found
            raise UserError(f"{source.name}: {error}; randout takes encoders: {FAMILIES}") from None

    encoder = one(pack)
    if encoder.packed or not pack:
        return encoder
    return replace(one(False), reason=encoder.reason)  # own attention function: MPNet misreads our mask even if padded


def _weights(
    source: Source,
    id2label: dict[int, str] | None,
    seed: int,
    rates: dict[str, float | None],
    attention: str | None,
    pooling: Pooling,
    head: str,
) -> tuple[Any, frozenset[str]]:
    """Load the model; returns it and the names of its newly initialised parameters.

    Raises UserError if weights are missing (other than a new head's) or not finite, and, without `id2label`, if the
    outputs are not those of a classifier.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    labels: dict[str, Any] = {}
    if id2label is not None:
        labels = {"id2label": dict(id2label), "label2id": {label: index for index, label in id2label.items()}}
    replaced = (
        id2label is not None and source.is_classifier and not source.is_pooled
    )  # its head is replaced, whatever its size
    folder, mean = source.encoder_folder, pooling == "mean" if id2label is not None else source.is_pooled
    stock = id2label is not None and has_stock_mean(source, head)
    mean = mean and not stock
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **({} if replaced and not mean else labels))
    if id2label is None:
        check_labels(source.name, config.id2label, config.label2id or {}, getattr(config, "problem_type", None))
    else:
        if stock:
            set_stock_pooling(config, pooling)
    for name, rate in rates.items():
        if rate is not None and hasattr(config, name):
            setattr(config, name, rate)
    torch.manual_seed(random_key(seed, "head"))  # a new head is initialised by from_pretrained
    kind: Any = AutoModel if mean else AutoModelForSequenceClassification
    model, info = kind.from_pretrained(
        folder,
        config=config,
        attn_implementation=attention,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if mean:
        return _mean_pooled(source, model, info["missing_keys"], new_head=id2label is not None)
    _check_complete(source, model, info["missing_keys"], new_head=id2label is not None)
    _check_finite(source, model)
    if replaced:
        model = _with_new_head(model, labels, seed)
    inner = f"{model.base_model_prefix}."
    known = {name for name, _ in model.named_parameters()}
    fresh = {n for n in known if n in info["missing_keys"] or (id2label is not None and not n.startswith(inner))}
    return model, frozenset(fresh)


def _decoder(source: Source, dtype: torch.dtype) -> Encoder:
    """Load a decoder classifier (Qwen3, Llama, ...), which reads a text's last token: logits only, padded batches, no hooks.

    Raises UserError if weights are missing or not finite, or if the outputs are not those of a classifier.
    """
    from transformers import AutoModelForSequenceClassification

    config = _config_of(source)
    check_labels(source.name, config.id2label, config.label2id or {}, getattr(config, "problem_type", None))
    tokenizer = load_tokenizer(source)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source.folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise _unloadable(source, error) from None
    _check_complete(source, model, info["missing_keys"], new_head=False)
    _check_finite(source, model)
    words = model.get_input_embeddings()
    check_vocabulary(source.name, tokenizer, words.num_embeddings)
    notes = _with_padding(model.config.get_text_config(), tokenizer, source.name)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id
    prefix, suffix = special_tokens(tokenizer)
    points = HookPoints(words, (), words, model.config)
    reason = "it is a decoder"
    return Encoder(model.eval(), tokenizer, points, reason=reason, prefix=prefix, suffix=suffix, notes=notes)


def _with_padding(config: Any, tokenizer: Any, name: str) -> tuple[str, ...]:
    """Set `pad_token_id` of a decoder's configuration where it is missing; returns what was chosen, for the log.

    transformers reads the logits at the last token that is not padding. Without a padding token, it takes one text at a
    time and reads the last token; any token that does not end a text serves as padding then.
    """
    if config.pad_token_id is not None:
        return ()
    ids = tokenizer("a")["input_ids"]
    names = {"pad": tokenizer.pad_token_id, "end-of-text": tokenizer.eos_token_id}
    for what, found in names.items():
        if found is not None and found != ids[-1]:
            config.pad_token_id = found
            return (f"{name}: no pad_token_id in its config.json; padded with its tokenizer's {what} token",)
    config.pad_token_id = next(token for token in range(config.vocab_size) if token not in ids)
    return (
        f"{name}: no pad_token_id in its config.json and no such token in its tokenizer; padded with token {config.pad_token_id}",
    )


def has_stock_mean(source: Source, head: str = "model") -> bool:
    """Whether the family's stock class in transformers supports a head on the mean of the last states."""
    return head == "model" and hasattr(_config_of(source), SETTING)


def states_mean(source: Source) -> bool:
    """Whether a model's configuration sets its stock classifier to read the mean of the last states."""
    return stock_pooling(_config_of(source)) == "mean"


def _config_of(source: Source) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.encoder_folder, trust_remote_code=False)
    except Exception as error:
        raise _unloadable(source, error) from None


def _mean_pooled(source: Source, encoder: Any, missing: Iterable[str], new_head: bool) -> tuple[Any, frozenset[str]]:
    """As `_weights`, for a mean-pooled classifier built on `encoder`."""
    prefix = MeanPooledClassifier.base_model_prefix
    model = MeanPooledClassifier(encoder)
    _check_complete(source, model, [f"{prefix}.{name}" for name in missing if ".pooler." not in f".{name}"], new_head)
    if not new_head:
        read_classifier(model, source.folder, source.name)
    _check_finite(source, model)
    fresh = {f"classifier.{name}" for name, _ in model.classifier.named_parameters()}
    return model.eval(), frozenset(fresh if new_head else ())


def _unloadable(source: Source, error: Exception) -> UserError:
    """Explain why transformers could not load the weights, with its own message at the end."""
    text = " ".join(str(error).split())[:300]
    if "mismatch" in text:
        return UserError(
            f"{source.name}: its weights do not have the shapes that its config.json describes (vocab_size, hidden_size, "
            f"labels, ...); they belong to different models. transformers says: {text}"
        )
    return UserError(f"{source.name}: transformers cannot load this as a sequence classifier: {text}")


def _check_finite(source: Source, model: Any) -> None:
    """Raise UserError if any weight is NaN or infinite."""
    suspect = [(n, p) for n, p in model.named_parameters() if not torch.isfinite(p.detach().sum())]  # or overflowing
    if broken := [name for name, p in suspect if not torch.isfinite(p.detach()).all()]:
        raise UserError(
            f"{source.name}: {len(broken)} of its weight tensors hold NaN or infinite numbers, first {broken[0]}. "
            "Training failed, or the file is damaged. Use another copy or checkpoint"
        )


def _check_complete(source: Source, model: Any, missing: Iterable[str], new_head: bool) -> None:
    """Raise UserError if tensors are missing other than a new head's and the pooler's, which many encoders lack."""
    inner = f"{model.base_model_prefix}."
    body = sorted(name for name in missing if name.startswith(inner) and ".pooler." not in name)
    head = sorted(name for name in missing if not name.startswith(inner))
    if body:
        raise UserError(f"{source.name}: its weights lack {len(body)} tensors of the encoder, first {body[0]}")
    if head and not new_head:
        raise UserError(f"{source.name}: this is an encoder without a classification head ({head[0]} is missing)")


def _with_new_head(model: Any, labels: dict[str, Any], seed: int) -> Any:
    """Replace a classifier's head with a new one of the same kind for other labels, initialised from `seed`."""
    model.config.id2label, model.config.label2id = labels["id2label"], labels["label2id"]
    torch.manual_seed(random_key(seed, "head"))
    fresh = type(model)(model.config).eval()
    setattr(fresh, model.base_model_prefix, model.base_model)
    return fresh


def save(encoder: Encoder, folder: Path, max_length: int, card: str, thresholds: Sequence[float] | None = None) -> None:
    """Write a standard Hugging Face folder (weights, configuration, tokenizer, README.md), completely or not at all.

    max_length: number of tokens at which `pipeline(..., truncation=True)` truncates. card: text of README.md. thresholds:
    of the labels of a multi-label classifier. A linear
    head is folded into its stock class. A mean-pooled classifier without a stock class becomes a sentence-transformers
    folder (`mean_pooling`).
    """
    model, tokenizer = encoder.model, encoder.tokenizer
    mean = isinstance(model, MeanPooledClassifier)
    if not mean and is_linear(model):
        with torch.device("meta"):
            stock = type(model)(model.config)
        stock.load_state_dict(stock_state_dict(model), assign=True)
        model = stock
    model.config.architectures = [type(model).__name__]
    set_thresholds(model.config, thresholds)
    with whole_folder(folder) as new:
        kept = tokenizer.model_max_length
        try:
            tokenizer.model_max_length = max_length
            if mean:
                save_pooled(model, tokenizer, new, max_length)
            else:
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
        finally:
            tokenizer.model_max_length = kept
        (new / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which then replaces `folder`: readers see the old folder or the complete new one."""
    check_publish(folder)
    old = folder.with_name(folder.name + ".old")
    for leftover in (old, *folder.parent.glob(f"{glob.escape(folder.name)}*.partial")):
        shutil.rmtree(leftover, ignore_errors=True)
    new = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        new.mkdir(parents=True)
        yield new
        for file in (
            path for path in new.rglob("*") if path.is_file()
        ):  # safetensors makes its files readable by their owner only
            file.chmod(0o644)
        check_publish(folder)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise not_written(folder, error) from None
    shutil.rmtree(old, ignore_errors=True)
