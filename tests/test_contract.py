"""What every method must keep, none excused: one table, one row a method, every promise checked on every row.

A new method joins by one `Row`. The last row is a method of this test alone that uses every seam.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randout import checkpoint, config
from randout.encoder import Output, Want
from randout.errors import UserError
from randout.loop import Material, Session, _backward, held_out, losses_of
from randout.method import Backward, Batch, Forward, Method, Run, State
from randout.methods import METHODS
from randout.methods.attention import AttentionPerturbation
from randout.methods.ce import CrossEntropy
from randout.methods.contrastive import Contrastive
from randout.methods.dropout import DropoutRates
from randout.methods.dropout_distillation import DropoutDistillation
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
from randout.methods.weidc import WeiDC
from randout.recipe import check_together
from training import (
    furthest,
    hooks_of,
    live_teacher,
    same_bits,
    session_of,
    settings,
    some_material,
    tiny_encoder,
    trained,
    validation,
    weights_of,
)

Tiny = Callable[[str], Path]


class Probe(Method):
    """Every seam at work: a loss on hidden states through a projection, an average of weights, a word that is dropped,
    a loss that is scaled, and counters of what was called.
    """

    name = "probe"
    summary = "uses every seam"
    losses = ("probe",)
    weight: float = 0.3
    drop: bool = True
    factor: float = 1.5

    def start(self, run: Run) -> State:
        generator = run.generator("probe", torch.device("cpu"))
        projection = nn.Parameter(torch.randn(32, 4, generator=generator) / 8)
        tensors = {"average": run.model.get_input_embeddings().weight.detach().clone()}
        return State([projection, nn.Parameter(torch.zeros(4))], tensors | {"calls": torch.zeros(3)})

    def inputs(self, run: Run, state: State, batch: Batch) -> Batch:
        if not self.drop:
            return batch
        return replace(batch, ids=[torch.cat([text[:1], text[2:]]) if len(text) > 3 else text for text in batch.ids])

    @contextmanager
    def perturb(self, run: Run, state: State) -> Iterator[None]:
        if self.weight:
            state.tensors["calls"][0] += 1
        yield

    def loss(self, run: Run, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
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

    def gradient(self, run: Run, state: State, inner: Backward) -> Backward:
        def twice(batch: Batch, scale: float = 1.0) -> None:  # two thirds and one third of the same
            for _ in range(2):
                inner(batch, scale)

        return twice if self.factor != 1 else inner

    def stepped(self, run: Run, state: State) -> None:
        if self.weight:
            state.tensors["average"].lerp_(run.model.get_input_embeddings().weight.detach(), 0.1)
            state.tensors["calls"][1] += 1

    def evaluated(self, run: Run, state: State, metrics: dict[str, Any], improved: bool) -> None:
        if self.weight:
            state.tensors["calls"][2] += 1
            state.tensors[f"kept-{int(state.tensors['calls'][2])}"] = state.tensors["average"][:2].clone()


@dataclass(frozen=True)
class Row:
    """A method, how it is used, and the point at which it does nothing.

    beside: the methods it is trained with. neutral: settings at which the training equals the one with `equals` (None:
    there is no such point). tolerance: 0 for bit for bit, else the largest difference of a weight, with dropout off.
    still: settings that turn off dropout of the method's own, for the checks that are made without dropout (its masks
    lie as the layout does).
    """

    method: Method
    beside: tuple[Method, ...] = (CrossEntropy(),)
    neutral: dict[str, Any] | None = None
    equals: tuple[Method, ...] = (CrossEntropy(),)
    tolerance: float = 0.0
    still: dict[str, Any] | None = None

    @property
    def methods(self) -> tuple[Method, ...]:
        return (*self.beside, self.method)

    @property
    def stilled(self) -> tuple[Method, ...]:
        return (*self.beside, type(self.method)(**(self.method.model_dump() | (self.still or {}))))


TABLE = [
    Row(
        CrossEntropy(label_smoothing=0.1, class_weights="balanced"),
        beside=(KnowledgeDistillation(),),
        neutral={"weight": 0.0},
        equals=(KnowledgeDistillation(),),
    ),
    Row(Contrastive(), neutral={"weight": 0.0}),
    Row(Contrastive(form="supervised", weight=0.3), neutral={"weight": 0.0}),
    Row(KnowledgeDistillation(temperature=2.0), neutral={"weight": 0.0}),
    Row(Randout(tokens=8, units=8), neutral={"scale": 0.0}),
    Row(
        Randout(tokens=8, units=8, layers=[0, 2], choose_units="per-token", law="gaussian", special=False, seed=3),
        beside=(CrossEntropy(), KnowledgeDistillation()),
        neutral={"tokens": 0},
        equals=(CrossEntropy(), KnowledgeDistillation()),
    ),
    Row(
        DropoutRates(hidden=0.3, attention=0.2),
        neutral={"hidden": "model", "attention": "model"},
        still={"hidden": 0.0, "attention": 0.0},
    ),
    Row(Mixout(p=0.5), neutral={"p": 0.0}, equals=(CrossEntropy(), DropoutRates(hidden=0.0, attention=0.0))),
    Row(NoisyTune(strength=0.3), neutral={"strength": 0.0}),
    Row(Gaussian(), neutral={"sigma": 0.0}),
    Row(GaussianContrastive(), neutral={"sigma": 0.0, "weight": 0.0}),
    Row(NEFTune(), neutral={"alpha": 0.0}),
    Row(EqualL2(tokens=8, units=8), neutral={"units": 0}),
    Row(Scattered(tokens=8, units=8), neutral={"tokens": 0}),
    Row(EmbeddingAdversarial(), neutral={"epsilon": 0.0, "weight": 0.0}),
    Row(EmbeddingAdversarial(contrast="barlow-twins", weight=0.1), neutral={"epsilon": 0.0, "weight": 0.0}),
    Row(AttentionPerturbation(), neutral={"weight": 0.0}),
    Row(  # a large xi, for the direction of a small one is good to 1e-4 in float32
        AttentionPerturbation(form="virtual", blocks=[1, -1], epsilon=2.0, xi=5.0), neutral={"weight": 0.0}
    ),
    Row(FreeLB(), neutral={"steps": 1, "init": 0.0}),
    Row(
        FreeLB(steps=2, limit=0.0),
        beside=(CrossEntropy(), KnowledgeDistillation(), Randout(tokens=8, units=8)),
        neutral={"steps": 1, "init": 0.0},
        equals=(CrossEntropy(), KnowledgeDistillation(), Randout(tokens=8, units=8)),
    ),
    Row(RDrop(), neutral={"alpha": 0.0}, tolerance=1e-6),
    Row(NoisyDistillation(), neutral={"weight": 0.0, "word_drop": 0.0, "shuffle": 0}),
    Row(MetaDistil(teacher_learning_rate=1e-3), neutral={"weight": 0.0}),
    Row(
        MetaDistil(form="first-order", optimizer="sgd", teacher_learning_rate=10.0, teacher_dropout=True),
        neutral={"weight": 0.0},
    ),
    Row(LayerMatching(), neutral={"hidden": 0.0}),
    Row(
        LayerMatching(attention=0.5, pairs=((1, 2), (3, 4)), normalize=True),
        beside=(CrossEntropy(), KnowledgeDistillation()),
        neutral={"hidden": 0.0, "attention": 0.0},
        equals=(CrossEntropy(), KnowledgeDistillation()),
    ),
    Row(Hinton(alpha=0.7, temperature=3.0), neutral={"alpha": 0.0}),
    Row(HardLabel(), neutral={"alpha": 0.0}),
    Row(MultiTeacher(weights=[1.0, 2.0, 0.5]), neutral={"weight": 0.0}),
    Row(MultiTeacher(average="logits"), neutral={"weight": 0.0}),
    Row(SelfDistillation(window=2), neutral={"weight": 0.0}),
    Row(SelfDistillation(average="ema"), neutral={"weight": 0.0}),
    Row(
        SelfDistillation(form="sdv"),
        beside=(CrossEntropy(), Randout(tokens=8, units=8)),
        neutral={"weight": 0.0},
        equals=(CrossEntropy(), Randout(tokens=8, units=8)),
    ),
    Row(WeiDC(), neutral={"alpha": 0.0}),
    Row(WeiDC(checkpoint="last", weighting="none"), neutral={"alpha": 0.0}),
    Row(DropoutDistillation(passes=2), neutral={"weight": 0.0}, tolerance=1e-6),
    Row(DropoutDistillation(passes=2), beside=(), neutral=None),
    Row(Probe(), neutral={"weight": 0.0, "drop": False, "factor": 1.0}),
]
TRAINED = {"max_grad_norm": 0, "patience": 1}  # nothing is clipped away
rows = pytest.mark.parametrize("row", TABLE, ids=[f"{at}-{row.method.name}" for at, row in enumerate(TABLE)])


def start(folder: Path, methods: Sequence[Method], dropout: bool = True, pack: bool = True, **table: Any) -> Session:
    off = {} if dropout else {"dropout": 0.0, "attention_dropout": 0.0}
    kin = any(getattr(method, "attention", 0) for method in methods)  # compared only between equal tokens
    asked = any(method.teacher == "model" for method in methods)
    teacher = live_teacher(folder, 28, kin=kin, **off) if asked else None
    return session_of(tiny_encoder(folder, pack=pack, **off), methods, teacher, **table)


def run_through(session: Session, events: int | None = None) -> dict[str, Tensor]:
    """The weights after a training on material that has all a method may ask for."""
    trained(session, _material(session), events)
    return weights_of(session)


def test_every_method_has_a_row() -> None:
    assert set(METHODS) <= {row.method.name for row in TABLE}, "a method without a row in the contract table"


@pytest.mark.parametrize("row", [row for row in TABLE if row.method.name in METHODS], ids=str)
def test_settings_survive_toml(row: Row) -> None:
    asked = {"methods": {m.name: m.model_dump(mode="json") for m in row.methods}}
    built = config.build([asked], METHODS)
    read = tomllib.loads(config.to_toml(built))
    assert config.build([read], METHODS) == built
    assert METHODS[row.method.name].model_validate(built.methods[row.method.name]) == row.method
    assert list(built.methods) == [name for name in METHODS if name in built.methods], "in the order of the shelf"


@cache
def without(folder: Path, methods: tuple[Method, ...], dropout: bool) -> dict[str, Tensor]:
    """The weights after a training without the method of a row; many rows share one."""
    return run_through(start(folder, methods, dropout, **TRAINED))


@cache
def whole(folder: Path, methods: tuple[Method, ...]) -> Session:
    """A training with a row's methods after its end, which several promises look at: nobody may change it."""
    session = start(folder, methods, **TRAINED)
    run_through(session)
    return session


