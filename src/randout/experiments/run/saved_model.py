"""A saved model, encoder or baseline: its logits for any texts or for the rows of its own run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE
from randout.data.composed_text import parts_of
from randout.data.text_fields import NONE, TextFields, read_fields
from randout.models.folder_checks import BASELINE, ENCODER, EXPORT, is_export
from randout.models.hub_snapshots import add_export
from randout.models.sources import locate
from randout.storage.run_folder import ABSTENTION, RunFolder, check_run

if TYPE_CHECKING:
    from randout.data.dataset import Dataset
    from randout.exports import runtime

    from .plan import Progress, RowLogits


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier loaded from disk. logits: computes those of texts, (n, C) float32, columns by `id2label`.

    thresholds: of the probabilities of its labels, if it predicts label sets (multi-label); None: one label per text.
    """

    id2label: dict[int, str]
    logits: Callable[[Sequence[str], Progress], np.ndarray]
    thresholds: tuple[float, ...] | None = None
    fields: TextFields = NONE  # the columns of an input, in addition to its text

    def row_logits(self, dataset: Dataset) -> RowLogits:
        """Return a function that computes logits for rows of a dataset."""
        return lambda rows, progress: self.logits([dataset.texts[row] for row in rows], progress)


def load_classifier(name: str, device: str = "cpu", form: str = "", *, precision: str = "float32") -> LoadedClassifier:
    """Load the classifier of a run or a folder, or an export. Raises UserError if there is none.

    name: also of a model in a cache or on the hub. Texts are truncated as in training. form: of an export; empty: its
    default. precision: in which an encoder or a decoder computes, and a decoder holds its weights.
    """
    name = local_folder(name, form)
    if exported := export_folder(name, form):
        return _load_export(exported, form)
    if form:
        raise UserError(f"--form {form}: {name} is not an export; only a folder written by randout export has forms")
    if (folder := baseline_folder(name)) is not None:
        from randout import baselines

        fitted = baselines.load(folder)

        def logits_of(texts: Sequence[str], progress: Progress) -> np.ndarray:
            return fitted.logits(texts, progress, device)

        return LoadedClassifier(fitted.id2label, logits_of, fitted.thresholds, read_fields(folder))
    from randout.models import loading  # imports PyTorch
    from randout.models.inference import predict
    from randout.models.label_thresholds import thresholds_of
    from randout.models.tokens import encode, truncate

    from .reload import truncation_of

    source = loading.find(name, decoders=True)
    encoder = loading.load(source, precision=precision)
    encoder.model.to(device)

    def logits(texts: Sequence[str], progress: Progress) -> np.ndarray:
        rows = encode(encoder.tokenizer, texts)
        tokens = truncate(rows, encoder.longest, truncation_of(source), encoder.suffix, encoder.prefix)
        return predict(encoder, tokens, np.arange(len(texts)), precision, progress)

    id2label = dict(encoder.model.config.id2label)
    limits = thresholds_of(source.config, id2label, source.name)
    return LoadedClassifier(id2label, logits, limits, read_fields(source.folder))


def load_on_device(name: str, device: str, command: str, form: str = "") -> LoadedClassifier:
    """Load as `load_classifier` does, on the device that `--device` names. Raises UserError if it is not available.

    command: the command of the option, for the message.
    """
    if device != "auto" and not is_path(name):
        device_of(device, command)  # a mistake in it is reported before a download
    name = local_folder(name, form)
    if export_folder(name, form):
        if device not in ("auto", "cpu"):
            raise UserError(f"{command}: --device {device}: an export runs on the CPU")
        return load_classifier(name, form=form)
    if device == "auto" and runs_on_cpu_only(name):
        device = "cpu"  # without importing PyTorch
    return load_classifier(name, device_of(device, command), form)


def runs_on_cpu_only(name: str) -> bool:
    """Return whether a model is an export or a bag-of-words baseline, which need no PyTorch."""
    from randout import baselines

    folder = baseline_folder(name)
    return export_folder(name) is not None or (folder is not None and baselines.is_bag(folder))


