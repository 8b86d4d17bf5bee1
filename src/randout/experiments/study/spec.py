"""A study: arms (recipes) x units (seeds, or folds of cross-validation), on equal budgets, read from TOML.

Pure functions: a `Study`, and the configuration of each of its cells. `comparison` runs the cells, unit by unit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from randout.core.config import (
    PAPER_PRESET,
    PUBLISHED,
    Config,
    DataTable,
    Table,
    build,
    checked,
    overlay,
    read_preset,
    read_recipe,
)
from randout.core.errors import UserError, nearest
from randout.core.files import METHOD_PATHS, resolve_places
from randout.experiments.run.run_request import with_fixed_teacher
from randout.experiments.search.space import SearchTable
from randout.methods.builtin import GOLD, KD_ALONE, METHODS, PAPERS_OWN
from randout.methods.catalog import ALL, as_study, chosen
from randout.models.sources import CLASSIFIER_NAMES
from randout.stats.verdicts import FOLDS_NEEDED

PLAIN = "plain"  # cross-entropy only: the default baseline
WITHOUT_TEACHER: dict[str, Any] = {"views": 0, "unlabeled": ""}  # settings of the data of an arm that has none
ABLATION = (PLAIN, PAPERS_OWN, KD_ALONE, f"{PAPERS_OWN}-{KD_ALONE}")  # columns of the paper's Table 6, and presets


class Study(Table):
    """The content of a study file. `base` is overlaid by each arm; `base` and arms are recipes, and may name a preset."""

    name: str = Field("study", description="name of the study's folder", pattern=r"^[\w.-]+$")
    about: str = Field("", description="one line for the report")
    base: dict[str, Any] = Field({}, description="tables of a recipe, overlaid by every arm")
    arms: dict[str, dict[str, Any]] = Field({}, description="name -> tables of a recipe")
    methods: tuple[str, ...] = Field(
        (), description="arms from the registry of methods: names of `randout methods`, or all"
    )
    seeds: tuple[int, ...] = Field(
        (), description="every arm runs once with each seed; a seed varies student and teacher"
    )
    folds: Annotated[int, Field(ge=0)] = Field(
        0, description="folds of a cross-validation instead of seeds; at least 5"
    )
    repeats: Annotated[int, Field(ge=1)] = Field(1, description="repeats of the cross-validation, each with new folds")
    protocol: Literal["nested", "paper"] = Field(
        "nested", description="where tuning runs: nested: inside each fold; paper: once on the ordinary split"
    )
    tuning: SearchTable | None = Field(None, description="a search for each arm before the test split is scored")
    spaces: dict[str, dict[str, Any]] = Field({}, description="arm -> additional settings that its search varies")
    baseline: str = Field("", description="the arm that others are compared with; empty: the first")
    against: dict[str, tuple[str, ...]] = Field(
        {}, description="a further baseline -> the arms that are also compared with it"
    )
    screening: bool = Field(False, description="a first look, without verdicts")
    metric: Literal["accuracy", "macro_f1", "sample_f1", "micro_f1"] = Field(
        "accuracy",
        description="the primary metric, which decides the verdicts; of multi-label data, accuracy stands for sample_f1",
    )
    margin: Annotated[float, Field(gt=0, lt=1)] = Field(0.02, description="differences below this count as equivalent")

    @property
    def kind(self) -> Literal["compare", "cv"]:
        return "cv" if self.folds else "compare"


@dataclass(frozen=True)
class Unit:
    """One seed or fold, which all arms share. tables: overlaid on each arm."""

    name: str
    tables: dict[str, Any]


def read_study(path: Path) -> Study:
    """Read a study file; paths in it are relative to the file. Raises UserError naming file and setting."""
    tables = read_recipe(path)
    arms = tables.get("arms")
    for recipe in (tables.get("base"), *(arms.values() if isinstance(arms, dict) else ())):
        if isinstance(recipe, dict):
            resolve_places(recipe, path.parent)
    tables.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem))
    try:
        return make_study(tables)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def make_study(tables: Mapping[str, Any]) -> Study:
    """Validate the tables of a study. Raises UserError for unknown keys, no arms, an unknown baseline, seeds with folds."""
    if isinstance(tables.get("tuning"), dict):
        checked(SearchTable, tables["tuning"], "tuning.", f"tuning has {', '.join(SearchTable.model_fields)}")
    study: Study = checked(Study, dict(tables), "", f"a study has {', '.join(Study.model_fields)}")
    study = _with_method_arms(study)
    _check_recipes(study)
    arms = {arm: _with_files_read(recipe, f"arms.{arm}.") for arm, recipe in study.arms.items()}
    study = study.model_copy(update={"base": _with_files_read(study.base, "base."), "arms": arms})
    if study.folds and study.seeds:
        raise UserError(
            "seeds and folds: a study takes only one of them. For folds with another seed, set base.train.seed"
        )
    if study.folds and study.folds < FOLDS_NEEDED:
        raise UserError(
            f"folds: found {study.folds}; expected at least {FOLDS_NEEDED}: fewer folds give no useful interval, even repeated"
        )
    if study.folds and (named := [key for key in ("folds", "fold") if study.base.get("data", {}).get(key)]):
        raise UserError(f"base.data.{named[0]}: a cross-validation divides all rows into folds itself; leave it out")
    if study.repeats > 1 and not study.folds:
        raise UserError("repeats: needs a cross-validation. Set folds, or use more seeds")
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds: found {list(study.seeds)}; expected each seed once")
    if study.baseline and study.baseline not in study.arms:
        raise UserError(
            f"baseline: no arm {study.baseline!r}; there are: {', '.join(study.arms)}."
            + nearest(study.baseline, study.arms)
        )
    if not study.seeds and not study.folds:
        study = study.model_copy(update={"seeds": (1, 2, 3)})
    return study.model_copy(update={"baseline": study.baseline or next(iter(study.arms))})


def _with_method_arms(study: Study) -> Study:
    """Add the arms that the study's `methods` name; settings that it gives for an arm are kept. Raises UserError."""
    if not study.methods:
        return study
    below = study.base.get("methods", {})
    added = as_study(study.methods, study.baseline or PLAIN, below if isinstance(below, dict) else ())
    laid: dict[str, Any] = {key: overlay(table, getattr(study, key)) for key, table in added.items()}
    if study.tuning is None:
        laid["spaces"] = {}
    elif (
        not study.tuning.space and not study.tuning.preset
    ):  # so that every arm, including plain, has a setting to tune
        train = study.base.get("train", {})
        from randout.experiments.run.defaults import RATE

        rate = train.get("learning_rate", "auto")
        rate = RATE if rate == "auto" else float(rate)
        laid["tuning"] = study.tuning.model_copy(update={"space": {"train.learning_rate": [rate / 2, rate, 2 * rate]}})
    return study.model_copy(update={**laid, "baseline": study.baseline or PLAIN})


