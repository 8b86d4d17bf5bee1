"""Examples a second: Randout-KD by randout against a plain Hugging Face `Trainer`, on the same batches.

    python benchmarks/throughput.py --model FOLDER --data rhmd:RHMD_3_Class.csv
    python benchmarks/throughput.py --smoke    # a tiny random model, made-up texts: seconds, numbers mean nothing

Each pair times both sides one after the other over the same random batches of the training split, the same model and a
teacher of its size:

- the Trainer as its users write it: padding to the longest of the batch, float32, AdamW, the teacher's forward in
  `compute_loss`, cross-entropy + weight * KL;
- randout through its own `prepare.make`, `make_session`, `make_material` and `fit`: packed, in the number format that
  "auto" means here, cross-entropy + weight * KL + noise, the teacher's logits computed once beforehand.

Loading and the first steps of each timing are left out, and so is evaluation. The one-time cost of the teacher's logits
is measured on a sample and reported apart: spread over the epochs of a run, and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from randout import config, loop, models, prepare, soft_labels, student
from randout.methods import METHODS
from randout.prepare import Plan
from randout.progress import Show
from randout.tokens import batches

import torch  # isort: skip  (randout's own settings for torch come first)
import torch.nn.functional as F

WARM_UP = 3  # steps at the start of each timing that are not counted
PAPER_EPOCHS = 15


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(Path(folder)), tiny_data(Path(folder))
            arguments.pairs, arguments.steps, arguments.label_texts, arguments.max_length = 2, 2, 32, 64
        found = compare(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of an encoder: the student, and the teacher's shape")
    parser.add_argument("--data", help="as `randout train` takes it")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each side in a pair")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=215)
    parser.add_argument("--label-texts", type=int, default=1000, help="texts on which the teacher's pass is timed")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (or --smoke)")
    return arguments


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time both sides in alternation; everything measured, as plain values."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plan = make_plan(arguments)
    source, texts = models.find(arguments.model), len(plan.dataset.texts)
    teacher = models.load(source, id2label=plan.dataset.id2label, seed=7)
    label_seconds = seconds_per_label(teacher, plan, arguments, folder)
    soft = torch.randn(texts, len(plan.dataset.id2label), generator=torch.Generator().manual_seed(0))
    session, material = student.make_session(plan), student.make_material(plan, student.Taught("", soft))
    theirs = (plain_model(source, plan), plain_model(source, plan))
    pairs = []
    for pair in range(arguments.pairs):
        rows = draw(plan, arguments, pair)
        a = time_trainer(*theirs, plan, rows, folder)
        b = time_randout(session, material, pair, arguments.steps)
        pairs.append({"trainer": a, "randout": b, "ratio": b / a, "tokens": mean_length(plan, rows)})
        print(f"pair {pair + 1}: Trainer {a:.1f} ex/s, randout {b:.1f} ex/s, {b / a:.2f} times", file=sys.stderr)
    return summary(pairs, label_seconds, plan, session, arguments)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The default recipe with this model as student and teacher; an epoch a pair."""
    own = {
        "data": {"source": str(arguments.data)},
        "student": {"model": str(arguments.model), "max_length": arguments.max_length},
        "teacher": {"model": str(arguments.model)},
        "train": {"batch_size": arguments.batch_size, "epochs": arguments.pairs + 1},
    }
    return prepare.make(config.build([config.read_preset("randout-kd"), own], METHODS))


def draw(plan: Plan, arguments: argparse.Namespace, epoch: int) -> list[np.ndarray]:
    """The first batches of an epoch, as `loop.fit` will draw them."""
    settings, none = plan.config.train, np.zeros(0, np.int64)
    order = batches(
        plan.tokens.lengths, plan.dataset.split["train"], none, settings.batch_size, settings.seed, epoch, False
    )
    needed = WARM_UP + arguments.steps
    if len(order) <= needed:
        raise SystemExit(f"the training split gives {len(order)} batches, fewer than the {needed} + 1 that are needed")
    return order[:needed]


def mean_length(plan: Plan, rows: list[np.ndarray]) -> float:
    return float(plan.tokens.lengths[np.concatenate(rows[WARM_UP:])].mean())


