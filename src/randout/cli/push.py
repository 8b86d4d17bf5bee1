"""The command `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from randout.core import terminal
from randout.core.console import Show
from randout.core.files import shell_path
from randout.core.wording import plural

from .options import AsJson, Quiet

app = typer.Typer(rich_markup_mode=None)


@app.command(short_help="Upload a run's model to the Hugging Face Hub and check it.")
def push(
    run: Annotated[Path, typer.Argument(help="a finished run", metavar="RUN")],
    repository: Annotated[str, typer.Argument(help="name on the hub: USER/NAME", metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="create the repository as a private one")] = False,
    revision: Annotated[str, typer.Option(help="branch, created if missing (default: main)", metavar="BRANCH")] = "",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="propose the change in a pull request")] = False,
    forms: Annotated[
        str,
        typer.Option(
            "--export", help="forms to add, comma-separated: float32, int8; arrays (bag of words)", metavar="FORMS"
        ),
    ] = "",
    licence: Annotated[
        str,
        typer.Option(
            "--license", help="for the model card, such as mit (default: the card's own, or the base model's)"
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a run's model to the Hugging Face Hub, download it again, and compare files and predictions.

    The model card gets the scores, the data report and the licence. Training rows and predictions are never uploaded.
    """
    show = Show(quiet or as_json)
    from randout.experiments.run.push import Push, push_run

    asked = tuple(form.strip() for form in forms.split(",") if form.strip())
    done = push_run(Push(run, repository, private, revision, create_pr, asked, licence), show)
    if as_json:
        print(terminal.to_json(done.as_json(), indent=1))
    else:
        named = f"{done.repository}@{done.commit}"
        print(f"url      {done.url}{' (private)' if done.private else ''}")
        print(f"commit   {done.commit}{f' ({done.pull_request})' if done.pull_request else ''}")
        print(f"files    {plural(len(done.files), 'file')}, {done.size / 1e6:,.1f} MB, the same when downloaded again")
        print(f"checked  equal predictions for {plural(done.texts, 'text')}")
        if done.removed:
            print(f"removed  {', '.join(done.removed)}, of an earlier upload")
        if done.kept_back:
            print(f"kept     {', '.join(done.kept_back)}: in the model folder, not uploaded")
        print(f'next     randout predict {shell_path(named)} "a text to classify"')
    show.conclude(done.warnings)
