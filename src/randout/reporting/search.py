"""Sections on settings: a search's trials, and accuracy by noise units and tokens for each lambda."""

from __future__ import annotations

from typing import Any

import numpy as np

from randout.core.wording import plural
from randout.paper.published import paper
from randout.stats.metrics import LOWER_IS_BETTER
from randout.storage.study_record import SearchRecord, Trial

from .subjects import Subject
from .values import Column, Figure, Section, Table, metric_kind, metric_name, metric_title, plain

WEIGHT, TOKENS, UNITS = (paper().settings[letter] for letter in ("lambda", "tokens", "units"))


def trials(subject: Subject) -> Section | None:
    """Best value so far, all trials, skipped configurations, and the optimism of the best value."""
    study = subject.search
    if study is None:
        return None
    parts: list[Any] = [_state(study)]
    optimism = study.optimism
    kind, title = metric_kind(subject.metric), metric_title(subject.metric)
    if optimism:
        columns = (
            Column("best trial's value", kind),
            Column("optimism", metric_kind(subject.metric, True)),
            Column("corrected", kind),
        )
        row = (optimism.apparent, optimism.optimism, optimism.corrected)
        note = "The best of many trials looks better than it is. Optimism estimates by how much, from resampled validation rows."
        parts.append(Table("optimism", f"Validation {title} of the best trial", columns, (row,), note))
    parts += [*_progress(study), _ranking(subject), *_space(study)]
    if study.skipped:
        rows = tuple((key.replace("_", " "), plain(value)) for key, value in study.skipped.as_json().items())
        parts.append(Table("skipped", "Skipped", (Column("what"), Column("count")), rows))
    return Section("search", "Search", tuple(parts))


def _state(study: SearchRecord) -> str:
    states: list[str] = [trial.state for trial in study.trials]
    counts = [
        f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed", "waiting") if state in states
    ]
    text = f"{plural(len(study.trials), 'trial')}: {', '.join(counts) or 'none started'}."
    best = study.stored_best
    if best is None:
        return text
    settings = ", ".join(f"{key} {plain(value)}" for key, value in best.settings.items())
    return f"{text} The best on the validation split is trial {best.number}: {settings}."


def ranked_trials(subject: Subject) -> list[tuple[Trial, float]]:
    """Trials with a value, and that value, best first; ties by number."""
    found = [(trial, trial.value) for trial in subject.trials if trial.value is not None]
    sign = 1 if subject.metric in LOWER_IS_BETTER else -1
    # a pruned trial's value is from fewer steps, so it ranks behind all finished trials
    return sorted(found, key=lambda one: (one[0].state != "finished", sign * one[1], one[0].number))


def varied_settings(subject: Subject) -> list[str]:
    """Settings that differ between trials, in order of appearance."""
    values: dict[str, list[Any]] = {}
    for trial in subject.trials:
        for key, value in trial.settings.items():
            values.setdefault(key, []).append(value)
    return [key for key, each in values.items() if any(value != each[0] for value in each)]


def _progress(study: SearchRecord) -> list[Figure]:
    done = [(trial.number, trial.value) for trial in study.trials if trial.state == "finished"]
    if not done:
        return []
    pick = min if study.metric in LOWER_IS_BETTER else max
    title, rows = metric_title(study.metric), []
    best: float | None = None
    for number, value in sorted(done):
        assert value is not None
        best = value if best is None else pick(best, value)
        rows += [("single trial", number, value), ("best so far", number, best)]
    columns: tuple[Column, ...] = (Column("series"), Column("trial"), Column(title, metric_kind(study.metric)))
    table = Table("progress", "Best so far", columns, tuple(rows))
    roles = {"series": "series", "x": "trial", "y": title}
    options = {"marks": ("single trial",), "steps": ("best so far",)}
    return [
        Figure("progress", f"Best validation {metric_name(study.metric)} so far", "lines", table, roles, "", options)
    ]


