"""Sections on settings: a search's trials, and accuracy by noise units and tokens for each lambda."""

from __future__ import annotations

from typing import Any

import numpy as np

from randout.core.wording import plural
from randout.paper.published import paper
from randout.stats.metrics import LOWER_IS_BETTER

from .subjects import Subject
from .values import Column, Figure, Section, Table, metric_kind, metric_name, metric_title, plain

WEIGHT, TOKENS, UNITS = (paper().settings[letter] for letter in ("lambda", "tokens", "units"))


def trials(subject: Subject) -> Section | None:
    """Best value so far, all trials, skipped configurations, and the optimism of the best value."""
    if subject.kind != "search":
        return None
    found = subject.study.get("trials", [])
    parts: list[Any] = [_state(subject, found)]
    optimism = subject.study.get("optimism")
    kind, title = metric_kind(subject.metric), metric_title(subject.metric)
    if optimism:
        columns = (
            Column("best trial's value", kind),
            Column("optimism", metric_kind(subject.metric, True)),
            Column("corrected", kind),
        )
        row = tuple(optimism.get(key) for key in ("apparent", "optimism", "corrected"))
        note = "The best of many trials looks better than it is. Optimism estimates by how much, from resampled validation rows."
        parts.append(Table("optimism", f"Validation {title} of the best trial", columns, (row,), note))
    parts += [*_progress(subject, found), _ranking(subject, found), *_space(subject)]
    skipped = subject.study.get("skipped") or {}
    if skipped:
        rows = tuple((str(key).replace("_", " "), plain(value)) for key, value in skipped.items())
        parts.append(Table("skipped", "Skipped", (Column("what"), Column("count")), rows))
    return Section("search", "Search", tuple(parts))


def _state(subject: Subject, found: list[dict[str, Any]]) -> str:
    states = [trial.get("state") for trial in found]
    counts = [
        f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed", "waiting") if state in states
    ]
    text = f"{plural(len(found), 'trial')}: {', '.join(counts) or 'none started'}."
    best = subject.best
    if not best:
        return text
    settings = ", ".join(f"{key} {plain(value)}" for key, value in (best.get("settings") or {}).items())
    return f"{text} The best on the validation split is trial {best['number']}: {settings}."


def ranked_trials(subject: Subject) -> list[dict[str, Any]]:
    """Trials with a value, best first; ties by number."""
    found = [trial for trial in subject.study.get("trials", []) if trial.get("value") is not None]
    down = subject.metric in LOWER_IS_BETTER
    # a pruned trial's value is from fewer steps, so it ranks behind all finished trials
    return sorted(found, key=lambda t: (t.get("state") != "finished", t["value"] if down else -t["value"], t["number"]))


def varied_settings(subject: Subject) -> list[str]:
    """Settings that differ between trials, in order of appearance."""
    values: dict[str, list[Any]] = {}
    for trial in subject.study.get("trials", []):
        for key, value in (trial.get("settings") or {}).items():
            values.setdefault(key, []).append(value)
    return [key for key, each in values.items() if any(value != each[0] for value in each)]


def _progress(subject: Subject, found: list[dict[str, Any]]) -> list[Figure]:
    done = [trial for trial in found if trial.get("state") == "finished" and trial.get("value") is not None]
    if not done:
        return []
    pick = min if subject.metric in LOWER_IS_BETTER else max
    title, rows = metric_title(subject.metric), []
    best: float | None = None
    for trial in sorted(done, key=lambda trial: trial["number"]):
        best = trial["value"] if best is None else pick(best, trial["value"])
        rows += [("single trial", trial["number"], trial["value"]), ("best so far", trial["number"], best)]
    columns: tuple[Column, ...] = (Column("series"), Column("trial"), Column(title, metric_kind(subject.metric)))
    table = Table("progress", "Best so far", columns, tuple(rows))
    roles = {"series": "series", "x": "trial", "y": title}
    options = {"marks": ("single trial",), "steps": ("best so far",)}
    return [
        Figure("progress", f"Best validation {metric_name(subject.metric)} so far", "lines", table, roles, "", options)
    ]


def _ranking(subject: Subject, found: list[dict[str, Any]]) -> Table:
    best = ranked_trials(subject)
    rest = [trial for trial in found if trial.get("value") is None]
    keys = varied_settings(subject) or list(
        dict.fromkeys(key for trial in found for key in trial.get("settings") or {})
    )
    columns = [Column("rank", "count"), Column("trial", "count"), *(Column(key, "value") for key in keys)]
    columns += [Column(f"validation {metric_title(subject.metric)}", metric_kind(subject.metric)), Column("state")]
    columns += [Column("steps", "count"), Column("of", "count"), Column("error")]
    rows = []
    for at, trial in enumerate([*best, *rest]):
        settings = trial.get("settings") or {}
        rank = at + 1 if at < len(best) and trial.get("state") == "finished" else None
        cells = (rank, trial["number"], *(settings.get(key) for key in keys), trial.get("value"), trial.get("state"))
        rows.append((*cells, trial.get("step"), trial.get("steps"), trial.get("error")))
    if not any(trial.get("error") for trial in found):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    note = "Only settings that vary are shown. A pruned trial was stopped early; its value is from the last step it reached."
    return Table("trials", "All trials, best first", tuple(columns), tuple(rows), note)


def _space(subject: Subject) -> list[Table]:
    space = subject.study.get("space") or {}
    best = subject.best
    rows = []
    for key, values in space.items():
        tried = ", ".join(map(plain, values)) if isinstance(values, list) else plain(values)
        chosen = (best.get("settings") or {}).get(key)
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
        done = [
            t for t in subject.study.get("trials", []) if t.get("state") == "finished" and t.get("value") is not None
        ]
        return [(_trial_settings(subject, trial), trial["value"]) for trial in done]
    found = []
    for arm in subject.scored():
        for model in arm.models:
            found.append((_noise_settings(model.methods), model.metrics[subject.split][subject.metric]))
    return found


def _trial_settings(subject: Subject, trial: dict[str, Any]) -> dict[str, Any]:
    """Settings of a trial, with those that were not searched taken from the best trial's run."""
    methods = subject.models[0].methods if subject.models else {}
    given = {key.removeprefix("methods."): value for key, value in (trial.get("settings") or {}).items()}
    return _noise_settings(methods) | given


def _noise_settings(methods: dict[str, Any]) -> dict[str, Any]:
    """lambda, T and H of a recipe's methods; None for a method that the recipe does not have."""
    places = {setting: setting.split(".") for setting in (WEIGHT, TOKENS, UNITS)}
    return {setting: (methods.get(name) or {}).get(key) for setting, (name, key) in places.items()}
