"""The library used wrongly: our own errors, with what was found and what to write, before anything is computed."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import randout
from randout.core import config, terminal
from randout.core.errors import UserError
from randout.experiments.run import pipeline, planning
from randout.experiments.run.student_kinds import BagOfWordsBaseline
from randout.integrations.attach import applied
from randout.methods.base import Method
from randout.methods.builtin import METHODS
from randout.testing.models import toy_texts

MISTAKES = [
    (
        lambda: randout.Randout(token=3),
        r"Randout: token: no such setting\. Did you mean 'tokens'\? Randout has tokens, ",
    ),
    (
        lambda: randout.Randout(64, 2),
        r"Randout\(64, 2\): settings are given by name, as in Randout\(tokens=64, units=2\)",
    ),
    (lambda: randout.Randout(tokens=-1, units="x"), r"tokens: found -1; .*\nRandout: units: found 'x'"),
    (lambda: randout.KnowledgeDistillation(weigth=1), "Did you mean 'weight'"),
    (lambda: setattr(randout.Randout(), "tokens", 3), r"cannot be changed; create a new one: Randout\(tokens=3\)"),
    (lambda: randout.predict("run", "one text"), "found one text, 'one text'; expected a list"),
    (lambda: randout.predict("run", b"one text"), "found one text"),
    (lambda: randout.predict("run", "one text"), r": randout\.predict\(model, \[text\]\)$"),
    (lambda: randout.predict("run", {"text": ["a"]}), "found a dict, expected a list"),
    (lambda: randout.predict("run", None), "found a NoneType"),
    (lambda: randout.predict("run", ["a", None]), r"texts\[1\] is None, a NoneType; expected a string"),
    (lambda: randout.predict("run", ["a", float("nan")]), r"texts\[1\] is nan, a float"),
    (lambda: randout.predict("run", ["\ud83d"]), r"texts\[0\] contains unpaired surrogates"),
    (lambda: randout.predict(None, ["a"]), "model: found None, a NoneType; expected a run or a folder"),
    (lambda: randout.predict("run", ["a"], device="gpu"), "predict: device: found 'gpu'"),
    (lambda: randout.predict("./no-run", ["a"]), "no-run: no such folder"),
    (lambda: randout.train("a.csv", name=3), "train: name: found 3, an int; expected a string"),
    (lambda: randout.train("a.csv", name=" "), "--name ' ': expected printable text on one line"),
    (lambda: randout.train("a.csv", student=3), "train: student: found 3, an int; expected a model"),
    (
        lambda: randout.train("a.csv", settings=[("seed", 1)]),
        "train: settings: found .*, a list; expected settings by name",
    ),
    (lambda: randout.train("a.csv", settings={1: 2}), "settings: found the key 1"),
    (lambda: randout.train("a.csv", settings={"learning_rat": 1}), "Did you mean 'learning_rate'"),
    (lambda: randout.train("a.csv", settings={"epochs": "many"}), "train.epochs: found 'many'"),
    (lambda: randout.train("a.csv", settings={"randout.token": 3}), "Did you mean 'tokens'"),
    (lambda: randout.train("a.csv", settings={"methods.randout": 3}), "methods.randout: found 3"),
    (lambda: randout.train("a.csv", preset="kdd"), "Did you mean 'kd'"),
    (lambda: randout.train("a.csv", time_limit="2h"), "time_limit: found '2h', a str; expected seconds"),
    (lambda: randout.train("a.csv", out=3), "out: found 3, an int; expected a folder"),
    (lambda: randout.attached(None, randout.Randout()).__enter__(), r"found one method, expected a list: \[Randout"),
    (
        lambda: randout.attached(None, [randout.Randout]).__enter__(),
        r"found the class Randout, expected .*: Randout\(\)",
    ),
    (lambda: randout.attached(None, ["randout"]).__enter__(), "found 'randout', expected a method"),
    (lambda: randout.for_trainer(randout.RDrop()), r"found one method, expected a list: \[RDrop"),
    (lambda: randout.for_trainer("r-drop"), "found 'r-drop', expected a list of methods"),
]


@pytest.mark.parametrize("at", range(len(MISTAKES)))
def test_mistakes_are_told_in_our_own_words(at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = MISTAKES[at]
    with pytest.raises(UserError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


def test_recipes_name_the_table_where_the_library_names_the_class():
    with pytest.raises(
        UserError, match=r"^methods\.randout\.token: no such setting\. Did you mean 'tokens'\? `randout init`"
    ):
        config.build([{"methods": {"randout": {"token": 3}}}], METHODS)


def test_a_method_is_still_an_ordinary_value():
    made = randout.Randout(tokens=3, layers=2)
    assert made.layers == (2,)
    assert made == pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made.model_copy()
    assert hash(made) == hash(randout.Randout(tokens=3, layers=[2]))


def acts_alone(kind: type[Method]) -> bool:
    """Whether a method acts in the forward pass or on the weights, and the loop need not ask it for anything."""
    return not any(hook in vars(kind) for hook in ("loss", "gradient", "inputs", "stepped", "evaluated"))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_would_do_nothing_by_itself_is_not_applied(name, load):
    """What `applied` takes changes the logits of a training forward; all else is refused, naming `attached`."""
    import torch

    method = {"mixout": METHODS["mixout"](p=0.9), "dropout-rates": METHODS["dropout-rates"](hidden=0.9)}.get(
        name, METHODS[name]()
    )
    model = load("bert", dropout=0.0, attention_dropout=0.0).model.train()
    ids = {"input_ids": torch.tensor([[2, 30, 40, 50, 60, 3]])}
    with torch.no_grad():
        clean = model(**ids).logits
        for parameter in model.parameters():
            parameter += 0.01  # Mixout goes back to the weights at its start
        moved = model(**ids).logits
        if not acts_alone(METHODS[name]):
            with pytest.raises(UserError, match=r"randout\.attached\(model, \[\w+\(\)\]\)"), applied(model, method):
                pass
            assert torch.equal(model(**ids).logits, moved)
            return
        for parameter in model.parameters():
            parameter -= 0.01
        with applied(model, method):
            for parameter in model.parameters():
                parameter += 0.01
            assert not torch.allclose(model(**ids).logits, moved, atol=1e-6)
    assert not torch.allclose(clean, moved, atol=1e-6)


@pytest.fixture
def two_texts(run):
    """A table with the columns `text`, the same in every row, and `summary`, which has the texts; and a run trained on
    the latter.
    """
    import csv

    texts, labels = toy_texts(90, 0)
    with Path("two.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [("text", "summary", "label"), *(("the", t, y) for t, y in zip(texts, labels, strict=True))]
        )
    words = ["--student", "mnb-count", "--text-column", "summary", "-o", "my run", "-q"]
    code, out, errors = run("train", "two.csv", *words)
    assert code == 0, errors
    assert "next    randout predict 'my run' " in out
    return run


def test_the_column_that_was_trained_on_is_read(two_texts):
    import json

    run = two_texts
    for model in ("my run", "my run/model"):
        _, named, _ = run("evaluate", model, "two.csv", "--text-column", "summary", "--json")
        code, bare, errors = run("evaluate", model, "two.csv", "--json")
        assert code == 0
        assert "trained on" in errors, "most of these rows trained it"
        assert "column" not in errors
        found = [json.loads(printed) for printed in (named, bare)]
        first, second = (one.pop("test_rows") for one in found)
        assert found[0] == found[1]
        assert (second["rows"], second["openings"]) == (first["rows"], first["openings"] + 1)
        assert json.loads(bare)["accuracy"] > 0.9
    _, other, _ = run("evaluate", "my run", "two.csv", "--text-column", "text", "--json")
    assert json.loads(other)["accuracy"] < 0.5
    assert "text 'summary', label 'label'" in run("evaluate", "my run", "two.csv")[2]
    code, out, errors = run("predict", "my run", "--file", "two.csv", "-q")
    assert (code, errors) == (0, "")
    assert "in column 'summary'" in out
    Path("new.csv").write_text("text\ngoal\n")
    code, out, errors = run("predict", "my run", "--file", "new.csv", "-q")
    assert code == 0
    assert "trained on texts in column 'summary', but texts of new.csv are read from column 'text'" in errors
    assert run("predict", "my run", "--file", "new.csv", "-o", "b.csv", "--text-column", "text", "-q")[2] == ""


def test_evaluate_names_its_own_arguments_for_columns(two_texts):
    Path("unclear.csv").write_text("a,b,c\nx,y,z\nu,v,w\n", encoding="utf-8")
    with pytest.raises(UserError, match=r'--label-column NAME \(in Python: text_column="NAME", label_column="NAME"\)'):
        randout.evaluate("my run", "unclear.csv")
    with pytest.raises(
        UserError, match=r'\(in Python: settings=\{"data.text_column": "NAME", "data.label_column": "NAME"\}'
    ):
        randout.train("unclear.csv", student="mnb-count")


def test_texts_that_are_numbers_give_a_warning(two_texts):
    run, warning = (
        two_texts,
        "warning: the texts in column 'text' are numbers; if another column holds the texts, name it",
    )
    words = ["--student", "mnb-count", "--set", "classifier.min_df=1", "-q", "-o"]
    rows = [f"{i * 7}.5,x{i},{i % 2}" for i in range(60)]
    Path("numbers.csv").write_text("\n".join(["text,other,label", *rows]), encoding="utf-8")
    assert warning in run("train", "numbers.csv", *words, "numbers")[2]
    assert "are numbers" not in run("train", "numbers.csv", *words, "named", "--text-column", "text")[2]
    assert warning in run("evaluate", "named", "numbers.csv", "-q")[2]
    assert "are numbers" not in run("evaluate", "named", "numbers.csv", "--text-column", "text", "-q")[2]
    for command in ("compare", "cv", "search"):
        planned = [command, "numbers.csv", "--student", "mnb-count", "--dry-run", "-q"]
        planned += ["--space", "classifier.alpha=[0.5, 1.0]"] if command == "search" else []
        assert warning in run(*planned)[2]
        assert "are numbers" not in run(*planned, "--text-column", "text")[2]
    Path("new.csv").write_text("text\n1\n\n2.5\n", encoding="utf-8")
    assert warning in run("predict", "my run", "--file", "new.csv", "-q")[2]
    assert (
        "are numbers"
        not in run("predict", "my run", "--file", "new.csv", "-o", "b.csv", "--text-column", "text", "-q")[2]
    )
    Path("new.csv").write_text("text\n1\nfever 2\n", encoding="utf-8")
    assert "are numbers" not in run("predict", "my run", "--file", "new.csv", "-o", "c.csv", "-q")[2]


def test_all_texts_of_a_list_get_their_label(two_texts):
    labels, probabilities = randout.predict("my run", np.array(["goal team", "fever"]))
    assert (len(labels), probabilities.shape) == (2, (2, 3))
    assert randout.predict(Path("my run"), [])[0] == []


def test_a_result_is_shown_in_one_line(two_texts):
    result = randout.train("two.csv", student="mnb-count", settings={"data.text_column": "summary"}, out="my run")
    accuracies = [
        f"{name} accuracy {scores['accuracy']:.2%}" for name, scores in result.metrics.items() if name != "warnings"
    ]
    assert len(accuracies) == 2
    assert repr(result) == f"Result('my run', {', '.join(accuracies)})"


def test_a_finished_run_that_cannot_be_written_is_found_all_the_same(two_texts, monkeypatch):
    monkeypatch.setattr(pipeline.run_folder, "is_writable", lambda _: False)
    monkeypatch.setattr(pipeline.RunFolder, "lock", None)
    code, _, errors = two_texts(
        "train", "two.csv", "--student", "mnb-count", "--text-column", "summary", "-o", "my run"
    )
    assert code == 0
    assert "already trained: my run" in errors


@pytest.mark.parametrize(
    ("owner", "part"), [(pipeline, "taught"), (BagOfWordsBaseline, "train"), (pipeline, "score_split")]
)
def test_a_signal_in_any_part_of_a_run_says_which_run_to_resume(tmp_path, toy_csv, monkeypatch, owner, part):
    def hang_up(*_):
        raise terminal.Terminated("SIGHUP")

    monkeypatch.setattr(owner, part, hang_up)
    built = config.build([{"data": {"source": str(toy_csv(90))}, "student": {"model": "mnb-count"}}], METHODS)
    with pytest.raises(pipeline.Stopped, match="SIGHUP") as stop:
        pipeline.execute(
            planning.make(built), pipeline.Options(out=tmp_path / "run", show=pipeline.Options().show.within())
        )
    assert stop.value.run.path == tmp_path / "run"


def test_a_data_file_with_a_long_name_gives_a_name_that_a_file_system_takes(tmp_path, toy_csv):
    name = "评" * 80
    path = tmp_path / f"{name}.csv"
    path.write_bytes(toy_csv(90).read_bytes())
    built = config.build([{"data": {"source": str(path)}, "student": {"model": "mnb-count"}}], METHODS)
    plan = planning.make(built)
    assert len(plan.name.encode()) <= 200
    assert plan.name.startswith("评评")
    assert plan.name.endswith(plan.fingerprint[:8])
    (tmp_path / plan.name).mkdir()


def test_a_loaded_classifier_predicts_as_often_as_it_is_asked(two_texts):
    model = randout.load("my run")
    texts = ["goal team", "fever"]
    labels, probabilities = randout.predict("my run", texts)
    assert model.predict(texts) == labels
    assert np.array_equal(model.predict_proba(texts), probabilities)
    assert [model.id2label[int(best)] for best in probabilities.argmax(1)] == labels
    assert randout.predict(model, texts)[0] == labels
    assert model.predict([]) == []
    with pytest.raises(UserError, match=r"^predict: texts: found one text, 'fever'; .*: model\.predict\(\[text\]\)$"):
        model.predict("fever")
    with pytest.raises(UserError, match=r"^predict_proba: texts: .*: model\.predict_proba\(\[text\]\)$"):
        model.predict_proba("fever")


def test_functions_return_what_the_commands_print_as_json(two_texts):
    import json

    printed = two_texts("evaluate", "my run", "two.csv", "--json")[1]
    found = [json.loads(printed), json.loads(json.dumps(randout.evaluate("my run", "two.csv")))]
    openings = [one["test_rows"].pop("openings") for one in found]  # each counts the one before
    assert openings[1] == openings[0] + 1
    assert found[0] == found[1]
    printed = two_texts("evaluate", "my run", "--json")[1]
    assert json.loads(json.dumps(randout.evaluate("my run"))) == json.loads(printed)
    page, *_ = randout.report("my run", "page", formats="md")
    assert page.exists()


def test_runs_are_listed_with_date_and_methods_and_shown_by_name(two_texts):
    words = ["--student", "mnb-count", "--text-column", "summary", "-q"]
    code, out, _ = two_texts("train", "two.csv", *words, "-o", "runs/a b")
    assert code == 0
    import re

    code, out, _ = two_texts("runs")
    head, row = out.splitlines()
    assert re.split("  +", head) == ["name", "started", "methods", "state", "validation", "test", "folder"]
    name, started, *_, folder = re.split("  +", row)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", started)
    assert folder == "a b"
    shown = two_texts("runs", "show", "a b")[1]
    assert shown == two_texts("runs", "show", "runs/a b")[1] == two_texts("runs", "show", name)[1]
    Path("elsewhere").mkdir()
    Path("runs").rename("elsewhere/runs")
    assert two_texts("runs", "--runs", "elsewhere/runs", "show", "a b")[1] == shown
    assert two_texts("runs", "show", "a b")[0] == 2


def test_the_settings_of_a_run_are_a_recipe_in_any_folder(two_texts, monkeypatch):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, _, errors = two_texts("train", "--recipe", "../my run/run.toml", "-o", "again")
    assert code == 0, errors
    first, second = (randout.predict(run, ["goal team", "fever"]) for run in ("../my run", "again"))
    assert np.array_equal(first[1], second[1])
    assert randout.train(recipe="../my run/run.toml", out="again").folder == Path("again")


def test_settings_are_found_by_their_names_in_other_tools():
    for theirs, ours in (("lr", "learning_rate"), ("bs", "batch_size"), ("num_train_epochs", "epochs")):
        with pytest.raises(UserError, match=f"Did you mean '{ours}'"):
            config.assignment(f"{theirs}=1", METHODS)
    with pytest.raises(UserError, match="Did you mean 'temperature'"):
        randout.KnowledgeDistillation(temp=2)


def test_type_checkers_see_what_the_package_offers():
    """The imports that only type checkers read are those that are made at first use, and the package says it is typed."""
    import ast
    import importlib

    tree = ast.parse(Path(randout.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name: node.module for node in block.body for name in node.names}
    assert sorted(randout.__all__) == sorted(seen)
    for name, module in seen.items():
        assert getattr(randout, name) is getattr(importlib.import_module(f"randout.{module}"), name)
    assert {*randout.__all__, "__version__"} == set(dir(randout))
    assert all(getattr(randout, name) is not None for name in randout.__all__)
    assert Path(randout.__file__).with_name("py.typed").exists()


def test_empty_texts_get_no_label_in_the_library_as_in_the_command(two_texts):
    texts = ["goal team", "", " \t\u00a0\n", "fever"]
    model = randout.load("my run")
    with pytest.warns(UserWarning, match=r"2 of 4 texts are empty and get no label: texts\[1\], texts\[2\]") as told:
        labels = model.predict(texts)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="2 of 4 texts"):
        probabilities = model.predict_proba(texts)
    with pytest.warns(UserWarning, match=r"1 of 1 text is empty and gets no label: texts\[0\]") as told:
        assert randout.predict(model, [" "])[0] == [None]
    assert told[0].filename == __file__
    assert labels == [model.predict(["goal team"])[0], None, None, model.predict(["fever"])[0]]
    assert np.isnan(probabilities[1:3]).all()
    assert np.array_equal(probabilities[[0, 3]], model.predict_proba(["goal team", "fever"]))
    printed = [json.loads(line) for line in two_texts("predict", "my run", *texts, "--json")[1].splitlines()]
    assert [row["label"] for row in printed] == labels
