"""A step in parts: the same bits in one process and in several, which exchange gradients over gloo."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from randout.core.launch import launched
from randout.methods.base import Batch, Context, Forward, Method, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.freelb import FreeLB
from randout.methods.kd import KnowledgeDistillation
from randout.methods.mixout import Mixout
from randout.methods.r_drop import RDrop
from randout.methods.randout import Randout
from randout.methods.self_distillation import SelfDistillation
from randout.models.tokens import truncate
from randout.training import checkpoint
from randout.training.processes import Processes
from randout.training.state import TrainingData, TrainingState
from randout.training.step_parts import divide
from support import several
from support.training import (
    bit_identical,
    new_training,
    tiny_encoder,
    toy_training_data,
    trained,
    weights_of,
)

Tiny = Callable[[str], Path]


class Projected(Method):
    """A loss with a parameter of its own, and a frozen embedding."""

    name = "projected"
    summary = "test"
    losses = ("projected",)

    def start(self, context: Context) -> State:
        context.model.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
        return State([nn.Parameter(torch.ones(3))])

    def loss(self, step: Step, state: State, output: Any, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"projected": (output.logits @ state.parameters[0]).square().sum() / batch.step_labels.numel()}


CASES: dict[str, tuple[str, list[Method], dict[str, Any]]] = {  # family, methods, settings
    "several passes and noise": ("bert", [RDrop(), CrossEntropy(), KnowledgeDistillation(), Randout()], {}),
    "a gradient of its own": ("roberta", [CrossEntropy(), FreeLB()], {}),
    "weights used by all blocks": ("albert", [CrossEntropy()], {}),
    "padding, dense gradients": ("mpnet", [CrossEntropy(), Mixout()], {}),
    "micro-batches": ("bert", [CrossEntropy()], {"micro_batch": 2}),
    "a state": ("bert", [CrossEntropy(), SelfDistillation()], {}),
    "parameters of a method": ("bert", [CrossEntropy(), Projected()], {}),
}
COUNTS = {2: ((2, [*CASES]), (3, ["several passes and noise"])), 3: ((2, ["micro-batches"]), (3, ["micro-batches"]))}


def begun(folders: dict[str, Path], case: str, parts: int) -> tuple[TrainingState, TrainingData]:
    family, methods, changes = CASES[case]
    encoder = tiny_encoder(folders[family])
    return new_training(encoder, methods, batch_parts=parts, **changes), toy_training_data(encoder, 21)


def result(training: TrainingState, data: TrainingData) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train; returns all tensors of the state, and the history without times."""
    trained(training, data)
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in training.position.history]
    return {name: tensor.clone() for name, tensor in checkpoint.tensors_of(training).items()}, history


def train_all(folders: dict[str, Path], out: Path) -> None:
    """What each process does: every case, one after the other."""
    launch = launched()
    assert launch is not None
    processes = Processes(launch)
    processes.meet()
    for parts, cases in COUNTS[launch.size]:
        for case in cases:
            training, data = begun(folders, case, parts)
            training.processes = processes
            tensors, history = result(training, data)
            file = out / f"{case} {parts} {launch.rank}"
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, f"{file}.safetensors")
            Path(f"{file}.json").write_text(json.dumps(history))
    processes.leave()


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_train_as_one_that_adds_up_the_parts(size: int, tiny_model: Tiny, tmp_path: Path) -> None:
    """Dropout and noise are on: a part's draws do not depend on the process. More processes than parts: some wait."""
    folders = {family: tiny_model(family) for family, _, _ in CASES.values()}
    several.run(train_all, folders, tmp_path, size=size)
    for parts, cases in COUNTS[size]:
        for case in cases:
            tensors, history = result(*begun(folders, case, parts))
            for rank in range(size):
                file = tmp_path / f"{case} {parts} {rank}"
                assert bit_identical(load_file(f"{file}.safetensors"), tensors), (case, parts, rank)
                assert json.loads(Path(f"{file}.json").read_text()) == history, (case, parts, rank)


def test_parts_are_micro_batches(tiny_model: Tiny) -> None:
    """With cuts at the same texts, the bits are those of accumulated micro-batches."""

    def weights(**changes: Any) -> dict[str, Tensor]:
        encoder = tiny_encoder(tiny_model("bert"))
        data = toy_training_data(encoder)
        data = replace(data, tokens=truncate(data.tokens, 5, "head", 1))
        assert set(data.tokens.lengths) == {5}
        training = new_training(encoder, [CrossEntropy(), KnowledgeDistillation(), Randout()], **changes)
        trained(training, data)
        return weights_of(training)

    assert bit_identical(weights(batch_parts=2), weights(micro_batch=4))
    assert not bit_identical(weights(batch_parts=2), weights(micro_batch=8))


def test_the_loss_is_that_of_the_whole_step(tiny_model: Tiny) -> None:
    def losses(parts: int) -> list[float]:
        encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
        training = new_training(encoder, [CrossEntropy(), KnowledgeDistillation()], batch_parts=parts)
        trained(training, toy_training_data(encoder, unlabelled=5))
        return [row[name] for row in training.position.history for name in ("loss_ce", "loss_kd", "gradient_norm")]

    assert losses(3) == pytest.approx(losses(1), rel=1e-4)


@pytest.mark.parametrize(
    ("lengths", "parts", "spans"),
    [
        ([4, 4, 4, 4], 2, [(0, 2), (2, 4)]),
        ([1, 1, 1, 1, 1, 5], 2, [(0, 5), (5, 6)]),
        ([1, 2, 30], 2, [(0, 2), (2, 3)]),
        ([30, 30], 2, [(0, 1), (1, 2)]),
        ([2, 2, 2, 90], 3, [(0, 2), (2, 3), (3, 4)]),
        ([7], 3, [(0, 1), (1, 1), (1, 1)]),
    ],
)
def test_parts_have_about_as_many_tokens(lengths: list[int], parts: int, spans: list[tuple[int, int]]) -> None:
    assert divide(np.array(lengths), parts) == spans


def test_no_part_is_empty_and_none_much_longer() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        lengths, parts = np.sort(draw.integers(2, 60, draw.integers(2, 40))), int(draw.integers(1, 6))
        spans = divide(lengths, parts)
        assert [first for first, _ in spans] == [0, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == len(lengths)
        if len(lengths) >= parts:
            assert all(first < end for first, end in spans)
            longest = max(lengths[first:end].sum() for first, end in spans)
            assert longest <= lengths.sum() / parts + lengths.max()
