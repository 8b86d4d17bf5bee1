"""The command `annotate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from randout.core import terminal
from randout.core.console import Show, complain

from .options import AsJson, Encoding, LabelColumn, PrefixColumn, Quiet, TextColumn, TextPair

app = typer.Typer(rich_markup_mode=None)


@app.command(short_help="Label the texts of a table with a local language model.")
def annotate(
    table: Annotated[str, typer.Argument(help="a CSV, TSV, JSON Lines or Parquet file with texts", metavar="TABLE")],
    model: Annotated[str, typer.Option(help="folder or hub name of a chat model or another causal language model")],
    out: Annotated[Path, typer.Option("-o", "--out", help="file of soft labels to write")],
    labels: Annotated[
        str | None, typer.Option(help="comma-separated labels (default: those of the table's training rows)")
    ] = None,
    answer: Annotated[
        str, typer.Option(help="letter: of an option, by transformers' decision pipeline; name: of a label")
    ] = "letter",
    instruction: Annotated[str | None, typer.Option(help="the question or task, before the labels")] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="file of a whole prompt with {text} and {labels} (with --answer name)")
    ] = None,
    text_column: TextColumn = None,
    text_pair: TextPair = None,
    prefix_column: PrefixColumn = None,
    label_column: LabelColumn = None,
    id_column: Annotated[str | None, typer.Option("--id-column", help="column of ids to write, for the join")] = None,
    encoding: Encoding = None,
    revision: Annotated[str, typer.Option(help="of the model, on the hub")] = "",
    limit: Annotated[int, typer.Option(help="annotate only so many rows (0: all)")] = 0,
    batch_size: Annotated[int, typer.Option(help="texts in a forward pass (with --answer name)")] = 8,
    max_length: Annotated[int, typer.Option(help="tokens of a text; longer texts are cut")] = 2048,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label the texts of a table with a local language model: one forward pass per text gives each label's probability.

    The file is used with `randout train DATA --teacher FILE`. The same command resumes an interrupted one.
    """
    from randout.experiments import annotation
    from randout.models.label_prompts import INSTRUCTION

    request = annotation.Request(
        table=table,
        model=model,
        out=out,
        labels=tuple(name.strip() for name in labels.split(",")) if labels is not None else (),
        answer=answer,
        instruction=INSTRUCTION if instruction is None else instruction,
        prompt=prompt,
        text_column=text_column,
        text_pair=text_pair or "",
        prefix_columns=tuple(prefix_column or ()),
        label_column=label_column,
        id_column=id_column,
        encoding=encoding or "auto",
        revision=revision,
        limit=limit,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
    )
    try:
        done = annotation.annotate(request, Show(quiet or as_json))
    except KeyboardInterrupt:
        kept = f"the answers so far are in {request.progress}. Run the same command again to resume"
        complain(f"Interrupted; {kept}" if request.progress.exists() else "interrupted")
        raise terminal.Told(terminal.EXIT_CODES["Ctrl-C"]) from None
    if as_json:
        written = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()}
        print(terminal.to_json(written))
    else:
        print("\n".join(annotation.summary(done)))
