"""Sections on provenance: data, duplicates, leaks, test openings, cost, machine, configuration."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from randout.core.wording import WARNING, plural
from randout.storage.run_folder import RunFolder, openings, openings_folder
from randout.storage.run_record import DataReport, Opening

from .subjects import Model, Subject
from .values import Code, Column, Part, Section, Table, metric_kind, metric_title, plain


def progress(subject: Subject) -> Section | None:
    """State of each cell of a study, failures, and the tuning of each arm."""
    study = subject.comparison
    if study is None:
        return None
    state: dict[tuple[str, str], str] = {(cell.unit, cell.arm): cell.state for cell in study.cells}
    rows = tuple((unit, *(state.get((unit, arm), "waiting") for arm in study.arms)) for unit in study.units)
    parts: list[Any] = [Table("cells", "Progress", (Column("unit"), *map(Column, study.arms)), rows)]
    failed = [(cell.unit, cell.arm, cell.error or "") for cell in study.cells_in("failed")]
    if failed:
        parts.append(Table("failed", "Failed runs", (Column("unit"), Column("model"), Column("reason")), tuple(failed)))
    if study.tuning:
        columns: tuple[Column, ...] = (Column("model"), Column("trials", "count"), Column("chosen settings"))
        columns += (Column(f"validation {metric_title(subject.metric)}", metric_kind(subject.metric)),)
        tuned = []
        for name, found in study.tuning.items():
            chosen = ", ".join(f"{key} {plain(value)}" for key, value in found.settings.items())
            tuned.append((name, found.trials, chosen, found.value))
        parts.append(Table("tuning", "Tuning", columns, tuple(tuned), "Settings were chosen on validation rows only."))
    return Section("progress", "State of the study", tuple(parts))


def data(subject: Subject) -> Section | None:
    """Split sizes, classes, copies and leaks, and scores with and without leaked rows."""
    if not subject.models:
        return None
    model = subject.models[0]
    report = model.record.data_report
    parts: list[Any] = []
    sizes = {name: len(rows) for name, rows in model.split_rows.items()} or (report.sizes if report else {})
    sizes |= {"views": sum(report.views.values())} if report and report.views else {}
    counts = dict(report.class_counts) if report else {}
    for split, scores in model.metrics.splits.items():
        counts.setdefault(split, {name: found.support for name, found in scores.per_class.items()})
    if sizes:
        labels = dict.fromkeys([*model.labels, *(label for found in counts.values() for label in found)])
        columns: tuple[Column, ...] = (
            Column("split"),
            Column("rows", "count"),
            *(Column(label, "count") for label in labels),
        )
        rows = tuple((s, n, *(counts.get(s, {}).get(label) for label in labels)) for s, n in sizes.items())
        where = f"Split of {model.unit}; the other units are similar." if model.unit and subject.kind == "cv" else ""
        parts.append(Table("splits", "Rows and classes", columns, rows, where))
    parts += _copies(report)
    parts += _leaks(subject)
    return Section("data", "Data, duplicates and leaks", tuple(parts))


def _copies(report: DataReport | None) -> list[Any]:
    if report is None:
        return ["Duplicates were not recorded, because these runs were made by an older version."]
    named = {
        "groups of rows with the same text": report.duplicate_groups,
        "rows in these groups": report.duplicate_rows,
        "groups with conflicting labels": report.conflicting_groups,
    }
    if report.corrected:
        named["labels changed by corrections"] = report.corrected
    for split, count in report.leaked.items():
        named[f"{split} rows with a copy in train"] = count
    for split, count in report.same_tokens.items():
        named[f"{split} rows with the same tokens as a training row but a different text"] = count
    for split, count in report.shared_groups.items():
        named[f"{split} rows in a group that also occurs in train"] = count
    for why, count in report.unlabeled_left_out.items():
        named[f"unlabelled rows skipped: {why}"] = count
    for kind, count in report.views.items():
        named[f"augmented views: {kind}"] = count
    for why, count in report.views_left_out.items():
        named[f"augmented views left out: {why}"] = count
    note = "Two texts are copies if they differ only in case, white space, Unicode form or invisible characters."
    rows = tuple(named.items())
    table = Table("copies", "Duplicates and leaks", (Column("what"), Column("found", "count")), rows, note)
    notes = [
        f"Warning about the data: {one.removeprefix(WARNING)}"
        if one.startswith(WARNING)
        else f"Note on the data: {one}"
        for one in report.notes
    ]
    return [table, *notes]


def _leaks(subject: Subject) -> list[Any]:
    metric = subject.metric
    rows = []
    for model in subject.models:
        for split, scores in model.metrics.splits.items():
            if rest := scores.without_copies:
                whole, own = scores.value(metric), rest.value(metric)
                cells = (model.name, model.unit or None, split, scores.rows - rest.rows, whole, own, own - whole)
                rows.append(cells)
    seen = _seen_before(subject)
    if not rows:
        return ["No scored held-out row has a copy in the training rows.", *seen]
    kind = metric_kind(metric)
    columns: tuple[Column, ...] = (Column("model"), Column("unit"), Column("split"), Column("leaked rows", "count"))
    columns += (
        Column(metric_title(metric), kind),
        Column("without them", kind),
        Column("change", metric_kind(metric, True)),
    )
    return [Table("leaks", "Scores without rows that have a copy in train", columns, tuple(rows)), *seen]


def _seen_before(subject: Subject) -> list[Any]:
    """Scores without held-out rows that a teacher or starting model was trained on."""
    metric, kind, rows = subject.metric, metric_kind(subject.metric), []
    for model in subject.models:
        for split, scores in model.metrics.splits.items():
            if (leaks := model.leaks(split)) and leaks.rows:
                whole = scores.value(metric)
                rest = scores.without_leaks.value(metric) if scores.without_leaks else None
                change = None if rest is None else rest - whole
                rows.append((model.name, model.unit or None, split, leaks.rows, whole, rest, change))
    columns: tuple[Column, ...] = (
        Column("model"),
        Column("unit"),
        Column("split"),
        Column("rows seen before", "count"),
    )
    columns += (Column(metric_title(metric), kind), Column("without them", kind))
    columns += (Column("change", metric_kind(metric, True)),)
    title = "Scores without rows that a teacher or starting model was trained on"
    return [Table("seen", title, columns, tuple(rows))] if rows else []


def test_openings_of(subject: Subject) -> list[Opening]:
    """Recorded openings of the test rows on which the subject's models are scored."""
    found = _all_openings(subject)
    rows = test_rows(subject, found)
    return [entry for entry in found if entry.rows in rows]


