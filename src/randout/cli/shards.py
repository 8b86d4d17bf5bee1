"""The command `soft-labels`, and the options and report of the commands that label Parquet shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from randout.core.console import Show, complain
from randout.core.errors import UserError
from randout.core.terminal import EXIT_CODES, Told, to_json
from randout.core.wording import plural
from randout.experiments.run.options import Stopped

from .option_groups import RecipeOptions, Tables, grouped, study_options
from .options import AsJson, Device, Form, Quiet, RunsFolder, flag, named
from .output import reason_of, stopped

if TYPE_CHECKING:
    from randout.experiments.run.run_request import Request

app = typer.Typer(rich_markup_mode=None)

IdColumn = Annotated[str | None, typer.Option("--id-column", help="shards: column of row ids (default: SHARD#ROW)")]
Deduplicate = Annotated[bool, typer.Option("--deduplicate", help="shards: label only the first copy of a text")]
HeldOut = Annotated[
    str, typer.Option("--held-out", metavar="RUN|FILE", help="shards: no label for copies of these held-out rows")
]
Work = Annotated[
    Path | None, typer.Option("--work", help="shards: local folder of locks and unfinished shards (default: OUT/.work)")
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", help="shards: number of processes")]
JobThreads = Annotated[
    int | None, typer.Option(help="shards: CPU threads of each process (default: the cores divided by --jobs)")
]
Cluster = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="shards: a Ray cluster labels them: HOST:PORT, auto or local")
]
JobGpus = Annotated[float | None, typer.Option(help="shards, with --cluster: GPUs of each process, such as 0.5")]


@dataclass(frozen=True)
class ShardOptions:
    """How Parquet shards are labelled."""

    id_column: IdColumn = None
    deduplicate: Deduplicate = False
    held_out: HeldOut = ""
    work: Work = None
    jobs: Jobs = 1
    job_threads: JobThreads = None
    cluster: Cluster = None
    job_gpus: JobGpus = None

    @property
    def processes(self) -> tuple[int, int | None, str | None, float | None]:
        return self.jobs, self.job_threads, self.cluster, self.job_gpus

    @property
    def request(self) -> dict[str, Any]:
        """The fields of `ShardRequest` that these options give."""
        return {name: getattr(self, name) for name in ("id_column", "deduplicate", "held_out", "work")}

    def check_unused(self) -> None:
        """Raise UserError if any is given, for inputs that are not Parquet shards."""
        given = [flag(field.name) for field in fields(self) if getattr(self, field.name) != field.default]
        if given:
            raise UserError(
                f"{given[0]}: only for Parquet shards: name a folder, a glob or a URL as INPUT, and -o FOLDER"
            )


@app.command("soft-labels", short_help="Store the soft labels of a teacher or a model.")
@grouped
def soft_labels(
    data: Annotated[
        str, typer.Argument(help="labelled data; with -o: a run or a classifier folder", metavar="DATA|MODEL")
    ],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="with -o: folders, globs, Parquet files or URLs", metavar="INPUT")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="a run, a classifier or an encoder")] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="folder or URL of labelled Parquet shards")] = None,
    student: Annotated[str | None, typer.Option(help="the student that will learn from it")] = None,
    *,
    recipe: RecipeOptions,
    table: Tables,
    runs: RunsFolder = Path("runs"),
    device: Device = "auto",
    form: Form = "",
    shards: ShardOptions,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Store soft labels: of a teacher for the data of a training (--teacher), or of a model for Parquet shards (-o).

    `train` with the same data and teacher reuses the first; the second are for any number of texts.
    """
    if out:
        if not inputs:
            raise UserError(
                "soft-labels: -o writes labelled shards and needs their texts: randout soft-labels MODEL TEXTS -o FOLDER"
            )
        if teacher:
            raise UserError("soft-labels: with -o the model comes first, without --teacher")
        if table.prefix_column:
            raise UserError(
                "soft-labels: with -o the model reads the fields of its training; leave --prefix-column out"
            )
        columns = {"text_column": table.text_column, "text_pair": table.text_pair}
        others = {"student": student, "preset": recipe.preset, "recipe": recipe.recipe, "set": recipe.sets} | vars(
            table
        )
        if unused := [flag(name) for name, value in others.items() if value and name not in columns]:
            raise UserError(f"soft-labels: {unused[0]} is for a training with --teacher; with -o, leave it out")
        asked = {"device": device, "form": form} | columns
        label("soft-labels", data, inputs, out, asked, shards, as_json=as_json, quiet=quiet)
        return
    if inputs:
        raise UserError("soft-labels: to label Parquet shards, name a folder with -o")
    shards.check_unused()
    if not teacher or teacher == "none":
        raise UserError("soft-labels: needs a teacher (--teacher), or -o to label Parquet shards")
    if form:
        raise UserError("soft-labels: --form is of an export, which labels Parquet shards (-o); leave it out")
    settings = named({"data": {"source": data} | table.settings(), "student": {"model": student}})
    settings |= {"teacher": {"model": teacher}, "output": {"test": False}}
    settings |= {} if device == "auto" else {"train": {"device": device}}
    _of_training(recipe.request(settings), teacher, runs, Show(quiet or as_json), as_json)


