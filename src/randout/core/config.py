"""The configuration of a run: its tables, defaults and presets, and how it is read, layered and written.

A recipe is a TOML file with the tables below. Presets are recipes that come with the package; a recipe is laid over a
preset, and `--set KEY=VALUE` over both. Every default is written out in a run's `run.toml`.
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
    """A table of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _setting(default: Any, description: str, **limits: Any) -> Any:
    return Field(default=default, description=description, **limits)


def _number_or_auto(value: Any) -> Any:
    if value == "auto":
        return 0
    if value == 0 or isinstance(value, str):
        raise ValueError("0 stands for auto")  # `expected` has the words for it
    return value


# Numbers that may be left to the data: 0 stands for "auto", which is what is read and written.
AutoInt = Annotated[int, Field(ge=0), BeforeValidator(_number_or_auto), PlainSerializer(lambda value: value or "auto")]
AutoFloat = Annotated[
    float, Field(ge=0), BeforeValidator(_number_or_auto), PlainSerializer(lambda value: value or "auto")
]
Name = Annotated[str, Field(max_length=4096)]
Split = Literal["auto", "paper"]
Same = Literal["same", "auto"]


class DataTable(Table):
    source: Name = _setting(
        "", "a table (CSV, TSV, JSON Lines, Parquet), a named dataset (rhmd, coda19, film), or its TOML"
    )
    text_column: Name = _setting("", "column of the texts; empty: guessed")
    label_column: Name = _setting("", "column of the labels; empty: guessed")
    group_column: Name = _setting("", "rows with the same value stay in one split; empty: none")
    split: Split = _setting("auto", '"auto": stratified 70/15/15, duplicates together; "paper": stratified only')
    split_column: Name = _setting("", "column that says train, validation or test")
    split_seed: int = _setting(0, "number that fixes the split; the training seed does not touch it", ge=0, lt=2**32)
    folds: int = _setting(0, "number of cross-validation folds; 0: none")
    fold: int = _setting(0, "which of them is the test split, 1 the first")
    sample: int = _setting(0, "about so many labelled rows in all, drawn by class and whole groups; 0: every row", ge=0)
    validation: Name = _setting("", "file with the validation rows; empty: taken from the training rows")
    test: Name = _setting("", "file with the test rows")
    unlabeled: Name = _setting("", "file with texts only: distillation without labels")
    labels: tuple[str, ...] = _setting((), "order of the labels; empty: sorted")
    encoding: Name = _setting("auto", 'of the files that are text, such as latin1 or utf-16; "auto": UTF-8')


class StudentTable(Table):
    model: Name = _setting(
        "",
        "an encoder (hub name, folder, alias), svm, rf, mnb-count, mnb-tfidf, cnn or lstm; empty: an encoder found "
        'locally; "auto": that encoder or svm, chosen on validation',
    )
    alternative: Literal["", "svm"] = _setting(
        "", "bag-of-words classifier that becomes the student where it is not worse than the encoder; empty: none"
    )
    revision: Name = _setting("", "commit of the hub; empty: pinned at the first download")
    head: Literal["model", "linear"] = _setting(
        "model", '"model": the family\'s head; "linear": softmax(W s_CLS), eq. 1'
    )
    pooling: Literal["auto", "first", "mean"] = _setting(
        "auto",
        'what the head reads: the first token\'s last state, or their "mean"; "auto": by the encoder and the data',
    )
    layers: tuple[int, ...] = _setting((), "blocks to keep, 0 the first; empty: all")
    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = _setting(
        "auto", 'most tokens a text; "auto": 99th percentile of the data'
    )
    truncation: Literal["head", "head+tail"] = _setting("head", "what is kept of a longer text")
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = _setting("model", "rate on hidden states")
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = _setting("model", "rate on attention")


class TeacherTable(Table):
    model: Name = _setting(
        "auto", 'run, classifier or encoder; "none": no distillation; "auto": a larger one found locally'
    )
    more: tuple[Name, ...] = _setting((), "further teachers, each a run, classifier or encoder")
    revision: Name = _setting("", "commit of the hub; empty: pinned at the first download")
    labels: tuple[str, ...] = _setting(
        (), "the teacher's labels in the order of its outputs, where it only says LABEL_0"
    )
    head: Literal["model", "linear"] = _setting("model", "as for the student, where the teacher is fine-tuned first")
    pooling: Literal["auto", "first", "mean"] = _setting("auto", "likewise")
    layers: tuple[int, ...] = _setting((), "blocks to keep where it is fine-tuned first; empty: all")
    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = _setting(
        "auto", 'most tokens a text; "auto": 99th percentile'
    )
    truncation: Literal["head", "head+tail"] = _setting("head", "what is kept of a longer text")
    epochs: Annotated[int, Field(ge=1)] | Same = _setting(
        "same", 'where it is fine-tuned first; "same": as asked for the student; "auto": by its own data'
    )
    learning_rate: Annotated[float, Field(gt=0)] | Same = _setting("same", 'likewise; "same": as the student')
    batch_size: Annotated[int, Field(ge=1)] | Literal["same"] = _setting("same", 'likewise; "same": as the student')


