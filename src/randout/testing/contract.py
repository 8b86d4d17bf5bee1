"""The contract of a method: promises that hold for every method, each checked with small trainings.

A `Case` is a method with the settings at which it is checked. A `Bench` holds tiny encoders and the trainings that several
checks share. Each check raises `ContractError` with what was found and its usual cause.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import shutil
import tempfile
import tomllib
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randout.core import config
from randout.core.errors import UserError
from randout.methods.base import Batch, Method, State, overrides
from randout.methods.builtin import METHODS
from randout.methods.compatibility import check_together
from randout.methods.cross_entropy import CrossEntropy
from randout.models.inference import predict
from randout.training import checkpoint
from randout.training.loop import backward, fit, losses_of, micro_batch_of, step_at
from randout.training.state import Event, TrainingData, TrainingState

from .models import build
from .training import (
    bit_identical,
    hooks_of,
    largest_difference,
    live_teacher,
    new_training,
    tiny_encoder,
    toy_training_data,
    trained,
    validation,
    weights_of,
)

__all__ = ["CHECKS", "FAMILIES", "Bench", "Case", "ContractError", "check_method"]

FAMILIES = ("bert", "roberta", "distilbert")  # model families in which packed and padded batches are compared
TRAINED: dict[str, Any] = {"max_grad_norm": 0, "patience": 1}  # without gradient clipping
BATCH = 8  # texts of a step
Models = Callable[[str], Path]


class ContractError(AssertionError):
    """A method breaks a promise of the contract."""


@dataclass(frozen=True)
class Case:
    """A method, how it is used, and the settings at which it has no effect.

    trained_with: methods that are trained together with it. neutral: settings at which the training equals the one with `equals`
    (None: there are no such settings). equals: None for `trained_with`. tolerance: 0 for bit-identical weights, otherwise the
    largest allowed difference of a weight, with dropout off. still: settings that turn off the method's own dropout, for
    checks without dropout (its masks depend on the layout).
    """

    method: Method
    trained_with: tuple[Method, ...] = (CrossEntropy(),)
    neutral: Mapping[str, Any] | None = None
    equals: tuple[Method, ...] | None = None
    tolerance: float = 0.0
    still: Mapping[str, Any] | None = None

    @property
    def methods(self) -> tuple[Method, ...]:
        """All methods of the training; the checked method is the last."""
        return (*self.trained_with, self.method)

    @property
    def stilled(self) -> tuple[Method, ...]:
        """As `methods`, without the method's own dropout."""
        return (*self.trained_with, self.changed(self.still or {}))

    @property
    def without(self) -> tuple[Method, ...]:
        """Methods of the training that equals the one at the neutral settings."""
        return self.trained_with if self.equals is None else self.equals

    def changed(self, settings: Mapping[str, Any]) -> Method:
        """The method with other settings."""
        return type(self.method)(**(self.method.model_dump() | dict(settings)))


