"""A request for a ladder of sizes, and its rungs. Does not import PyTorch."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from randout.core.config import AUTO_STUDENT, Config, Table, build, checked
from randout.core.errors import UserError
from randout.methods.builtin import KD_ALONE, METHODS
from randout.models.sources import CLASSIFIER_NAMES, Source
from randout.storage.study_record import LadderRung

WORDS = "svm"  # the bag-of-words baseline of a ladder
PRESET = KD_ALONE  # default preset of the students


FormName = Literal["torch", "float32", "int8"]


class ShrinkTable(Table):
    """How a ladder is built, measured and judged."""

    students: tuple[str, ...] = Field((), description="encoders; empty: the student of the recipe")
    layers: tuple[int, ...] = Field(
        (), description="numbers of blocks to keep; empty: all, half of them, a quarter, ... and one"
    )
    trim: bool = Field(False, description="also forms whose vocabulary is that of the training texts")
    forms: tuple[FormName, ...] = Field((), description="forms of each model; empty: all")
    seeds: Annotated[int, Field(ge=1)] = Field(1, description="trainings of each rung; the first one is deployed")
    margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="accuracy that a model may lose: 0.01 is 1 point"
    )
    cost: Literal["latency", "size", "throughput"] = Field("latency", description="what decides which form is cheapest")
    threads: Annotated[int, Field(ge=1)] = Field(1, description="CPU threads of a measured process")
    rounds: Annotated[int, Field(ge=0)] = Field(3, description="measured processes of each form; 0: sizes only")
    open: Literal["chosen", "nearest", "none"] = Field(
        "chosen", description="when the test split is scored: for a chosen form, else for the nearest one, or never"
    )


@dataclass(frozen=True)
class Shrink:
    """A request. config: the recipe of every student, without its encoder's layers. required: methods that it names."""

    config: Config
    table: ShrinkTable
    required: frozenset[str] = frozenset()

    @property
    def students(self) -> tuple[str, ...]:
        """The encoders by name; the first may be empty, for the default one."""
        return self.table.students or (self.config.student.model,)

    def student_config(self, name: str, layers: Sequence[int] = (), seed: int = 0, teacher: str = "") -> Config:
        """Return the configuration of a student; its test split is not scored and it is not trained on validation rows.

        layers: blocks to keep. seed: added to the recipe's. teacher: empty: the recipe's.
        """
        student = {"model": name, "layers": tuple(layers)}
        if name != self.config.student.model:
            student["revision"] = ""
        tables = self.config.model_copy(
            update={
                "student": self.config.student.model_copy(update=student),
                "train": self.config.train.model_copy(update={"refit": False, "seed": self.config.train.seed + seed}),
                "output": self.config.output.model_copy(update={"test": False}),
            }
        )
        if not teacher:
            return tables
        return tables.model_copy(update={"teacher": self.config.teacher.model_copy(update={"model": teacher})})

    def words_config(self) -> Config:
        """Return the configuration of the bag-of-words baseline, which learns from the labels of the same rows."""
        data = self.config.data.model_dump(mode="json") | {"unlabeled": "", "views": 0}
        output = self.config.output.model_dump(mode="json") | {"test": False}
        return build([{"data": data, "student": {"model": WORDS}, "output": output}], METHODS)