def device_of(asked: str, command: str) -> str:
    """Return the device that a command's `--device` names. Raises UserError if it is not available."""
    if asked == "cpu":  # is always there
        return asked
    from randout.core.config import Config, TrainTable, checked

    from .planning import machine

    table = checked(TrainTable, {"device": asked, "precision": "float32"}, f"{command}: ", "")
    return machine(Config(train=table))[0]


def fingerprint(name: str, form: str = "") -> str:
    """Return a SHA-256 over all that the logits of a classifier depend on: weights, tokenizer, truncation, form of an export.

    Raises UserError if there is no such classifier.
    """
    total = hashlib.sha256()
    name = local_folder(name, form)
    folder = export_folder(name, form) or baseline_folder(name)
    if folder is not None:
        for path in sorted(folder.iterdir()):
            described = path.suffix in (".md", ".py", ".npz") or path.name == ABSTENTION  # and not what computes logits
            if path.is_file() and not described:
                with path.open("rb") as stream:
                    total.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
        total.update(form.encode())
        return total.hexdigest()
    from randout.models import loading

    from .reload import truncation_of

    source = loading.find(name, decoders=True)
    total.update(f"{source.fingerprint()} {truncation_of(source)}".encode())
    return total.hexdigest()


def local_folder(name: str, form: str = "") -> str:
    """Return the path that a classifier's name is, or the folder of the model that it names in a cache or on the hub.

    Such a model is downloaded if necessary, and with `form` that form of its export. Raises UserError if there is none, and
    Failure if the hub cannot be reached.
    """
    if is_path(name):
        return name
    source = locate(name)
    if form and source.revision:
        add_export(source.name, source.revision, form, name)
    return str(source.folder)


def is_path(name: str) -> bool:
    """Return whether a classifier's name is a path that exists."""
    return Path(os.path.expanduser(name)).exists()


def run_of(name: str) -> RunFolder | None:
    """Return the run in a folder, or the run that a model folder belongs to; None for any other classifier."""
    path = Path(os.path.expanduser(name))
    runs = [RunFolder(path)] + ([RunFolder(path.parent)] if path.name == "model" else [])
    return next((run for run in runs if run.exists), None)


def trained_columns(name: str) -> dict[str, str]:
    """Return the names of the columns "text" and "label" that a run was trained on; empty for any other classifier.

    name: a run's folder, its model folder, or its export.
    """
    name = local_folder(name)
    if exported := export_folder(name):
        return _export_record(exported).get("columns", {})
    run = run_of(name)
    if run is None:
        text = read_fields(Path(os.path.expanduser(name))).text
        return {"text": text} if text else {}
    found = run.record.identity.data.columns
    return {what: found[what] for what in ("text", "label", "separator") if found.get(what)}