class Bench:
    """Tiny encoders, and trainings on them that several checks share; each is made once.

    root: folder for checkpoints. models: family -> folder of its tiny encoder; None: they are built in `root`.
    """

    def __init__(self, root: Path, models: Models | None = None) -> None:
        self.root = root
        self.models = models or cache(lambda family: build(family, root / "models" / family))
        self._without: dict[str, dict[str, Tensor]] = {}
        self._whole: dict[str, TrainingState] = {}
        self._interrupted: dict[str, tuple[TrainingState, dict[int, str]]] = {}
        self._gradients: dict[str, tuple[dict[str, Tensor | None], Any]] = {}

    def start(
        self, methods: Sequence[Method], dropout: bool = True, pack: bool = True, family: str = "bert", **table: Any
    ) -> TrainingState:
        """Make a training of a tiny encoder, at position zero. table: as for `training.settings`."""
        folder = self.models(family)
        off: dict[str, Any] = {} if dropout else {"dropout": 0.0, "attention_dropout": 0.0}
        same_tokens = any(getattr(method, "attention", 0) for method in methods)  # compared only between equal tokens
        asked = any(method.teacher == "model" for method in methods)
        teacher = live_teacher(folder, 28, same_family=same_tokens, **off) if asked else None
        return new_training(tiny_encoder(folder, pack=pack, **off), methods, teacher, **table)

    def without(self, methods: Sequence[Method], dropout: bool) -> dict[str, Tensor]:
        """Weights after a training without the checked method, shared by many cases."""
        key = f"{dropout} {_key(methods)}"
        if key not in self._without:
            self._without[key] = run_through(self.start(methods, dropout, **TRAINED))
        return self._without[key]

    def whole(self, methods: Sequence[Method]) -> TrainingState:
        """A finished training, shared by several checks, which must not change it."""
        key = _key(methods)
        if key not in self._whole:
            training = self.start(methods, **TRAINED)
            run_through(training)
            self._whole[key] = training
        return self._whole[key]

    def interrupted(self, methods: Sequence[Method]) -> tuple[TrainingState, dict[int, str]]:
        """The same training in its second epoch, and its position as JSON at every stop; a checkpoint of each stop is in a
        folder of `saved`. Shared by several checks, which must not change it.
        """
        key = _key(methods)
        if key not in self._interrupted:
            training = self.start(methods, **TRAINED)
            positions = dict.fromkeys(stops(methods), "")
            for count, event in enumerate(_fit(training, training_data_of(training)), 1):
                for stop in positions:  # to the folder of every later stop
                    if count == stop or (count < stop and event.metrics is not None):
                        checkpoint.save(training, self.saved(methods) / str(stop), {}, event.improved)
                if count in positions:
                    positions[count] = json.dumps(training.position.as_json(), sort_keys=True)
                if count == max(positions):
                    break
            self._interrupted[key] = training, positions
        return self._interrupted[key]

    def saved(self, methods: Sequence[Method]) -> Path:
        """Folder of the checkpoints of `interrupted`, one per stop."""
        return self.root / "saved" / hashlib.sha256(_key(methods).encode()).hexdigest()[:16]

    def gradients(self, methods: Sequence[Method], micro_batch: int) -> tuple[dict[str, Tensor | None], Any]:
        """Gradients and losses of the first step, with dropout off."""
        key = f"{micro_batch} {_key(methods)}"
        if key not in self._gradients:
            training = self.start(methods, dropout=False, micro_batch=micro_batch, max_grad_norm=0)
            trained(training, training_data_of(training), events=1)
            found = {name: p.grad for name, p in training.encoder.model.named_parameters()}
            self._gradients[key] = found, training.position.sums
        return self._gradients[key]


def stops(methods: Sequence[Method]) -> tuple[int, ...]:
    """Steps after which a training is stopped: in the first and in the second epoch; for plain cross-entropy and methods
    that use validation metrics, also at the last step of the first epoch and right after its validation.
    """
    around = any(overrides(method, "evaluated") for method in methods) or len(methods) == 1
    return (2, 4, 5, 6) if around else (2, 6)


def training_data_of(training: TrainingState) -> TrainingData:
    """TrainingData with everything that a method may need."""
    return toy_training_data(training.encoder, 28, unlabelled=4, heldout=10)


def run_through(training: TrainingState) -> dict[str, Tensor]:
    """Train to the end on `training_data_of` the training; returns the weights."""
    trained(training, training_data_of(training))
    return weights_of(training)


def whole_batch(training: TrainingState) -> Batch:
    """A step of 8 texts as one micro-batch."""
    data = training_data_of(training)
    order = data.tokens.lengths[:BATCH].argsort(kind="stable")
    training.position.micro_batch = BATCH
    return micro_batch_of(training, data, order, 0)


