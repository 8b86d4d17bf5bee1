"""The command line: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import cli_methods, cli_report, cli_reproduce, cli_search, cli_studies, cli_tools, terminal
from .cli_tools import AsJson, Plugins, Preset, Quiet, Recipe, RunsFolder, Sets, named, requested, seconds_of
from .errors import Failure, UserError
from .execution import Stopped
from .files import shell_path
from .progress import Show, complain
from .wording import plural, verb

if TYPE_CHECKING:
    from .job import Result

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Probabilities = Annotated[bool, typer.Option("--probabilities", help="the probability of every class too")]
Encoding = Annotated[str | None, typer.Option(help="of a table's text, such as latin1; else UTF-8")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]
Data = Annotated[
    str,
    typer.Argument(help="a CSV, TSV, JSON Lines or Parquet file, a named dataset, or its TOML", metavar="DATA"),
]


def _print_version(wanted: bool) -> None:
    from . import __version__

    if wanted:
        print(f"randout {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Fine-tune a small text classifier to match a big one, and know that it did."""


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
    name: Annotated[str | None, typer.Option(help="the run's name in tables and reports")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="encoder, or svm, rf, mnb-count, mnb-tfidf, cnn, lstm; auto: an encoder or svm, chosen on validation"
        ),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="run, classifier or encoder; none: no distillation")] = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    plugin: Plugins = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the labels")] = None,
    group: Annotated[str | None, typer.Option(help="column whose rows stay in one split")] = None,
    split: Annotated[str | None, typer.Option(help="auto or paper")] = None,
    split_column: Annotated[str | None, typer.Option(help="column that says train, validation or test")] = None,
    validation: Annotated[str | None, typer.Option(help="file of validation rows")] = None,
    test: Annotated[str | None, typer.Option(help="file of test rows")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="file of texts without labels")] = None,
    encoding: Encoding = None,
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
    from .data import read_data
    from .run_names import checked_name

    show = Show(quiet or as_json)
    called = "" if name is None else checked_name(name)
    deadline = time.monotonic() + seconds_of(time_limit) if time_limit else None
    table = {"source": data, "text_column": text_column, "label_column": label_column, "group_column": group}
    table |= {"split": split, "split_column": split_column, "encoding": encoding}
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
        from . import job

        out, runs = resume, _runs_of(resume)
        if (done := job.finished(resume)) is not None:
            show.say(f"already trained: {resume}")
            _report(done, as_json, show)
            return
    request = requested(asked, preset, recipe, sets)
    config = request.config() if resume is None else _stored(resume)
    dataset = read_data(config)
    from . import job, prepare  # PyTorch comes with these: what settings and table tell is told before

    options = job.Options(runs, out, fresh, accept_changes, deadline, name=called, show=show)
    _introduce(config, dataset, show)
    plan = prepare.make(config, dataset, required=request.required if resume is None else (), alternatives=True)
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

    return stored_config(RunFolder(run), to_train=True)


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
    from .figures import choice_lines, leak_lines, score_lines
    from .runs import closed_test_lines
    from .teacher_gap import run_lines

    warnings, choice = result.metrics.get("warnings", []), result.run.record.get("choice")
    if as_json:
        found = {"run": str(result.folder), "model": str(result.model_path), "metrics": result.metrics}
        found |= {"choice": choice} if choice else {}
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
            count = metrics["rows"] - rest["rows"]
            copied = f"{plural(count, 'row')} that {verb(count, 'has', 'have')} a copy in train"
            print(f"without the {copied}: accuracy {rest['accuracy']:.2%}")
        print("\n".join(leak_lines(metrics)), end="\n" if "leaks" in metrics else "")
    for line in run_lines(result.run.record, result.metrics):
        print(line)
    if choice:
        print("\n" + "\n".join(choice_lines(choice)))
    print(f"\nmodel   {result.model_path}")
    print(f"run     {result.folder}")
    for line in closed_test_lines(result.run):
        print(line)
    print(f'next    randout predict {shell_path(result.folder)} "a text to classify"')
    show.conclude(messages(warnings))


