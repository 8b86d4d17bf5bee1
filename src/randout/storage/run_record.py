"""The content of `run.json`, and of a line of the log of test openings."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from .record import Record

FORMAT = 1


class DataIdentity(Record):
    """The labelled data. columns: the text and the label column. labels: the classes in the order of the logits.

    multi_label: whether a text may have several of them.
    """

    sha256: str
    columns: dict[str, Any] = Field(default_factory=dict)
    labels: list[str]
    multi_label: bool = False


class StudentIdentity(Record):
    """The student. weights: digest of the pretrained model; or classifier: name of a baseline. layers: the kept ones of an
    encoder, or the number of a neural baseline. Other keys: its settings.
    """

    weights: str = ""
    classifier: str = ""
    layers: list[int] | int | None = None


class TrainIdentity(Record):
    """The training settings. Settings with the behaviour of earlier versions are left out."""

    seed: int
    metric: str = "accuracy"
    keep: str = "best"
    refit: bool = False


class GivenTeacher(Record):
    """A teacher that existed before the run. model: digest of its files. Other keys: how it reads texts."""

    model: str


class Identity(Record):
    """What the fingerprint is made of: everything that decides the result.

    split: digest of the row numbers of each split. teacher, more: the fingerprint of a teacher's run, or an existing
    classifier. cross_fit: fingerprints of the runs of its fold teachers. views: the augmented views. methods: settings by
    method. plugins: origin of the methods that are not built in.
    """

    data: DataIdentity
    split: dict[str, str]
    student: StudentIdentity
    teacher: str | GivenTeacher | None
    more: list[str | GivenTeacher] = Field(default_factory=list)
    cross_fit: list[str] = Field(default_factory=list)
    views: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]]
    plugins: dict[str, dict[str, str]] = Field(default_factory=dict)
    train: TrainIdentity

    @property
    def teachers(self) -> list[str | GivenTeacher]:
        """All teachers; empty without distillation."""
        return [self.teacher, *self.more] if self.teacher else []

    @property
    def teacher_ids(self) -> list[str]:
        """Identifier of each teacher: the fingerprint of the run that trains it, or of an existing classifier."""
        return [one.model if isinstance(one, GivenTeacher) else one for one in self.teachers]


class DataReport(Record):
    """Row counts of the dataset, as `data.summary.DataReport`. leaked, same_tokens: rows by split with a copy in train.

    views: augmented views of training texts by kind; views_left_out: by reason. corrected: labels that corrections changed.
    """

    sizes: dict[str, int] = Field(default_factory=dict)
    class_counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    duplicate_groups: int | None = None
    duplicate_rows: int | None = None
    conflicting_groups: int | None = None
    leaked: dict[str, int] = Field(default_factory=dict)
    shared_groups: dict[str, int] = Field(default_factory=dict)
    unlabeled_left_out: dict[str, int] = Field(default_factory=dict)
    views: dict[str, int] = Field(default_factory=dict)
    views_left_out: dict[str, int] = Field(default_factory=dict)
    corrected: int = 0
    notes: list[str] = Field(default_factory=list)
    same_tokens: dict[str, int] = Field(default_factory=dict)


class ShownAs(Record):
    """Readable names for what the identity holds only as digests."""

    data: str = ""
    student: str = ""
    fold: str = ""


class Candidate(Record):
    """One of the two students of a choice."""

    name: str
    score: float = 0.0


class StudentChoice(Record):
    """The choice between an encoder and a bag-of-words baseline. chosen: "encoder" or "bag-of-words".

    why: the reason if only the encoder could be trained; the other values are then absent. by: "validation" or
    "cross-validation". difference: words minus encoder, with a 90 % interval if there is one.
    """

    chosen: str
    why: str = ""
    by: str = ""
    rows: int = 0
    metric: str = "accuracy"
    margin: float = 0.0
    encoder: Candidate
    words: Candidate = Field(validation_alias="bag-of-words", serialization_alias="bag-of-words")
    difference: float = 0.0
    low90: float | None = None
    high90: float | None = None


class ImportedLabels(Record):
    """Soft labels that were read from a file.

    form: how the file gives them. joined_by: "text", or the id column. rows: rows of the data with a soft label, of: all
    rows, both by split. test_rows: rows of the file that belong to test rows, which are not used. unmatched: rows of the
    file that belong to no row of the data. lost: mean share of probability on other answers than the classes. temperature:
    what the logits were divided by; fitted: whether on validation rows; given: whether by the user. The others are of
    the scored validation rows: their number, how many are wrong, and log loss and calibration error before and after.
    decisions: of label sets, the rows times labels that `wrong` counts.
    """

    file: str
    sha256: str
    form: str
    joined_by: str
    rows: dict[str, int]
    of: dict[str, int]
    test_rows: int
    unmatched: int
    lost: float
    temperature: float
    fitted: bool
    given: bool
    scored: int
    wrong: int
    decisions: int | None = None
    log_loss: list[float] = Field(default_factory=list)
    calibration_error: list[float] = Field(default_factory=list)


class SoftLabelScores(Record):
    """Soft labels of training rows against their gold labels. log_loss: in nats."""

    accuracy: float
    log_loss: float
    expected_calibration_error: float


class CrossFit(Record):
    """Soft labels by teachers that were trained without the rows that they label.

    folds: number of them. rows: training rows with such a soft label; without: those without one, in classes too rare for
    the folds. out_of_fold: scores of these soft labels; in_sample: of those that the teacher trained on all rows gives the
    same rows. teachers: names of the runs, in the order of the folds.
    """

    folds: int
    rows: int
    without: int = 0
    out_of_fold: SoftLabelScores
    in_sample: SoftLabelScores
    teachers: list[str] = Field(default_factory=list)


class UsedTeacher(Record):
    """A teacher of a finished run. soft_labels: if it is a file of them. cross_fit: if its soft labels are cross-fitted."""

    name: str
    validation_accuracy: float | None = None
    soft_labels: ImportedLabels | None = None
    cross_fit: CrossFit | None = None


class UsedTeachers(UsedTeacher):
    """The first teacher of a finished run, and the others."""

    more: list[UsedTeacher] = Field(default_factory=list)


class Size(Record):
    """Size and speed of a model, as far as they are known."""

    parameters: int | None = None
    texts_per_second: float | None = None


class Sizes(Record):
    """Size and speed of student and teacher, on the machine that trained the student."""

    student: Size = Size()
    teacher: Size = Size()


class RunRecord(Record):
    """The content of `run.json`.

    data: SHA-256 of all data read; labelled_data: without unlabelled texts. rows: digest of the rows of each held-out split.
    runs: the folder of teachers and soft labels. left_out: methods left out because no teacher was found. request: digest
    of the command. asked: fingerprint of the plan that left the choice of the student open. teacher, sizes, encoder and
    classifier are known when the run is finished.
    """

    format: int
    fingerprint: str
    identity: Identity
    command: list[str] = Field(default_factory=list)
    environment: dict[str, Any] = Field(default_factory=dict)
    data: str
    started: str
    finished: str | None = None
    labelled_data: str = ""
    plugins: dict[str, dict[str, str]] = Field(default_factory=dict)
    rows: dict[str, str] = Field(default_factory=dict)
    data_report: DataReport | None = None
    shown_as: ShownAs = ShownAs()
    runs: str = ".."
    left_out: list[str] = Field(default_factory=list)
    name: str = ""
    request: str = ""
    choice: StudentChoice | None = None
    asked: str = ""
    encoder: dict[str, Any] | None = None
    classifier: dict[str, Any] | None = None
    teacher: UsedTeachers | None = None
    sizes: Sizes = Sizes()

    @property
    def fitted_rows(self) -> int:
        """Number of labelled rows that the saved model was trained on; 0 if a run of an earlier version did not record it."""
        sizes = self.data_report.sizes if self.data_report else {}
        return sizes.get("train", 0) + (sizes.get("validation", 0) if self.identity.train.refit else 0)

    @property
    def teachers(self) -> list[UsedTeacher]:
        """All teachers of a finished run."""
        return [self.teacher, *self.teacher.more] if self.teacher else []


class Opening(Record):
    """One evaluation on a test split. rows: SHA-256 of the test rows. by: the command. scored: number of rows, if only some.

    teacher: name of the run's teacher, if it was scored on the same rows.
    """

    at: str
    run: str
    fingerprint: str
    rows: str = ""
    split: str = "test"
    by: str
    scored: int | None = None
    teacher: str = ""


def opening_of(line: str) -> Opening | None:
    """Return a line of the log of test openings; None if it was cut off, as by a full disk."""
    try:
        return Opening.model_validate_json(line)
    except ValidationError:
        return None
