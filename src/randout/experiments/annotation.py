"""`randout annotate`: soft labels of a table's texts by a causal language model, in a file that `--teacher` reads.

Everything that can be checked without PyTorch is checked first. The answers of each batch are kept in a file alongside the
output (`storage.annotation_progress`), so that the same command resumes an interrupted one with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from randout.core.config import Config, DataTable, TrainTable, checked
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import check_new_file, replace_text, shell_path
from randout.core.wording import plural, verb
from randout.data import columns as cols
from randout.data.composed_text import parts_of
from randout.data.dataset import load
from randout.data.labels import clean_label
from randout.data.table_writing import check_output, writer
from randout.data.tables import AUTO, Table, read_table, sha256_of
from randout.data.text_fields import TextFields, choose_pair_text
from randout.models.label_prompts import INSTRUCTION as INSTRUCTION
from randout.models.label_prompts import PAIR_INSTRUCTION, Prompt, check_answer, check_prompt
from randout.models.sources import Source, find_causal_lm
from randout.storage.annotation_progress import AnnotationProgress

if TYPE_CHECKING:
    from randout.models.label_scoring import Scorer

MAX_LENGTH = 2048  # tokens of a text
BATCH_SIZE = 8  # texts in a forward pass
RARELY = 0.1  # mean probability of all names together below which the model would rather answer something else


@dataclass(frozen=True)
class Request:
    """What to annotate with what. labels: empty: those of the training rows. prompt: the template's file.

    limit: number of rows to annotate, from the first; 0: all. max_length: of a text, in tokens of the model.
    """

    table: str
    model: str
    out: Path
    labels: tuple[str, ...] = ()
    answer: str = "letter"
    instruction: str = INSTRUCTION
    prompt: Path | None = None
    text_column: str | None = None
    text_pair: str = ""
    prefix_columns: tuple[str, ...] = ()
    label_column: str | None = None
    id_column: str | None = None
    encoding: str = AUTO
    revision: str = ""
    limit: int = 0
    batch_size: int = BATCH_SIZE
    max_length: int = MAX_LENGTH
    device: str = "auto"

    @property
    def fields(self) -> TextFields:
        """The columns of an input besides its text."""
        return TextFields(pair=self.text_pair, prefix=self.prefix_columns)

    @property
    def record(self) -> Path:
        """The file that says how the output was made."""
        return self.out.with_name(f"{self.out.name}.annotation.json")

    @property
    def progress(self) -> Path:
        """The file with the answers so far; it is deleted at the end."""
        return self.out.with_name(f"{self.out.name}.progress")


@dataclass(frozen=True)
class Annotation:
    """A finished annotation. rows: of the file. texts: distinct texts that the model read. empty: rows without a text.

    on_labels: mean probability that the model gives to the names of all labels together; None for answers by letter.
    """

    path: Path
    record: Path
    labels: tuple[str, ...]
    rows: int
    texts: int
    empty: int
    cut: int
    on_labels: float | None


@dataclass(frozen=True)
class _Texts:
    """The rows to annotate. texts: of each row, "" for none. order: the distinct texts, longest first.

    column: of the texts; fields: the further columns of an input.
    """

    table: Table
    column: str
    fields: TextFields
    texts: list[str]
    ids: list[Any]
    order: list[str]


def annotate(request: Request, show: Show) -> Annotation:
    """Write a table with the probability of each label for each text. Raises UserError and Failure.

    Table, labels, prompt, model folder and output are checked before PyTorch is loaded.
    """
    _check(request)
    read = _read_texts(request, show)
    prompt = _prompt_of(request, read)
    source = find_causal_lm(request.model, request.revision)
    check_answer(prompt, source.name, source.folder)
    _check_writable(read, prompt, request)
    from randout.experiments.run.planning import machine  # imports PyTorch
    from randout.models.label_scoring import load_scorer, text_limit

    device, precision = machine(Config(train=_device_table(request)))
    identity = _identity(request, read, prompt, source, device, precision)
    progress = AnnotationProgress(request.progress, identity)
    show.say(f"model {source.label} on {device} in {precision}: {plural(len(read.order), 'distinct text')}")
    scorer = load_scorer(source, prompt, device, precision)
    limit = text_limit(scorer, request.max_length)
    with progress.open():
        _answer(request, read, scorer, limit, progress, show)
    return _write(request, read, prompt, identity | {"whole_prompt": scorer.shown(), "text_tokens": limit}, progress)


def _check(request: Request) -> None:
    """Raise UserError for settings or files that cannot be used; nothing is read yet."""
    check_output(request.out)
    if not request.progress.exists():
        check_new_file(request.record)
    for option, value in (("--batch-size", request.batch_size), ("--max-length", request.max_length)):
        if value < 1:
            raise UserError(f"{option}: found {value}; expected 1 or more")
    if request.limit < 0:
        raise UserError(f"--limit: found {request.limit}; expected a number of rows, or 0 for all")
    if request.labels:
        check_prompt(_question(request, request.labels), str(request.prompt))
    else:
        check_prompt(_question(request, ("a", "b")), str(request.prompt))  # the labels follow from the table
    _device_table(request)


def _device_table(request: Request) -> TrainTable:
    return checked(TrainTable, {"device": request.device}, "annotate: ", "")


def _question(request: Request, labels: Sequence[str]) -> Prompt:
    template = ""
    if request.prompt is not None:
        try:
            template = request.prompt.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--prompt {request.prompt}: cannot be read ({error}); expected a text file in UTF-8"
            ) from None
        if not template.strip():
            raise UserError(f"--prompt {request.prompt}: the file is empty")
    of_pairs = request.text_pair and request.instruction == INSTRUCTION
    return Prompt(tuple(labels), request.answer, PAIR_INSTRUCTION if of_pairs else request.instruction, template)


def _read_texts(request: Request, show: Show) -> _Texts:
    """Read the table's texts and ids. Raises UserError."""
    table = read_table(request.table, request.encoding)
    if request.limit:
        kept = {name: list(values)[: request.limit] for name, values in table.columns.items()}
        table = replace(table, columns=kept)
    column = _text_column(table, request)
    request.fields.check(list(table.columns), table.name, column)
    texts = request.fields.read(table.name, table.columns, column)
    ids: list[Any] = []
    if request.id_column:
        ids = list(table.columns[cols.named_column(table, request.id_column, "--id-column")])
    if empty := [row for row, text in enumerate(texts, 1) if cols.is_missing(text)]:
        if len(empty) == len(texts):
            raise cols.without_text(table.name, column)
        which = f"{plural(len(empty), 'row')} {verb(len(empty), 'has', 'have')} no text and {verb(len(empty), 'gets', 'get')}"
        show.say(f"note: {which} no soft label: {cols.rows_in(table, empty)}")
    distinct = [text for text in dict.fromkeys(texts) if not cols.is_missing(text)]
    return _Texts(table, column, request.fields, texts, ids, sorted(distinct, key=len, reverse=True))