class TrainTable(Table):
    seed: int = _setting(1, "fixes head, data order, noise and dropout, of the student and of a teacher trained for it")
    epochs: AutoInt = _setting(0, "most passes over the training rows; auto: by their number")
    learning_rate: AutoFloat = _setting(0.0, "peak of the schedule (paper: 1e-5); auto: by the encoder's width")
    batch_size: int = _setting(16, "texts an optimizer step", ge=1)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = _setting(
        "auto", "texts a forward pass; auto: the batch, halved when a GPU's memory runs out"
    )
    schedule: Literal["linear", "constant"] = _setting("linear", "learning rate after warm-up")
    warmup_ratio: float = _setting(0.06, "share of all steps in which the learning rate rises", ge=0, le=1)
    weight_decay: float = _setting(0.01, "of AdamW, on weight matrices", ge=0)
    adam_beta1: float = _setting(0.9, "of AdamW", ge=0, lt=1)
    adam_beta2: float = _setting(0.999, "of AdamW", ge=0, lt=1)
    adam_epsilon: float = _setting(1e-8, "of AdamW", gt=0)
    max_grad_norm: float = _setting(1.0, "gradients are clipped to this norm; 0: never", ge=0)
    metric: Literal["accuracy", "macro_f1", "balanced_accuracy", "log_loss"] = _setting(
        "accuracy", "what validation selects on"
    )
    patience: int = _setting(5, "stop after so many validations without a gain; 0: never", ge=0)
    validate_every: AutoInt = _setting(0, "epochs from one validation to the next; auto: some ten validations in all")
    refit: Literal["auto", True, False] = _setting(
        "auto",
        "after validation, train again on training and validation rows and save that model; auto: where validation rows are "
        "too few to choose an epoch by",
    )
    keep: Literal["auto", "best", "last"] = _setting(
        "auto", "weights of the best validation, or the last; auto: last where validation has few rows"
    )
    precision: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "auto: bfloat16 where the machine has it natively"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _setting("auto", "auto: a GPU if there is one")
    packing: bool = _setting(True, "compute no padding where the encoder admits it")
    save_minutes: float = _setting(5.0, "a checkpoint at least this often, besides each validation", gt=0)


class OutputTable(Table):
    test: bool = _setting(True, "score the test split once, at the end")
    allow_leaks: bool = _setting(False, "score the test split even where a teacher or starting model has seen its rows")
    keep_texts: bool = _setting(False, "write the texts into predictions/*.parquet")


class Config(Table):
    """Everything that decides a run. `methods` holds one table a method, by name, with that method's own fields;
    `classifier` the settings of a student that is a classifier of words (empty for an encoder).
    """

    data: DataTable = DataTable()
    student: StudentTable = StudentTable()
    classifier: dict[str, Any] = {}
    teacher: TeacherTable = TeacherTable()
    methods: dict[str, dict[str, Any]] = {}
    train: TrainTable = TrainTable()
    output: OutputTable = OutputTable()


DEFAULT_PRESET = "auto"
AUTO_STUDENT, ALTERNATIVE = "auto", "svm"  # `student.model` that leaves the choice to the data, and what else it may be
PAPER_PRESET = "randout-kd"  # what an arm of a study has unless it says otherwise
FROM_ELSEWHERE = "A method from elsewhere needs its package installed, or its file named with --plugin"
OPEN = ("methods", "classifier")  # tables whose keys depend on what was chosen


def presets() -> dict[str, str]:
    """The presets and what each is for (its file's first line)."""
    files = sorted(resources.files("randout").joinpath("presets").iterdir(), key=lambda f: f.name)
    return {f.name[:-5]: f.read_text().splitlines()[0].lstrip("# ") for f in files if f.name.endswith(".toml")}


def read_preset(name: str) -> dict[str, Any]:
    """The tables of a preset. Raises UserError with the nearest name."""
    if name not in presets():
        raise UserError(f"no preset {name!r}; there are: {', '.join(presets())}.{nearest(name, presets())}")
    return tomllib.loads(resources.files("randout").joinpath("presets").joinpath(f"{name}.toml").read_text())


def read_recipe(path: Path) -> dict[str, Any]:
    """The tables of a recipe file. Raises UserError naming file and line."""
    return read_toml(path, "recipe")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file; `what` it is, for messages. Raises UserError naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: the {what} cannot be read: {reason}") from None


def overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, table by table; a method set to false is taken out."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def assignment(text: str, methods: Iterable[str]) -> dict[str, Any]:
    """`--set KEY=VALUE` as tables. VALUE is TOML; what is not, is a string. Raises UserError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected KEY=VALUE, as in --set train.epochs=3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return assignment_of(key.strip(), parsed, methods)


def assignment_of(key: str, value: Any, methods: Iterable[str]) -> dict[str, Any]:
    """One setting as tables. `key` is `table.key`, `methods.NAME.key`, `NAME.key`, or a key that one table has alone
    (`learning_rate`, `max_length`: where several have it, train's, else the student's). Raises UserError.
    """
    path = key.split(".")
    if path[0] in methods:
        path = ["methods", *path]
    elif len(path) > 1 and path[0] not in Config.model_fields:
        known = [*Config.model_fields, *methods]
        hint = nearest(path[0], known) or f" {FROM_ELSEWHERE}"
        raise UserError(f"--set {key}: no such table or method: {path[0]!r}.{hint}")
    if len(path) == 1 and path[0] not in Config.model_fields:
        tables = {name: field.annotation for name, field in Config.model_fields.items() if name not in OPEN}
        owners = [name for name, table in tables.items() if path[0] in table.model_fields]  # type: ignore[union-attr]
        known = [name for table in tables.values() for name in table.model_fields]  # type: ignore[union-attr]
        if not owners:
            hint = nearest(path[0], [*known, *methods])
            raise UserError(f"--set {key}: no such setting.{hint} `randout init` lists them all")
        preferred = [name for name in ("train", "student") if name in owners]
        path = [(preferred or owners)[0], *path]
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def build(layers: Iterable[dict[str, Any]], methods: Mapping[str, type[BaseModel]]) -> Config:
    """A configuration from recipes laid one over another (the first lowest), every method's defaults filled in.

    methods: the shelf, by name. Raises UserError naming the setting, what was found, and the nearest known name.
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
            hint = nearest(name, methods) or f" {FROM_ELSEWHERE}"
            raise UserError(f"methods.{name}: no such method; there are: {', '.join(methods)}.{hint}")
        if settings is not False:
            settings = {} if settings is True else settings
            filled[name] = checked(methods[name], settings, f"methods.{name}.").model_dump(mode="json")
    ordered = {name: filled[name] for name in methods if name in filled}
    return checked(Config, tables | {"methods": ordered}, "")


def checked(model: type[Checked], value: Any, prefix: str, listed: str = "`randout init` lists them all") -> Checked:
    """`value` as a `model`. Raises UserError, a line a setting; an unknown one gets the nearest and where all are `listed`."""
    if lines := _booleans(model, value, prefix):
        raise UserError("\n".join(lines))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(in_words(model, error, prefix, listed)) from None


def _booleans(model: type[BaseModel], value: Any, prefix: str) -> list[str]:
    """What is wrong with true and false in the place of numbers, which pydantic would take for 1 and 0."""
    lines: list[str] = []
    for key, one in value.items() if isinstance(value, Mapping) else ():
        if (field := model.model_fields.get(key)) is None:
            continue
        kinds = [_plain(kind)[0] for kind in _choices(field.annotation)]
        if isinstance(one, bool) and not {int, float}.isdisjoint(kinds) and bool not in kinds:
            wanted = expected(field.annotation, field.metadata)
            lines.append(f"{prefix}{key}: found {str(one).lower()}; expected {wanted}")
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                lines += _booleans(kind, one, f"{prefix}{key}.")
    return lines


def in_words(model: type[BaseModel], error: ValidationError, prefix: str, listed: str) -> str:
    """What is wrong with the settings of a `model`, a line each. Arguments as of `checked`."""
    return "\n".join(dict.fromkeys(_in_words(model, item, prefix, listed) for item in error.errors()))


def _in_words(model: type[BaseModel], error: Any, prefix: str, listed: str) -> str:
    """One line: the setting, what was found, what is expected."""
    path, kind, limits = _place(model, error["loc"])
    where = (prefix + ".".join(path)).rstrip(".: ")
    if error["type"] == "extra_forbidden":
        table = _place(model, error["loc"][:-1])[1]
        return f"{where}: no such setting.{nearest(path[-1], getattr(table, 'model_fields', {}))} {listed}"
    own = error.get("ctx", {}).get("error")  # of a validator that says itself what is wrong
    if own is not None and not any(one.func is _number_or_auto for one in limits if isinstance(one, BeforeValidator)):
        return f"{where}: {own}" if kind is model else f"{where}: found {error['input']!r:.200}; {own}"
    wanted = expected(kind, limits)
    if error["type"] == "finite_number":
        wanted = wanted.replace("a number", "a finite number", 1)
    found = "nothing" if error["type"] == "missing" else f"{error['input']!r:.200}"
    return f"{where}: found {found}; expected {wanted}"


