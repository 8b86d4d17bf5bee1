"""The training loop against plain transcriptions, and what it does when something goes wrong."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from randout.core.errors import Failure
from randout.methods.base import Batch, Context, Forward, Method, Pass, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.functional import kl_divergence
from randout.methods.kd import KnowledgeDistillation
from randout.methods.randout import Randout
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.kernels import buffers
from randout.models.tokens import batches
from randout.training import loop
from randout.training.loop import TrainingData, begin, fit, flush, losses_of, micro_batch_of, step_at
from randout.training.schedule import learning_rate
from randout.training.state import Unread
from support.training import (
    bit_identical,
    largest_difference,
    new_training,
    settings,
    tiny_encoder,
    toy_training_data,
    trained,
    validation,
    weights_of,
)

Tiny = Callable[[str], Path]


class Extra(Method):
    """A loss of its own on a parameter of its own."""

    name = "extra"
    summary = "test"
    losses = ("extra",)

    def start(self, context: Context) -> State:
        return State([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))])

    def loss(self, step: Step, state: State, output: Any, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {"extra": sum(p.square().sum() for p in state.parameters)}


def test_decay_is_on_matrices_only(tiny_model: Tiny) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    frozen = encoder.model.get_input_embeddings().weight.requires_grad_(False)
    training = new_training(encoder, [CrossEntropy(), Extra()], weight_decay=0.1, adam_beta1=0.8, adam_epsilon=1e-6)
    groups = training.optimizer.param_groups
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].dim() >= 2 else 0.0)
        assert len({p.dim() >= 2 for p in group["params"]}) == 1
        assert group["betas"] == (0.8, 0.999)
        assert group["eps"] == 1e-6
    ours = {id(p) for group in groups for p in group["params"]}
    expected = {id(p) for p in encoder.model.parameters() if p is not frozen} | {
        id(p) for p in training.stack.states[1].parameters
    }
    assert ours == expected
    assert sum(len(group["params"]) for group in groups) == len(expected)


def plain_training(encoder: Encoder, data: TrainingData, table: Any) -> dict[str, Tensor]:
    """The loop written out with torch's own parts: padded batches, cross-entropy, AdamW."""
    model = encoder.model
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": table.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=table.learning_rate)
    none, lengths, done = np.zeros(0, np.int64), data.tokens.lengths, 0
    total = table.epochs * -(-len(data.labelled) // table.batch_size)
    for epoch in range(table.epochs):
        for rows in batches(lengths, data.labelled, none, table.batch_size, table.seed, epoch, False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(table, done, total)
            texts = [torch.from_numpy(data.tokens[row].astype(np.int64)) for row in rows]
            ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
            logits = model(input_ids=ids, attention_mask=mask).logits
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, data.labels[torch.from_numpy(rows)]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), table.max_grad_norm)
            optimizer.step()
            done += 1
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_loop_is_the_plain_loop(tiny_model: Tiny) -> None:
    """Order, schedule, clipping, AdamW: the weights of a loop written out plainly, dropout off, in float64."""
    table, found = {"max_grad_norm": 0.5, "weight_decay": 0.1, "adam_epsilon": 1e-8}, []
    for plain in (True, False):
        encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
        encoder.model.double()
        data = toy_training_data(encoder, 20, teacher=False)
        if plain:
            found.append(plain_training(encoder, data, settings(**table)))
        else:
            training = new_training(encoder, [CrossEntropy()], **table)
            trained(training, data)
            found.append(weights_of(training))
    assert largest_difference(*found) < 1e-6
    assert largest_difference(found[0], tiny_encoder(tiny_model("bert")).model.state_dict()) > 0.005


@pytest.mark.parametrize("limit", [0.01, 1.0, 1e6, 0.0])
def test_gradients_are_clipped_together(tiny_model: Tiny, limit: float) -> None:
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    training = new_training(encoder, [CrossEntropy(), Extra()], max_grad_norm=limit)
    trained(training, toy_training_data(encoder), events=1)
    parameters = [*encoder.model.parameters(), *training.stack.states[1].parameters]
    after = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item()
    before, _ = training.position.sums["gradient_norm"]
    assert before > 1.0
    assert after == pytest.approx(min(limit or math.inf, before), rel=1e-3)