def arms_added_by_all(study: Study) -> set[str]:
    """Return the arms that exist only because all methods were requested."""
    return set(chosen([ALL])) - set(study.methods) if ALL in study.methods else set()


def without_arms(study: Study, names: Collection[str]) -> Study:
    """Return the study without some arms; comparisons among the others are kept."""
    arms = {arm: recipe for arm, recipe in study.arms.items() if arm not in names}
    against = {one: tuple(arm for arm in others if arm in arms) for one, others in study.against.items() if one in arms}
    return study.model_copy(
        update={"arms": arms, "against": {one: others for one, others in against.items() if others}}
    )


def tuning_of(study: Study, arm: str) -> SearchTable:
    """Return the search of an arm: the shared space and its own."""
    table: SearchTable = study.tuning  # type: ignore[assignment]
    return table.model_copy(update={"space": {**table.space, **study.spaces.get(arm, {})}})


def _check_recipes(study: Study) -> None:
    """Raise UserError if there are no arms, an arm is unknown, or a part of a recipe is not a table."""
    if not study.arms:
        raise UserError('arms: found none; a study compares recipes, e.g. [arms.plain] with preset = "plain"')
    named = {f"against.{one}": [one, *arms] for one, arms in study.against.items()} | {"spaces": [*study.spaces]}
    for place, names in named.items():
        if unknown := [name for name in names if name not in study.arms]:
            raise UserError(f"{place}: no arm {unknown[0]!r}; there are: {', '.join(study.arms)}")
    for place, recipe in {"base": study.base, **{f"arms.{arm}": own for arm, own in study.arms.items()}}.items():
        for key, value in recipe.items():
            if key in Config.model_fields and not isinstance(value, dict):
                raise UserError(f"{place}.{key}: found {value!r}; expected a table of settings")
    checked(DataTable, study.base.get("data", {}), "base.data.")


