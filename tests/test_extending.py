"""docs/how-to/add-a-method.md is carried out, word for word, in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import toy_texts

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text(encoding="utf-8")


def inserted(text: str, block: str) -> str:
    """`text` with the lines marked + put after the line that stands before them in the block."""
    at = 0
    for line in block.splitlines():
        if line.startswith("+"):
            text = f"{text[:at]}{line[1:]}\n{text[at:]}"
            at += len(line)
        else:
            found = text.index(f"{line[1:]}\n", at)
            at = found + len(line)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the page's files written and its lines put in."""
    folder = tmp_path_factory.mktemp("extending")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for kind, name, block in re.findall(r"^```(python|diff) file=(\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        path = folder / name
        assert path.exists() == (kind == "diff"), name
        path.write_text(
            inserted(path.read_text(encoding="utf-8"), block) if kind == "diff" else block, encoding="utf-8"
        )
    return folder


def run(project: Path, words: list[str], where: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


COMMANDS = """
import json, sys
from randout.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
    print("end of", words[1])
"""  # one after the other, for starting an interpreter with the libraries takes longer than a tiny training


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_contract_holds(project: Path) -> None:
    (words,) = [words for words in commands() if words[0] == "python"]
    out = run(project, [sys.executable, *words[1:]], project)
    assert int(re.findall(r"(\d+) passed", out)[0]) > 10
    assert "failed" not in out


def test_it_is_listed_trained_and_compared(project: Path, tiny_model, tmp_path: Path) -> None:
    texts, labels = toy_texts(90, 0)
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    shutil.copytree(tiny_model("bert"), tmp_path / "minilm")
    asked = [words for words in commands() if words[0] == "randout"]
    small = ["--set", "epochs=1", "--set", "precision=float32"]
    asked = [words if words[1] == "methods" else [*words, *small] for words in asked]
    listed, _, rest = run(project, [sys.executable, "-c", COMMANDS, json.dumps(asked)], tmp_path).partition(
        "end of methods"
    )
    assert "beta of section 3" in listed
    assert "confidence-penalty" in rest.partition("end of train")[2]
    assert rest.endswith("end of compare\n")