def make_shrink(config: Config, given: dict[str, Any], required: Collection[str] = ()) -> Shrink:
    """Check a request. given: values of `ShrinkTable`. Raises UserError."""
    if wrong := [str(name) for name in given.get("forms") or () if name not in get_args(FormName)]:
        raise UserError(f"--form {', '.join(wrong)}: expected {', '.join(get_args(FormName))}")
    table: ShrinkTable = checked(ShrinkTable, given, "--", f"shrink has {', '.join(ShrinkTable.model_fields)}")
    made = Shrink(config, table, frozenset(required))
    for name in made.students:
        if name in (*CLASSIFIER_NAMES, AUTO_STUDENT):
            raise UserError(
                f"--student {name}: a ladder needs an encoder; the bag-of-words baseline {WORDS} is always one of its rungs"
            )
    if twice := [name for name in made.students if made.students.count(name) > 1]:
        raise UserError(f"--student {twice[0]}: named twice. Name each encoder once")
    if config.student.layers:
        raise UserError(
            "student.layers: the ladder sets them. Use --layers with numbers of layers, such as --layers 1,3,6"
        )
    if config.train.refit is True:
        raise UserError(
            "train.refit: sizes are chosen by the validation rows, so the students cannot be trained on them. Remove it"
        )
    if config.teacher.model == "none":
        raise UserError("--teacher none: shrink compares with a teacher. Name a run, a classifier or an encoder")
    if config.teacher.more:
        raise UserError("teacher.more: shrink compares with one teacher. Remove it")
    if config.teacher.cross_fit and table.seeds > 1:
        raise UserError(
            f"teacher.cross_fit = {config.teacher.cross_fit}: each seed would fine-tune teachers of its own. Use --seeds 1, or "
            "set teacher.cross_fit = 0"
        )
    if not config.output.test and table.open != "none":
        raise UserError(
            "output.test = false: in shrink, --open says whether the test split is scored. Add --open none, or remove output.test"
        )
    if table.rounds == 0 and table.cost != "size":
        raise UserError(f"--rounds 0 measures no {table.cost}. Add --cost size, or leave --rounds out")
    return made


def depths(of: int) -> list[int]:
    """Return numbers of blocks from 1 to `of`, each half of the next, rounded up: 1, 2, 3, 6 of 6.

    Cost is proportional to the number of blocks, so they are evenly spaced on a logarithmic axis of cost.
    """
    found = [of]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found[::-1]


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Raise UserError for numbers of layers that no student has. depth: the largest number of layers of a student."""
    if wrong := [str(count) for count in layers if not 1 <= count <= depth]:
        raise UserError(
            f"--layers: found {', '.join(wrong)}; expected numbers from 1 to {depth}, the layers of the student"
        )


def kept_blocks(count: int, of: int) -> tuple[int, ...]:
    """Return which blocks to keep, evenly spaced from the first: 0, 2, 4 for 3 of 6. Empty, which means all, for `of`."""
    return () if count == of else tuple(at * of // count for at in range(count))


def rungs_of(label: str, of: int, layers: Sequence[int], several: bool) -> list[LadderRung]:
    """Return the rungs of an encoder with `of` blocks, from the smallest.

    layers: numbers of blocks; empty: `depths`. Numbers that the encoder does not have are left out. several: whether the
    ladder has other encoders, so that names need the label.
    """
    counts = sorted({count for count in layers if count <= of}) if layers else depths(of)
    prefix = f"{label}, " if several else ""
    return [
        LadderRung(
            name=f"{prefix}{count} layer{'s' if count > 1 else ''}",
            kind="encoder",
            student=label,
            layers=count,
            depth=of,
        )
        for count in counts
    ]


def student_labels(sources: Sequence[Source]) -> list[str]:
    """Return a label for each encoder of a ladder: its own, or its name where several have the same label.

    Raises UserError for the same model under two names, and for labels that are equal in paths.
    """
    labels = [source.label for source in sources]
    found = [source.name if labels.count(label) > 1 else label for source, label in zip(sources, labels, strict=True)]
    models, paths = [source.fingerprint() for source in sources], [in_paths(label) for label in found]
    for at, source in enumerate(sources):
        if models[at] in models[:at]:
            first = sources[models.index(models[at])].name
            raise UserError(f"--student {source.name}: the same model as {first}. Name each encoder once")
        if paths[at] in paths[:at]:
            first = sources[paths.index(paths[at])].name
            raise UserError(
                f"--student {source.name}: its files would have the same names as those of {first}. Copy one of them to a "
                "folder with another name"
            )
    return found


def in_paths(name: str) -> str:
    """Return a name of a rung or a form as it is in paths: words joined by hyphens."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def with_first(made: Shrink, name: str) -> Shrink:
    """Return the request with its first student named, if it was left to the default."""
    if made.students[0]:
        return made
    student = made.config.student.model_copy(update={"model": name})
    return replace(made, config=made.config.model_copy(update={"student": student}))
