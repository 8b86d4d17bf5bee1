"""Models by name: found, checked, loaded, cut, given a head, and saved as ordinary Hugging Face folders.

Weights come from safetensors only and no code that a model brings is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .datasets import cache_folder
from .encoder import Encoder, prepare
from .errors import UserError
from .method import random_key
from .packing import ATTENTION

ALIASES = {  # the encoders of the paper (Tables 1 and 4)
    "data2vec": "facebook/data2vec-text-base",
    "roberta-large": "FacebookAI/roberta-large",
    "pubmedbert": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "scibert": "allenai/scibert_scivocab_uncased",
    "bert-large": "google-bert/bert-large-uncased",
    "bert-base": "google-bert/bert-base-uncased",
}
DEFAULT_STUDENT = "sentence-transformers/all-MiniLM-L6-v2"  # small, on the hub, safetensors
PARTS = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json", "vocab*"]
PARTS += ["merges.txt", "*.model", "added_tokens.json"]
FOLD = 1e-4  # tanh(FOLD * x) / FOLD differs from x by a relative x^2 / 3e8


@dataclass(frozen=True)
class Source:
    """A model that was found: the name it was asked by, its folder, and the hub's commit where it came from there."""

    name: str
    folder: Path
    revision: str = ""

    @property
    def label(self) -> str:
        """A short name for people and run folders."""
        place = self.folder.parent if self.folder.name == "model" else self.folder
        return self.name.rstrip("/").rsplit("/", 1)[-1] if self.revision else place.name

    @property
    def config(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}: its config.json cannot be read ({error})") from None

    @property
    def is_classifier(self) -> bool:
        """Whether it is already a sequence classifier; else a bare encoder."""
        return any(name.endswith("ForSequenceClassification") for name in self.config.get("architectures") or [])

    def fingerprint(self) -> str:
        """sha256 over weights, configuration and tokenizer files: two folders with the same one are the same model."""
        total = hashlib.sha256()
        for part in sorted({path for pattern in PARTS for path in self.folder.glob(pattern) if path.is_file()}):
            total.update(part.name.encode())
            with part.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()


def find(name: str, revision: str = "") -> Source:
    """A model by local folder, run folder, alias of the paper's, or hub name.

    Raises UserError where there is no such model, or where its folder has no config.json or no safetensors.
    """
    path = Path(name).expanduser()
    if path.exists():
        inner = path / "model" if (path / "run.toml").exists() else path
        if (path / "run.toml").exists() and not inner.exists():
            raise UserError(f"{name}: this run is not finished, so it has no model yet; run its `randout train` again")
        return _checked(Source(name, inner.resolve()))
    repository = ALIASES.get(name, name)
    if repository.startswith((".", "/", "~")) or repository.count("/") > 1:
        raise UserError(f"{name}: no such folder")
    folder, commit = _from_hub(repository, revision, asked=name)
    return _checked(Source(repository, folder, commit))


def _checked(source: Source) -> Source:
    if not source.folder.is_dir():
        raise UserError(f"{source.name}: this is a file; a model is a folder with config.json and model.safetensors")
    if not (source.folder / "config.json").exists():
        raise UserError(f"{source.name}: no config.json in this folder, so it is no Hugging Face model")
    if not list(source.folder.glob("*.safetensors")):
        other = ", ".join(sorted(p.name for p in source.folder.glob("*.bin"))) or "no weights at all"
        raise UserError(
            f"{source.name}: no *.safetensors in this folder (found {other}). Weights are read from safetensors only: "
            "load it once in transformers and call save_pretrained(FOLDER), then name that folder"
        )
    return source


