"""Messages as log records: an application's handlers and levels, and what is printed without them."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import randout
from randout.cli import app
from randout.core import console
from randout.core.console import LOG, Show

SMALL = {"teacher": "none", "preset": "plain", "settings": {"train.epochs": 1, "train.precision": "float32"}}


@pytest.fixture
def level() -> Any:
    """Set the level of the logger `randout` for one test."""
    before = LOG.level
    yield LOG.setLevel
    LOG.setLevel(before)


def test_messages_are_records_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    show = Show()
    show.say("50 % done")
    show.warn("few rows")
    show.conclude(["one", "two", "one"])
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("randout", "INFO", "50 % done"),
        ("randout", "WARNING", "few rows"),
        ("randout", "WARNING", "one"),
        ("randout", "WARNING", "two"),
    ]
    assert {record.filename for record in caplog.records} == {Path(__file__).name}


def test_they_are_printed_as_the_commands_print_them(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show()
    show.say("50 % done")
    show.warn("few rows")
    show.conclude(["one", "two", "one"])
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors == "50 % done\nwarning: few rows\n\nWarnings\n  - one\n  - two\n"


def test_quiet_and_terse(caplog: pytest.LogCaptureFixture) -> None:
    quiet, within = Show(quiet=True), Show().within()
    quiet.say("no")
    within.say("no")
    quiet.warn("3 rows")
    within.warn("4 rows")
    within.warn("5 rows")
    assert caplog.messages == ["3 rows", "4 rows"]


@pytest.mark.parametrize("above", [logging.WARNING, logging.ERROR])
def test_a_level_silences(above: int, level: Any, capsys: pytest.CaptureFixture[str]) -> None:
    level(above)
    show = Show()
    show.say("a line")
    show.warn("a warning")
    assert capsys.readouterr().err == ("warning: a warning\n" if above == logging.WARNING else "")


def test_a_level_hides_bars(level: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)
    show = Show()
    with show.bar("scoring", 2) as advance:
        advance(1, "")
    assert "scoring" in capsys.readouterr().err
    level(logging.WARNING)
    with show.bar("scoring", 2) as advance:
        advance(1, "")
    assert capsys.readouterr().err == ""


def test_a_bar_without_progress_estimates_nothing(
    level: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier that is fitted in one step reports 0 of 1 first; slow units keep two digits."""
    clock = iter([0.0, 40.0, 80.0])
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)
    monkeypatch.setattr("randout.core.console.time.monotonic", lambda: next(clock))
    with Show().bar("svm", 2, unit="fits") as advance:
        advance(0, "")
        advance(1, "")
    assert capsys.readouterr().err == "svm: 0/2\nsvm: 1/2, 0.013 fits/s, 1 min 20 s left\n"


def test_a_library_user_sees_a_training_in_the_log(
    toy_csv: Any, tiny_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, level: Any
) -> None:
    given = {"student": tiny_model("bert"), "out": tmp_path / "run", "quiet": False, **SMALL}
    randout.train(toy_csv(90, 1), **given)
    assert any("scoring the test split" in message for message in caplog.messages)
    caplog.clear()
    level(logging.CRITICAL)
    randout.train(toy_csv(90, 1), **given | {"out": tmp_path / "other", "settings": SMALL["settings"] | {"seed": 2}})
    assert not caplog.records


CONFIGURED = {
    "no handler": ("", "", "a line\nwarning: a warning\n"),
    "of the application": ("logging.basicConfig(format='[%(name)s %(levelname)s] %(message)s')", "",
        "[randout INFO] a line\n[randout WARNING] a warning\n"),
    "of the logger": ("handler = logging.StreamHandler(); LOG.addHandler(handler)", "", "a line\na warning\n"),
    "none wanted": ("LOG.addHandler(logging.NullHandler())", "", ""),
    "a command": ("logging.basicConfig(); console.print_always(); LOG.propagate = False", "",
        "a line\nwarning: a warning\n"),
    "a level": ("LOG.setLevel('WARNING')", "", "warning: a warning\n"),
    "a level before the import": ("", "LOG.setLevel('WARNING')", "warning: a warning\n"),
}  # fmt: skip


def test_a_command_prints_each_message_once(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a library has installed a handler of the root logger."""
    monkeypatch.setattr(app, "app", lambda prog_name: Show().say("a line"))
    copies = io.StringIO()
    handler = logging.StreamHandler(copies)
    logging.getLogger().addHandler(handler)
    try:
        assert command("anything") == (0, "", "a line\n")
        assert copies.getvalue() == ""
        Show().say("outside of a command")
        assert copies.getvalue() == "outside of a command\n"
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("case", CONFIGURED)
def test_an_application_decides_where_messages_go(case: str) -> None:
    after, before, expected = CONFIGURED[case]
    code = (
        f"import logging; LOG = logging.getLogger('randout')\n{before}\nfrom randout.core import console\n{after}\n"
        "show = console.Show(); show.say('a line'); show.warn('a warning')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", expected)
