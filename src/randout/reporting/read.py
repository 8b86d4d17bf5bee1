"""Reads run and study folders as report subjects, with an error for each way a folder can be wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.errors import UserError, closest, did_you_mean, nearest
from randout.core.wording import plural
from randout.storage.run_folder import RunFolder, closest_runs, list_runs
from randout.storage.run_names import run_names
from randout.storage.study_folder import read_record

from .subjects import Arm, Model, Subject, data_of

STUDY_KINDS = ("compare", "cv", "search")


def read(paths: Sequence[Path], baseline: str = "") -> list[Subject]:
    """Every folder named, as subjects: each study one, the runs together one.

    baseline: which run the others are compared with; else the first that learns from labels alone and teaches none
    of the others, else the first. A folder of runs stands for the finished runs in it.
    Raises UserError: no such path, no run, unfinished, another format, broken, or of several data sets.
    """
    if not paths:
        raise UserError("report: name at least one run or study folder")
    studies, folders, notes = [], [], []
    for path in dict.fromkeys(Path(os.path.normpath(path)) for path in paths):
        if (path / "study.json").exists():
            studies.append(_study(path))
        elif (path / "run.json").exists() or (path / "run.toml").exists():
            folders.append(path)
        else:
            found, left = _runs_in(path)
            folders += found
            notes += left
    subjects = [_subject(folders, baseline, notes)] if folders else []
    if baseline and not folders:
        raise UserError(f"--baseline {baseline}: a study names its own baseline; this goes with runs only")
    subjects = studies + subjects
    _one_data_set(subjects)
    shown = frozenset(name for subject in subjects for name in _known_runs(subject))
    return [replace(subject, shown=shown) for subject in subjects]


def _known_runs(subject: Subject) -> Iterator[str]:
    """Fingerprints and folder names of the runs that a subject shows or is made of: its models, the cells and trials of
    a study whether or not they are finished, and the teachers of all.
    """
    for model in subject.models:
        yield str(model.record.get("fingerprint"))
        yield model.path.resolve().name
        yield from model.teachers
        first = model.record.get("teacher") or {}
        yield from (str(one.get("name")) for one in (first, *first.get("more", ())) if one.get("name"))
    for entry in (*subject.study.get("cells", ()), *subject.study.get("trials", ())):
        if entry.get("run"):
            yield os.path.basename(str(entry["run"]))


def _runs_in(path: Path) -> tuple[list[Path], list[str]]:
    """The finished runs in a folder of runs, and what is said of the others."""
    if not path.exists():
        studies = [str(one.parent) for place in (path.parent, Path("studies")) for one in place.glob("*/study.json")]
        near = dict.fromkeys([*closest_runs(path), *closest(str(path), studies)])
        raise UserError(f"{path}: no such folder; expected a run or a study.{did_you_mean(list(near)[:2])}")
    inside = list_runs(path) if path.is_dir() else []
    if not inside:
        raise UserError(
            f"{path}: neither a run (run.json), nor a study (study.json), nor a folder of runs; "
            "name what `randout train -o` or `randout compare -o` has written"
        )
    left = [f"{run.path.name} is not finished and was left out." for run in inside if not run.finished]
    finished = [run.path for run in inside if run.finished]
    if not finished:
        raise UserError(
            f"{path}: it holds {plural(len(inside), 'run')}, none of them finished; "
            "`randout train --resume RUN` resumes one"
        )
    return finished, left


def model_of(path: Path, name: str = "", unit: str = "") -> Model:
    """Read one run folder. Raises UserError where it is unfinished, of another format, or broken."""
    run = RunFolder(path)
    if not run.exists:
        raise UserError(f"{path}: a half-written run (run.toml without run.json); the command that began it goes on")
    record = run.record
    if not record.get("finished"):
        raise UserError(f"{path}: this run is not finished; go on with `randout train --resume {path}`")
    try:
        toml = (path / "run.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: no readable run.toml in this run; copy the folder again") from None
    if not isinstance(record.get("identity"), dict) or "data" not in record["identity"]:
        raise UserError(f"{path}/run.json: no identity in it; was the file written by another tool?")
    history = run.read("history.json") if (path / "history.json").exists() else {}
    metrics = run.read("metrics.json")
    warnings = tuple(metrics.pop("warnings", ()))
    return Model(name or path.name, path, record, toml, metrics, history, unit, warnings)


def _subject(folders: list[Path], baseline: str, notes: list[str]) -> Subject:
    """The runs that were named on their own."""
    unnamed = [model_of(path) for path in folders]
    names = run_names([model.record for model in unnamed])
    models = [replace(model, name=name) for model, name in zip(unnamed, names, strict=True)]
    baseline = _named(baseline, models)
    taught = {teacher for model in models for teacher in model.teachers}
    students = [model for model in models if model.record.get("fingerprint") not in taught]
    plain = [model.name for model in students if len(model.methods) <= 1 and not model.teachers]
    chosen = baseline or next(iter([*plain, *(model.name for model in students), *names]))
    order = sorted(models, key=lambda model: model.name != chosen)
    title = f"{len(models)} models on {models[0].data_name}" if len(models) > 1 else models[0].name
    return Subject(title, "runs", tuple(Arm(m.name, (m,)) for m in order), chosen, notes=tuple(notes))


def _named(baseline: str, models: list[Model]) -> str:
    """The name of the run that is asked for by its name or its folder; empty for none. Raises UserError."""
    for model in models if baseline else ():
        if baseline == model.name or Path(baseline).name == model.path.resolve().name:
            return model.name
    if baseline:
        known = [known for model in models for known in (model.name, model.path.resolve().name)]
        listed = "; ".join(f"{model.name} ({model.path.resolve().name})" for model in models)
        raise UserError(f"--baseline {baseline}: no run of that name; given are {listed}.{nearest(baseline, known)}")
    return ""


def _study(path: Path) -> Subject:
    study = read_record(path).record
    if study.get("kind") not in STUDY_KINDS:
        raise UserError(f"{path}/study.json: kind {study.get('kind')!r}; expected one of {', '.join(STUDY_KINDS)}")
    toml = (path / "study.toml").read_text(encoding="utf-8") if (path / "study.toml").exists() else ""
    arms, notes = _best_trial(path, study) if study["kind"] == "search" else _cells(path, study)
    baseline = str(study.get("baseline") or (arms[0].name if arms else ""))
    return Subject(
        str(study.get("name") or path.resolve().name), study["kind"], arms, baseline, study, toml, path, notes
    )


def _cells(path: Path, study: dict[str, Any]) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The arms of a comparison with the runs that can be read; what cannot is said."""
    notes: list[str] = []
    found: dict[str, list[Model]] = {str(arm): [] for arm in study.get("arms", [])}
    for cell in study.get("cells", []):
        if cell.get("state") != "finished" or not cell.get("run"):
            continue
        folder = path / cell["run"]
        if not folder.exists():
            notes.append(
                f"The run of {cell['arm']}, {cell['unit']}, is not beside the study, so its own parts are missing."
            )
            continue
        found.setdefault(str(cell["arm"]), []).append(model_of(folder, str(cell["arm"]), str(cell["unit"])))
    return tuple(Arm(name, tuple(models)) for name, models in found.items()), tuple(notes)


