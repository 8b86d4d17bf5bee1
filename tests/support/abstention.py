"""What holds for the abstention of models of one label and of label sets alike."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import randout
from conftest import Run
from randout.exports.runtime import Abstention as ExportedRule
from randout.stats.abstention import choose, parse_target
from randout.storage.abstention_record import read_abstention


def check_exported_rule(export: Path, target: str) -> None:
    """The script of an export chooses the threshold that the library chooses."""
    record = read_abstention(export)
    assert record is not None
    found = ExportedRule.of(export, target)
    chosen = choose(parse_target(target, ""), record.points)
    assert (found.temperature, found.confidence) == (record.temperature, chosen.confidence)


def check_without_record(folder: Path, place: Path, run: Run, texts: Sequence[str], wanted: Any, target: str) -> None:
    """A run of an earlier version and a model folder abstain alike; one without validation rows needs a confidence.

    folder: holds the run. place: the current folder. wanted: the predictions for texts and target.
    """
    before = shutil.copytree(folder / "run", place / "before")
    (before / "model" / "abstention.json").unlink()
    alone = shutil.copytree(folder / "run" / "model", place / "alone")
    assert randout.load(before).predict(texts, abstain=target) == wanted
    assert randout.load(alone).predict(texts, abstain=target) == wanted
    (alone / "abstention.json").unlink()
    code, _, error = run("predict", "alone", "--abstain", target, "a text")
    assert code == 2
    assert "has no validation rows" in error
    code, _, error = run("predict", "alone", "--abstain", "confidence=0.5", "a text")
    assert code == 0
    assert "are not calibrated" in error
