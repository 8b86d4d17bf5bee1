"""Runs a search: trials of a recipe over a space of settings, chosen on validation; the test split stays closed.

Trials are runs in the search's own folder, so an interrupted search goes on mid-trial and ends in the same table:
cells are drawn by the search's seed, budgets are optimizer steps, and whatever is chosen next depends only on what
`study.json` says of the trials before. One teacher serves all trials.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.config import Config, build, checked
from randout.core.errors import Failure, UserError
from randout.data.dataset import Dataset
from randout.experiments.run import pipeline, planning
from randout.experiments.run.request import TEACHERS_OWN
from randout.experiments.run.student import Options, Paused, Stopped, check_methods, student_of
from randout.methods.builtin import GOLD, METHODS
from randout.methods.compatibility import methods_of
from randout.storage.run_folder import now
from randout.storage.study_folder import StudyFolder, opened, refuse_others
from randout.training.checkpoint import MadeElsewhere

from .request import Search as Search
from .request import check_space as check_space
from .request import make_search as make_search
from .space import SearchTable, cells, each_value, rungs, settings_text
from .trials import at_chance, entry, leader, optimism, own_runs, signed, skipped, standing, value_at, warnings_of


def run_search(search: Search, path: Path, options: Options, dataset: Dataset | None = None) -> StudyFolder:
    """Carry out the search in the folder `path`, or go on with it. Raises Stopped, UserError."""
    table, config = search.table, search.config
    check_space(search)
    refuse_others(path)
    dataset = dataset or planning.read_data(config)
    if not (path / "study.json").exists():  # before anything is written: the command put right finds nothing there
        check_trials(search, dataset)
    fresh: dict[str, Any] = {
        "kind": "search",
        "name": path.name,
        "metric": config.train.metric,
        "data": {"name": dataset.name, "sha256": dataset.sha256, "labelled_sha256": dataset.labelled_sha256},
        "space": search.space,
        "trials": [],
        "best": None,
        **plugins_of([config]),
    }
    with opened(path, _asked(table, config), fresh, (), _filled) as folder:
        options.show.say(f"search in {path}{_teachers(search, dataset)}")
        if table.sampler == "tpe":
            _propose(search, folder, dataset, options)
        else:
            _halve(search, folder, dataset, options)
        folder.record["skipped"] = skipped(folder.record)
        if found := optimism(folder):
            folder.record["optimism"] = found
        folder.record["warnings"] = warnings_of(folder)
        folder.record["finished"] = now()
        folder.save()
    return folder


def plugins_of(configs: Iterable[Config]) -> dict[str, Any]:
    """What a study's record says of methods that are not built in: the table `plugins`, where there are any."""
    origins = METHODS.origins(sorted({name for config in configs for name in config.methods}))
    return {"plugins": {name: origin.recorded for name, origin in origins.items()}} if origins else {}


def _asked(table: SearchTable, config: Config) -> dict[str, Any]:
    """What `study.toml` says."""
    return {"search": table.model_dump(mode="json"), "recipe": config.model_dump(mode="json")}


def _filled(was: dict[str, Any]) -> dict[str, Any]:
    return _asked(checked(SearchTable, was["search"], "search."), build([was["recipe"]], METHODS))


def own_teachers(search: Search) -> list[str]:
    """Settings of the space that a teacher which is fine-tuned first takes too: each of their values trains one."""
    pinned = tuple(f"train.{key}" for key in (*TEACHERS_OWN, "save_minutes"))
    return [name for name in search.space if name.startswith(("train.", "teacher.", f"{GOLD}.")) and name not in pinned]


