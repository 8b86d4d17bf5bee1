"""Reads finished runs back: their configuration with resolved paths, and their data."""

from __future__ import annotations

from randout.core.errors import UserError
from randout.core.files import shell_path
from randout.data.dataset import data_identity, load
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
    """Return how a run truncates texts; "head" for any other classifier."""
    run = RunFolder(source.folder.parent)
    return stored_config(run).student.truncation if run.exists else "head"
