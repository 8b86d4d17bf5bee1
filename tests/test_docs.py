"""README and guide are run: every command and every Python block, on tiny stand-ins for the models they name."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import toy_texts
from randout import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
TINY = ["--set", "epochs=1", "--set", "precision=float32"]


def blocks(kind: str, document: str = README) -> list[str]:
    """The fenced blocks of a document whose opening line is exactly `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A folder in which the README's names exist: reviews.csv, more-texts.csv, new-reviews.csv, minilm, big-encoder."""
    folder = tmp_path_factory.mktemp("readme")
    for name, seed in (("reviews.csv", 0), ("new-reviews.csv", 1)):
        texts, labels = toy_texts(120, seed)
        rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        (folder / name).write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "more-texts.csv").write_text("\n".join(["text", *toy_texts(40, 2)[0]]) + "\n", encoding="utf-8")
    shutil.copytree(tiny_model("bert"), folder / "minilm")
    shutil.copytree(tiny_model("roberta"), folder / "big-encoder")
    shutil.copytree(tiny_model("bert"), folder / "cache" / "models" / "minilm")
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`place` as the working folder, with its own caches."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RANDOUT_CACHE", str(place / "cache"))
    return place


def test_every_command_of_the_readme_works(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("randout ")]
    assert len(commands) >= 10
    _carry_out(commands, monkeypatch, capsys)


def test_every_command_and_study_of_the_page_on_studies_works(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, run in ((1, "first"), (1, "second")):
        preset = "plain" if run == "first" else "randout"
        made = f"randout train reviews.csv -o runs/{run} --student minilm --preset {preset} --seed {seed}"
        if not (there / "runs" / run).exists():
            _carry_out([made], monkeypatch, capsys)
    commands = [line for block in blocks("sh", STUDIES) for line in block.splitlines() if line.startswith("randout ")]
    assert {shlex.split(line)[1] for line in commands} == {"search", "compare", "cv"}
    (study,) = blocks("toml", STUDIES)
    (there / "four-arms.toml").write_text(study.replace("[1, 2, 3, 4, 5]", "[1, 2]"), encoding="utf-8")
    _carry_out([*commands, "randout compare four-arms.toml --dry-run"], monkeypatch, capsys)


def _carry_out(commands: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in this process, those that train with one epoch; none may fail."""
    for line in commands:
        words = shlex.split(line, comments=True)
        trains = words[1] in ("train", "search", "cv") or (words[1] == "compare" and "--student" in words)
        monkeypatch.setattr(sys, "argv", [*words, *(TINY if trains else [])])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None), f"{line}: {capsys.readouterr().err}"


def test_every_python_block_of_the_readme_works(there: Path) -> None:
    code = "\n".join(blocks("python")).replace('"epochs": 2', '"epochs": 1, "precision": "float32"')
    assert "applied_to" in code
    assert "pipeline" in code
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_every_python_block_of_the_guide_works(there: Path) -> None:
    code = "\n".join(blocks("python", GUIDE))
    assert "attached" in code
    assert "for_trainer" in code
    exec(compile(code, "guide.md", "exec"), {"__name__": "guide"})


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_commands_of_the_documents_have_real_options() -> None:
    """Every `--option` that a document shows for randout is one that the command has."""
    from typer.main import get_command

    from randout.cli import app

    command = get_command(app)
    known = {option for sub in command.commands.values() for p in sub.params for option in p.opts}  # type: ignore[attr-defined]
    known |= {option for sub in command.commands["runs"].commands.values() for p in sub.params for option in p.opts}  # type: ignore[attr-defined]
    for document in [ROOT / "README.md", ROOT / "docs" / "guide.md"]:
        for line in document.read_text(encoding="utf-8").splitlines():
            for option in re.findall(r"(?:`| )(--[a-z][a-z-]+)", line):
                assert option in known, f"{document.name}: {option}"


def test_the_studies_behind_the_results_can_be_read() -> None:
    from randout.methods import METHODS
    from randout.study import arm_config, read_study

    found = [
        path for path in (ROOT / "docs" / "results").glob("*.toml") if "[arms." in path.read_text(encoding="utf-8")
    ]
    assert found
    for path in found:
        study = read_study(path)
        assert {arm_config(study, arm, METHODS).train.epochs for arm in study.arms} == {1}
        assert len(study.seeds) >= 3
