"""Peers of a randout training: a typical Hugging Face `Trainer`, and an optimized one.

Typical (`plain`): padding to the longest of the batch, the teacher's forward pass in `compute_loss`, otherwise the
defaults: fused AdamW, gradients clipped to 1; float32 on a CPU, `bf16=True` on a GPU.

Optimized (`best`): `bf16=True`, batches of texts of similar length by its own sampler (`train_sampling_strategy =
"group_by_length"`: stretches of 50 batches sorted by length), the teacher's logits stored as a column, SDPA.

Both train on cross-entropy + weight * KL. A peer is timed over the given texts in the given order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import now
from randout.experiments.run.plan import Plan
from randout.methods.builtin import METHODS

import torch  # isort: skip  (randout sets torch's environment first)
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Peer:
    """A model under a Trainer. teacher: a model that is run in the loop; else the stored logits of every text, (n, C).
    options: of `TrainingArguments`, besides those that both peers share.
    """

    model: Any
    teacher: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> bool:
        """Whether it computes in bfloat16."""
        return bool(self.options.get("bf16"))


def plain(student: str, teacher: str, plan: Plan) -> Peer:
    """A Trainer with the teacher in its loop."""
    device = plan.config.train.device
    taught = classifier(teacher, plan).eval().to(device)
    return Peer(classifier(student, plan), taught, {"bf16": True} if device == "cuda" else {})


def best(student: str, logits: Tensor, plan: Plan, options: dict[str, Any]) -> Peer:
    """An optimized Trainer. options: further `TrainingArguments` to try."""
    return Peer(classifier(student, plan, attn_implementation="sdpa"), logits, {"bf16": True} | options)


def classifier(folder: str, plan: Plan, **options: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    labels = len(plan.dataset.id2label)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels, dtype=torch.float32, **options)


def grouped_by_length(plan: Plan, number: int) -> list[np.ndarray]:
    """A mega-batch of the Trainer's own sampler over the training split: some 50 batches cut from a random stretch of
    texts that is sorted by length, the longest first. Texts of a whole mega-batch are a random sample of the split.
    """
    from transformers.trainer_pt_utils import LengthGroupedSampler

    train, size = plan.dataset.split["train"], plan.config.train.batch_size
    lengths = plan.tokens.lengths[train].tolist()
    per_epoch = max(len(train) // (stretch(len(train), size) * size), 1)
    epoch, place = divmod(number, per_epoch)
    sampler = LengthGroupedSampler(size, lengths=lengths, generator=torch.Generator().manual_seed(epoch))
    long = stretch(len(train), size) * size
    mine = train[np.array(list(sampler))[place * long : (place + 1) * long]]
    return [mine[at : at + size] for at in range(0, len(mine), size)]


def stretch(texts: int, size: int) -> int:
    """Number of batches of a mega-batch, as the sampler chooses it: 50, or a quarter of a small training split."""
    return max(min(texts // (size * 4), 50), 1)


def seconds(peer: Peer, plan: Plan, warm_up: list[np.ndarray], batches: list[np.ndarray], folder: Path) -> float:
    """Seconds of the training steps over `batches`, after uncounted steps over `warm_up`."""
    from transformers import PrinterCallback, TrainerCallback, TrainingArguments

    ended: list[float] = []
    marks = (len(warm_up), len(warm_up) + len(batches))
    device = plan.config.train.device

    class Clock(TrainerCallback):
        def on_step_end(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step in marks:
                ended.append(now(device))

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=plan.config.train.batch_size,
        num_train_epochs=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        remove_unused_columns=False,  # keeps the teacher's logits, which are not a model input
        **peer.options,
    )
    order = np.concatenate([*warm_up, *batches])
    trainer = distiller()(peer, settings, examples(peer, plan, order), collator(plan), Clock)
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    with watched(peer) as formats, as_it_comes():
        trainer.train()
    wanted = torch.bfloat16 if peer.short else torch.float32
    if formats != {wanted}:
        raise SystemExit(f"the Trainer computed in {formats}, not in {wanted}")
    return ended[1] - ended[0]


@contextmanager
def as_it_comes() -> Iterator[None]:
    """Context manager that lifts randout's request for deterministic GPU kernels, which a Trainer does not make."""
    asked = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warned)


@contextmanager
def watched(peer: Peer) -> Iterator[set[torch.dtype]]:
    """Context manager that collects the output dtypes of the student's first matrix product."""
    formats: set[torch.dtype] = set()
    first = next(module for module in peer.model.modules() if isinstance(module, torch.nn.Linear))
    handle = first.register_forward_hook(lambda _module, _inputs, output: formats.add(output.dtype))
    try:
        yield formats
    finally:
        handle.remove()


def examples(peer: Peer, plan: Plan, order: np.ndarray) -> list[dict[str, Any]]:
    """Dataset for a Trainer: token ids, label and, if stored, the teacher's logits."""
    labels = plan.dataset.labels
    found = [{"input_ids": plan.tokens[row].tolist(), "labels": int(labels[row])} for row in order]
    if isinstance(peer.teacher, Tensor):
        for row, example in zip(order, found, strict=True):
            example["teacher"] = peer.teacher[row].tolist()
    return found


def collator(plan: Plan) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """Pads to the longest of the batch; the teacher's logits, if any, become an array (b, C)."""
    from transformers import AutoTokenizer, DataCollatorWithPadding

    return DataCollatorWithPadding(AutoTokenizer.from_pretrained(plan.student.source.folder))


def distiller() -> Callable[..., Any]:
    """Return a function that creates the Trainer of a peer; imports the library here because that is slow."""
    from transformers import Trainer

    weight = METHODS["kd"]().weight

    class Distiller(Trainer):
        taught: Any

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            target = inputs.pop("teacher", None)
            outputs = model(**inputs)
            if target is None:
                with torch.no_grad(), self.accelerator.autocast():
                    target = self.taught(**{k: v for k, v in inputs.items() if k != "labels"}).logits
            log_q, log_p = F.log_softmax(outputs.logits.float(), -1), F.log_softmax(target.float(), -1)
            loss = outputs.loss + weight * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            return (loss, outputs) if return_outputs else loss

        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # sampled beforehand

    def make(peer: Peer, settings: Any, data: Any, collate: Any, clock: Any) -> Any:
        trainer = Distiller(peer.model, settings, collate, data, callbacks=[clock])
        trainer.taught = peer.teacher
        return trainer

    return make
