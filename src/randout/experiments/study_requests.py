"""Searches, comparisons, cross-validations and ladders of sizes, as commands and library functions request them.

Everything that can be checked from the request alone is checked before PyTorch is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from randout.core import config as configuration
from randout.core.console import Show
from randout.core.errors import UserError, did_you_mean
from randout.core.files import joined_name
from randout.core.wording import plural
from randout.data.dataset import Datasets, introduce, load
from randout.experiments.run.already_trained import check_student, find_models
from randout.experiments.run.options import Options, Stopped
from randout.experiments.run.run_request import Request, recipe_tables
from randout.experiments.search.search_request import check_space, make_search
from randout.experiments.search.space import SearchTable
from randout.experiments.shrink.ladder import PRESET, Shrink, make_shrink
from randout.experiments.study import spec as studying
from randout.experiments.study.spec import Study
from randout.methods.builtin import METHODS
from randout.models.sources import CLASSIFIER_NAMES
from randout.storage.run_folder import closest_runs
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import ComparisonRecord, SearchRecord, ShrinkRecord


class StudyStopped(Stopped):
    """A study was stopped on request, and its state is saved in the folder `where`."""

    def __init__(self, stop: Stopped, where: Path) -> None:
        super().__init__(stop.why, stop.run)
        self.where = where


def search_table(space: str | Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
    """Return the table `[search]` for the given options.

    space: the name of a space of the package, or lists of values by setting; the key "preset" adds such a name to them.
    """
    values = dict(space) if isinstance(space, Mapping) else {}
    preset = space if isinstance(space, str) else values.pop("preset", None)
    table = {"preset": preset, "space": values or None, **options}
    return {key: value for key, value in table.items() if value is not None}


def search(request: Request, table: Mapping[str, Any], out: Path | None, options: Options) -> StudyFolder[SearchRecord]:
    """Search settings on validation, in `out` or in a folder named after the request. Raises StudyStopped, UserError."""
    made, dataset = _build_search(request, table, options)
    from randout.experiments.search.search import run_search

    student = Path(made.config.student.model or "auto").name
    name = joined_name(["search", dataset.name, student, "+".join(made.config.methods)])
    where = out or Path("studies") / name
    try:
        return run_search(made, where, options, dataset)
    except Stopped as stop:
        raise StudyStopped(stop, where) from None


def planned_search(request: Request, table: Mapping[str, Any], options: Options) -> list[str]:
    """Check a search and return its plan: one line per trial, and how trials are compared. Raises UserError."""
    made, dataset = _build_search(request, table, options)
    from randout.experiments.search.search import planned

    return planned(made, dataset)


def _build_search(request: Request, table: Mapping[str, Any], options: Options) -> tuple[Any, Any]:
    """Return the search and its dataset."""
    config = request.config(but=("search",))
    below = configuration.read_recipe(request.recipe).get("search", {}) if request.recipe is not None else {}
    if not isinstance(below, dict):
        raise UserError(f"{request.recipe}: search: found {below!r}; expected a table")
    listed = f"a search has {', '.join(SearchTable.model_fields)}"
    checked = configuration.checked(SearchTable, configuration.overlay(below, dict(table)), "search.", listed)
    made, absent = make_search(config, checked, request.required)
    if absent:
        options.show.say(f"left out, because this recipe has no such method: {', '.join(absent)}")
    check_space(made)
    check_student(made.config)
    dataset = load(made.config.data)
    introduce(dataset, options.show)
    find_models(made.config)
    return made, dataset


def shrink(
    request: Request, given: Mapping[str, Any], out: Path | None, options: Options, again: bool = False
) -> StudyFolder[ShrinkRecord]:
    """Train and measure a ladder of sizes, in `out` or in a folder named after the request.

    given: values of `ShrinkTable`; None: not given. again: measure all costs again. Raises StudyStopped, UserError, Failure.
    """
    made, dataset = _build_shrink(request, given, options)
    from randout.experiments.shrink.shrink import run_shrink

    students = "+".join(Path(name or "auto").name for name in made.students)
    where = out or Path("studies") / joined_name(["shrink", dataset.name, students])
    try:
        return run_shrink(made, where, options, dataset, again)
    except Stopped as stop:
        raise StudyStopped(stop, where) from None


def planned_shrink(request: Request, given: Mapping[str, Any], options: Options) -> list[str]:
    """Check a ladder of sizes and return its plan. Raises UserError."""
    made, dataset = _build_shrink(request, given, options)
    from randout.experiments.shrink.shrink import planned as planned_ladder

    return planned_ladder(made, dataset)


def _build_shrink(request: Request, given: Mapping[str, Any], options: Options) -> tuple[Shrink, Any]:
    """Return the ladder and its dataset; the default preset is `PRESET`."""
    if request.preset is None and request.recipe is None:
        request = replace(request, preset=PRESET)
    made = make_shrink(request.config(), _given(**given), request.required)
    configs = [made.student_config(name) for name in made.students]
    for config in configs:
        check_student(config)
    dataset = load(made.config.data)
    introduce(dataset, options.show)
    for config in configs:
        find_models(config)
    return made, dataset


@dataclass(frozen=True)
class Asked:
    """The options of a comparison or cross-validation; None: not given.

    data: settings of the data, apart from its source. arms: presets or recipe files, or "table6". methods: arms from the
    registry of methods, or "all". settings: as in `Request`. space: as in `search_table`. spelt: maps an option to its
    spelling in the caller's interface, for messages.
    """

    student: str | None = None
    teacher: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    recipe: Path | None = None
    settings: Sequence[dict[str, Any]] | None = None
    arms: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    drop_one: bool = False
    seeds: Sequence[int] | None = None
    folds: int | None = None
    repeats: int | None = None
    protocol: str | None = None
    space: str | Mapping[str, Any] | None = None
    trials: int | None = None
    halving: int | None = None
    baseline: str | None = None
    metric: str | None = None
    margin: float | None = None
    allow_leaks: bool = False
    spelt: Callable[[str], str] = str

    def refuse(self, reason: str, *names: str, **more: Any) -> None:
        """Raise UserError for options that were given but would have no effect. more: further options, by name."""
        given = {name: getattr(self, name) for name in names} | more
        given |= given.pop("data", {})  # each by its own name
        if found := [self.spelt(name) for name, value in given.items() if value not in (None, False)]:
            raise UserError(f"{reason}; leave out {', '.join(found)}")

    @property
    def judged(self) -> dict[str, Any]:
        """The given options that decide how arms are compared."""
        return _given(baseline=self.baseline, metric=self.metric, margin=self.margin)


RECIPE = ("arms", "methods", "drop_one", "student", "teacher", "data", "preset", "recipe", "settings")
TUNING = ("space", "trials", "halving")


def comparison(data: str, asked: Asked, out: Path | None) -> Study:
    """Return the study for a labelled table or a study file. Raises UserError."""
    if data and is_study(data):
        asked.refuse(f"{data} defines what is compared", *RECIPE, *TUNING)
        tables = studying.read_study(Path(data)).model_dump(mode="json", exclude_none=True) | asked.judged
        return studying.make_study(_with_allowed_leaks(tables, asked) | _given(seeds=asked.seeds))
    base, trials = _base(data, asked), asked.trials
    kind = "methods" if asked.methods is not None else "compare"
    tables = {"name": _name(out, data or "study", kind), "base": base} | asked.judged
    if asked.methods is not None:
        asked.refuse(f"{asked.spelt('methods')} names the arms", "arms", "drop_one", "preset")
        tables |= {"methods": list(asked.methods)}
        trials = trials or None  # 0: as published, untuned
    else:
        tables |= {"arms": _arms(asked, base, one=base.get("student", {}).get("model") in CLASSIFIER_NAMES)}
    tables |= _given(tuning=search_table(asked.space, trials=trials, halving=asked.halving) or None)
    return studying.make_study(_with_allowed_leaks(tables, asked) | _given(seeds=asked.seeds))


def cross_validation(data: str, asked: Asked, out: Path | None) -> Study:
    """Return the study over folds for a labelled table or a study file. Raises UserError."""
    if is_study(data):
        named = (name for name in (*RECIPE, *TUNING) if name not in ("methods", "drop_one"))
        asked.refuse(f"{data} defines what is compared", "folds", "repeats", "protocol", *named)
        tables = studying.read_study(Path(data)).model_dump(mode="json", exclude_none=True) | asked.judged
        if not tables["folds"]:
            raise UserError(f"{data}: this is a study over seeds. Run it with `randout compare`")
        return studying.make_study(_with_allowed_leaks(tables, asked))
    if asked.folds is not None and asked.folds < 1:
        raise UserError(f"{asked.spelt('folds')} {asked.folds}: expected 5 or more")
    base, folds = _base(data, asked), asked.folds or 10
    tables = {"name": _name(out, data, f"cv{folds}"), "base": base, "folds": folds} | asked.judged
    tables |= {"arms": _arms(asked, base, one=True)} | _given(repeats=asked.repeats, protocol=asked.protocol)
    tables |= _given(tuning=search_table(asked.space, trials=asked.trials, halving=asked.halving) or None)
    return studying.make_study(_with_allowed_leaks(tables, asked))


def execute(study: Study, out: Path | None, options: Options) -> StudyFolder[ComparisonRecord]:
    """Run or resume a study, in `out` or studies/NAME. Raises StudyStopped, UserError."""
    datasets = _read(study, options.show)
    from randout.experiments.study.comparison import run_study

    where = out or Path("studies") / study.name
    try:
        return run_study(study, where, options, datasets)
    except Stopped as stop:
        raise StudyStopped(stop, where) from None


def _read(study: Study, show: Show) -> Datasets:
    """Read the data of the first cell, before PyTorch is loaded; shows a summary of it and warnings.

    Raises UserError, also for models that are not found.
    """
    datasets, first = Datasets(), studying.units(study)[0]
    configs = [studying.arm_config(study, arm, METHODS, first.tables) for arm in study.arms]
    for config in configs:
        check_student(config)
    for name in (name for name in studying.WITHOUT_TEACHER if study.base.get("data", {}).get(name)):
        if not any(getattr(config.data, name) for config in configs):
            raise UserError(
                f"data.{name}: no arm learns from a teacher, so this has no effect. Leave it out, or name an arm such as kd and "
                "a teacher"
            )
    introduce(datasets.read(configs[0]), show)
    for config in configs:
        find_models(config)
    return datasets


def planned(study: Study, out: Path | None, show: Show) -> list[str]:
    """Check a study and return the lines of its plan. show: for the data and warnings about it. Raises UserError."""
    datasets = _read(study, show)
    from randout.experiments.study.comparison import check_arms

    study, notes, _ = check_arms(study, datasets)
    units = studying.units(study)
    trials = study.tuning.trials if study.tuning else 0
    tuned = f", after {plural(trials, 'trial') if trials else 'all trials'} per arm" if study.tuning else ""
    lines = [f"note: {note}" for note in notes]
    lines += [f"{plural(len(units), 'unit')} ({', '.join(unit.name for unit in units)})"]
    lines += [f"{plural(len(study.arms), 'arm')} ({', '.join(study.arms)}), baseline {study.baseline}"]
    return [*lines, f"{plural(len(units) * len(study.arms), 'run')}{tuned}, in {out or Path('studies') / study.name}"]


def finished(runs: Sequence[str], asked: Asked, **more: Any) -> ComparisonRecord:
    """Compare finished runs as they are, by default by the metric that they were all selected by, as a report does.

    more: further options that would have no effect. Raises UserError.
    """
    asked.refuse("finished runs are compared as they are", *RECIPE, *TUNING, "seeds", "allow_leaks", **more)
    from randout.experiments.study.finished_runs import compare_finished

    judged = {name: value for name, value in asked.judged.items() if name != "baseline"}
    plain = studying.make_study({"arms": {"runs": {}}, "seeds": [1]} | judged)
    return compare_finished([Path(run) for run in runs], asked.baseline or "", plain, selected=asked.metric is None)


def are_runs(words: Sequence[str]) -> bool:
    """Return whether all arguments are runs. Raises UserError for several arguments that are not."""
    others = [word for word in words if not (Path(word) / "run.json").exists()]
    if others and len(words) > 1:
        near = did_you_mean(closest_runs(Path(others[0])))
        raise UserError(f"compare: {others[0]} is not a run.{near} Name one study, one table, or finished runs only")
    return bool(words) and not others


def is_study(word: str) -> bool:
    """Return whether a file describes a study rather than a dataset."""
    keys = {"arms", "base", "baseline", "protocol", "repeats", "seeds", "tuning"}
    return word.endswith(".toml") and not keys.isdisjoint(configuration.read_recipe(Path(word)))


def _with_allowed_leaks(tables: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Add `allow_leaks` to the base of a study if it was given."""
    allowed = {"base": {"output": {"allow_leaks": True}}}
    return configuration.overlay(tables, allowed) if asked.allow_leaks else tables


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _name(out: Path | None, data: str, what: str) -> str:
    """Return the name of a study that no file names."""
    name = out.resolve().name if out else joined_name([Path(data.partition(":")[0]).stem, what])
    return re.sub(r"[^\w.-]+", "-", name)