def check_toml(bench: Bench, case: Case) -> None:
    """Check that settings are unchanged after a recipe is written as TOML and read again."""
    kinds = ChainMap({case.method.name: type(case.method)}, METHODS)  # type: ignore[arg-type]
    asked = {"methods": {method.name: method.model_dump(mode="json") for method in case.methods}}
    try:
        built = config.build([asked], kinds)
        read = tomllib.loads(config.to_toml(built))
        again = config.build([read], kinds)
    except (UserError, TypeError, ValueError) as error:
        raise ContractError(f"its settings cannot be written as TOML and read again: {error}") from error
    if again != built:
        raise ContractError(
            f"its settings change when written as TOML and read again: {built.methods} became {again.methods}"
        )
    back = type(case.method).model_validate(built.methods[case.method.name])
    if back != case.method:
        raise ContractError(f"its settings change in a recipe: {case.method!r} became {back!r}")
    if list(built.methods) != [name for name in kinds if name in built.methods]:
        raise ContractError(f"methods of a recipe are not in the order of the registry: {list(built.methods)}")


def check_declarations(bench: Bench, case: Case) -> None:
    """Check that class attributes are valid, values of `space` and `spaces` are distinct settings, and variants differ from
    the method itself.
    """
    kind = type(case.method)
    try:
        if kind.name not in METHODS.built_in:
            METHODS.check(kind, "declarations")
        for variant, fixed in {"": {}, **kind.variants}.items():
            base = kind(**fixed)
            if variant and base == kind():
                raise ContractError(f"variants: {variant!r} has the settings of the method itself")
            for name, values in kind.spaces.get(variant, kind.space).items():
                made = [kind(**(base.model_dump() | {name: value})) for value in values]
                if len(values) < 2 or len({str(each) for each in made}) < len(values):
                    raise ContractError(
                        f"space of {variant or kind.name}: {name} needs two or more different values: {values}"
                    )
                if not variant and getattr(base, name) not in values:
                    raise ContractError(
                        f"space: the default {name} = {getattr(base, name)!r} is not among the values {values}, so a "
                        "search could not keep it"
                    )
    except UserError as error:
        raise ContractError(str(error)) from None
    if float(kind.cost[:-1]) < 1:
        raise ContractError(f"cost: found {kind.cost}; a training step costs at least 1x")


def check_neutral(bench: Bench, case: Case) -> None:
    """Check that neutral settings give bit-identical weights to a training without the method, and its own settings do not."""
    if case.neutral is None:
        return
    dropout = case.tolerance == 0
    methods = (*case.trained_with, case.changed(case.neutral))
    ours = run_through(bench.start(methods, dropout, **TRAINED))
    theirs = bench.without(case.without, dropout)
    if case.tolerance == 0 and not bit_identical(ours, theirs):
        raise ContractError(
            f"at {dict(case.neutral)} the weights are not bit-identical to those of a training without it (a weight differs "
            f"by {largest_difference(ours, theirs):.1e}). Usual causes: random numbers that are not from step.generator, or a "
            "change to the model in start()"
        )
    if case.tolerance and largest_difference(ours, theirs) > case.tolerance:
        raise ContractError(
            f"at {dict(case.neutral)} a weight differs by {largest_difference(ours, theirs):.1e} from the training without it; "
            f"expected at most {case.tolerance:.1e}"
        )
    # With dropout, because without it two passes over a batch are equal
    off = ours if dropout else run_through(bench.start(methods, True, **TRAINED))
    if largest_difference(off, weights_of(bench.whole(case.methods))) <= 1e-4:
        raise ContractError(f"it has no effect: {case.method!r} trains the same weights as {dict(case.neutral)}")


