"""The store of tokens: what was added, in order; what a killed process left of an incomplete source is dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from randout.models.token_store import TokenStore
from randout.models.tokens import Tokens


def some_tokens(lengths: list[int], first: int = 0) -> Tokens:
    counts = np.array(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Tokens(np.arange(first, first + counts.sum(), dtype=np.int32), offsets, counts)


def logits(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)


def test_a_store_returns_what_was_added(tmp_path: Path) -> None:
    store = TokenStore.opened(tmp_path / "store", 2)
    store.add(some_tokens([3, 1]), logits(2, 0))
    store.add(some_tokens([2], 4), logits(1, 1))
    store.close_source("a", copies=2)
    store.close_source("b", copies=1)
    store.close()
    found = TokenStore.opened(tmp_path / "store", 2)
    assert (found.complete, found.rows, found.count("copies")) == (True, 3, 3)
    assert [found.tokens[row].tolist() for row in range(3)] == [[0, 1, 2], [3], [4, 5]]
    assert found.tokens.lengths.tolist() == [3, 1, 2]
    np.testing.assert_array_equal(found.logits, np.concatenate([logits(2, 0), logits(1, 1)]))


def test_rows_of_an_incomplete_source_are_dropped(tmp_path: Path) -> None:
    store = TokenStore.opened(tmp_path, 2)
    store.add(some_tokens([3]), logits(1, 0))
    store.close_source("a")
    store.add(some_tokens([5]), logits(1, 1))  # then killed
    again = TokenStore.opened(tmp_path, 2)
    assert (list(again.sources), again.rows, again.complete) == (["a"], 1, False)
    again.add(some_tokens([2], 9), logits(1, 2))
    again.close_source("b")
    again.close()
    assert [again.tokens[row].tolist() for row in range(2)] == [[0, 1, 2], [9, 10]]
    np.testing.assert_array_equal(again.logits[1], logits(1, 2)[0])


@pytest.mark.parametrize("rows", [0, 5])
def test_offsets_are_summed_in_chunks(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("randout.models.token_store.CHUNK", 2)
    store = TokenStore.opened(tmp_path, 2)
    store.add(some_tokens([1, 2, 3, 4, 5][:rows]), logits(rows, 0))
    store.close_source("a")
    store.close()
    assert store.tokens.offsets.tolist() == [0, 1, 3, 6, 10, 15][: rows + 1]