def _base(data: str, asked: Asked) -> dict[str, Any]:
    """Return the tables under every arm: the given options over the recipe."""
    tables: dict[str, dict[str, Any]] = {
        "data": {"source": data, **asked.data},
        "student": {"model": asked.student},
        "teacher": {"model": asked.teacher},
    }
    given = {name: {key: value for key, value in table.items() if value} for name, table in tables.items()}
    over = {name: table for name, table in given.items() if table}
    request = Request(over, asked.preset, asked.recipe, tuple(asked.settings or ()))
    base = _without_other_methods(recipe_tables(request.recipe)) if request.recipe else {}
    for table in (request.tables, *request.settings):
        base = configuration.overlay(base, table)
    return base | ({"preset": asked.preset} if asked.preset else {})


def _without_other_methods(recipe: dict[str, Any], below: Iterable[str] = ()) -> dict[str, Any]:
    """Return a recipe that uses only the methods it lists, if it lists any, as `randout train --recipe` does.

    below: further methods under it, in addition to those of a preset.
    """
    if not isinstance(recipe.get("methods"), dict) or "preset" in recipe:
        return recipe
    return recipe | {"methods": dict.fromkeys((*METHODS.built_in, *below), False) | recipe["methods"]}


def _arms(asked: Asked, base: dict[str, Any], one: bool = False) -> dict[str, dict[str, Any]]:
    """Return the arms by name; with `drop_one` their methods are removed from `base`.

    one: without named arms, use the recipe alone instead of the paper's four, which need an encoder.
    """
    if asked.drop_one:
        if asked.arms:
            raise UserError(
                f"{asked.spelt('drop_one')} makes the arms from one recipe; leave {asked.spelt('arms')} out"
            )
        tables = {key: value for key, value in base.items() if key != "preset"}
        below = configuration.read_preset(asked.preset or configuration.PAPER_PRESET)
        whole = configuration.build([below, tables], METHODS)
        base.pop("methods", None)
        return studying.drop_one(whole, METHODS.built_in)
    if one and not asked.arms:
        student = base.get("student", {}).get("model")
        default = student if student in CLASSIFIER_NAMES else configuration.PAPER_PRESET
        return {asked.preset or (asked.recipe.stem if asked.recipe else default): {}}
    found: dict[str, dict[str, Any]] = {}
    for name in asked.arms or ("table6",):
        if name == "table6":
            named = {arm: {"preset": arm} for arm in studying.ABLATION}
        elif name.endswith(".toml"):
            named = {Path(name).stem: _without_other_methods(recipe_tables(Path(name)), base.get("methods", {}))}
        else:
            configuration.read_preset(name)
            named = {name: {"preset": name}}
        if twice := [arm for arm in named if arm in found]:
            raise UserError(f"{asked.spelt('arms')} {','.join(asked.arms or ())}: two arms are named {twice[0]}")
        found |= named
    return found
