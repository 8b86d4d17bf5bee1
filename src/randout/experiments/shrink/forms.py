"""The forms of a trained model: its own folder, ONNX in float32 and int8, arrays, and each with a trimmed vocabulary."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from randout import baselines
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import new_folder
from randout.data.dataset import Dataset
from randout.experiments.run.export import FORMS, PACKAGES
from randout.experiments.run.reload import record_truncation, truncation_of
from randout.experiments.run.saved_model import load_classifier
from randout.experiments.run.soft_labels import column_order
from randout.exports import checks, files, runtime
from randout.models import vocabulary
from randout.models.sources import Source, find
from randout.stats.targets import widened_sets
from randout.storage.predictions import Predictions, read_predictions, write_predictions
from randout.storage.seen_rows import FILE as SEEN_ROWS
from randout.storage.study_record import FORM_NAMES, LadderForm, LadderRung

from .ladder import in_paths


@dataclass(frozen=True)
class Model:
    """A trained model of a rung. folder: a run or a model folder. labels: names of its outputs in order; empty: its own."""

    rung: LadderRung
    folder: Path
    labels: tuple[str, ...] = ()
    seed: int = 0

    @property
    def slug(self) -> str:
        """Its name in paths."""
        name = in_paths(self.rung.name)
        return f"{name}-s{self.seed}" if self.seed else name


@dataclass(frozen=True)
class Rows:
    """Rows of a split on which forms are compared."""

    dataset: Dataset
    rows: np.ndarray
    split: str

    @property
    def texts(self) -> list[str]:
        return [self.dataset.texts[row] for row in self.rows]

    @property
    def labels(self) -> np.ndarray:
        """(n,) class indices, or (n, C) label sets over the labels of the data."""
        return self.dataset.truth(self.rows)

    @property
    def groups(self) -> np.ndarray:
        found: np.ndarray = self.dataset.groups[self.rows]
        return found


def missing_packages() -> list[str]:
    """Return the packages of the extra `export` that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def form_name(rung: LadderRung, form: str, trimmed: bool = False) -> str:
    """Return the name of a form: `3 layers, int8`; a baseline has one form, which needs no word."""
    if form == "arrays":
        return rung.name
    return ", ".join([rung.name, *(["trimmed"] if trimmed else []), FORM_NAMES[form]])


def write_forms(
    model: Model, study: Path, held: Rows, trim: bool, wanted: Sequence[str], show: Show, notes: list[str]
) -> list[LadderForm]:
    """Write the forms of a model into the study's folder `forms`, with their predictions on the validation rows.

    Forms that are there already are kept. trim: also with a trimmed vocabulary. wanted: torch, float32, int8; the teacher's
    own torch form, with which all are compared, is always one. notes: gets a line for each form that cannot be written.
    """
    found = _all_forms(model, study, held, trim, [form for form in FORMS if form in wanted], show, notes)
    return [
        form
        for form in found
        if form.form in (*wanted, "arrays") or (model.rung.kind == "teacher" and not form.trimmed)
    ]


def _all_forms(
    model: Model, study: Path, held: Rows, trim: bool, onnx: Sequence[str], show: Show, notes: list[str]
) -> list[LadderForm]:
    folder = study / "forms" / model.slug
    if model.rung.kind == "words":
        return _written_export(model, model.folder, folder, study, held, False, (), show)

    def exported(source: Source, target: Path, trimmed: bool, reference: np.ndarray) -> list[LadderForm]:
        if not onnx:
            return []
        try:
            return _written_export(model, source.folder, target, study, held, trimmed, onnx, show, source, reference)
        except UserError as error:
            notes.append(f"{model.rung.name}{', trimmed' if trimmed else ''}: no ONNX forms: {error}")
            return []

    source = find(str(model.folder))
    found = [_described(model, "torch", False, source.folder, study)]
    logits = _score(found[0], model, study, held, show).logits
    found += exported(source, folder, False, logits)
    if not trim:
        return found
    place = folder.with_name(f"{folder.name}-trimmed")
    try:
        if not place.exists():
            show.say(f"trimming the vocabulary of {model.rung.name}")
            texts = [held.dataset.texts[row] for row in _training_rows(held.dataset)]
            vocabulary.trim(source, texts, place)
        record_truncation(place, truncation_of(source))
    except vocabulary.NotTrimmed as error:
        notes.append(f"{model.rung.name}: its vocabulary is not trimmed: {error}")
        return found
    small = Source(f"{model.rung.name}, trimmed", place.resolve())
    found.append(_described(model, "torch", True, place, study))
    logits = _score(found[-1], model, study, held, show).logits
    return found + exported(small, folder.with_name(f"{folder.name}-trimmed-onnx"), True, logits)


def _training_rows(dataset: Dataset) -> np.ndarray:
    return np.concatenate([dataset.split[name] for name in ("train", "unlabeled") if name in dataset.split])


