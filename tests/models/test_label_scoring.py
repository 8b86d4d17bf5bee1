"""The probabilities of labels by a causal language model, against a plain computation of one label of one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randout.core.errors import UserError
from randout.models.label_prompts import Prompt
from randout.models.label_scoring import LetterScorer, NameScorer, cut, load_scorer, text_limit
from randout.models.sources import find_causal_lm
from randout.testing.models import DECODERS, build_decoder, toy_texts

TEXTS = [*toy_texts(4, 5)[0], "goal", "a <|end|> within"]
LABELS = ("health", "very good", "sport")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("causal")
    found = {family: build_decoder(family, root / family, side="right") for family in DECODERS}
    return found | {"base": build_decoder("llama", root / "base", chat=False, pad=None)}


def scorer_of(folder: Path, prompt: Prompt) -> Any:
    return load_scorer(find_causal_lm(str(folder)), prompt, "cpu", "float32")


def plain(scorer: NameScorer, text: str) -> np.ndarray:
    """log p(name | prompt) of each label: prompt and name in one forward pass without padding or cache, token by token."""
    prompt, found = scorer.ids_of(text), []
    for name in scorer.names:
        ids = torch.tensor([[*prompt, *name]])
        with torch.no_grad():
            log_p = scorer.model(input_ids=ids).logits[0].double().log_softmax(-1)
        found.append(sum(float(log_p[len(prompt) + at - 1, token]) for at, token in enumerate(name)))
    return np.array(found)


@pytest.mark.parametrize("family", [*DECODERS, "base"])
def test_an_answer_by_name_is_the_probability_of_all_its_tokens(family: str, folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders[family], Prompt(LABELS, "name"))
    assert len({len(name) for name in scorer.names}) > 1
    found = scorer.score(TEXTS)
    assert len({len(scorer.ids_of(text)) for text in TEXTS}) > 2  # so that a batch has padding
    for text, row, total in zip(TEXTS, *found, strict=True):
        log_p = plain(scorer, text)
        shares = np.exp(log_p) / np.exp(log_p).sum()
        assert shares.max() < 0.9999999
        assert np.allclose(row, shares, rtol=1e-3, atol=1e-6)
        assert np.isclose(total, np.exp(log_p).sum(), rtol=1e-3)


def test_a_name_that_begins_another_ends_with_the_end_of_text(folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders["qwen3"], Prompt(("health", "health care", "sport"), "name"))
    assert {name[-1] for name in scorer.names} == {scorer.tokenizer.eos_token_id}
    apart = scorer_of(folders["qwen3"], Prompt(("health", "sport"), "name"))
    assert apart.tokenizer.eos_token_id not in {token for name in apart.names for token in name}


@pytest.mark.parametrize("family", DECODERS)
def test_an_answer_by_letter_is_the_softmax_over_the_letters(family: str, folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders[family], Prompt(LABELS, "letter", "What is it about?"))
    assert isinstance(scorer, LetterScorer)
    assert type(scorer.pipe.model).__name__.endswith("ForCausalLM")  # and not a decision head of random weights
    asked = "What is it about?\nA. health\nB. very good\nC. sport\nAnswer with the letter of the option that fits best (A to C)"
    assert asked in scorer.shown()
    tokenizer, text = scorer.tokenizer, TEXTS[0]
    ids = tokenizer(scorer.shown().replace("{text}", text), return_tensors="pt")["input_ids"]
    letters = [tokenizer(letter)["input_ids"][0] for letter in "ABC"]
    with torch.no_grad():
        expected = scorer.pipe.model(input_ids=ids).logits[0, -1, letters].double().softmax(-1)
    found = scorer.score([text])
    assert np.allclose(found.probabilities[0], expected.numpy(), atol=1e-5)
    assert np.isnan(found.on_labels).all()


def test_special_tokens_in_a_text_are_plain_text(folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders["qwen3"], Prompt(LABELS, "name"))
    end = scorer.tokenizer.eos_token_id
    assert scorer.ids_of("goal").count(end) == scorer.ids_of("goal <|end|>").count(end) == 1


def test_texts_are_cut_to_what_the_model_takes(tmp_path: Path) -> None:
    folder = build_decoder("llama", tmp_path / "llama", max_position_embeddings=200)
    scorer = scorer_of(folder, Prompt(LABELS, "name", "?", "{text} {labels}"))
    limit = text_limit(scorer, 1000)
    assert 0 < limit < 200
    assert text_limit(scorer, 3) == 3
    long = "goal team " * 300
    short = cut(scorer.tokenizer, [long], (), limit)
    assert long.startswith(short)
    assert len(scorer.ids_of(short)) + max(map(len, scorer.names)) <= 200
    assert np.isfinite(scorer.score([short, "goal"]).probabilities).all()
    assert cut(scorer.tokenizer, ["goal"], (), limit) == "goal"
    with pytest.raises(UserError, match="takes at most 200; shorten the prompt"):
        text_limit(scorer_of(folder, Prompt(LABELS, "name", "?", "{text}" + "xyz " * 100)), 10)


@pytest.mark.parametrize(("first", "second"), [(300, 300), (300, 10), (10, 300), (3, 3)])
def test_neither_text_of_a_pair_is_cut_away(first: int, second: int, folders: dict[str, Path]) -> None:
    tokenizer = scorer_of(folders["qwen3"], Prompt(LABELS, "name")).tokenizer
    one, other = ("goal " * first).strip(), ("team " * second).strip()
    cut_one, cut_other = cut(tokenizer, [one, other], ("a", "b"), 100).removeprefix("a: ").split("\nb: ")
    assert one.startswith(cut_one)
    assert other.startswith(cut_other)
    sizes = [len(tokenizer(text)["input_ids"]) for text in (one, other, cut_one, cut_other)]
    if sizes[0] + sizes[1] < 90:
        assert sizes[2:] == sizes[:2]
    else:
        assert 90 <= sum(sizes[2:]) <= 100
        assert all(cut_size == size or cut_size >= 45 for size, cut_size in zip(sizes[:2], sizes[2:], strict=True))


def test_labels_that_cannot_be_told_apart(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"gives the label 'ab' the same tokens as 'ab'"):
        scorer_of(folders["qwen3"], Prompt(("ab", "ab"), "name"))
    letters = build_decoder("qwen3", tmp_path / "letters")
    (letters / "decision.json").write_text('{"labels": {"choice": ["first", "second", "third"]}}')
    with pytest.raises(UserError, match=r"cannot ask this model: .*distinct single tokens.* Use --answer name"):
        scorer_of(letters, Prompt(LABELS, "letter"))
