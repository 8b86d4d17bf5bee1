"""Records on disk: what is missing gets a default, what is unknown is kept, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from randout.core.errors import UserError
from randout.storage.record import Record
from randout.storage.run_folder import RunFolder, openings, summarize_runs
from randout.storage.study_folder import read_record
from randout.storage.study_record import Rung, Trial
from support.folders import begun, make_run, make_search, make_study, write


def changed(value: dict[str, Any]) -> dict[str, Any]:
    """The same object with a key that no version knows, before the others."""
    return {"zz_later": {"deep": [1, None, 0.5]}, **value}


def test_a_file_read_and_written_again_is_the_same(tmp_path: Path) -> None:
    """With its order, without new defaults, and with the keys of a later version."""
    run = RunFolder(make_run(tmp_path / "run", "kd"))
    for name in ("run.json", "metrics.json", "history.json"):
        write(
            run.path / name, changed(dict(reversed(run.read(name).items())) if name == "run.json" else run.read(name))
        )
    for name, record in (("run.json", run.record), ("metrics.json", run.metrics), ("history.json", run.history)):
        assert json.dumps(record.as_json()) == json.dumps(run.read(name))
    for folder in (make_study(tmp_path / "study"), make_search(tmp_path / "search")):
        stored = changed(json.loads((folder / "study.json").read_text()))
        stored["data"] = changed(stored["data"])
        write(folder / "study.json", stored)
        study = read_record(folder)
        before = json.loads((folder / "study.json").read_text())
        study.save()
        assert (folder / "study.json").read_text() == json.dumps(before, indent=1) + "\n"
        assert before["zz_later"]


def test_what_is_assigned_is_written_after_what_was_read() -> None:
    trial = Trial.model_validate({"later": 1, "run": "trials/0000", "number": 0, "settings": {}})
    assert (trial.state, trial.value, trial.rungs) == ("waiting", None, [])
    trial.rungs, trial.state = [Rung(0.5, 7, 0.25)], "pruned"
    assert list(trial.as_json().items()) == [
        ("later", 1),
        ("run", "trials/0000"),
        ("number", 0),
        ("settings", {}),
        ("state", "pruned"),
        ("rungs", [[0.5, 7, 0.25]]),
    ]


def test_a_file_of_the_first_version_gets_defaults(tmp_path: Path) -> None:
    write(tmp_path / "run.json", begun())
    record = RunFolder(tmp_path).record
    assert (record.name, record.runs, record.left_out, record.teachers, record.choice) == ("", "..", [], [], None)
    assert (record.identity.train.metric, record.identity.train.keep, record.identity.teachers) == (
        "accuracy",
        "best",
        [],
    )
    (tmp_path / "test-openings.jsonl").write_text(
        '{"at": "t", "run": "one", "fingerprint": "f", "data": "d", "split": "test", "by": "train"}\n{"at": "t", "r'
    )
    (opening,) = openings(tmp_path)
    assert (opening.run, opening.rows) == ("one", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": None}, "run.json: the key fingerprint has an unexpected value, None"),
        ({"identity": {}}, "run.json: expected the key identity.data; was the file written by another tool?"),
        ({"started": 3}, "run.json: the key started has an unexpected value, 3"),
        ({"format": 2}, "the run folder has format 2; this version reads format 1"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path / "one" / "run.json", begun() | change)
    with pytest.raises(UserError) as caught:
        _ = RunFolder(tmp_path / "one").record
    assert str(tmp_path / "one") in str(caught.value)
    assert said in str(caught.value)
    (row,) = summarize_runs(tmp_path)
    assert (row["run"], row["validation"]) == ("one", None)
    assert row["state"] in str(caught.value)


def test_a_study_without_a_key_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    stored = json.loads((folder / "study.json").read_text())
    del stored["cells"][1]["arm"]
    write(folder / "study.json", stored)
    with pytest.raises(UserError, match=r"study\.json: expected the key cells\.1\.arm"):
        read_record(folder)


class Inner(Record):
    values: list[int] = Field(default_factory=list)


class Outer(Record):
    """A field whose key is no Python name, and a record within it."""

    kind: int = Field(default=0, alias="class")
    inner: Inner = Field(default_factory=Inner)


def test_a_key_that_is_no_python_name_is_written_as_it_is_read() -> None:
    read = Outer.model_validate({"later": 1, "class": 2, "inner": {"zz": 3, "values": [4]}})
    assert (read.kind, read.inner.values) == (2, [4])
    assert json.dumps(read.as_json()) == '{"later": 1, "class": 2, "inner": {"zz": 3, "values": [4]}}'
    named = Outer.model_validate({"inner": {}, "kind": 5})
    assert named.kind == 5
    assert json.dumps(named.as_json()) == '{"inner": {}, "class": 5}'


def test_a_record_can_be_part_of_another() -> None:
    inner = Inner.model_validate({"zz": 1, "values": [2]})
    made = Outer(inner=inner)
    assert made.inner is inner
    assert json.dumps(made.as_json()) == '{"inner": {"zz": 1, "values": [2]}}'
    made.kind = 3
    assert json.dumps(made.as_json()) == '{"inner": {"zz": 1, "values": [2]}, "class": 3}'