def _with_files_read(recipe: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a recipe in which lists that methods read from files are written out, so that the study records them."""
    read: dict[str, Any] = {}
    for name, settings in recipe.get("methods", {}).items():
        if (
            name in METHODS
            and isinstance(settings, dict)
            and any(isinstance(settings.get(k), str) for k in METHOD_PATHS)
        ):
            whole = checked(METHODS[name], settings, f"{place}methods.{name}.").model_dump(mode="json")
            read[name] = {key: whole[key] for key in settings}
    return overlay(recipe, {"methods": read}) if read else recipe


def units(study: Study) -> list[Unit]:
    """Return the seeds, or the folds of each repeat, in the order in which they run."""
    if not study.folds:
        return [Unit(f"seed {seed}", {"train": {"seed": seed}}) for seed in study.seeds]
    first = study.base.get("data", {}).get("split_seed", 0)
    found = []
    for repeat in range(study.repeats):
        again = f"repeat {repeat + 1}, " if repeat else ""  # the first repeat keeps its names when repeats are added
        for fold in range(1, study.folds + 1):
            tables = {"data": {"folds": study.folds, "fold": fold, "split_seed": first + repeat}}
            found.append(Unit(f"{again}fold {fold}", tables))
    return found


def arm_config(study: Study, arm: str, methods: Mapping[str, Any], above: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of an arm. above: tables overlaid on it (of a unit, of a trial).

    The teacher is trained as `base` says, whatever an arm or a trial changes in the student's training, so that arms
    and trials share it. An arm without a teacher ignores views and unlabelled texts of `base`. An arm that names its own
    student ignores `base.student`. If an arm names a preset, the preset decides its methods, and `base` only sets their
    settings. An arm that is a bag-of-words or neural baseline takes only the data from `base`; if it names a preset, as the
    arms of a reproduction do, it has its published settings.
    """
    base, own = dict(study.base), dict(study.arms[arm])
    named = "preset" in own
    preset = str(own.pop("preset", base.get("preset", PAPER_PRESET)))
    common = str(base.pop("preset", PAPER_PRESET))
    model = own.get("student", {}).get("model")
    if model:
        base.pop("student", None)
    if model in CLASSIFIER_NAMES:
        base = {name: base[name] for name in ("data", "output") if name in base}
    try:
        below = read_preset(preset, model or "")
        if named and model in CLASSIFIER_NAMES:
            below = read_preset(PUBLISHED, model)
        if named:
            base["methods"] = _settings_of(below.get("methods", {}), base.get("methods", {}))
        config = build([below, base, own, dict(above or {})], methods)
        shared = build([read_preset(common), {key: base[key] for key in base if key != "methods"}], methods)
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from None
    config = with_fixed_teacher(config, shared, methods)
    if config.teacher.model == "none" or model in CLASSIFIER_NAMES:
        unused = {key: value for key, value in WITHOUT_TEACHER.items() if key not in own.get("data", {})}
        config = config.model_copy(update={"data": config.data.model_copy(update=unused)})
    return config


def _settings_of(methods: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `above` without entries that add a method that the preset turns off, or turn off one that it has."""
    return {
        name: settings
        for name, settings in above.items()
        if name not in methods or (methods[name] is not False and settings is not False)
    }


def drop_one(config: Config, methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the arms of an ablation: the recipe without each of its methods, without all of them, and whole.

    For Randout-KD this is Table 6 of the paper. methods: names that a preset may contain. Cross-entropy is never left
    out. Raises UserError if there is nothing to leave out.
    """
    whole = dict(config.methods)
    parts = [name for name in whole if name != GOLD]
    if not parts:
        raise UserError("--drop-one: the recipe has only cross-entropy, so there is no method to drop")
    off = dict.fromkeys((*methods, *whole), False)

    def arm(kept: list[str]) -> dict[str, Any]:
        return {"methods": off | {name: whole[name] for name in (GOLD, *kept) if name in whole}}

    arms = {"plain": arm([])}
    if len(parts) > 1:
        arms |= {f"without {name}": arm([other for other in parts if other != name]) for name in parts}
    return arms | {"+".join(parts): arm(parts)}


def budget_differences(study: Study, configs: Mapping[str, Config]) -> list[str]:
    """Return a sentence for each setting in which arms differ although equal budgets require it to be the same."""
    found = []
    configs = {arm: config for arm, config in configs.items() if config.student.model not in CLASSIFIER_NAMES}
    for key in ("epochs", "batch_size", "patience"):
        values = {arm: getattr(config.train, key) for arm, config in configs.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{arm} {value}" for arm, value in values.items())
            found.append(f"the arms do not have equal budgets: train.{key} is {listed}")
    students = {arm: (config.student.model, config.student.layers) for arm, config in configs.items()}
    if len(set(students.values())) > 1:
        found.append("the arms have different students")
    return found


def cells(study: Study) -> Iterator[tuple[Unit, str]]:
    """Yield the cells unit by unit, all arms of a unit in turn, so that any prefix of whole units is balanced."""
    for unit in units(study):
        for arm in study.arms:
            yield unit, arm
