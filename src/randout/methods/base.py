"""The interface of a method: its hooks, what it sees of a training, and its random keys.

A method is a frozen object whose fields are its settings. It takes part in training through hooks, all of them optional:
`start`, `inputs`, `perturb`, `loss`, `gradient`, `stepped` and `evaluated`. The training loop calls the hooks and never
names a method. What stays the same in a training is a `Context`, what belongs to a step is a `Step`; both are frozen, and
what a method changes is its `State`. Random numbers are keyed by (seed, purpose, step, rank, call) instead of read from
one stream, so that a resumed run repeats the uninterrupted one without saving the state of a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from randout.core.config import in_words
from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.core.rng import random_key
from randout.data.composed_text import is_pair as is_pair
from randout.models.outputs import LOGITS_ONLY, Output, Want

from .target_losses import ONE_LABEL, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from randout.models.encoder import Encoder
    from randout.models.hooks import HookPoints, Layout
    from randout.models.tokens import Tokens

GOLD_LOSS = "ce"  # the loss on gold labels, which exactly one method of a recipe owns


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a step. Losses are normalised by the counts of the whole step, so that the gradients of its
    micro-batches add up to that of the whole batch.

    rows: (b,) positions in the dataset. ids: the token ids of each text, special tokens included, shortest first.
    labels: (b,) class index or number of a label set, -1 for none (`Context.target`). teacher: (b, C) stored logits of the
    teacher, or None; others: those of each further teacher. step_labels: (B,) labels of all B texts of the step. first:
    position of this micro-batch's first text in the step. longest: number of tokens of the step's longest text. partial:
    whether a teacher lacks soft labels for some of the texts; its logits are NaN there. weights: (b,) factor of each text's
    loss, whose mean over the labelled training rows is 1; None: 1 for all. It is no part of any divisor: a weight of 2 counts
    as two copies of the row.
    """

    rows: Tensor
    ids: list[Tensor]
    labels: Tensor
    teacher: Tensor | None
    step_labels: Tensor
    first: int
    longest: int
    others: tuple[Tensor, ...] = ()
    partial: bool = False
    weights: Tensor | None = None

    def taught(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first teacher's logits and `logits` of the texts that have a soft label, both (t, C).

        logits: (b, C) of the student. A text without a soft label contributes nothing to a loss on the result. Raises
        RuntimeError without a teacher.
        """
        if self.teacher is None:
            raise RuntimeError("distillation without stored teacher logits")
        if not self.partial:
            return self.teacher, logits
        known = ~self.teacher.isnan().any(1)
        return self.teacher[known], logits[known]

    @property
    def taught_weights(self) -> Tensor | None:
        """The weights of the texts that `taught` returns, (t,)."""
        if self.weights is None or self.teacher is None or not self.partial:
            return self.weights
        return self.weights[~self.teacher.isnan().any(1)]


@dataclass
class State:
    """The mutable state of a method in a training; all of it is checkpointed.

    parameters: added to the student's optimizer. tensors: by name, restored in place. optimizers: stepped by the method
    itself.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)


class Forward(Protocol):
    """Training forward pass of the student on the current micro-batch; `Step.forward` takes any batch as first argument.

    weights: parameters by name, used instead of the model's own. dropout, perturb: whether dropout and the recipe's noise
    are on. call: number of the pass within the step; the same number repeats the same dropout masks and noise. want:
    outputs to return in addition to logits. around: a further perturbation of this pass, outside those of the methods.
    """

    def __call__(
        self,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = True,
        perturb: bool = True,
        call: int = 0,
        want: Want = LOGITS_ONLY,
        around: Perturbation | None = None,
    ) -> Output: ...