@cache
def halted(folder: Path, methods: tuple[Method, ...], saved: Path) -> tuple[Session, dict[int, str]]:
    """The same training within its second epoch, and its position as JSON at every stop, each saved in a folder below
    `saved`: nobody may change it.
    """
    session = start(folder, methods, **TRAINED)
    positions = dict.fromkeys(stops(methods), "")
    for count, event in enumerate(_fit(session, _material(session)), 1):  # into the folder of every stop still ahead
        for stop in positions:
            if count == stop or (count < stop and event.metrics is not None):
                checkpoint.save(session, saved / str(stop), {}, event.improved)
        if count in positions:
            positions[count] = json.dumps(session.position.as_json(), sort_keys=True)
        if count == max(positions):
            break
    return session, positions


def stops(methods: Sequence[Method]) -> tuple[int, ...]:
    """Steps after which a training is stopped: within the first epoch and within the second; for plain cross-entropy and
    methods that look at metrics, at the first epoch's last step and just after its validation too.
    """
    around = any(type(method).evaluated is not Method.evaluated for method in methods) or len(methods) == 1
    return (2, 4, 5, 6) if around else (2, 6)


def _material(session: Session) -> Material:
    """What has all that a method may ask for."""
    return some_material(session.encoder, 28, unlabelled=4, heldout=10)