def check_trials(search: Search, dataset: Dataset) -> None:
    """Raise UserError for the first trial that cannot run, with its settings, before any training starts; for a budget
    that is too small.

    What tpe may propose is checked value by value.
    """
    if search.table.sampler == "tpe":
        settings = each_value(search.space)
    else:
        settings, _ = cells(search.space, search.table.trials, search.table.seed)
        rungs(len(settings), search.table.halving, search.table.budget)
    known: dict[str, Any] = {}  # what trials differ in is mostly methods: the student is loaded once for all these
    for number, one in enumerate(settings):
        try:
            config = search.trial_config(one)
            key = config.model_dump_json(include={"data", "student", "teacher", "classifier"})
            if key not in known:
                plan = planning.make(config, dataset, search.required)
                known[key] = None if plan.classifier is not None else student_of(plan)[1]
            if known[key] is not None:
                check_methods(methods_of(config), known[key])
        except UserError as error:
            raise UserError(f"trial {number} ({settings_text(one)}) cannot run: {error}") from None


def planned(search: Search, dataset: Dataset) -> list[str]:
    """What a search would try, checked: a line a cell, and how they are compared. Raises UserError."""
    check_trials(search, dataset)
    table = search.table
    if table.sampler == "tpe":
        lines = [f"{name}: {values}" for name, values in search.space.items()]
        what, trials = f"{table.trials} trials, each proposed by tpe from those before it", table.trials
    else:
        chosen, size = cells(search.space, table.trials, table.seed)
        lines = [f"{number:04d}  {settings_text(settings)}" for number, settings in enumerate(chosen)]
        what, trials = f"{len(chosen)} of {size} cells", len(chosen)
    shares = ", ".join(f"{share:.1%}" for share in rungs(trials, table.halving, table.budget))
    return [*lines, f"{what}; compared after {shares} of a training{_teachers(search, dataset)}"]


def _teachers(search: Search, dataset: Dataset) -> str:
    """`; one teacher for all`, or for what each has its own; empty where none is fine-tuned."""
    if planning.make(search.config, dataset, search.required).teacher_plan is None:
        return ""
    varied = own_teachers(search)
    return f"; a teacher for each value of {', '.join(varied)}" if varied else "; one teacher for all"


