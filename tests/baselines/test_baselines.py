"""The classifiers of words against scikit-learn and plain torch, and through the same job as the encoders."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import LinearSVC

from conftest import Run
from randout import api, baselines
from randout.baselines import BAGS, CLASSIFIERS, NETWORKS, Bag, Fitted, Labelled
from randout.baselines import settings as baseline_settings
from randout.baselines.bag_of_words import MIN_PROBABILITY, SVM, Bayes, BayesCount, BayesTfidf, Forest
from randout.baselines.neural import CNN, LSTM
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.experiments.run import pipeline, planning, reload, run_request, scoring
from randout.experiments.run.plan import Plan
from randout.experiments.run.student import Stopped
from randout.methods.builtin import METHODS
from randout.models.tokens import batches
from randout.storage import run_folder as runs
from randout.storage.run_folder import RunFolder
from randout.testing.models import toy_texts

SHOW = Show(quiet=True)
SMALL: dict[str, dict[str, Any]] = {  # settings that keep the tests short; the rest as published
    "svm": {"min_df": 1},
    "rf": {"min_df": 1, "trees": 20},
    "mnb-count": {"min_df": 1},
    "mnb-tfidf": {"min_df": 1, "alphas": [0.01, 1.0, 10.0]},
    "cnn": {"min_count": 1, "length": 12, "embedding": 8, "channels": 6, "epochs": 2, "batch_size": 16},
    "lstm": {"min_count": 1, "length": 8, "embedding": 6, "hidden": 5, "layers": 2, "epochs": 2, "batch_size": 16},
}
LEARNING = {"cnn": {"learning_rate": 1e-2}, "lstm": {"learning_rate": 1e-2}}
NEW = [
    "",
    "a",
    "the BANK prices; stock-market!",
    "zzz unheard-of words",
    "fever Fever fever goal",
    "\u00c9t\u00e9 doctor",
]


def test_every_classifier_has_its_row() -> None:
    assert list(SMALL) == list(CLASSIFIERS)
    assert set(BAGS) | set(NETWORKS) == set(CLASSIFIERS)


def labelled(n: int, seed: int, classes: int = 3) -> Labelled:
    texts, names = toy_texts(n, seed)
    codes = np.array([sorted(set(names)).index(name) for name in names])
    kept = np.flatnonzero(codes < classes)
    return Labelled([texts[row].capitalize() for row in kept], codes[kept])


def fitted(settings: Bag, classes: int = 3, seed: int = 1) -> tuple[Fitted, Labelled, list[str]]:
    """A bag of words fitted on toy texts, what it was fitted on, and texts to try it on."""
    train, held = labelled(150, 0, classes), labelled(60, 1, classes)
    names = dict(enumerate("abc"[:classes]))
    made = settings.fit(train, held, names, config.TrainTable(seed=seed), lambda done: None)
    return made, train, [*held.texts, *NEW]


def back(made: Fitted, folder: Path) -> Fitted:
    made.save(folder / "model", "# a card")
    assert {path.name for path in (folder / "model").iterdir()} == {
        "classifier.json",
        "weights.safetensors",
        "README.md",
    }
    return baselines.load(folder / "model")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "settings", [SVM(min_df=2), SVM(min_df=1, loss="hinge", C=0.1), SVM(min_df=1, lowercase=False)]
)
def test_svm_is_sklearns(settings: SVM, classes: int, tmp_path: Path) -> None:
    made, train, texts = fitted(settings, classes)
    words = TfidfVectorizer(lowercase=settings.lowercase, min_df=settings.min_df)
    theirs = LinearSVC(C=settings.C, loss=settings.loss, dual="auto", random_state=1)
    theirs.fit(words.fit_transform(train.texts), train.labels)
    expected = theirs.decision_function(words.transform(texts))
    if classes == 2:
        expected = np.stack([-expected, expected], 1)
    assert list(made.vocabulary) == list(words.get_feature_names_out())
    np.testing.assert_allclose(back(made, tmp_path).logits(texts), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("settings", [Forest(min_df=2, trees=31), Forest(min_df=1, trees=7, max_depth=3)])
def test_random_forest_is_sklearns(settings: Forest, classes: int, tmp_path: Path) -> None:
    made, train, texts = fitted(settings, classes)
    words = TfidfVectorizer(min_df=settings.min_df)
    theirs = RandomForestClassifier(settings.trees, max_depth=settings.max_depth or None, random_state=1)
    theirs.fit(words.fit_transform(train.texts), train.labels)
    expected = np.log(np.maximum(theirs.predict_proba(words.transform(texts)), MIN_PROBABILITY))
    np.testing.assert_allclose(back(made, tmp_path).logits(texts), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("settings", [BayesCount(min_df=1), BayesCount(min_df=2, alpha=0.1), BayesTfidf(min_df=1)])
def test_naive_bayes_is_sklearns(settings: Bayes, classes: int, tmp_path: Path) -> None:
    made, train, texts = fitted(settings, classes)
    words = (TfidfVectorizer if settings.tfidf else CountVectorizer)(min_df=settings.min_df)
    theirs = MultinomialNB(alpha=settings.alpha).fit(words.fit_transform(train.texts), train.labels)
    expected = theirs.predict_log_proba(words.transform(texts))
    np.testing.assert_allclose(back(made, tmp_path).logits(texts), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [SVM(min_df=2), SVM(min_df=1, lowercase=False)])
def test_tf_idf_is_its_formula(settings: SVM) -> None:
    """count * idf, scaled to length 1, with idf = 1 + ln((1 + n) / (1 + df)), over words of two or more characters."""

    def words_of(text: str) -> list[str]:
        return re.findall(r"\b\w\w+\b", text.lower() if settings.lowercase else text)

    made, train, texts = fitted(settings)
    seen = {word for text in train.texts for word in words_of(text)}
    df = {word: sum(word in words_of(text) for text in train.texts) for word in sorted(seen)}
    vocabulary = [word for word in df if df[word] >= settings.min_df]
    idf = np.array([1 + np.log((1 + len(train.texts)) / (1 + df[word])) for word in vocabulary])
    features = np.array([[words_of(text).count(word) for word in vocabulary] for text in texts]) * idf
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    assert list(made.vocabulary) == vocabulary
    np.testing.assert_allclose(made.arrays["idf"], idf, rtol=1e-12)
    expected = features @ made.arrays["coefficients"].T + made.arrays["intercept"]
    np.testing.assert_allclose(made.logits(texts), expected, rtol=1e-6, atol=1e-6)


def test_alpha_is_chosen_on_validation() -> None:
    settings = BayesTfidf(min_df=1, alphas=(1e-3, 1.0, 1e3))
    made, train, _ = fitted(settings)
    held = labelled(60, 1)
    words = TfidfVectorizer(min_df=1)
    features, new = words.fit_transform(train.texts), words.transform(held.texts)
    right = {a: MultinomialNB(alpha=a).fit(features, train.labels).score(new, held.labels) for a in settings.alphas}
    assert made.found["alpha"] == max(right, key=lambda alpha: right[alpha])
    assert [row["validation_accuracy"] for row in made.found["tried"]] == pytest.approx(list(right.values()))


def plain_cnn(arrays: dict[str, torch.Tensor], ids: torch.Tensor, settings: CNN) -> torch.Tensor:
    states = arrays["embedding.weight"][ids]  # (b, length, embedding)
    pooled = []
    for at, width in enumerate(settings.filters):
        weight, bias = arrays[f"filters.{at}.weight"], arrays[f"filters.{at}.bias"]  # (channels, embedding, width)
        windows = states.unfold(1, width, 1)  # (b, places, embedding, width)
        pooled.append((torch.einsum("bpew,cew->bpc", windows, weight) + bias).amax(1))
    return torch.cat(pooled, 1) @ arrays["linear.weight"].T + arrays["linear.bias"]


def plain_lstm(arrays: dict[str, torch.Tensor], ids: torch.Tensor, settings: LSTM) -> torch.Tensor:
    states = arrays["embedding.weight"][ids]
    for layer in range(settings.layers):
        (wi, wh), (bi, bh) = (
            [arrays[f"lstm.{kind}_{way}_l{layer}"] for way in ("ih", "hh")] for kind in ("weight", "bias")
        )
        hidden = cell = torch.zeros(len(ids), settings.hidden)
        found = []
        for step in range(ids.shape[1]):
            i, f, g, o = (states[:, step] @ wi.T + bi + hidden @ wh.T + bh).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            found.append(hidden)
        states = torch.stack(found, 1)
    return states[:, -1] @ arrays["linear.weight"].T + arrays["linear.bias"]


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_what_its_formula_says(name: str, tmp_path: Path) -> None:
    settings: Any = CLASSIFIERS[name].model_validate(SMALL[name])
    train = labelled(60, 0)
    vocabulary = settings.vocabulary(train.texts)
    encoder = settings.encoder(vocabulary, {0: "a", 1: "b", 2: "c"}, seed=5)
    made = back(settings.fitted(encoder, vocabulary), tmp_path)
    texts = [*train.texts[:7], *NEW]
    ids = torch.zeros(len(texts), settings.length, dtype=torch.long)
    for row, text in enumerate(texts):  # the first words, filled up on the left; 1 for what is unknown
        words = [vocabulary.index(w) + 2 if w in vocabulary else 1 for w in text.lower().split()][: settings.length]
        if words:
            ids[row, -len(words) :] = torch.tensor(words)
    arrays = {key: torch.from_numpy(array) for key, array in made.arrays.items()}
    expected = {"cnn": plain_cnn, "lstm": plain_lstm}[name](arrays, ids, settings)
    np.testing.assert_allclose(made.logits(texts), expected.numpy(), rtol=1e-5, atol=1e-6)
    module = encoder.model.eval()
    with torch.no_grad():
        np.testing.assert_allclose(made.logits(texts), module(ids).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_trained_by_adam_on_cross_entropy(name: str, tmp_path: Path, toy_csv: Callable[..., Path]) -> None:
    """Two epochs without dropout against the same steps written out."""
    plan = plan_of(name, toy_csv(90, 0), {"dropout": 0.0, "weight_decay": 0.1, **LEARNING[name]})
    settings: Any = plan.student.settings
    result = pipeline.execute(plan, pipeline.Options(runs=tmp_path, show=SHOW))
    rows = plan.dataset.split["train"]
    texts = [plan.dataset.texts[row] for row in rows]
    vocabulary = settings.vocabulary(texts)
    model = settings.encoder(vocabulary, plan.dataset.id2label, plan.config.train.seed).model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    best, kept = -1.0, {}
    held = plan.dataset.split["validation"]
    for epoch in range(2):
        order = batches(plan.tokens.lengths, rows, rows[:0], 16, plan.config.train.seed, epoch, windows=False)
        for batch in order:
            ids = torch.from_numpy(np.stack([plan.tokens[row] for row in batch]).astype(np.int64))
            optimizer.zero_grad()
            F.cross_entropy(model(ids), torch.from_numpy(plan.dataset.labels[batch])).backward()
            optimizer.step()
        ids = torch.from_numpy(np.stack([plan.tokens[row] for row in held]).astype(np.int64))
        right = float((model(ids).argmax(1).numpy() == plan.dataset.labels[held]).mean())
        if right > best:
            best, kept = right, {key: value.clone() for key, value in model.state_dict().items()}
    saved = load_file(result.model_path / "weights.safetensors")
    for key, value in kept.items():
        np.testing.assert_allclose(saved[key], value.numpy(), rtol=1e-4, atol=1e-6, err_msg=key)


def plan_of(name: str, source: Path, settings: dict[str, Any] | None = None, **tables: Any) -> Plan:
    table = SMALL[name] | (settings or {})
    recipe = {"data": {"source": str(source)}, "student": {"model": name}, "classifier": table, **tables}
    return planning.make(config.build([config.read_preset("randout-kd"), recipe], METHODS))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, toy_csv: Callable[..., Path]
) -> Callable[[str], pipeline.Result]:
    """name -> its finished run on toy texts, made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def of(name: str) -> pipeline.Result:
        if name not in made:
            plan = plan_of(name, toy_csv(150, 0), LEARNING.get(name))
            made[name] = pipeline.execute(plan, pipeline.Options(runs=folder, show=SHOW))
        return made[name]

    return of


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_run_folder_is_that_of_an_encoder(name: str, finished: Callable[[str], pipeline.Result]) -> None:
    result = finished(name)
    assert {path.name for path in result.folder.iterdir()} - {".lock"} == {
        "run.toml",
        "run.json",
        "history.json",
        "split.json",
        "seen-rows.npz",
        "metrics.json",
        "predictions",
        "model",
        "confusion-validation.png",
        "confusion-test.png",
        "coverage-risk.png",
    }
    history = result.run.read("history.json")
    assert len(history["epochs"]) == (2 if name in NETWORKS else 1)
    assert {"epoch", "step", "seconds", "validation_accuracy"} <= set(history["epochs"][-1])
    assert CLASSIFIERS[name].scores in (result.model_path / "README.md").read_text()
    table = parquet.read_table(result.folder / "predictions" / "test.parquet")
    right = np.mean([a == b for a, b in zip(*(table[c].to_pylist() for c in ("label", "prediction")), strict=True)])
    assert right == pytest.approx(result.metrics["test"]["accuracy"])
    assert name in result.folder.name
    assert {row["run"]: row["state"] for row in runs.summarize_runs(result.folder.parent)}[
        result.folder.name
    ] == "finished"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_configuration_comes_back_from_run_toml(name: str, finished: Callable[[str], pipeline.Result]) -> None:
    result = finished(name)
    stored = reload.stored_config(result.run)
    assert set(stored.classifier) == set(CLASSIFIERS[name].model_fields)
    again = planning.make(stored)
    assert again.fingerprint == result.run.record.fingerprint
    if name in NETWORKS:
        assert again.config.train.epochs == stored.classifier["epochs"] == 2
        changed = stored.model_copy(update={"classifier": stored.classifier | {"epochs": 3}})
        assert planning.make(changed).config.train.epochs == 3


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_saved_model_scores_as_it_did(
    name: str, finished: Callable[[str], pipeline.Result], tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    result = finished(name)
    plan = reload.reload_plan(result.run)
    rows = [plan.dataset.texts[row] for row in plan.dataset.split["test"]]
    kept = np.array(parquet.read_table(result.folder / "predictions" / "test.parquet")["logits"].to_pylist())
    np.testing.assert_allclose(baselines.load(result.model_path).logits(rows), kept, rtol=1e-5, atol=1e-5)
    labels, probabilities = api.predict(result.folder, rows)
    np.testing.assert_allclose(probabilities, torch.from_numpy(kept).softmax(1).numpy(), atol=1e-5)
    assert labels == [plan.dataset.id2label[int(best)] for best in kept.argmax(1)]
    assert api.predict(result.model_path, rows)[0] == labels
    again, _ = scoring.score_run(result.folder, "test", SHOW)
    assert again.confusion_matrix == result.metrics["test"]["confusion_matrix"]
    scored, _ = scoring.score_file(scoring.FileRequest(str(result.folder), str(toy_csv(150, 0))), SHOW)
    assert scored.rows == 150
    assert api.predict(result.folder, [])[1].shape == (0, 3)


@pytest.mark.parametrize("name", ["rf", "cnn", "lstm"])
def test_another_seed_is_another_model(
    name: str, finished: Callable[[str], pipeline.Result], tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    tables = {"train": {"seed": 2}, "output": {"test": False}}
    plan = plan_of(name, toy_csv(150, 0), LEARNING.get(name), **tables)
    other = pipeline.execute(plan, pipeline.Options(runs=tmp_path, show=SHOW))
    weights = [load_file(result.model_path / "weights.safetensors") for result in (finished(name), other)]
    assert any(not np.array_equal(weights[0][key], weights[1].get(key)) for key in weights[0])


def same_files(one: Path, other: Path) -> bool:
    """Whether two model folders are the same, but for how often the test split was opened, as other tests do."""

    def content(path: Path) -> bytes:
        return re.sub(rb"(?m)^Test split: .*$", b"", path.read_bytes()) if path.suffix == ".md" else path.read_bytes()

    return all(content(other / path.name) == content(path) for path in one.iterdir())


@pytest.mark.parametrize("name", NETWORKS)
def test_stopped_and_resumed_is_uninterrupted(
    name: str, finished: Callable[[str], pipeline.Result], tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    plan = plan_of(name, toy_csv(150, 0), LEARNING[name])
    stops = 0
    for _ in range(50):
        try:  # a limit that has passed stops after the next step
            result = pipeline.execute(plan, pipeline.Options(runs=tmp_path, deadline=time.monotonic() - 1, show=SHOW))
            break
        except Stopped:
            stops += 1
    whole = finished(name)
    assert stops == 2 * 7 + 2  # after every step (105 texts in batches of 16, two epochs) and every validation
    assert same_files(whole.model_path, result.model_path)
    assert whole.metrics == result.metrics
    assert not result.run.checkpoint.exists()


@pytest.mark.parametrize("name", BAGS)
def test_a_fit_past_its_time_stops_and_begins_again(
    name: str, finished: Callable[[str], pipeline.Result], tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    plan = plan_of(name, toy_csv(150, 0))
    with pytest.raises(Stopped, match="time limit"):
        pipeline.execute(plan, pipeline.Options(runs=tmp_path, deadline=time.monotonic() - 1, show=SHOW))
    result = pipeline.execute(plan, pipeline.Options(runs=tmp_path, show=SHOW))
    assert same_files(finished(name).model_path, result.model_path)


def test_what_the_default_preset_brings_is_left_out_with_a_note(toy_csv: Callable[..., Path]) -> None:
    plan = plan_of("svm", toy_csv(90, 0))
    assert plan.config.methods == {}
    assert plan.config.teacher.model == "none"
    assert any("(kd, randout) need an encoder" in note for note in plan.notes)
    assert list(plan_of("cnn", toy_csv(90, 0)).config.methods) == ["ce"]
    assert plan.name.startswith("toy-90-0-svm-s1-")
    recipe = {"data": {"source": str(toy_csv(90, 0))}, "student": {"model": "svm"}, "classifier": SMALL["svm"]}
    alone = planning.make(config.build([config.read_preset("plain"), recipe], METHODS))
    assert alone.fingerprint == plan.fingerprint
    assert alone.notes == ()


@pytest.mark.parametrize(
    ("name", "rows", "least"),
    [("svm", 999, 1), ("svm", 1000, 2), ("rf", 999, 2), ("rf", 1000, 5), ("mnb-count", 60, 2), ("mnb-tfidf", 60, 2)],
)
def test_least_texts_of_a_word_depend_on_the_number_of_rows(name: str, rows: int, least: int) -> None:
    notes: list[str] = []
    found: Any = CLASSIFIERS[name]().resolved(rows, notes)
    assert found.min_df == least
    assert f"{rows:,} training rows" in notes[0]
    assert "every word" in notes[0] if least == 1 else f"at least {least} training texts" in notes[0]
    given: Any = CLASSIFIERS[name].model_validate({"min_df": 7}).resolved(rows, notes)
    assert given.min_df == 7
    assert len(notes) == 1


def test_a_word_is_kept_by_the_rows_that_it_is_fitted_on() -> None:
    train = Labelled(["one word", "two words", "words of one"], np.array([0, 1, 0]))
    fits = [
        kind.fit(train, train, {0: "a", 1: "b"}, config.TrainTable(), lambda done: None)
        for kind in (SVM(), SVM(min_df=1))
    ]
    assert fits[0].vocabulary == fits[1].vocabulary == ("of", "one", "two", "word", "words")
    assert fits[0].settings == fits[1].settings


def test_a_plan_has_the_number_that_auto_stands_for(toy_csv: Callable[..., Path]) -> None:
    plan = plan_of("svm", toy_csv(90, 0), classifier={})
    assert plan.config.classifier["min_df"] == 1
    assert any(note.startswith("words: every word") for note in plan.notes)
    asked = plan_of("svm", toy_csv(90, 0), classifier={"min_df": 1})
    assert asked.fingerprint == plan.fingerprint
    assert not any(note.startswith("words:") for note in asked.notes)


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_the_preset_paper_has_published_settings(name: str) -> None:
    made = run_request.Request({"student": {"model": name}}, "paper").config()
    published: Any = baseline_settings.chosen(made)
    assert getattr(published, "min_df", 5) == 5
    assert getattr(published, "min_count", 6) == 6
    assert baseline_settings.resolve_settings(made, published, []).student.model == name
    over: Any = baseline_settings.chosen(
        run_request.Request({"student": {"model": "svm"}}, "paper", settings=[{"classifier": {"min_df": 3}}]).config()
    )
    assert over.min_df == 3


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("svm", {"classifier": {"c": 1}}, r"classifier\.c: no such setting\. Did you mean 'C'"),
    ("cnn", {"classifier": {"C": 1}}, r"classifier\.C: no such setting"),
    ("svm", {"classifier": {"C": -1}}, r"classifier\.C: found -1"),
    ("svm", {"classifier": {"loss": "log"}}, r"classifier\.loss: found 'log'"),
    ("svm", {"classifier": {"min_df": 1000}}, r"no word occurs in 1000 of the .* Lower it"),
    ("lstm", {"classifier": {"min_count": 10**6}}, r"no word occurs 1000000 times"),
    ("cnn", {"classifier": {"length": 4}}, r"a filter of 5 words is longer than texts, which have at most 4"),
    ("svm", {"student": {"layers": [0, 1]}}, r"student\.layers = \[0, 1\]: a setting of encoders"),
    ("rf", {"student": {"max_length": 60}}, r"student\.max_length = 60: a setting of encoders"),
    (
        "svm",
        {"teacher": {"model": "roberta-large"}},
        r"--teacher roberta-large: not supported, as svm learns from labels only",
    ),
    ("lstm", {"data": {"unlabeled": "more.csv"}}, r"data\.unlabeled: not supported, as lstm learns from labels only"),
    ("svm", {"methods": {"kd": {"temperature": 2.0}}}, r"methods\.kd: needs an encoder, but the student is svm"),
    ("cnn", {"methods": {"kd": False}}, r"methods\.randout: needs an encoder, but the student is cnn"),
    (
        "mnb-count",
        {"methods": {"kd": False, "randout": False, "ce": {"label_smoothing": 0.1}}},
        r"methods\.ce: mnb-count has its own loss",
    ),
    ("cnn", {"train": {"epochs": 3}}, r"train\.epochs = 3: .* Use classifier\.epochs"),
    ("svm", {"train": {"learning_rate": 1e-3}}, r"train\.learning_rate = 0\.001: a setting of encoders"),
    ("svm", {"train": {"precision": "bfloat16"}}, r"train\.precision"),
]


@pytest.mark.parametrize(("name", "asked", "said"), REFUSED)
def test_what_cannot_be_had_is_refused(
    name: str, asked: dict[str, Any], said: str, tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    recipe: dict[str, Any] = {"data": {"source": str(toy_csv(90, 0))}, "student": {"model": name}}
    with pytest.raises(UserError, match=said):
        start([config.read_preset("randout-kd"), recipe, asked], tmp_path)


def start(layers: list[dict[str, Any]], runs: Path) -> None:
    pipeline.execute(planning.make(config.build(layers, METHODS)), pipeline.Options(runs=runs, show=SHOW))


def test_an_encoder_takes_no_settings_of_a_classifier(tiny_model: Callable[[str], Path], toy_csv: Any) -> None:
    recipe = {"data": {"source": str(toy_csv(90, 0))}, "student": {"model": str(tiny_model("bert"))}}
    with pytest.raises(UserError, match=r"classifier\.C: a setting of a bag-of-words or neural baseline"):
        planning.make(config.build([recipe, {"methods": {"ce": {}}, "classifier": {"C": 1}}], METHODS))


def test_a_classifier_of_words_is_no_teacher(
    finished: Callable[[str], pipeline.Result], tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path]
) -> None:
    recipe = {
        "data": {"source": str(toy_csv(150, 0))},
        "student": {"model": str(tiny_model("bert"))},
        "teacher": {"model": str(finished("svm").folder)},
    }
    with pytest.raises(UserError, match="baseline classifier"):
        planning.make(config.build([config.read_preset("kd"), recipe], METHODS))


def spoiled(what: str, folder: Path) -> None:
    record, weights = folder / "classifier.json", folder / "weights.safetensors"
    if what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif what == "no weights":
        weights.unlink()
    elif what == "cut record":
        record.write_text(record.read_text()[:-20])
    elif what == "list":
        record.write_text("[1]")
    else:
        found = json.loads(record.read_text())
        changes = {"kind": {"classifier": "svn"}, "format": {"format": 9}, "words": {"vocabulary": ["one"]}}
        if what == "arrays":
            save_file({"other": np.zeros(2)}, weights)
            changes["arrays"] = {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        record.write_text(json.dumps(found | changes[what]))


@pytest.mark.parametrize("name", ["svm", "rf", "mnb-tfidf", "cnn"])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cut weights", "damaged"),
        ("no weights", "cannot read"),
        ("cut record", "cannot read"),
        ("list", "cannot read"),
        ("kind", "unknown kind of classifier 'svn'. Did you mean 'svm'"),
        ("format", "format 9"),
        ("words", "do not fit"),
        ("arrays", "do not fit"),
    ],
)
def test_damaged_folder(
    name: str, what: str, said: str, finished: Callable[[str], pipeline.Result], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished(name).model_path, tmp_path / "model"))
    spoiled(what, folder)
    with pytest.raises(UserError, match=said):
        api.predict(folder, ["a text"])


def test_the_settings_of_a_classifier_can_be_printed_and_used(run: Run, toy_csv: Callable[..., Path]) -> None:
    def call(*words: str) -> str:
        return run(*words)[1]

    for name in CLASSIFIERS:
        Path(f"{name}.toml").write_text(call("init", "--student", name))
        assert "[classifier]" in Path(f"{name}.toml").read_text()
        plan = planning.make(
            config.build(
                [
                    *run_request.base_layers(None, Path(f"{name}.toml")),
                    {"data": {"source": str(toy_csv(150, 0))}},
                    {"classifier": SMALL[name]},
                ],
                METHODS,
            )
        )
        assert plan.student.settings == CLASSIFIERS[name].model_validate(SMALL[name])
    out = call("train", str(toy_csv(150, 0)), "--student", "svm", "--set", "classifier.C=10", "-o", "one", "-q")
    assert "accuracy" in out
    assert "C = 10.0" in Path("one/run.toml").read_text()
    assert "goal team" in call("predict", "one", "goal team coach", "-q")
    assert "accuracy" in call("evaluate", "one", "--split", "test", "-q")
    assert call("train", str(toy_csv(150, 0)), "--student", "svm", "--dry-run").startswith(
        "methods: svm learns from labels only"
    )


def test_the_folder_of_a_run_holds_no_place_of_this_machine(
    finished: Callable[[str], pipeline.Result], toy_csv: Callable[..., Path]
) -> None:
    for name in CLASSIFIERS:
        kinds = (".json", ".md", ".parquet", ".safetensors")
        files = [path for path in finished(name).folder.rglob("*") if path.suffix in kinds]
        assert {path.suffix for path in files} == set(kinds), name
        for path in files:
            assert str(Path.home()).encode() not in path.read_bytes()
            assert str(toy_csv(150, 0).parent).encode() not in path.read_bytes()


def test_a_folder_of_the_same_name_does_not_stand_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_csv: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svm").mkdir()
    result = pipeline.execute(plan_of("svm", toy_csv(150, 0)), pipeline.Options(show=SHOW))
    assert reload.stored_config(RunFolder(result.folder)).student.model == "svm"
