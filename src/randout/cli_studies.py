"""The commands over many runs: compare and cv."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_search import (
    AcceptChanges,
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
    tables_of,
)
from .cli_tools import AsJson, Preset, Quiet, Recipe, RunsFolder, Sets, stopped
from .errors import Failure, UserError
from .files import joined_name
from .progress import Show

app = typer.Typer(rich_markup_mode=None)

AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="score test rows that a teacher or starting model has seen")
]
Methods = Annotated[str | None, typer.Option(help="arms from `randout methods`, by comma; or all")]
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
    methods: Methods = None,
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
    accept_changes: AcceptChanges = False,
    allow_leaks: AllowLeaks = False,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare recipes over seeds, or finished runs. Equal budgets, paired statistics."""
    from .study import make_study, read_study

    given = _given(baseline=baseline, metric=metric, margin=margin)
    words = what or []
    runs_named = [word for word in words if (Path(word) / "run.json").exists()]
    named: dict[str, Any] = {
        "--arms": arms,
        "--methods": methods,
        "--drop-one": drop_one,
        "--student": student,
        "--teacher": teacher,
        "--preset": preset,
    }
    named |= {"--recipe": recipe, "--set": sets, "--space": space, "--trials": trials, "--halving": halving}
    if words and len(runs_named) == len(words):
        _leave_out(
            "finished runs are compared as they are",
            named | {"--seeds": seeds, "--dry-run": dry_run, "-o": out, "--allow-leaks": allow_leaks},
        )
        _finished(words, baseline, {key: value for key, value in given.items() if key != "baseline"}, as_json)
        return
    if len(words) > 1:
        other = next(word for word in words if word not in runs_named)
        raise UserError(f"compare: {other} is no run; name one study, one table, or finished runs only")
    if words and _is_study(words[0]):
        _leave_out(f"{words[0]} says what is compared", named)
        tables = read_study(Path(words[0])).model_dump(mode="json", exclude_none=True) | given
    else:
        base = _base(words[0] if words else "", student, teacher, preset, recipe, sets)
        kind = "methods" if methods is not None else "compare"
        tables = {"name": _name(out, words[0] if words else "study", kind), "base": base} | given
        if methods is not None:
            _leave_out("--methods names the arms", {"--arms": arms, "--drop-one": drop_one, "--preset": preset})
            tables |= {"methods": [word.strip() for word in methods.split(",")]}
            trials = trials or None  # 0: as published, untuned
        else:
            tables |= {"arms": _arms(arms, drop_one, preset, recipe, base)}
        tables |= _given(tuning=search_table(space, trials, None, halving, None, None) or None)
    study = make_study(_leaking(tables, allow_leaks) | ({"seeds": _seeds(seeds)} if seeds is not None else {}))
    show = Show(quiet or as_json)
    _carry_out(study, out, dry_run, as_json, options_of(runs, time_limit, show, accept_changes))


@app.command()
def cv(
    data: Annotated[
        str, typer.Argument(help="a table of texts and labels, a named dataset, or a study", metavar="DATA")
    ],
    out: Out = None,
    folds: Annotated[int | None, typer.Option(help="5 at least (default: 10)")] = None,
    repeats: Annotated[int | None, typer.Option(help="each dealt anew (default: 1)")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="nested (default): settings searched inside each fold; paper: once, on the ordinary split"),
    ] = None,
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
    accept_changes: AcceptChanges = False,
    allow_leaks: AllowLeaks = False,
    dry_run: Dry = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cross-validate recipes, a teacher for each fold. Whole groups; Nadeau and Bengio's interval."""
    from .study import make_study, read_study

    given = _given(baseline=baseline, metric=metric, margin=margin)
    if _is_study(data):
        named: dict[str, Any] = {
            "--folds": folds,
            "--repeats": repeats,
            "--protocol": protocol,
            "--arms": arms,
            "--student": student,
        }
        named |= {"--teacher": teacher, "--preset": preset, "--recipe": recipe, "--set": sets, "--space": space}
        _leave_out(f"{data} says what is compared", named | {"--trials": trials, "--halving": halving})
        tables = read_study(Path(data)).model_dump(mode="json", exclude_none=True) | given
        if not tables["folds"]:
            raise UserError(f"{data}: a study over seeds; `randout compare` carries it out")
    else:
        if folds is not None and folds < 1:
            raise UserError(f"--folds {folds}: expected 5 or more")
        base = _base(data, student, teacher, preset, recipe, sets)
        tables = {"name": _name(out, data, f"cv{folds or 10}"), "base": base, "folds": folds or 10} | given
        tables |= {"arms": _arms(arms or "", False, preset, recipe, base)}
        tables |= _given(repeats=repeats, protocol=protocol)
        tables |= _given(tuning=search_table(space, trials, None, halving, None, None) or None)
    study = make_study(_leaking(tables, allow_leaks))
    show = Show(quiet or as_json)
    _carry_out(study, out, dry_run, as_json, options_of(runs, time_limit, show, accept_changes))


