"""docs/how-to/add-a-method.md, word for word: a file and a package outside the source tree, and a built-in method."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from randout.testing.models import toy_texts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text(encoding="utf-8")
FILES = {
    name: text
    for _, name, text in re.findall(r"^```(python|toml) file=(\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
}
LOSS, NOISE = "confidence-penalty", "gaussian-dropout"
TINY = ["--set", "epochs=1", "--set", "precision=float32"]


def blocks(kind: str) -> list[str]:
    """The fenced blocks of the page whose opening line is exactly `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands(method: str) -> list[list[str]]:
    """The page's commands on a method, with trainings made small."""
    found = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if method in line]
    small = ("train", "compare", "search")
    return [[*words, *TINY] if words[1] in small else words for words in found]


def run(words: Sequence[str], where: Path, *paths: Path) -> str:
    """Standard output and error of a program in the folder `where`, which must succeed. paths: of PYTHONPATH."""
    path = os.pathsep.join(map(str, paths))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["RANDOUT_CACHE"] = str(where / "cache")
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


COMMANDS = """
import json, sys
from randout.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
    print("end of", words[1])
"""  # one after the other, for starting an interpreter with the libraries takes longer than a tiny training


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A folder outside the source tree with the page's files, a table and an encoder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    texts, labels = toy_texts(90, 0)
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    shutil.copytree(tiny_model("bert"), folder / "minilm")
    return folder


@pytest.fixture(scope="module")
def site(place: Path) -> Path:
    """What `pip install ./gaussian-dropout` puts on the path, without an index: the module and its metadata."""
    project = tomllib.loads(FILES["gaussian-dropout/pyproject.toml"])
    about, folder = project["project"], place / "site"
    named = f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    (folder / named).mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (folder / named / "METADATA").write_text(text, encoding="utf-8")
    lines = [line for group, points in about["entry-points"].items() for line in (f"[{group}]", *_points(points))]
    (folder / named / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(place / "gaussian-dropout" / f"{module}.py", folder)
    return folder


def _points(points: dict[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in points.items()]


def run_of(place: Path, method: str, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder and the record of the run that trained a method with these settings."""
    found = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in place.glob("runs/*/run.json")}
    ((folder, record),) = [
        (path, one) for path, one in found.items() if one["identity"]["methods"].get(method) == settings
    ]
    return folder, record


@pytest.mark.slow
def test_a_loss_in_a_file(place: Path) -> None:
    """Listed, trained, compared, searched, written as a recipe, and trained from Python."""
    asked = commands(LOSS)
    assert [words[1] for words in asked] == ["methods", "train", "compare", "init", "search"]
    out = run([sys.executable, "-c", COMMANDS, json.dumps(asked)], place, ROOT / "src")
    assert out.count("end of ") == len(asked)
    assert "beta of section 3" in out
    assert "file confidence_penalty.py" in out
    recipe = tomllib.loads((place / "penalty.toml").read_text(encoding="utf-8"))
    assert recipe["methods"] == {"ce": recipe["methods"]["ce"], LOSS: {"weight": 0.3}}
    folder, record = run_of(place, LOSS, {"weight": 0.3})
    assert record["plugins"][LOSS]["file"] == "confidence_penalty.py"
    assert LOSS in (folder / "history.json").read_text(encoding="utf-8"), "its loss is logged apart"
    study = json.loads((place / "studies" / "penalty" / "study.json").read_text(encoding="utf-8"))
    assert {cell["arm"]: cell["state"] for cell in study["cells"]} == {"plain": "finished", LOSS: "finished"}


@pytest.mark.slow
def test_the_same_loss_in_python(place: Path) -> None:
    (code,) = blocks("python run")
    out = run([sys.executable, "-c", f"{code}\nprint(result.run.record.plugins)"], place, ROOT / "src", place)
    assert f"{{'{LOSS}': {{'sha256': " in out


@pytest.mark.slow
def test_a_noise_in_an_installed_package(place: Path, site: Path) -> None:
    asked = commands(NOISE)
    assert [words[1] for words in asked] == ["methods", "train"]
    out = run([sys.executable, "-c", COMMANDS, json.dumps(asked)], place, ROOT / "src", site)
    assert out.count("end of ") == len(asked)
    assert "standard deviation of the factor" in out
    assert "package gaussian-dropout 0.1" in out
    _, record = run_of(place, NOISE, {"sigma": 0.4})
    assert {**record["plugins"][NOISE], "sha256": ""} == {
        "package": "gaussian-dropout",
        "version": "0.1",
        "sha256": "",
        "file": "gaussian_dropout.py",
    }


@pytest.mark.slow
def test_the_noise_keeps_the_contract_in_a_test_of_its_own(place: Path, site: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gaussian_dropout.py"]
    out = run(words, place / "gaussian-dropout", ROOT / "src", site)
    from randout.testing import CHECKS

    assert f"{len(CHECKS)} passed" in out


def test_the_page_names_every_check() -> None:
    from randout.testing import CHECKS

    (table,) = re.findall(r"^\| check \| promise \|\n.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    assert [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)] == list(CHECKS)


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


@pytest.mark.slow
def test_a_built_in_method_keeps_the_contract(tmp_path: Path) -> None:
    """In a copy of the project, the file moved as the page says and its lines put in."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    own = FILES["confidence_penalty.py"].replace("from randout import Method, register\n", "")
    own = own.replace("@register\n", "").replace("from randout.methods import", "from .base import")
    own = own.replace("import Batch, Forward, Output,", "import Batch, Forward, Method, Output,")
    (tmp_path / "src" / "randout" / "methods" / "confidence_penalty.py").write_text(own, encoding="utf-8")
    for name, block in re.findall(r"^```diff file=(\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        path = tmp_path / name
        path.write_text(inserted(path.read_text(encoding="utf-8"), block), encoding="utf-8")
    (line,) = blocks("sh built-in")
    out = run([sys.executable, *shlex.split(line)[1:]], tmp_path, tmp_path / "src")
    assert int(re.findall(r"(\d+) passed", out)[0]) > 10
    assert "failed" not in out
