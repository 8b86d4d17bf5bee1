"""The interface of a method: its hooks, what it sees of a run, and its random keys.

A method is a frozen object whose fields are its configuration. It joins training at six seams, all optional; the loop
knows the seams and never a method's name. Random numbers are functions, not streams: every draw is keyed by (seed,
purpose, step, rank, call), so that a resumed run repeats the uninterrupted one without any generator state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from randout.core.config import in_words
from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.core.rng import random_key
from randout.models.outputs import NOTHING, Output, Want

if TYPE_CHECKING:
    from torch import Tensor, nn

    from randout.models.encoder import Encoder
    from randout.models.hooks import Layout, Sites
    from randout.models.tokens import Tokens

SUPERVISED = "ce"  # the loss on gold labels: one method of a recipe owns it


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a step. A step's losses are normalised by the whole step's counts, so that splitting a step
    into micro-batches adds up to the larger batch.

    rows: (b,) positions in the dataset. ids: the token ids of each text, special tokens included, shortest first.
    labels: (b,) class index, -1 where there is none. teacher: (b, C) stored logits of the teacher, or None; others:
    those of each further teacher. step_labels: (B,) labels of all B texts of the step. first: position of this
    micro-batch's first text in the step. longest: tokens of the step's longest text.
    """

    rows: Tensor
    ids: list[Tensor]
    labels: Tensor
    teacher: Tensor | None
    step_labels: Tensor
    first: int
    longest: int
    others: tuple[Tensor, ...] = ()