def _text_column(table: Table, request: Request) -> str:
    """Return the text column, chosen as for a training, or as for a table without labels."""
    if request.text_column:
        return cols.choose_text(table, request.text_column)
    if request.text_pair and (first := choose_pair_text(list(table.columns), request.fields)):
        return first
    try:
        return cols.choose_text(table, None, cols.choose_label(table, request.label_column))
    except cols.UnclearColumns:
        found = cols.choose_by_content(table, None, request.label_column)
        return found[0] if found else cols.choose_text(table, None)


def _prompt_of(request: Request, read: _Texts) -> Prompt:
    """Return the prompt with its labels: those given, else those of the training rows, as `train` reads the whole table."""
    if request.labels:
        return _question(request, [clean_label(label) for label in request.labels])
    settings: dict[str, Any] = {"source": request.table, "encoding": request.encoding, "text_column": read.column}
    settings |= {"label_column": request.label_column or "", "text_pair_column": request.text_pair}
    settings |= {"prefix_columns": request.prefix_columns}
    try:
        found = load(checked(DataTable, settings, "annotate: ", ""))
    except UserError as error:
        raise UserError(f"{error} Or name the labels: --labels a,b,c") from None
    prompt = _question(request, list(found.id2label.values()))
    check_prompt(prompt, str(request.prompt))
    return prompt


def _check_writable(read: _Texts, prompt: Prompt, request: Request) -> None:
    """Raise UserError if the output cannot store the columns, or if two columns would have the same name."""
    writer(_output(read, prompt, request, {}), request.out)


