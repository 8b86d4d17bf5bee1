"""The commands `predict` and `evaluate`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core import terminal
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import shell_path
from randout.core.wording import plural

from .option_groups import grouped
from .options import Abstain, AsJson, Device, Encoding, Form, LabelColumn, Quiet, TextColumn, TextPair, flag
from .shards import ShardOptions, label

if TYPE_CHECKING:
    from randout.core.label_sets import Label
    from randout.experiments.run.batch_prediction import LabelledText
    from randout.storage.metrics_record import Scores

app = typer.Typer(rich_markup_mode=None)
Probabilities = Annotated[bool, typer.Option("--probabilities", help="also give the probability of every class")]


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="a run; with FILE also any classifier folder")],
    file: Annotated[
        str, typer.Argument(help="a labelled file (default: one of the run's own splits)", metavar="[FILE]")
    ] = "",
    split: Annotated[str, typer.Option(help="which of the run's own splits: validation or test")] = "validation",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="write the rows of FILE with their predictions to this file")
    ] = None,
    probabilities: Probabilities = False,
    labels: Annotated[
        str | None,
        typer.Option(help="the model's classes in output order, comma-separated, if it names only LABEL_0, ..."),
    ] = None,
    text_column: TextColumn = None,
    text_pair: TextPair = None,
    label_column: LabelColumn = None,
    encoding: Encoding = None,
    device: Device = "auto",
    form: Form = "",
    abstain: Abstain = "",
    allow_leaks: Annotated[
        bool,
        typer.Option("--allow-leaks", help="score test rows even if a teacher or starting model was trained on them"),
    ] = False,
    runs: Annotated[Path | None, typer.Option("--runs", help="ignored; name a run by its folder", hidden=True)] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on its own splits, or a classifier on a file. Rows without a text are skipped."""
    from randout.reporting.text import abstention_lines, leak_lines, score_lines
    from randout.stats.diagnostics import messages

    show = Show(quiet or as_json)
    if probabilities and out is None:
        raise UserError("evaluate: --probabilities needs -o, the file to write them to")
    of_file: dict[str, Any] = {"text_column": text_column, "text_pair": text_pair, "label_column": label_column}
    of_file |= {"out": out, "labels": labels, "encoding": encoding, "form": form}
    if file:
        if split != "validation":
            raise UserError(
                f"evaluate: --split names one of the run's own splits, and all rows of {file} are scored. Leave one out"
            )
        of_file |= {"probabilities": probabilities, "device": device, "abstain": abstain}
        scores, id2label = _score_file(run, file, of_file, show)
    else:
        if unused := [flag(name) for name, given in of_file.items() if given]:
            raise UserError(
                f"evaluate: {unused[0]} needs FILE; predictions for a run's own splits are in its folder `predictions`"
            )
        from randout.experiments.run.saved_model import check_own_split

        check_own_split(Path(run), split)
        from randout.experiments.run import scoring

        scores, id2label = scoring.score_run(Path(run), split, show, allow_leaks, device, abstain)
        if not as_json:
            print(split)
    if as_json:
        print(json.dumps(scores.as_json(), indent=1))
    else:
        rejected = ["", *abstention_lines(scores.abstention, sets=scores.multi_label)] if scores.abstention else []
        print("\n".join([*score_lines(scores, id2label), *leak_lines(scores), *rejected]))
    show.conclude(messages(scores.warnings))


def _score_file(model: str, file: str, asked: dict[str, Any], show: Show) -> tuple[Scores, dict[int, str]]:
    """Evaluate a model on a file; returns the scores and the model's classes. asked: the options, as of `FileRequest`.

    Raises UserError, before PyTorch is loaded, for a faulty file, a missing model, or an output that cannot be written.
    """
    from randout.data.dataset import open_evaluation
    from randout.data.table_writing import check_output
    from randout.experiments.run.saved_model import evaluation_fields, trained_columns, trained_sets
    from randout.models.sources import check_there

    if Path(model).is_file() and Path(file).is_dir():
        raise UserError(
            f"evaluate: {model} is a file and {file} a folder; the model comes first: randout evaluate {file} {model}"
        )
    if asked["out"] is not None:
        check_output(asked["out"])
    check_there(model)
    encoding, names = asked["encoding"] or "auto", asked["labels"]
    fields, sets = evaluation_fields(model, asked["text_pair"]), trained_sets(model)
    columns = asked["text_column"], asked["label_column"]
    opened = open_evaluation(file, *columns, trained_columns(model), encoding, sets, fields)
    from randout.experiments.run import scoring

    labels = [name.strip() for name in names.split(",")] if names else ()
    request = scoring.FileRequest(model, file, **asked | {"encoding": encoding, "labels": labels})
    return scoring.score_file(request, show, opened)