@dataclass
class State:
    """What changes while a method runs. `parameters` join the student's optimizer; `tensors` are checkpointed, by name
    (restored in place), and so are the states of `optimizers`, which the method steps itself.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)


class Forward(Protocol):
    """A training forward of the student on the micro-batch under way; `Run.forward` takes any, as its first argument.

    weights: parameters by name in place of the model's own. dropout, perturb: whether dropout and the recipe's noise
    are on. call: the same call of a step repeats the same dropout masks and noise. want: what is returned besides
    logits.
    """

    def __call__(
        self,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = True,
        perturb: bool = True,
        call: int = 0,
        want: Want = NOTHING,
    ) -> Output: ...


class Size(NamedTuple):
    """The dimensions of a student that limit a method's settings. depth: blocks. width: hidden units, positions: tokens
    that a text may have at most; None where they are not known.
    """

    depth: int
    width: int | None = None
    positions: int | None = None

    @staticmethod
    def of(config: Any, depth: int) -> Size:
        """From a model's configuration, as an object or as the table of its config.json."""
        found = config if isinstance(config, Mapping) else vars(config) if config is not None else {}
        width = found.get("hidden_size") or found.get("dim")
        positions = found.get("max_position_embeddings")
        return Size(depth, *(value if isinstance(value, int) else None for value in (width, positions)))


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that is run beside the student, for methods that need more of it than stored logits.

    tokens: every text of the dataset in the teacher's own tokens. columns: for each class of the student, the teacher's
    output of that name. same_tokens: whether its tokenizer gives the same ids as the student's.
    """

    encoder: Encoder
    tokens: Tokens
    columns: tuple[int, ...]
    precision: str = "float32"
    same_tokens: bool = False

    def forward(
        self,
        run: Run,
        batch: Batch,
        *,
        weights: dict[str, Tensor] | None = None,
        dropout: bool = False,
        call: int = 0,
        want: Want = NOTHING,
    ) -> Output:
        """The texts of `batch` as they stand in the dataset; logits (b, C) in the student's order of classes. With
        dropout its masks are keyed by (seed, step, rank, call, micro-batch).
        """
        from randout.models.encoder import computing

        texts = [torch.from_numpy(self.tokens[int(row)].astype("int64")) for row in batch.rows]
        torch.manual_seed(random_key(run.seed, "teacher", run.step, run.rank, call, batch.first))
        self.encoder.model.train(dropout)
        with computing(self.encoder.device, self.precision):
            output = self.encoder.forward(texts, want, weights)
        return output._replace(logits=output.logits[:, list(self.columns)])


@dataclass
class Run:
    """What a method may see: the student, the seed, and where in training we are.

    prefix, suffix: special tokens that the student's tokenizer puts at either end of a text.
    """

    model: nn.Module
    sites: Sites
    seed: int
    num_labels: int = 0
    class_weights: Tensor | None = None  # (C,)
    steps: int = 0  # of the whole training
    prefix: int = 1
    suffix: int = 1
    rank: int = 0
    teachers: int = 0  # whose stored logits come with each batch
    step: int = 0  # optimizer steps done
    call: int = 0  # which forward of this step; the same call repeats the same masks
    layout: Layout | None = None  # of the forward under way, None in clean passes
    teacher: LiveTeacher | None = None
    forward: Callable[..., Output] | None = None  # of the student, on any batch: (batch, ...) as `Forward`
    supervised: Callable[[Output, Batch], Tensor] | None = None  # the loss on gold labels, as the recipe sets it
    fresh: frozenset[str] = (
        frozenset()
    )  # names of the student's parameters that are not pretrained, where that is known
    heldout: Callable[[int], Batch] | None = None  # step -> a batch of training rows that are kept from the student
    logged: dict[str, list[tuple[Tensor, float]]] = field(default_factory=dict)  # name -> (number, weight) of this step

    @property
    def size(self) -> Size:
        """The student's dimensions."""
        return Size.of(self.sites.config, len(self.sites.blocks))

    def generator(self, purpose: str, device: torch.device, *extra: Any) -> torch.Generator:
        """A generator whose numbers are a function of (seed, purpose, step, rank, call, extra)."""
        key = random_key(self.seed, purpose, self.step, self.rank, self.call, *extra)
        return torch.Generator(device).manual_seed(key)

    def fresh_weights(self) -> list[Tensor]:
        """The parameters of `fresh`."""
        return [parameter for name, parameter in self.model.named_parameters() if name in self.fresh]

    def log(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Keep a scalar of this step for the history, read later. weight: what a mean counts for, as its texts."""
        self.logged.setdefault(name, []).append((value.detach(), weight))


Backward = Callable[..., None]  # (batch, scale=1.0): adds scale * the gradient of the micro-batch's losses to `.grad`


class Method(BaseModel):
    """Base of every method; each seam's default does nothing.

    name: its table in a recipe (`[methods.NAME]`). summary: one line for people. source: the paper it is from. kind:
    what it is for. cost: of a training step, in student steps. losses: the names that its `loss` may return; two
    methods must not own the same.

    teacher: "logits" where it reads stored logits, "model" where it runs the teacher itself. several: it
    reads further teachers too. supervises: it returns the
    loss on gold labels in place of the method that owns it, from `run.supervised`. heldout: it needs training rows that
    the student never learns from, this share. whole: its equations look at all texts of a step, so a step cannot be
    split into micro-batches. variants: further ways to use it that are compared as methods of their own, by name.
    space: the settings that a comparison may tune, and their values; spaces: those of a variant, where they differ.
    beside: the methods that it is compared together with.
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
    supervises: ClassVar[bool] = False
    heldout: ClassVar[float] = 0.0
    whole: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    spaces: ClassVar[Mapping[str, Mapping[str, Sequence[Any]]]] = {}
    beside: ClassVar[tuple[str, ...]] = (SUPERVISED,)

    def __init__(self, *values: Any, **settings: Any) -> None:
        """A method with these settings, all by name. Raises UserError naming the setting and the nearest known one."""
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
            f"{kind}.{name}: settings of a method cannot be changed; make another: {kind}({name}={value!r})"
        )

    # What reads recipes (`model_validate`) has its own words for a mistake: it is not to come through here
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def suits(self, labelled: int) -> bool:
        """Whether it is of use with so many labelled training rows; if not, a recipe leaves it out with a note."""
        return True

    def check_size(self, size: Size) -> None:
        """Raise UserError for settings beyond a student's dimensions. Asked before the student is loaded, too."""

    def check(self, run: Run) -> None:
        """Raise UserError where this method cannot work on this student; by default, where `check_size` does."""
        self.check_size(run.size)

    def start(self, run: Run) -> State:
        """Once, before the optimizer exists."""
        return State()

    def inputs(self, run: Run, state: State, batch: Batch) -> Batch:
        """Before each training forward: the batch the student is to see."""
        return batch

    def perturb(self, run: Run, state: State) -> AbstractContextManager[None]:
        """Around each training forward of the student. Evaluation and teachers are clean by construction."""
        return nullcontext()

    def want(self, run: Run) -> Want:
        """What `loss` needs of the forward besides logits."""
        return NOTHING

    def loss(self, run: Run, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        """Named scalar losses of a micro-batch; they are logged apart and summed. `forward` may be called again."""
        return {}

    def gradient(self, run: Run, state: State, inner: Backward) -> Backward:
        """How `.grad` of a micro-batch comes about; `inner(batch)` is the plain way, `inner(batch, scale)` adds `scale`
        times it. At most one method changes it.
        """
        return inner

    def stepped(self, run: Run, state: State) -> None:
        """After each optimizer step."""

    def evaluated(self, run: Run, state: State, metrics: dict[str, Any], improved: bool) -> None:
        """After each validation."""


def as_methods(methods: Any) -> tuple[Method, ...]:
    """Methods that a caller gave, as a tuple. Raises UserError for a single one, a class, or something else."""
    if isinstance(methods, Method):
        raise UserError(f"methods: found one method, expected a list: [{type(methods).__name__}(...)]")
    if isinstance(methods, str | Mapping) or not isinstance(methods, Iterable):
        raise UserError(f"methods: found {methods!r:.60}, expected a list of methods, such as [randout.Randout()]")
    found = tuple(methods)
    for one in found:
        if isinstance(one, type) and issubclass(one, Method):
            raise UserError(f"methods: found the class {one.__name__}, expected an object of it: {one.__name__}()")
        if not isinstance(one, Method):
            raise UserError(f"methods: found {one!r:.60}, expected a method, such as randout.Randout()")
    return found


def overrides(kind: type[Method], hook: str) -> bool:
    """Whether a method does anything at a hook."""
    return getattr(kind, hook) is not getattr(Method, hook)
