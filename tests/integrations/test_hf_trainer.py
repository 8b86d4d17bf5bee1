"""Methods in a script of `transformers.Trainer`: the two lines, and what they must leave as the Trainer has it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from randout.core.errors import Failure, UserError
from randout.integrations.hf_trainer import FILE, for_trainer
from randout.methods.base import Method, Pass, State
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.kd import KnowledgeDistillation
from randout.methods.randout import Randout
from support import several
from support.external_loops import Ascent, Mixed, Square, Twice, examples, stock
from support.training import bit_identical, hooks_of, largest_difference

Tiny = Callable[[str], Path]
Weights = dict[str, torch.Tensor]


def trainer_of(
    folder: Path,
    place: Path,
    methods: Sequence[Method] | None,
    dropout: bool = True,
    teacher: bool = False,
    **asked: Any,
) -> Any:
    """A Trainer on 24 toy texts, two epochs of three steps unless told otherwise; `noise` is put on it."""
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    settings |= {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 5}
    settings |= {"dataloader_pin_memory": False, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    settings |= {"remove_unused_columns": False}
    rows, resume_from = examples(folder, 24, teacher), asked.pop("resume_from", None)
    more: dict[str, Any] = {}
    noise = None if methods is None else for_trainer(methods, resume_from=resume_from)
    if noise is not None:
        more = {"callbacks": [noise.callback], "compute_loss_func": noise.loss}
    trainer = Trainer(
        model=stock(folder, dropout),
        args=TrainingArguments(str(place), **(settings | asked)),
        train_dataset=rows,
        eval_dataset=[{k: v for k, v in row.items() if k != "teacher_logits"} for row in rows[:10]],
        data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(folder)),
        **more,
    )
    trainer.noise = noise
    return trainer


def weights_of(trainer: Any) -> Weights:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def trained(*arguments: Any, **asked: Any) -> Weights:
    trainer = trainer_of(*arguments, **asked)
    trainer.train()
    return weights_of(trainer)


def test_without_methods_it_is_the_trainers_own_training(tiny_model: Tiny, tmp_path: Path) -> None:
    """Plain cross-entropy through our loss and hooks, dropout on: the masks are the same, so all but rounding is."""
    ours = trained(tiny_model("bert"), tmp_path, [], num_train_epochs=1)
    theirs = trained(tiny_model("bert"), tmp_path, None, num_train_epochs=1)
    assert largest_difference(ours, theirs) < 1e-6
    assert largest_difference(ours, stock(tiny_model("bert")).state_dict()) > 1e-3


@pytest.mark.parametrize("epochs", [1, 2])
def test_randout_changes_the_training_and_leaves_evaluation_clean(
    tiny_model: Tiny, tmp_path: Path, epochs: int
) -> None:
    folder = tiny_model("bert")
    trainer = trainer_of(folder, tmp_path, [Randout(units=16)], num_train_epochs=epochs, eval_strategy="epoch")
    hooks = hooks_of(trainer.model)
    trainer.train()
    assert hooks_of(trainer.model) == hooks
    assert trainer.noise.attached is None
    plain = trained(folder, tmp_path, None, num_train_epochs=epochs)
    assert largest_difference(weights_of(trainer), plain) > 1e-4
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(rows) == epochs
    clean = trainer_of(folder, tmp_path, None)
    clean.model.load_state_dict(weights_of(trainer))
    assert clean.evaluate()["eval_loss"] == pytest.approx(rows[-1]["eval_loss"], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == rows[-1]["eval_loss"]


def test_evaluation_loss_is_plain_where_the_training_loss_is_not(tiny_model: Tiny, tmp_path: Path) -> None:
    methods = [CrossEntropy(label_smoothing=0.3, weight=5.0), Twice(weight=3.0)]
    trainer = trainer_of(tiny_model("bert"), tmp_path, methods, num_train_epochs=1, eval_strategy="epoch")
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "eval_loss" in row]
    model, rows = trainer.model.eval(), trainer.eval_dataset
    each = [model(input_ids=torch.tensor([r["input_ids"]]), labels=torch.tensor([r["labels"]])).loss for r in rows]
    assert row["eval_loss"] == pytest.approx(float(torch.stack(each).mean().detach()), rel=1e-4)


RESUMED = {
    "randout": [Randout(units=16)],
    "twice": [CrossEntropy(label_smoothing=0.1), Twice(), Randout(units=16)],
    "mixed": [Mixed()],
    "ascent": [Ascent(), Randout()],
}


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_is_uninterrupted(tiny_model: Tiny, tmp_path: Path, name: str, stop: int) -> None:
    """Weights to the last bit, with dropout on, from within the first epoch, its end, and within the second."""
    folder = tiny_model("bert")
    asked: dict[str, Any] = {"save_strategy": "steps", "save_steps": stop, "gradient_accumulation_steps": 2}
    asked |= {"per_device_train_batch_size": 4}
    whole = trained(folder, tmp_path, RESUMED[name], **asked)
    assert (tmp_path / f"checkpoint-{stop}" / FILE).exists()
    torch.rand(3)
    resumed = trainer_of(folder, tmp_path, RESUMED[name], **asked)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert bit_identical(weights_of(resumed), whole)


def test_draws_are_keyed_by_the_trainers_step_and_the_micro_batch(tiny_model: Tiny, tmp_path: Path) -> None:
    """Also where a training goes on from a checkpoint that nothing of ours is in."""
    seen: list[tuple[int, int, int]] = []

    class Keyed(Method):
        name = "keyed"
        summary = "tells what its draws would be keyed by"

        @contextmanager
        def perturb(self, step: Pass, state: State) -> Iterator[None]:
            seen.append((step.number, step.rank, step.call))
            yield

    asked: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}
    trainer_of(tiny_model("bert"), tmp_path, [Keyed()], save_strategy="steps", save_steps=2, **asked).train()
    whole = [(step, rank, 0) for step in range(3) for rank in range(2)]
    assert seen == whole
    (tmp_path / "checkpoint-2" / FILE).unlink()
    resumed = trainer_of(tiny_model("bert"), tmp_path, [Keyed()], **asked)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert seen == [*whole, *whole[4:]]


def test_the_state_of_a_checkpoint_is_found_or_asked_for(tiny_model: Tiny, tmp_path: Path) -> None:
    """A checkpoint that was moved is named; one of another training is not taken for it."""
    folder, asked = tiny_model("bert"), {"save_strategy": "steps", "save_steps": 3}
    whole = trained(folder, tmp_path / "one", [Mixed()], **asked)
    trained(folder, tmp_path / "two", [Mixed()], **(asked | {"learning_rate": 2e-3}))
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "one" / "checkpoint-3", moved)
    other = trainer_of(folder, tmp_path / "two", [Mixed()], **asked)
    with pytest.raises(
        UserError, match=r"methods.mixed: .* from step 3, but randout.safetensors .* resume_from=FOLDER"
    ):
        other.train(resume_from_checkpoint=str(moved))
    told = trainer_of(folder, tmp_path / "two", [Mixed()], resume_from=moved, **asked)
    told.train(resume_from_checkpoint=str(moved))
    assert bit_identical(weights_of(told), whole)
    added = trainer_of(folder, tmp_path / "two", [Randout()], **asked)  # remembers nothing: any checkpoint will do
    added.train(resume_from_checkpoint=str(moved))


@pytest.mark.parametrize("methods", [[], [CrossEntropy(label_smoothing=0.2), Twice(), Square()], [Ascent()]], ids=str)
def test_accumulation_is_the_larger_batch(tiny_model: Tiny, tmp_path: Path, methods: list[Method]) -> None:
    """The gradient of the first step, dropout off: 2 x 4 texts, or 8; and 3 x 3 with a remainder of 2 x 3 + 2."""
    found = []
    for size, times in ((8, 1), (4, 2), (3, 3)):
        trainer = trainer_of(
            tiny_model("bert"),
            tmp_path,
            methods,
            dropout=False,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            optim="sgd",
            max_steps=1,
            learning_rate=1.0,
        )
        before = weights_of(trainer)
        trainer.train_dataset = trainer.train_dataset[:8]
        trainer.train()
        found.append({name: before[name] - tensor for name, tensor in weights_of(trainer).items()})
    largest = max(float(moved.abs().max()) for moved in found[0].values())
    assert largest > 0.01
    assert largest_difference(found[0], found[1]) < 1e-5 * largest
    assert largest_difference(found[0], found[2]) < 1e-5 * largest


def test_the_parts_of_the_loss_are_logged(tiny_model: Tiny, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"num_train_epochs": 1, "logging_steps": 3, "gradient_accumulation_steps": 2}
    trainer = trainer_of(tiny_model("bert"), tmp_path, [Twice()], per_device_train_batch_size=4, **asked)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["loss_ce"] + row["loss_twice"] == pytest.approx(row["loss"], rel=1e-4)
    assert row["loss_twice"] > 0


def test_stored_logits_come_as_a_column(tiny_model: Tiny, tmp_path: Path) -> None:
    folder, kd = tiny_model("bert"), KnowledgeDistillation(weight=2.0)
    asked: dict[str, Any] = {"max_steps": 1, "dropout": False, "eval_strategy": "steps", "eval_steps": 1}
    trainer = trainer_of(folder, tmp_path, [CrossEntropy(weight=0.0), kd], teacher=True, **asked)
    seen: list[Any] = []
    trainer.model.register_forward_hook(
        lambda _m, _a, keywords, output: seen.append((keywords, output)), with_kwargs=True
    )
    start = trainer.noise.loss
    trainer.compute_loss_func = lambda outputs, labels, **more: start(outputs, labels, **more)
    trainer.train()
    assert not any("teacher_logits" in keywords for keywords, _ in seen)
    rows = {tuple(row["input_ids"]): torch.tensor(row["teacher_logits"]) for row in trainer.train_dataset}
    keywords, output = seen[0]
    lengths = keywords["attention_mask"].sum(1)
    own = [tuple(ids[:n].tolist()) for ids, n in zip(keywords["input_ids"], lengths, strict=True)]
    p = torch.stack([rows[ids] for ids in own]).softmax(-1)
    wanted = 2.0 * (p * (p.log() - output.logits.log_softmax(-1))).sum(-1).mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(wanted.detach()), rel=1e-4)
    without = trainer_of(folder, tmp_path, [kd], max_steps=1)
    with pytest.raises(UserError, match=r"methods.kd: .* a column teacher_logits"):
        without.train()


def test_bfloat16_autocast(tiny_model: Tiny, tmp_path: Path) -> None:
    """The second pass runs under the Trainer's own autocast."""
    ours = trained(tiny_model("bert"), tmp_path, [Twice(), Randout()], bf16=True, max_steps=2)
    full = trained(tiny_model("bert"), tmp_path, [Twice(), Randout()], max_steps=2)
    assert 1e-6 < largest_difference(ours, full) < 0.1


