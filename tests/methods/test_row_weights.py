"""Weights of rows: a row of weight 2 is the row twice, equal weights change nothing, and what does not support them says so."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randout import api
from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset, load
from randout.data.row_weights import normalised
from randout.data.views import make_views
from randout.experiments.run.student import class_weights
from randout.methods.base import Batch, Context, Loop, Method, State, Step
from randout.methods.builtin import METHODS
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.target_losses import ONE_LABEL, LabelSetTarget, Target
from randout.models.hooks import HookPoints
from randout.models.outputs import Output
from randout.testing.models import toy_texts
from randout.testing.training import make_batch

Tiny = Callable[[str], Path]
LABELS = [0, 2, 1, 1, 0, 2]
COPIES = [2, 1, 3, 1, 0, 1]  # of each row; as weights, their mean is 8 / 6
ON_LOGITS = ("ce", "kd", "hinton", "hard-label", "multi-teacher", "r-drop")
SETTINGS: dict[str, dict[str, Any]] = {"ce": {"label_smoothing": 0.1}, "kd": {"temperature": 2.0}}


def logits_of(seed: int) -> torch.Tensor:
    return 3 * torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(method: Method, rows: list[int], weights: torch.Tensor | None, classes: bool, lacking: list[int]) -> float:
    """The sum of a method's losses on a batch of these rows. lacking: rows without a soft label."""
    balance = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64) if classes else None
    gold = CrossEntropy(class_weights="balanced") if classes else CrossEntropy()
    context = Context(
        torch.nn.Identity(), HookPoints(torch.nn.Identity(), ()), seed=1, class_weights=balance, teachers=2
    )
    step = Step(context, Loop(gold_loss=lambda step, *given: gold.loss(step, State(), *given, None)["ce"]))
    theirs = logits_of(1)
    theirs[lacking] = torch.nan
    batch: Batch = make_batch([LABELS[row] for row in rows], theirs[rows], others=[logits_of(2)[rows]])
    batch = replace(batch, weights=weights, partial=bool(lacking))
    again = Output(logits_of(4)[rows], {})
    losses = method.loss(step, State(), Output(logits_of(0)[rows], {}), batch, lambda **asked: again)
    return float(sum(losses.values()))


@pytest.mark.parametrize("lacking", [[], [0, 3]])
@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_row_of_weight_two_is_the_row_twice(name: str, lacking: list[int]) -> None:
    """Over all rows at once, where no draw of a batch is left to expectation."""
    method = METHODS[name].model_validate(SETTINGS.get(name, {}))
    weights = torch.tensor(COPIES, dtype=torch.float64)
    everything = list(range(len(LABELS)))
    repeated = [row for row in everything for _ in range(COPIES[row])]
    found = total(method, everything, weights / weights.mean(), False, lacking)
    assert found == pytest.approx(total(method, repeated, None, False, lacking), rel=1e-6)
    assert found != pytest.approx(total(method, everything, None, False, lacking), rel=1e-3)
    ones = total(method, everything, torch.ones(len(LABELS), dtype=torch.float64), False, lacking)
    assert ones == pytest.approx(total(method, everything, None, False, lacking), rel=1e-6)


def test_batches_of_weighted_rows_have_the_mean_loss_of_batches_of_copies() -> None:
    """Over all batches of two rows, each as probable as any other: the divisor is the number of texts, not their weight."""
    weights = torch.tensor(COPIES, dtype=torch.float64)
    factors = weights / weights.mean()
    pairs = [(a, b) for a in range(len(LABELS)) for b in range(len(LABELS)) if a != b]
    found = np.mean([total(CrossEntropy(), [a, b], factors[[a, b]], False, []) for a, b in pairs])
    repeated = [row for row in range(len(LABELS)) for _ in range(COPIES[row])]
    assert found == pytest.approx(total(CrossEntropy(), repeated, None, False, []), rel=1e-6)


def test_weights_of_rows_multiply_those_of_classes() -> None:
    factors = torch.tensor([2.0, 0.5, 1.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    z, v = torch.log_softmax(logits_of(0), 1), torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)[LABELS]
    expected = -(factors * v * z[range(6), LABELS]).sum() / v.sum()
    own = CrossEntropy(class_weights="balanced")
    assert total(own, list(range(6)), factors, True, []) == pytest.approx(float(expected), rel=1e-6)


SETS = LabelSetTarget(torch.tensor([[True, False, True], [False, True, False], [True, True, False]]))


@pytest.mark.parametrize("target", [ONE_LABEL, SETS], ids=["one label", "label sets"])
def test_sums_of_every_kind_of_target_count_a_row_by_its_weight(target: Target) -> None:
    repeated = [row for row in range(len(LABELS)) for _ in range(COPIES[row])]
    labels, ours, theirs, weights = torch.tensor(LABELS), logits_of(0), logits_of(1), torch.tensor(COPIES)
    balance = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)
    sums: list[Callable[[list[int], torch.Tensor | None], torch.Tensor]] = [
        lambda at, w: target.cross_entropy(ours[at], labels[at], balance, 0.1, w),
        lambda at, w: target.divergence(theirs[at], ours[at], 2.0, w),
        lambda at, w: target.soft_cross_entropy(target.probabilities(theirs[at]), ours[at], w),
        lambda at, w: target.decided_cross_entropy(theirs[at], ours[at], w),
    ]
    for added in sums:
        assert float(added([*range(6)], weights)) == pytest.approx(float(added(repeated, None)), rel=1e-5)
        assert float(added([*range(6)], weights)) != pytest.approx(float(added([*range(6)], None)), rel=1e-2)