class Size(NamedTuple):
    """Dimensions of a student that limit a method's settings.

    depth: number of blocks. width: hidden units. positions: maximum number of tokens in a text. None if unknown.
    """

    depth: int
    width: int | None = None
    positions: int | None = None

    @staticmethod
    def of(config: Any, depth: int) -> Size:
        """Read the dimensions from a model's configuration, given as an object or as the content of config.json."""
        found = config if isinstance(config, Mapping) else vars(config) if config is not None else {}
        width = found.get("hidden_size") or found.get("dim")
        positions = found.get("max_position_embeddings")
        return Size(depth, *(value if isinstance(value, int) else None for value in (width, positions)))


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that runs alongside the student, for methods that need more than its stored logits.

    tokens: every text of the dataset in the teacher's own tokens. columns: for each class of the student, the index of the
    teacher's output with that name. precision: "float32" or "bfloat16". same_tokens: whether its tokenizer gives the same
    ids as the student's.
    """

    encoder: Encoder
    tokens: Tokens
    columns: tuple[int, ...]
    precision: str = "float32"
    same_tokens: bool = False

    def forward(
        self,
        step: Step,
        batch: Batch,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = False,
        call: int = 0,
        want: Want = LOGITS_ONLY,
    ) -> Output:
        """Run the teacher on the texts of `batch`, unchanged from the dataset; returns logits (b, C) in the student's order
        of classes. Dropout masks are keyed by (seed, step, rank, call, micro-batch). Other arguments as for `Forward`.
        """
        from randout.models.encoder import computing

        texts = [torch.from_numpy(self.tokens[int(row)].astype("int64")) for row in batch.rows]
        torch.manual_seed(random_key(step.context.seed, "teacher", step.number, step.rank, call, batch.first))
        self.encoder.model.train(dropout)
        with computing(self.encoder.device, self.precision):
            output = self.encoder.forward(texts, want, weights)
        return output._replace(logits=output.logits[:, list(self.columns)])


Logged = dict[str, list[tuple["Tensor", float]]]  # name -> (number, weight) of each micro-batch


@dataclass(frozen=True, eq=False)
class Context:
    """What a method can access in the whole of a training: the student, the seed, and what else stays the same.

    hook_points: the hook points of the model, where its embeddings, hidden states and attention can be read or changed. prefix,
    suffix: number of special tokens that the student's tokenizer puts at either end of a text. fresh: names of the
    student's parameters that are not pretrained, if known. teachers: number of teachers whose stored logits come with each
    batch. teacher: one that runs alongside the student. tokenizer: the student's, None in an external training loop. target:
    what labels are, classes or label sets, and the losses on them.
    """

    model: nn.Module
    hook_points: HookPoints
    seed: int
    num_labels: int = 0
    class_weights: Tensor | None = None  # (C,)
    prefix: int = 1
    suffix: int = 1
    fresh: frozenset[str] = frozenset()
    teachers: int = 0
    teacher: LiveTeacher | None = None
    tokenizer: Any = None
    target: Target = ONE_LABEL

    @staticmethod
    def of(
        encoder: Encoder,
        seed: int,
        num_labels: int = 0,
        class_weights: Tensor | None = None,
        teachers: int = 0,
        teacher: LiveTeacher | None = None,
        target: Target = ONE_LABEL,
    ) -> Context:
        """Make the context of a training of `encoder`. class_weights: (C,), on the encoder's device."""
        made = encoder.model, encoder.hook_points, seed, num_labels, class_weights
        own = encoder.prefix, encoder.suffix, encoder.fresh
        return Context(*made, *own, teachers, teacher, encoder.tokenizer, target)

    @property
    def live_teacher(self) -> LiveTeacher:
        """The teacher that runs alongside the student. Raises RuntimeError if there is none."""
        if self.teacher is None:
            raise RuntimeError("this training has no teacher that runs alongside the student")
        return self.teacher

    @property
    def size(self) -> Size:
        """The student's dimensions."""
        return Size.of(self.hook_points.config, len(self.hook_points.blocks))

    def generator(self, purpose: str, device: torch.device, *extra: Any) -> torch.Generator:
        """Make a generator on `device` for `start`, whose numbers depend only on (seed, purpose, extra)."""
        return torch.Generator(device).manual_seed(random_key(self.seed, purpose, 0, 0, 0, *extra))

    def fresh_weights(self) -> list[Tensor]:
        """The parameters of `fresh`."""
        return [parameter for name, parameter in self.model.named_parameters() if name in self.fresh]


