"""Standard streams of the commands: texts read, encodings that lack characters, output that is not taken, signals."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import types
import warnings
from pathlib import Path

import pytest

from randout import api, cli, demo, job, progress, runs, student, terminal
from randout.errors import Failure, UserError
from randout.progress import Show


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb", ["a", "b"]),
        (b"a\n\n b \n\n", ["a", "", " b ", ""]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        ("é\u2028ü\x0b\n".encode(), ["é\u2028ü\x0b"]),
    ],
)
def test_each_line_of_standard_input_is_a_text(monkeypatch, data, lines):
    standard_input(monkeypatch, data)
    assert terminal.input_lines() == lines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"good\ncaf\xe9\n", r"line 2: not UTF-8 text \(byte 0xe9\).*iconv"),
        (b"a\0b\n", r"line 1: a NUL character"),
        ("a\n".encode("utf-16"), "UTF-16.*iconv"),
    ],
)
def test_standard_input_that_is_no_text_is_refused_by_line(monkeypatch, data, words):
    standard_input(monkeypatch, data)
    with pytest.raises(UserError, match=words):
        terminal.input_lines()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        terminal.input_lines()


@pytest.fixture
def labelling(monkeypatch):
    """`predict` without a model: the label of a text is its first word."""

    def predict(_model, texts, **_):
        import numpy as np

        return [text.split()[0] for text in texts], np.full((len(texts), 2), 0.5)

    monkeypatch.setattr(api, "predict", predict)


def test_rows_in_are_rows_out_with_empty_ones(run, labelling, monkeypatch):
    standard_input(monkeypatch, b"goal team\n\nbank loan\n")
    code, out, errors = run("predict", "model")
    assert (code, out) == (0, "goal\t0.5000\tgoal team\n\t\t\nbank\t0.5000\tbank loan\n")
    assert "1 of 3 texts are empty" in errors
    standard_input(monkeypatch, b"\ngoal\n")
    code, out, _ = run("predict", "model", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows == [{"text": "", "label": None, "score": None}, {"text": "goal", "label": "goal", "score": 0.5}]


def test_a_table_keeps_rows_without_a_text_and_says_which(run, labelling):
    Path("c.csv").write_text("id,text,label\n1,goal team,a\n2,,b\n3,bank loan,c\n")
    code, out, _ = run("predict", "model", "--file", "c.csv")
    assert code == 0
    assert Path("c.labelled.csv").read_text() == (
        "id,text,label,predicted_label,score\n1,goal team,a,goal,0.5\n2,,b,,\n3,bank loan,c,bank,0.5\n"
    )
    assert "3 rows written to c.labelled.csv: predicted_label and score of the texts in column 'text'" in out
    assert "1 without a text (row 2)" in out
    code, out, _ = run("predict", "model", "--file", "c.csv", "-o", "d.jsonl", "--json")
    assert json.loads(out) == {
        "written": "d.jsonl",
        "rows": 3,
        "text_column": "text",
        "columns": ["predicted_label", "score"],
        "without_text": 1,
    }
    assert json.loads(Path("d.jsonl").read_text().splitlines()[1])["predicted_label"] is None


def test_the_output_is_checked_before_the_model_is_looked_for(run):
    Path("in.csv").write_text("text\na\n")
    Path("in.labelled.csv").write_text("mine")
    for words in (["-o", "in.csv"], [], ["-o", "none/out.csv"], ["-o", "out.xlsx"]):
        code, _, errors = run("predict", "no-model", "--file", "in.csv", *words)
        assert code == 2
        assert "no-model" not in errors
    assert Path("in.labelled.csv").read_text() == "mine"


class Encoded(io.TextIOWrapper):
    """Standard output in an encoding, kept."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, write_through=True)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", rb"caf\xe9 \U0001f600"), ("latin-1", b"caf\xe9 \\U0001f600")]
)
def test_characters_that_the_encoding_lacks_are_escaped(run, labelling, monkeypatch, encoding, shown):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Encoded(encoding))
    run("predict", "model", "café 😀")
    assert sys.stdout.bytes.getvalue().endswith(shown + b"\n")
    monkeypatch.setattr(sys, "stdout", Encoded(encoding))
    run("predict", "model", "café 😀", "--json")
    assert json.loads(sys.stdout.bytes.getvalue().decode("ascii"))["text"] == "café 😀"
    Show().warn("评 😀")
    assert b"warning: \\u8bc4 \\U0001f600\n" in sys.stderr.bytes.getvalue()


