"""Models of the Hugging Face Hub as local folders: which commit is used, from the hub's cache or by download.

Only the files that randout reads are downloaded (`PARTS` and the others below), and weights only as safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.data.text_fields import FILE as FIELDS
from randout.storage.run_folder import ABSTENTION
from randout.storage.seen_rows import FILE as SEEN_ROWS

from . import folder_checks
from .hub_access import TIMEOUT, HubUnreachable, explained, is_offline, patiently

PARTS = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json", "vocab*"]
PARTS += ["merges.txt", "*.model", "added_tokens.json"]
POOLED_PARTS = [
    "modules.json",
    f"{folder_checks.POOLING}/*.json",
    f"{folder_checks.CLASSIFIER}/*",
]  # of sentence-transformers
CHAT_PARTS = ["chat_template*", "decision.json", "decision_template.jinja"]  # of chat models and decision models
BASELINE_PARTS = [folder_checks.BASELINE, "weights.safetensors"]
HUB_PARTS = [*PARTS, *POOLED_PARTS, *(f"{folder_checks.ENCODER}/{part}" for part in PARTS), *CHAT_PARTS]
HUB_PARTS += [*BASELINE_PARTS, folder_checks.TRUNCATION, FIELDS, ABSTENTION, SEEN_ROWS]
VOCABULARY = ["tokenizer.json", "vocab*", "*.model"]  # without one of these, transformers makes an empty tokenizer
COMMIT = re.compile(r"[0-9a-f]{40}")


def split_revision(name: str, revision: str = "") -> tuple[str, str]:
    """Split `OWNER/NAME@REVISION` into the name and the revision, which is `revision` for a name without one.

    Raises UserError for two different revisions, or an empty one.
    """
    repository, at, named = name.partition("@")
    if not at:
        return name, revision
    if not named:
        raise UserError(f"{name}: expected a branch, commit or pull request after @, such as {repository}@main")
    if revision not in ("", named):
        raise UserError(f"{name}: the setting revision names another one, {revision!r}. Give only one of the two")
    return repository, named


def snapshot(
    repository: str, revision: str, asked: str, near: str = "", suggestion: Callable[[], str] = lambda: ""
) -> tuple[Path, str]:
    """Find a repository's model in the hub's cache, or download it; returns its folder and commit.

    revision: empty: of the latest download, or else of `safetensors_commit`. A commit is taken from the cache if it is there.
    What a branch or pull request points to is asked each time; the cache is used if the hub cannot be reached. asked: the
    name that the user gave. near, suggestion: for the error message. Raises UserError, and HubUnreachable.
    """
    import huggingface_hub as hub
    import huggingface_hub.errors
    import huggingface_hub.utils

    try:
        hub.utils.validate_repo_id(repository)
    except hub.errors.HFValidationError:
        raise UserError(f"{asked}: neither a folder nor a valid model name on the hub.{near}") from None
    moves = bool(revision) and not COMMIT.fullmatch(revision)
    if not moves and (folder := cached(repository, revision)):  # needs no network
        return folder, folder.name
    if is_offline():
        if moves and (folder := cached(repository, revision)):
            return folder, folder.name
        raise UserError(
            f"{asked}: no such folder, not in the hub's cache, and HF_HUB_OFFLINE is set.{near} {suggestion()}"
        )
    try:
        commit = safetensors_commit(hub.HfApi(), repository, revision)
        at = revision if moves else commit  # by its name, the cache remembers what it points to
        options: dict[str, Any] = {"allow_patterns": HUB_PARTS, "etag_timeout": TIMEOUT}
        folder = Path(patiently(lambda: hub.snapshot_download(repository, revision=at, **options)))
    except UserError:
        raise
    except Exception as error:
        found = explained(error, asked, revision, near, suggestion())
        if isinstance(found, HubUnreachable) and moves and (folder := cached(repository, revision)):
            return folder, folder.name
        raise found from None
    return folder, folder.name


def cached(repository: str, revision: str) -> Path | None:
    """Find a snapshot in the hub's cache: of `revision`, or else of the main branch, or else the latest download."""
    import huggingface_hub as hub
    import huggingface_hub.constants

    with suppress(Exception):  # not in the cache
        options: dict[str, Any] = {"local_files_only": True, "allow_patterns": HUB_PARTS}
        folder = Path(hub.snapshot_download(repository, revision=revision or None, **options))
        if is_whole(folder):
            return folder
    if revision:
        return None
    home = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    whole = [folder for folder in home.glob("snapshots/*") if is_whole(folder)]
    return max(whole, key=lambda folder: (folder.stat().st_mtime, folder.name), default=None)


