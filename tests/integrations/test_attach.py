"""Methods with their own losses and gradients in an external training loop: `attach.attached`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from randout.core.errors import UserError
from randout.integrations.attach import applied, attached
from randout.methods.base import Batch, Context, Forward, Method, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.kd import KnowledgeDistillation
from randout.methods.randout import Randout
from randout.models.encoder import Output, Want
from randout.training.loop import accumulate_gradients, step_at
from support.external_loops import Ascent, Mixed, Square, Twice, examples, padded, stock
from support.training import NAMES, bit_identical, hooks_of, new_training, tiny_encoder, toy_training_data

Tiny = Callable[[str], Path]
FAMILIES = ("bert", "roberta", "distilbert", "albert", "modernbert")


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def batch_of(folder: Path, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
    batch = padded(examples(folder, 6), **options)
    return batch, batch.pop("labels")


class Looking(Method):
    """A loss on everything that can be wanted of a forward, of its own and of the main one."""

    name = "looking"
    summary = "looks everywhere"
    losses = ("looking",)
    blocks: tuple[int, ...] = (1, 3)

    def want(self, context: Context) -> Want:
        return Want((0, 2), True, self.blocks)

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        clean = forward(dropout=False, perturb=False, call=2, want=self.want(step.context))
        total = step.gold_loss(clean, batch)
        for found in (output, clean):
            assert found.pooled is not None
            total = total + found.pooled.square().sum()
            total = total + sum(part.square().sum() for each in found.attention.values() for part in each)
            for point in (0, 2):
                rows = found.hidden[point].flatten(0, -2)
                if rows.shape[0] == sum(map(len, batch.ids)):  # packed
                    total = total + rows.square().sum()
                else:
                    real = torch.arange(batch.longest) < torch.tensor([len(t) for t in batch.ids])[:, None]
                    total = total + rows[real.flatten()].square().sum()
        return {"looking": total / batch.step_labels.numel()}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "methods",
    [
        [CrossEntropy(label_smoothing=0.1, class_weights="balanced"), Randout(tokens=8, units=8)],
        [CrossEntropy(), Twice(), Randout(tokens=8, units=8, layers=[0, 2])],
        [CrossEntropy(), KnowledgeDistillation(temperature=2.0), Square()],
        [CrossEntropy(), Ascent(), Randout()],
        [CrossEntropy(), Mixed()],
        [CrossEntropy(), Looking()],
    ],
    ids=str,
)
def test_a_step_is_that_of_our_own_loop(tiny_model: Tiny, methods: list[Method], pack: bool) -> None:
    """Losses and gradients of a padded batch, noise on and dropout off."""
    off = {"dropout": 0.0, "attention_dropout": 0.0}
    training = new_training(tiny_encoder(tiny_model("bert"), pack=pack, **off), methods)
    data = toy_training_data(training.encoder, 8)
    rows = data.tokens.lengths.argsort(kind="stable")
    model = stock(tiny_model("bert"), dropout=False)
    model.load_state_dict(tiny_encoder(tiny_model("bert"), pack=False, **off).model.state_dict())
    ids = [torch.from_numpy(data.tokens[row].astype("int64")) for row in rows]
    batch = padded([{"input_ids": t.tolist(), "attention_mask": [1] * len(t)} for t in ids])
    assert data.teacher is not None
    labels, teacher = data.labels[torch.from_numpy(rows)], data.teacher[torch.from_numpy(rows)]
    step = step_at(training, data, 0)
    accumulate_gradients(training, step, data, rows)
    with attached(
        model, methods, seed=training.stack.context.seed, class_weights=torch.tensor([0.5, 1.0, 2.0])
    ) as work:
        value = work.backward(model(**batch), labels, teacher)
    ours, theirs = gradients(training.encoder.model), gradients(model)
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in ours.values())
    assert largest > 1e-3
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() < 2e-5 * largest, name
    for name, loss in work.losses.items():
        logged = sum(float(part) for part, _ in step.logged[f"loss_{name}"])
        assert float(loss) == pytest.approx(logged, rel=1e-4), name
    assert float(value) == pytest.approx(sum(map(float, work.losses.values())), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("methods", [[], [Randout(units=8)], [Twice(), Randout()], [Square()], [Looking()]], ids=str)
def test_call_zero_repeats_the_masks_and_the_loops_stream_goes_on(
    tiny_model: Tiny, family: str, methods: list[Method]
) -> None:
    """With dropout on: the main forward again, to the bit; another call is another; torch's stream is the loop's."""
    batch, labels = batch_of(tiny_model(family))
    model = stock(tiny_model(family))
    torch.manual_seed(3)
    with attached(model, methods) as work:
        outputs = model(**batch)
        after = torch.get_rng_state()
        again = work.tracked.repeat(work.tracked.step)
        assert torch.equal(again.logits, outputs.logits)
        other, repeated = work.tracked.repeat(work.tracked.step, call=1), work.tracked.repeat(work.tracked.step, call=1)
        assert torch.equal(other.logits, repeated.logits)
        assert not torch.equal(other.logits, outputs.logits)
        clean = work.tracked.repeat(work.tracked.step, dropout=False, perturb=False, call=1)
        work.loss(outputs, labels).backward()
        assert torch.equal(torch.get_rng_state(), after)
        assert all(module.training for module in model.modules())
        assert torch.equal(work.tracked.repeat(work.tracked.step).logits, outputs.logits), "also after the loss"
    assert hooks_of(model) == 0
    torch.testing.assert_close(clean.logits, model.eval()(**batch).logits)


def test_the_stream_of_a_loop_is_the_same_with_and_without_methods(tiny_model: Tiny) -> None:
    """A plain training step, dropout on, gives the gradients that the loop has by itself."""
    found = []
    for ours in (False, True):
        batch, labels = batch_of(tiny_model("bert"))
        model = stock(tiny_model("bert"))
        torch.manual_seed(1)
        with ExitStack() as stack:
            work = stack.enter_context(attached(model, [])) if ours else None
            for _ in range(2):
                outputs = model(**batch)
                (work.loss(outputs, labels) if work else F.cross_entropy(outputs.logits, labels)).backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


def test_labels_and_logits_may_come_with_the_forward(tiny_model: Tiny) -> None:
    batch, labels = batch_of(tiny_model("bert"))
    teacher, model = torch.randn(6, 3), stock(tiny_model("bert"), dropout=False)
    with attached(model, [KnowledgeDistillation()]) as work:
        one = work.loss(model(**batch), labels, teacher)
        two = work.loss(model(**batch, labels=labels, teacher_logits=teacher))
        three = work.loss(model(batch["input_ids"], batch["attention_mask"], return_dict=False), labels, teacher[None])
        four = work.loss(model(**batch, labels=labels, return_dict=False), teacher_logits=[teacher])
        assert one == two == three == four
        unlabelled = work.loss(model(**batch), teacher_logits=teacher)
        assert work.losses["ce"] == 0
        torch.testing.assert_close(unlabelled, work.losses["kd"])
        halves = [slice(0, 2), slice(2, 6)]
        parts = []
        for half in halves:
            outputs = model(**{name: tensor[half] for name, tensor in batch.items()})
            parts.append(work.loss(outputs, labels[half], teacher[half], texts=6))
        torch.testing.assert_close(sum(parts), one)


def test_evaluation_is_plain(tiny_model: Tiny) -> None:
    batch, labels = batch_of(tiny_model("bert"))
    model = stock(tiny_model("bert")).eval()
    alone = model(**batch).logits
    with attached(model, [CrossEntropy(label_smoothing=0.5), Twice(), Mixed(), Randout()]) as work:
        model.get_input_embeddings().weight.data.div_(1.01)  # `Mixed` changes it when it starts
        outputs = model(**batch)
        torch.testing.assert_close(outputs.logits, alone)
        torch.testing.assert_close(work.loss(outputs, labels), F.cross_entropy(alone, labels))


def test_padding_on_either_side_makes_no_difference(tiny_model: Tiny) -> None:
    """What a method is shown of a text is the same: its first token's state, its attention weights, its ids."""
    model, found = stock(tiny_model("distilbert"), dropout=False), []
    table = model.distilbert.embeddings.position_embeddings.weight.data
    table.copy_(table[:1].expand_as(table))  # without positions a shifted text is the same text
    for left in (False, True):
        batch, labels = batch_of(tiny_model("distilbert"), left=left)
        with attached(model, [Looking()]) as work:
            outputs = model(**batch)
            work.loss(outputs, labels)
            assert work.tracked.last is not None
            assert work.tracked.batch is not None
            seen, ids = work.tracked.last.output, work.tracked.batch.ids
            flat = seen.hidden[2].flatten(0, 1)[batch["attention_mask"].flatten().bool()]  # text by text
            found.append([seen.pooled, flat, *seen.attention[1], *seen.attention[3], *ids])
    assert [len(text) for text in ids] == batch["attention_mask"].sum(1).tolist()
    for right, shifted in zip(*found, strict=True):
        torch.testing.assert_close(right, shifted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("methods", [[Twice(), Randout(layers=[1, 2])], [Mixed()], [Ascent(), Mixed()]], ids=str)
def test_gradient_checkpointing_changes_nothing(tiny_model: Tiny, methods: list[Method], reentrant: bool) -> None:
    """Blocks that are computed again have the masks, noise and weights of their own forward, dropout on."""
    batch, labels = batch_of(tiny_model("bert"))
    found = []
    for checkpointing in (False, True):
        model = stock(tiny_model("bert"))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        hooks = hooks_of(model)
        torch.manual_seed(2)
        with attached(model, methods) as work:
            model.requires_grad_(False).get_parameter("bert.encoder.layer.0.output.dense.weight").mul_(1.5)
            model.requires_grad_(True)  # away from what `Mixed` mixes in
            for _ in range(2):
                work.backward(model(**batch), labels)
        assert hooks_of(model) == hooks
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_what_gradient_checkpointing_would_lose_is_refused(tiny_model: Tiny) -> None:
    batch, _ = batch_of(tiny_model("bert"))
    model = stock(tiny_model("bert"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with attached(model, [Looking()]), pytest.raises(UserError, match="switch gradient checkpointing off"):
        model(**batch)
    with attached(model, []) as work:
        model(**batch)
        undo = work.stack.context.hook_points.change_attention(2, lambda rows: torch.zeros(rows))
        with pytest.raises(UserError, match="switch gradient checkpointing off"):
            work.tracked.repeat(work.tracked.step)
        undo()
        work.tracked.repeat(work.tracked.step)


def test_a_training_that_goes_on_is_the_uninterrupted_one(tiny_model: Tiny) -> None:
    """In a plain loop: weights, optimizer, `state_dict` and torch's stream are kept by the loop."""
    batch, labels = batch_of(tiny_model("bert"))
    methods = [Twice(), Randout(), Mixed()]

    def go(model: Any, work: Any, steps: int) -> None:
        for _ in range(steps):
            model.zero_grad()
            work.loss(model(**batch), labels).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.1 * p.grad) if p.grad is not None else None
            work.stepped()

    whole, halted, resumed = (stock(tiny_model("bert")) for _ in range(3))
    torch.manual_seed(4)
    with attached(whole, methods) as work:
        go(whole, work, 4)
    torch.manual_seed(4)
    with attached(halted, methods) as work:
        go(halted, work, 2)
        kept, stream = work.state_dict(), torch.get_rng_state()
    resumed.load_state_dict(halted.state_dict())
    with attached(resumed, methods, resume=kept) as work:
        torch.set_rng_state(stream)
        go(resumed, work, 2)
    assert bit_identical(dict(resumed.state_dict()), dict(whole.state_dict()))
    with pytest.raises(UserError, match=r"methods.mixed: its state is missing in the state to resume from"):
        attached(resumed, methods, resume={"step": torch.tensor(1)}).__enter__()


def test_all_is_put_back(tiny_model: Tiny) -> None:
    class Quiet(Method):
        name = "quiet"
        summary = "no dropout"

        def start(self, context: Context) -> State:
            for module in context.model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            return State()

    model = stock(tiny_model("bert"))
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    attention = model.config._attn_implementation
    batch, labels = batch_of(tiny_model("bert"))
    with pytest.raises(IndexError), attached(model, [Quiet(), Looking(), Mixed()]) as work:  # noqa: PT012
        work.loss(model(**batch), labels)
        model(batch["input_ids"] + 10**6)
    assert hooks_of(model) == 0
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == rates
    assert any(rates)
    assert model.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in model.modules())


def test_mistakes_are_said(tiny_model: Tiny) -> None:
    class Live(Method):
        name, summary, teacher = "live", "", "model"

    class Held(Method):
        name, summary, heldout = "held", "", 0.1

    class Dropping(Method):
        name, summary = "dropping", ""

        def inputs(self, step: Step, state: State, batch: Batch) -> Batch:
            return batch

    batch, labels = batch_of(tiny_model("bert"))
    model = stock(tiny_model("bert"))
    for method in (Live(), Held(), Dropping()):
        with pytest.raises(UserError, match=rf"methods.{method.name}: .*randout.train"), attached(model, [method]):
            pass
    with pytest.raises(UserError, match="already has the loss 'ce'"), attached(model, [CrossEntropy()] * 2):
        pass
    with pytest.raises(UserError, match="found 'randout', expected a method"), applied(model, "randout"):  # type: ignore[arg-type]
        pass
    with pytest.raises(TypeError, match="Linear: no transformers encoder"), applied(torch.nn.Linear(2, 2), Randout()):
        pass
    with attached(model, [Ascent()]) as work:
        assert repr(work) == "Attached(BertForSequenceClassification, methods: ce, ascent)"
        with pytest.raises(UserError, match=r"methods.ascent: .* attached.backward"):
            work.loss(model(**batch), labels)
        with pytest.raises(UserError, match="last training forward"):
            work.backward(model.eval()(**batch), labels)
    model.train()
    with attached(model, [Square()]) as work:
        early = model(**batch)
        model(**batch)
        with pytest.raises(UserError, match="compute the loss of each forward pass before the next one"):
            work.loss(early, labels)
        with pytest.raises(UserError, match="expected one integer per text"):
            work.loss(model(**batch), torch.rand(6, 3))
        with pytest.raises(UserError, match="labels: found 3, expected at most 2: the model has 3 outputs"):
            work.loss(model(**batch), labels + 3 - labels.max())
        with pytest.raises(UserError, match="logits"):
            work.loss({"no": 1}, labels)
    with attached(model, [KnowledgeDistillation()]) as work:
        outputs = model(**batch)
        with pytest.raises(UserError, match=r"methods.kd: .*teacher_logits"):
            work.loss(outputs, labels)
        with pytest.raises(UserError, match=r"teacher_logits: found shape \(6, 2\)"):
            work.loss(outputs, labels, torch.rand(6, 2))
    assert len(NAMES) == model.config.num_labels
