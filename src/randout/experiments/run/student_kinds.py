"""The three kinds of student: an encoder, a neural baseline, a bag-of-words baseline (`plan.Student`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from randout.baselines import BAGS, NETWORKS, Bag, Classifier, Fitted, Labelled, Network, Vocabulary
from randout.baselines.settings import chosen
from randout.core.config import Config, StudentTable
from randout.core.console import duration
from randout.data.dataset import Dataset
from randout.data.stratify import Ints
from randout.methods.compatibility import methods_of
from randout.models import loading
from randout.models.encoder import Encoder
from randout.models.inference import predict
from randout.models.sources import Source
from randout.models.tokenization import token_copies, tokens_for
from randout.models.tokens import Tokens
from randout.stats.targets import score
from randout.storage.run_folder import RunFolder
from randout.training.state import TrainingState

from . import defaults
from .options import Options, Stopped
from .plan import NO_TOKENS, Plan, RowLogits, TeacherOutputs, TrainedStudent
from .student import begin_training, estimate, make_training_data, row_counts, stand_in, train_student
from .thresholds import tuned


@dataclass(frozen=True)
class EncoderStudent:
    """A pretrained encoder with a classification head, fine-tuned."""

    source: Source
    with_reference: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return self.source.label

    def identity(self, plan: Plan) -> dict[str, Any]:
        own = plan.config.student.model_dump(mode="json", exclude={"model", "revision"})
        before = {"pooling": "first", "alternative": ""}  # behaviour before these settings existed: keeps fingerprints
        own = {key: value for key, value in own.items() if before.get(key) != value}
        if plan.alternative is not None:
            own["alternative"] = plan.alternative.identity["student"]
        return {"weights": self.source.fingerprint(), **own}

    def load(self, plan: Plan) -> Encoder:
        table, train = plan.config.student, plan.config.train
        rates = (table.dropout, table.attention_dropout)
        dropout, attention_dropout = (None if rate == "model" else float(rate) for rate in rates)
        return loading.load(
            self.source,
            id2label=plan.dataset.id2label,
            head=table.head,
            pooling="mean" if table.pooling == "mean" else "first",
            layers=table.layers,
            seed=train.seed,
            pack=train.packing,
            dropout=dropout,
            attention_dropout=attention_dropout,
            multi_label=plan.dataset.sets is not None,
        )

    def train(self, plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
        training = train_student(plan, begin_training(plan, teacher), make_training_data(plan, teacher), run, options)
        encoder, longest = training.encoder, int(plan.config.student.max_length)
        parameters = sum(p.numel() for p in encoder.model.parameters())
        return TrainedStudent(
            _logits(plan, encoder),
            _history(training),
            lambda folder, card, limits: loading.save(encoder, folder, longest, card, limits),
            {"encoder": {"packed": encoder.packed, "reason": encoder.reason, "parameters": parameters}},
            {"parameters": parameters},
        )

    def estimate(self, plan: Plan, steps: int = 3) -> list[str]:
        teacher = stand_in(plan) if plan.has_teacher else None
        return estimate(plan, begin_training(plan, teacher), make_training_data(plan, teacher), steps)

    def usual_epochs(self, plan: Plan) -> int:
        texts, by_contrast = defaults.training_texts(methods_of(plan.config), plan.dataset)
        train = plan.config.train.model_copy(update={"epochs": 0})
        return defaults.resolved(train, texts, 0, defaults.RATE_WIDTH, by_contrast, []).epochs

    def token_copies(self, table: StudentTable, dataset: Dataset) -> dict[str, Ints]:
        return token_copies(tokens_for(self.source, table, dataset, [])[0], dataset)


@dataclass(frozen=True)
class _Baseline:
    """What both kinds of baseline have in common: they start from no model and read words. settings: the classifier."""

    settings: Classifier
    source: ClassVar[None] = None

    @property
    def label(self) -> str:
        return self.settings.name

    def resolved(self, rows: int, notes: list[str]) -> Self:
        """Return it with every "auto" setting resolved for this number of training rows, each with a line in `notes`."""
        return replace(self, settings=self.settings.resolved(rows, notes))

    def identity(self, plan: Plan) -> dict[str, Any]:
        return {"classifier": plan.config.student.model, **plan.config.classifier}

    def usual_epochs(self, plan: Plan) -> int:
        return 0

    def token_copies(self, table: StudentTable, dataset: Dataset) -> dict[str, Ints]:
        return {}


@dataclass(frozen=True)
class NeuralBaseline(_Baseline):
    """A network on words, trained in the training loop. vocabulary: of the training texts; empty before it `reads` them."""

    settings: Network
    vocabulary: Vocabulary = ()
    with_reference: ClassVar[bool] = True

    def reading(self, dataset: Dataset, notes: list[str]) -> tuple[NeuralBaseline, Tokens]:
        """Return it with the vocabulary of the training texts, and all texts as its word ids. notes: gets one line."""
        vocabulary = self.settings.vocabulary(dataset.texts[row] for row in dataset.split["train"])
        tokens = self.settings.tokens(vocabulary, dataset.texts)
        length = self.settings.length
        cut = (tokens.untruncated_lengths > length).mean()
        notes.append(f"vocabulary: {len(vocabulary):,} words; {cut:.1%} of texts are truncated to {length} words")
        return replace(self, vocabulary=vocabulary), tokens

    def load(self, plan: Plan) -> Encoder:
        return self.settings.encoder(self.vocabulary, plan.dataset.id2label, plan.config.train.seed)

    def train(self, plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
        training = train_student(plan, self._begin(plan), make_training_data(plan, teacher), run, options)
        fitted = self.settings.fitted(training.encoder, self.vocabulary)
        return TrainedStudent(
            _logits(plan, training.encoder), _history(training), fitted.save, {"classifier": fitted.found}
        )

    def estimate(self, plan: Plan, steps: int = 3) -> list[str]:
        return estimate(plan, self._begin(plan), make_training_data(plan, None), steps)

    def _begin(self, plan: Plan) -> TrainingState:
        training = begin_training(plan)
        training.optimizer = self.settings.optimizer(training.encoder.model)
        return training


@dataclass(frozen=True)
class BagOfWordsBaseline(_Baseline):
    """A classifier on word counts, fitted in one call."""

    settings: Bag
    with_reference: ClassVar[bool] = False

    def reading(self, dataset: Dataset, notes: list[str]) -> tuple[BagOfWordsBaseline, Tokens]:
        """Return it unchanged, and no tokens: it reads texts."""
        return self, NO_TOKENS

    def load(self, plan: Plan) -> Encoder:
        raise TypeError(f"{self.label} has no network to train")

    def train(self, plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
        """Fit it. It has no checkpoint: after a stop it is fitted from the start."""
        texts, held, began = plan.dataset.texts, _part(plan, "validation"), time.monotonic()
        fitted = self._fit(plan, held, run, options)
        spent = time.monotonic() - began
        dataset, rows = plan.dataset, plan.dataset.split["validation"]
        logits = fitted.logits(held.texts)
        limits = tuned(dataset, rows, logits)
        metrics = score(dataset.truth(rows), logits, dataset.id2label, unseen=dataset.unseen, thresholds=limits)
        values = {f"validation_{name}": value for name, value in metrics.items() if isinstance(value, float)}
        row = {"epoch": 1, "step": 1, **values, "seconds": round(spent, 3)}
        found = ", ".join(f"{name} {value}" for name, value in fitted.found.items() if not isinstance(value, list))
        best = plan.config.train.metric if dataset.sets is not None else "accuracy"
        accuracy = f"validation {best} {metrics[best]:.2%}"
        options.show.say(f"{self.label}: {found}, {accuracy}, {duration(spent)}")
        return TrainedStudent(
            lambda rows, progress: fitted.logits([texts[row] for row in rows], progress),
            {"epochs": [row], "best_epoch": 1, "ended": "fitted"},
            fitted.save,
            {"classifier": fitted.found},
        )

    def _fit(self, plan: Plan, held: Labelled, run: RunFolder, options: Options) -> Fitted:
        with options.show.bar(self.label, self.settings.pieces, unit="fits") as bar:

            def advance(done: int) -> None:
                bar(done, "")
                if options.deadline and time.monotonic() > options.deadline:
                    raise Stopped("the time limit", run)

            train = _part(plan, "train")
            return self.settings.fit(train, held, plan.dataset.id2label, plan.config.train, advance)

    def estimate(self, plan: Plan, steps: int = 3) -> list[str]:
        return [row_counts(plan), f"time: not estimated, because {self.label} is fitted in a single step"]


Baseline = NeuralBaseline | BagOfWordsBaseline
_BASELINES: dict[str, Callable[[Any], Baseline]] = {
    **dict.fromkeys(NETWORKS, NeuralBaseline),
    **dict.fromkeys(BAGS, BagOfWordsBaseline),
}


def baseline_of(config: Config) -> Baseline | None:
    """Return the baseline that `student.model` names, with its settings; None for an encoder. Raises UserError."""
    settings = chosen(config)
    return None if settings is None else _BASELINES[settings.name](settings)


def _logits(plan: Plan, encoder: Encoder) -> RowLogits:
    return lambda rows, progress: predict(encoder, plan.tokens, rows, "float32", progress)


def _history(training: TrainingState) -> dict[str, Any]:
    position = training.position
    return {"epochs": position.history, "best_epoch": position.best_epoch, "ended": position.ended}


def _part(plan: Plan, name: str) -> Labelled:
    rows, dataset = plan.dataset.split[name], plan.dataset
    labels = dataset.labels[rows] if dataset.sets is None else dataset.truth(rows)[:, : len(dataset.id2label)]
    return Labelled([dataset.texts[row] for row in rows], labels)
