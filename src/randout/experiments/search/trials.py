"""Trials of a search as stored in `study.json`: their values, the best, the skipped ones, and their table."""

from __future__ import annotations

import math

import numpy as np

from randout.core.errors import UserError
from randout.core.files import shell_path
from randout.core.text_tables import table_lines
from randout.stats.diagnostics import metric_name
from randout.stats.label_set_scores import SAMPLE_F1
from randout.stats.targets import target_of
from randout.stats.verdicts import best_of
from randout.storage.metrics_record import Rates
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import Optimism, SearchRecord, Skipped, Trial, TrialWarning

from .space import Settings, settings_text


def new_trial(number: int, settings: Settings) -> Trial:
    """Return the record of a trial that has not started."""
    return Trial(
        number=number,
        settings=settings,
        state="waiting",
        value=None,
        step=0,
        steps=None,
        rungs=[],
        run=f"trials/{number:04d}",
        error=None,
        seconds=0.0,
    )


def value_at(trial: Trial, share: float) -> float | None:
    """Return the validation value of a trial at a rung; None if it did not reach it."""
    last = trial.value if trial.state == "finished" else None  # of a trial that stopped early, also at later rungs
    return next((rung.value for rung in trial.rungs if rung.share == share), last)


def signed(metric: str, value: float | None) -> float:
    """Return `value` with the sign that makes larger better; minus infinity for None."""
    if value is None:
        return -math.inf
    return -value if metric == "log_loss" else value


def at_chance(record: SearchRecord, share: float, labels: np.ndarray) -> str | None:
    """Return a warning if the best trial at a rung is no better than chance, so that their order means nothing.

    labels: (n,) of the validation rows. Chance: the share of the largest class plus two of its standard errors. None if
    the best trial is better, and for any metric other than accuracy.
    """
    rungs = [rung for trial in record.trials for rung in trial.rungs]
    reached = [(rung.value, rung.step) for rung in rungs if rung.share == share]
    if record.metric != "accuracy" or not reached:
        return None
    (best, step), always = max(reached), float(np.bincount(labels).max() / len(labels))
    if best > always + 2 * math.sqrt(always * (1 - always) / len(labels)):
        return None
    return (
        f"after {share:.1%} of a training ({step} steps) the best of {len(reached)} trials has a validation accuracy of "
        f"{best:.1%}, and the largest class is {always:.1%} of the rows: no trial is better than chance yet, so the choice "
        "of those that continue is chance too. Allow a larger search.budget, or train for more epochs"
    )


def own_runs(record: SearchRecord, state: str = "finished") -> list[Trial]:
    """Return the trials in a state, without those that reuse the run of an earlier one."""
    return [trial for trial in record.trials if trial.state == state and trial.same_as is None]


def best_trial(record: SearchRecord) -> Trial | None:
    """Return the finished trial with the best value, the first among equals."""
    return max(own_runs(record), key=lambda trial: signed(record.metric, trial.value), default=None)


def skipped(record: SearchRecord) -> Skipped:
    """Return how many cells were tried, pruned, failed or not tried, and the optimizer steps used."""
    trials, cells = record.trials, record.grid
    states = [trial.state for trial in trials]
    own = [trial for trial in trials if trial.same_as is None]
    known = [trial.steps for trial in trials if trial.steps]
    return Skipped(
        cells=cells,
        tried=len(trials),
        not_tried=None if cells is None else max(0, cells - len(own)),
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        steps=sum(trial.step for trial in own),
        steps_of_all_cells=round(float(np.mean(known)) * cells) if known and cells else None,
    )


def optimism(folder: StudyFolder[SearchRecord]) -> Optimism | None:
    """Return how much the validation score of the best trial overstates it (docs/explanation/statistics.md).

    None with fewer than two trials, for a metric that is no mean over rows, and for validation rows of a single group.
    """
    done, metric = [folder.run(trial) for trial in own_runs(folder.record)], folder.record.metric
    if len(done) < 2 or metric not in ("accuracy", SAMPLE_F1):
        return None
    values, groups = zip(*(_credit(run, metric) for run in done), strict=True)
    try:
        found = best_of(np.array(values), groups[0])
    except UserError:
        return None
    return Optimism(apparent=found.apparent, optimism=found.optimism, corrected=found.corrected, trials=found.trials)


