"""The library's front door: what the command line does, as functions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import config, in_memory, prepare
from .config import Config
from .diagnostics import messages
from .errors import UserError
from .job import Options, Result, carry_out
from .methods import METHODS
from .progress import Show
from .request import asked_methods, base_layers
from .saved import opened
from .sources import check_name
from .terminal import is_text


def train(
    data: str | Path | Mapping[str, Sequence[Any]] | Any,
    *,
    student: str | Path = "auto",
    teacher: str | Path = "auto",
    preset: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    time_limit: float | None = None,
    quiet: bool = True,
) -> Result:
    """Fine-tune a student on a labelled table, from a teacher's soft labels and with noise, as `randout train` does.

    data: a file, a named dataset, or a table in memory: a DataFrame of pandas or polars, an Arrow table, a
    `datasets.Dataset`, a list of rows, or columns ({"text": [...], "label": [...]}). Such a table is kept in `runs/data`,
    unless the call is refused. settings: by the keys of `--set` (`{"learning_rate": 2e-5, "methods.kd.weight": 0.4,
    "data.group_column": "author"}`). time_limit: seconds.
    The same call again finds the run done, or goes on with it. Raises UserError, Failure, and job.Stopped at the limit.
    """
    _check_arguments(student, teacher, preset, recipe, settings, out, runs, time_limit)
    student, teacher = str(student), str(teacher)
    if isinstance(data, str | Path):
        check_name(data)
    source, new = (str(data), False) if isinstance(data, str | Path) else in_memory.saved(data, Path(runs) / "data")
    asked = {"data": {"source": str(source)}, "student": {"model": student}, "teacher": {"model": teacher}}
    deadline = time.monotonic() + time_limit if time_limit else None
    options = Options(runs=Path(runs), out=Path(out) if out else None, deadline=deadline, show=Show(quiet))
    try:
        recipe = Path(recipe) if recipe else None
        assignments = [config.assignment_of(key, value, METHODS) for key, value in (settings or {}).items()]
        layers = [*base_layers(preset, recipe), asked, *assignments]
        plan = prepare.make(config.build(layers, METHODS), required=asked_methods(preset, recipe, assignments))
    except BaseException:
        if new:  # no run refers to it
            Path(source).unlink(missing_ok=True)
        raise
    result = carry_out(plan, options)
    options.show.conclude(messages(result.metrics.get("warnings", [])))
    return result


def _check_arguments(
    student: Any, teacher: Any, preset: Any, recipe: Any, settings: Any, out: Any, runs: Any, time_limit: Any
) -> None:
    """Raise UserError for an argument of `train` of another type than it takes."""
    path = (str, Path)
    model = "a model's name or folder"
    for name, value, types, expected in (
        ("student", student, path, model),
        ("teacher", teacher, path, f"{model}, or 'none'"),
        ("preset", preset, (str, type(None)), f"one of {', '.join(config.presets())}"),
        ("recipe", recipe, (*path, type(None)), "a TOML file"),
        (
            "settings",
            settings,
            (Mapping, type(None)),
            'settings by name, as in {"learning_rate": 2e-5, "kd.weight": 0.4}',
        ),
        ("out", out, (*path, type(None)), "a folder"),
        ("runs", runs, path, "a folder"),
        ("time_limit", time_limit, (int, float, type(None)), "seconds"),
    ):
        if not isinstance(value, types) or isinstance(value, bool):
            raise UserError(f"train: {name}: found {value!r:.80}, a {type(value).__name__}; expected {expected}")
    if odd := [key for key in settings or {} if not isinstance(key, str)]:
        raise UserError(f'train: settings: found the key {odd[0]!r}, expected a name, as in "learning_rate"')


def predict(
    model: str | Path, texts: Iterable[str], *, device: str = "auto", show: Show | None = None
) -> tuple[list[str], np.ndarray]:
    """Labels (n) and probabilities (n, C; columns by id2label) of `texts`, by a run or a classifier's folder.

    float32, without padding where the encoder admits it; texts are cut as in training. Raises UserError, also for one
    string in place of several, which would be taken for a list of its characters.
    """
    texts = _several(texts)
    if not isinstance(model, str | Path):
        raise UserError(f"predict: model: found {model!r:.80}, a {type(model).__name__}; expected a run or a folder")
    machine = config.checked(config.TrainTable, {"device": device, "precision": "float32"}, "predict: ", "")
    where, _ = prepare.machine(Config(train=machine))
    saved = opened(str(model), where)
    with (show or Show(quiet=True)).bar("predicting", len(texts)) as advance:
        logits = saved.logits(texts, lambda count: advance(count, ""))
    shifted = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    return [saved.id2label[int(best)] for best in probabilities.argmax(1)], probabilities


def _several(texts: Any) -> list[str]:
    """The texts as a list. Raises UserError for what is no list of strings."""
    if isinstance(texts, str | bytes):
        raise UserError(
            f"predict: texts: found one text, {texts!r:.60}; expected a list of texts: predict(model, [text])"
        )
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"predict: texts: found a {type(texts).__name__}, expected a list of texts, such as one column")
    found = list(texts)
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"predict: texts[{at}] is {text!r:.60}, a {type(text).__name__}; expected a string")
        if not is_text(text):
            raise UserError(
                f"predict: texts[{at}] has halves of surrogate pairs, which are no characters: {text!a:.60}"
            )
    return found
