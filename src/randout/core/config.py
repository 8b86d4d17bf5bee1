"""The configuration of a run: its tables, defaults and presets, and how it is read, layered and written.

A recipe is a TOML file with the tables below. Presets are recipes that ship with the package. A recipe overrides a preset,
and `--set KEY=VALUE` overrides both. A run's `run.toml` contains every default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.fields import FieldInfo

from .errors import UserError, nearest

Checked = TypeVar("Checked", bound=BaseModel)


class Table(BaseModel):
    """Base class for the tables of a recipe: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _setting(default: Any, description: str, **limits: Any) -> Any:
    return Field(default=default, description=description, **limits)


def _number_or_auto(value: Any) -> Any:
    if value == "auto":
        return 0
    if value == 0 or isinstance(value, str):
        raise ValueError("0 stands for auto")  # never shown: `expected` words the message
    return value


# Numbers with an automatic choice: 0 in memory, "auto" in files.
AutoInt = Annotated[int, Field(ge=0), BeforeValidator(_number_or_auto), PlainSerializer(lambda value: value or "auto")]
AutoFloat = Annotated[
    float, Field(ge=0), BeforeValidator(_number_or_auto), PlainSerializer(lambda value: value or "auto")
]
Name = Annotated[str, Field(max_length=4096)]
Share = Annotated[float, Field(gt=0, le=1)]
Split = Literal["auto", "paper"]
Same = Literal["same", "auto"]


class DataTable(Table):
    """`[data]`: the dataset and its split."""

    source: Name = _setting(
        "", "a table (CSV, TSV, JSON Lines, Parquet), a named dataset (rhmd, coda19, film), or a TOML description"
    )
    text_column: Name = _setting("", "column with the texts; empty: chosen from the column names")
    label_column: Name = _setting("", "column with the labels; empty: chosen from the column names")
    text_pair_column: Name = _setting("", "column with the second text of each row's pair; empty: single texts")
    prefix_columns: tuple[Name, ...] = _setting(
        (), "columns whose values are put before the text, as fields; empty: none"
    )
    id_column: Name = _setting(
        "", "column that identifies a row, to join soft labels from a file; empty: by exact text"
    )
    group_column: Name = _setting("", "rows with the same value stay in one split; empty: none")
    weight_column: Name = _setting("", "column with each row's weight in the training loss; empty: equal weights")
    split: Split = _setting("auto", '"auto": stratified 70/15/15, duplicates kept together; "paper": stratified only')
    split_column: Name = _setting("", "column with each row's split: train, validation or test")
    split_seed: int = _setting(0, "random seed of the split, independent of the training seed", ge=0, lt=2**32)
    folds: int = _setting(0, "number of cross-validation folds; 0: no cross-validation")
    fold: int = _setting(0, "fold used as the test split, counted from 1")
    sample: int = _setting(
        0, "approximate number of labelled rows to keep, stratified, groups kept whole; 0: all rows", ge=0
    )
    validation: Name = _setting("", "file with the validation rows; empty: taken from the training rows")
    test: Name = _setting("", "file with the test rows; empty: taken from the source")
    unlabeled: Name = _setting("", "file with unlabelled texts, for distillation; or a folder of Parquet shards")
    corrections: Name = _setting("", "table of corrected labels, as `randout label-issues` writes it; empty: none")
    views: int = _setting(
        0, "augmented views of each training text, labelled by the teacher, for distillation; 0: none", ge=0
    )
    view_word_drop: float = _setting(1.0, "relative frequency of views in which words are left out", ge=0)
    view_window: float = _setting(1.0, "relative frequency of views that are a contiguous part of the text", ge=0)
    view_splice: float = _setting(
        1.0, "relative frequency of views that join the first half of the text and the second half of another", ge=0
    )
    view_drop_rate: float = _setting(
        0.2, "probability of each word to be left out, in views with word drop", gt=0, lt=1
    )
    view_window_share: tuple[Share, Share] = _setting(
        (0.4, 0.8), "smallest and largest share of the words that a window keeps"
    )
    train_folds: int = _setting(
        0, "number of folds of the training rows, one of which is left out (for teacher.cross_fit); 0: none left out"
    )
    train_fold: int = _setting(0, "fold of the training rows that is left out, counted from 1")
    labels: tuple[str, ...] = _setting((), "order of the labels; empty: sorted")
    multi_label: bool = _setting(
        False, "a text may have several labels or none: the label column holds lists, or labels joined by a separator"
    )
    label_separator: Name = _setting(
        "", 'separator of the labels of a row, such as ";" (sets multi_label); empty: found in the column'
    )
    label_columns: tuple[Name, ...] = _setting(
        (), "columns with 0 or 1 (or false, true), one for each label (sets multi_label); empty: one label column"
    )
    encoding: Name = _setting("auto", 'encoding of text files, such as latin1 or utf-16; "auto": UTF-8')