def warnings_of(folder: StudyFolder[SearchRecord]) -> list[TrialWarning]:
    """Return the warnings about the best trial; those about a missing or weak teacher hold for all trials."""
    best = best_trial(folder.record)
    if best is None:
        return []
    stored = folder.run(best).warnings_for_study
    return [TrialWarning.model_validate(one.as_json() | {"trial": best.number}) for one in stored]


def baseline_line(folder: StudyFolder[SearchRecord]) -> str:
    """Return a line with the bag-of-words baseline on the validation rows; "" if there is none."""
    best = best_trial(folder.record)
    base = folder.run(best).metrics.validation.baseline if best is not None else None
    if base is None:
        return ""
    metric = folder.record.metric if folder.record.metric in Rates.model_fields else "accuracy"
    return f"{base.name} on the validation rows: {metric} {100 * base.value(metric):.2f} %"


def _credit(run: RunFolder, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return how right a run is on each validation row (of label sets, its F1), and the groups of the rows, (n,) each."""
    found = read_predictions(run.predictions("validation"), run.labels)
    return target_of(found.labels, len(found.names)).credit(found.labels, found.predicted, metric), found.groups


def leaderboard(record: SearchRecord, most: int = 5) -> list[str]:
    """Return the best trials so far, best first, as a table for a terminal."""
    scored = [(trial, trial.value) for trial in record.trials if trial.value is not None and trial.state != "failed"]
    scored.sort(key=lambda pair: (pair[0].state != "finished", -signed(record.metric, pair[1]), pair[0].number))
    names = list(record.space)
    rows = []
    for trial, value in scored[:most]:
        shown = f"{value:.4f}" if record.metric == "log_loss" else f"{100 * value:.2f}"
        cells = [shown, f"{trial.step}/{trial.steps}", trial.state]
        rows.append([f"trial {trial.number}", *cells, *(str(trial.settings.get(name, "")) for name in names)])
    done = sum(trial.state != "waiting" for trial in record.trials)
    best = f"best {min(most, len(scored))} of {done}/{len(record.trials)}"
    return table_lines([best, record.metric, "steps", "state", *names], rows) if rows else []


def summary(folder: StudyFolder[SearchRecord]) -> list[str]:
    """Return the summary of a finished search for a terminal: best trials, skipped cells, optimism, and the next command."""
    record = folder.record
    cut, found = skipped(record), record.optimism
    lines = [*leaderboard(record), ""]
    of = f" of {cut.cells} cells" if cut.cells is not None else ""
    lines.append(f"{cut.tried}{of} tried, {cut.pruned} pruned, {cut.failed} failed")
    if cut.steps_of_all_cells:
        share = cut.steps / cut.steps_of_all_cells
        lines.append(f"{cut.steps:,} steps, {share:.1%} of training every cell in full")
    lines += [baseline] if (baseline := baseline_line(folder)) else []
    if found:
        lines.append(
            f"the best validation {metric_name(record.metric)}, {100 * found.apparent:.2f} %, is about "
            f"{100 * found.optimism:.2f} points too high because it is the best of {len(own_runs(record))}: expect "
            f"{100 * found.corrected:.2f} %"
        )
    elif record.metric not in ("accuracy", SAMPLE_F1):
        lines.append("the best of several trials scores too high; this is estimated for accuracy and sample F1 only")
    for trial in record.trials:
        if trial.state == "failed":
            lines.append(f"trial {trial.number} failed: {trial.error}")
    if best := record.stored_best:
        run = folder.run(best)
        lines += ["", f"best    {run.path} ({settings_text(best.settings)})"]
        if run.model.exists():
            lines.append(f"next    randout evaluate {shell_path(run.path)} --split test")
    return lines
