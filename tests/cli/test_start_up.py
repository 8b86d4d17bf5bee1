"""What can be told from the settings and the table is told before PyTorch and the other large libraries are loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import randout
from conftest import Run
from randout.core import hardware
from randout.experiments.run import planning
from support.folders import begun, write

CALLS = [  # words of a command line, its exit code, and what it prints
    (["--version"], 0, f"randout {randout.__version__}"),
    (["methods"], 0, "Explain one: randout methods NAME"),
    (["train", "table.csv", "--set", "epoch=3"], 2, "Did you mean 'epochs'"),
    (["train", "table.csv", "--set", "randout.token=3"], 2, "Did you mean 'tokens'"),
    (["train", "table.csv", "--sed", "3"], 2, "No such option: --sed"),
    (
        ["train", "table.csv", "--teacher", "a", "--teacher", "b"],
        2,
        "--teacher: given twice; `randout train` takes it once",
    ),
    (["compare", "table.csv", "--out", "a", "-o", "b"], 2, "--out: given twice; `randout compare` takes it once"),
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
    (["annotate", "no-file.csv", "--model", "scorer", "-o", "out.csv"], 2, "no such file"),
    (["annotate", "many.csv", "--model", "scorer", "-o", "empty.csv"], 2, "already exists"),
    (["annotate", "many.csv", "--model", "scorer", "-o", "out.csv", "--labels", "a"], 2, "expected two labels or more"),
    (["annotate", "many.csv", "--model", "./none", "-o", "out.csv"], 2, "./none: no such folder"),
    (["runs"], 0, "unfinished"),
    (["runs", "list"], 2, "`randout runs` lists the runs"),
    (["runs", "runs/one"], 2, "`randout runs show RUN` shows one"),
    (["runs", "--help"], 0, "`randout runs` lists the runs"),
    (["runs", "show", "runs/none"], 2, "runs/none"),
    (["runs", "show", "on"], 2, "Did you mean 'runs/one'?"),
    (["runs", "show", "baselin"], 2, "Did you mean 'baseline'?"),
    (["runs", "rm", "runs/on"], 2, "Did you mean 'runs/one'?"),
    (["evaluate", "runs/on"], 2, "runs/on: no such run. Did you mean 'runs/one'?"),
    (["export", "runs/on", "-o", "out"], 2, "runs/on: no such run. Did you mean 'runs/one'?"),
    (["export", "runs/one", "-o", "out"], 2, "not finished"),
    (["evaluate", "runs/one"], 2, "not finished"),
    (["evaluate", "runs/one", "--split", "tset"], 2, "expected validation or test"),
    (["evaluate", "runs/one", "many.csv", "--split", "test"], 2, "all rows of many.csv are scored"),
    (["evaluate", "runs/one", "--text-column", "text"], 2, "--text-column needs FILE"),
    (["evaluate", "runs/on", "many.csv"], 2, "Did you mean 'runs/one'?"),
    (["evaluate", "scorer", "no-file.csv"], 2, "no such file"),
    (["evaluate", "scorer", "unclear.csv"], 2, "--text-column NAME and --label-column NAME"),
    (["predict", "runs/on", "a text"], 2, "Did you mean 'runs/one'?"),
    (["predict", "runs/on", "--file", "many.csv"], 2, "Did you mean 'runs/one'?"),
    (["predict", "minilm-l7", "a text"], 2, "Did you mean 'minilm-l6'?"),
    (["predict", "many.csv"], 2, "randout predict RUN --file many.csv"),
    (["predict", "cache/models/minilm-l6", "a text"], 2, "without a classification head"),
    (["evaluate", "many.csv", "runs"], 2, "evaluate runs many.csv"),
    (["runs", "--runs", "many.csv"], 2, "many.csv: this is a file"),
    (["train", "many.csv", "--set", "epochs=true"], 2, "train.epochs: found true; expected a whole number"),
    (["train", "many.csv", "--split-column", "text"], 2, "'text 4', ..."),
    (["report", "runs/on"], 2, "Did you mean 'runs/one'?"),
    (["report", "no-run"], 2, "no such folder"),
    (["compare", "runs/one", "runs/on"], 2, "Did you mean 'runs/one'?"),
    (["compare", "no-file.csv"], 2, "no such file"),
    (["cv", "no-file.csv"], 2, "no such file"),
    (["train", "--resume", "runs/on"], 2, "Did you mean 'runs/one'?"),
    (["train", "many.csv", "--student", "minilm-l7"], 2, "Did you mean 'minilm-l6'?"),
    (["train", "many.csv", "--student", "svmm"], 2, "Did you mean 'svm'?"),
    (["train", "many.csv", "--student", "./none"], 2, "./none: no such folder"),
    (["train", "many.csv", "--teacher", "roberta-larg"], 2, "Did you mean 'roberta-large'"),
    (["train", "many.csv", "--set", 'teacher.more=["minilm-l7"]', "--teacher", "none"], 2, "'minilm-l6'"),
    (["soft-labels", "many.csv", "--teacher", "runs/on"], 2, "Did you mean 'runs/one'?"),
    (["soft-labels", "scorer", "texts", "-o", "out", "--unlabeled", "a"], 2, "--unlabeled is for a training"),
    (["soft-labels", "scorer", "texts", "-o", "out", "--set", "epochs=1"], 2, "--set is for a training"),
    (["soft-labels", "many.csv", "--teacher", "scorer", "--form", "int8"], 2, "--form is of an export"),
    (["soft-labels", "many.csv", "--teacher", "scorer", "--group", "topic"], 2, "no column 'topic'"),
    (["search", "many.csv", "--student", "minilm-l7", "--space", "seed=[1, 2]"], 2, "Did you mean 'minilm-l6'?"),
    (["compare", "many.csv", "--student", "minilm-l7"], 2, "Did you mean 'minilm-l6'?"),
    (["cv", "many.csv", "--student", "minilm-l7", "--folds", "5"], 2, "Did you mean 'minilm-l6'?"),
    (["init"], 0, "[train]"),
    (["init", "--student", "svm"], 0, "min_df"),
    (["init", "--student", "cnn"], 0, "min_count"),
    (["init", "--student", "./none"], 2, "./none: no such folder"),
    (["init", "--student", "svmm"], 0, "Did you mean 'svm'?"),
]
if not hardware.may_have_gpu():  # else PyTorch is asked for it
    CALLS.append((["doctor"], 0, "minilm-l6"))
PROGRAM = """
import contextlib, io, json, sys
from randout.cli.app import main
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
    (folder / "many.csv").write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(60)))
    (folder / "unclear.csv").write_text("a,b,c\nx,y,z\nu,v,w\n")
    (folder / "empty.csv").write_bytes(b"")
    for place, architecture in (("cache/models/minilm-l6", "BertModel"), ("scorer", "BertForSequenceClassification")):
        model = folder / place
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [architecture]}))
        (model / "tokenizer.json").write_text("{}")
        save_file({"weight": np.zeros(1, np.float32)}, model / "model.safetensors")
    (folder / "runs" / "one").mkdir(parents=True)
    write(folder / "runs" / "one" / "run.json", begun(name="baseline"))
    return carried_out([words for words, _, _ in CALLS], folder)


