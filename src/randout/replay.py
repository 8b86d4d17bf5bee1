"""Runs read back: their configuration with its paths made good, and their data and tokens again."""

from __future__ import annotations

from .classifiers.settle import chosen
from .config import Config, build, read_recipe
from .errors import UserError
from .files import resolve_places
from .methods import METHODS
from .model_sources import Source, find
from .prepare import NO_TOKENS, Plan, data_identity, read_data
from .registry import Origin
from .runs import RunFolder
from .tokenising import token_copies, tokens_for

RESTORE = "bring back what it was begun with to resume, or use --fresh to train alongside"


def replay(run: RunFolder) -> Plan:
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


def stored_config(run: RunFolder, to_train: bool = False) -> Config:
    """The configuration in a run's `run.toml`, its paths made good from where the folder lies now.

    to_train: the run is to be resumed, so methods of other packages must be here as the run was begun with them (else
    UserError); to read its model, they need not be.
    """
    tables = read_recipe(run.path / "run.toml")
    resolve_places(tables, run.path)
    if to_train:
        check_origins(run)
        return build([tables], METHODS)
    methods = tables.get("methods", {})
    if not isinstance(methods, dict):
        return build([tables], METHODS)
    foreign = {name: own for name, own in methods.items() if name not in METHODS.built_in and isinstance(own, dict)}
    config = build([tables | {"methods": {k: v for k, v in methods.items() if k not in foreign}}], METHODS)
    return config.model_copy(update={"methods": config.methods | foreign})


def check_origins(run: RunFolder) -> None:
    """Raise UserError where a method of another package or file is not here as the run was begun with it."""
    for name, recorded in run.record.get("plugins", {}).items():
        was = Origin(**recorded)
        where = f"{run.path}: methods.{name} comes from the {was}"
        if name not in METHODS:
            todo = "install it" if was.package else f"name it with --plugin {was.file}"
            raise UserError(f"{where}, which is not {'installed' if was.package else 'loaded'} here; {todo} to resume")
        now = METHODS.origins([name]).get(name, Origin())
        if now.identity != was.identity:
            raise UserError(f"{where}, and {now.differs_from(was)}; {RESTORE}")
