"""Executes a plan in a run folder: teacher, soft labels, student, evaluation, model folder."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.config import TrainTable, to_toml
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_publish, final_name, portable, replace_text
from randout.core.launch import check_single
from randout.core.terminal import Terminated
from randout.data.text_fields import write_fields
from randout.methods.registry import Origin
from randout.models.sources import Source
from randout.storage import run_folder
from randout.storage.metrics_record import Metrics, Scores
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import (
    FORMAT,
    DataReport,
    Identity,
    RunRecord,
    ShownAs,
    Size,
    Sizes,
    UsedTeacher,
    UsedTeachers,
)
from randout.storage.seen_rows import FILE as SEEN_ROWS
from randout.storage.seen_rows import read_seen, write_seen
from randout.trackers.finished_runs import report_finished

from . import cross_fit, leaks
from .abstention import record_abstention
from .defaults import training_texts
from .model_card import model_card
from .options import Result as Result
from .options import finished as finished
from .plan import Plan, TeacherOutputs, TrainedStudent
from .planning import refit_plan
from .run_warnings import diagnose
from .scoring import open_test, rows_sha256, score_split, score_test
from .student import Options, Paused, Stopped, check_methods, environment, student_of
from .student_selection import FOLDER as CHOICE
from .student_selection import chosen_plan, train_chosen
from .teacher import prepare_teacher
from .teacher_comparison import judged_teacher_gap, texts_per_second
from .teacher_test_logits import compare_on_test, teacher_of_plan
from .teacher_warnings import teacher_warnings
from .thresholds import Thresholds
from .together import check_divisible
from .tracking import tracked_run

REFIT = "refit"  # subfolder of a run folder that holds the checkpoint of the refit
EARLY_FILES = {"run.toml", "split.json", "run.json", SEEN_ROWS}  # may exist before `run.json` does


def execute(plan: Plan, options: Options) -> Result:
    """Train, evaluate and save the student of `plan`, or return its finished run.

    Raises Stopped, UserError, Failure; Busy if another process is working on the run or on its teacher, and LockLost if
    another one has taken the run over.
    """
    if options.processes is None:
        check_single("this command")
    else:
        check_divisible(plan, options.processes.size)
    run = _run_folder(plan, options)
    if run.finished:
        plan = chosen_plan(plan, run.record)
    if (
        run.finished and not run_folder.is_writable(run.path) and not _test_to_open(run, plan)
    ):  # another user's, or archived
        options.show.say(f"already trained: {run.path}")
        return Result(run, run.metrics, False)
    with run.lock("no" if options.shared else "observe"):
        if run.finished:
            _store_options(run, options)
            clean(run)  # a run that was killed after its last write still has its checkpoint
            options.show.say(f"already trained: {run.path}")
            found = run.metrics
            if _test_to_open(run, plan):
                teacher, device = teacher_of_plan(plan, options.runs), plan.config.train.device
                found = open_test(run, plan, options.show, device=device, teacher=teacher)
            report_finished(run, options.report_to, options.show)
            return Result(run, found, False)
        for note in plan.notes:
            options.show.say(note)
        _check_methods_early(plan, options)
        _begin_record(run, plan, options)
        _store_options(run, options)
        try:
            outputs = taught(plan, options)
            with tracked_run(plan, run, options) as within:
                metrics = _train(plan, run, outputs, within)
        except Paused:
            raise
        except (Stopped, Terminated) as stop:  # also while a teacher trains: the run to resume is this one
            raise Stopped(stop.why, run) from None
    return Result(run, metrics, True)


def _train(plan: Plan, run: RunFolder, outputs: TeacherOutputs | None, options: Options) -> Metrics:
    """Train and finish the student of a plan, or the chosen one of its two."""
    if plan.alternative is None:
        return _finish(plan, run, plan.student.train(plan, run, outputs, options), outputs, options)
    chosen, trained = train_chosen(plan, run, outputs, options)
    _record_choice(run, plan, chosen)
    return _finish(chosen, run, trained, outputs if chosen.has_teacher else None, options)


def _test_to_open(run: RunFolder, plan: Plan) -> bool:
    """Return whether test scores of a finished run are requested but not computed yet."""
    return plan.config.output.test and "test" in plan.dataset.split and run.metrics.test is None


def _check_methods_early(plan: Plan, options: Options) -> None:
    """Raise UserError for a method that does not support this student, before any teacher is fine-tuned."""
    trained = [teacher for teacher in plan.teachers if isinstance(teacher, Plan)]
    if any(not RunFolder(options.runs / teacher.name).finished for teacher in trained):
        check_methods(plan.methods, student_of(plan)[1])


def taught(plan: Plan, options: Options) -> TeacherOutputs | None:
    """Prepare the teacher only: fine-tune it if needed, then compute and store its soft labels. None without a teacher."""
    return prepare_teacher(plan, options, _fine_tune)


def _fine_tune(plan: Plan, options: Options) -> Path:
    report_to = options.report_to.labelled("")  # a label is that of its student in a study
    return execute(plan, replace(options, name="", request="", report_to=report_to)).folder


def _run_folder(plan: Plan, options: Options) -> RunFolder:
    """Return the run folder of `plan`. Raises UserError if the folder holds another run or other files."""
    path = options.out or options.runs / plan.name
    if options.fresh:
        path = run_folder.free_path(path)
    run = RunFolder(path)
    if run.exists:
        record = run.record
        if plan.fingerprint not in (record.fingerprint, record.asked):
            was = record.identity.as_json()
            parts = [name for name, value in plan.identity.items() if was.get(name) != value]
            what = (
                "a run on different data, or the data has changed since"
                if "data" in parts
                else f"another run ({', '.join(parts)} differ)"
            )
            if parts == ["plugins"]:
                what = f"a run of another version of a method: {_changed_origins(plan, record)}"
            raise UserError(
                f"{path}: this folder holds {what}. Use -o for another folder, or --fresh to train alongside it"
            )
    elif (
        path.exists() and (not path.is_dir() or _other_files(path)) and not run.exists
    ):  # begun by now by another process
        raise UserError(f"{path}: already exists and is not a run, so it is not overwritten. Use -o for another folder")
    return run


def _other_files(path: Path) -> set[str]:
    """Return the names of files that no run has before it has a record."""
    names = {final_name(file.name) for file in path.iterdir()}
    return {name for name in names if not name.startswith((".lock", ".lease"))} - EARLY_FILES


def _changed_origins(plan: Plan, record: RunRecord) -> str:
    """List the plugin methods whose version or origin differs from the one that the run started with."""
    found = []
    for name, origin in plan.origins.items():
        was = Origin(**record.plugins.get(name, {}))
        if was.identity != origin.identity:
            found.append(f"methods.{name} came from the {was}, and {origin.differs_from(was)}")
    return "; ".join(found)


def _write_config(
    run: RunFolder, plan: Plan, student: str, teacher: dict[str, Any], more: Sequence[str], train: TrainTable
) -> None:
    """Write `run.toml`.

    student, teacher, more: how the models are written. The student: `_student_name`, so that the file is a recipe that can
    be run again. teacher: its name, and settings to change. Teachers: by path while the run may have to be resumed, then by
    the name of their run. train: as requested while the run may have to be resumed, because a teacher that is fine-tuned
    first resolves "auto" by its own data; then resolved.
    """
    config, files = plan.config, ("source", "validation", "test", "unlabeled", "corrections")
    data = config.data.model_copy(update={key: portable(getattr(config.data, key), run.path) for key in files})
    named: dict[str, Any] = {"student": config.student.model_copy(update={"model": student})}
    named |= {"teacher": config.teacher.model_copy(update={**teacher, "more": tuple(more)})}
    replace_text(run.path / "run.toml", to_toml(config.model_copy(update={"data": data, "train": train, **named})))


def _student_name(plan: Plan, folder: Path) -> str:
    """Return how `run.toml` names the student: a local folder by its path from the run folder, any other by its name."""
    asked = plan.config.student.model
    return portable(asked, folder) if asked and plan.student.source is not None else plan.student.label


def _begin_record(run: RunFolder, plan: Plan, options: Options) -> None:
    if read_seen(run.path) is None:  # also for a run started by an earlier version
        write_seen(run.path, leaks.seen_by(plan))
    if run.exists:
        return
    folder = run.path
    student = _student_name(plan, folder)
    teacher, *more = (portable(name, folder) for name in (plan.config.teacher.model, *plan.config.teacher.more))
    _write_config(run, plan, student, {"model": teacher}, more, plan.asked or plan.config.train)
    rows = plan.dataset.row_ids
    split = {name: index for name, index in plan.dataset.split.items() if name != "views"}  # no rows of a file
    run.write("split.json", {name: [rows[i] for i in index] for name, index in split.items()})
    command = [re.sub(r"(^|[:=])/[^:=]*/", r"\1", word) for word in sys.argv]  # without directories of this machine
    same_tokens = {name: len(rows) for name, rows in plan.token_copies.items()}
    record = RunRecord(
        format=FORMAT,
        fingerprint=plan.fingerprint,
        identity=Identity.model_validate(plan.identity),
        command=command,
        environment=environment(plan),
        data=plan.dataset.sha256,
        started=run_folder.now(),
        finished=None,
        labelled_data=plan.dataset.labelled_sha256,
        rows={name: rows_sha256(plan, name) for name in leaks.HELD_OUT if name in plan.dataset.split},
        data_report=DataReport.model_validate(plan.dataset.report.counts() | {"same_tokens": same_tokens}),
        shown_as=_shown_as(plan),
        runs=os.path.relpath(options.runs, folder),  # the folder of teachers and soft labels
    )
    if plan.origins:
        record.plugins = {name: origin.recorded for name, origin in plan.origins.items()}
    if plan.left_out:
        record.left_out = list(plan.left_out)
    run.write("run.json", record.as_json())


def _record_choice(run: RunFolder, plan: Plan, chosen: Plan) -> None:
    """Replace the fingerprint and identity in a run's record by those of the chosen student.

    The key `asked` keeps the fingerprint of the plan that left the choice open.
    """
    stored = run.record.as_json()
    if not chosen.left_out:
        stored.pop("left_out", None)
    if chosen.dataset.views is None:
        for key in ("views", "views_left_out"):
            stored.get("data_report", {}).pop(key, None)
    write_seen(run.path, leaks.seen_by(chosen))
    record = RunRecord.model_validate(stored)
    record.fingerprint, record.identity = chosen.fingerprint, Identity.model_validate(chosen.identity)
    record.asked, record.data, record.shown_as = plan.fingerprint, chosen.dataset.sha256, _shown_as(chosen)
    run.write("run.json", record.as_json())


def _shown_as(plan: Plan) -> ShownAs:
    """Return the readable names for what the identity holds only as digests, for `run_names`."""
    data = plan.config.data
    found = ShownAs(data=plan.dataset.name, student=plan.student.label)
    if data.folds:
        found.fold = f"fold {data.fold} of {data.folds}"
    if data.train_folds:
        without = f"without fold {data.train_fold} of {data.train_folds} of the training rows"
        found.fold = f"{found.fold}, {without}" if found.fold else without
    return found


def _store_options(run: RunFolder, options: Options) -> None:
    """Store the requested name, which also renames a finished run, and the digest of the command."""
    record = run.record
    changed = False
    if options.name and options.name != record.name:
        record.name, changed = options.name, True
    if options.request and options.request != record.request:
        record.request, changed = options.request, True
    if changed:
        run.write("run.json", record.as_json())


def _finish(
    plan: Plan, run: RunFolder, trained: TrainedStudent, teacher: TeacherOutputs | None, options: Options
) -> Metrics:
    """Score the best weights in float32, as the saved model runs, then write the model, the metrics and the record.

    The model is saved before the teacher is scored on the test rows, which needs memory for both.
    """
    show = options.show
    metrics = Metrics(validation=score_split(trained.logits, plan, "validation", run, show))
    limits = tuple(metrics.validation.thresholds.values()) or None
    final = trained
    if plan.config.train.refit is True:
        metrics.validation.before_refit = True
        final = refitted(plan, run, teacher, options)
    taught_by = None
    if plan.config.output.test and "test" in plan.dataset.split:
        taught_by = teacher_of_plan(plan, options.runs) if teacher else None
        metrics.test = score_test(final.logits, plan, run, show, "train", taught_by, limits)
    history = trained.history
    if final is not trained:
        history = history | {"refit_seconds": sum(one["seconds"] for one in final.history["epochs"])}
    run.write("history.json", history)
    if teacher:
        _compare_with_teacher(plan, trained, teacher, metrics.validation, limits)
    metrics.warnings = teacher_warnings(plan, teacher)
    final.save(run.model, model_card(plan, metrics, teacher, run.record.choice), limits)
    write_fields(run.model, plan.dataset.fields)
    record_abstention(run)
    if seen := read_seen(run.path):
        write_seen(run.model, seen)
    if metrics.test is not None and taught_by is not None:
        compare_on_test(metrics.test, plan, run, taught_by, plan.config.train.device, show)
    diagnose(plan, run, metrics, trained.history)
    replace_text(run.model / "README.md", model_card(plan, metrics, teacher, run.record.choice))
    run.write("metrics.json", metrics.as_json())
    record = RunRecord.model_validate(run.record.as_json() | trained.about)
    if teacher is not None:
        record.teacher, record.sizes = _used_teachers(teacher), _sizes(plan, trained, teacher, show)
    record.finished = run_folder.now()
    run.write("run.json", record.as_json())
    first, more = (_teacher_name(teacher, run.path), _more_names(plan, teacher, run.path)) if teacher else ("none", [])
    named, train = {"model": _hub_name(plan) or first}, plan.config.train
    if plan.fold_teachers:
        settings, train = cross_fit.settings_to_repeat(plan)
        named = {"model": portable(plan.config.teacher.model, run.path), **settings}
    _write_config(run, plan, _student_name(plan, run.path), named, more, train)
    clean(run)
    return metrics


def _used_teachers(teacher: TeacherOutputs) -> UsedTeachers:
    """Return the teachers as `run.json` records them."""
    found = UsedTeachers.model_validate(_used_teacher(teacher))
    if teacher.others:
        found.more = [UsedTeacher.model_validate(_used_teacher(other)) for other in teacher.others]
    return found


def _used_teacher(teacher: TeacherOutputs) -> dict[str, Any]:
    found: dict[str, Any] = {"name": teacher.name, "validation_accuracy": teacher.validation.get("accuracy")}
    found |= {"soft_labels": teacher.imported.record} if teacher.imported else {}
    return found | ({"cross_fit": teacher.cross_fit} if teacher.cross_fit else {})


def _hub_name(plan: Plan) -> str:
    """Return the name of a first teacher that is a classifier from the hub; empty for any other."""
    return plan.teacher.name if isinstance(plan.teacher, Source) and plan.teacher.revision else ""


def _teacher_name(teacher: TeacherOutputs, folder: Path) -> str:
    """Return how `run.toml` names a teacher of a finished run: its name, or the path of a file of soft labels."""
    return portable(teacher.imported.name, folder) if teacher.imported else teacher.name


def _more_names(plan: Plan, teacher: TeacherOutputs, folder: Path) -> list[str]:
    """Return how `run.toml` names the further teachers of a finished run; a classifier from the hub with its commit."""
    names = (_teacher_name(one, folder) for one in teacher.others)
    return [
        pinned if isinstance(one, Source) and one.revision else name
        for one, pinned, name in zip(plan.more, plan.config.teacher.more, names, strict=True)
    ]


def refitted(plan: Plan, run: RunFolder, teacher: TeacherOutputs | None, options: Options) -> TrainedStudent:
    """Train the student again on training and validation rows, with its own checkpoint folder."""
    folder = RunFolder(run.path / REFIT)
    folder.path.mkdir(exist_ok=True)
    whole = refit_plan(plan)
    rows, _ = training_texts(whole.methods, whole.dataset)
    kept = (
        "" if plan.dataset.sets is None else "; the thresholds stay those of the model before, tuned on rows new to it"
    )
    options.show.say(f"refit on all {rows:,} rows, including the validation rows{kept}")
    return whole.student.train(whole, folder, teacher, replace(options, pause_at=None, tracked=None))


def _compare_with_teacher(
    plan: Plan, trained: TrainedStudent, teacher: TeacherOutputs, metrics: Scores, thresholds: Thresholds
) -> None:
    """Add the comparison with the teacher to the validation `metrics`. thresholds: of the student, for multi-label data."""
    held = plan.dataset.split["validation"]
    own = trained.logits(held, lambda done: None)
    limits = (thresholds, teacher.thresholds)
    if gap := judged_teacher_gap(plan, own, teacher.logits[held].numpy(), "validation", limits):
        metrics.teacher = gap


def _sizes(plan: Plan, trained: TrainedStudent, teacher: TeacherOutputs, show: Show) -> Sizes:
    """Return the sizes and speeds of student and teacher. A teacher that cannot be loaded again has no speed."""
    models: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "student": lambda rows: trained.logits(rows, lambda done: None)
    }
    if teacher.again is not None:
        try:
            models["teacher"] = teacher.again()
        except Exception as error:  # not enough memory, a deleted folder: must not cost a trained student
            show.say(f"teacher {teacher.name}: its speed was not measured ({type(error).__name__})")
    speeds = texts_per_second(models, plan.dataset.split["validation"])
    student: dict[str, float] = trained.size | {"texts_per_second": speeds["student"]}
    its = teacher.about | ({"texts_per_second": speeds["teacher"]} if "teacher" in speeds else {})
    return Sizes(student=Size.model_validate(student), teacher=Size.model_validate(its))


def clean(run: RunFolder) -> None:
    """Delete what only an unfinished run needs, and partial files of a killed process."""
    check_publish(run.path)
    for folder in (run.checkpoint, run.path / REFIT, run.path / CHOICE):
        shutil.rmtree(folder, ignore_errors=True)
    for partial in run.path.rglob("*.partial"):
        if partial.is_file() and not partial.name.startswith(
            "."
        ):  # those are of locks, which other processes may be taking
            partial.unlink(missing_ok=True)
