"""Methods in a script that uses `transformers.Trainer`, with two more lines.

    noise = randout.for_trainer([RDrop(), Randout()])
    trainer = Trainer(..., callbacks=[noise.callback], compute_loss_func=noise.loss)

A file with the state of the methods is added to each checkpoint of the Trainer, so that a resumed training repeats the
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from randout.core.errors import UserError
from randout.core.files import replacing
from randout.methods.base import GOLD_LOSS, Method, as_methods, overrides

from .attach import Attached, attached
from .conversion import classes_of, logits_of, plain_loss

FILE = "randout.safetensors"  # in a checkpoint's folder: the state of the methods
PROBE = 64  # values of each tensor that identify a model's weights


class ForTrainer:
    """`callback` and `loss` for a Trainer. attached: the methods, while it trains."""

    def __init__(self, methods: Sequence[Method], seed: int | None, resume_from: str | Path | None) -> None:
        self.methods, self.seed, self.resume_from = as_methods(methods), seed, resume_from
        self.callback = Callback(self)
        self.attached: Attached | None = None
        self._open = ExitStack()
        self._sums: dict[str, Tensor] = {}  # parts of the loss, summed since they were last logged
        self._steps = 0  # optimizer steps in these sums
        self._losses_computed = 0  # losses computed since the last optimizer step

    def loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """Sum of the methods' losses of a training forward pass, normalised by the whole optimizer step; in evaluation, the
        plain cross-entropy.
        """
        work = self.attached
        if work is None and torch.is_grad_enabled():
            raise UserError(
                "compute_loss_func is set but randout's callback is missing; add callbacks=[noise.callback]"
            )
        if work is None or not work.stack.context.model.training:
            logits = logits_of(outputs)
            return plain_loss(logits, classes_of(labels, logits))
        if labels is None:
            raise UserError("a training batch has no labels, by which the Trainer counts the texts of a step")
        self._losses_computed += 1
        texts = self._texts(labels, num_items_in_batch)
        if not work.makes_gradients:
            loss = work.loss(outputs, labels, texts=texts)
        else:  # gradients are already computed; the Trainer's own backward call must have no effect
            loss = work.backward(outputs, labels, texts=texts).requires_grad_() * 1.0
        for name, part in work.losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(part)) + part
        return loss

    def detach(self) -> None:
        """Remove the methods from the model. The end of training does this; call it after a training that failed."""
        self._open.close()
        self.attached = None

    def _texts(self, labels: Tensor, counted: Any) -> int | None:
        """Number of texts in the whole step, from the Trainer's count of labelled texts; None if it is this batch."""
        labelled = int((labels >= 0).sum())
        texts = labelled if counted is None else round(float(torch.as_tensor(counted).flatten()[0]))
        if texts == labelled:
            return None
        if labelled < len(labels):
            raise UserError(
                "texts without a label cannot be combined with gradient accumulation or several processes, because the "
                "number of texts in a step is unknown; set gradient_accumulation_steps = 1, or train on labelled texts"
            )
        return texts

    def _begin(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        _check(self.methods, args)
        if self.attached is not None and self.attached.stack.context.model is model and not state.global_step:
            return  # a retry with a smaller batch (auto_find_batch_size): methods are already attached
        self.detach()
        resume = self._resumed(model, args, state) if state.global_step else None
        seed = args.seed if self.seed is None else self.seed
        opened = attached(model, self.methods, seed=seed, steps=state.max_steps, resume=resume)
        self.attached = self._open.enter_context(opened)
        if self.attached.parameters:
            names = [method.name for method, state in self.attached.stack if state.parameters]
            self.detach()
            raise UserError(
                f"methods.{names[0]}: it trains its own parameters, which the Trainer's optimizer does not have; "
                "use randout.attached in your own loop, or randout.train"
            )

    def _resumed(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> dict[str, Tensor]:
        """Find the state of the methods in the checkpoint whose weights the model has."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        asked = (self.resume_from, args.resume_from_checkpoint, Path(args.output_dir or ".") / name)
        folders = [Path(folder) for folder in asked if isinstance(folder, str | Path)]
        probe = _probe(model)
        for file in (folder / FILE for folder in folders if (folder / FILE).is_file()):
            with safe_open(file, "pt") as opened:
                about = json.loads((opened.metadata() or {}).get("randout", "{}"))
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            if about.get("weights") == probe:
                return tensors
        needs = [m.name for m in self.methods if overrides(m, "start")]
        if not needs:
            return {"step": torch.tensor(state.global_step)}
        raise UserError(
            f"methods.{needs[0]}: training resumes from step {state.global_step}, but {FILE} of that checkpoint is "
            f"not in {', '.join(map(str, folders))}; pass randout.for_trainer(..., resume_from=FOLDER)"
        )

    def _save(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        folder = Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if self.attached is None or not state.is_world_process_zero or not folder.is_dir():
            return
        about = {"weights": _probe(model), "methods": [method.name for method in self.methods]}
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.attached.state_dict().items()}
        with replacing(folder / FILE) as partial:
            save_file(tensors, partial, {"randout": json.dumps(about)})

    def _stepped(self) -> None:
        if self.attached is None:
            return
        if not self._losses_computed:
            for m in self.methods:
                if overrides(m, "loss") or overrides(m, "gradient"):
                    raise UserError(f"methods.{m.name}: compute_loss_func=noise.loss is missing in the Trainer")
        if not self.attached.checked:
            self.attached.check_gradients(present=True)
        self._losses_computed, self._steps = 0, self._steps + 1
        self.attached.stepped()

    def _log(self, state: TrainerState, logs: dict[str, float] | None) -> None:
        """Log the parts of the loss alongside it, as means over the steps since the last log."""
        if not logs or "loss" not in logs or not self._sums:
            return
        sums = {name: _of_all_processes(total) for name, total in self._sums.items()}
        means = {f"loss_{name}": float(total) / max(self._steps, 1) for name, total in sums.items()}
        self._sums, self._steps = {}, 0
        logs.update(means)
        if state.log_history:
            state.log_history[-1].update(means)


class Callback(TrainerCallback):
    """Attaches the methods when training begins and detaches them when it ends."""

    def __init__(self, owner: ForTrainer) -> None:
        self.owner = owner

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self.owner._begin(model, args, state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.owner.attached is not None:
            self.owner.attached.at(state.global_step, args.process_index, args.world_size)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.owner._stepped()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self.owner._save(model, args, state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        self.owner._log(state, logs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.owner.detach()


def for_trainer(
    methods: Sequence[Method], *, seed: int | None = None, resume_from: str | Path | None = None
) -> ForTrainer:
    """Prepare `methods` for a `transformers.Trainer`: pass it `callbacks=[noise.callback]` and
    `compute_loss_func=noise.loss`, where `noise` is the returned object.

    Noise acts in training forward passes only; the evaluation loss is the plain cross-entropy. Losses are normalised by the
    whole optimizer step, so that gradient accumulation equals the larger batch. If no method has the loss on gold labels,
    plain cross-entropy is added. A column `teacher_logits` of the dataset (with `remove_unused_columns=False`) is passed to
    the methods and not to the model. seed: of all random draws; None: the Trainer's. resume_from: folder of the checkpoint
    to resume, if it is neither in `output_dir` nor named in the arguments. Raises UserError (when training begins) for
    combinations that are not supported.
    """
    return ForTrainer(methods, seed, resume_from)


def _check(methods: Sequence[Method], args: TrainingArguments) -> None:
    """Raise UserError for settings of the Trainer with which a method would silently give wrong results."""
    own_gradient = [method.name for method in methods if overrides(method, "gradient")]
    whole = [method.name for method in methods if method.needs_full_batch]
    named = methods[0].name if methods else GOLD_LOSS
    if args.n_gpu > 1:
        raise UserError(
            f"methods.{named}: {args.n_gpu} GPUs in one process (DataParallel) are not supported; start it with torchrun"
        )
    for setting in ("deepspeed", "fsdp", "torch_compile"):
        if getattr(args, setting, None):
            raise UserError(
                f"methods.{named}: {setting} is set, with which hooks and repeated forward passes do not work; unset it"
            )
    if args.label_smoothing_factor:
        raise UserError(
            "label_smoothing_factor is set, but a Trainer with a loss function ignores it; set it to 0 and add "
            f"CrossEntropy(label_smoothing={args.label_smoothing_factor:g}) to the methods"
        )
    if own_gradient and args.fp16:
        raise UserError(
            f"methods.{own_gradient[0]}: fp16 scales gradients inside the Trainer, which a method that computes gradients "
            "itself cannot do; use bf16 or float32"
        )
    if own_gradient and args.world_size > 1:
        raise UserError(
            f"methods.{own_gradient[0]}: several backward passes are not supported with {args.world_size} processes; use one"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise UserError(
            f"average_tokens_across_devices is off with {args.world_size} processes, so each would divide its losses by its "
            "own number of texts; set it to True"
        )
    if whole and args.gradient_accumulation_steps * args.world_size > 1:
        raise UserError(
            f"methods.{whole[0]}: it needs all texts of a step at once; set gradient_accumulation_steps = 1, and use one "
            "process"
        )


def _of_all_processes(total: Tensor) -> Tensor:
    """Sum a number over the processes of the Trainer; each has the losses of its own texts, divided by those of the step."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total


@torch.no_grad()
def _probe(model: nn.Module) -> str:
    """Digest of some values of each parameter, which identifies a model's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        some = flat[:: max(flat.numel() // PROBE, 1)][:PROBE]
        digest.update(name.encode() + some.float().cpu().numpy().tobytes())
    return digest.hexdigest()
