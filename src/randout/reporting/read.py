"""Reads run and study folders as report subjects, with an error for each way a folder can be wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from randout.core.errors import UserError, closest, did_you_mean, nearest
from randout.core.wording import plural
from randout.storage.run_folder import RunFolder, closest_runs, list_runs
from randout.storage.run_names import run_names
from randout.storage.study_folder import StudyFolder, read_record
from randout.storage.study_record import ComparisonRecord, SearchRecord, ShrinkRecord

from .subjects import Arm, Model, Subject, data_of, default_baseline


def read(paths: Sequence[Path], baseline: str = "") -> list[Subject]:
    """Read folders as subjects: one for each study, and one for all runs together.

    baseline: run that the others are compared with; by default `default_baseline`. A folder of runs stands for its finished runs.
    Raises UserError for a missing path, a folder that is not a run, unfinished or damaged runs, or several data sets.
    """
    if not paths:
        raise UserError("report: give at least one run or study folder")
    studies, folders, notes = [], [], []
    for path in dict.fromkeys(Path(os.path.normpath(path)) for path in paths):
        if (path / "study.json").exists():
            studies.append(_study_subject(path))
        elif (path / "run.json").exists() or (path / "run.toml").exists():
            folders.append(path)
        else:
            found, left = _runs_in(path)
            folders += found
            notes += left
    subjects = [_runs_subject(folders, baseline, notes)] if folders else []
    if baseline and not folders:
        raise UserError(f"--baseline {baseline}: a study sets its own baseline; use this option with runs only")
    subjects = studies + subjects
    _check_one_data_set(subjects)
    shown = frozenset(name for subject in subjects for name in _known_runs(subject))
    return [replace(subject, shown=shown) for subject in subjects]


def _known_runs(subject: Subject) -> Iterator[str]:
    """Fingerprints and folder names of a subject's runs: models, all cells and trials of a study, and their teachers."""
    for model in subject.models:
        yield model.record.fingerprint
        yield model.path.resolve().name
        yield from model.teachers
        yield from (teacher.name for teacher in model.record.teachers)
    cells = [
        *(subject.comparison.cells if subject.comparison else ()),
        *(subject.ladder.cells if subject.ladder else ()),
    ]
    for entry in (*cells, *subject.trials):
        if entry.run:
            yield os.path.basename(entry.run)


def _runs_in(path: Path) -> tuple[list[Path], list[str]]:
    """Finished runs in a folder of runs, and notes on the others."""
    if not path.exists():
        studies = [str(one.parent) for place in (path.parent, Path("studies")) for one in place.glob("*/study.json")]
        near = dict.fromkeys([*closest_runs(path), *closest(str(path), studies)])
        raise UserError(f"{path}: no such folder; expected a run or a study.{did_you_mean(list(near)[:2])}")
    inside = list_runs(path) if path.is_dir() else []
    if not inside:
        raise UserError(
            f"{path}: not a run (run.json), a study (study.json) or a folder of runs; "
            "give a folder written by `randout train -o` or `randout compare -o`"
        )
    left = [f"{run.path.name} is not finished and was left out." for run in inside if not run.finished]
    finished = [run.path for run in inside if run.finished]
    if not finished:
        raise UserError(
            f"{path}: this folder holds {plural(len(inside), 'run')}, none of them finished; "
            "`randout train --resume RUN` resumes one"
        )
    return finished, left


def read_model(path: Path, name: str = "", unit: str = "") -> Model:
    """Read one run folder. Raises UserError if it is unfinished, has another format, or is damaged."""
    run = RunFolder(path)
    if not run.exists:
        raise UserError(f"{path}: incomplete run (run.toml without run.json); repeat the command that started it")
    record = run.record
    run.check_finished()
    try:
        toml = (path / "run.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: no readable run.toml in this run; copy the folder again") from None
    return Model(name or path.name, path, record, toml, run.metrics, run.history, unit)


def _runs_subject(folders: list[Path], baseline: str, notes: list[str]) -> Subject:
    """Subject of the runs that are not part of a study."""
    unnamed = [read_model(path) for path in folders]
    names = run_names([model.record for model in unnamed])
    models = [replace(model, name=name) for model, name in zip(unnamed, names, strict=True)]
    baseline = _baseline_name(baseline, models)
    chosen, note = default_baseline({model.name: [model.record] for model in models})
    chosen = baseline or chosen
    notes = [*notes, note] if len(models) > 1 and not baseline else notes
    order = sorted(models, key=lambda model: model.name != chosen)
    title = f"{len(models)} models on {models[0].data_name}" if len(models) > 1 else models[0].name
    return Subject(title, "runs", tuple(Arm(m.name, (m,)) for m in order), chosen, notes=tuple(notes))


