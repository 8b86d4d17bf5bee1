"""What can be told from the settings and the table is told before PyTorch and the other large libraries are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import randout

CALLS = [  # words of a command line, its exit code, and what it prints
    (["--version"], 0, f"randout {randout.__version__}"),
    (["methods"], 0, "One explained: randout methods NAME"),
    (["train", "table.csv", "--set", "epoch=3"], 2, "Did you mean 'epochs'"),
    (["train", "table.csv", "--set", "randout.token=3"], 2, "Did you mean 'tokens'"),
    (["train", "table.csv", "--sed", "3"], 2, "No such option: --sed"),
    (["train", "empty.csv"], 2, "the file is empty"),
    (["train", "no-file.csv"], 2, "no such file"),
    (["train", "table.csv", "--text-column", "txt"], 2, "no column 'txt'"),
    (["soft-labels", "no-file.csv", "--teacher", "x"], 2, "no such file"),
    (["search", "table.csv", "--set", "epoch=3"], 2, "Did you mean 'epochs'"),
    (["search", "no-file.csv", "--space", "seed=[1, 2]"], 2, "no such file"),
    (["search", "table.csv", "--space", "epoch=[1, 2]"], 2, "Did you mean 'epochs'"),
    (["compare", "table.csv", "--set", "epoch=3"], 2, "Did you mean 'epochs'"),
    (["cv", "table.csv", "--arms", "kdd"], 2, "Did you mean 'kd'"),
    (["predict", "no-run", "--file", "no-file.csv"], 2, "no such file"),
    (["runs"], 0, "unfinished"),
    (["runs", "show", "runs/none"], 2, "runs/none"),
]
PROGRAM = """
import contextlib, io, json, sys
from randout.cli import main
large = {"torch", "transformers", "sklearn", "matplotlib"}
for words in json.loads(sys.argv[1]):
    sys.argv, printed = ["randout", *words], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, printed.getvalue(), sorted(large & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Exit code, output, and large libraries loaded so far, of each of `CALLS`, all in one process."""
    folder: Path = tmp_path_factory.mktemp("quick")
    (folder / "table.csv").write_text("text,label\na film,good\na book,bad\n")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "run.json").write_text(
        '{"format": 1, "finished": null, "started": "2026-01-02T03:04:05"}'
    )
    command = [sys.executable, "-c", PROGRAM, json.dumps([words for words, _, _ in CALLS])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("at", range(len(CALLS)), ids=[" ".join(words) for words, _, _ in CALLS])
def test_it_is_told_before_large_libraries_load(answers: list[Any], at: int) -> None:
    _, code, text = CALLS[at]
    found, printed, loaded = answers[at]
    assert text in printed
    assert found == code
    assert loaded == []