def _no_function(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("this function is only available in a training step of a loop that provides it")


@dataclass(frozen=True)
class Loop:
    """Functions of the training loop that a step makes available to methods.

    forward: (step, batch, ...) -> output of the student on any batch, with the options of `Forward`. gold_loss: (step,
    output, batch) -> the recipe's loss on gold labels. heldout: (step number) -> a batch of training rows that are
    withheld from the student.
    """

    forward: Callable[..., Output] = _no_function
    gold_loss: Callable[[Step, Output, Batch], Tensor] = _no_function
    heldout: Callable[[int], Batch] = _no_function


@dataclass(frozen=True, eq=False)
class Step:
    """An optimizer step: its position in the training, its random numbers, and the functions of the training loop.

    number: optimizer steps done before it. total: steps of the whole training; 0 if unknown. rank: of the process, or
    of the micro-batch if an external loop runs several per step. call: number of the forward pass within the step; the same
    call repeats the same masks. around: a further perturbation of each forward pass, outside those of the methods. logged:
    numbers for the history.
    """

    context: Context
    loop: Loop = Loop()
    number: int = 0
    total: int = 0
    rank: int = 0
    call: int = 0
    around: Perturbation | None = None
    logged: Logged = field(default_factory=dict, repr=False)

    def generator(self, purpose: str, device: torch.device, *extra: Any) -> torch.Generator:
        """Make a generator on `device` whose numbers depend only on (seed, purpose, step, rank, call, extra)."""
        key = random_key(self.context.seed, purpose, self.number, self.rank, self.call, *extra)
        return torch.Generator(device).manual_seed(key)

    def log(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Log a scalar of this step to the history. weight: of a mean over micro-batches, such as its number of texts."""
        self.logged.setdefault(name, []).append((value.detach(), weight))

    def forward(
        self,
        batch: Batch,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = True,
        perturb: bool = True,
        call: int = 0,
        want: Want = LOGITS_ONLY,
        around: Perturbation | None = None,
    ) -> Output:
        """Run the student on any batch in training mode; options as for `Forward`."""
        run, step = self.loop.forward, self.within(around)
        return run(step, batch, weights=weights, dropout=dropout, perturb=perturb, call=call, want=want)

    def gold_loss(self, output: Output, batch: Batch) -> Tensor:
        """The recipe's loss on gold labels, from the method that owns it."""
        return self.loop.gold_loss(self, output, batch)

    def heldout(self) -> Batch:
        """A batch of training rows that are withheld from the student (`Method.heldout`), for this step."""
        return self.loop.heldout(self.number)

    def within(self, around: Perturbation | None) -> Step:
        """This step, with a further perturbation of each forward pass, inside that of `self.around`."""
        if around is None:
            return self
        return replace(self, around=around if self.around is None else partial(_both, self.around, around))

    def at(self, layout: Layout, call: int = 0) -> Pass:
        """The forward pass number `call` of this step, on texts that lie as `layout` says."""
        shared = self.context, self.loop, self.number, self.total, self.rank
        return Pass(*shared, call, self.around, self.logged, layout=layout)


@dataclass(frozen=True, eq=False)
class Pass(Step):
    """A training forward pass of the student within a step. layout: where each text's tokens lie in the hidden states."""

    layout: Layout = field(kw_only=True)


Perturbation = Callable[
    [Pass], AbstractContextManager[None]
]  # makes a context around a forward pass, as `Method.perturb`


@contextmanager
def _both(outer: Perturbation, inner: Perturbation, step: Pass) -> Iterator[None]:
    with outer(step), inner(step):
        yield


class Backward(Protocol):
    """Adds `scale` times the gradient of a micro-batch's losses to `.grad`.

    around: a further perturbation of each training forward pass in it, outside those of the methods.
    """

    def __call__(self, batch: Batch, scale: float = 1.0, around: Perturbation | None = None) -> None: ...


class Method(BaseModel):
    """Base class of every method. The default of each hook does nothing.

    name: its table in a recipe (`[methods.NAME]`). summary: one line that describes it. source: the paper it is from.
    kind: its purpose. cost: of a training step, in student steps. losses: names of the losses that `loss` may return; two
    methods of a recipe must not own the same.

    teacher: "logits" if it reads stored logits, "model" if it runs the teacher itself. several: whether it also reads
    further teachers. replaces_gold_loss: whether it returns the loss on gold labels instead of the method that owns it,
    computed with `step.gold_loss`. weighted: whether its losses take `Batch.weights` into account; a method with losses that
    do not is refused where rows have weights. heldout: share of the training rows to withhold from the student.
    needs_full_batch: whether its equations need all texts of a step, so that a step cannot be split into micro-batches.
    variants: further uses, by name, with their settings; each is compared as a method of its own. space: settings that a
    comparison may tune, with their values. spaces: the same for variants that differ. trained_with: methods that are trained
    together with it in a comparison. label_sets: whether its losses hold for multi-label data, that is, whether it reads
    targets and logits only through `step.gold_loss` and `step.context.target`; a method without losses and gradients of its
    own always does. no_label_sets: why not, for messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    kind: ClassVar[Literal["gold", "noise", "distillation", "control"]] = "noise"
    cost: ClassVar[str] = "1x"
    losses: ClassVar[tuple[str, ...]] = ()
    teacher: ClassVar[Literal["", "logits", "model"]] = ""
    several: ClassVar[bool] = False
    replaces_gold_loss: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    heldout: ClassVar[float] = 0.0
    needs_full_batch: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    spaces: ClassVar[Mapping[str, Mapping[str, Sequence[Any]]]] = {}
    trained_with: ClassVar[tuple[str, ...]] = (GOLD_LOSS,)
    label_sets: ClassVar[bool] = False
    no_label_sets: ClassVar[str] = ""

    def __init__(self, *values: Any, **settings: Any) -> None:
        """Make a method from settings given by name. Raises UserError naming a wrong setting and the closest known one."""
        kind, fields = type(self).__name__, list(type(self).model_fields)
        if values:
            given = ", ".join(f"{name}={value!r}" for name, value in zip(fields, values, strict=False))
            takes = f"settings are given by name, as in {kind}({given})" if fields else "it has no settings"
            raise UserError(f"{kind}({', '.join(map(repr, values))}): {takes}")
        try:
            super().__init__(**settings)
        except ValidationError as error:
            listed = f"{kind} has {', '.join(fields) or 'no settings'}"
            raise UserError(in_words(type(self), error, f"{kind}: ", listed)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self).__name__
        raise UserError(
            f"{kind}.{name}: settings of a method cannot be changed; create a new one: {kind}({name}={value!r})"
        )

    # Recipes are read with `model_validate`, which reports mistakes in its own words and must not call this __init__
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def suits(self, labelled: int) -> bool:
        """Whether the method is useful with `labelled` training rows; if not, a recipe leaves it out with a note."""
        return True

    def check_size(self, size: Size) -> None:
        """Raise UserError for settings beyond a student's dimensions. Also called before the student is loaded."""

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise UserError if the method cannot work on these training texts. Called before the student is loaded."""

    def check(self, context: Context) -> None:
        """Raise UserError if the method cannot work on this student. By default, calls `check_size`."""
        self.check_size(context.size)

    def start(self, context: Context) -> State:
        """Hook: called once, before the optimizer exists; returns the method's state."""
        return State()

    def inputs(self, step: Step, state: State, batch: Batch) -> Batch:
        """Hook: called before each training forward pass; returns the batch that the student reads."""
        return batch

    def perturb(self, step: Pass, state: State) -> AbstractContextManager[None]:
        """Hook: context around each training forward pass of the student. Never active in evaluation or for teachers."""
        return nullcontext()

    def want(self, context: Context) -> Want:
        """Outputs of the forward pass that `loss` needs in addition to logits."""
        return LOGITS_ONLY

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        """Hook: returns named scalar losses of a micro-batch, which are logged separately and summed.

        output: of the student on `batch`. forward: runs the student on `batch` again.
        """
        return {}

    def gradient(self, step: Step, state: State, batch: Batch, backward: Backward) -> None:
        """Hook: adds the gradient of a micro-batch to `.grad`, with one or more calls of `backward`.

        At most one method of a recipe overrides this hook.
        """
        backward(batch)

    def stepped(self, step: Step, state: State) -> None:
        """Hook: called after each optimizer step."""

    def evaluated(self, step: Step, state: State, metrics: dict[str, Any], improved: bool) -> None:
        """Hook: called after each validation. improved: whether it is the best so far."""


def as_methods(methods: Any) -> tuple[Method, ...]:
    """Check a list of methods and return it as a tuple. Raises UserError for a single method, a class, or anything else."""
    if isinstance(methods, Method):
        raise UserError(f"methods: found one method, expected a list: [{type(methods).__name__}(...)]")
    if isinstance(methods, str | Mapping) or not isinstance(methods, Iterable):
        raise UserError(f"methods: found {methods!r:.60}, expected a list of methods, such as [randout.Randout()]")
    found = tuple(methods)
    for one in found:
        if isinstance(one, type) and issubclass(one, Method):
            raise UserError(f"methods: found the class {one.__name__}, expected an instance: {one.__name__}()")
        if not isinstance(one, Method):
            raise UserError(f"methods: found {one!r:.60}, expected a method, such as randout.Randout()")
    return found


def overrides(method: Method | type[Method], hook: str) -> bool:
    """Whether a method overrides a hook."""
    kind = method if isinstance(method, type) else type(method)
    return getattr(kind, hook) is not getattr(Method, hook)


def takes_label_sets(method: Method) -> bool:
    """Whether a method can be trained on multi-label data."""
    return method.label_sets or not any(overrides(method, hook) for hook in ("loss", "gradient"))


def owns_gold(method: Method) -> bool:
    """Whether a method has the loss on gold labels that other methods reach through `step.gold_loss`."""
    return GOLD_LOSS in method.losses and not method.replaces_gold_loss
