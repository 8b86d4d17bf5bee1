"""Reads finished runs back: their configuration with resolved paths, their data and their tokens."""

from __future__ import annotations

from randout.baselines.settings import chosen
from randout.core.errors import UserError
from randout.core.files import shell_path
from randout.data.dataset import data_identity, read_data
from randout.models.sources import Source, find
from randout.models.tokenization import token_copies, tokens_for
from randout.storage.run_folder import RunFolder

from .planning import NO_TOKENS, Plan
from .request import stored_config as stored_config


def reload_plan(run: RunFolder) -> Plan:
    """Rebuild the plan of a finished run, with its data and tokens, to score its saved model.

    It needs only the run and the data. Raises UserError if the data, its columns, labels or split have changed since.
    """
    config = stored_config(run)
    classifier = chosen(config)
    try:
        dataset = read_data(config)
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
    if classifier is not None:  # a baseline reads texts, not tokens
        source = Source(classifier.name, run.model)
        return Plan(config, dataset, (), source, NO_TOKENS, None, None, was, (), classifier)
    source = find(str(run.path))
    tokens, _ = tokens_for(source, config.student, dataset, [])
    copies = token_copies(tokens, dataset)
    return Plan(config, dataset, (), source, tokens, None, None, was, (), token_copies=copies)


def truncation_of(source: Source) -> str:
    """Return how a run truncates texts; "head" for any other classifier."""
    run = RunFolder(source.folder.parent)
    return stored_config(run).student.truncation if run.exists else "head"