def scripted(values: list[float]) -> Callable[[], dict[str, Any]]:
    left = iter(values)
    return lambda: {"accuracy": next(left), "log_loss": 1.0, "rows": 3}


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best", "ended"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.9], 2, 4, 2, "no gain in 2 validations"),
        ([0.5, 0.6, 0.6, 0.7, 0.6], 2, 5, 4, "all epochs done"),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0, 5, 1, "all epochs done"),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1, 2, 1, "no gain in 1 validation"),
    ],
)
def test_patience_and_best(
    tiny_model: Tiny, values: list[float], patience: int, epochs: int, best: int, ended: str
) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy()], epochs=5, patience=patience)
    events = list(fit(training, toy_training_data(encoder, 8), scripted(values)))
    position = training.position
    assert (position.epoch, position.best_epoch, position.best, position.ended) == (
        epochs,
        best,
        values[best - 1],
        ended,
    )
    improved = [event.improved for event in events if event.metrics is not None]
    assert [at + 1 for at, gain in enumerate(improved) if gain][-1] == best
    assert len(improved) == epochs
    assert [row["validation_accuracy"] for row in position.history] == values[:epochs]
    assert sum(event.texts for event in events) == 8 * epochs


def test_lower_log_loss_is_better(tiny_model: Tiny) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy()], epochs=3, metric="log_loss")
    values = iter([0.5, 0.4, 0.6])
    list(fit(training, toy_training_data(encoder, 8), lambda: {"accuracy": 0.1, "log_loss": next(values)}))
    assert (training.position.best, training.position.best_epoch) == (0.4, 2)


class Bad(Method):
    """A loss that breaks at one step; `finite`: only its gradient does."""

    name = "bad"
    summary = "test"
    losses = ("bad",)
    at: int = 2
    finite: bool = False

    def loss(self, step: Step, state: State, output: Any, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if step.number != self.at:
            return {"bad": output.logits.sum() * 0.0}
        if self.finite:  # sqrt(0): value 0, slope infinite
            return {"bad": (output.logits - output.logits.detach()).square().sum().sqrt()}
        return {"bad": output.logits.sum() * math.inf}


@pytest.mark.parametrize(
    ("at", "finite", "says"),
    [
        (2, False, r"loss bad is (-?inf|nan) at epoch 1, batch 3\b"),
        (4, False, r"loss bad is (-?inf|nan) at epoch 2, batch 2\b"),
        (2, True, r"gradient norm is (inf|nan) at epoch 1, batch 3\b"),
    ],
)
def test_what_is_not_finite_stops_before_the_weights(tiny_model: Tiny, at: int, finite: bool, says: str) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy(), Bad(at=at, finite=finite)])
    data, before = toy_training_data(encoder), {}

    def train_on() -> None:
        for _ in fit(training, data, validation(training, data)):
            before.update(weights_of(training))

    with pytest.raises(Failure, match=says) as caught:
        train_on()
    assert "The last checkpoint is intact" in str(caught.value)
    assert training.position.step == at
    assert not training.pending
    assert bit_identical(before, weights_of(training))


class Memory:
    """A machine that holds `texts` of a forward pass and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, texts: int) -> None:
        self.sizes: list[int] = []
        forward = Encoder.forward

        def limited(encoder: Encoder, ids: Any, *rest: Any, **named: Any) -> Any:
            if encoder.model.training:
                self.sizes.append(len(ids))
                if len(ids) > texts:
                    raise torch.OutOfMemoryError("simulated")
            return forward(encoder, ids, *rest, **named)

        monkeypatch.setattr(Encoder, "forward", limited)


def test_micro_batch_is_halved_when_memory_runs_out(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training then is, bit for bit, the one that was told the smaller micro-batch."""
    methods, found = [CrossEntropy(), KnowledgeDistillation(), Randout(units=8)], []
    for asked, room in ((2, 99), ("auto", 3)):
        encoder = tiny_encoder(tiny_model("bert"))
        training = new_training(encoder, methods, micro_batch=asked)
        with monkeypatch.context() as patch:
            memory = Memory(patch, room)
            trained(training, toy_training_data(encoder))
        assert training.position.micro_batch == 2
        history = [{k: v for k, v in row.items() if k != "seconds"} for row in training.position.history]
        found.append((weights_of(training), history, memory.sizes))
    assert bit_identical(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert found[1][2] == [8, 4, *found[0][2]], "the failed attempts come first, and once only"


@pytest.mark.parametrize("asked", ["auto", 4])
def test_memory_that_holds_nothing(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy()], micro_batch=asked)
    Memory(monkeypatch, 0)
    at = 1 if asked == "auto" else 4
    with pytest.raises(Failure, match=f"too small for a forward pass of {at} texts?; lower train.micro_batch or"):
        trained(training, toy_training_data(encoder))


