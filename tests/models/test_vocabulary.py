"""Trimmed vocabularies: the same tokens and logits where all tokens are kept, and tokens for any other text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from randout.experiments.run.saved_model import load_classifier
from randout.models import loading, vocabulary
from randout.models.sources import Source, find, load_tokenizer
from randout.testing.models import LABELS

TEXTS = ["the fever of the doctor", "a goal for the team", "bank and market"] * 3
OTHERS = ["trophy", "zzz qqq 7!", "unheard-of nonsense xyz", "tennis stadium loan"]


@pytest.fixture(scope="module")
def saved(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(family, pooling) -> the folder of a classifier of the tiny encoder, as a run saves it."""

    def of(family: str, pooling: Any = "first") -> Path:
        folder = tmp_path_factory.mktemp("saved") / "model"
        encoder = loading.load(find(str(tiny_model(family))), id2label=LABELS, pooling=pooling)
        loading.save(encoder, folder, 32, "")
        return folder

    return of


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "first"), ("roberta", "first"), ("modernbert", "first"), ("mpnet", "first"), ("bert", "mean")],
)
def test_texts_whose_tokens_are_kept_have_the_same_logits(
    family: str, pooling: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    folder = saved(family, pooling)
    source = Source(family, folder)
    found = vocabulary.trim(source, TEXTS, tmp_path / "small")
    assert len(found.kept) < found.before
    small = find(str(tmp_path / "small"))
    assert small.config["vocab_size"] == len(found.kept)
    before, after = load_tokenizer(source), load_tokenizer(small)
    for text in [*TEXTS, "the doctor and the team", *OTHERS]:
        old, new = before(text)["input_ids"], after(text)["input_ids"]
        if set(old) <= set(found.kept.tolist()):
            assert found.kept[new].tolist() == old
        assert (after.unk_token_id in new) == (before.unk_token_id in old), text
    kept = [*TEXTS[:3], "the doctor and the team"]
    logits = [load_classifier(str(one)).logits(kept, lambda count: None) for one in (folder, tmp_path / "small")]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)
    load_classifier(str(tmp_path / "small")).logits(OTHERS, lambda count: None)  # any text has a prediction
    assert small.files()
    sizes = [sum(path.stat().st_size for path in one.files()) for one in (small, source)]
    assert sizes[0] < sizes[1]


def tokenizer_of(content: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(content))


def check_same(made: Tokenizer, texts: list[str], more: list[str]) -> None:
    """Trimmed to `texts`: their ids, and those of other texts whose tokens are kept, are renumbered; none is unknown."""
    content = json.loads(made.to_str())
    used = {at for text in texts for at in made.encode(text).ids}
    kept = vocabulary.kept_ids(content, used)
    small = tokenizer_of(vocabulary.trimmed_tokenizer(content, kept))
    assert small.get_vocab_size() == len(kept) < made.get_vocab_size()
    compared = 0
    for text in [*texts, *more]:
        old, new = made.encode(text), small.encode(text)
        if set(old.ids) <= set(kept):
            assert [kept[at] for at in new.ids] == old.ids, text
            assert new.tokens == old.tokens
            compared += 1
    assert compared >= len(texts)


def test_a_unigram_vocabulary_is_trimmed() -> None:
    letters = [(letter, -9.0 - at / 10) for at, letter in enumerate("▁abcdefghij")]
    words = [("▁head", -3.0), ("▁bad", -4.0), ("▁cab", -4.5), ("▁he", -3.2), ("ad", -3.4), ("▁dig", -5.0), ("ji", -6.0)]
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *letters, *words], unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    check_same(made, ["head bad", "he ad"], ["head he", "dig", "jig cab", "bad bad xyz"])


def test_a_bpe_vocabulary_keeps_the_parts_of_its_tokens() -> None:
    vocabulary_of = {piece: at for at, piece in enumerate(["<s>", "</s>", *"abcde", "ab", "cd", "abcd", "de", "cde"])}
    made = Tokenizer(models.BPE(vocabulary_of, [("a", "b"), ("c", "d"), ("ab", "cd"), ("d", "e"), ("c", "de")]))
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    made.add_special_tokens(["<s>", "</s>"])
    content = json.loads(made.to_str())
    kept = vocabulary.kept_ids(content, made.encode("abcd").ids)
    pieces = {at: piece for piece, at in made.get_vocab().items()}
    assert {pieces[at] for at in kept} == {"<s>", "</s>", *"abcde", "ab", "cd", "abcd"}
    check_same(made, ["abcd"], ["de", "abcde", "cdab", "eabcd"])


def test_other_tokenizers_and_full_vocabularies_are_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    content = json.loads(Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).to_str())
    with pytest.raises(vocabulary.NotTrimmed, match="WordLevel"):
        vocabulary.kept_ids(content, [0])
    source = Source("bert", saved("bert"))
    words = [word for word in load_tokenizer(source).get_vocab() if not word.startswith("[")]
    with pytest.raises(vocabulary.NotTrimmed, match="in use"):
        vocabulary.trim(source, [" ".join(words), "[MASK]"], tmp_path / "small")
    assert not (tmp_path / "small").exists()