def _identity(
    request: Request, read: _Texts, prompt: Prompt, source: Source, device: str, precision: str
) -> dict[str, Any]:
    """Return everything that decides the output, and how it was made."""
    template = source.folder / "chat_template.jinja"
    return {
        "table": Path(request.table).name,
        "table_sha256": read.table.sha256,
        "rows": len(read.texts),
        "text_column": read.column,
        "id_column": request.id_column or "",
        **read.fields.named(),
        "model": source.name,
        "revision": source.revision,
        "model_sha256": source.fingerprint(),
        "chat_template_sha256": sha256_of(template.read_bytes()) if template.exists() else "",
        "labels": list(prompt.labels),
        "answer": prompt.answer,
        "instruction": prompt.instruction,
        "template": prompt.template,
        "max_length": request.max_length,
        "batch_size": request.batch_size,
        "device": device,
        "precision": precision,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def _answer(
    request: Request, read: _Texts, scorer: Scorer, limit: int, progress: AnnotationProgress, show: Show
) -> None:
    """Score the texts that have no answer yet, batch by batch. Raises Failure for probabilities that are not finite."""
    from randout.models.label_scoring import cut, joined

    names = (read.column, read.fields.pair) if read.fields.pair else ()
    size = request.batch_size
    done = min(len(progress.batches) * size, len(read.order))
    if done:
        show.say(f"resumed: {plural(done, 'text')} of {len(read.order):,} answered before")
    with show.bar("annotating", len(read.order), done) as advance:
        for at in range(done, len(read.order), size):
            texts = read.order[at : at + size]
            short = [cut(scorer.tokenizer, parts_of(text), names, limit) for text in texts]
            found = scorer.score(short)
            if not np.isfinite(found.probabilities).all():
                raise Failure(
                    f"{request.model}: its answer to a text is not a finite number ({texts[0]!r:.60}). The model's weights may "
                    "be damaged, or overflow on this device; try --device cpu"
                )
            shortened = sum(one != joined(parts_of(text), names) for one, text in zip(short, texts, strict=True))
            known = [] if np.isnan(found.on_labels).any() else found.on_labels.tolist()
            progress.append({"p": found.probabilities.tolist(), "on_labels": known, "cut": shortened})
            advance(len(texts), "")


def _write(
    request: Request, read: _Texts, prompt: Prompt, record: Mapping[str, Any], progress: AnnotationProgress
) -> Annotation:
    """Write the table and its record, each atomically, and delete the answers so far."""
    rows = [row for batch in progress.batches for row in batch["p"]]
    shares = [share for batch in progress.batches for share in batch["on_labels"]]
    shortened = sum(batch["cut"] for batch in progress.batches)
    found = Annotation(
        path=request.out,
        record=request.record,
        labels=prompt.labels,
        rows=len(read.texts),
        texts=len(read.order),
        empty=sum(cols.is_missing(text) for text in read.texts),
        cut=shortened,
        on_labels=float(np.mean(shares)) if shares else None,
    )
    write = writer(_output(read, prompt, request, dict(zip(read.order, rows, strict=True))), request.out)
    about = dict(record) | {"texts": found.texts, "texts_cut": found.cut, "on_labels": found.on_labels}
    replace_text(request.record, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write({})
    request.progress.unlink(missing_ok=True)
    return found


def _output(read: _Texts, prompt: Prompt, request: Request, p: Mapping[str, Sequence[float]]) -> Table:
    """Return the table to write: ids, texts, and the probability of each label; None for a row without one."""
    found: dict[str, list[Any]] = {request.id_column: read.ids} if request.id_column else {}
    inputs = [column for column in (read.column, *read.fields.columns) if column not in found]
    found |= {
        column: [None if cols.is_missing(one) else one for one in read.table.columns[column]] for column in inputs
    }
    for at, label in enumerate(prompt.labels):
        name = f"prob_{label}"
        if name in found:
            raise UserError(
                f"{read.table.name}: a column is named {name!r}, like that of the label {label!r}. Rename it"
            )
        empty = 0.0 if not p else None  # a stand-in of the right type, before there are answers
        found[name] = [p[text][at] if text in p else empty for text in read.texts]
    return Table(found, str(request.out), "", "csv")


def summary(done: Annotation) -> list[str]:
    """Return the lines that say what was written, and how to use it."""
    lines = [
        f"{plural(done.rows, 'row')} written to {done.path}: the probability of {', '.join(done.labels)} "
        f"({plural(done.texts, 'distinct text')})"
    ]
    if done.on_labels is not None:
        rarely = "; look at the prompt, or try --answer letter" if done.on_labels < RARELY else ""
        lines.append(
            f"on average {done.on_labels:.1%} of the model's probability is on the names of the labels{rarely}"
        )
    if done.cut:
        lines.append(
            f"{plural(done.cut, 'text')} {verb(done.cut, 'was', 'were')} too long and {verb(done.cut, 'was', 'were')} cut"
        )
    lines.append(f"model and prompt: {done.record}")
    return [*lines, f"next: randout train DATA --teacher {shell_path(done.path)}"]