def _leaking(tables: dict[str, Any], allowed: bool) -> dict[str, Any]:
    """The tables of a study, with leaking test scores asked for in every arm."""
    from . import config

    return config.overlay(tables, {"base": {"output": {"allow_leaks": True}}}) if allowed else tables


def _given(**options: Any) -> dict[str, Any]:
    """The options that were named."""
    return {name: value for name, value in options.items() if value is not None}


def _leave_out(reason: str, named: dict[str, Any]) -> None:
    """Raise UserError for options that would do nothing."""
    if found := [name for name, value in named.items() if value not in (None, False)]:
        raise UserError(f"{reason}; leave out {', '.join(found)}")


def _is_study(word: str) -> bool:
    """Whether a file is a study's, rather than the description of a dataset."""
    from .config import read_recipe

    keys = {"arms", "base", "baseline", "protocol", "repeats", "seeds", "tuning"}
    return word.endswith(".toml") and not keys.isdisjoint(read_recipe(Path(word)))


def _name(out: Path | None, data: str, what: str) -> str:
    """Of a study that no file names."""
    name = out.resolve().name if out else joined_name([Path(data.partition(":")[0]).stem, what])
    return re.sub(r"[^\w.-]+", "-", name)


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

    if preset and recipe:
        raise UserError("--preset and --recipe: name one; a recipe can say what a preset says")
    base = _standing_alone(config.read_recipe(recipe)) if recipe else {}
    base = config.overlay(base, tables_of(data, student, teacher))
    for text in sets or []:
        base = config.overlay(base, config.assignment(text, METHODS))
    return base | ({"preset": preset} if preset else {})


def _standing_alone(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that lists methods has these and no others, as with `randout train --recipe`."""
    from .methods import METHODS

    if not isinstance(recipe.get("methods"), dict) or "preset" in recipe:
        return recipe
    return recipe | {"methods": dict.fromkeys(METHODS, False) | recipe["methods"]}


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
        whole = config.build([config.read_preset(preset or config.PAPER_PRESET), tables], METHODS)
        base.pop("methods", None)
        return study.drop_one(whole, METHODS)
    if arms == "":
        return {preset or (recipe.stem if recipe else config.PAPER_PRESET): {}}
    found: dict[str, dict[str, Any]] = {}
    for name in map(str.strip, (arms or "table6").split(",")):
        if name == "table6":
            named = {one: {"preset": one} for one in study.ABLATION}
        elif name.endswith(".toml"):
            named = {Path(name).stem: _standing_alone(config.read_recipe(Path(name)))}
        else:
            config.read_preset(name)
            named = {name: {"preset": name}}
        if twice := [one for one in named if one in found]:
            raise UserError(f"--arms {arms}: two arms are called {twice[0]}")
        found |= named
    return found


def _finished(words: list[str], baseline: str | None, given: dict[str, Any], as_json: bool) -> None:
    from .finished_runs import compare_finished
    from .results import result_lines
    from .study import make_study
    from .study_diagnostics import lines

    plain = make_study({"arms": {"runs": {}}, "seeds": [1]} | given)
    record = compare_finished([Path(word) for word in words], baseline or "", plain)
    print(json.dumps(record, indent=1) if as_json else "\n".join(result_lines(record)))
    Show().conclude(lines(record["warnings"]))


def _carry_out(study: Any, out: Path | None, dry_run: bool, as_json: bool, options: Any) -> None:
    from .comparison import Datasets, check_arms, run_study
    from .results import result_lines
    from .student import Stopped
    from .study import units
    from .study_diagnostics import lines

    where = out or Path("studies") / study.name
    if dry_run:
        study, notes = check_arms(study, Datasets())
        for note in notes:
            print(f"note: {note}")
        print(f"{len(units(study))} units ({', '.join(unit.name for unit in units(study))})")
        print(f"{len(study.arms)} arms ({', '.join(study.arms)}), baseline {study.baseline}")
        tuned = f", after {study.tuning.trials or 'all'} trials an arm" if study.tuning else ""
        print(f"{len(units(study)) * len(study.arms)} runs{tuned}, in {where}")
        return
    try:
        record = run_study(study, where, options).record
    except Stopped as stop:
        stopped(stop, where)
        return
    print(json.dumps(record, indent=1) if as_json else "\n".join(result_lines(record)))
    options.show.conclude(lines(record.get("warnings", [])))
    failed = [cell for cell in record["cells"] if cell["state"] == "failed"]
    if failed:
        raise Failure(f"{where}: {len(failed)} runs failed; started again, the same command tries them again")
