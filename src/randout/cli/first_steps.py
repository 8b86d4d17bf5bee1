"""The commands `init`, `doctor` and `demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from randout.core.console import Show, complain
from randout.core.files import check_new_file, shell_path, write_new
from randout.core.terminal import EXIT_CODES, Told
from randout.experiments.run.options import Stopped

from .options import AsJson, Plugins, Preset, Quiet, Sets, requested
from .output import print_table, stopped

app = typer.Typer(rich_markup_mode=None)


@app.command()
def init(
    preset: Preset = None,
    student: Annotated[
        str | None, typer.Option(help="student that the recipe is for; svm, cnn, ... have their own settings")
    ] = None,
    sets: Sets = None,
    plugin: Plugins = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="write to this file")] = None,
) -> None:
    """Print the default recipe with every setting explained."""
    from randout.core import config
    from randout.methods.builtin import METHODS
    from randout.models.sources import CLASSIFIER_NAMES, check_known

    made = requested({"student": {"model": student}} if student else {}, preset, None, sets).config()
    if made.student.model in CLASSIFIER_NAMES:
        from randout.baselines.settings import chosen, resolve_settings

        classifier = chosen(made)
        assert classifier is not None
        text = config.commented(resolve_settings(made, classifier, []), METHODS, type(classifier))
    else:
        if doubt := check_known(made.student.model, CLASSIFIER_NAMES):
            Show().warn(doubt)
        text = config.commented(made, METHODS)
    if out is None:
        print(text, end="")
    else:
        check_new_file(out)
        write_new(out, text.encode("utf-8"))
        print(f"written to {out}; use it with randout train DATA --recipe {shell_path(out)}")


@app.command(short_help="Show what this machine supports and what is missing.")
def doctor(plugin: Plugins = None, as_json: AsJson = False) -> None:
    """Show what this machine supports, what is missing, and the methods that are not built in."""
    from .doctor import examine

    rows = examine()
    if as_json:
        print(json.dumps([dict(zip(("what", "found", "todo"), row, strict=True)) for row in rows], indent=1))
    else:
        print_table(("what", "found", "what to do"), rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for data, runs and pictures")] = Path("demo"),
    data_only: Annotated[
        bool, typer.Option("--data-only", help="only write the tables and download the encoder")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train and compare a teacher and three students. Uses film texts and pretrained weights."""
    from .demo import demonstrate, prepare_data

    try:
        if data_only:
            print("\n".join(prepare_data(out)))
        else:
            demonstrate(out, Show(quiet))
    except Stopped as stop:
        stopped(stop, out)
    except KeyboardInterrupt:
        complain(f"Interrupted; finished runs are kept in {out}. Run the same command again to resume")
        raise Told(EXIT_CODES["Ctrl-C"]) from None
