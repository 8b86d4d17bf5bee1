"""Truncation by hand, batches as functions of (seed, epoch), and texts of any size."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randout.core.config import build
from randout.core.errors import UserError
from randout.experiments.run import planning
from randout.methods.builtin import METHODS
from randout.models.inference import predict
from randout.models.tokens import Tokens, batches, by_length, encode, percentile_length, truncate

CLS, SEP = 101, 102
WAYS = ["head", "head+tail"]


def text(*ids):
    return np.array([CLS, *ids, SEP], dtype=np.int32)


def uncut(rows):
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.concatenate([*rows, np.zeros(0)]).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), lengths)


def cut_by_hand(row, max_length, truncation, suffix, prefix):
    """One text: its head, then its tail, between its special tokens."""
    if len(row) <= max_length:
        return row.tolist()
    row, room = row.tolist(), max_length - prefix - suffix
    head = room // 4 if truncation == "head+tail" else room
    body, end = row[prefix : len(row) - suffix], row[len(row) - suffix :]
    return row[:prefix] + body[:head] + body[len(body) - (room - head) :] + end


class TestTruncate:
    def test_head(self):
        tokens = truncate(uncut([text(1, 2, 3, 4, 5), text(6), text(7, 8, 9)]), 5, "head", suffix=1)
        assert [tokens[i].tolist() for i in range(3)] == [[CLS, 1, 2, 3, SEP], [CLS, 6, SEP], [CLS, 7, 8, 9, SEP]]
        assert tokens.untruncated_lengths.tolist() == [7, 3, 5]
        assert tokens.lengths.tolist() == [5, 3, 5]
        assert tokens.ids.dtype == np.int32
        assert len(tokens) == 3
        assert tokens.loss_of_truncation() == (1 / 3, 2 / 15)

    @pytest.mark.parametrize(
        ("max_length", "body"),
        [(10, [1, 2, 15, 16, 17, 18, 19, 20]), (6, [1, 18, 19, 20]), (5, [18, 19, 20]), (3, [20]), (22, range(1, 21))],
    )
    def test_head_and_tail(self, max_length, body):
        """A quarter of the room, rounded down, from the head and the rest from the tail."""
        tokens = truncate(uncut([text(*range(1, 21))]), max_length, "head+tail", suffix=1)
        assert tokens[0].tolist() == [CLS, *body, SEP]

    @pytest.mark.parametrize("truncation", ["head", "head+tail"])
    def test_other_special_tokens(self, truncation):
        bare = truncate(uncut([np.arange(9)]), 4, truncation, suffix=0, prefix=0)[0]
        assert bare.tolist() == ([0, 1, 2, 3] if truncation == "head" else [0, 6, 7, 8])
        two = truncate(uncut([np.arange(9)]), 5, truncation, suffix=2, prefix=1)[0]
        assert two.tolist() == ([0, 1, 2, 7, 8] if truncation == "head" else [0, 5, 6, 7, 8])

    def test_no_room(self):
        for max_length in (0, 1, 2):
            with pytest.raises(ValueError, match="no room"):
                truncate(uncut([text(1, 2, 3)]), max_length, "head", suffix=1)

    def test_nothing(self):
        tokens = truncate(uncut([]), 5, "head", suffix=1)
        assert (len(tokens), tokens.offsets.tolist()) == (0, [0])

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(3, 40), st.sampled_from(WAYS))
    def test_properties(self, sizes, max_length, truncation):
        rows = [text(*range(1, size + 1)) for size in sizes]
        tokens = truncate(uncut(rows), max_length, truncation, suffix=1)
        for row, size in enumerate(sizes):
            kept = tokens[row].tolist()
            assert len(kept) == min(size + 2, max_length)
            assert (kept[0], kept[-1]) == (CLS, SEP)
            assert kept[1:-1] == sorted(set(kept[1:-1]))
            if truncation == "head" or size + 2 <= max_length:
                assert kept[1:-1] == list(range(1, len(kept) - 1))

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        st.lists(st.integers(0, 30), max_size=8),
        st.integers(1, 12),
        st.tuples(st.integers(0, 2), st.integers(0, 2)),
        st.sampled_from(WAYS),
    )
    def test_is_each_text_cut_by_itself(self, sizes, room, special, truncation):
        prefix, suffix = special
        rows = [np.arange(prefix + size + suffix) + 1000 * at for at, size in enumerate(sizes)]
        tokens = truncate(uncut(rows), prefix + room + suffix, truncation, suffix, prefix)
        expected = [cut_by_hand(row, prefix + room + suffix, truncation, suffix, prefix) for row in rows]
        assert [tokens[at].tolist() for at in range(len(rows))] == expected
        assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
        assert tokens.untruncated_lengths.tolist() == [len(row) for row in rows]
        assert tokens.lengths.tolist() == [len(row) for row in expected]

    def test_what_is_not_cut_is_not_copied(self):
        whole = uncut([text(1, 2, 3), text(4)])
        assert truncate(whole, 5, "head", suffix=1).ids is whole.ids


def test_percentile():
    lengths = np.arange(1, 102)  # 99 % of the way from 1 to 101
    assert percentile_length(lengths) == 100
    assert percentile_length(np.array([7])) == 7
    assert percentile_length(np.array([1, 2])) == 2  # 1.99, rounded up


def make(n=500, unlabelled=0, seed=0):
    lengths = np.random.default_rng(seed).integers(3, 60, n + unlabelled)
    rows = np.random.default_rng(seed + 1).permutation(n + unlabelled)
    return lengths, rows[:n], rows[n:]


SIZES = [(500, 0, 16), (37, 90, 8), (5, 0, 16), (16, 16, 16), (0, 9, 4)]


class TestBatches:
    @pytest.mark.parametrize("windows", [True, False])
    @pytest.mark.parametrize(("n", "unlabelled", "size"), SIZES)
    def test_every_row_once(self, n, unlabelled, size, windows):
        lengths, labelled, rest = make(n, unlabelled)
        found = batches(lengths, labelled, rest, size, seed=1, epoch=0, windows=windows)
        assert sorted(np.concatenate(found)) == sorted([*labelled, *rest])
        total = n + unlabelled
        assert sorted(map(len, found)) == sorted([size] * (total // size) + [total % size] * (total % size > 0))
        for rows in found:
            assert (np.diff(lengths[rows]) >= 0).all()

    @pytest.mark.parametrize("windows", [True, False])
    def test_function_of_seed_and_epoch(self, windows):
        lengths, labelled, rest = make(300, 40)

        def drawn(seed, epoch):
            np.random.seed(len(str(seed)) + epoch)  # global state plays no part
            return [rows.tolist() for rows in batches(lengths, labelled, rest, 16, seed, epoch, windows)]

        assert drawn(1, 0) == drawn(1, 0)
        assert drawn(1, 0) != drawn(1, 1)
        assert drawn(1, 0) != drawn(2, 0)

    @pytest.mark.parametrize(("n", "unlabelled"), [(100, 300), (300, 100), (1, 99), (99, 1), (200, 200)])
    def test_kinds_are_spread_evenly(self, n, unlabelled):
        """Of the first k rows, the labelled ones are their share of k, rounded."""
        lengths, labelled, rest = make(n, unlabelled)
        found = batches(np.ones_like(lengths), labelled, rest, 1, seed=3, epoch=2, windows=False)
        count = np.cumsum([int(rows[0]) in set(labelled.tolist()) for rows in found])
        share = np.arange(1, n + unlabelled + 1) * n / (n + unlabelled)
        assert (np.abs(count - share) <= 0.5 + 1e-9).all()

    def test_windows_save_padding(self):
        lengths, labelled, rest = make(2000)

        def padded(windows):
            return sum(len(r) * lengths[r].max() for r in batches(lengths, labelled, rest, 16, 1, 0, windows))

        assert padded(True) < 1.1 * lengths.sum() < 1.5 * lengths.sum() < padded(False)

    def test_windows_mix_the_lengths(self):
        """Long and short batches take turns: the order of batches is drawn, too."""
        lengths, labelled, rest = make(2000)
        longest = [lengths[rows].max() for rows in batches(lengths, labelled, rest, 16, 1, 0, True)]
        assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3

    def test_no_rows(self):
        nothing = np.zeros(0, dtype=np.int64)
        assert batches(np.zeros(0), nothing, nothing, 4, 1, 0, False) == []

    def test_order_is_uniform(self):
        """Each row's mean place over many epochs is the middle."""
        lengths, labelled, rest = make(20)
        places = np.zeros((400, 20))
        for epoch in range(400):
            for place, rows in enumerate(batches(lengths, labelled, rest, 1, 1, epoch, False)):
                places[epoch, rows[0]] = place
        assert np.abs(places.mean(0) - 9.5).max() < 5 * 5.77 / 20