def _of_training(request: Request, teacher: str, runs: Path, show: Show, as_json: bool) -> None:
    """Compute and store the soft labels that a training will use."""
    config = request.config()
    from randout.data.dataset import load
    from randout.experiments.run.already_trained import check_student, find_models
    from randout.experiments.run.imported_teacher import is_soft_label_file

    check_student(config)
    dataset = load(config.data)
    dataset.report.warn(show)
    find_models(config)
    if is_soft_label_file(teacher):
        raise UserError(
            f"{teacher}: this file holds soft labels already; use it with `randout train --teacher {teacher}`"
        )
    from randout.experiments.run import pipeline, planning  # imports PyTorch

    plan = planning.make(config, dataset, required=request.required)
    try:
        taught = pipeline.taught(plan, pipeline.Options(runs=runs, show=show))
    except pipeline.Stopped as stop:
        stopped(stop, stop.run.path)
        return
    if taught is None:
        raise UserError(
            "soft-labels: no method of this recipe learns from a teacher; choose another --preset or --recipe"
        )
    from randout.stats.diagnostics import metric_name
    from randout.stats.label_set_scores import SAMPLE_F1

    metric = "accuracy" if taught.thresholds is None else SAMPLE_F1
    value, folder = taught.validation[metric], runs / "soft-labels"
    if as_json:
        print(to_json({"teacher": taught.name, metric: value, "written": str(folder)}))
        return
    print(f"{taught.name}: validation {metric_name(metric)} {value:.2%}, logits saved in {folder}")


def label(
    kind: Literal["soft-labels", "predictions"],
    model: str,
    inputs: Sequence[str],
    out: str,
    asked: dict[str, Any],
    shards: ShardOptions,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Label Parquet shards, and print what was written.

    asked: the fields of `ShardRequest` that `shards` does not give.
    """
    from randout.models.sources import check_there

    options = study_options(Path("runs"), Show(quiet or as_json), processes=shards.processes)
    check_there(model)
    from randout.experiments.shards.label_shards import ShardRequest, label_shards

    try:
        manifest = label_shards(ShardRequest(kind, model, inputs, out, **asked, **shards.request), options)
    except (KeyboardInterrupt, Stopped) as stop:
        reason, why = (reason_of(stop), stop.why) if isinstance(stop, Stopped) else ("Interrupted", "Ctrl-C")
        complain(f"{reason}; finished parts are kept. Run the same command again to resume")
        raise Told(EXIT_CODES.get(why, 0)) from None
    counts = {name: getattr(manifest, name) for name in ("rows", "labelled", "empty", "copies", "held_out")}
    counts |= {"abstained": manifest.abstained} if manifest.settings.abstention else {}
    if as_json:
        print(to_json({"written": out, "kind": kind, "shards": len(manifest.shards), **counts}))
        return
    rows, files = plural(manifest.labelled, "row"), plural(len(manifest.shards), "shard")
    print(f"{rows} of {manifest.rows:,} labelled in {files}, written to {out}")
