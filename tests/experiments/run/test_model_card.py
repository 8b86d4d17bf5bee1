"""The code in a model card runs as printed, in the model's folder, and gives the names of labels."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import randout
from conftest import Run

TEXT = "A text to classify."
SMALL = ["--set", "epochs=1", "--set", "precision=float32", "--teacher", "none", "--preset", "plain"]


class Stub:
    """As much of `SentenceTransformer` as the card needs, by randout's own reader, where the library is not installed."""

    def __init__(self, folder: str) -> None:
        self.saved = randout.load(folder).saved

    def encode(self, texts: Sequence[str], convert_to_tensor: bool = False) -> Any:
        assert convert_to_tensor
        return torch.from_numpy(self.saved.logits(texts, lambda done: None))


def printed_by_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each block of code of a model card prints, run in the model's folder."""
    if importlib.util.find_spec("sentence_transformers") is None:
        module = ModuleType("sentence_transformers")
        module.SentenceTransformer = Stub  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.chdir(folder)
    found = []
    for code in re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(encoding="utf-8"), re.M | re.S):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "README.md", "exec"), {})
        found.append(out.getvalue().strip())
    return found


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_code_of_an_encoders_card(
    pooling: str, run: Run, toy_csv: Any, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", toy_csv(90, 1), "--student", tiny_model("bert"), "-o", "runs/m", *SMALL]
    assert run(*words, "--set", f"pooling={pooling}")[0] == 0
    folder = tmp_path / "runs" / "m" / "model"
    (label,) = randout.load(folder).predict([TEXT])
    printed = printed_by_card(folder, monkeypatch)
    if pooling == "mean":
        assert printed == [str([label])] * 2
    else:
        (line,) = printed
        assert f"'label': '{label}'" in line


def test_the_code_of_a_card_of_a_bag_of_words(
    run: Run, toy_csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", toy_csv(90, 1), "--student", "mnb-count", "-o", "runs/m")[0] == 0
    folder = tmp_path / "runs" / "m" / "model"
    assert printed_by_card(folder, monkeypatch) == [str(randout.load(folder).predict([TEXT]))]


def test_odd_labels_are_written_as_code(tmp_path: Path) -> None:
    from randout.experiments.run.scoring import _usage

    labels = ['a "quoted" one', "two\nlines", "健康", "back\\slash"]
    code = "\n".join(_usage(True, labels))
    (listed,) = re.findall(r"^labels = (.*)  #", code, re.M)
    assert eval(listed) == labels == json.loads(listed)