def test_losses_and_gradients_are_logged_apart(tiny_model: Tiny) -> None:
    """The ratio is that of the L2 norms of the two gradients at the logits of the step."""
    encoder = tiny_encoder(tiny_model("bert"), dropout=0.0, attention_dropout=0.0)
    methods = [CrossEntropy(), KnowledgeDistillation(weight=0.4, temperature=2.0)]
    training = new_training(encoder, methods, epochs=1, micro_batch=3)
    data = toy_training_data(encoder)
    rows = batches(data.tokens.lengths, data.labelled, data.unlabelled, 8, training.settings.seed, 0, False)[0]
    training.position.micro_batch = 8
    losses, logits = losses_of(training, step_at(training, data, 0), micro_batch_of(training, data, rows, 0))
    norms = [torch.autograd.grad(loss, logits, retain_graph=True)[0].norm().item() for loss in losses.values()]
    training.position.micro_batch = 3
    trained(training, data, events=1)
    sums = training.position.sums
    assert sums["loss_ce"] == pytest.approx([losses["ce"].item(), 1], rel=1e-4)
    assert sums["loss_kd"] == pytest.approx([losses["kd"].item(), 1], rel=1e-4)
    assert sums["gradient_kd_to_ce"] == pytest.approx([norms[1] / norms[0], 1], rel=1e-4)
    trained(training, data)
    assert {"loss_ce", "loss_kd", "gradient_kd_to_ce", "gradient_norm"} <= training.position.history[0].keys()
    assert training.position.history[0]["learning_rate"] == learning_rate(training.settings, 2, 3)


def test_a_row_of_the_history_has_the_losses_of_its_own_epoch(tiny_model: Tiny) -> None:
    def history(every: int) -> list[dict[str, Any]]:
        encoder = tiny_encoder(tiny_model("bert"))
        training = new_training(encoder, [CrossEntropy()], epochs=4, validate_every=every, patience=0)
        trained(training, toy_training_data(encoder))
        return training.position.history

    each, seldom = history(1), history(2)
    assert [row["epoch"] for row in seldom] == [2, 4]
    assert [row["loss_ce"] for row in seldom] == [row["loss_ce"] for row in each[1::2]]
    assert len({row["loss_ce"] for row in each}) == 4


def unread(epoch: int, batch: int, loss: float) -> Unread:
    return Unread(epoch, batch, {0: {"loss_ce": [(torch.tensor(loss), 1.0)]}})


def test_flush_reads_once_and_in_order(tiny_model: Tiny) -> None:
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy()])
    training.pending = [unread(0, 0, 1.0), unread(0, 1, 3.0)]
    flush(training)
    flush(training)
    assert training.position.sums == {"loss_ce": [4.0, 2]}
    training.pending = [unread(1, 4, math.nan), unread(1, 5, math.inf)]
    with pytest.raises(Failure, match="loss ce is nan at epoch 2, batch 5"):
        flush(training)


def test_predictions_come_in_the_order_of_the_rows(tiny_model: Tiny) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    data = toy_training_data(encoder, 40)
    rows = np.random.default_rng(0).permutation(40)[:29]
    seen: list[int] = []
    encoder.model.train()
    found = predict(encoder, data.tokens, rows, "float32", seen.append)
    assert found.dtype == np.float32
    assert sum(seen) == 29
    for at, row in enumerate(rows):
        (one,) = encoder.forward([torch.from_numpy(data.tokens[row].astype(np.int64))]).logits.detach().numpy()
        np.testing.assert_allclose(found[at], one, atol=2e-6)
    assert predict(encoder, data.tokens, rows[:0], "float32").shape == (0, 3)


def test_a_student_learns_the_task(tiny_model: Tiny) -> None:
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy(), Randout(tokens=4, units=2)], epochs=4, batch_size=16)
    data = toy_training_data(encoder, 240, teacher=False)
    trained(training, data)
    held = toy_training_data(encoder, 90, seed=1)
    right = predict(encoder, held.tokens, held.labelled, "float32").argmax(1) == held.labels.numpy()
    assert right.mean() > 0.8, "a third is the largest class"


def test_a_student_moves_towards_its_teacher(tiny_model: Tiny) -> None:
    """Distillation alone, on texts without labels: KL falls, and the student takes up the teacher's decisions."""
    encoder = tiny_encoder(tiny_model("bert"))
    plain = toy_training_data(encoder, 240)
    logits = 4 * nn.functional.one_hot(plain.labels, 3).float() + 0.3 * plain.teacher
    data = TrainingData(plain.tokens, torch.full((240,), -1), plain.unlabelled, plain.labelled, logits)
    training = new_training(encoder, [KnowledgeDistillation(weight=1.0, temperature=2.0)], epochs=4, batch_size=16)

    def distance() -> float:
        student = torch.from_numpy(predict(encoder, plain.tokens, plain.labelled, "float32"))
        return kl_divergence(logits, student, 2.0).item() / 240

    before = distance()
    list(fit(training, data, scripted([0.1] * 4)))
    assert distance() < 0.4 * before
    taught = predict(encoder, plain.tokens, plain.labelled, "float32").argmax(1) == logits.argmax(1).numpy()
    assert taught.mean() > 0.8


