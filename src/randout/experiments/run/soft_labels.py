"""The teacher's logits, computed once and stored.

They depend only on the teacher's weights and tokenizer, the texts, their maximum length, and the precision. A file is
named by a fingerprint of these, and rejected if its metadata differ. It holds logits, not probabilities, so that one
file serves every temperature.
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
from randout.core.label_sets import PROBLEM_TYPE
from randout.core.wording import plural
from randout.data.composed_text import parts_of
from randout.data.dataset import Dataset
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.sources import Source
from randout.models.tokens import encode, truncate


def fingerprint(model: str, max_length: int, truncation: str, precision: str, texts: Sequence[str]) -> dict[str, str]:
    """Return what stored logits depend on, by name. model: the fingerprint of weights and tokenizer."""
    total = hashlib.sha256()
    for text in texts:
        for at, part in enumerate(parts_of(text)):
            data = part.encode("utf-8", "surrogatepass")
            total.update(b"pair" * at + len(data).to_bytes(8, "little") + data)
    parts = {"model": model, "max_length": str(max_length), "truncation": truncation, "precision": precision}
    return parts | {"texts": total.hexdigest(), "rows": str(len(texts))}


def read_stored_logits(folder: Path, parts: dict[str, str]) -> tuple[Path, np.ndarray | None]:
    """Return the file of these logits, and the logits (n, C) float32, or None if they are not stored yet.

    Raises UserError if the file is damaged or holds other logits.
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
            f"{path}: this file of soft labels cannot be read ({error}). Delete it to compute them again"
        ) from None
    digest = {"sha256": hashlib.sha256(logits.tobytes()).hexdigest()}
    if wrong := [name for name, value in (parts | digest).items() if found.get(name) != value]:
        raise UserError(
            f"{path}: these soft labels are outdated or belong to another run: {', '.join(wrong)} differ from the request. "
            "Delete the file to compute them again"
        )
    return path, logits


def store(path: Path, logits: np.ndarray, parts: dict[str, str]) -> None:
    """Store logits (n, C) where `read_stored_logits` finds them; the file is written atomically."""
    digest = {"sha256": hashlib.sha256(logits.tobytes()).hexdigest()}
    with replacing(path) as partial:
        save_file({"logits": logits}, partial, metadata=parts | digest)


def compute(
    teacher: Encoder, texts: Sequence[str], folder: Path, parts: dict[str, str], show: Show, source: str
) -> np.ndarray:
    """Return the teacher's logits (n, C) for `texts`, from the stored file or computed and stored. source: its name, for logs."""
    path, logits = read_stored_logits(folder, parts)
    if logits is not None:
        show.say(f"soft labels: {len(texts):,} of {source} reused from {folder.name}/{path.name}")
        return logits
    encoded = encode(teacher.tokenizer, texts)
    tokens = truncate(encoded, int(parts["max_length"]), parts["truncation"], teacher.suffix, teacher.prefix)
    with show.bar(f"soft labels of {source}", len(texts)) as advance:
        logits = predict(teacher, tokens, np.arange(len(texts)), parts["precision"], lambda count: advance(count, ""))
    store(path, logits, parts)
    show.say(
        f"soft labels: logits of {source} for {plural(len(texts), 'text')}, computed once and stored in {folder.name}/{path.name}"
    )
    return logits


def column_order(
    teacher: dict[int, str], student: dict[int, str], named: Sequence[str] | None, source: str
) -> list[int]:
    """Return the index of the teacher's output for each class of the student, matched by name.

    named: names of the teacher's outputs in their order, if its own are only LABEL_0, LABEL_1, ...; None: for a teacher
    whose own names must match. Names match if they differ only in case, or in hyphens or underscores for spaces, as long
    as that keeps all classes distinct. Raises UserError if names do not match one to one.
    """
    own = [str(teacher[index]) for index in sorted(teacher)]
    names = output_names(teacher, named, source, "--teacher-labels")
    wanted = [student[index] for index in sorted(student)]
    for spelled in (str, _normalized):
        ours, theirs = ([spelled(name) for name in some] for some in (wanted, names))
        if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
            return [theirs.index(name) for name in ours]
    found = f"{source}: its labels are {', '.join(names)}; the data's are {', '.join(wanted)}"
    if named or named is None:
        raise UserError(found)
    if len(own) != len(wanted):
        raise UserError(
            f"{found}. A teacher must have exactly the {len(wanted)} classes of the data; it has {len(own)}"
        )
    places = ",".join(f"NAME_OF_{name}" for name in own)
    raise UserError(
        f"{found}. If these are the same classes under other names, give the data's names in the order of the teacher's "
        f"outputs: --teacher-labels {places}, each replaced by the class of the data that it means. A wrong order would "
        "teach wrong labels; the model card or label2id gives the order"
    )


def check_kind(teacher: Source, dataset: Dataset, name: str) -> None:
    """Raise UserError if a classifier gives one label per text and the data have label sets, or the other way round."""
    sets = teacher.config.get("problem_type") == PROBLEM_TYPE
    if not teacher.is_classifier or sets == (dataset.sets is not None):
        return
    if sets:
        raise UserError(
            f"{name}: its config.json says problem_type {PROBLEM_TYPE}: a text may have several labels or none, but in these "
            "data every text has exactly one. Name another teacher, or read the data with data.multi_label. If it was trained "
            "with one label per text, remove problem_type there"
        )
    raise UserError(
        f"{name}: this classifier gives every text exactly one label, but in these data a text may have several "
        f"(data.multi_label), so its outputs are not probabilities of single labels. Name an encoder, or a classifier with "
        f"problem_type {PROBLEM_TYPE} in its config.json"
    )


def output_names(own: dict[int, str], named: Sequence[str] | None, source: str, option: str) -> list[str]:
    """Return the names of a model's outputs in their order: its own, or those that the user gave with `option`.

    Raises UserError if their number is not that of the outputs.
    """
    stored_names = [str(own[index]) for index in sorted(own)]
    names = list(named or ()) or stored_names
    if len(names) != len(stored_names):
        raise UserError(
            f"{option}: {len(names)} names for the {len(stored_names)} outputs of {source} (its own names, in their order: "
            f"{', '.join(stored_names)})"
        )
    return names


def _normalized(name: str) -> str:
    """Normalize a class name: lower case, with single spaces between words."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def teacher_rows(logits: np.ndarray, rows: np.ndarray, total: int) -> Any:
    """Return the logits of `rows` in a tensor (total, C) over all rows, NaN elsewhere."""
    import torch

    spread = np.full((total, logits.shape[1]), np.nan, dtype=np.float32)
    spread[rows] = logits
    return torch.from_numpy(spread)
