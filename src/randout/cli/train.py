"""The command `train`: turns options into a request and a plan, runs the plan and prints the result."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_folder_name, shell_path
from randout.core.launch import Launch, check_single, launched
from randout.core.terminal import EXIT_CODES, Told
from randout.core.wording import plural, verb
from randout.experiments.run.options import Options, Result, Stopped, finished
from randout.storage.run_folder import check_run
from randout.trackers.report_to import trackers_of

from .option_groups import RecipeOptions, Tables, grouped
from .options import (
    AsJson,
    Quiet,
    ReportToOption,
    RunsFolder,
    named,
    seconds_of,
)
from .output import example_input

REFIT_NOTE = (
    "teacher to use this run as a teacher or in randout shrink, train it with --set refit=false: its refit learned from the "
    "validation rows"
)

if TYPE_CHECKING:
    from randout.core.config import Config
    from randout.data.dataset import Dataset
    from randout.experiments.run.plan import Plan
    from randout.training.processes import Processes


@grouped
def train(
    data: Annotated[
        str,
        typer.Argument(help="a table of texts and labels, a named dataset, or a dataset TOML file", metavar="[DATA]"),
    ] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="run folder (default: runs/NAME)")] = None,
    name: Annotated[str | None, typer.Option(help="the run's name in tables and reports")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="encoder, or svm, rf, mnb-count, mnb-tfidf, cnn, lstm; auto: encoder or svm, chosen on validation rows"
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="a run, a classifier, an encoder, or a file of soft labels; none: no distillation"),
    ] = None,
    *,
    recipe: RecipeOptions,
    table: Tables,
    split: Annotated[str | None, typer.Option(help="how to split the data: auto or paper")] = None,
    corrections: Annotated[
        str | None, typer.Option(help="table of corrected labels, as `randout label-issues` writes it")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="augmented views of each training text, labelled by the teacher")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="column by which soft labels from a file are joined (default: exact text)")
    ] = None,
    teacher_labels: Annotated[
        str | None, typer.Option(help="the teacher's labels in output order, comma-separated")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="random seed of student and teacher")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps")] = None,
    no_test: Annotated[bool, typer.Option("--no-test", help="do not score the test split")] = False,
    allow_leaks: Annotated[
        bool,
        typer.Option("--allow-leaks", help="score test rows even if a teacher or starting model was trained on them"),
    ] = False,
    keep_texts: Annotated[bool, typer.Option("--keep-texts", help="save the texts with the predictions")] = False,
    resume: Annotated[Path | None, typer.Option(help="resume this run")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train again in a new folder, even if the run exists")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="resume on another machine or version")
    ] = False,
    time_limit: Annotated[str | None, typer.Option(help="save and stop after this time, such as 2h or 90m")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and its estimated cost, and exit")] = False,
    runs: RunsFolder = Path("runs"),
    report_to: ReportToOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a student, evaluate it and save the model. A teacher that is a pretrained encoder is fine-tuned first."""
    from randout.storage.run_names import checked_name

    data_table = {"source": data} | table.settings(
        split=split, id_column=id_column, views=views, corrections=corrections
    )
    teacher_table = {"model": teacher, "labels": teacher_labels.split(",") if teacher_labels else None}
    output = {"test": False if no_test else None, "keep_texts": keep_texts or None, "allow_leaks": allow_leaks or None}
    tables: dict[str, dict[str, Any]] = {
        "data": {"source": data} | data_table,
        "student": {"model": student},
        "teacher": teacher_table,
    }
    settings = named(tables | {"train": {"seed": seed, "device": device}, "output": output})
    if out is not None:
        check_folder_name(out)
    options = Options(
        runs=runs,
        out=out,
        fresh=fresh,
        accept_changes=accept_changes,
        deadline=time.monotonic() + seconds_of(time_limit) if time_limit else None,
        name="" if name is None else checked_name(name),
        show=Show(quiet or as_json),
        report_to=trackers_of(report_to),
    )
    if resume is None:
        request = recipe.request(settings)
        work = Work(request.config(), request.required, options)
    else:
        if settings or recipe.preset or recipe.recipe or recipe.sets or out:
            raise UserError("--resume: a run resumes with its own settings; remove the other options")
        work = _resumed(resume, options)
    launch = launched()
    if dry_run:
        check_single("randout train --dry-run")
        print("\n".join(_estimate(_plan(work, _read(work)))))
    elif launch is None:
        report(_train(work), as_json, options.show)
    else:
        _train_together(work, launch, as_json)


@dataclass(frozen=True)
class Work:
    """A training requested on the command line.

    required: methods that the command names. resumed: folder of the unfinished run to resume.
    """

    config: Config
    required: frozenset[str]
    options: Options
    resumed: Path | None = None


def _resumed(run: Path, options: Options) -> Work:
    """The training to resume in the folder `run`, with its teacher and soft labels. Raises UserError."""
    from randout.experiments.run.run_request import stored_config

    if not (run / "run.toml").exists():
        check_run(run, options.runs)
        raise UserError(f"--resume {run}: no run.toml in this folder, so it cannot be resumed; copy the folder again")
    folder = check_run(run)
    runs = Path(os.path.normpath(run / folder.record.runs))
    within = replace(options, runs=runs, out=run)
    return Work(stored_config(folder, to_train=True), frozenset(), within, run)