class TestByLength:
    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.lists(st.integers(1, 80), min_size=1, max_size=60), st.integers(1, 300))
    def test_cap(self, lengths, cap):
        lengths = np.array(lengths)
        rows = np.arange(len(lengths))[::2]
        found = by_length(lengths, rows, cap)
        assert sorted(np.concatenate(found)) == rows.tolist()
        for group in found:
            assert len(group) == 1 or len(group) * lengths[group].max() <= cap

    def test_longest_first(self):
        """The batch that needs most memory comes first."""
        found = by_length(np.array([3, 9, 5]), np.arange(3), 9)
        assert [group.tolist() for group in found] == [[1], [2], [0]]

    def test_nothing(self):
        assert by_length(np.zeros(0), np.zeros(0, dtype=np.int64)) == []


class TestEncode:
    @pytest.fixture
    def tokenizer(self, tiny_model):
        from transformers import AutoTokenizer

        return lambda family: AutoTokenizer.from_pretrained(tiny_model(family))

    @pytest.mark.parametrize("family", ["bert", "roberta"])
    def test_is_the_tokenizer(self, tokenizer, family):
        made = tokenizer(family)
        texts = ["the doctor had a fever", "", "goal " * 200, "É 🙂 zzz\x00", "<pad> [PAD]"] * 3
        found = encode(made, texts, chunk=4)
        assert [found[at].tolist() for at in range(len(texts))] == [
            made(text, verbose=False)["input_ids"] for text in texts
        ]
        assert (len(found), found.ids.dtype, found.offsets.dtype) == (len(texts), np.int32, np.int64)
        assert found.untruncated_lengths.tolist() == found.lengths.tolist()
        assert len(encode(made, [])) == 0

    @pytest.mark.parametrize(
        ("family", "kind"), [pytest.param("bert", "words", marks=pytest.mark.slow), ("bert", "one word")]
    )
    def test_five_million_characters(self, tokenizer, family, kind):
        long = ("fever " * 833_334).strip() if kind == "words" else "f" * 5_000_000
        made, began = tokenizer(family), time.perf_counter()
        row = encode(made, [long, "a"])[0]
        tokens = truncate(uncut([row]), 32, "head+tail", suffix=1)
        assert time.perf_counter() - began < 60
        assert len(tokens[0]) == min(32, len(row))
        if kind == "words":
            assert len(row) == 833_336


