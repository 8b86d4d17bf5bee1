"""A search: trials of a recipe over a space of settings, chosen on validation; the test split stays closed.

Trials are runs in the search's own folder, so an interrupted search goes on mid-trial and ends in the same table:
cells are drawn by the search's seed, budgets are optimizer steps, and whatever is chosen next depends only on what
`study.json` says of the trials before. One teacher serves all trials.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import job, prepare
from .config import Config, build
from .data import Dataset
from .errors import Failure, UserError
from .grid import SearchTable, Settings, Space, cells, rungs, space_of, tables_of, words_of
from .methods import METHODS
from .metrics import better
from .record import StudyFolder, opened
from .runs import now
from .student import Options, Paused, Stopped, check_methods, student_of
from .study import with_fixed_teacher
from .verdicts import best_of


@dataclass(frozen=True)
class Search:
    """What is searched. config: the recipe, laid under every trial."""

    config: Config
    table: SearchTable
    space: Space

    def trial_config(self, settings: Settings) -> Config:
        """The configuration of a trial; its teacher is the recipe's, whatever the trial changes of the student."""
        tables = self.config.model_dump(mode="json")
        return with_fixed_teacher(build([tables, tables_of(settings, METHODS)], METHODS), self.config, METHODS)


def make_search(config: Config, table: SearchTable) -> tuple[Search, list[str]]:
    """A search and the settings of its space that the recipe has no use for. Raises UserError."""
    space, absent = space_of(table, config, METHODS)
    config = with_fixed_teacher(config, config, METHODS)
    closed = config.model_copy(update={"output": config.output.model_copy(update={"test": False})})
    return Search(closed, table, space), absent


def run_search(search: Search, path: Path, options: Options, dataset: Dataset | None = None) -> StudyFolder:
    """Carry out the search in the folder `path`, or go on with it. Raises Stopped, UserError."""
    table, config = search.table, search.config
    if not search.space:
        raise UserError(
            "search.space: no method of this recipe has any of these settings, so there is nothing to search"
        )
    dataset = dataset or prepare.read_data(config)
    fresh: dict[str, Any] = {
        "kind": "search",
        "name": path.name,
        "metric": config.train.metric,
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "space": search.space,
        "trials": [],
        "best": None,
    }
    asked = {"search": table.model_dump(mode="json"), "recipe": config.model_dump(mode="json")}
    with opened(path, asked, fresh, ()) as folder:
        if table.sampler == "tpe":
            _propose(search, folder, dataset, options)
        else:
            _halve(search, folder, dataset, options)
        _conclude(search, folder, dataset)
    return folder


def check_trials(search: Search, settings: Sequence[Settings], dataset: Dataset) -> None:
    """Raise UserError for the first trial that cannot run, with its settings, before any training starts."""
    checked: dict[str, Any] = {}  # what trials differ in is mostly methods: the student is loaded once for all these
    for number, one in enumerate(settings):
        try:
            config = search.trial_config(one)
            key = config.model_dump_json(include={"data", "student", "teacher", "classifier"})
            if key not in checked:
                plan = prepare.make(config, dataset)
                checked[key] = None if plan.classifier is not None else student_of(plan)[1]
            if checked[key] is not None:
                check_methods(prepare.methods_of(config), checked[key])
        except UserError as error:
            raise UserError(f"trial {number} ({words_of(one)}) cannot run: {error}") from None


def _entry(number: int, settings: Settings) -> dict[str, Any]:
    return {
        "number": number,
        "settings": settings,
        "state": "waiting",
        "value": None,
        "step": 0,
        "steps": None,
        "rungs": [],
        "run": f"trials/{number:04d}",
        "error": None,
        "seconds": 0.0,
    }