@pytest.mark.parametrize("row", [row for row in TABLE if row.neutral is not None], ids=str)
def test_neutral_is_the_recipe_without_it(tiny_model: Tiny, row: Row) -> None:
    assert row.neutral is not None
    folder, dropout = tiny_model("bert"), row.tolerance == 0
    neutral = type(row.method)(**(row.method.model_dump() | row.neutral))
    ours = run_through(start(folder, (*row.beside, neutral), dropout, **TRAINED))
    theirs = without(folder, row.equals, dropout)
    if row.tolerance == 0:
        assert same_bits(ours, theirs)
    else:
        assert furthest(ours, theirs) <= row.tolerance
    # With dropout, without which R-Drop's two passes are one:
    off = ours if dropout else run_through(start(folder, (*row.beside, neutral), True, **TRAINED))
    assert furthest(off, weights_of(whole(folder, row.methods))) > 1e-4, "it does nothing"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Path]:
    """row -> the folder of its checkpoints."""
    root = tmp_path_factory.mktemp("saved")
    return lambda row: root / str(TABLE.index(row))


@rows
def test_stopped_and_resumed_is_uninterrupted(tiny_model: Tiny, row: Row, saved: Callable[[Row], Path]) -> None:
    """Weights, optimizer, the method's state, position with best and patience, to the last bit."""
    folder = tiny_model("bert")
    expected = checkpoint._everything(whole(folder, row.methods))
    _, positions = halted(folder, row.methods, saved(row))
    torch.rand(7)  # a generator's state has no say
    for stop, position in positions.items():
        resumed = start(folder, row.methods, **TRAINED)
        assert checkpoint.restore(resumed, saved(row) / str(stop), {}, accept=False)
        assert json.dumps(resumed.position.as_json(), sort_keys=True) == position
        trained(resumed, _material(resumed))
        assert same_bits(checkpoint._everything(resumed), expected), f"stopped after {stop} steps"
        assert _timeless(resumed) == _timeless(whole(folder, row.methods)), f"stopped after {stop} steps"


