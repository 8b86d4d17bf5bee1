"""Every built-in method for noise or gold labels, in an external training loop and in a Trainer, without exceptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hf_trainer import trainer_of, weights_of
from torch import Tensor

import randout
from randout.core.errors import UserError
from randout.integrations.attach import attached
from randout.methods.base import Method
from randout.methods.builtin import METHODS
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.terms import TermMethod
from randout.training.loop import accumulate_gradients, step_at
from support.external_loops import examples, padded, stock
from support.training import bit_identical, hooks_of, largest_difference, new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
HERE = {  # distillation has its own tests; methods on terms are refused in external loops (tests/methods/test_terms.py)
    name: method
    for name, method in METHODS.items()
    if method.kind in ("noise", "gold", "control") and not issubclass(method, TermMethod)
}
SETTINGS: dict[str, dict[str, Any]] = {  # where the default is too small to be seen in a few steps, or is no change
    "ce": {"label_smoothing": 0.1},
    "dropout-rates": {"hidden": 0.3, "attention": 0.2},
}
USES = [(name, SETTINGS.get(name, {})) for name in HERE]
USES += [(name, dict(changes)) for name, method in HERE.items() for changes in method.variants.values()]
uses = pytest.mark.parametrize(("name", "asked"), USES, ids=[f"{name}-{at}" for at, (name, _) in enumerate(USES)])


def together(name: str, asked: dict[str, Any]) -> list[Method]:
    method = HERE[name](**asked)
    return [method] if name == CrossEntropy.name else [CrossEntropy(), method]


@uses
def test_a_step_is_that_of_our_own_loop(tiny_model: Tiny, name: str, asked: dict[str, Any]) -> None:
    """Losses and gradients of a padded batch, noise on and the model's dropout off, in a model loaded as by anybody."""
    if name == "dropout-rates":
        asked = {"hidden": "model", "attention": 0.0}  # masks differ by design: our loop has its own dropout
    off = {"dropout": 0.0, "attention_dropout": 0.0}
    training = new_training(tiny_encoder(tiny_model("bert"), pack=False, **off), together(name, asked))
    data = toy_training_data(training.encoder, 8)
    rows = data.tokens.lengths.argsort(kind="stable")
    model = stock(tiny_model("bert"), dropout=False)
    model.load_state_dict(tiny_encoder(tiny_model("bert"), pack=False, **off).model.state_dict())
    ids = [torch.from_numpy(data.tokens[row].astype("int64")) for row in rows]
    batch = padded([{"input_ids": t.tolist(), "attention_mask": [1] * len(t)} for t in ids])
    step = step_at(training, data, 0)
    accumulate_gradients(training, step, data, rows)
    with attached(model, together(name, asked), seed=training.stack.context.seed) as work:
        work.backward(model(**batch), data.labels[torch.from_numpy(rows)])
    ours, theirs = dict(training.encoder.model.named_parameters()), dict(model.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in ours.values() if p.grad is not None)
    for key, parameter in ours.items():
        if parameter.grad is not None:
            assert (parameter.grad - theirs[key].grad).abs().max() < 5e-5 * largest, key
    for part, loss in work.losses.items():
        logged = sum(float(value) for value, _ in step.logged[f"loss_{part}"])
        assert float(loss) == pytest.approx(logged, rel=1e-3, abs=1e-6), part


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["distilbert", "deberta-v2", "modernbert", "albert"])
@uses
def test_a_plain_loop_and_what_it_leaves(tiny_model: Tiny, name: str, asked: dict[str, Any], family: str) -> None:
    """Two steps with dropout on, in models of other families, and with blocks computed again the same or refused."""
    batch, found = padded(examples(tiny_model(family), 6)), []
    labels = batch.pop("labels")
    for checkpointing in (False, True):
        model = stock(tiny_model(family))
        if checkpointing:
            if not model.supports_gradient_checkpointing:
                break
            model.gradient_checkpointing_enable({"use_reentrant": False})
        before = model.config._attn_implementation, hooks_of(model), _numbers(model)
        torch.manual_seed(1)
        if name == "attention-noise" and (checkpointing or family == "deberta-v2"):
            with pytest.raises(UserError, match="gradient checkpointing" if family != "deberta-v2" else family):
                _two_steps(model, together(name, asked), batch, labels)
            model.train().zero_grad()
        else:
            _two_steps(model, together(name, asked), batch, labels)
            found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
        assert (model.config._attn_implementation, hooks_of(model), _numbers(model)) == before
    if len(found) == 2:
        largest = max(float(g.abs().max()) for g in found[0].values())
        assert largest_difference(found[0], found[1]) < 1e-4 * largest


def _two_steps(model: Any, methods: list[Method], batch: dict[str, Tensor], labels: Tensor) -> None:
    with attached(model, methods) as work:
        for _ in range(2):
            outputs = model(**batch)
            stream = torch.get_rng_state()
            (work.backward(outputs, labels) if work.makes_gradients else work.loss(outputs, labels).backward())
            assert torch.equal(torch.get_rng_state(), stream), "the loop's own stream"
        clean = model.eval()(**batch).logits
    assert torch.equal(model(**batch).logits, clean)


def _numbers(model: torch.nn.Module) -> list[Any]:
    return [value for m in model.modules() for value in vars(m).values() if isinstance(value, float)]


@pytest.fixture(scope="module")
def plainly(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights after one epoch of a Trainer's own."""
    trainer = trainer_of(tiny_model("bert"), tmp_path_factory.mktemp("plain"), None, num_train_epochs=1)
    trainer.train()
    return weights_of(trainer)


@uses
def test_in_a_trainer_it_acts_and_resumes(
    tiny_model: Tiny, plainly: dict[str, Tensor], tmp_path: Path, name: str, asked: dict[str, Any]
) -> None:
    """Other weights than plain training, a clean evaluation, and the same bits through an interruption."""
    settings: dict[str, Any] = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 2}
    settings |= {"eval_strategy": "epoch"}
    whole = trainer_of(tiny_model("bert"), tmp_path, together(name, asked), **settings)
    whole.train()
    plain = trainer_of(tiny_model("bert"), tmp_path, None)
    assert largest_difference(weights_of(whole), plainly) > 1e-5
    (seen,) = [row["eval_loss"] for row in whole.state.log_history if "eval_loss" in row]
    plain.model.load_state_dict(weights_of(whole))
    assert plain.evaluate()["eval_loss"] == pytest.approx(seen, rel=1e-5)
    resumed = trainer_of(tiny_model("bert"), tmp_path, together(name, asked), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert bit_identical(weights_of(resumed), weights_of(whole))
    assert hooks_of(resumed.model) == 0


def test_every_method_is_here() -> None:
    elsewhere = {
        name for name, method in METHODS.items() if method.kind == "distillation" or issubclass(method, TermMethod)
    }
    assert {name for name, _ in USES} == METHODS.keys() - elsewhere
    assert len(USES) >= len(HERE)
    assert all(getattr(randout, method.__name__) is method for method in HERE.values()), "not among randout's names"