def test_tokens_of_one_text():
    tokens = Tokens(np.arange(5, dtype=np.int32), np.array([0, 2, 5]), np.array([2, 9]))
    assert tokens[1].tolist() == [2, 3, 4]
    assert tokens.loss_of_truncation() == (0.5, 6 / 11)
    assert tokens.lengths is tokens.lengths  # made once


class TestTextsWithoutTokens:
    """A tokenizer that drops control characters and adds no special tokens."""

    @pytest.fixture
    def bare(self, load):
        from tokenizers import processors

        made = load("bert", True)
        made.tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        return replace(made, prefix=0, suffix=0)

    def test_they_are_named_and_have_one_token(self, bare):
        tokens = encode(bare.tokenizer, ["goal", "\u200b", "team goal", "\x00"], chunk=2)
        assert tokens.empty == (1, 3)
        assert tokens.lengths.tolist() == tokens.untruncated_lengths.tolist() == [1, 1, 2, 1]
        assert tokens[1].tolist() == tokens[3].tolist() == [bare.tokenizer.unk_token_id]
        assert truncate(tokens, 1, "head", 0, 0).empty == (1, 3)

    def test_prediction_is_the_same_in_any_company_packed_and_padded(self, bare):
        found = []
        for texts in (["\u200b"], ["\u200b", "goal team"], ["goal team", "\u200b"], ["a", "\u200b", "goal", "b"]):
            for encoder in (bare, replace(bare, packed=False)):
                tokens = encode(encoder.tokenizer, texts)
                logits = predict(encoder, tokens, np.arange(len(texts)), "float32")
                found.append(logits[texts.index("\u200b")])
        np.testing.assert_allclose(np.stack(found), np.stack(found[:1] * len(found)), rtol=1e-6, atol=1e-6)

    def test_a_forward_refuses_them(self, bare):
        text = torch.tensor([20, 21])
        for encoder in (bare, replace(bare, packed=False)):
            for ids, place in (([text[:0], text], 0), ([text, text[:0]], 1)):
                with pytest.raises(ValueError, match=f"text {place} of this batch has no tokens"):
                    encoder.forward(ids)
            with pytest.raises(ValueError, match="no texts"):
                encoder.forward([])
        assert predict(bare, encode(bare.tokenizer, []), np.arange(0), "float32").shape == (0, 3)

    def test_training_on_them_is_refused_with_their_rows(self, own_copy, tmp_path):
        folder = own_copy()
        path = folder / "tokenizer.json"
        table = json.loads(path.read_text())
        path.write_text(json.dumps(table | {"post_processor": None}))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        texts = [f"{word} team {n}" for n in range(12) for word in ("goal", "bank")]
        texts[4] = texts[9] = "\u200b"
        data = tmp_path / "data.csv"
        rows = [f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts)]
        data.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
        asked = {"data": {"source": str(data)}, "student": {"model": str(folder)}, "teacher": {"model": "none"}}
        with pytest.raises(
            UserError, match=r"2 of 24 texts have no tokens: rows 5, 10 \(lines 6, 11\)\..*Remove these rows"
        ):
            planning.make(build([asked | {"methods": {"ce": {}}}], METHODS))
