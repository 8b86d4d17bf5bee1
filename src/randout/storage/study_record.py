"""The content of `study.json`: of a comparison (kinds "compare" and "cv"), of a search, or of a ladder of sizes ("shrink")."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from .metrics_record import Estimate, Leaks, RunWarning
from .record import Record

FORMAT = 1


def _take_over(mine: Record, theirs: Record) -> None:
    """Set all fields of a record to those of another one of the same kind."""
    for name in type(theirs).model_fields:
        if name in theirs.model_fields_set:
            setattr(mine, name, getattr(theirs, name))


class StudyData(Record):
    """The data of a study. sha256: of all data that its first arm reads; labelled_sha256: without unlabelled texts.

    further: digest of what only other arms read, such as unlabelled texts, and of files of soft labels; "" if there is nothing.
    """

    name: str = ""
    sha256: str
    labelled_sha256: str = ""
    further: str = ""


class StudyRecord(Record):
    """What all studies record. plugins: origin of the methods that are not built in. threads: CPU threads of each run."""

    format: int = FORMAT
    started: str = ""
    finished: str | None = None
    kind: str
    name: str
    metric: str = "accuracy"
    data: StudyData
    plugins: dict[str, dict[str, str]] = Field(default_factory=dict)
    threads: int | None = None

    def merge(self, other: StudyRecord) -> None:
        """Take over what another process has recorded in the same study, where it is more advanced."""
        if other.finished and not self.finished:
            self.finished = other.finished


class Cell(Record):
    """One arm at one unit (seed or fold).

    run: its run folder, relative to the study. seconds: training time. memory: bytes that its process had at most.
    """

    unit: str
    arm: str
    run: str | None
    state: Literal["waiting", "finished", "failed"]
    error: str | None = None
    seconds: float = 0.0
    memory: int | None = None

    @property
    def advancement(self) -> tuple[int, float, bool]:
        """What the more advanced of two states of a cell is larger in."""
        return ("waiting", "failed", "finished").index(self.state), self.seconds, self.run is not None


def _merge_cells(mine: list[Cell], theirs: list[Cell]) -> None:
    known = {(cell.unit, cell.arm): cell for cell in theirs}
    for cell in mine:
        other = known.get((cell.unit, cell.arm))
        if other is not None and other.advancement > cell.advancement:
            _take_over(cell, other)


class TunedArm(Record):
    """The search of an arm: the number of trials, the chosen settings, and their validation value."""

    arm: str
    unit: str = ""
    trials: int
    settings: dict[str, Any] = Field(default_factory=dict)
    value: float | None = None


class ResultRow(Record):
    """One row of a result, as `stats.verdicts.MethodRow`. low, high: of the value; None if it has no interval."""

    name: str
    metric: str
    value: float
    values: list[float] = Field(default_factory=list)
    low: float | None = None
    high: float | None = None
    estimand: str = ""
    difference: Estimate | None = None
    simultaneous: list[float] | None = None
    adjusted_p: float | None = None
    words: str | None = None
    detectable: float | None = None
    secondary: dict[str, str] = Field(default_factory=dict)
    against: str | None = None


class StudyResult(Record):
    """The result of the complete units. head: how many they are. leaks: by arm, test rows that an ancestor was trained on."""

    head: str
    estimand: str
    rows: list[ResultRow]
    notes: list[str]
    leaks: dict[str, Leaks] = Field(default_factory=dict)


class ArmWarning(Record):
    """A warning about an arm, and the units that have it."""

    arm: str
    kind: str
    units: list[str]
    message: str


class CellsRecord(StudyRecord):
    """A study whose runs are known from the start: its cells."""

    cells: list[Cell] = Field(default_factory=list)

    def cells_in(self, state: str) -> list[Cell]:
        """Return the cells in a state."""
        return [cell for cell in self.cells if cell.state == state]

    @property
    def progress(self) -> tuple[int, int]:
        """How many runs are finished, and how many there are."""
        return len(self.cells_in("finished")), len(self.cells)

    @property
    def most_memory(self) -> int:
        """The most memory that the process of a finished cell had, in bytes; 0 if unknown."""
        return max((cell.memory or 0 for cell in self.cells), default=0)

    def merge(self, other: StudyRecord) -> None:
        super().merge(other)
        assert isinstance(other, CellsRecord)
        _merge_cells(self.cells, other.cells)


class ComparisonRecord(CellsRecord):
    """Arms compared over seeds or folds. tuning: by search. result: None until the first units are complete."""

    kind: Literal["compare", "cv"]
    tuning: dict[str, TunedArm] | None = None
    result: StudyResult | None = None
    margin: float = 0.02
    baseline: str = ""
    about: str = ""
    units: list[str] = Field(default_factory=list)
    arms: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    warnings: list[ArmWarning] = Field(default_factory=list)

    def merge(self, other: StudyRecord) -> None:
        super().merge(other)
        assert isinstance(other, ComparisonRecord)
        if other.tuning:
            self.tuning = {**other.tuning, **(self.tuning or {})}


class Rung(NamedTuple):
    """A validation of a trial: the share of a training, the optimizer step, and the value."""

    share: float
    step: int
    value: float


class Trial(Record):
    """One trial of a search.

    step: optimizer steps done, of `steps`. same_as: the earlier trial whose run it reuses. memory: as of a `Cell`.
    """

    number: int
    settings: dict[str, Any]
    state: Literal["waiting", "finished", "pruned", "failed"] = "waiting"
    value: float | None = None
    step: int = 0
    steps: int | None = None
    rungs: list[Rung] = Field(default_factory=list)
    run: str
    error: str | None = None
    seconds: float = 0.0
    same_as: int | None = None
    memory: int | None = None

    @property
    def advancement(self) -> tuple[bool, int, bool, float]:
        """What the more advanced of two states of a trial is larger in."""
        return self.state in ("finished", "pruned"), len(self.rungs), self.state == "failed", self.seconds


class Skipped(Record):
    """How many cells of the grid were tried, and the optimizer steps used. None: not known, because the space has ranges."""

    cells: int | None
    tried: int
    not_tried: int | None
    pruned: int
    failed: int
    steps: int
    steps_of_all_cells: int | None


class Optimism(Record):
    """How much the validation score of the best of several trials overstates it."""

    apparent: float
    optimism: float
    corrected: float
    trials: int


class TrialWarning(RunWarning):
    """A warning about the best trial."""

    trial: int


class SearchRecord(StudyRecord):
    """Trials over a space of settings. best: number of the best trial. grid: number of cells; None if the space has ranges."""

    kind: Literal["search"]
    space: dict[str, Any] = Field(default_factory=dict)
    trials: list[Trial] = Field(default_factory=list)
    best: int | None = None
    grid: int | None = None
    skipped: Skipped | None = None
    optimism: Optimism | None = None
    warnings: list[TrialWarning] = Field(default_factory=list)

    def merge(self, other: StudyRecord) -> None:
        super().merge(other)
        assert isinstance(other, SearchRecord)
        known = {trial.number: trial for trial in other.trials}
        for trial in self.trials:
            there = known.pop(trial.number, None)
            if there is not None and there.advancement > trial.advancement:
                _take_over(trial, there)
        if known:
            self.trials = sorted([*self.trials, *known.values()], key=lambda trial: trial.number)

    @property
    def stored_best(self) -> Trial | None:
        """The trial with the number `best`, if there is one yet."""
        return next((trial for trial in self.trials if trial.number == self.best), None)


class LadderRung(Record):
    """One size of a ladder.

    kind: "teacher", "encoder" or "words" (a bag-of-words baseline). student: the encoder's label, or the baseline's name.
    layers: blocks kept, of `depth`; None for a baseline.
    """

    name: str
    kind: Literal["teacher", "encoder", "words"]
    student: str
    layers: int | None = None
    depth: int | None = None


class Cost(Record):
    """What a form of a model costs on the machine of the study, one text at a time unless stated.

    latency, latency95: median and 95th percentile over texts, in seconds, with tokenization, of the least disturbed round.
    throughput: texts per second, all texts at once, of the fastest round. memory: bytes of loading and predicting, above
    what its libraries take; process: all of the process; None where the operating system does not tell. texts: number of
    timed texts. rounds: fresh processes.
    """

    latency: float
    latency95: float
    throughput: float
    memory: int | None = None
    process: int | None = None
    texts: int
    rounds: int


class MarginTest(Record):
    """A one-sided test of "not worse by the margin", as `stats.noninferiority.Margin`.

    accuracy, reference: of the model and of the teacher on the same rows, in `metric`: sample_f1 of label sets. needed: rows
    that would decide it if difference and disagreement stay as observed; needed_if_equal: if there is no difference; None: no
    number does.
    """

    metric: str = "accuracy"
    accuracy: float
    reference: float
    margin: float
    estimate: float
    low: float
    high: float
    standard_error: float
    disagreement: float
    rows: int
    groups: int
    equal_groups: float
    verdict: Literal["confirmed", "refuted", "undecided"]
    reason: str = ""
    needed: int | None = None
    needed_if_equal: int | None = None


FORM_NAMES = {"torch": "torch", "float32": "ONNX", "int8": "int8", "arrays": "arrays"}  # of `LadderForm.form`


class LadderForm(Record):
    """One form of a rung's model: what can be deployed.

    form: torch, float32, int8 or arrays. trimmed: whether its vocabulary was trimmed. folder: where it is, relative to the
    study. size: bytes on disk that prediction needs. cost: None until it was measured. validation: None until it was scored.
    """

    name: str
    rung: str
    form: Literal["torch", "float32", "int8", "arrays"]
    trimmed: bool = False
    folder: str
    parameters: int | None = None
    size: int
    cost: Cost | None = None
    validation: MarginTest | None = None

    def price(self, by: str) -> float:
        """Return what decides which form is cheapest, lower is cheaper; infinite if it was not measured.

        by: latency, size or throughput.
        """
        if by == "size":
            return float(self.size)
        if self.cost is None:
            return float("inf")
        return self.cost.latency if by == "latency" else -self.cost.throughput


class Machine(Record):
    """Where the costs were measured. load: mean number of running processes before, None if unknown."""

    system: str
    processor: str
    cores: int
    threads: int
    packages: dict[str, str] = Field(default_factory=dict)
    at: str
    load: float | None = None


class ShrinkRecord(CellsRecord):
    """A ladder of student sizes against one teacher.

    by: which cost decides: latency, size or throughput. rows: validation rows compared; seen_rows: validation rows that are
    left out because the teacher was trained on them or on copies of them. cells: the training of each rung and seed. chosen:
    name of the cheapest form that is not worse; nearest: of the form that comes closest, if there is none. test: of the form
    `tested`. identity: digest of the teacher and of all trainings. warnings: about the teacher and about rungs (their `arm`).
    """

    kind: Literal["shrink"]
    teacher: str = ""
    identity: str = ""
    margin: float = 0.01
    by: Literal["latency", "size", "throughput"] = "latency"
    rows: int = 0
    seen_rows: int = 0
    rungs: list[LadderRung] = Field(default_factory=list)
    forms: list[LadderForm] = Field(default_factory=list)
    machine: Machine | None = None
    chosen: str | None = None
    nearest: str | None = None
    tested: str | None = None
    test: MarginTest | None = None
    notes: list[str] = Field(default_factory=list)
    warnings: list[ArmWarning] = Field(default_factory=list)

    def rung(self, name: str) -> LadderRung:
        """Return the rung with a name."""
        return next(rung for rung in self.rungs if rung.name == name)

    def form(self, name: str | None) -> LadderForm | None:
        """Return the form with a name; None if there is none."""
        return next((form for form in self.forms if form.name == name), None)