def check_resume(bench: Bench, case: Case) -> None:
    """Check that a stopped and resumed training is bit-identical to an uninterrupted one: weights, optimizer, the method's
    state and the position.
    """
    expected = checkpoint.tensors_of(bench.whole(case.methods))
    _, positions = bench.interrupted(case.methods)
    torch.rand(7)  # the state of torch's generator must have no effect
    for stop, position in positions.items():
        resumed = bench.start(case.methods, **TRAINED)
        if not checkpoint.restore(resumed, bench.saved(case.methods) / str(stop), {}, accept=False):
            raise ContractError(f"stopped after {stop} steps: there is no checkpoint")
        if json.dumps(resumed.position.as_json(), sort_keys=True) != position:
            raise ContractError(f"stopped after {stop} steps: the position differs after restoring")
        trained(resumed, training_data_of(resumed))
        found = checkpoint.tensors_of(resumed)
        if not bit_identical(found, expected):
            other = sorted(expected.keys() ^ found.keys()) or [
                name for name in expected if not torch.equal(found[name], expected[name])
            ]
            raise ContractError(
                f"stopped after {stop} steps and resumed, {len(other)} tensors differ from the uninterrupted training "
                f"({', '.join(other[:3])}). Random numbers must come from step.generator, and everything that changes in "
                "training must be in State"
            )
        if _without_seconds(resumed) != _without_seconds(bench.whole(case.methods)):
            raise ContractError(f"stopped after {stop} steps and resumed, the history differs")


def check_model(bench: Bench, case: Case) -> None:
    """Check that the model's parameters and buffers keep their names and order, and that no hook is left on any module."""
    training = bench.whole(case.methods)
    model, plain = training.encoder.model, tiny_encoder(bench.models("bert")).model
    for what, ours, theirs in (
        ("parameters", [n for n, _ in model.named_parameters()], [n for n, _ in plain.named_parameters()]),
        ("tensors", list(model.state_dict()), list(plain.state_dict())),
    ):
        if ours != theirs:
            change = sorted(set(ours) ^ set(theirs)) or "their order"
            raise ContractError(
                f"the model's {what} changed: {change}. Parameters and tensors of a method belong in State"
            )
    if hooks_of(model) != hooks_of(plain):
        raise ContractError(
            f"{hooks_of(model) - hooks_of(plain)} hooks are left on the model; remove them where perturb() ends"
        )


def check_evaluation(bench: Bench, case: Case) -> None:
    """Check that predictions during training equal those of the same weights in a model without the method."""
    training, _ = bench.interrupted(case.methods)
    data = toy_training_data(training.encoder)
    ours = predict(training.encoder, data.tokens, data.labelled, "float32")
    plain = tiny_encoder(bench.models("bert"))
    plain.model.load_state_dict(training.encoder.model.state_dict())
    theirs = predict(plain, data.tokens, data.labelled, "float32")
    if not (ours == theirs).all():
        raise ContractError(
            f"it acts in evaluation too: logits differ by {abs(ours - theirs).max():.1e}. Hooks belong in perturb(), "
            "which is only open in training forward passes"
        )


def check_packed(bench: Bench, case: Case) -> None:
    """Check that losses and gradients of a step are equal in packed and padded batches: noise on, dropout off, float64."""
    for family in FAMILIES:
        found = []
        for pack in (True, False):
            training = bench.start(case.stilled, dropout=False, pack=pack, family=family)
            if training.encoder.packed != pack:
                raise ContractError(f"{family}: the tiny encoder is not {'packed' if pack else 'padded'}")
            _in_float64(training)
            step, batch = step_at(training, training_data_of(training), 0), whole_batch(training)
            losses, _ = losses_of(training, step, training.stack.inputs(step, batch))
            parameters = dict(training.encoder.model.named_parameters())
            total = torch.stack([loss.double() for loss in losses.values()]).sum()
            grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            seen = {name: float(loss.detach()) for name, loss in losses.items()}
            found.append((seen, dict(zip(parameters, grads, strict=True))))
        (ours, our_grads), (theirs, their_grads) = found
        for name, loss in theirs.items():  # losses are computed in float32
            if not abs(ours[name] - loss) <= 1e-6 + 1e-6 * abs(loss):
                raise ContractError(
                    f"{family}: the loss {name!r} is {ours[name]:.8f} in a packed batch and {loss:.8f} in "
                    "a padded one. Usual cause: it reads padding. Packed hidden states are (tokens, width): use step.layout"
                )
        _compare_gradients(our_grads, their_grads, 1e-5, f"{family}, packed and padded")