def add_export(repository: str, commit: str, form: str, asked: str) -> None:
    """Download one form of the export in a repository, next to the model in the hub's cache, if it is not there yet.

    asked: the name that the user gave, for messages. Raises UserError if there is no such form, and HubUnreachable.
    """
    import huggingface_hub as hub
    import huggingface_hub.errors

    def there(file: str) -> Path:
        options: dict[str, Any] = {"revision": commit, "etag_timeout": TIMEOUT}
        try:
            return Path(patiently(lambda: hub.hf_hub_download(repository, file, **options)))
        except hub.errors.LocalEntryNotFoundError as error:  # not in the cache, and the hub gives no answer
            raise explained(error, asked, commit) from None
        except hub.errors.EntryNotFoundError:
            raise UserError(
                f"--form {form}: {asked} has no export on the hub. Add one with: randout push RUN {repository} --export {form}"
            ) from None
        except Exception as error:
            raise explained(error, asked, commit) from None

    record = there(folder_checks.EXPORT).read_text(encoding="utf-8")
    with suppress(ValueError, KeyError, TypeError):  # a damaged record is reported when it is used
        files: dict[str, str] = json.loads(record)["files"]
        if form not in files:
            raise UserError(f"--form {form}: the export of {asked} has {', '.join(files)}")
        there(files[form])


def is_whole(folder: Path) -> bool:
    """Whether a folder has the files of a model: a baseline, or an encoder's weights, configuration and tokenizer."""
    if (folder / folder_checks.BASELINE).exists():
        return all((folder / part).exists() for part in BASELINE_PARTS)
    inner = folder / folder_checks.ENCODER if folder_checks.is_pooled(folder) else folder
    return (inner / "config.json").exists() and _has_weights(inner) and has_vocabulary(inner)


def _has_weights(folder: Path) -> bool:
    """Whether the weights are there; of weights in several files, all that the index names."""
    if (folder / folder_checks.WEIGHTS).exists():
        return True
    with suppress(OSError, ValueError, KeyError, AttributeError):
        index = json.loads((folder / folder_checks.INDEX).read_text(encoding="utf-8"))
        return all((folder / shard).exists() for shard in index["weight_map"].values())
    return False


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer."""
    return any(path.is_file() for pattern in VOCABULARY for path in folder.glob(pattern))


def safetensors_commit(api: Any, repository: str, revision: str = "") -> str:
    """Choose the commit to pin: the requested revision, or else the head of the main branch, or if that has no
    safetensors, the pull request that adds them.
    """
    info = _info(api, repository, revision)
    if revision or _has_safetensors(info):
        return str(info.sha)
    refs = patiently(lambda: api.list_repo_refs(repository, include_pull_requests=True))
    for reference in refs.pull_requests or []:
        if _has_safetensors(_info(api, repository, reference.target_commit)):
            return str(reference.target_commit)
    raise UserError(
        f"{repository}: the hub has no safetensors of this model, neither on its main branch nor in a pull request"
    )


def _info(api: Any, repository: str, revision: str) -> Any:
    return patiently(lambda: api.model_info(repository, revision=revision or None, timeout=TIMEOUT))


def _has_safetensors(info: Any) -> bool:
    return any(file.rfilename.endswith(".safetensors") for file in info.siblings or [])