def _halve(search: Search, folder: StudyFolder, dataset: Dataset, options: Options) -> None:
    """All cells to the first rung, the best of them to the next, and so on: synchronous successive halving."""
    table, record = search.table, folder.record
    chosen, size = cells(search.space, table.trials, table.seed)
    record["grid"] = size
    if not record["trials"]:
        check_trials(search, chosen, dataset)
        record["trials"] = [_entry(number, settings) for number, settings in enumerate(chosen)]
        folder.save()
    alive = record["trials"]
    shares = rungs(len(alive), table.halving)
    for rung, share in enumerate(shares):
        for trial in alive:
            _advance(search, folder, trial, share, dataset, options)
        reached = [trial for trial in alive if trial["state"] == "finished" or _value_at(trial, share) is not None]
        reached.sort(key=lambda trial: (-_signed(search, _value_at(trial, share)), trial["number"]))
        kept = len(reached) if rung == len(shares) - 1 else max(1, len(reached) // table.halving)
        for trial in reached[kept:]:
            if trial["state"] != "finished":
                _prune(folder, trial)
        on = {trial["number"] for trial in reached[:kept]}
        alive = [trial for trial in record["trials"] if trial["number"] in on]


def _propose(search: Search, folder: StudyFolder, dataset: Dataset, options: Options) -> None:
    """Optuna's TPE proposes each trial from those before it; with halving, a trial goes on at a rung only among the
    best of those that reached it before (asynchronous successive halving).
    """
    from .tpe import suggest

    table, record = search.table, folder.record
    record["grid"] = (
        None
        if any(isinstance(v, dict) for v in search.space.values())
        else math.prod(len(values) for values in search.space.values())
    )
    shares = rungs(table.trials, table.halving)
    for number in range(table.trials):
        if number == len(record["trials"]):
            sign = 1.0 if search.config.train.metric == "log_loss" else -1.0
            settings = suggest(search.space, record["trials"][:number], table.seed, number, sign)
            check_trials(search, [settings], dataset)
            record["trials"].append(_entry(number, settings))
            folder.save()
        trial = record["trials"][number]
        twin = next((t for t in record["trials"][:number] if t["settings"] == trial["settings"]), None)
        if twin is not None:  # proposed again: the same run
            same = {key: twin[key] for key in ("state", "value", "step", "steps", "rungs", "run", "error")}
            trial.update(same | {"seconds": 0.0, "same_as": twin["number"]})
            folder.save()
            continue
        for share in shares:
            _advance(search, folder, trial, share, dataset, options)
            value = _value_at(trial, share)
            others = [_value_at(t, share) for t in record["trials"][:number] if _value_at(t, share) is not None]
            rank = sum(_signed(search, other) >= _signed(search, value) for other in others) if value is not None else 0
            if value is None or rank >= max(1, (len(others) + 1) // max(table.halving, 1)):
                if trial["state"] == "waiting":
                    _prune(folder, trial)
                break


def _value_at(trial: dict[str, Any], share: float) -> float | None:
    """The validation value of a trial at a rung, None where it did not get there."""
    if trial["state"] == "failed":
        return None
    early = trial["value"] if trial["state"] == "finished" else None  # stopped early, it stands at every later rung
    return next((value for at, _, value in trial["rungs"] if at == share), early)


def _signed(search: Search, value: float | None) -> float:
    """Larger is better."""
    if value is None:
        return -math.inf
    return -value if search.config.train.metric == "log_loss" else value


def _prune(folder: StudyFolder, trial: dict[str, Any]) -> None:
    trial["state"] = "pruned"
    shutil.rmtree(folder.run(trial).checkpoint, ignore_errors=True)
    folder.save()


def _advance(
    search: Search, folder: StudyFolder, trial: dict[str, Any], share: float, dataset: Dataset, options: Options
) -> None:
    """Train a trial to `share` of its steps and note its value there; what is noted already is not done again."""
    if trial["state"] in ("finished", "pruned") or _value_at(trial, share) is not None:
        return
    if options.deadline and time.monotonic() > options.deadline:
        raise Stopped("the time limit", folder.run(trial))
    show, metric, run = options.show, search.config.train.metric, folder.run(trial)
    plan = prepare.make(search.trial_config(trial["settings"]), dataset)
    steps = prepare.steps_of(plan)
    trial.update(steps=steps, state="waiting", error=None)
    pause = math.ceil(share * steps) if share < 1 else None
    total = len(folder.record["trials"])
    show.say(f"trial {trial['number']} of {total}: {words_of(trial['settings'])}")
    began = time.monotonic()
    try:
        result = job.carry_out(plan, replace(options, out=run.path, fresh=False, pause_at=pause, show=show.within()))
        value = result.metrics["validation"][metric]
        step = run.read("history.json")["epochs"][-1]["step"]
        trial.update(state="finished", value=value, step=step)
        trial["rungs"].append([share, step, value])
    except Paused as pause_reached:
        value = pause_reached.metrics[metric]
        trial.update(value=value, step=pause)
        trial["rungs"].append([share, pause, value])
    except Stopped:
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


def _leader(search: Search, record: dict[str, Any]) -> dict[str, Any] | None:
    done = [trial for trial in record["trials"] if trial["state"] == "finished" and "same_as" not in trial]
    best = None
    for trial in done:
        if best is None or better(search.config.train.metric, trial["value"], best["value"]):
            best = trial
    return best


def _keep(search: Search, folder: StudyFolder) -> None:
    """Drop the weights of trials that are not to be kept."""
    leader = _leader(search, folder.record)
    folder.record["best"] = None if leader is None else leader["number"]
    for trial in folder.record["trials"]:
        wanted = search.table.keep == "all" or (search.table.keep == "best" and trial is leader)
        if trial["state"] == "finished" and not wanted and "same_as" not in trial:
            shutil.rmtree(folder.run(trial).model, ignore_errors=True)


def _conclude(search: Search, folder: StudyFolder, dataset: Dataset) -> None:
    """What was skipped, and how much the best of so many trials flatters itself (methods.md section 7)."""
    import pyarrow.parquet as parquet

    record, right = folder.record, []
    done = [t for t in record["trials"] if t["state"] == "finished" and "same_as" not in t]
    for trial in done:
        table = parquet.read_table(folder.run(trial).path / "predictions" / "validation.parquet")
        right.append(np.array(table["label"].to_pylist()) == np.array(table["prediction"].to_pylist()))
        groups = table["group"].to_numpy()
    states = [trial["state"] for trial in record["trials"]]
    record["skipped"] = {
        "cells": record["grid"],
        "tried": len(states),
        "not_tried": None if record["grid"] is None else record["grid"] - len(states),
        "pruned": states.count("pruned"),
        "failed": states.count("failed"),
        "steps": sum(trial["step"] for trial in record["trials"]),
        "steps_of_all_cells": _all_steps(record),
    }
    if len(done) > 1 and record["metric"] == "accuracy":
        found = best_of(np.array(right), groups)
        record["optimism"] = {"apparent": found.apparent, "optimism": found.optimism, "corrected": found.corrected}
    record["finished"] = now()
    folder.save()


def _all_steps(record: dict[str, Any]) -> int | None:
    known = [trial["steps"] for trial in record["trials"] if trial["steps"]]
    return round(float(np.mean(known)) * record["grid"]) if known and record["grid"] else None


def standing(record: dict[str, Any], most: int = 5) -> list[str]:
    """The best trials so far, best first, as a table for a terminal."""
    from .figures import table_lines

    scored = [trial for trial in record["trials"] if trial["value"] is not None and trial["state"] != "failed"]
    sign = 1 if record["metric"] == "log_loss" else -1
    scored.sort(key=lambda trial: (trial["state"] != "finished", sign * trial["value"], trial["number"]))
    names = list(record["space"])
    rows = []
    for trial in scored[:most]:
        value = f"{trial['value']:.4f}" if record["metric"] == "log_loss" else f"{100 * trial['value']:.2f}"
        cells = [f"{value}", f"{trial['step']}/{trial['steps']}", trial["state"]]
        rows.append([f"trial {trial['number']}", *cells, *(str(trial["settings"].get(name, "")) for name in names)])
    done = sum(trial["state"] != "waiting" for trial in record["trials"])
    head = [
        f"best {min(most, len(scored))} of {done}/{len(record['trials'])}",
        record["metric"],
        "steps",
        "state",
        *names,
    ]
    return table_lines(head, rows) if rows else []


def summary(folder: StudyFolder) -> list[str]:
    """A finished search for a terminal: the best trials, what was skipped, the optimism, and what to do next."""
    record = folder.record
    skipped, optimism = record["skipped"], record.get("optimism")
    lines = [*standing(record), ""]
    of = f" of {skipped['cells']} cells" if skipped["cells"] is not None else ""
    lines.append(f"{skipped['tried']}{of} tried, {skipped['pruned']} pruned, {skipped['failed']} failed")
    if skipped["steps_of_all_cells"]:
        share = skipped["steps"] / skipped["steps_of_all_cells"]
        lines.append(f"{skipped['steps']:,} steps, {share:.1%} of what every cell in full would take")
    if optimism:
        lines.append(
            f"the best validation accuracy, {100 * optimism['apparent']:.2f} %, flatters itself by about "
            f"{100 * optimism['optimism']:.2f} points for being the best of {skipped['tried']}: "
            f"{100 * optimism['corrected']:.2f} % is to be expected"
        )
    for trial in record["trials"]:
        if trial["state"] == "failed":
            lines.append(f"trial {trial['number']} failed: {trial['error']}")
    if record["best"] is not None:
        best = folder.run(record["trials"][record["best"]]).path
        lines += ["", f"best    {best} ({words_of(record['trials'][record['best']]['settings'])})"]
        lines.append(f"next    randout evaluate {best} --split test")
    return lines
