"""The code in a model card runs as printed, in the model's folder, and gives the names of labels."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

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


@pytest.mark.parametrize("student", ["encoder", "mnb-count"])
def test_the_head_of_a_card_holds_the_scores_for_the_hub(
    student: str, run: Run, toy_csv: Any, tiny_model: Any, tmp_path: Path
) -> None:
    table = Path(shutil.copy(toy_csv(90, 1), tmp_path / "film: 'reviews' #1.csv"))
    model = tiny_model("bert") if student == "encoder" else student
    words = ["train", table, "--student", model, "-o", "runs/m", "--set", "output.test=false"]
    assert run(*words, *(SMALL if student == "encoder" else ()))[0] == 0

    def read() -> ModelCard:
        return ModelCard.load(tmp_path / "runs" / "m" / "model" / "README.md")

    def expected(*splits: str) -> list[tuple[Any, ...]]:
        metrics = json.loads((tmp_path / "runs" / "m" / "metrics.json").read_text())
        return [
            (table.stem, split, kind, pytest.approx(metrics[split][key], abs=5e-5))
            for split in splits
            for kind, key in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        ]

    def scores(card: ModelCard) -> list[tuple[Any, ...]]:
        return [(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value) for r in card.data.eval_results]

    card = read()
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.tags == ["randout"]
    assert card.data.library_name == ("transformers" if student == "encoder" else None)
    assert card.text.startswith(f"\n# {card.data.model_name}\n")
    assert scores(card) == expected("validation")
    assert run("evaluate", "runs/m", "--split", "test")[0] == 0
    opened = read()
    assert scores(opened) == expected("validation", "test")
    assert opened.data.tags == ["randout"]
    assert "scored with this model once" in opened.text


def test_a_head_that_was_edited_is_kept(run: Run, toy_csv: Any, tmp_path: Path) -> None:
    assert run("train", toy_csv(90, 1), "--student", "mnb-count", "-o", "runs/m", "--set", "output.test=false")[0] == 0
    path = tmp_path / "runs" / "m" / "model" / "README.md"
    head = "---\nlicense: mit  # mine\n---\n"
    path.write_text(head + path.read_text().split("---\n", 2)[2])
    assert run("evaluate", "runs/m", "--split", "test")[0] == 0
    text = path.read_text()
    assert text.startswith(head)
    assert "| test |" in text


def test_odd_labels_are_written_as_code(tmp_path: Path) -> None:
    from randout.experiments.run.model_card import usage_lines

    labels = ['a "quoted" one', "two\nlines", "健康", "back\\slash"]
    code = "\n".join(usage_lines(True, labels))
    (listed,) = re.findall(r"^labels = (.*)  #", code, re.M)
    assert eval(listed) == labels == json.loads(listed)
