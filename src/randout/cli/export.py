"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from randout.core import terminal
from randout.core.console import Show
from randout.core.files import shell_path

from .options import AsJson, Quiet
from .output import example_input, print_table

app = typer.Typer(rich_markup_mode=None)


@app.command(short_help="Export a run's model for deployment without PyTorch.")
def export(
    run: Annotated[Path, typer.Argument(help="a finished run", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="new folder to write")],
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form", help="float32 or int8, written even if outside its tolerance (default: both, if within it)"
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a run's model for deployment without PyTorch: ONNX, tokenizer and a script that predicts.

    Each form is first compared with the model on the validation and test texts; test labels are not read.
    """
    show = Show(quiet or as_json)
    from randout.experiments.run.export import export_run
    from randout.exports.checks import table

    made = export_run(run, out, form or (), show)
    if as_json:
        print(terminal.to_json(made.as_json(), indent=1))
    else:
        head, *rows = table([*made.checks, *made.left_out])
        print_table(head, rows)
        print(f"\nexport   {out}")
        print(f"next     python {shell_path(out / 'predict.py')} {example_input(out)}")
    show.conclude(made.warnings)