def test_stops_lie_around_a_validation() -> None:
    """Of plain cross-entropy and of methods that look at metrics; of all others within each epoch."""
    assert stops([CrossEntropy()]) == stops([CrossEntropy(), Probe()]) == stops([CrossEntropy(), WeiDC()])
    assert set(stops([CrossEntropy(), RDrop()])) == {2, 6} < set(stops([CrossEntropy()])) == {2, 4, 5, 6}


def _fit(session: Session, material: Any) -> Any:
    from randout.loop import fit

    return fit(session, material, validation(session, material))


def _timeless(session: Session) -> dict[str, Any]:
    found = session.position.as_json() | {"seconds": 0}
    return found | {"history": [row | {"seconds": 0} for row in found["history"]]}


@rows
def test_model_is_left_as_it_was_found(tiny_model: Tiny, row: Row) -> None:
    """Names and order of its parameters and buffers, and no hook of the method's on any module."""
    session = whole(tiny_model("bert"), row.methods)
    plain = tiny_encoder(tiny_model("bert")).model
    assert [n for n, _ in session.encoder.model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert list(session.encoder.model.state_dict()) == list(plain.state_dict())
    assert hooks_of(session.encoder.model) == hooks_of(plain)
    assert session.run.layout is None
    assert session.run.call == 0


@rows
def test_evaluation_does_not_see_it(tiny_model: Tiny, row: Row, saved: Callable[[Row], Path]) -> None:
    """Metrics during training are those of the same weights in a model that never met the method."""
    from randout.inference import predict

    session, _ = halted(tiny_model("bert"), row.methods, saved(row))
    material = some_material(session.encoder)
    ours = predict(session.encoder, material.tokens, material.labelled, "float32")
    plain = tiny_encoder(tiny_model("bert"))
    plain.model.load_state_dict(session.encoder.model.state_dict())
    assert (ours == predict(plain, material.tokens, material.labelled, "float32")).all()


@rows
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_packed_is_padded(tiny_model: Tiny, row: Row, family: str) -> None:
    """Losses and gradients of a step, noise on and dropout off, in float64."""
    found = []
    for pack in (True, False):
        session = start(tiny_model(family), row.stilled, dropout=False, pack=pack)
        assert session.encoder.packed == pack
        session.encoder.model.double()
        session.states = [_doubled(state) for state in session.states]
        batch = _whole_batch(session)
        for method, state in zip(session.methods, session.states, strict=True):
            batch = method.inputs(session.run, state, batch)
        losses, _ = losses_of(session, batch)
        grads = torch.autograd.grad(sum(losses.values()), list(session.encoder.model.parameters()), allow_unused=True)
        found.append((losses, grads))
    (ours, our_grads), (theirs, their_grads) = found
    for name in theirs:  # losses are computed in float32
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6, check_dtype=False)
    largest = max(float(g.abs().max()) for g in their_grads if g is not None)
    for a, b in zip(our_grads, their_grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).abs().max() < 1e-5 * largest


