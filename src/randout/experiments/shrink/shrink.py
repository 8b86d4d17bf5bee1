"""Runs a ladder of sizes in a study's folder: trainings, forms, costs, the choice on validation, and one look at the test split.

Each training is an ordinary run in the folder of runs, named by its content, so that a ladder that is resumed, or another one
with the same students, trains nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.config import Config
from randout.core.console import duration
from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.data.dataset import Dataset
from randout.experiments.run import leaks, pipeline, planning
from randout.experiments.run.imported_teacher import find_teacher
from randout.experiments.run.options import Options, Stopped
from randout.experiments.run.plan import Plan
from randout.experiments.run.scoring import rows_sha256, times_scored
from randout.experiments.run.thresholds import metric_of_targets
from randout.experiments.sharing import scheduling
from randout.experiments.sharing.cell_training import train_cell
from randout.experiments.sharing.cells import Outcome, check_threads, claimed, prepared
from randout.experiments.sharing.tracked_study import tracked_study
from randout.models.sources import Source
from randout.reporting.pictures import draw_picture, to_bytes
from randout.reporting.shrink import figure, points
from randout.stats.multiplicity import least_rows, too_few_for
from randout.storage.locks import Busy
from randout.storage.run_folder import RunFolder, now, record_opening_in
from randout.storage.seen_rows import ANY_TRAINED
from randout.storage.study_folder import StudyFolder, open_study, read_record, refuse_others
from randout.storage.study_record import FORM_NAMES, FORMAT, Cell, LadderForm, LadderRung, ShrinkRecord, StudyData

from . import timing
from .choice import cheapest, closest, judged
from .forms import FORMS, Model, Rows, copy_chosen, missing_packages, score, write_forms
from .ladder import WORDS, Shrink, ShrinkTable, check_layers, kept_blocks, rungs_of, student_labels, with_first
from .ladder_warnings import of_ladder

TEACHER, PICTURE = "teacher", "shrink.png"
MAY_CHANGE = ("open", "threads", "rounds", "margin", "cost")  # when a ladder is resumed


@dataclass(frozen=True)
class Ladder:
    """A ladder with every training planned. plans: by rung name, of the first seed. seen: (n,) bool, rows of the data that
    the teacher or a starting model was trained on.
    """

    made: Shrink
    dataset: Dataset
    rungs: list[LadderRung]
    plans: dict[str, Plan]
    teacher: Source | Plan
    seen: np.ndarray

    @property
    def identity(self) -> str:
        """Digest of the teacher and of the trainings of the first seed."""
        teacher = self.teacher.fingerprint if isinstance(self.teacher, Plan) else self.teacher.fingerprint()
        parts = [teacher, *(plan.fingerprint for plan in self.plans.values())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def teacher_label(self) -> str:
        return self.teacher.student.label if isinstance(self.teacher, Plan) else self.teacher.label

    @property
    def fold_teachers(self) -> tuple[Plan, ...]:
        """The teachers of the folds of the training rows, if they are cross-fitted: the same for all students."""
        return next((plan.fold_teachers for plan in self.plans.values() if plan.fold_teachers), ())

    def rows(self, split: str) -> Rows:
        """Return the rows of a split that neither the teacher nor a starting model was trained on."""
        rows = self.dataset.split[split]
        return Rows(self.dataset, rows[~self.seen[rows]], split)


def plan_ladder(made: Shrink, dataset: Dataset) -> Ladder:
    """Plan every training of a ladder. Raises UserError if one cannot run, and for a teacher that is not a model."""
    _check_teacher(made)
    asked = made.student_config(made.students[0])
    if asked.teacher.model == "auto" and planning.make(asked, dataset).left_out:
        raise UserError(
            "shrink compares with a teacher, and no larger encoder was found locally. Name one with --teacher NAME: a run, a "
            "classifier or an encoder"
        )
    base = planning.make(asked, dataset, made.required)
    made = with_first(made, base.config.student.model)
    name = base.config.teacher.model  # the automatic one depends on the student's size
    teacher = base.teacher or base.teacher_plan
    if teacher is None:
        raise UserError(
            "shrink: no method of this recipe learns from a teacher. Leave --preset out, which means kd, or name another "
            "--recipe; and name the teacher with --teacher NAME (a run, a classifier or an encoder)"
        )
    assert isinstance(teacher, Source | Plan)  # as checked
    rungs, plans = [_words_rung()], {WORDS: planning.make(made.words_config(), dataset)}
    sources = [_source_of(made, student, name, dataset) for student in made.students]
    found = [_depth(student, source) for student, source in zip(made.students, sources, strict=True)]
    check_layers(made.table.layers, max(found))
    for student, depth, label in zip(made.students, found, student_labels(sources), strict=True):
        for rung in rungs_of(label, depth, made.table.layers, len(made.students) > 1):
            blocks = kept_blocks(int(rung.layers or depth), depth)
            plans[rung.name] = planning.make(made.student_config(student, blocks, 0, name), dataset, made.required)
            rungs.append(rung)
    seen = np.zeros(len(dataset.texts), bool)
    for plan in plans.values():
        seen |= leaks.seen_by(plan).roles_of(dataset.hashes) & ANY_TRAINED > 0
    ladder = Ladder(made, dataset, sorted(rungs, key=_size), plans, teacher, seen)
    held, left = len(dataset.split["validation"]), ladder.rows("validation")
    if len(np.unique(left.groups)) < 2:
        raise UserError(
            f"--teacher {name}: it or a starting model was trained on {held - len(left.rows):,} of the "
            f"{plural(held, 'validation row')}, so they cannot show whether a student is as good. Train the teacher on this "
            "split with --set refit=false, or name its pretrained encoder, which is then fine-tuned on this split"
        )
    return ladder


def _check_teacher(made: Shrink) -> None:
    """Raise UserError for a teacher that cannot be measured and exported."""
    name = made.config.teacher.model
    if name == "auto":
        return
    found = find_teacher(name, made.config.teacher.revision, made.config.methods)
    if not isinstance(found, Source):
        raise UserError(
            f"--teacher {name}: a file of soft labels cannot be run, so there is nothing to measure. Name a run, a classifier "
            "or an encoder"
        )
    if found.is_decoder:
        raise UserError(
            f"--teacher {name}: this is a decoder ({found.config['model_type']}). shrink measures and exports its teacher, "
            "which needs an encoder. Name an encoder, or train one from this teacher with randout train --teacher, and name "
            "that run here"
        )


def _source_of(made: Shrink, student: str, teacher: str, dataset: Dataset) -> Source:
    """Return the encoder that a student's name means."""
    found = planning.make(made.student_config(student, teacher=teacher), dataset, made.required).student.source
    assert found is not None
    return found