def _train(work: Work) -> Result:
    """Train, or return the finished run of the same command, which is found before PyTorch is loaded."""
    from randout.experiments.run.already_trained import digest, find_finished

    options = work.options
    if work.resumed is not None and (done := finished(work.resumed)) is not None:
        return _found(done, options)
    dataset = _read(work)
    known = not (options.fresh or work.resumed)
    request = digest(work.config, dataset, work.required) if known else ""
    done = find_finished(request, work.config, dataset, options.runs, options.out, options.name)
    if done is not None:
        return _found(done, options)
    plan = _plan(work, dataset)
    from randout.experiments.run import pipeline

    if not work.resumed:  # a resumed run keeps the digest of its first command
        request = digest(work.config, dataset, work.required)  # again: models may have been fetched
    return pipeline.execute(plan, replace(options, request=request))


def _found(done: Result, options: Options) -> Result:
    """Return a finished run, after reporting it to trackers that lack it."""
    options.show.say(f"already trained: {done.folder}")
    if options.report_to.names:
        from randout.trackers.finished_runs import report_finished

        report_finished(done.run, options.report_to, options.show)
    return done


def _train_together(work: Work, launch: Launch, as_json: bool) -> None:
    """Train in the processes that `torchrun` started. The first one prints the result, the others nothing."""
    from randout.experiments.run.launched import train_together

    def lead(processes: Processes) -> Result:
        return _train(replace(work, options=replace(work.options, processes=processes)))

    def make_plan() -> Plan:
        return _plan(work, _read(work))

    try:
        result = train_together(launch, lead, make_plan)
    except Stopped as stop:
        if launch.leads:
            raise
        raise Told(EXIT_CODES.get(stop.why, 0)) from None
    if launch.leads:
        report(result, as_json, work.options.show)


def _read(work: Work) -> Dataset:
    """Read the data and describe it to the user. Missing models are reported before PyTorch is loaded."""
    from randout.data.dataset import load
    from randout.experiments.run.already_trained import check_student, find_models
    from randout.experiments.run.imported_teacher import check_imported

    check_student(work.config)
    dataset = load(work.config.data)
    find_models(work.config)
    check_imported(work.config, dataset)
    _introduce(work.config, dataset, work.options.show)
    return dataset


def _plan(work: Work, dataset: Dataset) -> Plan:
    from randout.experiments.run import planning  # imports PyTorch

    return planning.make(work.config, dataset, required=work.required, alternatives=True)


def _estimate(plan: Plan) -> list[str]:
    """Lines that a dry run prints."""
    warnings = [f"warning: {warning}" for warning in plan.leak_warnings]
    return [*plan.notes, *warnings, *plan.student.estimate(plan)]


def _introduce(config: Config, dataset: Dataset, show: Show) -> None:
    from randout.data.dataset import introduce
    from randout.models.sources import CLASSIFIER_NAMES

    weights = "" if config.student.model in CLASSIFIER_NAMES else " and --set ce.class_weights=balanced"
    introduce(dataset, show)
    if config.train.metric == "accuracy" and dataset.report.imbalance > 3 and dataset.sets is None:
        held_out = [counts for name, counts in dataset.report.class_counts.items() if name in ("validation", "test")]
        scored = all(all(counts.values()) for counts in held_out)  # macro F1 counts a class without rows as 0
        show.say(
            f"hint: the largest class is {dataset.report.imbalance:.3g} times the smallest; "
            f"consider --set metric={'macro_f1' if scored else 'balanced_accuracy'}{weights}"
        )


def report(result: Result, as_json: bool, show: Show) -> None:
    """Print the scores of a run, its folders and a next command."""
    from randout.reporting.cross_fit import cross_fit_lines
    from randout.reporting.soft_labels import soft_label_lines
    from randout.reporting.teachers import run_lines
    from randout.reporting.text import choice_lines, leak_lines, score_lines
    from randout.stats.diagnostics import messages
    from randout.storage.run_folder import unscored_test_lines

    record, warnings = result.run.record, result.scores.warnings
    if as_json:
        found = {"run": str(result.folder), "model": str(result.model_path), "metrics": result.metrics}
        found |= {"choice": record.choice.as_json()} if record.choice else {}
        found |= {"teacher": record.teacher.as_json()} if record.teacher else {}
        found |= {"left_out": record.left_out} if record.left_out else {}
        print(json.dumps(found | {"warnings": [one.as_json() for one in warnings]}, indent=1))
        show.conclude(messages(warnings))
        return
    for name, scores in result.scores.splits.items():
        print(f"\n{name}")
        print("\n".join(score_lines(scores, result.id2label, name)))
        if rest := scores.without_copies:
            count = scores.rows - rest.rows
            copied = f"{plural(count, 'row')} that {verb(count, 'has', 'have')} a copy in train"
            print(f"without the {copied}: accuracy {rest.accuracy:.2%}")
        print("\n".join(leak_lines(scores)), end="\n" if scores.leaks else "")
    for line in [*run_lines(record, result.scores), *soft_label_lines(record), *cross_fit_lines(record)]:
        print(line)
    if record.choice:
        print("\n" + "\n".join(choice_lines(record.choice)))
    print(f"\nmodel   {result.model_path}")
    print(f"run     {result.folder}")
    for line in unscored_test_lines(result.run):
        print(line)
    print(f"next    randout predict {shell_path(result.folder)} {example_input(result.folder)}")
    if record.identity.train.refit:
        print(REFIT_NOTE)
    show.conclude(messages(warnings))