def _ranking(subject: Subject) -> Table:
    found = subject.trials
    best = [trial for trial, _ in ranked_trials(subject)]
    rest = [trial for trial in found if trial.value is None]
    keys = varied_settings(subject) or list(dict.fromkeys(key for trial in found for key in trial.settings))
    columns = [Column("rank", "count"), Column("trial", "count"), *(Column(key, "value") for key in keys)]
    columns += [Column(f"validation {metric_title(subject.metric)}", metric_kind(subject.metric)), Column("state")]
    columns += [Column("steps", "count"), Column("of", "count"), Column("error")]
    rows = []
    for at, trial in enumerate([*best, *rest]):
        rank = at + 1 if at < len(best) and trial.state == "finished" else None
        cells = (rank, trial.number, *(trial.settings.get(key) for key in keys), trial.value, trial.state)
        rows.append((*cells, trial.step, trial.steps, trial.error))
    if not any(trial.error for trial in found):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    note = "Only settings that vary are shown. A pruned trial was stopped early; its value is from the last step it reached."
    return Table("trials", "All trials, best first", tuple(columns), tuple(rows), note)


def _space(study: SearchRecord) -> list[Table]:
    best = study.stored_best
    rows = []
    for key, values in study.space.items():
        tried = ", ".join(map(plain, values)) if isinstance(values, list) else plain(values)
        chosen = best.settings.get(key) if best else None
        rows.append((key, tried, None if chosen is None else plain(chosen)))
    columns: tuple[Column, ...] = (Column("setting"), Column("values"), Column("best"))
    return [Table("space", "Search space", columns, tuple(rows))] if rows else []


def noise(subject: Subject) -> Section | None:
    """The metric by hidden units, one line per number of tokens, one panel per lambda (paper, figures 3 and 4)."""
    points: dict[tuple[Any, Any, Any], list[float]] = {}
    for settings, value in _settings_and_values(subject):
        if settings.get(TOKENS) is not None and settings.get(UNITS) is not None:
            points.setdefault((settings.get(WEIGHT), settings[TOKENS], settings[UNITS]), []).append(value)
    if len({key[1:] for key in points}) < 2:
        return None
    title, kind = metric_title(subject.metric), metric_kind(subject.metric)
    columns: tuple[Column, ...] = (
        Column("distillation weight"),
        Column("tokens"),
        Column("units"),
        Column("runs", "count"),
    )
    columns += (Column(title, kind), Column("best", kind), Column("worst", kind))
    rows = []
    for (weight, tokens, size), values in sorted(points.items(), key=lambda item: tuple(map(_sort_key, item[0]))):
        panel = "no distillation" if weight is None else f"λ = {plain(weight)}"
        ends = sorted(values, reverse=subject.metric not in LOWER_IS_BETTER)
        rows.append((panel, f"{plain(tokens)} tokens", size, len(values), float(np.mean(values)), ends[0], ends[-1]))
    split = "validation" if subject.kind == "search" else subject.split
    note = f"On the {split} split. Noise is added to this many hidden units of this many tokens; λ is the weight of distillation."
    note += (
        " Each point is the mean of the runs with these settings." if max(len(v) for v in points.values()) > 1 else ""
    )
    table = Table("noise", "Noise settings", columns, tuple(rows))
    roles = {"panel": "distillation weight", "series": "tokens", "x": "units", "y": title}
    name = f"{metric_name(subject.metric)} by hidden units".capitalize()
    return Section("noise", "Noise settings", (Figure("noise", name, "lines", table, roles, note, {"log2": True}),))


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Sort key: None first, then numbers by size, then text."""
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def _settings_and_values(subject: Subject) -> list[tuple[dict[str, Any], float]]:
    """(settings, value) of every finished trial, or of every run."""
    if subject.kind == "search":
        done = [(trial, trial.value) for trial in subject.trials if trial.state == "finished"]
        return [(_trial_settings(subject, trial), value) for trial, value in done if value is not None]
    found = []
    for arm in subject.scored():
        for model in arm.models:
            found.append((_noise_settings(model.methods), subject.scores(model).value(subject.metric)))
    return found


def _trial_settings(subject: Subject, trial: Trial) -> dict[str, Any]:
    """Settings of a trial, with those that were not searched taken from the best trial's run."""
    methods = subject.models[0].methods if subject.models else {}
    given = {key.removeprefix("methods."): value for key, value in trial.settings.items()}
    return _noise_settings(methods) | given


def _noise_settings(methods: dict[str, Any]) -> dict[str, Any]:
    """lambda, T and H of a recipe's methods; None for a method that the recipe does not have."""
    places = {setting: setting.split(".") for setting in (WEIGHT, TOKENS, UNITS)}
    return {setting: (methods.get(name) or {}).get(key) for setting, (name, key) in places.items()}