def _written_export(
    model: Model,
    place: Path,
    folder: Path,
    study: Path,
    held: Rows,
    trimmed: bool,
    onnx: Sequence[str],
    show: Show,
    source: Source | None = None,
    reference: np.ndarray | None = None,
) -> list[LadderForm]:
    """Write an export of a model and return its forms. reference: logits of the model itself on the validation rows."""
    if not (folder / runtime.RECORD).exists():
        show.say(f"exporting {model.rung.name}{', trimmed' if trimmed else ''}")
        with new_folder(folder) as made:
            if source is None:
                found = files.write_bag(baselines.load(place / "model" if (place / "model").exists() else place), made)
                found = replace(found, fields=held.dataset.fields)
            else:
                found = files.write_encoder(source, truncation_of(source), made, onnx, held.dataset.fields)
            files.write_record(made, found)
            if (place / SEEN_ROWS).exists():  # for warnings of `evaluate`
                shutil.copyfile(place / SEEN_ROWS, made / SEEN_ROWS)
    record = runtime.read_record(folder)
    forms = [_described(model, form, trimmed, folder, study, source) for form in record["files"]]
    scored: dict[str, Predictions] = {one.form: _score(one, model, study, held, show) for one in forms}
    if not record["checks"]:
        _add_checks(model, folder, held, scored, reference)
    return forms


def _add_checks(
    model: Model, folder: Path, held: Rows, scored: dict[str, Predictions], reference: np.ndarray | None
) -> None:
    """Compare the forms of an export with the model on the validation rows, and write the record and its page."""
    record = runtime.read_record(folder)
    stored: dict[str, float] | None = record.get("thresholds")
    limits = None if stored is None else tuple(stored[name] for name in record["labels"])
    made = files.Exported(record["labels"], record["files"], record["reader"], held.dataset.fields, thresholds=limits)
    found = []
    for form, one in scored.items():
        before, every = one.logits if reference is None else reference, len(held.dataset.names)
        found.append(
            checks.compare(form, before, one.logits, held.labels, held.groups, every, thresholds=one.thresholds)
        )
    files.write_pages(folder, made, model.rung.name, found)
    files.write_record(folder, made, found, {"rows": len(held.rows)})


def _described(
    model: Model, form: str, trimmed: bool, folder: Path, study: Path, source: Source | None = None
) -> LadderForm:
    if form == "torch":
        source = Source("", folder.resolve())
        size = sum(path.stat().st_size for path in source.files())
    else:
        record = runtime.read_record(folder)
        needed = [record["files"][form], "tokenizer.json", "vocabulary.json"]
        size = sum((folder / name).stat().st_size for name in needed if (folder / name).exists())
    return LadderForm.model_validate(
        {
            "name": form_name(model.rung, form, trimmed),
            "rung": model.rung.name,
            "form": form,
            "trimmed": trimmed,
            "folder": _relative(folder, study),
            "parameters": None if source is None else parameters_of(source),
            "size": size,
        }
    )


def _relative(folder: Path, study: Path) -> str:
    return os.path.relpath(folder.resolve(), study.resolve())


def parameters_of(source: Source) -> int:
    """Count the weights of a model folder from the headers of its safetensors files."""
    total = 0
    for path in source.files():
        if path.suffix == ".safetensors":
            with path.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            total += sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    return total


def predictions_file(study: Path, form: str, split: str, seed: int = 0) -> Path:
    """Return where the predictions of a form are stored."""
    name = in_paths(form) + (f"-s{seed}" if seed else "")
    return study / "predictions" / f"{name}-{split}.parquet"


def made_by(study: Path, form: str, held: Rows, seed: int = 0) -> np.ndarray:
    """Return the stored predictions of a form: (n,) class indices, or (n, C) label sets over the labels of the data."""
    dataset = held.dataset
    found = read_predictions(predictions_file(study, form, held.split, seed), list(dataset.id2label.values()))
    return widened_sets(found.predicted, len(dataset.names))


def _score(form: LadderForm, model: Model, study: Path, held: Rows, show: Show) -> Predictions:
    """Return the predictions of a form on the rows, with logits by the data's classes; they are stored for the next time."""
    return score(form, model.labels, study, held, show, model.seed)


def score(form: LadderForm, labels: Sequence[str], study: Path, held: Rows, show: Show, seed: int = 0) -> Predictions:
    """Return the predictions of a form on rows, from its file if they are there. labels: as of `Model`."""
    dataset, path = held.dataset, predictions_file(study, form.name, held.split, seed)
    row_ids = [dataset.row_ids[row] for row in held.rows]
    if path.exists():
        stored = read_predictions(path, list(dataset.id2label.values()))
        if stored.rows == row_ids:
            return stored
    loaded = load_classifier(str((study / form.folder).resolve()), form="" if form.form == "torch" else form.form)
    order = column_order(loaded.id2label, dataset.id2label, labels, form.name)
    with show.bar(f"scoring {form.name}", len(held.rows)) as advance:
        logits = loaded.logits(held.texts, lambda count: advance(count, ""))[:, order]
    limits = None if loaded.thresholds is None else tuple(loaded.thresholds[at] for at in order)
    found = Predictions(dataset.names, row_ids, held.groups, held.labels, logits, None, limits)
    write_predictions(path, found)
    return found


def copy_chosen(form: LadderForm, study: Path) -> Path:
    """Copy a form's folder to `chosen`, replacing an earlier choice; an export keeps this form only."""
    source, target = (study / form.folder).resolve(), study / "chosen"
    shutil.rmtree(target, ignore_errors=True)
    with new_folder(target) as made:
        shutil.copytree(source, made, dirs_exist_ok=True)
        if form.form == "torch":
            record_truncation(made, truncation_of(Source("", source)))
        else:
            record = runtime.read_record(made)
            for other, name in record["files"].items():
                if other != form.form:
                    (made / name).unlink()
            kept = record | {"files": {form.form: record["files"][form.form]}, "default": form.form}
            (made / runtime.RECORD).write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target
