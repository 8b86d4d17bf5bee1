"""Pairs as tokens: joined and truncated as transformers does it, and the same logits packed, padded and in transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from randout.data.composed_text import ComposedText
from randout.models.encoder import special_tokens
from randout.models.sources import load_tokenizer
from randout.models.token_types import carry_types, plain_ids, takes_types, types_of
from randout.models.tokens import encode, truncate
from randout.testing.models import toy_texts

WITH_TYPES = ("bert", "electra")


def pairs(n=40, seed=0):
    """Pairs of 1 to 30 words each: short with long, long with short, and equally long ones."""
    words = " ".join(toy_texts(n, seed)[0]).split()
    sizes = np.random.default_rng(seed).integers(1, 31, (n, 2))
    sizes[:4] = np.array([[30, 1], [1, 30], [20, 20], [21, 20]])[:n]
    return [(" ".join(words[at : at + a]), " ".join(words[at : at + b])) for at, (a, b) in enumerate(sizes.tolist())]


def composed(some, prefix=""):
    return [ComposedText(pair, prefix) for pair in some]


def of_transformers(tokenizer, some, **options):
    """Ids and token types of each pair (zeros for a model without types)."""
    made = tokenizer([a for a, _ in some], [b for _, b in some], **options)
    types = made.get("token_type_ids") or [[0] * len(ids) for ids in made["input_ids"]]
    return made["input_ids"], types


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "albert", "modernbert"])
def test_pairs_are_joined_as_transformers_joins_them(source, family):
    tokenizer, some = load_tokenizer(source(family)), pairs()
    tokens = encode(tokenizer, composed(some), chunk=7)
    ids, types = of_transformers(tokenizer, some)
    assert [plain_ids(tokens[at]).tolist() for at in range(len(some))] == ids
    assert [types_of(tokens[at]).tolist() for at in range(len(some))] == types
    assert carry_types([torch.from_numpy(tokens.ids)]) == (family in WITH_TYPES)
    with_field = encode(tokenizer, composed(some, "position: 3/8 | "))
    assert plain_ids(with_field[0]).tolist() == tokenizer("position: 3/8 | " + some[0][0], some[0][1])["input_ids"]


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("length", [5, 6, 12, 23, 64])
def test_the_longest_text_is_truncated_first_as_in_transformers(source, family, length):
    tokenizer, some = load_tokenizer(source(family)), pairs(60, length)
    prefix, suffix = special_tokens(tokenizer)
    tokens = truncate(encode(tokenizer, composed(some)), length, "head", suffix, prefix)
    ids, types = of_transformers(tokenizer, some, truncation="longest_first", max_length=length)
    assert [plain_ids(tokens[at]).tolist() for at in range(len(some))] == ids
    assert [types_of(tokens[at]).tolist() for at in range(len(some))] == types
    whole, _ = of_transformers(tokenizer, some)
    assert tokens.untruncated_lengths.tolist() == [len(one) for one in whole]
    assert tokens.loss_of_truncation()[0] == np.mean([len(one) > length for one in whole])


def test_head_and_tail_of_each_text(source):
    tokenizer = load_tokenizer(source("bert"))
    words = toy_texts(20, 3)[0][0].split() + toy_texts(20, 4)[0][5].split() + ["fever"] * 30
    first, second = words[:20], words[20:24]
    tokens = truncate(encode(tokenizer, composed([(" ".join(first), " ".join(second))])), 15, "head+tail", 1, 1)
    kept = [*first[:2], *first[-6:]]  # of 12 places 4 are the second text's; a quarter of the 8 others is the head
    assert plain_ids(tokens[0]).tolist() == tokenizer(" ".join(kept), " ".join(second))["input_ids"]


def test_no_room_and_mixtures_are_refused(source):
    tokenizer = load_tokenizer(source("bert"))
    with pytest.raises(ValueError, match="leaves no room for text after 3 special tokens"):
        truncate(encode(tokenizer, composed(pairs())), 3, "head", 1, 1)
    with pytest.raises(ValueError, match="cannot be tokenized together"):
        encode(tokenizer, [*composed(pairs(2)), "a text"])


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", ["bert", "electra", "albert", "roberta", "mpnet"])
def test_packed_padded_and_transformers_agree_on_pairs(load, family, pooling):
    made, some = load(family, True, dropout=0.0, attention_dropout=0.0, pooling=pooling), pairs(12)
    tokens = truncate(encode(made.tokenizer, composed(some)), 40, "head", made.suffix, made.prefix)
    ids = [torch.from_numpy(tokens[at].astype(np.int64)) for at in range(len(some))]
    outcomes = []
    for packed in {made.packed, False}:
        made.model.zero_grad()
        logits = replace(made, packed=packed).forward(ids).logits
        logits.square().sum().backward()
        outcomes.append((logits.detach(), [p.grad.clone() for p in made.model.parameters() if p.grad is not None]))
    for logits, gradients in outcomes[1:]:
        torch.testing.assert_close(logits, outcomes[0][0], rtol=0, atol=1e-10)
        torch.testing.assert_close(gradients, outcomes[0][1], rtol=0, atol=1e-9)
    made.model.eval()
    batch = made.tokenizer(*zip(*some, strict=True), truncation=True, max_length=40, padding=True, return_tensors="pt")
    own = load(family, True, pack=False, dropout=0.0, attention_dropout=0.0, pooling=pooling).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(outcomes[0][0], own(**batch).logits, rtol=0, atol=1e-10)
    with torch.no_grad():
        plain = made.forward([plain_ids(text) for text in ids]).logits
    same = torch.allclose(plain, outcomes[0][0], rtol=0, atol=1e-10)
    assert same != (family in WITH_TYPES)  # the types make a difference where there are any
    assert takes_types(made.model) or family not in WITH_TYPES
