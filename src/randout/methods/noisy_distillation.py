"""Noisy self-distillation (Liu, Shen & Lapata 2021): a teacher with its dropout on, a student with noise in its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.outputs import Output

from .base import Batch, Forward, Method, State, Step, is_pair

if TYPE_CHECKING:
    from torch import Tensor


class NoisyDistillation(Method):
    """L = (1 - w) * L_gold + w * 1/B sum_i KL(softmax(z_t(x_i, d)) || softmax(z_s(x_i'))).

    z_t, z_s: (B, C) logits of the frozen teacher and of the student. d: the teacher's own dropout, with new masks in every
    step, so its logits cannot be stored. x_i': the text with each word dropped with probability `word_drop`, and the others
    sorted by i + (k + 1) * U(0, 1), i their position, so none moves by more than k = `shuffle` positions. The teacher reads
    the clean x_i. L_gold is the recipe's loss on gold labels, also on the noisy text. Draws are keyed by (seed, step, row of
    the text).

    Source: 2009.07032, section 4, and its published code (w = .6, teacher with dropout, the order above), for summarisation,
    where the KL is summed over the words of a summary. The defaults .1 and k = 3 are those of the denoising on which it is
    based (1711.00043, section 2.3). Deviations: words are tokens; special tokens keep their positions; a text keeps at least
    one word; words are not replaced and sentences not dropped.

    Not useful if a few words decide the class (short texts lose them), if word order matters, or with a teacher
    without dropout, which has no noise.
    """

    name = "noisy-distillation"
    summary = "match a teacher whose dropout is on, with dropped and shuffled words"
    source = "Liu, Shen & Lapata 2021, 2009.07032, section 4"
    kind = "distillation"
    cost = "1.33x"  # with a teacher of the student's size
    teacher = "model"
    replaces_gold_loss = True
    losses = ("ce", "noisy-distillation")
    label_sets = True
    variants = {  # noqa: RUF012
        "noisy-teacher": {"word_drop": 0.0, "shuffle": 0},
        "noisy-student": {"teacher_dropout": False},
    }
    space = {"weight": (0.4, 0.6, 0.8), "word_drop": (0.05, 0.1, 0.2)}  # noqa: RUF012

    weight: Annotated[float, Field(ge=0, le=1, description="w: share of the teacher's loss")] = 0.6
    teacher_dropout: Annotated[bool, Field(description="the teacher's dropout is on")] = True
    word_drop: Annotated[float, Field(ge=0, lt=1, description="probability that a word is dropped for the student")] = (
        0.1
    )
    shuffle: Annotated[int, Field(ge=0, description="k: positions by which a word may move; 0 keeps the order")] = 3

    def check_texts(self, texts: Sequence[str]) -> None:
        if (self.word_drop or self.shuffle) and any(map(is_pair, texts)):
            raise UserError(
                "methods.noisy-distillation: not supported for pairs of texts, because words would move between the two texts "
                "of a pair. Leave the method out, or set word_drop = 0 and shuffle = 0"
            )

    def inputs(self, step: Step, state: State, batch: Batch) -> Batch:
        if not self.word_drop and not self.shuffle:
            return batch
        pairs = zip(batch.ids, batch.rows.tolist(), strict=True)
        return replace(batch, ids=[self._noisy(step, text, row) for text, row in pairs])

    def _noisy(self, step: Step, text: Tensor, row: int) -> Tensor:
        """Drop and shuffle the words of a text, ids (n,) -> (m,), m <= n; special tokens at its ends are unchanged."""
        start, end = step.context.prefix, len(text) - step.context.suffix
        if end <= start:
            return text
        generator = step.generator(self.name, torch.device("cpu"), row)
        luck, moves = torch.rand(2, end - start, generator=generator)
        kept = (luck >= self.word_drop) | (luck == luck.max())
        words = text[start:end][kept]
        places = torch.arange(len(words)) + (self.shuffle + 1) * moves[kept]
        if self.shuffle:
            words = words[places.argsort()]
        return torch.cat([text[:start], words, text[end:]])

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        gold = step.gold_loss(output, batch)
        if not self.weight:
            return {"ce": gold}
        with torch.no_grad():
            teacher = step.context.live_teacher.forward(step, batch, dropout=self.teacher_dropout)
        divergence = step.context.target.divergence(teacher.logits, output.logits, 1.0) / batch.step_labels.numel()
        return {"ce": (1 - self.weight) * gold, "noisy-distillation": self.weight * divergence}
