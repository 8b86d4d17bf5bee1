"""Stored soft labels: what is read back is what was stored, for what it was stored, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from randout.core.console import Show
from randout.core.errors import UserError
from randout.experiments.run.soft_labels import (
    column_order,
    compute,
    fingerprint,
    read_stored_logits,
    store,
    teacher_rows,
)
from support.forward import ids_of
from support.training import tiny_encoder

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def parts(**changes: Any) -> dict[str, str]:
    given = {"model": "m", "max_length": 64, "truncation": "head", "precision": "float32"} | {"texts": ["a", "b", "é"]}
    return fingerprint(**(given | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of `LOGITS`, stored for `parts()`."""
    place, found = read_stored_logits(tmp_path, parts())
    assert found is None
    store(place, LOGITS, parts())
    return place


def test_what_is_stored_comes_back(path: Path) -> None:
    place, found = read_stored_logits(path.parent, parts())
    assert place == path
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, LOGITS)
    assert read_stored_logits(path.parent, dict(reversed(parts().items())))[0] == path, (
        "in whatever order the parts are named"
    )
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing partial is left"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"max_length": 63},
        {"truncation": "tail"},
        {"precision": "bfloat16"},
        {"texts": ["a", "b", "e"]},
        {"texts": ["a", "é", "b"]},
        {"texts": ["ab", "", "é"]},  # the same characters in a row, other texts
        {"texts": ["a", "b", "é", ""]},
    ],
)
def test_whatever_the_logits_depend_on_has_a_file_of_its_own(path: Path, changes: dict[str, Any]) -> None:
    place, found = read_stored_logits(path.parent, parts(**changes))
    assert found is None
    assert place != path


def rewritten(path: Path, logits: np.ndarray, **changes: str) -> None:
    """The file with other logits, or other metadata, and all else of it as it was."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({"logits": logits}, path, metadata=metadata | changes)


@pytest.mark.parametrize("row", range(len(LOGITS)))
def test_logits_that_changed_after_they_were_stored_are_refused(path: Path, row: int) -> None:
    """A valid safetensors file whose metadata says all that is asked for: its digest alone tells."""
    damaged = LOGITS.copy()
    damaged[row, 1] = np.nextafter(damaged[row, 1], np.float32(np.inf))
    rewritten(path, damaged)
    with pytest.raises(UserError, match=rf"{path.name}: .*sha256 differ") as caught:
        read_stored_logits(path.parent, parts())
    assert "Delete the file" in str(caught.value)
    rewritten(path, LOGITS)
    assert read_stored_logits(path.parent, parts())[1] is not None


def test_a_flipped_bit_on_disk_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="sha256 differ"):
        read_stored_logits(path.parent, parts())


@pytest.mark.parametrize("name", [*parts(), "sha256"])
def test_each_part_of_the_metadata_is_compared(path: Path, name: str) -> None:
    rewritten(path, LOGITS, **{name: "another"})
    with pytest.raises(UserError, match=f"outdated or belong to another run: {name} differ"):
        read_stored_logits(path.parent, parts())


def test_what_cannot_be_read_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path.name}: .*cannot be read"):
        read_stored_logits(path.parent, parts())


def test_logits_are_computed_once(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of the teacher itself, in the order of the texts; then read from the store, without the teacher."""
    teacher, texts = tiny_encoder(tiny_model("bert")), ["goal team match", "fever", "stock price of the bank today"]
    wanted = parts(max_length=5, texts=texts)
    made = compute(teacher, texts, tmp_path / "store", wanted, Show(), "a teacher")
    assert "soft labels: logits of a teacher for 3 texts, computed once and stored in store/" in capsys.readouterr().err
    alone = [teacher.forward(ids_of(teacher, [text], 5)).logits[0].detach().numpy() for text in texts]
    np.testing.assert_allclose(made, alone, atol=1e-5)
    no_teacher: Any = None
    again = compute(no_teacher, texts, tmp_path / "store", wanted, Show(), "a teacher")
    assert "soft labels: 3 of a teacher reused from store/" in capsys.readouterr().err
    np.testing.assert_array_equal(again, made)


def test_outputs_are_matched_by_name() -> None:
    teacher, student = {0: "no", 1: "yes", 2: "maybe"}, {0: "maybe", 1: "no", 2: "yes"}
    assert column_order(teacher, student, None, "t") == [2, 0, 1]
    assert column_order(teacher, student, (), "t") == [2, 0, 1]
    numbered = {at: f"LABEL_{at}" for at in range(3)}
    assert column_order(numbered, student, ["yes", "maybe", "no"], "t") == [1, 2, 0]
    for named in (["yes", "maybe"], ["yes", "maybe", "no", "no"]):
        with pytest.raises(UserError, match=f"{len(named)} names for the 3 outputs of t"):
            column_order(numbered, student, named, "t")
    with pytest.raises(UserError, match="its labels are yes, maybe, yes; the data's are maybe, no, yes"):
        column_order(numbered, student, ["yes", "maybe", "yes"], "t")


def test_rows_that_a_teacher_was_not_asked_for_are_nan() -> None:
    spread = teacher_rows(LOGITS[:2], np.array([3, 1]), 5)
    assert spread.shape == (5, 3)
    assert spread.dtype == torch.float32
    np.testing.assert_array_equal(spread[[3, 1]].numpy(), LOGITS[:2])
    assert torch.isnan(spread[[0, 2, 4]]).all()


@pytest.mark.parametrize(
    ("teacher", "named", "expected"),
    [
        ({0: "a", 1: "b", 2: "c"}, ["no", "yes", "other"], "the data's are maybe, no, yes$"),
        ({0: "a", 1: "b", 2: "c"}, None, "the data's are maybe, no, yes$"),
        ({0: "a", 1: "b", 2: "c"}, (), "If these are the same classes under other names.*--teacher-labels NAME_OF_a,"),
        ({0: "a", 1: "b"}, (), "A teacher must have exactly the 3 classes of the data; it has 2$"),
    ],
)
def test_what_helps_with_other_names_is_said(teacher: dict[int, str], named: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        column_order(teacher, {0: "maybe", 1: "no", 2: "yes"}, named, "t")
