"""A saved classifier with a smaller vocabulary: the tokens of given texts, and what any other text is spelled with.

The rows of the word embeddings of all other tokens are removed, and the remaining ids are renumbered in their order. A text
whose tokens are all kept has the same tokens, and so the same logits:

- WordPiece takes the longest piece at each place. It is still there, and still the longest.
- BPE merges pairs by rank. The parts of every kept token, and the merges that make them, are kept too, so each merge of
  the text is still there, and still the first.
- Unigram takes the most probable pieces. They are still there, and there are fewer others.

Any other text is split into smaller pieces: all single characters (or bytes) and special tokens are kept.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from randout.core.errors import UserError
from randout.core.files import new_folder

from . import loading
from .inference import predict
from .sources import Source, load_tokenizer
from .token_types import plain_ids, types_of
from .tokens import encode, truncate

OTHER_FILES = ("vocab*", "merges.txt", "*.model", "added_tokens.json")  # tokenizer files that tokenizer.json replaces
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte of a character without a token
CHECKED, CLOSE = 64, 1e-4  # texts whose logits are compared, and the largest difference


class NotTrimmed(UserError):
    """The vocabulary of a model cannot be trimmed; the message says why."""


@dataclass(frozen=True)
class Trimmed:
    """What `trim` removed. kept: (K,) old ids by new id, sorted. before: number of rows of the embeddings before."""

    kept: np.ndarray
    before: int


def trim(source: Source, texts: Sequence[str], folder: Path) -> Trimmed:
    """Write a classifier to the new folder `folder`, with the vocabulary that `texts` use.

    The result is loaded and compared with the model: tokens of all texts, and logits of some. Raises NotTrimmed if the
    tokenizer or the weights are of another kind, and if the comparison finds a difference.
    """
    tokenizer = _read(source.encoder_folder / "tokenizer.json", source.name)
    tokens = encode(load_tokenizer(source), texts)
    used = np.unique(plain_ids(tokens.ids))
    kept = kept_ids(tokenizer, used.tolist())
    if len(kept) >= source.config["vocab_size"]:
        raise NotTrimmed("all of its tokens are in use")
    with new_folder(folder) as made:
        shutil.copytree(source.folder, made, dirs_exist_ok=True)
        inner = made / source.encoder_folder.relative_to(source.folder)
        for pattern in OTHER_FILES:
            for path in inner.glob(pattern):
                path.unlink()
        _write(inner / "tokenizer.json", trimmed_tokenizer(tokenizer, kept))
        before = _trim_weights(inner, np.array(kept), source.name)
        _renumber_settings(inner, kept)
        _compare(source, Source(f"{source.name}, trimmed", made), texts, np.array(kept))
    return Trimmed(np.array(kept), before)


def kept_ids(tokenizer: Mapping[str, Any], used: Iterable[int]) -> list[int]:
    """Return the ids to keep, sorted: those in use, special tokens, single characters and bytes, and parts of BPE tokens.

    tokenizer: the content of tokenizer.json. Raises NotTrimmed for a kind of tokenizer that is not known.
    """
    model = tokenizer["model"]
    ids = _vocabulary(model)
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    if model["type"] == "BPE" and prefix:
        raise NotTrimmed(f"its BPE tokenizer has the prefix {prefix!r}, with which merges cannot be followed")
    found = set(used) | {one["id"] for one in tokenizer.get("added_tokens") or []}
    found |= {
        at
        for piece, at in ids.items()
        if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1 or BYTE.fullmatch(piece)
    }
    if isinstance(unknown := model.get("unk_id"), int):
        found.add(unknown)
    elif model.get("unk_token") in ids:
        found.add(ids[model["unk_token"]])
    if model["type"] == "Unigram":  # the score of an unknown character depends on the lowest one
        found.add(min(range(len(model["vocab"])), key=lambda at: model["vocab"][at][1]))
    return sorted(_with_parts(model, ids, found) if model["type"] == "BPE" else found)


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of each piece. Raises NotTrimmed for a kind of tokenizer that is not known."""
    if model.get("type") in ("WordPiece", "BPE"):
        return dict(model["vocab"])
    if model.get("type") == "Unigram":
        return {piece: at for at, (piece, _) in enumerate(model["vocab"])}
    raise NotTrimmed(f"its tokenizer is of the kind {model.get('type')}; expected WordPiece, BPE or Unigram")


