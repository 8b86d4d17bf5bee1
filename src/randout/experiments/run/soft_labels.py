"""The teacher's logits, computed once and stored.

They depend on nothing but the teacher's weights and tokenizer, the texts, the length they are cut to, and the number
format: a store is named by a fingerprint of these and refused when what it says of itself is anything else. Kept as
logits, never as probabilities, so that one store serves every temperature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import replacing
from randout.core.wording import plural
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.tokens import encode, truncate


def fingerprint(model: str, max_length: int, truncation: str, precision: str, texts: Sequence[str]) -> dict[str, str]:
    """What stored logits depend on, each named. model: the fingerprint of weights and tokenizer."""
    total = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        total.update(len(data).to_bytes(8, "little") + data)
    parts = {"model": model, "max_length": str(max_length), "truncation": truncation, "precision": precision}
    return parts | {"texts": total.hexdigest(), "rows": str(len(texts))}


def stored(folder: Path, parts: dict[str, str]) -> tuple[Path, np.ndarray | None]:
    """Where these logits are kept, and they themselves (n, C) float32, or None where they are not there yet.

    Raises UserError where the file is damaged or holds something else.
    """
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key[:16]}.safetensors"
    if not path.exists():
        return path, None
    try:
        with safe_open(path, framework="numpy") as file:
            found, logits = file.metadata() or {}, file.get_tensor("logits")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: this store of soft labels cannot be read ({error}); delete it to make it anew"
        ) from None
    digest = {"sha256": hashlib.sha256(logits.tobytes()).hexdigest()}
    if wrong := [name for name, value in (parts | digest).items() if found.get(name) != value]:
        raise UserError(
            f"{path}: these soft labels are stale or foreign: {', '.join(wrong)} differ from what is asked for. "
            "Delete the file to make it anew"
        )
    return path, logits


def store(path: Path, logits: np.ndarray, parts: dict[str, str]) -> None:
    """Keep logits (n, C) where `stored` finds them; the file is whole or not there."""
    digest = {"sha256": hashlib.sha256(logits.tobytes()).hexdigest()}
    with replacing(path) as partial:
        save_file({"logits": logits}, partial, metadata=parts | digest)


def compute(
    teacher: Encoder, texts: Sequence[str], folder: Path, parts: dict[str, str], show: Show, source: str
) -> np.ndarray:
    """The teacher's logits (n, C) for `texts`, from the store or computed now and stored. source: its name, to say."""
    path, logits = stored(folder, parts)
    if logits is not None:
        show.say(f"soft labels: {len(texts):,} of {source} reused from {folder.name}/{path.name}")
        return logits
    encoded = encode(teacher.tokenizer, texts)
    tokens = truncate(encoded, int(parts["max_length"]), parts["truncation"], teacher.suffix, teacher.prefix)
    with show.bar(f"soft labels of {source}", len(texts)) as advance:
        logits = predict(teacher, tokens, np.arange(len(texts)), parts["precision"], lambda count: advance(count, ""))
    store(path, logits, parts)
    show.say(
        f"soft labels: logits of {source} for {plural(len(texts), 'text')}, computed once and kept in {folder.name}/{path.name}"
    )
    return logits


def column_order(
    teacher: dict[int, str], student: dict[int, str], named: Sequence[str] | None, source: str
) -> list[int]:
    """For each class of the student, the teacher's output of that name.

    named: the teacher's labels in the order of its outputs, where its own say only LABEL_0, LABEL_1, ...; None: of a
    teacher whose own names must do. Names are equal that differ by case, and by hyphens or underscores for spaces, alone,
    where that leaves no two classes alike. Raises UserError where names do not match one to one.
    """
    own = [str(teacher[index]) for index in sorted(teacher)]
    names = output_names(teacher, named, source, "--teacher-labels")
    wanted = [student[index] for index in sorted(student)]
    for spelled in (str, _folded):
        ours, theirs = ([spelled(name) for name in some] for some in (wanted, names))
        if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
            return [theirs.index(name) for name in ours]
    found = f"{source}: its labels are {', '.join(names)}; the data's are {', '.join(wanted)}"
    if named or named is None:
        raise UserError(found)
    if len(own) != len(wanted):
        raise UserError(f"{found}. A teacher must have exactly the data's {len(wanted)} classes, and it has {len(own)}")
    places = ",".join(f"NAME_OF_{name}" for name in own)
    raise UserError(
        f"{found}. If these are the same classes under other names, give the data's names in the order of the teacher's "
        f"outputs: --teacher-labels {places}, each replaced by the class of the data that it means. Any other order would "
        "teach wrong labels; its model card or label2id says which is which"
    )


def output_names(own: dict[int, str], named: Sequence[str] | None, source: str, option: str) -> list[str]:
    """The names of a model's outputs in their order: its own, or those that the user named with `option`.

    Raises UserError where there are not as many as outputs.
    """
    kept = [str(own[index]) for index in sorted(own)]
    names = list(named or ()) or kept
    if len(names) != len(kept):
        raise UserError(
            f"{option}: {len(names)} names for the {len(kept)} outputs of {source} (its own names, in their order: "
            f"{', '.join(kept)})"
        )
    return names


def _folded(name: str) -> str:
    """A class name without what its spellings differ by: case, and what stands between words."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def teacher_rows(logits: np.ndarray, rows: np.ndarray, total: int) -> Any:
    """Logits of `rows` spread over all `total` rows, NaN elsewhere, as a tensor (total, C)."""
    import torch

    spread = np.full((total, logits.shape[1]), np.nan, dtype=np.float32)
    spread[rows] = logits
    return torch.from_numpy(spread)
