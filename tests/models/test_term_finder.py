"""Terms among token ids, against a search in the text itself and the tokenizer's character offsets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from randout.core.errors import UserError
from randout.models.terms import TermFinder, found_in, read_terms
from randout.models.tokens import encode, truncate

TERMS = ("fever", "cough*", "heart attack", "pain", "stroke's", "my-back")
TEXTS = [
    "Fever and COUGH, then coughing: a heart attack!",
    "heartattack or heart\nattack or heart  attack? feverish painfully repaint",
    "(pain) pain-free pain. unpain 'cough' cough/fever xfever",
    "stroke's not strokes, my-back hurts and my back hurts",
    "no term in this one",
    "fever",
]
PLAIN = re.compile(  # the terms above by hand
    r"\b(?:fever\b|cough\w*|heart\s+attack\b|pain\b|stroke's\b|my-back\b)", re.IGNORECASE
)


def by_offsets(tokenizer: Any, text: str) -> np.ndarray:
    """Whether each token shares a character, other than a space before a word, with a match in the text."""
    spans = [match.span() for match in PLAIN.finditer(text)]
    found = []
    for start, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        found.append(any(start < last and end > first for first, last in spans))
    return np.array(found)


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "roberta"])
def test_tokens_of_terms_are_those_of_the_offsets(family: str, tiny_model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(family))
    finder = TermFinder(tokenizer, TERMS)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        expected = by_offsets(tokenizer, text)
        assert expected.any() == bool(PLAIN.search(text))
        assert finder.mask(ids).tolist() == expected.tolist(), text


def test_a_truncated_text_keeps_the_tokens_of_its_terms(tiny_model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    finder = TermFinder(tokenizer, TERMS)
    text = "fever was on the way and more pain was to come"
    whole, cut = (finder.mask(ids) for ids in _whole_and_cut(tokenizer, text, 6))
    assert whole.sum() == 2
    assert cut.tolist() == [*whole[:5].tolist(), False]


def _whole_and_cut(tokenizer: Any, text: str, length: int) -> tuple[list[int], list[int]]:
    tokens = encode(tokenizer, [text])
    return tokens[0].tolist(), truncate(tokens, length, "head", 1)[0].tolist()


def made(kind: Any, pre: Any, decoder: Any = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", cls_token="<s>")


def test_sentencepiece_tokens_and_their_bytes() -> None:
    pieces = ["<unk>", "<s>", "▁fe", "ver", "▁caf", "<0xC3>", "<0xA9>", "▁a", "▁heart", "▁attack", "s", "▁"]
    kind = models.Unigram([(piece, -float(len(pieces) - at)) for at, piece in enumerate(pieces)], 0, byte_fallback=True)
    tokenizer = made(kind, pre_tokenizers.Metaspace(), decoders.Metaspace())
    finder = TermFinder(tokenizer, ("fever", "café", "heart attack*"))
    ids = tokenizer("a fever a café heart attacks fevers")["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    marked = [word for word, found in zip(words, finder.mask(ids), strict=True) if found]
    assert marked == ["▁fe", "ver", "▁caf", "<0xC3>", "<0xA9>", "▁heart", "▁attack", "s"]


def test_tokens_that_cannot_be_read_are_refused() -> None:
    kind = models.BPE(
        {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "b</w>": 4, "ab</w>": 5}, [("a", "b</w>")], end_of_word_suffix="</w>"
    )
    tokenizer = made(kind, pre_tokenizers.Whitespace())
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab")["input_ids"]) == ["ab</w>"]
    with pytest.raises(UserError, match="cannot be read as text"):
        TermFinder(tokenizer, ("ab",))


def test_a_term_without_tokens_is_refused(tiny_model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    with pytest.raises(UserError, match="the student's tokenizer has no tokens for 'ωμέγα'"):
        TermFinder(tokenizer, ("fever", "ωμέγα"))


def test_terms_in_texts_are_whole_words_unless_they_end_with_a_star() -> None:
    assert not found_in(("fever",), ["feverish", "unfever"])
    assert found_in(("fever*",), ["", "so Feverish"])
    assert found_in(("heart attack",), ["a heart\tattack."])
    assert not found_in(("heart attack",), ["heartattack"])


def test_a_list_or_a_file_of_terms(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("\ufefffever\n\n heart   attack \nFever\ncough*\n", encoding="utf-8")
    assert read_terms(str(path)) == ("fever", "heart attack", "cough*")
    assert read_terms(["a b", "c"]) == ("a b", "c")
    assert read_terms(3) == 3
    with pytest.raises(ValueError, match="no such file; expected a list of terms, or a text file"):
        read_terms(str(tmp_path / "none.txt"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        read_terms(str(path))
    for bad in ("...", "*", "co*gh", ""):
        with pytest.raises(ValueError, match="is not words with an optional"):
            read_terms(["fever", bad])
