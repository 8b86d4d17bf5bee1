"""The command `shrink`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import shell_path
from randout.core.wording import plural

from .option_groups import RecipeOptions, StudyOptions, Tables, grouped
from .options import (
    Out,
    tables_of,
)
from .output import example_input, stopped

if TYPE_CHECKING:
    from randout.storage.study_folder import StudyFolder
    from randout.storage.study_record import ShrinkRecord

app = typer.Typer(rich_markup_mode=None)


@app.command()
@grouped
def shrink(
    data: Annotated[str, typer.Argument(help="a table of texts and labels, or a named dataset", metavar="DATA")] = "",
    teacher: Annotated[
        str | None, typer.Option(help="a run, a classifier or an encoder (default: a larger encoder found locally)")
    ] = None,
    out: Out = None,
    student: Annotated[
        list[str] | None, typer.Option(help="encoder: hub name, folder or alias; repeat it for several")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="numbers of layers to keep, such as 1,3,6 (default: all, half, a quarter, ... and one)"),
    ] = None,
    trim_embedding: Annotated[
        bool, typer.Option("--trim-embedding", help="also forms with the vocabulary of the training texts only")
    ] = False,
    form: Annotated[
        list[str] | None, typer.Option("--form", help="torch, float32 or int8 (ONNX); repeat it (default: all)")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="trainings of each size (default: 1); the first is exported")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="accuracy that may be lost (default: 0.01, which is 1 point)")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="cost that makes a form the cheapest: latency (default), size or throughput")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for the measurement (default: 1)")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="measured processes of each form (default: 3); 0: no timing, with --cost size")
    ] = None,
    open_test: Annotated[
        str | None,
        typer.Option("--open", help="score the test split for: chosen (default), nearest (if none is chosen), or none"),
    ] = None,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="measure all forms again, such as on a quiet machine")
    ] = False,
    *,
    table: Tables,
    recipe: RecipeOptions,
    work: StudyOptions,
) -> None:
    """Find the smallest model that is not worse than a teacher. Trains several sizes, measures each form on this machine.

    The cheapest form that is not worse on validation is scored once on the test split. The same command resumes.
    """
    from randout.experiments import study_requests

    names = student or []
    request = recipe.request(tables_of(data, names[0] if names else None, teacher, table.settings()))
    options = work.options()
    given: dict[str, Any] = {
        "students": tuple(names) or None,
        "layers": None if layers is None else numbers(layers),
        "trim": trim_embedding,
        "forms": tuple(form or ()) or None,
        "seeds": seeds,
        "margin": margin,
        "cost": cost,
        "threads": threads,
        "rounds": rounds,
        "open": open_test,
    }
    if work.dry_run:
        print("\n".join(study_requests.planned_shrink(request, given, options)))
        return
    try:
        folder = study_requests.shrink(request, given, out, options, measure_again)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    _print(folder, options.show, work.as_json)


def _print(folder: StudyFolder[ShrinkRecord], show: Show, as_json: bool) -> None:
    """Print the result of a ladder. Raises Failure if a run failed."""
    from randout.experiments.study import study_warnings
    from randout.reporting.shrink import lines

    record = folder.record
    if as_json:
        print(json.dumps(record.as_json(), indent=1))
    else:
        print("\n".join(lines(record)))
        print(f"\npicture  {folder.path / 'shrink.png'}")
        if (folder.path / "chosen").exists():
            print(f"chosen   {folder.path / 'chosen'}")
            chosen = folder.path / "chosen"
            print(f"next     randout predict {shell_path(chosen)} {example_input(chosen)}")
    show.conclude(study_warnings.lines(record.warnings))
    if failed := record.cells_in("failed"):
        raise Failure(f"{folder.path}: {plural(len(failed), 'run')} failed; run the same command again to retry")


def numbers(text: str) -> tuple[int, ...]:
    """Parse the value of `--layers`. Raises UserError."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text}: expected numbers of layers, such as 1,3,6") from None
