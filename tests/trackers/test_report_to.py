"""Trackers are named, known and installed before anything is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from randout.core.errors import UserError
from randout.trackers import report_to
from randout.trackers.report_to import ReportTo, trackers_of


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(report_to.PACKAGES, "there", ("json", "there"))
    monkeypatch.setitem(report_to.PACKAGES, "also", ("csv", "also"))
    monkeypatch.setitem(report_to.PACKAGES, "absent", ("no_such_module_1", "its-package"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [(None, ()), ("", ()), ("none", ()), ("there", ("there",)), ("also, there,also", ("also", "there"))],
)
def test_a_text_of_names(asked: str | None, names: tuple[str, ...]) -> None:
    assert trackers_of(asked).names == names


def test_a_list_of_names_is_the_same() -> None:
    assert trackers_of(["there", "also"]) == trackers_of("there,also")


def test_all_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_to, "PACKAGES", {"there": ("json", "there"), "absent": ("no_such_module_1", "x")})
    assert trackers_of("all").names == ("there",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("ther", "no tracker 'ther'. Did you mean 'there'?"),
        ("absent", "absent: not installed. Install it with: pip install its-package"),
        ("none,there", "none stands alone"),
    ],
)
def test_what_is_refused(asked: str, message: str) -> None:
    with pytest.raises(UserError, match="--report-to") as caught:
        trackers_of(asked)
    assert message in str(caught.value)


def test_anything_but_names_is_refused() -> None:
    wrong: Any = [True]
    with pytest.raises(UserError, match="expected names of trackers"):
        trackers_of(wrong)


def test_a_command_refuses_an_absent_tracker_before_it_reads_the_data(run: Run) -> None:
    for words in (["train"], ["search"], ["compare"], ["cv"], ["shrink"]):
        code, _, error = run(*words, "no-such-file.csv", "--report-to", "absent")
        assert code == 2
        assert "pip install its-package" in error
    assert not os.listdir()


def test_a_worker_gets_the_same_as_plain_values(tmp_path: Path) -> None:
    made = ReportTo(("there", "also"), tmp_path / "study", "study", "seed 1, plain")
    assert ReportTo.from_json(json.loads(json.dumps(made.as_json()))) == made
    assert ReportTo.from_json(ReportTo().as_json()) == ReportTo()


def test_wandb_without_a_key_is_refused_rather_than_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    with pytest.raises(UserError, match="wandb login"):
        trackers_of("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers_of("wandb").names == ("wandb",)
