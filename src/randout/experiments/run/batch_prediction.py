"""`randout predict`: labels for the texts of a file, in blocks, with constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.label_sets import Label, names_of
from randout.core.wording import plural, verb
from randout.data import archives, columns, dataset, streaming, table_writing, tables, text_fields
from randout.models import sources
from randout.stats.label_set_scores import set_probability
from randout.stats.targets import predicted, probabilities

from . import saved_model

if TYPE_CHECKING:
    from .abstention import Abstainer

GUESS = ("best_guess", "confidence")  # columns of a model that abstains


class LabelledText(NamedTuple):
    """A text with its prediction: one element of each field of `Labelled`."""

    text: str
    label: Label | None
    score: float | None
    probabilities: list[float] | None
    guess: Label | None
    confidence: float | None


@dataclass(frozen=True)
class Labelled:
    """n texts with a model's predictions, None for an empty text. score: the probability of the label.

    probabilities: by class, in the model's order. guesses, confidences: only of a model that abstains, for every text that
    is not empty; the texts whose confidence is too low have no label and no score.

    Of a model that predicts label sets, a label is a list, and the score is the probability of the set with labels taken as
    independent. An empty list is a prediction, with a score; a text without a label has None.
    """

    texts: Sequence[str]
    labels: list[Label | None]
    scores: list[float | None]
    probabilities: list[list[float] | None]
    guesses: list[Label | None]
    confidences: list[float | None]

    @property
    def abstained(self) -> int:
        """Number of texts without a label that are not empty."""
        return sum(guess is not None and label is None for guess, label in zip(self.guesses, self.labels, strict=True))

    def rows(self) -> Iterator[LabelledText]:
        """Yield each text with its prediction."""
        fields = (self.texts, self.labels, self.scores, self.probabilities, self.guesses, self.confidences)
        return map(LabelledText._make, zip(*fields, strict=True))

    def columns(self, classes: int, abstains: bool = False) -> list[list[Any]]:
        """Return the columns to add to a table: those of `column_names` for so many classes."""
        each = [[None if row is None else row[at] for row in self.probabilities] for at in range(classes)]
        guesses: list[list[Any]] = [self.guesses, self.confidences] if abstains else []
        return [self.labels, self.scores, *guesses, *each]


def column_names(classes: Sequence[str], abstains: bool = False) -> list[str]:
    """Return the names of the columns that are added to a table. classes: those whose probabilities are added."""
    return ["label", "score", *(GUESS if abstains else ()), *(f"probability_{name}" for name in classes)]


def decided(
    logits: np.ndarray, names: Sequence[str], thresholds: Sequence[float] | None
) -> tuple[list[Label], np.ndarray, np.ndarray]:
    """Return the label of each row of logits (n, C), its probability (n,), and the probabilities (n, C) of all names.

    thresholds: (C,) of a model of label sets, whose labels are lists; None: one label per text.
    """
    likely, made = probabilities(logits, thresholds), predicted(logits, thresholds)
    if thresholds is None:
        return [names[at] for at in made.tolist()], likely[np.arange(len(made)), made], likely
    return [*names_of(made, names)], set_probability(likely, made), likely


def labelled(
    model: saved_model.LoadedClassifier,
    texts: Sequence[str],
    advance: Callable[[int], None] = lambda count: None,
    abstain: Abstainer | None = None,
) -> Labelled:
    """Predict the label of each text. advance: progress callback, called with the number of texts done."""
    kept = [at for at, text in enumerate(texts) if text.strip()]
    n = len(texts)
    found = Labelled(texts, [None] * n, [None] * n, [None] * n, [None] * n, [None] * n)
    advance(n - len(kept))
    if not kept:
        return found
    logits = model.logits([texts[at] for at in kept], advance)
    labels, scores, likely = decided(logits, list(model.id2label.values()), model.thresholds)
    for at, label, score, row in zip(kept, labels, scores.tolist(), likely.tolist(), strict=True):
        found.labels[at], found.scores[at], found.probabilities[at] = label, score, row
    if abstain is not None:
        sure = abstain.confidences(logits, model.thresholds)
        for at, confidence, accepted in zip(kept, sure.tolist(), abstain.accepts(sure).tolist(), strict=True):
            found.guesses[at], found.confidences[at] = found.labels[at], confidence
            if not accepted:
                found.labels[at] = found.scores[at] = None
    return found


@dataclass(frozen=True)
class Written:
    """What `label_table` wrote. names: the added columns. abstained: rows without a label for lack of confidence."""

    path: Path
    texts: dataset.TextBlocks
    names: list[str]
    abstained: int | None = None


@dataclass(frozen=True)
class Request:
    """How to predict: the model, its device and the input.

    probabilities: whether to add those of all classes. form: of an export; empty: its default. abstain: the target by which a
    text gets no label, as for `abstention.abstainer`; empty: every text gets one. text_pair: column of the second texts; None:
    as in training.
    """

    model: str
    device: str = "auto"
    text_column: str | None = None
    encoding: str = tables.AUTO
    probabilities: bool = False
    form: str = ""
    abstain: str = ""
    text_pair: str | None = None

    @property
    def fields(self) -> text_fields.TextFields:
        """The columns of an input besides its text: those of the model, with the second texts from `text_pair` if given."""
        return saved_model.fields_of(self.model, self.text_pair)

    def abstainer(self, show: Show) -> Abstainer | None:
        """Return what decides which texts get a label; None if all do. Raises UserError."""
        if not self.abstain:
            return None
        from .abstention import abstainer

        return abstainer(self.model, self.abstain, show)


def label_table(request: Request, file: str, out: Path | None, show: Show, bars: Show) -> Written:
    """Write the rows of a table with label and score; the file is written atomically. Raises UserError, Failure.

    The file and the output path are checked before the model is looked for, and the texts before it is loaded. bars: shows
    progress.
    """
    if out is not None:
        table_writing.check_output(out)
    with dataset.open_texts(file, request.text_column, request.encoding) as (blocks, look_through):
        writer = table_writing.BlockWriter(out or table_writing.default_output(blocks, "labelled"))
        sources.check_there(request.model)
        trained = saved_model.trained_columns(request.model)
        texts = look_through(writer.check, trained.get("text"), request.fields)
        if warning := saved_model.column_warning(trained, texts.column, request.text_column, file):
            show.warn(warning)
        if texts.numbers and not request.text_column:
            show.warn(columns.numbers_warning(texts.column))
        note_empty(texts, show)
        abstain = request.abstainer(show)
        model = saved_model.load_on_device(request.model, request.device, "predict", request.form)
        classes = list(model.id2label.values()) if request.probabilities else []
        names: list[str] = []
        wanted = column_names(classes, abstain is not None)
        for name in wanted:
            names.append(table_writing.free_name([*blocks.names, *names], name))
        of_label = str if model.thresholds is None else list
        kinds = {
            name: of_label if own in ("label", GUESS[0]) else float for name, own in zip(names, wanted, strict=True)
        }
        abstained = 0
        with writer.open(kinds) as add, bars.bar("predicting", texts.rows) as advance:
            for block, some in texts:
                found = labelled(model, some, lambda count: advance(count, ""), abstain)
                abstained += found.abstained
                add(block, dict(zip(names, found.columns(len(classes), abstain is not None), strict=True)))
    if abstain is None:
        return Written(writer.path, texts, names)
    _note_abstained(abstained, texts, model, show)
    return Written(writer.path, texts, names, abstained)


def note_empty(texts: dataset.TextBlocks, show: Show) -> None:
    """Log how many rows have no text and so get no label."""
    if texts.empty:
        which = f": {dataset.row_list(texts.first_empty, texts.empty, texts.first_lines)}"
        are, get = verb(texts.empty, "is", "are"), verb(texts.empty, "gets", "get")
        show.say(f"note: {texts.empty:,} of {plural(texts.rows, 'text')} {are} empty and {get} no label{which}")


def _note_abstained(abstained: int, texts: dataset.TextBlocks, model: saved_model.LoadedClassifier, show: Show) -> None:
    from .abstention import note_abstained

    note_abstained(abstained, texts.rows - texts.empty, show, sets=model.thresholds is not None)


def label_texts(request: Request, texts: Sequence[str], show: Show, bars: Show) -> Iterator[tuple[list[str], Labelled]]:
    """Yield (classes, texts with labels) for texts in memory, block by block. bars: shows progress."""
    sources.check_there(request.model)
    if fields := request.fields:
        raise UserError(
            f"predict: this model reads {fields.words}, which a text as an argument does not have. Expected a table: --file FILE "
            f"with the columns {', '.join(map(repr, (fields.text or 'text', *fields.columns)))}"
        )
    table = streaming.whole(tables.Table({"text": list(texts)}, "arguments", "", "lines"))
    yield from _label_blocks(request, dataset.texts_of(table, "text"), show, bars)


def label_input(request: Request, stream: BinaryIO, show: Show, bars: Show) -> Iterator[tuple[list[str], Labelled]]:
    """Yield (classes, texts with labels) for each block of a stream. Raises UserError.

    The stream is one text per line, or a table if a text column is requested or the first line names one (a usual name, or
    the column that the run was trained on). The model's existence is checked first; the stream is read to its end and
    checked before the model is loaded. bars: shows progress.
    """
    sources.check_there(request.model)
    with ExitStack() as stack:
        opened = archives.of_handle(stack.enter_context(archives.spooled(stream)), tables.STANDARD_INPUT)
        trained = saved_model.trained_columns(request.model).get("text", "")
        fields = request.fields
        if fields or request.text_column or streaming.names_a_text(opened, request.encoding, trained):
            blocks = _table_blocks(opened, request.encoding, fields)
            texts = dataset.texts_of(blocks, request.text_column, trained, fields=fields)
            if not request.text_column:
                show.say(f"note: {opened.name} is a table; predicting for the texts in column {texts.column!r}")
                if texts.numbers:
                    show.warn(columns.numbers_warning(texts.column))
        else:
            texts = dataset.texts_of(streaming.plain_lines(opened, request.encoding), "text")
        yield from _label_blocks(request, texts, show, bars)


def _table_blocks(opened: archives.OpenedFile, encoding: str, fields: text_fields.TextFields) -> streaming.Blocks:
    """Return the rows of a table on standard input. Raises UserError for texts without columns if an input has several."""
    try:
        blocks = streaming.blocks_of(opened, encoding)
        first = next(iter(blocks), None)
    except UserError:
        if not fields:
            raise
        first = None
    if fields and (first is None or not {*fields.columns} & {*first.columns}):
        raise UserError(
            f"{opened.name}: this model reads {fields.words}. Expected a table with a header that names these columns, as "
            "with --file; single texts, one per line, lack them"
        )
    return blocks


def _label_blocks(
    request: Request, texts: dataset.TextBlocks, show: Show, bars: Show
) -> Iterator[tuple[list[str], Labelled]]:
    note_empty(texts, show)
    if not texts.rows:
        show.say(
            "note: no texts given, so there is nothing to predict. Give texts as arguments, or a table with --file"
        )
        return
    abstain = request.abstainer(show)
    model = saved_model.load_on_device(request.model, request.device, "predict", request.form)
    classes, abstained = list(model.id2label.values()), 0
    with bars.bar("predicting", texts.rows) as advance:
        for _, some in texts:
            found = labelled(model, some, lambda count: advance(count, ""), abstain)
            abstained += found.abstained
            yield classes, found
    if abstain is not None:
        _note_abstained(abstained, texts, model, show)


def check_source(file: str | None, texts: Sequence[str], out: Path | None, request: Request) -> None:
    """Raise UserError for options of `predict` that cannot be combined."""
    if file and texts:
        raise UserError("predict: give texts as arguments or --file, not both")
    if out and not file:
        raise UserError("predict: -o needs --file; without it the result is printed")
    for option, given in (
        ("--text-column", request.text_column),
        ("--text-pair", request.text_pair),
        ("--encoding", request.encoding != tables.AUTO),
    ):
        if texts and given:
            raise UserError(
                f"predict: {option} needs --file or standard input; it does not apply to texts as arguments"
            )
