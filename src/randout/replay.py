"""Runs read back: their configuration with its paths made good, and their data and tokens again."""

from __future__ import annotations

import os
from pathlib import Path

from .classifiers.settle import chosen
from .config import Config, build, read_recipe
from .methods import METHODS
from .model_sources import Source, find
from .prepare import NO_TOKENS, Plan, read_data, tokens_for
from .runs import RunFolder


def portable(path: str, folder: Path) -> str:
    """A path as `run.toml` keeps it: relative to the run folder; names of datasets and of the hub stay as they are."""
    name, colon, inner = path.rpartition(":")  # rhmd:PATH
    place = Path(inner if colon else path).expanduser()
    if not path or not place.exists():
        return path
    return f"{name}{colon}{os.path.relpath(place.resolve(), folder.resolve())}"


def replay(run: RunFolder) -> Plan:
    """A finished run's data and tokens again, to score its saved model: nothing but the run and the data is needed."""
    config = stored_config(run)
    dataset, classifier = read_data(config), chosen(config)
    if classifier is not None:  # it reads texts itself
        source = Source(classifier.name, run.model)
        return Plan(config, dataset, (), source, NO_TOKENS, None, None, run.record["identity"], (), classifier)
    source = find(str(run.path))
    tokens, _ = tokens_for(source, config.student, dataset, [])
    return Plan(config, dataset, (), source, tokens, None, None, run.record["identity"], ())


def truncation_of(source: Source) -> str:
    """How a run's texts were cut; "head" for any other classifier."""
    run = RunFolder(source.folder.parent)
    return stored_config(run).student.truncation if run.exists else "head"


def stored_config(run: RunFolder) -> Config:
    """The configuration in a run's `run.toml`, its paths made good from where the folder lies now."""
    tables = read_recipe(run.path / "run.toml")
    for table, keys in (
        ("data", ("source", "validation", "test", "unlabeled")),
        ("student", ("model",)),
        ("teacher", ("model",)),
    ):
        for key in keys:
            value = tables.get(table, {}).get(key, "")
            name, colon, inner = value.rpartition(":")
            beside = run.path / (inner if colon else value)
            if value and beside.exists():
                tables[table][key] = f"{name}{colon}{beside.resolve()}"
    return build([tables], METHODS)
