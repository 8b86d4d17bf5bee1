"""Mistakes at the command line of searches, comparisons and cross-validations: exit code 2, one readable line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import randout
from randout.core import config
from randout.core.console import Show
from randout.experiments import study_requests
from randout.experiments.run import pipeline, planning
from randout.experiments.study.spec import arm_config
from randout.methods.builtin import METHODS

STUDY = """
name = "s"
seeds = [1]
[base.data]
source = "{data}"
[base.student]
model = "{student}"
[base.train]
device = "cpu"
[arms.plain]
preset = "plain"
[arms.randout]
preset = "randout"
"""


@pytest.fixture
def run(run, toy_csv, tiny_model):
    """The fixture of that name, in a folder that has rows.csv, a model and a study."""
    shutil.copy(toy_csv(90), "rows.csv")
    Path("bert").symlink_to(tiny_model("bert"))
    Path("study.toml").write_text(STUDY.format(data="rows.csv", student="bert"))

    return run


ROWS = ["rows.csv", "--student", "bert", "--preset", "plain"]
RATES = ["--space", "learning_rate=[1e-3]"]
MISTAKES: list[tuple[list[str], list[str]]] = [
    (["predict", "bert", "./"], ["./ is a folder", "--file FILE"]),
    (["search"], ["empty", "--space"]),
    (["search", *RATES], ["no data", "reviews.csv"]),
    (["search", *ROWS], ["empty", "--space"]),
    (["search", *ROWS, "--space", "nonsense"], ["nonsense", "KEY=[VALUES]", "paper, figures"]),
    (["search", *ROWS, "--space", "papr"], ["Did you mean 'paper'?"]),
    (["search", *ROWS, "--space", "paper", "--space", "figures"], ["--space figures", "paper is given already"]),
    (["search", *ROWS, "--space", "learning_rate=[]"], ["learning_rate", "non-empty"]),
    (["search", *ROWS, "--space", "learning_rat=[1e-3]"], ["learning_rat", "Did you mean 'learning_rate'?"]),
    (["search", *ROWS, "--space", "epochs=[0]"], ["trial 0", "train.epochs 0", "expected a whole number above 0"]),
    (["search", *ROWS, "--space", "kd.weight=[0.5]"], ["nothing to search"]),
    (["search", "rows.csv", "--student", "svm"], ["nothing to search", "classifier.C=[0.1, 1]"]),
    (["search", *ROWS, "--space", "kd.weight=[0.5]", "--dry-run"], ["nothing to search"]),
    (["search", *ROWS, *RATES, "--trials", "-1"], ["search.trials", "-1"]),
    (["search", *ROWS, *RATES, "--search-seed", "-1"], ["search.seed", "-1"]),
    (["search", *ROWS, *RATES, "--sampler", "random"], ["search.sampler", "'random'", "'grid' or 'tpe'"]),
    (["search", *ROWS, *RATES, "--sampler", "tpe"], ["number of trials", "--trials 30"]),
    (["search", *ROWS, *RATES, "--keep", "some"], ["search.keep", "'best', 'all' or 'none'"]),
    (["search", *ROWS, *RATES, "--time-limit", "soon"], ["--time-limit soon", "2h"]),
    (["search", *ROWS, *RATES, "--teacher", "bert"], ["--teacher bert", "no method"]),
    (["search", *ROWS, *RATES, "-o", "rows.csv"], ["rows.csv", "not a study folder"]),
    (["search", *ROWS, *RATES, "-o", "x.csv"], ["x.csv", "a folder is written here", "such as x"]),
    (["compare", *ROWS, "-o", "x.parquet", "--seeds", "1"], ["x.parquet", "a folder is written here"]),
    (["cv", *ROWS, "-o", "x.tsv"], ["x.tsv", "a folder is written here"]),
    (["shrink", *ROWS, "-o", "x.json", "--teacher", "bert"], ["x.json", "a folder is written here"]),
    (["train", *ROWS, "-o", "model.safetensors"], ["model.safetensors", "a folder is written here"]),
    (["label-issues", "rows.csv", "-o", "issues.csv"], ["issues.csv", "a folder is written here", "such as issues"]),
    (["report", "bert", "-o", "r.html"], ["r.html", "a folder is written here"]),
    (["demo", "-o", "demo.zip"], ["demo.zip", "a folder is written here"]),
    (["search", *ROWS, *RATES, "--recipe", "odd.toml"], ["--preset and --recipe"]),
    (["search", "rows.csv", "--recipe", "odd.toml"], ["search.trails", "Did you mean 'trials'?", "a search has"]),
    (["search", "none.csv", *RATES], ["none.csv"]),
    (["compare"], ["error: no data"]),
    (["compare", "rows.csv", "--student", "bert", "--arms", "plain,kdd"], ["'kdd'", "Did you mean 'kd'?"]),
    (["compare", "rows.csv", "--student", "bert", "--arms", "plain,plain"], ["two arms are named plain"]),
    (["compare", "rows.csv", "--student", "bert", "--arms", "none.toml"], ["none.toml", "cannot be read"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--seeds", "0"], ["--seeds 0", "1 or more"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--seeds", "x"], ["--seeds x", "1,2,3"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--seeds", "1,1"], ["seeds: found [1, 1]", "once"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--seeds", ""], ["--seeds", "1,2,3"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--baseline", "plian"], ["'plian'", "Did you mean 'plain'?"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--metric", "acc"], ["metric", "'acc'"]),
    (["compare", *ROWS, "--arms", "plain,randout", "--margin", "2"], ["margin", "less than 1"]),
    (["compare", *ROWS, "--drop-one"], ["--drop-one", "no method to drop"]),
    (["compare", "rows.csv", "--drop-one", "--arms", "plain"], ["leave --arms out"]),
    (["compare", "study.toml", "--arms", "plain"], ["study.toml", "leave out --arms"]),
    (["compare", "study.toml", "--set", "epochs=1", "--trials", "3"], ["leave out --set, --trials"]),
    (["compare", "misspelt.toml"], ["misspelt.toml", "baselin", "Did you mean 'baseline'?"]),
    (["compare", "arm.toml"], ["arm.toml", "arm:", "Did you mean 'arms'?"]),
    (["compare", "nobase.toml"], ["no arm 'plian'", "Did you mean 'plain'?"]),
    (["compare", "broken.toml"], ["broken.toml", "not valid TOML"]),
    (["compare", "none.toml"], ["none.toml", "cannot be read"]),
    (["compare", "wrong.toml"], ["arms.plain", "train.epoch", "Did you mean 'epochs'?"]),
    (["compare", "flat.toml"], ["base.data", "'rows.csv'", "table"]),
    (["compare", "fewfolds.toml"], ["folds: found 3", "at least 5"]),
    (["compare", "mixed.toml"], ["arms.randout", "test rows differ from those"]),
    (["compare", "notest.toml"], ["no test split"]),
    (["compare", "empty-folder"], ["empty-folder"]),
    (["compare", "empty-folder", "rows.csv"], ["empty-folder is not a run", "finished runs only"]),
    (["cv"], ["DATA"]),
    (["cv", *ROWS, "--folds", "0"], ["--folds 0", "5 or more"]),
    (["cv", *ROWS, "--folds", "1"], ["folds: found 1", "at least 5"]),
    (["cv", *ROWS, "--folds", "3"], ["folds: found 3", "at least 5"]),
    (["cv", *ROWS, "--folds", "3", "--repeats", "4"], ["folds: found 3", "at least 5"]),
    (["cv", *ROWS, "--folds", "5", "--repeats", "0"], ["repeats"]),
    (["cv", *ROWS, "--folds", "40"], ["30 groups", "40 folds need at least 40"]),
    (["cv", *ROWS, "--folds", "x"], ["--folds"]),
    (["cv", *ROWS, "--protocol", "nice"], ["protocol", "'nested' or 'paper'"]),
    (["cv", *ROWS, "--arms", "plain,nope"], ["'nope'"]),
    (["cv", "study.toml"], ["over seeds", "randout compare"]),
    (["cv", "study.toml", "--folds", "5"], ["leave out --folds"]),
    (["cv", "none.csv"], ["error: none.csv: no such file"]),
]
FILES = {
    "misspelt.toml": STUDY.replace('name = "s"', 'baselin = "plain"'),
    "arm.toml": STUDY.replace("arms.", "arm."),
    "nobase.toml": STUDY.replace('name = "s"', 'baseline = "plian"'),
    "broken.toml": "seeds = [1",
    "wrong.toml": STUDY.replace('preset = "plain"', "train = {{ epoch = 1 }}"),
    "flat.toml": 'seeds = [1]\n[base]\ndata = "rows.csv"\n[arms.plain]\npreset = "plain"\n',
    "fewfolds.toml": STUDY.replace("seeds = [1]", "folds = 3"),
    "mixed.toml": STUDY.replace('preset = "randout"', 'preset = "randout"\ndata = {{ source = "other.csv" }}'),
    "notest.toml": STUDY.replace('source = "{data}"', 'source = "{data}"\nvalidation = "other.csv"'),
    "odd.toml": "[search]\ntrails = 3\n",
}


@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=[" ".join(words)[:70] for words, _ in MISTAKES])
def test_a_mistake_is_one_readable_line(run, toy_csv, tmp_path, words, parts):
    for name, text in FILES.items():
        Path(name).write_text(text.format(data="rows.csv", student="bert") if "{data}" in text else text)
    shutil.copy(toy_csv(90, 5), "other.csv")
    Path("empty-folder").mkdir()
    code, out, err = run(*words)
    assert code == 2, (code, err)
    assert out == ""
    assert "Traceback" not in err
    assert all(part in err for part in parts), err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) <= 1
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.rglob("study.json"))  # or the command put right would find another study there


@pytest.fixture
def two_runs(run, tiny_model):
    """Two finished runs, runs/a and runs/b, of the plain and the noisy recipe."""
    for name, preset in (("a", "plain"), ("b", "randout")):
        asked = {"data": {"source": "rows.csv"}, "student": {"model": str(tiny_model("bert"))}}
        fast = {"train": {"epochs": 1, "precision": "float32", "device": "cpu"}}
        plan = planning.make(config.build([config.read_preset(preset), asked, fast], METHODS))
        pipeline.execute(plan, pipeline.Options(runs=Path("runs"), out=Path("runs") / name, show=Show(quiet=True)))


def test_finished_runs_and_their_mistakes(run, two_runs):
    code, out, err = run("compare", "runs/a", "runs/b")
    assert code == 0
    assert err.startswith("\nWarnings\n  - ce, ce + randout: The model predicts "), "nothing else"
    assert "comparison of finished runs: result over 1 seed per recipe\n" in out
    code, out, _ = run("compare", "runs/a", "runs/b/", "--baseline", "./runs/b", "--metric", "macro_f1", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["baseline"], found["metric"]) == ("ce + randout", "macro_f1")
    record = json.loads(Path("runs/b/run.json").read_text())
    old, half, unread, foreign = (
        Path(shutil.copytree("runs/b", name)) for name in ("old", "half", "unread", "foreign")
    )
    (old / "run.json").write_text(json.dumps(record | {"format": 0}))
    (half / "run.json").write_text(json.dumps(record | {"finished": None}))
    (half / "metrics.json").unlink()
    (unread / "predictions" / "test.parquet").unlink()
    (foreign / "run.json").write_text("{}")
    broken = Path(shutil.copytree("runs/b", "broken"))
    (broken / "run.json").write_text("{")
    for words, parts in (
        (["runs/a"], ["found one run", "at least two recipes"]),
        (["runs/a", "runs/a"], ["same settings and seed"]),
        (["runs/a", "old"], ["old", "format 0", "reads format 1"]),
        (["runs/a", "half"], ["half", "not finished"]),
        (["runs/a", "unread"], ["unread", "no predictions for the test split"]),
        (["runs/a", "foreign"], ["foreign", "format None"]),
        (["runs/a", "broken"], ["broken/run.json", "cannot be read"]),
        (["runs/a", "none"], ["none is not a run"]),
        (["runs/a", "rows.csv"], ["rows.csv is not a run"]),
        (["runs/a", "runs/b", "--baseline", "x"], ["--baseline x", "ce, ce + randout"]),
        (["runs/a", "runs/b", "--seeds", "3"], ["leave out --seeds"]),
        (["runs/a", "runs/b", "--dry-run"], ["leave out --dry-run"]),
        (["runs/a", "runs/b", "--metric", "f2"], ["metric", "'f2'"]),
    ):
        code, out, err = run("compare", *words)
        assert (code, out) == (2, ""), (words, err)
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        assert all(part in err for part in parts), err


def test_dry_runs_train_nothing(run, tmp_path):
    code, out, err = run("compare", "study.toml", "--seeds", "3", "--dry-run")
    assert code == 0, err
    assert "3 units (seed 1, seed 2, seed 3)" in out
    assert "2 arms (plain, randout), baseline plain" in out
    assert "6 runs, in studies/s" in out
    code, out, err = run("cv", *ROWS, "--folds", "5", "--repeats", "2", "--dry-run", "--space", "batch_size=[16, 32]")
    assert code == 0, err
    assert "10 units (fold 1" in out
    assert "10 runs, after all trials per arm, in studies/rows-cv5" in out
    code, out, err = run("compare", *ROWS, "--arms", "plain,randout", "-o", "my study", "--dry-run")
    assert code == 0, err
    assert "in my study" in out
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "words", [["compare", "--arms", "plain"], ["cv", "--folds", "5"], ["search", "--space", "batch_size=[8, 16]"]]
)
def test_studies_take_the_columns_of_a_table(run, words):
    _, *rows = Path("rows.csv").read_text().splitlines()
    odd = ["words,kind,type", *(f"{row},{row.rpartition(',')[2]}" for row in rows)]  # two columns like labels
    Path("odd.csv").write_text("\n".join(odd))
    asked = [words[0], "odd.csv", *words[1:], "--student", "bert", "--preset", "plain", "--dry-run"]
    code, _, err = run(*asked)
    assert code == 2
    assert "--text-column" in err
    code, out, err = run(*asked, "--text-column", "words", "--label-column", "kind")
    assert code == 0, err
    assert out
    pair = [*asked, "--text-column", "words", "--label-column", "kind", "--prefix-column", "type", "--text-pair"]
    assert run(*pair, "words")[0] == 2
    code, _, err = run(*pair, "other")
    assert code == 2
    assert "no column 'other', which holds the second text of each pair; name another one with --text-pair" in err


def test_studies_take_groups_splits_and_unlabelled_texts(run):
    """Where `train` takes them; an arm without a teacher leaves unlabelled texts out, and a study of such arms refuses them."""
    _, *rows = Path("rows.csv").read_text().splitlines()
    splits = (["train"] * 6 + ["validation", "test"]) * len(rows)
    lines = [f"{row},{at // 2},{split}" for at, (row, split) in enumerate(zip(rows, splits, strict=False))]
    Path("split.csv").write_text("\n".join(["text,label,film,split", *lines]))
    Path("more.csv").write_text("text\na new text\nanother one\n")
    given = ["--student", "bert", "--group", "film", "--dry-run"]
    for words in (["compare", "--arms", "plain"], ["search", "--space", "batch_size=[8, 16]", "--preset", "plain"]):
        code, _, err = run(words[0], "split.csv", *words[1:], *given)
        assert "Add --split-column split" in err
        code, _, err = run(words[0], "split.csv", *words[1:], *given, "--split-column", "split")
        assert (code, "--split-column" in err) == (0, False), err
    code, _, err = run("cv", "split.csv", "--folds", "5", "--preset", "plain", *given)
    assert (code, "--split-column" in err) == (0, False), err  # its splits are folds
    code, out, err = run("compare", "split.csv", "--student", "svm", "--group", "film", "--dry-run")
    assert (code, "1 arm (svm)" in out) == (0, True), err  # the paper's four arms need an encoder
    more = [*given, "--unlabeled", "more.csv"]
    code, out, err = run("compare", "split.csv", "--arms", "plain,kd", "--teacher", "bert", *more)
    assert (code, "2 arms" in out) == (0, True), err
    code, _, err = run("compare", "split.csv", "--arms", "plain,randout", *more)
    assert (code, "data.unlabeled: no arm learns from a teacher, so this has no effect" in err) == (2, True), err


@pytest.mark.parametrize("option", ["--text-column", "--label-column", "--group", "--split-column", "--prefix-column"])
def test_a_study_file_has_its_own_columns(run, option):
    code, _, err = run("compare", "study.toml", option, "words")
    assert code == 2
    assert f"leave out {option}" in err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("randout.units=33", "methods.randout.units: found 33; expected at most 32, the number of hidden units of"),
        (
            "randout.tokens=65",
            "methods.randout.tokens: found 65; expected at most 64, the maximum number of tokens",
        ),
        ("randout.layers=[4]", "methods.randout.layers: found 4; expected 0 (the embeddings) to 3"),
        ("scattered.units=33", "methods.scattered.units: found 33; expected at most 32"),
        ("equal-l2.tokens=99", "methods.equal-l2.tokens: found 99; expected at most 64"),
        ("gaussian.layer=4", "methods.gaussian.layer: found 4; expected 0 (the embeddings) to 3"),
        ("attention-noise.blocks=[-4]", "methods.attention-noise.blocks: found -4; expected 1 to 3"),
    ],
)
def test_settings_beyond_the_student_are_refused_before_any_training(run, tmp_path, tiny_model, setting, said):
    words = ["train", "rows.csv", "--student", "bert", "--teacher", tiny_model("roberta"), "--set", setting]
    for more in ([], ["--dry-run"]):
        code, out, err = run(*words, *more)
        assert (code, out) == (2, "")
        assert said in err
    assert not (tmp_path / "runs").exists()
    within = setting.replace("33", "32").replace("65", "64").replace("99", "64").replace("4]", "3]").replace("=4", "=3")
    plan = planning.make(
        config.build(
            [
                config.read_preset("auto"),
                {"data": {"source": "rows.csv"}, "student": {"model": "bert"}, "teacher": {"model": "none"}},
                config.assignment(within, METHODS),
            ],
            METHODS,
        )
    )
    assert setting.partition(".")[0] in {method.name for method in plan.methods}


def test_a_student_of_fewer_layers_has_fewer_places_for_noise(run):
    code, _, err = run("train", "rows.csv", "--student", "bert", "--set", "layers=[0]", "--set", "randout.layers=[2]")
    assert code == 2
    assert "found 2; expected 0 (the embeddings) to 1" in err


def test_a_recipe_that_lists_methods_stands_alone_in_every_command(run):
    Path("r.toml").write_text('[student]\nmodel = "bert"\n[methods.ce]\n')
    study = study_requests.cross_validation("rows.csv", study_requests.Asked(recipe=Path("r.toml")), None)
    assert set(arm_config(study, "r", METHODS).methods) == {"ce"}
    asked = study_requests.Asked(recipe=Path("r.toml"), arms=["kd", "r.toml"], seeds=[1])
    beside = study_requests.comparison("rows.csv", asked, None)
    assert set(arm_config(beside, "kd", METHODS).methods) == {"ce", "kd"}
    assert set(arm_config(beside, "r", METHODS).methods) == {"ce"}


def test_a_bag_of_words_baseline_is_not_cross_validated_under_the_name_of_a_preset(run):
    study = study_requests.cross_validation("rows.csv", study_requests.Asked(student="svm"), None)
    assert list(study.arms) == ["svm"]
    assert arm_config(study, "svm", METHODS).student.model == "svm"
    study = study_requests.cross_validation("rows.csv", study_requests.Asked(student="bert"), None)
    assert list(study.arms) == ["randout-kd"]


def test_two_commands_and_their_results(run):
    """compare and cv from end to end."""
    fast = ["--set", "epochs=1", "--set", "precision=float32", "--set", "device=cpu"]
    code, out, err = run("compare", *ROWS[:3], *fast, "--arms", "plain,randout", "--seeds", "2", "-o", "c")
    assert code == 0, err
    assert "result over 2 seeds\n" in out
    assert "no verdict: 2 seeds" in out
    code, out, err = run("cv", *ROWS, *fast, "--folds", "5", "-o", "v", "--json")
    assert code == 0, err
    assert err.partition("\nWarnings\n")[0] == ""
    assert json.loads(out)["result"]["head"] == "5 of 5 folds"
    settings = {"epochs": 1, "precision": "float32", "device": "cpu"}
    shared = {"student": "bert", "settings": settings}
    compared = randout.compare("rows.csv", arms=["plain", "randout"], seeds=2, out="c", **shared)
    record = json.loads(Path("c/study.json").read_text(encoding="utf-8"))
    assert (compared["cells"], compared["result"]["head"]) == (record["cells"], "2 of 2 seeds")
    found = randout.cross_validate("rows.csv", preset="plain", folds=5, out="v", **shared)
    assert found["cells"] == json.loads(out)["cells"]