class StudentTable(Table):
    """`[student]`: the model to train."""

    model: Name = _setting(
        "",
        "an encoder (hub name, folder, alias), svm, rf, mnb-count, mnb-tfidf, cnn or lstm; empty: an encoder found "
        'locally; "auto": that encoder or svm, whichever does better on validation',
    )
    alternative: Literal["", "svm"] = _setting(
        "", "bag-of-words baseline to use as the student if it is not worse than the encoder; empty: none"
    )
    revision: Name = _setting("", "commit on the Hugging Face Hub; empty: pinned at the first download")
    head: Literal["model", "linear"] = _setting(
        "model", '"model": the head of the model family; "linear": softmax(W s_CLS), paper eq. 1'
    )
    pooling: Literal["auto", "first", "mean"] = _setting(
        "auto",
        'input of the head: last state of the first token, or mean over tokens; "auto": chosen by encoder and data',
    )
    layers: tuple[int, ...] = _setting((), "transformer blocks to keep, counted from 0; empty: all")
    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = _setting(
        "auto", 'maximum tokens per text; "auto": 99th percentile of the data'
    )
    truncation: Literal["head", "head+tail"] = _setting(
        "head", 'part of a longer text to keep: "head": its start; "head+tail": its start and end'
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = _setting(
        "model", 'dropout rate on hidden states; "model": as configured'
    )
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = _setting(
        "model", 'dropout rate on attention weights; "model": as configured'
    )


class TeacherTable(Table):
    """`[teacher]`: the teachers, and how to fine-tune one first."""

    model: Name = _setting(
        "auto",
        'a run, classifier, encoder, or file of soft labels; "none": no distillation; "auto": a larger encoder found '
        "locally",
    )
    more: tuple[Name, ...] = _setting(
        (), "additional teachers, each a run, classifier, encoder, or file of soft labels"
    )
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = _setting(
        "auto", 'divides the logits of soft labels from a file; "auto": fitted on validation rows with gold labels'
    )
    revision: Name = _setting("", "commit on the Hugging Face Hub; empty: pinned at the first download")
    labels: tuple[str, ...] = _setting(
        (), "the teacher's labels in the order of its outputs, if its configuration only has LABEL_0, ..."
    )
    head: Literal["model", "linear"] = _setting("model", "as for the student, if the teacher is fine-tuned first")
    pooling: Literal["auto", "first", "mean"] = _setting(
        "auto", "as for the student, if the teacher is fine-tuned first"
    )
    layers: tuple[int, ...] = _setting((), "blocks to keep if the teacher is fine-tuned first; empty: all")
    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = _setting(
        "auto", 'maximum tokens per text; "auto": 99th percentile of the data'
    )
    truncation: Literal["head", "head+tail"] = _setting(
        "head", 'part of a longer text to keep: "head": its start; "head+tail": its start and end'
    )
    epochs: Annotated[int, Field(ge=1)] | Same = _setting(
        "same",
        'epochs if the teacher is fine-tuned first; "same": as requested for the student; "auto": by its own data',
    )
    learning_rate: Annotated[float, Field(gt=0)] | Same = _setting(
        "same",
        'peak learning rate if the teacher is fine-tuned first; "same": as for the student; "auto": by its own width',
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["same"] = _setting(
        "same", 'texts per optimizer step if the teacher is fine-tuned first; "same": as for the student'
    )
    cross_fit: int = _setting(
        0,
        "folds of the training rows if the teacher is fine-tuned first: soft labels of each fold from a teacher trained "
        "without it; 0: one teacher for all rows",
        ge=0,
    )


class TrainTable(Table):
    """`[train]`: optimization, model selection and hardware."""

    seed: int = _setting(
        1,
        "random seed of head, data order, noise and dropout, for the student and a teacher trained for it",
        ge=0,
        lt=2**32,
    )
    epochs: AutoInt = _setting(0, "maximum passes over the training rows; auto: by their number")
    learning_rate: AutoFloat = _setting(0.0, "peak learning rate (paper: 1e-5); auto: by the encoder's width")
    batch_size: int = _setting(16, "texts per optimizer step", ge=1)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = _setting(
        "auto", "texts per forward pass; auto: the batch, halved when GPU memory runs out"
    )
    batch_parts: AutoInt = _setting(
        0, "parts into which each step is divided, for several processes; auto: one per process"
    )
    schedule: Literal["linear", "constant"] = _setting("linear", "learning rate schedule after warm-up")
    warmup_ratio: float = _setting(0.06, "fraction of all steps used for warm-up", ge=0, le=1)
    weight_decay: float = _setting(0.01, "weight decay of AdamW, on weight matrices", ge=0)
    adam_beta1: float = _setting(0.9, "beta1 of AdamW", ge=0, lt=1)
    adam_beta2: float = _setting(0.999, "beta2 of AdamW", ge=0, lt=1)
    adam_epsilon: float = _setting(1e-8, "epsilon of AdamW", gt=0)
    max_grad_norm: float = _setting(1.0, "clip gradients to this norm; 0: no clipping", ge=0)
    metric: Literal["accuracy", "macro_f1", "balanced_accuracy", "log_loss", "micro_f1", "sample_f1"] = _setting(
        "accuracy",
        "validation metric used for model selection; micro_f1 and sample_f1 need multi-label data, where accuracy stands for "
        "sample_f1",
    )
    patience: int = _setting(5, "stop after this many validations without improvement; 0: never", ge=0)
    validate_every: AutoInt = _setting(0, "epochs between validations; auto: about ten validations in all")
    refit: Literal["auto", True, False] = _setting(
        "auto",
        "after validation, train again on training and validation rows and save that model; auto: if there are too few "
        "validation rows to choose an epoch",
    )
    keep: Literal["auto", "best", "last"] = _setting(
        "auto", "keep the weights of the best or of the last validation; auto: last if there are few validation rows"
    )
    precision: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "computation dtype; auto: bfloat16 if the hardware supports it natively"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _setting("auto", "device to train on; auto: a GPU if available")
    packing: bool = _setting(True, "skip computation on padding if the encoder supports it")
    save_minutes: float = _setting(5.0, "minutes between checkpoints; one is also saved at each validation", gt=0)


class OutputTable(Table):
    """`[output]`: what is evaluated and written."""

    test: bool = _setting(True, "evaluate on the test split once, at the end")
    allow_leaks: bool = _setting(
        False, "evaluate on the test split even if a teacher or the starting model has seen its rows"
    )
    keep_texts: bool = _setting(False, "include the texts in predictions/*.parquet")


class Config(Table):
    """The complete configuration of a run.

    `methods` has one table per method, by name, with the fields of that method. `classifier` has the settings of a student
    that is a baseline (bag-of-words or neural); it is empty for an encoder.
    """

    data: DataTable = DataTable()
    student: StudentTable = StudentTable()
    classifier: dict[str, Any] = {}
    teacher: TeacherTable = TeacherTable()
    methods: dict[str, dict[str, Any]] = {}
    train: TrainTable = TrainTable()
    output: OutputTable = OutputTable()


DEFAULT_PRESET = "auto"
AUTO_STUDENT, ALTERNATIVE = "auto", "svm"  # `student.model` that lets validation choose, and the alternative
PAPER_PRESET = "randout-kd"  # default preset of a study's arms
PUBLISHED = "paper"  # preset with the published training
PUBLISHED_BASELINES: dict[str, dict[str, Any]] = {  # by baseline: published settings that are not the default
    **{name: {"min_df": 5} for name in ("svm", "rf", "mnb-count", "mnb-tfidf")},
    **{name: {} for name in ("cnn", "lstm")},
}
PLUGIN_HINT = "For a third-party method, install its package or name its file with --plugin"
OPEN_TABLES = ("methods", "classifier")  # tables whose keys depend on the chosen methods and baseline


def presets() -> dict[str, str]:
    """Return each preset's name and description (the first line of its file)."""
    files = sorted(resources.files("randout").joinpath("presets").iterdir(), key=lambda f: f.name)
    return {f.name[:-5]: f.read_text().splitlines()[0].lstrip("# ") for f in files if f.name.endswith(".toml")}


def read_preset(name: str, student: str = "") -> dict[str, Any]:
    """Return the tables of a preset. Raises UserError with the closest name for an unknown preset.

    student: the student, if it is named. A baseline takes nothing of the preset "paper" but its own published settings.
    """
    if name not in presets():
        raise UserError(f"no such preset {name!r}; available: {', '.join(presets())}.{nearest(name, presets())}")
    if name == PUBLISHED and student in PUBLISHED_BASELINES:
        return {"classifier": dict(PUBLISHED_BASELINES[student])}
    return tomllib.loads(resources.files("randout").joinpath("presets").joinpath(f"{name}.toml").read_text())


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the tables of a recipe file. Raises UserError naming file and line."""
    return read_toml(path, "recipe")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    what: the kind of file, for messages. Raises UserError naming file and line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: the {what} cannot be read: {reason}") from None


def overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two recipes table by table; values of `above` override those of `below`."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def assignment(text: str, methods: Iterable[str]) -> dict[str, Any]:
    """Parse `--set KEY=VALUE` into recipe tables.

    VALUE is TOML, or a plain string if it does not parse as TOML. Raises UserError for a malformed or unknown key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected KEY=VALUE, as in --set train.epochs=3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return assignment_of(key.strip(), parsed, methods)


def assignment_of(key: str, value: Any, methods: Iterable[str]) -> dict[str, Any]:
    """Return the recipe tables that hold one setting.

    key: `table.key`, `methods.NAME.key`, `NAME.key`, or a bare key such as `learning_rate`; a bare key that several tables
    have means the one in `train`, else the one in `student`. Raises UserError for an unknown key.
    """
    path = key.split(".")
    if path[0] in methods:
        path = ["methods", *path]
    elif len(path) > 1 and path[0] not in Config.model_fields:
        known = [*Config.model_fields, *methods]
        hint = nearest(path[0], known) or f" {PLUGIN_HINT}"
        raise UserError(f"--set {key}: no such table or method: {path[0]!r}.{hint}")
    if len(path) == 1 and path[0] not in Config.model_fields:
        tables = {name: field.annotation for name, field in Config.model_fields.items() if name not in OPEN_TABLES}
        owners = [name for name, table in tables.items() if path[0] in table.model_fields]  # type: ignore[union-attr]
        known = [name for table in tables.values() for name in table.model_fields]  # type: ignore[union-attr]
        if not owners:
            form = " Settings of methods and of classifiers follow a name: kd.weight, classifier.C."
            hint = (nearest(path[0], [*known, *methods]) if len(key) > 1 else "") or form
            raise UserError(f"--set {key}: no such setting.{hint} `randout init` lists all settings")
        preferred = [name for name in ("train", "student") if name in owners]
        path = [(preferred or owners)[0], *path]
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def full_name(key: str, methods: Iterable[str]) -> str:
    """Return the full name of a setting: `train.learning_rate` for `learning_rate`, `kd.weight` for `methods.kd.weight`.

    Raises UserError for an unknown key.
    """
    tables, path = assignment_of(key, None, methods), []
    while isinstance(tables, dict):
        (name, tables), *_ = tables.items()
        path.append(name)
    return ".".join(path[1:] if path[0] == "methods" else path)


def build(layers: Iterable[dict[str, Any]], methods: Mapping[str, type[BaseModel]]) -> Config:
    """Build a configuration from recipe layers and fill in every method's defaults.

    layers: later layers override earlier ones. methods: the registry, by name. Raises UserError naming the setting, what
    was found, and the closest known name.
    """
    tables: dict[str, Any] = {}
    for layer in layers:
        tables = overlay(tables, layer)
    wanted = tables.pop("methods", {})
    if not isinstance(wanted, dict):
        raise UserError(f"methods: expected a table for each method, found {wanted!r}")
    filled = {}
    for name, settings in wanted.items():
        if name not in methods:
            hint = nearest(name, methods) or f" {PLUGIN_HINT}"
            raise UserError(f"methods.{name}: no such method; available: {', '.join(methods)}.{hint}")
        if settings is not False:
            settings = {} if settings is True else settings
            filled[name] = checked(methods[name], settings, f"methods.{name}.").model_dump(mode="json")
    ordered = {name: filled[name] for name in methods if name in filled}
    return checked(Config, tables | {"methods": ordered}, "")


def checked(
    model: type[Checked], value: Any, prefix: str, listed: str = "`randout init` lists all settings"
) -> Checked:
    """Validate `value` as a `model`.

    prefix: put before the name of each setting in messages. listed: sentence that says where all settings are listed.
    Raises UserError with one line per wrong setting; for an unknown one, with the closest name and `listed`.
    """
    if lines := _boolean_errors(model, value, prefix):
        raise UserError("\n".join(lines))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(in_words(model, error, prefix, listed)) from None


def _boolean_errors(model: type[BaseModel], value: Any, prefix: str) -> list[str]:
    """Return errors for booleans given as numbers, which pydantic would accept as 1 and 0."""
    lines: list[str] = []
    for key, one in value.items() if isinstance(value, Mapping) else ():
        if (field := model.model_fields.get(key)) is None:
            continue
        kinds = [_split_annotated(kind)[0] for kind in _union_members(field.annotation)]
        if isinstance(one, bool) and not {int, float}.isdisjoint(kinds) and bool not in kinds:
            wanted = expected(field.annotation, field.metadata)
            lines.append(f"{prefix}{key}: found {str(one).lower()}; expected {wanted}")
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                lines += _boolean_errors(kind, one, f"{prefix}{key}.")
    return lines


def in_words(model: type[BaseModel], error: ValidationError, prefix: str, listed: str) -> str:
    """Format a validation error as text, one line per setting. Arguments as for `checked`."""
    return "\n".join(dict.fromkeys(_error_line(model, item, prefix, listed) for item in error.errors()))


def _error_line(model: type[BaseModel], error: Any, prefix: str, listed: str) -> str:
    """Format one error as a line: the setting, what was found, what is expected."""
    path, kind, limits = _locate(model, error["loc"])
    where = (prefix + ".".join(path)).rstrip(".: ")
    if error["type"] == "extra_forbidden":
        table = _locate(model, error["loc"][:-1])[1]
        return f"{where}: no such setting.{nearest(path[-1], getattr(table, 'model_fields', {}))} {listed}"
    own = error.get("ctx", {}).get("error")  # set if a validator raised its own message
    if own is not None and not any(one.func is _number_or_auto for one in limits if isinstance(one, BeforeValidator)):
        return f"{where}: {own}" if kind is model else f"{where}: found {error['input']!r:.200}; {own}"
    wanted = expected(kind, limits)
    if error["type"] == "finite_number":
        wanted = wanted.replace("a number", "a finite number", 1)
    found = "nothing" if error["type"] == "missing" else f"{error['input']!r:.200}"
    return f"{where}: found {found}; expected {wanted}"


def _locate(model: type[BaseModel], path: Sequence[Any]) -> tuple[list[str], Any, Sequence[Any]]:
    """Return the names that lead to a setting, its type, and the limits on it.

    path: pydantic's location of the error, which also has an entry for each member of a union.
    """
    names: list[str] = []
    kind: Any = model
    limits: Sequence[Any] = ()
    for part in path:
        parts = [_split_annotated(one)[0] for one in _union_members(kind)]
        table = next((one for one in parts if isinstance(one, type) and issubclass(one, BaseModel)), None)
        listed = next((one for one in parts if get_origin(one) in (tuple, list)), None)
        named = next((one for one in parts if get_origin(one) is dict), None)
        if table is not None:
            names.append(str(part))
            field = table.model_fields.get(part)
            kind, limits = (None, ()) if field is None else (field.annotation, field.metadata)
        elif listed is not None and isinstance(part, int):
            names.append(str(part))
            kind, limits = _split_annotated(get_args(listed)[0])
        elif named is not None:
            names.append(str(part))
            kind, limits = _split_annotated(get_args(named)[1])
    return names, kind, limits


def _union_members(kind: Any) -> Sequence[Any]:
    """Return the members of a union, or the type itself for any other type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _split_annotated(kind: Any) -> tuple[Any, Sequence[Any]]:
    """Split an `Annotated` type into the type and its limits."""
    if get_origin(kind) is not Annotated:
        return kind, ()
    plain, *limits = get_args(kind)
    return plain, [one for limit in limits for one in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]


TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
TYPE_NAMES_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def expected(kind: Any, limits: Sequence[Any] = ()) -> str:
    """Describe the values that a type accepts: `a whole number of at least 4, or 'auto'`."""
    named = [_expected_of_type(*_split_annotated(one), limits) for one in _union_members(kind) if one is not type(None)]
    return named[0] if len(named) == 1 else ", ".join(named[:-1]) + f", or {named[-1]}"


def _expected_of_type(kind: Any, own: Sequence[Any], outer: Sequence[Any]) -> str:
    """Describe one member of a union as `expected` does. own, outer: limits on the member and on the union."""
    origin, limits = get_origin(kind), [*own, *outer]
    if origin is Literal:
        values = [repr(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
    if origin in (tuple, list):
        least = "one or more " if any(getattr(one, "min_length", 0) for one in limits) else ""
        return f"a list of {least}{TYPE_NAMES_PLURAL.get(_split_annotated(get_args(kind)[0])[0], 'values')}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "a table"
    if any(isinstance(one, BeforeValidator) and one.func is _number_or_auto for one in limits):
        return f"{TYPE_NAMES[kind]} above 0, or 'auto'"
    found = []
    for name, words in (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "less than")):
        found += [f"{words} {getattr(one, name):,}" for one in limits if getattr(one, name, None) is not None]
    longest = [one.max_length for one in limits if getattr(one, "max_length", None)]
    found += [f"of at most {most:,} characters" for most in longest]
    found += [f"that matches {one.pattern}" for one in limits if getattr(one, "pattern", None)]
    return " ".join([TYPE_NAMES.get(kind, "another value"), " and ".join(found)]).strip()


def to_toml(config: Config) -> str:
    """Return the whole configuration as TOML, including all defaults."""
    tables = _tables(config)
    return tomli_w.dumps(tables if config.classifier else {k: v for k, v in tables.items() if k != "classifier"})


def _tables(config: Config) -> dict[str, Any]:
    """Return the tables to write; a setting that `[classifier]` has is left out of `[train]`."""
    tables = config.model_dump(mode="json")
    return tables | {"train": {key: value for key, value in tables["train"].items() if key not in config.classifier}}


def commented(config: Config, methods: Mapping[str, type[BaseModel]], classifier: type[BaseModel] | None = None) -> str:
    """Return the configuration as TOML with a comment for each key, as `randout init` prints it.

    classifier: the class whose settings `config.classifier` holds; None for an encoder.
    """
    lines, tables = [], _tables(config)
    for name, field in Config.model_fields.items():
        if name == "classifier" and classifier is not None:
            lines += _table_lines(name, config.classifier, classifier)
        elif name not in OPEN_TABLES:
            lines += _table_lines(name, tables[name], field.annotation)
    for name, settings in config.methods.items():
        lines += _table_lines(f"methods.{name}", settings, methods[name])
    return "\n".join(lines).strip() + "\n"


def _table_lines(title: str, values: dict[str, Any], model: Any) -> list[str]:
    written = {key: tomli_w.dumps({key: value}, multiline_strings=False) for key, value in values.items()}
    written = {key: " ".join(text.split()) for key, text in written.items()}
    width = max((len(text) for text in written.values()), default=0)
    about = {key: model.model_fields[key].description or "" for key in values}
    return ["", f"[{title}]"] + [f"{written[key]:<{width}}  # {about[key]}" for key in values]
