"""The files of an export.

onnx/model.onnx, onnx/model_quantized.onnx    float32 and int8, where transformers.js and optimum look for them
config.json, tokenizer.json, ...              of the saved model, with id2label
model.npz, vocabulary.json                    instead of these: a bag-of-words baseline
export.json                                   labels, files, how texts are read, and the checks
predict.py                                    `runtime`, which reads the folder without randout
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from randout.baselines import Fitted
from randout.core.errors import UserError
from randout.core.label_sets import PROBLEM_TYPE
from randout.data.text_fields import NONE, TextFields
from randout.models import loading
from randout.models.label_thresholds import thresholds_of
from randout.models.sources import Source
from randout.models.token_types import takes_types

from . import graph, runtime
from .checks import Check, table

ONNX = {"float32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
ARRAYS = {"arrays": "model.npz"}


@dataclass(frozen=True)
class Exported:
    """The model of an export. files: form -> file. reader: how a text is read, for `runtime`. fields: columns of an input.

    thresholds: of the probabilities of the labels, if it predicts label sets (multi-label); None: one label per text.
    """

    labels: list[str]
    files: dict[str, str]
    reader: dict[str, Any]
    fields: TextFields = NONE
    thresholds: tuple[float, ...] | None = None


def write_encoder(
    source: Source, truncation: str, folder: Path, forms: Sequence[str], fields: TextFields = NONE
) -> Exported:
    """Write a fine-tuned encoder: graphs, tokenizer and configuration. Raises UserError for a model that cannot be traced.

    fields: the columns of an input. For pairs, the graph takes token types if the model and its tokenizer have them.
    """
    encoder = loading.load(source, pack=False)
    for path in source.files():
        if path.parent == source.encoder_folder and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, folder / path.name)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        raise UserError(f"export: {source.name} has no tokenizer.json, which a runtime without transformers needs")
    _update(tokenizer, truncation=None, padding=None)  # every reader sets its own
    _update(folder / "config.json", architectures=[_stock_class(encoder.model)])
    config, words = encoder.model.config, encoder.tokenizer
    pairs = bool(fields.pair)
    types = pairs and takes_types(encoder.model) and "token_type_ids" in words.model_input_names
    _write_graphs(folder, forms, lambda path: graph.write_encoder(encoder.model, path, encoder.longest, types))
    special = (getattr(words, name, None) for name in ("unk_token_id", "pad_token_id"))
    reader = {
        "kind": "tokens",
        "max_length": encoder.longest,
        "truncation": truncation,
        "prefix": encoder.prefix,
        "suffix": encoder.suffix,
        "padding_id": getattr(config, "pad_token_id", None) or 0,
        "empty_id": next((index for index in special if index is not None), 0),  # of a text without tokens
        **({"token_types": types} if pairs else {}),
    }
    labels = [config.id2label[at] for at in range(config.num_labels)]
    limits = thresholds_of(source.config, dict(enumerate(labels)), source.name)
    return Exported(labels, {form: ONNX[form] for form in forms}, reader, fields, limits)


def write_network(fitted: Fitted, folder: Path, forms: Sequence[str]) -> Exported:
    """Write a neural baseline: graphs and vocabulary."""
    settings: Any = fitted.settings
    model = settings.restored(fitted.vocabulary, fitted.arrays, len(fitted.id2label)).model
    _write_graphs(folder, forms, lambda path: graph.write_network(model, path, settings.length))
    _write_json(folder / "vocabulary.json", list(fitted.vocabulary))
    reader = {"kind": "words", "length": settings.length, "lowercase": settings.lowercase, "split": settings.split}
    return Exported(_labels(fitted), {form: ONNX[form] for form in forms}, reader, thresholds=fitted.thresholds)


def write_bag(fitted: Fitted, folder: Path) -> Exported:
    """Write a bag-of-words baseline: its arrays and vocabulary; its scores are computed by `runtime`."""
    np.savez(folder / ARRAYS["arrays"], **fitted.arrays)  # type: ignore[arg-type]
    _write_json(folder / "vocabulary.json", list(fitted.vocabulary))
    settings: Any = fitted.settings
    reader = {"kind": "bag", "model": settings.name, "lowercase": settings.lowercase}
    return Exported(_labels(fitted), ARRAYS, reader, thresholds=fitted.thresholds)


def _labels(fitted: Fitted) -> list[str]:
    return [fitted.id2label[at] for at in range(len(fitted.id2label))]


def _write_graphs(folder: Path, forms: Sequence[str], write: Callable[[Path], None]) -> None:
    """Write the graphs of the requested forms; int8 is made from float32."""
    (folder / "onnx").mkdir()
    full = folder / ONNX["float32"]
    write(full)
    if "int8" in forms:
        graph.quantize(full, folder / ONNX["int8"])
    if "float32" not in forms:
        full.unlink()


def _stock_class(model: Any) -> str:
    """Return the name of the class in transformers that a runtime looks for; the graph has the model's own head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return str(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[model.config.model_type])


def _update(path: Path, **changes: Any) -> None:
    _write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_record(
    folder: Path, made: Exported, checks: Sequence[Check] = (), about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `export.json` and return it. The default form is the most exact one that passed its check."""
    passed, sets = [check.form for check in checks if not check.problems], {}
    if made.thresholds is not None:
        sets = {"problem_type": PROBLEM_TYPE, "thresholds": dict(zip(made.labels, made.thresholds, strict=True))}
    record = {
        "format": runtime.FORMAT,
        "labels": made.labels,
        **sets,
        "files": made.files,
        "default": next((form for form in made.files if form in passed), next(iter(made.files))),
        "reader": made.reader,
        **({"fields": made.fields.model_dump(mode="json")} if made.fields else {}),
        "checks": {check.form: check.record() for check in checks},
        **(about or {}),
    }
    _write_json(folder / runtime.RECORD, record)
    return record


def write_pages(folder: Path, made: Exported, name: str, checks: Sequence[Check]) -> None:
    """Write `predict.py` and README.md. name: of the model, as the title."""
    shutil.copyfile(runtime.__file__, folder / "predict.py")
    head, *cells = table(checks)
    rows = ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *cells)]
    needs = "numpy" if made.reader["kind"] == "bag" else "numpy, onnxruntime and tokenizers"
    lines = [f"# {name}", "", f"Labels: {', '.join(made.labels)}.", ""]
    if made.thresholds is not None:
        lines += [
            "A text has any number of labels: those whose probability, the sigmoid of the logit, is above the label's threshold "
            "in `export.json`.",
            "",
        ]
    lines += [f"`predict.py` needs only {needs}:", ""]
    usage = ['python predict.py "A text to classify."', "python predict.py --json < texts.txt"]
    if made.fields:
        usage = ["python predict.py --file table.csv", "python predict.py --json --file table.csv"]
        lines += [f"The model reads {made.fields.words}; the table must have these columns.", ""]
    lines += ["```sh", *usage, "```", ""]
    if made.reader["kind"] == "tokens":
        lines += [_truncation(made.reader), ""]
    unseen = "training rows" if checks[0].trained_on else "held-out rows, without their labels"
    lines += [f"Compared with the trained model on {checks[0].rows:,} {unseen}:", "", *rows, ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _truncation(reader: Mapping[str, Any]) -> str:
    """Return how texts are cut."""
    text = f"Texts of up to {reader['max_length']} tokens, truncated by `{reader['truncation']}`."
    if reader["truncation"] != "head":
        text += " Other runtimes truncate by head only, so longer texts score differently there."
    return text