def _depth(student: str, source: Source) -> int:
    if source.depth is None:
        raise UserError(f"--student {student}: its config.json has no number of layers")
    return source.depth


def _words_rung() -> LadderRung:
    return LadderRung(name="bag of words", kind="words", student=WORDS)


def _size(rung: LadderRung) -> tuple[int, int]:
    return (0, 0) if rung.kind == "words" else (1, rung.layers or 0)


def planned(made: Shrink, dataset: Dataset) -> list[str]:
    """Check a ladder and return its plan: one line for each rung, and what is compared. Raises UserError."""
    ladder = plan_ladder(made, dataset)
    table, held = ladder.made.table, ladder.rows("validation")
    lines = [f"teacher, fine-tuned first: {_unfingerprinted(plan)}" for plan in _teachers(ladder)]
    lines += [f"{rung.name}: {_unfingerprinted(ladder.plans[_key(rung)])}" for rung in ladder.rungs]
    forms = ", ".join(FORM_NAMES[form] for form in _wanted(table))
    trims = ", each also with a trimmed vocabulary" if table.trim else ""
    lines.append(f"each as {forms}{trims}; teacher {ladder.teacher_label}")
    lines.append(
        f"chosen by {table.cost} among those that are not worse by {points(table.margin)} on {len(held.rows):,} "
        "validation rows"
    )
    return lines + [f"warning: {warning}" for warning in _warnings(ladder)]


def _teachers(ladder: Ladder) -> list[Plan]:
    """Return the trainings of the teacher, and of its folds if it is cross-fitted; none if it is trained already."""
    return [*([ladder.teacher] if isinstance(ladder.teacher, Plan) else []), *ladder.fold_teachers]


