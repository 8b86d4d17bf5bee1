"""The command line: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import cli_methods, cli_report, cli_reproduce, cli_search, cli_studies, cli_tools
from .cli_tools import AsJson, Preset, Quiet, Recipe, RunsFolder, Sets, configured, named, required_methods, seconds_of
from .errors import Failure, UserError
from .progress import Show

if TYPE_CHECKING:
    from .job import Result

app = typer.Typer(
    help="Fine-tune a small text classifier to match a big one, and know that it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Data = Annotated[
    str,
    typer.Argument(help="a CSV, TSV, JSON Lines or Parquet file, a named dataset, or its TOML", metavar="DATA"),
]
app.add_typer(cli_reproduce.app)
app.add_typer(cli_search.app)
app.add_typer(cli_methods.app)
app.add_typer(cli_studies.app)
app.add_typer(cli_tools.app)
app.add_typer(cli_report.app)


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(help="a table of texts and labels, a named dataset, or its TOML", metavar="[DATA]"),
    ] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="run folder (default: runs/NAME)")] = None,
    student: Annotated[str | None, typer.Option(help="encoder, or svm, rf, mnb-count, mnb-tfidf, cnn, lstm")] = None,
    teacher: Annotated[str | None, typer.Option(help="run, classifier or encoder; none: no distillation")] = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the labels")] = None,
    group: Annotated[str | None, typer.Option(help="column whose rows stay in one split")] = None,
    split: Annotated[str | None, typer.Option(help="auto or paper")] = None,
    split_column: Annotated[str | None, typer.Option(help="column that says train, validation or test")] = None,
    validation: Annotated[str | None, typer.Option(help="file of validation rows")] = None,
    test: Annotated[str | None, typer.Option(help="file of test rows")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="file of texts without labels")] = None,
    teacher_labels: Annotated[str | None, typer.Option(help="the teacher's labels in output order, by comma")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of student and teacher")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps")] = None,
    no_test: Annotated[bool, typer.Option("--no-test", help="leave the test split closed")] = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="score test rows that a teacher or starting model has seen")
    ] = False,
    keep_texts: Annotated[bool, typer.Option("--keep-texts", help="write texts beside the predictions")] = False,
    resume: Annotated[Path | None, typer.Option(help="go on with this run")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train beside a run that is there")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="resume on another machine or version")
    ] = False,
    time_limit: Annotated[str | None, typer.Option(help="stop cleanly after this long, as 2h, 90m")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would take, and stop")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a student, score it, leave a model folder. A teacher that is a bare encoder is fine-tuned first."""
    from . import job, prepare

    show = Show(quiet or as_json)
    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    table = {"source": data, "text_column": text_column, "label_column": label_column, "group_column": group}
    table |= {"split": split, "split_column": split_column}
    table |= {"validation": validation, "test": test, "unlabeled": unlabeled}
    asked = named(
        {
            "data": table,
            "student": {"model": student},
            "teacher": {"model": teacher, "labels": teacher_labels.split(",") if teacher_labels else None},
            "train": {"seed": seed, "device": device},
            "output": {
                "test": False if no_test else None,
                "keep_texts": keep_texts or None,
                "allow_leaks": allow_leaks or None,
            },
        }
    )
    if resume is not None:
        if asked or preset or recipe or sets or out:
            raise UserError("--resume: a run goes on with its own settings; leave the other settings out")
        out, runs = resume, _runs_of(resume)
        if (done := job.finished(resume)) is not None:
            show.say(f"already trained: {resume}")
            _report(done, as_json, show)
            return
    options = job.Options(runs, out, fresh, accept_changes, deadline, show=show)
    config = _stored(resume) if resume is not None else configured(asked, preset, recipe, sets)
    dataset = prepare.read_data(config)
    _introduce(config, dataset, show)
    plan = prepare.make(config, dataset, required=() if resume else required_methods(preset, recipe, sets))
    if dry_run:
        _estimate(plan)
        return
    _report(job.carry_out(plan, options), as_json, show)


def _runs_of(run: Path) -> Path:
    """The folder in which the teacher and the soft labels of a run are."""
    from .runs import RunFolder

    if not (run / "run.toml").exists():
        raise UserError(f"--resume {run}: no run.toml there, so this is no run folder")
    return Path(os.path.normpath(run / RunFolder(run).record["runs"]))


def _stored(run: Path) -> Any:
    from .replay import stored_config
    from .runs import RunFolder

    return stored_config(RunFolder(run))


def _estimate(plan: Any) -> None:
    from .student import estimate

    warnings = [f"warning: {warning}" for warning in plan.leak_warnings]
    for line in [*plan.notes, *warnings, *estimate(plan)]:
        print(line)


def _introduce(config: Any, dataset: Any, show: Show) -> None:
    from .classifiers import CLASSIFIERS
    from .data import describe

    weights = "" if config.student.model in CLASSIFIERS else " and --set ce.class_weights=balanced"
    for line in describe(dataset):
        show.say(line)
    if config.train.metric == "accuracy" and dataset.report.imbalance > 3:
        show.say(
            f"hint: the largest class is {dataset.report.imbalance:.1f} times the smallest; "
            f"consider --set metric=macro_f1{weights}"
        )


