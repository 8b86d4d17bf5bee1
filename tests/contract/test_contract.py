"""What every method must keep, none excused: one table, one row a method, every promise checked on every row.

The checks are those of `randout.testing`. A new method joins by one `Case`. The last row is a method of this test alone that
uses every hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randout.core.errors import UserError
from randout.methods.attention_noise import AttentionPerturbation
from randout.methods.base import Backward, Batch, Context, Forward, Method, Pass, State, Step
from randout.methods.builtin import METHODS
from randout.methods.compatibility import check_together
from randout.methods.contrastive import Contrastive
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.dropout_distillation import DropoutDistillation
from randout.methods.dropout_rates import DropoutRates
from randout.methods.embedding_adversarial import EmbeddingAdversarial
from randout.methods.equal_l2 import EqualL2
from randout.methods.freelb import FreeLB
from randout.methods.gaussian import Gaussian
from randout.methods.gaussian_contrastive import GaussianContrastive
from randout.methods.hard_label import HardLabel
from randout.methods.hinton import Hinton
from randout.methods.kd import KnowledgeDistillation
from randout.methods.layer_matching import LayerMatching
from randout.methods.metadistil import MetaDistil
from randout.methods.mixout import Mixout
from randout.methods.multi_teacher import MultiTeacher
from randout.methods.neftune import NEFTune
from randout.methods.noisy_distillation import NoisyDistillation
from randout.methods.noisytune import NoisyTune
from randout.methods.r_drop import RDrop
from randout.methods.randout import Randout
from randout.methods.scattered import Scattered
from randout.methods.self_distillation import SelfDistillation
from randout.methods.term_pooling import TermPooling
from randout.methods.term_spans import TermSpans
from randout.methods.weidc import WeiDC
from randout.models.encoder import Output, Want
from randout.testing import CHECKS, Bench, Case
from randout.testing.contract import run_through, stops, whole_batch
from randout.training.loop import step_at
from support.training import (
    live_teacher,
    new_training,
    settings,
    tiny_encoder,
    toy_training_data,
)

Tiny = Callable[[str], Path]


class Probe(Method):
    """Every hook in use: a loss on hidden states through a projection, an average of weights, a word that is dropped,
    a loss that is scaled, and counters of what was called.
    """

    name = "probe"
    summary = "uses every hook"
    losses = ("probe",)
    weight: float = 0.3
    drop: bool = True
    factor: float = 1.5

    def start(self, context: Context) -> State:
        generator = context.generator("probe", torch.device("cpu"))
        projection = nn.Parameter(torch.randn(32, 4, generator=generator) / 8)
        tensors = {"average": context.model.get_input_embeddings().weight.detach().clone()}
        return State([projection, nn.Parameter(torch.zeros(4))], tensors | {"calls": torch.zeros(3)})

    def inputs(self, step: Step, state: State, batch: Batch) -> Batch:
        if not self.drop:
            return batch
        return replace(batch, ids=[torch.cat([text[:1], text[2:]]) if len(text) > 3 else text for text in batch.ids])

    @contextmanager
    def perturb(self, step: Pass, state: State) -> Iterator[None]:
        if self.weight:
            state.tensors["calls"][0] += 1
        yield

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if not self.weight:
            return {}
        again = forward(want=Want((2,)), call=1, dropout=False, perturb=False)
        texts = batch.step_labels.numel()
        hidden = again.hidden[2].flatten(0, -2)
        if hidden.shape[0] != sum(len(text) for text in batch.ids):  # padded: the real tokens only
            real = torch.arange(again.hidden[2].shape[1])[None] < torch.tensor([len(t) for t in batch.ids])[:, None]
            hidden = again.hidden[2][real]
        seen = torch.tanh(hidden @ state.parameters[0] + state.parameters[1])
        return {"probe": self.weight * seen.square().sum() / texts}

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        for _ in range(2 if self.factor != 1 else 1):
            backward(batch)

    def stepped(self, step: Step, state: State) -> None:
        if self.weight:
            state.tensors["average"].lerp_(step.context.model.get_input_embeddings().weight.detach(), 0.1)
            state.tensors["calls"][1] += 1

    def evaluated(self, step: Step, state: State, metrics: dict[str, Any], improved: bool) -> None:
        if self.weight:
            state.tensors["calls"][2] += 1
            state.tensors[f"kept-{int(state.tensors['calls'][2])}"] = state.tensors["average"][:2].clone()


TABLE = [
    Case(
        CrossEntropy(label_smoothing=0.1, class_weights="balanced"),
        trained_with=(KnowledgeDistillation(),),
        neutral={"weight": 0.0},
        equals=(KnowledgeDistillation(),),
    ),
    Case(Contrastive(), neutral={"weight": 0.0}),
    Case(Contrastive(form="supervised", weight=0.3), neutral={"weight": 0.0}),
    Case(TermSpans(terms=("fever", "coach", "s*"), weight=1.0), neutral={"weight": 0.0}),
    Case(TermPooling(terms=("fever", "coach", "s*")), neutral={"weight": 0.0}),
    Case(  # both parts of the preset hmcnet
        TermPooling(terms=("fever", "coach", "s*")),
        trained_with=(CrossEntropy(), TermSpans(terms=("fever", "coach", "s*"), weight=1.0)),
        neutral={"weight": 0.0},
        equals=(CrossEntropy(), TermSpans(terms=("fever", "coach", "s*"), weight=1.0)),
    ),
    Case(KnowledgeDistillation(temperature=2.0), neutral={"weight": 0.0}),
    Case(Randout(tokens=8, units=8), neutral={"scale": 0.0}),
    Case(
        Randout(tokens=8, units=8, layers=[0, 2], choose_units="per-token", law="gaussian", special=False, seed=3),
        trained_with=(CrossEntropy(), KnowledgeDistillation()),
        neutral={"tokens": 0},
        equals=(CrossEntropy(), KnowledgeDistillation()),
    ),
    Case(
        DropoutRates(hidden=0.3, attention=0.2),
        neutral={"hidden": "model", "attention": "model"},
        still={"hidden": 0.0, "attention": 0.0},
    ),
    Case(Mixout(p=0.5), neutral={"p": 0.0}, equals=(CrossEntropy(), DropoutRates(hidden=0.0, attention=0.0))),
    Case(NoisyTune(strength=0.3), neutral={"strength": 0.0}),
    Case(Gaussian(), neutral={"sigma": 0.0}),
    Case(GaussianContrastive(), neutral={"sigma": 0.0, "weight": 0.0}),
    Case(NEFTune(), neutral={"alpha": 0.0}),
    Case(EqualL2(tokens=8, units=8), neutral={"units": 0}),
    Case(Scattered(tokens=8, units=8), neutral={"tokens": 0}),
    Case(EmbeddingAdversarial(), neutral={"epsilon": 0.0, "weight": 0.0}),
    Case(EmbeddingAdversarial(contrast="barlow-twins", weight=0.1), neutral={"epsilon": 0.0, "weight": 0.0}),
    Case(AttentionPerturbation(), neutral={"weight": 0.0}),
    Case(  # a large xi, for the direction of a small one is good to 1e-4 in float32
        AttentionPerturbation(form="virtual", blocks=[1, -1], epsilon=2.0, xi=5.0), neutral={"weight": 0.0}
    ),
    Case(FreeLB(), neutral={"steps": 1, "init": 0.0}),
    Case(
        FreeLB(steps=2, limit=0.0),
        trained_with=(CrossEntropy(), KnowledgeDistillation(), Randout(tokens=8, units=8)),
        neutral={"steps": 1, "init": 0.0},
        equals=(CrossEntropy(), KnowledgeDistillation(), Randout(tokens=8, units=8)),
    ),
    Case(RDrop(), neutral={"alpha": 0.0}, tolerance=1e-6),
    Case(NoisyDistillation(), neutral={"weight": 0.0, "word_drop": 0.0, "shuffle": 0}),
    Case(MetaDistil(teacher_learning_rate=1e-3), neutral={"weight": 0.0}),
    Case(
        MetaDistil(form="first-order", optimizer="sgd", teacher_learning_rate=10.0, teacher_dropout=True),
        neutral={"weight": 0.0},
    ),
    Case(LayerMatching(), neutral={"hidden": 0.0}),
    Case(
        LayerMatching(attention=0.5, pairs=((1, 2), (3, 4)), normalize=True),
        trained_with=(CrossEntropy(), KnowledgeDistillation()),
        neutral={"hidden": 0.0, "attention": 0.0},
        equals=(CrossEntropy(), KnowledgeDistillation()),
    ),
    Case(Hinton(alpha=0.7, temperature=3.0), neutral={"alpha": 0.0}),
    Case(HardLabel(), neutral={"alpha": 0.0}),
    Case(MultiTeacher(weights=[1.0, 2.0, 0.5]), neutral={"weight": 0.0}),
    Case(MultiTeacher(average="logits"), neutral={"weight": 0.0}),
    Case(SelfDistillation(window=2), neutral={"weight": 0.0}),
    Case(SelfDistillation(average="ema"), neutral={"weight": 0.0}),
    Case(
        SelfDistillation(form="sdv"),
        trained_with=(CrossEntropy(), Randout(tokens=8, units=8)),
        neutral={"weight": 0.0},
        equals=(CrossEntropy(), Randout(tokens=8, units=8)),
    ),
    Case(WeiDC(), neutral={"alpha": 0.0}),
    Case(WeiDC(checkpoint="last", weighting="none"), neutral={"alpha": 0.0}),
    Case(DropoutDistillation(passes=2), neutral={"weight": 0.0}, tolerance=1e-6),
    Case(DropoutDistillation(passes=2), trained_with=(), neutral=None),
    Case(Probe(), neutral={"weight": 0.0, "drop": False, "factor": 1.0}),
]
NAMES = [row.method.name for row in TABLE]
# Each of these keeps other things in a training: weights, averages, counters, a gradient of its own, a teacher that learns
WITH_STATE = {"ce", "kd", "randout", "mixout", "freelb", "metadistil", "self-distillation", "weidc", "probe"}
TRAINS = {"neutral", "resume", "model", "evaluation", "accumulation"}  # checks with whole trainings
checks_of_rows = pytest.mark.parametrize(
    ("row", "check"),
    [  # slow: further settings of a method, and whole trainings with methods that are functions of a step
        pytest.param(
            row,
            check,
            id=f"{at}-{name}-{check}",
            marks=[pytest.mark.slow] if name in NAMES[:at] or (check in TRAINS and name not in WITH_STATE) else [],
        )
        for at, (row, name) in enumerate(zip(TABLE, NAMES, strict=True))
        for check in CHECKS
    ],
)


@pytest.fixture(scope="module")
def bench(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), tiny_model)


def test_every_method_has_a_row() -> None:
    assert set(NAMES) >= WITH_STATE
    assert set(CHECKS) >= TRAINS
    assert set(METHODS) <= {row.method.name for row in TABLE}, "a method without a row in the contract table"


@checks_of_rows
def test_it_keeps_the_contract(bench: Bench, row: Case, check: str) -> None:
    CHECKS[check](bench, row)


def test_stops_lie_around_a_validation() -> None:
    """Of plain cross-entropy and of methods that look at metrics; of all others within each epoch."""
    assert stops([CrossEntropy()]) == stops([CrossEntropy(), Probe()]) == stops([CrossEntropy(), WeiDC()])
    assert set(stops([CrossEntropy(), RDrop()])) == {2, 6} < set(stops([CrossEntropy()])) == {2, 4, 5, 6}


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_where_it_is_from(method: type[Method]) -> None:
    assert method.source


def test_every_hook_was_called(bench: Bench) -> None:
    """Of the probe: forwards (two passes a step, no noise in the second forward of each), steps, validations."""
    training = bench.start([CrossEntropy(), Probe()])
    run_through(training)
    state = training.stack.states[1]
    assert state.tensors["calls"].tolist() == [2 * 8, 8, 2]
    assert {"kept-1", "kept-2"} <= state.tensors.keys()
    fresh = Probe().start(bench.start([]).stack.context)
    assert not torch.equal(fresh.parameters[0], state.parameters[0]), "its parameters are not trained"
    assert state.parameters[1].abs().max() > 0
    assert not torch.equal(fresh.tensors["average"], state.tensors["average"])


def test_two_owners_of_a_loss_are_refused() -> None:
    class Other(CrossEntropy):
        name = "other"

    check_together((CrossEntropy(), KnowledgeDistillation(), Randout()))
    with pytest.raises(UserError, match=r"methods.other: methods.ce already has the loss 'ce'"):
        check_together((CrossEntropy(), Other()))


def test_two_owners_of_the_gradient_are_refused() -> None:
    class Steering(Method):
        name = "steering"

        def gradient(self, step: Any, state: Any, batch: Any, backward: Any) -> None:
            backward(batch)

    class Another(Steering):
        name = "another"

    check_together((CrossEntropy(), Steering()))
    with pytest.raises(UserError, match=r"methods.another: methods.steering already computes the gradients"):
        check_together((Steering(), Another()))


def test_settings_of_the_table_are_not_the_defaults_of_the_loop() -> None:
    """The trainings above clip nothing away and move: a table that could not fail would prove nothing."""
    assert settings().learning_rate > 1e-3
    assert settings().epochs == 2


def test_a_live_teacher_reads_its_own_tokens(tiny_model: Tiny) -> None:
    """Its classes come in the student's order, its dropout is off unless asked for, and no gradient reaches it."""
    teacher = live_teacher(tiny_model("bert"), 28)
    training = new_training(tiny_encoder(tiny_model("bert")), [CrossEntropy()], teacher)
    step, batch = step_at(training, toy_training_data(training.encoder), 0), whole_batch(training)
    ours = teacher.forward(step, batch).logits
    texts = [torch.from_numpy(teacher.tokens[int(row)].astype("int64")) for row in batch.rows]
    assert any(not torch.equal(own, other) for own, other in zip(texts, batch.ids, strict=True))
    teacher.encoder.model.eval()
    assert torch.equal(ours, teacher.encoder.forward(texts).logits[:, [2, 0, 1]])
    assert not ours.requires_grad
    noisy = [teacher.forward(step, batch, dropout=True, call=call).logits for call in (0, 1, 0)]
    assert torch.equal(noisy[0], noisy[2])
    assert (noisy[0] - noisy[1]).abs().max() > 1e-3
    assert (ours - noisy[0]).abs().max() > 1e-3
