"""`randout annotate`: the table it writes, its use as a teacher, resuming, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import randout
from conftest import Run
from randout.core.console import Advance, Show
from randout.core.errors import UserError
from randout.experiments.annotation import Request, annotate
from randout.models.label_prompts import Prompt
from randout.models.label_scoring import load_scorer
from randout.models.sources import find_causal_lm
from randout.testing.models import LABELS, build_decoder, toy_texts

SETTINGS = {"epochs": 1, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_decoder("qwen3", tmp_path_factory.mktemp("chat") / "qwen3")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 rows with ids; row 2 has no text and rows 3 and 4 have the same one."""
    texts, labels = toy_texts(60, 1)
    texts[1], texts[3], labels[3] = "", texts[2], labels[2]
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "text", "label"), *zip(range(60), texts, labels, strict=True)])
    return tmp_path / "table.csv"


def request(table: Path, chat: Path, out: str = "labels.parquet", **options: Any) -> Request:
    more: dict[str, Any] = {"labels": tuple(LABELS.values()), "device": "cpu"} | options
    return Request(str(table), str(chat), table.with_name(out), **more)


@pytest.mark.parametrize("answer", ["name", "letter"])
def test_each_row_has_the_probabilities_of_its_text(answer: str, table: Path, chat: Path) -> None:
    done = annotate(request(table, chat, answer=answer, id_column="id", batch_size=4), Show(quiet=True))
    found = pq.read_table(done.path).to_pydict()
    with table.open(newline="") as stream:
        texts = [row["text"] or None for row in csv.DictReader(stream)]
    assert list(found) == ["id", "text", "prob_health", "prob_money", "prob_sport"]
    assert found["text"] == texts
    shares = np.array([found[f"prob_{label}"] for label in LABELS.values()], dtype=float).T
    assert np.isnan(shares[1]).all()
    assert np.array_equal(shares[2], shares[3])
    record = json.loads(done.record.read_text())
    scorer = load_scorer(find_causal_lm(str(chat)), Prompt(tuple(LABELS.values()), answer), "cpu", record["precision"])
    expected = np.concatenate([scorer.score([text]).probabilities for text in texts[4:8] if text])
    assert np.allclose(shares[4:8], expected, atol=1e-5 if record["precision"] == "float32" else 0.05)
    assert (done.rows, done.texts, done.empty, done.cut) == (60, 58, 1, 0)
    assert (done.on_labels is None) == (answer == "letter")


def test_the_record_says_how_the_file_was_made(table: Path, chat: Path) -> None:
    prompt = table.with_name("prompt.txt")
    prompt.write_text("Text: {text}\nOne of {labels}?")
    done = annotate(request(table, chat, "labels.csv", answer="name", prompt=prompt, limit=5), Show(quiet=True))
    record = json.loads(done.record.read_text())
    assert record["model_sha256"] == find_causal_lm(str(chat)).fingerprint()
    assert record["template"] == "Text: {text}\nOne of {labels}?"
    whole = "<|start|>user\nText: {text}\nOne of health, money, sport?<|end|>\n<|start|>assistant\n"
    assert record["whole_prompt"] == whole
    assert record["rows"] == 5
    assert len(done.path.read_text().splitlines()) == 6
    assert sorted(path.name for path in table.parent.iterdir() if path.name.startswith("labels")) == [
        "labels.csv",
        "labels.csv.annotation.json",
    ]


