"""Paths in settings, and files that are written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from randout.core import files


def test_words_that_settings_may_have_are_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that happens to be called `none` is not the teacher of `--teacher none`."""
    monkeypatch.chdir(tmp_path)
    for name in ("none", "auto", "encoder"):
        (tmp_path / name).mkdir()
    assert [files.portable(name, tmp_path / "run") for name in ("none", "auto", "encoder", "./none")] == [
        "none",
        "auto",
        "../encoder",
        "../none",
    ]
    tables = {"teacher": {"model": "none"}, "student": {"model": "encoder"}}
    files.resolve_places(tables, tmp_path)
    assert tables == {"teacher": {"model": "none"}, "student": {"model": str(tmp_path / "encoder")}}