def check_packed_gradient(bench: Bench, case: Case) -> None:
    """As `check_packed`, for a gradient that the method computes itself."""
    if not overrides(case.method, "gradient"):
        return
    for family in FAMILIES:
        found: list[dict[str, Tensor | None]] = []
        for pack in (True, False):
            training = bench.start(case.methods, dropout=False, pack=pack, family=family)
            _in_float64(training)
            step = step_at(training, toy_training_data(training.encoder, 28, heldout=10), 0)
            training.stack.gradient(step, whole_batch(training), partial(backward, training, step))
            found.append({name: p.grad for name, p in training.encoder.model.named_parameters()})
        _compare_gradients(found[0], found[1], 1e-5, f"{family}, packed and padded")


def check_accumulation(bench: Bench, case: Case) -> None:
    """Check that the gradient of a step in micro-batches equals that of the whole step (dropout off), or that micro-batches
    are refused for a method that needs whole steps.
    """
    name = case.method.name
    for micro_batch in (1, 3):
        if case.method.needs_full_batch:
            check_together(case.methods, "auto", BATCH)
            try:
                check_together(case.methods, micro_batch, BATCH)
            except UserError as error:
                if f"micro_batch: {micro_batch}, but methods.{name} needs all" in str(error):
                    continue
            raise ContractError(f"it needs whole steps, but micro-batches of {micro_batch} are not refused")
        whole, losses = bench.gradients(case.stilled, BATCH)
        parts, added = bench.gradients(case.stilled, micro_batch)
        for key, (value, count) in losses.items():
            for one, other in ((value, added[key][0]), (count, added[key][1])):
                if not math.isclose(float(one), float(other), rel_tol=1e-4, abs_tol=1e-6):
                    loss = key.removeprefix("loss_")
                    raise ContractError(
                        f"the loss {loss!r} of a step is {float(value):.6f} as a whole and {float(added[key][0]):.6f} in "
                        f"micro-batches of {micro_batch}. Divide by the number of texts in the step, "
                        "batch.step_labels.numel(), and draw noise for all of them; a method that needs all texts at once "
                        "must set `needs_full_batch = True`"
                    )
        _compare_gradients(parts, whole, 1e-6, f"micro-batches of {micro_batch} and the whole step", at_least=1.0)


def check_losses(bench: Bench, case: Case) -> None:
    """Check that the method returns the losses that it declares in `losses`, each a scalar."""
    training = bench.start(case.methods)
    state, step = training.stack.states[-1], step_at(training, training_data_of(training), 0)
    batch = case.method.inputs(step, state, whole_batch(training))
    output = step.forward(batch, want=training.stack.want)
    losses = case.method.loss(step, state, output, batch, partial(step.forward, batch))
    if set(losses) != set(type(case.method).losses):
        raise ContractError(f"it returns the losses {sorted(losses)}, but declares {sorted(type(case.method).losses)}")
    if odd := [name for name, loss in losses.items() if loss.dim()]:
        raise ContractError(f"the loss {odd[0]!r} has the shape {tuple(losses[odd[0]].shape)}; expected a scalar")


Check = Callable[[Bench, Case], None]
CHECKS: dict[str, Check] = {
    "toml": check_toml,
    "declarations": check_declarations,
    "losses": check_losses,
    "neutral": check_neutral,
    "resume": check_resume,
    "model": check_model,
    "evaluation": check_evaluation,
    "packed": check_packed,
    "packed-gradient": check_packed_gradient,
    "accumulation": check_accumulation,
}