def _unfingerprinted(plan: Plan) -> str:
    """Return the name of a plan's run without the fingerprint, which may depend on a teacher that is not trained yet."""
    return plan.name.removesuffix(f"-{plan.fingerprint[:8]}")


def _wanted(table: ShrinkTable) -> list[str]:
    """Return the forms to write: those requested, of which only torch needs no further packages."""
    asked = [form for form in ("torch", *FORMS) if not table.forms or form in table.forms]
    return ["torch"] if missing_packages() else asked


def _key(rung: LadderRung) -> str:
    return WORDS if rung.kind == "words" else rung.name


def _warnings(ladder: Ladder) -> list[str]:
    """Return warnings about what the ladder cannot show."""
    found, margin, held = [], ladder.made.table.margin, ladder.rows("validation")
    rows = len(held.rows)
    if too_few_for(rows, margin):
        found.append(
            f"only a form that is better than the teacher can be chosen: {rows:,} validation rows cannot show that one is not "
            f"worse by {points(margin)}; at least {least_rows(margin):,} are needed. Use a larger --margin, more validation "
            "rows, or --open nearest"
        )
    if left := len(ladder.dataset.split["validation"]) - len(held.rows):
        found.append(
            f"{plural(left, 'validation row')} {verb(left, 'is', 'are')} left out: the teacher or a starting model was trained "
            f"on {verb(left, 'it or a copy of it', 'them or on copies of them')}"
        )
    if "test" not in ladder.dataset.split:
        found.append("the data has no test split, so the choice cannot be confirmed")
    if (missing := missing_packages()) and ladder.made.table.forms != ("torch",):
        found.append(
            f"only torch forms: not installed: {', '.join(missing)}. Install with: pip install 'randout[export]'"
        )
    return found


def run_shrink(
    made: Shrink, path: Path, options: Options, dataset: Dataset, again: bool = False
) -> StudyFolder[ShrinkRecord]:
    """Run the ladder in the folder `path`, resume it, or join other processes that work on it.

    again: measure all costs again. A worker of another process (`options.worker`) only trains. Raises Stopped, UserError,
    Failure.
    """
    options = prepared(options)
    ladder, folder = open_shrink(made, path, options, dataset)
    for warning in _warnings(ladder) if options.worker is None else ():
        options.show.warn(warning)
    with tracked_study(folder, options, made.table.model_dump(mode="json")) as options:
        rungs = Rungs(ladder, folder, options)
        scheduling.work(rungs, options, made.required)
        if options.worker is None:
            with folder.alone():  # costs are measured on a machine that does nothing else
                folder.record = _read(folder)
                if not folder.record.finished:
                    _compare(ladder, folder, rungs, again, options)
    return folder


def open_shrink(
    made: Shrink, path: Path, options: Options, dataset: Dataset
) -> tuple[Ladder, StudyFolder[ShrinkRecord]]:
    """Plan a ladder, and open or create its folder. Raises UserError."""
    refuse_others(path)
    asked = {**made.table.model_dump(mode="json"), "recipe": made.config.model_dump(mode="json")}
    ladder = plan_ladder(made, dataset)
    fresh = ShrinkRecord(
        format=FORMAT,
        started=now(),
        finished=None,
        kind="shrink",
        name=path.name,
        data=StudyData(name=dataset.name, sha256=dataset.sha256, labelled_sha256=dataset.labelled_sha256),
        identity=ladder.identity,
    )

    def begin(folder: StudyFolder[ShrinkRecord]) -> None:
        _begin(ladder, folder)
        left = any(cell.state != "finished" for cell in folder.record.cells)
        check_threads(folder, options, left)

    return ladder, open_study(path, asked, fresh, MAY_CHANGE, _completed, begin)


def _read(folder: StudyFolder[ShrinkRecord]) -> ShrinkRecord:
    """Return the record as other processes have left it."""
    found = read_record(folder.path).record
    assert isinstance(found, ShrinkRecord)
    return found


def _compare(ladder: Ladder, folder: StudyFolder[ShrinkRecord], rungs: Rungs, again: bool, options: Options) -> None:
    """Write and measure the forms of all models, choose one, and look at the test split."""
    _write_forms(ladder, folder, rungs.models(), options)
    _measure(ladder, folder, again, options)
    _choose(ladder, folder)
    folder.record.warnings = of_ladder(folder, ladder.rows("validation"), _better_teacher(ladder))
    folder.save()
    _test(ladder, folder, options)
    shown = figure(folder.record)
    if shown is not None:
        (folder.path / PICTURE).write_bytes(to_bytes(draw_picture(shown), "png"))
    folder.record.finished = now()
    folder.save()


