"""Reads finished runs back: their configuration with resolved paths, their data and their tokens."""

from __future__ import annotations

from randout.baselines.settings import chosen
from randout.core.errors import UserError
from randout.data.dataset import data_identity, read_data
from randout.models.sources import Source, find
from randout.models.tokenization import token_copies, tokens_for
from randout.storage.run_folder import RunFolder

from .planning import NO_TOKENS, Plan
from .request import stored_config as stored_config


def reload_plan(run: RunFolder) -> Plan:
    """A finished run's data and tokens again, to score its saved model: nothing but the run and the data is needed.

    UserError where the data, its columns, labels or split are no longer those that the run was trained on.
    """
    config = stored_config(run)
    dataset, classifier = read_data(config), chosen(config)
    was, now = run.record["identity"], data_identity(dataset)
    if differs := [what for what in now["data"] if now["data"][what] != was["data"][what]]:
        other = "another sha256" if "sha256" in differs else f"other {' and '.join(differs)}"
        raise UserError(f"{config.data.source}: this is not the data the run was trained on ({other})")
    if now["split"] != was["split"]:
        raise UserError(f"{config.data.source}: the rows are split in another way than when the run was trained")
    if classifier is not None:  # it reads texts itself
        source = Source(classifier.name, run.model)
        return Plan(config, dataset, (), source, NO_TOKENS, None, None, run.record["identity"], (), classifier)
    source = find(str(run.path))
    tokens, _ = tokens_for(source, config.student, dataset, [])
    copies = token_copies(tokens, dataset)
    return Plan(config, dataset, (), source, tokens, None, None, run.record["identity"], (), token_copies=copies)


def truncation_of(source: Source) -> str:
    """How a run's texts were cut; "head" for any other classifier."""
    run = RunFolder(source.folder.parent)
    return stored_config(run).student.truncation if run.exists else "head"
