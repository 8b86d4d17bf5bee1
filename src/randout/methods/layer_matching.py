"""Matching of hidden states and attention with a live teacher (FitNets, PKD, TinyBERT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import F, nn, torch
from randout.models.outputs import Output, Want

from .base import Batch, Context, Forward, LiveTeacher, Method, Size, State, Step
from .functional import token_states

if TYPE_CHECKING:
    from torch import Tensor


class LayerMatching(Method):
    """L = hidden * L_h + attention * L_a, averaged over the pairs (i, j) of a student block and a teacher block.

        L_h = 1/B sum_texts mean_tokens mean_units (W_ij h_i - g_j)^2
        L_a = 1/B sum_texts mean_heads mean_queries sum_keys (A_i - C_j)^2

    h_i (n, d_s), g_j (n, d_t): hidden states after student block i and teacher block j (0: the embeddings); W_ij
    (d_s, d_t): learned, or none if the widths are equal. A_i, C_j (heads, n, n): attention weights, first averaged over
    heads if the numbers of heads differ. B: texts of the step. `pairs`: by default, every student block i with teacher
    block round(i * L_t / L_s), at least 1, so the last with the last. states: "tokens" matches each token's state, "first"
    only the first token's ([CLS]). normalize: h and g are divided by their norms, and units are summed, not averaged.

    Tokens of student and teacher correspond only if both tokenizers give the same ids: a text whose tokens differ (other
    truncation, words dropped by another method) is matched at its first token only, and its attention not at all. With two
    tokenizers this applies to all texts: `states = "auto"` is then "first", and `attention` is refused.

    Sources: FitNets (1412.6550, section 2.2: one layer through a learned map), PKD (1908.09355, section 3: normalized
    [CLS] states of several blocks: `states = "first", normalize = true`; its weight is 10 to 1000), TinyBERT
    (1909.10351, section 3.1: states of all tokens through a learned map, and attention). TinyBERT compares attention
    before the softmax and shares one map; here, attention weights are compared, and each pair has its own map. Adds to `ce`
    and `kd`.

    Not useful if the teacher's states are not specific to the task (a teacher that was not fine-tuned), with a map from far
    fewer units to many, or between tokenizers, where only one [CLS] state can be matched.
    """

    name = "layer-matching"
    summary = "match a teacher's hidden states and attention"
    source = "Romero et al. 2015, 1412.6550; Sun et al. 2019, 1908.09355; Jiao et al. 2020, 1909.10351, section 3.1"
    kind = "distillation"
    cost = "1.33x"  # with a teacher of the student's size
    teacher = "model"
    losses = ("layer-matching",)
    label_sets = True
    trained_with = ("ce", "kd")
    variants = {  # noqa: RUF012
        "tinybert": {"attention": 1.0},
        "pkd": {"states": "first", "normalize": True, "hidden": 10.0},
    }
    space = {"hidden": (0.1, 1.0, 10.0)}  # noqa: RUF012

    hidden: Annotated[float, Field(ge=0, description="weight of the hidden states")] = 1.0
    attention: Annotated[float, Field(ge=0, description="weight of the attention; needs equal tokenizers")] = 0.0
    pairs: Annotated[
        tuple[tuple[int, int], ...], Field(description="(student block, teacher block), 0: embeddings; empty: evenly")
    ] = ()
    states: Annotated[
        Literal["auto", "tokens", "first"], Field(description="states of every token, or only of the first")
    ] = "auto"
    normalize: Annotated[bool, Field(description="compare directions only (PKD)")] = False

    def check_size(self, size: Size) -> None:
        if bad := [i for i, _ in self.pairs if not 0 <= i <= size.depth]:
            raise UserError(f"methods.layer-matching.pairs: the student has blocks 1 to {size.depth}, got {bad[0]}")

    def check(self, context: Context) -> None:
        super().check(context)
        if self.attention and not context.hook_points.reaches_attention(context.model):
            raise UserError("methods.layer-matching.attention: this student's attention cannot be read; set it to 0")

    def start(self, context: Context) -> State:
        if not self.hidden and not self.attention:
            return State()
        teacher = context.live_teacher
        self._check_teacher(teacher)
        own: Any = context.model.config
        width, their_width = own.hidden_size, teacher.encoder.model.config.hidden_size
        if not self.hidden or width == their_width:
            return State()
        device = next(context.model.parameters()).device
        generator = context.generator(self.name, torch.device("cpu"))
        draws = [torch.randn(width, their_width, generator=generator) / width**0.5 for _ in self.matched(context)]
        return State([nn.Parameter(draw.to(device)) for draw in draws])

    def _check_teacher(self, teacher: LiveTeacher) -> None:
        hook_points, model = teacher.encoder.hook_points, teacher.encoder.model
        if bad := [j for _, j in self.pairs if not 0 <= j <= len(hook_points.blocks)]:
            raise UserError(
                f"methods.layer-matching.pairs: the teacher has blocks 1 to {len(hook_points.blocks)}, got {bad[0]}"
            )
        if self.states == "tokens" and not teacher.same_tokens:
            raise UserError(
                'methods.layer-matching.states: "tokens", but teacher and student have different tokenizers; use '
                '"first", or a teacher with the student\'s tokenizer'
            )
        if self.attention and not teacher.same_tokens:
            raise UserError(
                f"methods.layer-matching.attention: {self.attention}, but teacher and student have different tokenizers; "
                "set it to 0, or use a teacher with the student's tokenizer"
            )
        if self.attention and not hook_points.reaches_attention(model):
            raise UserError("methods.layer-matching.attention: this teacher's attention cannot be read; set it to 0")

    def matched(self, context: Context) -> tuple[tuple[int, int], ...]:
        """Pairs (student block, teacher block) to match."""
        if self.pairs:
            return self.pairs
        ours, theirs = len(context.hook_points.blocks), len(context.live_teacher.encoder.hook_points.blocks)
        return tuple((i, max((2 * i * theirs + ours) // (2 * ours), 1)) for i in range(1, ours + 1))

    def want(self, context: Context) -> Want:
        return self._wanted([i for i, _ in self.matched(context)]) if self.hidden or self.attention else Want()

    def _wanted(self, hook_points: Sequence[int]) -> Want:
        blocks = tuple(point for point in hook_points if point) if self.attention else ()
        return Want(hidden=tuple(hook_points) if self.hidden else (), attention=blocks)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        if not self.hidden and not self.attention:
            return {}
        teacher, pairs, texts = step.context.live_teacher, self.matched(step.context), batch.step_labels.numel()
        with torch.no_grad():
            theirs = teacher.forward(step, batch, want=self._wanted([j for _, j in pairs]))
        ids = [torch.from_numpy(teacher.tokens[int(row)].astype("int64")) for row in batch.rows]
        same = [torch.equal(text, other) for text, other in zip(batch.ids, ids, strict=True)]
        total = output.logits.new_zeros((), dtype=torch.float32)
        if self.hidden:
            rows = _rows(batch.ids, ids, [equal and self.states != "first" for equal in same], total.device)
            far = self._states(pairs, output, theirs, rows, state.parameters) / (texts * len(pairs))
            step.log("hidden_distance", far * texts / len(same), weight=len(same))
            total = total + self.hidden * far
        if self.attention:
            far = _attention(pairs, output, theirs, same) / (texts * max(sum(bool(i and j) for i, j in pairs), 1))
            step.log("attention_distance", far * texts / len(same), weight=len(same))
            total = total + self.attention * far
        return {"layer-matching": total}

    def _states(
        self,
        pairs: Sequence[tuple[int, int]],
        ours: Output,
        theirs: Output,
        rows: _Rows,
        maps: Sequence[Tensor],
    ) -> Tensor:
        """Sum over pairs and texts of the mean squared distance of their states."""
        found = []
        for place, (i, j) in enumerate(pairs):
            h = token_states(ours.hidden[i], rows.lengths)[rows.ours].float()  # (matched, d_s)
            g = token_states(theirs.hidden[j], rows.their_lengths)[rows.theirs].float()  # (matched, d_t)
            h = h @ maps[place].float() if maps else h
            if self.normalize:
                each = (F.normalize(h, dim=-1) - F.normalize(g, dim=-1)).square().sum(-1)
            else:
                each = (h - g).square().mean(-1)
            found.append((each * rows.weights).sum())
        return torch.stack(found).sum()


class _Rows(NamedTuple):
    """States to compare: rows of the flattened states of student and teacher, with weights within each text."""

    ours: Tensor
    theirs: Tensor
    weights: Tensor
    lengths: list[int]
    their_lengths: list[int]


def _rows(ids: Sequence[Tensor], others: Sequence[Tensor], whole: Sequence[bool], device: torch.device) -> _Rows:
    """Select all tokens of each text in `whole` and the first token of each other text; weights sum to 1 in each text."""
    lengths, their_lengths = [len(text) for text in ids], [len(text) for text in others]
    taken = [n if all_of_it else 1 for n, all_of_it in zip(lengths, whole, strict=True)]

    def places(side: list[int]) -> Tensor:
        starts = (torch.tensor(side).cumsum(0) - torch.tensor(side)).tolist()
        parts = [torch.arange(start, start + n) for start, n in zip(starts, taken, strict=True)]
        return torch.cat(parts).to(device)

    weights = torch.cat([torch.full((n,), 1 / n) for n in taken]).to(device)
    return _Rows(places(lengths), places(their_lengths), weights, lengths, their_lengths)


def _attention(pairs: Sequence[tuple[int, int]], ours: Output, theirs: Output, same: Sequence[bool]) -> Tensor:
    """Sum of squared distances of attention weights, over pairs of blocks and texts with equal tokens."""
    found = [ours.logits.new_zeros((), dtype=torch.float32)]
    for i, j in pairs:
        if not i or not j:
            continue
        for a, c, equal in zip(ours.attention[i], theirs.attention[j], same, strict=True):
            if equal:
                one, other = (a, c) if len(a) == len(c) else (a.mean(0, keepdim=True), c.mean(0, keepdim=True))
                found.append((one.float() - other.float()).square().sum(-1).mean())
    return torch.stack(found).sum()