def _better_teacher(ladder: Ladder) -> str:
    """Return how to get a better teacher."""
    if not isinstance(ladder.teacher, Plan):
        return "Train a better teacher, and name its run with --teacher."
    if ladder.made.config.teacher.epochs == "same":
        return (
            "Train a better teacher: it was fine-tuned first, and --set epochs applies to it too. --set teacher.epochs=auto, or "
            "a number, sets its own."
        )
    return "Train a better teacher: it was fine-tuned first, with teacher.epochs and the other settings of the teacher."


def _completed(was: dict[str, Any]) -> dict[str, Any]:
    table = {name: value for name, value in was.items() if name != "recipe"}
    recipe = Config.model_validate(was["recipe"]).model_dump(mode="json")
    return {**ShrinkTable.model_validate(table).model_dump(mode="json"), "recipe": recipe}


def _begin(ladder: Ladder, folder: StudyFolder[ShrinkRecord]) -> None:
    """Bring the record in line with the request. Raises UserError if the teacher or the test's question has changed."""
    record, table = folder.record, ladder.made.table
    if record.identity != ladder.identity:
        raise UserError(
            f"{folder.path}: the teacher, a student or a default changed since this study was started. Name another folder "
            "with -o"
        )
    if record.test is not None and (record.margin, record.by) != (table.margin, table.cost):
        raise UserError(
            f"{folder.path}: the test split was scored for a margin of {points(record.margin)} and the cost "
            f"{record.by}. A choice by others would need new test rows; name another folder with -o to look at validation "
            "only, with --open none"
        )
    record.teacher, record.margin, record.by = ladder.teacher_label, table.margin, table.cost
    if (metric := metric_of_targets(ladder.dataset, "accuracy", "shrink")) != record.metric:
        record.metric = metric
    record.rows = len(ladder.rows("validation").rows)
    record.seen_rows = len(ladder.dataset.split["validation"]) - record.rows
    record.rungs = [_teacher_rung(ladder), *ladder.rungs]
    known = {(cell.unit, cell.arm): cell for cell in record.cells if cell.run and folder.run(cell).finished}
    record.cells = [
        known.get((_unit(seed), rung.name)) or Cell(unit=_unit(seed), arm=rung.name, run=None, state="waiting")
        for seed in range(table.seeds)
        for rung in ladder.rungs
    ]
    record.forms, record.notes, record.finished = list(record.forms), [], None


def _teacher_rung(ladder: Ladder) -> LadderRung:
    source = ladder.teacher.student.source if isinstance(ladder.teacher, Plan) else ladder.teacher
    depth = source.depth if source is not None else None
    if isinstance(ladder.teacher, Plan) and ladder.teacher.config.student.layers:
        depth = len(ladder.teacher.config.student.layers)
    return LadderRung(name=TEACHER, kind="teacher", student=ladder.teacher_label, layers=depth, depth=depth)


def _unit(seed: int) -> str:
    return f"seed {seed + 1}"


