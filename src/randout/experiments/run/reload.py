"""Reads finished runs back: their configuration with resolved paths, and their data."""

from __future__ import annotations

import json
from pathlib import Path

from randout.core.errors import UserError
from randout.core.files import atomic, shell_path
from randout.data.dataset import data_identity, load
from randout.models.folder_checks import TRUNCATION
from randout.models.sources import Source, find
from randout.storage.run_folder import RunFolder

from .plan import Plan
from .run_request import stored_config as stored_config
from .student_kinds import EncoderStudent, baseline_of


def reload_plan(run: RunFolder) -> Plan:
    """Rebuild the plan of a finished run, with its data, to score its saved model.

    It needs only the run and the data. Raises UserError if the data, its columns, labels or split have changed since.
    """
    config = stored_config(run)
    baseline = baseline_of(config)
    try:
        dataset = load(config.data)
    except UserError as error:
        if "no such file" not in str(error):
            raise
        place = (run.path / config.data.source).resolve()
        raise UserError(
            f"{run.path}: the data of this run is not at {place}. If the run or the data was moved, move it back, or "
            f"evaluate on the file itself: randout evaluate {shell_path(run.path)} FILE"
        ) from None
    was, now = run.record.identity.as_json(), data_identity(dataset)
    if differs := [what for what in now["data"] if now["data"][what] != was["data"][what]]:
        other = "the sha256 differs" if "sha256" in differs else f"different {' and '.join(differs)}"
        raise UserError(f"{config.data.source}: this is not the data that the run was trained on ({other})")
    if now["split"] != was["split"]:
        raise UserError(f"{config.data.source}: the rows are split differently than when the run was trained")
    student = baseline or EncoderStudent(find(str(run.path)))
    copies = student.token_copies(config.student, dataset)
    return Plan(config, dataset, (), student, identity=was, token_copies=copies)


def truncation_of(source: Source) -> str:
    """Return how a run truncates texts, or a model folder that records it; "head" for any other classifier.

    Raises UserError if the record cannot be read.
    """
    record, run = source.folder / TRUNCATION, RunFolder(source.folder.parent)
    if not record.exists():
        return stored_config(run).student.truncation if run.exists else "head"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["truncation"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found not in ("head", "head+tail"):
        raise UserError(
            f"{record}: expected an object with truncation head or head+tail, which says how long texts are cut. Copy the "
            "model folder again"
        )
    return str(found)


def record_truncation(folder: Path, truncation: str) -> None:
    """Record in a model folder that is kept without its run how texts are truncated. Nothing is written for "head"."""
    if truncation != "head":
        with atomic(folder / TRUNCATION) as partial:
            partial.write_text(json.dumps({"truncation": truncation}) + "\n", encoding="utf-8")
