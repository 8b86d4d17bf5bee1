"""Names of runs: what differs between the runs shown, the names that users gave, and never the same name twice."""

from __future__ import annotations

from typing import Any

import pytest

from randout.core.errors import UserError
from randout.storage.run_names import LONGEST, SEED, checked_name, run_names
from randout.storage.run_record import RunRecord, StudentIdentity


def record(
    methods: str = "ce", name: str = "", teacher: str = "", fold: str = "", encoder: str = "minilm", **changes: Any
) -> RunRecord:
    """A `run.json`. methods: by space. changes: of the student's (layers), a method's (kd_weight) or the training's
    settings.
    """
    made: dict[str, dict[str, Any]] = {word: {} for word in methods.split()}
    if "kd" in made:
        made["kd"] = {"weight": changes.pop("kd_weight", 0.8)}
    student = {"weights": changes.pop("weights", "w" * 64), "head": "model", "layers": changes.pop("layers", [])}
    shown = {"data": "posts", "student": encoder, **({"fold": fold} if fold else {})}
    identity = {"data": {"sha256": "d" * 64, "labels": []}, "split": {}, "student": student, "teacher": None}
    identity |= {"methods": made, "train": {"seed": 1, "epochs": 4, **changes}}
    found = {"format": 1, "fingerprint": "f", "identity": identity, "data": "d" * 64, "started": "", "shown_as": shown}
    found |= ({"name": name} if name else {}) | ({"teacher": {"name": teacher}} if teacher else {})
    return RunRecord.model_validate(found)


KD = "ce kd"
LAYERS = [0, 1, 2]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record()], ["ce, minilm"]),
        ([record(KD, layers=LAYERS)], ["ce + kd, minilm, 3 layers"]),
        ([record(), record(KD)], ["ce", "ce + kd"]),
        ([record(), record(encoder="mpnet")], ["ce, minilm", "ce, mpnet"]),
        ([record(encoder="mpnet"), record(KD, layers=LAYERS)], ["ce, mpnet", "ce + kd, minilm"]),
        ([record(), record(weights="0123456789")], ["ce, minilm wwwwww", "ce, minilm 012345"]),
        ([record(), record(KD, weights="0123456789"), record(encoder="mpnet")],
         ["ce, minilm wwwwww", "ce + kd, minilm 012345", "ce, mpnet"]),
        ([record(), record(seed=2)], ["ce, seed 1", "ce, seed 2"]),
        ([record(KD), record(KD, layers=LAYERS)], ["ce + kd, all layers", "ce + kd, 3 layers"]),
        ([record(), record(KD, layers=LAYERS)], ["ce, all layers", "ce + kd, 3 layers"]),
        ([record(layers=[0, 2]), record(layers=[1, 2])], ["ce, layers 0+2", "ce, layers 1+2"]),
        ([record(), record(KD), record(KD, kd_weight=0.5)], ["ce", "ce + kd, kd.weight 0.8", "ce + kd, kd.weight 0.5"]),
        (
            [record(learning_rate=5e-5), record(KD, learning_rate=2e-5, seed=3)],
            ["ce, learning_rate 5e-05, seed 1", "ce + kd, learning_rate 2e-05, seed 3"],
        ),
        (
            [record(KD, teacher="posts-big-ce-s1-0123abcd"), record(KD, teacher="posts-small-ce-s1-0123abcd")],
            ["ce + kd, teacher posts-big-ce", "ce + kd, teacher posts-small-ce"],
        ),
        (  # teachers of two seeds are no difference beside that of the seed
            [
                record(KD, teacher="posts-big-ce-s1-0123abcd"),
                record(KD, seed=2, teacher="posts-big-ce-s2-4567abcd"),
            ],
            ["ce + kd, seed 1", "ce + kd, seed 2"],
        ),
        ([record(fold="fold 1 of 5"), record(fold="fold 2 of 5")], ["ce, fold 1 of 5", "ce, fold 2 of 5"]),
        ([record(name="first"), record(seed=2)], ["first", "ce, seed 2"]),
        ([record(name="same"), record(name="same", seed=2)], ["same, seed 1", "same, seed 2"]),
        ([record(), record(), record()], ["ce", "ce (2)", "ce (3)"]),
        ([record(), record(name="ce"), record(name="ce (2)")], ["ce (3)", "ce", "ce (2)"]),
        ([record(name="same"), record(name="same")], ["same", "same (2)"]),
        ([record(""), record("")], ["run", "run (2)"]),
        ([], []),
    ],
)  # fmt: skip
def test_names_say_what_differs(records: list[RunRecord], expected: list[str]) -> None:
    assert run_names(records) == expected


def test_names_of_many_runs_differ() -> None:
    """Every combination of a few settings, each twice."""
    grid = [
        record(methods, name, layers=layers, seed=seed)
        for methods in ("ce", KD)
        for layers in ([], [0], LAYERS)
        for seed in (1, 2)
        for name in ("", "ce", "mine")
    ]
    names = run_names([*grid, *grid])
    assert len(set(names)) == len(names)


def test_a_classifier_of_words_is_named_by_its_kind() -> None:
    svm = record("")
    svm.identity.student, svm.shown_as.student = StudentIdentity(classifier="svm", C=1.0), "svm"
    assert run_names([svm, record()]) == ["svm", "ce, minilm"], "so that the encoder is named too"
    assert run_names([svm, record(), record(KD, seed=2)]) == ["svm", "ce, minilm, seed 1", "ce + kd, minilm, seed 2"]


def test_what_follows_from_the_layers_is_not_shown() -> None:
    """A student of other layers may have another longest text; a setting of the training is always shown."""
    whole, cut = record(), record(layers=LAYERS, epochs=2)
    for made, longest in ((whole, 128), (cut, 64)):
        made.identity.student.max_length = longest
    assert run_names([whole, cut]) == ["ce, all layers, epochs 4", "ce, 3 layers, epochs 2"]
    cut.identity.student.layers = []
    assert run_names([whole, cut]) == ["ce, max_length 128, epochs 4", "ce, max_length 64, epochs 2"]


def test_an_ignored_setting_is_not_shown() -> None:
    assert run_names([record(), record(KD, seed=2)], ignored={SEED}) == ["ce", "ce + kd"]


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "bell\a", "x" * (LONGEST + 1)])
def test_a_name_that_no_table_can_show_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        checked_name(name)


def test_white_space_around_a_name_is_left_out() -> None:
    assert checked_name(" mine ") == "mine"
