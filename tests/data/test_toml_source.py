"""Data sets described by a TOML file: read, overridden by options, refused, and carried through runs."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.config import Config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import portable
from randout.data import dataset as data
from randout.experiments.run import pipeline, planning
from randout.experiments.run.reload import stored_config
from randout.storage.run_folder import RunFolder
from randout.testing.models import toy_texts
from support.tables import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "csabstruct.toml"
NAMES = ("health", "money", "sport")


def write(path: Path, n: int, seed: int, **more: list[Any]) -> Path:
    """n toy rows: words, kind (0, 1, 2) and more columns, as CSV or JSON Lines."""
    texts, labels = toy_texts(n, seed)
    kinds = [str(NAMES.index(label)) for label in labels]
    rows = [
        dict(zip(("words", "kind", *more), values, strict=True))
        for values in zip(texts, kinds, *more.values(), strict=True)
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, list(rows[0])).writerows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    return path


COLUMNS = """
text_column = "words"
label_column = "kind"
labels = {2 = "sport", 0 = "health", 1 = "money"}
max_length = 20
"""
PLAIN = 'source = "rows.csv"\ntext_column = "words"\nlabel_column = "kind"\n'


@pytest.fixture
def described(tmp_path):
    """(text, name) -> a TOML file of that text in a folder with rows.csv, dev.jsonl and test.jsonl."""
    here = tmp_path / "data"
    here.mkdir()
    write(here / "rows.csv", 120, 0, by=[f"a{i // 2}" for i in range(120)], part=["train", "dev", "test"] * 40)
    write(here / "dev.jsonl", 30, 1, by=[f"d{i}" for i in range(30)])
    write(here / "test.jsonl", 30, 2, by=[f"t{i}" for i in range(30)])

    def of(text: str, name: str = "my.toml") -> Path:
        (here / name).write_text(text, encoding="utf-8")
        return here / name

    return of


def test_one_table(described):
    path = described('name = "mine"\nabout = "words by kind"\nsource = "rows.csv"\ngroup_column = "by"' + COLUMNS)
    dataset = load(path)
    plain = load(
        path.parent / "rows.csv",
        text_column="words",
        label_column="kind",
        group_column="by",
        labels=["2", "0", "1"],
    )
    assert dataset.name == "mine"
    assert plain.id2label == {0: "2", 1: "0", 2: "1"}
    assert dataset.id2label == {0: "sport", 1: "health", 2: "money"}
    assert np.array_equal(dataset.labels, plain.labels)
    named = replace(plain, id2label=dataset.id2label)
    assert data.data_identity(dataset) == data.data_identity(named)  # the same rows, however they are named
    assert dataset.sha256 == hashlib.sha256((path.parent / "rows.csv").read_bytes()).hexdigest()
    assert dataset.max_length == 20
    assert data.describe(dataset)[1] == "about       words by kind"


def test_tables_that_come_split(described):
    files = 'train = "rows.csv"\nvalidation = "dev.jsonl"\ntest = "test.jsonl"\n'
    path = described(files + COLUMNS, "a-name.toml")
    dataset = load(path)
    assert dataset.name == "a-name"
    assert dataset.report.sizes == {"train": 120, "validation": 30, "test": 30}
    assert [dataset.row_ids[i] for i in (0, 120, 150)] == ["1", "validation#1", "test#1"]
    options = {"validation": path.parent / "dev.jsonl", "test": path.parent / "test.jsonl", "text_column": "words"}
    by_hand = load(path.parent / "rows.csv", label_column="kind", **options)
    assert dataset.sha256 == by_hand.sha256
    assert np.array_equal(dataset.split["test"], by_hand.split["test"])
    folded = load(path, folds=5, fold=5)
    assert sum(folded.report.sizes.values()) == 180
    with pytest.raises(UserError, match="already has one"):
        load(path, split="paper")
    described('source = "rows.csv"\ntest = "test.jsonl"\n' + COLUMNS)
    assert load(path.parent / "my.toml").report.sizes == {"train": 102, "validation": 18, "test": 30}


def test_a_split_column(described):
    path = described('source = "rows.csv"\nsplit_column = "part"' + COLUMNS)
    dataset = load(path)
    assert dataset.report.sizes == {"train": 40, "validation": 40, "test": 40}
    assert dataset.columns["split"] == "part"
    scored = data.load_evaluation(path, dataset.id2label)  # the rows of the test split, no others
    assert scored.texts == [dataset.texts[i] for i in dataset.split["test"]]
    assert np.array_equal(scored.labels, dataset.labels[dataset.split["test"]])
    held = load(path, test=path.parent / "test.jsonl", text_column="words", label_column="kind")
    assert held.report.sizes == {"train": 102, "validation": 18, "test": 30}  # the option goes before the column
    assert held.columns["split"] is None


def test_options_go_before_the_file(described):
    path = described('train = "rows.csv"\nvalidation = "dev.jsonl"\ntest = "test.jsonl"\ngroup_column = "by"' + COLUMNS)
    other = write(path.parent / "other.csv", 45, 9)
    dataset = load(path, test=other, group_column="part", labels=["money", "sport", "health"])
    assert dataset.report.sizes == {"train": 120, "validation": 30, "test": 45}
    assert dataset.row_ids[-1] == "other.csv#45"
    assert any("the test rows of my are not used, because --test names a file" in note for note in dataset.report.notes)
    assert dataset.columns["group"] == "part"
    assert list(dataset.id2label.values()) == ["money", "sport", "health"]
    assert np.array_equal(dataset.labels[:120], (load(path).labels[:120] + 1) % 3)
    with pytest.raises(UserError, match="comes with its own splits"):
        load(path, split_column="part")


def test_files_elsewhere(described, tmp_path):
    path = described('source = "rows.csv"' + COLUMNS)
    expected = load(path).texts
    away = shutil.copytree(path.parent, tmp_path / "away")
    for file in path.parent.glob("*.csv"):
        file.unlink()
    assert load(f"{path}:{away}").texts == expected
    described('source = "rows.csv"\nfolder = "../away"' + COLUMNS)
    assert load(path).texts == expected
    described(f'source = "{away / "rows.csv"}"' + COLUMNS)
    assert load(path).texts == expected
    described('source = "rows.csv"' + COLUMNS)
    with pytest.raises(UserError, match=r"data/rows\.csv: no such file"):
        load(path)


def test_sums_are_checked(described):
    path = described("")
    digest = hashlib.sha256((path.parent / "rows.csv").read_bytes()).hexdigest()
    for text in (f'[sha256]\nsource = "{digest}"', f'sha256.source = "{digest}"'):
        described('source = "rows.csv"' + COLUMNS + text)
        assert load(path).sha256 == digest
    described('source = "rows.csv"' + COLUMNS + f'[sha256]\nsource = "{"0" * 64}"')
    with pytest.raises(UserError) as caught:
        load(path)
    assert all(part in str(caught.value) for part in ("rows.csv", digest, "0" * 64, "sha256.source", "my.toml"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('sorce = "rows.csv"', ["my.toml: sorce", "no such setting", "Did you mean 'source'?", "docs/how-to/prepare-data.md"]),
        ('source = "rows.csv"\ntext_colum = "words"', ["text_colum", "Did you mean 'text_column'?"]),
        ('about = "nothing"', ["my.toml", "source", "train", "found neither"]),
        ('source = "rows.csv"\ntrain = "rows.csv"', ["found both"]),
        ("source = 3", ["my.toml: source: found 3", "expected text"]),
        ('source = "rows.csv"\nmax_length = 2', ["max_length: found 2", "of at least 4"]),
        ('source = "rows.csv"\nlabels = [0, 1]', ["my.toml: labels", "found 0", "expected text"]),
        ('source = "rows.csv"\nname = "a/b"', ["my.toml: name: found 'a/b'"]),
        ('source = "rows.csv"\nsha256.source = "12"', ["sha256.source: found '12'"]),
        ('source = "rows.csv"\nsha256.tset = "12"', ["sha256", "'tset'"]),
        ('source = "rows.csv"\nsha256.test = "' + "0" * 64 + '"', ["sha256.test", "no test file"]),
        ('source = "rows.csv"\ntext_column = "word"', ["rows.csv: no column 'word' (text_column in", "my.toml", "'words'?"]),
        ('source = "rows.csv"\nsplit_column = "part"\ntest = "test.jsonl"', ["split_column and the files"]),
        ('source = "row.csv"', ["row.csv: no such file. Did you mean 'rows.csv'?"]),
        ('source = "."', ["this is a folder"]),
        ("source = rows.csv", ["my.toml: not valid TOML", "line 1"]),
        ('[student]\nmodel = "x"', ["this is a recipe", "--recipe"]),
        ("[train]\nepochs = 3", ["this is a recipe"]),
        (PLAIN + 'labels = ["0", "1"]', ["rows.csv, row", "unknown label '2'"]),
        (PLAIN + 'labels = ["0", "1", "2", "3"]', ["'3'", "no row of", "rows.csv"]),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(described, text, parts):
    with pytest.raises(UserError) as caught:
        load(described(text))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_file_that_is_missing_or_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.toml: the description of the data cannot be read"):
        load("nowhere.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        load("bytes.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=r"folder\.toml: the description of the data cannot be read"):
        load("folder.toml")


def configured(source: str | Path, student: Path, **table: Any) -> Config:
    return Config(
        data={"source": str(source)} | table,
        student={"model": str(student)},
        teacher={"model": "none"},
        methods={"ce": {}},
        train={"epochs": 1, "precision": "float32", "device": "cpu", "learning_rate": 2e-3},
        output={"test": False},
    )


def test_its_max_length_is_taken_and_a_file_of_a_known_name_is_not_the_known_data_set(described, tiny_model, tmp_path):
    plan = planning.make(configured(described('source = "rows.csv"' + COLUMNS), tiny_model("bert")))
    assert plan.config.student.max_length == 20
    assert "max length: 20 tokens, as stated for my" in plan.notes
    named = write(tmp_path / "rhmd.csv", 60, 0)
    own = planning.make(configured(named, tiny_model("bert"), text_column="words", label_column="kind"))
    assert any(note.endswith("tokens, the 99th percentile of the training texts") for note in own.notes)


def test_a_max_length_that_the_encoder_limits_is_not_called_a_percentile(tiny_model, tmp_path):
    long = tmp_path / "long.csv"
    long.write_text("text,label\n" + "".join(f"{'good ' * 600}{row},{'ab'[row % 2]}\n" for row in range(40)))
    plan = planning.make(configured(long, tiny_model("bert")))
    note = next(note for note in plan.notes if note.startswith("max length"))
    limit = plan.config.student.max_length
    assert note.startswith(f"max length: {limit} tokens, the most that bert takes; the 99th percentile")
    assert int(note.rpartition(" ")[2].replace(",", "")) > limit


def test_portable_paths(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (tmp_path / "rows").mkdir()
    (tmp_path / "my.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert portable("my.toml", run) == "../../my.toml"
    assert portable("my.toml:rows", run) == "../../my.toml:../../rows"
    assert portable(f"{tmp_path}/my.toml:{tmp_path}/rows", run) == "../../my.toml:../../rows"
    assert portable("coda19:rows", run) == "coda19:../../rows"
    assert portable("coda19", run) == "coda19"
    assert portable("", run) == ""
    assert portable("gone.toml:away", run) == "gone.toml:away"


def test_a_run_from_training_to_a_colleague(described, tiny_model, run, tmp_path):
    files = 'train = "rows.csv"\nvalidation = "dev.jsonl"\ntest = "test.jsonl"\n'
    path = described(files + COLUMNS)
    quick = ["--set", "epochs=1", "--set", "precision=float32", "--no-test", "-q"]
    words = ["train", f"{path}:{path.parent}", "--student", tiny_model("bert"), "--teacher", "none", "-o", "runs/one"]
    code, _, errors = run(*words, *quick)
    assert code == 0, errors
    first = tmp_path / "runs" / "one"
    assert tomllib.loads((first / "run.toml").read_text())["data"]["source"] == "../../data/my.toml:../../data"
    for file in first.glob("*.*"):
        assert str(tmp_path).encode() not in file.read_bytes(), file
    moved = Path(shutil.copytree(tmp_path / "data", tmp_path / "there" / "data")).parent
    shutil.move(tmp_path / "runs", moved / "runs")
    shutil.rmtree(tmp_path / "data")
    again = moved / "runs" / "one"
    assert stored_config(RunFolder(again)).data.source == f"{moved}/data/my.toml:{moved}/data"
    code, out, errors = run("evaluate", again, "--split", "test", "--json")
    assert code == 0, errors
    assert json.loads(out)["rows"] == 30
    code, out, errors = run("evaluate", again, moved / "data" / "my.toml", "--json")  # its test rows
    assert code == 0, errors
    assert json.loads(out)["rows"] == 30
    with pytest.raises(UserError, match=r"describes several tables.*dev\.jsonl"):
        data.open_texts(moved / "data" / "my.toml").__enter__()
    (moved / "data" / "one.toml").write_text('source = "test.jsonl"\ntext_column = "words"')
    code, out, errors = run("predict", again, "--file", moved / "data" / "one.toml", "-q")
    assert code == 0, errors
    lines = (moved / "data" / "test.labelled.jsonl").read_text().splitlines()
    assert len(lines) == 30
    assert json.loads(lines[0]).keys() == {"words", "kind", "by", "label", "score"}


def test_a_run_that_was_stopped_goes_on_by_its_description(described, tiny_model, run, tmp_path):
    path = described('source = "rows.csv"' + COLUMNS)
    plan = planning.make(configured(path, tiny_model("bert")))
    with pytest.raises(pipeline.Stopped):
        pipeline.execute(
            plan,
            pipeline.Options(runs=tmp_path / "runs", out=tmp_path / "runs" / "one", deadline=1e-9, show=Show(True)),
        )
    code, _, errors = run("train", "--resume", tmp_path / "runs" / "one", "-q")
    assert code == 0, errors
    record = RunFolder(tmp_path / "runs" / "one").record
    assert record.finished
    assert record.fingerprint == plan.fingerprint


def test_a_description_changed_since_is_not_scored_as_if_it_were_the_same(described, tiny_model, tmp_path):
    text = 'source = "rows.csv"\nsplit_column = "part"'
    path = described(text + COLUMNS)
    options = pipeline.Options(runs=tmp_path / "runs", show=Show(quiet=True))
    result = pipeline.execute(planning.make(configured(path, tiny_model("bert"))), options)
    from randout.experiments.run.scoring import score_run

    described(
        text + COLUMNS.replace('2 = "sport", 0 = "health", 1 = "money"', '0 = "health", 1 = "money", 2 = "sport"')
    )
    with pytest.raises(UserError, match=r"not the data that the run was trained on \(different labels\)"):
        score_run(result.folder, "test", Show(quiet=True))
    described('source = "rows.csv"' + COLUMNS)
    with pytest.raises(UserError, match="different columns"):
        score_run(result.folder, "test", Show(quiet=True))
    described('about = "said anew"\nmax_length = 9\n' + text + COLUMNS.replace("max_length = 20", ""))
    assert score_run(result.folder, "test", Show(quiet=True))[0].rows == 40


@pytest.fixture
def csabstruct(tmp_path):
    """The example's description next to small files of the form of CSAbstruct, whose three files number abstracts alike.

    60, 10 and 10 abstracts of five sentences; the first sentence of each fifth abstract is a copy of one in train.jsonl.
    """
    labels = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))["labels"]
    text = EXAMPLE.read_text(encoding="utf-8")
    for name, abstracts in (("train", 60), ("dev", 10), ("test", 10)):
        rows = [
            {
                "text": f"Sentence {place} of abstract 0 of train."
                if place == 0 and at % 5 == 0
                else f"Sentence {place} of abstract {at} of {name}.",
                "label": labels[(place + at) % 5],
                "abstract": f"{name}-{at}",
                "position": place,
            }
            for at in range(abstracts)
            for place in range(5)
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        key = "validation" if name == "dev" else name
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        text = re.sub(rf'^{key} = "[0-9a-f]{{64}}"$', f'{key} = "{digest}"', text, flags=re.MULTILINE)
    (tmp_path / "csabstruct.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_csabstruct_by_its_description(csabstruct):
    source = csabstruct / "csabstruct.toml"
    dataset = load(source)
    assert dataset.name == "csabstruct"
    assert dataset.report.sizes == {"train": 300, "validation": 50, "test": 50}
    assert list(dataset.id2label.values()) == ["background", "objective", "method", "result", "other"]
    assert dataset.max_length == 100
    assert {name: len(rows) for name, rows in dataset.report.leaked.items()} == {"validation": 2, "test": 2}
    assert dataset.report.shared_groups == {
        "validation": 10,
        "test": 10,
    }  # an abstract with a copy is one group with it
    for fold in (1, 10):
        part = load(source, folds=10, fold=fold)
        assert part.report.shared_groups == {"validation": 0, "test": 0}
        assert sum(part.report.sizes.values()) == 400
    with pytest.raises(UserError, match=r"its SHA-256 is .*, expected f1eed586"):
        load(f"{EXAMPLE}:{csabstruct}")


def test_the_example_and_the_guide_are_well_formed():
    from randout.data.toml_source import Description

    described = Description.model_validate(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")))
    assert described.group_column == "abstract"
    assert set(described.sha256) == {"train", "validation", "test"}
    guide = (ROOT / "docs" / "how-to" / "prepare-data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(name = .*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert Description.model_validate(tomllib.loads(block)).labels == ("no", "yes")
    keys = {key for key in Description.model_fields if f"`{key}`" in guide or f"\n{key} = " in f"\n{block}"}
    assert keys == Description.model_fields.keys() - {"sha256"}  # whose table is in the block
