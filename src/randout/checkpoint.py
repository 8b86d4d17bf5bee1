"""Checkpoints: the whole state of a training in one folder, whole or not at all.

Tensors go to a new safetensors file, then `position.json` (with that file's sha256) is replaced in one move: whatever
kills the process, the folder holds the last complete checkpoint. The best weights so far have a file of their own,
written once each time they improve.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import Failure, UserError
from .train import Position, Session

POSITION = "position.json"


def save(session: Session, folder: Path, environment: dict[str, Any], improved: bool) -> None:
    """Write the state of `session`; with `improved` its weights are kept as the best. Raises Failure on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    position = session.position
    before = _read(folder)
    best = before.get("best", {})
    try:
        if improved:
            best = _write(folder / f"best-{position.step}.safetensors", _weights(session))
        state = _write(folder / f"state-{position.step}-{position.epoch}.safetensors", _everything(session))
        record = {"position": position.as_json(), "state": state, "best": best, "environment": environment}
        replace_text(folder / POSITION, json.dumps(record, indent=1))
    except (OSError, SafetensorError) as error:
        for partial in folder.glob("*.partial"):
            partial.unlink()
        kept = "The checkpoint before it is intact" if before else "There was none before it"
        reason = getattr(error, "strerror", None) or str(error)
        raise Failure(
            f"{folder}: the checkpoint could not be written ({reason}). {kept}: free some space and run the same command"
        ) from None
    for file in folder.glob("*.safetensors"):
        if file.name not in (state["file"], best.get("file")):
            file.unlink()


def restore(session: Session, folder: Path, environment: dict[str, Any], accept: bool) -> bool:
    """Put `session` where the checkpoint in `folder` left it; False where there is none.

    Raises UserError for a checkpoint that is damaged, or (unless `accept`) one made in another environment.
    """
    record = _read(folder)
    if not record:
        return False
    changed = {k: (record["environment"].get(k), v) for k, v in environment.items() if record["environment"].get(k) != v}
    if changed and not accept:
        lines = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in changed.items())
        raise UserError(
            f"{folder}: this checkpoint was made elsewhere ({lines}), so going on would not give the same bits. "
            "Add --accept-changes to go on all the same, or --fresh to start again beside it"
        )
    tensors = _load(folder, record["state"])
    try:
        _put(session, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: the checkpoint does not fit this model ({str(error)[:200]}); use --fresh") from None
    session.position = Position(**record["position"])
    return True


def restore_best(session: Session, folder: Path) -> None:
    """Give the student the weights that did best on validation."""
    weights = _load(folder, _read(folder)["best"])
    session.encoder.model.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one move, so that a reader sees the old or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _weights(session: Session) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in session.encoder.model.state_dict().items()}


def _everything(session: Session) -> dict[str, Tensor]:
    tensors = _weights(session)
    for index, slots in session.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    for method, state in zip(session.methods, session.states, strict=True):
        tensors |= {f"state.{method.name}.{name}": tensor for name, tensor in state.tensors.items()}
        tensors |= {f"parameter.{method.name}.{i}": p.detach() for i, p in enumerate(state.parameters)}
    return tensors


def _put(session: Session, tensors: dict[str, Tensor]) -> None:
    session.encoder.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state = session.optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            state["state"].setdefault(int(index), {})[slot] = tensor
    session.optimizer.load_state_dict(state)
    for method, kept in zip(session.methods, session.states, strict=True):
        for name in kept.tensors:
            kept.tensors[name].copy_(tensors[f"state.{method.name}.{name}"])
        for index, parameter in enumerate(kept.parameters):
            parameter.data.copy_(tensors[f"parameter.{method.name}.{index}"])


def _write(path: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb+") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    partial.replace(path)
    return {"file": path.name, "sha256": digest}


def _load(folder: Path, entry: dict[str, str]) -> dict[str, Tensor]:
    path = folder / entry["file"]
    try:
        with path.open("rb") as stream:
            intact = hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]
        if intact:
            return load_file(path)
    except OSError as error:
        raise UserError(f"{path}: part of the checkpoint cannot be read ({error.strerror}); use --fresh") from None
    raise UserError(f"{path}: this checkpoint is damaged (its sha256 is not the recorded one); use --fresh to start again")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / POSITION
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: record[name] for name in ("position", "state", "best", "environment")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: this checkpoint is damaged ({error}); use --fresh to start again") from None