def check_method(
    method: Method,
    *,
    neutral: Mapping[str, Any] | None,
    trained_with: Sequence[Method] | None = None,
    equals: Sequence[Method] | None = None,
    tolerance: float = 0.0,
    still: Mapping[str, Any] | None = None,
    checks: Iterable[str] | None = None,
) -> None:
    """Check that a method keeps the promises of every method; it need not be registered. About ten seconds on a CPU.

    method: with settings at which it has an effect within 16 steps. neutral: settings at which the training is
    bit-identical to one without the method; None: there are no such settings. trained_with: methods that are trained together
    with it; by default `CrossEntropy()` alone. equals: methods of the training that equals the neutral one, if that is not
    `trained_with`. tolerance: if they are equal only up to rounding, the largest allowed difference of a weight. still: settings
    that turn off the method's own dropout. checks: names from `CHECKS`; None: all.

    Raises ContractError, an AssertionError, with every broken promise, and UserError for an unknown check or setting. Other
    errors come from the method itself.
    """
    wanted = list(CHECKS if checks is None else checks)
    if unknown := [name for name in wanted if name not in CHECKS]:
        raise UserError(f"checks: no check {unknown[0]!r}; known checks: {', '.join(CHECKS)}")
    if not isinstance(method, Method):
        raise UserError(
            f"check_method: found {method!r:.80}, expected a method with its settings, such as MyMethod(weight=0.5)"
        )
    case = Case(
        method,
        (CrossEntropy(),) if trained_with is None else tuple(trained_with),
        neutral,
        None if equals is None else tuple(equals),
        tolerance,
        still,
    )
    for settings in (neutral, still):
        case.changed(settings or {})
    broken = []
    with _isolated():
        for name in wanted:
            try:
                CHECKS[name](_bench(), case)
            except ContractError as error:
                broken.append(f"{name}: {error}")
            except Exception as error:
                error.add_note(f"methods.{method.name}: raised in the check {name!r} of randout.testing.check_method")
                raise
    if broken:
        lines = [f"methods.{method.name} breaks {len(broken)} of {len(wanted)} promises", *broken]
        raise ContractError("\n  ".join(lines))


@cache
def _bench() -> Bench:
    """Bench of this process, in a temporary folder that is removed when the process ends."""
    root = Path(tempfile.mkdtemp(prefix="randout-testing-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Bench(root)


@contextmanager
def _isolated() -> Iterator[None]:
    """While open, use one thread, which is fastest for such small models, and no progress bars; restores both and torch's
    generator on exit.
    """
    from transformers.utils import logging

    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()


def _key(methods: Sequence[Method]) -> str:
    """Key of methods with their settings, as text, because a field may be a list, which cannot be hashed."""
    return repr(
        [(type(method).__module__, type(method).__qualname__, id(type(method)), repr(method)) for method in methods]
    )


def _fit(training: TrainingState, data: TrainingData) -> Iterator[Event]:
    return iter(fit(training, data, validation(training, data)))


def _without_seconds(training: TrainingState) -> dict[str, Any]:
    found = training.position.as_json() | {"seconds": 0}
    return found | {"history": [row | {"seconds": 0} for row in found["history"]]}


def _in_float64(training: TrainingState) -> None:
    training.encoder.model.double()
    training.stack = replace(training.stack, states=tuple(_doubled(state) for state in training.stack.states))


def _doubled(state: State) -> State:
    tensors = {name: tensor.double() for name, tensor in state.tensors.items()}
    return State([nn.Parameter(p.detach().double()) for p in state.parameters], tensors, state.optimizers)


def _compare_gradients(
    ours: Mapping[str, Tensor | None],
    theirs: Mapping[str, Tensor | None],
    share: float,
    where: str,
    at_least: float = 0.0,
) -> None:
    """Raise ContractError if gradients differ by more than `share` times the largest one, or times `at_least` if larger."""
    largest = max([at_least, *(float(gradient.abs().max()) for gradient in theirs.values() if gradient is not None)])
    for name, gradient in theirs.items():
        other = ours[name]
        if gradient is None or other is None:
            if gradient is not other:
                raise ContractError(f"{where}: only one of the two has a gradient of {name}")
        elif not (off := float((gradient - other).abs().max())) < share * largest:
            raise ContractError(f"{where}: gradients of {name} differ by {off:.1e}; the largest is {largest:.1e}")