def test_a_machine_without_an_encoder_is_told_what_to_do_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("this is not a table with a label column\n")
    calls = [
        ["train", "rows.csv"],
        ["train", "rows.csv", "--student", "auto"],
        ["train", "rows.csv", "--dry-run"],
        ["compare", "rows.csv"],
        ["cv", "rows.csv"],
        ["search", "rows.csv", "--space", "seed=[1, 2]"],
        ["soft-labels", "rows.csv", "--teacher", "rows"],
    ]
    answered = carried_out(calls, tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"))
    for words, (code, printed, loaded) in zip(calls, answered, strict=True):
        assert (words, code, loaded) == (words, 2, [])
        assert "no encoder is on this machine" in printed, words
        assert "randout train DATA --student svm" in printed, words
        assert "rows.csv" not in printed, words


def carried_out(calls: list[list[str]], folder: Path, **variables: str) -> list[Any]:
    """Exit code, output, and large libraries loaded so far, of each call, all in one new process."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(calls)]
    environment = {**os.environ, "RANDOUT_CACHE": str(folder / "cache")} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("at", range(len(CALLS)), ids=[" ".join(words) for words, _, _ in CALLS])
def test_it_is_told_before_large_libraries_load(answers: list[Any], at: int) -> None:
    _, code, text = CALLS[at]
    found, printed, loaded = answers[at]
    assert text in printed
    assert found == code
    assert loaded == []


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "randout", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"randout {randout.__version__}"


SMALL = ["--teacher", "none", "--preset", "plain", "--set", "epochs=1", "--set", "precision=float32"]


@pytest.fixture
def words(run: Run, tiny_model: Any, toy_csv: Any, tmp_path: Path) -> list[str]:
    """The command of a finished run, its table and its encoder copied into the working folder."""
    shutil.copy(toy_csv(90), tmp_path / "rows.csv")
    shutil.copytree(tiny_model("bert"), tmp_path / "bert")
    found = ["train", "rows.csv", "--student", "bert", *SMALL]
    code, _, errors = run(*found)
    assert code == 0, errors
    return found


def test_a_finished_run_is_found_before_large_libraries_load(run: Run, words: list[str], tmp_path: Path) -> None:
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/run.json"))
    assert len(json.loads((folder / "run.json").read_text())["request"]) == 64
    before = run(*words, "-q")
    again, resumed = carried_out([words, ["train", "--resume", str(folder.relative_to(tmp_path))]], tmp_path)
    for code, printed, loaded in (again, resumed):
        assert code == 0
        assert f"already trained: runs/{folder.name}" in printed
        assert before[1] in printed, "the same scores"
        assert not {"torch", "transformers"} & set(loaded)


def test_a_command_that_may_differ_is_looked_into(
    run: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the plan, whose fingerprint decides."""
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/run.json"))

    def planned(*_: Any, **__: Any) -> None:
        raise randout.UserError("a plan is made")

    monkeypatch.setattr(planning, "make", planned)

    def looked_into(*more: str) -> bool:
        code, _, errors = run(*words, *more)
        return code == 2 and "a plan is made" in errors

    options = ["--set batch_size=8", "--fresh", "--name another", "-o runs/else", "--dry-run"]
    assert [looked_into(*more.split()) for more in options] == [True] * len(options)
    for file, old, new in (
        (folder / "metrics.json", b'"test"', b'"rest"'),
        (tmp_path / "rows.csv", b"sport", b"tennis"),
    ):
        before = file.read_bytes()
        file.write_bytes(before.replace(old, new))
        assert looked_into(), file.name
        file.write_bytes(before)
    (folder / "checkpoint").mkdir()
    assert looked_into()
    (folder / "checkpoint").rmdir()
    assert not looked_into(), "the command itself is found"
    os.utime(tmp_path / "bert" / "model.safetensors")
    assert looked_into()


def test_a_run_that_was_resumed_is_found_by_the_command_that_began_it(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    more = ["--seed", "2", "-o", "runs/parts"]
    assert run(*words, *more, "--time-limit", "0s")[0] == 0
    assert not json.loads((tmp_path / "runs" / "parts" / "run.json").read_text())["finished"]
    assert run("train", "--resume", "runs/parts")[0] == 0
    ((code, printed, loaded),) = carried_out([[*words, *more]], tmp_path)
    assert (code, "already trained: runs/parts" in printed) == (0, True)
    assert "torch" not in loaded
