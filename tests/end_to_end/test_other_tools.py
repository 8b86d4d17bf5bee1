"""The scripts of other tools on the page for those who come from them run, where the tool is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from randout.testing.models import build, toy_texts

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "come-from-other-tools.md"
SCRIPTS = dict(
    re.findall(r"^```python tool=(\S+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
)
TOOLS = sorted(SCRIPTS.keys() - {"read"})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with films.csv and the encoders of the page."""
    texts, labels = toy_texts(60, 0)
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    build("bert", tmp_path / "minilm")
    build("roberta", tmp_path / "big-encoder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # of the other tools
@pytest.mark.parametrize("tool", TOOLS)
def test_the_script_of_a_tool_runs(tool: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(tool, exc_type=ImportError)
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(SCRIPTS["read"] + SCRIPTS[tool], tool, "exec"), found)
    assert len(found["train"]) == 51
    if tool == "transformers":
        assert (place / "from-trainer" / "model.safetensors").exists()
        assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1


def test_every_tool_of_the_page_has_a_script() -> None:
    assert TOOLS == ["autogluon.multimodal", "setfit", "textbrewer", "transformers"]
