"""The commands `compare` and `cv`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.wording import plural

from .option_groups import Columns, RecipeOptions, StudyOptions, Tables, grouped
from .options import (
    Halving,
    Out,
    SpaceOption,
    Student,
    Teacher,
    Trials,
    Unlabeled,
    assignments,
    flag,
    space_table,
)
from .output import stopped

if TYPE_CHECKING:
    from randout.storage.study_record import ComparisonRecord

app = typer.Typer(rich_markup_mode=None)

AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="score test rows even if a teacher or starting model was trained on them")
]
Methods = Annotated[
    str | None, typer.Option(help="methods to compare, comma-separated (see `randout methods`), or all")
]
Seeds = Annotated[str | None, typer.Option(help="number of seeds (3: seeds 1, 2, 3), or a comma-separated list")]
Arms = Annotated[
    str | None, typer.Option(help="presets or recipe files (TOML), comma-separated; table6: the paper's four")
]
Metric = Annotated[str | None, typer.Option(help="primary metric: accuracy or macro_f1")]
Margin = Annotated[float | None, typer.Option(help="smaller differences count as none (0.02: 2 points)")]
Baseline = Annotated[str | None, typer.Option(help="arm (or run) that the others are compared with")]


@app.command()
@grouped
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="a study file (TOML), data, or finished runs", metavar="STUDY|DATA|RUN..."),
    ] = None,
    out: Out = None,
    arms: Arms = None,
    methods: Methods = None,
    seeds: Seeds = None,
    drop_one: Annotated[
        bool, typer.Option("--drop-one", help="ablation: also train the recipe without each of its methods")
    ] = False,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
    student: Student = None,
    teacher: Teacher = None,
    *,
    table: Tables,
    recipe: RecipeOptions,
    space: SpaceOption = None,
    trials: Trials = None,
    halving: Halving = None,
    allow_leaks: AllowLeaks = False,
    work: StudyOptions,
) -> None:
    """Compare recipes across seeds, or finished runs. Equal budgets, paired statistics."""
    from randout.experiments import study_requests

    inputs = what or []
    shared: dict[str, Any] = {"student": student, "teacher": teacher, "preset": recipe.preset, "recipe": recipe.recipe}
    comparison: dict[str, Any] = {"baseline": baseline, "metric": metric, "margin": margin, "allow_leaks": allow_leaks}
    request = study_requests.Asked(
        **shared,
        data=table.settings(),
        **comparison,
        settings=assignments(recipe.sets) or None,
        arms=_comma_separated(arms),
        methods=_comma_separated(methods),
        drop_one=drop_one,
        seeds=None if seeds is None else _seeds(seeds),
        space=space_table(space),
        trials=trials,
        halving=halving,
        spelt=flag,
    )
    if study_requests.are_runs(inputs):
        _print(study_requests.finished(inputs, request, dry_run=work.dry_run, out=out), work.as_json, Show())
        return
    study = study_requests.comparison(inputs[0] if inputs else "", request, out)
    _carry_out(study, out, work)


@app.command()
@grouped
def cv(
    data: Annotated[
        str, typer.Argument(help="a table of texts and labels, a named dataset, or a study file (TOML)", metavar="DATA")
    ],
    out: Out = None,
    folds: Annotated[int | None, typer.Option(help="number of folds, at least 5 (default: 10)")] = None,
    repeats: Annotated[int | None, typer.Option(help="number of repetitions, each with new folds (default: 1)")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="nested (default): search settings inside each fold; paper: once, on the ordinary split"),
    ] = None,
    arms: Arms = None,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
    student: Student = None,
    teacher: Teacher = None,
    *,
    table: Columns,
    unlabeled: Unlabeled = None,
    recipe: RecipeOptions,
    space: SpaceOption = None,
    trials: Trials = None,
    halving: Halving = None,
    allow_leaks: AllowLeaks = False,
    work: StudyOptions,
) -> None:
    """Cross-validate recipes, with a teacher for each fold. Grouped folds, Nadeau and Bengio's interval."""
    from randout.experiments import study_requests

    shared: dict[str, Any] = {"student": student, "teacher": teacher, "preset": recipe.preset, "recipe": recipe.recipe}
    comparison: dict[str, Any] = {"baseline": baseline, "metric": metric, "margin": margin, "allow_leaks": allow_leaks}
    request = study_requests.Asked(
        **shared,
        data=table.settings(unlabeled=unlabeled),
        **comparison,
        settings=assignments(recipe.sets) or None,
        arms=_comma_separated(arms),
        folds=folds,
        repeats=repeats,
        protocol=protocol,
        space=space_table(space),
        trials=trials,
        halving=halving,
        spelt=flag,
    )
    study = study_requests.cross_validation(data, request, out)
    _carry_out(study, out, work)


def _comma_separated(text: str | None) -> list[str] | None:
    """Split a comma-separated option; None if it is not given."""
    return None if text is None else [word.strip() for word in text.split(",")]


def _seeds(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: expected a number of seeds, or a list such as 1,2,3") from None
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise UserError(f"--seeds {text}: expected 1 or more")
        return list(range(1, numbers[0] + 1))
    return numbers


def _carry_out(study: Any, out: Path | None, work: StudyOptions) -> None:
    from randout.experiments import study_requests

    options = work.options()
    if work.dry_run:
        print("\n".join(study_requests.planned(study, out, options.show)))
        return
    try:
        folder = study_requests.execute(study, out, options)
    except study_requests.StudyStopped as stop:
        stopped(stop, stop.where)
        return
    _print(folder.record, work.as_json, options.show)
    failed = folder.record.cells_in("failed")
    if failed:
        raise Failure(f"{folder.path}: {plural(len(failed), 'run')} failed; run the same command again to retry")


def _print(record: ComparisonRecord, as_json: bool, show: Show) -> None:
    """Print the result of a study and its warnings."""
    from randout.experiments.study.results import result_lines
    from randout.experiments.study.study_warnings import lines

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # in a pipe or a file, names are whole
    print(json.dumps(record.as_json(), indent=1) if as_json else "\n".join(result_lines(record, width)))
    show.conclude(lines(record.warnings))
