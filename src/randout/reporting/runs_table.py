"""Sections on provenance: data, duplicates, leaks, test openings, cost, machine, configuration."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from randout.core.wording import WARNING, plural
from randout.storage.run_folder import RunFolder, openings, openings_folder

from .subjects import Model, Subject
from .values import Code, Column, Part, Section, Table, metric_kind, metric_title, plain


def progress(subject: Subject) -> Section | None:
    """State of each cell of a study, failures, and the tuning of each arm."""
    if subject.kind not in ("compare", "cv"):
        return None
    cells = subject.study.get("cells", [])
    units, arms = subject.study.get("units", []), subject.study.get("arms", [])
    state = {(str(cell["unit"]), str(cell["arm"])): str(cell.get("state", "waiting")) for cell in cells}
    rows = tuple((unit, *(state.get((str(unit), str(arm)), "waiting") for arm in arms)) for unit in units)
    parts: list[Any] = [Table("cells", "Progress", (Column("unit"), *(Column(str(arm)) for arm in arms)), rows)]
    failed = [
        (cell["unit"], cell["arm"], str(cell.get("error") or "")) for cell in cells if cell.get("state") == "failed"
    ]
    if failed:
        parts.append(Table("failed", "Failed runs", (Column("unit"), Column("model"), Column("reason")), tuple(failed)))
    tuning = subject.study.get("tuning") or {}
    if tuning:
        columns: tuple[Column, ...] = (Column("model"), Column("trials", "count"), Column("chosen settings"))
        columns += (Column(f"validation {metric_title(subject.metric)}", metric_kind(subject.metric)),)
        tuned = []
        for arm, found in tuning.items():
            chosen = ", ".join(f"{key} {plain(value)}" for key, value in (found.get("settings") or {}).items())
            tuned.append((arm, found.get("trials"), chosen, found.get("value")))
        parts.append(Table("tuning", "Tuning", columns, tuple(tuned), "Settings were chosen on validation rows only."))
    return Section("progress", "State of the study", tuple(parts))


def data(subject: Subject) -> Section | None:
    """Split sizes, classes, copies and leaks, and scores with and without leaked rows."""
    if not subject.models:
        return None
    model = subject.models[0]
    report = model.record.get("data_report") or {}
    parts: list[Any] = []
    sizes = {name: len(rows) for name, rows in model.split_rows.items()} or report.get("sizes", {})
    counts = dict(report.get("class_counts", {}))
    for split, scores in model.metrics.items():
        counts.setdefault(split, {name: found["support"] for name, found in scores["per_class"].items()})
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


def _copies(report: dict[str, Any]) -> list[Any]:
    if not report:
        return ["Duplicates were not recorded, because these runs were made by an older version."]
    named = {
        "groups of rows with the same text": report.get("duplicate_groups"),
        "rows in these groups": report.get("duplicate_rows"),
        "groups with conflicting labels": report.get("conflicting_groups"),
    }
    for split, count in (report.get("leaked") or {}).items():
        named[f"{split} rows with a copy in train"] = count
    for split, count in (report.get("same_tokens") or {}).items():
        named[f"{split} rows with the same tokens as a training row but a different text"] = count
    for split, count in (report.get("shared_groups") or {}).items():
        named[f"{split} rows in a group that also occurs in train"] = count
    for why, count in (report.get("unlabeled_left_out") or {}).items():
        named[f"unlabelled rows skipped: {why}"] = count
    note = "Two texts are copies if they differ only in case, white space, Unicode form or invisible characters."
    rows = tuple(named.items())
    table = Table("copies", "Duplicates and leaks", (Column("what"), Column("found", "count")), rows, note)
    notes = [
        f"Warning about the data: {one.removeprefix(WARNING)}"
        if one.startswith(WARNING)
        else f"Note on the data: {one}"
        for one in report.get("notes") or []
    ]
    return [table, *notes]


def _leaks(subject: Subject) -> list[Any]:
    metric = subject.metric
    rows = []
    for model in subject.models:
        for split, scores in model.metrics.items():
            rest = scores.get("without_copies")
            if rest:
                cells = (
                    model.name,
                    model.unit or None,
                    split,
                    scores["rows"] - rest["rows"],
                    scores[metric],
                    rest[metric],
                )
                rows.append((*cells, rest[metric] - scores[metric]))
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
        for split, scores in model.metrics.items():
            if count := model.leaks(split).get("rows"):
                rest = (scores.get("without_leaks") or {}).get(metric)
                change = None if rest is None else rest - scores[metric]
                rows.append((model.name, model.unit or None, split, count, scores[metric], rest, change))
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


def test_openings_of(subject: Subject) -> list[dict[str, Any]]:
    """Recorded openings of the test rows on which the subject's models are scored."""
    found = _all_openings(subject)
    rows = test_rows(subject, found)
    return [entry for entry in found if entry.get("rows") in rows]