def _from_hub(repository: str, revision: str, asked: str) -> tuple[Path, str]:
    """Fetch (or find in the hub's cache) the safetensors snapshot of a repository; returns its folder and commit."""
    import huggingface_hub as hub

    try:  # what is cached needs no network
        folder = hub.snapshot_download(repository, revision=revision or None, local_files_only=True)
        if list(Path(folder).glob("*.safetensors")):
            return Path(folder), Path(folder).name
    except Exception:  # not cached, or no valid repository name: the hub will say which
        pass
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError(f"{asked}: not in the local cache, and HF_HUB_OFFLINE=1 forbids the hub. {_way_out()}")
    try:
        commit = revision or _safetensors_commit(hub.HfApi(), repository)
        folder = hub.snapshot_download(repository, revision=commit, allow_patterns=PARTS)
    except hub.errors.HFValidationError:
        raise UserError(f"{asked}: neither a folder nor a model's name on the hub") from None
    except hub.errors.RepositoryNotFoundError:
        raise UserError(f"{asked}: no such folder, and no such model on the hub") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{asked}: no such folder, and the model hub cannot be reached ({type(error).__name__}). {_way_out()}"
        ) from None
    return Path(folder), commit


def _safetensors_commit(api: Any, repository: str) -> str:
    """The commit to pin: the newest of the main branch, or of the pull request that adds safetensors to it."""
    info = api.model_info(repository, timeout=10)
    if any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
        return info.sha
    for reference in api.list_repo_refs(repository, include_pull_requests=True).pull_requests or []:
        if any(name.endswith(".safetensors") for name in api.list_repo_files(repository, revision=reference.ref)):
            return reference.target_commit
    raise UserError(f"{repository}: the hub has no safetensors of this model, on its main branch or in a pull request")


def _way_out() -> str:
    near = ", ".join(str(folder) for folder in at_hand()) or "none"
    return f"Name a local folder instead (at hand: {near}), or run `randout demo` once, which brings a small encoder"


def at_hand() -> list[Path]:
    """Encoders that need no network, smallest first: this tool's cache, then the hub's."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = [*cache_folder().glob("models/*"), *Path(HF_HUB_CACHE).glob("models--*/snapshots/*")]
    whole = [f for f in folders if (f / "config.json").exists() and (f / "model.safetensors").exists()]
    encoders = [f for f in whole if not Source(str(f), f).is_classifier and _is_encoder(f)]
    return sorted(encoders, key=lambda f: ((f / "model.safetensors").stat().st_size, str(f)))


def _is_encoder(folder: Path) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    kind = Source(str(folder), folder).config.get("model_type")
    return kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load(
    source: Source,
    *,
    id2label: dict[int, str] | None = None,
    head: str = "model",
    layers: Sequence[int] = (),
    seed: int = 0,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    pack: bool = True,
) -> Encoder:
    """A classifier ready to train or to run, in float32, on the CPU.

    With `id2label` a new head is put on, drawn from `seed`; without it the model must be a classifier and keeps its
    own. head: "model" (the family's) or "linear" (eq. 1: softmax(W s_CLS)). layers: blocks to keep, in order (0 the
    first). dropout, attention_dropout: replace the model's rates. Raises UserError for what this model cannot do.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers import logging as library_logging

    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    options: dict[str, Any] = {} if id2label is None else {"num_labels": len(id2label), "id2label": id2label}
    if id2label is not None:
        options["label2id"] = {label: index for index, label in id2label.items()}
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, **options)
        for names, rate in (
            (("hidden_dropout_prob", "dropout", "mlp_dropout"), dropout),
            (("attention_probs_dropout_prob", "attention_dropout"), attention_dropout),
        ):
            for name in names:
                if rate is not None and hasattr(config, name):
                    setattr(config, name, rate)
        torch.manual_seed(random_key(seed, "head"))  # a new head is drawn now
        common = {"config": config, "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                source.folder, attn_implementation=ATTENTION, **common
            )
        except (ValueError, AttributeError):  # a family outside transformers' attention interface: padded
            torch.manual_seed(random_key(seed, "head"))
            model = AutoModelForSequenceClassification.from_pretrained(source.folder, **common)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: transformers cannot load this as a sequence classifier: {text}") from None
    if layers:
        cut(model, layers, source.name)
    if head == "linear":
        put_linear_head(model, source.name)
    return prepare(model, tokenizer, pack)