class Rungs:
    """The trainings of a ladder as processes share them (`sharing.cells.Cells`), named `RUNG, SEED`."""

    noun = "run"

    def __init__(self, ladder: Ladder, folder: StudyFolder[ShrinkRecord], options: Options) -> None:
        self.ladder, self.folder, self.options = ladder, folder, options
        self._within = replace(options, out=None, fresh=False, name="", request="", show=options.show.within())
        self._teacher: Path | None = ladder.teacher.folder if isinstance(ladder.teacher, Source) else None

    @property
    def path(self) -> Path:
        return self.folder.path

    def open(self, tried: Collection[str]) -> list[str]:
        """Return the trainings that are not finished."""
        self.folder.refresh()
        cells = self.folder.record.cells
        return [name for cell in cells if (name := _name(cell)) not in tried and cell.state != "finished"]

    def run(self, name: str) -> Outcome:
        """Train the teacher if it is not trained yet, then a student."""
        cell = next(one for one in self.folder.record.cells if _name(one) == name)
        if busy := claimed(self.folder, cell):
            return Outcome("busy", busy)
        try:
            place = self.teacher()
            rung = self.folder.record.rung(cell.arm)
            plan = _plan_of(self.ladder, rung, int(cell.unit.removeprefix("seed ")) - 1, place)
            _check_time(self.folder, rung, RunFolder(self.options.runs / plan.name), self.options)
            done, total = self.progress()
            return train_cell(self.folder, cell, plan, self.options, name, f"(run {done + 1} of {total})")
        except Busy as busy:
            return Outcome("busy", busy)

    def label(self, name: str) -> str:
        return name

    def progress(self) -> tuple[int, int]:
        return self.folder.record.progress

    def memory(self) -> int:
        return self.folder.record.most_memory

    def teacher(self) -> Path:
        """Return the teacher's folder; it is fine-tuned first if it is not trained yet, and so are those of its folds."""
        if self._teacher is None:
            assert isinstance(self.ladder.teacher, Plan)
            self.options.show.say(f"teacher: {self.ladder.teacher.student.label} is fine-tuned first")
            place = pipeline.execute(self.ladder.teacher, self._within).folder
            for teacher in self.ladder.fold_teachers:
                pipeline.execute(teacher, self._within)
            self._teacher = place
        return self._teacher

    def models(self) -> list[Model]:
        """Return the teacher and the models of all rungs whose trainings are finished, by rung and seed."""
        record = self.folder.record
        found = [Model(record.rung(TEACHER), self.teacher(), self.ladder.made.config.teacher.labels)]
        failed = {cell.arm for cell in record.cells if cell.state != "finished"}
        for cell in record.cells:
            if cell.arm not in failed:
                seed = int(cell.unit.removeprefix("seed ")) - 1
                found.append(Model(record.rung(cell.arm), self.folder.run(cell).path, seed=seed))
        return found


def _name(cell: Cell) -> str:
    return f"{cell.arm}, {cell.unit}"


def _plan_of(ladder: Ladder, rung: LadderRung, seed: int, teacher: Path) -> Plan:
    """Return the plan of a training; a teacher that was fine-tuned for the ladder is named by its run.

    A cross-fitted teacher stays the encoder that is fine-tuned for each fold; that ladder has one seed.
    """
    planned_already, made = ladder.plans[_key(rung)], ladder.made
    if rung.kind == "words" or ladder.fold_teachers or (seed == 0 and isinstance(ladder.teacher, Source)):
        return planned_already
    student = planned_already.config.student
    name = str(teacher) if isinstance(ladder.teacher, Plan) else planned_already.config.teacher.model
    config = made.student_config(student.model, student.layers, seed, name)
    return planning.make(config, ladder.dataset, made.required)


def _check_time(folder: StudyFolder[ShrinkRecord], rung: LadderRung, run: RunFolder, options: Options) -> None:
    """Raise Stopped, with what is missing, if a rung would not end before the time limit, by the measured ones."""
    if options.deadline is None:
        return
    needed = expected_seconds(folder.record, rung)
    left = options.deadline - time.monotonic()
    if left > 0 and needed <= left:
        return
    missing = [f"{cell.arm}, {cell.unit}" for cell in folder.record.cells if cell.state != "finished"]
    takes = (
        f" ({rung.name} would take about {duration(needed)}, and {duration(max(left, 0.0))} are left)" if needed else ""
    )
    options.show.say(f"the time limit does not allow these trainings{takes}: {'; '.join(missing)}")
    raise Stopped("the time limit", run)


def expected_seconds(record: ShrinkRecord, rung: LadderRung) -> float:
    """Return how long a rung's training takes, from the slowest finished one per layer; 0 if none was measured."""
    rates = [
        cell.seconds / layers
        for cell in record.cells
        if cell.state == "finished" and (layers := record.rung(cell.arm).layers)
    ]
    return max(rates, default=0.0) * (rung.layers or 0)