def _all_openings(subject: Subject) -> list[Opening]:
    """Test openings recorded in the folders where the subject's models are stored or were trained."""
    folders: dict[Path, None] = {}
    for model in subject.models:
        folders |= dict.fromkeys(
            folder.resolve() for folder in (openings_folder(RunFolder(model.path), model.record), model.path.parent)
        )
    return [entry for folder in folders for entry in _read_openings(folder)]


def test_rows(subject: Subject, entries: list[Opening]) -> set[str]:
    """Digests of the test rows of a subject's models, from each run or (earlier versions) from its test opening."""
    found = {model.record.rows.get("test", "") for model in subject.models}
    mine = {model.record.fingerprint for model in subject.models}
    found |= {entry.rows for entry in entries if entry.fingerprint in mine}
    return found - {""}


def is_in_report(entry: Opening, subject: Subject) -> bool:
    """Whether the run of an opening is in the report: as a model, a cell of a study, or a teacher of one."""
    return entry.fingerprint in subject.shown or entry.run in subject.shown


def _read_openings(folder: Path) -> list[Opening]:
    try:
        return openings(folder)
    except (OSError, ValueError):  # a truncated line, for example after a full disk, does not affect the scores
        return []


def test_openings(subject: Subject) -> Section | None:
    """When each model was scored on this test split, as recorded in the folder of runs."""
    found = test_openings_of(subject)
    if not found:
        return None
    columns: tuple[Column, ...] = (
        Column("when"),
        Column("run"),
        Column("split"),
        Column("by"),
        Column("in this report"),
    )
    runs = [f"{entry.run} with its teacher {entry.teacher}" if entry.teacher else entry.run for entry in found]
    rows = tuple(
        (entry.at, run, entry.split, entry.by, "yes" if is_in_report(entry, subject) else "no")
        for entry, run in zip(found, runs, strict=True)
    )
    lead = (
        "Test scores are unbiased only if no choice was based on them. The folder of runs records every time these "
        f"test rows were scored: {plural(len(found), 'time')}."
    )
    return Section("openings", "Test openings", (lead, Table("openings", "Recorded test openings", columns, rows)))