def test_half_of_the_two_lines_is_noticed(tiny_model: Tiny, tmp_path: Path) -> None:
    from transformers import Trainer

    whole = trainer_of(tiny_model("bert"), tmp_path, [Twice()], max_steps=1)
    parts = {"args": whole.args, "train_dataset": whole.train_dataset, "data_collator": whole.data_collator}
    loss_only = Trainer(stock(tiny_model("bert")), compute_loss_func=for_trainer([Twice()]).loss, **parts)
    with pytest.raises(UserError, match=r"callbacks=\[noise.callback\]"):
        loss_only.train()
    callback_only = Trainer(stock(tiny_model("bert")), callbacks=[for_trainer([Twice()]).callback], **parts)
    with pytest.raises(UserError, match=r"methods.twice: compute_loss_func=noise.loss"):
        callback_only.train()
    noise = for_trainer([Randout()])
    Trainer(stock(tiny_model("bert")), callbacks=[noise.callback], **parts).train()  # noise alone needs no loss


def test_settings_that_would_be_wrong_in_silence_are_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    class Whole(Twice):
        needs_full_batch = True

    folder = tiny_model("bert")
    refused: list[tuple[list[Method], dict[str, Any], str]] = [
        ([Randout()], {"label_smoothing_factor": 0.1}, r"CrossEntropy\(label_smoothing=0.1\)"),
        ([Whole()], {"gradient_accumulation_steps": 2}, r"methods.twice: .* gradient_accumulation_steps = 1"),
    ]
    for methods, asked, message in refused:
        trainer = trainer_of(folder, tmp_path, methods, **asked)
        with pytest.raises(UserError, match=message):
            trainer.train()
        assert hooks_of(trainer.model) == 0
    trainer = trainer_of(folder, tmp_path, [Ascent()])
    trainer.args.fp16 = True  # as on a GPU
    with pytest.raises(UserError, match=r"methods.ascent: fp16 scales gradients"):
        trainer.train()
    trainer = trainer_of(folder, tmp_path, [CrossEntropy(class_weights="balanced")])
    with pytest.raises(UserError, match="balanced"):
        trainer.train()


