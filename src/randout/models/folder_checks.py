"""Checks a model folder's files before any library reads them, with errors in the user's terms.

Everything here raises UserError: what was found, what was expected, what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.core.files import shell_path
from randout.storage.run_folder import runs_there

FAMILIES = (
    "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, Data2VecText, ELECTRA, DistilBERT, ALBERT, MPNet, DeBERTa-v2, ModernBERT"
)
ENCODERS = frozenset(  # model types of these families: recognised without importing transformers
    ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "electra", "distilbert", "albert")
) | {"mpnet", "deberta-v2", "modernbert"}
DECODERS = "Qwen3, Qwen2, Llama, Mistral, Gemma, ..."  # examples of families that can be teachers
ENCODER, POOLING, CLASSIFIER = (
    "0_Transformer",
    "1_Pooling",
    "2_Classifier",
)  # folders of a sentence-transformers classifier
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
ADAPTER = "adapter_config.json"
EXPORT = "export.json"  # of a folder that `randout export` wrote
BASELINE = "classifier.json"  # of a bag-of-words or neural baseline
TRUNCATION = "truncation.json"  # of a model without its run that does not truncate texts by their head
LFS = b"version https://git-lfs.github.com/spec/"


def is_pooled(folder: Path) -> bool:
    """Whether a folder holds a classifier on mean-pooled token states (`mean_pooling`)."""
    return all((folder / part).is_dir() for part in (ENCODER, POOLING, CLASSIFIER))


def is_export(folder: Path) -> bool:
    """Whether a folder is an export alone: one with the model that it was made from counts as the model."""
    models = (WEIGHTS, INDEX, BASELINE, f"{ENCODER}/{WEIGHTS}", f"{ENCODER}/{INDEX}")
    return (folder / EXPORT).is_file() and not any((folder / model).exists() for model in models)


def is_known_encoder(kind: Any) -> bool:
    """Whether a model type is an encoder that transformers can turn into a classifier.

    Imports transformers only for a type that is not in `ENCODERS`.
    """
    if kind in ENCODERS:
        return True
    if not isinstance(kind, str):
        return False
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    known = (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return all(kind in names for names in known)


def check_is_model(name: str, folder: Path) -> None:
    """Raise UserError if a folder is not a model but an adapter, a parent of models, ..."""
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{name}: this folder holds a PEFT adapter ({ADAPTER}), not a whole model. Merge it into its base model "
            "first: model.merge_and_unload().save_pretrained(FOLDER), and save the tokenizer there too"
        )
    if not (folder / "config.json").exists():
        if runs := runs_there(folder):
            raise UserError(
                f"{name}: this is a folder of runs, not a model. Name one of them, as {name.rstrip('/')}/NAME.{runs}"
            )
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        kind = "sentence-transformers folder; its encoder" if (folder / "modules.json").exists() else "folder; a model"
        near = f". This is a {kind} is in {', '.join(inner[:3])}: name that folder" if inner else ""
        raise UserError(f"{name}: no config.json in this folder, so it is not a Hugging Face model{near}")


def check_weights(name: str, folder: Path) -> None:
    """Raise UserError if safetensors weights are missing, incomplete or damaged."""
    if (folder / WEIGHTS).exists():
        _check_safetensors(name, folder / WEIGHTS)
        return
    if (folder / INDEX).exists():
        try:
            shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: {INDEX} cannot be read ({error!r}); copy the folder again") from None
        if missing := [shard for shard in shards if not (folder / shard).exists()]:
            raise UserError(
                f"{name}: {len(missing)} of {len(shards)} weight files that {INDEX} names are missing, first "
                f"{missing[0]}; copy or download the folder again"
            )
        for shard in shards:
            _check_safetensors(name, folder / shard)
        return
    other = [path.name for pattern in ("*.safetensors", *OTHER_WEIGHTS) for path in folder.glob(pattern)]
    if any(found.endswith(".safetensors") for found in other):
        raise UserError(f"{name}: no {WEIGHTS} in this folder (found {', '.join(sorted(other))}); rename the weights")
    raise UserError(
        f"{name}: no *.safetensors in this folder (found {', '.join(sorted(other)) or 'no weights at all'}). Weights are "
        "read from safetensors only: load it once in transformers and call save_pretrained(FOLDER), then name that folder"
    )


def _check_safetensors(name: str, path: Path) -> None:
    """Raise UserError if a safetensors file is shorter or longer than its header says, or has no header."""
    size, again = path.stat().st_size, "copy or download it again"
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= size - 8 else b""
    try:
        table = json.loads(header)
        end = max((entry["data_offsets"][1] for key, entry in table.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(
            f"{name}: {path.name} ({size:,} bytes) is damaged, or not a safetensors file; {again}"
        ) from None
    if size != 8 + length + end:
        raise UserError(
            f"{name}: {path.name} has {size:,} bytes, but its header says {8 + length + end:,}: it was truncated or "
            f"changed; {again}"
        )


def check_contents(name: str, folder: Path, patterns: list[str]) -> None:
    """Raise UserError for files that are not what their name says: Git LFS pointers, web pages, an empty configuration."""
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        with path.open("rb") as stream:
            start = stream.read(256)
        if start.startswith(LFS):
            raise UserError(
                f"{name}: {path.name} is a Git LFS pointer, not the file itself; run `git lfs install` and `git lfs pull` "
                "in that folder, or download the model again"
            )
        if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise UserError(f"{name}: {path.name} is a web page, not a model file; download it again")
        if path.name == "config.json" and not start:
            raise UserError(f"{name}: config.json is empty; copy or download it again")


def is_encoder_decoder(kind: str) -> bool:
    """Whether transformers lists a model type as an encoder-decoder."""
    if kind in ENCODERS:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def is_decoder(kind: str) -> bool:
    """Whether transformers lists a model type as a decoder and not also as an encoder."""
    if kind in ENCODERS:
        return False
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def check_family(name: str, config: Mapping[str, Any]) -> None:
    """Raise UserError if a model's configuration is not that of an encoder."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{name}: its config.json has no model_type, so this is not a Hugging Face model")
    takes = f"randout takes encoders: {FAMILIES}"
    if is_encoder_decoder(kind) or config.get("is_encoder_decoder"):
        raise UserError(f"{name}: {kind.upper()} is an encoder-decoder; {takes}")
    if is_decoder(kind):
        raise UserError(
            f"{name}: {kind.upper()} is a decoder; {takes}. A decoder that was fine-tuned as a sequence classifier can be a "
            "teacher (--teacher FOLDER), and a chat model can label texts (randout annotate)"
        )
    if config.get("is_decoder"):
        raise UserError(
            f"{name}: its config.json sets is_decoder, so each token attends only to earlier tokens; {takes}. If it is an "
            "encoder, set is_decoder to false there"
        )
    filler, words = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(filler, int) and isinstance(words, int) and filler >= words:
        raise UserError(
            f"{name}: its config.json has pad_token_id {filler} but vocab_size {words}, so that token does not exist; "
            "set pad_token_id there to the tokenizer's"
        )