def seconds_per_label(teacher: Any, plan: Plan, arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds a text of the teacher's one-time pass, tokenising and storing included."""
    rows = np.random.default_rng(0).permutation(plan.dataset.split["train"])[: arguments.label_texts]
    texts = [plan.dataset.texts[row] for row in rows]
    parts = soft_labels.fingerprint("none", arguments.max_length, "head", plan.config.train.precision, texts)
    began = time.perf_counter()
    soft_labels.compute(teacher, texts, folder / "soft-labels", parts, Show(quiet=True), "teacher")
    return (time.perf_counter() - began) / len(texts)


def time_randout(session: loop.Session, material: loop.Material, epoch: int, steps: int) -> float:
    """Examples a second of `loop.fit` over the first steps of an epoch, its warm-up not counted."""
    if not session.encoder.packed:
        raise SystemExit(f"this encoder is not packed ({session.encoder.reason}), so the batches would differ")
    session.position.epoch, session.position.batch = epoch, 0
    events = loop.fit(session, material, validate=dict)
    for _ in islice(events, WARM_UP):
        pass
    began = time.perf_counter()
    texts = sum(event.texts for event in islice(events, steps))
    return texts / (time.perf_counter() - began)


def plain_model(source: models.Source, plan: Plan) -> Any:
    from transformers import AutoModelForSequenceClassification

    labels = len(plan.dataset.id2label)
    return AutoModelForSequenceClassification.from_pretrained(source.folder, num_labels=labels, dtype=torch.float32)


def time_trainer(model: Any, teacher: Any, plan: Plan, rows: list[np.ndarray], folder: Path) -> float:
    """Examples a second of a Trainer with the teacher in its loop, over the same batches in the same order."""
    from transformers import (
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    ended: list[float] = []
    weight = METHODS["kd"]().weight
    teacher.eval()

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs = model(**inputs)
            with torch.no_grad():
                target = teacher(**{k: v for k, v in inputs.items() if k != "labels"}).logits
            log_q, log_p = F.log_softmax(outputs.logits, -1), F.log_softmax(target, -1)
            loss = outputs.loss + weight * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            return (loss, outputs) if return_outputs else loss

        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=plan.config.train.batch_size,
        num_train_epochs=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    labels, order = plan.dataset.labels, np.concatenate(rows)
    examples = [{"input_ids": plan.tokens[row].tolist(), "labels": int(labels[row])} for row in order]
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(plan.student.folder))
    trainer = Distiller(model, settings, collator, examples, callbacks=[Clock])
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    trainer.train()
    return len(np.concatenate(rows[WARM_UP:])) / (ended[-1] - ended[WARM_UP - 1])


def summary(
    pairs: list[dict[str, float]],
    label_seconds: float,
    plan: Plan,
    session: loop.Session,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    ratios = [pair["ratio"] for pair in pairs]
    middle = {side: statistics.median(pair[side] for pair in pairs) for side in ("trainer", "randout")}
    split = plan.dataset.split
    labels = label_seconds * (len(split["train"]) + len(split["validation"])) / len(split["train"])
    runs = {"default": config.TrainTable().epochs, "paper": PAPER_EPOCHS}
    spread = {}
    for name, epochs in runs.items():
        rates = [1 / (1 / pair["randout"] + labels / epochs) / pair["trainer"] for pair in pairs]
        rate = 1 / (1 / middle["randout"] + labels / epochs)
        spread[name] = {"epochs": epochs, "randout": rate, "ratio": statistics.median(rates)}
    return {
        "pairs": pairs,
        "median": middle,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "soft_labels": {"texts_per_second": 1 / label_seconds, "spread_over_a_run": spread},
        "setting": {
            "model": plan.student.label,
            "data": plan.dataset.name,
            "batch_size": arguments.batch_size,
            "max_length": arguments.max_length,
            "steps": arguments.steps,
            "precision": session.precision,
            **student.environment(plan),
        },
    }


def as_text(found: dict[str, Any]) -> str:
    """The table for people."""
    middle, ratio, labels = found["median"], found["ratio"], found["soft_labels"]
    lines = [" ".join(f"{name}={value}" for name, value in found["setting"].items()), ""]
    lines += ["| pair | tokens a text | Trainer, ex/s | randout, ex/s | ratio |", "|---|---|---|---|---|"]
    row = "| {} | {:.0f} | {:.1f} | {:.1f} | {:.2f} |"
    for number, pair in enumerate(found["pairs"], 1):
        lines.append(row.format(number, pair["tokens"], pair["trainer"], pair["randout"], pair["ratio"]))
    lines += [f"| median | | {middle['trainer']:.1f} | {middle['randout']:.1f} | {ratio['median']:.2f} |", ""]
    lines += [f"ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), soft labels left out"]
    lines += [f"soft labels: once, {labels['texts_per_second']:.0f} texts/s"]
    for name, run in labels["spread_over_a_run"].items():
        lines += [f"spread over {run['epochs']} epochs ({name}): {run['randout']:.1f} ex/s, ratio {run['ratio']:.2f}"]
    return "\n".join(lines)


def tiny_model(folder: Path, words: int = 60, shape: dict[str, int] | None = None) -> str:
    """A random BERT in `folder`, its words w0, w1, ...; shape: fields of its configuration, over the tiny ones."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(words))]
    inner = Tokenizer(kinds.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = sizes | {"max_position_embeddings": 64} | (shape or {})
    longest = sizes["max_position_embeddings"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=longest, **special)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(known), **sizes))
    model.bert.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return str(folder / "tiny")


def tiny_data(folder: Path) -> str:
    draw = np.random.default_rng(0)
    lines = ["text,label"]
    for _ in range(400):
        words = " ".join(f"w{i}" for i in draw.integers(0, 60, draw.integers(3, 40)))
        lines.append(f"{words},{'ab'[draw.integers(2)]}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "texts.csv")


if __name__ == "__main__":
    main()