def test_seeds_are_told_apart_and_repeat(tiny_model: Tiny) -> None:
    found = []
    for seed in (1, 1, 2):
        encoder = tiny_encoder(tiny_model("bert"))
        training = new_training(encoder, [CrossEntropy()], epochs=1, seed=seed)
        trained(training, toy_training_data(encoder))
        found.append(weights_of(training))
    assert bit_identical(found[0], found[1])
    assert not bit_identical(found[0], found[2])


def test_an_empty_training_starts_no_optimizer_step(tiny_model: Tiny) -> None:
    """Begin alone leaves the weights as they are."""
    encoder = tiny_encoder(tiny_model("bert"))
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    context = Context.of(encoder, 1, 3)
    training = begin(encoder, context, [CrossEntropy(), Extra()], settings(micro_batch=99), "float32")
    assert bit_identical(before, weights_of(training))
    assert training.position.micro_batch == 8


@pytest.mark.parametrize("inside", [False, True])
def test_a_training_is_let_go_of_when_the_next_begins(
    tiny_model: Tiny, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training states refer to themselves; a collector that is held off must not keep one for each trial of a search."""
    monkeypatch.setattr(loop, "frozen_garbage_collector", buffers.frozen_garbage_collector)
    if not inside:  # all tests run with frozen objects (conftest.py)
        gc.unfreeze()
    seen = []
    for _ in range(3):
        encoder = tiny_encoder(tiny_model("bert"))
        training, data = new_training(encoder, [CrossEntropy()]), toy_training_data(encoder)
        seen.append(weakref.ref(training))
        events = fit(training, data, validate=dict)
        next(events)
        assert gc.get_freeze_count() > 0
        events.close()
        assert (gc.get_freeze_count() > 0) == inside
        del encoder, training, data, events
    gc.freeze()  # again, as the other tests have it
    assert all(training() is None for training in seen[:2])


class Losing(Method):
    """Something that goes wrong in a training, at one place of the model."""

    name = "losing"
    summary = "test"
    how: str

    def start(self, context: Context) -> State:
        if self.how == "all frozen":
            context.model.requires_grad_(False)
        return State()

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        part: Any = step.context.hook_points.blocks[1].output  # type: ignore[union-attr]
        undo = []
        if self.how == "detached":
            undo.append(part.dense.register_forward_hook(lambda module, inputs, output: output.detach()).remove)
        elif self.how == "frozen later":
            part.dense.requires_grad_(False)
        elif self.how == "replaced":
            part.dense.weight = nn.Parameter(part.dense.weight.detach().clone())
        yield
        for function in undo:
            function()


@pytest.mark.parametrize("how", ["detached", "frozen later", "replaced"])
def test_a_parameter_that_loses_its_gradient_stops_the_training(tiny_model: Tiny, how: str) -> None:
    training = new_training(tiny_encoder(tiny_model("roberta")), [CrossEntropy(), Losing(how=how)])
    data, before = toy_training_data(training.encoder), weights_of(training)
    lost = "layer.1.intermediate.dense.weight" if how == "detached" else "layer.1.output.dense.weight"
    with pytest.raises(Failure, match=rf"of \d+ trainable parameters of the student \(.*{lost}") as found:
        trained(training, data, events=1)
    said = {
        "detached": "got no gradient",
        "frozen later": "no longer require a gradient",
        "replaced": "were replaced by",
    }
    assert said[how] in str(found.value)
    assert bit_identical(before, weights_of(training)), "the optimizer stepped all the same"


def test_a_frozen_student_is_no_training(tiny_model: Tiny) -> None:
    with pytest.raises(Failure, match="every parameter of the student is frozen"):
        new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy(), Losing(how="all frozen")])


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "mpnet", "deberta-v2", "electra"])
def test_what_the_plain_model_does_not_use_is_no_loss(tiny_model: Tiny, family: str) -> None:
    encoder = tiny_encoder(tiny_model(family))
    encoder.model.base_model.unused = nn.Linear(3, 3)  # as a pooler that the head leaves out
    encoder.model.get_input_embeddings().weight.requires_grad_(False)  # on purpose, before the training
    training = new_training(encoder, [CrossEntropy()], epochs=1)
    trained(training, toy_training_data(encoder), events=2)
    assert training.position.step == 2
    assert not training.watched


def test_the_pull_of_a_loss_is_logged_only_where_it_is_measured(tiny_model: Tiny) -> None:
    """At the logits: a loss that does not see them has no ratio, rather than one of 0."""
    encoder = tiny_encoder(tiny_model("bert"))
    training = new_training(encoder, [CrossEntropy(), KnowledgeDistillation(), Extra()])
    trained(training, toy_training_data(encoder), events=1)
    assert training.position.sums["gradient_kd_to_ce"][0] > 0
    assert "loss_extra" in training.position.sums
    assert "gradient_extra_to_ce" not in training.position.sums