def _with_parts(model: Mapping[str, Any], ids: Mapping[str, int], found: set[int]) -> set[int]:
    """Return the tokens of a BPE tokenizer with all tokens that they are merged from."""
    pieces = {at: piece for piece, at in ids.items()}
    parts: dict[str, list[str]] = {}
    for first, second in _merges(model):
        parts.setdefault(first + second, []).extend((first, second))
    todo, every = [pieces[at] for at in found if at in pieces], set(found)
    while todo:
        for part in parts.get(todo.pop(), ()):
            if ids[part] not in every:
                every.add(ids[part])
                todo.append(part)
    return every


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of a BPE tokenizer, which older files store as texts."""
    found = []
    for merge in model["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        found.append((first, second))
    return found


def trimmed_tokenizer(tokenizer: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the content of tokenizer.json with the ids `kept` only, renumbered in their order."""
    new = {old: at for at, old in enumerate(kept)}
    model = dict(tokenizer["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for at, entry in enumerate(model["vocab"]) if at in new]
        if isinstance(model.get("unk_id"), int):
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[at] for piece, at in model["vocab"].items() if at in new}
    if model["type"] == "BPE":
        there = model["vocab"].keys()
        model["merges"] = [
            [first, second]
            for first, second in _merges(model)
            if first in there and second in there and first + second in there
        ]
    added = [one | {"id": new[one["id"]]} for one in tokenizer.get("added_tokens") or []]
    processor = _renumbered(tokenizer.get("post_processor"), new)
    padding = tokenizer.get("padding")
    if padding:
        padding = padding | {"pad_id": new[padding["pad_id"]]}
    return {
        **tokenizer,
        "padding": padding,
        "added_tokens": added,
        "post_processor": processor,
        "model": model,
    }


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with renumbered special tokens."""
    if not isinstance(processor, dict):
        return processor
    made = dict(processor)
    if "processors" in made:
        made["processors"] = [_renumbered(one, new) for one in made["processors"]]
    for end in ("sep", "cls"):  # of BERT and RoBERTa: [token, id]
        if isinstance(made.get(end), list):
            made[end] = [made[end][0], new[made[end][1]]]
    if isinstance(made.get("special_tokens"), dict):
        made["special_tokens"] = {
            name: one | {"ids": [new[at] for at in one["ids"]]} for name, one in made["special_tokens"].items()
        }
    return made


def _trim_weights(folder: Path, kept: np.ndarray, name: str) -> int:
    """Keep the rows `kept` of the word embeddings; return how many there were. Raises NotTrimmed if they are not found."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    if not path.exists():
        raise NotTrimmed("its weights are in several files")
    size, tensors = _read(folder / "config.json", name)["vocab_size"], load_file(path)
    names = [key for key, one in tensors.items() if one.dim() == 2 and len(one) == size and "embed" in key]
    if len(names) != 1:
        raise NotTrimmed(f"{len(names)} of its tensors may be the word embeddings; expected one")
    tensors[names[0]] = tensors[names[0]][torch.from_numpy(kept)].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return int(size)


def _renumber_settings(folder: Path, kept: Sequence[int]) -> None:
    """Renumber the special tokens in config.json and tokenizer_config.json."""
    new = {old: at for at, old in enumerate(kept)}
    config = _read(folder / "config.json", str(folder))
    for key, value in config.items():
        if key.endswith("_token_id") and isinstance(value, int):
            config[key] = new.get(value)
    _write(folder / "config.json", config | {"vocab_size": len(kept)})
    path = folder / "tokenizer_config.json"
    if path.exists():
        settings = _read(path, str(folder))
        if isinstance(added := settings.get("added_tokens_decoder"), dict):
            settings["added_tokens_decoder"] = {str(new[int(at)]): one for at, one in added.items() if int(at) in new}
        _write(path, settings)


def _compare(source: Source, made: Source, texts: Sequence[str], kept: np.ndarray) -> None:
    """Raise NotTrimmed unless both have the same tokens for the texts, and the same logits for some of them."""
    models = [loading.load(one, pack=False) for one in (source, made)]
    before, after = (encode(model.tokenizer, texts) for model in models)
    same = np.array_equal(types_of(before.ids), types_of(after.ids))
    same = same and np.array_equal(plain_ids(before.ids), kept[plain_ids(after.ids)])
    if not np.array_equal(before.lengths, after.lengths) or not same:
        raise NotTrimmed("the trimmed tokenizer gives other tokens for the same texts")
    rows = np.unique(np.linspace(0, len(texts) - 1, min(CHECKED, len(texts))).astype(int))
    logits = []
    for model, tokens in zip(models, (before, after), strict=True):
        cut = truncate(tokens, model.longest, "head", model.suffix, model.prefix)
        logits.append(predict(model, cut, rows, "float32"))
    if not np.allclose(logits[0], logits[1], rtol=0, atol=CLOSE):
        largest = float(np.abs(logits[0] - logits[1]).max())
        raise NotTrimmed(f"the logits of the same texts differ by up to {largest:.1e} with the trimmed vocabulary")


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotTrimmed(f"{name}: its {path.name} cannot be read ({error})") from None
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