def _all_openings(subject: Subject) -> list[dict[str, Any]]:
    """Test openings recorded in the folders where the subject's models are stored or were trained."""
    folders: dict[Path, None] = {}
    for model in subject.models:
        folders |= dict.fromkeys(
            folder.resolve() for folder in (openings_folder(RunFolder(model.path), model.record), model.path.parent)
        )
    return [entry for folder in folders for entry in _read_openings(folder)]


def test_rows(subject: Subject, entries: list[dict[str, Any]]) -> set[str]:
    """Digests of the test rows of a subject's models, from each run or (earlier versions) from its test opening."""
    found = {str((model.record.get("rows") or {}).get("test") or "") for model in subject.models}
    mine = {model.record.get("fingerprint") for model in subject.models}
    found |= {str(entry["rows"]) for entry in entries if entry.get("fingerprint") in mine and entry.get("rows")}
    return found - {""}


def is_in_report(entry: dict[str, Any], subject: Subject) -> bool:
    """Whether the run of an opening is in the report: as a model, a cell of a study, or a teacher of one."""
    return str(entry.get("fingerprint")) in subject.shown or str(entry.get("run")) in subject.shown


def _read_openings(folder: Path) -> list[dict[str, Any]]:
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
    rows = tuple(
        (
            str(e.get("at", "")),
            str(e.get("run", "")),
            str(e.get("split", "test")),
            str(e.get("by", "")),
            "yes" if is_in_report(e, subject) else "no",
        )
        for e in found
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
            epochs = model.history.get("epochs") or []
            trained = sum(row.get("seconds", 0.0) for row in epochs) if epochs else None
            passes = epochs[-1].get("epoch", len(epochs)) if epochs else None
            rows.append((arm.name, model.unit or None, passes, trained, _wall_seconds(model)))
    timed = [t.get("seconds") for t in subject.study.get("trials", [])]
    if not rows and not any(timed):
        return None
    columns: tuple[Column, ...] = (
        Column("model"),
        Column("unit"),
        Column("epochs", "count"),
        Column("training, seconds", "seconds"),
    )
    columns += (Column("from start to end, seconds", "seconds"),)
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    cells = tuple(tuple(row[at] for at in kept) for row in rows)
    note = (
        "Training: all epochs including validation. From start to end: also scoring, saving, pauses, and training the "
    )
    note += "teacher if the same run did that."
    parts: list[Any] = [Table("cost", "Time", tuple(columns[at] for at in kept), cells, note)] if rows else []
    total = sum(row[3] or 0.0 for row in rows)
    teachers = {teacher for model in subject.models for teacher in model.teachers}
    taught = sum(1 for model in subject.models if model.record["identity"].get("teacher"))
    stored = {file.name for model in subject.models for file in _soft_labels(model)}
    named = [("total training time, seconds", round(total, 1)), ("models that learn from a teacher", taught)]
    named += [("teachers", len(teachers)), ("stored sets of soft labels", len(stored))]
    note = "A set of soft labels is one pass of one teacher over the texts; all models that learn from this teacher share it."
    parts.append(Table("teachers", "Teachers", (Column("what"), Column("count", "value")), tuple(named), note))
    return Section("cost", "Cost", tuple(parts))


def _soft_labels(model: Model) -> list[Path]:
    if not model.record["identity"].get("teacher"):
        return []
    return sorted((model.path / str(model.record.get("runs", "..")) / "soft-labels").glob("*.safetensors"))


def _wall_seconds(model: Model) -> float | None:
    try:
        ends = [datetime.fromisoformat(model.record[key]) for key in ("started", "finished")]
        return (ends[1] - ends[0]).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def environment(subject: Subject) -> Section | None:
    """Versions and machine; a single column if all models had the same."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for model in subject.models:
        where = tuple((str(k), plain(v)) for k, v in (model.record.get("environment") or {}).items())
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
        for name, origin in (model.record.get("plugins") or {}).items():
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