class Interrupted(Show):
    """Shows nothing, and is interrupted after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__(quiet=True)
        self.left = batches

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0, unit: str = "texts") -> Iterator[Advance]:
        def advance(number: int, note: str = "") -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("out", ["labels.parquet", "labels.jsonl"])
def test_an_interrupted_annotation_is_resumed_with_the_same_bytes(out: str, table: Path, chat: Path) -> None:
    options: dict[str, Any] = {"answer": "name", "batch_size": 7}
    whole = annotate(request(table, chat, f"whole-{out}", **options), Show(quiet=True))
    asked = request(table, chat, out, **options)
    with pytest.raises(KeyboardInterrupt):
        annotate(asked, Interrupted(3))
    assert not asked.out.exists()
    answered = asked.progress.read_bytes()
    assert answered.count(b"\n") == 4  # what is annotated, and three batches
    asked.progress.write_bytes(answered[:-20])  # the last batch was cut by a crash
    counted = Interrupted(-1)
    annotate(asked, counted)
    assert -1 - counted.left == 9 - 2  # 58 distinct texts are nine batches, of which two were kept
    assert asked.out.read_bytes() == whole.path.read_bytes()
    assert not asked.progress.exists()


def test_other_settings_do_not_resume(table: Path, chat: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        annotate(request(table, chat), Interrupted(1))
    with pytest.raises(UserError, match=r"labels\.parquet\.progress: .* with another instruction\. Repeat its command"):
        annotate(request(table, chat, instruction="What?"), Show(quiet=True))


def test_a_student_learns_from_the_file(run: Run, chat: Path, toy_csv: Any, tiny_model: Any) -> None:
    data = toy_csv(60, 1)
    code, printed, _ = run("annotate", data, "--model", chat, "-o", "labels.parquet", "--device", "cpu")
    assert code == 0
    assert "60 rows written to labels.parquet: the probability of health, money, sport" in printed
    done = randout.train(data, student=tiny_model("bert"), teacher="labels.parquet", preset="kd", settings=SETTINGS)
    labels = done.run.record.teacher.soft_labels
    assert labels is not None
    assert labels.rows == labels.of
    assert labels.form.startswith("probabilities (prob_health")
    again = run("annotate", data, "--model", chat, "-o", "labels.parquet")
    assert again[0] == 2
    assert "labels.parquet: the file already exists and is not overwritten" in again[2]


def test_pairs_with_a_field_are_read_whole_and_joined_by_all_columns(
    run: Run, chat: Path, tiny_model: Any, tmp_path: Path
) -> None:
    texts, labels = toy_texts(60, 1)
    rows = [
        (f"{at % 3}/3", text, "they find water", label)
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    rows += [(place, text, "it was the day", label) for place, text, _, label in rows[:3]]  # another second text
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("place", "premise", "hypothesis", "label"), *rows])
    words = ["annotate", "pairs.csv", "--model", chat, "--text-pair", "hypothesis", "--prefix-column", "place"]
    code, _, error = run(*words, "-o", "soft.csv", "--device", "cpu", "--answer", "name")
    assert code == 0, error
    with (tmp_path / "soft.csv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    names = [f"prob_{name}" for name in LABELS.values()]
    assert list(found[0]) == ["premise", "place", "hypothesis", *names]
    assert [(row["place"], row["premise"], row["hypothesis"]) for row in found] == [row[:3] for row in rows]
    for first, other in zip(found[:3], found[60:], strict=True):
        assert [first[name] for name in names] != [other[name] for name in names]
    record = json.loads((tmp_path / "soft.csv.annotation.json").read_text(encoding="utf-8"))
    assert (record["pair"], record["prefix"], record["texts"]) == ("hypothesis", "place", 63)
    assert record["instruction"] == "Which label fits this pair of texts best?"
    prompt = Prompt(tuple(LABELS.values()), "name", record["instruction"])
    scorer = load_scorer(find_causal_lm(str(chat)), prompt, "cpu", record["precision"])
    whole = f"premise: place: 0/3 | {texts[0]}\nhypothesis: they find water"
    expected = scorer.score([whole]).probabilities[0]
    assert np.allclose(
        [float(found[0][name]) for name in names], expected, atol=1e-5 if record["precision"] == "float32" else 0.05
    )
    code, out, error = run(
        "train", "pairs.csv", "--teacher", "soft.csv", "--dry-run", *words[4:], "--student", tiny_model("bert")
    )
    assert code == 0, error
    assert "joined by exact text (columns premise, place, hypothesis)" in out
    code, _, error = run(*words[:4], "--text-column", "premise", "--text-pair", "other", "-o", "other.csv")
    assert code == 2
    assert "no column 'other', which holds the second text of each pair; name another one with --text-pair" in error


def test_in_python(table: Path, chat: Path) -> None:
    out = table.with_name("labels.csv")
    done = randout.annotate(table, chat, out, labels=["health", "other"], id_column="id", limit=3, device="cpu")
    assert done.labels == ("health", "other")
    assert out.read_text().splitlines()[0] == "id,text,prob_health,prob_other"
    with pytest.raises(UserError, match="annotate: labels: found 'a,b'; expected a list of names"):
        randout.annotate(table, chat, out, labels="a,b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "labels.png"}, r"unknown suffix '\.png'"),
        ({"labels": ("a",)}, "expected two labels or more"),
        ({"labels": ("a", "b", "a")}, "'a' is named twice"),
        ({"answer": "word"}, "--answer word: expected one of letter, name"),
        ({"instruction": " "}, "--instruction: found an empty text"),
        ({"prompt": "all.txt"}, "Add --answer name"),
        ({"prompt": "all.txt", "answer": "name"}, r"all\.txt: no \{text\} in this prompt"),
        ({"prompt": "none.txt", "answer": "name"}, r"--prompt .*none\.txt: cannot be read"),
        ({"batch_size": 0}, "--batch-size: found 0; expected 1 or more"),
        ({"limit": -1}, "--limit: found -1"),
        ({"device": "gpu"}, "device"),
        ({"text_column": "txt"}, r"no column 'txt' \(--text-column"),
        ({"id_column": "number"}, r"no column 'number' \(--id-column"),
        ({"labels": (), "label_column": "id"}, r"Or name the labels: --labels a,b,c"),
        ({"labels": (), "label_column": "class"}, r"no column 'class' \(--label-column"),
        ({"labels": tuple(f"class {n}" for n in range(27))}, "found 27 labels; expected at most 26"),
        ({"labels": ("text", "b"), "id_column": "prob_b"}, r"a column is named 'prob_b'"),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(
    options: dict[str, Any], message: str, table: Path, chat: Path
) -> None:
    table.with_name("all.txt").write_text("Classify!")
    if options.get("id_column") == "prob_b":
        table.write_text(table.read_text().replace("id,", "prob_b,", 1))
    if "prompt" in options:
        options = options | {"prompt": table.with_name(options["prompt"])}
    with pytest.raises(UserError, match=message):
        annotate(request(table, chat, **options), Show(quiet=True))


def test_models_that_cannot_answer(table: Path, tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found BERT in config\.json; expected a causal language model"):
        annotate(request(table, tiny_model("bert")), Show(quiet=True))
    classifier = build_decoder("qwen3", tmp_path / "classifier", LABELS)
    with pytest.raises(UserError, match="this is a classifier, which answers without a prompt; use it as --teacher"):
        annotate(request(table, classifier), Show(quiet=True))
    base = build_decoder("qwen3", tmp_path / "base", chat=False)
    with pytest.raises(UserError, match=r"has no chat template, which --answer letter needs\. Use --answer name"):
        annotate(request(table, base), Show(quiet=True))