def _halve(search: Search, folder: StudyFolder, dataset: Dataset, options: Options) -> None:
    """All cells to the first rung, the best of them to the next, and so on: synchronous successive halving."""
    table, record = search.table, folder.record
    chosen, record["grid"] = cells(search.space, table.trials, table.seed)
    if not record["trials"]:
        record["trials"] = [entry(number, settings) for number, settings in enumerate(chosen)]
        folder.save()
    alive = record["trials"]
    shares = rungs(len(alive), table.halving, table.budget)
    for share in shares:
        most = len(alive) if share == 1 else max(1, len(alive) // table.halving)
        for trial in alive:
            if _advance(search, folder, trial, share, dataset, options):
                _cut(folder, alive, share, most)  # at once, for a checkpoint is several times a model's size
        if most < len(alive) and (why := at_chance(record, share, dataset.labels[dataset.split["validation"]])):
            options.show.warn(why)
        reached = [trial for trial in alive if value_at(trial, share) is not None]
        alive = _cut(folder, alive, share, most if share == 1 else max(1, len(reached) // table.halving))


def _cut(folder: StudyFolder, alive: list[dict[str, Any]], share: float, most: int) -> list[dict[str, Any]]:
    """The best `most` of the trials that are at a rung so far, by number; the others are pruned, for whoever comes to
    the rung later can only push them further down.
    """
    metric = folder.record["metric"]
    reached = [trial for trial in alive if value_at(trial, share) is not None]
    reached.sort(key=lambda trial: (-signed(metric, value_at(trial, share)), trial["number"]))
    for trial in reached[most:]:
        if trial["state"] == "waiting":
            _prune(folder, trial)
    return sorted(reached[:most], key=lambda trial: trial["number"])


def _prune(folder: StudyFolder, trial: dict[str, Any]) -> None:
    trial["state"] = "pruned"
    shutil.rmtree(folder.run(trial).checkpoint, ignore_errors=True)
    folder.save()


def _propose(search: Search, folder: StudyFolder, dataset: Dataset, options: Options) -> None:
    """Optuna's TPE proposes each trial from those before it; with halving, a trial goes on at a rung only among the
    best of those that reached it before (asynchronous successive halving).
    """
    from .tpe import suggest

    table, record = search.table, folder.record
    ranges = any(isinstance(values, dict) for values in search.space.values())
    record["grid"] = None if ranges else math.prod(len(values) for values in search.space.values())
    shares = rungs(table.trials, table.halving)
    for number in range(table.trials):
        before = record["trials"][:number]
        if number == len(record["trials"]):
            settings = suggest(search.space, before, table.seed, number, -signed(record["metric"], 1.0))
            record["trials"].append(entry(number, settings))
            folder.save()
        trial = record["trials"][number]
        twin = next((one for one in before if one["settings"] == trial["settings"]), None)
        if twin is not None:  # proposed again: the same run
            same = {key: twin[key] for key in ("state", "value", "step", "steps", "rungs", "run", "error")}
            trial.update(copy.deepcopy(same) | {"seconds": 0.0, "same_as": twin["number"]})
            folder.save()
            continue
        for share in shares:
            _advance(search, folder, trial, share, dataset, options)
            if not _goes_on(record["metric"], trial, before, share, table.halving):
                if trial["state"] == "waiting":
                    _prune(folder, trial)
                break


def _goes_on(metric: str, trial: dict[str, Any], before: list[dict[str, Any]], share: float, halving: int) -> bool:
    """Whether a trial is among the best of those that came to a rung before it."""
    value = value_at(trial, share)
    others = [value_at(one, share) for one in before if value_at(one, share) is not None]
    rank = sum(signed(metric, other) >= signed(metric, value) for other in others)
    return value is not None and rank < max(1, (len(others) + 1) // max(halving, 1))


def _advance(
    search: Search, folder: StudyFolder, trial: dict[str, Any], share: float, dataset: Dataset, options: Options
) -> bool:
    """Train a trial to `share` of its steps and note its value there; False where that was done before."""
    if trial["state"] in ("finished", "pruned") or value_at(trial, share) is not None:
        return False
    if options.deadline and time.monotonic() > options.deadline:
        raise Stopped("the time limit", folder.run(trial))
    show, total = options.show, max(len(folder.record["trials"]), search.table.trials)
    show.say(f"trial {trial['number']} ({settings_text(trial['settings'])}), of {total} in all")
    trial.update(state="waiting", error=None)
    began = time.monotonic()
    try:
        _train(search, folder, trial, share, dataset, options)
    except (Stopped, MadeElsewhere):
        folder.save()
        raise
    except (Failure, UserError) as error:
        trial.update(state="failed", error=str(error), value=None)
        show.warn(
            f"trial {trial['number']} failed, is kept, and is tried again when the search is started again: {error}"
        )
    trial["seconds"] = round(trial["seconds"] + time.monotonic() - began, 3)
    _keep(search, folder)
    folder.save()
    for line in standing(folder.record):
        show.say(line)
    return True


def _train(
    search: Search, folder: StudyFolder, trial: dict[str, Any], share: float, dataset: Dataset, options: Options
) -> None:
    metric, run = folder.record["metric"], folder.run(trial)
    plan = planning.make(search.trial_config(trial["settings"]), dataset, search.required)
    trial["steps"] = planning.steps_of(plan)
    pause = max(1, math.floor(share * trial["steps"] + 1e-9)) if share < 1 else None  # down: a budget is kept
    within = replace(options, out=run.path, fresh=False, pause_at=pause, show=options.show.within())
    try:
        value = pipeline.execute(plan, within).metrics["validation"][metric]
        step = run.read("history.json")["epochs"][-1]["step"]
        trial.update(state="finished", value=value, step=step)
    except Paused as there:
        value, step = there.metrics[metric], pause
        trial.update(value=value, step=step)
    trial["rungs"].append([share, step, value])


def _keep(search: Search, folder: StudyFolder) -> None:
    """Drop the weights of trials that are not to be kept."""
    best = leader(folder.record)
    folder.record["best"] = None if best is None else best["number"]
    for trial in own_runs(folder.record):
        wanted = search.table.keep == "all" or (search.table.keep == "best" and trial is best)
        if not wanted:
            shutil.rmtree(folder.run(trial).model, ignore_errors=True)
