"""The command `reproduce`: the paper's tables and figures alongside our results."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from randout.core.console import Show

from .option_groups import study_options
from .options import AsJson, Cluster, JobGpus, Jobs, JobThreads, Limit, Quiet, RunsFolder, Sets
from .output import stopped

app = typer.Typer(rich_markup_mode=None)


@app.command()
def reproduce(
    dataset: Annotated[str, typer.Argument(help="rhmd or coda19")],
    table: Annotated[list[int] | None, typer.Option(help="only this table (repeatable)")] = None,
    figure: Annotated[list[int] | None, typer.Option(help="only this figure (repeatable)")] = None,
    section: Annotated[list[int] | None, typer.Option(help="only this section; 5: ten-fold cross-validation")] = None,
    budget: Annotated[str, typer.Option(help="smoke (minutes), small (hours) or full (as published)")] = "smoke",
    data: Annotated[str, typer.Option(help="the dataset's file or folder, if it cannot be downloaded")] = "",
    student: Annotated[str, typer.Option(help="encoder (default: data2vec, as in the paper)")] = "",
    teacher: Annotated[str, typer.Option(help="encoder (default: roberta-large or pubmedbert, as in the paper)")] = "",
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="output folder (default: studies/DATASET-BUDGET)")
    ] = None,
    time_limit: Limit = None,
    jobs: Jobs = 1,
    job_threads: JobThreads = None,
    cluster: Cluster = None,
    job_gpus: JobGpus = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the paper's tables and figures alongside ours. Missing runs are trained first."""
    from randout.core import config
    from randout.core.files import check_folder, replace_text
    from randout.experiments.reproduction import reproduce as work
    from randout.experiments.reproduction.budgets import items_of, make_request
    from randout.experiments.run.student import Stopped
    from randout.methods.builtin import METHODS

    settings: dict[str, Any] = {"data": {"source": f"{dataset}:{data}"}} if data else {}
    for name, model in (("student", student), ("teacher", teacher)):
        settings |= {name: {"model": model}} if model else {}
    for text in sets or []:
        settings = config.overlay(settings, config.assignment(text, METHODS))
    request = make_request(dataset, budget, settings)
    items = items_of(dataset, table or [], figure or [], section or [])
    work.check(request)
    show = Show(quiet or as_json)
    where = out or Path("studies") / f"{dataset}-{budget}"
    check_folder(where)
    try:
        blocks = work.reproduce(
            request,
            items,
            where,
            study_options(runs, show, time_limit, processes=(jobs, job_threads, cluster, job_gpus)),
        )
    except Stopped as stop:
        stopped(stop, where)
        return
    where.mkdir(parents=True, exist_ok=True)
    replace_text(where / "reproduce.md", work.page(request, blocks))
    if as_json:
        print(json.dumps([asdict(block) for block in blocks], indent=1))
        return
    if quiet:
        print("\n\n".join("\n".join(block.lines()) for block in blocks))
    print(f"written: {where / 'reproduce.md'}")