def trained_sets(name: str) -> list[str] | None:
    """Return the labels of a classifier that predicts label sets (multi-label), in order; None for one label per text.

    name: as of `load_classifier`. Its files are read, and no weights.
    """
    name = local_folder(name)
    if exported := export_folder(name):
        record = _export_record(exported)
        return record["labels"] if "thresholds" in record else None
    folder = model_folder(name) or Path()
    for file in (BASELINE, "config.json", f"{ENCODER}/config.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # reported when it is loaded
            record = json.loads((folder / file).read_text(encoding="utf-8"))
            if file == BASELINE:
                return record["labels"] if "thresholds" in record else None
            names = record.get("id2label") or {}
            return [names[at] for at in sorted(names, key=int)] if record.get("problem_type") == PROBLEM_TYPE else None
    return None


def fields_of(name: str, pair: str | None = None) -> TextFields:
    """Return the columns of an input, besides the text column, that a classifier reads.

    name: a run's folder, its model folder, an export, or any other classifier. pair: the column of second texts that a command
    names; None: as in training. Raises UserError for a damaged record, and for pairs if the run was trained on single texts.
    """
    name = local_folder(name)
    if exported := export_folder(name):
        found = TextFields.model_validate(_export_record(exported).get("fields") or {})
    else:
        run = run_of(name)
        found = read_fields(run.model if run is not None else Path(os.path.expanduser(name)))
    if not pair:
        return found
    if not found.pair and (exported or run is not None):
        raise UserError(
            f"--text-pair {pair}: {name} was trained on single texts. Leave it out, or train on pairs of texts"
        )
    return found.model_copy(update={"pair": pair})


def evaluation_fields(name: str, pair: str | None = None) -> TextFields | None:
    """Return what `fields_of` does; None for a classifier that is no run and records nothing: then the data decide."""
    found = fields_of(name, pair)
    return None if not found and run_of(name) is None and export_folder(name) is None else found


def check_own_split(path: Path, split: str) -> RunFolder:
    """Return the finished run in a folder. Raises UserError if there is none, or for an unknown split."""
    if split not in ("validation", "test"):
        raise UserError(f"--split {split}: expected validation or test, or a file in place of --split")
    run = check_run(path)
    run.check_finished()
    return run


def column_warning(trained: Mapping[str, str], read: str, asked: str | None, file: str) -> str:
    """Return a warning if texts are read from another column than in training without being asked to; else ""."""
    if asked or trained.get("text", read) == read:
        return ""
    return (
        f"the run was trained on texts in column {trained['text']!r}, but texts of {file} are read from column "
        f"{read!r}; use --text-column to choose another"
    )


def baseline_folder(name: str) -> Path | None:
    """Return the model folder of a bag-of-words or neural baseline, in a run or by itself; None if it is not a baseline."""
    from randout import baselines

    path = Path(os.path.expanduser(name))
    return next((folder for folder in (path / "model", path) if baselines.is_fitted(folder)), None)


def model_folder(name: str) -> Path | None:
    """Return the folder with the saved model of a run, or the folder itself; None if there is no such folder."""
    path = Path(os.path.expanduser(name))
    return next((folder for folder in (path / "model", path) if folder.is_dir()), None)


def export_folder(name: str, form: str = "") -> Path | None:
    """Return the folder if `randout export` wrote it; else None.

    form: if it names one, also for an export in the folder of its model, which is otherwise read as the model.
    """
    path = Path(os.path.expanduser(name))
    return path if is_export(path) or (form and (path / EXPORT).is_file()) else None


def _export_record(folder: Path) -> dict[str, Any]:
    from randout.exports.runtime import read_record

    try:
        return read_record(folder)
    except ValueError as error:
        raise UserError(str(error)) from None


def _load_export(folder: Path, form: str) -> LoadedClassifier:
    """Load an export; needs onnxruntime, and never PyTorch."""
    from randout.exports import runtime

    record = _export_record(folder)
    if form and form not in record["files"]:
        raise UserError(f"--form {form}: {folder} has {', '.join(record['files'])}")
    try:
        model = runtime.Classifier(folder, form)
    except ImportError as error:
        raise UserError(f"{folder}: {error.name} is missing. Install it: pip install 'randout[export]'") from None
    except Exception as error:  # whatever onnxruntime, tokenizers and numpy raise for damaged files
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the export cannot be read ({text}). Copy the folder again") from None
    fields = TextFields.model_validate(record.get("fields") or {})

    def logits(texts: Sequence[str], progress: Progress) -> np.ndarray:
        return model.logits([for_export(text, fields) for text in texts], progress)

    limits = None if model.thresholds is None else tuple(model.thresholds.tolist())
    return LoadedClassifier(dict(enumerate(record["labels"])), logits, limits, fields)


def for_export(text: str, fields: TextFields) -> runtime.Text:
    """Return an input as `exports.runtime` takes it: a string, or a tuple of the two texts of a pair."""
    parts = parts_of(text)
    return (parts[0], parts[1]) if fields.pair else parts[0]
