"""Forward passes for the tests: random texts, transformers called plainly, and texts as the training loop encodes them."""

from __future__ import annotations

import numpy as np
import torch

from randout.testing.models import LENGTHS, LONGEST


def token_ids(made, lengths=LENGTHS, seed=0):
    """Random texts of the given lengths between the tokenizer's own special tokens, (length,) each."""
    draw = torch.Generator().manual_seed(seed)
    first, last = made.tokenizer.cls_token_id, made.tokenizer.sep_token_id
    middle = [torch.randint(10, 150, (n - 2,), generator=draw) for n in lengths]
    return [torch.cat([torch.tensor([first]), m, torch.tensor([last])]) for m in middle]


def plain_call(made, ids, side="right", **keywords):
    """transformers called as its documentation says: padded block, attention mask, nothing else."""
    longest, filler = max(map(len, ids)), made.tokenizer.pad_token_id
    block = torch.full((len(ids), longest), filler)
    mask = torch.zeros_like(block)
    for row, text in enumerate(ids):
        place = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        block[row, place], mask[row, place] = text, 1
    return made.model(input_ids=block, attention_mask=mask, **keywords)


def ids_of(encoder, texts, max_length=LONGEST):
    """Texts as the training loop would give them to `Encoder.forward`, (length,) each."""
    from randout.models.tokens import encode, truncate

    tokens = truncate(encode(encoder.tokenizer, texts), max_length, "head", encoder.suffix, encoder.prefix)
    return [torch.from_numpy(tokens[i].astype(np.int64)) for i in range(len(texts))]
