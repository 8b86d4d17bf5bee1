"""The commands over many runs: compare and cv."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_search import (
    Dry,
    Halving,
    Limit,
    Out,
    SpaceOption,
    Student,
    Teacher,
    Trials,
    options_of,
    search_table,
    stopped,
    tables_of,
)
from .cli_tools import AsJson, Preset, Quiet, Recipe, RunsFolder, Sets
from .errors import UserError
from .progress import Show

app = typer.Typer(rich_markup_mode=None)

Seeds = Annotated[str | None, typer.Option(help="how many seeds (3: seeds 1, 2, 3), or a list by comma")]
Arms = Annotated[str | None, typer.Option(help="presets or recipes (TOML) by comma; table6: the paper's four")]
Metric = Annotated[str | None, typer.Option(help="the primary metric: accuracy, macro_f1")]
Margin = Annotated[float | None, typer.Option(help="a smaller difference counts as none (0.02: 2 points)")]
Baseline = Annotated[str | None, typer.Option(help="the arm (or run) that the others are compared with")]


@app.command()
def compare(
    what: Annotated[
        list[str] | None, typer.Argument(help="a study (TOML), or data, or finished runs", metavar="STUDY|DATA|RUN...")
    ] = None,
    out: Out = None,
    arms: Arms = None,
    seeds: Seeds = None,
    drop_one: Annotated[bool, typer.Option("--drop-one", help="the recipe with each method left out")] = False,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
    student: Student = None,
    teacher: Teacher = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    space: SpaceOption = None,
    trials: Trials = None,
    halving: Halving = None,
    time_limit: Limit = None,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare recipes over seeds, or finished runs. Equal budgets, paired statistics."""
    from .study import make_study, read_study

    asked = {"baseline": baseline, "metric": metric, "margin": margin}
    given = {key: value for key, value in asked.items() if value is not None}
    words = what or []
    if words and all((Path(word) / "run.json").exists() for word in words):
        _finished(words, baseline, {k: v for k, v in given.items() if k != "baseline"}, as_json)
        return
    if len(words) > 1:
        missing = [word for word in words if not (Path(word) / "run.json").exists()]
        raise UserError(f"compare: {missing[0]} is no run; name one study, one table, or finished runs only")
    tuning = search_table(space, trials, None, halving, None, None)
    if words and words[0].endswith(".toml") and "arms" in _keys(Path(words[0])):
        if arms or drop_one or student or teacher or preset or recipe or sets or tuning:
            raise UserError(f"compare: {words[0]} says what is compared; leave the other settings out")
        study = read_study(Path(words[0]))
        tables = study.model_dump(mode="json", exclude_none=True) | given
        study = make_study(tables | ({"seeds": _seeds(seeds)} if seeds else {}))
    else:
        base = _base(words[0] if words else "", student, teacher, preset, recipe, sets)
        name = out.name if out else f"{Path(words[0].partition(':')[0]).stem if words else 'study'}-compare"
        tables = {"name": name, "base": base, "arms": _arms(arms, drop_one, preset, recipe, base)} | given
        tables |= {"seeds": _seeds(seeds)} if seeds else {}
        study = make_study(tables | ({"tuning": tuning} if tuning else {}))
    _carry_out(study, out, time_limit, dry_run, runs, as_json, quiet)