@pytest.mark.parametrize("row", [r for r in TABLE if type(r.method).gradient is not Method.gradient], ids=str)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_packed_is_padded_where_the_gradient_is_owned(tiny_model: Tiny, row: Row, family: str) -> None:
    """The gradient of a step as the method makes it, noise on and dropout off, in float64."""
    found = []
    for pack in (True, False):
        session = start(tiny_model(family), row.methods, dropout=False, pack=pack)
        session.encoder.model.double()
        session.states = [_doubled(state) for state in session.states]
        backward: Any = partial(_backward, session)
        session.run.heldout = partial(held_out, session, some_material(session.encoder, 28, heldout=10))
        for method, state in zip(session.methods, session.states, strict=True):
            backward = method.gradient(session.run, state, backward)
        backward(_whole_batch(session))
        found.append({name: p.grad for name, p in session.encoder.model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in found[0].values())
    assert furthest(*found) < 1e-5 * largest


def _doubled(state: State) -> State:
    tensors = {name: tensor.double() for name, tensor in state.tensors.items()}
    return State([nn.Parameter(p.detach().double()) for p in state.parameters], tensors, state.optimizers)


def _whole_batch(session: Session) -> Batch:
    from randout.loop import _batch

    material = _material(session)
    order = material.tokens.lengths[:8].argsort(kind="stable")
    session.position.micro_batch = 8
    return _batch(session, material, order, 0)


@cache
def _gradients_of_a_step(folder: Path, methods: tuple[Method, ...], micro_batch: int) -> tuple[Any, Any]:
    session = start(folder, methods, dropout=False, micro_batch=micro_batch, max_grad_norm=0)
    trained(session, _material(session), events=1)
    return {name: p.grad for name, p in session.encoder.model.named_parameters()}, session.position.sums


@rows
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_accumulation_is_the_larger_batch(tiny_model: Tiny, row: Row, micro_batch: int) -> None:
    """The gradient of a step in micro-batches is that of the whole batch (dropout off; draws by text), or the method
    looks at whole steps and they are refused.
    """
    if row.method.whole:
        check_together(row.methods, "auto", 8)
        with pytest.raises(UserError, match=rf"micro_batch: {micro_batch}, but methods.{row.method.name} looks at all"):
            check_together(row.methods, micro_batch, 8)
        return
    whole, losses = _gradients_of_a_step(tiny_model("bert"), row.stilled, 8)
    parts, added = _gradients_of_a_step(tiny_model("bert"), row.stilled, micro_batch)
    scale = max(float(g.abs().max()) for g in whole.values() if g is not None)
    for name, gradient in whole.items():
        assert (gradient - parts[name]).abs().max() < 1e-6 * max(scale, 1.0), name
    for name, (value, count) in losses.items():
        assert added[name] == pytest.approx([value, count], rel=1e-4, abs=1e-6), name


@rows
def test_losses_are_those_it_declares(tiny_model: Tiny, row: Row) -> None:
    session = start(tiny_model("bert"), row.methods)
    state = session.states[-1]
    batch = row.method.inputs(session.run, state, _whole_batch(session))
    from randout.loop import student_forward

    forward = partial(student_forward, session, batch)
    losses = row.method.loss(session.run, state, forward(want=row.method.want(session.run)), batch, forward)
    assert set(losses) == set(row.method.losses)
    assert all(loss.dim() == 0 for loss in losses.values())


def test_every_seam_was_called(tiny_model: Tiny) -> None:
    """Of the probe: forwards (two passes a step, no noise in the second forward of each), steps, validations."""
    session = start(tiny_model("bert"), [CrossEntropy(), Probe()])
    run_through(session)
    state = session.states[1]
    assert state.tensors["calls"].tolist() == [2 * 8, 8, 2]
    assert {"kept-1", "kept-2"} <= state.tensors.keys()
    fresh = Probe().start(start(tiny_model("bert"), []).run)
    assert not torch.equal(fresh.parameters[0], state.parameters[0]), "its parameters are not trained"
    assert state.parameters[1].abs().max() > 0
    assert not torch.equal(fresh.tensors["average"], state.tensors["average"])


def test_two_owners_of_a_loss_are_refused() -> None:
    class Other(CrossEntropy):
        name = "other"

    check_together((CrossEntropy(), KnowledgeDistillation(), Randout()))
    with pytest.raises(UserError, match=r"methods.other: methods.ce owns the loss 'ce' already"):
        check_together((CrossEntropy(), Other()))


def test_two_owners_of_the_gradient_are_refused() -> None:
    class Steering(Method):
        name = "steering"

        def gradient(self, run: Any, state: Any, inner: Any) -> Any:
            return inner

    class Another(Steering):
        name = "another"

    check_together((CrossEntropy(), Steering()))
    with pytest.raises(UserError, match=r"methods.another: methods.steering decides how gradients"):
        check_together((Steering(), Another()))


def test_settings_of_the_table_are_not_the_defaults_of_the_loop() -> None:
    """The trainings above clip nothing away and move: a table that could not fail would prove nothing."""
    assert settings().learning_rate > 1e-3
    assert settings().epochs == 2


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_what_a_comparison_may_tune_are_settings(method: type[Method]) -> None:
    """Values of `space` and `spaces` are taken by the method, each is another setting, and variants are known."""
    assert method.source, "where it is from"
    assert method.cost.endswith("x")
    assert float(method.cost[:-1]) >= 1
    assert set(method.spaces) <= set(method.variants)
    for variant, fixed in {"": {}, **method.variants}.items():
        base = method(**fixed)
        assert not variant or base != method(), f"{variant} is the method itself"
        assert variant not in METHODS
        for name, values in method.spaces.get(variant, method.space).items():
            assert len(values) > 1
            made = [method.model_validate(base.model_dump() | {name: value}) for value in values]
            assert len({str(each) for each in made}) == len(values)
            assert variant or getattr(base, name) in values, f"{name}: its own default is no candidate"


def test_a_live_teacher_reads_its_own_tokens(tiny_model: Tiny) -> None:
    """Its classes come in the student's order, its dropout is off unless asked for, and no gradient reaches it."""
    teacher = live_teacher(tiny_model("bert"), 28)
    session = session_of(tiny_encoder(tiny_model("bert")), [CrossEntropy()], teacher)
    batch = _whole_batch(session)
    ours = teacher.forward(session.run, batch).logits
    texts = [torch.from_numpy(teacher.tokens[int(row)].astype("int64")) for row in batch.rows]
    assert any(not torch.equal(own, other) for own, other in zip(texts, batch.ids, strict=True))
    teacher.encoder.model.eval()
    assert torch.equal(ours, teacher.encoder.forward(texts).logits[:, [2, 0, 1]])
    assert not ours.requires_grad
    noisy = [teacher.forward(session.run, batch, dropout=True, call=call).logits for call in (0, 1, 0)]
    assert torch.equal(noisy[0], noisy[2])
    assert (noisy[0] - noisy[1]).abs().max() > 1e-3
    assert (ours - noisy[0]).abs().max() > 1e-3
