"""What "auto" means, rule by rule, and that a number given by the user stands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from randout.core import config
from randout.core.config import TrainTable
from randout.core.errors import UserError
from randout.experiments.run import defaults, planning
from randout.experiments.run.plan import Plan
from randout.methods.builtin import METHODS
from randout.testing.models import build


@pytest.mark.parametrize(("rows", "expected"), [(16, 60), (160, 40), (1600, 4), (100_000, 4)])
def test_epochs_give_enough_steps_within_limits(rows: int, expected: int) -> None:
    assert defaults.epochs(rows, 16) == expected


def test_a_contrastive_loss_needs_half_the_steps() -> None:
    plain, contrast = (defaults.resolved(TrainTable(), 400, 80, 384, by, []) for by in (False, True))
    assert (plain.epochs, contrast.epochs) == (16, 8)


@pytest.mark.parametrize(("width", "expected"), [(128, 1e-4), (384, 1e-4), (768, 3.5e-5), (1024, 2.3e-5)])
def test_wider_encoders_learn_more_slowly(width: int, expected: float) -> None:
    assert defaults.learning_rate(width) == expected


def test_numbers_that_are_given_stand() -> None:
    notes: list[str] = []
    asked = TrainTable(epochs=3, learning_rate=2e-5, keep="best", refit=False, validate_every=1)
    assert defaults.resolved(asked, 50, 10, 384, True, notes) == asked
    assert notes == []


@pytest.mark.parametrize(("held", "keep"), [(199, "last"), (200, "best")])
def test_a_choice_among_epochs_needs_validation_rows(held: int, keep: str) -> None:
    notes: list[str] = []
    found = defaults.resolved(TrainTable(), 50, held, 384, False, notes)
    assert (found.keep, found.epochs, found.validate_every) == (keep, 60, 6)
    assert notes[0].startswith("training: ")
    assert "60 epochs (240 steps of 16 texts) at learning rate 0.0001; the " in notes[0]


@pytest.mark.parametrize(
    ("settings", "held", "expected"),
    [
        ({}, 300, "training: up to 60 epochs (240 steps of 16 texts) at learning rate 0.0001; the weights with the best "
         "validation score are kept, and training stops after 5 validations without improvement"),
        ({"patience": 1}, 300, "training: up to 60 epochs (240 steps of 16 texts) at learning rate 0.0001; the weights with "
         "the best validation score are kept, and training stops after 1 validation without improvement"),
        ({"patience": 0}, 300, "training: 60 epochs (240 steps of 16 texts) at learning rate 0.0001; the weights with the "
         "best validation score are kept"),
        ({}, 1, "training: 60 epochs (240 steps of 16 texts) at learning rate 0.0001; the last weights are kept: "
         "1 validation row is too few to choose by"),
        ({"keep": "last", "epochs": 1, "batch_size": 64}, 300, "training: 1 epoch (1 step of 64 texts) at learning rate "
         "0.0001; the last weights are kept"),
    ],
)  # fmt: skip
def test_the_note_says_up_to_only_where_training_may_end_early(
    settings: dict[str, object], held: int, expected: str
) -> None:
    notes: list[str] = []
    defaults.resolved(TrainTable(**settings), 50, held, 384, False, notes)  # type: ignore[arg-type]
    assert notes == [expected]


@pytest.mark.parametrize("value", [0, -1, "many"])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"train\.epochs"):
        config.checked(config.Config, {"train": {"epochs": value}}, "")


def test_auto_is_read_and_written() -> None:
    made = config.build([{"train": {"epochs": "auto", "learning_rate": "auto"}}], METHODS)
    assert (made.train.epochs, made.train.learning_rate) == (0, 0.0)
    assert 'epochs = "auto"' in config.to_toml(made)
    assert config.build([config.tomllib.loads(config.to_toml(made))], METHODS) == made


def test_the_probe_finds_the_pooling_whose_states_hold_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(60) % 3
    draw = np.random.default_rng(0)
    held = np.eye(3)[labels] + 0.1 * draw.normal(size=(60, 3))
    assert defaults.probe_accuracy(held, labels) > 0.95
    assert defaults.probe_accuracy(draw.normal(size=(60, 3)), labels) < 0.6
    assert defaults.probe_accuracy(held, np.zeros(60, int)) == 0.0


def plan_of(toy_csv, folder: Path, preset: str, n: int, **settings: object) -> Plan:
    tables = {"data": {"source": str(toy_csv(n))}, "student": {"model": str(folder)}, "teacher": {"model": "none"}}
    tables["train"] = {key: value for key, value in settings.items() if key in TrainTable.model_fields}
    return planning.make(config.build([config.read_preset(preset), tables], METHODS))


def test_a_plan_has_every_auto_decided_and_says_so(toy_csv, tiny_model, tmp_path: Path) -> None:
    stated = build("bert", tmp_path / "encoder")
    (stated / "1_Pooling").mkdir()
    (stated / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    plan = plan_of(toy_csv, stated, "auto", 120)
    assert plan.config.student.pooling == "mean"
    assert "contrastive" in plan.config.methods
    assert plan.config.train.epochs > 4
    assert plan.config.train.learning_rate == 1e-4
    assert any(
        note.startswith("pooling: mean of all tokens, as stated in the encoder's configuration") for note in plan.notes
    )
    assert any(note.startswith("training: ") for note in plan.notes)
    plain = plan_of(toy_csv, stated, "plain", 120, epochs=2, learning_rate=1e-3)
    assert plain.config.student.pooling == "first"
    assert (plain.config.train.epochs, plain.config.train.learning_rate) == (2, 1e-3)


def test_with_many_rows_the_contrastive_loss_is_left_out(toy_csv, tiny_model) -> None:
    plan = plan_of(toy_csv, tiny_model("bert"), "auto", 1600)
    assert "contrastive" not in plan.config.methods
    assert plan.config.student.pooling == "first"
    assert any("contrastive left out" in note for note in plan.notes)
