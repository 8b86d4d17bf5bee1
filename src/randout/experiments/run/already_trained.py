"""Recognises the command of a finished run before PyTorch is loaded.

A run stores a digest of its command: the configuration as requested, the data and its split, the files of the models that
it names or may choose, and what automatic choices depend on (versions, CPU, GPUs). If a new command has the same digest,
its run is the same. If not, nothing follows, and the plan's fingerprint decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from randout.core import hardware
from randout.core.config import AUTO_STUDENT, Config
from randout.core.errors import UserError
from randout.data.dataset import Dataset, data_identity
from randout.data.named_datasets import NAMED
from randout.methods.builtin import METHODS
from randout.models.sources import CLASSIFIER_NAMES, Source, check_default_student, find, local_encoders
from randout.storage.run_folder import RunFolder

from .imported_teacher import SoftLabelFile, find_teacher
from .options import Result
from .sharded_labels import SoftLabelShards

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


def find_models(config: Config) -> dict[str, Source | SoftLabelFile | SoftLabelShards]:
    """Locate the models and files of soft labels that a configuration names.

    Raises UserError, with the closest names, for one that is not found.
    """
    student, teacher = config.student, config.teacher
    named = {} if student.model in ("", AUTO_STUDENT, *CLASSIFIER_NAMES) else {student.model: student.revision}
    found: dict[str, Source | SoftLabelFile | SoftLabelShards] = {
        name: find(name, revision, CLASSIFIER_NAMES) for name, revision in named.items()
    }
    if teacher.model not in ("auto", "none"):
        found[teacher.model] = find_teacher(teacher.model, teacher.revision, config.methods)
    return found | {name: find_teacher(name) for name in teacher.more}


def check_student(config: Config) -> None:
    """Raise UserError if no student is named and there is none to choose. Cheap, so that it can precede reading data.

    Data that do not exist are the mistake to report first, so nothing is raised then.
    """
    source = config.data.source
    if config.student.model in ("", AUTO_STUDENT) and (Path(source).is_file() or source.partition(":")[0] in NAMED):
        check_default_student()


def digest(config: Config, dataset: Dataset, required: Iterable[str] = ()) -> str:
    """Return the digest of a requested training; empty if a model has to be downloaded first.

    required: methods that the request names itself.
    """
    from randout import __version__

    try:
        models = {name: source.state() for name, source in find_models(config).items()}
        choice = [Source(str(folder), folder).state() for folder in local_encoders()] if _leaves_choice(config) else []
    except UserError:
        return ""
    if config.student.model in ("", AUTO_STUDENT) and not choice:
        return ""
    parts: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "required": sorted(required),
        "plugins": {name: one.identity for name, one in METHODS.origins(sorted(config.methods)).items()},
        "data": data_identity(dataset),
        "dataset": [dataset.name, dataset.max_length],
        "models": models,
        "choice": choice,
        "versions": [__version__, platform.python_version(), *map(_version, PACKAGES)],
        "machine": [*hardware.described(), *(os.environ.get(name) for name in VARIABLES)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_finished(
    request: str, config: Config, dataset: Dataset, runs: Path, out: Path | None, name: str = ""
) -> Result | None:
    """Return the finished run of the command with the digest `request`, in `out` or in a folder of `runs`.

    Returns None if there is none, or if work remains: a test split to score, a new name to store, files to delete.
    """
    if not request:
        return None
    for path in [out] if out is not None else sorted(one.parent for one in runs.glob("*/run.json")):
        try:
            run = RunFolder(path)
            if not run.finished or run.record.request != request:
                continue
            metrics = run.metrics
        except UserError:
            continue
        if out is None and not path.name.endswith(run.record.fingerprint[:8]):  # trained with -o
            continue
        test = config.output.test and "test" in dataset.split
        unfinished = (run.checkpoint, path / "refit", path / "choice")
        left = any(one.exists() for one in unfinished) or any(path.glob("*.partial")) or (test and metrics.test is None)
        if not left and name in ("", run.record.name):
            return Result(run, metrics, False)
    return None


def _leaves_choice(config: Config) -> bool:
    return config.student.model in ("", AUTO_STUDENT) or config.teacher.model == "auto"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