@app.command("soft-labels")
def soft_labels(
    data: Data,
    teacher: Annotated[str, typer.Option(help="run, classifier or encoder")],
    student: Annotated[str | None, typer.Option(help="the student it will be for")] = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    plugin: Plugins = None,
    unlabeled: Annotated[str | None, typer.Option(help="file of texts without labels")] = None,
    runs: RunsFolder = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Run a teacher ahead of time. `train` with the same data and teacher then finds its logits."""
    from .data import read_data

    asked = named({"data": {"source": data, "unlabeled": unlabeled}, "student": {"model": student}})
    asked |= {"teacher": {"model": teacher}, "output": {"test": False}}
    config = requested(asked, preset, recipe, sets).config()
    dataset = read_data(config)
    from . import job, prepare  # with PyTorch

    plan = prepare.make(config, dataset, required=config.methods)
    try:
        taught = job.taught(plan, job.Options(runs=runs, show=Show(quiet)))
    except job.Stopped as stop:
        cli_tools.stopped(stop, stop.run.path)
        return
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
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="write FILE's rows with their predictions here")
    ] = None,
    probabilities: Probabilities = False,
    labels: Annotated[
        str | None, typer.Option(help="the model's classes in output order, by comma, where it only says LABEL_0")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the labels")] = None,
    encoding: Encoding = None,
    device: Device = "auto",
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="score test rows that a teacher or starting model has seen")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="ignored; runs are named by their folder", hidden=True)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a run on its own splits, or a classifier on a file. Rows without a text are not scored."""
    from . import scoring
    from .diagnostics import messages
    from .figures import leak_lines, score_lines

    show = Show(quiet or as_json)
    if probabilities and out is None:
        raise UserError("evaluate: --probabilities goes with -o, which names the file that they are written to")
    if file:
        metrics, id2label = scoring.score_file(
            run,
            file,
            text_column,
            label_column,
            show,
            device=device,
            encoding=encoding or "auto",
            labels=[name.strip() for name in labels.split(",")] if labels else (),
            out=out,
            probabilities=probabilities,
        )
    else:
        for option, given in (("-o", out), ("--labels", labels), ("--encoding", encoding)):
            if given:
                raise UserError(
                    f"evaluate: {option} goes with a file. The predictions of a run's own rows are in its folder predictions"
                )
        metrics, id2label = scoring.score_run(Path(run), split, show, allow_leaks, device)
    print(
        json.dumps(metrics, indent=1) if as_json else "\n".join([*score_lines(metrics, id2label), *leak_lines(metrics)])
    )
    show.conclude(messages(metrics.get("warnings", [])))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="a run or a classifier's folder")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="texts; none: standard input, a text a line or a table")
    ] = None,
    file: Annotated[
        str | None, typer.Option("-f", "--file", help="a table; its columns and rows are kept as they are")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="where to write the table (with --file)")] = None,
    probabilities: Probabilities = False,
    text_column: Annotated[str | None, typer.Option(help="column of the texts of a table")] = None,
    encoding: Encoding = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label texts: arguments, a file, or standard input. Adds label and score; a text that is empty gets none."""
    from . import labelling

    show = Show(quiet or as_json)
    request = labelling.Request(model, device, text_column, encoding or "auto", probabilities)
    labelling.check_source(file, texts or (), out, request)
    if file:
        _report_table(labelling.label_table(request, file, out, show, _bars(show)), as_json)
        return
    output = sys.stdout  # a bar may take its place meanwhile
    bars = Show(quiet=True) if output.isatty() else _bars(show)  # results would be written across it
    if texts:
        found = labelling.label_texts(request, texts, show, bars)
    else:
        if sys.stdin is not None and sys.stdin.isatty():
            show.say("reading texts from the terminal, one a line; Ctrl-D ends them")
        found = labelling.label_input(request, terminal.input_stream(), show, bars)
    for classes, rows in found:
        for row in zip(*rows, strict=True):
            print(_printed(*row, classes, as_json, probabilities), file=output)


def _bars(show: Show) -> Show:
    """For progress on a terminal only: nothing is said where standard error goes to a pipe or a file."""
    return show if show.terminal else Show(quiet=True)


def _printed(
    text: str,
    label: str | None,
    score: float | None,
    probabilities: list[float] | None,
    classes: list[str],
    as_json: bool,
    every: bool,
) -> str:
    """A line of standard output for a text. every: with the probabilities of all classes."""
    values: Sequence[float | None] = probabilities or [None] * len(classes)
    by_class = dict(zip(classes, values, strict=True))
    if as_json:
        row = {"text": text, "label": label, "score": score}
        return terminal.to_json(row | ({"probabilities": probabilities and by_class} if every else {}))
    shares = ["" if share is None else f"{name}={share:.4f}" for name, share in by_class.items()] if every else []
    one_line = " ".join(re.split(r"[\r\n]+", text))
    return "\t".join([label or "", "" if score is None else f"{score:.4f}", *shares, one_line])


def _report_table(written: Any, as_json: bool) -> None:
    """Say what `predict --file` wrote."""
    texts, names = written.texts, written.names
    if as_json:
        about = {"written": str(written.path), "rows": texts.rows, "text_column": texts.column, "columns": names}
        print(terminal.to_json(about | {"without_text": texts.empty}))
        return
    more = len(names) - 2
    columns = f"{names[0]}, {names[1]} and {more} probabilities" if more else f"{names[0]} and {names[1]}"
    print(f"{plural(texts.rows, 'row')} written to {written.path}: {columns} of the texts in column {texts.column!r}")


def main() -> None:
    """Run the command line.

    Exit code 2 for the user's mistake, 1 for a failure (also where standard output cannot be written), 130 after
    Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    terminal.prepare()
    code = _run()
    lost = terminal.finish()
    if lost and not code:
        if lost != "closed":  # who closes a pipe early has read enough
            complain(f"error: standard output: {lost}")
        code = 1
    sys.exit(code)


def _run() -> int:
    """The command on the command line carried out; its exit code."""
    try:
        with terminal.stop_signals():
            terminal.check_arguments(sys.argv[1:])
            app(prog_name="randout")
    except SystemExit as end:
        if end.code == 130 and not isinstance(end, terminal.Told):
            complain("interrupted")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (UserError, Failure) as error:
        complain(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return terminal.EXIT_CODES["Ctrl-C"]
    except terminal.Terminated as stop:
        complain(f"stopped by {stop.why}")
        return terminal.EXIT_CODES[stop.why]
    except BrokenPipeError:
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = error.filename or ("standard output" if full else "input or output")
        complain(f"error: {where}: {error.strerror or error}")
        return 1
    except Stopped as stop:
        return _stopped(stop)
    return 0


def _stopped(stop: Stopped) -> int:
    again = f"randout train --resume {shell_path(stop.run.path)}{cli_tools.plugin_words()}"
    complain(f"stopped by {stop.why}, and saved. Go on with: {again}")
    return terminal.EXIT_CODES.get(stop.why, 0)


if __name__ == "__main__":
    main()
