"""A checkpoint is whole or not at all, whatever happens while it is written or afterwards."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from randout.core.errors import Failure, UserError
from randout.core.files import replace_text
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.kd import KnowledgeDistillation
from randout.methods.mixout import Mixout
from randout.training import checkpoint
from randout.training.loop import TrainingState
from support.training import (
    bit_identical,
    new_training,
    tiny_encoder,
    toy_training_data,
    trained,
    weights_of,
)

Tiny = Callable[[str], Path]
HERE = {"torch": "2.0", "threads": 1}


@pytest.fixture
def fresh(tiny_model: Tiny) -> Callable[[], TrainingState]:
    methods = [CrossEntropy(), KnowledgeDistillation()]
    return lambda: new_training(tiny_encoder(tiny_model("bert")), methods)


def saved(training: TrainingState, folder: Path, events: int = 2, improved: bool = False) -> TrainingState:
    """Train on for some events, then save."""
    trained(training, toy_training_data(training.encoder), events)
    checkpoint.save(training, folder, HERE, improved)
    return training


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_all_of_a_session_comes_back(fresh: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one" / "checkpoint"  # made with the folders above it
    training, other = saved(fresh(), folder, 5, improved=True), fresh()
    assert checkpoint.restore(other, folder, HERE, accept=False)
    assert bit_identical(checkpoint.tensors_of(other), checkpoint.tensors_of(training))
    assert other.position == training.position
    assert other.position.batch == 1
    assert not checkpoint.restore(fresh(), tmp_path / "nothing", HERE, accept=False)


def test_old_files_go_and_the_best_stays(fresh: Any, tmp_path: Path) -> None:
    training = saved(fresh(), tmp_path, 1, improved=True)
    best = weights_of(training)
    assert names(tmp_path) == ["best-1.safetensors", "position.json", "state-1-0.safetensors"]
    saved(training, tmp_path, 2)
    assert names(tmp_path) == ["best-1.safetensors", "position.json", "state-3-0.safetensors"]
    now = weights_of(training)
    assert not bit_identical(best, now)
    checkpoint.restore_best(training, tmp_path)
    assert bit_identical(best, weights_of(training))
    saved(training, tmp_path, 1, improved=True)
    assert [name for name in names(tmp_path) if name.startswith("best")] == [
        f"best-{training.position.step}.safetensors"
    ]


def test_best_that_is_not_there(fresh: Any, tmp_path: Path) -> None:
    training = saved(fresh(), tmp_path)
    with pytest.raises(UserError, match="best weights are missing"):
        checkpoint.restore_best(training, tmp_path)


@pytest.mark.parametrize("failing", [1, 2])  # the best weights, the state
def test_full_disk_leaves_the_checkpoint_before(
    fresh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    training = saved(fresh(), tmp_path, 2, improved=True)
    before, held = checkpoint.tensors_of(training), names(tmp_path)
    before = {name: tensor.clone() for name, tensor in before.items()}
    position, written, real = training.position.step, [], checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        written.append(path)
        if len(written) == failing:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(Failure, match=r"No space left on device.*previous checkpoint is intact\. Free some disk space"):
        saved(training, tmp_path, 1, improved=True)
    assert not list(tmp_path.glob("*.partial"))
    other = fresh()
    assert checkpoint.restore(other, tmp_path, HERE, accept=False)
    assert other.position.step == position
    assert bit_identical(checkpoint.tensors_of(other), before)
    monkeypatch.undo()
    saved(training, tmp_path, 1, improved=True)  # and what the failure left goes
    assert len(names(tmp_path)) == len(held)


def test_full_disk_before_any_checkpoint(fresh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "replace_text", full)
    with pytest.raises(Failure, match="There is no earlier checkpoint"):
        saved(fresh(), tmp_path)
    assert not checkpoint.restore(fresh(), tmp_path, HERE, accept=False)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(Failure, match="could not be written"):
        checkpoint.save(fresh(), blocked / "checkpoint", HERE, False)


def test_a_limit_of_the_system_is_a_full_disk(fresh: Any, tmp_path: Path) -> None:
    """The writes really fail here, in the middle of a file."""
    import resource

    training = saved(fresh(), tmp_path, 1, improved=True)
    held, (soft, hard) = names(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(Failure, match=r"could not be written .*File too large.*is intact"):
            saved(training, tmp_path, 1, improved=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == held
    other = fresh()
    assert checkpoint.restore(other, tmp_path, HERE, accept=False)
    assert other.position.step == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
@pytest.mark.parametrize("which", ["state", "best"])
def test_damaged_tensors_are_refused(fresh: Any, tmp_path: Path, damage: str, which: str) -> None:
    training = saved(fresh(), tmp_path, improved=True)
    (file,) = tmp_path.glob(f"{which}-*.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    kept = {"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(kept[damage])
    weights = weights_of(training)
    read = {
        "state": lambda: checkpoint.restore(training, tmp_path, HERE, accept=True),
        "best": lambda: checkpoint.restore_best(training, tmp_path),
    }
    with pytest.raises(UserError, match=f"{file.name}: .*use --fresh to start again"):
        read[which]()
    assert bit_identical(weights, weights_of(training))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"position": {}, "state": {}, "best": {}, "environment": {}}', "\x00\xff"]
)
def test_broken_position_is_refused(fresh: Any, tmp_path: Path, text: str) -> None:
    training = saved(fresh(), tmp_path)
    (tmp_path / "position.json").write_bytes(text.encode("latin-1"))
    for call in (checkpoint.restore, checkpoint.save):
        with pytest.raises(UserError, match=r"position.json: this checkpoint is damaged .*use --fresh"):
            call(training, tmp_path, HERE, False)


def test_a_changed_number_is_found(fresh: Any, tmp_path: Path) -> None:
    training = saved(fresh(), tmp_path)
    file = tmp_path / "position.json"
    record = json.loads(file.read_text())
    record["position"]["batch"] += 1
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"position.json: this checkpoint is damaged"):
        checkpoint.restore(training, tmp_path, HERE, accept=True)


def test_another_environment_is_asked_about(fresh: Any, tmp_path: Path) -> None:
    training = saved(fresh(), tmp_path)
    there = HERE | {"threads": 4, "device": "cuda"}
    with pytest.raises(UserError) as caught:
        checkpoint.restore(training, tmp_path, there, accept=False)
    assert "threads was 1, is 4; device was None, is cuda" in str(caught.value)
    assert "--accept-changes" in str(caught.value)
    assert "torch" not in str(caught.value).split("(")[1]
    assert checkpoint.restore(training, tmp_path, there, accept=True)


def test_another_model_is_refused(fresh: Any, tmp_path: Path, tiny_model: Tiny) -> None:
    saved(fresh(), tmp_path)
    other = new_training(tiny_encoder(tiny_model("roberta")), [CrossEntropy(), KnowledgeDistillation()])
    with pytest.raises(UserError, match="the checkpoint does not fit this model"):
        checkpoint.restore(other, tmp_path, HERE, accept=False)
    assert other.position.step == 0


def test_what_a_killed_process_left_is_ignored_then_removed(fresh: Any, tmp_path: Path) -> None:
    """Killed between two writes: half files, and whole ones that the position does not name."""
    training = saved(fresh(), tmp_path, 2, improved=True)
    step, before = training.position.step, {n: t.clone() for n, t in checkpoint.tensors_of(training).items()}
    (tmp_path / "state-3-0.safetensors").write_bytes((tmp_path / "state-2-0.safetensors").read_bytes())
    for name in ("best-3.safetensors", "state-9-0.safetensors.partial", "position.json.partial"):
        (tmp_path / name).write_bytes(b"half")
    other = fresh()
    assert checkpoint.restore(other, tmp_path, HERE, accept=False)
    assert other.position.step == step
    assert bit_identical(checkpoint.tensors_of(other), before)
    saved(other, tmp_path, 2)
    assert names(tmp_path) == ["best-2.safetensors", "position.json", f"state-{other.position.step}-1.safetensors"]


def test_tensors_of_a_method_come_back_in_place(tiny_model: Tiny, tmp_path: Path) -> None:
    """A method may hold one of them since its start; one that came later is new, one that is gone is removed."""
    training, other = (new_training(tiny_encoder(tiny_model("bert")), [Mixout(p=0.5)]) for _ in range(2))
    tensors, held = training.stack.states[0].tensors, dict(other.stack.states[0].tensors)
    first, second, *_ = tensors
    tensors[first] += 1.0
    tensors["later"] = torch.ones(2)
    del tensors[second]
    checkpoint.save(training, tmp_path, HERE, True)
    assert checkpoint.restore(other, tmp_path, HERE, accept=False)
    found = other.stack.states[0].tensors
    assert found.keys() == tensors.keys()
    assert found[first] is held[first]
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_blocks_that_share_their_weights(tiny_model: Tiny, tmp_path: Path) -> None:
    """The same block at two places, and ALBERT, whose blocks are one."""
    for family in ("bert", "albert"):
        found = []
        for _ in range(2):
            encoder = tiny_encoder(tiny_model(family))
            if family == "bert":
                blocks = encoder.model.bert.encoder.layer
                blocks[1] = blocks[0]
            found.append(new_training(encoder, [CrossEntropy()]))
        saved(found[0], tmp_path / family, improved=True)
        assert checkpoint.restore(found[1], tmp_path / family, HERE, accept=False)
        assert bit_identical(weights_of(found[0]), weights_of(found[1]))
        checkpoint.restore_best(found[1], tmp_path / family)


def test_small_files_are_replaced_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "one\n")
    with path.open() as reader:
        replace_text(path, "zwölf\n")
        assert reader.read() == "one\n"
    assert path.read_text(encoding="utf-8") == "zwölf\n"
    assert names(tmp_path) == ["a.json"]


def test_restoring_does_not_draw(fresh: Any, tmp_path: Path) -> None:
    training = saved(fresh(), tmp_path)
    state = torch.get_rng_state()
    checkpoint.restore(training, tmp_path, HERE, accept=False)
    assert torch.equal(state, torch.get_rng_state())
