"""Describes what a machine sees of a job: `python -m randout.experiments.node_check`, on each node of a cluster.

Reads an order as one line of JSON and answers with one: the versions of the libraries that decide the bits of a run, and which
study or labelling and which data it finds. Does not import PyTorch.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import randout
from randout.core.config import Config, build
from randout.core.errors import UserError
from randout.data.dataset import load
from randout.experiments.shards import task
from randout.experiments.study import spec
from randout.methods.builtin import METHODS
from randout.methods.plugins import load_plugin
from randout.storage.study_folder import read_record, read_request

PACKAGES = ("torch", "transformers")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that all nodes must share; without +cpu or +cu128."""
    found = {"Python": platform.python_version(), "randout": randout.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(job: Path) -> dict[str, str]:
    """Return what this machine sees of the job in a folder. Raises UserError if it or its data are not found."""
    return versions() | (task.describe(job) if task.is_task(job) else _describe_study(job))


def _describe_study(study: Path) -> dict[str, str]:
    if not (study / "study.json").exists():
        raise UserError(f"{study}: this study is not visible")
    kind, started = (read := read_record(study).record).kind, read.started
    return {
        "study": f"started {started}",
        "data": load(_first_config(kind, read_request(study)).data).sha256,
    }


def _first_config(kind: str, request: dict[str, Any]) -> Config:
    """Return the configuration of the first run of a study."""
    if kind in ("search", "shrink"):
        return build([request["recipe"]], METHODS)
    study = spec.make_study(request)
    return spec.arm_config(study, next(iter(study.arms)), METHODS, spec.units(study)[0].tables)


def main() -> None:
    """Answer the order on standard input: `{"found": ...}`, or `{"error": ...}`."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    order = json.loads(sys.stdin.buffer.readline())
    try:
        for word in order["plugins"]:
            load_plugin(word)
        answer: dict[str, Any] = {"found": describe(Path(order["job"]))}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
