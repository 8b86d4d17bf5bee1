"""The content of `metrics.json` and `history.json`: the scores of a run and its validations."""

from __future__ import annotations

from pydantic import Field

from randout.stats.abstention import CoveragePoint

from .record import Record


class Rates(Record):
    """Metrics that depend on the predicted classes only; fractions in [0, 1].

    Of multi-label data, accuracy is exact match, and there are metrics of their own: the mean F1 over rows, averages over
    all decisions (micro), and the share of decisions that are right.
    """

    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_f1: float
    sample_f1: float | None = None
    micro_f1: float | None = None
    micro_precision: float | None = None
    micro_recall: float | None = None
    label_accuracy: float | None = None

    def value(self, metric: str) -> float:
        """Return a metric by its name."""
        found: float = getattr(self, metric)
        return found


class ClassScores(Record):
    """Metrics of one class. support: its number of rows."""

    precision: float
    recall: float
    f1: float
    support: int


class Estimate(Record):
    """A difference with its 95 % interval."""

    estimate: float
    low: float
    high: float


class BaselineScores(Rates):
    """Scores of the bag-of-words baseline on the same rows.

    train_rows: number of rows that it was fitted to. sampled: whether some rows were left out. metric, difference: model
    minus baseline; None for a single group.
    """

    name: str
    train_rows: int
    sampled: bool
    metric: str = "accuracy"
    difference: Estimate | None = None


class Leaks(Record):
    """Scored rows seen before. rows: number that a model was trained on. of: all scored rows. roles: number by role."""

    rows: int
    of: int
    roles: dict[str, int] = Field(default_factory=dict)


class TestRows(Record):
    """Test rows of a run in a scored file. openings: how often they have been scored; None if that is not recorded."""

    rows: int
    of: int
    openings: int | None = None


class Gap(Record):
    """Student and teacher in one metric, and student minus teacher with its 95 % interval, if there is one.

    verdict: "better", "matches", "worse" or "undecided". If undecided, groups: of the rows; differing: rows on which exactly
    one of the two is right; needed: rows that would decide it with 80 % power, if the difference stays as it is.
    """

    student: float
    teacher: float
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    groups: int | None = None
    differing: int | None = None
    needed: int | None = None


class MetricGap(Gap):
    """The gap in the metric that selected the run."""

    metric: str


class TeacherGap(Record):
    """Student and teacher on the same held-out rows: in accuracy, and in the run's metric if that is another one.

    margin: a student that is worse by less matches its teacher. over_majority, over_baseline: in the run's metric, the
    teacher minus the majority class of the training rows, and minus the bag-of-words baseline. The others: as for `Gap`.
    """

    rows: int
    margin: float
    student_accuracy: float
    teacher_accuracy: float
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    groups: int | None = None
    differing: int | None = None
    needed: int | None = None
    primary: MetricGap | None = None
    over_majority: Estimate | None = None
    over_baseline: Estimate | None = None

    @property
    def by_metric(self) -> dict[str, Gap]:
        """The gap in each metric, the run's own first."""
        own = Gap(
            student=self.student_accuracy,
            teacher=self.teacher_accuracy,
            verdict=self.verdict,
            difference=self.difference,
            low=self.low,
            high=self.high,
            groups=self.groups,
            differing=self.differing,
            needed=self.needed,
        )
        return ({self.primary.metric: self.primary} if self.primary else {}) | {"accuracy": own}


class AbstentionScores(Record):
    """Scores of a classifier that abstains below a confidence.

    target: such as "accuracy=0.95". temperature: by which logits were divided. coverage: share of the rows that are accepted,
    with at least this confidence; accuracy: of these, with its 95 % interval, None without any; a label set is right
    as a whole. area: under the risk-coverage curve of these rows; curve: what other thresholds give on them.
    """

    target: str
    confidence: float
    temperature: float
    rows: int
    accepted: int
    coverage: float
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    area: float
    curve: list[CoveragePoint] = Field(default_factory=list)


class RunWarning(Record):
    """A warning. kind: a key of `stats.diagnostics.KINDS`. split: the rows that it concerns; empty for the whole run."""

    kind: str
    message: str
    split: str = ""