def check_decoder(name: str, kind: str, is_classifier: bool) -> None:
    """Raise UserError if a decoder has no classification head, or if transformers has no such head for its model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise UserError(
            f"{name}: transformers has no sequence classifier for the decoder {kind.upper()} ({DECODERS} have)"
        )
    if not is_classifier:
        raise UserError(
            f"{name}: {kind.upper()} is a decoder without a classification head, which randout does not fine-tune. Label the "
            f"texts with it (randout annotate TABLE --model {shell_path(name)} -o labels.parquet) and use "
            "--teacher labels.parquet, or fine-tune it with AutoModelForSequenceClassification in transformers and name "
            "that folder"
        )


def check_causal_lm(name: str, config: Mapping[str, Any], is_classifier: bool) -> None:
    """Raise UserError if a model's configuration is not that of a causal language model."""
    from transformers.models.auto import modeling_auto

    kind = config.get("model_type")
    known: list[Mapping[str, Any]] = [modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    known.append(getattr(modeling_auto, "MODEL_FOR_DECISION_MAPPING_NAMES", {}))  # in later versions
    if is_classifier:
        raise UserError(
            f"{name}: this is a classifier, which answers without a prompt; use it as --teacher {shell_path(name)}, or label "
            "texts with randout predict. A causal language model is needed here"
        )
    if not isinstance(kind, str) or kind in ENCODERS or not any(kind in names for names in known):
        what = kind.upper() if isinstance(kind, str) else "a model without model_type"
        raise UserError(
            f"{name}: found {what} in config.json; expected a causal language model, such as a chat model of {DECODERS}"
        )


def check_labels(name: str, id2label: Mapping[int, str], label2id: Mapping[str, Any], problem: str | None) -> None:
    """Raise UserError if a classifier's outputs are not one score for each of two or more distinct, named classes."""
    names = [str(id2label[index]) for index in sorted(id2label)]
    if len(names) < 2 or problem == "regression":
        what = "one output" if len(names) < 2 else "problem_type regression in its config.json"
        raise UserError(
            f"{name}: this model has {what}: it predicts a number (regression, reranking, similarity), not a class. "
            "A classifier with at least two classes is needed"
        )
    if sorted(id2label) != list(range(len(names))):
        raise UserError(f"{name}: the keys of id2label in its config.json are not 0 to {len(names) - 1}; correct them")
    if twice := sorted({label for label in names if names.count(label) > 1}):
        raise UserError(
            f"{name}: two of its outputs are named {twice[0]!r} in id2label of its config.json, so their predictions "
            "cannot be told apart; give each output its own name"
        )
    other = {str(label): int(index) for label, index in label2id.items()}
    if set(other) == set(names) and (wrong := [x for at, x in enumerate(names) if other[x] != at]):
        raise UserError(
            f"{name}: id2label and label2id in its config.json disagree: {wrong[0]!r} is output "
            f"{names.index(wrong[0])} in id2label and output {other[wrong[0]]} in label2id; correct the wrong one"
        )


def check_vocabulary(name: str, tokenizer: Any, embeddings: int) -> None:
    """Raise UserError if a tokenizer can produce ids beyond the model's number of `embeddings`."""
    try:
        largest = max(tokenizer.get_vocab().values(), default=0)
    except (NotImplementedError, AttributeError):
        largest = len(tokenizer) - 1
    if largest >= embeddings:
        raise UserError(
            f"{name}: its tokenizer has {largest + 1:,} tokens but the model only {embeddings:,} embeddings, so texts with "
            "the other tokens cannot be read. Tokens were probably added without resizing the model: call "
            f"model.resize_token_embeddings({largest + 1}) in transformers, then save_pretrained"
        )