def _report(result: Result, as_json: bool, show: Show) -> None:
    from .diagnostics import messages
    from .figures import leak_lines, score_lines

    warnings = result.metrics.get("warnings", [])
    if as_json:
        found = {"run": str(result.folder), "model": str(result.model_path), "metrics": result.metrics}
        print(json.dumps(found | {"warnings": warnings}, indent=1))
        show.conclude(messages(warnings))
        return
    for name, metrics in result.metrics.items():
        if name == "warnings":
            continue
        print(f"\n{name}")
        print("\n".join(score_lines(metrics, result.id2label)))
        if "without_copies" in metrics:
            rest = metrics["without_copies"]
            print(
                f"without the {metrics['rows'] - rest['rows']} rows that have a copy in train: accuracy {rest['accuracy']:.2%}"
            )
        print("\n".join(leak_lines(metrics)), end="\n" if "leaks" in metrics else "")
    print(f"\nmodel   {result.model_path}")
    print(f"run     {result.folder}")
    print(f'next    randout predict {result.folder} "a text to classify"')
    show.conclude(messages(warnings))


@app.command("soft-labels")
def soft_labels(
    data: Data,
    teacher: Annotated[str, typer.Option(help="run, classifier or encoder")],
    student: Annotated[str | None, typer.Option(help="the student it will be for")] = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    unlabeled: Annotated[str | None, typer.Option(help="file of texts without labels")] = None,
    runs: RunsFolder = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Run a teacher ahead of time. `train` with the same data and teacher then finds its logits."""
    from . import job, prepare

    asked = named({"data": {"source": data, "unlabeled": unlabeled}, "student": {"model": student}})
    asked |= {"teacher": {"model": teacher}, "output": {"test": False}}
    config = configured(asked, preset, recipe, sets)
    plan = prepare.make(config, required=config.methods)
    taught = job.taught(plan, job.Options(runs=runs, show=Show(quiet)))
    if taught is None:
        raise UserError("soft-labels: this recipe has no method that learns from a teacher")
    print(
        f"{taught.name}: validation accuracy {taught.validation['accuracy']:.2%}, logits kept in {runs / 'soft-labels'}"
    )


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="a run, or with a file any classifier's folder")],
    file: Annotated[
        str, typer.Argument(help="a labelled file; else one of the run's own splits", metavar="[FILE]")
    ] = "",
    split: Annotated[str, typer.Option(help="validation or test, of the run's own data")] = "validation",
    text_column: Annotated[str | None, typer.Option(help="column of the texts")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the labels")] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="score test rows that a teacher or starting model has seen")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="ignored; runs are named by their folder", hidden=True)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a run on its own splits, or a classifier on a file."""
    from . import scoring
    from .diagnostics import messages
    from .figures import leak_lines, score_lines

    show = Show(quiet or as_json)
    if file:
        metrics, id2label = scoring.score_file(run, file, text_column, label_column, show)
    else:
        metrics, id2label = scoring.score_run(Path(run), split, show, allow_leaks)
    print(
        json.dumps(metrics, indent=1) if as_json else "\n".join([*score_lines(metrics, id2label), *leak_lines(metrics)])
    )
    show.conclude(messages(metrics.get("warnings", [])))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="a run or a classifier's folder")],
    texts: Annotated[list[str] | None, typer.Argument(help="texts; none: lines of standard input")] = None,
    file: Annotated[
        str | None, typer.Option("-f", "--file", help="a table; its columns and row order are kept")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="where to write the table (with --file)")] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts (with --file)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label texts: arguments, a file, or standard input. Adds label and score."""
    from . import api, data

    show = Show(quiet or as_json)
    if file and texts:
        raise UserError("predict: texts as arguments, or --file; not both")
    if out and not file:
        raise UserError("predict: -o goes with --file; otherwise the result is printed")
    table = None
    if file:
        found, table = data.read_texts(file, text_column)
    else:
        found = texts or [line.rstrip("\n") for line in sys.stdin]
    labels, probabilities = api.predict(model, found, device=device, show=show)
    scores = [float(row.max()) for row in probabilities]
    if table is None:
        rows = [
            {"text": t, "label": label, "score": score} for t, label, score in zip(found, labels, scores, strict=True)
        ]
        for row in rows:
            print(
                json.dumps(row, ensure_ascii=False) if as_json else f"{row['label']}\t{row['score']:.4f}\t{row['text']}"
            )
        return
    taken = set(table.columns)
    names = [name if name not in taken else f"predicted_{name}" for name in ("label", "score")]
    where = out or Path(table.name).with_suffix(f".labelled{Path(table.name).suffix}")
    data.write_table(data.appended(table, {names[0]: labels, names[1]: scores}), where)
    print(
        json.dumps({"written": str(where), "rows": len(labels)})
        if as_json
        else f"{len(labels):,} rows written to {where}"
    )


def main() -> None:
    """Run the command line; exit code 2 for the user's mistake, 1 for a failure, 130 after Ctrl-C."""
    try:
        app()
    except (UserError, Failure) as error:
        _end(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _end(f"error: {error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        if type(error).__name__ != "Stopped":
            raise
        _stopped(error)


def _stopped(stop: Any) -> None:
    code = {"Ctrl-C": 130, "SIGTERM": 143}.get(stop.why, 0)
    _end(f"stopped by {stop.why}, and saved. Go on with: randout train --resume {stop.run.path}", code)


def _end(text: str, code: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
