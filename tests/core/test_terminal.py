"""Standard streams of the commands: texts read, encodings that lack characters, output that is not taken, signals."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from randout.cli import demo, option_groups
from randout.core import console, terminal
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.data import streaming
from randout.data.tables import read_table
from randout.experiments.run import pipeline, saved_model
from randout.models import sources
from randout.storage import locks
from randout.storage.run_folder import RunFolder


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
        (b"text\n", ["text"]),
        (b"a review, a text\nand a line\n", ["a review, a text", "and a line"]),
    ],
)
def test_each_line_of_standard_input_is_a_text(run, labelling, monkeypatch, data, lines):
    standard_input(monkeypatch, data)
    code, out, _ = run("predict", "model", "--json")
    assert code == 0
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == lines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"good\ncaf\xe9\n", "line 2: the file is not UTF-8 text (byte 0xe9 at offset 8).*--encoding latin1.*iconv"),
        (b"a\0b\n", "line 1: contains a NUL character"),
        ("a\n".encode("utf-16"), "UTF-16.*--encoding utf-16.*iconv"),
    ],
)
def test_standard_input_that_is_no_text_is_refused_by_line(run, labelling, monkeypatch, data, words):
    standard_input(monkeypatch, data)
    code, out, errors = run("predict", "model")
    assert (code, out) == (2, "")
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), errors)
    monkeypatch.setattr(sys, "stdin", None)
    code, _, errors = run("predict", "model")
    assert code == 2
    assert "standard input is closed" in errors


TABLE_ROWS = [("goal", "goal team"), ("", ""), ("bank", "bank loan, signed")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'id,Review\n1,goal team\n2,\n3,"bank loan,\n\nsigned"\n', ()),
        ("id;text\n1;goal team\n2;\n3;bank loan, signed\n".encode("utf-16"), ("--encoding", "utf-16")),
        (b"what I think\tid\ngoal team\t1\n\t2\nbank loan, signed\t3\n", ("--text-column", "what I think")),
        (b'{"text": "goal team"}\n{"text": null}\n{"text": "bank loan, signed"}\n', ()),
        (gzip.compress(b'text\ngoal team\n""\n"bank loan, signed"\n', mtime=0), ()),
    ],
)
def test_the_header_of_a_table_on_standard_input_is_no_text(run, labelling, monkeypatch, data, words):
    standard_input(monkeypatch, data)
    code, out, errors = run("predict", "model", *words)
    assert code == 0, errors
    found = [tuple(line.split("\t")[at] for at in (0, 2)) for line in out.splitlines()]
    assert [(label, " ".join(text.split())) for label, text in found] == TABLE_ROWS
    assert "1 of 3 texts is empty and gets no label: row 2" in errors
    assert ("standard input is a table" in errors) == ("--text-column" not in words)


def test_the_column_that_a_run_was_trained_on_names_a_table_too(run, labelling, monkeypatch):
    monkeypatch.setattr(saved_model, "trained_columns", lambda name: {"text": "summary"})
    standard_input(monkeypatch, b'id,summary,area\n1,goal team,x\n2,"bank loan, signed",y\n')
    code, out, errors = run("predict", "model")
    assert code == 0, errors
    assert [line.split("\t")[2] for line in out.splitlines()] == ["goal team", "bank loan, signed"]
    assert "predicting for the texts in column 'summary'" in errors


@pytest.fixture
def labelling(monkeypatch):
    """`predict` without a model: the label of a text is its first word, with probability 0.5. The number of texts that
    each call labelled.
    """
    names, calls = ["goal", "bank", "other"], []

    def logits(texts, seen):
        calls.append(len(texts))
        seen(len(texts))
        first = [text.split()[0] for text in texts]
        own = np.array([[name == (word if word in names else "other") for name in names] for word in first])
        return np.log(np.where(own, 0.5, 0.25)).astype(np.float32)

    monkeypatch.setattr(sources, "check_there", lambda name: None)
    monkeypatch.setattr(saved_model, "local_folder", lambda name, form="": name)
    monkeypatch.setattr(
        saved_model, "load_classifier", lambda *_: saved_model.LoadedClassifier(dict(enumerate(names)), logits)
    )
    return calls


def test_rows_in_are_rows_out_with_empty_ones(run, labelling, monkeypatch):
    standard_input(monkeypatch, b"goal team\n\nbank loan\n")
    code, out, errors = run("predict", "model")
    assert (code, out) == (0, "goal\t0.5000\tgoal team\n\t\t\nbank\t0.5000\tbank loan\n")
    assert "1 of 3 texts is empty" in errors
    standard_input(monkeypatch, b"\ngoal\n")
    code, out, _ = run("predict", "model", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows == [{"text": "", "label": None, "score": None}, {"text": "goal", "label": "goal", "score": 0.5}]


def test_a_table_keeps_rows_without_a_text_and_says_which(run, labelling):
    Path("c.csv").write_text("id,text,label\n1,goal team,a\n2,,b\n3,bank loan,c\n")
    code, out, errors = run("predict", "model", "--file", "c.csv")
    assert code == 0
    assert Path("c.labelled.csv").read_text() == (
        "id,text,label,predicted_label,score\n1,goal team,a,goal,0.5\n2,,b,,\n3,bank loan,c,bank,0.5\n"
    )
    assert out == "3 rows written to c.labelled.csv: predicted_label and score for the texts in column 'text'\n"
    assert errors == "note: 1 of 3 texts is empty and gets no label: row 2 (line 3)\n"
    code, out, _ = run("predict", "model", "--file", "c.csv", "-o", "d.jsonl", "--json")
    assert json.loads(out) == {
        "written": "d.jsonl",
        "rows": 3,
        "text_column": "text",
        "columns": ["predicted_label", "score"],
        "without_text": 1,
    }
    assert json.loads(Path("d.jsonl").read_text().splitlines()[1])["predicted_label"] is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_probabilities_of_all_classes_have_columns_of_their_own(run, labelling, suffix):
    Path("in.csv").write_text("text,Probability_bank\ngoal team,7\n,8\nbank loan,9\n")
    out = f"out{suffix}"
    assert run("predict", "model", "-f", "in.csv", "-o", out, "--probabilities")[0] == 0
    found = read_table(out).columns
    added = ["label", "score", "probability_goal", "predicted_probability_bank", "probability_other"]
    assert list(found) == ["text", "Probability_bank", *added]
    rows = list(zip(*(found[name] for name in added), strict=True))
    assert rows[1] == (("",) if suffix == ".csv" else (None,)) * 5
    assert [float(value) for value in rows[2][1:]] == pytest.approx([0.5, 0.25, 0.5, 0.25])


def test_probabilities_are_printed_by_class(run, labelling):
    _, out, _ = run("predict", "model", "bank loan", "", "--probabilities")
    assert out == "bank\t0.5000\tgoal=0.2500\tbank=0.5000\tother=0.2500\tbank loan\n\t\t\t\t\t\n"
    _, out, _ = run("predict", "model", "bank loan", "", "--probabilities", "--json")
    full, empty = (json.loads(line) for line in out.splitlines())
    assert full["probabilities"] == pytest.approx({"goal": 0.25, "bank": 0.5, "other": 0.25})
    assert empty == {"text": "", "label": None, "score": None, "probabilities": None}


def test_evaluate_writes_every_row_with_its_prediction(run, labelling):
    Path("in.csv").write_text("id,text,label,score\n07,goal team,goal,a\n8,,bank,b\n9,bank loan,goal,c\n")
    code, out, errors = run("evaluate", "model", "in.csv", "-o", "out.csv", "--probabilities", "--json")
    assert code == 0, errors
    assert json.loads(out)["rows"] == 2
    assert json.loads(out)["without_text"] == 1
    assert json.loads(out)["accuracy"] == 0.5
    assert "warning: 1 of 3 rows has no text and is not scored: row 2 (line 3)" in errors
    assert Path("out.csv").read_text().replace("0.4999999701976776", "0.5").splitlines() == [
        "id,text,label,score,prediction,predicted_score,probability_goal,probability_bank,probability_other",
        "07,goal team,goal,a,goal,0.5,0.5,0.25,0.25",
        "8,,bank,b,,,,,",
        "9,bank loan,goal,c,bank,0.5,0.25,0.5,0.25",
    ]
    code, _, errors = run("evaluate", "no-model", "in.csv", "-o", "out.csv")
    assert code == 2
    assert "out.csv: the file already exists and is not overwritten" in errors
    run("evaluate", "model", "in.csv", "-o", "out.jsonl")
    found = read_table("out.jsonl").columns
    assert (list(found)[4:], found["prediction"]) == (["prediction", "predicted_score"], ["goal", None, "bank"])


def test_the_outputs_of_a_model_that_nobody_named_are_named_by_labels(run, labelling, monkeypatch):
    named, devices = saved_model.load_classifier("model"), []

    def opened(_, device, form=""):
        devices.append(device)
        return saved_model.LoadedClassifier({at: f"LABEL_{at}" for at in range(3)}, named.logits)

    monkeypatch.setattr(saved_model, "load_classifier", opened)
    rows = [f"{word} {at},{label}" for at in range(8) for word, label in (("goal", "g"), ("bank", "b"), ("x", "o"))]
    Path("in.csv").write_text("\n".join(["text,label", *rows]))
    code, out, _ = run("evaluate", "model", "in.csv", "--labels", "g, b, o", "--json", "--device", "cpu")
    assert (code, json.loads(out)["accuracy"], devices) == (0, 1.0, ["cpu"])
    for labels, words in {
        "": "unknown label 'g'.*--labels NAME_OF_LABEL_0,NAME_OF_LABEL_1,NAME_OF_LABEL_2, each replaced by the class",
        "g,b": "--labels: 2 names for the 3 outputs of model",
        "g,b,b": "--labels: 'b' is named more than once",
        "g,b,c": "unknown label 'o'",
        "b,g,o": "model model is right on 0.0%.*the order of its labels is wrong.*in the order of the model's outputs: "
        "--labels g,b,o",
    }.items():
        code, _, errors = run("evaluate", "model", "in.csv", *(["--labels", labels] if labels else []))
        assert code == 2
        assert re.search(words, errors), errors
    code, _, errors = run("evaluate", "model", "in.csv", "--device", "gpu")
    assert code == 2
    assert "evaluate: device: found 'gpu'" in errors


def test_blocks_are_labelled_in_turn_with_one_model(run, labelling, monkeypatch):
    rows = [f"{'goal' if at % 3 else 'bank'} {at}" for at in range(2 * streaming.ROWS + 2)]
    Path("in.csv").write_text("\n".join(["text", *rows]))
    code, _, errors = run("predict", "model", "-f", "in.csv")
    assert (code, errors, labelling) == (0, "", [streaming.ROWS, streaming.ROWS, 2])
    found = read_table("in.labelled.csv").columns
    assert (found["text"], found["label"]) == (rows, [row.split()[0] for row in rows])
    standard_input(monkeypatch, "\n".join(rows).encode())
    _, out, _ = run("predict", "model")
    assert [line.split("\t")[2] for line in out.splitlines()] == rows


def test_options_that_do_not_go_together_are_refused(run):
    for words in (["a", "--encoding", "latin1"], ["a", "--text-column", "text"], ["a", "-f", "b"], ["-o", "c.csv"]):
        code, _, errors = run("predict", "model", *words)
        assert (code, errors.startswith("error: predict: ")) == (2, True)
    for words in (["-o", "c.csv"], ["--labels", "a,b"], ["--encoding", "latin1"], ["--probabilities"]):
        code, _, errors = run("evaluate", "model", *words)
        assert (code, errors.startswith("error: evaluate: ")) == (2, True)


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
    console.complain("d")


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

    monkeypatch.setattr(sources, "check_there", lambda name: None)
    monkeypatch.setattr(saved_model, "local_folder", lambda name, form="": name)
    monkeypatch.setattr(saved_model, "load_classifier", predict)
    before = signal.getsignal(getattr(signal, name))
    assert run("predict", "model", "a")[0::2] == (code, f"stopped by {name}\n")
    assert put_away == [name]
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.usefixtures("hangups")
def test_a_hangup_stops_a_training_unless_it_is_ignored():
    with terminal.stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.why == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminal.stop_on_signal() as stop, terminal.stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert not stop.why
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_stopped_says_how_to_resume_with_a_path_that_can_be_pasted(run, monkeypatch):
    def stop(*_, **__):
        raise pipeline.Stopped("SIGHUP", RunFolder(Path("my run")))

    monkeypatch.setattr(demo, "demonstrate", stop)
    code, _, errors = run("demo")
    assert code == 129
    assert "same command" in errors
    monkeypatch.setattr(option_groups, "requested", stop)
    code, _, errors = run("train", "rows.csv")
    assert code == 129
    assert "randout train --resume 'my run'" in errors


def test_a_file_system_without_locks_is_warned_of_once_and_another_process_is_not(tmp_path, monkeypatch, capsys):
    def flock(number):
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)

    monkeypatch.setattr(locks, "WITHOUT_LOCKS", set())
    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        flock(number)
        with locks.locked(tmp_path / str(number), "run"):
            assert (tmp_path / str(number) / ".lock").exists()
    assert capsys.readouterr().err.count("has no locks") == 1
    for number in (errno.EWOULDBLOCK, errno.EACCES):  # some file systems report a held lock as EACCES
        flock(number)
        with pytest.raises(UserError, match="another process"), locks.locked(tmp_path / "held", "run"):
            pass


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from randout.storage.locks import locked\n"
        "with locked(Path(sys.argv[1]), 'run'): print('held', flush=True); time.sleep(600)"
    )
    for _ in range(2):  # the second holder replaces the number that the killed first one left
        holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout.readline() == "held\n"
            busy = rf"another process \(pid {holder.pid} on \S+\) is working on this run"
            with pytest.raises(UserError, match=busy), locks.locked(tmp_path, "run"):
                pass
        finally:
            holder.kill()
            holder.communicate()
    with locks.locked(tmp_path, "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Failure, match=r"cannot be written .* Name another with -o"),
        locks.locked(tmp_path / "file", "run"),
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