def cost(subject: Subject) -> Section | None:
    """Training time from the histories, and the number of teachers and stored soft labels."""
    rows = []
    for arm in subject.arms:
        for model in arm.models:
            epochs = model.history.epochs
            trained = sum(one.seconds for one in epochs) if epochs else None
            passes = model.history.last_epoch if epochs else None
            again = model.history.refit_seconds
            rows.append((arm.name, model.unit or None, passes, trained, again, _wall_seconds(model)))
    timed = [trial.seconds for trial in subject.trials]
    if not rows and not any(timed):
        return None
    columns: tuple[Column, ...] = (
        Column("model"),
        Column("unit"),
        Column("epochs", "count"),
        Column("training, seconds", "seconds"),
        Column("refit, seconds", "seconds"),
    )
    columns += (Column("from start to end, seconds", "seconds"),)
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    cells = tuple(tuple(row[at] for at in kept) for row in rows)
    note = (
        "Training: all epochs including validation. From start to end: also scoring, saving, pauses, and training the "
        "teacher if the same run did that."
    )
    if any(row[4] is not None for row in rows):
        note += " Refit: training again on training and validation rows."
    parts: list[Any] = [Table("cost", "Time", tuple(columns[at] for at in kept), cells, note)] if rows else []
    total = sum((row[3] or 0.0) + (row[4] or 0.0) for row in rows)
    teachers = {teacher for model in subject.models for teacher in model.teachers}
    taught = sum(1 for model in subject.models if model.record.identity.teacher)
    stored = {file.name for model in subject.models for file in _soft_labels(model)}
    named = [("total training time, seconds", round(total, 1)), ("models that learn from a teacher", taught)]
    named += [("teachers", len(teachers)), ("stored sets of soft labels", len(stored))]
    note = "A set of soft labels is one pass of one teacher over the texts; all models that learn from this teacher share it."
    parts.append(Table("teachers", "Teachers", (Column("what"), Column("count", "value")), tuple(named), note))
    return Section("cost", "Cost", tuple(parts))


def _soft_labels(model: Model) -> list[Path]:
    if not model.record.identity.teacher:
        return []
    return sorted((model.path / model.record.runs / "soft-labels").glob("*.safetensors"))


def _wall_seconds(model: Model) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(at or "") for at in (model.record.started, model.record.finished))
        return (ended - began).total_seconds()
    except (TypeError, ValueError):  # not times, or only one with a time zone
        return None


def environment(subject: Subject) -> Section | None:
    """Versions and machine; a single column if all models had the same."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for model in subject.models:
        where = tuple((str(k), plain(v)) for k, v in model.record.environment.items())
        found.setdefault(where, []).append(f"{model.name}, {model.unit}" if model.unit else model.name)
    if not any(found):
        return None
    keys = list(dict.fromkeys(key for where in found for key, _ in where))
    same = len(found) == 1
    columns: tuple[Column, ...] = (
        Column("what"),
        *(Column("found" if same else "; ".join(names)) for names in found.values()),
    )
    rows = tuple((key, *(dict(where).get(key) for where in found)) for key in keys)
    table = Table("environment", "Versions and machine", columns, rows)
    more = other_methods(subject)
    return Section("environment", "Environment", (table, more) if more else (table,))


def other_methods(subject: Subject) -> Table | None:
    """Methods that are not built in, where they come from and which models use them; None without any."""
    users: dict[tuple[str, str], dict[str, None]] = {}
    for model in subject.models:
        for name, origin in model.record.plugins.items():
            package = f"package {origin['package']} {origin.get('version', '')}" if origin.get("package") else ""
            source = package or f"file {origin.get('file') or 'unknown'}"
            users.setdefault((name, source), {})[model.name] = None
    if not users:
        return None
    columns = (Column("method"), Column("from"), Column("models"))
    rows = tuple((name, source, ", ".join(names)) for (name, source), names in users.items())
    note = "Their code is not part of randout. A run is resumed only with the version that it started with."
    return Table("other-methods", "Methods that are not built in", columns, rows, note)


def _folders(subject: Subject) -> Table:
    """Folder of each model; folder names end with the start of the run's fingerprint."""
    rows = tuple((model.name, model.path.resolve().name) for model in subject.models)
    return Table("folders", "Run folders", (Column("model"), Column("folder")), rows)


def configuration(subject: Subject) -> Section | None:
    """Every setting including defaults, as stored in the folders; equal files are shown once."""
    files: list[Part] = [_folders(subject)] if subject.kind == "runs" else []
    files += [Code("study.toml", subject.toml)] if subject.toml else []
    seen: dict[str, list[str]] = {}
    for model in subject.models:
        seen.setdefault(model.toml, []).append(f"{model.name}, {model.unit}" if model.unit else model.name)
    files += [Code(f"run.toml of {'; '.join(names)}", text) for text, names in seen.items()]
    return Section("configuration", "Configuration", tuple(files)) if files else None
