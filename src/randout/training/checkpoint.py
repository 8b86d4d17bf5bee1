"""Checkpoints: the complete state of a training in one folder, written atomically.

Tensors are written to a new safetensors file, then `position.json` (with the SHA-256 of that file and of its own content)
is replaced in one atomic move. Whatever kills the process, the folder holds the last complete checkpoint. Incomplete files
are ignored and removed by the next save. The best weights so far have their own file, written whenever they improve.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from randout.core.errors import Failure, UserError
from randout.core.files import atomic, check_publish, replace_text
from randout.methods.stack import load_optimizer, optimizer_tensors

from .state import Position, TrainingState

POSITION = "position.json"


class MadeElsewhere(UserError):
    """A checkpoint made on another machine or with other versions: resuming would not give bit-identical results."""


def save(training: TrainingState, folder: Path, environment: dict[str, Any], improved: bool) -> None:
    """Write a checkpoint of `training` to `folder`.

    environment: versions and machine, compared on restore. improved: also keep the weights as the best so far. Raises
    Failure if writing fails, for example on a full disk.
    """
    position = training.position
    before = _read(folder)
    best = before.get("best", {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if improved:
            best = _write(folder / f"best-{position.step}.safetensors", _weights(training))
        state = _write(folder / f"state-{position.step}-{position.epoch}.safetensors", tensors_of(training))
        record = {"position": position.as_json(), "state": state, "best": best, "environment": environment}
        replace_text(folder / POSITION, json.dumps(record | {"sha256": _digest(record)}, indent=1))
        _sync(folder)
    except (OSError, SafetensorError) as error:
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)
        kept = "The previous checkpoint is intact" if before else "There is no earlier checkpoint"
        reason = getattr(error, "strerror", None) or str(error)
        raise Failure(
            f"{folder}: the checkpoint could not be written ({reason}). {kept}. "
            "Free some disk space and run the same command again"
        ) from None
    check_publish(folder)  # before files that may be those of a process that has taken this run over are deleted
    for file in (*folder.glob("*.safetensors*"), *folder.glob("*.partial")):
        if file.name not in (state["file"], best.get("file")):
            file.unlink(missing_ok=True)


def restore(training: TrainingState, folder: Path, environment: dict[str, Any], accept: bool) -> bool:
    """Restore `training` from the checkpoint in `folder`. Returns False if there is none.

    accept: restore even if `environment` differs. Raises UserError for a damaged checkpoint, and MadeElsewhere for one
    made in another environment.
    """
    record = _read(folder)
    if not record:
        return False
    changed = changes(folder, environment)
    if changed and not accept:
        raise MadeElsewhere(f"{changed}. Add --accept-changes to resume anyway, or --fresh to start a new run")
    tensors = _load(folder, record["state"])
    try:
        position = Position(**record["position"])
        put(training, tensors)
    except (UserError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: the checkpoint does not fit this model ({str(error)[:200]}); use --fresh to start again"
        ) from None
    training.position = position
    return True


def changes(folder: Path, environment: dict[str, Any]) -> str:
    """Describe how `environment` differs from the one in which the checkpoint in `folder` was made; empty if it does not."""
    was = _read(folder).get("environment", environment)
    lines = [f"{name} was {was.get(name)}, is {now}" for name, now in environment.items() if was.get(name) != now]
    if not lines:
        return ""
    return (
        f"{folder}: this checkpoint was made in another environment ({'; '.join(lines)}), so resuming would not give "
        "bit-identical results"
    )


def restore_best(training: TrainingState, folder: Path) -> None:
    """Load the weights with the best validation score into the student."""
    record = _read(folder)
    if not record.get("best"):
        raise UserError(f"{folder}: the best weights are missing; use --fresh to start again")
    weights = _load(folder, record["best"])
    training.encoder.model.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})


def _weights(training: TrainingState) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in training.encoder.model.state_dict().items()}


def tensors_of(training: TrainingState) -> dict[str, Tensor]:
    """All tensors of a training's state by name, not copied: weights, state of the optimizer and of the methods."""
    return _weights(training) | optimizer_tensors("optimizer", training.optimizer) | training.stack.state_dict()


def put(training: TrainingState, tensors: dict[str, Tensor]) -> None:
    """Restore a training's state from the result of `tensors_of`. Raises UserError, KeyError, RuntimeError, ValueError."""
    training.encoder.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    load_optimizer("optimizer", training.optimizer, tensors)
    training.stack.load_state_dict(tensors)


def _write(path: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    here, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        here[name] = tensor.clone() if place in seen else tensor  # safetensors refuses shared memory
        seen.add(place)
    with atomic(path) as partial:
        save_file(here, partial)
        with partial.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest}


def _sync(folder: Path) -> None:
    """Flush the renames in a folder to disk, so that they survive a power failure, before old files are removed."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _load(folder: Path, entry: dict[str, str]) -> dict[str, Tensor]:
    path = folder / entry["file"]
    try:
        with path.open("rb") as stream:
            intact = hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]
        if intact:
            return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: part of the checkpoint cannot be read ({reason}); use --fresh to start again"
        ) from None
    raise UserError(
        f"{path}: this checkpoint is damaged (its SHA-256 does not match the recorded one); use --fresh to start again"
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / POSITION
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        record = {name: found[name] for name in ("position", "state", "best", "environment")}
        if found["sha256"] != _digest(record):
            raise ValueError("its SHA-256 does not match the recorded one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: this checkpoint is damaged ({error}); use --fresh to start again") from None
    return record


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
