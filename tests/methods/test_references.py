"""Our methods beside public implementations: the same small inputs, and the numbers that their programs gave.

Each docstring names the repository, the file and the commit that was run, in float64 on a CPU. Tables of numbers are
what came out there, rounded to seven decimals; inputs are formulas (`sines`), so that anybody can run it again. Where a
program drew random numbers, its draw was replaced by such a formula, and ours is too (`drawing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.neftune import neftune_post_forward_hook

from randout.methods.base import Batch, Context, LiveTeacher, Logged, Loop, State, Step
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.freelb import FreeLB
from randout.methods.metadistil import MetaDistil
from randout.methods.mixout import Mixout
from randout.methods.neftune import NEFTune
from randout.methods.r_drop import RDrop
from randout.methods.self_distillation import SelfDistillation
from randout.methods.weidc import WeiDC
from randout.models.encoder import Encoder, Output
from randout.models.hooks import HookPoints, Layout
from randout.models.tokens import Tokens
from randout.training.loop import TrainingData, TrainingState, accumulate_gradients, step, step_at
from support.training import make_batch, new_training

TEXTS, LABELS = [[1, 2, 3], [4, 5, 1, 2]], [2, 0]


def sines(shape: Sequence[int], k: int = 0, scale: float = 1.0) -> Tensor:
    """scale * sin(1 + i + 10 k), i counting the elements."""
    return (scale * torch.sin(1.0 + torch.arange(int(np.prod(shape)), dtype=torch.float64) + 10 * k)).view(*shape)


class Tiny(nn.Module):
    """z = U tanh(mean over tokens of tanh(V e + b)) + c: e (3,) word embeddings of 6 words, 3 classes; no dropout.

    Its n-th parameter, in the order of their making, is sines(n + k).
    """

    def __init__(self, k: int = 0) -> None:
        super().__init__()
        self.words, self.inner, self.classifier = nn.Embedding(6, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.double()
        for n, parameter in enumerate(self.parameters()):
            parameter.data = sines(parameter.shape, n + k)
        self.config = SimpleNamespace(pad_token_id=0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        real = attention_mask.double()[..., None]  # (b, n, 1)
        pooled = (torch.tanh(self.inner(self.words(input_ids))) * real).sum(1) / real.sum(1)
        return SimpleNamespace(logits=self.classifier(torch.tanh(pooled)))


def tiny(k: int = 0) -> Encoder:
    model = Tiny(k)
    return Encoder(model, None, HookPoints(model.words, (), model.words))


def training_data_of(texts: Sequence[Sequence[int]], labels: Sequence[int], heldout: int = 0) -> TrainingData:
    """The last `heldout` of the texts are kept from the student."""
    ids = np.array([token for text in texts for token in text], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, texts)])
    rows = np.arange(len(texts))
    tokens = Tokens(ids, offsets, np.diff(offsets))
    cut = len(texts) - heldout
    return TrainingData(tokens, torch.tensor(labels), rows[:cut], rows[:0], heldout=rows[cut:])


@contextmanager
def drawing(values: Callable[[tuple[int, ...]], Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While open, `torch.rand` of a shape gives values(shape)."""

    def rand(*shape: Any, **_: Any) -> Tensor:
        return values(tuple(shape[0]) if isinstance(shape[0], tuple) else shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        yield


def assert_gives(ours: Tensor, theirs: Any, within: float = 2e-6) -> None:
    """Our losses are computed in float32, theirs are in float64."""
    torch.testing.assert_close(ours.detach().double(), torch.as_tensor(theirs).double(), rtol=0, atol=within)


# ---- Mixout


def test_mixout(monkeypatch: pytest.MonkeyPatch) -> None:
    """bloodwass/mixout, the authors': mixout/mixout.py and mixlinear.py at 18f377d; a layer 4 -> 2, p = .7, whose mask
    came out as (0, 1, 0, 1); loss sum(y * sines(5)).

    The same: y in training and in evaluation, and the gradients of input and bias. Different: their backward passes
    on mask * dL/dW~, where the derivative of the forward, which is ours, is mask / (1 - p) * dL/dW~.
    """
    model = nn.Module()
    layer = nn.Linear(4, 2).double()
    model.base_model = nn.Sequential(layer)
    context = Context(model, HookPoints(nn.Identity(), ()), 1)
    layer.weight.data, layer.bias.data = sines((2, 4), 2), sines((2,), 3)  # the weight: the pretrained one
    method = Mixout(p=0.7)
    state = method.start(context)
    layer.weight.data = sines((2, 4), 1)
    x = sines((3, 4), 4).requires_grad_()
    step = Step(context).at(Layout(torch.tensor([0]), torch.tensor([3]), 3, 0, 1))
    with drawing(lambda _: torch.tensor([0.1, 0.9, 0.6, 0.8]), monkeypatch), method.perturb(step, state):
        y = layer(x)
    (y * sines((3, 2), 5)).sum().backward()
    assert_gives(y, [[1.883311, 2.2317635], [-5.5511174, 0.4957985], [4.0373254, -1.0561882]])
    dx = [
        [0.4301691, -3.8872678, 0.3764253, 0.5358418],
        [0.4052097, 0.8305471, -0.8694523, 3.8959804],
        [-0.7674226, 3.1960087, 0.3472144, -3.7784417],
    ]
    assert_gives(x.grad, dx)
    assert_gives(layer.bias.grad, [0.0663992, -0.0937125])
    theirs = [[0.0, 0.0050718, 0.0, -1.278693], [0.0, -1.271333, 0.0, -0.0678191]]
    assert_gives((1 - 0.7) * layer.weight.grad, theirs)
    assert layer.weight.grad[0, 3].item() == pytest.approx(-4.26231, abs=1e-5)
    assert_gives(layer(x), [[-0.0855846, 1.4985181], [-2.4479254, 1.3032776], [1.9494577, -1.3785499]])


# ---- FreeLB


def gradients_of(training: TrainingState, data: TrainingData, total: int = 1) -> tuple[dict[str, Tensor], Logged]:
    """What the first step of the loop, of `total` steps, leaves in `.grad`, and what it logs."""
    training.position.micro_batch = len(data.labelled)
    first = replace(step_at(training, data, 0), total=total)
    accumulate_gradients(training, first, data, data.labelled)
    return {name: p.grad for name, p in training.encoder.model.named_parameters() if p.grad is not None}, first.logged


FREELB = {  # (init, ascent, limit, steps): loss, gradients of words, inner.weight and classifier.weight
    (0.2, 0.1, 0.3, 3): (
        1.4030925,
        [
            [0.0, 0.0, 0.0],
            [0.1625583, 0.1336134, -0.0181751],
            [-0.1385525, -0.0750771, 0.0574239],
            [0.104896, 0.0872678, -0.0105939],
            [-0.0653543, -0.0369127, 0.0254663],
            [0.0503173, 0.0471535, 0.000637],
        ],
        [
            [0.0688775, 0.1163796, 0.0568828],
            [0.0051104, 0.0159059, 0.0120776],
            [0.2240072, 0.3923819, 0.2000026],
        ],
        [
            [-0.0452163, -0.0491518, 0.0903061],
            [0.2331276, -0.0537327, -0.1173823],
            [-0.1879112, 0.1028845, 0.0270762],
        ],
    ),
    (0.2, 0.1, 0.0, 2): (
        1.387164,
        [
            [0.0, 0.0, 0.0],
            [0.1584124, 0.1299148, -0.0180259],
            [-0.1356552, -0.0734539, 0.0562806],
            [0.1037702, 0.086016, -0.0108209],
            [-0.0641499, -0.0361803, 0.0250532],
            [0.0519873, 0.0480727, -3.97e-05],
        ],
        [
            [0.0712006, 0.1180081, 0.0563194],
            [0.0048689, 0.0155824, 0.0119695],
            [0.2263476, 0.3904728, 0.195599],
        ],
        [
            [-0.03992, -0.0506975, 0.0885528],
            [0.225908, -0.0540053, -0.1084902],
            [-0.185988, 0.1047028, 0.0199374],
        ],
    ),
}


@pytest.mark.parametrize("setting", FREELB)
def test_freelb(setting: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """zhuchen03/FreeLB, the authors': the step of huggingface-transformers/examples/run_glue_freelb.py at eb23701 with
    norm_type "l2", on `Tiny` and two texts of 3 and 4 words; U(-1, 1) is sines((2, 4, 3)).

    The same: start, ascent, ball (one of the texts leaves it in the first case), gradient of all passes. Dropout
    stands aside: theirs repeats its masks in ALBERT's attention and classifier alone, ours everywhere. A text whose
    gradient is zero divides by 1e-8 there and is left alone here.
    """
    init, ascent, limit, steps = setting
    loss, words, inner, classifier = FREELB[setting]
    training = new_training(tiny(), [CrossEntropy(), FreeLB(init=init, ascent=ascent, limit=limit, steps=steps)])
    with drawing(lambda shape: (sines(shape) + 1) / 2, monkeypatch):
        found, logged = gradients_of(training, training_data_of(TEXTS, LABELS))
    assert float(sum(part for part, _ in logged["loss_ce"])) == pytest.approx(loss, abs=1e-6)
    assert_gives(found["words.weight"], words)
    assert_gives(found["inner.weight"], inner)
    assert_gives(found["classifier.weight"], classifier)
    plain, _ = gradients_of(new_training(tiny(), [CrossEntropy()]), training_data_of(TEXTS, LABELS))
    assert (plain["words.weight"] - found["words.weight"]).abs().max() > 0.01


# ---- R-Drop


def plain_step() -> Step:
    """A step of no model, whose loss on gold labels is plain cross-entropy."""
    loop = Loop(gold_loss=lambda _, output, batch: nn.functional.cross_entropy(output.logits, batch.labels))
    return Step(Context(nn.Identity(), HookPoints(nn.Identity(), ()), 1), loop)


def test_r_drop() -> None:
    """dropreg/R-Drop, the authors', at 9dcc830, on logits 2 sin(..) of four texts in two passes; ours is called L(alpha).

    Their programs disagree with one another. The criterion of fairseq_src/examples/roberta (reg_cross_entropy.py:
    forward_kl, over the number of texts) is the paper's: 2 L(alpha / 2), gradients too. The README's example adds up
    the divergence over the B texts: L(B alpha). modeling_bert.py (bert_kl): 2 L(B / 4) at its alpha of .5.
    modeling_roberta.py (roberta_kl) never compares its second pass with the labels: L(.7 B) - CE(z_2) / 2.
    """
    batch, step = make_batch([2, 0, 1, 1]), plain_step()
    one, two = (sines((4, 3), k, 2.0).requires_grad_() for k in (1, 2))

    def ours(alpha: float) -> Tensor:
        return sum(
            RDrop(alpha=alpha).loss(step, State(), Output(one, {}), batch, lambda call: Output(two, {})).values()
        )

    halved = step.gold_loss(Output(two, {}), batch) / 2
    assert (2 * ours(0.5)).item() == pytest.approx(5.6421671, abs=2e-6)
    assert ours(4).item() == pytest.approx(10.0167081, abs=2e-6)
    assert (2 * ours(1)).item() == pytest.approx(7.6980599, abs=2e-6)
    assert (ours(2.8) - halved).item() == pytest.approx(6.1995708, abs=2e-6)
    assert (4 * (ours(1) - ours(0))).item() == pytest.approx(8.2235708, abs=4e-6)  # the README's divergence alone
    (2 * ours(0.5)).backward()
    first = [
        [-0.1174858, -0.0165881, 0.1340739],
        [0.0620269, 0.0535011, -0.115528],
        [-0.1128593, -0.2701742, 0.3830336],
        [0.2399098, -0.125661, -0.1142488],
    ]
    second = [
        [0.3602437, 0.0027373, -0.362981],
        [-0.3370932, -0.0396594, 0.3767525],
        [0.3293838, -0.2238523, -0.1055316],
        [-0.0681782, -0.3026827, 0.3708609],
    ]
    assert_gives(one.grad, first)
    assert_gives(two.grad, second)


# ---- weighted self-distillation

WEIDC = {"none": 1.8482362, "1": 4.9989506, "2": 7.5727793, "3": 7.7885178, "4": 7.9913933}


@pytest.mark.parametrize("weighting", WEIDC)
def test_weidc(weighting: str) -> None:
    """Anzi20/WeiDC, the authors': main.py at ea28536, alpha .3, without CRF, on the logits of six tokens in four classes
    (num_wei 0 to 4 are our weightings from "none" on; -1, before there is a teacher, is plain cross-entropy).

    The same: the loss under each weighting, and the gradient. All four cases of right and wrong occur. There class 0 is
    padding, left out of the cross-entropy and kept in the squares with its weight; no text of ours is padding.
    """
    batch, step = make_batch([3, 1, 1, 2, 1, 2]), plain_step()
    student, teacher = sines((6, 4), 1, 2.0).requires_grad_(), sines((6, 4), 4, 2.0)
    right = [(z.argmax(1) == batch.labels).tolist() for z in (student, teacher)]
    assert set(zip(*right, strict=True)) == {(True, True), (True, False), (False, True), (False, False)}

    def forward(weights: dict[str, Tensor], dropout: bool, perturb: bool) -> Output:
        assert not dropout
        assert not perturb
        return Output(teacher, {})

    method = WeiDC(alpha=0.3, weighting=weighting)
    before = sum(method.loss(step, State(), Output(student, {}), batch, forward).values())
    assert before.item() == pytest.approx(1.2504086, abs=1e-6)
    loss = sum(method.loss(step, State(tensors={"a": student}), Output(student, {}), batch, forward).values())
    assert loss.item() == pytest.approx(WEIDC[weighting], abs=2e-6)
    if weighting == "4":
        loss.backward()
        theirs = [
            [-0.3770437, 0.1749478, 0.5902834, 0.4053551],
            [-0.0674286, -1.0541679, -0.8642706, 0.0194587],
            [0.0665329, -0.0056801, 0.0531522, -0.0415102],
            [-0.2446686, -0.0660183, 0.0724924, 0.3507101],
            [0.5049901, -0.6716913, -1.036819, -0.5447587],
            [0.0318921, 0.0901354, -0.0122512, 0.0049388],
        ]
        assert_gives(student.grad, theirs)


# ---- self-distillation

SDA = {  # (weight, decay): cross-entropy + weight * squares at four steps, then word embeddings and their average
    (1.0, 0.995): (
        [1.3481561, 1.5495798, 1.1822035, 1.211732],
        [
            [0.841471, 0.9092974, 0.14112],
            [-0.8797676, -1.0591365, -0.2647401],
            [0.8166278, 1.0819112, 0.3524905],
            [-0.5434653, -0.9845299, -0.5204222],
            [0.5134881, 1.0459565, 0.6167773],
            [-0.2100081, -0.8762152, -0.7368341],
        ],
        [
            [0.841471, 0.9092974, 0.14112],
            [-0.8734016, -1.0540025, -0.2655584],
            [0.8059866, 1.0753094, 0.3559977],
            [-0.55483, -0.9960404, -0.5214959],
            [0.5061357, 1.0413596, 0.6191623],
            [-0.2302748, -0.8966562, -0.738656],
        ],
    ),
    (3.0, 0.2): (
        [1.3481561, 1.5592848, 1.2746538, 1.2616759],
        [
            [0.841471, 0.9092974, 0.14112],
            [-0.9030547, -1.0745558, -0.2581153],
            [0.8250947, 1.0875463, 0.3501129],
            [-0.5654087, -0.9974023, -0.5123888],
            [0.5126473, 1.045822, 0.6174728],
            [-0.2072485, -0.8672453, -0.7299008],
        ],
        [
            [0.841471, 0.9092974, 0.14112],
            [-0.8998442, -1.0721252, -0.2586992],
            [0.8213176, 1.0852196, 0.3513757],
            [-0.5696394, -1.0023911, -0.5135491],
            [0.5104552, 1.0444603, 0.6181935],
            [-0.2171207, -0.8781286, -0.7317891],
        ],
    ),
}


@pytest.mark.parametrize("setting", SDA)
def test_self_distillation(setting: tuple) -> None:
    """lonePatient/BERT-SDA, somebody else's: the training loop of run_classifier.py at c752180, four steps of gradient
    descent at .5 on `Tiny`, two batches of two texts in turn.

    The same as average = "ema": losses, weights and average after each of the steps, at two weights and decays. It has
    no mean of the last K thetas, which is the paper's teacher and our default.
    """
    weight, decay = setting
    losses, words, average = SDA[setting]
    method = SelfDistillation(average="ema", weight=weight, decay=decay)
    plan = {"learning_rate": 0.5, "schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.0, "batch_size": 2}
    training = new_training(tiny(), [CrossEntropy(), method], **plan)
    training.optimizer = torch.optim.SGD(training.encoder.model.parameters())
    data, found = training_data_of([*TEXTS, [3, 5], [2, 2, 4, 1]], [*LABELS, 1, 2]), []
    for number in range(4):
        training.position.sums.clear()
        step(training, data, data.labelled[:2] if number % 2 == 0 else data.labelled[2:])
        training.position.step += 1
        sums = training.position.sums
        found.append(float(sum(sums[name][0] for name in ("loss_ce", "loss_self-distillation"))))
    assert found == pytest.approx(losses, abs=2e-6)
    assert_gives(training.encoder.model.words.weight, words)
    assert_gives(training.stack.states[1].tensors["words.weight"], average)


# ---- MetaDistil


class Squares(MetaDistil):
    """With the soft term of the authors' program in place of the paper's divergence."""

    name = "metadistil"

    def _soft(self, step, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
        p, q = (logits.softmax(1, torch.float64) for logits in (teacher / self.temperature, student / self.temperature))
        return self.weight * self.temperature**2 * (p - q).square().mean(1).sum() / batch.step_labels.numel()


def a_meta_step(method: MetaDistil) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Tensor]]:
    """The losses of one step, the gradient that its teacher followed, and the student's."""
    data = training_data_of([*TEXTS, [3, 5], [2, 2, 4, 1]], [*LABELS, 1, 2], heldout=2)
    teacher = LiveTeacher(tiny(3), data.tokens, columns=(0, 1, 2))
    before = {name: tensor.clone() for name, tensor in teacher.encoder.model.state_dict().items()}
    training = new_training(tiny(), [CrossEntropy(), method], teacher)
    student, logged = gradients_of(training, data, total=4)
    losses = {name: float(entries[0][0]) for name, entries in logged.items()}
    return losses, {name: before[name] - p.detach() for name, p in teacher.encoder.model.named_parameters()}, student


META = {  # held-out loss, (1 - a) CE + a soft, gradients of the teacher (two) and of the student (one)
    "squares": (
        1.4067254,
        0.6883649,
        [
            [0.0, 0.0, 0.0],
            [2.74e-05, -0.0069563, -0.0075444],
            [0.0016186, 0.0080195, 0.0070473],
            [0.0001037, -0.0048718, -0.0053682],
            [0.0006365, 0.0029401, 0.0025407],
            [0.0002096, -0.0007991, -0.0010732],
        ],
        [
            [0.0095194, 0.0075562, 0.0061307],
            [-0.0101518, -0.0078851, -0.0066197],
            [0.0006324, 0.0003289, 0.000489],
        ],
        [
            [-0.0146884, -0.0288425, 0.0478695],
            [0.0934102, -0.023228, -0.0396426],
            [-0.0787218, 0.0520705, -0.0082268],
        ],
    ),
    "divergence": (
        1.3762531,
        0.7871931,
        [
            [0.0, 0.0, 0.0],
            [0.0001083, -0.027396, -0.0297125],
            [0.006367, 0.0314584, 0.0276271],
            [0.0004148, -0.0195412, -0.0215311],
            [0.002423, 0.0110568, 0.009525],
            [0.000801, -0.0029864, -0.0040282],
        ],
        [
            [0.0380272, 0.0302081, 0.0244793],
            [-0.0399031, -0.0305736, -0.0262179],
            [0.001876, 0.0003655, 0.0017387],
        ],
        [
            [0.0040362, -0.0340753, 0.0406617],
            [0.0330289, -0.0062698, -0.0165073],
            [-0.0370651, 0.0403451, -0.0241544],
        ],
    ),
}


@pytest.mark.parametrize("form", ["exact", "first-order"])
@pytest.mark.parametrize("soft", META)
def test_metadistil(soft: str, form: str) -> None:
    """JetRunner/MetaDistil, the authors': one round of nlp/run_glue_distillation_meta.py (steps 1 to 3) and
    nlp/distillation_meta.py at 80e60c1, alpha .5, temperature 2, pilot step .5, beta 0 (no hidden states), the teacher
    `Tiny(3)` and the student `Tiny()` by gradient descent at 1, one held-out batch of two texts.

    "squares": their program as it is; ours with its soft term (`Squares`) makes the same step: held-out loss of the
    pilot, gradient of the teacher, and loss and gradient of the student under the new teacher. "divergence": ours
    as it is, against their program with KL(teacher || student), a mean over texts, in the place of that one call. As they
    stand the two soft terms differ by a factor of eight here (.0285738 and .2262301, t^2 in both).
    """
    heldout, total, words, classifier, student = META[soft]
    kind = Squares if soft == "squares" else MetaDistil
    rates = {"pilot_rate": 0.5, "teacher_learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": 0.0}
    losses, taught, found = a_meta_step(kind(weight=0.5, temperature=2.0, form=form, **rates))
    close = 2e-6 if form == "exact" else 1e-4
    assert losses["heldout_loss"] == pytest.approx(heldout, abs=2e-6)
    assert losses["loss_ce"] + losses["loss_metadistil"] == pytest.approx(total, abs=close)
    assert_gives(taught["words.weight"], words, close)
    assert_gives(taught["classifier.weight"], classifier, close)
    assert_gives(found["classifier.weight"], student, close)


# ---- NEFTune


def test_neftune(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own hook (integrations/neftune.py), run here, on two texts of 2 and 4 words, d = 3, alpha 5.

    The same where a text is as long as its batch. Different: theirs counts padding as length and adds noise to it; ours
    takes the text's own length, so that the text of 2 has sqrt(4 / 2) times their noise, and its padding none.
    """
    encoder, (short, long) = tiny(), (torch.tensor([1, 2]), torch.tensor([4, 5, 1, 2]))
    block, words = nn.utils.rnn.pad_sequence([short, long], batch_first=True), encoder.model.words
    clean = words(block)
    words.neftune_noise_alpha = 5.0
    handle = words.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(0)
    theirs = (words(block) - clean).detach()  # (2, 4, 3)
    handle.remove()
    size = 5 / 12**0.5  # 12 = 4 * 3
    assert 0.8 * size < theirs.abs().max() <= size
    method, step = NEFTune(alpha=5.0), Step(Context.of(encoder, 1)).at(encoder.layout([short, long], 0, 2, 4))
    with drawing(lambda _: (theirs / size + 1) / 2, monkeypatch), method.perturb(step, State()):
        ours = words(block) - clean
    assert_gives(ours[1], theirs[1])
    assert_gives(ours[0, :2], 2**0.5 * theirs[0, :2])
    assert not ours[0, 2:].any()
    assert theirs[0, 2:].all()