def test_arguments_that_are_not_text_are_refused(run):
    code, _, errors = run("predict", "model", "caf\udce9")
    assert code == 2
    assert r"argument 3 is not UTF-8 text: caf\udce9" in errors


class Refusing(io.StringIO):
    """An output that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: standard output: No space left on device\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), ""),
    ],
)
def test_output_that_is_not_taken_is_a_failure_without_a_traceback(run, labelling, monkeypatch, error, said):
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    code, _, errors = run("predict", "model", "goal")
    assert code == 1
    assert errors == said


def test_messages_that_are_not_taken_end_no_work(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(OSError(errno.EIO, "Input/output error")))
    show = Show()
    show.say("a")
    show.warn("b")
    show.terminal = True
    with show.bar("[/red] training", 10) as advance:  # brackets are a name's own, not rich's marks
        advance(3, "")
    monkeypatch.setattr(sys, "stderr", None)
    Show().say("c")
    progress.complain("d")


@pytest.fixture
def hangups():
    """SIGHUP as in a terminal: a test run under nohup ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_outside_of_a_training_ends_with_its_code_and_puts_away_what_is_half_done(
    run, monkeypatch, name, code
):
    put_away = []

    def predict(*_, **__):
        try:
            os.kill(os.getpid(), getattr(signal, name))
            signal.sigtimedwait([], 5)
        finally:
            put_away.append(name)

    monkeypatch.setattr(api, "predict", predict)
    before = signal.getsignal(getattr(signal, name))
    assert run("predict", "model", "a")[0::2] == (code, f"stopped by {name}\n")
    assert put_away == [name]
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.usefixtures("hangups")
def test_a_hangup_stops_a_training_unless_it_is_ignored():
    with student._stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.why == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with student._stop_signal() as stop, terminal.stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert not stop.why
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_stopped_says_how_to_resume_with_a_path_that_can_be_pasted(run, monkeypatch):
    def stop(*_, **__):
        raise job.Stopped("SIGHUP", runs.RunFolder(Path("my run")))

    monkeypatch.setattr(demo, "demonstrate", stop)
    code, _, errors = run("demo")
    assert code == 129
    assert "same command" in errors
    monkeypatch.setattr(cli, "requested", stop)
    code, _, errors = run("train", "rows.csv")
    assert code == 129
    assert "randout train --resume 'my run'" in errors


def test_a_file_system_without_locks_is_warned_of_once_and_another_process_is_not(tmp_path, monkeypatch, capsys):
    def flock(number):
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(runs, "fcntl", types.SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4))

    monkeypatch.setattr(runs, "WITHOUT_LOCKS", set())
    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES):
        flock(number)
        with runs.locked(tmp_path / str(number), "run"):
            assert (tmp_path / str(number) / ".lock").exists()
    assert capsys.readouterr().err.count("has no locks") == 1
    flock(errno.EWOULDBLOCK)
    with pytest.raises(UserError, match="another process"), runs.locked(tmp_path / "held", "run"):
        pass


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Failure, match=r"cannot be written .* Name another with -o"),
        runs.locked(tmp_path / "file", "run"),
    ):
        pass


def test_streams_that_the_caller_closed_are_opened_on_nothing(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, None)
        terminal.prepare()
        print("nowhere", file=sys.stderr)
        assert sys.stdin is None
        assert sys.stdout is not None
        assert terminal.finish() == ""
        for stream in (sys.stdout, sys.stderr):
            stream.close()