class Scores(Rates):
    """Scores on a split or a file, as `stats.metrics.score` returns them, and what is known of the rows.

    intervals: [low, high] at 95 %, by metric; no_interval: why a metric has none. unseen: rows by label that the model has no
    output for. without_copies, without_leaks: scores without rows that have a copy in train, or that an ancestor was
    trained on. before_refit: whether they are of the training before the refit.

    Of multi-label data: thresholds: by label; labels_per_row: mean number of true and of predicted labels. confusion_matrix
    is empty, and the majority baseline always predicts the most common label set, which is the majority label.

    Of a file only: without_text: rows that are not scored. seen: rows that the model or its ancestors have seen.
    warnings: what `randout evaluate` reports; those of a run are in `Metrics`. abstention: with `--abstain` only.
    """

    rows: int
    log_loss: float
    expected_calibration_error: float
    majority_baseline: float
    majority_label: str
    per_class: dict[str, ClassScores]
    confusion_matrix: list[list[int]]
    unseen: dict[str, int] = Field(default_factory=dict)
    groups: int | None = None
    thresholds: dict[str, float] = Field(default_factory=dict)
    labels_per_row: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, list[float]] = Field(default_factory=dict)
    no_interval: dict[str, str] = Field(default_factory=dict)
    without_copies: Scores | None = None
    leaks: Leaks | None = None
    without_leaks: Scores | None = None
    before_refit: bool = False
    teacher: TeacherGap | None = None
    baseline: BaselineScores | None = None
    without_text: int = 0
    seen: Leaks | None = None
    without_seen: Scores | None = None
    test_rows: TestRows | None = None
    abstention: AbstentionScores | None = None
    warnings: list[RunWarning] = Field(default_factory=list)

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return bool(self.thresholds)

    @property
    def main_metric(self) -> str:
        """The metric that a single number stands for: accuracy, or the mean F1 over rows of multi-label data."""
        return "sample_f1" if self.multi_label else "accuracy"

    @property
    def taught_rows(self) -> int:
        """Number of rows that the teacher, or a model that it learned from or started from, was trained on."""
        roles = self.leaks.roles if self.leaks else {}
        return max(roles.get("teacher-trained", 0), roles.get("teacher-earlier", 0))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, or None."""
        found = self.intervals.get(metric)
        return (found[0], found[1]) if found else None


class Metrics(Record):
    """The content of `metrics.json`. test: None until the test split was scored."""

    validation: Scores
    test: Scores | None = None
    warnings: list[RunWarning] = Field(default_factory=list)

    @property
    def splits(self) -> dict[str, Scores]:
        """The scored splits, validation first."""
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})

    @property
    def compared_split(self) -> str:
        """The split on which student and teacher are compared: test before validation, unless the teacher was trained on it.

        If it was trained on rows of every compared split, there is no verdict. Empty if they were not compared.
        """
        found = {name: scores for name, scores in reversed(self.splits.items()) if scores.teacher}
        unseen = [name for name, scores in found.items() if not scores.taught_rows]
        return next(iter([*unseen, *found]), "")


class Epoch(Record):
    """One validation: the epochs and optimizer steps before it, and the seconds since the last one.

    Other keys: the mean training losses, as `loss_ce`, and the validation metrics, as `validation_accuracy`.
    """

    epoch: int | None = None
    step: int = 0
    seconds: float = 0.0

    @property
    def measured(self) -> dict[str, float]:
        """The losses and metrics by key."""
        return self.model_extra or {}


class History(Record):
    """The content of `history.json`. ended: why the training ended. refit_seconds: of training again, if it was measured."""

    epochs: list[Epoch] = Field(default_factory=list)
    best_epoch: int | None = None
    ended: str = ""
    refit_seconds: float | None = None

    @property
    def fitted(self) -> bool:
        """Whether the model was fitted in one step, as a bag-of-words baseline, so that it has no epochs."""
        return self.ended == "fitted"

    @property
    def last_epoch(self) -> int:
        """The number of the last validated epoch; 0 without any."""
        return (self.epochs[-1].epoch or len(self.epochs)) if self.epochs else 0