@app.command(short_help="Predict the labels of texts, tables or Parquet shards.")
@grouped
def predict(
    model: Annotated[str, typer.Argument(help="a run or a classifier folder")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="texts (default: standard input, one text per line or a table); with -o, Parquet shards"),
    ] = None,
    file: Annotated[str | None, typer.Option("-f", "--file", help="a table; all its rows and columns are kept")] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="file to write the table to (with --file), or a folder of shards")
    ] = None,
    probabilities: Probabilities = False,
    text_column: Annotated[str | None, typer.Option(help="name of a table's text column")] = None,
    text_pair: TextPair = None,
    encoding: Encoding = None,
    device: Device = "auto",
    form: Form = "",
    abstain: Abstain = "",
    *,
    shards: ShardOptions,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Classify texts from arguments, a file, standard input or Parquet shards. Adds label and score; empty texts get neither."""
    from randout.data.shards import names_shards

    if out and texts and not file and names_shards(texts):
        if encoding:
            raise UserError("predict: --encoding is for tables of text; Parquet shards have none. Leave it out")
        asked = {"device": device, "form": form, "text_column": text_column, "probabilities": probabilities}
        asked |= {"abstain": abstain, "text_pair": text_pair}
        label("predictions", model, texts, out, asked, shards, as_json=as_json, quiet=quiet)
        return
    shards.check_unused()
    from randout.experiments.run import batch_prediction

    show = Show(quiet or as_json)
    request = batch_prediction.Request(
        model, device, text_column, encoding or "auto", probabilities, form, abstain, text_pair
    )
    _check_places(model, texts or [], file)
    target = Path(out) if out else None
    batch_prediction.check_source(file, texts or (), target, request)
    if file:
        _report_table(batch_prediction.label_table(request, file, target, show, _bars(show)), as_json)
        return
    output = sys.stdout  # kept, because a progress bar may replace sys.stdout
    bars = Show(quiet=True) if output.isatty() else _bars(show)  # a bar would mix with the results
    if texts:
        found = batch_prediction.label_texts(request, texts, show, bars)
    else:
        if sys.stdin is not None and sys.stdin.isatty():
            show.say("reading texts from the terminal, one per line; press Ctrl-D to finish")
        found = batch_prediction.label_input(request, terminal.input_stream(), show, bars)
    for classes, rows in found:
        for row in rows.rows():
            print(_printed(row, classes, as_json, probabilities, bool(abstain)), file=output)


def _check_places(model: str, texts: Sequence[str], file: str | None) -> None:
    """Raise UserError for a file in the place of a model or of a text."""
    if Path(model).is_file():
        raise UserError(
            f"predict: {model} is a file; the model comes first: randout predict RUN --file {shell_path(model)}"
        )
    if len(texts) == 1 and not file and Path(texts[0]).is_file():
        raise UserError(
            f"predict: {texts[0]} is a file; to classify its rows, use --file: "
            f"randout predict {shell_path(model)} --file {shell_path(texts[0])}"
        )
    if len(texts) == 1 and os.sep in texts[0] and Path(texts[0]).is_dir():
        raise UserError(f"predict: {texts[0]} is a folder; expected texts, or a table: --file FILE")


def _bars(show: Show) -> Show:
    """Progress output for a terminal; silent if standard error is a pipe or a file."""
    return show if show.terminal else Show(quiet=True)


def _printed(row: LabelledText, classes: list[str], as_json: bool, every: bool, abstains: bool) -> str:
    """Format the prediction of a text as a line of output.

    every: include the probabilities of all classes. abstains: include the best guess and its confidence.
    """
    values: Sequence[float | None] = row.probabilities or [None] * len(classes)
    by_class = dict(zip(classes, values, strict=True))
    if as_json:
        found: dict[str, Any] = {"text": row.text, "label": row.label, "score": row.score}
        found |= {"best_guess": row.guess, "confidence": row.confidence} if abstains else {}
        return terminal.to_json(found | ({"probabilities": row.probabilities and by_class} if every else {}))
    shares = ["" if share is None else f"{name}={share:.4f}" for name, share in by_class.items()] if every else []
    guess = [_in_words(row.guess), _rounded(row.confidence)] if abstains else []
    one_line = " ".join(re.split(r"[\r\n]+", row.text))
    return "\t".join([_in_words(row.label), _rounded(row.score), *guess, *shares, one_line])


def _in_words(label: Label | None) -> str:
    """Format a label or a label set; empty for none."""
    from randout.core.label_sets import JOINED  # imports numpy

    return JOINED.join(label) if isinstance(label, list) else label or ""


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _report_table(written: Any, as_json: bool) -> None:
    """Report what `predict --file` wrote."""
    texts, names = written.texts, written.names
    if as_json:
        about = {"written": str(written.path), "rows": texts.rows, "text_column": texts.column, "columns": names}
        about |= {"without_text": texts.empty}
        print(terminal.to_json(about if written.abstained is None else about | {"abstained": written.abstained}))
        return
    own = names[:2] if written.abstained is None else names[:4]
    more = len(names) - len(own)
    columns = f"{', '.join(own)} and {more} probabilities" if more else f"{', '.join(own[:-1])} and {own[-1]}"
    print(f"{plural(texts.rows, 'row')} written to {written.path}: {columns} for the texts in column {texts.column!r}")