def test_texts_without_labels(tiny_model: Tiny, tmp_path: Path) -> None:
    """They count for distillation in a step of one batch; in several their number is not known."""
    kd = [KnowledgeDistillation()]
    for times in (1, 2):
        trainer = trainer_of(tiny_model("bert"), tmp_path, kd, teacher=True, gradient_accumulation_steps=times)
        for row in trainer.train_dataset[::2]:
            row["labels"] = -100
        if times == 1:
            trainer.train()
        else:
            with pytest.raises(UserError, match="texts without a label cannot be combined with gradient accumulation"):
                trainer.train()


def test_a_training_that_failed_can_be_left(tiny_model: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model("bert"), tmp_path, [KnowledgeDistillation()], max_steps=1)
    with pytest.raises(UserError):
        trainer.train()
    assert hooks_of(trainer.model) > 0
    trainer.noise.detach()
    assert hooks_of(trainer.model) == 0


def test_a_parameter_that_loses_its_gradient_stops_the_training(tiny_model: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model("bert"), tmp_path, [], num_train_epochs=1)
    dense, calls = trainer.model.bert.encoder.layer[0].output.dense, []

    def detached_once(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output.detach() if len(calls) == 1 else output

    dense.register_forward_hook(detached_once)
    with pytest.raises(Failure, match=r"layer\.0\.intermediate\.dense\.weight.* got no gradient in the first step"):
        trainer.train()
    trainer.noise.detach()


SHARED: dict[str, list[Method]] = {  # trained by two processes, or in two micro-batches by one
    "clean": [CrossEntropy()],
    "noise and a second pass": [CrossEntropy(label_smoothing=0.1), Twice(), Randout(units=16)],
    "distilled": [CrossEntropy(), KnowledgeDistillation()],
}


def train_shared(folder: Path, place: Path, name: str, teacher: bool, **asked: Any) -> Any:
    """Train without dropout, whose masks in an external loop are the process's own; returns the Trainer."""
    asked |= {"per_device_train_batch_size": 4, "average_tokens_across_devices": True}
    trainer = trainer_of(folder, place, SHARED[name], dropout=False, teacher=teacher, **asked)
    trainer.train()
    return trainer


def train_in_two(folder: Path, out: Path) -> None:
    """What each of two processes does."""
    rank = os.environ["RANK"]
    for name in SHARED:
        trainer = train_shared(folder, out / "trainer", name, name == "distilled", ddp_backend="gloo")
        assert trainer.args.world_size == 2
        save_file(weights_of(trainer), out / f"{name} {rank}.safetensors")
        (out / f"{name} {rank}.json").write_text(json.dumps(trainer.state.log_history))


def test_two_processes_train_as_one_that_accumulates(tiny_model: Tiny, tmp_path: Path) -> None:
    """Weights to the last bit, and the logged parts of the loss, whose sum is the Trainer's own loss."""
    folder = tiny_model("bert")
    several.run(train_in_two, folder, tmp_path)
    for name in SHARED:
        one = train_shared(folder, tmp_path / "one", name, name == "distilled", gradient_accumulation_steps=2)
        for rank in range(2):
            assert bit_identical(load_file(tmp_path / f"{name} {rank}.safetensors"), weights_of(one)), name
        logged = [row for row in json.loads((tmp_path / f"{name} 0.json").read_text()) if "loss" in row]
        expected = [row for row in one.state.log_history if "loss" in row]
        assert len(logged) == len(expected) == 6
        for row, other in zip(logged, expected, strict=True):
            parts = [key for key in row if key == "loss" or key.startswith("loss_")]
            assert {key: row[key] for key in parts} == pytest.approx({key: other[key] for key in parts}, rel=1e-4)