def _baseline_name(baseline: str, models: list[Model]) -> str:
    """Name of the baseline, which is given by its name or folder; empty if none is given. Raises UserError."""
    for model in models if baseline else ():
        if baseline == model.name or Path(baseline).name == model.path.resolve().name:
            return model.name
    if baseline:
        known = [known for model in models for known in (model.name, model.path.resolve().name)]
        listed = "; ".join(f"{model.name} ({model.path.resolve().name})" for model in models)
        raise UserError(f"--baseline {baseline}: no run of that name; the runs are {listed}.{nearest(baseline, known)}")
    return ""


def _study_subject(path: Path) -> Subject:
    study = read_record(path).record
    toml = (path / "study.toml").read_text(encoding="utf-8") if (path / "study.toml").exists() else ""
    if isinstance(study, SearchRecord):
        arms, notes = _best_trial(path, study)
        baseline = arms[0].name if arms else ""
        return Subject(study.name, study.kind, arms, baseline, search=study, toml=toml, path=path, notes=notes)
    if isinstance(study, ShrinkRecord):
        arms, notes = _chosen_rung(path, study)
        baseline = arms[0].name if arms else ""
        return Subject(study.name, study.kind, arms, baseline, ladder=study, toml=toml, path=path, notes=notes)
    arms, notes = _cells(path, study)
    return Subject(study.name, study.kind, arms, study.baseline, comparison=study, toml=toml, path=path, notes=notes)


def _cells(path: Path, study: ComparisonRecord) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Arms of a comparison with their readable runs, and notes on missing ones."""
    notes: list[str] = []
    found: dict[str, list[Model]] = {arm: [] for arm in study.arms}
    for cell in study.cells_in("finished"):
        folder = StudyFolder(path, study).run(cell).path
        if not folder.exists():
            notes.append(f"The run of {cell.arm}, {cell.unit}, was not found, so its details are missing.")
            continue
        found.setdefault(cell.arm, []).append(read_model(folder, cell.arm, cell.unit))
    return tuple(Arm(name, tuple(models)) for name, models in found.items()), tuple(notes)


def _best_trial(path: Path, study: SearchRecord) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    best = study.stored_best
    if best is None:
        return (), ()
    name = f"best trial ({best.number})"
    folder = StudyFolder(path, study).run(best).path
    if not folder.exists():
        return (), (f"The run of trial {best.number} was not found, so its details are missing.",)
    return (Arm(name, (read_model(folder, name),)),), ()


def _chosen_rung(path: Path, study: ShrinkRecord) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The run of the chosen form (else of the nearest) of a ladder of sizes, if a student was trained for it."""
    form = study.form(study.chosen or study.nearest)
    cell = next((cell for cell in study.cells_in("finished") if form is not None and cell.arm == form.rung), None)
    if cell is None:
        return (), ()
    folder = StudyFolder(path, study).run(cell).path
    if not folder.exists():
        return (), (f"The run of {cell.arm} was not found, so its details are missing.",)
    return (Arm(cell.arm, (read_model(folder, cell.arm),)),), ()


def _check_one_data_set(subjects: list[Subject]) -> None:
    """Raise UserError unless all subjects share the same labelled rows; unlabelled texts may differ."""
    seen: dict[str, tuple[str, str]] = {}  # sha256 -> what, data name
    models = [model for subject in subjects for model in subject.models]
    splits = [_split_key(model) for model in models if not _has_joint_digest(model)]
    for subject in subjects:
        found = [(subject.name, *data_of(subject))] if not subject.models else []
        for model in subject.models:
            if not (_has_joint_digest(model) and _split_key(model) in splits):
                found.append((model.name, model.data_name, model.data_key))
        for what, name, sha256 in found:
            if sha256:
                seen.setdefault(sha256, (what, name))
    if len(seen) > 1:
        (_, (first, one)), (_, (second, other)) = list(seen.items())[:2]
        digests = " and ".join(digest[:8] for digest in list(seen)[:2])
        raise UserError(
            f"report: {first} uses {one!r} and {second} uses {other!r} (sha256 {digests}); "
            "a report covers one data set. Create a report for each."
        )


def _has_joint_digest(model: Model) -> bool:
    """Whether a run (of an earlier version) has only a joint digest of labelled and unlabelled texts."""
    return not model.record.labelled_data and "unlabeled" in model.record.identity.split


def _split_key(model: Model) -> tuple[object, ...]:
    """Name, classes and labelled split of a run's data; equal for runs on the same labelled rows."""
    parts = tuple(model.record.identity.split.get(name) for name in ("train", "validation", "test"))
    return (model.data_name, tuple(model.labels), *parts)
