"""The content of `study.json`: of a comparison (kinds "compare" and "cv"), or of a search."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from .metrics_record import Estimate, Leaks, RunWarning
from .record import Record

FORMAT = 1


class StudyData(Record):
    """The data of a study. sha256: of all data read; labelled_sha256: without unlabelled texts."""

    name: str = ""
    sha256: str
    labelled_sha256: str = ""


class StudyRecord(Record):
    """What all studies record. plugins: origin of the methods that are not built in."""

    format: int = FORMAT
    started: str = ""
    finished: str | None = None
    kind: str
    name: str
    metric: str = "accuracy"
    data: StudyData
    plugins: dict[str, dict[str, str]] = Field(default_factory=dict)


class Cell(Record):
    """One arm at one unit (seed or fold). run: its run folder, relative to the study. seconds: training time."""

    unit: str
    arm: str
    run: str | None
    state: Literal["waiting", "finished", "failed"]
    error: str | None = None
    seconds: float = 0.0


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


class ComparisonRecord(StudyRecord):
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
    cells: list[Cell] = Field(default_factory=list)
    warnings: list[ArmWarning] = Field(default_factory=list)

    def cells_in(self, state: str) -> list[Cell]:
        """Return the cells in a state."""
        return [cell for cell in self.cells if cell.state == state]


class Rung(NamedTuple):
    """A validation of a trial: the share of a training, the optimizer step, and the value."""

    share: float
    step: int
    value: float


class Trial(Record):
    """One trial of a search. step: optimizer steps done, of `steps`. same_as: the earlier trial whose run it reuses."""

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

    @property
    def stored_best(self) -> Trial | None:
        """The trial with the number `best`, if there is one yet."""
        return next((trial for trial in self.trials if trial.number == self.best), None)