# ---- the column of the data


def table(folder: Path, weights: list[Any]) -> Path:
    texts, labels = toy_texts(len(weights), 0)
    with (folder / "toy.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", "w"), *zip(texts, labels, weights, strict=True)])
    return folder / "toy.csv"


def read(path: Path, **settings: Any) -> Dataset:
    return load(DataTable(source=str(path), weight_column="w", **settings))


def test_weights_are_read_by_row_and_divided_by_the_mean_of_the_training_rows(tmp_path: Path) -> None:
    given = [0.5 + row % 4 for row in range(60)]
    (tmp_path / "more.csv").write_text("text\n" + "\n".join(toy_texts(9, 7)[0]) + "\n", encoding="utf-8")
    dataset = read(table(tmp_path, given), unlabeled=str(tmp_path / "more.csv"))
    assert dataset.columns["weight"] == "w"
    assert dataset.weights[:60].tolist() == given
    train, more = dataset.split["train"], dataset.split["unlabeled"]
    dataset = dataset.with_views(make_views(dataset.texts, dataset.split, DataTable(views=1), 1))
    factors = normalised(dataset.weights, train, more)
    assert factors is not None
    assert factors[train].mean() == pytest.approx(1.0)
    assert factors[:60] / factors[0] == pytest.approx(np.array(given) / given[0])
    assert (factors[more] == 1).all()
    assert dataset.views is not None
    assert factors[dataset.split["views"]].tolist() == [factors[view.source] for view in dataset.views.made]
    sums = np.bincount(dataset.labels[train], dataset.weights[train])
    assert class_weights(dataset).numpy() == pytest.approx(sums.sum() / (3 * sums), rel=1e-6)


@pytest.mark.parametrize("value", ["-1", "", "many", "inf", "nan"])
def test_a_weight_that_is_none_is_refused_with_its_row(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"row 2 \(line 3\): the weight \(column 'w'\) is .*; expected a finite number"):
        read(table(tmp_path, [1, value, *[1] * 58]))


def test_a_column_that_is_missing_and_weights_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'weights'"):
        load(DataTable(source=str(table(tmp_path, [1] * 60)), weight_column="weights"))
    with pytest.raises(UserError, match="weights of all training rows are 0"):
        normalised(np.zeros(3), np.arange(3), np.arange(0))


def weights_after(path: Path, student: Path, runs: Path, **settings: Any) -> bytes:
    own = {"epochs": 1, "learning_rate": 1e-3, "precision": "float32", "output.test": False, "pooling": "first"}
    result = api.train(path, student=student, teacher="none", settings=own | settings, runs=runs)
    return (result.model_path / "model.safetensors").read_bytes()


def test_equal_weights_are_the_run_without_them_bit_for_bit(tmp_path: Path, tiny_model: Tiny) -> None:
    path, student = table(tmp_path, [3] * 40), tiny_model("bert")
    plain = weights_after(path, student, tmp_path / "runs")
    assert weights_after(path, student, tmp_path / "runs", **{"data.weight_column": "w"}) == plain
    path = table(tmp_path, [1 + row % 2 for row in range(40)])
    assert weights_after(path, student, tmp_path / "runs", **{"data.weight_column": "w"}) != plain


def test_what_does_not_support_weights_is_refused(tmp_path: Path, tiny_model: Tiny) -> None:
    path, settings = table(tmp_path, [1 + row % 2 for row in range(40)]), {"data.weight_column": "w"}
    without = {name for name, method in METHODS.items() if method.losses and not method.weighted}
    assert without.isdisjoint({*ON_LOGITS, "contrastive"})
    for method in ("methods.attention-noise", "methods.embedding-adversarial"):
        assert method.removeprefix("methods.") in without
        with pytest.raises(UserError, match=f"{method} does not support weights of rows"):
            api.train(
                path, student=tiny_model("bert"), teacher="none", settings=settings | {method: True}, runs=tmp_path
            )
    with pytest.raises(UserError, match="svm does not support weights of rows"):
        api.train(path, student="svm", teacher="none", settings=settings, runs=tmp_path)