def _place(model: type[BaseModel], path: Sequence[Any]) -> tuple[list[str], Any, Sequence[Any]]:
    """The names on the way to a setting, its type, and the limits on it. path: as pydantic gives it, which has a word for
    each choice of a union too.
    """
    names: list[str] = []
    kind: Any = model
    limits: Sequence[Any] = ()
    for part in path:
        parts = [_plain(one)[0] for one in _choices(kind)]
        table = next((one for one in parts if isinstance(one, type) and issubclass(one, BaseModel)), None)
        listed = next((one for one in parts if get_origin(one) in (tuple, list)), None)
        named = next((one for one in parts if get_origin(one) is dict), None)
        if table is not None:
            names.append(str(part))
            field = table.model_fields.get(part)
            kind, limits = (None, ()) if field is None else (field.annotation, field.metadata)
        elif listed is not None and isinstance(part, int):
            names.append(str(part))
            kind, limits = _plain(get_args(listed)[0])
        elif named is not None:
            names.append(str(part))
            kind, limits = _plain(get_args(named)[1])
    return names, kind, limits


def _choices(kind: Any) -> Sequence[Any]:
    """The members of a union; of any other type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _plain(kind: Any) -> tuple[Any, Sequence[Any]]:
    """A type and the limits that `Annotated` puts on it."""
    if get_origin(kind) is not Annotated:
        return kind, ()
    plain, *limits = get_args(kind)
    return plain, [one for limit in limits for one in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MANY = {int: "whole numbers", float: "numbers", str: "texts"}


def expected(kind: Any, limits: Sequence[Any] = ()) -> str:
    """What a setting of this type takes, in words: `a whole number of at least 4, or 'auto'`."""
    named = [_in_limits(*_plain(one), limits) for one in _choices(kind) if one is not type(None)]
    return named[0] if len(named) == 1 else ", ".join(named[:-1]) + f", or {named[-1]}"


def _in_limits(kind: Any, own: Sequence[Any], outer: Sequence[Any]) -> str:
    """As `expected`, of one type. own, outer: its limits, and those of the union that it is a choice of."""
    origin, limits = get_origin(kind), [*own, *outer]
    if origin is Literal:
        values = [repr(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
    if origin in (tuple, list):
        least = "one or more " if any(getattr(one, "min_length", 0) for one in limits) else ""
        return f"a list of {least}{MANY.get(_plain(get_args(kind)[0])[0], 'values')}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "a table"
    if any(isinstance(one, BeforeValidator) and one.func is _number_or_auto for one in limits):
        return f"{WORDS[kind]} above 0, or 'auto'"
    found = []
    for name, words in (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "less than")):
        found += [f"{words} {getattr(one, name):,}" for one in limits if getattr(one, name, None) is not None]
    longest = [one.max_length for one in limits if getattr(one, "max_length", None)]
    found += [f"of at most {most:,} characters" for most in longest]
    found += [f"that matches {one.pattern}" for one in limits if getattr(one, "pattern", None)]
    return " ".join([WORDS.get(kind, "another value"), " and ".join(found)]).strip()


def to_toml(config: Config) -> str:
    """The whole configuration as TOML, every default filled in."""
    tables = _tables(config)
    return tomli_w.dumps(tables if config.classifier else {k: v for k, v in tables.items() if k != "classifier"})


def _tables(config: Config) -> dict[str, Any]:
    """What is written: of settings that a classifier has for itself, its own and not those of `[train]` too."""
    tables = config.model_dump(mode="json")
    return tables | {"train": {key: value for key, value in tables["train"].items() if key not in config.classifier}}


def commented(config: Config, methods: Mapping[str, type[BaseModel]], classifier: type[BaseModel] | None = None) -> str:
    """The configuration as TOML with a comment a key: what `randout init` prints. classifier: whose settings it holds."""
    lines, tables = [], _tables(config)
    for name, field in Config.model_fields.items():
        if name == "classifier" and classifier is not None:
            lines += _table(name, config.classifier, classifier)
        elif name not in OPEN:
            lines += _table(name, tables[name], field.annotation)
    for name, settings in config.methods.items():
        lines += _table(f"methods.{name}", settings, methods[name])
    return "\n".join(lines).strip() + "\n"


def _table(title: str, values: dict[str, Any], model: Any) -> list[str]:
    written = {key: tomli_w.dumps({key: value}, multiline_strings=False) for key, value in values.items()}
    written = {key: " ".join(text.split()) for key, text in written.items()}
    width = max((len(text) for text in written.values()), default=0)
    about = {key: model.model_fields[key].description or "" for key in values}
    return ["", f"[{title}]"] + [f"{written[key]:<{width}}  # {about[key]}" for key in values]