def cut(model: Any, layers: Sequence[int], name: str) -> None:
    """Keep only the blocks of `layers` (0 the first), in the order given. Raises UserError where that cannot be done."""
    depth = model.config.num_hidden_layers
    if bad := [layer for layer in layers if not 0 <= layer < depth]:
        raise UserError(f"student.layers: {name} has blocks 0 to {depth - 1}, so there is no block {bad[0]}")
    lists = [(m, key, child) for m in model.base_model.modules() for key, child in m.named_children()]
    found = [(m, key, child) for m, key, child in lists if isinstance(child, nn.ModuleList) and len(child) == depth]
    if len(found) != 1 or getattr(model.config, "layer_types", None):
        raise UserError(f"student.layers: the blocks of {type(model).__name__} cannot be cut; leave the setting out")
    owner, key, blocks = found[0]
    setattr(owner, key, nn.ModuleList(blocks[layer] for layer in layers))
    model.config.num_hidden_layers = len(layers)


class LinearHead(nn.Module):
    """Eq. 1: logits = W s_CLS + b, with the family's dropout before it."""

    def __init__(self, drop: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.dropout, self.out_proj = drop, output

    def forward(self, features: Tensor, **_: Any) -> Tensor:
        return self.out_proj(self.dropout(features[:, 0]))


class FirstToken(nn.Module):
    """A pooler that passes the first token's state on as it is."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]


def put_linear_head(model: Any, name: str) -> None:
    """Make the classifier linear in s_CLS. Raises UserError for a family whose stock head cannot express that."""
    base, classifier = model.base_model, getattr(model, "classifier", None)
    if isinstance(getattr(classifier, "dense", None), nn.Linear) and not hasattr(classifier, "activation"):
        model.classifier = LinearHead(classifier.dropout, classifier.out_proj)
    elif isinstance(classifier, nn.Linear) and hasattr(getattr(base, "pooler", None), "activation"):
        base.pooler = FirstToken()
    elif isinstance(classifier, nn.Linear) and isinstance(getattr(base, "pooler_activation", None), nn.Tanh):
        base.pooler, base.pooler_activation = nn.Identity(), nn.Identity()
    else:
        raise UserError(
            f'student.head = "linear": {name} ({type(model).__name__}) has no tanh in its head into which a linear one '
            'could be folded, so no stock class could load the result; use head = "model"'
        )


def folded(model: Any) -> dict[str, Tensor]:
    """The state of a model with a linear head as its stock class has it: dense = c*I, output / c (methods: head)."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    identity = torch.eye(model.config.hidden_size) * FOLD
    prefix = model.base_model_prefix
    if isinstance(model.classifier, LinearHead):
        inner, output = "classifier.dense", "classifier.out_proj"
    elif isinstance(model.base_model.pooler, FirstToken):
        inner, output = f"{prefix}.pooler.dense", "classifier"
    else:
        inner, output = f"{prefix}.pooler", "classifier"
    state[f"{inner}.weight"], state[f"{inner}.bias"] = identity, torch.zeros(len(identity))
    state[f"{output}.weight"] = state[f"{output}.weight"] / FOLD
    return state


def is_linear(model: Any) -> bool:
    """Whether `put_linear_head` has been at this model."""
    pooler = getattr(model.base_model, "pooler", None)
    return isinstance(getattr(model, "classifier", None), LinearHead) or isinstance(pooler, FirstToken | nn.Identity)


def save(encoder: Encoder, folder: Path, max_length: int, card: str) -> None:
    """Write an ordinary Hugging Face folder (weights, configuration, tokenizer, README.md), whole or not at all."""
    model, tokenizer = encoder.model, encoder.tokenizer
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if is_linear(model):
        stock = type(model)(model.config)
        stock.load_state_dict(folded(model))
        model = stock
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(partial)
    kept = tokenizer.model_max_length
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(partial)
    tokenizer.model_max_length = kept
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