def _write_forms(ladder: Ladder, folder: StudyFolder[ShrinkRecord], models: Sequence[Model], options: Options) -> None:
    """Write and score the forms of all models, and compare each with the teacher."""
    record, table, held = folder.record, ladder.made.table, ladder.rows("validation")
    notes: list[str] = []
    known = {form.name: form for form in record.forms}
    found: dict[str, LadderForm] = {}
    for model in models:
        trim = table.trim and model.rung.kind == "encoder"
        for form in write_forms(model, folder.path, held, trim, _wanted(table), options.show, notes):
            if not model.seed:
                before = known.get(form.name)
                found[form.name] = form if before is None or before.cost is None else _measured(form, before)
        record.forms = list(found.values())
        folder.save()
    record.notes = [*record.notes, *dict.fromkeys(notes)]
    reference = f"{TEACHER}, torch"
    for form in record.forms:
        if form.name != reference:
            seeds = 1 if form.rung == TEACHER else table.seeds
            form.validation = judged(folder.path, form, reference, held, table.margin, seeds)
    folder.save()


def _measured(form: LadderForm, before: LadderForm) -> LadderForm:
    form.cost = before.cost
    return form


def _measure(ladder: Ladder, folder: StudyFolder[ShrinkRecord], again: bool, options: Options) -> None:
    """Measure all forms in one pass, unless all of them have been measured."""
    record, table = folder.record, ladder.made.table
    if not again and all(form.cost for form in record.forms):
        if table.rounds and (note := timing.measured_otherwise(record, table.threads, table.rounds)):
            record.notes = [*record.notes, note]
        return
    if table.rounds == 0:
        return
    if options.deadline and time.monotonic() > options.deadline:
        options.show.say("the time limit is reached: all sizes are trained, but the costs are not measured yet")
        raise Stopped("the time limit", folder.run(record.cells[-1]))
    machine = timing.machine(table.threads)
    held = ladder.rows("validation")
    costs = timing.measure(record.forms, folder.path, held.texts, table.threads, table.rounds, options.show)
    for form in record.forms:
        form.cost = costs[form.name]
    record.machine = machine
    folder.save()


def _choose(ladder: Ladder, folder: StudyFolder[ShrinkRecord]) -> None:
    """Choose the cheapest form that is not worse; once the test split was scored, the choice stays."""
    record = folder.record
    if record.machine is not None and (note := timing.disturbed(record.machine)):
        record.notes = [*record.notes, note]
    best = cheapest(record.forms, record.by)
    if record.test is not None:
        if best is not None and best.name != record.tested:
            note = f"by the present costs, {best.name} would be chosen; the test split was scored for {record.tested}"
            record.notes = [*record.notes, note]
        return
    near = closest(record.forms, record.by, TEACHER)
    record.chosen = None if best is None else best.name
    record.nearest = None if best is not None or near is None else near.name
    folder.save()


def _test(ladder: Ladder, folder: StudyFolder[ShrinkRecord], options: Options) -> None:
    """Score the chosen form and the teacher on the test split, once, and copy the form to `chosen`."""
    record, table = folder.record, ladder.made.table
    wanted = record.chosen or (record.nearest if table.open == "nearest" else None)
    form = record.form(wanted)
    if form is None:
        return
    copy_chosen(form, folder.path)
    if record.test is not None or table.open == "none" or "test" not in ladder.dataset.split:
        return
    held = ladder.rows("test")
    if len(np.unique(held.groups)) < 2:
        record.notes = [*record.notes, "the teacher was trained on the test rows, so there is no verdict on them"]
        return
    cell = next((cell for cell in record.cells if cell.arm == form.rung), None)  # none of the teacher's own forms
    name, fingerprint = record.teacher, record.identity
    if cell is not None:
        name, fingerprint = folder.run(cell).path.name, folder.run(cell).record.fingerprint
    rows = rows_sha256(next(iter(ladder.plans.values())), "test")
    some = None if len(held.rows) == len(ladder.dataset.split["test"]) else len(held.rows)
    times = record_opening_in(
        options.runs, name, fingerprint, rows, "test", "shrink", some, record.teacher, since=record.started
    )
    options.show.say(f"scoring the test split for {form.name} ({times_scored(times)})")
    reference = record.form(f"{TEACHER}, torch")
    assert reference is not None
    score(form, ladder.made.config.teacher.labels if form.rung == TEACHER else (), folder.path, held, options.show)
    score(reference, ladder.made.config.teacher.labels, folder.path, held, options.show)
    record.tested, record.test = form.name, judged(folder.path, form, reference.name, held, record.margin)
    folder.save()
