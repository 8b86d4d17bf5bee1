"""What methods on listed terms share: the list and its checks, and the tokens of a batch that belong to a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from randout.core.errors import UserError
from randout.core.lazy import torch
from randout.models.terms import found_in, read_terms, term_finder
from randout.models.token_types import plain_ids

from .base import Batch, Context, Method, Size

if TYPE_CHECKING:
    from torch import Tensor


class TermMethod(Method):
    """Base class of methods on listed terms.

    terms: words matched as whole words regardless of case; `*` at the end stands for any further letters (`models.terms`).
    """

    terms: Annotated[
        tuple[str, ...],
        BeforeValidator(read_terms),
        Field(description="list of terms, or a text file with one term a line; * at the end: any further letters"),
    ] = ()

    def check_size(self, size: Size) -> None:
        if not self.terms:
            raise UserError(
                f"methods.{self.name}.terms: no terms; expected a list, or a text file with one term a line: "
                f"--set {self.name}.terms=terms.txt"
            )

    def check_texts(self, texts: Sequence[str]) -> None:
        if not found_in(self.terms, texts):
            raise UserError(
                f"methods.{self.name}.terms: none of the {len(self.terms)} terms ({', '.join(self.terms[:3])}, ...) "
                f"occurs in the {len(texts):,} training texts; terms are whole words unless they end with *"
            )

    def check(self, context: Context) -> None:
        super().check(context)
        if context.tokenizer is None or not context.hook_points.blocks:
            raise UserError(
                f"methods.{self.name}: not supported because terms are found through the tokenizer of an encoder, which an "
                "external training loop and a baseline do not have; use randout.train or `randout train` with an encoder"
            )
        try:
            term_finder(context.tokenizer, self.terms)
        except UserError as error:
            raise UserError(f"methods.{self.name}.{error}") from None

    def masks(self, context: Context, batch: Batch) -> list[Tensor]:
        """For each text of the batch (n,) bool, on the CPU: whether each of its n tokens belongs to a term."""
        finder = term_finder(context.tokenizer, self.terms)
        return [torch.from_numpy(finder.mask(plain_ids(text).tolist())) for text in batch.ids]