def _best_trial(path: Path, study: dict[str, Any]) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    best = next((t for t in study.get("trials", []) if t.get("number") == study.get("best")), None)
    if best is None or not best.get("run"):
        return (), ()
    name = f"best trial ({best['number']})"
    if not (path / best["run"]).exists():
        return (), (f"The run of trial {best['number']} is not beside the study, so its own parts are missing.",)
    return (Arm(name, (model_of(path / best["run"], name),)),), ()


def _one_data_set(subjects: list[Subject]) -> None:
    """Raise UserError unless everything is about the same labelled rows; texts without labels may differ."""
    seen: dict[str, tuple[str, str]] = {}  # sha256 -> what, data name
    models = [model for subject in subjects for model in subject.models]
    splits = [_held_out(model) for model in models if not _mixed_digest(model)]
    for subject in subjects:
        found = [(subject.name, *data_of(subject))] if not subject.models else []
        for model in subject.models:
            if not (_mixed_digest(model) and _held_out(model) in splits):
                found.append((model.name, model.data_name, model.data_key))
        for what, name, sha256 in found:
            if sha256:
                seen.setdefault(sha256, (what, name))
    if len(seen) > 1:
        (_, (first, one)), (_, (second, other)) = list(seen.items())[:2]
        digests = " and ".join(digest[:8] for digest in list(seen)[:2])
        raise UserError(
            f"report: {first} is of {one!r} and {second} of {other!r} (sha256 {digests}); "
            "one report speaks of one data set. Make a report each."
        )


def _mixed_digest(model: Model) -> bool:
    """Whether a run of an earlier version knows its data only by a digest of labelled and unlabelled texts together."""
    return "labelled_data" not in model.record and "unlabeled" in (model.record["identity"].get("split") or {})


def _held_out(model: Model) -> tuple[Any, ...]:
    """Name, classes and labelled split of a run's data: the same for runs on the same labelled rows."""
    identity = model.record["identity"]
    split = identity.get("split") or {}
    parts = tuple(split.get(name) for name in ("train", "validation", "test"))
    return (model.data_name, tuple(identity["data"]["labels"]), *parts)