@app.command()
def cv(
    data: Annotated[
        str, typer.Argument(help="a table of texts and labels, a named dataset, or a study", metavar="DATA")
    ],
    out: Out = None,
    folds: Annotated[int, typer.Option(help="5 at least")] = 10,
    repeats: Annotated[int, typer.Option(help="each dealt anew")] = 1,
    protocol: Annotated[
        str, typer.Option(help="nested: settings searched inside each fold; paper: once, on the ordinary split")
    ] = "nested",
    arms: Arms = None,
    baseline: Baseline = None,
    metric: Metric = None,
    margin: Margin = None,
    student: Student = None,
    teacher: Teacher = None,
    preset: Preset = None,
    recipe: Recipe = None,
    sets: Sets = None,
    space: SpaceOption = None,
    trials: Trials = None,
    halving: Halving = None,
    time_limit: Limit = None,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cross-validate recipes, a teacher for each fold. Whole groups; Nadeau and Bengio's interval."""
    from .study import make_study, read_study

    if data.endswith(".toml") and "arms" in _keys(Path(data)):
        study = read_study(Path(data))
        if not study.folds:
            raise UserError(f"{data}: a study over seeds; `randout compare` carries it out")
    else:
        asked = {"baseline": baseline, "metric": metric, "margin": margin, "protocol": protocol}
        given = {key: value for key, value in asked.items() if value is not None} | {"folds": folds, "repeats": repeats}
        base = _base(data, student, teacher, preset, recipe, sets)
        tables: dict[str, Any] = {"base": base, "arms": _arms(arms or "", False, preset, recipe, base)}
        tables |= {"name": out.name if out else f"{Path(data.partition(':')[0]).stem}-cv{folds}"}
        tuning = search_table(space, trials, None, halving, None, None)
        study = make_study(tables | given | ({"tuning": tuning} if tuning else {}))
    _carry_out(study, out, time_limit, dry_run, runs, as_json, quiet)


def _keys(path: Path) -> set[str]:
    from .config import read_recipe

    return set(read_recipe(path))


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


def _base(
    data: str, student: str | None, teacher: str | None, preset: str | None, recipe: Path | None, sets: list[str] | None
) -> dict[str, Any]:
    """What lies under every arm: the options of the command line over a recipe."""
    from . import config
    from .methods import METHODS

    base = config.read_recipe(recipe) if recipe else {}
    base = config.overlay(base, tables_of(data, student, teacher))
    for text in sets or []:
        base = config.overlay(base, config.assignment(text, METHODS))
    return base | ({"preset": preset} if preset else {})


def _arms(
    arms: str | None, drop_one: bool, preset: str | None, recipe: Path | None, base: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The arms named on the command line; base loses the methods that `--drop-one` turned into arms."""
    from . import config, study
    from .methods import METHODS

    if drop_one:
        if arms:
            raise UserError("--drop-one makes the arms of one recipe; leave --arms out")
        tables = {key: value for key, value in base.items() if key != "preset"}
        whole = config.build([config.read_preset(preset or config.DEFAULT_PRESET), tables], METHODS)
        base.pop("methods", None)
        return study.drop_one(whole, METHODS)
    if arms == "":
        return {preset or (recipe.stem if recipe else config.DEFAULT_PRESET): {}}
    found: dict[str, dict[str, Any]] = {}
    for name in (arms or "table6").split(","):
        if name == "table6":
            found |= {one: {"preset": one} for one in study.ABLATION}
        elif name.endswith(".toml"):
            found[Path(name).stem] = config.read_recipe(Path(name))
        else:
            config.read_preset(name)
            found[name] = {"preset": name}
    return found


def _finished(words: list[str], baseline: str | None, given: dict[str, Any], as_json: bool) -> None:
    from .results import compare_finished, result_lines
    from .study import make_study

    plain = make_study({"arms": {"runs": {}}, "seeds": [1]} | given)
    record = compare_finished([Path(word) for word in words], Path(baseline) if baseline else None, plain)
    print(json.dumps(record, indent=1) if as_json else "\n".join(result_lines(record)))


def _carry_out(
    study: Any, out: Path | None, time_limit: str | None, dry_run: bool, runs: Path, as_json: bool, quiet: bool
) -> None:
    from .comparison import Datasets, check_arms, run_study
    from .results import result_lines
    from .student import Stopped
    from .study import units

    where = out or Path("studies") / study.name
    if dry_run:
        for note in check_arms(study, Datasets()):
            print(f"note: {note}")
        print(f"{len(units(study))} units ({', '.join(unit.name for unit in units(study))})")
        print(f"{len(study.arms)} arms ({', '.join(study.arms)}), baseline {study.baseline}")
        tuned = f", after {study.tuning.trials or 'all'} trials an arm" if study.tuning else ""
        print(f"{len(units(study)) * len(study.arms)} runs{tuned}, in {where}")
        return
    show = Show(quiet or as_json)
    try:
        folder = run_study(study, where, options_of(runs, time_limit, show))
    except Stopped as stop:
        stopped(stop, where)
        return
    print(json.dumps(folder.record, indent=1) if as_json else "\n".join(result_lines(folder.record)))
